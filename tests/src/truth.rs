//! What a server or a client counted by itself, and whether the probe's metrics agree with it.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::exposition::Scrape;

/// What exchanges are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The request's method.
    pub method: String,
    /// The route, as [`route`] writes it.
    pub route: String,
    /// The answer's status.
    pub status: u16,
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.method, self.route, self.status)
    }
}

/// The route of a request target, in a form that two writers of templates agree on: without query, and with `{}` for
/// every segment that is a number or a template's variable.
#[must_use]
pub fn route(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let segments = path.split('/').map(|segment| {
        let number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
        if number || (segment.starts_with('{') && segment.ends_with('}')) { "{}" } else { segment }
    });
    segments.collect::<Vec<_>>().join("/")
}

impl Key {
    /// The key without a route where the status says that there is none: whoever tries out paths is not to fill the
    /// metrics with them, so the probe promises no route then.
    #[must_use]
    fn promised(&self) -> Self {
        let route = if matches!(self.status, 404 | 405) { "(none)" } else { &self.route };
        Self { method: self.method.clone(), route: route.into(), status: self.status }
    }
}

/// Counts without a route where the status says that there is none.
#[must_use]
pub fn promised(counts: &BTreeMap<Key, u64>) -> BTreeMap<Key, u64> {
    let mut promised = BTreeMap::new();
    for (key, count) in counts {
        *promised.entry(key.promised()).or_default() += count;
    }
    promised
}

/// Which end of its exchanges a service was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It answered.
    Server,
    /// It asked.
    Client,
}

impl Side {
    /// The value of the label `side`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    /// The histogram of durations.
    #[must_use]
    pub const fn durations(self) -> &'static str {
        match self {
            Self::Server => "http_server_request_duration_seconds",
            Self::Client => "http_client_request_duration_seconds",
        }
    }
}

/// Counts and times that somebody other than the probe took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// Whole exchanges.
    pub requests: BTreeMap<Key, u64>,
    /// Bytes of all requests, when they were counted.
    pub request_bytes: Option<u64>,
    /// Bytes of all answers, when they were counted.
    pub response_bytes: Option<u64>,
    /// Exchanges that did not come to their end.
    pub failed: u64,
    /// How long it all took, in seconds.
    pub seconds: f64,
    /// Duration of each exchange, in seconds, in no order; empty when nobody took them.
    pub durations: Vec<f64>,
}

impl Truth {
    /// Counts `count` exchanges.
    pub fn add(&mut self, method: &str, target: &str, status: u16, count: u64) {
        let key = Key { method: method.into(), route: route(target), status };
        *self.requests.entry(key).or_default() += count;
    }

    /// Counts what `other` counted, too. Bytes stay known only where both know them.
    pub fn merge(&mut self, other: &Self) {
        for (key, count) in &other.requests {
            *self.requests.entry(key.clone()).or_default() += count;
        }
        self.request_bytes = self.request_bytes.zip(other.request_bytes).map(|(a, b)| a + b);
        self.response_bytes = self.response_bytes.zip(other.response_bytes).map(|(a, b)| a + b);
        self.failed += other.failed;
        self.seconds += other.seconds;
        self.durations.extend_from_slice(&other.durations);
    }

    /// How many whole exchanges.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// The duration that the share `quantile` of exchanges did not exceed, in seconds; none when nobody took them.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that fits memory"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let mut sorted = self.durations.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    /// The mean duration in seconds; none when nobody took them.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a count of exchanges")]
    pub fn mean(&self) -> Option<f64> {
        (!self.durations.is_empty()).then(|| self.durations.iter().sum::<f64>() / self.durations.len() as f64)
    }

    /// As one JSON object; `durations` are summed up as quantiles, and left out when `every` is not set.
    #[must_use]
    pub fn to_json(&self, every: bool) -> Value {
        let requests = self.requests.iter().map(
            |(key, count)| json!({"method": key.method, "route": key.route, "status": key.status, "count": count}),
        );
        let mut value = json!({
            "requests": requests.collect::<Vec<_>>(),
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
            "failed": self.failed,
            "seconds": self.seconds,
            "latency": {
                "mean": self.mean(),
                "p50": self.quantile(0.5),
                "p90": self.quantile(0.9),
                "p99": self.quantile(0.99),
                "p99.9": self.quantile(0.999),
                "max": self.quantile(1.0),
            },
        });
        if every {
            value["durations"] = json!(self.durations);
        }
        value
    }

    /// Reads what [`Truth::to_json`] wrote.
    ///
    /// # Errors
    /// When a count is missing or is no number.
    pub fn from_json(value: &Value) -> Result<Self> {
        let mut truth = Self {
            request_bytes: value["request_bytes"].as_u64(),
            response_bytes: value["response_bytes"].as_u64(),
            failed: value["failed"].as_u64().context("no \"failed\"")?,
            seconds: value["seconds"].as_f64().unwrap_or(0.0),
            durations: value["durations"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect(),
            ..Self::default()
        };
        for entry in value["requests"].as_array().context("no \"requests\"")? {
            let status = entry["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            truth.add(
                entry["method"].as_str().context("no \"method\"")?,
                entry["route"].as_str().context("no \"route\"")?,
                status.context("no \"status\"")?,
                entry["count"].as_u64().context("no \"count\"")?,
            );
        }
        Ok(truth)
    }
}

/// What the probe counted of `service`, by the same key as the truth; empty until it has seen an exchange.
#[must_use]
pub fn counted(scrape: &Scrape, service: &str, side: Side) -> BTreeMap<Key, u64> {
    let name = format!("{}_count", side.durations());
    let mut counts = BTreeMap::new();
    for sample in scrape.try_matching(&name, &[("service", service)]) {
        // Exchanges that were cut short before their answer have no status.
        let status = sample.label("http_response_status_code").parse().unwrap_or(0);
        let method = sample.label("http_request_method").to_owned();
        let key = Key { method, route: route(sample.label("http_route")), status };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole")]
        let count = sample.value as u64;
        *counts.entry(key).or_default() += count;
    }
    counts
}

/// Where something can be lost: the values of the label `where` of `miku_probe_lost_total`.
const PLACES: [&str; 5] = ["capture", "parser", LEFT_OUT, "ring", "table"];

/// Of these, where the kernel leaves programs out, of all processes together, watched or not.
pub const LEFT_OUT: &str = "recursion";

/// How many were lost, by place. The probe counts every place from its start.
///
/// # Panics
/// When it does not count a place, or another one.
#[must_use]
pub fn losses(scrape: &Scrape) -> BTreeMap<String, u64> {
    let losses = scrape.counts_by("miku_probe_lost_total", &[], &["where"]);
    assert_eq!(losses.keys().collect::<Vec<_>>(), PLACES, "the places where something can be lost");
    losses
}

/// Everything in which `scrape` does not agree with `truth`, one line each: counts by method, route and status, bytes
/// where the truth knows them, and losses, which must be 0.
///
/// # Panics
/// When the probe does not say what was lost.
#[must_use]
pub fn disagreements(truth: &Truth, scrape: &Scrape, service: &str, side: Side) -> Vec<String> {
    let mut lines = Vec::new();
    let (told, seen) = (promised(&truth.requests), promised(&counted(scrape, service, side)));
    for (key, count) in &told {
        let got = seen.get(key).copied().unwrap_or(0);
        if got != *count {
            lines.push(format!("{key}: {count} in truth, {got} in the metrics"));
        }
    }
    for (key, count) in seen.iter().filter(|(key, _)| !told.contains_key(*key)) {
        lines.push(format!("{key}: 0 in truth, {count} in the metrics"));
    }
    let bytes = [("request", truth.request_bytes), ("response", truth.response_bytes)];
    for (what, known) in bytes {
        let labels = [("service", service), ("side", side.as_str())];
        match (known, scrape.try_count(&format!("miku_http_{what}_bytes_total"), &labels)) {
            (_, None | Some(0)) if !told.is_empty() => lines.push(format!("{what} bytes: none in the metrics")),
            (Some(bytes), got) if got != Some(bytes) => {
                lines.push(format!("{what} bytes: {bytes} in truth, {got:?} in the metrics"));
            }
            _ => {}
        }
    }
    for (place, lost) in losses(scrape).into_iter().filter(|(_, lost)| *lost > 0) {
        // Where all counts agree, those that the kernel left out were of nobody who is watched.
        if place != LEFT_OUT || !lines.is_empty() {
            lines.push(format!("{lost} lost in {place}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::exposition::Catalogue;

    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
        let bytes =
            |name: &str| json!({"name": name, "type": "counter", "labels": ["service", "side"], "help": "Bytes."});
        let labels = ["service", "http_request_method", "http_route", "http_response_status_code"];
        Catalogue::parse(&json!([
            {"name": "http_server_request_duration_seconds", "type": "histogram", "labels": labels, "help": "Duration.",
                "buckets": [1]},
            bytes("miku_http_request_bytes_total"),
            bytes("miku_http_response_bytes_total"),
            {"name": "miku_probe_lost_total", "type": "counter", "labels": ["where"], "help": "Lost."},
        ]))
        .expect("it is a catalogue")
    });

    fn metrics() -> String {
        let labels =
            "service=\"web\",http_request_method=\"GET\",http_route=\"/items/{id}\",http_response_status_code=\"200\"";
        let family = |name: &str, kind: &str, help: &str| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        let duration = "http_server_request_duration_seconds";
        let mut text = family(duration, "histogram", "Duration.");
        for (name, value) in [("bucket{le=\"1\",", "3"), ("bucket{le=\"+Inf\",", "3"), ("sum{", "0.5"), ("count{", "3")]
        {
            text += &format!("{duration}_{name}{labels}}} {value}\n");
        }
        for (what, bytes) in [("request", 300), ("response", 600)] {
            let name = format!("miku_http_{what}_bytes_total");
            text += &family(&name, "counter", "Bytes.");
            text += &format!("{name}{{service=\"web\",side=\"server\"}} {bytes}\n");
        }
        text += &family("miku_probe_lost_total", "counter", "Lost.");
        text += &PLACES.map(|place| format!("miku_probe_lost_total{{where=\"{place}\"}} 0\n")).concat();
        text
    }

    fn truth() -> Truth {
        let mut truth = Truth { request_bytes: Some(300), response_bytes: Some(600), ..Truth::default() };
        truth.add("GET", "/items/1?q", 200, 2);
        truth.add("GET", "/items/2", 200, 1);
        truth
    }

    fn compared(truth: &Truth, metrics: &str) -> Vec<String> {
        let scrape = Scrape::parse(metrics, &CATALOGUE).unwrap_or_else(|error| panic!("{error:#}:\n{metrics}"));
        disagreements(truth, &scrape, "web", Side::Server)
    }

    #[test]
    fn agreement_is_silent() {
        assert_eq!(compared(&truth(), &metrics()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_told() {
        let metrics = metrics();
        let mut more = truth();
        more.add("GET", "/items/9", 200, 1);
        assert_eq!(compared(&more, &metrics).len(), 1);
        let mut other = truth();
        other.add("POST", "/", 200, 1);
        assert_eq!(compared(&other, &metrics).len(), 1);
        assert_eq!(compared(&truth(), &metrics.replace("GET", "HEAD")).len(), 2);
        assert_eq!(compared(&truth(), &metrics.replace(" 600", " 601")).len(), 1);
        assert_eq!(compared(&truth(), &metrics.replace("ring\"} 0", "ring\"} 1")).len(), 1);
        let left_out = metrics.replace("recursion\"} 0", "recursion\"} 1");
        assert_eq!(compared(&truth(), &left_out), Vec::<String>::new());
        assert_eq!(compared(&more, &left_out).len(), 2);
    }

    #[test]
    fn absence_is_a_difference() {
        let without = |start: &str| {
            let kept =
                metrics().lines().filter(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect();
            assert_ne!(kept, metrics(), "no line starts with {start}");
            kept
        };
        let unknown = Truth { request_bytes: None, response_bytes: None, ..truth() };
        for truth in [truth(), unknown] {
            let no_bytes: String = without("miku_http_response_bytes_total");
            assert_eq!(compared(&truth, &no_bytes), ["response bytes: none in the metrics"]);
            assert_eq!(compared(&truth, &metrics().replace(" 300", " 0")), ["request bytes: none in the metrics"]);
            assert_eq!(compared(&truth, &without("http_server")).len(), 1);
        }
    }

    #[test]
    #[should_panic(expected = "the places where something can be lost")]
    fn every_place_says_what_was_lost() {
        let _ = compared(&truth(), &metrics().replace("miku_probe_lost_total{where=\"table\"} 0\n", ""));
    }

    #[test]
    fn json_there_and_back() {
        let mut truth = truth();
        truth.durations = vec![0.1, 0.3, 0.2];
        assert_eq!(Truth::from_json(&truth.to_json(true)).expect("what it wrote"), truth);
        assert!((truth.quantile(0.5).expect("three of them") - 0.2).abs() < 1e-12);
        assert!((truth.quantile(1.0).expect("three of them") - 0.3).abs() < 1e-12);
    }
}
