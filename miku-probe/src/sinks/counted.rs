//! A histogram whose values somebody else has counted already: it takes counts by bucket instead of values one by one.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::Opts;
use prometheus::core::Metric;
use prometheus::proto::{self, Bucket, LabelPair, MetricType};

use super::families::Series;

/// Such a histogram; clones share it.
#[derive(Clone)]
pub(super) struct CountedHistogram {
    labels: Vec<LabelPair>,
    bounds: Arc<[f64]>,
    state: Arc<Mutex<State>>,
}

struct State {
    /// One more than there are bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl CountedHistogram {
    /// Adds values that together are `sum`: `counts` of them by bucket, the last of which is above all bounds.
    pub(super) fn add(&self, counts: &[u64], sum: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (count, more) in state.counts.iter_mut().zip(counts) {
            *count += more;
        }
        state.sum += sum;
    }
}

impl Metric for CountedHistogram {
    fn metric(&self) -> proto::Metric {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0;
        let buckets = self.bounds.iter().zip(&state.counts).map(|(bound, count)| {
            total += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(total);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_sum(state.sum);
        histogram.set_sample_count(state.counts.iter().sum());
        let mut metric = proto::Metric::from_label(self.labels.clone());
        metric.set_histogram(histogram);
        metric
    }
}

impl Series for CountedHistogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn build(opts: Opts, buckets: &[f64]) -> prometheus::Result<Self> {
        let mut labels: Vec<_> = opts
            .const_labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.clone());
                pair.set_value(value.clone());
                pair
            })
            .collect();
        labels.sort_by(|one, other| one.name().cmp(other.name()));
        let state = State { counts: vec![0; buckets.len() + 1], sum: 0.0 };
        Ok(Self { labels, bounds: buckets.into(), state: Arc::new(Mutex::new(state)) })
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::sinks::families::Family;

    #[test]
    fn counts_are_shown_as_those_of_any_histogram() {
        let family = Family::<CountedHistogram, 1>::new("test_seconds", "Help.", ["label"], &[0.5, 1.0]);
        let series = family.get(["a"]);
        series.add(&[3, 0, 1], 7.0);
        family.get(["a"]).add(&[0, 2, 0], 1.5);
        let registry = Registry::new();
        registry.register(Box::new(family)).expect("nothing else is registered");
        assert_eq!(
            TextEncoder::new().encode_to_string(&registry.gather()).expect("a String takes all"),
            "# HELP test_seconds Help.\n\
             # TYPE test_seconds histogram\n\
             test_seconds_bucket{label=\"a\",le=\"0.5\"} 3\n\
             test_seconds_bucket{label=\"a\",le=\"1\"} 5\n\
             test_seconds_bucket{label=\"a\",le=\"+Inf\"} 6\n\
             test_seconds_sum{label=\"a\"} 8.5\n\
             test_seconds_count{label=\"a\"} 6\n"
        );
    }
}
