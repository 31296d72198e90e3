//! Prometheus' text format 0.0.4, read strictly, and queries that fail on anything the probe cannot export.
//!
//! A sum over no series is 0 to Prometheus, so an assertion that something is 0 would pass when its metric was renamed.
//! Here it does not: [`Scrape`] panics on a metric or a label that the probe's own [`Catalogue`] does not have, and its
//! plain queries panic where no series matches. Absence is asserted by [`Scrape::assert_absent`].

mod catalogue;
mod scrape;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

pub use self::catalogue::{Catalogue, Family};
pub use self::scrape::{Sample, Scrape};

/// The suffixes of a histogram's samples.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// One line that carries a value.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    /// The sample's name, `_bucket`, `_sum` and `_count` included.
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A text of the format, of which nothing is known but that it is well formed.
#[derive(Debug, Default)]
struct Exposition {
    /// The samples, in their order.
    lines: Vec<Line>,
    /// The type of every family.
    types: BTreeMap<String, String>,
    /// The help text of every family that has one.
    helps: BTreeMap<String, String>,
}

impl Exposition {
    /// Reads `text`.
    ///
    /// # Errors
    /// When a line is not of the format, a family has no type or comes twice, or a series comes twice.
    fn read(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line does not end");
        let mut exposition = Self::default();
        let mut seen = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            exposition.line(line, &mut seen).with_context(|| format!("line {}: {line:?}", number + 1))?;
        }
        Ok(exposition)
    }

    fn line(&mut self, line: &str, seen: &mut BTreeSet<String>) -> Result<()> {
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix("# TYPE ") {
            let (name, kind) = comment.split_once(' ').context("a TYPE line without a type")?;
            ensure!(
                matches!(kind, "counter" | "gauge" | "histogram" | "summary" | "untyped"),
                "{kind:?} is no type of the format"
            );
            ensure!(self.types.insert(name.into(), kind.into()).is_none(), "family {name} comes twice");
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix("# HELP ") {
            let (name, help) = comment.split_once(' ').context("a HELP line without a text")?;
            ensure!(self.helps.insert(name.into(), unescaped(help)?).is_none(), "the help of {name} comes twice");
            return Ok(());
        }
        if line.starts_with('#') {
            return Ok(());
        }
        let sample = sample(line)?;
        ensure!(self.has_type(&sample.name), "no TYPE line before the sample");
        ensure!(seen.insert(format!("{} {:?}", sample.name, sample.labels)), "the series comes twice");
        self.lines.push(sample);
        Ok(())
    }

    fn has_type(&self, sample: &str) -> bool {
        let with_suffix = |suffix| {
            let family = sample.strip_suffix(suffix)?;
            self.types.get(family).filter(|kind| matches!(kind.as_str(), "histogram" | "summary"))
        };
        self.types.contains_key(sample) || SUFFIXES.into_iter().find_map(with_suffix).is_some()
    }
}

fn sample(line: &str) -> Result<Line> {
    let name_end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(name_end);
    ensure!(is_name(name, true), "{name:?} is no metric name");
    let (labels, rest) =
        if let Some(inside) = rest.strip_prefix('{') { labels(inside)? } else { (BTreeMap::new(), rest) };
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    ensure!(!value.contains(' '), "a time stamp, or something else behind the value");
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().with_context(|| format!("{number:?} is no number"))?,
    };
    Ok(Line { name: name.into(), labels, value })
}

fn is_name(text: &str, colons: bool) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(good)
}

/// Reads labels behind the opening brace; returns them and what follows the closing one.
fn labels(mut text: &str) -> Result<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        if let Some(rest) = text.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, rest) = text.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(name, false), "{name:?} is no label name");
        let (value, rest) = quoted(rest)?;
        ensure!(labels.insert(name.into(), value).is_none(), "label {name} comes twice");
        text = match rest.strip_prefix(',') {
            Some(rest) => rest,
            None if rest.starts_with('}') => rest,
            None => bail!("neither a comma nor a brace behind label {name}"),
        };
    }
}

fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                other => bail!("{other:?} may not be escaped"),
            },
            plain => value.push(plain),
        }
    }
    bail!("a label value does not end")
}

/// A help text as it was meant: quotes are not escaped in it.
fn unescaped(text: &str) -> Result<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => plain.push('\n'),
                Some('\\') => plain.push('\\'),
                other => bail!("{other:?} may not be escaped in a help text"),
            },
            character => plain.push(character),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = concat!(
        "# HELP a_total Things\\n\\\\ \"and\" others.\n# TYPE a_total counter\n",
        "a_total{x=\"1\",y=\"a\\\"\\\\\\n\"} 3\na_total{x=\"2\"} 4\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.25\nh_count 2\n"
    );

    #[test]
    fn reads_well_formed_text() {
        let read = Exposition::read(GOOD).expect("the text is good");
        assert_eq!(read.lines.len(), 5);
        assert_eq!(read.lines[0].labels["y"], "a\"\\\n");
        assert_eq!(read.lines[1].value, 4.0);
        assert_eq!(read.lines[2].labels["le"], "+Inf");
        assert_eq!((read.lines[3].name.as_str(), read.lines[3].value), ("h_sum", 0.25));
        assert_eq!(read.types["h"], "histogram");
        assert_eq!(read.helps["a_total"], "Things\n\\ \"and\" others.");
    }

    #[test]
    fn refuses_malformed_text() {
        for bad in [
            "a 1\n",
            "# TYPE a counter\na 1",
            "# TYPE a counter\na 1\na 1\n",
            "# TYPE a counter\n# TYPE a counter\n",
            "# TYPE a number\n",
            "# HELP a A.\n# HELP a A.\n",
            "# HELP a \\x\n",
            "# TYPE a counter\na{b=\"c\" 1\n",
            "# TYPE a counter\na{b=\"\\t\"} 1\n",
            "# TYPE a counter\na{1b=\"c\"} 1\n",
            "# TYPE a counter\na one\n",
            "# TYPE a counter\na 1 1700000000\n",
            "# TYPE a counter\na_bucket 1\n",
        ] {
            assert!(Exposition::read(bad).is_err(), "{bad:?} was taken");
        }
    }
}
