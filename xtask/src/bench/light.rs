//! What watching costs: throughput of a saturated uvicorn, the programs' own time, and the probe's memory and processor.

use std::collections::HashMap;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median, quartiles};
use serde_json::json;

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, REFRESH, Server, Stage, processor_seconds, result, scheduled_seconds};

/// The probe beside empty programs instead of beside nothing.
const AGAINST_FLOOR: &str = "probe_against_floor";

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
    /// Empty programs on the hooks of the probe.
    Floor,
    /// The probe, watching a process that does nothing.
    Idle,
    Probe,
}

impl Attached {
    /// All but nothing, in the order of the report.
    const SOME: [Self; 3] = [Self::Floor, Self::Idle, Self::Probe];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Floor => "empty programs on the same hooks",
            Self::Idle => "the probe, watching another process",
            Self::Probe => "the probe, watching it",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Floor => "floor",
            Self::Idle => "idle",
            Self::Probe => "probe",
        }
    }
}

fn attached(stage: &Stage, server: &Server, idle: &Server, what: Attached) -> Result<Segment> {
    match what {
        Attached::Nothing => segment(stage, server),
        Attached::Floor => {
            let _floor = stage.hold("empty", &["--pid", &server.process.pid().to_string()]);
            segment(stage, server)
        }
        Attached::Idle => {
            let _probe = Probe::attach(&[&idle.service()]);
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
    let [(_, idle), ..] = others else { bail!("nobody is idle") };
    let mut ways = [Attached::Nothing, Attached::Floor, Attached::Idle, Attached::Probe];
    let mut shares: HashMap<&str, Shares> = HashMap::new();
    let mut dropped = 0;
    for round in 0..stage.choose(40, 4) {
        // Over the rounds every way comes first, last, and behind every other, so that a drift is nobody's.
        ways.rotate_left(1);
        if round % 4 == 3 {
            ways.swap(round / 4 % 3, 3);
        }
        let start = ProcessorTime::now()?;
        let found = ways
            .iter()
            .map(|what| Ok((*what, attached(stage, plain, idle, *what)?)))
            .collect::<Result<Vec<(Attached, Segment)>>>()?;
        if start.steal_since()? > STEAL_LIMIT {
            dropped += 1;
            continue;
        }
        let of = |what: Attached| {
            let found = found.iter().find(|(which, _)| *which == what);
            found.map(|(_, segment)| *segment).context("every round has all ways")
        };
        for what in Attached::SOME {
            shares.entry(what.key()).or_default().add(of(what)?, of(Attached::Nothing)?);
        }
        shares.entry(AGAINST_FLOOR).or_default().add(of(Attached::Probe)?, of(Attached::Floor)?);
    }
    let head = ["uvicorn with", "rounds", "requests/s against without", "processor time a request"];
    let mut table = Table::new("A saturated uvicorn (median, and the middle half)", &head);
    for what in Attached::SOME {
        table.row(shares.entry(what.key()).or_default().row(what.name()));
    }
    table.row(shares.entry(AGAINST_FLOOR).or_default().row("the probe, against empty programs"));
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
    for (name, shares) in &shares {
        report.number(name, json!({"rate": shares.rate, "processor": shares.processor}));
    }
    let rate = |of: &str| shares.get(of).and_then(|shares| median(&shares.rate)).unwrap_or(0.0);
    let (of, to_floor) = (rate(Attached::Probe.key()), rate(AGAINST_FLOOR));
    let got = format!("{} of without, {} of empty programs", percent(of), percent(to_floor));
    let goal = "throughput at least 97 % of without, or within 1 % of what empty programs leave";
    report.verdict(Kind::Measure, goal, got, of >= 0.97 || to_floor >= 0.99);
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
    report.verdict(Kind::Measure, "kernel event to metric within 250 ms for 99 %", got, in_time >= all * 0.99);
    let numbers = json!({"resident_mib": resident, "proportional_mib": proportional, "processor_share": share,
        "deliveries": all, "deliveries_in_time": in_time});
    report.number("own", numbers);
    Ok(())
}
