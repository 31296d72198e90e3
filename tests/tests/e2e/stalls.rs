//! Event loops that are blocked on purpose, at lines and for times that the program itself tells.

use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::probe::{Probe, exit_limit};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::stalls::{Blocked, KINDS, start_log, told, watch};
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
        case!(idle_loop_on_poll, PlainPython),
        case!(forked_workers_and_ended_loops, PlainPython),
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

/// Starts a program of `hung.py`, with these arguments.
fn start(arguments: &[&str]) -> Process {
    let mut command = plain().expect("the case needs it").script("hung.py");
    Process::start("the hung program", command.args(arguments))
}

fn wait_hangs(process: &Process) {
    process.wait_said(PATIENCE, |line| (line == "hangs").then_some(()));
}

fn service(process: &Process) -> String {
    format!("bot=pid:{}", process.pid())
}

/// Waits until a log reports a stall of at least a second that began before it, with this cause.
fn wait_begun_before(log: &Process, bot: &Process, cause: &str) {
    let line = format!("bot (pid {}) stalled for at least 1.0 s: {cause}", bot.pid());
    log.wait_said(PATIENCE, |said| said.contains(&line).then_some(()));
}

/// Ends a log and returns its lines.
fn ended(mut log: Process) -> Vec<String> {
    let status = log.stop(libc::SIGINT, exit_limit());
    assert_eq!(status.code(), Some(0), "{}", log.story());
    log.wait_silent(PATIENCE);
    log.said()
}

/// Starts a probe whose health fails after a second of stall.
fn judging(services: &[(&str, &Process)]) -> (Config, Probe) {
    let services = services.iter().map(|(name, process)| {
        let pid = process.pid();
        format!("[[service]]\nname = \"{name}\"\npid = {pid}\n")
    });
    let config = Config::new(&format!("[health]\nloop_stall_seconds = 1\n{}", services.collect::<String>()));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_ready();
    (config, probe)
}

const STALLS: &str = "miku_event_loop_stalls_total";

/// A loop that is stalled before the probe attaches is reported at once, with its location, as lasting at least since then.
fn hung_before_anybody_looked() {
    for (kind, place, cause) in [
        ("socket", "asks_a_silent_server", "waits for another process in asks_a_silent_server (hung.py:"),
        ("computes", "computes", "computes in computes (hung.py:"),
        ("nested", "selects_on_its_own", "waits for another process in EpollSelector.select (selectors.py:"),
    ] {
        let bot = start(&[kind]);
        wait_hangs(&bot);
        let log = start_log(&service(&bot), &[]);
        wait_begun_before(&log, &bot, cause);
        let said = ended(log);
        // The summary counts the stall, which still lasts.
        let last = said.last().map(|line| line.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
        assert!(last.first() == Some(&"1") && last.contains(&place), "{said:?}");

        let (_config, probe) = judging(&[("bot", &bot)]);
        let failing = probe.wait_for("a failing loop", |_| {
            probe.check("loop not stalled", "bot").filter(|check| check["status"] == "failing")
        });
        let reason = failing["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("one turn takes at least ") && reason.contains(place), "{reason}");
        assert_eq!(probe.status("/healthz"), Some(503));
        let labels = [("service", "bot")];
        probe.wait_for("the stall", |scrape| {
            (scrape.try_count(STALLS, &labels) >= Some(2)).then_some(())?;
            let stalls = scrape.counts_by(STALLS, &labels, &["where", "threshold"]);
            let location = match kind {
                "nested" => "selectors.py:EpollSelector.select".to_owned(),
                _ => format!("hung.py:{place}"),
            };
            assert!(stalls.keys().all(|key| key.starts_with(&location)), "{stalls:?}");
            Some(())
        });
        assert_eq!(probe.scrape().count("miku_event_loop_busy_seconds_count", &labels), 0, "no iteration ended");
    }
}

fn node_hung_before_anybody_looked() {
    let script = "setTimeout(() => { console.log('hangs'); for (;;); }, 100)";
    let bot = Process::start("Node", Command::new("node").args(["-e", script]));
    wait_hangs(&bot);
    let log = start_log(&service(&bot), &[]);
    wait_begun_before(&log, &bot, "computes");
    ended(log);
}

/// Stalls another loop and waits until that is reported and over: by then a stall of any other loop would be, too.
fn wait_other_stall(probe: &Probe, control: &mut Blocked) {
    control.plant("sleep", 2.0);
    probe.wait_for("the other loop's stall", |scrape| {
        (scrape.try_count(STALLS, &[("service", "control"), ("threshold", "1")]) == Some(1)).then_some(())
    });
    probe.wait_check("loop not stalled", "control", "ok", "");
}

fn control() -> Blocked {
    Blocked::start(&plain().expect("the case needs it"), &[])
}

/// An idle loop that waits in `poll`, which has no descriptor of its own, is not stalled.
fn idle_loop_on_poll() {
    for kind in ["polls", "beside"] {
        let bot = start(&[kind]);
        wait_hangs(&bot);
        let mut control = control();
        let (_config, probe) = judging(&[("bot", &bot), ("control", &control.process)]);
        wait_other_stall(&probe, &mut control);
        match kind {
            "polls" => probe.scrape().assert_absent(STALLS, &[("service", "bot")]),
            // A busy machine may stall the other loop of that process for a moment.
            _ => probe.scrape().assert_absent(STALLS, &[("service", "bot"), ("threshold", "1")]),
        }
        assert_eq!(probe.status("/healthz"), Some(200), "{kind}");
    }
}

/// A worker that was forked within a running loop has that loop on its stack and does not run it. A loop that has ended is not
/// stalled.
fn forked_workers_and_ended_loops() {
    for kind in ["forked", "ended"] {
        let mut bot = start(&[kind, "--after-input"]);
        let mut control = control();
        let (_config, probe) = judging(&[("bot", &bot), ("control", &control.process)]);
        probe.wait_target("bot");
        bot.tell("go");
        wait_hangs(&bot);
        wait_other_stall(&probe, &mut control);
        probe.scrape().assert_absent(STALLS, &[("service", "bot"), ("threshold", "1")]);
        assert_eq!(probe.status("/healthz"), Some(200), "{kind}");
        // The same for a probe that attaches later.
        let (_config, probe) = judging(&[("bot", &bot), ("control", &control.process)]);
        wait_other_stall(&probe, &mut control);
        probe.scrape().assert_absent(STALLS, &[("service", "bot"), ("threshold", "1")]);
        assert_eq!(probe.status("/healthz"), Some(200), "{kind}, attached later");
    }
}

/// Threads that share an epoll descriptor run no loop, and health does not judge a script that selected and then blocks.
fn what_only_looks_like_a_loop() {
    for kind in ["shared", "script"] {
        let mut program = start(&[kind, "--after-input"]);
        let mut control = control();
        let (_config, probe) = judging(&[("bot", &program), ("control", &control.process)]);
        probe.wait_target("bot");
        program.tell("go");
        wait_hangs(&program);
        wait_other_stall(&probe, &mut control);
        assert_eq!(probe.check("loop not stalled", "bot"), None, "{kind}");
        assert_eq!(probe.status("/healthz"), Some(200), "{kind}");
        if kind == "shared" {
            probe.scrape().assert_absent(STALLS, &[("service", "bot")]);
        }
    }
}

/// Every stall right after attaching has a location.
fn the_first_stall_has_its_place() {
    let mut blocked = Blocked::start(&plain().expect("the case needs it"), &["--still"]);
    let probe = Probe::attach(&[&blocked.service()]);
    for _ in 0..4 {
        blocked.plant("sleep", 0.4);
    }
    probe.wait_for("the stalls", |scrape| {
        let labels = [("service", "bot"), ("threshold", "0.1")];
        (scrape.try_count(STALLS, &labels) == Some(4)).then_some(())?;
        let stalls = scrape.counts_by(STALLS, &labels, &["where"]);
        assert_eq!(stalls.into_keys().collect::<Vec<_>>(), ["stalls.py:sleeps"]);
        Some(())
    });
}
