//! Latency as the probe sees it, held against clocks inside the server and the client for the same requests.

use std::fmt::{self, Display, Formatter};
use std::fs;

use anyhow::{Context, Result};
use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::truth::Truth;
use serde_json::{Value, json};

use super::report::{Kind, Report, Table, percent, seconds};
use super::stage::{Histogram, Server, Stage, result};
use crate::sh::workspace;

/// A difference below either is as good as none.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) seconds: f64,
    /// Of the duration itself.
    pub(super) share: f64,
}

impl Limit {
    const PLAIN: Self = Self { seconds: 100e-6, share: 0.02 };
}

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} µs", self.seconds * 1e6)?;
        if self.share > 0.0 { write!(f, " or {:.0} %", self.share * 100.0) } else { Ok(()) }
    }
}

pub(super) const HEAD: [&str; 8] = ["requests", "by", "count", "its p50", "probe − it", "", "its p99", "probe − it"];

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("true: the probe's latency against clocks inside");
    server_side(stage, &mut report)?;
    client_side(stage, &mut report)?;
    report.note(
        "The histogram's own buckets are part of the differences: their middles are within 3 % of what is in them.",
    );
    Ok(report)
}

/// A name, a path, and how it is asked for.
type Case = (&'static str, &'static str, &'static [&'static str], u32);

const CASES: [Case; 5] = [
    ("instant, 200/s", "/fast", &["-c", "8", "-q", "200"], 3000),
    ("5 ms, 200/s", "/slow?ms=5", &["-c", "8", "-q", "200"], 3000),
    ("50 ms, 100/s", "/slow?ms=50", &["-c", "16", "-q", "100"], 1500),
    ("instant, saturated", "/fast", &["-c", "64"], 40_000),
    ("5 ms, saturated", "/slow?ms=5", &["-c", "64"], 20_000),
];

fn server_side(stage: &Stage, report: &mut Report) -> Result<()> {
    let mut table = Table::new("Server side", &HEAD);
    for (name, path, options, count) in CASES {
        let clock = workspace().join("target/bench/clock.json");
        let mut server = stage.serve(&["--clock", &clock.display().to_string()]);
        let histogram = Histogram::attach(server.process.pid(), "server");
        let count = stage.scaled(count);
        let load = stage.load(&server, path, &[options, &["-n", &count.to_string()]].concat())?;
        let frame = histogram.finish(u64::from(count))?;
        // Uvicorn ends by SIGTERM's own hand when it was told so; by an interrupt it returns.
        server.process.stop(libc::SIGINT, PATIENCE);
        let text = fs::read_to_string(&clock).with_context(|| format!("cannot read {}", clock.display()))?;
        let clocks: Value = serde_json::from_str(&text).context("the clock wrote no JSON")?;
        for place in ["middleware", "protocol"] {
            let durations = clocks[place].as_array().with_context(|| format!("no clock at the {place}"))?;
            let truth = Truth { durations: durations.iter().filter_map(Value::as_f64).collect(), ..Truth::default() };
            let inside = Inside { name, by: place, limit: Some(Limit::PLAIN) };
            inside.compare(&truth, &frame, &mut table, report)?;
        }
        let outside = [load.p50, load.p99].map(seconds);
        table.row(vec![
            name.to_owned(),
            "(oha's clock)".to_owned(),
            load.total().to_string(),
            outside[0].clone(),
            String::new(),
            String::new(),
            outside[1].clone(),
        ]);
    }
    report.table(table);
    Ok(())
}

fn client_side(stage: &Stage, report: &mut Report) -> Result<()> {
    let mut table = Table::new("Client side", &HEAD);
    let server = stage.serve(&[]);
    for (name, ask, rate) in [("instant, 200/s", "/fast", "200"), ("5 ms, 200/s", "/slow?ms=5", "200")] {
        let truth = compiled_client(stage, &server, ask, rate)?;
        let inside = Inside { name, by: "a compiled client", limit: Some(Limit::PLAIN) };
        inside.compare(&truth.0, &truth.1, &mut table, report)?;
    }
    for library in ["aiohttp", "httpx", "requests"] {
        let (truth, frame) = python_client(stage, &server, library)?;
        let inside = Inside { name: "mixed, one at a time", by: library, limit: None };
        inside.compare(&truth, &frame, &mut table, report)?;
    }
    report.table(table);
    report
        .note("A library's own clock counts in what it does before the first byte leaves and after the last has come.");
    Ok(())
}

fn compiled_client(stage: &Stage, server: &Server, ask: &str, rate: &str) -> Result<(Truth, Value)> {
    let count = stage.scaled(3000);
    let mut command = stage.peer();
    command.args(["load", &format!("127.0.0.1:{}", server.port), "--ask", ask, "-c", "8", "--rate", rate]);
    command.args(["-n", &count.to_string(), "--warm-up", "1", "--durations"]);
    let mut client = Process::start("the client", &mut command);
    watched(&mut client, u64::from(count), false)
        .and_then(|(value, frame)| Ok((Truth::from_json(value.last().context("no truth")?)?, frame)))
}

fn python_client(stage: &Stage, server: &Server, library: &str) -> Result<(Truth, Value)> {
    let count = stage.scaled(900);
    let mut command = stage.script("client.py");
    command.args([library, "--port", &server.port.to_string(), "--requests", &count.to_string()]);
    command.args(["--concurrency", "1"]);
    let mut client = Process::start(library, &mut command);
    let (lines, frame) = watched(&mut client, u64::from(count), true)?;
    let durations = lines.iter().filter_map(|line| line["seconds"].as_f64()).collect();
    Ok((Truth { durations, ..Truth::default() }, frame))
}

/// Watches a client that says `ready`, from then until it is through, and returns what it and the histogram say.
pub(super) fn watched(client: &mut Process, count: u64, lingers: bool) -> Result<(Vec<Value>, Value)> {
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let histogram = Histogram::attach(client.pid(), "client");
    client.tell("go");
    if lingers {
        client.wait_said(PATIENCE * 10, |line| (line == "done").then_some(()));
        let frame = histogram.finish(count)?;
        client.finish_input();
        let lines = client.said().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        return Ok((lines, frame));
    }
    let value = result(client)?;
    Ok((vec![value], histogram.finish(count)?))
}

/// A clock inside, and what it timed.
pub(super) struct Inside {
    pub(super) name: &'static str,
    pub(super) by: &'static str,
    /// The goal, where one is meant for it.
    pub(super) limit: Option<Limit>,
}

impl Inside {
    pub(super) fn compare(&self, truth: &Truth, frame: &Value, table: &mut Table, report: &mut Report) -> Result<()> {
        let Self { name, by, limit } = *self;
        let total = &frame["total"];
        let count = total["count"].as_u64().context("the histogram counts nothing")?;
        let mut cells = vec![name.to_owned(), by.to_owned(), format!("{}/{count}", truth.durations.len())];
        let mut numbers = json!({"requests": truth.durations.len(), "seen": count});
        for (quantile, key) in [(0.5, "p50"), (0.99, "p99")] {
            let theirs = truth.quantile(quantile).context("nothing was timed")?;
            let ours = total[key].as_f64().with_context(|| format!("the histogram has no {key}"))?;
            let difference = ours - theirs;
            let share = difference / theirs;
            if key == "p99" {
                cells.push(String::new());
            }
            cells.extend([seconds(theirs), format!("{} ({})", seconds(difference), percent(share))]);
            numbers[key] = json!({"theirs": theirs, "ours": ours});
            if let Some(limit) = limit {
                let met = difference.abs() <= limit.seconds || share.abs() <= limit.share;
                let got = format!("{} or {}", seconds(difference), percent(share));
                report.verdict(Kind::Measure, format!("{name}, {by}: {key} within {limit}"), got, met);
            }
        }
        table.row(cells);
        report.number(&format!("{name}, {by}"), numbers);
        Ok(())
    }
}
