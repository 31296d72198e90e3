//! `cargo xtask demo`: a small, ordinary service under a trickle of load, and the probe watching it.
//!
//! The service and its clients are plain Python from `xtask/demo`, in a virtual environment under `target/demo`; no line
//! of them knows of the probe. The exporter runs in the background, the live histogram on this terminal. Whatever ends
//! the demo ends its children too.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::build;
use crate::setup::{self, Need};
use crate::sh::{self, Background, Sh, say, workspace};

/// Where the exporter listens unless it is told otherwise.
const METRICS: &str = "127.0.0.1:10039";

/// Watch a small, ordinary FastAPI service: a live latency histogram in this terminal
#[derive(Args)]
pub(crate) struct Demo {
    /// End by itself after this many seconds
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        if !setup::is_root() {
            bail!("the probe attaches to the kernel, which takes root: run `cargo xtask demo` as root");
        }
        setup::ensure(&[Need::Python])?;
        build::release()?;
        let folder = workspace().join("target/demo");
        let python = environment(&folder)?;
        // From here on signals are events to wait for: nothing may end this process before its children.
        let mut signals =
            Signals::new([SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGALRM]).context("cannot listen for signals")?;

        let port = free_port()?;
        let scripts = workspace().join("xtask/demo");
        let mut service = Sh::new(&python)
            .args(["-m", "uvicorn", "service:app", "--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--log-level", "warning"])
            .dir(&scripts)
            .background(&folder.join("service.log"))?;
        let target = format!("demo=pid:{}", service.pid());
        let mut exporter = Sh::new(build::release_binary())
            .args(["run", "--service", &target, "--web.listen-address", METRICS])
            .background(&folder.join("exporter.log"))?;
        // The clients wait for the service by themselves.
        let mut clients = Sh::new(&python)
            .args(["load.py", &format!("http://127.0.0.1:{port}")])
            .dir(&scripts)
            .background(&folder.join("load.log"))?;

        say(format_args!("demo: uvicorn is process {}, on http://127.0.0.1:{port}", service.pid()));
        say(format_args!("demo: metrics are on http://{METRICS}/metrics"));
        say("demo: Ctrl-C ends everything");
        let mut hist = histogram(&target)?;
        if let Some(seconds) = self.seconds {
            // SAFETY: `alarm` takes a plain number; its signal is one of those that are listened for.
            unsafe { libc::alarm(seconds) };
        }
        let children = [("service", &mut service), ("exporter", &mut exporter), ("load", &mut clients)];
        let outcome = watch(&mut hist, &mut signals, children, &folder);
        for child in [&mut clients, &mut exporter, &mut service] {
            child.stop(Duration::from_secs(3));
        }
        say("demo: ended, nothing is left running");
        outcome
    }
}

/// The live histogram, on this terminal and in its process group: a Ctrl-C reaches it directly.
fn histogram(target: &str) -> Result<Child> {
    let command = Sh::new(build::release_binary()).args(["hist", "--service", target]);
    say(format_args!("$ {command}"));
    let mut process = command.command();
    process.stdin(Stdio::inherit());
    sh::die_with_parent(&mut process, SIGTERM);
    process.spawn().with_context(|| format!("cannot start `{command}`"))
}

/// Waits until the histogram ends, and ends it when something else says so.
fn watch(
    hist: &mut Child,
    signals: &mut Signals,
    mut children: [(&str, &mut Background); 3],
    folder: &Path,
) -> Result<()> {
    let pid = i32::try_from(hist.id()).context("a process id is a small number")?;
    let mut asked = false;
    let mut broken = None;
    loop {
        if let Some(status) = hist.try_wait().context("cannot wait for the histogram")? {
            return match broken {
                Some(error) => Err(error),
                None => ended(status),
            };
        }
        for (name, child) in &mut children {
            if let Some(status) = child.ended()?.filter(|_| !asked) {
                let log = folder.join(format!("{name}.log"));
                broken = Some(anyhow::anyhow!("the {name} ended by itself: {status}\n{}", tail(&log)));
                asked = true;
                sh::signal(pid, SIGINT);
            }
        }
        for signal in signals.wait() {
            // A Ctrl-C has gone to the histogram too, which is in the terminal's foreground like this process.
            let from_terminal = signal == SIGINT && io::stdin().is_terminal();
            if signal != SIGCHLD {
                asked = true;
            }
            if signal != SIGCHLD && !from_terminal {
                sh::signal(pid, SIGINT);
            }
        }
    }
}

fn ended(status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("the histogram failed: {status}");
    }
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A virtual environment with what the demo's services need; made once, and anew when the requirements change.
fn environment(folder: &Path) -> Result<PathBuf> {
    let requirements = workspace().join("xtask/demo/requirements.txt");
    let wanted =
        fs::read_to_string(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    let noted = venv.join("requirements.txt");
    if fs::read_to_string(&noted).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Sh::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).run()?;
    let pip =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement"];
    Sh::new(&python).args(pip).arg(&requirements).run()?;
    fs::write(&noted, wanted).context("cannot note the requirements")?;
    Ok(python)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on the loopback")?;
    Ok(listener.local_addr().context("a listener has an address")?.port())
}
