//! Sets up, builds, tests, measures and demonstrates miku-probe.
//!
//! One file a verb. `cargo xtask demo` and `cargo xtask test` are all that a fresh machine needs: every verb first
//! finds or installs what it needs itself (see [`setup`]).

mod bench;
mod build;
mod demo;
mod gpu;
mod kernels;
mod mutants;
mod setup;
mod sh;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Sets up, builds, tests and demonstrates miku-probe.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find what the other verbs need, and install what is missing
    Setup(setup::Setup),
    /// Build the BPF object and the program that carries it
    Build(build::Build),
    /// Run every test: formatting and lints, pure, privileged, accuracy, and under other kernels
    Test(test::Test),
    /// Watch a small, ordinary FastAPI service: a live latency histogram in this terminal
    Demo(demo::Demo),
    /// Measure what the probe must reach: exact, true, light, at scale
    Bench(bench::Bench),
    /// Boot Debian's kernels under qemu and measure real exchanges on each
    Kernels(kernels::Kernels),
    /// Change miku-probe in small ways and report the changes that no unit test notices
    Mutants(mutants::Mutants),
    /// Hold what the probe tells of NVIDIA GPUs against nvidia-smi, on a machine that has one
    GpuCheck(gpu::GpuCheck),
    /// Keep the first GPU busy, as gpu-check has it done
    #[command(hide = true)]
    GpuLoad(gpu::GpuLoad),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(verb) => verb.run(),
        Verb::Build(verb) => verb.run(),
        Verb::Test(verb) => verb.run(),
        Verb::Demo(verb) => verb.run(),
        Verb::Bench(verb) => verb.run(),
        Verb::Kernels(verb) => verb.run(),
        Verb::Mutants(verb) => verb.run(),
        Verb::GpuCheck(verb) => verb.run(),
        Verb::GpuLoad(verb) => verb.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sh::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
