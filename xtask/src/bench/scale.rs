//! 10,000 open connections and 50,000 requests a second from a compiled server: what is not seen is counted as lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::Truth;
use serde_json::json;

use super::report::{Kind, Report, Table, percent};
use super::stage::{Memory, Stage, processor_seconds, result};

const CONNECTIONS: &str = "10000";
const RATE: &str = "50000";

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("scale: 10,000 connections, 50,000 requests a second");
    let mut server = Process::start("the server", stage.peer().arg("serve"));
    let address = server.wait_said(PATIENCE, |line| line.strip_prefix("listening on ").map(str::to_owned));
    let probe = Probe::attach(&[&format!("bench=pid:{}", server.pid())]);
    let requests = stage.choose("1000000", "250000");
    let mut command = stage.peer();
    command.args(["load", &address, "-c", CONNECTIONS, "--threads", "4", "--pipeline", "4", "--rate", RATE]);
    let mut client = Process::start("the client", command.args(["-n", requests, "--warm-up", "0"]));
    // Opening ten thousand connections takes its time.
    client.wait_said(PATIENCE * 3, |line| (line == "ready").then_some(()));
    let idle = Memory::of(probe.pid())?;
    let before = processor_seconds(probe.pid())?;
    let start = Instant::now();
    client.tell("go");
    let mut most = idle;
    while client.alive() {
        let now = Memory::of(probe.pid())?;
        if now.resident > most.resident {
            most = now;
        }
        thread::sleep(Duration::from_millis(200));
    }
    let truth = Truth::from_json(&result(&mut client)?).context("the client's count")?;
    let elapsed = start.elapsed().as_secs_f64();
    let share = (processor_seconds(probe.pid())? - before) / elapsed;

    let sent = truth.total();
    let mut scrape = probe.scrape();
    // Until all has arrived, or what is missing has been told of.
    let _ = eventually(Duration::from_secs(5), || {
        scrape = probe.scrape();
        (Count::of(&scrape).sum() >= sent).then_some(())
    });
    server.stop(libc::SIGTERM, PATIENCE);

    let count = Count::of(&scrape);
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    let rate = sent as f64 / truth.seconds;
    let mut table =
        Table::new(format!("{CONNECTIONS} connections, {rate:.0} requests a second"), &["requests", "count"]);
    let rows = [("sent and answered", sent), ("seen whole", count.seen), ("lost", count.lost)];
    for (name, value) in rows {
        table.row(vec![name.to_owned(), value.to_string()]);
    }
    report.table(table);
    const MEBIBYTE: f64 = 1024.0 * 1024.0;
    let (idle, most) = (idle.resident / MEBIBYTE, most.resident / MEBIBYTE);
    report
        .note(format!("the probe: {} of a core, {idle:.1} MiB before the load, {most:.1} MiB at most", percent(share)));
    let records = scrape.sum("miku_probe_lost_total", &[]);
    report.note(format!("records that did not fit the ring or a table: {records}"));
    report.verdict(Kind::Measure, "50,000 requests a second", format!("{rate:.0}"), rate >= 49_000.0);
    let got = format!("{sent} = {} + {}", count.seen, count.lost);
    report.verdict(Kind::Exact, "sent = seen + lost", got, count.sum() == sent);
    report.verdict(Kind::Measure, "memory below 40 MiB with 10,000 connections", format!("{most:.1} MiB"), most < 40.0);
    let numbers = json!({"sent": sent, "seen": count.seen, "lost": count.lost, "lost_records": records, "rate": rate,
        "resident_mib_before": idle, "resident_mib_most": most, "processor_share": share});
    report.number("scale", numbers);
    Ok(report)
}

/// What the probe says of the requests.
struct Count {
    /// Exchanges seen from end to end.
    seen: u64,
    /// Exchanges of which at least one message's start, or anything else that belongs to it, was lost.
    lost: u64,
}

impl Count {
    fn of(scrape: &Scrape) -> Self {
        let seen = scrape.count("http_server_request_duration_seconds_count", &[("service", "bench")]);
        Self { seen, lost: scrape.count("miku_probe_lost_exchanges_total", &[("side", "server")]) }
    }

    fn sum(&self) -> u64 {
        self.seen + self.lost
    }
}
