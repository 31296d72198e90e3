//! What the sections share: the services, the load, the probe, and what processes use.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use miku_probe_tests::harness::process::{Process, free_port};
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::secure::SecureServer;
use miku_probe_tests::harness::{PATIENCE, eventually, probe};
use serde_json::Value;

use crate::build;
use crate::setup::{self, CargoTool, Need};
use crate::sh::{Sh, workspace};

/// How long the longest load takes at worst.
const LOAD_LIMIT: Duration = Duration::from_secs(300);

/// The metrics of programs are brought up to date once a second.
pub(super) const REFRESH: Duration = Duration::from_millis(1_500);

/// Everything that was built and installed.
pub(super) struct Stage {
    pub(super) quick: bool,
    python: Python,
    oha: PathBuf,
    floor: PathBuf,
}

impl Stage {
    /// Installs and builds what the sections need.
    pub(super) fn set(quick: bool) -> Result<Self> {
        setup::ensure(&[Need::Bpf, Need::Python, Need::Load])?;
        build::release()?;
        let floor = build::floor()?;
        let helpers = ["--package", "miku-probe-tests", "--features", "hooks", "--bin", "peer", "--bin", "hooks"];
        Sh::new("cargo").args(["build", "--release"]).args(helpers).run()?;
        let requirements = ["uvicorn.txt", "aiohttp.txt", "clients.txt", "instrumentation.txt"];
        let python = Python::with("bench", &requirements)?;
        let oha = CargoTool::Oha.path().context("the load generator is missing: run `cargo xtask setup`")?;
        Ok(Self { quick, python, oha, floor })
    }

    /// `full` where there is time, else `quick`.
    pub(super) fn choose<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A number of requests, a quarter of it when there is little time.
    pub(super) fn scaled(&self, full: u32) -> u32 {
        self.choose(full, full / 4)
    }

    pub(super) fn script(&self, name: &str) -> Command {
        self.python.script(name)
    }

    /// Starts the FastAPI service under uvicorn.
    pub(super) fn serve(&self, options: &[&str]) -> Server {
        let port = free_port();
        let mut command = self.script("bench_app.py");
        let process = Process::start("uvicorn", command.args(["--port", &port.to_string()]).args(options));
        let up = eventually(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
        assert!(up.is_some(), "uvicorn does not listen: {}", process.story());
        Server { process, port }
    }

    /// Loads a server with oha.
    pub(super) fn load(&self, server: &Server, path: &str, options: &[&str]) -> Result<Load> {
        let url = format!("http://127.0.0.1:{}{path}", server.port);
        let command = ["--no-tui", "--output-format", "json"];
        let text = Sh::new(&self.oha).args(command).args(options).arg(url).output()?;
        Load::parse(&text)
    }

    /// Loads a server with oha until what this returns is dropped.
    pub(super) fn keep_loaded(&self, server: &Server, path: &str, options: &[&str]) -> Process {
        // Far longer than anything here takes.
        const LONG: &str = "1h";
        let mut command = Command::new(&self.oha);
        let url = format!("http://127.0.0.1:{}{path}", server.port);
        Process::start("the load", command.args(["--no-tui", "-z", LONG]).args(options).arg(url))
    }

    /// Starts what can be switched on and off while others measure.
    pub(super) fn switch(&self, what: &[&str]) -> Switch {
        let mut command = self.hooks();
        Switch { process: Process::start("the switch", command.arg("toggle").args(what)), told: 0 }
    }

    /// A command of the suite's own server and load generator.
    pub(super) fn peer(&self) -> Command {
        Command::new(helper("peer"))
    }

    /// Starts the suite's own server behind TLS.
    pub(super) fn serve_tls(&self) -> SecureServer {
        SecureServer::start(&helper("peer"))
    }

    /// Attaches one of the ways of hooking system calls or TLS libraries, until the process's input is closed.
    pub(super) fn hold(&self, variant: &str, options: &[&str]) -> Process {
        let mut command = self.hooks();
        let process = Process::start(variant, command.args(["hold", variant]).args(options));
        process.wait_said(PATIENCE, |line| (line == "attached").then_some(()));
        process
    }

    /// A command that measures ways of hooking system calls.
    pub(super) fn hooks(&self) -> Command {
        let mut command = Command::new(helper("hooks"));
        command.arg("--object").arg(&self.floor);
        command
    }
}

fn helper(name: &str) -> PathBuf {
    workspace().join("target/release").join(name)
}

/// A running service.
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) port: u16,
}

impl Server {
    /// How the probe is told of it.
    pub(super) fn service(&self) -> String {
        format!("bench=pid:{}", self.process.pid())
    }
}

/// Something that is switched on and off.
pub(super) struct Switch {
    process: Process,
    /// How often it was told.
    told: u32,
}

impl Switch {
    /// Switches, and returns when that is done.
    pub(super) fn turn(&mut self, on: bool) {
        self.process.tell(if on { "on" } else { "off" });
        self.told += 1;
        let number = self.told.to_string();
        self.process.wait_said(PATIENCE, |line| (line == number).then_some(()));
    }
}

/// What oha counted and timed.
pub(super) struct Load {
    pub(super) rate: f64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl Load {
    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("oha printed no JSON")?;
        let errors = value["errorDistribution"].as_object().context("oha tells no errors")?;
        // At the end of a load of so many seconds, requests on their way are given up.
        let real = errors.iter().find(|(name, _)| *name != "aborted due to deadline");
        if let Some((name, count)) = real {
            bail!("oha met with an error {count} times: {name}");
        }
        let number = |place: &Value| place.as_f64().context("oha left out a number");
        let mut statuses = BTreeMap::new();
        for (status, count) in value["statusCodeDistribution"].as_object().context("oha tells no statuses")? {
            statuses.insert(status.parse().context("a status")?, count.as_u64().context("a count")?);
        }
        Ok(Self {
            rate: number(&value["summary"]["requestsPerSec"])?,
            statuses,
            p50: number(&value["latencyPercentiles"]["p50"])?,
            p99: number(&value["latencyPercentiles"]["p99"])?,
        })
    }

    /// Answers in all.
    pub(super) fn total(&self) -> u64 {
        self.statuses.values().sum()
    }
}

/// The probe's histogram of one service, from when it has attached to when it is ended.
pub(super) struct Histogram {
    process: Process,
}

impl Histogram {
    /// Attaches to a process, as the side that is told.
    pub(super) fn attach(pid: u32, side: &str) -> Self {
        let service = format!("bench=pid:{pid}");
        let options = ["hist", "--json", "--interval", "500ms", "--side", side, "--service", &service];
        let process = Process::start("the histogram", &mut probe::command(&options));
        process.wait_said(PATIENCE, |line| {
            let frame: Value = serde_json::from_str(line).ok()?;
            (!frame["targets"].as_array()?.is_empty()).then_some(())
        });
        Self { process }
    }

    /// The last frame, over all since the start, once `count` exchanges are in it or no more come.
    pub(super) fn finish(mut self, count: u64) -> Result<Value> {
        let full = |line: &str| {
            let frame: Value = serde_json::from_str(line).ok()?;
            (frame["total"]["count"].as_u64()? >= count).then_some(())
        };
        let said = |process: &Process| process.said().iter().any(|line| full(line).is_some());
        // Whatever is still missing then is told as a difference in the count.
        let _ = eventually(Duration::from_secs(3), || said(&self.process).then_some(()));
        let status = self.process.stop(libc::SIGINT, PATIENCE);
        ensure!(status.success(), "the histogram ended badly: {status}: {}", self.process.story());
        self.process.wait_silent(PATIENCE);
        let lines = self.process.said();
        let last = lines.last().context("the histogram printed nothing")?;
        let frame: Value = serde_json::from_str(last).with_context(|| format!("no JSON: {last}"))?;
        ensure!(frame["final"] == true, "the histogram's last line is not its last: {last}");
        Ok(frame)
    }
}

/// Waits for a process that ends by itself, and reads the JSON object on its last line.
pub(super) fn result(process: &mut Process) -> Result<Value> {
    let status = process.wait(LOAD_LIMIT).context("it does not come to an end")?;
    process.wait_silent(PATIENCE);
    ensure!(status.success(), "{status}: {}", process.story());
    let lines = process.said();
    let last = lines.last().with_context(|| process.story())?;
    serde_json::from_str(last).with_context(|| format!("no JSON: {last}"))
}

/// Processor time of a process since it began, in seconds, to the tick of `/proc/PID/stat`.
pub(super) fn processor_seconds(pid: u32) -> Result<f64> {
    const AFTER_NAME: &str = ") ";
    // Fields 14 and 15 of proc_pid_stat(5); the first behind the name is field 3.
    const USER: usize = 11;
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (_, fields) = text.rsplit_once(AFTER_NAME).with_context(|| format!("{path} has no name"))?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(USER).take(2).map_while(|field| field.parse().ok()).collect();
    ensure!(ticks.len() == 2, "{path} has no times");
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[allow(clippy::cast_precision_loss, reason = "a hundred")]
    Ok(ticks.iter().sum::<f64>() / per_second.max(1) as f64)
}

/// Processor time of a process with one thread, to the nanosecond of the scheduler.
pub(super) fn scheduled_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or("").parse().with_context(|| format!("{path}: {text}"))?;
    Ok(nanoseconds * 1e-9)
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// All pages it has in memory.
    pub(super) resident: f64,
    /// The same, shared pages in equal parts for all who share them.
    pub(super) proportional: f64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes: Option<f64> = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
            kilobytes.map(|kilobytes| kilobytes * 1024.0).with_context(|| format!("{} has no {name}", path.display()))
        };
        Ok(Self { resident: field("Rss:")?, proportional: field("Pss:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_oha_prints() {
        let text = r#"{"summary": {"requestsPerSec": 4303.5}, "latencyPercentiles": {"p50": 0.0147, "p99": 0.0232},
            "statusCodeDistribution": {"200": 5, "404": 2}, "errorDistribution": {"aborted due to deadline": 64}}"#;
        let load = Load::parse(text).expect("good JSON");
        assert_eq!(load.total(), 7);
        assert!(Load::parse(&text.replace("aborted due to deadline", "connection reset")).is_err());
    }

    #[test]
    fn reads_memory() {
        let text = "00400000-7ffd rollup\nRss:   2048 kB\nPss:     1024 kB\nPss_Anon:  1 kB\n";
        let memory = Memory::parse(text, Path::new("x")).expect("both are there");
        assert!((memory.resident - 2_097_152.0).abs() < 1.0 && (memory.proportional - 1_048_576.0).abs() < 1.0);
        assert!(Memory::parse("Rss: 1 kB\n", Path::new("x")).is_err());
    }

    #[test]
    fn reads_this_process() {
        let pid = std::process::id();
        assert!(processor_seconds(pid).expect("it runs") < 1e6);
        assert!(Memory::of(pid).expect("it has memory").resident > 0.0);
    }
}
