//! The live histogram, as programs and people read it.

use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::{binary, command};
use miku_probe_tests::harness::process::Process;
use serde_json::{Value, json};

use crate::discord_metrics::reply_within;
use crate::discord_stage::{Compression, bot, discord, llm};
use crate::stage::Server;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(json_counts_and_quantiles),
        case!(json_filters),
        case!(ends_after_so_many),
        case!(blocks_when_piped),
        case!(broken_pipe),
        case!(replies_as_json, DiscordZstd, Hermetic).compares_times(),
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

/// Asserts that of nothing watched anything was lost, and that what was lost is what the lines say. Runs of programs that the
/// kernel left out may be anybody's.
fn assert_losses(hist: &Process, lines: &[Value]) {
    let said = hist.complained();
    let lost: Vec<(u64, &str)> = said
        .iter()
        .filter_map(|line| line.split_once(": lost ")?.1.split_once(" by "))
        .map(|(count, place)| (count.parse().expect("a number"), place))
        .collect();
    assert!(lost.iter().all(|(_, place)| *place == "recursion"), "{}", hist.story());
    let sum: u64 = lost.iter().map(|(count, _)| count).sum();
    assert_eq!(lines.last().map(|line| &line["lost"]), Some(&json!(sum)), "{}", hist.story());
}

fn json_counts_and_quantiles() {
    let server = Server::peer(&[]);
    let mut hist = start(&server, &["-vv", "--json"]);
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
    assert_losses(&hist, &all);
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

/// How long people wait, held against what the stand-in knows of it.
fn replies_as_json() {
    // Odd, so that one of them is the median.
    const COUNT: usize = 41;
    let mut discord = discord(&["--delay-ms", "20"]);
    let (_llm, url) = llm(&discord, &["--spread", "0.5"]);
    let name = discord.folder().display().to_string();
    let service = format!("bot=cmdline:--name {name}");
    let mut watch = command(&["hist", "-vv", "--reply", "--json", "--interval", "0.2", "--service", &service]);
    let mut hist = Process::start("hist", &mut watch);
    // It is there before the bot is, and misses nothing of it.
    hist.wait_said(PATIENCE, |line| object(line).map(drop));
    let mut command = bot(Compression::Zstd, &["--llm", &url, "--stream-llm", "--name", &name]);
    let _bot = discord.bot("discord.py", &mut command);
    let load = json!({"do": "messages", "text": "!replyllm hi", "count": COUNT, "channels": COUNT, "rate": 10});
    discord.tell(&load);
    discord.wait_replies(COUNT);
    wait_count(&hist, COUNT as u64);

    let total = &interrupt(&mut hist)["total"];
    assert_eq!(total["count"], COUNT);
    let mut log: Vec<f64> = discord.log().replies().iter().map(|reply| reply.seconds).collect();
    assert_eq!(log.len(), COUNT);
    log.sort_by(f64::total_cmp);
    for (name, place) in [("p50", COUNT / 2), ("max", COUNT - 1)] {
        let seen = total[name].as_f64().unwrap_or_else(|| panic!("no {name} in {total}"));
        let log = log[place];
        // One number stands for those within 3 %.
        let within = 0.03 * log + reply_within();
        assert!((seen - log).abs() <= within, "{name}: {log} s by the stand-in, {seen} s by hist");
    }
    let all: Vec<Value> = hist.said().iter().filter_map(|line| object(line)).collect();
    let sum: u64 = all.iter().filter_map(|value| value["interval"]["count"].as_u64()).sum();
    assert_eq!(sum, COUNT as u64, "the intervals together are the total");
    assert_losses(&hist, &all);
}
