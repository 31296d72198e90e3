//! Event loops that are blocked on purpose, at lines and for times that the program itself tells.

use std::time::Duration;

use miku_probe_tests::harness::probe::{Probe, command, exit_limit};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::stalls::{Blocked, KINDS, told, watch};
use miku_probe_tests::harness::{PATIENCE, eventually};

use crate::stage::Config;
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
        case!(hung_before_anybody_looked, PlainPython),
        case!(node_hung_before_anybody_looked, Node),
        case!(what_only_looks_like_a_loop, PlainPython),
        case!(the_first_stall_has_its_place, PlainPython),
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

/// A program that hangs, or only seems to: see `hung.py`.
fn hung(kind: &str) -> Process {
    let mut command = plain().expect("the case needs it").script("hung.py");
    let process = Process::start("the hung program", command.arg(kind));
    process.wait_said(PATIENCE, |line| (line == "hangs").then_some(()));
    process
}

fn log_of(process: &Process) -> Process {
    let service = format!("bot=pid:{}", process.pid());
    let log = Process::start("stalls", &mut command(&["stalls", "--service", &service]));
    log.wait_complained(PATIENCE, |line| line.contains("watching the loops").then_some(()));
    log
}

/// Ends a log, and tells what it said.
fn ended(mut log: Process) -> Vec<String> {
    let status = log.stop(libc::SIGINT, exit_limit());
    assert_eq!(status.code(), Some(0), "{}", log.story());
    log.wait_silent(PATIENCE);
    log.said()
}

/// A loop hangs already when somebody comes to look: it is told at once, and where, with the time since somebody looked.
fn hung_before_anybody_looked() {
    for (kind, place, cause) in
        [("socket", "asks_a_silent_server", "waits for another process"), ("computes", "computes", "computes")]
    {
        let bot = hung(kind);
        let log = log_of(&bot);
        let line = format!("bot (pid {}) stalled for at least 1.0 s: {cause} in {place} (hung.py:", bot.pid());
        let said = eventually(PATIENCE, || log.said().iter().any(|said| said.contains(&line)).then_some(()));
        said.unwrap_or_else(|| panic!("`{line}` is not said: {}", log.story()));
        let said = ended(log);
        // It lasts still, and counts.
        let last = said.last().map(|line| line.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
        assert!(last.first() == Some(&"1") && last.contains(&place), "{said:?}");

        let config = Config::new(&format!(
            "[health]\nloop_stall_seconds = 1\n[[service]]\nname = \"bot\"\npid = {}\n",
            bot.pid()
        ));
        let probe = Probe::launch(&[], &["--config", config.path()]);
        probe.wait_ready();
        let failing = probe.wait_for("a loop that stands still", |_| {
            probe.check("loop not stalled", "bot").filter(|check| check["status"] == "failing")
        });
        let reason = failing["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("one turn takes at least ") && reason.contains(place), "{reason}");
        assert_eq!(probe.status("/healthz"), Some(503));
        probe.wait_for("the stall", |scrape| {
            let labels = [("service", "bot")];
            (scrape.try_count("miku_event_loop_stalls_total", &labels) >= Some(2)).then_some(())?;
            let stalls = scrape.counts_by("miku_event_loop_stalls_total", &labels, &["where", "threshold"]);
            let place = format!("hung.py:{place}");
            assert!(stalls.keys().all(|key| key.starts_with(&place)), "{stalls:?}");
            Some(())
        });
        assert_eq!(
            probe.scrape().sum("miku_event_loop_busy_seconds_count", &[("service", "bot")]),
            0.0,
            "no turn ended"
        );
    }
}

fn node_hung_before_anybody_looked() {
    let script = "setTimeout(() => { console.log('hangs'); for (;;); }, 100)";
    let bot = Process::start("Node", std::process::Command::new("node").args(["-e", script]));
    bot.wait_said(PATIENCE, |line| (line == "hangs").then_some(()));
    let log = log_of(&bot);
    let line = format!("bot (pid {}) stalled for at least 1.0 s: computes", bot.pid());
    let said = eventually(PATIENCE, || log.said().iter().any(|said| said.contains(&line)).then_some(()));
    said.unwrap_or_else(|| panic!("`{line}` is not said: {}", log.story()));
    ended(log);
}

/// Threads that wait in one selector by turns have no loop, and a script that waited in one is no service that stands still.
fn what_only_looks_like_a_loop() {
    for kind in ["shared", "script"] {
        let mut command = plain().expect("the case needs it").script("hung.py");
        let mut program = Process::start("the program", command.args([kind, "--after-input"]));
        let config = Config::new(&format!(
            "[health]\nloop_stall_seconds = 1\n[[service]]\nname = \"bot\"\npid = {}\n",
            program.pid()
        ));
        let probe = Probe::launch(&[], &["--config", config.path()]);
        probe.wait_target("bot");
        program.tell("go");
        program.wait_said(PATIENCE, |line| (line == "hangs").then_some(()));
        // Longer than it takes to find that a loop stands still.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(probe.check("loop not stalled", "bot"), None, "{kind}");
        assert_eq!(probe.status("/healthz"), Some(200), "{kind}");
        if kind == "shared" {
            probe.scrape().assert_absent("miku_event_loop_stalls_total", &[("service", "bot")]);
        }
    }
}

/// The stall right after the probe has begun to watch has a place, as all others have.
fn the_first_stall_has_its_place() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &["--still"]);
    let probe = Probe::attach(&[&blocked.service()]);
    for _ in 0..4 {
        blocked.plant("sleep", 0.4);
    }
    probe.wait_for("the stalls", |scrape| {
        let labels = [("service", "bot"), ("threshold", "0.1")];
        (scrape.try_count("miku_event_loop_stalls_total", &labels) == Some(4)).then_some(())?;
        let stalls = scrape.counts_by("miku_event_loop_stalls_total", &labels, &["where"]);
        assert_eq!(stalls.into_keys().collect::<Vec<_>>(), ["stalls.py:sleeps"]);
        Some(())
    });
}
