//! 100,000 requests at saturation over 64 keep-alive connections: the counts by route and status are those of the load
//! generator, and nothing is lost or left over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use miku_probe_tests::harness::eventually;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::truth::{Side, Truth, counted, disagreements, promised};
use serde_json::json;

use super::report::{Kind, Report, Table};
use super::stage::Stage;

/// Method, path, and how many of the requests.
const ASKS: [(&str, &str, u32); 5] = [
    ("GET", "/fast", 40_000),
    ("GET", "/items/7", 20_000),
    ("POST", "/echo", 20_000),
    ("GET", "/status/404", 10_000),
    ("GET", "/status/503", 10_000),
];

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("exact: the probe's counts against the load generator's");
    let server = stage.serve(&[]);
    let probe = Probe::attach(&[&server.service()]);
    let mut truth = Truth::default();
    let start = Instant::now();
    for (method, path, count) in ASKS {
        let count = stage.scaled(count).to_string();
        let mut options = vec!["-n", &count, "-c", "64", "-m", method];
        if method == "POST" {
            options.extend(["-d", "a body of a few bytes"]);
        }
        let load = stage.load(&server, path, &options)?;
        ensure!(load.total().to_string() == count, "oha made {} requests of {count}", load.total());
        for (status, count) in load.statuses {
            truth.add(method, path, status, count);
        }
    }
    let elapsed = start.elapsed().as_secs_f64();

    let mut scrape = probe.scrape();
    let agreed = eventually(Duration::from_secs(5), || {
        scrape = probe.scrape();
        disagreements(&truth, &scrape, "bench", Side::Server).is_empty().then_some(())
    });
    let (told, seen) = (promised(&truth.requests), promised(&counted(&scrape, "bench", Side::Server)));
    let mut table = Table::new("Requests", &["method, route, status", "oha", "probe"]);
    for (key, count) in &told {
        let seen = seen.get(key).copied().unwrap_or(0);
        table.row(vec![key.to_string(), count.to_string(), seen.to_string()]);
    }
    report.table(table);
    let lost = scrape.sum("miku_probe_lost_total", &[]);
    let unmatched = scrape.try_sum("miku_probe_unmatched_total", &[]).unwrap_or(0.0);
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let rate = truth.total() as f64 / elapsed;
    report.note(format!("{} requests in {elapsed:.1} s, {rate:.0} a second", truth.total()));
    let differences = disagreements(&truth, &scrape, "bench", Side::Server);
    report.verdict(
        Kind::Exact,
        "counts by route and status are the generator's",
        if agreed.is_some() { "all are".to_owned() } else { differences.join(", ") },
        agreed.is_some(),
    );
    report.verdict(Kind::Exact, "lost = 0", lost.to_string(), lost == 0.0);
    report.verdict(Kind::Exact, "unmatched = 0", unmatched.to_string(), unmatched == 0.0);
    let numbers = json!({"requests": truth.total(), "seconds": elapsed, "lost": lost, "unmatched": unmatched});
    report.number("exact", numbers);
    Ok(report)
}
