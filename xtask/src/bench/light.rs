//! What watching costs: throughput of a saturated uvicorn, the programs' own time, and the probe's memory and processor.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median, quartiles};
use serde_json::json;

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, Server, Stage, processor_seconds, result, scheduled_seconds};

/// The program that runs at every system call.
const EVERY_CALL: &str = "sys_exit";

/// The metrics of programs are brought up to date once a second.
const REFRESH: Duration = Duration::from_millis(1_500);

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("light: what watching costs");
    let plain = stage.serve(&[]);
    let others = ["prometheus", "otel-metrics", "otel-traces"].map(|name| (name, stage.serve(&["--instrument", name])));
    for server in others.iter().map(|(_, server)| server).chain([&plain]) {
        segment(stage, server)?;
    }
    throughput(stage, &plain, &others, &mut report)?;
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

/// What is attached while the plain server is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attached {
    Nothing,
    Floor,
    Probe,
}

fn attached(stage: &Stage, server: &Server, what: Attached) -> Result<Segment> {
    match what {
        Attached::Nothing => segment(stage, server),
        Attached::Floor => {
            let _floor = stage.hold("empty", &["--pid", &server.process.pid().to_string()]);
            segment(stage, server)
        }
        Attached::Probe => {
            let _probe = Probe::attach(&[&server.service()]);
            segment(stage, server)
        }
    }
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

fn throughput(stage: &Stage, plain: &Server, others: &[(&str, Server)], report: &mut Report) -> Result<()> {
    /// All orders of the three, so that none is always first or always behind another.
    const ORDERS: [[Attached; 3]; 6] = {
        use Attached::{Floor, Nothing, Probe};
        [
            [Nothing, Floor, Probe],
            [Probe, Floor, Nothing],
            [Floor, Nothing, Probe],
            [Probe, Nothing, Floor],
            [Nothing, Probe, Floor],
            [Floor, Probe, Nothing],
        ]
    };
    let [mut floor, mut probe, mut against_floor] = [Shares::default(), Shares::default(), Shares::default()];
    let mut dropped = 0;
    for round in 0..stage.choose(14, 3) {
        let start = ProcessorTime::now()?;
        let mut found = Vec::new();
        for what in ORDERS[round % ORDERS.len()] {
            found.push((what, attached(stage, plain, what)?));
        }
        if start.steal_since()? > STEAL_LIMIT {
            dropped += 1;
            continue;
        }
        let of = |what: Attached| found.iter().find(|(which, _)| *which == what).map(|(_, segment)| *segment);
        let all = of(Attached::Nothing).zip(of(Attached::Floor)).zip(of(Attached::Probe));
        let ((nothing, with_floor), with_probe) = all.context("every order has all three")?;
        floor.add(with_floor, nothing);
        probe.add(with_probe, nothing);
        against_floor.add(with_probe, with_floor);
    }
    let head = ["uvicorn with", "rounds", "requests/s against without", "processor time a request"];
    let mut table = Table::new("A saturated uvicorn (median, and the middle half)", &head);
    table.row(floor.row("empty programs on the same hooks"));
    table.row(probe.row("the probe"));
    table.row(against_floor.row("the probe, against empty programs"));
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
    for (name, shares) in [("floor", &floor), ("probe", &probe), ("probe_against_floor", &against_floor)] {
        report.number(name, json!({"rate": shares.rate, "processor": shares.processor}));
    }
    let (of, to_floor) = (median(&probe.rate).unwrap_or(0.0), median(&against_floor.rate).unwrap_or(0.0));
    let got = format!("{} of without, {} of empty programs", percent(of), percent(to_floor));
    let goal = "throughput at least 97 % of without, or within 1 % of what empty programs leave";
    report.verdict(Kind::Measure, goal, got, of >= 0.97 || to_floor >= 0.99);
    Ok(())
}

/// Time and runs of programs so far.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    runs: f64,
}

impl Cost {
    /// Of all programs.
    fn of_all(scrape: &Scrape) -> Self {
        let (seconds, runs) = ("miku_probe_bpf_run_seconds_total", "miku_probe_bpf_runs_total");
        Self { seconds: scrape.sum(seconds, &[]), runs: scrape.sum(runs, &[]) }
    }

    /// Of the one that runs at every call, with those that step in for it where the kernel leaves it out; its own runs.
    fn of_every_call(scrape: &Scrape) -> Self {
        let every = scrape.matching("miku_probe_bpf_run_seconds_total", &[]);
        let seconds = every.filter(|sample| sample.label("program").starts_with(EVERY_CALL)).map(|sample| sample.value);
        Self { seconds: seconds.sum(), runs: scrape.sum("miku_probe_bpf_runs_total", &[("program", EVERY_CALL)]) }
    }

    fn since(self, before: Self) -> Self {
        Self { seconds: self.seconds - before.seconds, runs: self.runs - before.runs }
    }
}

/// What the programs cost while a server is loaded: the one at every call, and all.
struct Spent {
    every_call: Cost,
    all: Cost,
    watched_calls: f64,
}

fn spent(stage: &Stage, loaded: &Server, watched: &Server) -> Result<Spent> {
    let probe = Probe::launch(&[&watched.service()], &["--bpf-stats"]);
    probe.wait_ready();
    thread::sleep(REFRESH);
    let before = probe.scrape();
    let mut counting = stage.hold("count-calls", &["--pid", &watched.process.pid().to_string()]);
    segment(stage, loaded)?;
    counting.finish_input();
    let calls = result(&mut counting)?;
    thread::sleep(REFRESH);
    let after = probe.scrape();
    Ok(Spent {
        every_call: Cost::of_every_call(&after).since(Cost::of_every_call(&before)),
        all: Cost::of_all(&after).since(Cost::of_all(&before)),
        watched_calls: calls["calls"]["watched"].as_f64().context("no calls were counted")?,
    })
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
        let others = spent(stage, plain, idle)?.every_call;
        let price = others.seconds / others.runs;
        unwatched.push(price);
        let Spent { every_call, all, watched_calls } = spent(stage, plain, plain)?;
        // The program runs for all processes' calls; those that are not watched have the price that was found above.
        watched.push((all.seconds - (every_call.runs - watched_calls) * price) / watched_calls);
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
    report.verdict(Kind::Measure, "kernel event to metric within 250 ms for 99 %", got, in_time >= all * 0.99);
    let numbers = json!({"resident_mib": resident, "proportional_mib": proportional, "processor_share": share,
        "deliveries": all, "deliveries_in_time": in_time});
    report.number("own", numbers);
    Ok(())
}
