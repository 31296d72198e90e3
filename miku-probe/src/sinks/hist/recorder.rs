//! Latencies in bounded memory: HDR histograms, and what is counted beside them.

use hdrhistogram::Histogram;

use crate::observations::{Exchange, Outcome};
use crate::units::{Nanos, Side};

/// Times differ by this many nanoseconds at least where they are shortest: at 1 µs, 0.4 %.
const RESOLUTION: u64 = 4;
/// The shortest time that is told from a shorter one.
const LOWEST: u64 = 1_000;
/// The longest time that is told from a longer one: a day.
const HIGHEST: u64 = 86_400_000_000_000;
/// Decimal digits kept of a time: a cell is at most 1/128 of its value wide.
const DIGITS: u8 = 2;

/// A distribution of times from 1 µs to 24 h. Shorter and longer ones count as these.
///
/// A time that comes out differs from the one that went in by less than 0.4 %, and the memory is 40 KiB whatever goes
/// in.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(RESOLUTION, HIGHEST, DIGITS)
                .expect("the bounds are constants that suit each other"),
        )
    }
}

impl Latencies {
    /// Takes one time in.
    pub fn record(&mut self, time: Nanos) {
        self.0.saturating_record(time.0.clamp(LOWEST, HIGHEST));
    }

    /// Takes the same time in, so many times.
    pub fn record_many(&mut self, time: Nanos, count: u64) {
        self.0.saturating_record_n(time.0.clamp(LOWEST, HIGHEST), count);
    }

    /// How many times went in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that the share `quantile` (0 to 1) of all does not exceed; `None` when there is none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Nanos> {
        (!self.0.is_empty()).then(|| self.middle(self.0.value_at_quantile(quantile)))
    }

    /// The times that are shown everywhere.
    #[must_use]
    pub fn times(&self) -> Times {
        Times {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.quantile(1.0),
        }
    }

    /// The middle of the cell that holds a time of `nanos`: all that comes out is one, so that a quantile and its cell
    /// are never parted by a bound between them.
    fn middle(&self, nanos: u64) -> Nanos {
        Nanos(self.0.median_equivalent(nanos))
    }

    /// The cells that are not empty, in order: the middle of each, and how many times are in it.
    pub fn cells(&self) -> impl Iterator<Item = (Nanos, u64)> + '_ {
        self.0
            .iter_recorded()
            .map(|cell| (Nanos(self.0.median_equivalent(cell.value_iterated_to())), cell.count_since_last_iteration()))
    }
}

/// A distribution of rates from 0.001 to 86 million a second, in the cells of one of times, with the same error: a rate of one
/// a second stands where a millisecond does.
#[derive(Clone, Debug, Default)]
pub struct Rates(Latencies);

impl Rates {
    /// A rate of one a second, as a time.
    const ONE: f64 = 1e6;

    /// Takes one rate in.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is out of range counts at its ends"
    )]
    pub fn record(&mut self, per_second: f64) {
        self.0.record(Nanos((per_second * Self::ONE) as u64));
    }

    /// How many rates went in.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// The rate that the share `share` (0 to 1) of all reaches; `None` when there is none.
    #[must_use]
    pub fn reached_by(&self, share: f64) -> Option<f64> {
        self.0.quantile(1.0 - share).map(Self::rate)
    }

    /// The same distribution as times, for what draws either.
    pub(super) const fn as_times(&self) -> &Latencies {
        &self.0
    }

    /// The rate that stands where `time` does.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "it has three digits")]
    pub(super) fn rate(time: Nanos) -> f64 {
        time.0 as f64 / Self::ONE
    }
}

/// The times that a distribution is told by; absent when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Half take no longer.
    pub p50: Option<Nanos>,
    /// 90 % take no longer.
    pub p90: Option<Nanos>,
    /// 99 % take no longer.
    pub p99: Option<Nanos>,
    /// 99.9 % take no longer.
    pub p999: Option<Nanos>,
    /// The longest.
    pub max: Option<Nanos>,
}

/// What was seen in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Durations of complete exchanges, from the request's first byte to the answer's last.
    pub duration: Latencies,
    /// Times to the first byte of the answer, of complete exchanges whose first byte was seen.
    pub first_byte: Latencies,
    /// What did not go well.
    pub failures: Failures,
    /// People who waited for a reply in vain.
    pub unanswered: u64,
}

/// How many exchanges did not go well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Complete exchanges whose status OpenTelemetry calls an error: 5xx at a server, 4xx and 5xx at a client.
    pub errors: u64,
    /// Exchanges that were cut short. They have no duration to speak of.
    pub aborted: u64,
    /// Exchanges of which too much was not seen to know how they ended.
    pub unknown: u64,
}

impl Failures {
    /// Takes one exchange in.
    pub fn record(&mut self, exchange: &Exchange) {
        match exchange.outcome {
            Outcome::Complete => {
                let least = match exchange.side {
                    Side::Server => 500,
                    Side::Client => 400,
                };
                self.errors += u64::from(exchange.status.is_some_and(|status| status >= least));
            }
            Outcome::Aborted(_) => self.aborted += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }
}

impl Window {
    /// Takes one exchange in.
    pub fn record(&mut self, exchange: &Exchange) {
        self.failures.record(exchange);
        if exchange.outcome == Outcome::Complete {
            self.duration.record(exchange.duration);
            if let Some(first_byte) = exchange.first_byte {
                self.first_byte.record(first_byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The stated contract is 3 %; what the digits give is less.
    const ERROR: f64 = 0.004;

    fn off(seen: Nanos, truth: u64) -> f64 {
        (seen.seconds() - Nanos(truth).seconds()).abs() / Nanos(truth).seconds()
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn quantiles_are_those_of_the_sorted_times(
            mut times in prop::collection::vec((3.0..13.9f64).prop_map(|power| 10f64.powf(power) as u64), 1..300),
        ) {
            let mut latencies = Latencies::default();
            for time in &times {
                latencies.record(Nanos(*time));
            }
            times.sort_unstable();
            for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
                let rank = ((quantile * times.len() as f64).ceil() as usize).max(1);
                let seen = latencies.quantile(quantile).expect("there are times");
                prop_assert!(off(seen, times[rank - 1]) < ERROR, "p{quantile}: {seen:?} for {}", times[rank - 1]);
            }
            let shown = latencies.times();
            prop_assert_eq!((shown.p50, shown.max), (latencies.quantile(0.5), latencies.quantile(1.0)));
            let cells: u64 = latencies.cells().map(|(_, count)| count).sum();
            prop_assert_eq!(cells, times.len() as u64);
        }
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn one_time_comes_out_as_it_went_in(power in 3.0..13.9f64) {
            let time = 10f64.powf(power) as u64;
            let mut latencies = Latencies::default();
            latencies.record(Nanos(time));
            prop_assert!(off(latencies.quantile(0.5).expect("one time"), time) < ERROR);
        }
    }

    #[test]
    fn nothing_recorded_is_no_number() {
        let latencies = Latencies::default();
        assert_eq!((latencies.count(), latencies.times()), (0, Times::default()));
        assert_eq!(latencies.cells().count(), 0);
    }

    #[test]
    fn times_outside_the_range_count_at_its_ends() {
        let mut latencies = Latencies::default();
        latencies.record(Nanos(0));
        latencies.record(Nanos(u64::MAX));
        assert_eq!(latencies.count(), 2);
        assert!(off(latencies.quantile(0.0).expect("two times"), LOWEST) < ERROR);
        assert!(off(latencies.times().max.expect("two times"), HIGHEST) < ERROR);
    }

    #[test]
    fn memory_is_what_is_stated() {
        assert!(Latencies::default().0.distinct_values() * 8 <= 40 * 1024);
    }
}
