//! Measures what each way of hooking system calls costs: the choice behind the kernel side of `miku-probe`.
//!
//! `measure` prints one JSON object with every way's cost by the clock of a process that does nothing but system calls,
//! and by the kernel's own run statistics. `hold` attaches one way and stays, `toggle` switches something
//! on and off when it is told to, so that others can measure it.

mod tls;
mod toggle;
mod variants;
mod worker;

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median, quartiles};
use serde_json::{Map, Value, json};

use toggle::{Empty, Idle, Sight, obey};
use variants::{Attached, Runs, Variant};
use worker::{Kind, Worker};

/// Measures what each way of hooking system calls costs.
#[derive(Parser)]
struct Arguments {
    /// The BPF object with the programs to measure.
    #[arg(long, global = true, default_value = "target/bpf/bpfel-unknown-none/release/miku-probe-floor")]
    object: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure every way, or those that are named.
    Measure {
        /// Which ways.
        variant: Vec<Variant>,
        /// How often each is compared with none.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
        /// System calls in a row.
        #[arg(long, default_value_t = 40_000)]
        calls: u32,
    },
    /// Attach, say so, stay until standard input ends, then print the run statistics.
    Hold {
        /// Which way.
        variant: Variant,
        /// A process to watch.
        #[arg(long)]
        pid: Vec<u32>,
        /// Have the kernel take run statistics meanwhile.
        #[arg(long)]
        statistics: bool,
    },
    /// Switch something on and off as told on standard input.
    Toggle {
        /// What.
        #[command(subcommand)]
        what: What,
    },
    /// Do system calls as told on standard input (`measure` starts this by itself).
    #[command(hide = true)]
    Work,
}

#[derive(Subcommand)]
enum What {
    /// Empty programs on every hook of the probe.
    Empty {
        /// On those of event loops too.
        #[arg(long)]
        event_loops: bool,
    },
    /// The probe's programs on its hooks, with nobody watched.
    Idle {
        /// On those of event loops too.
        #[arg(long)]
        event_loops: bool,
    },
    /// Whether a running probe watches a process.
    Sight {
        /// The probe.
        #[arg(long)]
        probe: u32,
        /// Whom it watches.
        #[arg(long)]
        pid: u32,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let object =
        || std::fs::read(&arguments.object).with_context(|| format!("cannot read {}", arguments.object.display()));
    match arguments.verb {
        Verb::Work => worker::work(),
        Verb::Toggle { what: What::Empty { event_loops } } => obey(&mut Empty::load(&object()?, event_loops)?),
        Verb::Toggle { what: What::Idle { event_loops } } => obey(&mut Idle::load(event_loops)?),
        Verb::Toggle { what: What::Sight { probe, pid } } => obey(&mut Sight::of(probe, pid)?),
        Verb::Hold { variant, pid, statistics } => {
            let counting = statistics.then(miku_probe::probes::statistics_on).transpose()?;
            let attached = Attached::new(variant, &object()?, &pid)?;
            println!("attached");
            io::stdout().flush()?;
            io::stdin().read_to_end(&mut Vec::new())?;
            let runs = attached.runs();
            drop(counting);
            let [others, watched] = attached.calls()?;
            let calls = json!({"watched": watched, "others": others});
            println!("{}", json!({"runs": runs.count, "run_seconds": runs.nanoseconds * 1e-9, "calls": calls}));
            Ok(())
        }
        Verb::Measure { variant, rounds, calls } => {
            let variants = if variant.is_empty() { Variant::ALL.to_vec() } else { variant };
            println!("{}", measure(&object()?, &variants, rounds, calls)?);
            Ok(())
        }
    }
}

/// A process that is watched and one that is not.
struct Pair {
    watched: Worker,
    unwatched: Worker,
}

impl Pair {
    fn start() -> Result<Self> {
        let watched = Worker::start()?;
        let mut unwatched = Worker::start()?;
        // Where both numbers share a slot of the filter, the second would be looked up further as if watched.
        while variants::slot(unwatched.pid()) == variants::slot(watched.pid()) {
            unwatched = Worker::start()?;
        }
        Ok(Self { watched, unwatched })
    }

    /// Nanoseconds a call, in the order of [`CASES`].
    fn run(&mut self, calls: u32) -> Result<Vec<f64>> {
        CASES.iter().map(|case| self.worker(*case).run(case.kind, calls)).collect()
    }

    fn worker(&mut self, case: Case) -> &mut Worker {
        if case.watched { &mut self.watched } else { &mut self.unwatched }
    }
}

/// Who does which calls.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    watched: bool,
    kind: Kind,
}

const CASES: [Case; 5] = [
    Case { name: "watched_http", watched: true, kind: Kind::Http },
    Case { name: "watched_move", watched: true, kind: Kind::Move },
    Case { name: "watched_other", watched: true, kind: Kind::Other },
    Case { name: "unwatched_move", watched: false, kind: Kind::Move },
    Case { name: "unwatched_other", watched: false, kind: Kind::Other },
];

fn measure(object: &[u8], variants: &[Variant], rounds: usize, calls: u32) -> Result<Value> {
    let mut pair = Pair::start()?;
    let watched = [pair.watched.pid()];
    pair.run(calls)?;
    let mut refused = Map::new();
    let mut usable = Vec::new();
    for &variant in variants {
        match Attached::new(variant, object, &watched) {
            Ok(_) => usable.push(variant),
            Err(error) => {
                refused.insert(variant.name(), json!(format!("{error:#}")));
            }
        }
    }
    if usable.is_empty() {
        bail!("the kernel refuses every one of them: {}", Value::from(refused));
    }

    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); usable.len()];
    let mut dropped = 0;
    for round in 0..rounds {
        for (variant, samples) in usable.iter().zip(&mut samples) {
            let start = ProcessorTime::now()?;
            let with = |pair: &mut Pair| -> Result<Vec<f64>> {
                let _attached = Attached::new(*variant, object, &watched)?;
                pair.run(calls)
            };
            // Which of the two comes first takes turns, so that a drift of the machine falls on both alike.
            let (without, with) = if round % 2 == 0 {
                let without = pair.run(calls)?;
                (without, with(&mut pair)?)
            } else {
                let with = with(&mut pair)?;
                (pair.run(calls)?, with)
            };
            if start.steal_since()? > STEAL_LIMIT {
                dropped += 1;
                continue;
            }
            samples.push(Sample { without, with });
        }
    }

    let counting = miku_probe::probes::statistics_on()?;
    let mut result = Vec::new();
    for (variant, samples) in usable.iter().zip(&samples) {
        let attached = Attached::new(*variant, object, &watched)?;
        let statistics = statistics(&attached, &mut pair, calls)?;
        let cases = CASES.iter().enumerate().map(|(place, case)| {
            let added: Vec<f64> = samples.iter().map(|sample| sample.with[place] - sample.without[place]).collect();
            let without: Vec<f64> = samples.iter().map(|sample| sample.without[place]).collect();
            let value = json!({
                "without_ns": median(&without),
                "added_ns": median(&added),
                "added_quartiles_ns": quartiles(&added),
                "bpf_ns": statistics[place],
            });
            (case.name.to_owned(), value)
        });
        let cases: Map<String, Value> = cases.collect();
        let (name, about) = (variant.name(), variant.about());
        result.push(json!({"name": name, "about": about, "pairs": samples.len(), "cases": cases}));
    }
    drop(counting);
    Ok(json!({"variants": result, "refused": refused, "pairs_dropped_for_steal": dropped, "calls": calls}))
}

/// Nanoseconds a call without and with a variant, in the order of [`CASES`].
#[derive(Clone)]
struct Sample {
    without: Vec<f64>,
    with: Vec<f64>,
}

/// Nanoseconds in programs a system call, in the order of [`CASES`], by the kernel's own count.
///
/// Programs that see every process's calls run for others meanwhile: those runs are taken off at the price that a run
/// for a process that is not watched has.
fn statistics(attached: &Attached, pair: &mut Pair, calls: u32) -> Result<Vec<f64>> {
    const REPEATS: usize = 5;
    let mut spent = |case: Case| -> Result<Runs> {
        let before = attached.runs();
        pair.worker(case).run(case.kind, calls)?;
        Ok(attached.runs() - before)
    };
    let mut foreign = Vec::new();
    for _ in 0..REPEATS {
        let runs = spent(Case { name: "unwatched_move", watched: false, kind: Kind::Move })?;
        foreign.push(runs.nanoseconds / runs.count.max(1.0));
    }
    let foreign = median(&foreign).unwrap_or(0.0);
    CASES
        .iter()
        .map(|&case| {
            let mut values = Vec::new();
            for _ in 0..REPEATS {
                let runs = spent(case)?;
                let own = f64::from(attached.runs_per_call(case.kind)) * f64::from(calls);
                values.push((runs.nanoseconds - (runs.count - own).max(0.0) * foreign) / f64::from(calls));
            }
            Ok(median(&values).unwrap_or(0.0))
        })
        .collect()
}
