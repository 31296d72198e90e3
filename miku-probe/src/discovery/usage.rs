//! What a process uses, as `/proc` tells: each thing read on its own, and absent when it cannot be.
//!
//! Field layouts are those of `proc(5)`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::process::{StartTime, Stat, read, status_field, ticks_per_second};
use crate::observations::{CpuTime, DiskBytes, Faults, Memory, Switches};
use crate::units::{Nanos, Tgid};

/// The folder of a process.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Whether it is that of this program itself.
    own: bool,
}

impl Folder {
    /// That of a process.
    #[must_use]
    pub fn of(tgid: Tgid) -> Self {
        Self { path: Path::new("/proc").join(tgid.to_string()), own: tgid.0 == std::process::id() }
    }

    /// That of this program.
    #[must_use]
    pub fn own() -> Self {
        Self::of(Tgid(std::process::id()))
    }

    /// What stands in `stat`; `None` when there is no such process.
    #[must_use]
    pub fn stat(&self) -> Option<Times> {
        let stat = Stat::read(&self.path.join("stat"))?;
        let time = |ticks: u64| Nanos(ticks.saturating_mul(1_000_000_000 / ticks_per_second()));
        Some(Times {
            start: stat.start,
            cpu: CpuTime { user: time(stat.user_time), system: time(stat.system_time) },
            faults: Faults { minor: stat.minor_faults, major: stat.major_faults },
            threads: stat.threads,
            virtual_size: stat.virtual_size,
            resident_pages: stat.resident,
        })
    }

    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        memory(&self.text("status").unwrap_or_default())
    }

    /// What it made the disks do; root or the process's own user may know.
    #[must_use]
    pub fn disk(&self) -> Option<DiskBytes> {
        let text = self.text("io")?;
        let field = |name| status_field(&text, name)?.parse().ok();
        Some(DiskBytes { read: field("read_bytes:")?, write: field("write_bytes:")? })
    }

    /// How many descriptors it has open.
    #[must_use]
    pub fn open_fds(&self) -> Option<u64> {
        let folder = self.path.join("fd");
        // From Linux 6.2 on the folder's size is their number.
        match fs::metadata(&folder).ok()?.len() {
            0 => {
                let listed = u64::try_from(fs::read_dir(&folder).ok()?.count()).ok()?;
                // One of them is the listing's own.
                Some(listed.saturating_sub(u64::from(self.own)))
            }
            open => Some(open),
        }
    }

    /// How many descriptors it may have open; `None` when there is no limit.
    #[must_use]
    pub fn max_fds(&self) -> Option<u64> {
        descriptor_limit(&self.text("limits")?)
    }

    /// The context switches of each thread; `None` when there are more than `most` threads.
    #[must_use]
    pub fn switches(&self, most: usize) -> Option<HashMap<u32, Switches>> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(self.path.join("task")).ok()? {
            let Ok(entry) = entry else { continue };
            let Some(tid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A thread may have ended since it was listed.
            let Ok(bytes) = read(&entry.path().join("status")) else { continue };
            if threads.len() == most {
                return None;
            }
            threads.extend(switches(&String::from_utf8_lossy(&bytes)).map(|switches| (tid, switches)));
        }
        (!threads.is_empty()).then_some(threads)
    }

    /// What it has of memory that it does not share, and its part of what it does. The kernel walks all its mappings for it,
    /// which takes milliseconds: for those who ask.
    #[must_use]
    pub fn proportional(&self) -> Option<u64> {
        kib(&self.text("smaps_rollup")?, "Pss:")
    }

    /// Which control groups it is in.
    #[must_use]
    pub fn cgroups(&self) -> Option<String> {
        self.text("cgroup")
    }

    fn text(&self, name: &str) -> Option<String> {
        read(&self.path.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What stands in `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When the process began.
    pub start: StartTime,
    /// Time on a processor.
    pub cpu: CpuTime,
    /// Page faults.
    pub faults: Faults,
    /// Threads that it has.
    pub threads: u64,
    /// Bytes of addresses that are mapped.
    pub virtual_size: u64,
    /// Pages in memory.
    pub resident_pages: u64,
}

/// When the machine started, in seconds of Unix time.
#[must_use]
pub fn boot_time() -> Option<f64> {
    parse_boot_time(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The machine's memory in bytes.
#[must_use]
pub fn machine_memory() -> Option<u64> {
    kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

fn memory(status: &str) -> Memory {
    let sum = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one + other);
    Memory {
        resident: kib(status, "VmRSS:"),
        virtual_size: kib(status, "VmSize:"),
        shared: sum(kib(status, "RssFile:"), kib(status, "RssShmem:")),
        swap: kib(status, "VmSwap:"),
    }
}

/// A number of KiB after `name`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    status_field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn switches(status: &str) -> Option<Switches> {
    let field = |name| status_field(status, name)?.parse().ok();
    Some(Switches { voluntary: field("voluntary_ctxt_switches:")?, involuntary: field("nonvoluntary_ctxt_switches:")? })
}

/// The soft limit of open files, from the text of `/proc/PID/limits`.
fn descriptor_limit(text: &str) -> Option<u64> {
    let limits = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status() {
        let status = "Name:\tbot\nVmSize:\t  200 kB\nVmRSS:\t   100 kB\nRssAnon:\t 60 kB\nRssFile:\t 39 kB\nRssShmem:\t 1 kB\n\
            VmSwap:\t 0 kB\nThreads:\t3\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t2\n";
        let expected =
            Memory { resident: Some(102_400), virtual_size: Some(204_800), shared: Some(40_960), swap: Some(0) };
        assert_eq!(memory(status), expected);
        assert_eq!(switches(status), Some(Switches { voluntary: 7, involuntary: 2 }));
        assert_eq!(memory("Name:\tkthreadd\n"), Memory::default(), "a process without memory, as one that ends");
    }

    #[test]
    fn reads_boot_time_and_limit() {
        assert_eq!(parse_boot_time("cpu 1 2 3\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000.0));
        assert_eq!(parse_boot_time("cpu 1 2 3\n"), None);
        let limits =
            |soft: &str| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files   {soft}   4096  files\n");
        assert_eq!(descriptor_limit(&limits("1024")), Some(1024));
        assert_eq!(descriptor_limit(&limits("unlimited")), None);
    }

    #[test]
    fn this_program_is_read_as_the_system_tells_it() {
        let folder = Folder::own();
        let memory = folder.memory();
        let resident = memory.resident.expect("it has memory");
        assert!(memory.virtual_size.is_some_and(|size| size > resident) && memory.shared.is_some());
        let part = folder.proportional().expect("it may read its own");
        assert!(part > 0 && part < 2 * resident, "{part} of {resident}");
        let times = folder.stat().expect("it runs");
        assert!(times.threads >= 1 && times.faults.minor > 0);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a live, writable rlimit.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        assert_eq!(folder.max_fds(), (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur));
        assert!(folder.open_fds().is_some_and(|open| open > 2 && open < limit.rlim_cur));
        assert!(folder.disk().is_some() && folder.cgroups().is_some());

        let threads = folder.switches(10_000).expect("it has threads");
        assert!(threads.contains_key(&std::process::id()), "the first thread has the process's number");
        assert_eq!(folder.switches(0), None, "more than were allowed");
    }

    #[test]
    fn of_a_process_that_is_not_there_everything_is_absent() {
        let folder = Folder::of(Tgid(u32::MAX));
        assert_eq!((folder.stat(), folder.memory()), (None, Memory::default()));
        assert_eq!((folder.open_fds(), folder.max_fds(), folder.disk(), folder.switches(9)), (None, None, None, None));
        assert_eq!((folder.proportional(), folder.cgroups()), (None, None));
    }
}
