//! What is true of plain HTTP must be true inside TLS: exchanges counted exactly, timed truly, and little added to the
//! target's calls.

mod cost;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{self, Python};
use miku_probe_tests::harness::secure::{self, SecureServer, host};
use miku_probe_tests::harness::{PATIENCE, client, eventually};
use miku_probe_tests::truth::{Side, Truth, counted, disagreements, promised};
use serde_json::{Value, json};

use super::report::{Kind, Report, Table};
use super::stage::Stage;
use super::truth::{HEAD, Inside, Limit, watched};

/// How long one client may take for its share of the requests.
const WORK: Duration = Duration::from_secs(600);

/// Requests of all clients together.
const REQUESTS: u32 = 50_000;

/// The ways of Python programs to HTTPS that share the requests, with what their client is told.
const STACKS: [(&str, &[&str]); 4] =
    [("aiohttp", &[]), ("uvloop", &[]), ("requests", &["--threads", "8"]), ("httpx", &[])];

/// What is between what a client timed and what the probe did, at most. In proportion nothing is allowed.
const LIMIT: Limit = Limit { seconds: 150e-6, share: 0.0 };

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("tls: exchanges inside TLS");
    let minors: Vec<u8> = python::minors().collect();
    let (oldest, newest) = minors.first().zip(minors.last()).context("there is no CPython that speaks TLS")?;
    let mut versions = vec![*oldest, *newest];
    versions.dedup();
    exact(stage, &versions, &mut report)?;
    let python = client::environment(*newest)?;
    truth(stage, &python, &mut report)?;
    cost::measure(stage, &python, &mut report)?;
    Ok(report)
}

/// A client that has made its requests, and what was counted of them.
struct Asked {
    name: String,
    told: Truth,
    seen: u64,
    differences: Vec<String>,
}

fn exact(stage: &Stage, versions: &[u8], report: &mut Report) -> Result<()> {
    let clients = u32::try_from(STACKS.len() * versions.len()).context("a handful")?;
    let each = stage.scaled(REQUESTS) / clients;
    let mut table = Table::new("Requests, a client", &["method, route, status", "the server's log", "probe"]);
    let (mut asked, mut lost, mut unmatched) = (Vec::new(), 0.0, 0.0);
    for minor in versions {
        let server = stage.serve_tls();
        let python = client::environment(*minor)?;
        let mut running: Vec<(String, Process)> = Vec::new();
        for (library, options) in STACKS {
            let name = format!("{library}-3-{minor}");
            let mut command = server.client(&python, library, &host(&name), options);
            running.push((name, Process::start(library, command.args(["--requests", &each.to_string()]))));
        }
        for (_, client) in &running {
            client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        }
        let services: Vec<String> =
            running.iter().map(|(name, client)| format!("{name}=pid:{}", client.pid())).collect();
        let probe = secure::attach(&services.iter().map(String::as_str).collect::<Vec<_>>());
        for (_, client) in &mut running {
            client.tell("go");
        }
        for (name, client) in &running {
            let own = client::counted_by(client, WORK);
            ensure!(own.total() == u64::from(each), "{name} made {} requests of {each}", own.total());
        }
        let served = server.served();
        ensure!(served.names.len() == running.len(), "somebody else asked the server");
        let mut scrape = probe.scrape();
        let agreed =
            |scrape: &Scrape| served.names.iter().all(|(host, told)| compared(host, told, &server, scrape).agrees());
        let _ = eventually(PATIENCE / 4, || {
            scrape = probe.scrape();
            agreed(&scrape).then_some(())
        });
        for (host, told) in &served.names {
            let compared = compared(host, told, &server, &scrape);
            let seen = promised(&counted(&scrape, &compared.name, Side::Client));
            for (key, count) in promised(&told.requests) {
                let seen = seen.get(&key).copied().unwrap_or(0);
                table.row(vec![format!("{}: {key}", compared.name), count.to_string(), seen.to_string()]);
            }
            asked.push(compared);
        }
        lost += scrape.sum("miku_probe_lost_total", &[]);
        unmatched += scrape.try_sum("miku_probe_unmatched_total", &[]).unwrap_or(0.0);
    }
    report.table(table);
    let (total, seen): (u64, u64) =
        (asked.iter().map(|one| one.told.total()).sum(), asked.iter().map(|one| one.seen).sum());
    let differences: Vec<&str> = asked.iter().flat_map(|one| &one.differences).map(String::as_str).collect();
    report.verdict(
        Kind::Exact,
        "counts by name, method, route and status are the server's",
        if differences.is_empty() { format!("all {total} are") } else { differences.join(", ") },
        asked.iter().all(Asked::agrees),
    );
    report.verdict(Kind::Exact, "lost = 0", lost.to_string(), lost == 0.0);
    report.verdict(Kind::Exact, "unmatched = 0", unmatched.to_string(), unmatched == 0.0);
    report.number("exact", json!({"requests": total, "seen": seen, "lost": lost, "unmatched": unmatched}));
    Ok(())
}

impl Asked {
    fn agrees(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What the probe counted of the client that alone asked for `host`.
fn compared(host: &str, told: &Truth, server: &SecureServer, scrape: &Scrape) -> Asked {
    let name = host.split('.').next().unwrap_or(host).to_owned();
    let mut differences = disagreements(told, scrape, &name, Side::Client);
    let port = server.port();
    let labels = [("service", &*name), ("server_address", host), ("server_port", &*port), ("url_scheme", "https")];
    let seen = scrape.try_count(&format!("{}_count", Side::Client.durations()), &labels).unwrap_or(0);
    if seen != told.total() {
        differences.push(format!("{host}: {} in truth, {seen} in the metrics", told.total()));
    }
    Asked { name, told: told.clone(), seen, differences }
}

fn truth(stage: &Stage, python: &Python, report: &mut Report) -> Result<()> {
    let mut table = Table::new("Client side, inside TLS", &HEAD);
    let server = stage.serve_tls();
    let count = stage.scaled(3000);
    for library in ["aiohttp", "requests"] {
        let options = ["--concurrency", "1", "--clock", "--requests", &count.to_string()];
        let mut command = server.client(python, library, &host("clock"), &options);
        let (lines, frame) = watched(&mut Process::start(library, &mut command), u64::from(count), true)?;
        let around = lines.iter().filter_map(|line| line["seconds"].as_f64()).collect();
        let inside = lines.iter().filter_map(|line| line["tls_seconds"].as_array()).flatten();
        let inside = inside.filter_map(Value::as_f64).collect();
        // What the library does outside TLS can be seen by nobody who watches TLS.
        for (by, durations, limit) in
            [("at its calls into TLS", inside, Some(LIMIT)), ("around the library", around, None)]
        {
            let truth = Truth { durations, ..Truth::default() };
            let inside = Inside { name: library, by, limit };
            inside.compare(&truth, &frame, &mut table, report)?;
        }
    }
    report.table(table);
    report.note(
        "A clock around a library counts in what that does before the first byte leaves and after the last came.",
    );
    Ok(())
}
