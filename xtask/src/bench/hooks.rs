//! What each way of hooking system calls costs, by the kernel's statistics, by the clock of a process that does nothing
//! else, and by the throughput of a saturated uvicorn.

use anyhow::{Context, Result};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::noise::{ProcessorTime, STEAL_LIMIT, median};
use serde_json::{Value, json};

use super::report::{Report, Table, nanoseconds, percent};
use super::stage::{Server, Stage, result, scheduled_seconds};

/// Who does what, as the helper names it and as people read it.
const CASES: [(&str, &str); 5] = [
    ("watched_http", "watched: HTTP"),
    ("watched_move", "watched: other bytes"),
    ("watched_other", "watched: getppid"),
    ("unwatched_move", "not watched: bytes"),
    ("unwatched_other", "not watched: getppid"),
];

/// What a saturated uvicorn is measured with.
const SERVED: [&str; 6] = ["empty-raw-exit", "tracepoints", "raw-pair", "raw-exit", "btf-exit", "probe"];

pub(super) fn measure(stage: &Stage) -> Result<Report> {
    let mut report = Report::new("hooks: what each way of hooking system calls costs");
    let mut command = stage.hooks();
    command.args(["measure", "--rounds", stage.choose("8", "2"), "--calls", stage.choose("40000", "10000")]);
    let value = result(&mut Process::start("the hooks", &mut command))?;
    let variants = value["variants"].as_array().context("nothing was measured")?;
    let head: Vec<&str> = ["way"].into_iter().chain(CASES.map(|(_, name)| name)).collect();
    for (key, title) in [
        ("bpf_ns", "ns in BPF programs a call, by the kernel's statistics (the statistics' clock counted in)"),
        ("added_ns", "ns of processor time added to a call, against no probe (median of pairs)"),
    ] {
        let mut table = Table::new(title, &head);
        if key == "added_ns" {
            let without = |case: &str| {
                let all: Vec<f64> =
                    variants.iter().filter_map(|variant| variant["cases"][case]["without_ns"].as_f64()).collect();
                nanoseconds(median(&all))
            };
            let cells = CASES.iter().map(|(case, _)| without(case));
            table.row(["(a call without)".to_owned()].into_iter().chain(cells).collect());
        }
        for variant in variants {
            let cells = CASES.iter().map(|(case, _)| nanoseconds(variant["cases"][case][key].as_f64()));
            table.row([text(variant, "name")].into_iter().chain(cells).collect());
        }
        report.table(table);
    }
    for (name, reason) in value["refused"].as_object().context("nobody says what was refused")? {
        report.note(format!("this kernel refuses {name}: {}", reason.as_str().unwrap_or_default()));
    }
    for variant in variants {
        report.note(format!("{}: {}", text(variant, "name"), text(variant, "about")));
    }
    report.number("calls", value);
    served(stage, &mut report)?;
    Ok(report)
}

fn text(variant: &Value, member: &str) -> String {
    variant[member].as_str().unwrap_or_default().to_owned()
}

/// Requests a second, and seconds of processor time a request.
fn segment(stage: &Stage, server: &Server) -> Result<(f64, f64)> {
    let before = scheduled_seconds(server.process.pid())?;
    let load = stage.load(server, "/fast", &["-c", "64", "-z", "1s"])?;
    #[allow(clippy::cast_precision_loss, reason = "a count of requests")]
    Ok((load.rate, (scheduled_seconds(server.process.pid())? - before) / load.total() as f64))
}

fn served(stage: &Stage, report: &mut Report) -> Result<()> {
    let server = stage.serve(&[]);
    segment(stage, &server)?;
    let pid = server.process.pid().to_string();
    let mut shares: Vec<Vec<(f64, f64)>> = vec![Vec::new(); SERVED.len()];
    for round in 0..stage.choose(5, 1) {
        for (variant, shares) in SERVED.iter().zip(&mut shares) {
            let start = ProcessorTime::now()?;
            let with = || {
                let _held = stage.hold(variant, &["--pid", &pid]);
                segment(stage, &server)
            };
            let (without, with) = if round % 2 == 0 {
                let without = segment(stage, &server)?;
                (without, with()?)
            } else {
                let with = with()?;
                (segment(stage, &server)?, with)
            };
            if start.steal_since()? <= STEAL_LIMIT {
                shares.push((with.0 / without.0, with.1 / without.1));
            }
        }
    }
    let head = ["way", "pairs", "requests/s against without", "processor time a request"];
    let mut table = Table::new("A saturated uvicorn", &head);
    let mut numbers = json!({});
    for (variant, shares) in SERVED.iter().zip(&shares) {
        let (rate, processor): (Vec<f64>, Vec<f64>) = shares.iter().copied().unzip();
        let middle = |values: &[f64]| median(values).map_or_else(|| "–".to_owned(), percent);
        table.row(vec![(*variant).to_owned(), rate.len().to_string(), middle(&rate), middle(&processor)]);
        numbers[*variant] = json!({"rate": rate, "processor": processor});
    }
    report.table(table);
    report.number("uvicorn", numbers);
    Ok(())
}
