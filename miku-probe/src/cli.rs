//! The command line as it is typed. Nothing here is checked beyond its form: [`crate::config`] makes sense of it.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::units::Side;

/// Flags of every command stand under this heading.
const GENERAL: &str = "General options";

/// Under every command's help.
const EXIT_CODES: &str = "\
Exit codes:
  0  all went well
  1  it could not be done; one line on standard error says why
  2  the command line or the configuration makes no sense";

const SERVICES: &str = "\
Selectors:
  pid:1234             that process, as long as it lives
  comm:uvicorn         processes of that name (/proc/PID/comm, 15 bytes)
  cmdline:bot\\.py      processes whose command line the regular expression matches
  exe:/opt/*/python3   processes that run that program: a path, a file name, or a glob
  port:8000            processes that listen on that TCP port
  container:3f4c7c1d5a8e
                       processes in that container: 12 digits or more of its id, or the
                       name where its control group carries it (LXC, systemd units)
Forked workers belong to their parent's service. Without any selector the probe chooses:
Python processes that listen on TCP or have a TLS connection, and LLM servers.";

const RUN_EXAMPLES: &str = "\
Examples:
  miku-probe run
  miku-probe run --service 'bot=cmdline:bot\\.py' --service llm=port:8080
  miku-probe run --config /etc/miku-probe.toml --web.listen-address 127.0.0.1:9100";

const HIST_EXAMPLES: &str = "\
Examples:
  miku-probe hist
  miku-probe hist --service 'bot=cmdline:bot\\.py' --side client
  miku-probe hist --reply --service 'bot=cmdline:bot\\.py'
  miku-probe hist --llm --service llm=port:8080
  miku-probe hist --service bot --route '/users/*' --config /etc/miku-probe.toml
  miku-probe hist --interval 5 --count 12 --json > minute.json";

const STALLS_EXAMPLES: &str = "\
Examples:
  miku-probe stalls
  miku-probe stalls --service 'bot=cmdline:bot\\.py' --stack
  miku-probe stalls --json | jq 'select(.event == \"ended\")'

A stall is a turn of an event loop (asyncio, uvloop) that takes longer than 0.1 s. Where a program
hangs is told as the innermost Python function, and, if that is Python's or a package's, the
innermost one that is neither.";

const PROFILE_EXAMPLES: &str = "\
Examples:
  miku-probe profile --service pid:4242 --seconds 10 --output bot.svg
  miku-probe profile --service 'bot=cmdline:bot\\.py' --format folded | sort -k2 -n
  miku-probe profile --service bot=port:8000 --output bot.pb.gz && go tool pprof -top bot.pb.gz

The process is never stopped and nothing is loaded into the kernel. Stacks are Python's alone.";

/// Watches AI chat bots from outside: request latency and network activity by eBPF, without touching the bot.
#[derive(Clone, Debug, Parser)]
#[command(name = "miku-probe", version, about, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Say more on standard error; twice for even more
    #[arg(short, long, global = true, help_heading = GENERAL, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say less on standard error; twice for errors only
    #[arg(short, long, global = true, help_heading = GENERAL, action = ArgAction::Count)]
    pub quiet: u8,
    /// Use no colour; so does a NO_COLOR in the environment
    #[arg(long, global = true, help_heading = GENERAL)]
    pub no_color: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Export metrics for Prometheus, and health
    #[command(after_help = format!("{SERVICES}\n\n{RUN_EXAMPLES}\n\n{EXIT_CODES}"))]
    Run(RunArgs),
    /// Show a live histogram of request latency, of how long people wait for replies, or of language models
    #[command(after_help = format!("{SERVICES}\n\n{HIST_EXAMPLES}\n\n{EXIT_CODES}"))]
    Hist(HistArgs),
    /// Tell of event loops that do not turn, while they do not: for how long, where in the program, and why
    #[command(after_help = format!("{SERVICES}\n\n{STALLS_EXAMPLES}\n\n{EXIT_CODES}"))]
    Stalls(StallsArgs),
    /// Tell where Python spends its time: folded stacks, a flame graph, or a profile for pprof
    #[command(after_help = format!("{SERVICES}\n\n{PROFILE_EXAMPLES}\n\n{EXIT_CODES}"))]
    Profile(ProfileArgs),
    /// List the processes that would be watched, and why others would not
    #[command(after_help = format!("{SERVICES}\n\n{EXIT_CODES}"))]
    Ps(PsArgs),
    /// Check that this machine can be probed; what cannot comes with its remedy
    #[command(after_help = EXIT_CODES)]
    Check(CheckArgs),
    /// Print what the NVIDIA driver tells of the GPUs now, as metrics; it needs no privileges
    #[command(after_help = EXIT_CODES)]
    Gpu(GpuLookArgs),
    /// List every metric that `run` can export: name, labels, type and help
    #[command(after_help = EXIT_CODES)]
    Metrics(MetricsArgs),
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// The flag that names the configuration file.
#[derive(Clone, Debug, Default, Args)]
pub struct FileArgs {
    /// Read this TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Flags of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Watch the processes that a selector finds as service NAME; repeat it for more services, or for more selectors
    /// of one
    #[arg(long = "service", value_name = "[NAME=]KIND:VALUE")]
    pub services: Vec<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub file: FileArgs,
    /// Serve metrics and health on this address; repeatable [default: 127.0.0.1:10039]
    #[arg(long = "web.listen-address", value_name = "ADDRESS:PORT")]
    pub listen_addresses: Vec<String>,
    /// Serve metrics under this path [default: /metrics]
    #[arg(long = "web.telemetry-path", value_name = "PATH")]
    pub telemetry_path: Option<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub limits: LimitArgs,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub gpu: GpuArgs,
    /// Tell turns and stalls of event loops; `off` leaves every system call of the machine on the kernel's faster way in
    /// [default: on]
    #[arg(long, value_name = "WHETHER")]
    pub event_loops: Option<Choice>,
    /// Let the kernel time the BPF programs, for miku_probe_bpf_run_seconds_total; it makes them slightly slower
    #[arg(long)]
    pub bpf_stats: bool,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// It is
    On,
    /// It is not
    Off,
}

/// Flags about GPUs.
#[derive(Clone, Debug, Default, Args)]
pub struct GpuArgs {
    /// Ask NVIDIA GPUs this often: seconds, or a number with a unit, as in `500ms`; `off` leaves them alone [default: 1]
    #[arg(id = "gpu.interval", long = "gpu-interval", value_name = "TIME")]
    pub interval: Option<String>,
    /// The NVIDIA driver's library (NVML), where the loader does not find it [default: libnvidia-ml.so.1]
    #[arg(id = "gpu.library", long = "gpu-library", value_name = "FILE")]
    pub library: Option<PathBuf>,
}

/// Flags that bound memory and labels.
#[derive(Clone, Debug, Default, Args)]
pub struct LimitArgs {
    /// Route templates a service may have as label values; the rest is `other` [default: 100]
    #[arg(id = "limit.routes", long = "limit.routes", value_name = "COUNT")]
    pub routes: Option<u64>,
    /// Peers and server names that may be label values; the rest is `other` [default: 100]
    #[arg(id = "limit.peers", long = "limit.peers", value_name = "COUNT")]
    pub peers: Option<u64>,
    /// Connections followed at once [default: 32768]
    #[arg(id = "limit.connections", long = "limit.connections", value_name = "COUNT")]
    pub connections: Option<u64>,
    /// Size of the ring buffer between kernel and probe, a power of two [default: 4194304]
    #[arg(id = "limit.ring-bytes", long = "limit.ring-bytes", value_name = "BYTES")]
    pub ring_bytes: Option<u64>,
}

/// Which end of an exchange to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SideArg {
    /// Requests the service answers
    Server,
    /// Requests the service makes
    Client,
}

impl From<SideArg> for Side {
    fn from(side: SideArg) -> Self {
        match side {
            SideArg::Server => Self::Server,
            SideArg::Client => Self::Client,
        }
    }
}

/// Flags of `hist`.
#[derive(Clone, Debug, Default, Args)]
pub struct HistArgs {
    /// With a selector: watch what it finds, as in `run`. A plain NAME instead: show only that service; repeatable
    #[arg(long = "service", value_name = "[NAME=]KIND:VALUE|NAME")]
    pub services: Vec<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub file: FileArgs,
    /// Show how long people wait for the bot's replies on Discord, and where that time goes, instead of requests
    #[arg(long, conflicts_with_all = ["side", "routes"])]
    pub reply: bool,
    /// Show how fast language models answer, first token and tokens after it, instead of requests
    #[arg(long, conflicts_with_all = ["reply", "routes"])]
    pub llm: bool,
    /// Show only requests of this side
    #[arg(long)]
    pub side: Option<SideArg>,
    /// Show only routes that match; `*` stands for any characters; repeatable
    #[arg(long = "route", value_name = "GLOB")]
    pub routes: Vec<String>,
    /// Time between two pictures: seconds, or a number with a unit, as in `500ms` [default: 1]
    #[arg(long, value_name = "TIME")]
    pub interval: Option<String>,
    /// Stop after this many intervals
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Print one JSON object an interval
    #[arg(long)]
    pub json: bool,
    /// Draw with ASCII characters only
    #[arg(long)]
    pub ascii: bool,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub limits: LimitArgs,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// Flags of `stalls`.
#[derive(Clone, Debug, Default, Args)]
pub struct StallsArgs {
    /// Watch the processes that a selector finds, as in `run`; repeatable
    #[arg(long = "service", value_name = "[NAME=]KIND:VALUE")]
    pub services: Vec<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub file: FileArgs,
    /// Print the whole stack of each stall
    #[arg(long)]
    pub stack: bool,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormArg {
    /// A line for each stack, with its count
    Folded,
    /// A flame graph
    Svg,
    /// The gzipped protocol buffer of pprof
    Pprof,
}

/// Flags of `profile`.
#[derive(Clone, Debug, Default, Args)]
pub struct ProfileArgs {
    /// Look at the processes that a selector finds, as in `run`; repeatable
    #[arg(long = "service", value_name = "[NAME=]KIND:VALUE")]
    pub services: Vec<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub file: FileArgs,
    /// Look for so long [default: 10]
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// Look so often a second [default: 99, which keeps out of step with what happens each 10 ms]
    #[arg(long, value_name = "HZ")]
    pub rate: Option<u32>,
    /// Write this [default: what the file's name ends in: `.svg`, `.pb.gz`; else folded]
    #[arg(long)]
    pub format: Option<FormArg>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Count threads that wait, too
    #[arg(long)]
    pub idle: bool,
}

/// Flags of `ps`.
#[derive(Clone, Debug, Default, Args)]
pub struct PsArgs {
    /// Look for the processes of this service, as `run` would; repeatable
    #[arg(long = "service", value_name = "[NAME=]KIND:VALUE")]
    pub services: Vec<String>,
    #[allow(missing_docs, reason = "documented on the type; a text here would show as help")]
    #[command(flatten)]
    pub file: FileArgs,
    /// Tell how much memory each has: resident, and its part of what it shares (PSS), which takes the kernel milliseconds
    #[arg(long)]
    pub pss: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// The NVIDIA driver's library (NVML), where the loader does not find it [default: libnvidia-ml.so.1]
    #[arg(long, value_name = "FILE")]
    pub gpu_library: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `gpu`.
#[derive(Clone, Debug, Default, Args)]
pub struct GpuLookArgs {
    /// The NVIDIA driver's library (NVML), where the loader does not find it [default: libnvidia-ml.so.1]
    #[arg(long, value_name = "FILE")]
    pub gpu_library: Option<PathBuf>,
}

/// Flags of `metrics`.
#[derive(Clone, Debug, Default, Args)]
pub struct MetricsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_s_help_tells_of_exit_codes_and_documents_every_flag() {
        for command in Cli::command().get_subcommands_mut() {
            if matches!(command.get_name(), "completions" | "man") {
                continue;
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes:"), "{help}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {argument}", command.get_name());
            }
        }
    }
}
