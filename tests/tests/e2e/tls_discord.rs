//! discord.py on its way through Discord's REST API: routes without ids, and what its rate limits cost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::path::Path;

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::{Process, free_port};
use miku_probe_tests::harness::secure::attach;
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::Value;

use crate::tls_stage::{assert_all_matched, discord};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(routes_and_limits, Discord)]
}

const COUNT: &str = "http_client_request_duration_seconds_count";

/// One request as the stand-in wrote it down.
struct Entry {
    method: String,
    route: String,
    path: String,
    status: u64,
    received: f64,
    answered: f64,
    /// What remains of the route's quota.
    ratio: f64,
    /// Whose limit it was, with status 429.
    scope: Option<String>,
}

fn log(path: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(path).expect("the stand-in writes its log");
    let entry = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("the stand-in writes JSON");
        let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("no {name} in {line}")).to_owned();
        let number = |name: &str| value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}"));
        Entry {
            method: text("method"),
            route: text("route"),
            path: text("path"),
            status: value["status"].as_u64().expect("a status"),
            received: number("received"),
            answered: number("answered"),
            ratio: number("remaining") / number("limit"),
            scope: value["scope"].as_str().map(str::to_owned),
        }
    };
    text.lines().map(entry).collect()
}

fn stand_in(authority: &Authority, log: &Path) -> (Process, u16) {
    let port = free_port();
    let mut command = discord().expect("the case needs it").script("discord_rest.py");
    command.args(["--port", &port.to_string()]).arg("--log").arg(log);
    command.arg("--ssl-certfile").arg(authority.certificate()).arg("--ssl-keyfile").arg(authority.key());
    let process = Process::start("the stand-in", &mut command);
    let listens = || TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
    eventually(PATIENCE, listens).unwrap_or_else(|| panic!("nobody listens: {}", process.story()));
    (process, port)
}

/// Sums of samples by labels, for a comparison that shows all of both sides when it fails.
fn told(probe: &Probe, name: &str, labels: &[&str]) -> BTreeMap<String, f64> {
    let scrape = probe.scrape();
    let mut sums = BTreeMap::new();
    for sample in scrape.matching(name, &[("service", "bot")]) {
        let key: Vec<&str> = labels.iter().map(|label| sample.label(label)).collect();
        *sums.entry(key.join(" ")).or_default() += sample.value;
    }
    sums
}

fn routes_and_limits() {
    let authority = Authority::new().expect("certificates can be made");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let (stand_in, port) = stand_in(&authority, &path);
    let mut command = discord().expect("the case needs it").script("discord_client.py");
    let mut client =
        Process::start("discord.py", command.args(["--port", &port.to_string()]).arg("--ca").arg(authority.root()));
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let probe = attach(&[&format!("bot=pid:{}", client.pid())]);
    client.tell("go");
    client.wait_said(PATIENCE, |line| (line == "done").then_some(()));
    drop(stand_in);
    let log = log(&path);

    let mut requests: BTreeMap<String, f64> = BTreeMap::new();
    let mut limited: BTreeMap<String, f64> = BTreeMap::new();
    let mut waited: BTreeMap<String, f64> = BTreeMap::new();
    let mut remaining: BTreeMap<String, f64> = BTreeMap::new();
    for (place, entry) in log.iter().enumerate() {
        *requests.entry(format!("{} {} {}", entry.method, entry.route, entry.status)).or_default() += 1.0;
        remaining.insert(entry.route.clone(), entry.ratio);
        if let Some(scope) = &entry.scope {
            *limited.entry(format!("{scope} {}", entry.route)).or_default() += 1.0;
            // What the library slept is what lies between the refusal and the same request's coming again.
            let again = |next: &&Entry| (&next.method, &next.path) == (&entry.method, &entry.path);
            let next = log[place + 1..].iter().find(again).expect("the library tries again");
            *waited.entry(entry.route.clone()).or_default() += next.received - entry.answered;
        }
    }
    assert!(log.len() > 50 && limited.len() == 4, "{} requests, and refused were {limited:?}", log.len());

    let labels = ["http_request_method", "http_route", "http_response_status_code"];
    let mut seen = BTreeMap::new();
    let agreed = eventually(PATIENCE, || {
        seen = told(&probe, COUNT, &labels);
        (seen == requests).then_some(())
    });
    assert!(agreed.is_some(), "{requests:#?} in the log, {seen:#?} in the metrics");
    assert_eq!(
        told(&probe, COUNT, &["server_address", "url_scheme"]).keys().collect::<Vec<_>>(),
        ["discord.com https"]
    );
    assert_eq!(told(&probe, "miku_discord_rate_limited_total", &["scope", "http_route"]), limited);

    let seen = told(&probe, "miku_discord_rate_limit_wait_seconds_total", &["http_route"]);
    assert_eq!(seen.keys().collect::<Vec<_>>(), waited.keys().collect::<Vec<_>>(), "routes on which it waited");
    for (route, seconds) in &waited {
        let off = (seen[route] - seconds).abs();
        assert!(off < 0.05 + seconds * 0.05, "{route}: {seconds} s by the log, {} s by the probe", seen[route]);
    }
    // Methods of one route have quotas of their own, and which was the last to answer is the label's business.
    let ratios = told(&probe, "miku_discord_rate_limit_remaining_ratio", &["http_route"]);
    for (route, ratio) in &remaining {
        let methods = log.iter().filter(|entry| entry.route == *route).map(|entry| &entry.method);
        let one = methods.collect::<BTreeSet<_>>().len() == 1;
        let seen = ratios.get(route).unwrap_or_else(|| panic!("no quota of {route} in {ratios:?}"));
        assert!((0.0..=1.0).contains(seen), "{route}: {seen}");
        assert!(!one || (seen - ratio).abs() < 1e-9, "{route}: {ratio} in the log, {seen} in the metrics");
    }
    assert_all_matched(&probe);
}
