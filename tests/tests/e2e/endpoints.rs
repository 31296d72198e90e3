//! What the probe answers, read by others than its authors.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use miku_probe_tests::harness::probe::{Probe, catalogue};
use miku_probe_tests::harness::{PATIENCE, process::Process};
use miku_probe_tests::truth::{Side, Truth, counted, route};
use miku_probe_tests::wire::Message;
use serde_json::Value;

use crate::process::Subject;
use crate::stage::{Config, Server, python, watched};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(metrics_by_other_parsers, Python),
        case!(the_contract),
        case!(health),
        case!(health_by_thresholds),
        case!(pages),
        case!(options),
        case!(configured_routes),
        case!(secrets_stay_out),
    ]
}

fn metrics_by_other_parsers() {
    let (server, probe) = watched(&[]);
    let asks = ["--ask", "/fast", "--ask", "/status/404", "--ask", "POST /items/1", "--ask", "/no%22thing%0A\\here"];
    let truth = server.load(&[&asks[..], &["-n", "80"]].concat());
    probe.wait_for("all requests", |scrape| {
        (scrape.try_count("http_server_request_duration_seconds_count", &[]) == Some(truth.total())).then_some(())
    });
    let mut command = python().expect("the case needs it").script("check_exposition.py");
    let mut check = Process::start("the check", command.arg(format!("http://{}/metrics", probe.address())));
    let status = check.wait(PATIENCE).expect("the check comes to an end");
    assert!(status.success(), "Prometheus's parser: {}", check.story());
    let line = check.wait_said(PATIENCE, |line| serde_json::from_str::<Value>(line).ok());
    assert_eq!(line["types"]["text"], "text/plain; version=0.0.4; charset=utf-8");
    let open = line["types"]["openmetrics"].as_str().expect("a content type");
    assert!(open.starts_with("application/openmetrics-text; version=1.0.0"), "{open:?}");
    let mut seen = Truth::default();
    for sample in line["samples"].as_array().expect("an array") {
        let label = |name: &str| sample[1][name].as_str().unwrap_or("").to_owned();
        if sample[0] == "http_server_request_duration_seconds_count" {
            let status = label("http_response_status_code").parse().expect("a status");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole")]
            let count = sample[2].as_f64().expect("a number") as u64;
            seen.add(&label("http_request_method"), &label("http_route"), status, count);
        }
    }
    assert_eq!(seen.requests, counted(&probe.scrape(), "web", Side::Server), "two parsers, one meaning");
}

/// The names and labels that dashboards rely on.
fn the_contract() {
    let (server, probe) = watched(&[]);
    let truth = server.load(&["--ask", "/items/1", "-n", "10"]);
    probe.assert_agrees(&truth, "web", Side::Server);
    let scrape = probe.scrape();
    let [duration] = scrape.matching("http_server_request_duration_seconds_count", &[])[..] else {
        panic!("all requests are one series: {}", probe.told());
    };
    for (label, value) in [
        ("service", "web"),
        ("http_request_method", "GET"),
        ("http_response_status_code", "200"),
        ("url_scheme", "http"),
    ] {
        assert_eq!(duration.label(label), value, "{label}");
    }
    assert_eq!(route(duration.label("http_route")), "/items/{}");
    // Beside the bound, every bucket has the labels of its series.
    let series_labels: Vec<(&str, &str)> = duration.labels().iter().map(|(name, value)| (&**name, &**value)).collect();
    let buckets = scrape.try_buckets("http_server_request_duration_seconds", &series_labels).expect("it has buckets");
    let contract = ".005 .01 .025 .05 .075 .1 .25 .5 .75 1 2.5 5 7.5 10 30 60 120 300 inf";
    let contract: Vec<f64> = contract.split(' ').map(|text| text.parse().expect("a bound is a number")).collect();
    assert_eq!(buckets.iter().map(|(bound, _)| *bound).collect::<Vec<_>>(), contract);
    assert_eq!(buckets.last().map(|(_, count)| *count), Some(truth.total()));
    for (name, kind) in [
        ("miku_http_time_to_first_byte_seconds", "histogram"),
        ("miku_http_requests_in_flight", "gauge"),
        ("miku_http_request_bytes_total", "counter"),
        ("miku_http_response_bytes_total", "counter"),
        ("miku_net_bytes_total", "counter"),
        ("miku_up", "gauge"),
        ("miku_probe_build_info", "gauge"),
        ("miku_probe_targets", "gauge"),
        ("miku_probe_records_total", "counter"),
        ("miku_probe_lost_total", "counter"),
        ("miku_probe_delivery_seconds", "histogram"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_cpu_seconds_total", "counter"),
    ] {
        assert_eq!(catalogue().family(name).kind(), kind, "{name}");
        let sample = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        assert!(!scrape.matching(&sample, &[]).is_empty(), "it is exported from the first request on");
    }
    assert_eq!(scrape.count("miku_probe_targets", &[("service", "web"), ("state", "attached")]), 1);
    // Every byte of HTTP went over the network, and nothing else did.
    let bytes = [("receive", truth.request_bytes), ("transmit", truth.response_bytes)];
    let bytes = bytes.map(|(direction, bytes)| (format!("web {direction}"), bytes.expect("the load counts them")));
    assert_eq!(scrape.counts_by("miku_net_bytes_total", &[], &["service", "direction"]), BTreeMap::from(bytes));
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

fn health() {
    let mut server = Server::peer(&[]);
    let config =
        Config::new(&format!("[[service]]\nname = \"web\"\npid = {}\nrequired = true\n", server.process.pid()));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_ready();
    for path in ["/livez", "/readyz", "/healthz", "/-/healthy", "/-/ready"] {
        assert_eq!(probe.status(path), Some(200), "{path}");
    }
    // The checks there are of a service that is no bot, and what each says.
    let said = |probe: &Probe| {
        let health = probe.health();
        let checks = health["checks"].as_array().expect("an array").iter();
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        let checks = checks.map(|check| ["name", "service", "status"].map(|key| text(check, key)).join(" "));
        (text(&health, "status"), checks.collect::<BTreeSet<_>>())
    };
    let checks = |process: &str| BTreeSet::from(["probe  ok", "kernel  ok", process].map(str::to_owned));
    let well = said(&probe);
    assert_eq!(well.0, "ok");
    assert!(well.1.is_superset(&checks("process web ok")), "{well:?}");
    let plain = probe.get("/healthz", "").expect("the probe answers");
    assert!(plain.head.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    assert!(text(&plain).starts_with("ok\n"), "{}", text(&plain));
    server.process.stop(libc::SIGKILL, PATIENCE);
    drop(server);
    let gone = |path: &str| {
        probe.wait_for(path, |_| (probe.status(path) == Some(503)).then_some(()));
    };
    gone("/healthz");
    gone("/readyz");
    gone("/-/ready");
    assert_eq!(
        said(&probe),
        ("failing".to_owned(), checks("process web failing")),
        "nothing is said of a dead process"
    );
    let reason = "no process matches; the last one was killed by SIGKILL";
    assert_eq!(probe.wait_check("process", "web", "failing", reason)["reason"], reason);
    let why = text(&probe.get("/healthz", "").expect("the probe answers"));
    assert!(why.contains(&format!(": {reason}\n")), "it says why: {why}");
    assert_eq!(probe.status("/livez"), Some(200), "the probe itself lives");
    assert_eq!(probe.status("/-/healthy"), Some(200), "the probe itself lives");
}

/// What the thresholds say is what the page says, while it is so, and since when.
fn health_by_thresholds() {
    let mut subject = Subject::start();
    subject.tell("limit 100");
    let pid = subject.pid();
    let keys = "[process]\ninterval_seconds = 1\n[health]\ndescriptors_ratio = 0.5\n";
    let config = Config::new(&format!("{keys}[[service]]\nname = \"bot\"\npid = {pid}\n"));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_ready();
    let check = probe.wait_check("descriptors left", "bot", "ok", "");
    assert!(check["reason"].as_str().is_some_and(|reason| reason.ends_with(&format!(" of 100 open (pid {pid})"))));
    probe.wait_check("memory headroom", "bot", "ok", "");
    assert_eq!(probe.status("/healthz"), Some(200));

    let before = Timestamp::now();
    subject.tell("open 60");
    let check = probe.wait_check("descriptors left", "bot", "failing", "");
    let after = Timestamp::now();
    assert_eq!(probe.status("/healthz"), Some(503));
    // It began after the subject was told to, by the one and the other. Texts have milliseconds, and are cut.
    let since = check["since"].as_str().expect("since when");
    let since: Timestamp = since.parse().unwrap_or_else(|error| panic!("{since}: {error}"));
    let cut = SignedDuration::from_millis(1);
    assert!(since >= before - cut && since <= after, "{since} is not between {before} and {after}");
    // The duration grows with the clock; right after the failure it is 0 ms.
    let seconds = |check: &Value| SignedDuration::from_secs_f64(check["seconds"].as_f64().expect("for how long"));
    let first = seconds(&check);
    assert!(after - first >= before - cut && !first.is_negative(), "it lasted {first} of {}", after - before);
    let later = probe.wait_for("it lasts longer", |_| {
        let check = probe.check("descriptors left", "bot").filter(|check| check["status"] == "failing")?;
        (seconds(&check) > first).then(|| seconds(&check))
    });
    assert!(later <= Timestamp::now().duration_since(since) + cut, "it lasted {later} since {since}");
    let plain = text(&probe.get("/healthz", "").expect("the probe answers"));
    let line = plain.lines().find(|line| line.starts_with("failing descriptors left of bot since "));
    assert!(line.is_some_and(|line| line.contains(&format!(" of 100 open (pid {pid})"))), "{plain}");
    assert_eq!(probe.status("/livez"), Some(200), "the probe itself is well");

    subject.tell("close");
    probe.wait_check("descriptors left", "bot", "ok", "");
    assert_eq!(probe.status("/healthz"), Some(200));
}

fn pages() {
    let (_server, probe) = watched(&[]);
    let landing = text(&probe.get("/", "").expect("the probe answers"));
    assert!(landing.contains("/metrics"), "the landing page leads to the metrics: {landing}");
    assert_eq!(probe.status("/nothing"), Some(404));
    let head = miku_probe_tests::wire::exchange(probe.address(), b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = head.expect("the probe answers");
    assert_eq!((head.head.status().expect("a status"), head.body.len()), (200, 0));
}

fn options() {
    let server = Server::peer(&[]);
    let second = miku_probe_tests::harness::process::free_port();
    let listen = format!("127.0.0.1:{second}");
    let options = ["--web.listen-address", &listen, "--web.telemetry-path", "/numbers"];
    let probe = Probe::launch(&[&server.service("web")], &options);
    let second = listen.parse().expect("an address");
    for address in [probe.address(), &second] {
        let status = |target| {
            let message = miku_probe_tests::wire::get(address, target, "").expect("the probe answers");
            message.head.status().expect("a status")
        };
        assert_eq!((status("/numbers"), status("/metrics"), status("/livez")), (200, 404, 200), "at {address}");
    }
}

/// Routes as FastAPI writes them win over those that the probe makes up.
fn configured_routes() {
    let server = Server::peer(&[]);
    let routes = r#"["/items/{name}/parts/{part:int}", "/fast/{rest:path}"]"#;
    let pid = server.process.pid();
    let config = Config::new(&format!("[[service]]\nname = \"web\"\npid = {pid}\nroutes = {routes}\n"));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_target("web");
    let asks = ["--ask", "/items/miku/parts/39", "--ask", "/fast/a/b/c", "--ask", "/items/miku"];
    server.load(&[&asks[..], &["-n", "30", "-c", "1"]].concat());
    for route in ["/items/{name}/parts/{part:int}", "/fast/{rest:path}", "/items/miku"] {
        probe.wait_for(route, |scrape| {
            let labels = [("service", "web"), ("http_route", route)];
            (scrape.try_count("http_server_request_duration_seconds_count", &labels) == Some(10)).then_some(())
        });
    }
}

/// What passes through the probe's hands and is nobody's business is in nothing that it says.
fn secrets_stay_out() {
    const CANARY: &str = "c4n4ry0123456789";
    let server = Server::peer(&[]);
    let mut probe = Probe::launch(&[&server.service("web")], &["--verbose", "--verbose"]);
    probe.wait_target("web");
    let headers = format!("Authorization: Bearer {CANARY}\r\nCookie: session={CANARY}\r\nX-Api-Key: {CANARY}\r\n");
    for target in ["/fast?token=", "/items/", "/webhooks/1/", "/fast#"] {
        let request = format!(
            "POST {target}{CANARY} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {}\r\n\r\n{CANARY}",
            CANARY.len()
        );
        miku_probe_tests::wire::exchange(&server.address, request.as_bytes()).expect("the server answers");
    }
    probe.wait_for("four requests", |scrape| {
        (scrape.try_count("http_server_request_duration_seconds_count", &[]) == Some(4)).then_some(())
    });
    for page in ["/metrics", "/healthz", "/"] {
        let page = text(&probe.get(page, "").expect("the probe answers"));
        assert!(!page.contains(CANARY), "{page}");
    }
    let process = probe.process();
    process.stop(libc::SIGTERM, PATIENCE);
    process.wait_silent(PATIENCE);
    assert!(process.complained().len() > 1, "it says something, at its more verbose: {}", process.story());
    assert!(!process.story().contains(CANARY), "{}", process.story());
}
