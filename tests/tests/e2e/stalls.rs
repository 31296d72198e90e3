//! Event loops that are blocked on purpose, at lines and for times that the program itself tells.

use std::time::Duration;

use miku_probe_tests::harness::probe::{Probe, exit_limit};
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::stalls::{Blocked, KINDS, told, watch};
use miku_probe_tests::harness::{PATIENCE, eventually};

use crate::tls_stage::{clients_on, plain};
use crate::{Case, case};

/// For how many seconds the loop is blocked: enough for a busy machine to look at it meanwhile.
const LENGTH: f64 = 0.5;

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

/// Plants each kind, and holds what is told of it against what the program says.
fn each_kind_is_named_and_told_apart(python: &Python, options: &[&str]) {
    let mut blocked = Blocked::start(python, options);
    let log = watch(&mut blocked, &["--json", "--stack"], 0.15);
    for kind in KINDS {
        told(&mut blocked, &log, kind, LENGTH).assert();
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
    let mut log = watch(&mut blocked, &["--stack"], 0.15);
    let before = log.said().len();
    let line = blocked.plant("lock", 0.2)["line"].to_string();
    let place = format!("waits for a lock in waits_for_lock (stalls.py:{line})");
    let said = |text: &str| {
        let found = || log.said().into_iter().skip(before).find(|line| line.contains(text)).map(drop);
        eventually(PATIENCE, found).unwrap_or_else(|| panic!("`{text}` is not said: {}", log.story()));
    };
    said(&format!("bot (pid {}) stalled for 0.1 s: {place}", blocked.process.pid()));
    said("    plant (stalls.py:");
    // Before it there may be the end of another one.
    let turned = |line: &String| line.contains("turns again after 0.") && line.ends_with(&format!(" s: {place}"));
    let ended = eventually(PATIENCE, || log.said().iter().any(turned).then_some(()));
    ended.unwrap_or_else(|| panic!("its end is not said: {}", log.story()));
    let status = log.stop(libc::SIGINT, exit_limit());
    assert_eq!(status.code(), Some(0), "{}", log.story());
    let summary = log.said();
    assert!(summary.iter().any(|line| line.contains("LONGEST")), "{}", log.story());
    assert!(summary.last().is_some_and(|line| line.contains("(stalls.py:")), "{}", log.story());
}

fn metrics_name_the_place() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &[]);
    let probe = Probe::attach(&[&blocked.service()]);
    const STALLS: &str = "miku_event_loop_stalls_total";
    let stalls = |place: &str, threshold: &str| {
        let labels = [("service", "bot"), ("threshold", threshold), ("where", place)];
        probe.scrape().try_count(STALLS, &labels)
    };
    let known = eventually(PATIENCE, || {
        blocked.plant("sleep", 0.15);
        (stalls("stalls.py:sleeps", "0.1") >= Some(1)).then_some(())
    });
    known.unwrap_or_else(|| panic!("no stall is counted\n{}", probe.told()));
    blocked.plant("computation", 1.1);
    for threshold in ["0.1", "1"] {
        let counted = eventually(PATIENCE, || (stalls("stalls.py:computes", threshold) == Some(1)).then_some(()));
        counted.unwrap_or_else(|| panic!("no stall above {threshold} s is counted\n{}", probe.told()));
    }
    let thresholds = probe.scrape().counts_by(STALLS, &[("where", "stalls.py:computes")], &["threshold"]);
    assert_eq!(thresholds.into_keys().collect::<Vec<_>>(), ["0.1", "1"], "it lasted no 10 s");
}

fn among_many_threads() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &["--threads", "500"]);
    let log = watch(&mut blocked, &["--json"], 2.0);
    told(&mut blocked, &log, "sleep", 2.0).assert_place();
}

fn a_loop_that_dies_in_a_stall() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &[]);
    let log = watch(&mut blocked, &["--json"], 0.15);
    let before = log.said().len();
    blocked.process.tell("sleep 60");
    let says = |event: &str| log.said().into_iter().skip(before).find(|line| line.contains(event)).map(drop);
    eventually(PATIENCE, || says("\"exceeds\"")).unwrap_or_else(|| panic!("the stall is not told: {}", log.story()));
    blocked.process.stop(libc::SIGKILL, Duration::from_secs(2));
    eventually(PATIENCE, || says("\"ended\"")).unwrap_or_else(|| panic!("its end is not told: {}", log.story()));
}
