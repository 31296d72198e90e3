//! Real servers: what the probe counts of them is what their clients counted.

use std::collections::BTreeSet;
use std::fs;

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::{PATIENCE, eventually, kernel};
use miku_probe_tests::truth::{Side, Truth};
use serde_json::Value;

use crate::stage::{Server, load};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(uvicorn_h11, Python),
        case!(uvicorn_httptools, Python),
        case!(uvicorn_uvloop, Python),
        case!(uvicorn_unix_socket, Python),
        case!(uvicorn_latency, Python),
        case!(uvicorn_workers, Python),
        case!(aiohttp_server, Python),
        case!(thread_hopping_server),
        case!(gathering_servers),
        case!(unix_socket),
        case!(many_connections),
    ]
}

/// What every server here answers.
const MIX: [&str; 12] = [
    "--ask",
    "/fast",
    "--ask",
    "/items/7",
    "--ask",
    "/status/404",
    "--ask",
    "/slow?ms=2",
    "--ask",
    "POST /echo",
    "--ask",
    "/sse?n=3&ms=1",
];

fn exact(server: &Server) {
    let probe = Probe::attach(&[&server.service("web")]);
    let mut truth = server.load(&[&MIX[..], &["-n", "1200", "-c", "16"]].concat());
    truth.merge(&server.load(&["--ask", "POST /echo", "--body", "300000", "-n", "20", "-c", "2"]));
    truth.merge(&server.load(&["--ask", "POST /echo", "--body", "5000", "--chunked", "-n", "20", "-c", "2"]));
    truth.merge(&server.load(&["--ask", "/fast", "--close", "-n", "100", "-c", "4"]));
    probe.assert_agrees(&truth, "web", Side::Server);
    assert!(probe.stop().success());
}

fn uvicorn_h11() {
    exact(&Server::fastapi(&["--http", "h11"]));
}

fn uvicorn_httptools() {
    exact(&Server::fastapi(&["--http", "httptools"]));
}

fn uvicorn_uvloop() {
    exact(&Server::fastapi(&["--http", "httptools", "--loop", "uvloop"]));
}

fn uvicorn_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    exact(&Server::fastapi_unix(&folder.path().join("socket")));
}

fn aiohttp_server() {
    exact(&Server::aiohttp());
}

fn thread_hopping_server() {
    exact(&Server::peer(&[]));
    exact(&Server::peer(&["--accept-null", "--writers", "0", "--io", "recv-send"]));
}

fn gathering_servers() {
    exact(&Server::peer(&["--io", "vectored"]));
    exact(&Server::peer(&["--io", "message"]));
}

fn unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    exact(&Server::peer(&["--listen", &address]));
}

/// Many connections that are open at once, in a server that is faster than any Python.
fn many_connections() {
    let server = Server::peer(&["--writers", "0"]);
    let probe = Probe::attach(&[&server.service("web")]);
    let truth = server.load(&["--ask", "/fast", "--ask", "/status/204", "-n", "20000", "-c", "800", "--threads", "8"]);
    probe.assert_agrees(&truth, "web", Side::Server);
}

/// The service's own log of its requests.
fn log(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("the middleware writes JSON")).collect()
}

/// How far one mean may be outside of two others that three processes take by clocks of their own, in seconds: on a busy
/// machine each may have to wait for a CPU between an event and its look at the clock.
const CLOCKS: f64 = 0.0005;

/// What the service's socket sees lies between what its own middleware and what its client see.
fn uvicorn_latency() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let server = Server::fastapi(&["--http", "httptools", "--truth", path.to_str().expect("a path in UTF-8")]);
    let probe = Probe::attach(&[&server.service("web")]);
    let truth = load(&server.address, &["--ask", "/slow?ms=20", "-n", "60", "-c", "2", "--durations"]);
    probe.assert_agrees(&truth, "web", Side::Server);
    let inside: Vec<f64> = log(&path).iter().filter_map(|entry| entry["seconds"].as_f64()).collect();
    assert_eq!(inside.len(), 60, "the middleware saw every request");
    let inside = inside.iter().sum::<f64>() / 60.0;
    let seen = probe.scrape().sum("http_server_request_duration_seconds_sum", &[("service", "web")]) / 60.0;
    let outside = truth.mean().expect("the load generator timed them");
    assert!(seen >= 0.02, "the service sleeps for 20 ms, and the probe saw {seen} s");
    assert!(
        (inside - CLOCKS..=outside + CLOCKS).contains(&seen),
        "mean: {inside} s by the middleware, {seen} s by the probe, {outside} s by the client"
    );
}

/// Workers are followed from their birth, those that come instead of dead ones too.
fn uvicorn_workers() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let server = Server::fastapi(&["--workers", "2", "--truth", path.to_str().expect("a path in UTF-8")]);
    let probe = Probe::attach(&[&server.service("web")]);
    let served_by = || log(&path).iter().filter_map(|entry| entry["pid"].as_u64()).collect::<BTreeSet<_>>();
    let mut truth = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
    let ask = |truth: &mut Truth, workers: usize| {
        let all = eventually(PATIENCE, || {
            truth.merge(&load(&server.address, &["--ask", "/slow?ms=2", "--close", "-n", "40", "-c", "8"]));
            (served_by().len() >= workers).then_some(())
        });
        all.unwrap_or_else(|| panic!("only {:?} served: {}", served_by(), server.process.story()));
    };
    ask(&mut truth, 2);
    probe.assert_agrees(&truth, "web", Side::Server);
    let first = u32::try_from(*served_by().first().expect("two of them")).expect("a pid");
    let before: BTreeSet<u32> = kernel::children(server.process.pid()).into_iter().collect();
    assert!(before.contains(&first), "worker {first} is a child of uvicorn: {before:?}");
    // SAFETY: this worker was started by this case's own server, which has not waited for it.
    unsafe { libc::kill(first.cast_signed(), libc::SIGKILL) };
    let replaced = eventually(PATIENCE, || {
        let now: BTreeSet<u32> = kernel::children(server.process.pid()).into_iter().collect();
        (!now.contains(&first) && now.difference(&before).next().is_some()).then_some(())
    });
    replaced.unwrap_or_else(|| panic!("worker {first} was not replaced: {}", server.process.story()));
    ask(&mut truth, 3);
    probe.assert_agrees(&truth, "web", Side::Server);
}
