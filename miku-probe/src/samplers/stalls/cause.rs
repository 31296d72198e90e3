//! Why a loop does not turn: decided from how the kernel side says that the turn's time went, without any I/O.

use miku_probe_abi::OffReason;

use crate::observations::Cause;
use crate::probes::event_loop::Turn;
use crate::units::Nanos;

/// What a thread waits for, as far as its system call says more than the kernel side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wait {
    /// A file system: on disks whose waiting can be interrupted, and on those of other machines.
    Disk,
    /// A lock of its own process, but not for ever: so one waits for the interpreter's.
    TimedLock,
    /// A lock.
    Lock,
    /// Anything else, or nothing.
    Other,
}

/// What was seen of a thread's waiting during one stall.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    disk: u32,
    locks: u32,
    timed_locks: u32,
    others: u32,
}

impl Waits {
    pub(super) fn add(&mut self, wait: Wait) {
        match wait {
            Wait::Disk => self.disk += 1,
            Wait::Lock => self.locks += 1,
            Wait::TimedLock => self.timed_locks += 1,
            Wait::Other => self.others += 1,
        }
    }

    /// Whether each time that it waited for a lock this may have been the interpreter's.
    pub(super) fn may_be_for_interpreter(self) -> bool {
        self.timed_locks > 0 && self.locks == 0
    }
}

/// How long a turn was on a processor up to `now`.
pub(super) fn on_cpu(turn: &Turn, now: Nanos) -> Nanos {
    let off = turn.off_cpu.iter().fold(Nanos(0), |sum, time| sum + *time);
    now.since(turn.since).since(off)
}

/// Why the loop does not turn: what took most of the turn's time up to `now`. What could run computes, if it did for at
/// least half of that time, and else is starved.
pub(super) fn cause(turn: &Turn, waits: Waits, now: Nanos) -> Cause {
    let of = |reason: OffReason| turn.off_cpu[reason as usize];
    let (on_cpu, delayed) = (on_cpu(turn, now), of(OffReason::Cpu));
    let could_run = if delayed > on_cpu { Cause::Starved } else { Cause::Computation };
    let call = if waits.disk > waits.others { Cause::Disk } else { Cause::Peer };
    let causes = [
        (of(OffReason::Disk), Cause::Disk),
        (of(OffReason::Lock), Cause::Lock),
        (of(OffReason::Sleep), Cause::Sleep),
        (of(OffReason::Call), call),
        (on_cpu + delayed, could_run),
    ];
    causes.into_iter().max_by_key(|(time, _)| *time).map_or(Cause::Unknown, |(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::event_loop::TurnKind;
    use crate::units::Tgid;

    /// The cause in a turn of 100 ms that spent so many milliseconds off the processor.
    fn of(off: &[(OffReason, u64)], waits: &[Wait]) -> Cause {
        let mut off_cpu = [Nanos(0); OffReason::ALL.len()];
        for (reason, ms) in off {
            off_cpu[*reason as usize] = Nanos(ms * 1_000_000);
        }
        let turn = Turn {
            tgid: Tgid(1),
            tid: 1,
            since: Nanos(500),
            kind: TurnKind::Runs,
            off_cpu,
            begun_before: false,
            recognised: false,
        };
        let mut seen = Waits::default();
        for wait in waits {
            seen.add(*wait);
        }
        cause(&turn, seen, Nanos(100_000_500))
    }

    #[test]
    fn what_took_the_time_is_the_cause() {
        assert_eq!(of(&[], &[]), Cause::Computation);
        assert_eq!(of(&[(OffReason::Disk, 45)], &[]), Cause::Computation);
        assert_eq!(of(&[(OffReason::Cpu, 60)], &[]), Cause::Starved);
        assert_eq!(of(&[(OffReason::Sleep, 90)], &[]), Cause::Sleep);
        assert_eq!(of(&[(OffReason::Lock, 90)], &[Wait::Lock]), Cause::Lock);
        // Disks answer now and then, and what writes to them runs between.
        assert_eq!(of(&[(OffReason::Disk, 60), (OffReason::Lock, 10), (OffReason::Cpu, 15)], &[]), Cause::Disk);
        // Less than half a processor, but more than anything else.
        assert_eq!(of(&[(OffReason::Disk, 40), (OffReason::Cpu, 25)], &[]), Cause::Computation);
    }

    #[test]
    fn a_call_on_a_file_waits_for_its_disk() {
        assert_eq!(of(&[(OffReason::Call, 99)], &[Wait::Other, Wait::Other, Wait::Disk]), Cause::Peer);
        assert_eq!(of(&[(OffReason::Call, 99)], &[Wait::Other, Wait::Disk, Wait::Disk]), Cause::Disk);
    }

    #[test]
    fn one_lock_that_is_not_the_interpreter_s_says_enough() {
        let mut waits = Waits::default();
        assert!(!waits.may_be_for_interpreter());
        waits.add(Wait::TimedLock);
        waits.add(Wait::Other);
        assert!(waits.may_be_for_interpreter());
        waits.add(Wait::Lock);
        assert!(!waits.may_be_for_interpreter());
    }
}
