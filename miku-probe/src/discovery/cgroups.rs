//! What a process's control groups allow and suffer, under either version of them, or both at once.
//!
//! A limit holds for all below it, so the tightest from the process's group up to the top counts. Files are those of the
//! kernel's `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`; pressure (PSI) is of version 2 alone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::observations::{Cgroup, CgroupMemory, Pressure, Resource};
use crate::units::Nanos;

/// Where a hierarchy of control groups is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The group that is seen there.
    root: PathBuf,
    at: PathBuf,
}

impl Mount {
    /// The folder of the group at `path` of the hierarchy; `None` when it is not under what is mounted.
    fn folder(&self, path: &str) -> Option<PathBuf> {
        let inner = Path::new(path).strip_prefix(&self.root).ok()?;
        // A group above the probe's own namespace: `/../..`.
        let outside = inner.components().any(|part| matches!(part, std::path::Component::ParentDir));
        (!outside).then(|| self.at.join(inner))
    }

    /// That folder and those above it, without the top, which is the whole machine.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let own = self.folder(path).filter(|own| *own != self.at);
        let upwards = own.iter().flat_map(|own| own.ancestors()).take_while(|folder| **folder != self.at);
        upwards.map(Path::to_path_buf).collect()
    }
}

/// The hierarchies that are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    unified: Option<Mount>,
    /// Version 1's.
    memory: Option<Mount>,
    cpu: Option<Mount>,
}

impl Hierarchies {
    /// Those of this machine.
    #[must_use]
    pub fn find() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Those of a text like `/proc/self/mountinfo`: `36 35 98:0 ROOT AT OPTIONS ... - TYPE SOURCE OPTIONS`.
    fn parse(mounts: &str) -> Self {
        let mut this = Self::default();
        for line in mounts.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let mut place = place.split(' ').skip(3);
            let (Some(root), Some(at)) = (place.next(), place.next()) else { continue };
            let mount = Mount { root: root.into(), at: at.into() };
            let mut kind = kind.split(' ');
            match (kind.next(), kind.nth(1)) {
                (Some("cgroup2"), _) => drop(this.unified.get_or_insert(mount)),
                (Some("cgroup"), Some(options)) => {
                    for option in options.split(',') {
                        match option {
                            "memory" => drop(this.memory.get_or_insert_with(|| mount.clone())),
                            "cpu" => drop(this.cpu.get_or_insert_with(|| mount.clone())),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        this
    }

    /// What holds for a process, by the text of its `/proc/PID/cgroup`; `None` when it is in no group but the top.
    #[must_use]
    pub fn read(&self, cgroups: &str) -> Option<Cgroup> {
        let mut found = Cgroup::default();
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let folders = |mount: &Option<Mount>| mount.as_ref().map(|mount| mount.folders(path)).unwrap_or_default();
            if number == "0" && controllers.is_empty() {
                let folders = folders(&self.unified);
                found.memory = found.memory.or_else(|| tightest(&folders, memory_v2));
                found.cpu_limit = found.cpu_limit.or_else(|| least(&folders, cpu_v2));
                let Some(own) = folders.first() else { continue };
                found.cpu_throttled = found.cpu_throttled.or_else(|| throttled(own, "throttled_usec", 1000));
                found.pressure = Resource::ALL.map(|resource| pressure(own, resource));
                continue;
            }
            for controller in controllers.split(',') {
                match controller {
                    "memory" => found.memory = tightest(&folders(&self.memory), memory_v1).or(found.memory),
                    "cpu" => {
                        let folders = folders(&self.cpu);
                        found.cpu_limit = least(&folders, cpu_v1).or(found.cpu_limit);
                        let own = folders.first().and_then(|own| throttled(own, "throttled_time", 1));
                        found.cpu_throttled = own.or(found.cpu_throttled);
                    }
                    _ => {}
                }
            }
        }
        (found != Cgroup::default()).then_some(found)
    }
}

/// Of the groups that have a limit, the one with the least room.
fn tightest(folders: &[PathBuf], read: fn(&Path) -> Option<CgroupMemory>) -> Option<CgroupMemory> {
    let limited = folders.iter().filter_map(|folder| read(folder));
    limited.min_by_key(|memory| memory.limit.saturating_sub(memory.working_set))
}

fn least(folders: &[PathBuf], read: fn(&Path) -> Option<f64>) -> Option<f64> {
    folders.iter().filter_map(|folder| read(folder)).min_by(f64::total_cmp)
}

fn memory_v2(folder: &Path) -> Option<CgroupMemory> {
    memory(folder, number(folder, "memory.max")?, "memory.current", "inactive_file")
}

fn memory_v1(folder: &Path) -> Option<CgroupMemory> {
    /// Greater than any memory: the kernel writes the greatest number of pages where there is no limit.
    const UNLIMITED: u64 = 1 << 62;
    let limit = number(folder, "memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED)?;
    memory(folder, limit, "memory.usage_in_bytes", "total_inactive_file")
}

fn memory(folder: &Path, limit: u64, usage: &str, inactive: &str) -> Option<CgroupMemory> {
    let usage = number(folder, usage)?;
    let inactive = field(&text(folder, "memory.stat")?, inactive).unwrap_or(0);
    Some(CgroupMemory { limit, usage, working_set: usage.saturating_sub(inactive) })
}

/// `QUOTA PERIOD`, or `max PERIOD` where there is no limit.
fn cpu_v2(folder: &Path) -> Option<f64> {
    let text = text(folder, "cpu.max")?;
    let (quota, period) = text.trim().split_once(' ')?;
    quotient(quota.parse().ok()?, period.parse().ok()?)
}

fn cpu_v1(folder: &Path) -> Option<f64> {
    // -1 where there is no limit.
    quotient(number(folder, "cpu.cfs_quota_us")?, number(folder, "cpu.cfs_period_us")?)
}

fn quotient(quota: u64, period: u64) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of processors are below 2^53")]
    (period > 0).then(|| quota as f64 / period as f64)
}

fn throttled(folder: &Path, name: &str, nanoseconds: u64) -> Option<Nanos> {
    Some(Nanos(field(&text(folder, "cpu.stat")?, name)?.checked_mul(nanoseconds)?))
}

fn pressure(folder: &Path, resource: Resource) -> Option<Pressure> {
    parse_pressure(&text(folder, &format!("{}.pressure", resource.as_str()))?)
}

/// Lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, in microseconds.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let total: u64 = line.split(' ').find_map(|part| part.strip_prefix("total="))?.parse().ok()?;
        Some(Nanos(total.checked_mul(1000)?))
    };
    Some(Pressure { some: total("some ")?, full: total("full ") })
}

fn text(folder: &Path, name: &str) -> Option<String> {
    fs::read_to_string(folder.join(name)).ok()
}

fn number(folder: &Path, name: &str) -> Option<u64> {
    text(folder, name)?.trim().parse().ok()
}

/// The number after `name` in lines of a name and a number.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files under a folder of the test's own.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it is ours");
            fs::write(path, text).expect("it is ours");
        }
        folder
    }

    fn mount(folder: &tempfile::TempDir, inner: &str) -> Option<Mount> {
        Some(Mount { root: "/".into(), at: folder.path().join(inner) })
    }

    #[test]
    fn finds_hierarchies_of_both_versions() {
        let mounts = "25 1 0:20 / /proc rw - proc proc rw\n\
            30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
            31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let found = Hierarchies::parse(mounts);
        let at = |mount: &Option<Mount>| mount.clone().map(|mount| mount.at).unwrap_or_default();
        assert_eq!(at(&found.unified), Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(at(&found.cpu), Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        let memory = found.memory.expect("it is mounted");
        assert_eq!(memory.folder("/docker/abc/x"), Some("/sys/fs/cgroup/memory/x".into()));
        assert_eq!(memory.folder("/docker/other"), None, "it is not under what is mounted");
        assert_eq!(memory.folder("/docker/abc/../.."), None);
        assert_eq!(Hierarchies::parse("nonsense\n1 2 - \n"), Hierarchies::default());
    }

    #[test]
    fn the_tightest_limit_from_the_group_upwards_counts() {
        let stat = "anon 1\ninactive_file 30\ninactive_anon 7\n";
        let folder = tree(&[
            ("slice/memory.max", "1000\n"),
            ("slice/memory.current", "980\n"),
            ("slice/memory.stat", stat),
            ("slice/cpu.max", "max 100000\n"),
            ("slice/bot/memory.max", "500\n"),
            ("slice/bot/memory.current", "400\n"),
            ("slice/bot/memory.stat", stat),
            ("slice/bot/cpu.max", "150000 100000\n"),
            ("slice/bot/cpu.stat", "usage_usec 9\nthrottled_usec 2500\n"),
            ("slice/bot/memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0 total=5\n"),
            ("slice/bot/cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"),
            ("slice/free/memory.max", "max\n"),
        ]);
        let hierarchies = Hierarchies { unified: mount(&folder, ""), ..Hierarchies::default() };
        let found = hierarchies.read("0::/slice/bot\n").expect("it has limits");
        // The slice has 1000 - (980 - 30) left, the bot 500 - (400 - 30).
        assert_eq!(found.memory, Some(CgroupMemory { limit: 1000, usage: 980, working_set: 950 }));
        assert_eq!((found.cpu_limit, found.cpu_throttled), (Some(1.5), Some(Nanos(2_500_000))));
        let pressure = |some, full: Option<u64>| Some(Pressure { some: Nanos(some), full: full.map(Nanos) });
        assert_eq!(found.pressure, [pressure(7000, None), pressure(12_000, Some(5000)), None]);

        let free = hierarchies.read("0::/slice/free\n").expect("its slice has a limit");
        assert_eq!(free.memory.map(|memory| memory.limit), Some(1000));
        assert_eq!(free.cpu_limit, None);
        assert_eq!(hierarchies.read("0::/\n"), None, "the top is the machine");
        assert_eq!(hierarchies.read("0::/../outside\n"), None);
        assert_eq!(hierarchies.read("no such\n:::\n"), None);
    }

    #[test]
    fn version_1_has_a_hierarchy_each() {
        let folder = tree(&[
            ("memory/bot/memory.limit_in_bytes", "4096\n"),
            ("memory/bot/memory.usage_in_bytes", "2048\n"),
            ("memory/bot/memory.stat", "inactive_file 1\ntotal_inactive_file 48\n"),
            ("memory/memory.limit_in_bytes", "1\n"),
            ("memory/free/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/bot/cpu.cfs_quota_us", "50000\n"),
            ("cpu/bot/cpu.cfs_period_us", "100000\n"),
            ("cpu/bot/cpu.stat", "nr_periods 1\nthrottled_time 77\n"),
            ("cpu/free/cpu.cfs_quota_us", "-1\n"),
            ("cpu/free/cpu.cfs_period_us", "100000\n"),
        ]);
        let hierarchies =
            Hierarchies { memory: mount(&folder, "memory"), cpu: mount(&folder, "cpu"), ..Hierarchies::default() };
        let found = hierarchies.read("4:memory:/bot\n2:cpu,cpuacct:/bot\n0::/\n").expect("it has limits");
        assert_eq!(found.memory, Some(CgroupMemory { limit: 4096, usage: 2048, working_set: 2000 }));
        assert_eq!((found.cpu_limit, found.cpu_throttled), (Some(0.5), Some(Nanos(77))));
        assert_eq!(hierarchies.read("4:memory:/free\n2:cpu:/free\n"), None);
    }
}
