//! Calls of the real llama.cpp, watched at both ends: held against the client's own clock and the server's own counts.

use std::sync::OnceLock;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::llm::{Call, Client, LlmServer, environment};
use miku_probe_tests::harness::probe::{Probe, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::secure::wait_sites;
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::truth::Truth;
use serde_json::Value;

use crate::{Case, case, holds_to_promises};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(one_after_the_other, Llm).compares_times(),
        case!(sixteen_at_once, Llm).compares_times(),
        case!(by_openai_s_own_client, Llm).compares_times(),
        case!(under_tls, Llm).compares_times(),
        case!(in_every_dialect_of_llama_cpp, Llm),
        case!(live_as_json_and_as_blocks, Llm),
    ]
}

/// The environment of servers and client.
pub(crate) fn python() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    PYTHON.get_or_init(|| environment().map_err(|error| format!("{error:#}"))).clone()
}

/// How far the probe's times may be off, in seconds.
pub(crate) fn tolerance() -> f64 {
    if holds_to_promises() { 0.001 } else { 0.050 }
}

/// The quantiles of times that have to be right.
fn quantiles() -> &'static [(&'static str, f64)] {
    if holds_to_promises() { &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] } else { &[("p50", 0.5)] }
}

/// What the probe's own histograms may be off beyond that, as a share.
const RECORDER: f64 = 0.004;

fn llamacpp() -> LlmServer {
    LlmServer::llamacpp(&python().expect("the case needs it"), &[])
}

fn client(server: &LlmServer, options: &[&str]) -> Client {
    Client::start(&mut server.client(&python().expect("the case needs it"), options))
}

/// A probe on both ends, as `bot` and `llm`.
pub(crate) fn watch(server: &LlmServer, client: &Client) -> Probe {
    Probe::attach(&[&server.service("llm"), &client.service("bot")])
}

/// Both ends as the metrics call them: service and side.
pub(crate) const ENDS: [(&str, &str); 2] = [("bot", "client"), ("llm", "server")];

/// The live histogram of the client's calls.
fn hist(client: &Client) -> Process {
    let service = client.service("bot");
    let mut watch =
        command(&["hist", "--llm", "--json", "--interval", "0.2", "--side", "client", "--service", &service]);
    let hist = Process::start("hist", &mut watch);
    hist.wait_said(PATIENCE, |line| {
        let value: Value = serde_json::from_str(line).ok()?;
        (!value["targets"].as_array()?.is_empty()).then_some(())
    });
    hist
}

/// The last line of a histogram, once it has seen as many calls.
fn conclude(mut hist: Process, calls: usize) -> Value {
    let line = |line: &str| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
    hist.wait_said(PATIENCE, |text| line(text).filter(|value| value["total"]["count"] == calls).map(drop));
    let status = hist.stop(libc::SIGINT, PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", hist.story());
    hist.wait_said(PATIENCE, |text| line(text).filter(|value| value["final"] == true))
}

/// Waits until both ends have counted so many calls with this outcome.
pub(crate) fn wait_calls(probe: &Probe, outcome: &str, count: usize) {
    for (service, side) in ENDS {
        probe.wait_for(&format!("{count} calls by {service} that are {outcome}"), |scrape| {
            let labels = [("service", service), ("side", side), ("outcome", outcome)];
            (scrape.count("miku_llm_request_duration_seconds_count", &labels) == count as u64).then_some(())
        });
    }
}

/// Streams of which the probe says that it did not read every event: a client that waited for a processor may read more at once than
/// is copied.
fn unread(scrape: &Scrape) -> u64 {
    if holds_to_promises() {
        0
    } else {
        scrape.count("miku_probe_unmatched_total", &[("protocol", "llm"), ("reason", "unread")])
    }
}

/// Asserts that what both ends counted is what client and server did.
fn assert_counts(probe: &Probe, calls: &[Call]) {
    wait_calls(probe, "complete", calls.len());
    let scrape = probe.scrape();
    let sum = |count: fn(&Call) -> u64| calls.iter().map(count).sum::<u64>();
    let unread = unread(&scrape);
    for (service, side) in ENDS {
        let place = [("service", service), ("side", side)];
        let counted = |name: &str, more: &[(&str, &str)]| scrape.count(name, &[&place, more].concat());
        let streams = sum(|call| u64::from(call.streaming));
        for (name, count) in [
            ("miku_llm_time_to_first_token_seconds_count", streams),
            ("miku_llm_inter_token_seconds_count", sum(|call| call.gaps.len() as u64)),
            ("miku_llm_requests_in_flight", 0),
        ] {
            let seen = counted(name, &[]);
            assert!(
                seen == count || (seen < count && unread > 0),
                "{name} of {service}: {seen}, by the client {count}"
            );
        }
        let output = counted("miku_llm_tokens_total", &[("type", "output")]);
        assert_eq!(output, sum(|call| call.output.expect("the server tells")), "output tokens of {service}");
        let completed = |more: &[(&str, &str)]| {
            counted("miku_llm_request_duration_seconds_count", &[&[("outcome", "complete")], more].concat())
        };
        let streamed = completed(&[("streaming", "true")]);
        assert_eq!(streamed, streams, "streams of {service}");
        let named = completed(&[("model", "miku-tiny"), ("operation", "chat")]);
        assert_eq!(named, calls.len() as u64, "calls of {service} by their model");
        for (name, of) in [
            ("miku_llm_prompt_seconds_total", (|timings| timings.0) as fn((f64, f64)) -> f64),
            ("miku_llm_predicted_seconds_total", |timings| timings.1),
        ] {
            let told: f64 = calls.iter().filter_map(|call| call.timings.map(of)).sum();
            let seen = scrape.sum(name, &place);
            assert!(
                (seen - told).abs() < 1e-6 * calls.len() as f64,
                "{name} of {service}: {seen}, by the server {told}"
            );
        }
    }
    assert_eq!(scrape.sum("miku_probe_lost_total", &[("where", "ring")]), 0.0, "nothing was lost");
}

/// How long a request may wait for a busy server to read it.
const UNREAD: f64 = 0.005;

/// Asserts that the mean times of both ends are the client's; what waits for the server to read it, so long at most, is none of the
/// server's.
fn assert_means(probe: &Probe, calls: &[Call], tolerance: f64, unread: f64) {
    let scrape = probe.scrape();
    let times = |of: fn(&Call) -> Vec<f64>| calls.iter().flat_map(of).collect::<Vec<_>>();
    for (service, side) in ENDS {
        let place = [("service", service), ("side", side)];
        for (name, told) in [
            ("miku_llm_time_to_first_token_seconds", times(|call| call.first_token.into_iter().collect())),
            ("miku_llm_inter_token_seconds", times(|call| call.gaps.clone())),
            ("miku_llm_request_duration_seconds", times(|call| vec![call.duration])),
        ] {
            let count = scrape.sum(&format!("{name}_count"), &place);
            let seen = scrape.sum(&format!("{name}_sum"), &place) / count;
            let told = told.iter().sum::<f64>() / told.len() as f64;
            let less = if side == "server" { tolerance + unread } else { tolerance };
            let off = told - seen;
            assert!((-tolerance..=less).contains(&off), "{name} of {service} is {seen} s, by the client {told} s");
        }
    }
}

/// Asserts that the quantiles of a histogram are those of the client's times.
fn assert_quantiles(total: &Value, calls: &[Call], tolerance: f64, unread: u64) {
    for (name, times) in [
        ("first_token", calls.iter().filter_map(|call| call.first_token).collect::<Vec<_>>()),
        ("inter_token", calls.iter().flat_map(|call| call.gaps.clone()).collect()),
    ] {
        assert!(total[name]["count"] == times.len() || unread > 0, "{name}: {} by the client, {total}", times.len());
        let truth = Truth { durations: times, ..Truth::default() };
        for (key, quantile) in quantiles() {
            let seen = total[name][key].as_f64().unwrap_or_else(|| panic!("no {key} of {name} in {total}"));
            let told = truth.quantile(*quantile).expect("the client timed them");
            let off = tolerance + told * RECORDER;
            assert!((seen - told).abs() <= off, "{name} {key}: {told} s by the client, {seen} s by hist");
        }
    }
}

/// Has a client make its calls; those that were answered. A connection that is used again at once llama.cpp closes now and
/// then instead.
fn answered(client: &mut Client) -> Vec<Call> {
    let mut calls = client.go();
    let asked = calls.len();
    calls.retain(|call| call.status == Some(200));
    assert!(calls.len() * 4 >= asked * 3, "of {asked} calls only {} were answered", calls.len());
    calls
}

/// Has a client make calls that are watched at both ends, and holds all against it.
fn compare(options: &[&str], tolerance: f64, waits: f64) {
    let server = llamacpp();
    let mut client = client(&server, options);
    let probe = watch(&server, &client);
    let hist = hist(&client);
    let calls = answered(&mut client);
    assert_counts(&probe, &calls);
    assert_means(&probe, &calls, tolerance, waits);
    assert_quantiles(&conclude(hist, calls.len())["total"], &calls, tolerance, unread(&probe.scrape()));
}

fn one_after_the_other() {
    compare(&["--calls", "24", "--stream", "mixed", "--pause-ms", "10"], tolerance(), 0.0);
}

fn sixteen_at_once() {
    let options = ["--calls", "64", "--concurrency", "16", "--stream", "mixed", "--usage", "--pause-ms", "10"];
    compare(&options, tolerance(), UNREAD);
}

/// The times are those at which the library is asked and hands events on, so they are longer than what the probe sees; the first
/// call's by most.
fn by_openai_s_own_client() {
    let options = ["--library", "openai", "--calls", "12", "--stream", "mixed", "--pause-ms", "10"];
    compare(&options, tolerance() + 0.06, 0.0);
}

/// With a model of its own for each call, each call is held against the client's clock by itself.
fn under_tls() {
    const CALLS: usize = 16;
    let python = python().expect("the case needs it");
    let (folder, authority) =
        (tempfile::tempdir().expect("a folder"), Authority::new().expect("certificates can be made"));
    let options = ["--tokens", "20", "--prompt-ms", "40", "--token-ms", "7"];
    let server = LlmServer::standin(&python, &folder.path().join("truth"), Some(&authority), &options);
    let mut command =
        server.client(&python, &["--dialects", "vllm", "--calls", &CALLS.to_string(), "--concurrency", "4"]);
    command.args(["--models", "miku-{number}", "--host", "llm.miku.test"]).arg("--ca").arg(authority.root());
    let mut client = Client::start(&mut command);
    let probe = watch(&server, &client);
    for (service, _) in ENDS {
        wait_sites(&probe, service);
    }
    let calls = client.go();
    wait_calls(&probe, "complete", CALLS);
    let scrape = probe.scrape();
    let mut off = Vec::new();
    for (call, (service, _)) in calls.iter().flat_map(|call| ENDS.map(|end| (call, end))) {
        let model = format!("miku-{}", call.number);
        let labels = [("service", service), ("model", &*model)];
        let seen = scrape.sum("miku_llm_time_to_first_token_seconds_sum", &labels);
        let told = call.first_token.expect("a stream has a first token");
        // What waits for the server to read it is none of the server's.
        let unread = if service == "llm" { (told - seen).clamp(0.0, UNREAD) } else { 0.0 };
        off.push((seen + unread - told).abs());
        assert_eq!(scrape.count("miku_llm_inter_token_seconds_count", &labels), call.tokens - 1, "{service}, {model}");
        let output = scrape.count("miku_llm_tokens_total", &[labels[0], labels[1], ("type", "output")]);
        assert_eq!(Some(output), call.output, "{service}, {model}");
    }
    let truth = Truth { durations: off, ..Truth::default() };
    for (name, quantile) in quantiles() {
        let off = truth.quantile(*quantile).expect("there are calls");
        assert!(off <= tolerance(), "{name} of how far first tokens are off is {off} s");
    }
    let named = scrape.count("miku_llm_request_duration_seconds_count", &[("server_address", "llm.miku.test")]);
    assert_eq!(named, CALLS as u64, "the client's calls go by the server's name");
}

/// llama.cpp speaks most of them itself.
fn in_every_dialect_of_llama_cpp() {
    const TOKENS: u64 = 9;
    let server = llamacpp();
    let dialects = ["chat", "responses", "anthropic", "completion", "llamacpp"];
    let calls = (4 * dialects.len()).to_string();
    let options = [
        "--dialects",
        &dialects.join(","),
        "--calls",
        &calls,
        "--stream",
        "mixed",
        "--tokens",
        "9",
        "--pause-ms",
        "30",
    ];
    let mut client = client(&server, &options);
    let probe = watch(&server, &client);
    let calls = client.go();
    assert!(calls.iter().all(|call| call.status == Some(200)), "{calls:?}");
    wait_calls(&probe, "complete", calls.len());
    let scrape = probe.scrape();
    for (service, _) in ENDS {
        for (operation, streaming, count) in
            [("chat", "true", 9), ("chat", "false", 3), ("text_completion", "true", 6), ("text_completion", "false", 2)]
        {
            let labels = [("service", service), ("operation", operation), ("streaming", streaming)];
            let seen = scrape.count("miku_llm_request_duration_seconds_count", &labels);
            assert_eq!(seen, count, "{operation} of {service}, streaming {streaming}: {}", probe.told());
            if streaming == "true" {
                let gaps = scrape.count("miku_llm_inter_token_seconds_count", &labels);
                assert_eq!(gaps, count * (TOKENS - 1), "gaps of {operation} of {service}");
            }
        }
        let output = scrape.count("miku_llm_tokens_total", &[("service", service), ("type", "output")]);
        assert_eq!(output, calls.len() as u64 * TOKENS, "output tokens of {service}");
    }
}

fn live_as_json_and_as_blocks() {
    let server = llamacpp();
    let mut client = client(&server, &["--calls", "12", "--concurrency", "3", "--pause-ms", "10"]);
    let json = hist(&client);
    let services = [server.service("llm"), client.service("bot")];
    let mut watch = command(&["hist", "--llm", "--ascii", "--interval", "0.2", "--service", &services[0]]);
    let mut blocks = Process::start("hist", watch.args(["--service", &services[1]]));
    blocks.wait_said(PATIENCE, |line| line.contains("bot (pid").then_some(()));
    let calls = answered(&mut client);
    let last = conclude(json, calls.len());
    assert_eq!(last["in_flight"], 0);
    let models = last["models"].as_array().expect("an array");
    assert_eq!((models.len(), &models[0]["model"], &models[0]["side"]), (1, &"miku-tiny".into(), &"client".into()));
    let output: u64 = calls.iter().filter_map(|call| call.output).sum();
    assert_eq!(last["total"]["tokens"]["output"], output);
    // Both ends of every call.
    let both = format!(" {} calls |", 2 * calls.len());
    blocks.wait_said(PATIENCE, |line| line.starts_with(&both).then_some(()));
    let before = blocks.said().len();
    assert_eq!(blocks.stop(libc::SIGINT, PATIENCE).code(), Some(0), "{}", blocks.story());
    blocks.wait_silent(PATIENCE);
    let all = blocks.said();
    let summary = &all[before.min(all.len())..];
    for part in [&*both, "first token", "between tokens", "tokens/s", "miku-tiny"] {
        assert!(summary.iter().any(|line| line.contains(part)), "no {part:?} in the summary: {}", blocks.story());
    }
    assert!(all.iter().all(|line| line.is_ascii() && !line.contains('\x1b')), "{}", blocks.story());
}
