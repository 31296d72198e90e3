//! `miku-probe ps`: which processes would be watched, for which service and why, and why others would not.
//!
//! It attaches nothing and needs no privilege; without any it tells less, and says so.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::sites::Sites;
use crate::config::PsConfig;
use crate::discovery::libraries::LibraryFinder;
use crate::discovery::process::ProcFs;
use crate::discovery::tcp::{Holdings, Tables};
use crate::discovery::usage::Folder;
use crate::discovery::{Change, Discovery};
use crate::units::{ServiceId, Tgid};

/// What is told of one process.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    pid: u32,
    /// Its number in its own PID namespace, when that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace_pid: Option<u32>,
    service: Option<String>,
    comm: String,
    container: Option<String>,
    uptime_seconds: Option<u64>,
    listens: Vec<String>,
    connections: usize,
    /// The libraries in it; absent when it would not be watched or its mappings cannot be read.
    #[serde(flatten)]
    sites: Option<Sites>,
    /// Its memory; absent unless asked for.
    #[serde(flatten)]
    memory: Option<MemoryTold>,
    /// Whether it would be watched.
    attach: bool,
    /// Why, or why not.
    why: String,
}

/// What is told of a process's memory when it is asked for.
#[derive(Clone, Copy, Debug, Serialize)]
struct MemoryTold {
    /// In memory, shared pages included.
    resident_bytes: Option<u64>,
    /// In memory, of shared pages its part alone.
    pss_bytes: Option<u64>,
}

impl MemoryTold {
    fn of(tgid: Tgid) -> Self {
        let folder = Folder::of(tgid);
        Self { resident_bytes: folder.memory().resident, pss_bytes: folder.proportional() }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    /// Whether services were chosen, because none was named.
    automatic: bool,
    processes: Vec<Row>,
    /// Services that no process belongs to, with their selectors.
    without_process: Vec<String>,
    /// Processes that this user may not read, so that they could not be judged.
    unreadable: usize,
    /// Services whose processes run different executables.
    different_programs: Vec<String>,
}

/// Looks once, and prints what it found to `output`, and to standard error what it could not see.
///
/// # Errors
/// When `/proc` cannot be read, or `output` cannot be written.
pub fn run(config: &PsConfig, output: &mut impl Write) -> io::Result<()> {
    let report = report(&ProcFs::default(), config)?;
    if config.json {
        let text = serde_json::to_string_pretty(&report).expect("texts, numbers and truth values are JSON");
        writeln!(output, "{text}")?;
    } else {
        output.write_all(table(&report.processes, config.pss).as_bytes())?;
    }
    output.flush()?;
    for service in &report.different_programs {
        log::warn!("{service}");
    }
    for service in &report.without_process {
        log::warn!("no process belongs to service {service}");
    }
    if report.automatic && report.processes.iter().all(|row| !row.attach) {
        log::warn!(
            "nothing to watch: no Python process serves or talks TLS, and no LLM server runs; name yours with --service"
        );
    }
    if report.unreadable > 0 {
        // SAFETY: geteuid takes no arguments and cannot fail.
        let remedy = if unsafe { libc::geteuid() } == 0 { "not even root may" } else { "run it as root to see more" };
        log::warn!("processes that could not be looked at: {}; {remedy}", report.unreadable);
    }
    Ok(())
}

fn report(proc: &ProcFs, config: &PsConfig) -> io::Result<Report> {
    let mut discovery = Discovery::new(proc.clone(), config.services.clone());
    let changes = discovery.scan()?;
    let tables = Tables::default();
    let mut finder = LibraryFinder::new();
    let name = |service: ServiceId| discovery.services().get(usize::from(service.0)).cloned();
    let mut rows: Vec<Row> = changes
        .into_iter()
        .filter_map(|change| match change {
            Change::Found(target) => {
                let mut row = row(proc, &tables, target.tgid, name(target.service), true, target.why);
                row.memory = config.pss.then(|| MemoryTold::of(target.tgid));
                row.sites = proc.process(target.tgid).and_then(|process| Sites::of(&mut finder, &process));
                Some(row)
            }
            Change::Rejected { tgid, service, reason } => {
                Some(row(proc, &tables, tgid, service.and_then(name), false, reason.to_string()))
            }
            Change::NewService { .. } | Change::Gone { .. } => None,
        })
        .collect();
    rows.sort_by(|one, other| (!one.attach, &one.service, one.pid).cmp(&(!other.attach, &other.service, other.pid)));
    let numbered = config.services.iter().zip(0_u16..);
    let without = numbered.filter(|(_, number)| discovery.count(ServiceId(*number)) == 0).map(|(spec, _)| {
        let selectors: Vec<String> = spec.selectors.iter().map(ToString::to_string).collect();
        format!("{} ({})", spec.name, selectors.join(", "))
    });
    Ok(Report {
        automatic: discovery.is_automatic(),
        without_process: without.collect(),
        unreadable: discovery.unreadable(),
        different_programs: discovery.mixed_services().iter().map(ToString::to_string).collect(),
        processes: rows,
    })
}

fn row(proc: &ProcFs, tables: &Tables, tgid: Tgid, service: Option<String>, attach: bool, why: String) -> Row {
    // It may have ended since it was found; then only its number is left to tell.
    let Some(process) = proc.process(tgid) else { return Row { pid: tgid.0, service, attach, why, ..Row::default() } };
    let Holdings { listens, connections } = tables.holdings(&process);
    Row {
        pid: tgid.0,
        namespace_pid: process.namespace_pids().get(1..).and_then(|inner| inner.last().copied()),
        service,
        comm: process.comm().to_owned(),
        container: process.containers().last().map(|container| container.short().to_owned()),
        uptime_seconds: proc.age(process.start()).map(|age| age.as_secs()),
        listens: listens.iter().map(ToString::to_string).collect(),
        connections: connections.len(),
        sites: None,
        memory: None,
        attach,
        why,
    }
}

fn table(rows: &[Row], memory: bool) -> String {
    const UNKNOWN: &str = "-";
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    const MEMORY: [&str; 2] = ["RSS", "PSS"];
    const TITLES: [&str; 10] =
        ["PID", "SERVICE", "COMM", "UPTIME", "LISTENS", "CONNS", "TLS", "INFLATE", "ATTACH", "WHY"];
    /// Behind which column those of memory stand.
    const UPTIME: usize = 3;
    let with_memory = |cells: [String; 10], told: [String; 2]| {
        let mut cells = Vec::from(cells);
        if memory {
            let rest = cells.split_off(UPTIME + 1);
            cells.extend(told.into_iter().chain(rest));
        }
        cells
    };
    let mut lines = vec![with_memory(TITLES.map(str::to_owned), MEMORY.map(str::to_owned))];
    lines.extend(rows.iter().map(|row| {
        let cells = [
            row.pid.to_string(),
            or_unknown(row.service.clone()),
            printable(&row.comm),
            or_unknown(row.uptime_seconds.map(|seconds| age(Duration::from_secs(seconds)))),
            or_unknown((!row.listens.is_empty()).then(|| row.listens.join(","))),
            row.connections.to_string(),
            or_unknown(row.sites.as_ref().map(|sites| sites.tls.cell())),
            or_unknown(row.sites.as_ref().map(|sites| sites.inflate.cell())),
            if row.attach { "yes" } else { "no" }.to_owned(),
            printable(&row.why),
        ];
        let told = row.memory.map_or([None; 2], |memory| [memory.resident_bytes, memory.pss_bytes]);
        with_memory(cells, told.map(|bytes| or_unknown(bytes.map(mebibytes))))
    }));
    // Numbers stand at the right.
    let numbers: &[usize] = if memory { &[0, 3, 4, 5, 7] } else { &[0, 3, 5] };
    let mut widths = vec![0; lines[0].len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for (place, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let right = numbers.contains(&place);
            let _ = if right { write!(padded, "{cell:>width$}  ") } else { write!(padded, "{cell:width$}  ") };
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

fn mebibytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "bytes of memory are below 2^53")]
    let mebibytes = bytes as f64 / 1_048_576.0;
    format!("{mebibytes:.1}MiB")
}

/// A process chooses its own name: what a terminal would obey is shown, not sent.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// The two largest units, as in `3h12m`.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sites::{Found, FoundLibrary};
    use super::*;
    use crate::config::services::ServiceFlag;
    use crate::discovery::fixture::{Fixture, Sketch};
    use crate::discovery::selectors::ServiceSpec;

    const LISTENS: &str = "0: 0100007F:1F40 00000000:0000 0A 0:0 0:0 0 0 0 501 1\n";

    fn spec(text: &str) -> ServiceSpec {
        match ServiceFlag::parse(text) {
            Ok(ServiceFlag::Selection(one)) => {
                ServiceSpec { name: one.name, selectors: vec![one.selector], routes: vec![], required: false }
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_is_aligned_and_harmless() {
        let rows = [
            Row {
                pid: 7,
                service: Some("bot".to_owned()),
                comm: "evil\x1b[2J".to_owned(),
                uptime_seconds: Some(59),
                listens: vec!["127.0.0.1:8000".to_owned()],
                connections: 12,
                sites: Some(Sites {
                    tls: Found {
                        libraries: vec![FoundLibrary {
                            path: "/lib/libssl.so.3".to_owned(),
                            deleted: false,
                            flavour: "openssl",
                            symbols: "dynsym",
                            sites: 6,
                        }],
                        faults: vec!["/lib/libssl-1.so is no ELF file".to_owned()],
                    },
                    inflate: Found::default(),
                }),
                attach: true,
                why: "pid 7".to_owned(),
                ..Row::default()
            },
            Row { pid: 12345, comm: "python3".to_owned(), why: "idle".to_owned(), ..Row::default() },
        ];
        assert_eq!(
            table(&rows, false),
            "  PID  SERVICE  COMM      UPTIME  LISTENS         CONNS  TLS      INFLATE  ATTACH  WHY\n    \
               7  bot      evil?[2J     59s  127.0.0.1:8000     12  1 (6) !  0        yes     pid 7\n\
             12345  -        python3        -  -                   0  -        -        no      idle\n"
        );
    }

    #[test]
    fn memory_stands_in_columns_of_its_own_when_asked_for() {
        let told = MemoryTold { resident_bytes: Some(80 << 20), pss_bytes: None };
        let row = Row { pid: 7, comm: "bot".to_owned(), memory: Some(told), why: "pid 7".to_owned(), ..Row::default() };
        assert_eq!(
            table(&[row], true),
            "PID  SERVICE  COMM  UPTIME      RSS  PSS  LISTENS  CONNS  TLS  INFLATE  ATTACH  WHY\n  \
               7  -        bot        -  80.0MiB    -  -            0  -    -        no      pid 7\n"
        );
    }

    #[test]
    fn ages_show_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3_599, "59m59s"), (3_600, "1h00m"), (90_000, "1d01h")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn it_tells_what_would_be_watched_what_not_and_what_is_missing() {
        let fixture = Fixture::new();
        let python = Sketch { exe: "/usr/bin/python3.11", sockets: &[501], tcp: LISTENS, ..Sketch::new(10) };
        fixture.add(&Sketch { arguments: &["python", "bot.py"], ..python });
        fixture.add(&Sketch { exe: "/usr/bin/python3.11", arguments: &["python", "idle.py"], ..Sketch::new(11) });
        let config = PsConfig { services: vec![], pss: false, json: false };
        let found = report(&fixture.proc, &config).expect("the fixture can be read");
        let told: Vec<_> = found.processes.iter().map(|row| (row.pid, row.service.as_deref(), row.attach)).collect();
        assert_eq!(told, [(10, Some("bot"), true), (11, None, false)]);
        assert_eq!(found.processes[0].listens, ["127.0.0.1:8000"]);

        let config =
            PsConfig { services: vec![spec("bot=cmdline:bot\\.py"), spec("llm=port:9")], pss: false, json: false };
        let found = report(&fixture.proc, &config).expect("the fixture can be read");
        assert_eq!(found.without_process, ["llm (port:9)"]);
        assert_eq!(found.processes.len(), 1);
    }
}
