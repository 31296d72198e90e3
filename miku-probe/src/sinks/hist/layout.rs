//! What goes where: a frame and a geometry in, lines out.

use jiff::Timestamp;
use jiff::fmt::strtime;

use super::chart::{Chart, Unit};
use super::line::{Glyphs, Ink, Line, Look, fit, printable};
use super::panels;
use super::table::{self, Rows};
use super::{Frame, Moment, Subject, numbers};

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its columns.
    pub columns: usize,
    /// Its rows.
    pub rows: usize,
}

/// What the bottom of the screen says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Keys work.
    pub keys: bool,
    /// The screen stands still.
    pub paused: bool,
}

/// The rows of the chart in a block for a log.
const BLOCK_CHART: usize = 13;
/// The routes in a block for a log.
const BLOCK_ROUTES: usize = 5;

/// A full screen: exactly `geometry.rows` lines, which are to be cut at `geometry.columns`.
#[must_use]
pub fn screen(frame: &Frame, geometry: Geometry, look: Look, hints: Hints) -> Vec<Line> {
    let Geometry { columns, rows } = geometry;
    let roomy = rows >= 16;
    let mut lines = vec![heading(frame, columns, look)];
    lines.extend(filter(frame, columns, look));
    let blank = |lines: &mut Vec<Line>| {
        if roomy {
            lines.push(Line::new());
        }
    };
    if frame.filter.is_empty() {
        blank(&mut lines);
    }
    let footer = usize::from(roomy);
    if frame.calls.is_none() {
        let first_byte = rows >= 20 && frame.total.first_byte.count() > 0;
        lines.extend(table::summary(frame, Rows { interval: true, first_byte }, columns, look));
        lines.extend(notes(frame, columns, look));
        blank(&mut lines);
    }
    let left = rows.saturating_sub(lines.len() + footer);
    if let Some(calls) = frame.calls.as_deref().filter(|_| anything(frame)) {
        lines.extend(panels::screen(frame, calls, (columns, left), roomy, look));
    } else if !anything(frame) {
        lines.extend(waiting(frame, columns, look).into_iter().take(left));
    } else {
        // The routes get a fifth of what is left, and what the chart leaves over; phases are few, and what one looks for.
        let reserved = match frame.subject {
            _ if !roomy => 0,
            Subject::Exchanges => 2 + frame.routes.len().min((left / 5).max(1)),
            Subject::Replies | Subject::Calls => 2 + frame.phases.len().min((left / 2).max(1)),
        };
        let chart = Chart {
            unit: Unit::Time,
            total: &frame.total.duration,
            interval: Some((&frame.interval.duration, frame.length)),
        };
        lines.extend(chart.lines(columns, left.saturating_sub(reserved), look));
        let left = rows.saturating_sub(lines.len() + footer);
        if reserved > 0 && left > 2 {
            lines.push(Line::new());
            lines.extend(parts(frame, columns, left - 1, look));
        }
    }
    lines.truncate(rows);
    if roomy {
        lines.resize(rows - 1, Line::new());
        lines.push(bottom(frame, columns, look, hints));
    } else {
        lines.resize(rows, Line::new());
    }
    lines
}

/// A block for a log or the end of a session. The final one tells of the total alone.
#[must_use]
pub fn block(frame: &Frame, columns: usize, look: Look) -> Vec<Line> {
    let interval = frame.moment == Moment::Interval;
    let mut lines = vec![heading(frame, columns, look)];
    lines.extend(filter(frame, columns, look));
    if frame.calls.is_none() {
        let first_byte = frame.total.first_byte.count() > 0;
        lines.extend(table::summary(frame, Rows { interval, first_byte }, columns, look));
        lines.extend(notes(frame, columns, look));
    }
    if let Some(calls) = frame.calls.as_deref().filter(|_| anything(frame)) {
        lines.extend(panels::block(frame, calls, columns, look));
    } else if !anything(frame) {
        lines.extend(waiting(frame, columns, look));
    } else {
        let now = interval.then_some((&frame.interval.duration, frame.length));
        lines.extend(Chart { unit: Unit::Time, total: &frame.total.duration, interval: now }.lines(
            columns,
            BLOCK_CHART,
            look,
        ));
        let rows = match frame.subject {
            Subject::Exchanges => 1 + BLOCK_ROUTES,
            Subject::Replies | Subject::Calls => 1 + frame.phases.len(),
        };
        lines.extend(parts(frame, columns, rows, look));
    }
    lines.push(Line::new());
    lines
}

/// Whether anything was timed.
fn anything(frame: &Frame) -> bool {
    match &frame.calls {
        Some(calls) => !calls.total.is_empty(),
        None => frame.total.duration.count() > 0,
    }
}

/// What the times are made of: routes or phases.
fn parts(frame: &Frame, columns: usize, rows: usize, look: Look) -> Vec<Line> {
    match frame.subject {
        Subject::Exchanges => table::routes(frame, columns, rows, look),
        Subject::Replies | Subject::Calls => table::phases(frame, columns, rows, look),
    }
}

/// What is watched, and when.
fn heading(frame: &Frame, columns: usize, look: Look) -> Line {
    let clock = Timestamp::try_from(frame.wall).map_or_else(
        |_| numbers::absent(look.glyphs).to_owned(),
        |time| strtime::format("%H:%M:%S UTC", time).unwrap_or_default(),
    );
    let elapsed = numbers::elapsed(frame.elapsed);
    let every = numbers::bound(frame.every, look.glyphs);
    let mut right = match (frame.moment, columns) {
        (Moment::Final, _) => format!("total of {elapsed}   {clock}"),
        (_, 100..) => format!("interval {every}   elapsed {elapsed}   {clock}"),
        (_, 80..) => format!("every {every}   {elapsed}   {clock}"),
        (_, 60..) => format!("{elapsed}   {clock}"),
        _ => clock,
    };
    right.push(' ');
    let mut line = Line::new();
    line.push(Ink::Plain, " ");
    let title = match (frame.subject, columns) {
        (Subject::Exchanges, 60..) => "miku-probe hist",
        (Subject::Exchanges, _) => "hist",
        (Subject::Replies, 60..) => "miku-probe hist --reply",
        (Subject::Replies, _) => "replies",
        (Subject::Calls, 60..) => "miku-probe hist --llm",
        (Subject::Calls, _) => "llm",
    };
    line.push(Ink::Title, title);
    line.push(Ink::Plain, "  ");
    let room = columns.saturating_sub(line.width() + right.len() + 1);
    let watched = targets(&frame.status.targets, room);
    line.push(Ink::Strong, &fit(&printable(&watched, look.glyphs), room, look.glyphs));
    line.pad_to(columns.saturating_sub(right.len()));
    line.push(Ink::Dim, &right);
    line
}

/// What between two things in a row parts them.
pub(super) const fn separator(glyphs: Glyphs) -> &'static str {
    match glyphs {
        Glyphs::Unicode => " · ",
        Glyphs::Ascii => " | ",
    }
}

/// Parts of a line, of which those are left out from the end for which there is no room.
pub(super) fn joined(parts: Vec<(Ink, String)>, columns: usize, look: Look) -> Line {
    let mut line = Line::new();
    line.push(Ink::Plain, " ");
    for (index, (ink, text)) in parts.into_iter().enumerate() {
        let separator = if index == 0 { "" } else { separator(look.glyphs) };
        if line.width() + separator.chars().count() + text.len() > columns {
            break;
        }
        line.push(Ink::Dim, separator);
        line.push(ink, &text);
    }
    line
}

/// What the filter lets pass, if there is one.
fn filter(frame: &Frame, columns: usize, look: Look) -> Option<Line> {
    if frame.filter.is_empty() {
        return None;
    }
    let mut line = Line::new();
    line.push(Ink::Dim, " only ");
    let text = printable(&frame.filter.join(separator(look.glyphs)), look.glyphs);
    line.push(Ink::Plain, &fit(&text, columns.saturating_sub(line.width()), look.glyphs));
    Some(line)
}

/// As many of the targets as fit, and how many more there are.
fn targets(targets: &[String], room: usize) -> String {
    let Some((first, rest)) = targets.split_first() else { return "nothing attached".to_owned() };
    let all = targets.join(", ");
    if all.len() <= room {
        return all;
    }
    let mut text = first.clone();
    for (index, target) in rest.iter().enumerate() {
        if text.len() + 2 + target.len() + " +999 more".len() > room {
            return format!("{text} +{} more", rest.len() - index);
        }
        text.push_str(", ");
        text.push_str(target);
    }
    text
}

/// What was not seen whole, if anything.
pub(super) fn notes(frame: &Frame, columns: usize, look: Look) -> Option<Line> {
    let (unmatched, unknown) = (frame.status.unmatched, frame.total.failures.unknown);
    let narrow = columns < 100;
    let mut parts = Vec::new();
    if frame.status.lost > 0 {
        parts.push((Ink::Warning, format!("lost {}", plural(frame.status.lost, "record"))));
    }
    if unmatched > 0 && narrow {
        parts.push((Ink::Dim, format!("{} unmatched", numbers::count(unmatched))));
    } else if unmatched > 0 {
        parts.push((Ink::Dim, format!("{} without a whole exchange", plural(unmatched, "message"))));
    }
    if unknown > 0 && narrow {
        parts.push((Ink::Dim, format!("{} unknown", numbers::count(unknown))));
    } else if unknown > 0 {
        parts.push((Ink::Dim, format!("{} with an unknown end", plural(unknown, "exchange"))));
    }
    if parts.is_empty() {
        return None;
    }
    let mut line = Line::new();
    line.push(Ink::Plain, " ");
    for (index, (ink, text)) in parts.into_iter().enumerate() {
        if index > 0 {
            line.push(Ink::Dim, separator(look.glyphs));
        }
        line.push(ink, &text);
    }
    Some(line)
}

pub(super) fn plural(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(start)) => format!("{} {start}ies", numbers::count(number)),
        (_, None) => format!("{} {noun}s", numbers::count(number)),
    }
}

/// What is waited for, while nothing was timed.
fn waiting(frame: &Frame, columns: usize, look: Look) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |ink, indent: usize, text: &str| {
        let mut line = Line::new();
        line.pad_to(indent);
        line.push(ink, &fit(&printable(text, look.glyphs), columns.saturating_sub(indent), look.glyphs));
        lines.push(line);
    };
    if frame.status.targets.is_empty() {
        say(Ink::Strong, 1, &format!("No {} yet: no process is attached.", frame.subject.noun()));
        say(Ink::Dim, 1, "A process that matches is attached as soon as it starts.");
    } else {
        let what = match frame.subject {
            Subject::Exchanges => "No exchange yet: waiting for the first complete HTTP exchange of",
            Subject::Replies => "No reply yet: waiting for the first answer to a message or an interaction by",
            Subject::Calls => "No call yet: waiting for the first call of a language model, to or by",
        };
        say(Ink::Strong, 1, what);
        for target in &frame.status.targets {
            say(Ink::Plain, 3, target);
        }
    }
    if !frame.filter.is_empty() {
        say(Ink::Plain, 1, &format!("that passes the filter: {}", frame.filter.join(", ")));
    }
    if frame.filtered > 0 {
        let filtered = plural(frame.filtered, frame.subject.noun());
        say(Ink::Warning, 1, &format!("{filtered} did not pass the filter."));
    }
    lines
}

/// The last line of a screen.
fn bottom(frame: &Frame, columns: usize, look: Look, hints: Hints) -> Line {
    let mut line = Line::new();
    line.push(Ink::Plain, " ");
    let mut key = |name: &str, does: &str| {
        line.push(Ink::Strong, name);
        line.push(Ink::Dim, &format!(" {does}   "));
    };
    if hints.keys {
        key("q", "quit");
        key("r", "reset");
        key("p", if hints.paused { "go on" } else { "pause" });
    } else {
        key("Ctrl-C", "quit");
    }
    if hints.paused {
        line.push(Ink::Warning, "paused");
    } else if frame.filtered > 0 {
        let text = format!("{} filtered out ", plural(frame.filtered, frame.subject.noun()));
        if line.width() + text.len() <= columns {
            line.pad_to(columns - text.len());
            line.push(Ink::Dim, &fit(&text, columns, look.glyphs));
        }
    }
    line
}
