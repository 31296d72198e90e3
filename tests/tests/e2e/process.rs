//! What processes use and how they end, held against `/proc`, `getrusage` and `waitpid` at the same time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{SystemTime, UNIX_EPOCH};

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::Value;

use crate::discovery::ControlGroup;
use crate::stage::Config;
use crate::{Case, case};

const SUBJECT: &str = env!("CARGO_BIN_EXE_subject");
const MIB: u64 = 1 << 20;
/// What the kernel's limit is in these cases.
const GROUP_BYTES: u64 = 64 * MIB;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(vitals),
        case!(ends),
        case!(a_long_end),
        case!(ended_well),
        case!(oom_kill, MemoryGroup),
        case!(pressure, Pressure),
        case!(proportional),
    ]
}

pub(crate) fn memory_group(name: &str) -> Result<ControlGroup, String> {
    ControlGroup::with_memory(name, GROUP_BYTES)
}

pub(crate) fn pressure_group(name: &str) -> Result<ControlGroup, String> {
    let group = ControlGroup::new(name)?;
    let file = group.path().join("cpu.pressure");
    fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(group)
}

/// A process that does what it is told.
pub(crate) struct Subject {
    pub(crate) process: Process,
    orders: Cell<usize>,
}

impl Subject {
    pub(crate) fn start() -> Self {
        Self::by(&mut Command::new(SUBJECT))
    }

    fn by(command: &mut Command) -> Self {
        Self { process: Process::start("the subject", command), orders: Cell::new(0) }
    }

    /// One in a control group from its start.
    fn within(group: &ControlGroup) -> Self {
        let procs = group.path().join("cgroup.procs");
        let mut command = Command::new(SUBJECT);
        // SAFETY: it opens and writes one file; the parent's other threads hold no lock that this waits for.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        Self::by(&mut command)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives an order and does not wait.
    fn order(&mut self, order: &str) -> usize {
        self.orders.set(self.orders.get() + 1);
        self.process.tell(order);
        self.orders.get()
    }

    /// Gives an order and waits for the answer.
    pub(crate) fn tell(&mut self, order: &str) -> String {
        let number = self.order(order);
        self.process.wait_said(PATIENCE, |line| {
            let (place, answer) = line.split_once(' ')?;
            (place.parse() == Ok(number)).then(|| answer.to_owned())
        })
    }

    /// What the kernel says that it has used.
    fn usage(&mut self) -> Value {
        serde_json::from_str(&self.tell("usage")).expect("it answers in JSON")
    }

    /// Its field of `/proc/PID/status`, without a unit.
    fn status(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it is alive");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("it is a number")
    }
}

/// Every process is looked at each second.
fn each_second(selector: &str) -> Config {
    Config::new(&format!("[process]\ninterval_seconds = 1\n[[service]]\nname = \"bot\"\n{selector}\n"))
}

fn watched(subject: &Subject) -> Probe {
    let config = each_second(&format!("pid = {}", subject.pid()));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_target("bot");
    probe
}

/// The one value of a metric of this process; none while it is not there.
fn value(scrape: &Scrape, name: &str, pid: u32, more: &[(&str, &str)]) -> Option<f64> {
    let pid = pid.to_string();
    scrape.try_value(name, &[&[("service", "bot"), ("pid", pid.as_str())], more].concat())
}

fn vitals() {
    let before = SystemTime::now();
    let mut subject = Subject::start();
    subject.tell("limit 300");
    let probe = watched(&subject);
    let start = before.duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs_f64();
    let pid = subject.pid();
    let fds = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).expect("it is alive").count() as f64;
    probe.wait_for("the first look", |scrape| value(scrape, "miku_process_threads", pid, &[]));
    let quiet = subject.status("VmRSS");
    for order in ["allocate 67108864", "open 20", "threads 5", "burn 300", "wait 50", "write 8388608", "fault 40"] {
        assert_eq!(subject.tell(order), "done", "{order}");
    }
    let truth = subject.usage();
    let number = |name: &str| truth[name].as_f64().unwrap_or_else(|| panic!("no {name} in {truth}"));
    let resident = subject.status("VmRSS");
    assert!((resident - quiet) * 1024 >= 64 * MIB, "{quiet} KiB before, {resident} after");
    #[allow(clippy::cast_precision_loss, reason = "a test's memory is small")]
    let bytes = |field| subject.status(field) as f64 * 1024.0;
    assert!(number("user") >= 0.3 && number("voluntary") >= 50.0 && number("major") >= 40.0, "{truth}");
    // The kernel adds up what the threads' counters have of pages only now and then.
    let page_lag = 1024.0 * 1024.0;
    let expected = [
        ("miku_process_resident_memory_bytes", &[][..], bytes("VmRSS"), page_lag),
        ("miku_process_virtual_memory_bytes", &[], bytes("VmSize"), 0.0),
        ("miku_process_shared_memory_bytes", &[], bytes("RssFile") + bytes("RssShmem"), page_lag),
        ("miku_process_swap_memory_bytes", &[], bytes("VmSwap"), 0.0),
        ("miku_process_threads", &[], 6.0, 0.0),
        ("miku_process_open_fds", &[], fds(pid), 0.0),
        ("miku_process_max_fds", &[], 300.0, 0.0),
        ("miku_process_start_time_seconds", &[], start, 2.0),
        // In ticks of 10 ms, which share user and system time out by what the kernel samples.
        ("miku_process_cpu_seconds_total", &[("mode", "user")], number("user"), 0.03),
        ("miku_process_cpu_seconds_total", &[("mode", "system")], number("system"), 0.03),
        // It told of its usage and then waited for the next order.
        ("miku_process_context_switches_total", &[("type", "voluntary")], number("voluntary") + 1.0, 2.0),
        ("miku_process_context_switches_total", &[("type", "involuntary")], number("involuntary"), 2.0),
        ("miku_process_page_faults_total", &[("type", "minor")], number("minor"), 20.0),
        ("miku_process_page_faults_total", &[("type", "major")], number("major"), 2.0),
    ];
    for (name, labels, expected, tolerance) in expected {
        let mut seen = None;
        let agreed = eventually(PATIENCE, || {
            seen = value(&probe.scrape(), name, pid, labels);
            seen.is_some_and(|seen| (seen - expected).abs() <= tolerance).then_some(())
        });
        assert!(agreed.is_some(), "{name} {labels:?} is {seen:?}, not {expected}\n{}", probe.told());
    }
    let scrape = probe.scrape();
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("root may read it");
    for (direction, field) in [("read", "\nread_bytes: "), ("write", "\nwrite_bytes: ")] {
        let (_, rest) = io.split_once(field).expect("the field is there");
        let bytes: f64 = rest.lines().next().and_then(|number| number.parse().ok()).expect("it is a number");
        assert_eq!(value(&scrape, "miku_process_io_bytes_total", pid, &[("direction", direction)]), Some(bytes));
        assert!(direction == "read" || bytes >= 8_388_608.0, "it wrote 8 MiB: {bytes}");
    }
    assert_eq!(value(&scrape, "miku_process_resident_memory_growth_bytes_per_hour", pid, &[]), None, "not known yet");

    subject.process.stop(libc::SIGKILL, PATIENCE);
    probe.wait_for("that nothing is told of a process that has ended", |scrape| {
        scrape.with_label("pid", &pid.to_string()).is_empty().then_some(())
    });
}

/// A program of a name of its own, so that every process of it is one of the service's.
struct Program {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Program {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ending-subject");
        fs::copy(SUBJECT, &path).expect("the subject can be copied");
        Self { _folder: folder, path }
    }

    fn probe(&self) -> Probe {
        let config = each_second(&format!("exe = '{}'", self.path.display()));
        Probe::launch(&[], &["--config", config.path()])
    }

    /// Starts it, and waits until it is watched.
    fn start(&self, probe: &Probe) -> Subject {
        let mut subject = Subject::by(&mut Command::new(&self.path));
        subject.tell("wait 1");
        let pid = subject.pid();
        probe.wait_for("the new process", |scrape| value(scrape, "miku_process_threads", pid, &[]));
        subject
    }
}

/// The reason and code of an end, by what the system told the one who waited.
fn labels(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(libc::SIGKILL)) => "signal SIGKILL".to_owned(),
        (None, Some(libc::SIGTERM)) => "signal SIGTERM".to_owned(),
        (None, Some(libc::SIGABRT)) => "signal SIGABRT".to_owned(),
        (None, Some(libc::SIGSEGV)) => "signal SIGSEGV".to_owned(),
        other => panic!("no end that was meant: {other:?}"),
    }
}

/// All ends that the probe counted, by reason and code.
fn counted(scrape: &Scrape) -> BTreeMap<String, u64> {
    scrape.counts_by("miku_process_exits_total", &[("service", "bot")], &["reason", "code"])
}

fn ends() {
    let program = Program::new();
    let probe = program.probe();
    let mut truth: BTreeMap<String, u64> = BTreeMap::new();
    for order in ["exit 0", "exit 3", "exit 255", "exit 3", "raise 15", "raise 6", "raise 11", "raise 9"] {
        let mut subject = program.start(&probe);
        subject.order(order);
        let status = subject.process.wait(PATIENCE).expect("it ends");
        *truth.entry(labels(status)).or_default() += 1;
    }
    let mut parent = program.start(&probe);
    // Helpers are no processes of the service; workers are, however short they live.
    for _ in 0..5 {
        assert_eq!(parent.tell("run /bin/true"), "done");
    }
    for code in [0, 7] {
        let status: i32 = parent.tell(&format!("fork {code}")).parse().expect("a status");
        *truth.entry(labels(ExitStatus::from_raw(status))).or_default() += 1;
    }
    // What ends last is counted last.
    let status = parent.process.stop(libc::SIGTERM, PATIENCE);
    *truth.entry(labels(status)).or_default() += 1;
    let mut seen = BTreeMap::new();
    let agreed = eventually(PATIENCE, || {
        seen = counted(&probe.scrape());
        (seen == truth).then_some(())
    });
    assert!(agreed.is_some(), "{seen:?} were counted of {truth:?}\n{}", probe.told());
    let scrape = probe.scrape();
    assert_eq!(scrape.count("miku_process_starts_total", &[("service", "bot")]), truth.values().sum::<u64>());
    assert_eq!(scrape.count("miku_process_oom_kills_total", &[("service", "bot")]), 0);
    let reason = "no process matches; the last one was killed by SIGTERM";
    assert_eq!(probe.wait_check("process", "bot", "failing", reason)["reason"], reason);
}

/// A process whose first thread ends, by itself or because another one becomes the program anew, goes on, and ends with what
/// the last one says.
fn a_long_end() {
    let program = Program::new();
    let probe = program.probe();
    let mut subject = program.start(&probe);
    assert_eq!(subject.tell("become"), "done");
    assert_eq!(subject.tell("wait 1"), "done");
    subject.order("leave 5");
    let leader = format!("/proc/{0}/task/{0}/status", subject.pid());
    let zombie = eventually(PATIENCE, || {
        let text = fs::read_to_string(&leader).ok()?;
        text.contains("State:\tZ").then(|| counted(&probe.scrape()))
    });
    assert_eq!(zombie, Some(BTreeMap::new()), "another thread goes on");
    assert_eq!(subject.process.wait(PATIENCE).and_then(|status| status.code()), Some(5));
    probe.wait_for("the end of the last thread", |scrape| {
        (counted(scrape) == BTreeMap::from([("exit 5".to_owned(), 1)])).then_some(())
    });
    assert_eq!(probe.scrape().count("miku_process_starts_total", &[("service", "bot")]), 1, "it was one process");
}

/// A process that exits with code 0 fails health only if its service is required.
fn ended_well() {
    for (required, status, code) in [(false, "ok", 200), (true, "failing", 503)] {
        let mut subject = Subject::start();
        let service = format!("[[service]]\nname = \"bot\"\npid = {}\nrequired = {required}\n", subject.pid());
        let config = Config::new(&service);
        let probe = Probe::launch(&[], &["--config", config.path()]);
        probe.wait_target("bot");
        subject.order("leave 0");
        assert_eq!(subject.process.wait(PATIENCE).and_then(|status| status.code()), Some(0));
        probe.wait_check("process", "bot", status, "no process matches; the last one exited with code 0");
        assert_eq!(probe.status("/healthz"), Some(code), "required: {required}");
    }
}

fn oom_kill() {
    let group = memory_group(&format!("miku-probe-oom-{}", std::process::id())).expect("the case needs it");
    let mut subject = Subject::within(&group);
    subject.tell("allocate 1048576");
    let probe = watched(&subject);
    let pid = subject.pid();
    let gauge = |name: &'static str| move |scrape: &Scrape| value(scrape, name, pid, &[]);
    #[allow(clippy::cast_precision_loss, reason = "the limit is small")]
    let limit = GROUP_BYTES as f64;
    assert_eq!(probe.wait_for("the limit", gauge("miku_process_cgroup_memory_limit_bytes")), limit);
    probe.wait_check("memory headroom", "bot", "ok", "");
    subject.tell(&format!("allocate {}", 60 * MIB - 2 * MIB));
    let check = probe.wait_check("memory headroom", "bot", "failing", "");
    let reason = check["reason"].as_str().expect("a reason");
    assert!(reason.contains("of 64.0 MiB that its control group allows"), "{check}");
    assert!(check["since"].is_string() && check["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{check}");
    assert_eq!(probe.status("/healthz"), Some(503));
    let used = probe.wait_for("the usage", gauge("miku_process_cgroup_memory_usage_bytes"));
    assert!(used > 0.9 * limit && used <= limit, "{used} of {limit}");

    subject.order("allocate 268435456");
    let status = subject.process.wait(PATIENCE).expect("it has no room");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status:?}");
    probe.wait_for("the kill", |scrape| {
        let kills = scrape.count("miku_process_oom_kills_total", &[("service", "bot")]);
        (kills == 1 && counted(scrape) == BTreeMap::from([("oom_kill SIGKILL".to_owned(), 1)])).then_some(())
    });
    let reason = "no process matches; the last one was killed by the kernel for want of memory";
    assert_eq!(probe.wait_check("process", "bot", "failing", reason)["reason"], reason);
    let checks = probe.health();
    let names: Vec<&Value> =
        checks["checks"].as_array().expect("an array").iter().map(|check| &check["name"]).collect();
    assert!(!names.iter().any(|name| *name == "memory headroom"), "it has none any more: {names:?}");
}

/// The totals of a pressure file in seconds, by kind.
fn totals(file: &Path) -> Vec<(String, f64)> {
    let text = fs::read_to_string(file).expect("the group is there");
    let total = |line: &str| {
        let (kind, rest) = line.split_once(' ')?;
        let microseconds: f64 = rest.split(' ').find_map(|part| part.strip_prefix("total="))?.parse().ok()?;
        Some((kind.to_owned(), microseconds / 1e6))
    };
    text.lines().map(|line| total(line).unwrap_or_else(|| panic!("no total in {line:?}"))).collect()
}

fn pressure() {
    let group = pressure_group(&format!("miku-probe-pressure-{}", std::process::id())).expect("the case needs it");
    // More that compute than processors, so that some wait for one.
    let count = std::thread::available_parallelism().map_or(2, usize::from) + 2;
    let mut subjects: Vec<Subject> = (0..count).map(|_| Subject::within(&group)).collect();
    for subject in &mut subjects {
        subject.order("burn 300");
    }
    for subject in &mut subjects {
        subject.tell("wait 1");
    }
    let probe = watched(&subjects[0]);
    let pid = subjects[0].pid();
    let mut compared = 0;
    for resource in ["cpu", "memory", "io"] {
        for (kind, before) in totals(&group.path().join(format!("{resource}.pressure"))) {
            let labels = [("resource", resource), ("kind", kind.as_str())];
            let name = "miku_process_cgroup_pressure_seconds_total";
            let seen = probe.wait_for(&format!("{kind} {resource}"), |scrape| {
                value(scrape, name, pid, &labels).filter(|seen| *seen >= before - 1e-9)
            });
            let after = totals(&group.path().join(format!("{resource}.pressure")));
            let after = after.iter().find(|(other, _)| *other == kind).map(|(_, total)| *total);
            assert!(after.is_some_and(|after| seen <= after + 1e-9), "{kind} {resource}: {before}, {seen}, {after:?}");
            assert!(resource != "cpu" || kind != "some" || before > 0.05, "they waited for processors: {before}");
            compared += 1;
        }
    }
    assert!(compared >= 5, "the kernel tells some and full of three: {compared}");
}

fn proportional() {
    let mut subject = Subject::start();
    subject.tell("allocate 67108864");
    let selector = format!("bot=pid:{}", subject.pid());
    let mut command = miku_probe_tests::harness::probe::command(&["ps", "--pss", "--json", "--service", &selector]);
    let output = command.output().expect("the probe runs");
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", subject.pid())).expect("root may read it");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the field is there");
    let truth: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let seen = told["processes"][0]["pss_bytes"].as_u64().unwrap_or_else(|| panic!("no part in {told:#}"));
    // What it shares with others counts by how many they are, and these come and go.
    assert!(seen.abs_diff(truth * 1024) < MIB && seen > 64 * MIB, "{seen}, not {truth} KiB");
    assert_eq!(told["processes"][0]["resident_bytes"].as_u64(), Some(subject.status("VmRSS") * 1024));
}
