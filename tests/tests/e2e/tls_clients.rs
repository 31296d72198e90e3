//! Real clients over TLS: what the probe counts of them is what their server counted.

use std::ops::RangeInclusive;

use miku_probe_tests::harness::client::counted_by;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{Python, service};
use miku_probe_tests::harness::secure::{Served, attach, host};
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::{old_python, python};
use crate::tls_stage::{assert_all_matched, assert_asked, clients_on, newer_minor, serve};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(cpython_3_9, Python39),
        case!(cpython_3_10, Python310),
        case!(cpython_3_11, Python311),
        case!(cpython_3_12, Python312),
        case!(cpython_3_13, Python313),
        case!(aiohttp_3_8, OldPython),
        case!(fifty_names_aiohttp, Python),
        case!(fifty_names_requests, Python),
        case!(fifty_names_httpx, Python),
        case!(fifty_names_batched, Python),
        case!(node, Node),
    ];
    // Nobody is asked to have what came after those.
    if newer_minor().is_some() {
        cases.push(case!(cpython_newer, NewerPython));
    }
    cases
}

/// Every way that Python programs have to HTTPS, with what its client is told.
const STACKS: [(&str, &[&str]); 9] = [
    ("http.client", &[]),
    ("urllib3", &[]),
    // Libraries of other versions, which come in the packages: one as a file, one within another library.
    ("pycurl", &[]),
    ("pyopenssl", &[]),
    ("requests", &["--threads", "8"]),
    ("httpx", &[]),
    ("httpx-async", &[]),
    ("aiohttp", &[]),
    ("uvloop", &[]),
];

/// Those of [`STACKS`] that read their sockets within the calls into TLS: whose sockets are known for sure.
const BLOCKING: [&str; 6] = ["http.client", "urllib3", "pycurl", "pyopenssl", "requests", "httpx"];

const REQUESTS: u64 = 300;

/// A service and a host of this name cannot have everything in theirs that a library can.
fn plain_name(library: &str) -> String {
    library.replace('.', "-")
}

/// All stacks at once, each a service of one probe and under a name of its own at one server.
fn exact(python: &Python, stacks: &[(&str, &[&str])]) {
    let server = serve();
    let requests = REQUESTS.to_string();
    let mut clients: Vec<(String, Process)> = Vec::new();
    for (library, options) in stacks {
        let name = plain_name(library);
        let mut command = server.client(python, library, &host(&name), options);
        clients.push((name, Process::start(library, command.args(["--requests", &requests]))));
    }
    for (_, client) in &clients {
        client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    }
    let services: Vec<String> = clients.iter().map(|(name, client)| format!("{name}=pid:{}", client.pid())).collect();
    let probe = attach(&services.iter().map(String::as_str).collect::<Vec<_>>());
    for (_, client) in &mut clients {
        client.tell("go");
    }
    for (name, client) in &clients {
        let (told, answered) = (counted_by(client, PATIENCE), server.truth(&host(name)));
        assert_eq!(told.requests, answered.requests, "{name} and the server agree with one another");
        assert_eq!(told.total(), REQUESTS, "{name}");
        assert_asked(&probe, name, &answered, &host(name), &server.port());
    }
    assert_all_matched(&probe);

    // What went over the network is counted once, and it is what was encrypted.
    let served = server.served();
    let certain = stacks.iter().filter(|(library, _)| BLOCKING.contains(library)).count();
    assert_named(&probe, &served, certain);
    let scrape = probe.scrape();
    let seen = scrape.count("miku_net_tls_handshake_seconds_count", &[]);
    assert_eq!(seen, served.handshakes, "handshakes");
    let took = scrape.sum("miku_net_tls_handshake_seconds_sum", &[]);
    assert!(took > 0.0 && took < 60.0, "all handshakes together took {took} s");
    for (_, mut client) in clients {
        client.finish_input();
        assert!(client.wait(PATIENCE).is_some_and(|status| status.success()), "{}", client.story());
    }
}

fn on(minor: u8) {
    exact(&clients_on(minor).expect("the case needs it"), &STACKS);
}

fn cpython_3_9() {
    on(9);
}

fn cpython_3_10() {
    on(10);
}

fn cpython_3_11() {
    on(11);
}

fn cpython_3_12() {
    on(12);
}

fn cpython_3_13() {
    on(13);
}

fn cpython_newer() {
    on(newer_minor().expect("the case needs it"));
}

fn aiohttp_3_8() {
    exact(&old_python().expect("the case needs it"), &[("aiohttp", &[])]);
}

/// Nothing that was asked of one name is told of another, however much goes on at the same time.
///
/// `bindings` is how many streams are taken to be on a socket, each of which names the encrypted bytes, too: as many as
/// are certain.
fn fifty_names(library: &str, bindings: RangeInclusive<usize>) {
    const NAMES: u64 = 50;
    let server = serve();
    let mut command = python().expect("the case needs it").script("tls_names.py");
    command.args([library, "--port", &server.port(), "--names", &NAMES.to_string()]);
    let mut client = Process::start(library, command.arg("--ca").arg(server.authority().root()));
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let probe = attach(&[&format!("bot=pid:{}", client.pid())]);
    client.tell("go");
    client.wait_said(PATIENCE * 3, |line| (line == "done").then_some(()));

    let served = server.served();
    assert_eq!(served.names.len(), 50);
    let mut all = Truth::default();
    for number in 1..=NAMES {
        let truth = &served.names[&host(&format!("n{number}"))];
        assert_eq!(truth.total(), number, "the client asks each name so many times");
        all.merge(truth);
    }
    probe.assert_agrees(&all, "bot", Side::Client);
    let scrape = probe.scrape();
    let name = "http_client_request_duration_seconds_count";
    for (host, truth) in &served.names {
        let labels = [("service", "bot"), ("server_address", host.as_str()), ("url_scheme", "https")];
        assert_eq!(scrape.count(name, &labels), truth.total(), "of {host}\n{}", probe.told());
    }
    assert_eq!(scrape.count(name, &[]), all.total(), "and of no other\n{}", probe.told());
    assert_all_matched(&probe);
    assert_named(&probe, &served, *bindings.start());
    let told = probe.scrape().count("miku_probe_records_total", &[("kind", "bind")]);
    assert!(told <= *bindings.end() as u64, "{told} bindings were made or undone, {bindings:?} expected");
}

/// Asserts that all encrypted bytes count once: under the name of the server that they were for, or under no name.
fn assert_named(probe: &Probe, served: &Served, certain: usize) {
    const METRIC: &str = "miku_net_bytes_total";
    for (at, direction, all) in [(0, "transmit", served.received), (1, "receive", served.sent)] {
        let labels = [("direction", direction), ("transport", "tcp")];
        let agreed = eventually(PATIENCE, || (probe.scrape().try_count(METRIC, &labels) == Some(all)).then_some(()));
        let scrape = probe.scrape();
        assert!(agreed.is_some(), "{direction}: {all} bytes by the server, {} seen", scrape.count(METRIC, &labels));
        let mut named = scrape.counts_by(METRIC, &labels, &["peer"]);
        named.remove("loopback");
        for (peer, seen) in &named {
            let bytes = served.encrypted.get(peer).unwrap_or_else(|| panic!("nobody asked for {peer}"))[at];
            assert!(*seen <= bytes, "{direction} {peer}: {bytes} bytes by the server, {seen} seen");
        }
        assert!(named.len() >= certain, "{direction}: {certain} names expected, {named:?} seen\n{}", probe.told());
    }
}

fn fifty_names_aiohttp() {
    fifty_names("aiohttp", 40..=50);
}

fn fifty_names_requests() {
    fifty_names("requests", 50..=50);
}

/// What one turn of the event loop receives, the next one decrypts.
fn fifty_names_httpx() {
    fifty_names("httpx", 0..=50);
}

/// All is received before any of it is decrypted, and in another order.
fn fifty_names_batched() {
    // But for the one that is alone at last.
    fifty_names("batched", 0..=1);
}

/// Node, of which the library is in the executable, and which shakes hands by reading and writing.
fn node() {
    let server = serve();
    let name = host("node");
    let mut command = std::process::Command::new("node");
    command.arg(service("tls_node.js")).args([&name, &server.port()]).arg(server.authority().root());
    let mut client = Process::start("node", command.arg(REQUESTS.to_string()));
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    // What its handshakes took by its own clock.
    let ask = |client: &mut Process, times: usize| -> Vec<f64> {
        client.tell("go");
        let nth = || client.said().into_iter().filter(|line| line.starts_with("done ")).nth(times - 1);
        let done = eventually(PATIENCE, nth).unwrap_or_else(|| panic!("it does not ask: {}", client.story()));
        serde_json::from_str(&done["done ".len()..]).expect("the client writes JSON")
    };
    let labels = [("service", "node"), ("peer", &*name)];
    let probe = attach(&[&format!("node=pid:{}", client.pid())]);
    let took = ask(&mut client, 1);
    let truth = server.truth(&name);
    assert_eq!(truth.total(), REQUESTS);
    assert_asked(&probe, "node", &truth, &name, &server.port());
    assert_all_matched(&probe);
    assert_eq!(server.served().handshakes, took.len() as u64, "by the server");
    let scrape = probe.scrape();
    for labels in [&labels[..], &[]] {
        let seen = scrape.count("miku_net_tls_handshake_seconds_count", labels);
        assert_eq!(seen, took.len() as u64, "handshakes of {labels:?}");
    }
    // Its own clock starts and stops in callbacks of their own.
    let (own, seconds) = (took.iter().sum::<f64>(), scrape.sum("miku_net_tls_handshake_seconds_sum", &labels));
    let most = 0.01 * took.len() as f64;
    assert!((own - seconds).abs() < most, "{own} s of handshakes in truth, {seconds} s by the probe");
    probe.stop();

    // Of connections that are there already nothing looks like a handshake.
    let probe = attach(&[&format!("node=pid:{}", client.pid())]);
    let took = ask(&mut client, 2);
    probe.wait_for("requests over connections that were open", |scrape| {
        (scrape.try_count("http_client_request_duration_seconds_count", &[]) == Some(REQUESTS)).then_some(())
    });
    assert_eq!(took.len(), 0, "handshakes by the client");
    probe.scrape().assert_absent("miku_net_tls_handshake_seconds_count", &[]);
}
