//! Turns of event loops, held against what the loops noted themselves.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use miku_probe_tests::exposition::{Sample, Scrape};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};

use crate::stage;
use crate::{Case, case, holds_to_promises};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(turns_of_asyncio, Python).compares_times(),
        case!(turns_of_uvloop, Python).compares_times(),
        case!(ways_to_block, Python),
        case!(a_frozen_disk, Python, Disk),
        case!(threads_of_a_pool, Python),
        case!(a_loop_beside_the_first_thread, Python),
        // It has means of 50 turns only, which one late wakeup of 5 ms moves by 100 µs: it is held to the wide bound.
        case!(every_selector),
        case!(left_alone, Python),
    ]
}

const BUSY: &str = "miku_event_loop_busy_seconds";

/// How far a turn may be off: 50 µs on a quiet machine. On a busy one, a thread that was put on a CPU, with which its
/// turn begins, may be put off again before it can look at its own clock.
fn tolerance() -> f64 {
    if holds_to_promises() { 50e-6 } else { 1e-3 }
}

/// A command that runs the program with the loops.
fn program(arguments: &[&str]) -> Command {
    let mut command = stage::python().expect("the case needs it").script("event_loop.py");
    command.args(arguments);
    command
}

fn ready(mut command: Command) -> Process {
    let process = Process::start("the program", &mut command);
    process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    process
}

fn watch(process: &Process) -> Probe {
    Probe::attach(&[&format!("bot=pid:{}", process.pid())])
}

/// Turns by upper bound, cumulated, the infinite one last, and their sum; none before a loop is known.
fn busy(scrape: &Scrape) -> Option<(Vec<(f64, u64)>, f64)> {
    scrape.try_buckets(BUSY, &[]).zip(scrape.try_sum(&format!("{BUSY}_sum"), &[]))
}

/// How many turns there are.
fn all(buckets: &[(f64, u64)]) -> u64 {
    buckets.last().map_or(0, |(_, count)| *count)
}

/// The program's turns, in seconds, from the shortest to the longest.
fn truth(process: &Process) -> Vec<f64> {
    let line = process.wait_said(Duration::from_secs(60), |line| line.starts_with('[').then(|| line.to_owned()));
    let turns: Vec<f64> = serde_json::from_str(&line).expect("the program writes JSON");
    let mut turns: Vec<f64> = turns.into_iter().map(|nanos| nanos / 1e9).collect();
    turns.sort_by(f64::total_cmp);
    turns
}

/// How many turns a program takes to read what it is told and to tell what it noted.
const MORE: u64 = 12;

/// How much longer than the program's own time a turn may be, and how many turns may be longer than that: the program notes a
/// part of each turn that leaves out hardly anything, unless it has to wait for a CPU just where it looks at its clock.
const LONGER: f64 = 50e-6;
const FEW: u64 = 150;

fn assert_agrees(process: &mut Process) {
    let probe = watch(process);
    // Nothing turns before the program is told to go.
    let (before, sum_before) = busy(&probe.scrape()).unwrap_or_default();
    process.tell("go");
    let truth = truth(process);
    let at_least = all(&before) + truth.len() as u64;
    let (after, sum) =
        probe.wait_for("all turns", |scrape| busy(scrape).filter(|(buckets, _)| all(buckets) >= at_least));
    let counted = |at: f64| {
        let of = |buckets: &[(f64, u64)]| buckets.iter().find(|(bound, _)| *bound == at).map_or(0, |(_, count)| *count);
        of(&after) - of(&before)
    };
    let more = counted(f64::INFINITY) - truth.len() as u64;
    assert!(more <= MORE, "{more} turns more than the program's {}", truth.len());
    for (bound, _) in &after {
        let up_to = |bound: f64| truth.partition_point(|turn| *turn <= bound) as u64;
        let (seen, range) = (counted(*bound), up_to(bound - LONGER).saturating_sub(FEW)..=up_to(*bound) + more);
        eprintln!("{seen} turns are up to {bound} s, {} by the program: {range:?}", up_to(*bound));
        assert!(range.contains(&seen), "{seen} turns are up to {bound} s, by the program {range:?}");
    }
    // The turns that the program did not note are short.
    for at in [0.0005, 0.005] {
        let count = usize::try_from(counted(at)).expect("a count");
        // What the program says of the turn that the probe has at this bound, and of its neighbours.
        let range = count.saturating_sub(1 + MORE as usize)..=count + 1;
        let near = range
            .filter_map(|place| truth.get(place))
            .map(|turn| turn - at)
            .min_by(|a, b| f64::total_cmp(&a.abs(), &b.abs()));
        let share = count as f64 / truth.len() as f64;
        let off = near.expect("there are turns around it");
        eprintln!("{share:.3} of the turns are up to {at} s: off by {:.1} µs", off * 1e6);
        assert!(off.abs() <= tolerance(), "{share} of the turns are up to {at} s: off by {off} s");
    }
    let mean = (sum - sum_before - truth.iter().sum::<f64>()) / truth.len() as f64;
    eprintln!("mean off by {:.1} µs", mean * 1e6);
    // What the program notes lies within its turn, so that the probe's is the longer one, but for the grain of the clocks.
    assert!((-1e-6..=tolerance()).contains(&mean), "the mean turn is off by {mean} s");
}

fn turns_of_asyncio() {
    assert_agrees(&mut ready(program(&["turns", "asyncio"])));
}

fn turns_of_uvloop() {
    assert_agrees(&mut ready(program(&["turns", "uvloop"])));
}

/// Where the time of turns went, in seconds, and how many were stalls; none before a loop is known.
fn times(scrape: &Scrape) -> Option<BTreeMap<String, f64>> {
    let mut times = scrape.sums_by("miku_event_loop_off_cpu_seconds_total", &[], &["reason"]);
    times.insert("on".to_owned(), scrape.try_sum("miku_event_loop_on_cpu_seconds_total", &[])?);
    // There is no such series before the first stall.
    let stalls = scrape.try_sum("miku_event_loop_stalls_total", &[("threshold", "0.1")]).unwrap_or(0.0);
    times.insert("stalls".to_owned(), stalls);
    assert_eq!(times.keys().collect::<Vec<_>>(), ["call", "cpu", "disk", "lock", "on", "sleep", "stalls"]);
    Some(times)
}

/// Has the program block for 0.3 s, and sees where the probe says that they went.
fn block(program: &mut Process, probe: &Probe, way: &str, place: &str) {
    let before = probe.wait_for("the loop", times);
    program.tell(way);
    let done = format!("done {way}");
    program.wait_said(PATIENCE, |line| (line == done).then_some(()));
    let grown = probe.wait_for(&format!("that the loop was blocked: {way}"), |scrape| {
        let mut times = times(scrape)?;
        times.iter_mut().for_each(|(name, value)| *value -= before[name]);
        // A stall is told while it lasts, where its time went only afterwards.
        let told: f64 = times.iter().filter(|(name, _)| *name != "stalls").map(|(_, time)| time).sum();
        (times["stalls"] >= 1.0 && told > 0.28).then_some(times)
    });
    eprintln!("{way}: {grown:.3?}");
    // Elsewhere there is little, but for what the loop does besides and what others take of the processor.
    assert!((0.28..0.6).contains(&grown[place]), "{way} is not in {place}: {grown:?}");
    for (other, time) in grown.iter().filter(|(name, _)| ![place, "stalls", "cpu"].contains(&name.as_str())) {
        assert!(*time < 0.1, "{way} is in {other} too: {grown:?}");
    }
    // Of one that the machine held up meanwhile there may be more.
    assert!(grown["stalls"] < 3.0, "{grown:?}");
}

fn ways_to_block() {
    let mut program = ready(program(&["blocks"]));
    let probe = watch(&program);
    for (way, place) in [("sleep", "sleep"), ("compute", "on"), ("lock", "lock"), ("call", "call"), ("process", "call")]
    {
        block(&mut program, &probe, way, place);
    }
}

/// Makes a file system in a file, and runs what follows where it is mounted at its first argument.
const MOUNTED: &str = "truncate -s 8M \"$0.image\" && mkfs.ext4 -q \"$0.image\" && mkdir -p \"$0\" && \
                       mount -o loop \"$0.image\" \"$0\" && exec \"$@\"";

fn mounted(folder: &str, command: &Command) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", MOUNTED, folder]).arg(command.get_program()).args(command.get_args());
    unshare
}

/// Why no file system can be made and mounted here.
pub(crate) fn disk() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let disk = folder.path().join("disk");
    let output = mounted(&disk.display().to_string(), &Command::new("true")).output();
    let output = output.map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("no file system can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn a_frozen_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk").display().to_string();
    let mut program = ready(mounted(&disk, &program(&["blocks", &disk])));
    let probe = watch(&program);
    block(&mut program, &probe, "disk", "disk");
}

fn threads_of_a_pool() {
    let mut other = ready(program(&["blocks"]));
    let mut pool = ready(program(&["pool"]));
    let probe = Probe::attach(&[&format!("pool=pid:{}", pool.pid()), &format!("loop=pid:{}", other.pid())]);
    pool.tell("go");
    pool.wait_said(PATIENCE, |line| (line == "done").then_some(()));
    other.tell("nothing");
    let count = format!("{BUSY}_count");
    let scrape = probe.wait_for("the loop", |scrape| {
        (scrape.try_count(&count, &[("service", "loop")]) > Some(100)).then(|| scrape.clone())
    });
    let (of_loop, others): (Vec<&Sample>, Vec<_>) =
        scrape.with_prefix("miku_event_loop_").into_iter().partition(|sample| sample.label("service") == "loop");
    assert!(!of_loop.is_empty() && others.is_empty(), "{others:#?}");
}

fn a_loop_beside_the_first_thread() {
    let mut program = ready(program(&["thread"]));
    let probe = watch(&program);
    let count = format!("{BUSY}_count");
    let mut ask = |time: &str| {
        program.tell("go");
        program.wait_said(PATIENCE, |line| line.strip_prefix("turns ")?.strip_prefix(time)?.trim().parse::<u64>().ok())
    };
    let first = ask("1");
    let before = settled(&probe, &count, 500);
    let second = ask("2");
    let noted = second - first;
    // The loop waits behind each answer, so that between the two the probe and the program have the same turns.
    assert_eq!(settled(&probe, &count, before + noted) - before, noted, "turns");
}

/// A count that is `least` or more, once it stays: the loop waits, and the probe has read the kernel's counts twice since.
fn settled(probe: &Probe, name: &str, least: u64) -> u64 {
    const TWICE: Duration = Duration::from_millis(2_500);
    let mut last = (0, Instant::now());
    let found = eventually(PATIENCE, || {
        let count = probe.scrape().try_count(name, &[])?;
        if count != last.0 {
            last = (count, Instant::now());
        }
        (count >= least && last.1.elapsed() >= TWICE).then_some(count)
    });
    found.unwrap_or_else(|| panic!("{name} does not come to {least} and stay there, but is {}", last.0))
}

fn every_selector() {
    let calls = ["epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6"];
    let mut programs = calls.map(|call| {
        let mut command = Command::new(stage::PEER);
        command.args(["turns", "--by", call]);
        (call, ready(command))
    });
    let services: Vec<_> = programs.iter().map(|(call, program)| format!("{call}=pid:{}", program.pid())).collect();
    let probe = Probe::attach(&services.iter().map(String::as_str).collect::<Vec<_>>());
    for (call, program) in &mut programs {
        program.tell("go");
        let told = program.wait_said(PATIENCE, |line| line.strip_prefix("turns ").map(str::to_owned));
        let told: Vec<f64> = told.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [turns, busy, idle] = told[..] else { panic!("{told:?}") };
        let service = [("service", *call)];
        let counted = probe
            .wait_for(call, |scrape| scrape.try_sum(&format!("{BUSY}_count"), &service).filter(|seen| *seen >= turns));
        assert_eq!(counted, turns, "turns by {call}");
        // A scrape reads one metric after the other, and they may grow meanwhile.
        let off = || {
            let scrape = probe.scrape();
            let off = |name: &str, noted: f64| (scrape.sum(name, &service) - noted) / turns;
            (off(&format!("{BUSY}_sum"), busy), off("miku_event_loop_idle_seconds_total", idle))
        };
        let is_close = |(busy, idle): &(f64, f64)| busy.abs() < tolerance() && idle.abs() < tolerance();
        let close = eventually(PATIENCE / 4, || Some(off()).filter(is_close));
        let (busy, idle) = close.unwrap_or_else(off);
        eprintln!("{call}: {turns} turns, busy off by {:.1} µs each, idle by {:.1} µs", busy * 1e6, idle * 1e6);
        assert!(close.is_some(), "{call}: {busy} s, {idle} s a turn");
    }
}

/// What is told to leave event loops alone tells nothing of them, and hooks nothing for them, by the kernel's own list.
fn left_alone() {
    fn hooks(probe: &Probe) -> usize {
        let folder = format!("/proc/{}/fd", probe.pid());
        let open = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        // What holds a program to its tracepoint: by the kernel's age the one or the other.
        let holds =
            |target: &PathBuf| ["[perf_event]", "bpf_link"].iter().any(|name| target.to_string_lossy().ends_with(name));
        targets.filter(holds).count()
    }
    let mut process = ready(program(&["turns", "asyncio"]));
    let service = format!("bot=pid:{}", process.pid());
    let told = Probe::attach(&[&service]);
    let alone = Probe::launch(&[&service], &["--event-loops=off"]);
    alone.wait_ready();
    alone.wait_target("bot");
    process.tell("go");
    truth(&process);
    told.wait_for("turns", |scrape| busy(scrape).filter(|(buckets, _)| all(buckets) > 100).map(drop));
    let shown = alone.scrape().show(&["miku_event_loop_"]);
    assert_eq!(shown, "", "it tells of event loops");
    // Each call that waits is hooked by itself, and there are seven; six before Linux 5.11.
    let sites = [("kind", "event_loop")];
    alone.scrape().assert_absent("miku_probe_sites", &sites);
    let hooked = told.scrape().count("miku_probe_sites", &sites);
    let (with, without) = (hooks(&told), hooks(&alone));
    assert!(hooked >= 6 && with as u64 == without as u64 + hooked, "{with} hooks with event loops, {without} without");
}
