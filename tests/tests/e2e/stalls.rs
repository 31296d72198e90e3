//! Event loops that are blocked on purpose, at lines and for times that the program itself tells.

use std::time::Duration;

use miku_probe_tests::harness::probe::{Probe, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::Value;

use crate::tls_stage::{clients_on, plain};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(asyncio_on_39, Python39),
        case!(asyncio_on_313, Python313),
        case!(uvloop_on_311, Python311),
        case!(the_log_for_people, PlainPython),
        case!(metrics_name_the_place, PlainPython),
        case!(among_many_threads, PlainPython),
        case!(a_loop_that_dies_in_a_stall, PlainPython),
    ]
}

/// Ways to block, and what the probe calls them.
const KINDS: [&str; 5] = ["sleep", "computation", "disk", "lock", "peer"];

/// How long the loop is blocked each time.
const LENGTH: f64 = 0.3;

/// A program whose loop is blocked when it is told to.
struct Blocked {
    process: Process,
}

impl Blocked {
    fn start(python: &Python, options: &[&str]) -> Self {
        let process = Process::start("the blocked loop", python.script("stalls.py").args(options));
        process.wait_said(PATIENCE, |line| line.starts_with("ready").then_some(()));
        Self { process }
    }

    fn service(&self) -> String {
        format!("bot=pid:{}", self.process.pid())
    }

    /// Blocks the loop, and tells what the program says of it once it is over.
    fn plant(&mut self, kind: &str, seconds: f64) -> Value {
        let before = self.process.said().len();
        self.process.tell(&format!("{kind} {seconds}"));
        let answer =
            eventually(PATIENCE, || self.process.said().into_iter().skip(before).find_map(|line| object(&line)));
        answer.unwrap_or_else(|| panic!("it does not come back: {}", self.process.story()))
    }
}

fn object(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
}

/// A running `miku-probe stalls` that knows the loop.
fn watch(blocked: &mut Blocked, options: &[&str]) -> Process {
    let mut command = command(&["stalls", "--service", &blocked.service()]);
    let log = Process::start("stalls", command.args(options));
    log.wait_complained(PATIENCE, |line| line.contains("watching the loops").then_some(()));
    // A loop is known after some turns, and its program's symbols after a while: the first stall that is told with its place
    // says that both are.
    let known = eventually(PATIENCE, || {
        blocked.plant("sleep", 0.15);
        log.said().iter().any(|line| line.contains("sleeps (") || line.contains("stalls.py:sleeps")).then_some(())
    });
    known.unwrap_or_else(|| panic!("no stall is told: {}", log.story()));
    log
}

/// The events of the one stall that begins after the first `before` lines.
fn told(log: &Process, before: usize) -> (Value, Value) {
    let find = || {
        let events: Vec<Value> = log.said().into_iter().skip(before).filter_map(|line| object(&line)).collect();
        let exceeds = events.iter().find(|value| value["event"] == "exceeds")?;
        let ended = |value: &&Value| value["event"] == "ended" && value["since"] == exceeds["since"];
        Some((exceeds.clone(), events.iter().find(ended)?.clone()))
    };
    eventually(PATIENCE, find).unwrap_or_else(|| panic!("the stall is not told: {}", log.story()))
}

fn seconds(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Plants each kind, and holds what is told of it against what the program says.
fn each_kind_is_named_and_told_apart(python: &Python, options: &[&str]) {
    let mut blocked = Blocked::start(python, options);
    let log = watch(&mut blocked, &["--json", "--stack"]);
    for kind in KINDS {
        let before = log.said().len();
        let planted = blocked.plant(kind, LENGTH);
        let (exceeds, ended) = told(&log, before);
        let shown = format!("{planted}\n{exceeds}\n{ended}");
        for event in [&exceeds, &ended] {
            assert_eq!(event["blocking"]["line"], planted["line"], "{shown}");
            assert!(event["blocking"]["file"].as_str().is_some_and(|file| file.ends_with("/stalls.py")), "{shown}");
            assert!(event["stack"].as_array().is_some_and(|stack| stack.len() > 3), "{shown}");
        }
        // On a busy machine what computes may wait for a processor longer than it runs.
        let starved = kind == "computation" && seconds(&planted, "ran") < 0.6 * seconds(&planted, "took");
        assert!(ended["cause"] == kind || (starved && ended["cause"] == "starved"), "{shown}");
        assert_eq!(exceeds["threshold"], "0.1");
        assert!(seconds(&exceeds, "seconds") >= 0.1, "{shown}");
        // Both are times of day of the same clock, and of one form, so that their texts compare.
        assert!(exceeds["time"].as_str() < planted["over"].as_str(), "it is told while it lasts: {shown}");
        let took = seconds(&planted, "took");
        let (least, most) = (0.6 * took, took + 0.02);
        assert!((least..most).contains(&seconds(&ended, "seconds")), "it took {took} s: {shown}");
    }
}

fn asyncio_on_39() {
    each_kind_is_named_and_told_apart(&clients_on(9).expect("the case needs it"), &[]);
}

fn asyncio_on_313() {
    each_kind_is_named_and_told_apart(&clients_on(13).expect("the case needs it"), &[]);
}

fn uvloop_on_311() {
    each_kind_is_named_and_told_apart(&clients_on(11).expect("the case needs it"), &["--uvloop"]);
}

fn the_log_for_people() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &[]);
    let mut log = watch(&mut blocked, &["--stack"]);
    let before = log.said().len();
    let line = blocked.plant("lock", 0.2)["line"].to_string();
    let place = format!("waits for a lock in waits_for_lock (stalls.py:{line})");
    let said = |text: &str| {
        let found = || log.said().into_iter().skip(before).find(|line| line.contains(text)).map(drop);
        eventually(PATIENCE, found).unwrap_or_else(|| panic!("`{text}` is not said: {}", log.story()));
    };
    said(&format!("bot (pid {}) stalled for 0.1 s: {place}", blocked.process.pid()));
    said("    plant (stalls.py:");
    said(&format!("s: {place}"));
    said("turns again after 0.");
    let status = log.stop(libc::SIGINT, Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "{}", log.story());
    let summary = log.said();
    assert!(summary.iter().any(|line| line.contains("LONGEST")), "{}", log.story());
    assert!(summary.last().is_some_and(|line| line.contains("(stalls.py:")), "{}", log.story());
}

fn metrics_name_the_place() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &[]);
    let probe = Probe::attach(&[&blocked.service()]);
    let stalls = |place: &str, threshold: &str| {
        let labels = [("service", "bot"), ("threshold", threshold), ("where", place)];
        probe.scrape().sum("miku_event_loop_stalls_total", &labels)
    };
    let known = eventually(PATIENCE, || {
        blocked.plant("sleep", 0.15);
        (stalls("stalls.py:sleeps", "0.1") >= 1.0).then_some(())
    });
    known.unwrap_or_else(|| panic!("no stall is counted\n{}", probe.told()));
    blocked.plant("computation", 1.1);
    for threshold in ["0.1", "1"] {
        let counted = eventually(PATIENCE, || (stalls("stalls.py:computes", threshold) == 1.0).then_some(()));
        counted.unwrap_or_else(|| panic!("no stall above {threshold} s is counted\n{}", probe.told()));
    }
    assert_eq!(stalls("stalls.py:computes", "10"), 0.0);
}

fn among_many_threads() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &["--threads", "1000"]);
    let log = watch(&mut blocked, &["--json"]);
    let before = log.said().len();
    let planted = blocked.plant("sleep", 1.0);
    let (_, ended) = told(&log, before);
    assert_eq!(ended["blocking"]["line"], planted["line"], "{ended}");
}

fn a_loop_that_dies_in_a_stall() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &[]);
    let log = watch(&mut blocked, &["--json"]);
    let before = log.said().len();
    blocked.process.tell("sleep 60");
    let exceeds = || log.said().into_iter().skip(before).find(|line| line.contains("\"exceeds\""));
    eventually(PATIENCE, exceeds).unwrap_or_else(|| panic!("the stall is not told: {}", log.story()));
    blocked.process.stop(libc::SIGKILL, Duration::from_secs(2));
    let (_, ended) = told(&log, before);
    assert!(seconds(&ended, "seconds") < 30.0, "{ended}");
}
