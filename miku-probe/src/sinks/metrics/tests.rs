//! Observations in, exposition text out.

use prometheus::TextEncoder;
use prometheus::proto::MetricType;

use super::*;
use crate::observations::{AbortReason, Method, Outcome, TargetState};
use crate::units::{Scheme, Transport};

const BOT: ServiceId = ServiceId(0);
const LLM: ServiceId = ServiceId(1);

fn build() -> BuildInfo {
    BuildInfo { version: "1.2.3".to_owned(), revision: "abc".to_owned(), kernel: "6.1.0".to_owned() }
}

fn names() -> Names {
    Names { services: vec!["bot".to_owned(), "llm".to_owned()], ..Names::default() }
}

/// An exchange of a server that ended well.
fn served(route: Symbol) -> Exchange {
    Exchange {
        service: BOT,
        side: Side::Server,
        scheme: Scheme::Http,
        method: Method::Get,
        route,
        server: Symbol::EMPTY,
        port: 0,
        status: Some(200),
        start: Nanos(1),
        first_byte: Some(Nanos(20_000_000)),
        duration: Nanos(250_000_000),
        request_bytes: 100,
        response_bytes: 1000,
        outcome: Outcome::Complete,
    }
}

fn text(metrics: &Metrics) -> String {
    TextEncoder::new().encode_to_string(&metrics.registry().gather()).expect("a String takes all")
}

/// The sample lines of the text that start so.
fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn before_anything_is_seen_only_what_is_measured_from_the_start_is_there() {
    let text = text(&Metrics::new(&build()));
    let samples: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("process_"))
        .filter(|line| !line.starts_with("miku_probe_delivery_seconds"))
        .collect();
    assert_eq!(
        samples,
        [
            "miku_probe_build_info{kernel=\"6.1.0\",revision=\"abc\",version=\"1.2.3\"} 1",
            "miku_probe_lost_total{where=\"capture\"} 0",
            "miku_probe_lost_total{where=\"parser\"} 0",
            "miku_probe_lost_total{where=\"recursion\"} 0",
            "miku_probe_lost_total{where=\"ring\"} 0",
            "miku_probe_lost_total{where=\"table\"} 0",
            "miku_probe_records_sent_total 0",
            "miku_probe_records_total{kind=\"arrivals\"} 0",
            "miku_probe_records_total{kind=\"bind\"} 0",
            "miku_probe_records_total{kind=\"close\"} 0",
            "miku_probe_records_total{kind=\"data\"} 0",
            "miku_probe_records_total{kind=\"dial\"} 0",
            "miku_probe_records_total{kind=\"dials\"} 0",
            "miku_probe_records_total{kind=\"exec\"} 0",
            "miku_probe_records_total{kind=\"exit\"} 0",
            "miku_probe_records_total{kind=\"fork\"} 0",
            "miku_probe_records_total{kind=\"free\"} 0",
            "miku_probe_records_total{kind=\"handshake\"} 0",
            "miku_probe_records_total{kind=\"inflate_end\"} 0",
            "miku_probe_records_total{kind=\"inflated\"} 0",
            "miku_probe_records_total{kind=\"libraries\"} 0",
            "miku_probe_records_total{kind=\"listen\"} 0",
            "miku_probe_records_total{kind=\"net\"} 0",
            "miku_probe_records_total{kind=\"open\"} 0",
            "miku_probe_records_total{kind=\"plaintext\"} 0",
            "miku_probe_records_total{kind=\"resolved\"} 0",
            "miku_probe_records_total{kind=\"server_name\"} 0",
            "miku_probe_records_total{kind=\"waits\"} 0",
            "miku_up 1",
        ]
    );
    assert_eq!(lines(&text, "miku_probe_delivery_seconds_count"), ["miku_probe_delivery_seconds_count 0"]);
    assert_eq!(lines(&text, "process_").len(), 7, "{text}");
}

#[test]
fn buckets_are_those_of_the_contract() {
    let contract = |text: &str| -> Vec<f64> {
        text.split(' ').map(|bound| bound.parse().expect("the contract's bounds are numbers")).collect()
    };
    let http = contract(".005 .01 .025 .05 .075 .1 .25 .5 .75 1 2.5 5 7.5 10 30 60 120 300");
    let fast = contract(".0005 .001 .0025 .005 .01 .025 .05 .1 .25 .5 1 2.5 5 10 60");
    let mut metrics = Metrics::new(&build());
    let names = names();
    metrics.observe(&Observation::Exchange(served(Symbol::EMPTY)), &names);
    metrics.observe(&Observation::Exchange(Exchange { side: Side::Client, ..served(Symbol::EMPTY) }), &names);
    metrics.observe(&Observation::Delivery(Nanos(1)), &names);
    let handshake = Observation::Handshake { service: BOT, peer: Symbol::EMPTY, outcome: Ok(Nanos(1)) };
    metrics.observe(&handshake, &names);
    let mut seen = Vec::new();
    for family in metrics.registry().gather() {
        if family.get_field_type() == MetricType::HISTOGRAM {
            let buckets = family.get_metric()[0].get_histogram().get_bucket();
            let bounds: Vec<f64> = buckets.iter().map(prometheus::proto::Bucket::upper_bound).collect();
            let expected =
                if family.name().contains("_http_") || family.name().starts_with("http_") { &http } else { &fast };
            assert_eq!(&bounds, expected, "of {}", family.name());
            seen.push(family.name().to_owned());
        }
    }
    assert_eq!(
        seen,
        [
            "http_client_request_duration_seconds",
            "http_server_request_duration_seconds",
            "miku_http_time_to_first_byte_seconds",
            "miku_net_tls_handshake_seconds",
            "miku_probe_delivery_seconds"
        ]
    );
}

#[test]
fn an_exchange_of_each_side() {
    let mut names = names();
    let route = names.symbols.intern("/chat/{id}");
    let server = names.symbols.intern("discord.com");
    let mut metrics = Metrics::new(&build());
    for _ in 0..2 {
        metrics.observe(&Observation::Exchange(served(route)), &names);
    }
    let made = Exchange { service: LLM, side: Side::Client, scheme: Scheme::Https, server, port: 443, ..served(route) };
    metrics.observe(&Observation::Exchange(made), &names);
    metrics.observe(&Observation::Exchange(Exchange { scheme: Scheme::Https, ..served(Symbol::EMPTY) }), &names);
    let text = text(&metrics);
    let served =
        "http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/chat/{id}\",service=\"bot\"";
    // A bound holds what equals it.
    let duration = lines(&text, "http_server_request_duration_seconds");
    assert!(duration.contains(&&*format!(
        "http_server_request_duration_seconds_bucket{{{served},url_scheme=\"http\",le=\"0.1\"}} 0"
    )));
    assert!(duration.contains(&&*format!(
        "http_server_request_duration_seconds_bucket{{{served},url_scheme=\"http\",le=\"0.25\"}} 2"
    )));
    assert!(
        duration.contains(&&*format!("http_server_request_duration_seconds_sum{{{served},url_scheme=\"http\"}} 0.5"))
    );
    assert_eq!(
        lines(&text, "http_client_request_duration_seconds_count"),
        ["http_client_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",\
          http_route=\"/chat/{id}\",server_address=\"discord.com\",server_port=\"443\",service=\"llm\",\
          url_scheme=\"https\"} 1"]
    );
    assert!(text.contains(
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",\
         service=\"bot\",url_scheme=\"https\"} 1"
    ));
    assert_eq!(
        lines(&text, "miku_http_time_to_first_byte_seconds_sum"),
        [
            "miku_http_time_to_first_byte_seconds_sum{service=\"bot\",side=\"server\"} 0.02",
            "miku_http_time_to_first_byte_seconds_sum{http_route=\"/chat/{id}\",service=\"bot\",side=\"server\"} 0.04",
            "miku_http_time_to_first_byte_seconds_sum{http_route=\"/chat/{id}\",server_address=\"discord.com\",\
             service=\"llm\",side=\"client\"} 0.02",
        ]
    );
    assert_eq!(
        lines(&text, "miku_http_request_bytes_total"),
        [
            "miku_http_request_bytes_total{service=\"bot\",side=\"server\"} 300",
            "miku_http_request_bytes_total{server_address=\"discord.com\",service=\"llm\",side=\"client\"} 100",
        ]
    );
    assert_eq!(
        lines(&text, "miku_http_response_bytes_total"),
        [
            "miku_http_response_bytes_total{service=\"bot\",side=\"server\"} 3000",
            "miku_http_response_bytes_total{server_address=\"discord.com\",service=\"llm\",side=\"client\"} 1000",
        ]
    );
    assert_eq!(lines(&text, "miku_http_aborted_total"), Vec::<&str>::new());
}

#[test]
fn status_and_error_type_by_side_and_outcome() {
    let aborted = Outcome::Aborted(AbortReason::ClientClosed);
    for (side, status, outcome, status_label, error_label) in [
        (Side::Server, Some(200), Outcome::Complete, Some("200"), None),
        (Side::Server, Some(404), Outcome::Complete, Some("404"), None),
        (Side::Client, Some(404), Outcome::Complete, Some("404"), Some("404")),
        (Side::Client, Some(399), Outcome::Complete, Some("399"), None),
        (Side::Server, Some(499), Outcome::Complete, Some("499"), None),
        (Side::Server, Some(500), Outcome::Complete, Some("500"), Some("500")),
        (Side::Client, Some(599), Outcome::Complete, Some("599"), Some("599")),
        (Side::Server, Some(999), Outcome::Complete, Some("other"), Some("_OTHER")),
        (Side::Server, Some(42), Outcome::Complete, Some("other"), Some("_OTHER")),
        (Side::Server, None, aborted, None, Some("client_closed")),
        (Side::Client, Some(200), aborted, Some("200"), Some("client_closed")),
    ] {
        let mut metrics = Metrics::new(&build());
        let exchange = Exchange { side, status, outcome, ..served(Symbol::EMPTY) };
        metrics.observe(&Observation::Exchange(exchange), &names());
        let name = format!("http_{}_request_duration_seconds", side.as_str());
        let family = metrics.registry().gather().into_iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("no {name} for {status:?}, {outcome:?}"));
        let label = |name: &str| {
            family.get_metric()[0]
                .get_label()
                .iter()
                .find(|label| label.name() == name)
                .map(prometheus::proto::LabelPair::value)
        };
        let labels = (label("http_response_status_code"), label("error_type"));
        assert_eq!(labels, (status_label, error_label), "of {side:?}, {status:?}, {outcome:?}");
    }
}

#[test]
fn an_aborted_exchange_counts_and_an_unknown_one_does_not() {
    let mut names = names();
    let server = names.symbols.intern("10.0.0.1");
    let mut metrics = Metrics::new(&build());
    let aborted = Exchange {
        side: Side::Client,
        server,
        port: 8000,
        status: None,
        first_byte: None,
        outcome: Outcome::Aborted(AbortReason::Reset),
        ..served(Symbol::EMPTY)
    };
    metrics.observe(&Observation::Exchange(aborted.clone()), &names);
    let before = text(&metrics);
    assert_eq!(
        lines(&before, "miku_http_aborted_total"),
        ["miku_http_aborted_total{reason=\"reset\",server_address=\"10.0.0.1\",service=\"bot\",side=\"client\"} 1"]
    );
    assert_eq!(lines(&before, "http_client_request_duration_seconds_count").len(), 1);
    assert_eq!(lines(&before, "miku_http_time_to_first_byte_seconds"), Vec::<&str>::new(), "no byte was seen");

    // The first byte of a later one of the same labels is told as soon as there is one.
    let answered = Exchange { first_byte: Some(Nanos(1)), ..aborted.clone() };
    metrics.observe(&Observation::Exchange(answered), &names);
    let with_first_byte = text(&metrics);
    assert_eq!(lines(&with_first_byte, "miku_http_time_to_first_byte_seconds_count").len(), 1);

    let http = |text: &str| -> Vec<String> {
        ["http_", "miku_http_"].iter().flat_map(|start| lines(text, start)).map(str::to_owned).collect()
    };
    let unknown = Exchange { outcome: Outcome::Unknown, first_byte: Some(Nanos(1)), ..aborted };
    metrics.observe(&Observation::Exchange(unknown), &names);
    let after = text(&metrics);
    assert_eq!(
        lines(&after, "miku_http_requests_unknown_total"),
        ["miku_http_requests_unknown_total{service=\"bot\",side=\"client\"} 1"]
    );
    let others = |text: &str| {
        let lines = http(text).into_iter().filter(|line| !line.starts_with("miku_http_requests_"));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(others(&after), others(&with_first_byte));
}

#[test]
fn everything_else_ends_in_its_family() {
    let mut names = names();
    let lan = names.symbols.intern("lan");
    let mut metrics = Metrics::new(&build());
    let in_flight = |change| Observation::InFlight { service: BOT, side: Side::Server, change };
    let bytes =
        |direction, bytes| Observation::Bytes { service: BOT, direction, peer: lan, transport: Transport::Tcp, bytes };
    for observation in [
        in_flight(1),
        in_flight(1),
        in_flight(-1),
        bytes(Direction::In, 7),
        bytes(Direction::Out, 5),
        bytes(Direction::In, 3),
        Observation::Unmatched { protocol: "http1", reason: Unmatched::Gap },
        Observation::LabelOverflow { label: "http_route" },
        Observation::Lost { at: LostWhere::Parser, count: 4 },
        Observation::Records { kind: RecordKind::Data, count: 10 },
        Observation::Records { kind: RecordKind::Dial, count: 2 },
        Observation::Delivery(Nanos(2_000_000)),
        Observation::Targets { service: LLM, state: TargetState::Attached, count: 3 },
        Observation::Targets { service: LLM, state: TargetState::Attached, count: 2 },
    ] {
        metrics.observe(&observation, &names);
    }
    metrics.set_sites("", "tracepoint", 24);
    metrics.attach_failed("tracepoint", "not_found");
    let text = text(&metrics);
    for line in [
        "miku_http_requests_in_flight{service=\"bot\",side=\"server\"} 1",
        "miku_net_bytes_total{direction=\"receive\",peer=\"lan\",service=\"bot\",transport=\"tcp\"} 10",
        "miku_net_bytes_total{direction=\"transmit\",peer=\"lan\",service=\"bot\",transport=\"tcp\"} 5",
        "miku_probe_unmatched_total{protocol=\"http1\",reason=\"gap\"} 1",
        "miku_probe_label_overflow_total{label=\"http_route\"} 1",
        "miku_probe_lost_total{where=\"parser\"} 4",
        "miku_probe_records_total{kind=\"data\"} 10",
        "miku_probe_records_total{kind=\"dial\"} 2",
        "miku_probe_delivery_seconds_bucket{le=\"0.001\"} 0",
        "miku_probe_delivery_seconds_bucket{le=\"0.0025\"} 1",
        "miku_probe_targets{service=\"llm\",state=\"attached\"} 2",
        "miku_probe_sites{kind=\"tracepoint\"} 24",
        "miku_probe_attach_failures_total{kind=\"tracepoint\",reason=\"not_found\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn handshakes_are_told_by_peer_and_those_that_failed_apart() {
    let mut names = names();
    let mut metrics = Metrics::new(&build());
    let discord = names.symbols.intern("discord.com");
    let failed = [HandshakeFailure::Certificate, HandshakeFailure::Closed, HandshakeFailure::Certificate].map(Err);
    for outcome in [Ok(Nanos(30_000_000)), Ok(Nanos(50_000_000))].into_iter().chain(failed) {
        metrics.observe(&Observation::Handshake { service: BOT, peer: discord, outcome }, &names);
    }
    let labels = "{peer=\"discord.com\",service=\"bot\"}";
    let seen = text(&metrics);
    for line in [
        format!("miku_net_tls_handshake_seconds_sum{labels} 0.08"),
        format!("miku_net_tls_handshake_seconds_count{labels} 2"),
    ] {
        assert!(seen.lines().any(|other| other == line), "{line} is missing in\n{seen}");
    }
    assert_eq!(
        lines(&seen, "miku_net_tls_handshake_failures_total"),
        [("certificate", 2), ("closed", 1)].map(|(reason, count)| format!(
            "miku_net_tls_handshake_failures_total{{peer=\"discord.com\",reason=\"{reason}\",service=\"bot\"}} {count}"
        ))
    );
    for number in 0..PEER_LIMIT + 5 {
        let peer = names.symbols.intern(&format!("{number}.example"));
        metrics.observe(&Observation::Handshake { service: BOT, peer, outcome: Err(HandshakeFailure::Cipher) }, &names);
    }
    let seen = text(&metrics);
    assert_eq!(lines(&seen, "miku_net_tls_handshake_failures_total").len(), PEER_LIMIT + 2);
    assert_eq!(
        lines(&seen, "miku_net_tls_handshake_failures_total{peer=\"other\""),
        ["miku_net_tls_handshake_failures_total{peer=\"other\",reason=\"cipher\",service=\"bot\"} 6"]
    );
}

#[test]
fn totals_of_the_kernel_are_counted_by_their_growth() {
    let mut metrics = Metrics::new(&build());
    metrics.lost_total(LostWhere::Ring, 5);
    metrics.observe(&Observation::Lost { at: LostWhere::Ring, count: 100 }, &names());
    metrics.lost_total(LostWhere::Ring, 8);
    metrics.lost_total(LostWhere::Ring, 8);
    // It began anew.
    metrics.lost_total(LostWhere::Ring, 2);
    assert_eq!(
        lines(&text(&metrics), "miku_probe_lost_total{where=\"ring\"}"),
        ["miku_probe_lost_total{where=\"ring\"} 110"]
    );
    assert_eq!(lines(&text(&metrics), "miku_probe_bpf"), Vec::<&str>::new(), "absent while the kernel measures none");

    metrics.bpf_program("sys_enter_read", Nanos(500_000_000), 10);
    metrics.bpf_program("sys_enter_read", Nanos(750_000_000), 30);
    assert_eq!(
        lines(&text(&metrics), "miku_probe_bpf"),
        [
            "miku_probe_bpf_run_seconds_total{program=\"sys_enter_read\"} 0.75",
            "miku_probe_bpf_runs_total{program=\"sys_enter_read\"} 30",
        ]
    );
}

/// The sum over all series of a duration's count, with the number of series.
fn durations(metrics: &Metrics) -> (u64, usize) {
    let families = metrics.registry().gather();
    let families = families.iter().filter(|family| family.name().ends_with("_request_duration_seconds"));
    families
        .flat_map(prometheus::proto::MetricFamily::get_metric)
        .fold((0, 0), |(sum, series), metric| (sum + metric.get_histogram().get_sample_count(), series + 1))
}

#[test]
fn over_the_cap_routes_are_counted_as_other() {
    let mut names = names();
    let routes = ["/a", "/b", "/c", "/d"].map(|route| names.symbols.intern(route));
    let mut metrics = Metrics::with_exchange_limit(&build(), 2);
    for route in routes.into_iter().chain(routes).chain([Symbol::EMPTY]) {
        metrics.observe(&Observation::Exchange(served(route)), &names);
    }
    let text = text(&metrics);
    let count = |route: &str| {
        format!(
            "http_server_request_duration_seconds_count{{http_request_method=\"GET\",\
             http_response_status_code=\"200\",{route}service=\"bot\",url_scheme=\"http\"}}"
        )
    };
    assert_eq!(
        lines(&text, "http_server_request_duration_seconds_count"),
        [
            format!("{} 1", count("")),
            format!("{} 2", count("http_route=\"/a\",")),
            format!("{} 2", count("http_route=\"/b\",")),
            format!("{} 4", count("http_route=\"other\",")),
        ]
    );
    assert_eq!(
        lines(&text, "miku_probe_label_overflow_total"),
        ["miku_probe_label_overflow_total{label=\"http_route\"} 4"]
    );
}

#[test]
fn a_route_that_is_called_other_upstream_shares_the_series_of_the_overflow() {
    let mut names = names();
    let other = names.symbols.intern("other");
    let route = names.symbols.intern("/a");
    let mut metrics = Metrics::with_exchange_limit(&build(), 1);
    metrics.observe(&Observation::Exchange(served(other)), &names);
    metrics.observe(&Observation::Exchange(served(route)), &names);
    assert_eq!(durations(&metrics), (2, 1));
}

#[test]
fn no_flood_of_texts_and_statuses_grows_the_series_past_the_cap_or_loses_a_count() {
    let mut names = names();
    let mut metrics = Metrics::with_exchange_limit(&build(), 100);
    let mut sent = 0;
    for number in 0..4_000_u16 {
        let text = names.symbols.intern(&format!("/{number}"));
        let side = if number % 2 == 0 { Side::Server } else { Side::Client };
        let exchange = Exchange {
            side,
            scheme: if number % 5 == 0 { Scheme::Https } else { Scheme::Http },
            server: text,
            port: number,
            status: Some(number % 1000),
            outcome: if number % 3 == 0 { Outcome::Aborted(AbortReason::Timeout) } else { Outcome::Complete },
            ..served(text)
        };
        metrics.observe(&Observation::Exchange(exchange), &names);
        let transfer = Observation::Bytes {
            service: BOT,
            direction: Direction::In,
            peer: text,
            transport: Transport::Udp,
            bytes: 1,
        };
        metrics.observe(&transfer, &names);
        sent += 1;
    }
    // Services, sides, schemes, outcomes, and whether the status is an error: what is left when all texts are `other`.
    let last = 2 * 2 * 2 * 7;
    let (counted, series) = durations(&metrics);
    assert_eq!(counted, sent);
    assert!(series <= 100 + EXCHANGE_RESERVE + last, "{series} series");
    assert!(metrics.exchanges.len() <= 100 + EXCHANGE_RESERVE + last, "{} keys", metrics.exchanges.len());
    assert_eq!(metrics.transfers.len(), PEER_LIMIT + 1);
    let bytes: u64 = metrics.transfers.values().map(IntCounter::get).sum();
    assert_eq!(bytes, sent);
}
