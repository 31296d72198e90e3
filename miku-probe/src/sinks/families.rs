//! Metric families: one name and one set of labels, and a series for each combination of label values.
//!
//! The vectors of the `prometheus` crate find a series by a hash over its label values run together without a
//! separator, so that (`ab`, `c`) and (`a`, `bc`) are one series to them. Texts off the wire end in labels here, and
//! counts have to be exact, so a family compares whole values. It also leaves out labels whose value is empty, which
//! Prometheus takes for absent, as it says in its data model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc, Metric};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};
use serde::Serialize;

/// What a family is, whether or not it has a series now.
#[derive(Clone, Debug, Serialize)]
pub struct FamilyInfo {
    /// The family's name.
    pub name: &'static str,
    /// What its `# TYPE` says.
    #[serde(rename = "type")]
    pub kind: FamilyKind,
    /// The keys of the labels that a series may have; a label without a value is left out of a series.
    pub labels: Vec<&'static str>,
    /// What its `# HELP` says.
    pub help: &'static str,
    /// A histogram's upper bounds, without the infinite one; empty for other types.
    pub buckets: &'static [f64],
}

/// The types of families that the probe has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they are Prometheus's own")]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
}

impl FamilyKind {
    /// The kind of a protocol buffer's type.
    ///
    /// # Panics
    /// For types that no family of this program has.
    pub(super) fn of(kind: MetricType) -> Self {
        match kind {
            MetricType::COUNTER => Self::Counter,
            MetricType::GAUGE => Self::Gauge,
            MetricType::HISTOGRAM => Self::Histogram,
            other => panic!("no family of this program is a {other:?}"),
        }
    }

    /// The word, as the text format has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A kind of metric that a family can hold.
pub(super) trait Series: Metric + 'static {
    /// What the family's `# TYPE` says.
    const TYPE: MetricType;

    /// A series of its own. `buckets` are a histogram's upper bounds; other kinds have none.
    fn build(opts: Opts, buckets: &[f64]) -> prometheus::Result<Self>;
}

impl Series for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn build(opts: Opts, buckets: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(HistogramOpts { common_opts: opts, buckets: buckets.to_vec() })
    }
}

impl Series for IntCounter {
    const TYPE: MetricType = MetricType::COUNTER;

    fn build(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Counter {
    const TYPE: MetricType = MetricType::COUNTER;

    fn build(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;

    fn build(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

impl Series for IntGauge {
    const TYPE: MetricType = MetricType::GAUGE;

    fn build(opts: Opts, _: &[f64]) -> prometheus::Result<Self> {
        Self::with_opts(opts)
    }
}

/// A family of series with `N` labels; clones share the series.
#[derive(Clone)]
pub(super) struct Family<S, const N: usize> {
    inner: Arc<Inner<S, N>>,
}

struct Inner<S, const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    buckets: &'static [f64],
    description: Desc,
    series: Mutex<HashMap<[Box<str>; N], S>>,
}

impl<S: Series, const N: usize> Family<S, N> {
    /// An empty family, which shows nothing until a series is asked for.
    ///
    /// # Panics
    /// When the name or a label is not one that Prometheus allows: they are constants of this program.
    pub(super) fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Self {
        let description = Desc::new(
            name.to_owned(),
            help.to_owned(),
            labels.iter().map(|&label| label.to_owned()).collect(),
            HashMap::new(),
        )
        .unwrap_or_else(|error| panic!("{name} is not a valid family: {error}"));
        let series = Mutex::new(HashMap::new());
        Self { inner: Arc::new(Inner { name, help, labels, buckets, description, series }) }
    }

    /// What the family is.
    pub(super) fn info(&self) -> FamilyInfo {
        let Inner { name, help, labels, buckets, .. } = &*self.inner;
        FamilyInfo { name, kind: FamilyKind::of(S::TYPE), labels: labels.to_vec(), help, buckets }
    }

    /// The series with these label values, a new one at its start value if need be.
    ///
    /// # Panics
    /// When the family's buckets are not in rising order: they are constants of this program.
    pub(super) fn get(&self, values: [&str; N]) -> S {
        let inner = &self.inner;
        let key = values.map(Box::from);
        let mut series = inner.series.lock().unwrap_or_else(PoisonError::into_inner);
        series
            .entry(key)
            .or_insert_with(|| {
                let mut opts = Opts::new(inner.name, inner.help);
                for (label, value) in inner.labels.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
                    opts = opts.const_label(*label, value);
                }
                S::build(opts, inner.buckets)
                    .unwrap_or_else(|error| panic!("{} cannot have a series: {error}", inner.name))
            })
            .clone()
    }

    /// Drops the series with these label values: what it told is not so any more, and nothing else is.
    pub(super) fn remove(&self, values: [&str; N]) {
        self.inner.series.lock().unwrap_or_else(PoisonError::into_inner).remove(&values.map(Box::from));
    }
}

impl<S: Series, const N: usize> Collector for Family<S, N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.inner.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Only handles are copied under the lock, so that a scrape does not hold up whoever needs a new series.
        let series: Vec<S> =
            self.inner.series.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let mut family = MetricFamily::default();
        family.set_name(self.inner.name.to_owned());
        family.set_help(self.inner.help.to_owned());
        family.set_field_type(S::TYPE);
        family.set_metric(series.iter().map(Metric::metric).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;

    #[test]
    fn values_that_read_alike_when_run_together_are_different_series() {
        let family = Family::<IntCounter, 2>::new("test_total", "Help.", ["first", "second"], &[]);
        family.get(["ab", "c"]).inc();
        family.get(["a", "bc"]).inc_by(2);
        family.get(["abc", ""]).inc_by(3);
        family.get(["ab", "c"]).inc_by(10);
        let registry = Registry::new();
        registry.register(Box::new(family)).expect("nothing else is registered");
        assert_eq!(
            TextEncoder::new().encode_to_string(&registry.gather()).expect("a String takes all"),
            "# HELP test_total Help.\n\
             # TYPE test_total counter\n\
             test_total{first=\"abc\"} 3\n\
             test_total{first=\"a\",second=\"bc\"} 2\n\
             test_total{first=\"ab\",second=\"c\"} 11\n"
        );
    }

    #[test]
    fn a_series_that_was_removed_begins_anew() {
        let family = Family::<IntCounter, 1>::new("test_total", "Help.", ["label"], &[]);
        let removed = family.get(["a"]);
        removed.inc();
        family.remove(["a"]);
        family.remove(["b"]);
        assert_eq!(family.collect()[0].get_metric(), []);
        removed.inc();
        assert_eq!(family.get(["a"]).get(), 0);
    }

    #[test]
    fn a_family_without_series_shows_nothing() {
        let registry = Registry::new();
        let family = Family::<Histogram, 1>::new("test_seconds", "Help.", ["label"], &[1.0]);
        registry.register(Box::new(family)).expect("nothing else is registered");
        assert_eq!(registry.gather(), []);
    }
}
