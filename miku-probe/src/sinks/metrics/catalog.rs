//! Names, labels, buckets and help texts: the contract with whoever reads the metrics.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{Counter, Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::super::families::{Family, FamilyInfo, Series};

/// Upper bounds, in seconds, of the buckets for whatever may wait on a language model.
pub const HTTP_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0, 300.0];

/// Upper bounds, in seconds, of the buckets for what is short unless something is wrong.
pub const FAST_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Upper bounds, in seconds, of the buckets for the time between two tokens.
pub const TOKEN_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets for tokens a second.
pub const TOKEN_RATE_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 150.0, 200.0, 400.0, 800.0];

/// All families of this sink but the process's own and those in files of their own.
pub(super) struct Families {
    pub(super) up: Family<IntGauge, 0>,
    pub(super) build_info: Family<IntGauge, 3>,
    pub(super) server_duration: Family<Histogram, 6>,
    pub(super) client_duration: Family<Histogram, 8>,
    pub(super) first_byte: Family<Histogram, 4>,
    pub(super) started: Family<IntCounter, 2>,
    pub(super) in_flight: Family<IntGauge, 2>,
    pub(super) unknown: Family<IntCounter, 2>,
    pub(super) request_bytes: Family<IntCounter, 3>,
    pub(super) response_bytes: Family<IntCounter, 3>,
    pub(super) aborted: Family<IntCounter, 4>,
    pub(super) rate_limited: Family<IntCounter, 3>,
    pub(super) rate_limit_remaining: Family<Gauge, 2>,
    pub(super) rate_limit_wait: Family<Counter, 2>,
    pub(super) net_bytes: Family<IntCounter, 4>,
    pub(super) handshake: Family<Histogram, 2>,
    pub(super) handshake_failures: Family<IntCounter, 3>,
    pub(super) targets: Family<IntGauge, 2>,
    pub(super) sites: Family<IntGauge, 2>,
    pub(super) attach_failures: Family<IntCounter, 2>,
    pub(super) records: Family<IntCounter, 1>,
    pub(super) records_sent: Family<IntCounter, 0>,
    pub(super) lost: Family<IntCounter, 1>,
    pub(super) lost_messages: Family<IntCounter, 1>,
    pub(super) unmatched: Family<IntCounter, 2>,
    pub(super) label_overflow: Family<IntCounter, 1>,
    pub(super) bpf_seconds: Family<Counter, 1>,
    pub(super) bpf_runs: Family<IntCounter, 1>,
    pub(super) delivery: Family<Histogram, 0>,
}

impl Families {
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self {
            up: family(catalog, "miku_up", "1 while the probe runs.", [], &[]),
            build_info: family(
                catalog,
                "miku_probe_build_info",
                "1, with the probe's version and revision and the release of the running kernel.",
                ["version", "revision", "kernel"],
                &[],
            ),
            server_duration: family(
                catalog,
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
                catalog,
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
                catalog,
                "miku_http_time_to_first_byte_seconds",
                "Time from the first byte of a request to the first byte of its final answer.",
                ["service", "side", "server_address", "http_route"],
                HTTP_BUCKETS,
            ),
            started: family(
                catalog,
                "miku_http_requests_started_total",
                "Requests of which the first byte was seen. Each is in flight, among the durations, or unknown.",
                ["service", "side"],
                &[],
            ),
            unknown: family(
                catalog,
                "miku_http_requests_unknown_total",
                "Requests that are over, of which too much was not seen to give a duration or a status: events were dropped, \
                 or the probe came or went in their midst.",
                ["service", "side"],
                &[],
            ),
            in_flight: family(
                catalog,
                "miku_http_requests_in_flight",
                "Requests that began and have not ended.",
                ["service", "side"],
                &[],
            ),
            request_bytes: family(
                catalog,
                "miku_http_request_bytes_total",
                "Bytes of requests, heads and bodies, of exchanges that were seen to their end.",
                ["service", "side", "server_address"],
                &[],
            ),
            response_bytes: family(
                catalog,
                "miku_http_response_bytes_total",
                "Bytes of answers, heads and bodies, of exchanges that were seen to their end.",
                ["service", "side", "server_address"],
                &[],
            ),
            aborted: family(
                catalog,
                "miku_http_aborted_total",
                "Exchanges that were cut short.",
                ["service", "side", "server_address", "reason"],
                &[],
            ),
            net_bytes: family(
                catalog,
                "miku_net_bytes_total",
                "Bytes that the service received or transmitted over sockets, headers of lower layers not counted.",
                ["service", "direction", "peer", "transport"],
                &[],
            ),
            handshake: family(
                catalog,
                "miku_net_tls_handshake_seconds",
                "Duration of TLS handshakes that succeeded, by the name of the host that was asked for.",
                ["service", "peer"],
                FAST_BUCKETS,
            ),
            handshake_failures: family(
                catalog,
                "miku_net_tls_handshake_failures_total",
                "TLS handshakes that failed, by the name of the host that was asked for.",
                ["service", "peer", "reason"],
                &[],
            ),
            rate_limited: family(
                catalog,
                "miku_discord_rate_limited_total",
                "Requests that Discord refused by a rate limit (status 429), by whom the limit counts together.",
                ["service", "scope", "http_route"],
                &[],
            ),
            rate_limit_remaining: family(
                catalog,
                "miku_discord_rate_limit_remaining_ratio",
                "Share of the requests that Discord allows until the limit resets that is left, by the latest answer of \
                 the route.",
                ["service", "http_route"],
                &[],
            ),
            rate_limit_wait: family(
                catalog,
                "miku_discord_rate_limit_wait_seconds_total",
                "Time from the end of a request that Discord refused by a rate limit to the start of its second try.",
                ["service", "http_route"],
                &[],
            ),
            targets: family(
                catalog,
                "miku_probe_targets",
                "Processes of a service, by whether the probe follows them.",
                ["service", "state"],
                &[],
            ),
            sites: family(
                catalog,
                "miku_probe_sites",
                "Places in the kernel or in a process where the probe is attached.",
                ["service", "kind"],
                &[],
            ),
            attach_failures: family(
                catalog,
                "miku_probe_attach_failures_total",
                "Places where the probe could not attach.",
                ["kind", "reason"],
                &[],
            ),
            records: family(catalog, "miku_probe_records_total", "Records that came from the kernel.", ["kind"], &[]),
            records_sent: family(
                catalog,
                "miku_probe_records_sent_total",
                "Records that the programs in the kernel made, as they count them themselves. Each is in miku_probe_records_total \
                 or in miku_probe_lost_total{where=\"ring\"} soon after.",
                [],
                &[],
            ),
            lost_messages: family(
                catalog,
                "miku_probe_lost_messages_total",
                "Messages of which the start was among the records lost in the ring, by direction.",
                ["direction"],
                &[],
            ),
            lost: family(catalog, "miku_probe_lost_total", "What was lost, by where it was lost.", ["where"], &[]),
            unmatched: family(
                catalog,
                "miku_probe_unmatched_total",
                "What was seen but belongs to no whole exchange.",
                ["protocol", "reason"],
                &[],
            ),
            label_overflow: family(
                catalog,
                "miku_probe_label_overflow_total",
                "Observations with a label value over its cap, counted under another value.",
                ["label"],
                &[],
            ),
            bpf_seconds: family(
                catalog,
                "miku_probe_bpf_run_seconds_total",
                "Time that a BPF program ran, as the kernel measures it while its statistics are on.",
                ["program"],
                &[],
            ),
            bpf_runs: family(
                catalog,
                "miku_probe_bpf_runs_total",
                "Runs of a BPF program, as the kernel counts them while its statistics are on.",
                ["program"],
                &[],
            ),
            delivery: family(
                catalog,
                "miku_probe_delivery_seconds",
                "Time from a record's making in the kernel to the moment when its observation reached the metrics.",
                [],
                FAST_BUCKETS,
            ),
        }
    }
}

/// The registry that is scraped, and what each family in it is: a registry alone shows only families that have a series.
#[derive(Default)]
pub(super) struct Catalog {
    registry: Registry,
    families: RefCell<Vec<FamilyInfo>>,
}

impl Catalog {
    /// The registry; its clones share the metrics.
    pub(super) fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// All families, by name.
    pub(super) fn into_families(self) -> Vec<FamilyInfo> {
        let mut families = self.families.into_inner();
        families.sort_by_key(|family| family.name);
        families
    }

    /// Registers what collects these families.
    pub(super) fn register(&self, collector: impl Collector + 'static, families: impl IntoIterator<Item = FamilyInfo>) {
        self.registry
            .register(Box::new(collector))
            .unwrap_or_else(|error| panic!("two families of this program clash: {error}"));
        self.families.borrow_mut().extend(families);
    }
}

/// A new family, which is registered.
pub(super) fn family<S: Series, const N: usize>(
    catalog: &Catalog,
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    buckets: &'static [f64],
) -> Family<S, N> {
    let family = Family::new(name, help, labels, buckets);
    catalog.register(family.clone(), [family.info()]);
    family
}
