//! 10,000 open connections and 50,000 requests a second from a compiled server: what is not seen is counted as lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::Truth;
use serde_json::{Value, json};

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, Stage, processor_seconds, result};

const CONNECTIONS: &str = "10000";
const RATE: &str = "50000";
const MEBIBYTE: f64 = 1024.0 * 1024.0;

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("scale: 10,000 connections, 50,000 requests a second");
    let full = ["-c", CONNECTIONS, "--pipeline", "4", "--rate", RATE, "-n", stage.choose("1000000", "250000")];
    let run = Run::go(stage, &full, None)?;
    run.tell("All at once", &mut report);
    let rate = run.rate();
    report.verdict(Kind::Measure, "50,000 requests a second", format!("{rate:.0}"), rate >= 49_000.0);
    let most = run.most.resident / MEBIBYTE;
    report.verdict(Kind::Measure, "memory below 40 MiB with 10,000 connections", format!("{most:.1} MiB"), most < 40.0);
    report.number("full", run.to_json());

    // A probe that gets no processor time for longer than its ring lasts has to lose something. One request at a time
    // on a connection, so that each is a message of its own to the kernel side.
    let starved = ["-c", "1000", "-n", stage.choose("300000", "150000")];
    let run = Run::go(stage, &starved, Some(Duration::from_millis(1_500)))?;
    run.tell("With the probe stopped for 1.5 s", &mut report);
    let got = run.records_lost.to_string();
    report.verdict(
        Kind::Measure,
        "the stopped probe lost records, so that losses are put to the proof",
        got,
        run.records_lost > 0.0,
    );
    report.number("starved", run.to_json());
    Ok(report)
}

/// A load, and what came of it.
struct Run {
    truth: Truth,
    count: Count,
    records_lost: f64,
    idle: Memory,
    most: Memory,
    share: f64,
}

impl Run {
    /// Loads a server of many connections; the probe is stopped in the middle for as long as `stopped` says.
    fn go(stage: &Stage, load: &[&str], stopped: Option<Duration>) -> Result<Self> {
        let mut server = Process::start("the server", stage.peer().arg("serve"));
        let address = server.wait_said(PATIENCE, |line| line.strip_prefix("listening on ").map(str::to_owned));
        let mut probe = Probe::attach(&[&format!("bench=pid:{}", server.pid())]);
        let mut command = stage.peer();
        command.args(["load", &address, "--threads", "4", "--warm-up", "0"]).args(load);
        let mut client = Process::start("the client", &mut command);
        // Opening ten thousand connections takes its time.
        client.wait_said(PATIENCE * 3, |line| (line == "ready").then_some(()));
        let idle = Memory::of(probe.pid())?;
        let before = processor_seconds(probe.pid())?;
        let start = Instant::now();
        client.tell("go");
        if let Some(time) = stopped {
            thread::sleep(Duration::from_millis(500));
            probe.process().signal(libc::SIGSTOP);
            thread::sleep(time);
            probe.process().signal(libc::SIGCONT);
        }
        let mut most = idle;
        while client.alive() {
            let now = Memory::of(probe.pid())?;
            if now.resident > most.resident {
                most = now;
            }
            thread::sleep(Duration::from_millis(200));
        }
        let truth = Truth::from_json(&result(&mut client)?).context("the client's count")?;
        let share = (processor_seconds(probe.pid())? - before) / start.elapsed().as_secs_f64();
        let mut scrape = probe.scrape();
        // Until all has arrived, or what is missing has been told of.
        let _ = eventually(Duration::from_secs(5), || {
            scrape = probe.scrape();
            (Count::of(&scrape).sum() >= truth.total()).then_some(())
        });
        server.stop(libc::SIGTERM, PATIENCE);
        let records_lost = scrape.sum("miku_probe_lost_total", &[]);
        Ok(Self { truth, count: Count::of(&scrape), records_lost, idle, most, share })
    }

    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    fn rate(&self) -> f64 {
        self.truth.total() as f64 / self.truth.seconds
    }

    fn tell(&self, name: &str, report: &mut Report) {
        let Self { truth, count, records_lost, idle, most, share } = self;
        let sent = truth.total();
        let mut table = Table::new(format!("{name}: {:.0} requests a second", self.rate()), &["requests", "count"]);
        let rows = [
            ("sent and answered", sent),
            ("seen from end to end", count.seen),
            ("seen to begin only", count.cut),
            ("lost", count.lost),
        ];
        for (name, value) in rows {
            table.row(vec![name.to_owned(), value.to_string()]);
        }
        report.table(table);
        let (idle, most) = (idle.resident / MEBIBYTE, most.resident / MEBIBYTE);
        let (busy, lost) = (percent(*share), records_lost);
        report.note(format!(
            "{name}: {busy} of a core, {idle:.1} MiB before the load, {most:.1} MiB at most; {lost} records did not fit"
        ));
        let got = format!("{sent} against {} + {} + {}", count.seen, count.cut, count.lost);
        report.verdict(Kind::Exact, format!("{name}: sent = seen + lost"), got, count.sum() == sent);
    }

    fn to_json(&self) -> Value {
        json!({"sent": self.truth.total(), "seen": self.count.seen, "cut": self.count.cut, "lost": self.count.lost,
            "lost_records": self.records_lost, "rate": self.rate(), "resident_mib_before": self.idle.resident / MEBIBYTE,
            "resident_mib_most": self.most.resident / MEBIBYTE, "processor_share": self.share})
    }
}

/// What the probe says of the requests.
struct Count {
    /// Exchanges that were followed to their end.
    seen: u64,
    /// Exchanges of which the request was seen and the rest lost.
    cut: u64,
    /// Requests whose start was lost.
    lost: u64,
}

impl Count {
    fn of(scrape: &Scrape) -> Self {
        // There are none of each before the first.
        let count = |name: &str, labels: &[(&str, &str)]| scrape.try_count(name, labels).unwrap_or(0);
        Self {
            seen: count("http_server_request_duration_seconds_count", &[("service", "bench")]),
            cut: count("miku_probe_unmatched_total", &[("protocol", "http1"), ("reason", "half_seen")]),
            lost: count("miku_probe_lost_messages_total", &[("direction", "receive")]),
        }
    }

    fn sum(&self) -> u64 {
        self.seen + self.cut + self.lost
    }
}
