//! A server, a load generator and a hostile client of the suite's own, in one binary that needs nothing but a kernel.
//!
//! It serves and asks with the system calls that it is told to use, and counts what it did by itself: that count is
//! the truth which the probe's metrics are held against. It links statically with
//! `RUSTFLAGS='-C target-feature=+crt-static'` and `--target`, so it runs from an initial RAM disk too.

mod confine;
mod hostile;
mod load;
mod routes;
mod secure;
mod serve;
mod streams;
mod turns;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use miku_probe_tests::exposition::{Catalogue, Scrape};
use miku_probe_tests::truth::{Side, Truth, disagreements};
use miku_probe_tests::wire::{self, Address};

/// Serves, asks and compares.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve HTTP until SIGTERM, then write the truth.
    Serve(serve::Options),
    /// Serve HTTP over TLS until killed, and tell the truth on a second port.
    ServeTls(secure::Options),
    /// Run a program under a seccomp filter that kills it at any unusual system call.
    Confine(confine::Options),
    /// Make requests and print the truth.
    Load(load::Options),
    /// Stream tokens to whoever asks, until killed.
    ServeStreams(streams::Options),
    /// Ask for many streams of tokens at once, and print how many came.
    AskStreams(streams::Asking),
    /// Send what no decent client sends.
    Hostile(hostile::Options),
    /// Take the turns of an event loop.
    Turns(turns::Options),
    /// Print what a URL path answers.
    Scrape {
        /// Who to ask: IP:PORT or unix:PATH.
        address: Address,
        /// What to ask for.
        #[arg(default_value = "/metrics")]
        target: String,
    },
    /// Hold metrics against a truth: exit code 1 and one line a difference when they disagree.
    Compare {
        /// The truth, as `load` or `serve` wrote it; repeat it to add several.
        #[arg(long, required = true)]
        truth: Vec<PathBuf>,
        /// A file with the metrics, or where to scrape them: IP:PORT.
        #[arg(long)]
        metrics: String,
        /// The service's name.
        #[arg(long)]
        service: String,
        /// The service is the client of the exchanges.
        #[arg(long)]
        client: bool,
        /// The probe's binary, which says what it can export.
        #[arg(long, default_value = "miku-probe")]
        probe: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Serve(options) => serve::run(&options)?,
        Verb::ServeTls(options) => secure::run(&options)?,
        Verb::Confine(options) => confine::run(&options)?,
        Verb::Load(options) => load::run(&options)?,
        Verb::ServeStreams(options) => streams::serve(&options)?,
        Verb::AskStreams(options) => streams::ask(&options)?,
        Verb::Hostile(options) => hostile::run(&options)?,
        Verb::Turns(options) => turns::run(&options)?,
        Verb::Scrape { address, target } => print!("{}", scrape(&address, &target)?),
        Verb::Compare { truth, metrics, service, client, probe } => {
            let side = if client { Side::Client } else { Side::Server };
            return compare(&truth, &metrics, &service, side, Catalogue::of(&probe)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn scrape(address: &Address, target: &str) -> Result<String> {
    let message = wire::get(address, target, "")?;
    ensure!(message.head.status()? == 200, "{target} answers {:?}", message.head.first);
    String::from_utf8(message.body).context("the answer is not UTF-8")
}

fn compare(
    truths: &[PathBuf],
    metrics: &str,
    service: &str,
    side: Side,
    catalogue: &'static Catalogue,
) -> Result<ExitCode> {
    let mut truth = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
    for path in truths {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
        truth.merge(&Truth::from_json(&value).with_context(|| path.display().to_string())?);
    }
    let text = match metrics.parse() {
        Ok(address) => scrape(&address, "/metrics")?,
        Err(_) => fs::read_to_string(metrics).with_context(|| format!("reading {metrics}"))?,
    };
    let lines = disagreements(&truth, &Scrape::parse(&text, catalogue)?, service, side);
    for line in &lines {
        println!("{line}");
    }
    if lines.is_empty() {
        println!("{} exchanges agree", truth.total());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
