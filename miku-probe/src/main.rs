//! The command line of `miku-probe`: flags to configuration, configuration to command, outcome to exit code.

use std::process::ExitCode;

use clap::Parser as _;
use miku_probe::cli::Cli;
use miku_probe::commands;
use miku_probe::config::Config;

fn main() -> ExitCode {
    let no_color = std::env::var("NO_COLOR").ok();
    match Config::new(Cli::parse(), no_color.as_deref()) {
        Ok(config) => commands::perform(config),
        Err(error) => {
            eprintln!("miku-probe: {error}");
            ExitCode::from(2)
        }
    }
}
