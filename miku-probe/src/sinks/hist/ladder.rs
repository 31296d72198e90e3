//! Ladders of bucket bounds: readable numbers, about evenly spread on a logarithmic scale.

use super::recorder::Latencies;
use crate::units::Nanos;

/// Steps of one decade, in hundredths, from coarse to fine. Most are the preferred numbers of ISO 3 (R5, R10, R20, R40,
/// rounded), whose steps look the same on a logarithmic scale: a bar is then taller because more happened there, not
/// because its bucket is wider.
const DECADES: [&[u64]; 8] = [
    &[100],
    &[100, 300],
    &[100, 200, 500],
    &[100, 160, 250, 400, 630],
    &[100, 150, 200, 300, 500, 700],
    &[100, 125, 160, 200, 250, 320, 400, 500, 630, 800],
    &[100, 112, 125, 140, 160, 180, 200, 225, 250, 280, 320, 360, 400, 450, 500, 560, 630, 710, 800, 900],
    &[
        100, 106, 112, 118, 125, 132, 140, 150, 160, 170, 180, 190, 200, 212, 225, 236, 250, 265, 280, 300, 320, 335,
        360, 375, 400, 425, 450, 475, 500, 530, 560, 600, 630, 670, 710, 750, 800, 850, 900, 950,
    ],
];

/// The lowest bound, in nanoseconds: a power of ten.
const LOWEST: u64 = 1_000;
/// Decades from the lowest bound to above the longest time that is recorded.
const SPAN: u32 = 11;

/// A run of neighbouring buckets. Bucket `i` holds what is above bound `i - 1` and not above bound `i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    bounds: Vec<Nanos>,
}

impl Ladder {
    /// The finest ladder that holds all of `latencies` in at most `rows` buckets (at least one), without empty buckets at
    /// its ends; `None` when there is nothing to hold.
    #[must_use]
    pub fn fit(latencies: &Latencies, rows: usize) -> Option<Self> {
        let lowest = latencies.cells().next()?.0;
        let highest = latencies.cells().last()?.0;
        let fine = DECADES.iter().rev().map(|steps| decades(steps));
        let coarse = (2..=11).map(|decades| (0..SPAN).step_by(decades).chain([SPAN]).map(power).collect::<Vec<_>>());
        let one = std::iter::once(vec![highest]);
        fine.chain(coarse).chain(one).find_map(|bounds| {
            let first = bounds.partition_point(|bound| *bound < lowest);
            let last = bounds.partition_point(|bound| *bound < highest);
            (last - first < rows.max(1)).then(|| Self { bounds: bounds[first..=last].to_vec() })
        })
    }

    /// The buckets for machines: in every decade from 1 µs, linear steps of 0.05 from 1 to 2, of 0.1 from 2 to 5 and of
    /// 0.25 from 5 to 10. The middle of a bucket is within 3 % of all that is in it, the recorder's error included.
    #[must_use]
    pub fn log_linear() -> Self {
        let steps: Vec<u64> =
            (100..200).step_by(5).chain((200..500).step_by(10)).chain((500..1000).step_by(25)).collect();
        Self { bounds: decades(&steps) }
    }

    /// The upper bounds, in order; each belongs to its bucket.
    #[must_use]
    pub fn bounds(&self) -> &[Nanos] {
        &self.bounds
    }

    /// The bucket that holds `time`; what is above the last bound is in the last bucket.
    #[must_use]
    pub fn index(&self, time: Nanos) -> usize {
        self.bounds.partition_point(|bound| *bound < time).min(self.bounds.len() - 1)
    }

    /// How many of `latencies` are in each bucket.
    #[must_use]
    pub fn counts(&self, latencies: &Latencies) -> Vec<u64> {
        let mut counts = vec![0; self.bounds.len()];
        for (time, count) in latencies.cells() {
            counts[self.index(time)] += count;
        }
        counts
    }
}

/// The lowest bound times ten to the `exponent`.
const fn power(exponent: u32) -> Nanos {
    Nanos(LOWEST * 10u64.pow(exponent))
}

/// The bounds that `steps` (hundredths of a decade's start) make in every decade.
fn decades(steps: &[u64]) -> Vec<Nanos> {
    let bounds = (0..SPAN).flat_map(|decade| steps.iter().map(move |step| Nanos(power(decade).0 / 100 * step)));
    bounds.chain([power(SPAN)]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn latencies(times: &[u64]) -> Latencies {
        let mut latencies = Latencies::default();
        for time in times {
            latencies.record(Nanos(*time));
        }
        latencies
    }

    fn times() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((3.0..13.9f64).prop_map(|power| 10f64.powf(power) as u64), 1..100)
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn a_fitted_ladder_holds_everything_and_no_empty_ends(times in times(), rows in 1usize..60) {
            let latencies = latencies(&times);
            let ladder = Ladder::fit(&latencies, rows).expect("there are times");
            let counts = ladder.counts(&latencies);
            prop_assert!(counts.len() <= rows);
            prop_assert_eq!(counts.iter().sum::<u64>(), times.len() as u64);
            prop_assert!(counts.first() > Some(&0) && counts.last() > Some(&0), "{:?}", counts);
            prop_assert!(ladder.bounds().is_sorted_by(|one, next| one < next));
        }

        #[test]
        fn the_middle_of_a_machine_bucket_is_within_three_percent(power in 3.01..13.9f64) {
            let time = 10f64.powf(power) as u64;
            let ladder = Ladder::log_linear();
            let bucket = ladder.counts(&latencies(&[time])).iter().position(|count| *count == 1).expect("one time");
            let below = bucket.checked_sub(1).expect("the first bucket is for what is not above 1 µs");
            let middle = ladder.bounds()[below].seconds().midpoint(ladder.bounds()[bucket].seconds());
            let truth = Nanos(time).seconds();
            prop_assert!((middle - truth).abs() / truth <= 0.03, "{time} ns is taken for {middle} s");
        }
    }

    #[test]
    fn more_rows_give_finer_steps() {
        let latencies = latencies(&[1_100_000, 90_000_000]);
        let rows = |height| Ladder::fit(&latencies, height).expect("two times").bounds().len();
        assert_eq!([2, 4, 7, 10, 20, 40, 79].map(rows), [2, 4, 6, 10, 20, 39, 77]);
    }

    #[test]
    fn one_row_is_enough_for_anything() {
        let latencies = latencies(&[1_000, 80_000_000_000_000]);
        assert_eq!(Ladder::fit(&latencies, 1).expect("two times").bounds().len(), 1);
        assert_eq!(Ladder::fit(&latencies, 0).expect("two times").bounds().len(), 1);
    }

    #[test]
    fn nothing_has_no_ladder() {
        assert_eq!(Ladder::fit(&Latencies::default(), 10), None);
    }
}
