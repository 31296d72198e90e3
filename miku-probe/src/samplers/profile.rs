//! A profile of one process's Python: a look at all its threads at regular times, without stopping any.
//!
//! The times are of the monotonic clock. A look that is late is made at once, and those that were missed are left out and
//! counted, never made up for.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::python::{Reader, StackError, Thread};
use crate::observations::Place;
use crate::sinks::profile::{Call, Profile};
use crate::units::Tgid;

/// How to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For how long.
    pub time: Duration,
    /// How often a second.
    pub rate: NonZero<u32>,
    /// Whether threads that wait are counted too.
    pub idle: bool,
}

impl Settings {
    /// From one look to the next.
    #[must_use]
    pub fn period(&self) -> Duration {
        Duration::from_secs(1) / self.rate.get()
    }
}

/// What was seen of one process.
#[derive(Debug)]
pub struct Seen {
    /// The stacks.
    pub profile: Profile,
    /// Looks that told something, if only that nothing ran.
    pub looks: u64,
    /// Looks that were missed, because the one before took too long or nobody let us run.
    pub missed: u64,
    /// Looks that failed, by why.
    pub failed: BTreeMap<String, u64>,
    /// Whether the process ended before the time was over.
    pub ended: bool,
}

/// Looks at a process until the time is over, `stop` is set, or it ends. All stacks stand on `root`.
pub fn sample(reader: &mut Reader, tgid: Tgid, root: &str, settings: &Settings, stop: &AtomicBool) -> Seen {
    let period = settings.period();
    let start = Instant::now();
    let mut seen = Seen {
        profile: Profile::new(period, SystemTime::now()),
        looks: 0,
        missed: 0,
        failed: BTreeMap::new(),
        ended: false,
    };
    let mut next = start;
    while !stop.load(Ordering::Relaxed) && start.elapsed() < settings.time {
        match reader.threads() {
            Ok(threads) => {
                seen.looks += 1;
                for thread in threads {
                    if settings.idle || runs(tgid, &thread) {
                        seen.profile.add(stack(root, thread));
                    }
                }
            }
            Err(StackError::Gone) => {
                seen.ended = true;
                break;
            }
            Err(error) => *seen.failed.entry(error.to_string()).or_default() += 1,
        }
        next += period;
        let now = Instant::now();
        while next < now {
            next += period;
            seen.missed += 1;
        }
        thread::sleep(next.min(start + settings.time).saturating_duration_since(now));
    }
    seen.profile.duration = start.elapsed();
    seen
}

/// Whether a thread ran or was ready to. One of which that cannot be told counts if it holds the interpreter's lock.
fn runs(tgid: Tgid, thread: &Thread) -> bool {
    let Some(tid) = thread.tid else { return thread.holds_gil };
    let stat = fs::read_to_string(format!("/proc/{tgid}/task/{}/stat", tid.0)).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('R'))
}

fn stack(root: &str, thread: Thread) -> Vec<Call> {
    let calls = thread.frames.into_iter().rev();
    let places = calls.map(|frame| Place { file: frame.file, function: frame.function, line: frame.line });
    std::iter::once(Call::Root(root.to_owned())).chain(places.map(Call::Python)).collect()
}
