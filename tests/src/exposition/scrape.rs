//! One answer of `/metrics`, and queries of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::catalogue::BOUND;
use super::{Catalogue, Exposition, Family, Line};

/// How many series a message shows where none matches.
const SHOWN: usize = 8;

/// The value of one series.
#[derive(Clone, Debug)]
pub struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    family: &'static Family,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The sample's name, `_bucket`, `_sum` and `_count` included.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The value of a label; empty when the series does not have it, which is the same thing to Prometheus.
    ///
    /// # Panics
    /// When no series of the metric ever has it.
    #[must_use]
    #[track_caller]
    pub fn label(&self, label: &str) -> &str {
        let Self { name, family, .. } = self;
        assert!(family.has_label(name, label), "{name} has no label {label:?}; it has {:?}", family.labels());
        self.value_of(label)
    }

    fn value_of(&self, label: &str) -> &str {
        self.labels.get(label).map_or("", String::as_str)
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(label, value)| self.value_of(label) == *value)
    }
}

/// One answer of `/metrics`. Every query panics on a metric or a label that the probe does not export: on a typo, and on
/// whatever was renamed.
#[derive(Clone, Debug)]
pub struct Scrape {
    samples: Vec<Sample>,
    catalogue: &'static Catalogue,
}

impl Scrape {
    /// Reads a text that the probe with this catalogue exports.
    ///
    /// # Errors
    /// When it is not of the format, or has something that is not in the catalogue or is otherwise there.
    pub fn parse(text: &str, catalogue: &'static Catalogue) -> Result<Self> {
        let exposition = Exposition::read(text)?;
        catalogue.check(&exposition)?;
        let sample = |Line { name, labels, value }: Line| {
            let family = catalogue.of_sample(&name).with_context(|| format!("{name} is of no family"))?;
            Ok(Sample { name, labels, family, value })
        };
        Ok(Self { samples: exposition.lines.into_iter().map(sample).collect::<Result<_>>()?, catalogue })
    }

    /// The samples of this name that have all these labels; a label that is to be absent has the empty value.
    ///
    /// # Panics
    /// When the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn try_matching(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.catalogue.queried(name, labels);
        self.samples.iter().filter(|sample| sample.name() == name && sample.has(labels)).collect()
    }

    /// The samples of this name that have all these labels: one at least.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn matching(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        let samples = self.try_matching(name, labels);
        assert!(!samples.is_empty(), "no series is {name} {labels:?}{}", self.nearest(name, labels));
        samples
    }

    /// The sum over the samples of this name that have all these labels; none where there are none. It is for those who
    /// wait for a series.
    ///
    /// # Panics
    /// When the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn try_sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.try_matching(name, labels).into_iter().map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The sum over the samples of this name that have all these labels: one at least.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).into_iter().map(|sample| sample.value).sum()
    }

    /// [`Scrape::try_sum`] of what counts whole things.
    ///
    /// # Panics
    /// When the sum is no whole number, or the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn try_count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.try_sum(name, labels).map(|sum| whole(sum, name, labels))
    }

    /// [`Scrape::sum`] of what counts whole things.
    ///
    /// # Panics
    /// When the sum is no whole number, or there is nothing to add up.
    #[must_use]
    #[track_caller]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        whole(self.sum(name, labels), name, labels)
    }

    /// The value of the one series of this name that has all these labels, if there is one.
    ///
    /// # Panics
    /// When there are more, or the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn try_value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let samples = self.try_matching(name, labels);
        assert!(samples.len() < 2, "{name} {labels:?} has {} series: {samples:#?}", samples.len());
        samples.first().map(|sample| sample.value)
    }

    /// The value of the one series of this name that has all these labels.
    ///
    /// # Panics
    /// When there are more, or none.
    #[must_use]
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.try_value(name, labels);
        value.unwrap_or_else(|| panic!("no series is {name} {labels:?}{}", self.nearest(name, labels)))
    }

    /// [`Scrape::count`] by the values of `by`, a space between them; empty where no series matches. It is to be compared
    /// with a map that is not empty.
    ///
    /// # Panics
    /// When a count is no whole number, or the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn counts_by(&self, name: &str, labels: &[(&str, &str)], by: &[&str]) -> BTreeMap<String, u64> {
        self.sums_by(name, labels, by).into_iter().map(|(key, sum)| (key, whole(sum, name, labels))).collect()
    }

    /// [`Scrape::sum`] by the values of `by`, a space between them; empty where no series matches.
    ///
    /// # Panics
    /// When the probe exports no such metric or label.
    #[must_use]
    #[track_caller]
    pub fn sums_by(&self, name: &str, labels: &[(&str, &str)], by: &[&str]) -> BTreeMap<String, f64> {
        let named: Vec<_> = by.iter().map(|label| (*label, "")).collect();
        // Buckets have bounds, and none of them is empty.
        assert!(!by.contains(&BOUND), "Scrape::buckets has counts by bound");
        self.catalogue.queried(name, &named);
        let mut sums = BTreeMap::new();
        for sample in self.try_matching(name, labels) {
            let key: Vec<_> = by.iter().map(|label| sample.label(label)).collect();
            *sums.entry(key.join(" ")).or_default() += sample.value;
        }
        sums
    }

    /// The buckets of a histogram, cumulated over the series that have all these labels, from the lowest bound to the
    /// infinite one; none where no series matches.
    ///
    /// # Panics
    /// When the probe exports no such histogram or label.
    #[must_use]
    #[track_caller]
    pub fn try_buckets(&self, histogram: &str, labels: &[(&str, &str)]) -> Option<Vec<(f64, u64)>> {
        let name = format!("{histogram}_bucket");
        let samples = self.try_matching(&name, labels);
        let bounds = self.catalogue.family(histogram).bounds();
        let at = |bound: f64| {
            let bucket = samples.iter().filter(|sample| upper_bound(sample.label(BOUND)) == bound);
            whole(bucket.map(|sample| sample.value).sum(), &name, labels)
        };
        (!samples.is_empty()).then(|| bounds.map(|bound| (bound, at(bound))).collect())
    }

    /// Asserts that no series of this name has all these labels.
    ///
    /// # Panics
    /// When one does, or the probe exports no such metric or label.
    #[track_caller]
    pub fn assert_absent(&self, name: &str, labels: &[(&str, &str)]) {
        let samples = self.try_matching(name, labels);
        assert!(samples.is_empty(), "{name} {labels:?} was to be absent, and is there:{}", lines(samples));
    }

    /// The samples whose names begin so, of whichever metric.
    ///
    /// # Panics
    /// When no metric's name begins so.
    #[must_use]
    #[track_caller]
    pub fn with_prefix(&self, prefix: &str) -> Vec<&Sample> {
        self.catalogue.assert_prefix(prefix);
        self.samples.iter().filter(|sample| sample.name().starts_with(prefix)).collect()
    }

    /// The samples with this label, of whichever metric.
    ///
    /// # Panics
    /// When no metric has such a label.
    #[must_use]
    #[track_caller]
    pub fn with_label(&self, label: &str, value: &str) -> Vec<&Sample> {
        self.catalogue.assert_label(label);
        self.samples.iter().filter(|sample| sample.has(&[(label, value)])).collect()
    }

    /// How many samples there are, of all metrics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether nothing at all is exported.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The samples whose names begin in one of these ways but for buckets, one line each, for a message.
    ///
    /// # Panics
    /// When no metric's name begins in one of these ways.
    #[must_use]
    #[track_caller]
    pub fn show(&self, prefixes: &[&str]) -> String {
        let mut samples = Vec::new();
        for prefix in prefixes {
            samples.extend(self.with_prefix(prefix));
        }
        samples.retain(|sample| !sample.name().ends_with("_bucket"));
        lines(samples)
    }

    /// What there is of a metric, those series first that have most of the labels.
    fn nearest(&self, name: &str, labels: &[(&str, &str)]) -> String {
        let mut samples: Vec<_> = self.samples.iter().filter(|sample| sample.name() == name).collect();
        samples.sort_by_key(|sample| labels.iter().filter(|label| !sample.has(&[**label])).count());
        samples.truncate(SHOWN);
        if samples.is_empty() { "; it has none at all".to_owned() } else { format!("; there are{}", lines(samples)) }
    }
}

/// A bucket's bound, which the catalogue's check has read once.
fn upper_bound(text: &str) -> f64 {
    text.trim_start_matches('+').parse().unwrap_or(f64::NAN)
}

#[track_caller]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and not negative")]
fn whole(sum: f64, name: &str, labels: &[(&str, &str)]) -> u64 {
    assert!(sum >= 0.0 && sum.fract() == 0.0, "{name} {labels:?} is {sum}, which counts nothing whole");
    sum as u64
}

fn lines(samples: Vec<&Sample>) -> String {
    let line = |sample: &Sample| format!("\n  {} {:?} {}", sample.name(), sample.labels(), sample.value);
    samples.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::LazyLock;

    use super::super::catalogue::tests::{EXPORTED, small};
    use super::*;

    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(small);

    fn scrape() -> Scrape {
        Scrape::parse(EXPORTED, &CATALOGUE).expect("all of it is in the catalogue")
    }

    /// The message of the panic that a query ends in.
    fn panics<T>(query: impl FnOnce(&Scrape) -> T) -> String {
        let scrape = scrape();
        let panic = catch_unwind(AssertUnwindSafe(|| drop(query(&scrape)))).expect_err("it was to panic");
        panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .expect("a panic has a message")
    }

    #[test]
    fn adds_up_matching_series() {
        let scrape = scrape();
        assert_eq!(scrape.count("probe_lost_total", &[]), 3);
        assert_eq!(scrape.count("probe_lost_total", &[("place", "ring")]), 0);
        assert_eq!(scrape.count("probe_lost_total", &[("service", "")]), 3);
        assert_eq!(scrape.sum("wait_seconds_sum", &[("service", "bot")]), 7.25);
        assert_eq!(scrape.count("wait_seconds_bucket", &[("le", "1")]), 1);
        assert_eq!(scrape.value("probe_lost_total", &[("place", "table")]), 3.0);
        assert_eq!(scrape.matching("probe_lost_total", &[]).len(), 2);
        assert_eq!(scrape.try_buckets("wait_seconds", &[]), Some(vec![(0.5, 1), (1.0, 1), (f64::INFINITY, 2)]));
        let by_place = [("ring".to_owned(), 0), ("table".to_owned(), 3)];
        assert_eq!(scrape.counts_by("probe_lost_total", &[], &["place"]), BTreeMap::from(by_place));
        assert_eq!(scrape.counts_by("probe_lost_total", &[], &["place", "service"]).get("ring bot"), Some(&0));
        assert_eq!(scrape.with_prefix("wait_").len(), 5);
        assert_eq!(scrape.with_label("service", "bot").len(), 6);
        assert_eq!(scrape.show(&["wait_"]).lines().count(), 1 + 2);
    }

    #[test]
    fn absence_is_no_zero() {
        let scrape = scrape();
        scrape.assert_absent("probe_up", &[]);
        scrape.assert_absent("probe_lost_total", &[("place", "ring"), ("service", "")]);
        assert_eq!(scrape.try_sum("probe_up", &[]), None);
        assert_eq!(scrape.try_count("probe_lost_total", &[("place", "parser")]), None);
        assert_eq!(scrape.try_value("probe_up", &[]), None);
        assert_eq!(scrape.try_buckets("wait_seconds", &[("service", "web")]), None);
        assert_eq!(scrape.counts_by("probe_up", &[], &[]), BTreeMap::new());
        for message in [
            panics(|scrape| scrape.count("probe_lost_total", &[("place", "parser")])),
            panics(|scrape| scrape.sum("probe_lost_total", &[("place", "parser")])),
            panics(|scrape| scrape.matching("probe_lost_total", &[("place", "parser")]).len()),
            panics(|scrape| scrape.value("probe_lost_total", &[("place", "parser")])),
        ] {
            assert!(message.starts_with("no series is probe_lost_total [(\"place\", \"parser\")]"), "{message}");
            assert!(message.contains("\"ring\"") && message.contains("\"table\""), "it shows what there is: {message}");
        }
        assert!(panics(|scrape| scrape.sum("probe_up", &[])).ends_with("it has none at all"));
        let message = panics(|scrape| scrape.assert_absent("probe_lost_total", &[("place", "ring")]));
        assert!(message.contains("was to be absent"), "{message}");
    }

    #[test]
    fn every_query_knows_what_can_be_exported() {
        type Query = fn(&Scrape, &str, &[(&str, &str)]);
        let queries: [Query; 9] = [
            |scrape, name, labels| {
                let _ = scrape.sum(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.try_sum(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.count(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.try_count(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.matching(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.try_matching(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.try_value(name, labels);
            },
            |scrape, name, labels| {
                let _ = scrape.counts_by(name, labels, &[]);
            },
            |scrape, name, labels| scrape.assert_absent(name, labels),
        ];
        for query in queries {
            let message = panics(|scrape| query(scrape, "probe_lots_total", &[]));
            assert!(message.contains("the nearest are probe_lost_total"), "{message}");
            let message = panics(|scrape| query(scrape, "probe_lost_total", &[("where", "ring")]));
            assert!(message.contains("has no label \"where\""), "{message}");
            // A histogram has no samples of its own name, and nothing else has those of a histogram.
            let message = panics(|scrape| query(scrape, "wait_seconds", &[]));
            assert!(message.contains("the nearest are wait_seconds_sum"), "{message}");
            panics(|scrape| query(scrape, "probe_up_sum", &[]));
            panics(|scrape| query(scrape, "wait_seconds_sum", &[("le", "1")]));
            let message = panics(|scrape| query(scrape, "wait_seconds_bucket", &[("le", "2")]));
            assert!(message.contains("has no bound \"2\""), "{message}");
        }
        panics(|scrape| scrape.try_buckets("probe_up", &[]));
        panics(|scrape| scrape.counts_by("probe_up", &[], &["place"]));
        panics(|scrape| scrape.with_prefix("probes_").len());
        panics(|scrape| scrape.with_label("where", "ring").len());
        panics(|scrape| scrape.matching("probe_lost_total", &[])[0].label("where").len());
    }

    #[test]
    fn counts_are_whole_and_values_single() {
        let message = panics(|scrape| scrape.count("wait_seconds_sum", &[]));
        assert!(message.contains("counts nothing whole"), "{message}");
        let message = panics(|scrape| scrape.value("probe_lost_total", &[]));
        assert!(message.contains("has 2 series"), "{message}");
    }
}
