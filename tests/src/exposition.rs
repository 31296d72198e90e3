//! The text format 0.0.4 of Prometheus, read strictly: whatever the format does not allow is an error.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// One line that carries a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The sample's name, `_bucket`, `_sum` and `_count` included.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a label; empty when it is absent, which is the same thing to Prometheus.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

/// One answer of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The samples, in their order.
    pub samples: Vec<Sample>,
    /// The type of every family.
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads `text`.
    ///
    /// # Errors
    /// When a line is not of the format, a family has no type or comes twice, or a series comes twice.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line does not end");
        let mut scrape = Self::default();
        let mut seen = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            scrape.line(line, &mut seen).with_context(|| format!("line {}: {line:?}", number + 1))?;
        }
        Ok(scrape)
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
        if line.starts_with('#') {
            return Ok(());
        }
        let sample = sample(line)?;
        ensure!(self.family(&sample.name).is_some(), "no TYPE line before the sample");
        ensure!(seen.insert(format!("{} {:?}", sample.name, sample.labels)), "the series comes twice");
        self.samples.push(sample);
        Ok(())
    }

    fn family(&self, sample: &str) -> Option<&str> {
        if self.types.contains_key(sample) {
            return self.types.get_key_value(sample).map(|(name, _)| name.as_str());
        }
        ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let (name, kind) = self.types.get_key_value(sample.strip_suffix(suffix)?)?;
            matches!(kind.as_str(), "histogram" | "summary").then_some(name.as_str())
        })
    }

    /// The samples of this name that have all these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// The sum over the samples of this name that have all these labels; 0 when there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).fold(0.0, |sum, value| sum + value)
    }

    /// [`Scrape::sum`] of a counter that counts whole things.
    ///
    /// # Panics
    /// When the sum is no whole number.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and not negative")]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name} {labels:?} is {sum}, which counts nothing whole");
        sum as u64
    }
}

fn sample(line: &str) -> Result<Sample> {
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
    Ok(Sample { name: name.into(), labels, value })
}

fn is_name(text: &str, colons: bool) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(good)
}

/// Reads labels behind the opening brace; tells them and what follows the closing one.
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = concat!(
        "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\",y=\"a\\\"\\\\\\n\"} 3\na_total{x=\"2\"} 4\n",
        "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.25\nh_count 2\n"
    );

    #[test]
    fn reads_what_is_good() {
        let scrape = Scrape::parse(GOOD).expect("the text is good");
        assert_eq!(scrape.samples.len(), 5);
        assert_eq!(scrape.samples[0].label("y"), "a\"\\\n");
        assert_eq!(scrape.count("a_total", &[]), 7);
        assert_eq!(scrape.count("a_total", &[("x", "2")]), 4);
        assert_eq!(scrape.count("a_total", &[("y", "")]), 4);
        assert!((scrape.sum("h_sum", &[]) - 0.25).abs() < f64::EPSILON);
    }

    #[test]
    fn refuses_what_is_not() {
        for bad in [
            "a 1\n",
            "# TYPE a counter\na 1",
            "# TYPE a counter\na 1\na 1\n",
            "# TYPE a counter\n# TYPE a counter\n",
            "# TYPE a number\n",
            "# TYPE a counter\na{b=\"c\" 1\n",
            "# TYPE a counter\na{b=\"\\t\"} 1\n",
            "# TYPE a counter\na{1b=\"c\"} 1\n",
            "# TYPE a counter\na one\n",
            "# TYPE a counter\na 1 1700000000\n",
            "# TYPE a counter\na_bucket 1\n",
        ] {
            assert!(Scrape::parse(bad).is_err(), "{bad:?} was taken");
        }
    }
}
