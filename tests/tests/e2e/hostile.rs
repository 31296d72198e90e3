//! Whatever comes off the wire is somebody's who may mean harm.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::kernel;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;

use crate::stage::{PEER, Server, watched};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(bytes), case!(bytes_at_a_real_server, Python), case!(random_paths), case!(random_hosts)]
}

/// What the probe may ever have resident.
const MEMORY: u64 = 40 << 20;

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
    let count = |probe: &Probe| {
        let labels = [("http_route", "/fast"), ("http_response_status_code", "200")];
        probe.scrape().count("http_server_request_duration_seconds_count", &labels)
    };
    // The flood may have had answers that nobody read, but it asked for another path.
    let before = count(probe);
    let truth = server.load(&["--ask", "/fast", "-n", "500", "-c", "8"]);
    probe.wait_for("good requests after bad ones", |_| (count(probe) == before + truth.total() - 1).then_some(()));
    assert!(probe.process().alive());
    let resident = kernel::resident_bytes(probe.pid());
    assert!(resident < MEMORY, "the probe has {resident} bytes resident");
    assert_eq!(probe.scrape().sum("miku_probe_lost_total", &[("where", "ring")]), 0.0);
    let series = probe.scrape().samples.len();
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

fn routes(probe: &Probe) -> BTreeSet<String> {
    let scrape = probe.scrape();
    let counts = scrape.matching("http_server_request_duration_seconds_count", &[("service", "web")]);
    counts.map(|sample| sample.label("http_route").to_owned()).collect()
}

/// However many paths there are, the label has its cap, and none is counted twice or not at all.
fn random_paths() {
    let (server, mut probe) = watched(&["--writers", "0"]);
    let truth = server.load(&["--ask", "/", "--random-paths", "-n", "10000", "-c", "16"]);
    probe.wait_for("all requests", |scrape| {
        let seen = scrape.count("http_server_request_duration_seconds_count", &[("service", "web")]);
        (seen == truth.total()).then_some(())
    });
    let routes = routes(&probe);
    assert!(routes.len() <= 1000, "{} routes", routes.len());
    assert!(routes.contains("other"), "the rest counts under `other`: {routes:?}");
    assert!(probe.scrape().sum("miku_probe_label_overflow_total", &[("label", "http_route")]) > 0.0);
    // Paths that are new after the cap are no trouble either.
    let more = server.load(&["--ask", "/more", "--random-paths", "-n", "500", "-c", "4"]);
    probe.wait_for("all requests", |scrape| {
        let seen = scrape.count("http_server_request_duration_seconds_count", &[("service", "web")]);
        (seen == truth.total() + more.total()).then_some(())
    });
    let resident = kernel::resident_bytes(probe.pid());
    assert!(resident < MEMORY, "the probe has {resident} bytes resident");
    assert!(probe.process().alive());
    assert_eq!(probe.scrape().sum("miku_probe_lost_total", &[]), 0.0);
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
    probe.wait_for("all requests", |scrape| (scrape.count(name, &[("service", "bot")]) == truth.total()).then_some(()));
    let scrape = probe.scrape();
    let hosts: BTreeSet<&str> = scrape.matching(name, &[]).map(|sample| sample.label("server_address")).collect();
    assert!(hosts.len() <= 200, "{} servers", hosts.len());
    assert!(hosts.contains("other"), "the rest counts under `other`: {hosts:?}");
}
