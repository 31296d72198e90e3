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

/// What the probe counted of `service`, by the same key as the truth.
#[must_use]
pub fn counted(scrape: &Scrape, service: &str, side: Side) -> BTreeMap<Key, u64> {
    let name = format!("{}_count", side.durations());
    let mut counts = BTreeMap::new();
    for sample in scrape.matching(&name, &[("service", service)]) {
        let status = sample.label("http_response_status_code").parse().unwrap_or(0);
        let method = sample.label("http_request_method").to_owned();
        let key = Key { method, route: route(sample.label("http_route")), status };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole")]
        let count = sample.value as u64;
        *counts.entry(key).or_default() += count;
    }
    counts
}

/// Everything in which `scrape` does not agree with `truth`, one line each: counts by method, route and status, bytes
/// where the truth knows them, and losses, which must be 0.
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
        let got = scrape.count(&format!("miku_http_{what}_bytes_total"), &labels);
        if let Some(bytes) = known.filter(|bytes| *bytes != got) {
            lines.push(format!("{what} bytes: {bytes} in truth, {got} in the metrics"));
        }
    }
    for sample in scrape.matching("miku_probe_lost_total", &[]).filter(|sample| sample.value != 0.0) {
        // The kernel counts the calls it did not show for all processes together, watched or not. Where all counts agree,
        // those were nobody's.
        if sample.label("where") != "recursion" || !lines.is_empty() {
            lines.push(format!("{} lost in {}", sample.value, sample.label("where")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = concat!(
        "# TYPE http_server_request_duration_seconds histogram\n",
        "http_server_request_duration_seconds_count{service=\"web\",http_request_method=\"GET\",",
        "http_route=\"/items/{id}\",http_response_status_code=\"200\"} 3\n",
        "# TYPE miku_http_request_bytes_total counter\n",
        "miku_http_request_bytes_total{service=\"web\",side=\"server\"} 300\n",
        "# TYPE miku_http_response_bytes_total counter\n",
        "miku_http_response_bytes_total{service=\"web\",side=\"server\"} 600\n",
        "# TYPE miku_probe_lost_total counter\nmiku_probe_lost_total{where=\"ring\"} 0\n"
    );

    fn truth() -> Truth {
        let mut truth = Truth { request_bytes: Some(300), response_bytes: Some(600), ..Truth::default() };
        truth.add("GET", "/items/1?q", 200, 2);
        truth.add("GET", "/items/2", 200, 1);
        truth
    }

    fn compared(truth: &Truth, metrics: &str) -> Vec<String> {
        disagreements(truth, &Scrape::parse(metrics).expect("good metrics"), "web", Side::Server)
    }

    #[test]
    fn agreement_is_silent() {
        assert_eq!(compared(&truth(), METRICS), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_told() {
        let mut more = truth();
        more.add("GET", "/items/9", 200, 1);
        assert_eq!(compared(&more, METRICS).len(), 1);
        let mut other = truth();
        other.add("POST", "/", 200, 1);
        assert_eq!(compared(&other, METRICS).len(), 1);
        assert_eq!(compared(&truth(), &METRICS.replace("GET", "HEAD")).len(), 2);
        assert_eq!(compared(&truth(), &METRICS.replace(" 600", " 601")).len(), 1);
        assert_eq!(compared(&truth(), &METRICS.replace("ring\"} 0", "ring\"} 1")).len(), 1);
        let elsewhere = METRICS.replace("ring\"} 0", "recursion\"} 1");
        assert_eq!(compared(&truth(), &elsewhere), Vec::<String>::new());
        assert_eq!(compared(&more, &elsewhere).len(), 2);
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
