//! `cargo xtask demo`: an ordinary Discord bot at work, and the probe watching it.
//!
//! The bot, on discord.py with an LLM and FastAPI in its process, is the test suite's, and so are the Discord and the LLM
//! server that it talks to: they run in a network of their own, so nobody needs an account, and nothing leaves the
//! machine. No line of them knows of the probe, which watches from outside. The exporter runs in the background, the live
//! histogram on this terminal. Whatever ends the demo ends its children too.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use miku_probe_tests::harness::discord::{self, LLM, Stage};
use miku_probe_tests::harness::{PATIENCE, eventually};
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::build;
use crate::setup::{self, Need};
use crate::sh::{self, Background, Sh, say, workspace};

/// Where the exporter listens unless it is told otherwise.
const METRICS: &str = "127.0.0.1:10039";

/// What is shown on the terminal.
const SHOWN: [&str; 2] = ["hist", "--reply"];

/// The port of the bot's own API, in the bot's network.
const API: &str = "8000";

/// How the LLM takes its time, as one on a small GPU does.
const THINKING: [&str; 8] = ["--prompt-ms", "250", "--token-ms", "25", "--tokens", "24", "--spread", "0.5"];

/// What people do, in the words of the stand-in.
const PEOPLE: &str = r##"
{"do": "ready"}
{"do": "messages", "text": "nobody in particular", "count": 1000000, "rate": 3, "random": true, "channels": 8, "aside": true}
{"do": "messages", "text": "!streamllm sing me a song", "count": 1000000, "rate": 0.3, "random": true, "channels": 8, "aside": true}
{"do": "interactions", "kind": "command", "count": 1000000, "rate": 0.25, "channels": 8, "aside": true}
{"do": "messages", "text": "!replyllm good morning", "count": 1000000, "rate": 1.5, "random": true, "channels": 8}
"##;

/// Watch an ordinary Discord bot at work: a live latency histogram in this terminal
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
        let python = discord::environment()?;
        let folder = workspace().join("target/demo");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let people = folder.join("people.jsonl");
        fs::write(&people, PEOPLE.trim_start()).with_context(|| format!("cannot write {}", people.display()))?;
        // From here on signals are events to wait for: nothing may end this process before its children.
        let mut signals =
            Signals::new([SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGALRM]).context("cannot listen for signals")?;

        let stage = Stage::new().context("the bot needs a network of its own")?;
        let mut standin = stage.standin(&python);
        standin.args(["--channels", "8", "--delay-ms", "60", "--commands"]).arg(&people);
        let mut discord = listening("Discord", standin, &folder)?;
        let mut llm = stage.llm(&python);
        llm.args(THINKING);
        let mut llm = listening("LLM", llm, &folder)?;
        let mut command = python.script("discord_bot.py");
        command.args(["--llm", &format!("http://{LLM}"), "--stream-llm", "--api-port", API]);
        stage.contain(&mut command);
        let mut bot = Background::start(command, &log(&folder, "bot"))?;
        let mut command = python.file(&workspace().join("xtask/demo/dashboard.py"));
        stage.contain(command.arg(format!("http://127.0.0.1:{API}/status")));
        let mut dashboard = Background::start(command, &log(&folder, "dashboard"))?;
        let target = format!("bot=pid:{}", bot.pid());
        let mut exporter = Sh::new(build::release_binary())
            .args(["run", "--service", &target, "--web.listen-address", METRICS])
            .background(&log(&folder, "exporter"))?;

        say(format_args!("demo: the bot is process {}, in a network of its own", bot.pid()));
        say(format_args!("demo: metrics are on http://{METRICS}/metrics"));
        say("demo: Ctrl-C ends everything");
        let mut hist = histogram(&target)?;
        if let Some(seconds) = self.seconds {
            // SAFETY: `alarm` takes a plain number; its signal is one of those that are listened for.
            unsafe { libc::alarm(seconds) };
        }
        let children = [
            ("bot", &mut bot),
            ("exporter", &mut exporter),
            ("dashboard", &mut dashboard),
            ("LLM", &mut llm),
            ("Discord", &mut discord),
        ];
        let outcome = watch(&mut hist, &mut signals, children, &folder);
        for child in [&mut dashboard, &mut exporter, &mut bot, &mut llm, &mut discord] {
            child.stop(Duration::from_secs(3));
        }
        say("demo: ended, nothing is left running");
        outcome
    }
}

/// Where a child's output goes.
fn log(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// Starts a server that says so when it listens, and waits for that.
fn listening(name: &str, command: Command, folder: &Path) -> Result<Background> {
    let log = log(folder, name);
    let mut child = Background::start(command, &log)?;
    let listens = || fs::read_to_string(&log).is_ok_and(|text| text.lines().any(|line| line == "listening"));
    let outcome = eventually(PATIENCE, || match child.ended() {
        Ok(None) => listens().then_some(Ok(())),
        Ok(Some(status)) => Some(Err(ended_early(name, status, folder))),
        Err(error) => Some(Err(error)),
    });
    outcome.with_context(|| format!("the {name} does not listen\n{}", tail(&log)))??;
    Ok(child)
}

fn ended_early(name: &str, status: ExitStatus, folder: &Path) -> anyhow::Error {
    anyhow::anyhow!("the {name} ended by itself: {status}\n{}", tail(&log(folder, name)))
}

/// The live histogram, on this terminal and in its process group: a Ctrl-C reaches it directly.
fn histogram(target: &str) -> Result<Child> {
    let command = Sh::new(build::release_binary()).args(SHOWN).args(["--service", target]);
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
    mut children: [(&str, &mut Background); 5],
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
                broken = Some(ended_early(name, status, folder));
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
