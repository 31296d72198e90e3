//! What the probe answers, read by others than its authors.

use miku_probe_tests::harness::probe::Probe;
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
        (scrape.count("http_server_request_duration_seconds_count", &[]) == truth.total()).then_some(())
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
    let series = |name: &str| scrape.samples.iter().find(|sample| sample.name == name);
    let duration = series("http_server_request_duration_seconds_count").expect("a duration");
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
    let series_labels: Vec<(&str, &str)> = duration.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    let bounds: Vec<&str> = scrape
        .matching("http_server_request_duration_seconds_bucket", &series_labels)
        .map(|sample| sample.label("le"))
        .collect();
    let contract = ".005 .01 .025 .05 .075 .1 .25 .5 .75 1 2.5 5 7.5 10 30 60 120 300 inf";
    let number = |text: &str| text.trim_start_matches('+').parse::<f64>().expect("a bound is a number");
    let contract: Vec<f64> = contract.split(' ').map(number).collect();
    assert_eq!(bounds.iter().map(|bound| number(bound)).collect::<Vec<_>>(), contract);
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
        assert_eq!(scrape.types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    assert_eq!(scrape.count("miku_probe_targets", &[("service", "web"), ("state", "attached")]), 1);
    // Every byte of HTTP went over the network, and nothing else did.
    let net = |direction| scrape.count("miku_net_bytes_total", &[("service", "web"), ("direction", direction)]);
    let directions: Vec<&str> =
        scrape.matching("miku_net_bytes_total", &[]).map(|sample| sample.label("direction")).collect();
    let sum: u64 = directions.iter().map(|direction| net(direction)).sum();
    assert_eq!(Some(sum), truth.request_bytes.zip(truth.response_bytes).map(|(a, b)| a + b), "{directions:?}");
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
    let json = |probe: &Probe| {
        let message = probe.get("/healthz", "Accept: application/json\r\n").expect("the probe answers");
        assert!(message.head.header("content-type").is_some_and(|kind| kind.starts_with("application/json")));
        serde_json::from_slice::<Value>(&message.body).expect("JSON")
    };
    assert!(json(&probe).is_object());
    let plain = probe.get("/healthz", "").expect("the probe answers");
    assert!(plain.head.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    server.process.stop(libc::SIGKILL, PATIENCE);
    drop(server);
    let gone = |path: &str| {
        probe.wait_for(path, |_| (probe.status(path) == Some(503)).then_some(()));
    };
    gone("/healthz");
    gone("/readyz");
    gone("/-/ready");
    assert!(json(&probe).is_object());
    let why = text(&probe.get("/healthz", "").expect("the probe answers"));
    assert!(why.contains(": no process matches; the last one was killed by SIGKILL\n"), "it says why: {why}");
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
    let check = probe.wait_check("descriptors left", "bot", "ok");
    assert!(check["reason"].as_str().is_some_and(|reason| reason.ends_with(&format!(" of 100 open (pid {pid})"))));
    assert_eq!(probe.wait_check("memory headroom", "bot", "ok")["service"], "bot");
    assert_eq!(probe.status("/healthz"), Some(200));

    let before = std::time::Instant::now();
    subject.tell("open 60");
    let check = probe.wait_check("descriptors left", "bot", "failing");
    assert_eq!(probe.status("/healthz"), Some(503));
    let seconds = check["seconds"].as_f64().expect("since when");
    assert!(seconds <= before.elapsed().as_secs_f64(), "it began after it was told to: {check}");
    let since = check["since"].as_str().expect("since when");
    assert!(since.ends_with('Z') && since.contains('T'), "{since}");
    let plain = text(&probe.get("/healthz", "").expect("the probe answers"));
    let line = plain.lines().find(|line| line.starts_with("failing descriptors left of bot since "));
    assert!(line.is_some_and(|line| line.contains(&format!(" of 100 open (pid {pid})"))), "{plain}");
    assert_eq!(probe.status("/livez"), Some(200), "the probe itself is well");

    subject.tell("close");
    assert_eq!(probe.wait_check("descriptors left", "bot", "ok")["status"], "ok");
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
    for route in ["/items/{name}/parts/{part}", "/fast/{rest}", "/items/miku"] {
        probe.wait_for(route, |scrape| {
            let plain = |label: &str| label.replace(":int}", "}").replace(":path}", "}") == route;
            let samples = scrape.matching("http_server_request_duration_seconds_count", &[("service", "web")]);
            let found = samples.filter(|sample| plain(sample.label("http_route"))).map(|sample| sample.value);
            (found.fold(0.0, |sum, value| sum + value) == 10.0).then_some(())
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
        (scrape.count("http_server_request_duration_seconds_count", &[]) == 4).then_some(())
    });
    for page in ["/metrics", "/healthz", "/"] {
        let page = text(&probe.get(page, "").expect("the probe answers"));
        assert!(!page.contains(CANARY), "{page}");
    }
    let process = probe.process();
    process.stop(libc::SIGTERM, PATIENCE);
    process.wait_silent(PATIENCE);
    assert!(!process.story().contains(CANARY), "{}", process.story());
}
