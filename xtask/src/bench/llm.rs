//! Language models: a thousand streams at once, and what watching costs a server that generates as fast as it can.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::llm::{Client, LlmServer, environment};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::noise::{ProcessorTime, Ratio, STEAL_LIMIT};
use serde_json::json;

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, Stage, processor_seconds, result};

/// Streams at once, each of 50 tokens a second.
const STREAMS: u32 = 1_000;
const MEBIBYTE: f64 = 1024.0 * 1024.0;

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("llm: streams of tokens");
    streams(stage, &mut report)?;
    throughput(stage, &mut report)?;
    Ok(report)
}

/// What the probe says of all calls together.
struct Count {
    calls: u64,
    first: u64,
    gaps: u64,
    output: u64,
    lost: u64,
}

impl Count {
    fn of(scrape: &Scrape) -> Self {
        // There are none of most before the first call.
        let count = |name: &str, labels: &[(&str, &str)]| scrape.try_count(name, labels).unwrap_or(0);
        Self {
            calls: count("miku_llm_request_duration_seconds_count", &[("outcome", "complete")]),
            first: count("miku_llm_time_to_first_token_seconds_count", &[]),
            gaps: count("miku_llm_inter_token_seconds_count", &[]),
            output: count("miku_llm_tokens_total", &[("type", "output")]),
            lost: scrape.count("miku_probe_lost_total", &[("where", "ring")]),
        }
    }
}

/// A thousand streams: every token has to be seen, and the probe's share of a processor be small.
fn streams(stage: &Stage, report: &mut Report) -> Result<()> {
    let tokens: u32 = stage.choose(1_000, 300);
    let mut command = stage.peer();
    let server = Process::start("the server", command.args(["serve-streams", "--tokens", &tokens.to_string()]));
    let address = server.wait_said(PATIENCE, |line| line.strip_prefix("listening on ").map(str::to_owned));
    let probe = Probe::attach(&[&format!("llm=pid:{}", server.pid())]);
    let mut command = stage.peer();
    let mut client = Process::start("the client", command.args(["ask-streams", &address, "-c", &STREAMS.to_string()]));
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let (start, before) = (Instant::now(), processor_seconds(probe.pid())?);
    client.tell("go");
    let mut most = 0.0_f64;
    while client.alive() {
        most = most.max(Memory::of(probe.pid())?.resident);
        thread::sleep(Duration::from_millis(200));
    }
    let share = (processor_seconds(probe.pid())? - before) / start.elapsed().as_secs_f64();
    let told = result(&mut client)?;
    let sent = told["tokens"].as_u64().context("the client counts tokens")?;
    let seconds = told["seconds"].as_f64().context("the client has a clock")?;
    let mut count = Count::of(&probe.scrape());
    let _ = eventually(Duration::from_secs(5), || {
        count = Count::of(&probe.scrape());
        (count.calls >= u64::from(STREAMS)).then_some(())
    });
    let streams = u64::from(STREAMS);
    let mut table = Table::new("A thousand streams of 50 tokens a second each", &["", "by the client", "by the probe"]);
    for (name, truth, seen) in [
        ("calls that were complete", streams, count.calls),
        ("first tokens", streams, count.first),
        ("gaps between tokens", sent - streams, count.gaps),
        ("output tokens", sent, count.output),
    ] {
        table.row(vec![name.to_owned(), truth.to_string(), seen.to_string()]);
        report.verdict(Kind::Exact, format!("all {name} were seen"), format!("{seen} of {truth}"), seen == truth);
    }
    report.table(table);
    #[allow(clippy::cast_precision_loss, reason = "a count of tokens")]
    let rate = sent as f64 / seconds;
    let most = most / MEBIBYTE;
    report.note(format!("{rate:.0} tokens a second in all; the probe took {most:.1} MiB at most"));
    report.verdict(Kind::Exact, "no record was lost", count.lost.to_string(), count.lost == 0);
    report.verdict(Kind::Measure, "49,000 tokens a second in all", format!("{rate:.0}"), rate >= 49_000.0);
    report.verdict(Kind::Measure, "below 20 % of a processor", percent(share), share < 0.2);
    let number = json!({"tokens": sent, "seconds": seconds, "processor_share": share, "resident_mib_most": most,
        "calls": count.calls, "gaps": count.gaps, "output": count.output, "lost": count.lost});
    report.number("streams", number);
    Ok(())
}

/// How many tokens a second llama.cpp generates while it is watched, against how many while the probe is stopped and blind.
fn throughput(stage: &Stage, report: &mut Report) -> Result<()> {
    let python = environment()?;
    let server = LlmServer::llamacpp(&python, &[]);
    let mut probe = Probe::attach(&[&server.service("llm")]);
    let [of, pid] = [probe.pid(), server.process.pid()].map(|pid| pid.to_string());
    let mut sight = stage.switch(&["sight", "--probe", &of, "--pid", &pid]);
    let run = || -> Result<f64> {
        let options = ["--calls", "64", "--concurrency", "8", "--tokens", "48"];
        let calls = Client::start(&mut server.client(&python, &options)).go();
        let output: u64 = calls.iter().filter_map(|call| call.output).sum();
        // A model may end an answer before it has all the tokens that it may have.
        ensure!(output >= 64 * 24, "the server gave {output} tokens");
        let start = calls.iter().map(|call| call.span.0).min().context("there are calls")?;
        let end = calls.iter().map(|call| call.span.1).max().context("there are calls")?;
        #[allow(clippy::cast_precision_loss, reason = "a count of tokens")]
        Ok(output as f64 / Duration::from_nanos(end - start).as_secs_f64())
    };
    run()?;
    let (mut ratios, mut rates, mut dropped) = (Vec::new(), Vec::new(), 0_u32);
    for pair in 0..stage.choose(40_u32, 14) {
        let start = ProcessorTime::now()?;
        let mut side = |on: bool| {
            sight.turn(on);
            probe.process().signal(if on { libc::SIGCONT } else { libc::SIGSTOP });
            run()
        };
        let (with, without) = if pair.count_ones() % 2 == 0 {
            let with = side(true)?;
            (with, side(false)?)
        } else {
            let without = side(false)?;
            (side(true)?, without)
        };
        if start.steal_since()? > STEAL_LIMIT {
            dropped += 1;
            continue;
        }
        ratios.push(with / without);
        rates.push(without);
    }
    sight.turn(false);
    probe.process().signal(libc::SIGCONT);
    let ratio = Ratio::of(&ratios).context("the host took too much of the time: too few pairs are left")?;
    let (low, high) = ratio.interval();
    let got = format!("{} ({:.1}–{:.1})", percent(ratio.mean()), low * 100.0, high * 100.0);
    let rate = miku_probe_tests::noise::median(&rates).unwrap_or_default();
    report.note(format!(
        "llama.cpp on a tiny model, 8 streams at once, {rate:.0} tokens a second unwatched; {} pairs, {dropped} dropped, \
         because the host took more than 5 % of the time",
        ratios.len()
    ));
    let goal = "tokens a second at least 99 % of unwatched";
    report.verdict(Kind::Measure, goal, got, ratio.mean() >= 0.99);
    report.number("throughput", json!({"ratio": ratio.mean(), "interval": [low, high], "pairs": ratios.len()}));
    Ok(())
}
