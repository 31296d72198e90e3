//! What a saturated server loses to being watched: its throughput with something and without it, slice by slice.
//!
//! The machine's speed drifts by ten times what is to be measured, but slowly. So neither the load nor what is compared
//! is started or stopped between the slices of a pair: all of it runs on, and one thing is switched on and off beneath it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::noise::{ProcessorTime, Ratio, STEAL_LIMIT};
use serde_json::json;

use super::Segment;
use crate::bench::report::{Kind, Report, Table, percent};
use crate::bench::stage::{Server, Stage, Switch, scheduled_seconds};
use crate::sh::workspace;

/// How pairs of slices are taken.
#[derive(Clone, Copy)]
struct Slices {
    pairs: u32,
    /// Short, because two slices differ the less by themselves the nearer they are to each other.
    length: Duration,
    /// Whether the one with comes before the one without half of the times.
    turns: bool,
}

/// What a server has done until now.
struct Work {
    requests: u64,
    processor: f64,
    at: Instant,
}

/// How much the probe is told to watch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Requests, network and processes.
    Requests,
    /// Turns of event loops too, as it does unless told otherwise.
    EventLoops,
}

impl Scope {
    const ALL: [Self; 2] = [Self::Requests, Self::EventLoops];

    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::EventLoops => "requests and event loops",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::EventLoops => "event_loops",
        }
    }

    /// Flags of the probe's.
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Requests => &["--event-loops=off"],
            Self::EventLoops => &[],
        }
    }

    /// A switch of programs that stand where the probe's do.
    fn switch(self, stage: &Stage, what: &str) -> Switch {
        match self {
            Self::Requests => stage.switch(&[what]),
            Self::EventLoops => stage.switch(&[what, "--event-loops"]),
        }
    }
}

/// A server that counts what it answers.
struct Target {
    server: Server,
    count: File,
}

impl Target {
    fn start(stage: &Stage) -> Result<Self> {
        let path = workspace().join("target/bench/requests.count");
        let server = stage.serve(&["--count", &path.display().to_string()]);
        let count = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { server, count })
    }

    /// Loads it until what this returns is dropped.
    fn load(&self, stage: &Stage) -> Result<Process> {
        // By then oha has all its connections.
        const BEGUN: u64 = 2_000;
        let before = self.requests()?;
        let load = stage.keep_loaded(&self.server, "/fast", &["-c", "64"]);
        let begun = eventually(PATIENCE, || (self.requests().ok()? >= before + BEGUN).then_some(()));
        ensure!(begun.is_some(), "the load does not get through: {}", load.story());
        Ok(load)
    }

    fn requests(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        self.count.read_exact_at(&mut bytes, 0).context("cannot read the count of requests")?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn work(&self) -> Result<Work> {
        let processor = scheduled_seconds(self.server.process.pid())?;
        Ok(Work { requests: self.requests()?, processor, at: Instant::now() })
    }

    fn slice(&self, length: Duration) -> Result<Segment> {
        let before = self.work()?;
        thread::sleep(length);
        let after = self.work()?;
        ensure!(after.requests > before.requests, "the server answers nobody any more");
        #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
        let requests = (after.requests - before.requests) as f64;
        let seconds = (after.at - before.at).as_secs_f64();
        Ok(Segment { rate: requests / seconds, processor: (after.processor - before.processor) / requests })
    }

    /// Compares the slices in which something is on with those in which it is off.
    fn compare(&self, slices: Slices, mut turn: impl FnMut(bool)) -> Result<Compared> {
        let mut rate = Vec::new();
        let mut processor = Vec::new();
        for pair in 0..slices.pairs {
            let start = ProcessorTime::now()?;
            let mut side = |on: bool| {
                turn(on);
                self.slice(slices.length)
            };
            // The Thue–Morse sequence: neither a drift nor anything periodic falls on one of the two.
            let (with, without) = if slices.turns && pair.count_ones() % 2 == 0 {
                let with = side(true)?;
                (with, side(false)?)
            } else {
                let without = side(false)?;
                (side(true)?, without)
            };
            if start.steal_since()? <= STEAL_LIMIT {
                rate.push(with.rate / without.rate);
                processor.push(with.processor / without.processor);
            }
        }
        let mean =
            |ratios: &[f64]| Ratio::of(ratios).context("the host took too much of the time: too few pairs are left");
        let dropped = slices.pairs as usize - rate.len();
        Ok(Compared { rate: mean(&rate)?, processor: mean(&processor)?, pairs: rate.len(), dropped })
    }

    /// Compares the probe, watching, with the same probe stopped and its programs blind.
    fn watched(&self, stage: &Stage, scope: Scope) -> Result<Compared> {
        let mut probe = Probe::launch(&[&self.server.service()], scope.flags());
        probe.wait_ready();
        let [on, pid] = [probe.pid(), self.server.process.pid()].map(|pid| pid.to_string());
        let mut sight = stage.switch(&["sight", "--probe", &on, "--pid", &pid]);
        let _load = self.load(stage)?;
        let seen =
            |probe: &Probe| probe.scrape().try_sum("http_server_request_duration_seconds_count", &[]).unwrap_or(0.0);
        let before = (seen(&probe), self.requests()?);
        let slices = Slices { pairs: stage.choose(2_000, 400), length: Duration::from_millis(25), turns: true };
        let compared = self.compare(slices, |on| {
            sight.turn(on);
            probe.process().signal(if on { libc::SIGCONT } else { libc::SIGSTOP });
        })?;
        sight.turn(false);
        probe.process().signal(libc::SIGCONT);
        #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
        let share = (seen(&probe) - before.0) / (self.requests()? - before.1) as f64;
        // A switch that does nothing would find that watching costs nothing.
        ensure!((0.3..0.7).contains(&share), "the probe saw {} of the requests and not half", percent(share));
        let lost = probe.scrape().sum("miku_probe_lost_total", &[]);
        // What is not told costs less than what is.
        ensure!(lost == 0.0, "the probe fell behind: {lost} records were lost");
        Ok(compared)
    }

    /// Compares something attached with nothing attached.
    ///
    /// Attaching takes the kernel a millisecond or two, detaching some hundreds. So the slice without always comes before
    /// the one with, and between pairs the machine comes to rest.
    fn attached(&self, stage: &Stage, scope: Scope, what: &str) -> Result<Compared> {
        const REST: Duration = Duration::from_millis(50);
        let mut switch = scope.switch(stage, what);
        // What is attached for the first time must be loaded before.
        switch.turn(true);
        let _load = self.load(stage)?;
        let slices = Slices { pairs: stage.choose(300, 60), length: Duration::from_millis(50), turns: false };
        self.compare(slices, |on| {
            switch.turn(on);
            if !on {
                thread::sleep(REST);
            }
        })
    }
}

/// What came of a comparison.
#[derive(Clone, Copy)]
struct Compared {
    rate: Ratio,
    processor: Ratio,
    pairs: usize,
    dropped: usize,
}

impl Compared {
    fn cells(&self) -> [String; 3] {
        [self.pairs.to_string(), in_words(self.rate), in_words(self.processor)]
    }
}

fn in_words(ratio: Ratio) -> String {
    let (low, high) = ratio.interval();
    format!("{} ({:.1}–{:.1})", percent(ratio.mean()), low * 100.0, high * 100.0)
}

pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let target = Target::start(stage)?;
    report.note(
        "In slices under one load: the probe against the probe stopped and blind, all hooks attached; the hooks against nothing; \
         and of these the product. Means, and their intervals of 95 %"
            ,
    );
    Scope::ALL.into_iter().try_for_each(|scope| compare(&target, stage, scope, report))
}

fn compare(target: &Target, stage: &Stage, scope: Scope, report: &mut Report) -> Result<()> {
    let watching = target.watched(stage, scope)?;
    let idle = target.attached(stage, scope, "idle")?;
    let empty = target.attached(stage, scope, "empty")?;

    let head = ["uvicorn with", "against", "pairs", "requests/s", "processor time a request"];
    let mut table = Table::new(format!("A saturated uvicorn, watched: {}", scope.name()), &head);
    let rate = (watching.rate.times(idle.rate), watching.rate.times(idle.rate).over(empty.rate));
    let processor = watching.processor.times(idle.processor);
    let to_empty = processor.over(empty.processor);
    let measured = [
        ("empty programs on the probe's hooks", "nothing", empty),
        ("the probe's programs, nobody watched", "nothing", idle),
        ("the probe, watching it", "the probe stopped, nobody watched", watching),
    ];
    for (what, than, compared) in measured {
        table.row([what, than].map(str::to_owned).into_iter().chain(compared.cells()).collect());
    }
    for (than, rate, processor) in [("nothing", rate.0, processor), ("empty programs", rate.1, to_empty)] {
        let cells = ["the probe, watching it", than, "of the above"].map(str::to_owned);
        table.row(cells.into_iter().chain([in_words(rate), in_words(processor)]).collect());
    }
    report.table(table);
    let dropped: usize = measured.iter().map(|(.., compared)| compared.dropped).sum();
    report.note(format!("{dropped} pairs of slices were dropped, because the host took more than 5 % of the time"));
    let number = |ratio: Ratio| json!({"mean": ratio.mean(), "interval": ratio.interval()});
    let mut numbers = serde_json::Map::new();
    for (key, compared) in [("empty", empty), ("idle", idle), ("watching", watching)] {
        let Compared { rate, processor, pairs, .. } = compared;
        numbers.insert(key.to_owned(), json!({"pairs": pairs, "rate": number(rate), "processor": number(processor)}));
    }
    numbers.insert("probe".to_owned(), json!({"rate": number(rate.0), "processor": number(processor)}));
    numbers.insert("probe_against_empty".to_owned(), json!({"rate": number(rate.1), "processor": number(to_empty)}));
    report.number(scope.key(), numbers);
    let got = format!("{} of without, {} of empty programs", in_words(rate.0), in_words(rate.1));
    let goal = format!(
        "throughput, {} watched, at least 97 % of without, or within 1 % of what empty programs leave",
        scope.name()
    );
    report.verdict(Kind::Measure, goal, got, rate.0.mean() >= 0.97 || rate.1.mean() >= 0.99);
    Ok(())
}
