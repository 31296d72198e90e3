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
}
