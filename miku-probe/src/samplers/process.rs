//! What each watched process uses: looked up in `/proc` at an interval, and at once when one is new.
//!
//! Metrics: `miku_process_*` but starts, ends and kills, which the kernel side tells. Nothing that is dear is read; what
//! cannot be read is absent. [`growth`] judges the memory's slope.

mod growth;
mod switches;

use std::collections::{HashMap, HashSet};
use std::io;
use std::thread;
use std::time::Duration;

use self::growth::Estimator;
use super::{Sample, Samples, Target, Targets};
use crate::discovery::cgroups::Hierarchies;
use crate::discovery::process::StartTime;
use crate::discovery::usage::{self, Folder};
use crate::observations::Vitals;
use crate::units::{Nanos, ServiceId};

/// How often processes are looked at, unless the configuration says otherwise.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether there are new ones, and whether anybody still wants to know.
const GLANCE: Duration = Duration::from_millis(250);

/// Of a process with more threads their context switches are not known: each is a file to read.
const THREADS_MAX: usize = 256;

/// What a look at a process found.
#[derive(Clone, Debug)]
pub struct Look {
    /// Whose process.
    pub service: ServiceId,
    /// What was found.
    pub vitals: Box<Vitals>,
}

/// Looks at all of `targets` each `interval`, on a thread of its own that ends when nobody takes samples any more.
///
/// # Errors
/// When there can be no thread.
pub fn start(targets: Targets, samples: Samples, interval: Duration) -> io::Result<()> {
    let watch = move || {
        let mut sampler = Sampler::new();
        let mut next = Nanos(0);
        while samples.wanted() {
            let targets = targets.get();
            let due = Nanos::now() >= next;
            if due {
                next = Nanos::now() + interval.into();
            }
            sampler.look(&targets, due, |look| {
                if !samples.give(Sample::Process(look)) {
                    log::debug!("nobody takes what a process uses");
                }
            });
            thread::sleep(GLANCE.min(interval));
        }
    };
    thread::Builder::new().name("processes".to_owned()).spawn(watch).map(drop)
}

/// What is kept from one look to the next.
struct Sampler {
    hierarchies: Hierarchies,
    boot_time: Option<f64>,
    kept: HashMap<Target, Kept>,
}

/// What is kept of one process.
struct Kept {
    switches: switches::Sum,
    growth: Estimator,
}

impl Sampler {
    fn new() -> Self {
        Self { hierarchies: Hierarchies::find(), boot_time: usage::boot_time(), kept: HashMap::new() }
    }

    /// Looks at those that are new, or at all of them.
    fn look(&mut self, targets: &[Target], all: bool, mut give: impl FnMut(Look)) {
        let present: HashSet<Target> = targets.iter().copied().collect();
        self.kept.retain(|target, _| present.contains(target));
        for target in targets {
            if (all || !self.kept.contains_key(target))
                && let Some(vitals) = self.vitals(*target)
            {
                give(Look { service: target.service, vitals: Box::new(vitals) });
            }
        }
    }

    /// What there is to know of one; `None` when it has ended.
    fn vitals(&mut self, target: Target) -> Option<Vitals> {
        let folder = Folder::of(target.tgid);
        let times = folder.stat()?;
        let time = Nanos::now();
        let memory = folder.memory();
        let since_boot = times.start.since_boot();
        let kept = self.kept.entry(target).or_insert_with(|| {
            let growth = Estimator::new(monotonic_start(since_boot, time), time);
            Kept { switches: switches::Sum::default(), growth }
        });
        if let Some(resident) = memory.resident {
            kept.growth.add(time, resident);
        }
        Some(Vitals {
            tgid: target.tgid,
            time,
            start: self.boot_time.map(|boot| boot + since_boot.as_secs_f64()),
            memory,
            threads: Some(times.threads),
            open_fds: folder.open_fds(),
            max_fds: folder.max_fds(),
            cpu: Some(times.cpu),
            switches: folder.switches(THREADS_MAX).map(|threads| kept.switches.take(threads)),
            faults: Some(times.faults),
            io: folder.disk(),
            growth: kept.growth.growth(),
            cgroup: folder.cgroups().and_then(|groups| self.hierarchies.read(&groups)),
        })
    }
}

/// A start in the monotonic clock, which unlike the one of starts stands still while the machine sleeps.
fn monotonic_start(since_boot: Duration, now: Nanos) -> Nanos {
    now - Nanos::from(StartTime::now().since_boot().saturating_sub(since_boot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Tgid;

    #[test]
    fn new_processes_are_looked_at_at_once_and_ended_ones_forgotten() {
        let mut sampler = Sampler::new();
        let own = Target { service: ServiceId(0), tgid: Tgid(std::process::id()) };
        let ended = Target { service: ServiceId(0), tgid: Tgid(u32::MAX) };
        let mut looks = |targets: &[Target], all| {
            let mut seen = Vec::new();
            sampler.look(targets, all, |look| seen.push(look.vitals));
            (seen, sampler.kept.len())
        };
        let (seen, kept) = looks(&[own, ended], false);
        assert_eq!((seen.len(), kept), (1, 1), "{seen:?}");
        let vitals = &seen[0];
        assert!(vitals.memory.resident.is_some_and(|bytes| bytes > 1 << 20));
        assert!(vitals.switches.is_some() && vitals.growth.is_none());
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970").as_secs_f64();
        assert!(vitals.start.is_some_and(|start| start <= now + 2.0 && start > now - 86_400.0), "{vitals:?}");
        assert_eq!(looks(&[own], false).0.len(), 0, "it is not new");
        let (again, _) = looks(&[own], true);
        assert!(again[0].time > vitals.time && again[0].faults.is_some());
        assert_eq!(looks(&[], true).1, 0);
    }
}
