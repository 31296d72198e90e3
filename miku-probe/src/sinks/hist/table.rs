//! The tables: interval against total, and the routes.

use super::line::{Glyphs, Ink, Line, Look, fit_middle, printable};
use super::recorder::{Failures, Latencies, Window};
use super::{Frame, Moment, Origin, PhaseRow, RouteRow, Subject, numbers};
use crate::units::{Nanos, Side};

/// A column of numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: usize,
    /// The lowest goes first when there is no room.
    rank: u8,
}

pub(super) const fn column(title: &'static str, width: usize, rank: u8) -> Column {
    Column { title, width, rank }
}

/// The columns of the summary, in the order of [`Row::cells`].
const SUMMARY: [Column; 10] = [
    column("count", 8, 9),
    column("rate/s", 7, 6),
    column("p50", 8, 9),
    column("p90", 8, 4),
    column("p99", 8, 8),
    column("p99.9", 8, 3),
    column("max", 8, 7),
    column("errors", 7, 5),
    column("aborted", 8, 2),
    column("unknown", 8, 1),
];

/// The columns of the summary of replies: times as of exchanges, and who waited in vain.
const REPLY_SUMMARY: [Column; 8] =
    [SUMMARY[0], SUMMARY[1], SUMMARY[2], SUMMARY[3], SUMMARY[4], SUMMARY[5], SUMMARY[6], column("unanswered", 11, 5)];

/// The columns of the phases, in the order of [`phase_cells`].
const PHASES: [Column; 6] = [
    column("share", 8, 6),
    column("count", 8, 3),
    column("p50", 8, 5),
    column("p90", 8, 4),
    column("p99", 8, 2),
    column("max", 8, 1),
];

/// The columns of the routes, in the order of [`route_cells`].
const ROUTES: [Column; 6] = [
    column("count", 8, 6),
    column("rate/s", 8, 3),
    column("p50", 8, 5),
    column("p99", 8, 4),
    column("max", 8, 1),
    column("errors", 7, 2),
];

/// The columns that go into `room`, by index, and how much wider each may be.
pub(super) fn choose(columns: &[Column], room: usize) -> (Vec<usize>, usize) {
    let mut chosen: Vec<usize> = (0..columns.len()).collect();
    let width = |chosen: &[usize]| chosen.iter().map(|index| columns[*index].width).sum::<usize>();
    while chosen.len() > 1 && width(&chosen) > room {
        let least = chosen.iter().copied().min_by_key(|index| columns[*index].rank);
        chosen.retain(|index| Some(*index) != least);
    }
    let spare = room.saturating_sub(width(&chosen)) / chosen.len();
    (chosen, spare)
}

/// The columns that stay free at the right border, where there is room.
pub(super) const fn margin(columns: usize) -> usize {
    if columns < 90 { 0 } else { 1 }
}

/// The ink of a number of failures.
pub(super) const fn failure_ink(count: u64, ink: Ink) -> Ink {
    if count == 0 { Ink::Dim } else { ink }
}

/// A row of the summary.
struct Row<'a> {
    label: &'static str,
    ink: Ink,
    latencies: &'a Latencies,
    subject: Subject,
    /// The time for the rate, the failures, and who was not answered. Absent for a row that is about times alone.
    whole: Option<(Nanos, Failures, u64)>,
}

impl Row<'_> {
    /// A cell's ink and text for each of [`summary_columns`].
    fn cells(&self, glyphs: Glyphs) -> Vec<(Ink, String)> {
        let nothing = || (Ink::Plain, String::new());
        let absent = || (Ink::Dim, numbers::absent(glyphs).to_owned());
        let time = |time: Option<Nanos>| time.map_or_else(absent, |time| (self.ink, numbers::time(time, glyphs)));
        let failed = |count: fn(Failures, u64) -> u64, ink| {
            let count = self.whole.map(|(_, failures, unanswered)| count(failures, unanswered));
            count.map_or_else(nothing, |count| (failure_ink(count, ink), numbers::count(count)))
        };
        let rate = |(length, ..): (Nanos, Failures, u64)| {
            let rate = numbers::rate_of(self.latencies.count(), length);
            rate.map_or_else(absent, |rate| (self.ink, numbers::rate(rate)))
        };
        let times = self.latencies.times();
        let mut cells = vec![
            (self.ink, numbers::count(self.latencies.count())),
            self.whole.map_or_else(nothing, rate),
            time(times.p50),
            time(times.p90),
            time(times.p99),
            time(times.p999),
            time(times.max),
        ];
        match self.subject {
            Subject::Exchanges => cells.extend([
                failed(|failures, _| failures.errors, Ink::Error),
                failed(|failures, _| failures.aborted, Ink::Warning),
                failed(|failures, _| failures.unknown, Ink::Warning),
            ]),
            Subject::Replies => cells.push(failed(|_, unanswered| unanswered, Ink::Error)),
            // They have panels instead.
            Subject::Calls => {}
        }
        cells
    }
}

/// Which rows the summary has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// The interval's.
    pub(super) interval: bool,
    /// That of the time to first byte, over all.
    pub(super) first_byte: bool,
}

/// The columns of the summary.
const fn summary_columns(subject: Subject) -> &'static [Column] {
    match subject {
        Subject::Exchanges => &SUMMARY,
        Subject::Replies | Subject::Calls => &REPLY_SUMMARY,
    }
}

/// The summary: a heading and a row a window.
pub(super) fn summary(frame: &Frame, rows: Rows, columns: usize, look: Look) -> Vec<Line> {
    const LABEL: usize = 10;
    let columns = columns - margin(columns);
    let all = summary_columns(frame.subject);
    let (chosen, spare) = choose(all, columns.saturating_sub(LABEL));
    let numbers_width: usize = chosen.iter().map(|index| all[*index].width + spare).sum();
    let label_width = columns.saturating_sub(numbers_width).max(LABEL);
    let mut heading = Line::new();
    heading.pad_to(label_width);
    for index in &chosen {
        heading.push_right(Ink::Dim, all[*index].title, all[*index].width + spare);
    }
    let subject = frame.subject;
    let whole = |label, ink, window: &'_ Window, length| {
        let whole = Some((length, window.failures, window.unanswered));
        let row = Row { label, ink, latencies: &window.duration, subject, whole };
        row_line(&row, label_width, &chosen, spare, look.glyphs)
    };
    let mut lines = vec![heading];
    if rows.interval {
        lines.push(whole("interval", Ink::Interval, &frame.interval, frame.length));
    }
    lines.push(whole("total", Ink::Strong, &frame.total, frame.elapsed));
    if rows.first_byte {
        let latencies = &frame.total.first_byte;
        let row = Row { label: "1st byte", ink: Ink::Plain, latencies, subject, whole: None };
        lines.push(row_line(&row, label_width, &chosen, spare, look.glyphs));
    }
    lines
}

fn row_line(row: &Row<'_>, label: usize, chosen: &[usize], spare: usize, glyphs: Glyphs) -> Line {
    let mut line = Line::new();
    line.push_left(row.ink, &format!(" {}", row.label), label);
    let cells = row.cells(glyphs);
    for index in chosen {
        let (ink, text) = &cells[*index];
        line.push_right(*ink, text, summary_columns(row.subject)[*index].width + spare);
    }
    line
}

/// The phases of replies, in at most `rows` rows, the heading included; empty when there is none or no room.
pub(super) fn phases(frame: &Frame, columns: usize, rows: usize, look: Look) -> Vec<Line> {
    const LABEL: usize = 17;
    if rows < 2 || frame.phases.is_empty() {
        return Vec::new();
    }
    let columns = columns - margin(columns);
    let (chosen, spare) = choose(&PHASES, columns.saturating_sub(LABEL));
    let numbers_width: usize = chosen.iter().map(|index| PHASES[*index].width + spare).sum();
    let label_width = columns.saturating_sub(numbers_width).max(LABEL);
    let mut heading = Line::new();
    heading.push_left(Ink::Dim, " phase", label_width);
    for index in &chosen {
        heading.push_right(Ink::Dim, PHASES[*index].title, PHASES[*index].width + spare);
    }
    let mut lines = vec![heading];
    for row in frame.phases.iter().take(rows - 1) {
        let mut line = Line::new();
        line.push_left(Ink::Plain, &format!(" {}", row.phase.as_str().replace('_', " ")), label_width);
        let cells = phase_cells(row, look.glyphs);
        for index in &chosen {
            let (ink, text) = &cells[*index];
            line.push_right(*ink, text, PHASES[*index].width + spare);
        }
        lines.push(line);
    }
    lines
}

/// A cell's ink and text for each of [`PHASES`].
fn phase_cells(row: &PhaseRow, glyphs: Glyphs) -> [(Ink, String); 6] {
    let absent = || (Ink::Dim, numbers::absent(glyphs).to_owned());
    let time = |time: Option<Nanos>| time.map_or_else(absent, |time| (Ink::Plain, numbers::time(time, glyphs)));
    let share = if row.share == 0.0 { "0%".to_owned() } else { numbers::percent(row.share) };
    [
        (Ink::Strong, share),
        (Ink::Plain, numbers::count(row.count)),
        time(row.times.p50),
        time(row.times.p90),
        time(row.times.p99),
        time(row.times.max),
    ]
}

/// The routes by count, in at most `rows` rows, the heading included; empty when there is none or no room.
pub(super) fn routes(frame: &Frame, columns: usize, rows: usize, look: Look) -> Vec<Line> {
    const METHOD: usize = 8;
    if rows < 2 || frame.routes.is_empty() {
        return Vec::new();
    }
    let columns = columns - margin(columns);
    let services = frame.routes.iter().any(|row| row.service() != frame.routes[0].service());
    // Names may take two fifths of the line; numbers that do not fit beside them go.
    let (chosen, spare) = choose(&ROUTES, columns.saturating_sub(1 + METHOD + (columns * 3 / 10).max(12)));
    let numbers_width: usize = chosen.iter().map(|index| ROUTES[*index].width + spare).sum();
    let name = columns.saturating_sub(1 + METHOD + numbers_width);
    let mut heading = Line::new();
    let shown = frame.routes.len().min(rows - 1);
    let title = match shown < frame.routes.len() {
        true => format!(" route ({shown} of {})", frame.routes.len()),
        false => " route".to_owned(),
    };
    heading.push_left(Ink::Dim, &title, 1 + METHOD + name);
    for index in &chosen {
        heading.push_right(Ink::Dim, ROUTES[*index].title, ROUTES[*index].width + spare);
    }
    let mut lines = vec![heading];
    for row in frame.routes.iter().take(rows - 1) {
        let mut line = Line::new();
        line.push(Ink::Plain, " ");
        let (method, text) = route_name(row, services, look.glyphs);
        line.push_left(Ink::Dim, method, METHOD);
        line.push_left(Ink::Plain, &fit_middle(&text, name.saturating_sub(1), look.glyphs), name);
        let cells = route_cells(row, frame, look.glyphs);
        for index in &chosen {
            let (ink, text) = &cells[*index];
            line.push_right(*ink, text, ROUTES[*index].width + spare);
        }
        lines.push(line);
    }
    lines
}

/// The method of a row, and how its route is called.
fn route_name(row: &RouteRow, services: bool, glyphs: Glyphs) -> (&'static str, String) {
    let Origin::Route(route) = &row.origin else { return ("", "(all other routes)".to_owned()) };
    let mut text = String::new();
    if services {
        text.push_str(&route.service);
        text.push(' ');
    }
    if route.side == Side::Client {
        text.push_str(match glyphs {
            Glyphs::Unicode => "→ ",
            Glyphs::Ascii => "> ",
        });
        text.push_str(&route.server);
    }
    text.push_str(if route.route.is_empty() { "(unknown)" } else { &route.route });
    (route.method.as_str(), printable(&text, glyphs))
}

/// A cell's ink and text for each of [`ROUTES`].
fn route_cells(row: &RouteRow, frame: &Frame, glyphs: Glyphs) -> [(Ink, String); 6] {
    let absent = || (Ink::Dim, numbers::absent(glyphs).to_owned());
    let time = |time: Option<Nanos>| time.map_or_else(absent, |time| (Ink::Plain, numbers::time(time, glyphs)));
    let (rate, ink) = match frame.moment {
        Moment::Interval => (numbers::rate_of(row.interval_count, frame.length), Ink::Interval),
        Moment::Final => (numbers::rate_of(row.count, frame.elapsed), Ink::Plain),
    };
    [
        (Ink::Plain, numbers::count(row.count)),
        rate.map_or_else(absent, |rate| (if rate == 0.0 { Ink::Dim } else { ink }, numbers::rate(rate))),
        time(row.times.p50),
        time(row.times.p99),
        time(row.times.max),
        (failure_ink(row.failures.errors, Ink::Error), numbers::count(row.failures.errors)),
    ]
}
