//! The numbers that Prometheus scrapes: [`Metrics`] turns each observation into counters, gauges and histograms.
//!
//! Each observation finds its series by the numbers it carries; label texts are only made when a series is new.
//! Requests and answers carry texts that strangers choose, so the series of [`Metrics`] are capped here once more,
//! whatever caps stand upstream.

mod catalog;
mod discord;
mod event_loop;
mod gpu;
mod keys;
mod limits;
mod llm;
mod net;
mod process;

use std::collections::HashMap;
use std::fs;

use miku_probe_abi::RecordKind;
use prometheus::{Counter, Histogram, IntCounter, IntGauge, Registry};

use self::catalog::{Catalog, Families};
pub use self::catalog::{FAST_BUCKETS, HTTP_BUCKETS, TOKEN_BUCKETS, TOKEN_RATE_BUCKETS};
use self::keys::{ExchangeKey, Failure, Text, TransferKey};
use self::limits::RateLimits;
pub use super::families::{FamilyInfo, FamilyKind};
use super::own_process::{self, OwnProcess};
use crate::observations::{Exchange, HandshakeFailure, LostWhere, Names, Observation, Sink, Unmatched};
use crate::units::{Direction, Nanos, ServiceId, Side, Symbol};

/// How many different combinations of an exchange's labels are told apart before routes become `other`.
///
/// A bot's own routes, statuses and peers are some hundreds; each combination takes about 5 KiB of memory and 6 KiB of
/// an uncompressed scrape.
pub const EXCHANGE_LIMIT: usize = 2_000;

/// How many combinations without a route are told apart beyond [`EXCHANGE_LIMIT`] before all texts become `other`.
const EXCHANGE_RESERVE: usize = 500;

/// How many different combinations of peer, direction and transport are told apart before peers become `other`.
pub const PEER_LIMIT: usize = 1_000;

/// A map of the hot path. Its keys are small numbers and its size is capped, so that a quick hash is enough.
type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What `miku_probe_build_info` tells of the running program.
#[derive(Clone, Debug)]
pub struct BuildInfo {
    /// The version of the package.
    pub version: String,
    /// The revision of the sources, or `unknown`.
    pub revision: String,
    /// The release of the running kernel, or `unknown`.
    pub kernel: String,
}

impl BuildInfo {
    /// Of this program on this kernel. The build sets the revision in the variable `MIKU_PROBE_REVISION`.
    #[must_use]
    pub fn current() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("MIKU_PROBE_REVISION").unwrap_or("unknown").to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned()),
        }
    }
}

/// The Prometheus sink.
///
/// One thread feeds it; any other may gather from its [`registry`](Self::registry) meanwhile.
pub struct Metrics {
    registry: Registry,
    families: Families,
    catalog: Vec<FamilyInfo>,
    exchange_limit: usize,
    exchanges: FastMap<ExchangeKey, ExchangeSeries>,
    transfers: FastMap<TransferKey, IntCounter>,
    handshakes: FastMap<(ServiceId, Text), HandshakeSeries>,
    rate_limits: RateLimits,
    discord: discord::Series,
    processes: process::Series,
    net: net::Series,
    gpu: gpu::Series,
    event_loop: event_loop::Series,
    llm: llm::Series,
    requests: FastMap<(ServiceId, Side), RequestSeries>,
    unmatched: FastMap<(&'static str, Unmatched), IntCounter>,
    overflows: FastMap<&'static str, IntCounter>,
    programs: HashMap<Box<str>, ProgramSeries>,
    lost: [IntCounter; LostWhere::ALL.len()],
    lost_totals: [Total; LostWhere::ALL.len()],
    records: [IntCounter; RecordKind::ALL.len()],
    records_sent: IntCounter,
    delivery: Histogram,
}

impl Metrics {
    /// A sink that has seen nothing. What is counted from the start stands at 0; all else is absent until it is seen.
    ///
    /// # Panics
    /// Never, unless this program's own metric names are invalid or clash.
    #[must_use]
    pub fn new(build: &BuildInfo) -> Self {
        Self::with_exchange_limit(build, EXCHANGE_LIMIT)
    }

    fn with_exchange_limit(build: &BuildInfo, exchange_limit: usize) -> Self {
        let catalog = Catalog::default();
        catalog.register(OwnProcess::new(), own_process::families());
        let families = Families::new(&catalog);
        families.up.get([]).set(1);
        families.build_info.get([&build.version, &build.revision, &build.kernel]).set(1);
        Self {
            exchange_limit,
            exchanges: FastMap::default(),
            transfers: FastMap::default(),
            handshakes: FastMap::default(),
            rate_limits: RateLimits::default(),
            discord: discord::Series::new(&catalog),
            processes: process::Series::new(&catalog),
            net: net::Series::new(&catalog),
            gpu: gpu::Series::new(&catalog),
            event_loop: event_loop::Series::new(&catalog),
            llm: llm::Series::new(&catalog),
            requests: FastMap::default(),
            unmatched: FastMap::default(),
            overflows: FastMap::default(),
            programs: HashMap::new(),
            lost: LostWhere::ALL.map(|at| families.lost.get([at.as_str()])),
            lost_totals: Default::default(),
            records: RecordKind::ALL.map(|kind| families.records.get([record_kind(kind)])),
            records_sent: families.records_sent.get([]),
            delivery: families.delivery.get([]),
            registry: catalog.registry(),
            families,
            catalog: catalog.into_families(),
        }
    }

    /// The registry to gather from; its clones share the metrics. More collectors may be registered in it.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// What each family is that a scrape may show, by name.
    #[must_use]
    pub fn catalog(&self) -> &[FamilyInfo] {
        &self.catalog
    }

    /// Sets how many places of `kind`, such as `tracepoint`, are attached for `service` now.
    ///
    /// Places that serve all services alike have the empty text for a service.
    pub fn set_sites(&self, service: &str, kind: &'static str, count: u32) {
        self.families.sites.get([service, kind]).set(i64::from(count));
    }

    /// Counts a place of `kind` that could not be attached.
    pub fn attach_failed(&self, kind: &'static str, reason: &'static str) {
        self.families.attach_failures.get([kind, reason]).inc();
    }

    /// Sets how many records the kernel side says were lost in all since it was loaded.
    ///
    /// This may stand beside [`Observation::Lost`] for the same place: both add up.
    pub fn lost_total(&mut self, at: LostWhere, total: u64) {
        let growth = self.lost_totals[at as usize].advance(total);
        self.lost[at as usize].inc_by(growth);
    }

    /// Sets how long and how often a BPF program ran since it was loaded, as the kernel's own statistics say.
    ///
    /// Call it only while those statistics are on: without them the metrics are absent.
    pub fn bpf_program(&mut self, program: &str, time: Nanos, runs: u64) {
        if !self.programs.contains_key(program) {
            let series = ProgramSeries {
                time: Total::default(),
                runs: Total::default(),
                seconds_counter: self.families.bpf_seconds.get([program]),
                runs_counter: self.families.bpf_runs.get([program]),
            };
            self.programs.insert(program.into(), series);
        }
        if let Some(series) = self.programs.get_mut(program) {
            series.seconds_counter.inc_by(Nanos(series.time.advance(time.0)).seconds());
            series.runs_counter.inc_by(series.runs.advance(runs));
        }
    }

    fn exchange(&mut self, exchange: &Exchange, names: &Names) {
        // Neither its end nor its status may be told, and its bytes were not all seen.
        let Some(key) = ExchangeKey::of(exchange) else {
            self.requests(exchange.service, exchange.side, names).unknown.inc();
            return;
        };
        if let Some(series) = self.exchanges.get_mut(&key) {
            series.observe(&self.families, exchange, key, names);
            return;
        }
        let key = self.admit(key);
        self.exchanges.entry(key).or_insert_with(|| ExchangeSeries::new(&self.families, key, names)).observe(
            &self.families,
            exchange,
            key,
            names,
        );
    }

    /// The key under which a new combination is counted: its own while there is room, else one with fewer texts.
    fn admit(&mut self, key: ExchangeKey) -> ExchangeKey {
        if self.exchanges.len() < self.exchange_limit {
            return key;
        }
        if key.route != Text::Symbol(Symbol::EMPTY) {
            self.overflow("http_route");
        }
        let key = key.without_route();
        if self.exchanges.contains_key(&key) || self.exchanges.len() < self.exchange_limit + EXCHANGE_RESERVE {
            return key;
        }
        if key.server != Text::Symbol(Symbol::EMPTY) {
            self.overflow("server_address");
        }
        key.without_texts()
    }

    fn transfer(&mut self, mut key: TransferKey, bytes: u64, names: &Names) {
        if let Some(counter) = self.transfers.get(&key) {
            counter.inc_by(bytes);
            return;
        }
        if self.transfers.len() >= PEER_LIMIT {
            self.overflow("peer");
            key.peer = Text::Other;
        }
        let families = &self.families;
        self.transfers
            .entry(key)
            .or_insert_with(|| {
                families.net_bytes.get([
                    names.service(key.service),
                    io_direction(key.direction),
                    key.peer.text(names),
                    key.transport.as_str(),
                ])
            })
            .inc_by(bytes);
    }

    fn handshake(&mut self, service: ServiceId, peer: Symbol, outcome: Result<Nanos, HandshakeFailure>, names: &Names) {
        let mut key = (service, Text::Symbol(peer));
        if self.handshakes.len() >= PEER_LIMIT && !self.handshakes.contains_key(&key) {
            self.overflow("peer");
            key.1 = Text::Other;
        }
        let labels = [names.service(service), key.1.text(names)];
        let HandshakeSeries { succeeded, failed } = self.handshakes.entry(key).or_default();
        match outcome {
            Ok(time) => {
                succeeded.get_or_insert_with(|| self.families.handshake.get(labels)).observe(time.seconds());
            }
            Err(reason) => {
                let [service, peer] = labels;
                let series = || self.families.handshake_failures.get([service, peer, reason.as_str()]);
                failed[reason as usize].get_or_insert_with(series).inc();
            }
        }
    }

    fn requests(&mut self, service: ServiceId, side: Side, names: &Names) -> &RequestSeries {
        let Self { requests, families, .. } = self;
        requests.entry((service, side)).or_insert_with(|| {
            let labels = [names.service(service), side.as_str()];
            RequestSeries {
                started: families.started.get(labels),
                in_flight: families.in_flight.get(labels),
                unknown: families.unknown.get(labels),
            }
        })
    }

    fn overflow(&mut self, label: &'static str) {
        self.overflows.entry(label).or_insert_with(|| self.families.label_overflow.get([label])).inc();
    }
}

impl Sink for Metrics {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        match *observation {
            Observation::Exchange(ref exchange) => self.exchange(exchange, names),
            Observation::InFlight { service, side, change } => {
                let series = self.requests(service, side, names);
                series.in_flight.add(i64::from(change));
                series.started.inc_by(u64::try_from(change).unwrap_or(0));
            }
            Observation::Bytes { service, direction, peer, transport, bytes } => {
                self.transfer(TransferKey { service, direction, peer: Text::Symbol(peer), transport }, bytes, names);
            }
            Observation::Handshake { service, peer, outcome } => self.handshake(service, peer, outcome, names),
            Observation::RateLimited { service, scope, route } => {
                if self.rate_limits.refused(&self.families, (service, scope, route), names) {
                    self.overflow("http_route");
                }
            }
            Observation::RateLimitRemaining { service, route, ratio } => {
                if self.rate_limits.remaining(&self.families, (service, route), ratio, names) {
                    self.overflow("http_route");
                }
            }
            Observation::RateLimitWait { service, route, wait } => {
                if self.rate_limits.waited(&self.families, (service, route), wait, names) {
                    self.overflow("http_route");
                }
            }
            Observation::Discord { service, ref what } => {
                if let Some(label) = self.discord.observe(service, what, names) {
                    self.overflow(label);
                }
            }
            Observation::Process { service, ref what } => {
                if let Some(label) = self.processes.observe(service, what, names) {
                    self.overflow(label);
                }
            }
            Observation::Net { service, ref what } => {
                if let Some(label) = self.net.observe(service, what, names) {
                    self.overflow(label);
                }
            }
            Observation::Gpu(ref what) => {
                if let Some(label) = self.gpu.observe(what, names) {
                    self.overflow(label);
                }
            }
            Observation::EventLoop { service, ref what } => {
                if let Some(label) = self.event_loop.observe(service, what, names) {
                    self.overflow(label);
                }
            }
            Observation::Llm { service, ref what } => {
                if let Some(label) = self.llm.observe(service, what, names) {
                    self.overflow(label);
                }
            }
            Observation::Unmatched { protocol, reason } => self
                .unmatched
                .entry((protocol, reason))
                .or_insert_with(|| self.families.unmatched.get([protocol, reason.as_str()]))
                .inc(),
            Observation::LabelOverflow { label } => self.overflow(label),
            Observation::Lost { at, count } => self.lost[at as usize].inc_by(count),
            Observation::LostMessages { direction, count } => {
                self.families.lost_messages.get([io_direction(direction)]).inc_by(count);
            }
            Observation::Records { kind, count } => self.records[kind.place()].inc_by(count),
            Observation::RecordsSent(count) => self.records_sent.inc_by(count),
            Observation::Delivery(time) => self.delivery.observe(time.seconds()),
            Observation::Targets { service, state, count } => {
                self.families.targets.get([names.service(service), state.as_str()]).set(i64::from(count));
            }
        }
    }
}

/// The series of an exchange. Some are shared with exchanges that differ in what those series do not tell.
struct ExchangeSeries {
    duration: Histogram,
    /// None until a first byte is seen, so that none appears where none is.
    first_byte: Option<Histogram>,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    aborted: Option<IntCounter>,
}

impl ExchangeSeries {
    fn new(families: &Families, key: ExchangeKey, names: &Names) -> Self {
        let service = names.service(key.service);
        let side = key.side.as_str();
        let method = key.method.as_str();
        let route = key.route.text(names);
        let server = key.server.text(names);
        let port = if key.port == 0 { String::new() } else { key.port.to_string() };
        let status = key.status.label();
        let scheme = key.scheme.as_str();
        let error = key.error_type();
        Self {
            duration: match key.side {
                Side::Server => families.server_duration.get([service, method, route, &status, scheme, &error]),
                Side::Client => {
                    families.client_duration.get([service, method, route, &status, server, &port, scheme, &error])
                }
            },
            first_byte: None,
            request_bytes: families.request_bytes.get([service, side, server]),
            response_bytes: families.response_bytes.get([service, side, server]),
            aborted: match key.failure {
                Failure::Aborted(reason) => Some(families.aborted.get([service, side, server, reason.as_str()])),
                Failure::None | Failure::Status => None,
            },
        }
    }

    fn observe(&mut self, families: &Families, exchange: &Exchange, key: ExchangeKey, names: &Names) {
        self.duration.observe(exchange.duration.seconds());
        if let Some(time) = exchange.first_byte {
            self.first_byte
                .get_or_insert_with(|| {
                    families.first_byte.get([
                        names.service(key.service),
                        key.side.as_str(),
                        key.server.text(names),
                        key.route.text(names),
                    ])
                })
                .observe(time.seconds());
        }
        self.request_bytes.inc_by(exchange.request_bytes);
        self.response_bytes.inc_by(exchange.response_bytes);
        if let Some(aborted) = &self.aborted {
            aborted.inc();
        }
    }
}

/// How many requests of a service have begun, and what became of those that are not among the durations.
struct RequestSeries {
    started: IntCounter,
    in_flight: IntGauge,
    unknown: IntCounter,
}

/// The series of handshakes with one peer; none until there is something to tell.
#[derive(Default)]
struct HandshakeSeries {
    succeeded: Option<Histogram>,
    failed: [Option<IntCounter>; HandshakeFailure::ALL.len()],
}

struct ProgramSeries {
    time: Total,
    runs: Total,
    seconds_counter: Counter,
    runs_counter: IntCounter,
}

/// The last value of a total that somebody else counts.
#[derive(Default)]
struct Total(u64);

impl Total {
    /// By how much it grew. A total that fell began anew at zero.
    fn advance(&mut self, total: u64) -> u64 {
        let growth = if total < self.0 { total } else { total - self.0 };
        self.0 = total;
        growth
    }
}

/// The value of OpenTelemetry's attribute `network.io.direction`.
const fn io_direction(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "receive",
        Direction::Out => "transmit",
    }
}

const fn record_kind(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Data => "data",
        RecordKind::Open => "open",
        RecordKind::Close => "close",
        RecordKind::Fork => "fork",
        RecordKind::Exec => "exec",
        RecordKind::Exit => "exit",
        RecordKind::Listen => "listen",
        RecordKind::Dial => "dial",
        RecordKind::Plaintext => "plaintext",
        RecordKind::Free => "free",
        RecordKind::Handshake => "handshake",
        RecordKind::ServerName => "server_name",
        RecordKind::Libraries => "libraries",
        RecordKind::Bind => "bind",
        RecordKind::Inflated => "inflated",
        RecordKind::InflateEnd => "inflate_end",
        RecordKind::Net => "net",
        RecordKind::Resolved => "resolved",
        RecordKind::Waits => "waits",
        RecordKind::Dials => "dials",
        RecordKind::Arrivals => "arrivals",
    }
}

#[cfg(test)]
mod tests;
