//! The live histogram, as programs and people read it.

use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::{binary, command};
use miku_probe_tests::harness::process::Process;
use serde_json::Value;

use crate::stage::Server;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(json_counts_and_quantiles),
        case!(json_filters),
        case!(ends_after_so_many),
        case!(blocks_when_piped),
        case!(broken_pipe),
    ]
}

fn start(server: &Server, options: &[&str]) -> Process {
    let mut command = command(&["hist", "--service", &server.service("web"), "--interval", "0.2"]);
    Process::start("hist", command.args(options))
}

/// A line as JSON; none when it is no object.
fn object(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
}

fn wait_attached(hist: &Process) {
    let attached = |value: &Value| value["targets"].as_array().is_some_and(|targets| !targets.is_empty());
    hist.wait_said(PATIENCE, |line| object(line).filter(attached).map(drop));
}

fn wait_count(hist: &Process, count: u64) {
    hist.wait_said(PATIENCE, |line| object(line).filter(|value| value["total"]["count"] == count).map(drop));
}

/// Ends it as a person does, and tells its last line.
fn interrupt(hist: &mut Process) -> Value {
    let status = hist.stop(libc::SIGINT, Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "{}", hist.story());
    hist.wait_said(PATIENCE, |line| object(line).filter(|value| value["final"] == true))
}

fn json_counts_and_quantiles() {
    let server = Server::peer(&[]);
    let mut hist = start(&server, &["--json"]);
    wait_attached(&hist);
    let options = ["--ask", "/slow?ms=20", "--ask", "/slow?ms=60", "-n", "200", "-c", "8", "--durations"];
    let truth = server.load(&options);
    wait_count(&hist, truth.total());
    let total = &interrupt(&mut hist)["total"];
    assert_eq!(total["count"], truth.total());
    assert_eq!(
        total["buckets"].as_array().and_then(|buckets| buckets.last()).map(|last| &last["count"]),
        Some(&total["count"])
    );
    for (name, quantile, least) in [("p50", 0.5, 0.02), ("p90", 0.9, 0.06), ("p99", 0.99, 0.06), ("max", 1.0, 0.06)] {
        let seen = total[name].as_f64().unwrap_or_else(|| panic!("no {name} in {total}"));
        let told = truth.quantile(quantile).expect("the load generator timed them");
        assert!(seen >= least * 0.97, "{name}: the server sleeps for {least} s, hist says {seen}");
        assert!(seen <= told * 1.03, "{name}: {told} s by the client, {seen} s by hist");
    }
    let all: Vec<Value> = hist.said().iter().filter_map(|line| object(line)).collect();
    let sum: u64 = all.iter().filter_map(|value| value["interval"]["count"].as_u64()).sum();
    assert_eq!(sum, truth.total(), "the intervals together are the total");
    assert!(all.iter().all(|value| value["lost"] == 0));
}

fn json_filters() {
    let server = Server::peer(&[]);
    let mut hist = start(&server, &["--json", "--route", "/fast", "--side", "server"]);
    wait_attached(&hist);
    let truth = server.load(&["--ask", "/fast", "--ask", "/status/404", "-n", "100", "-c", "1"]);
    assert_eq!(truth.total(), 101);
    hist.wait_said(PATIENCE, |line| {
        object(line).filter(|value| value["total"]["count"] == 50 && value["filtered"] == 51).map(drop)
    });
    assert_eq!(interrupt(&mut hist)["total"]["count"], 50);
}

fn ends_after_so_many() {
    let server = Server::peer(&[]);
    let mut hist = start(&server, &["--json", "--count", "3"]);
    let status = hist.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", hist.story()));
    hist.wait_silent(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", hist.story());
    let intervals = hist.said().iter().filter_map(|line| object(line)).filter(|value| value["final"] == false).count();
    assert_eq!(intervals, 3, "{}", hist.story());
}

fn blocks_when_piped() {
    let server = Server::peer(&[]);
    let mut hist = start(&server, &["--ascii"]);
    let attached = hist.wait_said(PATIENCE, |line| line.contains("p99.9").then(|| line.to_owned()));
    assert!(!attached.is_empty());
    let truth = server.load(&["--ask", "/slow?ms=20", "-n", "320", "-c", "16"]);
    hist.wait_said(PATIENCE, |line| line.contains("321").then_some(()));
    let before = hist.said().len();
    assert_eq!(hist.stop(libc::SIGINT, Duration::from_secs(2)).code(), Some(0), "{}", hist.story());
    hist.wait_silent(PATIENCE);
    let all = hist.said();
    assert!(all[before.min(all.len())..].iter().any(|line| line.contains("321")), "no summary: {}", hist.story());
    assert_eq!(truth.total(), 321);
    assert!(all.iter().all(|line| line.is_ascii() && !line.contains('\x1b')), "{}", hist.story());
}

fn broken_pipe() {
    let server = Server::peer(&[]);
    let mut command = Command::new("bash");
    let probe = binary().expect("the suite has looked for it");
    let script = "set -o pipefail; \"$0\" hist --service \"$1\" --interval 0.1 | head -n 1";
    let mut pipe = Process::start("a pipe", command.args(["-c", script]).arg(probe).arg(server.service("web")));
    let status = pipe.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", pipe.story()));
    pipe.wait_silent(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", pipe.story());
    assert_eq!(pipe.said().len(), 1, "{}", pipe.story());
    assert!(pipe.complained().iter().all(|line| !line.contains("panicked")), "{}", pipe.story());
}
