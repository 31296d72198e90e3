//! Parts a reply's duration among its phases, so that each nanosecond counts once.

use crate::observations::{Phase, Phases};
use crate::units::Nanos;

/// A stretch of time that belongs to a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) phase: Phase,
    pub(super) start: Nanos,
    pub(super) end: Nanos,
}

/// The phases between `start` and `end`. Where spans overlap the first one in the list has the time; what none covers is
/// [`Phase::Other`]. A phase with a span is told even if nothing is left for it.
pub(super) fn part(start: Nanos, end: Nanos, spans: &[Span]) -> Phases {
    let mut phases = Phases::default();
    phases.add(Phase::Other, Nanos(0));
    let clip = |time: Nanos| time.clamp(start, end.max(start));
    let mut bounds = vec![start, end.max(start)];
    for span in spans {
        phases.add(span.phase, Nanos(0));
        bounds.extend([clip(span.start), clip(span.end)]);
    }
    bounds.sort_unstable();
    bounds.dedup();
    for pair in bounds.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let owner = spans.iter().find(|span| span.start <= from && to <= span.end);
        phases.add(owner.map_or(Phase::Other, |span| span.phase), to.since(from));
    }
    phases
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(phase: Phase, start: u64, end: u64) -> Span {
        Span { phase, start: Nanos(start), end: Nanos(end) }
    }

    #[test]
    fn the_first_of_two_spans_has_the_time_that_both_cover() {
        let spans = [span(Phase::Post, 80, 100), span(Phase::LlmGeneration, 40, 120), span(Phase::Pickup, 0, 20)];
        let phases = part(Nanos(10), Nanos(100), &spans);
        assert_eq!(
            phases.seen().collect::<Vec<_>>(),
            [
                (Phase::Pickup, Nanos(10)),
                (Phase::LlmGeneration, Nanos(40)),
                (Phase::Post, Nanos(20)),
                (Phase::Other, Nanos(20)),
            ]
        );
    }

    #[test]
    fn what_was_seen_without_time_left_is_zero_and_what_was_not_is_absent() {
        let phases = part(Nanos(10), Nanos(20), &[span(Phase::Post, 5, 30), span(Phase::RateLimit, 12, 15)]);
        assert_eq!(phases.get(Phase::RateLimit), Some(Nanos(0)));
        assert_eq!(phases.get(Phase::Pickup), None);
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn the_phases_are_the_whole(
            start in 0..1_000u64,
            length in 0..1_000u64,
            spans in prop::collection::vec((0..6usize, 0..2_500u64, 0..2_500u64), 0..12),
        ) {
            let spans: Vec<Span> = spans.iter().map(|(phase, from, to)| span(Phase::ALL[*phase], *from, *to)).collect();
            let phases = part(Nanos(start), Nanos(start + length), &spans);
            prop_assert_eq!(phases.sum(), Nanos(length));
        }
    }
}
