//! What the program can be asked to do: one file a command.

pub mod check;
pub mod gpu;
pub mod hist;
mod logger;
pub mod metrics;
pub mod profile;
pub mod ps;
pub mod run;
mod sites;
pub mod stalls;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Cli;
use crate::config::{Command, Config};
use crate::probes;

/// Does what was asked for.
///
/// # Errors
/// Whatever went wrong, with all that caused it. A broken pipe is among the causes when the reader went away.
pub fn perform(config: Config) -> anyhow::Result<ExitCode> {
    logger::start(config.verbosity);
    match config.command {
        Command::Run(config) => {
            forbid_core_dumps();
            run::run(config)?;
        }
        Command::Hist(config) => {
            forbid_core_dumps();
            hist::run(config)?;
        }
        Command::Stalls(config) => {
            forbid_core_dumps();
            stalls::run(config)?;
        }
        Command::Profile(config) => {
            forbid_core_dumps();
            profile::run(&config)?;
        }
        Command::Ps(config) => ps::run(&config, &mut io::stdout().lock())?,
        Command::Check(config) => {
            if !check::run(config, probes::object(), &mut io::stdout().lock())? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Gpu(config) => gpu::run(config, &mut io::stdout().lock())?,
        Command::Metrics { json } => metrics::run(json, &mut io::stdout().lock())?,
        Command::Completions(shell) => {
            // Its writer may not fail, so it writes to memory first.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "miku-probe", &mut script);
            if shell == Shell::Bash {
                // clap_complete 4.6.11 takes the dash of the name for the border of a subcommand in one of the two places
                // where it names them, so that no subcommand's flags would be found.
                let fixed = String::from_utf8(script)?.replace("miku__subcmd__probe", "miku__probe");
                script = fixed.into_bytes();
            }
            io::stdout().lock().write_all(&script)?;
        }
        Command::Man => clap_mangen::Man::new(Cli::command()).render(&mut io::stdout().lock())?,
    }
    io::stdout().flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What watched processes say passes through this process's memory: it must not be left behind on a disk.
fn forbid_core_dumps() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } == 0;
    // The limit does not hold where dumps are piped to a program.
    // SAFETY: this option takes a number and no pointer.
    let undumpable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0;
    if !limited || !undumpable {
        log::warn!("if this process crashes it may leave a dump of its memory: {}", io::Error::last_os_error());
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
