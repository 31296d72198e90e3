//! The numbers that Prometheus scrapes: [`Metrics`] turns each observation into counters, gauges and histograms.
//!
//! Each observation finds its series by the numbers it carries; label texts are only made when a series is new.
//! Requests and answers carry texts that strangers choose, so the series of [`Metrics`] are capped here once more,
//! whatever caps stand upstream.

use std::collections::HashMap;
use std::fs;

use miku_probe_abi::RecordKind;
use prometheus::{Counter, Histogram, IntCounter, IntGauge, Registry};

use super::families::{Family, Series};
use super::own_process::OwnProcess;
use crate::observations::{AbortReason, Exchange, LostWhere, Method, Names, Observation, Outcome, Sink, Unmatched};
use crate::units::{Direction, Nanos, ServiceId, Side, Symbol, Transport};

/// Upper bounds, in seconds, of the buckets for whatever may wait on a language model.
pub const HTTP_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Upper bounds, in seconds, of the buckets for what is short unless something is wrong.
pub const FAST_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// How many different combinations of an exchange's labels are told apart before routes become `other`.
///
/// A bot's own routes, statuses and peers are some hundreds; each combination takes about 5 KiB of memory and 6 KiB of
/// an uncompressed scrape.
pub const EXCHANGE_LIMIT: usize = 2_000;

/// How many combinations without a route are told apart beyond [`EXCHANGE_LIMIT`] before all texts become `other`.
const EXCHANGE_RESERVE: usize = 500;

/// How many different combinations of peer, direction and transport are told apart before peers become `other`.
pub const PEER_LIMIT: usize = 1_000;

/// The label value of what is over a cap, or of what is no value at all.
const OTHER: &str = "other";

/// OpenTelemetry's value of `error.type` for an error without a name of its own.
const OTHER_ERROR: &str = "_OTHER";

/// All exchanges that are followed so far are plain HTTP.
const URL_SCHEME: &str = "http";

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
    exchange_limit: usize,
    exchanges: FastMap<ExchangeKey, ExchangeSeries>,
    transfers: FastMap<TransferKey, IntCounter>,
    in_flight: FastMap<(ServiceId, Side), IntGauge>,
    unmatched: FastMap<(&'static str, Unmatched), IntCounter>,
    overflows: FastMap<&'static str, IntCounter>,
    programs: HashMap<Box<str>, ProgramSeries>,
    lost: [IntCounter; LostWhere::ALL.len()],
    lost_totals: [Total; LostWhere::ALL.len()],
    records: [IntCounter; RecordKind::ALL.len()],
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
        let registry = Registry::new();
        register(&registry, OwnProcess::new());
        let families = Families::new(&registry);
        let up = Family::<IntGauge, 0>::new("miku_up", "1 while the probe runs.", [], &[]);
        register(&registry, up.clone());
        up.get([]).set(1);
        let info = Family::<IntGauge, 3>::new(
            "miku_probe_build_info",
            "1, with the probe's version and revision and the release of the running kernel.",
            ["version", "revision", "kernel"],
            &[],
        );
        register(&registry, info.clone());
        info.get([&build.version, &build.revision, &build.kernel]).set(1);
        Self {
            exchange_limit,
            exchanges: FastMap::default(),
            transfers: FastMap::default(),
            in_flight: FastMap::default(),
            unmatched: FastMap::default(),
            overflows: FastMap::default(),
            programs: HashMap::new(),
            lost: LostWhere::ALL.map(|at| families.lost.get([at.as_str()])),
            lost_totals: Default::default(),
            records: RecordKind::ALL.map(|kind| families.records.get([record_kind(kind)])),
            delivery: families.delivery.get([]),
            registry,
            families,
        }
    }

    /// The registry to gather from; its clones share the metrics. More collectors may be registered in it.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.registry.clone()
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
        let Some(key) = ExchangeKey::of(exchange) else { return };
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
                    direction(key.direction),
                    key.peer.text(names),
                    key.transport.as_str(),
                ])
            })
            .inc_by(bytes);
    }

    fn overflow(&mut self, label: &'static str) {
        self.overflows.entry(label).or_insert_with(|| self.families.label_overflow.get([label])).inc();
    }
}

impl Sink for Metrics {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        match *observation {
            Observation::Exchange(ref exchange) => self.exchange(exchange, names),
            Observation::InFlight { service, side, change } => self
                .in_flight
                .entry((service, side))
                .or_insert_with(|| self.families.in_flight.get([names.service(service), side.as_str()]))
                .add(i64::from(change)),
            Observation::Bytes { service, direction, peer, transport, bytes } => {
                self.transfer(TransferKey { service, direction, peer: Text::Symbol(peer), transport }, bytes, names);
            }
            Observation::Unmatched { protocol, reason } => self
                .unmatched
                .entry((protocol, reason))
                .or_insert_with(|| self.families.unmatched.get([protocol, reason.as_str()]))
                .inc(),
            Observation::LabelOverflow { label } => self.overflow(label),
            Observation::Lost { at, count } => self.lost[at as usize].inc_by(count),
            Observation::Records { kind, count } => self.records[kind as usize - 1].inc_by(count),
            Observation::Delivery(time) => self.delivery.observe(time.seconds()),
            Observation::Targets { service, state, count } => {
                self.families.targets.get([names.service(service), state.as_str()]).set(i64::from(count));
            }
        }
    }
}

/// All families whose series come and go with what is observed.
struct Families {
    server_duration: Family<Histogram, 6>,
    client_duration: Family<Histogram, 8>,
    first_byte: Family<Histogram, 4>,
    in_flight: Family<IntGauge, 2>,
    request_bytes: Family<IntCounter, 3>,
    response_bytes: Family<IntCounter, 3>,
    aborted: Family<IntCounter, 4>,
    net_bytes: Family<IntCounter, 4>,
    targets: Family<IntGauge, 2>,
    sites: Family<IntGauge, 2>,
    attach_failures: Family<IntCounter, 2>,
    records: Family<IntCounter, 1>,
    lost: Family<IntCounter, 1>,
    unmatched: Family<IntCounter, 2>,
    label_overflow: Family<IntCounter, 1>,
    bpf_seconds: Family<Counter, 1>,
    bpf_runs: Family<IntCounter, 1>,
    delivery: Family<Histogram, 0>,
}

impl Families {
    fn new(registry: &Registry) -> Self {
        fn family<S: Series, const N: usize>(
            registry: &Registry,
            name: &'static str,
            help: &'static str,
            labels: [&'static str; N],
            buckets: &'static [f64],
        ) -> Family<S, N> {
            let family = Family::new(name, help, labels, buckets);
            register(registry, family.clone());
            family
        }
        Self {
            server_duration: family(
                registry,
                "http_server_request_duration_seconds",
                "Duration of requests that the service answered, from the first byte of the request to the last byte of \
                 the answer, or to the end of an aborted exchange.",
                [
                    "service",
                    "http_request_method",
                    "http_route",
                    "http_response_status_code",
                    "url_scheme",
                    "error_type",
                ],
                HTTP_BUCKETS,
            ),
            client_duration: family(
                registry,
                "http_client_request_duration_seconds",
                "Duration of requests that the service made, from the first byte of the request to the last byte of the \
                 answer, or to the end of an aborted exchange.",
                [
                    "service",
                    "http_request_method",
                    "http_route",
                    "http_response_status_code",
                    "server_address",
                    "server_port",
                    "url_scheme",
                    "error_type",
                ],
                HTTP_BUCKETS,
            ),
            first_byte: family(
                registry,
                "miku_http_time_to_first_byte_seconds",
                "Time from the first byte of a request to the first byte of its final answer.",
                ["service", "side", "server_address", "http_route"],
                HTTP_BUCKETS,
            ),
            in_flight: family(
                registry,
                "miku_http_requests_in_flight",
                "Requests that began and have not ended.",
                ["service", "side"],
                &[],
            ),
            request_bytes: family(
                registry,
                "miku_http_request_bytes_total",
                "Bytes of requests, heads and bodies, of exchanges that were seen to their end.",
                ["service", "side", "server_address"],
                &[],
            ),
            response_bytes: family(
                registry,
                "miku_http_response_bytes_total",
                "Bytes of answers, heads and bodies, of exchanges that were seen to their end.",
                ["service", "side", "server_address"],
                &[],
            ),
            aborted: family(
                registry,
                "miku_http_aborted_total",
                "Exchanges that were cut short.",
                ["service", "side", "server_address", "reason"],
                &[],
            ),
            net_bytes: family(
                registry,
                "miku_net_bytes_total",
                "Bytes that the service received or transmitted over sockets, headers of lower layers not counted.",
                ["service", "direction", "peer", "transport"],
                &[],
            ),
            targets: family(
                registry,
                "miku_probe_targets",
                "Processes of a service, by whether the probe follows them.",
                ["service", "state"],
                &[],
            ),
            sites: family(
                registry,
                "miku_probe_sites",
                "Places in the kernel or in a process where the probe is attached.",
                ["service", "kind"],
                &[],
            ),
            attach_failures: family(
                registry,
                "miku_probe_attach_failures_total",
                "Places where the probe could not attach.",
                ["kind", "reason"],
                &[],
            ),
            records: family(registry, "miku_probe_records_total", "Records that came from the kernel.", ["kind"], &[]),
            lost: family(registry, "miku_probe_lost_total", "What was lost, by where it was lost.", ["where"], &[]),
            unmatched: family(
                registry,
                "miku_probe_unmatched_total",
                "What was seen but belongs to no whole exchange.",
                ["protocol", "reason"],
                &[],
            ),
            label_overflow: family(
                registry,
                "miku_probe_label_overflow_total",
                "Observations with a label value over its cap, counted under another value.",
                ["label"],
                &[],
            ),
            bpf_seconds: family(
                registry,
                "miku_probe_bpf_run_seconds_total",
                "Time that a BPF program ran, as the kernel measures it while its statistics are on.",
                ["program"],
                &[],
            ),
            bpf_runs: family(
                registry,
                "miku_probe_bpf_runs_total",
                "Runs of a BPF program, as the kernel counts them while its statistics are on.",
                ["program"],
                &[],
            ),
            delivery: family(
                registry,
                "miku_probe_delivery_seconds",
                "Time from a record's making in the kernel to the moment when its observation reached the metrics.",
                [],
                FAST_BUCKETS,
            ),
        }
    }
}

fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    registry
        .register(Box::new(collector))
        .unwrap_or_else(|error| panic!("two families of this program clash: {error}"));
}

/// A label's text, or that it is over a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Text {
    Symbol(Symbol),
    Other,
}

impl Text {
    fn text(self, names: &Names) -> &str {
        match self {
            Self::Symbol(symbol) => names.symbols.text(symbol),
            Self::Other => OTHER,
        }
    }

    /// The same, or [`Text::Other`] where there is a text.
    fn collapsed(self) -> Self {
        if self == Self::Symbol(Symbol::EMPTY) { self } else { Self::Other }
    }
}

/// The status of an answer, as far as labels tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Status {
    /// No status was seen.
    Unseen,
    /// One of the five classes of RFC 9110.
    Code(u16),
    /// Any other number, or one over the cap.
    Other,
}

impl Status {
    fn label(self) -> String {
        match self {
            Self::Unseen => String::new(),
            Self::Code(code) => code.to_string(),
            Self::Other => OTHER.to_owned(),
        }
    }
}

/// What made an exchange an error, if it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Failure {
    None,
    /// Its status.
    Status,
    /// It was cut short.
    Aborted(AbortReason),
}

/// Everything that tells an exchange's series from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ExchangeKey {
    service: ServiceId,
    side: Side,
    method: Method,
    route: Text,
    server: Text,
    /// 0 when there is none.
    port: u16,
    status: Status,
    failure: Failure,
}

impl ExchangeKey {
    /// The key of an exchange; none when its outcome is unknown.
    fn of(exchange: &Exchange) -> Option<Self> {
        let failure = match (exchange.outcome, exchange.side, exchange.status) {
            (Outcome::Unknown, ..) => return None,
            (Outcome::Aborted(reason), ..) => Failure::Aborted(reason),
            // A status of no class is to be taken for one of 500 (RFC 9110, section 15); OpenTelemetry takes the
            // client's errors for the client's only.
            (Outcome::Complete, Side::Server, Some(500..)) | (Outcome::Complete, Side::Client, Some(400..)) => {
                Failure::Status
            }
            (Outcome::Complete, _, Some(..100)) => Failure::Status,
            (Outcome::Complete, ..) => Failure::None,
        };
        Some(Self {
            service: exchange.service,
            side: exchange.side,
            method: exchange.method,
            route: Text::Symbol(exchange.route),
            server: Text::Symbol(exchange.server),
            port: exchange.port,
            status: match exchange.status {
                None => Status::Unseen,
                Some(code @ 100..=599) => Status::Code(code),
                Some(_) => Status::Other,
            },
            failure,
        })
    }

    fn without_route(self) -> Self {
        Self { route: self.route.collapsed(), ..self }
    }

    /// With nothing left that the other side chooses, so that only so many are possible.
    fn without_texts(self) -> Self {
        Self {
            method: Method::Other,
            route: self.route.collapsed(),
            server: self.server.collapsed(),
            port: 0,
            status: if self.status == Status::Unseen { Status::Unseen } else { Status::Other },
            ..self
        }
    }

    fn error_type(&self) -> String {
        match (self.failure, self.status) {
            (Failure::None, _) => String::new(),
            (Failure::Status, Status::Code(code)) => code.to_string(),
            (Failure::Status, _) => OTHER_ERROR.to_owned(),
            (Failure::Aborted(reason), _) => reason.as_str().to_owned(),
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
        let error = key.error_type();
        Self {
            duration: match key.side {
                Side::Server => families.server_duration.get([service, method, route, &status, URL_SCHEME, &error]),
                Side::Client => {
                    families.client_duration.get([service, method, route, &status, server, &port, URL_SCHEME, &error])
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

/// Everything that tells a series of network bytes from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TransferKey {
    service: ServiceId,
    direction: Direction,
    peer: Text,
    transport: Transport,
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
const fn direction(direction: Direction) -> &'static str {
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
    }
}

#[cfg(test)]
mod tests;
