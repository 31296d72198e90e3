//! Calls of language models on a screen: what was counted, what GPUs do, a table of times, a panel each for the first token, the time
//! between tokens and tokens a second, and the models.

use super::calls::{CallWindow, Calls, Ends, ModelName, ModelRow};
use super::chart::{Chart, Unit};
use super::line::{Glyphs, Ink, Line, Look, fit_middle, printable};
use super::recorder::Latencies;
use super::table::{Column, choose, column, failure_ink, margin};
use super::{Frame, Moment, gpus, layout, numbers};
use crate::observations::{CallOutcome, Operation};
use crate::units::{Nanos, Side};

/// Panels stand beside each other from this width on; below, one above the other.
const BESIDE: usize = 78;
/// The rows of the panels in a block for a log, their titles included.
const BLOCK_PANELS: usize = 11;
/// The models in a block for a log.
const BLOCK_MODELS: usize = 5;
/// The fewest rows that a panel is worth, its title included.
const PANEL: usize = 4;

/// The columns of the table of times, in the order of [`Measure::cells`].
const TIMES: [Column; 7] = [
    column("count", 8, 6),
    column("now", 9, 5),
    column("p50", 9, 7),
    column("p90", 9, 3),
    column("p99", 9, 4),
    column("p99.9", 9, 1),
    column("worst", 9, 2),
];

/// Which of them is of the interval alone.
const NOW: usize = 1;

/// The columns of the models, in the order of [`model_cells`]. What others know of a model, such as what a GPU used for it,
/// has its columns here.
const MODELS: [Column; 7] = [
    column("calls", 7, 6),
    column("1st p50", 9, 7),
    column("1st p99", 9, 3),
    column("gap p50", 9, 5),
    column("gap p99", 9, 2),
    column("tokens/s", 9, 4),
    column("failed", 7, 1),
];

/// One of the things that are measured of calls.
struct Measure<'a> {
    name: &'static str,
    unit: Unit,
    interval: &'a Latencies,
    total: &'a Latencies,
}

impl<'a> Measure<'a> {
    /// Those with a panel.
    fn panels(calls: &'a Calls) -> [Self; 3] {
        let Calls { interval, total, .. } = calls;
        let (now, all) = (&interval.speeds, &total.speeds);
        [
            Measure { name: "first token", unit: Unit::Time, interval: &now.first_token, total: &all.first_token },
            Measure { name: "between tokens", unit: Unit::Time, interval: &now.inter_token, total: &all.inter_token },
            Measure {
                name: "tokens/s",
                unit: Unit::PerSecond,
                interval: now.rate.as_times(),
                total: all.rate.as_times(),
            },
        ]
    }

    fn whole(calls: &'a Calls) -> Self {
        Measure {
            name: "whole call",
            unit: Unit::Time,
            interval: &calls.interval.duration,
            total: &calls.total.duration,
        }
    }

    /// A cell's ink and text for each of [`TIMES`].
    fn cells(&self, glyphs: Glyphs) -> [(Ink, String); 7] {
        let shown = |ink, value: Option<Nanos>| {
            value.map_or_else(
                || (Ink::Dim, numbers::absent(glyphs).to_owned()),
                |value| (ink, self.unit.value(value, glyphs)),
            )
        };
        let percentile = |quantile| shown(Ink::Plain, self.unit.percentile(self.total, quantile));
        [
            (Ink::Plain, numbers::count(self.total.count())),
            shown(Ink::Interval, self.interval.quantile(0.5)),
            shown(Ink::Strong, self.total.quantile(0.5)),
            percentile(0.9),
            percentile(0.99),
            percentile(0.999),
            percentile(1.0),
        ]
    }
}

/// What is shown of calls, in at most `rows` rows; `roomy` is whether there is room for blank lines and models.
pub(super) fn screen(
    frame: &Frame,
    calls: &Calls,
    (columns, rows): (usize, usize),
    roomy: bool,
    look: Look,
) -> Vec<Line> {
    let mut lines = top(frame, calls, columns, look);
    if roomy {
        lines.push(Line::new());
    }
    let left = rows.saturating_sub(lines.len());
    let models = if roomy { 2 + calls.models.len().min((left / 4).max(1)) } else { 0 };
    lines.extend(panels(frame, calls, (columns, left.saturating_sub(models)), look));
    let left = rows.saturating_sub(lines.len());
    if models > 0 && left > 2 {
        lines.push(Line::new());
        lines.extend(table_of_models(calls, columns, left - 1, look));
    }
    lines.truncate(rows);
    lines
}

/// What is shown of calls in a block for a log.
pub(super) fn block(frame: &Frame, calls: &Calls, columns: usize, look: Look) -> Vec<Line> {
    let mut lines = top(frame, calls, columns, look);
    lines.extend(panels(frame, calls, (columns, BLOCK_PANELS), look));
    lines.extend(table_of_models(calls, columns, 1 + BLOCK_MODELS, look));
    lines
}

/// The counts and the table of times.
fn top(frame: &Frame, calls: &Calls, columns: usize, look: Look) -> Vec<Line> {
    let mut lines = vec![counts(frame, calls, columns, look)];
    lines.extend(gpus::lines(&calls.gpus, columns, look));
    lines.extend(layout::notes(frame, columns, look));
    lines.extend(times(frame, calls, columns, look));
    lines
}

/// How many calls, how they ended, and their tokens; what does not fit is left out from the end.
fn counts(frame: &Frame, calls: &Calls, columns: usize, look: Look) -> Line {
    let CallWindow { ends, tokens, .. } = &calls.total;
    let (now, length) = match frame.moment {
        Moment::Interval => (&calls.interval, frame.length),
        Moment::Final => (&calls.total, frame.elapsed),
    };
    let rate = |count: u64| numbers::rate_of(count, length).map(numbers::rate);
    let mut parts = vec![(Ink::Strong, layout::plural(ends.all(), "call"))];
    parts.extend(rate(now.ends.all()).map(|rate| (Ink::Interval, format!("{rate}/s"))));
    parts.push((Ink::Plain, format!("{} in flight", numbers::count(calls.in_flight))));
    for (outcome, ink) in
        [(CallOutcome::Failed, Ink::Error), (CallOutcome::Aborted, Ink::Warning), (CallOutcome::Unknown, Ink::Warning)]
    {
        let count = ends.get(outcome);
        if count > 0 || outcome == CallOutcome::Failed {
            parts.push((failure_ink(count, ink), format!("{} {}", numbers::count(count), outcome.as_str())));
        }
    }
    if let Some(output) = tokens.output {
        let now = now.tokens.output.and_then(rate).map(|rate| format!(" ({rate}/s)")).unwrap_or_default();
        parts.push((Ink::Plain, format!("{} out{now}", layout::plural(output, "token"))));
    }
    for (count, what) in [(tokens.input, "in"), (tokens.cached, "cached")] {
        parts.extend(count.map(|count| (Ink::Plain, format!("{} {what}", numbers::count(count)))));
    }
    layout::joined(parts, columns, look)
}

/// The table of times: a heading and a row a measure.
fn times(frame: &Frame, calls: &Calls, columns: usize, look: Look) -> Vec<Line> {
    const LABEL: usize = 16;
    let columns = columns - margin(columns);
    let (mut chosen, spare) = choose(&TIMES, columns.saturating_sub(LABEL));
    if frame.moment == Moment::Final {
        chosen.retain(|index| *index != NOW);
    }
    let numbers_width: usize = chosen.iter().map(|index| TIMES[*index].width + spare).sum();
    let label_width = columns.saturating_sub(numbers_width).max(LABEL);
    let mut heading = Line::new();
    heading.pad_to(label_width);
    for index in &chosen {
        heading.push_right(Ink::Dim, TIMES[*index].title, TIMES[*index].width + spare);
    }
    let mut lines = vec![heading];
    for measure in Measure::panels(calls).into_iter().chain([Measure::whole(calls)]) {
        let mut line = Line::new();
        line.push_left(Ink::Plain, &format!(" {}", measure.name), label_width);
        let cells = measure.cells(look.glyphs);
        for index in &chosen {
            let (ink, text) = &cells[*index];
            line.push_right(*ink, text, TIMES[*index].width + spare);
        }
        lines.push(line);
    }
    lines
}

/// The panels, in at most `rows` rows: beside each other, or as many as there is room for one above the other.
fn panels(frame: &Frame, calls: &Calls, (columns, rows): (usize, usize), look: Look) -> Vec<Line> {
    const GAP: usize = 1;
    let measures = Measure::panels(calls);
    let panel = |measure: &Measure<'_>, columns: usize, rows: usize| {
        let mut title = Line::new();
        title.push(Ink::Strong, &format!(" {}", measure.name));
        let interval = (frame.moment == Moment::Interval).then_some((measure.interval, frame.length));
        let chart = Chart { unit: measure.unit, total: measure.total, interval };
        let mut lines = vec![title];
        lines.extend(chart.rows(columns, rows.saturating_sub(1), look));
        if lines.len() == 1 {
            let mut nothing = Line::new();
            nothing.push(Ink::Dim, &format!(" {}", numbers::absent(look.glyphs)));
            lines.push(nothing);
        }
        lines
    };
    if rows < PANEL {
        return Vec::new();
    }
    if columns < BESIDE {
        let seen: Vec<_> = measures.iter().filter(|measure| measure.total.count() > 0).collect();
        let shown = (rows / PANEL).clamp(1, seen.len().max(1));
        return seen.into_iter().take(shown).flat_map(|measure| panel(measure, columns, rows / shown)).collect();
    }
    let width = (columns - margin(columns) - 2 * GAP) / measures.len();
    let drawn = measures.map(|measure| panel(&measure, width, rows));
    let height = drawn.iter().map(Vec::len).max().unwrap_or(0);
    let row = |row: usize| {
        let mut line = Line::new();
        for (place, lines) in drawn.iter().enumerate() {
            line.pad_to(place * (width + GAP));
            if let Some(part) = lines.get(row) {
                line.append(part);
            }
        }
        line
    };
    (0..height).map(row).collect()
}

/// The models by count, in at most `rows` rows, the heading included; empty when there is none or no room.
fn table_of_models(calls: &Calls, columns: usize, rows: usize, look: Look) -> Vec<Line> {
    let models = &calls.models;
    if rows < 2 || models.is_empty() {
        return Vec::new();
    }
    let columns = columns - margin(columns);
    let services: Vec<&str> = models.iter().filter_map(|row| Some(row.name.as_ref()?.service.as_str())).collect();
    let several = services.iter().any(|service| *service != services[0]);
    let (chosen, spare) = choose(&MODELS, columns.saturating_sub((columns * 3 / 10).max(16)));
    let numbers_width: usize = chosen.iter().map(|index| MODELS[*index].width + spare).sum();
    let label_width = columns.saturating_sub(numbers_width);
    let shown = models.len().min(rows - 1);
    let title =
        if shown < models.len() { format!(" model ({shown} of {})", models.len()) } else { " model".to_owned() };
    let mut heading = Line::new();
    heading.push_left(Ink::Dim, &title, label_width);
    for index in &chosen {
        heading.push_right(Ink::Dim, MODELS[*index].title, MODELS[*index].width + spare);
    }
    let mut lines = vec![heading];
    for row in models.iter().take(shown) {
        let name = row
            .name
            .as_ref()
            .map_or_else(|| "(all other models)".to_owned(), |name| called(name, several, look.glyphs));
        let mut line = Line::new();
        let name = fit_middle(&name, label_width.saturating_sub(2), look.glyphs);
        line.push_left(Ink::Plain, &format!(" {name}"), label_width);
        let cells = model_cells(row, look.glyphs);
        for index in &chosen {
            let (ink, text) = &cells[*index];
            line.push_right(*ink, text, MODELS[*index].width + spare);
        }
        lines.push(line);
    }
    lines
}

/// How a model's row is called.
fn called(name: &ModelName, services: bool, glyphs: Glyphs) -> String {
    let mut text = String::new();
    if services {
        text.push_str(&name.service);
        text.push(' ');
    }
    if name.side == Side::Client {
        text.push_str(match glyphs {
            Glyphs::Unicode => "→ ",
            Glyphs::Ascii => "> ",
        });
        text.push_str(&name.server);
        text.push(' ');
    }
    text.push_str(&name.model);
    match name.operation {
        Operation::Chat => {}
        Operation::TextCompletion => text.push_str(" (completion)"),
        Operation::Embeddings => text.push_str(" (embeddings)"),
    }
    printable(&text, glyphs)
}

/// A cell's ink and text for each of [`MODELS`].
fn model_cells(row: &ModelRow, glyphs: Glyphs) -> [(Ink, String); 7] {
    let ModelRow { ends, speeds, .. } = row;
    let time = |value: Option<Nanos>| {
        let absent = || (Ink::Dim, numbers::absent(glyphs).to_owned());
        value.map_or_else(absent, |value| (Ink::Plain, numbers::time(value, glyphs)))
    };
    let rate = speeds
        .rate
        .reached_by(0.5)
        .map_or_else(|| (Ink::Dim, numbers::absent(glyphs).to_owned()), |rate| (Ink::Plain, numbers::rate(rate)));
    let failed = Ends::get(ends, CallOutcome::Failed);
    [
        (Ink::Plain, numbers::count(ends.all())),
        time(speeds.first_token.quantile(0.5)),
        time(speeds.first_token.quantile(0.99)),
        time(speeds.inter_token.quantile(0.5)),
        time(speeds.inter_token.quantile(0.99)),
        rate,
        (failure_ink(failed, Ink::Error), numbers::count(failed)),
    ]
}
