//! Servers of language models in all dialects, in every mood, and such as mean ill.

use std::fs;
use std::time::Duration;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::llm::{Call, Client, LlmServer};
use miku_probe_tests::harness::probe::Probe;
use serde_json::Value;
use tempfile::TempDir;

use crate::llm::{ENDS, python, tolerance, wait_calls, watch};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(recorded_dialects, Llm),
        case!(moods_of_a_stream, Llm),
        case!(refused_aborted_and_failed_within, Llm),
        case!(answers_that_mean_ill, Llm),
    ]
}

/// Tokens of an answer of the stand-in.
const TOKENS: u64 = 10;
const COUNT: &str = "miku_llm_request_duration_seconds_count";

/// A stand-in, a probe on it, and what it writes down.
struct Stage {
    server: LlmServer,
    probe: Probe,
    folder: TempDir,
}

impl Stage {
    fn set() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let truth = folder.path().join("truth");
        let server = LlmServer::standin(&python().expect("the case needs it"), &truth, None, &["--prompt-ms", "30"]);
        let probe = Probe::attach(&[&server.service("llm")]);
        Self { server, probe, folder }
    }

    /// A run of the client.
    fn calls(&self, options: &[&str]) -> Vec<Call> {
        Client::start(&mut self.server.client(&python().expect("the case needs it"), options)).go()
    }

    /// What the stand-in wrote down of the calls for a model.
    fn told(&self, model: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("truth")).expect("the stand-in has made its log");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("the stand-in writes JSON"));
        lines.filter(|call| call["model"] == model).collect()
    }

    /// The metrics, once so many calls for a model have ended, however they did.
    fn ended(&self, model: &str, count: u64) -> Scrape {
        self.probe.wait_for(&format!("{count} calls of {model}"), |scrape| {
            (scrape.count(COUNT, &[("model", model)]) == count).then(|| scrape.clone())
        })
    }

    /// Asserts that streams for a model were timed as the stand-in did, and all of their tokens seen.
    fn assert_streamed(&self, scrape: &Scrape, model: &str) {
        let labels = [("model", model)];
        let calls = self.told(model);
        let since = |call: &Value, to: &Value| {
            let nanos = to.as_u64().expect("a time") - call["received"].as_u64().expect("a time");
            Duration::from_nanos(nanos).as_secs_f64()
        };
        let first: f64 = calls.iter().map(|call| since(call, &call["tokens"][0][0])).sum();
        let seen = scrape.sum("miku_llm_time_to_first_token_seconds_sum", &labels);
        // The request comes in some time before the stand-in has read it.
        let off = calls.len() as f64 * (tolerance() + 0.002);
        assert!((seen - first).abs() <= off, "{model}: {first} s by the stand-in, {seen} s by the probe");
        let events = |call: &Value| -> u64 {
            call["tokens"].as_array().into_iter().flatten().filter_map(|write| write[1].as_u64()).sum()
        };
        let gaps: u64 = calls.iter().map(|call| events(call) - 1).sum();
        assert_eq!(scrape.count("miku_llm_inter_token_seconds_count", &labels), gaps, "gaps of {model}");
    }
}

fn recorded_dialects() {
    let stage = Stage::set();
    for (dialect, operation) in [
        ("vllm", "chat"),
        ("responses", "chat"),
        ("anthropic", "chat"),
        ("ollama-chat", "chat"),
        ("ollama-generate", "text_completion"),
    ] {
        for (stream, streaming) in [("yes", "true"), ("no", "false")] {
            let model = format!("{dialect}-{stream}");
            let calls = stage.calls(&["--dialect", dialect, "--stream", stream, "--calls", "2", "--model", &model]);
            assert!(calls.iter().all(|call| call.status == Some(200)), "{calls:?}");
            let scrape = stage.ended(&model, 2);
            let labels = [
                ("model", &*model),
                ("operation", operation),
                ("streaming", streaming),
                ("outcome", "complete"),
                ("side", "server"),
            ];
            assert_eq!(scrape.count(COUNT, &labels), 2, "{model}: {}", stage.probe.told());
            let output = scrape.count("miku_llm_tokens_total", &[("model", &model), ("type", "output")]);
            assert_eq!(output, 2 * TOKENS, "output tokens of {model}");
            let told: u64 = stage.told(&model).iter().filter_map(|call| call["prompt"].as_u64()).sum();
            let input = scrape.count("miku_llm_tokens_total", &[("model", &model), ("type", "input")]);
            assert_eq!(input, told, "input tokens of {model}");
            if stream == "yes" {
                stage.assert_streamed(&scrape, &model);
            }
        }
    }
}

/// However the events are cut into writes, and whatever stands between them.
fn moods_of_a_stream() {
    let stage = Stage::set();
    for mood in ["keep-alive", "shared", "bytes", "gzip"] {
        let model = format!("miku:{mood}");
        let calls = stage.calls(&["--dialect", "vllm", "--calls", "2", "--model", &model]);
        assert!(calls.iter().all(|call| call.tokens == TOKENS), "{calls:?}");
        // What is compressed is only understood where that costs nothing; then the model is the one that was asked for.
        let scrape = stage.ended(&model, 2);
        assert_eq!(scrape.count(COUNT, &[("model", &model), ("outcome", "complete")]), 2, "{mood}");
        if mood != "gzip" {
            stage.assert_streamed(&scrape, &model);
            let output = scrape.count("miku_llm_tokens_total", &[("model", &model), ("type", "output")]);
            assert_eq!(output, 2 * TOKENS, "output tokens of {model}");
        }
    }
}

fn refused_aborted_and_failed_within() {
    let folder = tempfile::tempdir().expect("a folder");
    let python = python().expect("the case needs it");
    let server = LlmServer::standin(&python, &folder.path().join("truth"), None, &["--tokens", "50"]);
    for (outcome, options) in [
        ("failed", ["--model", "miku:busy", "--stream", "no", "--calls", "3"]),
        ("failed", ["--model", "miku:error", "--stream", "yes", "--calls", "3"]),
        ("aborted", ["--model", "miku", "--abort-after", "5", "--calls", "3"]),
    ] {
        let mut client = Client::start(&mut server.client(&python, &[&["--dialect", "vllm"][..], &options].concat()));
        let probe = watch(&server, &client);
        let calls = client.go();
        wait_calls(&probe, outcome, calls.len());
        let scrape = probe.scrape();
        for (service, _) in ENDS {
            assert_eq!(scrape.count(COUNT, &[("service", service)]), 3, "{service} has no others");
            let told = scrape.count("miku_llm_tokens_total", &[("service", service), ("type", "output")]);
            assert_eq!(told, 0, "no server told of output tokens, of {options:?}");
            assert_eq!(scrape.count("miku_llm_requests_in_flight", &[("service", service)]), 0, "{options:?}");
        }
        let first = scrape.count("miku_llm_time_to_first_token_seconds_count", &[("service", "bot")]);
        assert_eq!(first, calls.iter().filter(|call| call.first_token.is_some()).count() as u64, "{options:?}");
    }
}

/// Nothing that a server says takes the probe's memory, its life, or its sight of what comes after.
fn answers_that_mean_ill() {
    /// What the probe may grow by, in bytes: far less than any of the answers.
    const GROWTH: u64 = 6 << 20;
    let mut stage = Stage::set();
    let plain = |stage: &Stage, model: &str| {
        let calls = stage.calls(&["--dialect", "vllm", "--calls", "1", "--model", model]);
        assert_eq!(calls[0].tokens, TOKENS);
        let scrape = stage.ended(model, 1);
        assert_eq!(scrape.count(COUNT, &[("model", model), ("outcome", "complete")]), 1, "{model}");
        stage.assert_streamed(&scrape, model);
    };
    plain(&stage, "before");
    let before = resident(stage.probe.pid());
    let kinds = ["endless-line", "huge-event", "invalid-utf8", "json-bomb", "many-keys", "wrong-numbers", "wrong-type"];
    for kind in kinds {
        let model = format!("miku:{kind}");
        let _ = stage.calls(&["--dialect", "vllm", "--calls", "1", "--model", &model]);
        let scrape = stage.ended(&model, 1);
        let output = scrape.count("miku_llm_tokens_total", &[("model", &model), ("type", "output")]);
        assert!([0, TOKENS].contains(&output), "{kind}: the server counted {TOKENS} tokens or none, not {output}");
    }
    plain(&stage, "after");
    let after = resident(stage.probe.pid());
    assert!(after < before + GROWTH, "the probe grew from {before} to {after} bytes");
    assert!(stage.probe.process().alive(), "{}", stage.probe.told());
}

/// Memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}
