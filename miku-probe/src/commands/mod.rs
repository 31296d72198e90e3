//! What the program can be asked to do: one file a command.

pub mod hist;
pub mod run;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Cli;
use crate::config::{Command, Config};

/// Does what was asked for. Every failure is one line on standard error.
#[must_use]
pub fn perform(config: Config) -> ExitCode {
    start_log(config.verbosity);
    let outcome = match config.command {
        Command::Run(config) => run::run(config),
        Command::Hist(config) => hist::run(config),
        Command::Ps(_) | Command::Check(_) => Ok(()),
        Command::Completions(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "miku-probe", &mut script);
            print(&script)
        }
        Command::Man => manual(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("miku-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Talk goes to standard error, a line each, without colour.
fn start_log(verbosity: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .filter_module("miku_probe", verbosity)
        .format(|line, record| match record.level() {
            log::Level::Info => writeln!(line, "{}", record.args()),
            level => writeln!(line, "{}: {}", level.as_str().to_lowercase(), record.args()),
        })
        .init();
}

fn manual() -> anyhow::Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).context("cannot write the manual page")?;
    print(&page)
}

/// Writes to standard output; a reader that went away is no failure.
fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}

/// One thread does everything: there is little to do, and the bot needs the processors.
fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// The signals that end the program.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they no longer kill. Needs a tokio runtime.
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one of them.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
