//! What a section found: tables for people, numbers for machines, and goals with what was reached.

use std::fmt::{self, Display, Formatter};
use std::fs;

use serde_json::{Value, json};

/// A table with a column of names and columns of numbers.
pub(super) struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self { title: title.into(), head: head.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.head.len();
        let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        let width =
            |column: usize| self.rows.iter().chain([&self.head]).map(|row| cell(row, column)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        writeln!(f, "\n{}", self.title)?;
        for row in [&self.head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, numbers to the right.
                let text = if column == 0 { format!("  {cell:<width$}") } else { format!("  {cell:>width$}") };
                line.push_str(&text);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Whether missing a goal is a matter of the machine, or of right and wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It depends on the machine and its noise.
    Measure,
    /// It has to be so on every machine.
    Exact,
}

/// A goal and what was reached.
pub(super) struct Verdict {
    kind: Kind,
    goal: String,
    got: String,
    met: bool,
}

/// What a section found.
pub(super) struct Report {
    title: &'static str,
    tables: Vec<Table>,
    notes: Vec<String>,
    verdicts: Vec<Verdict>,
    numbers: Value,
}

impl Report {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, tables: Vec::new(), notes: Vec::new(), verdicts: Vec::new(), numbers: json!({}) }
    }

    pub(super) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(super) fn verdict(&mut self, kind: Kind, goal: impl Into<String>, got: impl Into<String>, met: bool) {
        self.verdicts.push(Verdict { kind, goal: goal.into(), got: got.into(), met });
    }

    pub(super) fn number(&mut self, name: &str, value: impl Into<Value>) {
        self.numbers[name] = value.into();
    }

    /// Whether anything was held against a goal.
    pub(super) fn measured(&self) -> bool {
        !self.verdicts.is_empty()
    }

    /// How many goals were met, and how many missed.
    pub(super) fn met_and_missed(&self) -> (usize, usize) {
        let met = self.verdicts.iter().filter(|verdict| verdict.met).count();
        (met, self.verdicts.len() - met)
    }

    /// Goals of right and wrong that were missed.
    pub(super) fn wrong(&self) -> Vec<String> {
        let wrong = self.verdicts.iter().filter(|verdict| verdict.kind == Kind::Exact && !verdict.met);
        wrong.map(|verdict| format!("{}: {}", verdict.goal, verdict.got)).collect()
    }

    pub(super) fn to_json(&self, quick: bool) -> Value {
        let verdicts: Vec<Value> = self
            .verdicts
            .iter()
            .map(|verdict| json!({"goal": verdict.goal, "got": verdict.got, "met": verdict.met}))
            .collect();
        let tables: Vec<Value> = self
            .tables
            .iter()
            .map(|table| json!({"title": table.title, "head": table.head, "rows": table.rows}))
            .collect();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        json!({
            "section": self.title,
            "quick": quick,
            "machine": {"kernel": kernel.trim(), "processors": processors},
            "verdicts": verdicts,
            "numbers": self.numbers,
            "tables": tables,
            "notes": self.notes,
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n== {}", self.title)?;
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))?;
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))?;
        if !self.verdicts.is_empty() {
            writeln!(f)?;
        }
        self.verdicts.iter().try_for_each(|verdict| {
            let word = if verdict.met { "met   " } else { "MISSED" };
            writeln!(f, "  {word}  {}: {}", verdict.goal, verdict.got)
        })
    }
}

/// Seconds in a unit that suits them.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds.abs() {
        long if long >= 1.0 => format!("{seconds:.2} s"),
        middle if middle >= 1e-2 => format!("{:.2} ms", seconds * 1e3),
        short if short >= 1e-4 => format!("{:.3} ms", seconds * 1e3),
        _ => format!("{:.1} µs", seconds * 1e6),
    }
}

/// A share as per cent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Nanoseconds, or a dash where nothing was measured.
pub(super) fn nanoseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let mut table = Table::new("Costs", &["way", "ns"]);
        table.row(vec!["none".to_owned(), "5".to_owned()]);
        table.row(vec!["everything".to_owned(), "1200".to_owned()]);
        assert_eq!(table.to_string(), "\nCosts\n  way           ns\n  none           5\n  everything  1200\n");
    }

    #[test]
    fn only_what_is_exact_can_be_wrong() {
        let mut report = Report::new("x");
        report.verdict(Kind::Measure, "fast", "slow", false);
        assert!(report.wrong().is_empty());
        report.verdict(Kind::Exact, "lost = 0", "lost 3", false);
        assert_eq!(report.wrong(), ["lost = 0: lost 3"]);
        report.verdict(Kind::Measure, "small", "small", true);
        assert_eq!(report.met_and_missed(), (1, 2));
        assert!(report.to_string().contains("MISSED  fast: slow"));
    }

    #[test]
    fn seconds_have_a_unit_that_suits() {
        assert_eq!(seconds(1.5), "1.50 s");
        assert_eq!(seconds(0.0123), "12.30 ms");
        assert_eq!(seconds(-0.000_25), "-0.250 ms");
        assert_eq!(seconds(0.000_02), "20.0 µs");
    }
}
