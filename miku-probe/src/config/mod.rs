//! The validated configuration: made once, of the command line and perhaps a file, and right from then on.
//!
//! Flags win over the file. A service that both name has the flags' selectors, and keeps the file's routes.

pub mod file;
mod health;
pub mod services;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::Shell;

use crate::cli::{self, Cli, LimitArgs};
use crate::config::file::File;
use crate::config::services::ServiceFlag;
use crate::discovery::selectors::{SelectorError, ServiceSpec};
use crate::pipeline::Caps;
use crate::probes::Sizes;
use crate::samplers::gpu;
use crate::samplers::profile;
use crate::sinks::health::Thresholds;
use crate::sinks::hist::{ColorChoice, Filter, Format, Glyphs, Interval, IntervalError, Options, Pattern, Subject};
use crate::sinks::profile::Form;
use crate::sinks::web::{DEFAULT_LISTEN_ADDRESS, DEFAULT_TELEMETRY_PATH, ListenAddress, TelemetryPath, WebError};
use crate::units::Side;
use crate::watch::Settings;

/// The most services; each is a label value.
pub const SERVICES_MAX: usize = 256;

/// What is wrong with the command line or the file, in one line: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it has to be.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A service is not what it has to be.
    #[error("{place}: {source}")]
    Selector {
        /// The flag, or the service in the file.
        place: String,
        /// What is wrong.
        source: SelectorError,
    },
    /// Anything else: where, and what is wrong.
    #[error("{place}: {message}")]
    Value {
        /// The flag, or the key of the file.
        place: String,
        /// What is wrong and what to do.
        message: String,
    },
}

impl ConfigError {
    pub(crate) fn value(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Value { place: place.into(), message: message.into() }
    }
}

/// What the program is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// How much to say on standard error.
    pub verbosity: log::LevelFilter,
    /// The command.
    pub command: Command,
}

/// The command, with all that it needs.
#[derive(Clone, Debug)]
pub enum Command {
    /// Export metrics.
    Run(RunConfig),
    /// Show the histogram.
    Hist(HistConfig),
    /// Tell of loops that do not turn.
    Stalls(StallsConfig),
    /// Tell where the time goes.
    Profile(ProfileConfig),
    /// List processes.
    Ps(PsConfig),
    /// Check the machine.
    Check(CheckConfig),
    /// Print what GPUs tell.
    Gpu(GpuConfig),
    /// Print the catalogue of metrics.
    Metrics {
        /// As JSON.
        json: bool,
    },
    /// Print a completion script.
    Completions(Shell),
    /// Print the manual page.
    Man,
}

/// What `run` needs.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// What to watch.
    pub settings: Settings,
    /// Where to serve, each once.
    pub listen_addresses: Vec<ListenAddress>,
    /// The path of the metrics.
    pub telemetry_path: TelemetryPath,
    /// From when on something is ill.
    pub thresholds: Thresholds,
    /// Whether the kernel shall time the BPF programs.
    pub bpf_stats: bool,
}

/// What `hist` needs.
#[derive(Clone, Debug)]
pub struct HistConfig {
    /// What to watch.
    pub settings: Settings,
    /// What to show, and how.
    pub options: Options,
}

/// What `stalls` needs.
#[derive(Clone, Debug)]
pub struct StallsConfig {
    /// What to watch.
    pub settings: Settings,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether to print stacks.
    pub stack: bool,
}

/// What `profile` needs.
#[derive(Clone, Debug)]
pub struct ProfileConfig {
    /// The services; none means to choose.
    pub services: Vec<ServiceSpec>,
    /// For how long, and how often.
    pub settings: profile::Settings,
    /// How it is written.
    pub form: Form,
    /// Where it is written; none is standard output.
    pub output: Option<PathBuf>,
}

/// What `ps` needs.
#[derive(Clone, Debug)]
pub struct PsConfig {
    /// The services; none means to choose.
    pub services: Vec<ServiceSpec>,
    /// Whether to tell of memory.
    pub pss: bool,
    /// Whether to print JSON.
    pub json: bool,
}

/// What `check` needs.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// The GPU driver's library, where it is not where the loader finds it.
    pub gpu_library: Option<PathBuf>,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether colour is allowed.
    pub color: bool,
}

/// What `gpu` needs.
#[derive(Clone, Debug)]
pub struct GpuConfig {
    /// The GPU driver's library, where it is not where the loader finds it.
    pub library: Option<PathBuf>,
}

impl Config {
    /// Makes sense of `cli`. `no_color` is the value of `NO_COLOR` in the environment, which counts unless it is empty
    /// (<https://no-color.org>).
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn new(cli: Cli, no_color: Option<&str>) -> Result<Self, ConfigError> {
        let color = !cli.no_color && no_color.is_none_or(str::is_empty);
        let command = match cli.command {
            cli::Command::Run(arguments) => Command::Run(run(arguments)?),
            cli::Command::Hist(arguments) => Command::Hist(hist(&arguments, color)?),
            cli::Command::Ps(arguments) => {
                let file = read(arguments.file.config.as_deref())?;
                let services = services::merge(selections(&arguments.services)?, file.services)?;
                Command::Ps(PsConfig { services, pss: arguments.pss, json: arguments.json })
            }
            cli::Command::Check(arguments) => {
                Command::Check(CheckConfig { gpu_library: arguments.gpu_library, json: arguments.json, color })
            }
            cli::Command::Gpu(arguments) => Command::Gpu(GpuConfig { library: arguments.gpu_library }),
            cli::Command::Stalls(arguments) => Command::Stalls(stalls(&arguments)?),
            cli::Command::Profile(arguments) => Command::Profile(profile(arguments)?),
            cli::Command::Completions { shell } => Command::Completions(shell),
            cli::Command::Metrics(arguments) => Command::Metrics { json: arguments.json },
            cli::Command::Man => Command::Man,
        };
        Ok(Self { verbosity: verbosity(cli.verbose, cli.quiet), command })
    }
}

fn verbosity(verbose: u8, quiet: u8) -> log::LevelFilter {
    match (verbose, quiet) {
        (0, 0) => log::LevelFilter::Info,
        (0, 1) => log::LevelFilter::Warn,
        (0, _) => log::LevelFilter::Error,
        (1, _) => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    }
}

fn read(path: Option<&Path>) -> Result<File, ConfigError> {
    path.map_or_else(|| Ok(File::default()), File::read)
}

fn run(arguments: cli::RunArgs) -> Result<RunConfig, ConfigError> {
    let file = read(arguments.file.config.as_deref())?;
    let (place, addresses) = if !arguments.listen_addresses.is_empty() {
        ("--web.listen-address", arguments.listen_addresses)
    } else if let Some(addresses) = file.listen_addresses {
        ("web.listen_addresses", addresses)
    } else {
        ("--web.listen-address", vec![DEFAULT_LISTEN_ADDRESS.to_owned()])
    };
    let (path_place, path) = match (arguments.telemetry_path, file.telemetry_path) {
        (Some(path), _) => ("--web.telemetry-path", path),
        (None, Some(path)) => ("web.telemetry_path", path),
        (None, None) => ("--web.telemetry-path", DEFAULT_TELEMETRY_PATH.to_owned()),
    };
    let (sizes, caps) = limits(&arguments.limits, &file.limits)?;
    let services = services::merge(selections(&arguments.services)?, file.services)?;
    let interval = health::interval(&file.process)?;
    Ok(RunConfig {
        settings: Settings {
            services,
            sizes,
            caps,
            process_interval: Some(interval),
            gpu: gpu_settings(&arguments.gpu, file.gpu)?,
            event_loops: event_loops(arguments.event_loops, &file.event_loops),
        },
        thresholds: health::thresholds(&file.health, interval)?,
        listen_addresses: listen_addresses(place, &addresses)?,
        telemetry_path: path.parse().map_err(|error: WebError| ConfigError::value(path_place, error.to_string()))?,
        bpf_stats: arguments.bpf_stats,
    })
}

fn hist(arguments: &cli::HistArgs, color: bool) -> Result<HistConfig, ConfigError> {
    let file = read(arguments.file.config.as_deref())?;
    let mut selected = Vec::new();
    let mut names = BTreeSet::new();
    for text in &arguments.services {
        match ServiceFlag::parse(text)? {
            ServiceFlag::Selection(selection) => selected.push(selection),
            ServiceFlag::Name(name) => {
                names.insert(name);
            }
        }
    }
    let services = services::merge(selected, file.services)?;
    let known: Vec<&str> = services.iter().map(|spec| spec.name.as_str()).collect();
    // When the probe chooses, nobody knows yet which names there will be.
    if let Some(unknown) = names.iter().find(|name| !known.is_empty() && !known.contains(&name.as_str())) {
        let message = format!(
            "no service has the name `{unknown}`; there {}",
            match &known[..] {
                [one] => format!("is only `{one}`"),
                known => format!("are `{}`", known.join("`, `")),
            }
        );
        return Err(ConfigError::value("--service", message));
    }
    let interval = match &arguments.interval {
        Some(text) => text.parse().map_err(|error: IntervalError| {
            ConfigError::value("--interval", format!("`{text}` is no interval: {error}"))
        })?,
        None => Interval::default(),
    };
    let count = match arguments.count.map(NonZero::new) {
        Some(None) => return Err(ConfigError::value("--count", "0 intervals show nothing; write 1 or more")),
        Some(count) => count,
        None => None,
    };
    let pattern = |place: &'static str, text: &String| {
        text.parse::<Pattern>().map_err(|error| ConfigError::value(place, format!("`{text}`: {error}")))
    };
    let filter = Filter {
        services: names.iter().map(|name| pattern("--service", name)).collect::<Result<_, _>>()?,
        sides: arguments.side.map(Side::from).into_iter().collect(),
        routes: arguments.routes.iter().map(|route| pattern("--route", route)).collect::<Result<_, _>>()?,
    };
    let (sizes, caps) = limits(&arguments.limits, &file.limits)?;
    // What is put down to a reply is known by the turns that did it; the other panels need none.
    let event_loops = arguments.reply;
    let gpu = gpu_settings(&arguments.gpu, file.gpu)?.filter(|_| arguments.llm);
    Ok(HistConfig {
        settings: Settings { services, sizes, caps, process_interval: None, gpu, event_loops },
        options: Options {
            interval,
            count,
            format: if arguments.json { Format::Json } else { Format::Text },
            color: if color { ColorChoice::Auto } else { ColorChoice::Never },
            glyphs: if arguments.ascii { Glyphs::Ascii } else { Glyphs::Unicode },
            subject: match (arguments.reply, arguments.llm) {
                (true, _) => Subject::Replies,
                (_, true) => Subject::Calls,
                _ => Subject::Exchanges,
            },
            filter,
        },
    })
}

fn stalls(arguments: &cli::StallsArgs) -> Result<StallsConfig, ConfigError> {
    let file = read(arguments.file.config.as_deref())?;
    let (sizes, caps) = limits(&arguments.limits, &file.limits)?;
    let services = services::merge(selections(&arguments.services)?, file.services)?;
    Ok(StallsConfig {
        settings: Settings { services, sizes, caps, process_interval: None, gpu: None, event_loops: true },
        json: arguments.json,
        stack: arguments.stack,
    })
}

/// The usual length and rate of a profile, and the most of each.
const PROFILE_SECONDS: u64 = 10;
const PROFILE_SECONDS_MAX: u64 = 86_400;
const PROFILE_RATE: u32 = 99;
const PROFILE_RATE_MAX: u32 = 1_000;

fn profile(arguments: cli::ProfileArgs) -> Result<ProfileConfig, ConfigError> {
    let file = read(arguments.file.config.as_deref())?;
    let services = services::merge(selections(&arguments.services)?, file.services)?;
    let seconds = arguments.seconds.unwrap_or(PROFILE_SECONDS);
    if !(1..=PROFILE_SECONDS_MAX).contains(&seconds) {
        let message = format!("{seconds} is out of range; write 1 to {PROFILE_SECONDS_MAX}");
        return Err(ConfigError::value("--seconds", message));
    }
    let rate = arguments.rate.unwrap_or(PROFILE_RATE);
    let Some(rate) = NonZero::new(rate).filter(|rate| rate.get() <= PROFILE_RATE_MAX) else {
        return Err(ConfigError::value("--rate", format!("{rate} is out of range; write 1 to {PROFILE_RATE_MAX}")));
    };
    let name = arguments.output.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("");
    let form = match arguments.format {
        Some(cli::FormArg::Folded) => Form::Folded,
        Some(cli::FormArg::Svg) => Form::Svg,
        Some(cli::FormArg::Pprof) => Form::Pprof,
        None if name.ends_with(".svg") => Form::Svg,
        None if [".pb.gz", ".pprof"].iter().any(|end| name.ends_with(end)) => Form::Pprof,
        None => Form::Folded,
    };
    let settings = profile::Settings { time: Duration::from_secs(seconds), rate, idle: arguments.idle };
    Ok(ProfileConfig { services, settings, form, output: arguments.output })
}

/// The selections of a command that filters nothing.
fn selections(flags: &[String]) -> Result<Vec<services::Selection>, ConfigError> {
    let mut selections = Vec::new();
    for text in flags {
        match ServiceFlag::parse(text)? {
            ServiceFlag::Selection(selection) => selections.push(selection),
            ServiceFlag::Name(name) => {
                let message = format!("`{name}` has no selector; write NAME=KIND:VALUE, as in `{name}=cmdline:{name}`");
                return Err(ConfigError::value("--service", message));
            }
        }
    }
    Ok(selections)
}

fn listen_addresses(place: &str, texts: &[String]) -> Result<Vec<ListenAddress>, ConfigError> {
    let mut addresses = Vec::new();
    for text in texts {
        let address = text.parse().map_err(|error: WebError| ConfigError::value(place, error.to_string()))?;
        if addresses.contains(&address) {
            return Err(ConfigError::value(place, format!("`{text}` is named twice; leave one out")));
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return Err(ConfigError::value(place, "the list is empty; leave the key out for the default"));
    }
    Ok(addresses)
}

/// How GPUs are asked; `None` when they are to be left alone.
fn gpu_settings(flags: &cli::GpuArgs, file: file::GpuKeys) -> Result<Option<gpu::Settings>, ConfigError> {
    let mut settings = gpu::Settings { library: flags.library.clone().or(file.library), ..gpu::Settings::default() };
    let (place, text) = match (&flags.interval, file.interval) {
        (Some(text), _) => ("--gpu-interval", text.clone()),
        (None, Some(text)) => ("gpu.interval", text),
        (None, None) => return Ok(Some(settings)),
    };
    if text == "off" {
        return Ok(None);
    }
    let interval: Interval = text.parse().map_err(|error: IntervalError| {
        ConfigError::value(place, format!("`{text}` is no interval: {error}; `off` leaves GPUs alone"))
    })?;
    settings.interval = interval.duration();
    Ok(Some(settings))
}

/// Whether turns of event loops are told.
fn event_loops(flag: Option<cli::Choice>, file: &file::EventLoopKeys) -> bool {
    flag.map_or(file.watch.unwrap_or(true), |choice| choice == cli::Choice::On)
}

/// The usual limits.
const ROUTES: u64 = 100;
const PEERS: u64 = 100;
const CONNECTIONS: u64 = 32_768;
const RING_BYTES: u64 = 4 << 20;

fn limits(flags: &LimitArgs, file: &file::LimitKeys) -> Result<(Sizes, Caps), ConfigError> {
    let pick = |name: &str, flag: Option<u64>, key: Option<u64>, usual: u64, range: std::ops::RangeInclusive<u64>| {
        let (place, value) = match (flag, key) {
            (Some(value), _) => (format!("--limit.{name}"), value),
            (None, Some(value)) => (format!("limits.{}", name.replace('-', "_")), value),
            (None, None) => return Ok(usual),
        };
        if !range.contains(&value) {
            let message = format!("{value} is out of range; write {} to {}", range.start(), range.end());
            return Err(ConfigError::value(place, message));
        }
        if name == "ring-bytes" && !value.is_power_of_two() {
            let message = format!("{value} is not a power of two; the next is {}", value.next_power_of_two());
            return Err(ConfigError::value(place, message));
        }
        Ok(value)
    };
    let size = |value: u64| usize::try_from(value).expect("its range is small");
    let routes = size(pick("routes", flags.routes, file.routes, ROUTES, 1..=10_000)?);
    let servers = size(pick("peers", flags.peers, file.peers, PEERS, 1..=10_000)?);
    let connections = pick("connections", flags.connections, file.connections, CONNECTIONS, 64..=1 << 20)?;
    let ring_bytes = pick("ring-bytes", flags.ring_bytes, file.ring_bytes, RING_BYTES, 65_536..=1 << 30)?;
    let narrow = |value: u64| u32::try_from(value).expect("its range is small");
    let sizes = Sizes { ring_bytes: narrow(ring_bytes), connections: narrow(connections) };
    Ok((sizes, Caps { routes, servers, connections: size(connections) }))
}

#[cfg(test)]
mod tests;
