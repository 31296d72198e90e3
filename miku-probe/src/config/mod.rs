//! The validated configuration: made once, of the command line and perhaps a file, and right from then on.
//!
//! Flags win over the file. A service that both name has the flags' selectors, and keeps the file's routes.

pub mod file;
pub mod services;

use std::collections::BTreeSet;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap_complete::Shell;
use glob::Pattern;

use crate::cli::{self, Cli, LimitArgs, SideArg};
use crate::config::file::File;
use crate::config::services::ServiceFlag;
use crate::discovery::selectors::{GLOB_OPTIONS, SelectorError, ServiceSpec};
use crate::units::Side;

/// Where metrics are served when nobody says otherwise.
pub const DEFAULT_LISTEN_ADDRESS: &str = "127.0.0.1:10039";

/// The path of the metrics when nobody says otherwise.
pub const DEFAULT_TELEMETRY_PATH: &str = "/metrics";

/// Paths that the health endpoints have, which so cannot be the metrics' own.
const RESERVED_PATHS: [&str; 6] = ["/", "/livez", "/readyz", "/healthz", "/-/healthy", "/-/ready"];

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
    /// List processes.
    Ps(PsConfig),
    /// Check the machine.
    Check(CheckConfig),
    /// Print a completion script.
    Completions(Shell),
    /// Print the manual page.
    Man,
}

/// What bounds memory and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Route templates of one service.
    pub routes: usize,
    /// Peers and server names.
    pub peers: usize,
    /// Connections followed at once.
    pub connections: u32,
    /// Bytes of the ring buffer: a power of two, and at least a page.
    pub ring_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { routes: 100, peers: 100, connections: 32_768, ring_bytes: 4 << 20 }
    }
}

/// What `run` needs.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// The services; none means to choose.
    pub services: Vec<ServiceSpec>,
    /// Where to serve, each once.
    pub listen_addresses: Vec<SocketAddr>,
    /// The path of the metrics; it begins with a slash.
    pub telemetry_path: String,
    /// What bounds memory and labels.
    pub limits: Limits,
    /// Whether the kernel shall time the BPF programs.
    pub bpf_stats: bool,
}

/// What `hist` needs.
#[derive(Clone, Debug)]
pub struct HistConfig {
    /// The services; none means to choose.
    pub services: Vec<ServiceSpec>,
    /// What bounds memory and labels.
    pub limits: Limits,
    /// What to show.
    pub filter: Filter,
    /// Time between two pictures.
    pub interval: Duration,
    /// How many intervals; none means until it is interrupted.
    pub count: Option<u64>,
    /// Whether to print JSON.
    pub json: bool,
    /// Whether colour is allowed. Whether the output takes any is for the one who writes it to see.
    pub color: bool,
    /// Whether to draw with ASCII only.
    pub ascii: bool,
}

/// Which exchanges `hist` shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Services by name; empty means all.
    pub services: BTreeSet<String>,
    /// One side, or both.
    pub side: Option<Side>,
    /// Route patterns; empty means all.
    pub routes: Vec<Pattern>,
}

impl Filter {
    /// Whether an exchange of this service, side and route is shown.
    #[must_use]
    pub fn shows(&self, service: &str, side: Side, route: &str) -> bool {
        (self.services.is_empty() || self.services.contains(service))
            && self.side.is_none_or(|wanted| wanted == side)
            && (self.routes.is_empty() || self.routes.iter().any(|pattern| pattern.matches_with(route, GLOB_OPTIONS)))
    }
}

/// What `ps` needs.
#[derive(Clone, Debug)]
pub struct PsConfig {
    /// The services; none means to choose.
    pub services: Vec<ServiceSpec>,
    /// Whether to print JSON.
    pub json: bool,
}

/// What `check` needs.
#[derive(Clone, Copy, Debug)]
pub struct CheckConfig {
    /// Whether to print JSON.
    pub json: bool,
    /// Whether colour is allowed.
    pub color: bool,
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
                Command::Ps(PsConfig { services, json: arguments.json })
            }
            cli::Command::Check(arguments) => Command::Check(CheckConfig { json: arguments.json, color }),
            cli::Command::Completions { shell } => Command::Completions(shell),
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
    Ok(RunConfig {
        services: services::merge(selections(&arguments.services)?, file.services)?,
        listen_addresses: listen_addresses(place, &addresses)?,
        telemetry_path: telemetry_path(path_place, path)?,
        limits: limits(&arguments.limits, &file.limits)?,
        bpf_stats: arguments.bpf_stats,
    })
}

fn hist(arguments: &cli::HistArgs, color: bool) -> Result<HistConfig, ConfigError> {
    const INTERVAL: std::ops::RangeInclusive<f64> = 0.1..=3600.0;
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
    let interval = arguments.interval.unwrap_or(1.0);
    if !INTERVAL.contains(&interval) {
        return Err(ConfigError::value(
            "--interval",
            format!("`{interval}` is out of range; write 0.1 to 3600 seconds"),
        ));
    }
    if arguments.count == Some(0) {
        return Err(ConfigError::value("--count", "0 intervals show nothing; write 1 or more"));
    }
    let routes = arguments.routes.iter().map(|route| {
        Pattern::new(route).map_err(|error| {
            ConfigError::value("--route", format!("the pattern `{route}` does not compile: {}", error.msg))
        })
    });
    Ok(HistConfig {
        services,
        limits: limits(&arguments.limits, &file.limits)?,
        filter: Filter {
            services: names,
            side: arguments.side.map(|side| match side {
                SideArg::Server => Side::Server,
                SideArg::Client => Side::Client,
            }),
            routes: routes.collect::<Result<_, _>>()?,
        },
        interval: Duration::from_secs_f64(interval),
        count: arguments.count,
        json: arguments.json,
        color,
        ascii: arguments.ascii,
    })
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

fn listen_addresses(place: &str, texts: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut addresses = Vec::new();
    for text in texts {
        // `:9100` is how Prometheus exporters write all addresses.
        let full = if text.starts_with(':') { format!("[::]{text}") } else { text.clone() };
        let Some(address) = full.to_socket_addrs().ok().and_then(|mut found| found.next()) else {
            let message = format!(
                "`{text}` is not an address to listen on; write ADDRESS:PORT, as in `{DEFAULT_LISTEN_ADDRESS}`"
            );
            return Err(ConfigError::value(place, message));
        };
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

fn telemetry_path(place: &str, path: String) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(plain) {
        return Err(ConfigError::value(
            place,
            format!("`{path}` is not a path; write one that begins with `/`, as in `/metrics`"),
        ));
    }
    if RESERVED_PATHS.contains(&path.as_str()) {
        return Err(ConfigError::value(place, format!("`{path}` is taken; choose another, as in `/metrics`")));
    }
    Ok(path)
}

fn limits(flags: &LimitArgs, file: &file::LimitKeys) -> Result<Limits, ConfigError> {
    let usual = Limits::default();
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
    let routes = pick("routes", flags.routes, file.routes, usual.routes as u64, 1..=10_000)?;
    let peers = pick("peers", flags.peers, file.peers, usual.peers as u64, 1..=10_000)?;
    let connections = pick("connections", flags.connections, file.connections, usual.connections.into(), 64..=1 << 20)?;
    let ring_bytes = pick("ring-bytes", flags.ring_bytes, file.ring_bytes, usual.ring_bytes.into(), 65_536..=1 << 30)?;
    Ok(Limits {
        routes: usize::try_from(routes).expect("its range is small"),
        peers: usize::try_from(peers).expect("its range is small"),
        connections: u32::try_from(connections).expect("its range is small"),
        ring_bytes: u32::try_from(ring_bytes).expect("its range is small"),
    })
}

#[cfg(test)]
mod tests;
