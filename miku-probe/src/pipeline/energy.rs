//! Which part of the GPUs' energy went into which request: pure.
//!
//! The basis: all that the GPUs drew counts, what they draw when idle too, and at each moment the requests under way share it
//! alike. What was drawn while none was is nobody's. Between two readings of the counter the draw is taken to be even.
//!
//! Since all share alike, one clock is enough: it counts the joules that a request had which was always under way, and a
//! request's share is by how much it advanced from its start to its end.

use std::collections::VecDeque;

use super::changes::Changes;
use crate::units::Nanos;

/// Points of the clock that are kept. A request that began before the first one is not told of.
const POINTS_MAX: usize = 16_384;

/// Requests that have ended and wait for a reading.
const ENDED_MAX: usize = 4_096;

/// From when to when one or several requests were under way.
pub(super) type Spans = Vec<(Nanos, Nanos)>;

/// Shares out the energy. `K` is what requests are counted under.
#[derive(Clone, Debug)]
pub(super) struct EnergyShares<K> {
    /// The latest reading. It is taken in when the next one comes: by then all is known that happened before it.
    next: Option<(Nanos, f64)>,
    /// The reading up to which the clock goes.
    last: Option<(Nanos, f64)>,
    /// Beginnings and ends after that.
    changes: Changes<i8>,
    under_way: u32,
    clock: VecDeque<(Nanos, f64)>,
    ended: Vec<(K, Spans)>,
}

impl<K> Default for EnergyShares<K> {
    fn default() -> Self {
        Self {
            next: None,
            last: None,
            changes: Changes::default(),
            under_way: 0,
            clock: VecDeque::new(),
            ended: Vec::new(),
        }
    }
}

impl<K> EnergyShares<K> {
    /// A request began (`+1`) or ended (`-1`).
    pub(super) fn in_flight(&mut self, time: Nanos, change: i8) {
        if self.changes.push(time, change) {
            self.forget();
        }
    }

    /// Requests that were under way are to be told of, together.
    pub(super) fn ended(&mut self, key: K, spans: Spans) {
        if self.ended.len() < ENDED_MAX {
            self.ended.push((key, spans));
        }
    }

    /// Takes in a reading, in joules since whenever, and tells the shares that are known by now, in joules. Without a reading,
    /// what was drawn in between is not known, nor is the share of any request that was under way.
    pub(super) fn reading(&mut self, time: Nanos, joules: Option<f64>) -> Vec<(K, f64)> {
        let Some(joules) = joules else {
            self.forget();
            return Vec::new();
        };
        let Some((to, drawn)) = self.next.replace((time, joules)) else { return Vec::new() };
        self.advance(to, drawn);
        self.told(to)
    }

    /// Of what was drawn so far nothing is known any more, only how many are under way.
    fn forget(&mut self) {
        (self.next, self.last) = (None, None);
        self.clock.clear();
        self.ended.clear();
        self.changes.take().for_each(|change| self.change(change));
    }

    /// Brings the clock to a reading.
    fn advance(&mut self, to: Nanos, drawn: f64) {
        let changes = self.changes.take_until(to);
        // A counter that fell began anew.
        let from = self.last.filter(|(time, before)| *time < to && *before <= drawn);
        let Some((mut at, before)) = from else {
            self.clock.clear();
            self.clock.push_back((to, 0.0));
            changes.into_iter().for_each(|(_, change)| self.change(change));
            self.last = Some((to, drawn));
            return;
        };
        let watts = (drawn - before) / to.since(at).seconds();
        let mut clock = self.clock.back().map_or(0.0, |(_, joules)| *joules);
        for (time, change) in changes.into_iter().chain([(to, 0)]) {
            if self.under_way > 0 {
                clock += watts * time.since(at).seconds() / f64::from(self.under_way);
            }
            at = at.max(time);
            self.clock.push_back((at, clock));
            self.change(change);
        }
        while self.clock.len() > POINTS_MAX {
            self.clock.pop_front();
        }
        self.last = Some((to, drawn));
    }

    /// The end of one whose beginning was not seen is nobody's.
    fn change(&mut self, change: i8) {
        self.under_way = self.under_way.saturating_add_signed(i32::from(change));
    }

    /// The shares of those that ended by then.
    fn told(&mut self, by: Nanos) -> Vec<(K, f64)> {
        let is_due = |(_, spans): &(K, Spans)| spans.iter().all(|(_, end)| *end <= by);
        let (due, later): (Vec<_>, Vec<_>) = self.ended.drain(..).partition(is_due);
        self.ended = later;
        let share = |(start, end): &(Nanos, Nanos)| Some(self.at(*end)? - self.at(*start)?);
        due.into_iter().filter_map(|(key, spans)| Some((key, spans.iter().map(share).sum::<Option<f64>>()?))).collect()
    }

    /// What the clock shows, if it went then.
    fn at(&self, time: Nanos) -> Option<f64> {
        let after = self.clock.partition_point(|(point, _)| *point < time);
        let (end, joules) = *self.clock.get(after)?;
        if end == time {
            return Some(joules);
        }
        let (start, before) = *self.clock.get(after.checked_sub(1)?)?;
        Some(before + (joules - before) * time.since(start).seconds() / end.since(start).seconds())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(seconds: f64) -> Nanos {
        Nanos((seconds * 1e9).round() as u64 + 1)
    }

    /// 100 W for ten seconds, then 300 W.
    fn counter(seconds: f64) -> f64 {
        5_000.0 + 100.0 * seconds + 200.0 * (seconds - 10.0).max(0.0)
    }

    /// The shares of requests, by their number, with a reading a second until the twentieth.
    fn shares(requests: &[(f64, f64)]) -> Vec<Option<f64>> {
        let mut energy = EnergyShares::default();
        let mut shares = vec![None; requests.len()];
        for number in 0..=21_u32 {
            let now = f64::from(number);
            for (number, (start, end)) in requests.iter().enumerate() {
                let within = |time: &f64| now - 1.0 <= *time && *time < now;
                if within(start) {
                    energy.in_flight(second(*start), 1);
                }
                if within(end) {
                    energy.in_flight(second(*end), -1);
                    energy.ended(number, vec![(second(*start), second(*end))]);
                }
            }
            for (number, share) in energy.reading(second(now), Some(counter(now))) {
                assert_eq!(shares[number].replace((share * 1e3).round() / 1e3), None, "told twice");
            }
        }
        shares
    }

    #[test]
    fn a_request_alone_has_all_that_was_drawn_meanwhile() {
        assert_eq!(shares(&[(2.0, 4.0)]), [Some(200.0)]);
        assert_eq!(shares(&[(2.25, 4.5)]), [Some(225.0)]);
        assert_eq!(shares(&[(9.0, 11.0)]), [Some(400.0)]);
    }

    #[test]
    fn those_that_overlap_share_alike() {
        // The first alone from 2 to 4, both from 4 to 6, the second alone from 6 to 7.
        assert_eq!(shares(&[(2.0, 6.0), (4.0, 7.0)]), [Some(300.0), Some(200.0)]);
        assert_eq!(shares(&[(2.0, 5.0); 3]), [Some(100.0); 3]);
        // With a gap that is nobody's.
        assert_eq!(shares(&[(1.0, 2.0), (5.0, 6.0)]), [Some(100.0); 2]);
        // Beside one that has not ended.
        assert_eq!(shares(&[(2.0, 3.0), (1.0, 90.0)]), [Some(50.0), None]);
    }

    #[test]
    fn of_a_part_of_a_request_it_is_that_part() {
        let mut energy = EnergyShares::default();
        energy.in_flight(second(0.5), 1);
        energy.ended((), vec![(second(1.25), second(1.75)), (second(3.0), second(3.25))]);
        let mut told = Vec::new();
        for now in [0.0, 2.0, 4.0, 6.0, 8.0] {
            told.extend(energy.reading(second(now), Some(counter(now))));
        }
        let [((), joules)] = told[..] else { panic!("{told:?}") };
        assert!((joules - 75.0).abs() < 1e-3, "{joules}");
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        let mut energy = EnergyShares::default();
        let mut told = Vec::new();
        for (number, joules) in [Some(10.0), Some(20.0), None, Some(40.0), Some(50.0), Some(1.0), Some(2.0), Some(3.0)]
            .into_iter()
            .enumerate()
        {
            let now = second(number as f64);
            energy.in_flight(now, 1);
            energy.in_flight(Nanos(now.0 + 500_000_000), -1);
            energy.ended(number, vec![(now, Nanos(now.0 + 500_000_000))]);
            told.extend(energy.reading(now, joules));
        }
        // Nothing of what ran across a missing reading, or across a counter that began anew.
        let told: Vec<_> = told.into_iter().map(|(number, joules)| (number, joules.round())).collect();
        assert_eq!(told, [(3, 5.0), (5, 1.0)].map(|(number, joules): (usize, f64)| (number, joules.round())));
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        /// While at least one is under way, all shares together are all that was drawn; and none is below nothing.
        #[test]
        fn nothing_is_won_or_lost(spans in prop::collection::vec((2.0..17.8_f64, 0.1..1.9_f64), 1..40)) {
            let mut requests: Vec<(f64, f64)> = spans.into_iter().map(|(start, length)| (start, start + length)).collect();
            requests.push((1.5, 19.75));
            let shares = shares(&requests);
            let sum: f64 = shares.iter().map(|share| share.expect("all of it was measured")).sum();
            prop_assert!((sum - (counter(19.75) - counter(1.5))).abs() < 0.05, "{sum}");
            prop_assert!(shares.iter().flatten().all(|share| *share >= 0.0));
        }
    }
}
