//! How much of a measurement is the machine's own noise, and what to make of several.

use std::fs;

use anyhow::{Context, Result};

/// Above this share of stolen time a measurement says more about the host than about what was measured.
pub const STEAL_LIMIT: f64 = 0.05;

/// The processors' time so far, as `/proc/stat` tells it.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorTime {
    total: u64,
    stolen: u64,
}

impl ProcessorTime {
    /// Of now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read or has no line of all processors.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line of all processors")
    }

    fn parse(text: &str) -> Option<Self> {
        const STEAL: usize = 7;
        // Guests' time, which follows, is part of user time already.
        const FIELDS: usize = 8;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(FIELDS).map_while(|field| field.parse().ok()).collect();
        Some(Self { total: ticks.iter().sum(), stolen: *ticks.get(STEAL)? })
    }

    /// The share of time since then that the host gave to others.
    ///
    /// # Errors
    /// As [`ProcessorTime::now`].
    pub fn steal_since(self) -> Result<f64> {
        Ok(self.steal_until(Self::now()?))
    }

    #[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark")]
    fn steal_until(self, end: Self) -> f64 {
        let total = end.total.saturating_sub(self.total).max(1);
        end.stolen.saturating_sub(self.stolen) as f64 / total as f64
    }
}

/// The middle one of `values`, or the mean of the middle two; none when there are none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The quarter points of `values`: between them lies half of all; none when there are fewer than four.
#[must_use]
pub fn quartiles(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.len() >= 4).then(|| (sorted[sorted.len() / 4], sorted[sorted.len() - 1 - sorted.len() / 4]))
}

/// How one thing compares with another, from pairs of measurements: the mean of their ratios, and how sure it is.
///
/// The mean is the geometric one without the outer tenths, which outliers do not move; the interval is the one of 95 %
/// that belongs to it, by the winsorized deviation and Student's distribution (Tukey and McLaughlin, 1963).
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Logarithm of the mean.
    log: f64,
    /// Half the width of the interval around it.
    error: f64,
}

impl Ratio {
    /// Of the ratios of pairs; none when there are fewer than ten, or one is no positive number.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a count of pairs")]
    pub fn of(ratios: &[f64]) -> Option<Self> {
        const FEWEST: usize = 10;
        if ratios.len() < FEWEST || !ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0) {
            return None;
        }
        let mut logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        logs.sort_by(f64::total_cmp);
        let cut = logs.len() / 10;
        let inner = &logs[cut..logs.len() - cut];
        let (all, kept) = (logs.len() as f64, inner.len() as f64);
        let log = inner.iter().sum::<f64>() / kept;
        let (least, most) = (inner[0], inner[inner.len() - 1]);
        let winsorized: Vec<f64> = logs.iter().map(|log| log.clamp(least, most)).collect();
        let middle = winsorized.iter().sum::<f64>() / all;
        let variance = winsorized.iter().map(|log| (log - middle).powi(2)).sum::<f64>() / (all - 1.0);
        // Student's quantile for 97.5 %, right to a hundredth from eight degrees of freedom on.
        let freedom = kept - 1.0;
        let student = 1.96 + 2.4 / freedom + 2.6 / freedom.powi(2);
        Some(Self { log, error: student * variance.sqrt() / (kept / all * all.sqrt()) })
    }

    /// How `a` compares with `c`, when this is how `a` compares with `b` and `next` how `b` compares with `c`.
    #[must_use]
    pub fn times(self, next: Self) -> Self {
        Self { log: self.log + next.log, error: self.error.hypot(next.error) }
    }

    /// How `a` compares with `c`, when this is how `a` compares with `b` and `other` how `c` compares with `b`.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self { log: self.log - other.log, error: self.error.hypot(other.error) }
    }

    /// The mean.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.log.exp()
    }

    /// The ends of the interval.
    #[must_use]
    pub fn interval(self) -> (f64, f64) {
        ((self.log - self.error).exp(), (self.log + self.error).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_a_share_of_all_time() {
        let before = ProcessorTime::parse("cpu  100 0 50 800 0 0 0 50 7 7\ncpu0 1\n").expect("a good line");
        let after = ProcessorTime::parse("cpu  150 0 50 840 0 0 0 60 9 9\n").expect("a good line");
        assert!((before.steal_until(after) - 0.1).abs() < 1e-12);
        assert!(ProcessorTime::parse("cpu0 1 2\n").is_none());
        assert!(ProcessorTime::parse("cpu  1 2 3\n").is_none(), "no column of stolen time");
    }

    #[test]
    fn medians_and_quartiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(quartiles(&[1.0, 2.0, 3.0]), None);
        assert_eq!(quartiles(&[5.0, 1.0, 2.0, 3.0, 4.0]), Some((2.0, 4.0)));
    }

    /// Ratios around `centre`, spread evenly by a tenth to both sides.
    fn spread(centre: f64) -> Vec<f64> {
        (-50..=50).map(|place| centre * (f64::from(place) * 0.002).exp()).collect()
    }

    #[test]
    fn ratios_have_a_mean_and_an_interval() {
        let ratio = Ratio::of(&spread(0.97)).expect("there are enough");
        assert!((ratio.mean() - 0.97).abs() < 1e-9);
        // Worked out apart: 10 cut from each end of 101, the winsorized deviation 0.05524, Student's quantile 1.990.
        let (low, high) = ratio.interval();
        assert!((low - 0.97 * (-0.013_64_f64).exp()).abs() < 1e-4, "{low}");
        assert!((high - 0.97 * 0.013_64_f64.exp()).abs() < 1e-4, "{high}");
        assert!(Ratio::of(&[1.0; 9]).is_none(), "too few");
        assert!(Ratio::of(&[&[1.0; 20][..], &[0.0]].concat()).is_none(), "nothing was done in a slice");
    }

    #[test]
    fn outliers_do_not_move_a_ratio() {
        let mut ratios = spread(1.0);
        ratios.extend([50.0, 0.001, 80.0]);
        assert!((Ratio::of(&ratios).expect("there are enough").mean() - 1.0).abs() < 2e-3);
    }

    #[test]
    fn ratios_are_chained() {
        let [first, second] = [0.9, 0.8].map(|centre| Ratio::of(&spread(centre)).expect("there are enough"));
        assert!((first.times(second).mean() - 0.72).abs() < 1e-9);
        let (low, high) = first.over(second).interval();
        assert!((first.over(second).mean() - 1.125).abs() < 1e-9);
        let (alone, _) = first.interval();
        assert!((1.125 / low).ln() > (0.9 / alone).ln() * 1.4 && high > 1.125, "uncertainties add up");
    }
}
