//! When a GPU's memory will be used up, if it goes on as it does: pure.
//!
//! The slope is the median of the slopes between all pairs of points (Theil-Sen), over the last five minutes. A model that is
//! loaded, or a burst, moves few of them. Nothing is told of memory that is flat: unless three of four pairs rise, and by
//! more than a thousandth of the memory in the time looked at, there is no end to tell.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Nanos;

/// How far back the slope goes.
const WINDOW: Duration = Duration::from_secs(300);

/// The least time between two points: with it, their pairs are at most some two thousand.
const SPACING: Duration = Duration::from_secs(5);

/// The least time that is looked at before anything is told.
const SPAN_MIN: Duration = Duration::from_secs(25);

/// The part of all pairs that must rise.
const RISING: f64 = 0.75;

/// The part of the memory that must have been taken within the time looked at.
const GROWTH_MIN: f64 = 0.001;

/// Beyond this nothing is told: no slope goes on for so long.
const HORIZON: Duration = Duration::from_secs(7 * 24 * 3600);

/// What one GPU's memory did of late.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    points: VecDeque<(Nanos, u64)>,
    total: u64,
    seconds: Option<f64>,
    /// When `seconds` was worked out.
    told: Nanos,
}

impl Forecast {
    /// Takes in how much is used of how much, and tells in how many seconds nothing will be left; none while that is not in
    /// sight.
    pub fn push(&mut self, time: Nanos, used: u64, total: u64) -> Option<f64> {
        if self.total != total || self.points.back().is_some_and(|(last, _)| *last > time) {
            *self = Self { total, ..Self::default() };
        }
        let spaced = |last: Nanos| time.since(last).0 >= nanos(SPACING);
        if self.points.back().is_none_or(|(last, _)| spaced(*last)) {
            self.points.push_back((time, used));
            while self.points.front().is_some_and(|(first, _)| time.since(*first).0 > nanos(WINDOW)) {
                self.points.pop_front();
            }
            self.seconds = self.slope().map(|slope| total.saturating_sub(used) as f64 / slope);
            self.told = time;
        }
        // Between two points it goes on as it did.
        let left = self.seconds? - time.since(self.told).seconds();
        (left <= HORIZON.as_secs_f64()).then_some(left.max(0.0))
    }

    /// Bytes a second, if they rise.
    fn slope(&self) -> Option<f64> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let span = last.0.since(first.0);
        if span.0 < nanos(SPAN_MIN) {
            return None;
        }
        let mut slopes = Vec::with_capacity(self.points.len() * self.points.len() / 2);
        for (number, from) in self.points.iter().enumerate() {
            for to in self.points.range(number + 1..) {
                slopes.push((to.1 as f64 - from.1 as f64) / to.0.since(from.0).seconds());
            }
        }
        let rising = slopes.iter().filter(|slope| **slope > 0.0).count();
        let middle = slopes.len() / 2;
        let (_, median, _) = slopes.select_nth_unstable_by(middle, f64::total_cmp);
        let median = *median;
        let enough = median * span.seconds() >= self.total as f64 * GROWTH_MIN;
        (rising as f64 >= RISING * slopes.len() as f64 && enough && median > 0.0).then_some(median)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const TOTAL: u64 = 24 * GIB;

    /// What is told after each second of a course.
    fn run(seconds: u64, used: impl Fn(u64) -> u64) -> Vec<Option<f64>> {
        let mut forecast = Forecast::default();
        (0..seconds).map(|second| forecast.push(Nanos(1_000_000_000 * (second + 7)), used(second), TOTAL)).collect()
    }

    fn last(seconds: u64, used: impl Fn(u64) -> u64) -> Option<f64> {
        run(seconds, used).pop().flatten()
    }

    #[test]
    fn a_steady_growth_ends_when_it_must() {
        // 16 MiB a second from 2 GiB on: 22 GiB are left for 1408 s, of which 200 have passed.
        let told = run(201, |second| 2 * GIB + second * (16 << 20));
        assert_eq!(told[..25], [None; 25]);
        assert!((told[200].expect("it grows") - 1208.0).abs() < 0.01, "{:?}", told[200]);
        // Each second it is a second less, between points too.
        assert!((told[199].expect("it grows") - 1209.0).abs() < 0.01, "{:?}", told[199]);
    }

    #[test]
    fn noise_does_not_hide_a_growth() {
        let noise = |second: u64| (second * 2_654_435_761 % 64) << 20;
        let left = last(300, |second| 2 * GIB + second * (16 << 20) + noise(second)).expect("it grows");
        assert!((left - 1109.0).abs() < 60.0, "{left}");
    }

    #[test]
    fn flat_falling_and_loaded_memory_has_no_end() {
        assert_eq!(last(400, |_| 20 * GIB), None);
        assert_eq!(last(400, |second| 20 * GIB - second), None);
        // What goes up and down.
        assert_eq!(last(400, |second| 20 * GIB + (second % 20) * (10 << 20)), None);
        // A model that is loaded within ten seconds, two minutes ago.
        assert_eq!(last(150, |second| 2 * GIB + second.clamp(20, 30) * GIB / 2), None);
        // A byte a second is nothing.
        assert_eq!(last(400, |second| 20 * GIB + second), None);
    }

    #[test]
    fn what_is_full_is_exhausted_now_and_a_freed_one_is_not() {
        let full = run(700, |second| (second * (64 << 20)).min(TOTAL));
        assert_eq!(full[384], Some(0.0));
        assert_eq!(full[699], None, "it is flat again");
        let freed = run(900, |second| if second < 300 { second * (64 << 20) } else { GIB });
        assert!(freed[299].is_some());
        assert_eq!(freed[600], None);
    }

    #[test]
    fn another_size_or_a_clock_that_goes_back_begins_anew() {
        let mut forecast = Forecast::default();
        for second in 0..100 {
            forecast.push(Nanos(second * 1_000_000_000), second * GIB / 8, TOTAL);
        }
        assert!(forecast.push(Nanos(100_000_000_000), 13 * GIB, TOTAL).is_some());
        assert_eq!(forecast.push(Nanos(101_000_000_000), 13 * GIB, TOTAL / 2), None);
        assert_eq!(forecast.push(Nanos(1), 13 * GIB, TOTAL / 2), None);
    }
}
