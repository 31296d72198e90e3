//! Where the time of replies went.

use super::recorder::{Latencies, Times};
use crate::observations::{Phase, Phases};
use crate::units::Nanos;

/// What was seen of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseRow {
    /// Which.
    pub phase: Phase,
    /// How many replies had it.
    pub count: u64,
    /// Its share of the time of all replies, from 0 to 1.
    pub share: f64,
    /// How long it took, where there was one.
    pub times: Times,
}

/// The phases of all replies since the start.
#[derive(Debug, Default)]
pub(super) struct PhaseTimes {
    phases: [Option<Box<(Latencies, Nanos)>>; Phase::ALL.len()],
    whole: Nanos,
}

impl PhaseTimes {
    /// Takes in one reply.
    pub(super) fn record(&mut self, duration: Nanos, phases: &Phases) {
        self.whole = self.whole + duration;
        for (phase, time) in phases.seen() {
            let (latencies, sum) = &mut **self.phases[phase as usize].get_or_insert_default();
            latencies.record(time);
            *sum = *sum + time;
        }
    }

    /// The phases that were seen, in order.
    pub(super) fn rows(&self) -> Vec<PhaseRow> {
        let row = |phase: Phase| {
            let (latencies, sum) = self.phases[phase as usize].as_deref()?;
            let share = if self.whole.0 == 0 { 0.0 } else { sum.seconds() / self.whole.seconds() };
            let zero = Some(Nanos(0));
            // The distribution takes what is shorter than a microsecond for one.
            let times = match sum.0 {
                0 => Times { p50: zero, p90: zero, p99: zero, p999: zero, max: zero },
                _ => latencies.times(),
            };
            Some(PhaseRow { phase, count: latencies.count(), share, times })
        };
        Phase::ALL.into_iter().filter_map(row).collect()
    }
}
