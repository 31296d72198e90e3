//! The histogram: a row a bucket, the interval's share and the total's share of it as one bar.

use super::ladder::Ladder;
use super::line::{Glyphs, Ink, Line, Look};
use super::numbers;
use super::recorder::{Latencies, Rates};
use crate::units::Nanos;

/// Steps of a cell, for the block elements have eighths.
const STEPS: usize = 8;
/// Block elements by their eighths, from one to seven.
const EIGHTHS: [&str; 7] = ["▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// The widest text of the markers, with its arrow and the space before.
const MARKERS: usize = 10;
/// The same where there is no room for an arrow.
const NARROW_MARKERS: usize = 7;
/// The percentiles that are marked.
const PERCENTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

/// What the distributions of a chart are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Time,
    /// [`Rates`], of which a percentile is what so many reach: less is worse.
    PerSecond,
}

impl Unit {
    /// The bound of a bucket in words.
    fn bound(self, bound: Nanos, glyphs: Glyphs) -> String {
        match self {
            Self::Time => numbers::bound(bound, glyphs),
            Self::PerSecond => numbers::rate_bound(Rates::rate(bound)),
        }
    }

    /// A value in words.
    pub(super) fn value(self, value: Nanos, glyphs: Glyphs) -> String {
        match self {
            Self::Time => numbers::time(value, glyphs),
            Self::PerSecond => numbers::rate(Rates::rate(value)),
        }
    }

    /// The time, or what stands for a rate, that the share `quantile` does not exceed, or reaches.
    pub(super) fn percentile(self, latencies: &Latencies, quantile: f64) -> Option<Nanos> {
        match self {
            Self::Time => latencies.quantile(quantile),
            Self::PerSecond => latencies.quantile(1.0 - quantile),
        }
    }
}

/// What a chart shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chart<'a> {
    /// What its distributions are of.
    pub(super) unit: Unit,
    /// Everything since the start.
    pub(super) total: &'a Latencies,
    /// The last interval and its length, where it is to be compared with the total.
    pub(super) interval: Option<(&'a Latencies, Nanos)>,
}

impl Chart<'_> {
    /// The chart in at most `rows` rows of `columns` columns, its heading included; empty when there is nothing to show or
    /// no room.
    pub(super) fn lines(self, columns: usize, rows: usize, look: Look) -> Vec<Line> {
        let heading = rows > 4;
        let mut lines = self.rows(columns, rows - usize::from(heading), look);
        if heading && !lines.is_empty() {
            lines.insert(0, Plan::new(columns, self.interval.is_some()).heading(self.interval.is_some(), look));
        }
        lines
    }

    /// The same without a heading.
    pub(super) fn rows(self, columns: usize, rows: usize, look: Look) -> Vec<Line> {
        if rows == 0 {
            return Vec::new();
        }
        let Some(ladder) = Ladder::fit(self.total, rows) else { return Vec::new() };
        let total = shares(&ladder, self.total);
        let interval = self.interval.map(|(times, length)| (ladder.counts(times), shares(&ladder, times), length));
        let counts = ladder.counts(self.total);
        let scale = total
            .iter()
            .chain(interval.iter().flat_map(|(_, shares, _)| shares))
            .fold(0.0, |most: f64, share| most.max(*share));
        let plan = Plan::new(columns, self.interval.is_some());
        let mut lines = Vec::with_capacity(rows + 1);
        for (row, bound) in ladder.bounds().iter().enumerate() {
            let mut line = Line::new();
            line.push_right(Ink::Plain, &self.unit.bound(*bound, look.glyphs), plan.label);
            line.push(Ink::Dim, plan.axis(look.glyphs));
            let end = line.width() + plan.bar;
            let now = interval.as_ref().map(|(counts, shares, length)| (counts[row], shares[row], *length));
            // Without an interval to compare with, the total is all there is, and gets the colour that is seen best.
            bar(&mut line, plan.bar, now.map_or(total[row], |now| now.1) / scale, total[row] / scale, look);
            line.pad_to(end);
            let ink = if counts[row] == 0 { Ink::Dim } else { Ink::Plain };
            if plan.count {
                line.push_right(ink, &numbers::count(counts[row]), Plan::COUNT);
            }
            if plan.percent {
                line.push_right(ink, &numbers::percent(total[row]), Plan::PERCENT);
            }
            if let (true, Some((count, _, length))) = (plan.rate, now) {
                let text = numbers::rate_of(count, length)
                    .map_or_else(|| numbers::absent(look.glyphs).to_owned(), numbers::rate);
                line.push_right(if count == 0 { Ink::Dim } else { Ink::Interval }, &text, Plan::RATE);
            }
            let markers = markers(&ladder, row, (self.unit, self.total), plan.arrow(look.glyphs));
            if !markers.is_empty() {
                line.push(Ink::Marker, &markers);
            }
            lines.push(line);
        }
        lines
    }
}

/// Which columns there are, and how wide.
#[derive(Clone, Copy, Debug)]
struct Plan {
    label: usize,
    bar: usize,
    count: bool,
    percent: bool,
    rate: bool,
}

impl Plan {
    /// Below this many columns there is only room for bars.
    const NARROW: usize = 40;
    const COUNT: usize = 9;
    const PERCENT: usize = 7;
    const RATE: usize = 9;

    fn new(columns: usize, interval: bool) -> Self {
        if columns < Self::NARROW {
            let label = 7;
            let bar = columns.saturating_sub(label + 2 + NARROW_MARKERS).max(4);
            return Self { label, bar, count: false, percent: false, rate: false };
        }
        let label = if columns < 60 { 8 } else { 9 };
        let percent = columns >= 52;
        let rate = interval && columns >= 66;
        let taken = label
            + 2
            + Self::COUNT
            + MARKERS
            + if percent { Self::PERCENT } else { 0 }
            + if rate { Self::RATE } else { 0 };
        Self { label, bar: columns.saturating_sub(taken).max(4), count: true, percent, rate }
    }

    /// What stands before a marker.
    const fn arrow(self, glyphs: Glyphs) -> &'static str {
        match (self.count, glyphs) {
            (false, _) => " ",
            (true, Glyphs::Unicode) => " ◂ ",
            (true, Glyphs::Ascii) => " < ",
        }
    }

    const fn axis(self, glyphs: Glyphs) -> &'static str {
        match glyphs {
            Glyphs::Unicode => " │",
            Glyphs::Ascii => " |",
        }
    }

    fn heading(self, interval: bool, look: Look) -> Line {
        let mut line = Line::new();
        line.push_right(Ink::Dim, "up to", self.label);
        line.push(Ink::Plain, "  ");
        let end = line.width() + self.bar;
        let (common, excess, less) = match (look.glyphs, look.color) {
            (Glyphs::Unicode, true) => ("█", "█", "█"),
            (Glyphs::Unicode, false) => ("█", "▓", "░"),
            (Glyphs::Ascii, _) => ("#", "+", "="),
        };
        let keys: [(&str, Ink, &str); 3] = [
            (common, Ink::Interval, "interval"),
            (excess, Ink::Excess, "more than total"),
            (less, Ink::Total, "total"),
        ];
        let long: usize = keys.iter().map(|(_, _, text)| text.len() + 4).sum();
        if interval && self.bar >= long {
            for (glyph, ink, text) in keys {
                line.push(ink, glyph);
                line.push(Ink::Dim, &format!(" {text}  "));
            }
        } else if interval && self.bar >= 19 {
            for (glyph, ink, text) in [keys[0], keys[2]] {
                line.push(ink, glyph);
                line.push(Ink::Dim, &format!(" {text} "));
            }
        }
        line.pad_to(end);
        line.push_right(Ink::Dim, "count", Self::COUNT);
        if self.percent {
            line.push_right(Ink::Dim, "share", Self::PERCENT);
        }
        if self.rate {
            line.push_right(Ink::Dim, "now/s", Self::RATE);
        }
        line
    }
}

/// Each bucket's share of all.
#[allow(clippy::cast_precision_loss, reason = "a share decides the length of a bar")]
fn shares(ladder: &Ladder, latencies: &Latencies) -> Vec<f64> {
    let all = latencies.count().max(1) as f64;
    ladder.counts(latencies).into_iter().map(|count| count as f64 / all).collect()
}

/// The percentiles that lie in the bucket of `row`, behind an arrow.
fn markers(ladder: &Ladder, row: usize, (unit, latencies): (Unit, &Latencies), arrow: &str) -> String {
    let here: Vec<&str> = PERCENTILES
        .iter()
        .filter(|(_, quantile)| unit.percentile(latencies, *quantile).is_some_and(|time| ladder.index(time) == row))
        .map(|(name, _)| *name)
        .collect();
    match here.as_slice() {
        [] => String::new(),
        [one] => format!("{arrow}{one}"),
        [first, .., last] => format!("{arrow}{first}-{}", &last[1..]),
    }
}

/// Appends a bar of `width` columns for two shares of its full length: where both reach, where only the interval
/// reaches, and where only the total reaches. The line may end before the bar's width does.
fn bar(line: &mut Line, width: usize, interval: f64, total: f64, look: Look) {
    let (interval, total) = (steps(interval, width), steps(total, width));
    let (common, longest) = (interval.min(total), interval.max(total));
    let (rest, both) = match interval > total {
        true => (Ink::Excess, Ink::IntervalOnExcess),
        false => (Ink::Total, Ink::IntervalOnTotal),
    };
    for cell in 0..longest.div_ceil(STEPS) {
        let start = cell * STEPS;
        let common = common.saturating_sub(start).min(STEPS);
        let longest = longest.saturating_sub(start).min(STEPS);
        match (look.glyphs, look.color) {
            (Glyphs::Unicode, true) => match (common, longest) {
                (STEPS, _) => line.push(Ink::Interval, "█"),
                (0, STEPS) => line.push(rest, "█"),
                (_, STEPS) => line.push(both, EIGHTHS[common - 1]),
                // Three colours do not go into one cell: the larger part takes it.
                _ => line.push(if common * 2 >= longest { Ink::Interval } else { rest }, EIGHTHS[longest - 1]),
            },
            (Glyphs::Unicode, false) => line.push(
                Ink::Plain,
                match (common, longest) {
                    (STEPS, _) => "█",
                    _ if common == longest => EIGHTHS[common - 1],
                    _ if common * 2 >= STEPS => "█",
                    _ if rest == Ink::Excess => "▓",
                    _ => "░",
                },
            ),
            (Glyphs::Ascii, _) => match rest {
                _ if common * 2 >= longest => line.push(Ink::Interval, "#"),
                Ink::Excess => line.push(rest, "+"),
                _ => line.push(rest, "="),
            },
        }
    }
}

/// A share of `width` columns in steps; what is not nothing is at least one.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share is 0 to 1"
)]
fn steps(share: f64, width: usize) -> usize {
    let steps = (share * (width * STEPS) as f64).round() as usize;
    if share > 0.0 { steps.clamp(1, width * STEPS) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(interval: f64, total: f64, glyphs: Glyphs, color: bool) -> String {
        let mut line = Line::new();
        bar(&mut line, 4, interval, total, Look { glyphs, color });
        line.encode(80, color)
    }

    #[test]
    fn one_share_is_drawn_to_an_eighth_of_a_cell() {
        for (share, text) in
            [(0.0, ""), (0.0001, "▏"), (0.25, "█"), (0.3, "█▎"), (0.5, "██"), (0.97, "███▉"), (1.0, "████")]
        {
            assert_eq!(drawn(share, share, Glyphs::Unicode, false), text, "{share}");
        }
    }

    #[test]
    fn without_colour_the_parts_have_their_own_glyphs() {
        assert_eq!(drawn(0.5, 1.0, Glyphs::Unicode, false), "██░░");
        assert_eq!(drawn(1.0, 0.5, Glyphs::Unicode, false), "██▓▓");
        assert_eq!(drawn(0.0, 0.5, Glyphs::Unicode, false), "░░");
        assert_eq!(drawn(0.5, 1.0, Glyphs::Ascii, false), "##==");
        assert_eq!(drawn(1.0, 0.5, Glyphs::Ascii, false), "##++");
    }

    #[test]
    fn with_colour_a_border_inside_a_cell_has_both_colours() {
        assert_eq!(
            drawn(0.375, 0.75, Glyphs::Unicode, true),
            "\x1b[38;5;43m█\x1b[0m\x1b[38;5;43;48;5;25m▌\x1b[0m\x1b[38;5;25m█\x1b[0m"
        );
        assert_eq!(drawn(0.75, 0.25, Glyphs::Unicode, true), "\x1b[38;5;43m█\x1b[0m\x1b[38;5;105m██\x1b[0m");
    }

    #[test]
    fn of_rates_the_low_ones_are_marked() {
        let mut rates = Rates::default();
        for rate in 1..=100 {
            rates.record(f64::from(rate));
        }
        let chart = Chart { unit: Unit::PerSecond, total: rates.as_times(), interval: None };
        let lines: Vec<String> = chart
            .rows(26, 8, Look::default())
            .iter()
            .map(|line| line.encode(26, false).trim_end().to_owned())
            .collect();
        let marked: Vec<(&str, &str)> = lines
            .iter()
            .filter_map(|line| {
                Some((line[..7].trim(), line.rsplit_once(' ').filter(|(_, end)| end.starts_with('p'))?.1))
            })
            .collect();
        assert_eq!(marked, [("5", "p99"), ("10", "p90"), ("50", "p50")], "{lines:#?}");
    }

    #[test]
    fn markers_stand_at_their_buckets() {
        let mut total = Latencies::default();
        for time in 1..=100 {
            total.record(Nanos(time * 990_000));
        }
        let ladder = Ladder::fit(&total, 8).expect("there are times");
        let seen: Vec<(String, String)> = (0..ladder.bounds().len())
            .map(|row| {
                (
                    numbers::bound(ladder.bounds()[row], Glyphs::Ascii),
                    markers(&ladder, row, (Unit::Time, &total), " < "),
                )
            })
            .filter(|(_, markers)| !markers.is_empty())
            .collect();
        assert_eq!(seen, [("50 ms".to_owned(), " < p50".to_owned()), ("100 ms".to_owned(), " < p90-99".to_owned())]);
    }
}
