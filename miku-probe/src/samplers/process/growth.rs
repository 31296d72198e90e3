//! Whether a process's memory grows for good, and how fast: by a robust estimator that takes no garbage for a leak.
//!
//! Memory that is collected goes up and down like the teeth of a saw. What leaks shows in the troughs, so these are what is
//! looked at: time goes into bins of a minute, each bin keeps its least and its greatest value, and each *point* is the least
//! of the bins from one on for a *guard*, which is longer than any tooth seen so far. The slope is the median of the slopes
//! between all pairs of points of the last hour (Theil and Sen), which a third of the points cannot move.
//!
//! It is growth if nearly all pairs rise, if the later half rises too, and if the rise stands out of what the memory does
//! within a guard; the shorter the time that is looked at, the more. A leak that nothing hides is known half an hour after the
//! process began. A first tooth of more than that cannot be told from a leak before it ends.
//!
//! Pure: times and bytes go in, a [`Growth`] comes out. What is kept is bounded by [`BINS_MAX`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::observations::Growth;
use crate::units::Nanos;

/// The time that one bin stands for.
const BIN: Duration = Duration::from_secs(60);
const BINS_AN_HOUR: f64 = 60.0;

/// How many bins are kept: six hours.
pub(super) const BINS_MAX: usize = 360;

/// How long a process begins: what it loads then is no leak.
const WARM_UP: Duration = Duration::from_secs(3 * 60);

/// The shortest guard, and the longest, in bins.
const GUARD: usize = 10;
const GUARD_MAX: usize = 150;

/// For how many bins at most what may be one more tooth is waited for.
const OPEN_MAX: usize = 60;

/// By how much it must outgrow the last tooth to be no further one.
const OUTGROWN: f64 = 1.2;

/// How many points are looked at, and how much of what happens within a guard the rise must be.
const SPANS: [(usize, f64); 3] = [(60, 0.4), (30, 0.7), (18, 1.0)];
/// The fewest points of which anything is told: with the shortest guard they take 27 minutes, so that a tooth of 25 that begins
/// in the first of them has ended, and a minute has passed since.
const POINTS_MIN: usize = 18;

/// Less than this is no growth, whatever its shape: bytes an hour, and bytes in all.
const FLOOR: f64 = 1_048_576.0;

/// The share of pairs that must rise for growth to be seen, and for it to go on.
const RISING: f64 = 0.8;
const STILL_RISING: f64 = 0.6;

/// A pause of more bins than this makes everything begin anew.
const PAUSE_MAX: u64 = 10;

/// One minute.
#[derive(Clone, Copy, Debug)]
struct Bin {
    low: u64,
    high: u64,
    /// How many bins ago it was as low before, or how many bins there were if it never was; and how far it fell since.
    tooth: usize,
    height: u64,
    /// The greatest value since then.
    peak: u64,
}

/// What is known of one process's memory.
#[derive(Debug)]
pub(super) struct Estimator {
    /// When the first bin begins.
    origin: Nanos,
    /// The number of `bins[0]`.
    first: u64,
    bins: VecDeque<Bin>,
    /// The bin that is not over: its number, its least and its greatest value.
    current: Option<(u64, u64, u64)>,
    growth: Option<Growth>,
}

impl Estimator {
    /// For a process that began at `start` and is first looked at `now`.
    pub(super) fn new(start: Nanos, now: Nanos) -> Self {
        let origin = (start + WARM_UP.into()).max(now);
        Self { origin, first: 0, bins: VecDeque::new(), current: None, growth: None }
    }

    /// Takes in how many bytes are resident at `time`, which is later than before.
    pub(super) fn add(&mut self, time: Nanos, resident: u64) {
        if time < self.origin {
            return;
        }
        let number = time.since(self.origin).0 / Nanos::from(BIN).0;
        match &mut self.current {
            None => self.current = Some((number, resident, resident)),
            Some((current, low, high)) if *current == number => {
                *low = (*low).min(resident);
                *high = (*high).max(resident);
            }
            Some((current, low, high)) => {
                let (over, low, high) = (*current, *low, *high);
                if number - over > PAUSE_MAX {
                    *self = Self::new(Nanos(0), time);
                    self.current = Some((0, resident, resident));
                    return;
                }
                // Nobody looked in the bins between.
                for _ in over..number {
                    self.push(low, high);
                }
                self.current = Some((number, resident, resident));
                self.judge();
            }
        }
    }

    /// What becomes of the memory; `None` until it is known.
    pub(super) fn growth(&self) -> Option<Growth> {
        self.growth
    }

    fn push(&mut self, low: u64, high: u64) {
        let mut between = low;
        let mut peak = high;
        let mut tooth = None;
        for (back, bin) in self.bins.iter().rev().enumerate() {
            if bin.low <= low {
                tooth = Some(back + 1);
                break;
            }
            between = between.max(bin.low);
            peak = peak.max(bin.high);
        }
        // As low as never before: what shrinks slowly is no tooth.
        let last = self.bins.back().map_or(low, |bin| bin.low);
        let height = if tooth.is_some() { between } else { last } - low;
        let tooth = tooth.unwrap_or(self.bins.len());
        if self.bins.len() == BINS_MAX {
            self.bins.pop_front();
            self.first += 1;
        }
        self.bins.push_back(Bin { low, high, tooth, height, peak });
    }

    fn judge(&mut self) {
        let guard = self.guard();
        let bins = self.bins.make_contiguous();
        let windows: Vec<&[Bin]> = bins.windows(guard).collect();
        let look = |points: usize| Look::at(&windows[windows.len() - points..], guard);
        let longest = windows.len().min(SPANS[0].0);
        if longest < POINTS_MIN {
            self.growth = None;
            return;
        }
        let whole = look(longest);
        let shorter = SPANS.into_iter().filter(|(points, _)| *points <= longest && *points != whole.points);
        let looks = SPANS.into_iter().filter(|(points, _)| *points == whole.points).map(|(_, share)| (whole, share));
        let looks = looks.chain(shorter.map(|(points, share)| (look(points), share)));
        let seen = looks.into_iter().find(|(look, share)| look.grows(*share)).map(|(look, _)| look);
        let before = self.growth.and_then(|growth| growth.since);
        let goes_on = before.is_some() && whole.slope * BINS_AN_HOUR > FLOOR / 2.0 && whole.rising >= STILL_RISING;
        let since = before.filter(|_| goes_on || seen.is_some()).or_else(|| {
            seen?;
            let onset = self.first + (windows.len() - longest + whole.onset) as u64;
            Some(self.origin + Nanos(onset * Nanos::from(BIN).0))
        });
        let slope = seen.map_or(whole.slope, |look| look.slope);
        self.growth = Some(Growth { bytes_per_hour: slope * BINS_AN_HOUR, since });
    }

    /// Longer than the longest tooth that stands out of the noise.
    fn guard(&self) -> usize {
        let steps = self.bins.iter().zip(self.bins.iter().skip(1));
        let mut steps: Vec<f64> = steps.map(|(one, next)| float(one.low.abs_diff(next.low))).collect();
        let least = (6.0 * median(&mut steps)).max(FLOOR);
        let is_tooth = |bin: &Bin| float(bin.height) > least;
        let longest = self.bins.iter().filter(|bin| is_tooth(bin)).map(|bin| bin.tooth).max().unwrap_or(0);
        let open = self.bins.iter().rev().enumerate().find(|(_, bin)| is_tooth(bin));
        let open = open.filter(|(back, bin)| {
            let now = self.bins.back().map_or(0, |bin| bin.low);
            *back <= OPEN_MAX && float(now.saturating_sub(bin.low)) < OUTGROWN * float(bin.peak - bin.low)
        });
        let longest = longest.max(open.map_or(0, |(back, _)| back));
        (longest + longest / 4 + 1).clamp(GUARD, GUARD_MAX)
    }
}

/// One look at some points.
#[derive(Clone, Copy)]
struct Look {
    points: usize,
    /// Bytes a bin.
    slope: f64,
    /// The same of the later half.
    late_slope: f64,
    /// The share of pairs that rise.
    rising: f64,
    /// From the first point to the last, by the slope.
    rise: f64,
    /// How far the memory goes up and down within a guard, without what the slope makes of it.
    spread: f64,
    /// The last point at which it had not begun to rise.
    onset: usize,
}

impl Look {
    fn at(windows: &[&[Bin]], guard: usize) -> Self {
        let points: Vec<f64> =
            windows.iter().map(|bins| float(bins.iter().map(|bin| bin.low).min().unwrap_or_default())).collect();
        let (slope, rising) = theil_sen(&points);
        let (late_slope, _) = theil_sen(&points[points.len() / 2..]);
        let high = |bins: &[Bin]| float(bins.iter().map(|bin| bin.high).max().unwrap_or_default());
        let mut spreads: Vec<f64> = windows.iter().zip(&points).map(|(bins, low)| high(bins) - low).collect();
        let spread = (median(&mut spreads) - slope.abs() * float(guard as u64)).max(0.0);
        let base = points.iter().copied().fold(f64::INFINITY, f64::min);
        let last = points.last().copied().unwrap_or(base);
        let flat = base + 0.05 * (last - base);
        let onset = points.iter().rposition(|point| *point <= flat).unwrap_or(0);
        let rise = slope * float(points.len() as u64 - 1);
        Self { points: points.len(), slope, late_slope, rising, rise, spread, onset }
    }

    fn grows(&self, share: f64) -> bool {
        self.slope * BINS_AN_HOUR >= FLOOR
            && self.rise >= (self.spread * share).max(FLOOR)
            && self.rising >= RISING
            && self.late_slope > self.slope / 4.0
    }
}

/// The median slope of all pairs, and the share of pairs that rise.
fn theil_sen(points: &[f64]) -> (f64, f64) {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    let mut rising = 0;
    for later in 1..points.len() {
        for one in 0..later {
            let slope = (points[later] - points[one]) / float((later - one) as u64);
            rising += u64::from(slope > 0.0);
            slopes.push(slope);
        }
    }
    let share = float(rising) / float(slopes.len().max(1) as u64);
    (median(&mut slopes), share)
}

/// The median, 0 of nothing.
fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[allow(clippy::cast_precision_loss, reason = "bytes of memory and numbers of points are below 2^53")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
