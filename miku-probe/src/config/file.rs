//! The configuration file.
//!
//! ```toml
//! [web]
//! listen_addresses = ["127.0.0.1:10039"]   # where metrics and health are served
//! telemetry_path = "/metrics"
//!
//! [limits]                                 # what bounds memory and labels
//! routes = 100                             # route templates of a service; the rest is `other`
//! peers = 100                              # peers and server names; the rest is `other`
//! connections = 32768                      # connections followed at once
//! ring_bytes = 4194304                     # the ring buffer; a power of two
//!
//! [process]
//! interval_seconds = 5                     # how often it is looked at what the processes use
//!
//! [health]                                 # from when on /healthz is 503
//! loop_stall_seconds = 5                   # one turn of the event loop has taken more
//! llm_failures = 3                         # so many calls of a language model failed one after another
//! memory_ratio = 0.9                       # more of the control group's memory, or the machine's, is used
//! memory_growth_mib_per_hour = 100         # memory grows faster
//! descriptors_ratio = 0.9                  # more of the descriptors that there may be are open
//! gpu_memory_ratio = 0.98                  # more of a GPU's memory is used
//!
//! [gpu]                                    # NVIDIA GPUs
//! interval = "1s"                          # how often they are asked; "off" leaves them alone
//! library = "/opt/nvidia/libnvidia-ml.so.1"  # the driver's library, where the loader does not find it
//!
//! [event_loops]
//! watch = true                             # `false`: no turns and stalls, and nothing hooked for them
//!
//! [[service]]                              # any number of them; the first that matches a process wins
//! name = "bot"
//! cmdline = 'bot\.py'                      # a selector: pid, comm, cmdline, exe, port or container,
//! port = [8000, 8001]                      # each one value or a list; a process that meets any of them belongs
//! exec = "any"                             # cmdline matches shells, wrappers, editors and pagers too
//! routes = ["/users/{id}"]                 # route patterns; the first that matches wins
//! required = true                          # /readyz is 200 only while a process of it is watched
//! ```
//!
//! Every key may be left out but a service's `name` and at least one selector. A key that is not known is an error.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use crate::config::ConfigError;
use crate::config::services::{checked_name, similar};
use crate::discovery::selectors::{Kind, Selector, ServiceSpec};

/// What a file says, its services checked, the rest for the flags to win over first.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// `web.listen_addresses`.
    pub listen_addresses: Option<Vec<String>>,
    /// `web.telemetry_path`.
    pub telemetry_path: Option<String>,
    /// `[limits]`.
    pub limits: LimitKeys,
    /// `[process]`.
    pub process: ProcessKeys,
    /// `[health]`.
    pub health: HealthKeys,
    /// `[gpu]`.
    pub gpu: GpuKeys,
    /// `[event_loops]`.
    pub event_loops: EventLoopKeys,
    /// `[[service]]`.
    pub services: Vec<ServiceSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    web: WebKeys,
    limits: LimitKeys,
    process: ProcessKeys,
    health: HealthKeys,
    gpu: GpuKeys,
    event_loops: EventLoopKeys,
    service: Vec<ServiceKeys>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WebKeys {
    listen_addresses: Option<Vec<String>>,
    telemetry_path: Option<String>,
}

/// The keys of `[limits]`, not checked yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitKeys {
    /// Route templates of one service.
    pub routes: Option<u64>,
    /// Peers and server names.
    pub peers: Option<u64>,
    /// Connections followed at once.
    pub connections: Option<u64>,
    /// Bytes of the ring buffer.
    pub ring_bytes: Option<u64>,
}

/// The keys of `[process]`, not checked yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessKeys {
    /// Seconds from one look at the processes to the next.
    pub interval_seconds: Option<u64>,
}

/// The keys of `[health]`, not checked yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthKeys {
    /// Seconds that a turn of the event loop may take.
    pub loop_stall_seconds: Option<f64>,
    /// Calls of a language model that fail one after another.
    pub llm_failures: Option<u64>,
    /// Share of the memory that there is.
    pub memory_ratio: Option<f64>,
    /// MiB that memory may grow in an hour.
    pub memory_growth_mib_per_hour: Option<f64>,
    /// Share of the descriptors that there may be.
    pub descriptors_ratio: Option<f64>,
    /// Share of a GPU's memory.
    pub gpu_memory_ratio: Option<f64>,
}

/// The keys of `[event_loops]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventLoopKeys {
    /// Whether their turns are told.
    pub watch: Option<bool>,
}

/// The keys of `[gpu]`, not checked yet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuKeys {
    /// How often GPUs are asked.
    pub interval: Option<String>,
    /// The driver's library.
    pub library: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceKeys {
    name: String,
    #[serde(default)]
    pid: Values,
    #[serde(default)]
    comm: Values,
    #[serde(default)]
    cmdline: Values,
    #[serde(default)]
    exe: Values,
    #[serde(default)]
    port: Values,
    #[serde(default)]
    container: Values,
    #[serde(default)]
    exec: Values,
    #[serde(default)]
    routes: Vec<String>,
    #[serde(default)]
    required: bool,
}

/// One text or number, or a list of them.
#[derive(Debug, Default)]
struct Values(Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Values;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, a whole number, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Values, E> {
                Ok(Values(vec![text.to_owned()]))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Values, E> {
                Ok(Values(vec![number.to_string()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
                let mut values = Vec::new();
                while let Some(Values(mut more)) = list.next_element()? {
                    values.append(&mut more);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl File {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or anything in it makes no sense.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let document: Document = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            message: explained(error.message()),
        })?;
        let mut names = HashSet::new();
        let mut services = Vec::new();
        for keys in document.service {
            let place = format!("{}: service `{}`", path.display(), keys.name);
            let service = service(&place, keys)?;
            if !names.insert(service.name.clone()) {
                return Err(ConfigError::value(place, "the name is used twice; put the selectors of both into one"));
            }
            services.push(service);
        }
        Ok(Self {
            listen_addresses: document.web.listen_addresses,
            telemetry_path: document.web.telemetry_path,
            limits: document.limits,
            process: document.process,
            health: document.health,
            gpu: document.gpu,
            event_loops: document.event_loops,
            services,
        })
    }
}

fn service(place: &str, keys: ServiceKeys) -> Result<ServiceSpec, ConfigError> {
    let name = checked_name(place, &keys.name)?;
    let mut selectors = Vec::new();
    for (kind, Values(values)) in [
        (Kind::Pid, keys.pid),
        (Kind::Comm, keys.comm),
        (Kind::Cmdline, keys.cmdline),
        (Kind::Exe, keys.exe),
        (Kind::Port, keys.port),
        (Kind::Container, keys.container),
        (Kind::Exec, keys.exec),
    ] {
        for value in values {
            let selector = Selector::parse(kind, &value);
            selectors.push(selector.map_err(|source| ConfigError::Selector { place: place.to_owned(), source })?);
        }
    }
    if selectors.is_empty() {
        let kinds: Vec<&str> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Exec).map(Kind::as_str).collect();
        let kinds = kinds.join(", ");
        return Err(ConfigError::value(place, format!("it has no selector; give it at least one of {kinds}")));
    }
    if let Some(route) = keys.routes.iter().find(|route| !route.starts_with('/')) {
        return Err(ConfigError::value(
            place,
            format!("the route `{route}` does not begin with `/`, as in `/users/{{id}}`"),
        ));
    }
    Ok(ServiceSpec { name, selectors, routes: keys.routes, required: keys.required })
}

/// The parser's message in one line, with the key that was probably meant.
fn explained(message: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    // serde's wording: unknown field `a`, expected one of `b`, `c`
    let mut quoted = message.split('`').skip(1).step_by(2);
    match (message.strip_prefix("unknown field "), quoted.next()) {
        (Some(_), Some(unknown)) => {
            let known: Vec<&str> = quoted.collect();
            format!("unknown key `{unknown}`{}; keys here are {}", similar(unknown, &known), known.join(", "))
        }
        _ => message,
    }
}
