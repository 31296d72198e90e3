//! Why a loop does not turn: decided from a few looks at its thread, without any I/O.

use crate::observations::Cause;
use crate::units::Nanos;

/// What a thread waited for when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wait {
    /// Nothing: it ran or was ready to.
    None,
    /// A time.
    Sleep,
    /// A disk or a file system.
    Disk,
    /// A lock, of its own process or of a file.
    Lock,
    /// A lock of its own process, but not for ever: so one waits for the interpreter's.
    TimedLock,
    /// Another process, over a socket, a pipe, or by its end.
    Peer,
    /// Something else.
    Unknown,
}

/// One look at a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// When.
    pub(super) time: Nanos,
    /// How long it had run in all, if the kernel says so.
    pub(super) on_cpu: Option<Nanos>,
    /// How long it had been ready without running in all, if the kernel says so.
    pub(super) runnable: Option<Nanos>,
    /// What it waited for.
    pub(super) wait: Wait,
}

/// The place of locks in [`Sights::waits`].
const LOCK: usize = 2;

/// All looks at a thread during one stall.
#[derive(Clone, Debug, Default)]
pub(super) struct Sights {
    first: Option<Sight>,
    last: Option<Sight>,
    /// How often it was seen waiting for what.
    waits: [u32; 5],
    /// How often it waited for a lock, and not for ever.
    timed: u32,
}

impl Sights {
    pub(super) fn add(&mut self, sight: Sight) {
        self.first.get_or_insert(sight);
        self.last = Some(sight);
        let place = match sight.wait {
            Wait::None => return,
            Wait::Sleep => 0,
            Wait::Disk => 1,
            Wait::Lock => LOCK,
            Wait::TimedLock => {
                self.timed += 1;
                LOCK
            }
            Wait::Peer => 3,
            Wait::Unknown => 4,
        };
        self.waits[place] += 1;
    }

    /// The share of the time looked at in which it ran; none when that is not known.
    fn shares(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.first?, self.last?);
        let whole = last.time.since(first.time).seconds();
        let share = |from: Option<Nanos>, to: Option<Nanos>| Some(to?.since(from?).seconds() / whole);
        (whole > 0.0).then_some(())?;
        Some((share(first.on_cpu, last.on_cpu)?, share(first.runnable, last.runnable)?))
    }

    /// Whether each time that it waited for a lock this may have been the interpreter's.
    pub(super) fn may_wait_for_interpreter(&self) -> bool {
        self.timed > 0 && self.timed == self.waits[LOCK]
    }

    /// Why the loop does not turn. A thread that was mostly kept from a processor is starved, one that mostly ran
    /// computes, and any other waits for what it was seen to wait for most often.
    pub(super) fn cause(&self) -> Cause {
        match self.shares() {
            Some((_, runnable)) if runnable > 0.5 => return Cause::Starved,
            Some((on_cpu, _)) if on_cpu > 0.5 => return Cause::Computation,
            _ => {}
        }
        let most = self.waits.iter().copied().max().unwrap_or(0);
        let causes = [Cause::Sleep, Cause::Disk, Cause::Lock, Cause::Peer, Cause::Unknown];
        match causes.into_iter().zip(self.waits).find(|(_, count)| *count == most) {
            Some((cause, 1..)) => cause,
            // It was never seen waiting, and the kernel does not say how long it ran.
            _ if self.last.is_some() && self.shares().is_none() => Cause::Computation,
            _ => Cause::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn cause(looks: &[(u64, u64, u64, Wait)]) -> Cause {
        let mut sights = Sights::default();
        for (time, on_cpu, runnable, wait) in looks {
            let told = |ms: u64| Some(Nanos(ms * MS));
            sights.add(Sight { time: Nanos(time * MS), on_cpu: told(*on_cpu), runnable: told(*runnable), wait: *wait });
        }
        sights.cause()
    }

    #[test]
    fn what_takes_the_time_is_the_cause() {
        assert_eq!(cause(&[(0, 5, 0, Wait::None), (10, 15, 0, Wait::None)]), Cause::Computation);
        assert_eq!(cause(&[(0, 5, 0, Wait::None), (10, 6, 9, Wait::None)]), Cause::Starved);
        assert_eq!(cause(&[(0, 5, 0, Wait::Sleep), (10, 5, 0, Wait::Sleep)]), Cause::Sleep);
        // Disks answer now and then, and what writes to them runs between.
        assert_eq!(
            cause(&[(0, 5, 0, Wait::Disk), (10, 7, 0, Wait::None), (20, 9, 0, Wait::Disk), (30, 12, 0, Wait::Lock)]),
            Cause::Disk
        );
        assert_eq!(cause(&[(0, 5, 0, Wait::Peer), (10, 5, 0, Wait::Peer)]), Cause::Peer);
    }

    #[test]
    fn what_cannot_be_told_is_unknown() {
        assert_eq!(cause(&[]), Cause::Unknown);
        assert_eq!(cause(&[(0, 5, 0, Wait::Unknown)]), Cause::Unknown);
        assert_eq!(cause(&[(0, 5, 0, Wait::None), (10, 8, 1, Wait::None)]), Cause::Unknown, "it did neither much");
    }

    #[test]
    fn without_the_scheduler_s_figures_the_looks_alone_decide() {
        let look = |time, wait| Sight { time: Nanos(time), on_cpu: None, runnable: None, wait };
        let mut sights = Sights::default();
        sights.add(look(0, Wait::None));
        sights.add(look(1, Wait::None));
        assert_eq!(sights.cause(), Cause::Computation);
        sights.add(look(2, Wait::Lock));
        assert_eq!(sights.cause(), Cause::Lock);
    }
}
