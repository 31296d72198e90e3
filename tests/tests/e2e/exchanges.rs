//! Every shape that an exchange may have on the wire.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::truth::{Side, Truth};
use miku_probe_tests::wire::{self, Io, Kind, Socket};

use crate::stage::{Load, Server, watched};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(keep_alive),
        case!(pipelining),
        case!(bodies_and_none),
        case!(split_requests),
        case!(until_close),
        case!(event_stream_lasts_to_its_end),
        case!(first_byte_and_last_byte),
        case!(continue_before_the_answer),
        case!(upgrade_ends_http),
        case!(abort_by_client_in_the_request),
        case!(abort_by_client_while_waiting, Python),
        case!(abort_by_server),
        case!(reset_by_client),
        case!(reset_by_server),
        case!(attach_between_exchanges),
        case!(attach_within_a_request),
        case!(in_flight),
    ]
}

fn exact(options: &[&str]) {
    let (server, probe) = watched(&[]);
    probe.assert_agrees(&server.load(options), "web", Side::Server);
}

fn keep_alive() {
    exact(&["--ask", "/fast", "--ask", "/items/12", "-n", "500", "-c", "1"]);
}

fn pipelining() {
    exact(&[
        "--ask",
        "/fast",
        "--ask",
        "HEAD /items/1",
        "--ask",
        "/status/204",
        "-n",
        "500",
        "-c",
        "4",
        "--pipeline",
        "8",
    ]);
}

fn bodies_and_none() {
    let asks = [
        "HEAD /bytes/5000",
        "/bytes/5000",
        "/status/204",
        "/status/304",
        "/chunked?n=20",
        "/bytes/0",
        "HEAD /chunked",
        "POST /echo",
        "/bytes/700000",
        "DELETE /items/1",
        "PUT /items/1",
        "PATCH /items/1",
        "OPTIONS /fast",
        "/status/500",
        "BREW /fast",
    ];
    let (server, probe) = watched(&[]);
    let options: Vec<&str> = asks.iter().flat_map(|ask| ["--ask", ask]).collect();
    let mut truth = server.load(&[&options[..], &["-n", "300", "-c", "3"]].concat());
    // Methods that nobody has registered are one label value.
    for (key, count) in std::mem::take(&mut truth.requests) {
        let method = if key.method == "BREW" { "_OTHER" } else { &key.method };
        truth.add(method, &key.route, key.status, count);
    }
    probe.assert_agrees(&truth, "web", Side::Server);
}

fn split_requests() {
    let (server, probe) = watched(&[]);
    let mut truth = server.load(&["-n", "1"]);
    for split in ["bytes", "head", "gather"] {
        let options = ["--ask", "POST /echo", "--ask", "PUT /items/5", "-n", "40", "-c", "2", "--split", split];
        truth.merge(&server.load(&[&options[..], &["--body", "700"]].concat()));
        truth.merge(&server.load(&[&options[..], &["--body", "2500", "--chunked"]].concat()));
    }
    truth.merge(&server.load(&["--ask", "/fast", "-n", "40", "-c", "2", "--split", "bytes"]));
    truth.merge(&server.load(&["--ask", "POST /echo", "-n", "20", "-c", "2", "--body", "200000", "--io", "vectored"]));
    truth.merge(&server.load(&["--ask", "POST /echo", "-n", "20", "-c", "2", "--body", "200000", "--io", "message"]));
    probe.assert_agrees(&truth, "web", Side::Server);
}

fn until_close() {
    exact(&["--ask", "/close", "-n", "40", "-c", "2", "--close"]);
}

fn event_stream_lasts_to_its_end() {
    let (server, probe) = watched(&[]);
    let truth = server.load(&["--ask", "/sse?n=10&ms=50", "-n", "2", "-c", "2", "--durations"]);
    probe.assert_agrees(&truth, "web", Side::Server);
    let scrape = probe.scrape();
    let labels = [("service", "web"), ("http_route", "/sse")];
    let seen = scrape.sum("http_server_request_duration_seconds_sum", &labels);
    let told = truth.durations.iter().sum::<f64>();
    assert!((1.0..=told).contains(&seen), "two streams of 0.5 s: {told} s by the client, {seen} s by the probe");
    assert_eq!(scrape.count("miku_http_time_to_first_byte_seconds_count", &labels), 2);
    let first = scrape.sum("miku_http_time_to_first_byte_seconds_sum", &labels);
    assert!(first > 0.0 && first < 0.1, "the heads go out at once, the probe saw them after {first} s together");
}

fn first_byte_and_last_byte() {
    let (server, probe) = watched(&[]);
    let truth = server.load(&["--ask", "/slow?ms=60", "-n", "10", "-c", "2", "--durations"]);
    probe.assert_agrees(&truth, "web", Side::Server);
    let scrape = probe.scrape();
    let labels = [("service", "web"), ("http_route", "/slow")];
    let mut slow: Vec<f64> = truth.durations.clone();
    slow.sort_by(f64::total_cmp);
    // The quickest is the one request that did not go to the slow route.
    let told = slow[1..].iter().sum::<f64>() / 10.0;
    for name in ["http_server_request_duration_seconds", "miku_http_time_to_first_byte_seconds"] {
        let seen = scrape.sum(&format!("{name}_sum"), &labels) / 10.0;
        assert!((0.06..told).contains(&seen), "{name}: the server sleeps for 0.06 s, {told} s by the client, {seen} s");
        assert_eq!(scrape.count(&format!("{name}_count"), &labels), 10);
        let bucket = |bound: &str| scrape.count(&format!("{name}_bucket"), &[&labels[..], &[("le", bound)]].concat());
        assert_eq!((bucket("0.05"), bucket("+Inf")), (0, 10), "{name}");
    }
}

/// Opens a connection of the case's own.
fn connect(server: &Server) -> Socket {
    let socket = Socket::connect(&server.address, Io::RecvSend).expect("the server listens");
    socket.set_read_timeout(Duration::from_secs(10)).expect("a socket takes a timeout");
    socket
}

fn one(method: &str, target: &str, status: u16) -> Truth {
    let mut truth = Truth::default();
    truth.add(method, target, status, 1);
    truth
}

fn continue_before_the_answer() {
    let (server, probe) = watched(&[]);
    let mut socket = connect(&server);
    let mut buffer = Vec::new();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).expect("the server reads");
    let interim = wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server says to go on");
    assert_eq!(interim.head.status().expect("a status"), 100);
    std::thread::sleep(Duration::from_millis(60));
    socket.write_all(b"hello").expect("the server reads");
    let answer = wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server answers");
    assert_eq!(answer.body, b"hello");
    let mut truth = one("POST", "/echo", 200);
    truth.request_bytes = Some(head.len() as u64 + 5);
    truth.response_bytes = Some((interim.length + answer.length) as u64);
    probe.assert_agrees(&truth, "web", Side::Server);
    let scrape = probe.scrape();
    assert_eq!(scrape.count("miku_http_time_to_first_byte_seconds_count", &[("service", "web")]), 1);
    let first = scrape.sum("miku_http_time_to_first_byte_seconds_sum", &[("service", "web")]);
    assert!(first >= 0.06, "an interim answer is no first byte, but it was taken as one after {first} s");
}

fn upgrade_ends_http() {
    let (server, probe) = watched(&[]);
    let mut socket = connect(&server);
    let mut buffer = Vec::new();
    socket
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
        .expect("sent");
    let answer = wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server upgrades");
    assert_eq!(answer.head.status().expect("a status"), 101);
    // What looks like requests and answers now is neither.
    for _ in 0..3 {
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("the server reads");
        wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server sends it back");
    }
    let mut truth = one("GET", "/upgrade", 101);
    truth.merge(&server.load(&["-n", "5"]));
    probe.assert_agrees(&truth, "web", Side::Server);
    let server = [("service", "web"), ("side", "server")];
    assert_eq!(probe.scrape().value("miku_http_requests_in_flight", &server), 0.0);
}

/// Waits until exactly one exchange was counted as aborted, for this reason.
fn assert_aborted(probe: &Probe, side: &str, reason: &str) {
    let aborted = probe.wait_for("an aborted exchange", |scrape| {
        let aborted = scrape.counts_by("miku_http_aborted_total", &[], &["side", "reason"]);
        (!aborted.is_empty()).then_some(aborted)
    });
    assert_eq!(aborted, BTreeMap::from([(format!("{side} {reason}"), 1)]));
    probe.wait_for("an end of what is in flight", |scrape| {
        (scrape.try_value("miku_http_requests_in_flight", &[]) == Some(0.0)).then_some(())
    });
}

fn abort_by_client_in_the_request() {
    let (server, probe) = watched(&[]);
    let mut socket = connect(&server);
    socket.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nonly so much").expect("sent");
    drop(socket);
    assert_aborted(&probe, "server", "client_closed");
    // The next one is none the worse for it.
    let truth = server.load(&["-n", "20"]);
    probe.wait_for("what came after", |scrape| {
        let labels = [("service", "web"), ("http_response_status_code", "200")];
        (scrape.try_count("http_server_request_duration_seconds_count", &labels) == Some(truth.total())).then_some(())
    });
}

fn abort_by_client_while_waiting() {
    let server = Server::fastapi(&[]);
    let probe = Probe::attach(&[&server.service("web")]);
    let mut socket = connect(&server);
    socket.write_all(b"GET /slow?ms=30000 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    probe.wait_for("the request in flight", |scrape| {
        (scrape.try_value("miku_http_requests_in_flight", &[("side", "server")]) == Some(1.0)).then_some(())
    });
    drop(socket);
    assert_aborted(&probe, "server", "client_closed");
}

fn abort_by_server() {
    let (server, probe) = watched(&[]);
    let answer = wire::get(&server.address, "/abort", "");
    assert!(answer.is_err(), "the server was to cut its answer short, but sent {answer:?}");
    assert_aborted(&probe, "server", "server_closed");
}

fn reset_by_client() {
    let (server, probe) = watched(&[]);
    let mut socket = connect(&server);
    socket.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nonly so much").expect("sent");
    probe.wait_for("the request in flight", |scrape| {
        (scrape.try_value("miku_http_requests_in_flight", &[("side", "server")]) == Some(1.0)).then_some(())
    });
    socket.reset_on_close().expect("a socket can be told to");
    drop(socket);
    assert_aborted(&probe, "server", "reset");
}

/// The client is the one who sees a server's reset.
fn reset_by_server() {
    let server = Server::peer(&[]);
    let mut load = Load::start(&server.address, &["--ask", "/reset?ms=20", "-n", "1", "-c", "1", "--warm-up", "0"]);
    load.wait_ready();
    let probe = Probe::attach(&[&format!("bot=pid:{}", load.process.pid())]);
    load.go();
    assert_aborted(&probe, "client", "reset");
}

/// Connections that were there before the probe are exact from their next request on.
fn attach_between_exchanges() {
    let server = Server::peer(&[]);
    let options = ["--ask", "/fast", "--ask", "/items/3", "-n", "400", "-c", "12", "--warm-up", "3"];
    let mut load = Load::start(&server.address, &options);
    load.wait_ready();
    let probe = Probe::attach(&[&server.service("web"), &format!("bot=pid:{}", load.process.pid())]);
    load.go();
    let client = load.process.pid();
    let truth = load.truth();
    probe.assert_agrees(&truth, "web", Side::Server);
    let scrape = probe.scrape();
    let port = server.port().to_string();
    let labels = [("service", "bot"), ("server_address", "127.0.0.1"), ("server_port", &port)];
    let seen = scrape.count("http_client_request_duration_seconds_count", &labels);
    assert_eq!(seen, truth.total(), "of the client {client}");
}

/// Half a request that was sent before the probe came is not guessed at; what follows it is exact.
fn attach_within_a_request() {
    let server = Server::peer(&[]);
    let mut socket = connect(&server);
    socket.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n0123456789").expect("sent");
    let probe = Probe::attach(&[&server.service("web")]);
    socket.write_all(b"0123456789").expect("sent");
    let mut buffer = Vec::new();
    wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server answers");
    for _ in 0..3 {
        socket.write_all(b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        wire::answer(&mut socket, &mut buffer, Kind::Answer).expect("the server answers");
    }
    let mut truth = Truth::default();
    truth.add("GET", "/fast", 200, 3);
    probe.assert_agrees(&truth, "web", Side::Server);
    let unmatched = probe.scrape().counts_by("miku_probe_unmatched_total", &[], &["protocol", "reason"]);
    // Of the rest of the request it cannot be told that it is one; its answer shows that one was missed.
    let half = BTreeMap::from([("http1 response_without_request".to_owned(), 1)]);
    assert_eq!(unmatched, half, "the half request is reported");
}

fn in_flight() {
    let (server, probe) = watched(&[]);
    let mut sockets: Vec<Socket> = (0..3).map(|_| connect(&server)).collect();
    let start = Instant::now();
    for socket in &mut sockets {
        socket.write_all(b"GET /slow?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    }
    let labels = [("service", "web"), ("side", "server")];
    let in_flight = |wanted: f64| {
        probe.wait_for(&format!("{wanted} in flight"), |scrape| {
            (scrape.try_value("miku_http_requests_in_flight", &labels) == Some(wanted)).then_some(())
        });
    };
    in_flight(3.0);
    assert!(start.elapsed() < Duration::from_millis(1500), "they showed only after they had ended");
    for socket in &mut sockets {
        wire::answer(socket, &mut Vec::new(), Kind::Answer).expect("the server answers");
    }
    in_flight(0.0);
}
