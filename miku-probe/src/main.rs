//! The command line of `miku-probe`: parses, makes a configuration of it, runs, and maps the result to an exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use miku_probe::cli::Cli;
use miku_probe::commands::{check, ps};
use miku_probe::config::{Command, Config};

/// The kernel side, compiled; empty when it was not.
static BPF_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/miku-probe.bpf.o"));

/// The command line or the configuration makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::new(Cli::parse(), std::env::var("NO_COLOR").ok().as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("miku-probe: {error}");
            return ExitCode::from(USAGE);
        }
    };
    env_logger::Builder::new()
        .filter_module("miku_probe", config.verbosity)
        .format(|line, record| writeln!(line, "miku-probe: {}", record.args()))
        .init();
    match execute(config) {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("miku-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(config: Config) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    match config.command {
        Command::Run(_) | Command::Hist(_) => anyhow::bail!("this build cannot attach"),
        Command::Ps(config) => ps::run(&config, &mut output)?,
        Command::Check(config) => {
            if !check::run(config, BPF_OBJECT, &mut output)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Completions(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "miku-probe", &mut script);
            output.write_all(&script)?;
        }
        Command::Man => clap_mangen::Man::new(Cli::command()).render(&mut output)?,
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
