//! Which part of a GPU's energy went into which request: pure.
//!
//! The basis: all that the GPU drew counts, what it draws when idle too, and at each moment the requests under way share it
//! alike. What it drew while none was is nobody's. Between two readings of its counter it is taken to draw evenly.

use std::collections::VecDeque;

use crate::units::Nanos;

/// Readings that are kept: at one a second, a quarter of an hour, more than any request lasts that anybody waits for.
const READINGS_MAX: usize = 900;

/// The latest readings of a GPU's energy counter.
#[derive(Clone, Debug, Default)]
pub struct EnergyMeter {
    readings: VecDeque<(Nanos, f64)>,
}

impl EnergyMeter {
    /// Takes in a reading, in joules since the driver was loaded. One that is less than the last begins anew.
    pub fn push(&mut self, time: Nanos, joules: f64) {
        if self.readings.back().is_some_and(|(last, before)| *last >= time || *before > joules) {
            self.readings.clear();
        }
        if self.readings.len() == READINGS_MAX {
            self.readings.pop_front();
        }
        self.readings.push_back((time, joules));
    }

    /// Forgets all: what was drawn in between is not known.
    pub fn clear(&mut self) {
        self.readings.clear();
    }

    /// The counter at a moment, if it lies between two readings.
    #[must_use]
    pub fn at(&self, time: Nanos) -> Option<f64> {
        let after = self.readings.partition_point(|(reading, _)| *reading < time);
        let (end, joules) = *self.readings.get(after)?;
        if end == time {
            return Some(joules);
        }
        let (start, before) = *self.readings.get(after.checked_sub(1)?)?;
        let part = time.since(start).seconds() / end.since(start).seconds();
        Some(before + part * (joules - before))
    }

    /// The share of each request, by its start and end, in joules; none where part of it was not measured. All requests that
    /// were under way within these must be among them.
    #[must_use]
    pub fn shares(&self, requests: &[(Nanos, Nanos)]) -> Vec<Option<f64>> {
        let mut borders: Vec<Nanos> = requests.iter().flat_map(|(start, end)| [*start, *end]).collect();
        borders.sort_unstable();
        borders.dedup();
        let mut shares = vec![Some(0.0); requests.len()];
        for span in borders.windows(2) {
            let [from, to] = *span else { continue };
            let within = |(start, end): &(Nanos, Nanos)| *start <= from && to <= *end;
            let under_way = requests.iter().filter(|request| within(request)).count();
            let drawn = self.at(from).zip(self.at(to)).map(|(from, to)| (to - from) / under_way as f64);
            for (share, _) in shares.iter_mut().zip(requests).filter(|(_, request)| within(request)) {
                *share = share.zip(drawn).map(|(share, drawn)| share + drawn);
            }
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: f64) -> Nanos {
        Nanos((seconds * 1e9) as u64)
    }

    /// 100 W for ten seconds, then 300 W for ten more.
    fn meter() -> EnergyMeter {
        let mut meter = EnergyMeter::default();
        for number in 0..=20_u32 {
            let seconds = f64::from(number);
            meter.push(second(seconds), 5_000.0 + 100.0 * seconds + 200.0 * (seconds - 10.0).max(0.0));
        }
        meter
    }

    fn shares(requests: &[(f64, f64)]) -> Vec<Option<f64>> {
        let requests: Vec<_> = requests.iter().map(|(start, end)| (second(*start), second(*end))).collect();
        let shares = meter().shares(&requests).into_iter();
        shares.map(|share| share.map(|joules| (joules * 1e3).round() / 1e3)).collect()
    }

    #[test]
    fn a_request_alone_has_all_that_was_drawn_meanwhile() {
        assert_eq!(shares(&[(2.0, 4.0)]), [Some(200.0)]);
        assert_eq!(shares(&[(2.25, 4.5)]), [Some(225.0)]);
        assert_eq!(shares(&[(9.0, 11.0)]), [Some(400.0)]);
    }

    #[test]
    fn those_that_overlap_share_alike_and_together_have_it_all() {
        // 1 alone from 2 to 4, both from 4 to 6, 2 alone from 6 to 7.
        assert_eq!(shares(&[(2.0, 6.0), (4.0, 7.0)]), [Some(300.0), Some(200.0)]);
        // The same three times.
        assert_eq!(shares(&[(2.0, 5.0); 3]), [Some(100.0); 3]);
        // With a gap that is nobody's.
        assert_eq!(shares(&[(1.0, 2.0), (5.0, 6.0)]), [Some(100.0); 2]);
        // One of no length has nothing.
        assert_eq!(shares(&[(3.0, 3.0), (2.0, 4.0)]), [Some(0.0), Some(200.0)]);
    }

    #[test]
    fn what_was_not_measured_is_not_told() {
        assert_eq!(shares(&[(19.0, 21.0), (18.0, 19.0)]), [None, Some(300.0)]);
        let mut meter = meter();
        meter.push(second(21.0), 10.0);
        assert_eq!(meter.at(second(15.0)), None, "the driver was loaded anew");
        assert_eq!(meter.at(second(21.0)), Some(10.0));
        meter.clear();
        assert_eq!(meter.at(second(21.0)), None);
    }
}
