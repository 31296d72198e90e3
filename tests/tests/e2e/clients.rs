//! Real clients: what the probe counts and times of them is what they counted and timed themselves.

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::client::counted_by;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::{Server, old_python, python};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(aiohttp_3_8, OldPython),
        case!(aiohttp_current, Python),
        case!(httpx_sync, Python),
        case!(httpx_async, Python),
        case!(requests, Python),
        case!(http_client, Python),
    ]
}

/// How much of its time on either end a clock may count to the other's, on average, in seconds.
const CLOCKS: f64 = 0.001;

fn exact(python: &Python, library: &str) {
    let server = Server::peer(&[]);
    let port = server.port().to_string();
    let mut command = python.script("client.py");
    let mut client = Process::start(library, command.args([library, "--port", &port, "--requests", "60"]));
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let probe = Probe::attach(&[&format!("bot=pid:{}", client.pid())]);
    client.tell("go");
    let told = counted_by(&client, PATIENCE);

    let answered = server.truth();
    let truth = Truth { request_bytes: answered.request_bytes, response_bytes: answered.response_bytes, ..told };
    assert_eq!(truth.requests, answered.requests, "client and server agree with one another");
    assert_eq!(truth.total(), 60);
    probe.assert_agrees(&truth, "bot", Side::Client);

    let scrape = probe.scrape();
    let labels = [("service", "bot"), ("server_address", "127.0.0.1"), ("server_port", &port), ("url_scheme", "http")];
    assert_eq!(scrape.count("http_client_request_duration_seconds_count", &labels), 60, "with {labels:?}");
    let seen = scrape.sum("http_client_request_duration_seconds_sum", &labels) / 60.0;
    let told = truth.mean().expect("sixty of them");
    // What the client's socket sees lies between what the server and what the client's code see.
    let served = answered.mean().expect("the server times its answers");
    assert!(
        (served - CLOCKS..=told + CLOCKS).contains(&seen),
        "mean: {served} s by the server, {seen} s by the probe, {told} s by the client"
    );
    // The client serves nobody.
    scrape.assert_absent("http_server_request_duration_seconds_count", &[]);
    client.finish_input();
}

fn aiohttp_3_8() {
    exact(&old_python().expect("the case needs it"), "aiohttp");
}

fn aiohttp_current() {
    exact(&python().expect("the case needs it"), "aiohttp");
}

fn httpx_sync() {
    exact(&python().expect("the case needs it"), "httpx");
}

fn httpx_async() {
    exact(&python().expect("the case needs it"), "httpx-async");
}

fn requests() {
    exact(&python().expect("the case needs it"), "requests");
}

fn http_client() {
    exact(&python().expect("the case needs it"), "http.client");
}
