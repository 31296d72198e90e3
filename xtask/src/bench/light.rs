//! What watching costs: throughput of a saturated uvicorn, the programs' own time, and the probe's memory and processor.

mod throughput;

use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median, quartiles};
use serde_json::json;

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, REFRESH, Server, Stage, processor_seconds, result, scheduled_seconds};

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("light: what watching costs");
    let plain = stage.serve(&[]);
    let others = ["prometheus", "otel-metrics", "otel-traces"].map(|name| (name, stage.serve(&["--instrument", name])));
    for server in others.iter().map(|(_, server)| server).chain([&plain]) {
        segment(stage, server)?;
    }
    throughput::measure(stage, &mut report)?;
    instrumented(stage, &plain, &others, &mut report)?;
    let [(_, idle), ..] = &others;
    programs(stage, &plain, idle, &mut report)?;
    drop(others);
    own_use(stage, &plain, &mut report)?;
    Ok(report)
}

/// One load of a server.
#[derive(Clone, Copy)]
struct Segment {
    /// Requests a second.
    rate: f64,
    /// Seconds of the server's processor time a request: less noisy than the rate, for others' work is not in it.
    processor: f64,
}

fn segment(stage: &Stage, server: &Server) -> Result<Segment> {
    let pid = server.process.pid();
    let before = scheduled_seconds(pid)?;
    let load = stage.load(server, "/fast", &["-c", "64", "-z", "1s"])?;
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    Ok(Segment { rate: load.rate, processor: (scheduled_seconds(pid)? - before) / load.total() as f64 })
}

/// Shares of two comparable segments, over all rounds.
#[derive(Default)]
struct Shares {
    rate: Vec<f64>,
    processor: Vec<f64>,
}

impl Shares {
    fn add(&mut self, of: Segment, base: Segment) {
        self.rate.push(of.rate / base.rate);
        self.processor.push(of.processor / base.processor);
    }

    fn row(&self, name: &str) -> Vec<String> {
        let spread = |values: &[f64]| {
            let middle = median(values).map_or_else(|| "–".to_owned(), percent);
            quartiles(values)
                .map_or(middle.clone(), |(low, high)| format!("{middle} ({:.1}–{:.1})", low * 100.0, high * 100.0))
        };
        vec![name.to_owned(), self.rate.len().to_string(), spread(&self.rate), spread(&self.processor)]
    }
}

/// What instrumentation inside the service leaves of its throughput.
fn instrumented(stage: &Stage, plain: &Server, others: &[(&str, Server)], report: &mut Report) -> Result<()> {
    let head = ["uvicorn with", "rounds", "requests/s against without", "processor time a request"];
    let mut table = Table::new("Beside it, instrumentation inside (median, and the middle half)", &head);
    let mut dropped = 0;
    for (name, server) in others {
        let mut shares = Shares::default();
        for round in 0..stage.choose(5, 1) {
            let start = ProcessorTime::now()?;
            let (base, with) = if round % 2 == 0 {
                let base = segment(stage, plain)?;
                (base, segment(stage, server)?)
            } else {
                let with = segment(stage, server)?;
                (segment(stage, plain)?, with)
            };
            if start.steal_since()? > STEAL_LIMIT {
                dropped += 1;
                continue;
            }
            shares.add(with, base);
        }
        table.row(shares.row(name));
        report.number(name, json!({"rate": shares.rate, "processor": shares.processor}));
    }
    report.table(table);
    report.note(format!("{dropped} rounds were dropped, because the host took more than 5 % of the time"));
    Ok(())
}

/// Seconds that all programs of the probe have run so far.
fn run_seconds(scrape: &Scrape) -> f64 {
    scrape.sum("miku_probe_bpf_run_seconds_total", &[])
}

/// What the programs cost while a server is loaded.
struct Spent {
    seconds: f64,
    /// System calls of the watched process meanwhile, and of all others.
    watched: f64,
    others: f64,
}

fn spent(stage: &Stage, loaded: &Server, watched: &Server) -> Result<Spent> {
    let probe = Probe::launch(&[&watched.service()], &["--bpf-stats"]);
    probe.wait_ready();
    thread::sleep(REFRESH);
    let before = run_seconds(&probe.scrape());
    let mut counting = stage.hold("count-calls", &["--pid", &watched.process.pid().to_string()]);
    segment(stage, loaded)?;
    counting.finish_input();
    let calls = result(&mut counting)?;
    thread::sleep(REFRESH);
    let seconds = run_seconds(&probe.scrape()) - before;
    let of = |who: &str| calls["calls"][who].as_f64().with_context(|| format!("no calls of {who} were counted"));
    Ok(Spent { seconds, watched: of("watched")?, others: of("others")? })
}

/// Mean time in an empty program, which is the clock's own.
fn empty(stage: &Stage, loaded: &Server) -> Result<f64> {
    let mut floor: Process = stage.hold("empty-raw-exit", &["--statistics"]);
    segment(stage, loaded)?;
    floor.finish_input();
    let value = result(&mut floor)?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no {name}"));
    Ok(number("run_seconds")? / number("runs")?)
}

fn programs(stage: &Stage, plain: &Server, idle: &Server, report: &mut Report) -> Result<()> {
    let [mut floor, mut unwatched, mut watched] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..stage.choose(3, 1) {
        floor.push(empty(stage, plain)?);
        let Spent { seconds, watched: own, others } = spent(stage, plain, idle)?;
        let price = seconds / (own + others);
        unwatched.push(price);
        let Spent { seconds, watched: own, others } = spent(stage, plain, plain)?;
        // Those that are not watched have the price that was found above.
        watched.push((seconds - others * price) / own);
    }
    let middle = |values: &[f64]| median(values).unwrap_or(0.0) * 1e9;
    let (floor, unwatched, watched) = (middle(&floor), middle(&unwatched), middle(&watched));
    let head = ["system call of", "ns", "ns less the clock's own"];
    let mut table = Table::new("Mean time in BPF programs, by the kernel's own statistics", &head);
    table.row(vec!["any process, an empty program".to_owned(), format!("{floor:.0}"), "0".to_owned()]);
    for (name, value) in [("a process that is not watched", unwatched), ("the watched uvicorn", watched)] {
        table.row(vec![name.to_owned(), format!("{value:.0}"), format!("{:.0}", value - floor)]);
    }
    report.table(table);
    report.number("programs", json!({"empty_ns": floor, "unwatched_ns": unwatched, "watched_ns": watched}));
    for (who, value, limit) in [("of the watched process", watched, 400.0), ("of another process", unwatched, 60.0)] {
        let got = format!("{value:.0} ns, {floor:.0} ns of them an empty program's");
        report.verdict(Kind::Measure, format!("a system call {who} below {limit} ns"), got, value < limit);
    }
    Ok(())
}

fn own_use(stage: &Stage, plain: &Server, report: &mut Report) -> Result<()> {
    const MEBIBYTE: f64 = 1024.0 * 1024.0;
    let probe = Probe::attach(&[&plain.service()]);
    segment(stage, plain)?;
    let before = processor_seconds(probe.pid())?;
    let start = Instant::now();
    stage.load(plain, "/fast", &["-c", "8", "-q", "100", "-z", stage.choose("20s", "8s")])?;
    let share = (processor_seconds(probe.pid())? - before) / start.elapsed().as_secs_f64();
    let memory = Memory::of(probe.pid())?;
    let scrape = probe.scrape();
    let all = scrape.sum("miku_probe_delivery_seconds_count", &[]);
    let in_time = scrape.sum("miku_probe_delivery_seconds_bucket", &[("le", "0.25")]);
    let (resident, proportional) = (memory.resident / MEBIBYTE, memory.proportional / MEBIBYTE);

    let got = format!("{resident:.1} MiB resident, {proportional:.1} MiB with shared pages in parts");
    report.verdict(Kind::Measure, "the probe's memory below 40 MiB", got, resident < 40.0);
    let got = format!("{} of a core", percent(share));
    report.verdict(Kind::Measure, "its processor time at 100 requests a second below 1 % of a core", got, share < 0.01);
    let got = format!("{} of {all} within", percent(in_time / all));
    let met = all > 0.0 && in_time >= all * 0.99;
    report.verdict(Kind::Measure, "kernel event to metric within 250 ms for 99 %", got, met);
    let numbers = json!({"resident_mib": resident, "proportional_mib": proportional, "processor_share": share,
        "deliveries": all, "deliveries_in_time": in_time});
    report.number("own", numbers);
    Ok(())
}
