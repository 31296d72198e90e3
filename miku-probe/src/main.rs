//! The command line of `miku-probe`: parses, makes a configuration of it, runs, and maps the result to an exit code.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use miku_probe::cli::Cli;
use miku_probe::commands;
use miku_probe::config::{Config, ConfigError};

/// The command line or the configuration makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let config = match Config::new(Cli::parse(), std::env::var("NO_COLOR").ok().as_deref()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("miku-probe: {error}");
            return if let ConfigError::Read { .. } = error { ExitCode::FAILURE } else { ExitCode::from(USAGE) };
        }
    };
    match commands::perform(config) {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("miku-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}
