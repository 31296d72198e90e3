//! What probes add to a target's calls into TLS, by the clock of a process that does nothing else.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use miku_probe_tests::harness::memory::patched;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::secure::{self, host};
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median, quartiles};
use serde_json::json;

use crate::bench::report::{Kind, Report, Table};
use crate::bench::stage::{REFRESH, Stage, result};

/// How the file of the target's TLS library begins.
const LIBRARY: &str = "libssl";

/// The probe against empty programs in the same places, and against empty ones on entries and returns.
const AGAINST_EMPTY: f64 = 1.25;
const AGAINST_NAIVE: f64 = 1.0 / 3.0;

/// The orders in which three ways can be measured.
const ORDERS: [[Way; 3]; 6] = [
    [Way::Empty, Way::Probe, Way::Naive],
    [Way::Naive, Way::Probe, Way::Empty],
    [Way::Probe, Way::Empty, Way::Naive],
    [Way::Naive, Way::Empty, Way::Probe],
    [Way::Probe, Way::Naive, Way::Empty],
    [Way::Empty, Way::Naive, Way::Probe],
];

/// What stands in the target's library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Empty programs in the places of the probe.
    Empty,
    /// The probe.
    Probe,
    /// Empty programs on entry and return of the functions that move messages.
    Naive,
}

impl Way {
    const ALL: [Self; 3] = [Self::Empty, Self::Probe, Self::Naive];

    const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty programs in the probe's places",
            Self::Probe => "the probe",
            Self::Naive => "empty programs on entries and returns",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Probe => "probe",
            Self::Naive => "naive",
        }
    }

    /// The helper's name for it, where it is not the probe.
    const fn variant(self) -> Option<&'static str> {
        match self {
            Self::Empty => Some("empty-tls"),
            Self::Probe => None,
            Self::Naive => Some("naive-tls"),
        }
    }
}

/// A client and a server in one process.
struct Target {
    process: Process,
    _authority: Authority,
    /// How often it was told to run.
    told: u32,
    /// Exchanges in a row.
    count: u32,
}

impl Target {
    fn start(python: &Python, count: u32) -> Result<Self> {
        let authority = Authority::new()?;
        let mut command = python.script("tls_loop.py");
        command.args(["--name", &host("loop")]).arg("--ca").arg(authority.root());
        command.arg("--certificate").arg(authority.certificate()).arg("--key").arg(authority.key());
        let process = Process::start("the loop", &mut command);
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Ok(Self { process, _authority: authority, told: 0, count })
    }

    fn pid(&self) -> String {
        self.process.pid().to_string()
    }

    /// Nanoseconds of processor time an exchange.
    fn run(&mut self, count: u32) -> f64 {
        self.process.tell(&format!("run {count}"));
        self.told += 1;
        let number = format!("{} ", self.told);
        self.process.wait_said(Duration::from_secs(60), |line| line.strip_prefix(&number)?.parse().ok())
    }

    /// The same, once what was attached or detached has been gone through for the first time.
    fn measure(&mut self) -> f64 {
        self.run(self.count / 10);
        self.run(self.count)
    }

    /// Bytes of its library that are not what they are in the file.
    fn patched(&self) -> Result<usize> {
        patched(self.process.pid(), LIBRARY)
    }

    fn alone(&mut self) -> Result<f64> {
        let clean = eventually(PATIENCE, || (self.patched().ok()? == 0).then_some(()));
        ensure!(clean.is_some(), "a probe stands in the target's library that nobody asked for");
        Ok(self.measure())
    }

    /// With something attached: the nanoseconds, and how many bytes of code that changed.
    fn with(&mut self, stage: &Stage, way: Way) -> Result<(f64, usize)> {
        let found = if let Some(variant) = way.variant() {
            let mut held = stage.hold(variant, &["--pid", &self.pid()]);
            let found = (self.measure(), self.patched()?);
            held.finish_input();
            result(&mut held)?;
            found
        } else {
            let probe = secure::attach(&[&format!("loop=pid:{}", self.pid())]);
            let found = (self.measure(), self.patched()?);
            let scrape = probe.scrape();
            let lost = scrape.sum("miku_probe_lost_total", &[("where", "ring")]);
            // What is not told costs less than what is.
            ensure!(lost == 0.0, "the probe fell behind: {lost} records were lost");
            probe.stop();
            found
        };
        ensure!(found.1 > 0, "{} changed nothing in the target's library", way.name());
        Ok(found)
    }

    /// How often programs run for one exchange.
    fn hits(&mut self, stage: &Stage, variant: &str) -> Result<f64> {
        let mut held = stage.hold(variant, &["--statistics", "--pid", &self.pid()]);
        let count = self.count / 10;
        self.run(count);
        held.finish_input();
        let runs = result(&mut held)?["runs"].as_f64().context("no runs were counted")?;
        Ok(runs / f64::from(count))
    }
}

/// The probe's own programs, by the kernel's statistics: what stands in the target's library, how often it runs for one
/// exchange, and what a run takes.
fn programs(target: &mut Target, report: &mut Report) {
    let service = format!("loop=pid:{}", target.pid());
    let probe = Probe::launch(&[&service], &["--bpf-stats"]);
    probe.wait_ready();
    secure::wait_sites(&probe, "loop");
    target.run(target.count / 10);
    let told = || {
        thread::sleep(REFRESH);
        let scrape = probe.scrape();
        let of = |name: &str| {
            let mut programs = scrape.sums_by(name, &[], &["program"]);
            programs.retain(|program, _| program.starts_with("tls_"));
            programs
        };
        (of("miku_probe_bpf_runs_total"), of("miku_probe_bpf_run_seconds_total"))
    };
    let before = told();
    target.run(target.count);
    let after = told();
    let head = ["program", "runs an exchange", "ns a run"];
    let title = "The probe's programs, by the kernel's statistics (the statistics' clock counted in)";
    let mut table = Table::new(title, &head);
    for (program, runs) in &after.0 {
        let since = |after: f64, before: &BTreeMap<String, f64>| after - before.get(program).copied().unwrap_or(0.0);
        let runs = since(*runs, &before.0);
        if runs > 0.0 {
            let each = since(after.1.get(program).copied().unwrap_or(0.0), &before.1) * 1e9 / runs;
            let often = runs / f64::from(target.count);
            table.row(vec![program.clone(), format!("{often:.1}"), format!("{each:.0}")]);
            report.number(program, json!({"runs": often, "ns": each}));
        }
    }
    report.table(table);
}

/// One round: nanoseconds an exchange alone and with each way, next to one another.
struct Round([(f64, f64); 3]);

impl Round {
    fn of(&self, way: Way) -> (f64, f64) {
        self.0[way as usize]
    }

    fn added(&self, way: Way) -> f64 {
        let (alone, with) = self.of(way);
        with - alone
    }
}

pub(super) fn measure(stage: &Stage, python: &Python, report: &mut Report) -> Result<()> {
    let mut target = Target::start(python, stage.choose(10_000, 4_000))?;
    target.alone()?;
    let hits = [target.hits(stage, "empty-tls")?, target.hits(stage, "naive-tls")?];
    let (mut rounds, mut dropped, mut changed) = (Vec::new(), 0, [0; 3]);
    for number in 0..stage.choose(24, 4) {
        let start = ProcessorTime::now()?;
        let mut round = Round([(0.0, 0.0); 3]);
        for way in ORDERS[number % ORDERS.len()] {
            // Which of the two comes first takes turns too, once all orders are through.
            let alone_first = (number + number / ORDERS.len()).is_multiple_of(2);
            let before = if alone_first { Some(target.alone()?) } else { None };
            let (with, bytes) = target.with(stage, way)?;
            let alone = before.map_or_else(|| target.alone(), Ok)?;
            round.0[way as usize] = (alone, with);
            changed[way as usize] = bytes;
        }
        if start.steal_since()? > STEAL_LIMIT {
            dropped += 1;
        } else {
            rounds.push(round);
        }
    }
    report.note(format!("{dropped} rounds were dropped, because the host took more than 5 % of the time"));
    let [empty, probe] = [Way::Empty, Way::Probe].map(|way| changed[way as usize]);
    let got = format!("{empty} bytes of code changed by them, {probe} by the probe");
    report.verdict(Kind::Exact, "empty programs stand where the probe's do", got, empty == probe);
    tell(&rounds, hits, report)?;
    programs(&mut target, report);
    Ok(())
}

fn tell(rounds: &[Round], hits: [f64; 2], report: &mut Report) -> Result<()> {
    let each = |value: &dyn Fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
    let microseconds = |values: &[f64]| {
        let middle = median(values).map(|value| format!("{:.2}", value * 1e-3)).unwrap_or_default();
        let spread = |(low, high): (f64, f64)| format!("{middle} ({:.2}–{:.2})", low * 1e-3, high * 1e-3);
        quartiles(values).map_or(middle.clone(), spread)
    };
    let head = ["with", "hits", "µs", "µs added", "time against alone"];
    let title = "An exchange of two writes and two reads inside TLS (median, and the middle half)";
    let mut table = Table::new(title, &head);
    let alone: Vec<f64> = rounds.iter().flat_map(|round| round.0.map(|(alone, _)| alone)).collect();
    table.row(vec!["nothing".to_owned(), "0".to_owned(), microseconds(&alone), String::new(), String::new()]);
    for way in Way::ALL {
        let added = each(&|round| round.added(way));
        let with = each(&|round| round.of(way).1);
        let ratio = median(&each(&|round| round.of(way).1 / round.of(way).0)).unwrap_or(0.0);
        let hit = if way == Way::Naive { hits[1] } else { hits[0] };
        table.row(vec![
            way.name().to_owned(),
            format!("{hit:.1}"),
            microseconds(&with),
            microseconds(&added),
            format!("{ratio:.2}"),
        ]);
        report.number(way.key(), json!({"added_ns": added, "with_ns": with, "hits": hit}));
    }
    report.table(table);
    report.number("alone_ns", alone);

    for (than, goal) in [(Way::Empty, AGAINST_EMPTY), (Way::Naive, AGAINST_NAIVE)] {
        let middle = |way: Way| median(&each(&|round| round.added(way))).context("every round was dropped");
        let ratio = middle(Way::Probe)? / middle(than)?;
        let whole = median(&each(&|round| round.of(Way::Probe).1 / round.of(than).1)).context("no round is left")?;
        let got = format!("{ratio:.2} times ({whole:.2} times the whole exchange)");
        let goal_text = format!("the probe adds at most {goal:.2} times what {} add", than.name());
        report.verdict(Kind::Measure, goal_text, got, ratio <= goal);
        report.number(&format!("probe_to_{}", than.key()), json!({"added": ratio, "whole": whole}));
    }
    Ok(())
}
