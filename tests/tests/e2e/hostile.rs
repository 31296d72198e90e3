//! Whatever comes off the wire is somebody's who may mean harm.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::kernel;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::truth::{Key, Side, counted};

use crate::stage::{PEER, Server, watched};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(bytes),
        case!(bytes_at_a_real_server, Python),
        case!(random_paths),
        case!(random_hosts),
        case!(losses_are_told),
    ]
}

/// What the probe may ever have resident.
const MEMORY: u64 = 40 << 20;

/// How many values a label off the wire may have, beside `other`.
const LABELS: usize = 100;

fn mischief(server: &Server, times: u64, io: &str) {
    let mut command = Command::new(PEER);
    let times = times.to_string();
    command.args(["hostile", &server.address.to_string(), "--times", &times, "--seed", "39", "--io", io]);
    let mut process = Process::start("mischief", &mut command);
    let status = process.wait(Duration::from_secs(60)).expect("mischief comes to an end");
    assert!(status.success(), "{}", process.story());
}

/// After all that, good requests are still counted exactly, and the probe is no larger than it may be.
fn assert_unharmed(server: &Server, probe: &mut Probe) {
    const COUNT: u64 = 500;
    let name = "http_server_request_duration_seconds_count";
    let labels = [("http_route", "/fast"), ("http_response_status_code", "200")];
    // The flood may have had answers that nobody read, but it asked for another path.
    probe.scrape().assert_absent(name, &labels);
    server.load(&["--ask", "/fast", "-n", &COUNT.to_string(), "-c", "8"]);
    probe.wait_for("good requests after bad ones", |scrape| {
        (scrape.try_count(name, &labels) == Some(COUNT)).then_some(())
    });
    assert!(probe.process().alive());
    let resident = kernel::resident_bytes(probe.pid());
    assert!(resident < MEMORY, "the probe has {resident} bytes resident");
    assert_eq!(probe.scrape().count("miku_probe_lost_total", &[("where", "ring")]), 0);
    let series = probe.scrape().len();
    assert!(series < 5000, "{series} series");
}

fn bytes() {
    let (server, mut probe) = watched(&[]);
    mischief(&server, 10, "recv-send");
    mischief(&server, 3, "vectored");
    assert_unharmed(&server, &mut probe);
}

fn bytes_at_a_real_server() {
    let server = Server::fastapi(&["--http", "httptools", "--loop", "uvloop"]);
    let mut probe = Probe::attach(&[&server.service("web")]);
    mischief(&server, 4, "recv-send");
    assert_unharmed(&server, &mut probe);
}

/// However many paths there are, the label has its cap, and none is counted twice or not at all.
fn random_paths() {
    let (server, mut probe) = watched(&["--writers", "0"]);
    // The server takes the first part for the route and answers 200.
    let truth = server.load(&["--ask", "/fast", "--random-paths", "-n", "10000", "-c", "16"]);
    probe.wait_for("all requests", |scrape| {
        let seen = scrape.try_count("http_server_request_duration_seconds_count", &[("service", "web")]);
        (seen == Some(truth.total())).then_some(())
    });
    let scrape = probe.scrape();
    let routes = scrape.counts_by("http_server_request_duration_seconds_count", &[("service", "web")], &["http_route"]);
    assert_eq!(routes.len(), LABELS + 1, "routes: {routes:?}");
    let over = scrape.count("miku_probe_label_overflow_total", &[("label", "http_route")]);
    assert_eq!(routes.get("other"), Some(&over), "the rest counts under `other`");
    // Paths that nobody serves take no place at all.
    let more = server.load(&["--ask", "/", "--random-paths", "-n", "500", "-c", "4"]);
    probe.wait_for("all requests", |scrape| {
        let seen = scrape.count("http_server_request_duration_seconds_count", &[("service", "web")]);
        (seen == truth.total() + more.total()).then_some(())
    });
    let resident = kernel::resident_bytes(probe.pid());
    assert!(resident < MEMORY, "the probe has {resident} bytes resident");
    assert!(probe.process().alive());
    assert_eq!(probe.scrape().count("miku_probe_lost_total", &[("where", "ring")]), 0);
}

/// The names of servers come off the wire too, at a client.
fn random_hosts() {
    let server = Server::peer(&[]);
    let mut load = crate::stage::Load::start(
        &server.address,
        &["--ask", "/fast", "--random-hosts", "-n", "3000", "-c", "4", "--warm-up", "0"],
    );
    load.wait_ready();
    let probe = Probe::attach(&[&format!("bot=pid:{}", load.process.pid())]);
    load.go();
    let truth = load.truth();
    let name = "http_client_request_duration_seconds_count";
    probe.wait_for("all requests", |scrape| {
        (scrape.try_count(name, &[("service", "bot")]) == Some(truth.total())).then_some(())
    });
    let scrape = probe.scrape();
    let hosts = scrape.counts_by(name, &[], &["server_address"]);
    assert_eq!(hosts.len(), LABELS + 1, "servers: {hosts:?}");
    let over = scrape.count("miku_probe_label_overflow_total", &[("label", "server_address")]);
    assert_eq!(hosts.get("other"), Some(&over), "the rest counts under `other`");
}

/// A small ring that nobody empties for a while loses records. What is lost is told, nothing is invented in its place, and what comes
/// afterwards is exact again.
fn losses_are_told() {
    let server = Server::peer(&["--writers", "0"]);
    let mut probe = Probe::launch(&[&server.service("web")], &["--limit.ring-bytes", "65536"]);
    probe.wait_target("web");
    probe.process().signal(libc::SIGSTOP);
    let options = ["--ask", "POST /echo", "--body", "1000", "-n", "4000", "-c", "32"];
    let flood = server.load(&options);
    probe.process().signal(libc::SIGCONT);
    probe.wait_for("losses", |scrape| (scrape.count("miku_probe_lost_total", &[("where", "ring")]) > 0).then_some(()));
    let calm = server.load(&["--ask", "/calm/200", "-n", "40", "-c", "1", "--rate", "200"]);
    probe.wait_for("what came afterwards", |scrape| {
        let labels = [("http_response_status_code", "404")];
        (scrape.try_count("http_server_request_duration_seconds_count", &labels) == Some(40)).then_some(())
    });
    let scrape = probe.scrape();
    let lost = scrape.count("miku_probe_lost_total", &[("where", "ring")]);
    let key = |key: &Key| (key.method.clone(), key.status);
    let told: BTreeSet<_> = flood.requests.keys().chain(calm.requests.keys()).map(key).collect();
    for (seen, count) in counted(&scrape, "web", Side::Server) {
        // Without a status, it is told that none is known.
        assert!(
            seen.status == 0 || told.contains(&key(&seen)),
            "{seen} was invented, {count} times:\n{}",
            probe.told()
        );
    }
    // None was aborted.
    scrape.assert_absent("miku_http_aborted_total", &[]);
    let labels = [("http_request_method", "POST"), ("http_response_status_code", "200")];
    let seen = scrape.count("http_server_request_duration_seconds_count", &labels);
    assert!(seen <= 4000, "{seen} of 4000 were seen");
    eprintln!("{seen} of 4000 seen, {lost} records lost");
}
