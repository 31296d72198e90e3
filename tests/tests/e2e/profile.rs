//! Profiles of programs that tell where their time goes.

use std::process::{Command, Output};
use std::time::Duration;

use miku_probe_tests::harness::probe::command;
use miku_probe_tests::harness::process::{AsNobody, Process};
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::{PATIENCE, eventually, kernel};

use crate::tls_stage::{clients_on, plain};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(shares_on_39, Python39),
        case!(shares_on_313, Python313),
        case!(pictures_and_pprof, PlainPython),
        case!(idle_threads_when_asked, PlainPython),
        case!(what_cannot_be_profiled_says_why, PlainPython),
        case!(a_target_that_ends_meanwhile, PlainPython),
        case!(ends_early_on_a_signal, PlainPython),
    ]
}

fn start(python: &Python, seconds: &str) -> Process {
    let process = Process::start("the profiled one", python.script("profiled.py").args(["--seconds", seconds]));
    process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    process
}

fn profile(process: &Process, options: &[&str]) -> Output {
    let service = format!("bot=pid:{}", process.pid());
    let mut command = command(&["profile", "--service", &service]);
    command.args(options).output().expect("the probe runs")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Folded stacks and their counts.
fn folded(output: &Output) -> Vec<(String, u64)> {
    assert!(output.status.success(), "{}", complaint(output));
    let text = String::from_utf8(output.stdout.clone()).expect("folded stacks are a text");
    let parse = |line: &str| {
        let (stack, count) = line.rsplit_once(' ')?;
        Some((stack.to_owned(), count.parse().ok()?))
    };
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("`{line}` is no stack with a count"))).collect()
}

/// How many of all samples are in a function, and how many there are.
fn within(stacks: &[(String, u64)], function: &str) -> (u64, u64) {
    let call = format!(";{function} (profiled.py:");
    let of =
        |wanted: bool| move |(stack, count): &(String, u64)| if !wanted || stack.contains(&call) { *count } else { 0 };
    let inside = of(true);
    (stacks.iter().map(inside).sum(), stacks.iter().map(|(_, count)| count).sum())
}

#[allow(clippy::cast_precision_loss, reason = "samples are some hundreds")]
fn share((part, whole): (u64, u64)) -> f64 {
    part as f64 / whole as f64
}

fn shares(python: &Python) {
    let process = start(python, "60");
    let output = profile(&process, &["--seconds", "3", "--rate", "97"]);
    let stacks = folded(&output);
    let (much, all) = within(&stacks, "much");
    // A third of a processor is the least that a busy machine leaves.
    assert!((97..=3 * 97).contains(&all), "{all} samples: {}", complaint(&output));
    let little = within(&stacks, "little");
    // Three to one; seven standard deviations of as few samples.
    assert!((0.55..0.95).contains(&share((much, all))), "{much} of {all}: {stacks:?}");
    assert!((0.05..0.45).contains(&share(little)), "{little:?}: {stacks:?}");
    assert!(share((much + little.0, all)) > 0.95, "all that runs is in one of them: {stacks:?}");
    assert_eq!(within(&stacks, "idles").0, 0, "what sleeps is not counted: {stacks:?}");
    let root = format!("bot (pid {});", process.pid());
    assert!(stacks.iter().all(|(stack, _)| stack.starts_with(&root)), "{stacks:?}");
}

fn shares_on_39() {
    shares(&clients_on(9).expect("the case needs it"));
}

fn shares_on_313() {
    shares(&clients_on(13).expect("the case needs it"));
}

fn pictures_and_pprof() {
    let process = start(&plain().expect("the case needs it"), "60");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("it is UTF-8").to_owned();
    for name in ["bot.svg", "bot.pb.gz"] {
        let output = profile(&process, &["--seconds", "1", "--output", &path(name)]);
        assert!(output.status.success(), "{}", complaint(&output));
        assert!(output.stdout.is_empty(), "it goes to the file");
        assert!(complaint(&output).contains(name), "{}", complaint(&output));
    }
    // Python's own parser, and its own gzip, say whether these are what they should be.
    const PROGRAM: &str = "import gzip, sys, xml.dom.minidom as dom\n\
        titles = [node.firstChild.data for node in dom.parse(sys.argv[1]).getElementsByTagName('title')]\n\
        assert any(title.startswith('much (profiled.py): ') for title in titles), titles\n\
        data = gzip.open(sys.argv[2]).read()\n\
        assert all(name in data for name in (b'much', b'profiled.py', b'nanoseconds')), data\n";
    let python = plain().expect("the case needs it");
    let check = Command::new(python.path()).args(["-c", PROGRAM, &path("bot.svg"), &path("bot.pb.gz")]).output();
    let check = check.expect("Python runs");
    assert!(check.status.success(), "{}", complaint(&check));
}

fn idle_threads_when_asked() {
    let process = start(&plain().expect("the case needs it"), "60");
    let stacks = folded(&profile(&process, &["--seconds", "1", "--idle"]));
    assert!(within(&stacks, "idles").0 > 0, "{stacks:?}");
}

fn what_cannot_be_profiled_says_why() {
    let fails = |output: &Output, code: i32, reason: &str| {
        assert_eq!(output.status.code(), Some(code), "{}", complaint(output));
        assert!(complaint(output).contains(reason), "not `{reason}`: {}", complaint(output));
        assert!(output.stdout.is_empty());
    };
    let sleeper = Process::start("a program without Python", Command::new("sleep").arg("60"));
    fails(&profile(&sleeper, &["--seconds", "1"]), 1, "no Python interpreter is found in it");
    let python = start(&plain().expect("the case needs it"), "60");
    fails(&profile(&python, &["--seconds", "0"]), 2, "--seconds: 0 is out of range");
    fails(&profile(&python, &["--rate", "100000"]), 2, "--rate: 100000 is out of range");
    fails(&profile(&python, &["--output", "/nonexistent/bot.svg"]), 1, "cannot write /nonexistent/bot.svg");
    // Somebody who may not look at the process.
    let service = format!("bot=pid:{}", python.pid());
    let mut stranger = AsNobody::new(&command(&["profile", "--seconds", "1", "--service", &service]));
    let output = stranger.command().output().expect("the probe runs");
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    let said = complaint(&output);
    assert!(said.contains("may not be read") || said.contains("ermission denied"), "{said}");
}

fn a_target_that_ends_meanwhile() {
    let process = start(&plain().expect("the case needs it"), "60");
    let service = format!("bot=pid:{}", process.pid());
    let mut command = command(&["profile", "--seconds", "30", "--service", &service]);
    let mut running = Process::start("profile", &mut command);
    running.wait_complained(PATIENCE, |line| line.contains("looking at bot").then_some(()));
    drop(process);
    let status = running.wait(Duration::from_secs(5));
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", running.story());
    running.wait_complained(PATIENCE, |line| line.contains("ended before the time was over").then_some(()));
}

fn ends_early_on_a_signal() {
    let process = start(&plain().expect("the case needs it"), "60");
    let service = format!("bot=pid:{}", process.pid());
    let mut command = command(&["profile", "--seconds", "600", "--service", &service]);
    let mut running = Process::start("profile", &mut command);
    running.wait_complained(PATIENCE, |line| line.contains("looking at bot").then_some(()));
    // There is something to see once the target has run for a while, whatever else does.
    let enough = kernel::cpu_time(process.pid()) + Duration::from_millis(500);
    eventually(PATIENCE, || (kernel::cpu_time(process.pid()) >= enough).then_some(())).expect("the target runs");
    let status = running.stop(libc::SIGINT, Duration::from_secs(3));
    assert_eq!(status.code(), Some(0), "{}", running.story());
    assert!(!running.said().is_empty(), "what was seen by then is told: {}", running.story());
    assert!(running.said().iter().all(|line| line.starts_with("bot (pid ")), "{}", running.story());
}
