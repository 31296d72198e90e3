//! What is observed of event loops.

use std::array;
use std::sync::Arc;

use miku_probe_abi::{OFF_REASONS, OffReason, TURN_BOUNDS, TURN_BUCKETS};

use super::Stall;
use crate::units::Nanos;

/// What is told of a service's event loops.
#[derive(Clone, Debug, PartialEq)]
pub enum EventLoop {
    /// Turns ended and time went by.
    Turns(Box<Turns>),
    /// A turn takes too long, and somebody looked at it meanwhile.
    Stall(Arc<Stall>),
}

/// Turns of event loops that ended, and where the time went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// How many, by how long they were: [`TURN_BOUNDS`].
    pub turns: [u64; TURN_BUCKETS],
    /// How long they were together.
    pub busy: Nanos,
    /// How long their threads ran in them.
    pub on_cpu: Nanos,
    /// How long they did not, by [`OffReason`].
    pub off_cpu: [Nanos; OFF_REASONS],
    /// How long their threads waited in their selectors.
    pub idle: Nanos,
    /// How long their threads could have run and had no processor, in turns and before them; none when the kernel does not
    /// tell.
    pub starved: Option<Nanos>,
}

impl Turns {
    /// By how much these totals are more than those before.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub, |now, before| now.since(before))
    }

    /// The larger of each.
    #[must_use]
    pub fn at_least(&self, other: &Self) -> Self {
        self.with(other, u64::max, Ord::max)
    }

    fn with(&self, other: &Self, counts: fn(u64, u64) -> u64, times: fn(Nanos, Nanos) -> Nanos) -> Self {
        Self {
            turns: array::from_fn(|place| counts(self.turns[place], other.turns[place])),
            busy: times(self.busy, other.busy),
            on_cpu: times(self.on_cpu, other.on_cpu),
            off_cpu: array::from_fn(|place| times(self.off_cpu[place], other.off_cpu[place])),
            idle: times(self.idle, other.idle),
            starved: self.starved.map(|starved| times(starved, other.starved.unwrap_or_default())),
        }
    }

    /// How many turns were longer than `threshold`.
    #[must_use]
    pub fn stalled(&self, threshold: StallThreshold) -> u64 {
        let longer = TURN_BOUNDS.iter().position(|bound| *bound == threshold.time().0).map_or(0, |place| place + 1);
        self.turns[longer..].iter().sum()
    }
}

/// The label value of a reason.
#[must_use]
pub const fn off_reason(reason: OffReason) -> &'static str {
    match reason {
        OffReason::Cpu => "cpu",
        OffReason::Disk => "disk",
        OffReason::Lock => "lock",
        OffReason::Sleep => "sleep",
        OffReason::Call => "call",
    }
}

/// From when on a turn is a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StallThreshold {
    /// 0.1 s.
    Tenth,
    /// 1 s.
    Second,
    /// 10 s.
    TenSeconds,
}

impl StallThreshold {
    /// All of them, from the shortest to the longest.
    pub const ALL: [Self; 3] = [Self::Tenth, Self::Second, Self::TenSeconds];

    /// How long that is; each is one of [`TURN_BOUNDS`].
    #[must_use]
    pub const fn time(self) -> Nanos {
        match self {
            Self::Tenth => Nanos(100_000_000),
            Self::Second => Nanos(1_000_000_000),
            Self::TenSeconds => Nanos(10_000_000_000),
        }
    }

    /// The label value, in seconds.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenth => "0.1",
            Self::Second => "1",
            Self::TenSeconds => "10",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_the_turns_above_a_bound() {
        let mut turns = Turns::default();
        for (place, count) in turns.turns.iter_mut().enumerate() {
            *count = 1 << place;
        }
        // The bucket up to 0.1 s is the eighth, that up to 1 s the eleventh, that up to 10 s the fourteenth; two follow.
        let above = |place: u32| (1 << TURN_BUCKETS) - (1 << place);
        assert_eq!(StallThreshold::ALL.map(|threshold| turns.stalled(threshold)), [above(8), above(11), above(14)]);
    }
}
