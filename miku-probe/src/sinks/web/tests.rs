//! Real requests over loopback, by a client that writes and reads bytes.

use std::collections::HashMap;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::thread::JoinHandle;

use flate2::read::GzDecoder;
use prometheus::IntCounter;
use tokio::sync::oneshot;

use super::*;
use crate::sinks::health::Thresholds;

/// A server in a thread of its own, which ends with it.
struct Server {
    address: SocketAddr,
    health: Health,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), WebError>>>,
}

impl Server {
    fn start(telemetry_path: &str) -> Self {
        Self::start_with(telemetry_path, Registry::new(), LIMITS)
    }

    fn start_with(telemetry_path: &str, registry: Registry, limits: Limits) -> Self {
        let counter = IntCounter::new("test_bytes_total", "Help.").expect("valid");
        counter.inc_by(17);
        registry.register(Box::new(counter)).expect("nothing of that name is registered");
        let health = Health::new(Thresholds::default(), Nanos::now());
        let telemetry_path = telemetry_path.parse().expect("a good path");
        let site = Site { registry, health: health.clone(), telemetry_path };
        let listeners = bind(&["127.0.0.1:0".parse().expect("a good address")]).expect("some port is free");
        let address = listeners[0].local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(serve_within(limits, listeners, site, async {
                stopped.await.expect("the server is stopped by the test");
            }))
        });
        Self { address, health, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a valid timeout");
        stream
    }

    /// Sends one request on a connection of its own.
    fn ask(&self, method: &str, path: &str, fields: &str) -> Answer {
        let mut stream = self.connect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the server answers and closes");
        Answer::parse(&bytes)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }

    fn stop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            stop.send(()).expect("the server is running");
            thread.join().expect("the server does not panic").expect("the listeners are good");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

struct Answer {
    status: u16,
    fields: HashMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no whole head in {:?}", String::from_utf8_lossy(bytes));
        });
        let head = std::str::from_utf8(&bytes[..end]).expect("heads are ASCII");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status line");
        let fields = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no field")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self { status: status.parse().expect("a number"), fields, body: bytes[end + 4..].to_vec() }
    }

    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

const AS_TEXT: &str = "# HELP test_bytes_total Help.\n# TYPE test_bytes_total counter\ntest_bytes_total 17\n";
const AS_OPENMETRICS: &str = "# TYPE test_bytes counter\n# UNIT test_bytes bytes\n# HELP test_bytes Help.\n\
                              test_bytes_total 17\n# EOF\n";

#[test]
fn metrics_in_both_formats_and_compressed() {
    let server = Server::start("/metrics");
    let plain = server.get("/metrics");
    assert_eq!((plain.status, plain.text()), (200, AS_TEXT));
    assert_eq!(plain.field("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(plain.field("vary"), "Accept, Accept-Encoding");
    assert_eq!(plain.field("content-encoding"), "");

    let accept =
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2\r\n";
    let open = server.ask("GET", "/metrics", accept);
    assert_eq!((open.status, open.text()), (200, AS_OPENMETRICS));
    assert_eq!(open.field("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");

    for (fields, expected) in [("", AS_TEXT), (accept, AS_OPENMETRICS)] {
        let answer = server.ask("GET", "/metrics", &format!("{fields}Accept-Encoding: gzip\r\n"));
        assert_eq!(answer.field("content-encoding"), "gzip");
        assert_eq!(answer.field("vary"), "Accept, Accept-Encoding");
        assert_eq!(answer.field("content-length"), answer.body.len().to_string());
        let mut unpacked = String::new();
        GzDecoder::new(&answer.body[..]).read_to_string(&mut unpacked).expect("it is gzip of text");
        assert_eq!(unpacked, expected);
    }
    let refused = server.ask("GET", "/metrics", "Accept-Encoding: gzip;q=0, identity\r\n");
    assert_eq!((refused.field("content-encoding"), refused.text()), ("", AS_TEXT));
}

#[test]
fn paths_and_methods() {
    let server = Server::start("/a/b");
    assert_eq!(server.get("/a/b").text(), AS_TEXT);
    assert_eq!(server.get("/a/b?collect=x").text(), AS_TEXT);
    let landing = server.get("/");
    assert_eq!((landing.status, landing.field("content-type")), (200, "text/html; charset=utf-8"));
    for link in ["/a/b", "/livez", "/readyz", "/healthz"] {
        assert!(landing.text().contains(&format!("href=\"{link}\"")), "no {link} in {}", landing.text());
    }
    assert!(landing.text().contains(env!("CARGO_PKG_VERSION")));
    for path in ["/metrics", "/a", "/a/b/", "/livez/x"] {
        assert_eq!(server.get(path).status, 404, "of {path}");
    }
    for path in ["/", "/a/b", "/livez", "/readyz", "/healthz", "/-/healthy", "/-/ready"] {
        let (get, head) = (server.get(path), server.ask("HEAD", path, ""));
        assert!(head.body.is_empty(), "of {path}");
        assert_eq!(head.status, get.status, "of {path}");
        assert_eq!(head.field("content-type"), get.field("content-type"), "of {path}");
        assert!(!get.body.is_empty(), "of {path}");
    }
    assert_eq!(server.ask("HEAD", "/a/b", "").field("content-length"), AS_TEXT.len().to_string());
    for (method, path) in [("POST", "/a/b"), ("DELETE", "/"), ("PUT", "/nowhere"), ("OPTIONS", "/livez")] {
        let answer = server.ask(method, path, "");
        assert_eq!((answer.status, answer.field("allow")), (405, "GET,HEAD"), "of {method} {path}");
    }
}

#[test]
fn the_metrics_may_be_at_the_root() {
    let server = Server::start("/");
    assert_eq!(server.get("/").text(), AS_TEXT);
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn health_pages_follow_the_state() {
    let server = Server::start("/metrics");
    let now = Nanos::now();
    assert_eq!(server.get("/livez").status, 200);
    assert_eq!(server.get("/-/healthy").text(), "miku-probe is Healthy.\n");
    assert_eq!(server.get("/readyz").status, 503, "nothing is attached yet");
    assert_eq!(server.get("/-/ready").status, 503);
    assert_eq!(server.get("/healthz").status, 200, "what is not known yet raises no alarm");

    server.health.kernel(Status::Ok, "", now);
    server.health.require("bot", now);
    server.health.targets("bot", 0, 0, "", now);
    for path in ["/readyz", "/healthz", "/-/ready"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.field("content-type")), (503, "text/plain; charset=utf-8"), "of {path}");
        assert!(answer.text().contains("failing process of bot since "), "{}", answer.text());
        assert!(answer.text().contains(": no process matches\n"), "{}", answer.text());
    }
    assert_eq!(server.get("/livez").status, 200, "the probe lives all the same");
    let answer = server.ask("GET", "/healthz", "Accept: application/json\r\n");
    assert_eq!((answer.status, answer.field("content-type")), (503, "application/json"));
    let json: serde_json::Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    assert_eq!(json["status"], "failing");
    let names: Vec<_> = json["checks"].as_array().expect("a list").iter().map(|check| &check["name"]).collect();
    assert_eq!(names, ["probe", "kernel", "process"]);

    server.health.targets("bot", 1, 0, "", now);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/-/ready").text(), "miku-probe is Ready.\n");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn a_probe_without_heartbeat_is_dead() {
    let server = Server::start("/metrics");
    server.health.beat(Nanos::now() - Duration::from_secs(60).into());
    for path in ["/livez", "/healthz", "/-/healthy"] {
        assert_eq!(server.get(path).status, 503, "of {path}");
    }
    server.health.beat(Nanos::now());
    assert_eq!(server.get("/livez").status, 200);
}

#[test]
fn connections_stay_open_between_requests() {
    let server = Server::start("/metrics");
    let mut stream = server.connect();
    for _ in 0..3 {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"miku-probe is Healthy.\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the whole answer comes");
            bytes.push(byte[0]);
        }
        assert_eq!(Answer::parse(&bytes).status, 200);
    }
}

#[test]
fn heads_without_end_and_without_sense_are_refused() {
    let server = Server::start("/metrics");
    let mut endless = server.connect();
    let mut field = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".to_vec();
    field.resize(64 * 1024, b'x');
    // The server may refuse and close before all of it is sent.
    let sent = endless.write_all(&field).and_then(|()| endless.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let read = endless.read_to_end(&mut answer);
    assert!(
        answer.starts_with(b"HTTP/1.1 431") || (read.is_err() && answer.is_empty()),
        "{sent:?}, {read:?}, {:?}",
        String::from_utf8_lossy(&answer)
    );
    let mut senseless = server.connect();
    senseless.write_all(b"\x16\x03\x01\x00\x00 no HTTP\r\n\r\n").expect("it is open");
    let mut answer = Vec::new();
    senseless.read_to_end(&mut answer).expect("the server closes");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(server.get("/livez").status, 200);
}

/// Short enough to wait for.
const SHORT: Limits = Limits { connections: 2, head: Duration::from_secs(1), answer: Duration::from_secs(2) };

#[test]
fn silent_connections_are_closed_and_make_room() {
    let server = Server::start_with("/metrics", Registry::new(), SHORT);
    // All places are taken by clients that say nothing, so this request is only answered when they are sent away.
    let silent: Vec<TcpStream> = (0..SHORT.connections).map(|_| server.connect()).collect();
    let begin = std::time::Instant::now();
    assert_eq!(server.get("/").status, 200);
    assert!(begin.elapsed() > SHORT.head / 2, "it had to wait, but took {:?}", begin.elapsed());
    for mut stream in silent {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it was closed");
    }
}

#[test]
fn a_client_that_does_not_read_is_sent_away() {
    let server = Server::start_with("/metrics", long_registry(), Limits { connections: 1, ..SHORT });
    let mut deaf = server.connect();
    deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    deaf.read_exact(&mut [0]).expect("the answer begins");
    // The only place is taken until the time for that answer is over.
    let begin = std::time::Instant::now();
    assert_eq!(server.get("/").status, 200);
    assert!(begin.elapsed() > SHORT.answer / 2, "it had to wait, but took {:?}", begin.elapsed());
    let mut rest = Vec::new();
    let read = deaf.read_to_end(&mut rest);
    assert!(rest.len() < LONG, "the whole answer came, {read:?}");
}

/// The length of a help text that is more than the sockets of both sides hold, so that answers stay with the server.
const LONG: usize = 16 * 1024 * 1024;

fn long_registry() -> Registry {
    let registry = Registry::new();
    let long = IntCounter::new("long_total", "x".repeat(LONG)).expect("valid");
    registry.register(Box::new(long)).expect("it is the first");
    registry
}

#[test]
fn scrapes_that_nobody_reads_are_few() {
    let server = Server::start_with("/metrics", long_registry(), LIMITS);
    let mut unread: Vec<TcpStream> = (0..SCRAPE_LIMIT)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
            // Its answer has begun, so its place is taken.
            stream.read_exact(&mut [0]).expect("the answer begins");
            stream
        })
        .collect();
    let refused = server.get("/metrics");
    assert_eq!((refused.status, refused.field("retry-after")), (503, "1"));
    assert_eq!(server.get("/livez").status, 200, "other pages are not held up");
    let mut first = unread.swap_remove(0);
    let mut bytes = vec![0; LONG];
    first.read_exact(&mut bytes).expect("the answer goes on when it is read");
    let mut tail = Vec::new();
    while !tail.ends_with(b"test_bytes_total 17\n") {
        let mut byte = [0];
        first.read_exact(&mut byte).expect("the whole answer comes");
        tail.push(byte[0]);
    }
    // The place is given back when the last byte is handed to the kernel, of which nobody tells this side.
    let free = (0..1000).any(|_| server.ask("HEAD", "/metrics", "").status == 200);
    assert!(free, "the place was not given back");
}

#[test]
fn it_ends_at_once_and_finishes_answers_under_way() {
    let mut server = Server::start("/metrics");
    let mut idle = server.connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is open");
    idle.read_exact(&mut [0]).expect("an answer");
    let _half_asked = {
        let mut stream = server.connect();
        stream.write_all(b"GET /livez HTT").expect("it is open");
        stream
    };
    let begin = std::time::Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(2), "it took {:?}", begin.elapsed());
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("the connection was closed in order");
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let address: ListenAddress = "127.0.0.1:0".parse().expect("good");
    let first = bind(std::slice::from_ref(&address)).expect("some port is free");
    let port = first[0].local_addr().expect("it is bound").port();
    let taken: ListenAddress = format!("127.0.0.1:{port}").parse().expect("good");
    let error = bind(&[address, taken]).expect_err("the port is taken");
    assert_eq!(
        format!("{:#}", anyhow::Error::new(error)),
        format!(
            "cannot listen on 127.0.0.1:{port} (stop the program that listens there, or choose another port with \
             --web.listen-address): Address already in use (os error 98)"
        )
    );
}

#[test]
fn all_addresses_take_both_families() {
    let listeners = bind(&[":0".parse().expect("good")]).expect("some port is free");
    let address = listeners[0].local_addr().expect("it is bound");
    assert!(address.ip().is_unspecified());
    TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).expect("IPv4 is taken");
    if address.is_ipv6() {
        TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).expect("IPv6 is taken");
    }
}

#[test]
fn addresses_and_paths_by_example() {
    for good in ["127.0.0.1:10039", ":10039", "[::1]:9000", "localhost:0", "0.0.0.0:65535"] {
        let address: ListenAddress = good.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(address.to_string(), good);
    }
    for bad in
        ["", "10039", "127.0.0.1", "127.0.0.1:", ":70000", "::1:9000", "[::1:9000", "[x]:1", "http://a:1", "a b:1"]
    {
        let error = bad.parse::<ListenAddress>().expect_err(bad);
        assert!(error.to_string().starts_with(&format!("{bad:?} is not an address")), "{error}");
    }
    for good in ["/metrics", "/", "/a/b-c_d~e.f"] {
        assert_eq!(good.parse::<TelemetryPath>().unwrap_or_else(|error| panic!("{error}")).to_string(), good);
    }
    for bad in
        ["", "metrics", "/a{b}", "/a*", "/a?b", "/a#b", "/ä", "/a b", "//", "/a//b", "/livez", "/-/ready", "/<script>"]
    {
        let error = bad.parse::<TelemetryPath>().expect_err(bad);
        assert!(error.to_string().starts_with(&format!("{bad:?} cannot be the path")), "{error}");
    }
}
