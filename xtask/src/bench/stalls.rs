//! Loops that are blocked on purpose: found, named to the line and told apart; and what looking costs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use miku_probe_tests::harness::probe::command;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::stalls::{Blocked, Told, told, watch};
use miku_probe_tests::harness::{PATIENCE, client, eventually};
use serde_json::json;

use super::report::{Kind, Report, Table, percent, seconds};
use super::stage::{Stage, processor_seconds};

/// What the goal is about.
const KINDS: [&str; 3] = ["sleep", "computation", "disk"];

/// For how many seconds the loop is blocked.
const LENGTH: f64 = 0.3;

/// The CPython whose environment has uvloop.
const UVLOOP_ON: u8 = 11;

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("stalls: 0.3 s each, found while they last, named to the line, told apart");
    let plain = Python::plain()?;
    let mut table = Table::new("Stalls", &["loop, kind", "planted", "right", "told after, median", "most"]);
    for (name, python, options) in
        [("asyncio", plain.clone(), &[][..]), ("uvloop", client::environment(UVLOOP_ON)?, &["--uvloop"][..])]
    {
        let mut blocked = Blocked::start(&python, options);
        let log = watch(&mut blocked, &["--json"], 0.15);
        for kind in KINDS {
            let count = stage.choose(100, 10);
            let all: Vec<_> = (0..count).map(|_| told(&mut blocked, &log, kind, LENGTH)).collect();
            let wrong: Vec<String> = all.iter().filter_map(Told::wrong).collect();
            let mut delays: Vec<f64> = all.iter().map(Told::delay).collect();
            delays.sort_by(f64::total_cmp);
            let right = count - wrong.len();
            let (median, most) = (delays[delays.len() / 2], delays[delays.len() - 1]);
            table.row(vec![
                format!("{name}, {kind}"),
                count.to_string(),
                right.to_string(),
                seconds(median),
                seconds(most),
            ]);
            let got =
                wrong.first().map_or_else(|| "all are".to_owned(), |first| format!("{right}, the first: {first}"));
            report.verdict(Kind::Exact, format!("{count} of {count} ({name}, {kind})"), got, wrong.is_empty());
            report.number(&format!("{name} {kind}"), json!({"planted": count, "right": right, "delays": delays}));
        }
        if name == "asyncio" {
            idle(stage, &log, &mut report)?;
        }
    }
    report.table(table);
    profile(stage, &plain, &mut report)?;
    Ok(report)
}

/// What watching costs while a loop turns fifty times a second and nothing stalls.
fn idle(stage: &Stage, log: &Process, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(stage.choose(30, 5));
    let (before, start) = (of_thread(log.pid(), "stalls")?, Instant::now());
    thread::sleep(time);
    let share = (of_thread(log.pid(), "stalls")? - before) / start.elapsed().as_secs_f64();
    report.verdict(
        Kind::Measure,
        "watching for stalls below 0.1 % of a core while nothing stalls",
        format!("{:.3} %", share * 100.0),
        share < 0.001,
    );
    report.number("idle", share);
    Ok(())
}

/// Seconds that the thread of this name has run.
fn of_thread(pid: u32, name: &str) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let task = entry.with_context(|| format!("cannot read {folder}"))?.path();
        if fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            let text = fs::read_to_string(task.join("schedstat")).context("cannot read schedstat")?;
            let nanos: f64 = text.split(' ').next().and_then(|first| first.parse().ok()).context("no time in it")?;
            return Ok(nanos / 1e9);
        }
    }
    anyhow::bail!("{pid} has no thread {name}")
}

/// What one stack costs the probe, and what being profiled costs a program that computes.
fn profile(stage: &Stage, python: &Python, report: &mut Report) -> Result<()> {
    let process = Process::start("the profiled one", python.script("profiled.py").args(["--rounds"]));
    let rates = |from: usize| -> Vec<f64> {
        process.said().iter().skip(from).filter_map(|line| line.strip_prefix("round ")?.parse().ok()).collect()
    };
    eventually(PATIENCE, || (rates(0).len() > 2).then_some(())).context("it does not begin")?;
    let slices = stage.choose(12, 4);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let (mut looks, mut cost) = (0.0, 0.0);
    for _ in 0..slices {
        let from = process.said().len();
        let service = format!("bot=pid:{}", process.pid());
        let mut command = command(&["profile", "--seconds", "2", "--service", &service, "--output", "/dev/null"]);
        let mut running = Process::start("profile", &mut command);
        running.wait_complained(PATIENCE, |line| line.contains("looking at bot").then_some(()));
        let (before, opened) = (processor_seconds(running.pid())?, process.said().len());
        thread::sleep(Duration::from_millis(1_800));
        cost += processor_seconds(running.pid())? - before;
        looks += 1.8 * 99.0;
        with.extend(rates(opened));
        running.wait(PATIENCE).context("the profile does not end")?;
        let from = process.said().len().max(from);
        thread::sleep(Duration::from_millis(1_800));
        without.extend(rates(from));
    }
    let (with, without) = (median(with), median(without));
    report.note(format!("a look costs the probe {} of processor time", seconds(cost / looks)));
    report.note(format!(
        "a program that computes does {} of its work while it is profiled at 99 Hz",
        percent(with / without)
    ));
    report.number("profile", json!({"look_seconds": cost / looks, "throughput": with / without}));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
