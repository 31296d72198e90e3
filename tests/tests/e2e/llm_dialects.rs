//! Servers of language models in all dialects, in every mood, and such as mean ill.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::kernel::resident_bytes;
use miku_probe_tests::harness::llm::{Call, Client, LlmServer};
use miku_probe_tests::harness::probe::Probe;
use serde_json::Value;
use tempfile::TempDir;

use crate::llm::{ENDS, python, tolerance, watch};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(recorded_dialects, Llm).compares_times(),
        case!(moods_of_a_stream, Llm),
        case!(refused_aborted_and_failed_within, Llm),
        case!(answers_that_mean_ill, Llm),
        case!(both_legs_of_a_proxy, Llm).compares_times(),
    ]
}

/// Tokens of an answer of the stand-in.
const TOKENS: u64 = 10;
const COUNT: &str = "miku_llm_request_duration_seconds_count";

/// The rounding error of an exported sum of seconds.
const ROUNDING: f64 = 1e-6;

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
            (scrape.try_count(COUNT, &[("model", model)]) == Some(count)).then(|| scrape.clone())
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
        // The stand-in reads its clock before and after it writes the first token.
        let [after, before] =
            [0, 2].map(|at| calls.iter().map(|call| since(call, &call["tokens"][0][at])).sum::<f64>());
        let seen = scrape.sum("miku_llm_time_to_first_token_seconds_sum", &labels);
        // The request arrives before the stand-in reads it, so the probe's time is longer by that, never shorter.
        let more = (tolerance() + 0.002) * calls.len() as f64;
        assert!(
            (before - ROUNDING..=after + more).contains(&seen),
            "{model}: {before} to {after} s by the stand-in, {seen} s by the probe"
        );
        let events = |call: &Value| -> u64 {
            call["tokens"].as_array().into_iter().flatten().filter_map(|write| write[1].as_u64()).sum()
        };
        let gaps: u64 = calls.iter().map(|call| events(call) - 1).sum();
        assert_eq!(scrape.count("miku_llm_inter_token_seconds_count", &labels), gaps, "gaps of {model}");
    }
}

fn recorded_dialects() {
    let stage = Stage::set();
    let dialects = [
        ("vllm", "chat"),
        ("responses", "chat"),
        ("anthropic", "chat"),
        ("ollama-chat", "chat"),
        ("ollama-generate", "text_completion"),
        ("completion", "text_completion"),
        ("llamacpp", "text_completion"),
        ("embeddings", "embeddings"),
    ];
    let calls = (4 * dialects.len()).to_string();
    let names = dialects.map(|(dialect, _)| dialect).join(",");
    let options = ["--dialects", &names, "--calls", &calls, "--stream", "mixed", "--concurrency", "4"];
    let calls = stage.calls(&[&options[..], &["--models", "{dialect}-{streaming}"]].concat());
    assert!(calls.iter().all(|call| call.status == Some(200)), "{calls:?}");
    for (dialect, operation) in dialects {
        for (kind, streaming) in [("streamed", "true"), ("whole", "false")] {
            let model = format!("{dialect}-{kind}");
            let count = calls.iter().filter(|call| call.model == model).count() as u64;
            // Of each dialect's four calls one is not streamed; vectors never are.
            let expected = match (operation, streaming) {
                ("embeddings", "true") => continue,
                ("embeddings", _) => 4,
                (_, "true") => 3,
                _ => 1,
            };
            assert_eq!(count, expected, "{calls:?}");
            let scrape = stage.ended(&model, count);
            let labels = [
                ("model", &*model),
                ("operation", operation),
                ("streaming", streaming),
                ("outcome", "complete"),
                ("side", "server"),
            ];
            assert_eq!(scrape.count(COUNT, &labels), count, "{model}: {}", stage.probe.told());
            let told = stage.told(&model);
            let tokens = scrape.counts_by("miku_llm_tokens_total", &[("model", &*model)], &["type"]);
            let input: u64 = told.iter().filter_map(|call| call["prompt"].as_u64()).sum();
            assert_eq!(tokens.get("input"), Some(&input), "input tokens of {model}");
            let output = (operation != "embeddings").then_some(count * TOKENS);
            assert_eq!(tokens.get("output").copied(), output, "output tokens of {model}");
            if streaming == "true" {
                stage.assert_streamed(&scrape, &model);
            }
        }
    }
}

/// However the events are cut into writes, and whatever stands between them.
fn moods_of_a_stream() {
    const EACH: u64 = 2;
    let stage = Stage::set();
    let models = ["keep-alive", "shared", "bytes", "gzip"].map(|mood| format!("miku:{mood}"));
    let calls = (EACH * models.len() as u64).to_string();
    let calls = stage.calls(&["--dialects", "vllm", "--calls", &calls, "--models", &models.join(",")]);
    assert!(calls.iter().all(|call| call.tokens == TOKENS), "{calls:?}");
    for model in &models {
        let scrape = stage.ended(model, EACH);
        assert_eq!(scrape.count(COUNT, &[("model", model), ("outcome", "complete")]), EACH, "{model}");
        stage.assert_streamed(&scrape, model);
        let output = scrape.count("miku_llm_tokens_total", &[("model", model), ("type", "output")]);
        assert_eq!(output, EACH * TOKENS, "output tokens of {model}");
    }
}

fn refused_aborted_and_failed_within() {
    const EACH: u64 = 3;
    let folder = tempfile::tempdir().expect("a folder");
    let python = python().expect("the case needs it");
    let server = LlmServer::standin(&python, &folder.path().join("truth"), None, &["--tokens", "50"]);
    let outcomes = [("miku:busy", "failed"), ("miku:error", "failed"), ("miku:abort", "aborted")];
    let (calls, models) = ((EACH * 3).to_string(), outcomes.map(|(model, _)| model).join(","));
    let options = ["--dialects", "vllm", "--calls", &calls, "--models", &models];
    let mut client = Client::start(&mut server.client(&python, &options));
    let probe = watch(&server, &client);
    let calls = client.go();
    for (model, outcome) in outcomes {
        let streams = calls.iter().filter(|call| call.model == model && call.first_token.is_some()).count() as u64;
        assert_eq!(streams, if model == "miku:busy" { 0 } else { EACH }, "{calls:?}");
        for (service, side) in ENDS {
            let labels = [("service", service), ("side", side), ("model", model), ("outcome", outcome)];
            let scrape = probe.wait_for(&format!("{EACH} calls of {model} by {service}"), |scrape| {
                (scrape.try_count(COUNT, &labels) == Some(EACH)).then(|| scrape.clone())
            });
            let first = scrape.try_count("miku_llm_time_to_first_token_seconds_count", &labels[..3]);
            assert_eq!(first, (streams > 0).then_some(streams), "first tokens of {model} by {service}");
            // No server told how many.
            scrape.assert_absent("miku_llm_tokens_total", &[labels[0], labels[2]]);
        }
    }
    let scrape = probe.scrape();
    assert_eq!(scrape.count(COUNT, &[]), 2 * 3 * EACH, "there are no others");
    assert_eq!(scrape.count("miku_llm_requests_in_flight", &[]), 0, "all came to their end");
}

/// Nothing that a server says takes the probe's memory, its life, or its sight of what comes after.
fn answers_that_mean_ill() {
    /// What the probe may grow by, in bytes: far less than any of the answers.
    const GROWTH: u64 = 6 << 20;
    let mut stage = Stage::set();
    let asked = |stage: &Stage, models: &str| {
        let count = models.split(',').count().to_string();
        stage.calls(&["--dialects", "vllm", "--calls", &count, "--models", models])
    };
    let good = |stage: &Stage, model: &str| {
        let scrape = stage.ended(model, 1);
        assert_eq!(scrape.count(COUNT, &[("model", model), ("outcome", "complete")]), 1, "{model}");
        stage.assert_streamed(&scrape, model);
    };
    asked(&stage, "before");
    good(&stage, "before");
    let before = resident_bytes(stage.probe.pid());
    let ill = ["endless-line", "huge-event", "invalid-utf8", "json-bomb", "many-keys", "wrong-numbers", "wrong-type"];
    let ill = ill.map(|kind| format!("miku:{kind}"));
    asked(&stage, &format!("{},after", ill.join(",")));
    for model in &ill {
        let scrape = stage.ended(model, 1);
        let outcomes = scrape.counts_by(COUNT, &[("model", model)], &["outcome"]);
        assert_eq!(outcomes, BTreeMap::from([("complete".to_owned(), 1)]), "{model}");
        // What is wrong comes before the answer, whose end is as it should be.
        let output = scrape.count("miku_llm_tokens_total", &[("model", model), ("type", "output")]);
        assert_eq!(output, TOKENS, "output tokens of {model}");
    }
    good(&stage, "after");
    let after = resident_bytes(stage.probe.pid());
    assert!(after < before + GROWTH, "the probe grew from {before} to {after} bytes");
    assert!(stage.probe.process().alive(), "{}", stage.probe.told());
}

/// A proxy that loads another model for each call: its legs are told apart, and the load is the user's and not the model's.
fn both_legs_of_a_proxy() {
    const CALLS: u64 = 6;
    const LOAD: f64 = 0.4;
    let python = python().expect("the case needs it");
    let folder = tempfile::tempdir().expect("a folder");
    let models = ["miku-a", "miku-b"];
    let servers =
        models.map(|model| LlmServer::standin(&python, &folder.path().join(model), None, &["--prompt-ms", "30"]));
    let truth = folder.path().join("swap");
    let upstream: Vec<_> = models.into_iter().zip(&servers).collect();
    let swap = LlmServer::swap(&python, &truth, &upstream, &[]);
    let mut client =
        Client::start(&mut swap.client(&python, &["--calls", &CALLS.to_string(), "--models", &models.join(",")]));
    let [a, b] = &servers;
    let services =
        [client.service("bot"), swap.service("swap"), a.service("llm"), b.service("llm")].each_ref().map(String::clone);
    let probe = Probe::attach(&services.each_ref().map(String::as_str));
    let calls = client.go();
    assert_eq!(calls.iter().filter(|call| call.status == Some(200)).count() as u64, CALLS, "{calls:?}");
    let loads = fs::read_to_string(&truth).expect("the proxy has made its log").matches("\"loads\": true").count();
    assert_eq!(loads as u64, CALLS, "the models take turns");

    let legs = [("bot", "client"), ("swap", "server"), ("swap", "client"), ("llm", "server")];
    let scrape = probe.wait_for("all legs of all calls", |scrape| {
        let ended = |(service, side)| {
            scrape.try_count(COUNT, &[("service", service), ("side", side), ("outcome", "complete")]) == Some(CALLS)
        };
        legs.into_iter().all(ended).then(|| scrape.clone())
    });
    let first = |(service, side)| {
        scrape.sum("miku_llm_time_to_first_token_seconds_sum", &[("service", service), ("side", side)])
    };
    for leg in legs {
        let place = [("service", leg.0), ("side", leg.1)];
        let tokens = scrape.count("miku_llm_tokens_total", &[&place[..], &[("type", "output")]].concat());
        assert_eq!(tokens, CALLS * TOKENS, "output tokens of {leg:?}");
        assert_eq!(scrape.count("miku_llm_time_to_first_token_seconds_count", &place), CALLS, "{leg:?}");
    }
    let off = CALLS as f64 * (tolerance() + 0.005);
    let by_client: f64 = calls.iter().filter_map(|call| call.first_token).sum();
    assert!((first(legs[0]) - by_client).abs() <= off, "{} s, by the client {by_client} s", first(legs[0]));
    for (outer, inner) in [(legs[0], legs[2]), (legs[1], legs[3])] {
        let between = first(outer) - first(inner);
        assert!((between - LOAD * CALLS as f64).abs() <= off, "{outer:?} waits {between} s longer than {inner:?}");
    }
    // The first call is no switch. Where one model is served, nothing is ever switched.
    let switches = CALLS - 1;
    for service in ["bot", "swap"] {
        let of = [("service", service)];
        assert_eq!(scrape.count("miku_llm_model_switches_total", &of), switches, "{service}");
        let waited = scrape.sum("miku_llm_model_load_seconds_sum", &of);
        assert!((waited - LOAD * switches as f64).abs() <= off, "{service} waited {waited} s for models");
    }
    scrape.assert_absent("miku_llm_model_switches_total", &[("service", "llm")]);
    scrape.assert_absent("miku_llm_model_load_seconds_count", &[("service", "llm")]);
}
