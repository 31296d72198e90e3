//! Handshakes that fail, each in a way of its own: what the probe says of them is what their client and server say.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::secure::{attach, host};
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::harness::{PATIENCE, eventually};

use crate::stage::{Server, python};
use crate::tls_stage::{clients_on, newer_minor, plain, serve};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        case!(reasons_of_failures, PlainPython),
        case!(reasons_of_failures_python_3_9, Python39),
        case!(reasons_of_failures_within_another_library, Python313),
        case!(refused_by_the_client, Python),
    ];
    // Nobody is asked to have what came after 3.13.
    if newer_minor().is_some() {
        cases.push(case!(reasons_of_failures_newer_python, NewerPython));
    }
    cases
}

/// How often each thing is tried.
const COUNT: u64 = 12;

/// How patient the client is, in seconds, where it is to be answered.
const PATIENT: &str = "20";

/// What a server does that does not shake hands.
#[derive(Clone, Copy)]
enum Manner {
    /// It closes the connection at once.
    Closes,
    /// It listens to the client's first words, says this, and waits for the client to go.
    Says(&'static [u8]),
    /// It says nothing, ever.
    Silent,
}

/// Starts a server that lives as long as this program, and tells its port.
fn unwilling(manner: Manner) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            match manner {
                Manner::Closes => drop(stream),
                Manner::Silent => kept.push(stream),
                Manner::Says(bytes) => {
                    thread::spawn(move || {
                        let mut block = [0; 4096];
                        let heard = stream.read(&mut block);
                        // A client that has gone meanwhile is not answered.
                        let _gone = heard.and_then(|_| stream.write_all(bytes));
                        while stream.read(&mut block).is_ok_and(|length| length > 0) {}
                    });
                }
            }
        }
    });
    port
}

/// A client that shakes hands as it is told.
struct Client {
    process: Process,
    told: usize,
}

impl Client {
    fn start(python: &Python, trusted: Option<&Authority>, options: &[&str]) -> Self {
        let mut command = python.script("tls_handshakes.py");
        command.args(options);
        if let Some(authority) = trusted {
            command.arg("--ca").arg(authority.root());
        }
        let process = Process::start("a client that shakes hands", &mut command);
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Self { process, told: 0 }
    }

    /// What became of [`COUNT`] handshakes, by the client's own words.
    fn shake(&mut self, way: &str, name: &str, port: &str, patience: &str) -> BTreeMap<String, u64> {
        self.process.tell(&format!("{way} {name} {port} {COUNT} {patience}"));
        self.told += 1;
        let number = format!("{} ", self.told);
        let became = self.process.wait_said(PATIENCE, |line| line.strip_prefix(&number).map(str::to_owned));
        serde_json::from_str(&became).expect("the client writes JSON")
    }
}

/// How many handshakes of `peer` the probe says have failed, by reason.
fn failures(probe: &Probe, peer: &str) -> BTreeMap<String, u64> {
    probe.scrape().counts_by(
        "miku_net_tls_handshake_failures_total",
        &[("service", "bot"), ("peer", peer)],
        &["reason"],
    )
}

/// One way for a handshake to fail.
struct Failure {
    name: &'static str,
    port: String,
    patience: &'static str,
    /// The words of a client that says more than that it is over.
    said: Option<&'static str>,
    reason: &'static str,
}

fn reasons(python: &Python, ways: &[&str], options: &[&str], can_fail: impl Fn(&Failure) -> bool) {
    let (server, stranger) = (serve(), serve());
    let failure = |name, port: String, said, reason| Failure { name, port, patience: PATIENT, said, reason };
    let says = |bytes| unwilling(Manner::Says(bytes)).to_string();
    let verify = Some("CERTIFICATE_VERIFY_FAILED");
    // An alert: kind 21, version 3.3, two bytes, fatal, and its number by RFC 8446.
    let mut all = vec![
        failure("untrusted.miku.test", stranger.port(), verify, "certificate"),
        failure("elsewhere.example", server.port(), verify, "certificate"),
        failure("clear.test", says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Some("WRONG_VERSION_NUMBER"), "version"),
        failure("old.test", says(b"\x15\x03\x03\x00\x02\x02\x46"), Some("TLSV1_ALERT_PROTOCOL_VERSION"), "version"),
        failure("picky.test", says(b"\x15\x03\x03\x00\x02\x02\x28"), None, "cipher"),
        failure("broken.test", says(b"\x15\x03\x03\x00\x02\x02\x50"), Some("TLSV1_ALERT_INTERNAL_ERROR"), "alert"),
        failure("closed.test", unwilling(Manner::Closes).to_string(), None, "closed"),
        Failure { patience: "0.3", ..failure("silent.test", unwilling(Manner::Silent).to_string(), None, "closed") },
    ];
    all.retain(can_fail);
    let tries = ways.len() as u64 * COUNT;
    let mut client = Client::start(python, Some(server.authority()), options);
    let probe = attach(&[&format!("bot=pid:{}", client.process.pid())]);
    for way in ways {
        for Failure { name, port, patience, said, .. } in &all {
            let became = client.shake(way, name, port, patience);
            assert_eq!(became.get("ok"), None, "{name}: {became:?}");
            assert_eq!(became.values().sum::<u64>(), COUNT, "{name}: {became:?}");
            if let Some(word) = said {
                assert_eq!(became.get(*word), Some(&COUNT), "{name}, {way}: {became:?}");
            }
        }
        let became = client.shake(way, &host("well"), &server.port(), PATIENT);
        assert_eq!(became.get("ok"), Some(&COUNT), "{became:?}");
    }
    let labels = [("service", "bot"), ("peer", "well.miku.test")];
    probe.wait_for("the handshakes that succeeded", |scrape| {
        (scrape.try_count("miku_net_tls_handshake_seconds_count", &labels) == Some(tries)).then_some(())
    });
    for Failure { name, reason, .. } in &all {
        assert_eq!(failures(&probe, name), BTreeMap::from([((*reason).to_owned(), tries)]), "{name}\n{}", probe.told());
    }
    let scrape = probe.scrape();
    assert_eq!(scrape.count("miku_net_tls_handshake_failures_total", &[]), tries * all.len() as u64);
    assert_eq!(scrape.count("miku_net_tls_handshake_seconds_count", &[]), tries);
    assert_eq!(server.served().handshakes, tries, "by the server");
}

/// The ways of Python's own module.
const OF_PYTHON: [&str; 2] = ["blocking", "asyncio"];

fn reasons_of_failures() {
    reasons(&plain().expect("the case needs it"), &OF_PYTHON, &[], |_| true);
}

fn reasons_of_failures_python_3_9() {
    reasons(&clients_on(9).expect("the case needs it"), &OF_PYTHON, &[], |_| true);
}

fn reasons_of_failures_newer_python() {
    let minor = newer_minor().expect("the case needs it");
    reasons(&clients_on(minor).expect("the case needs it"), &OF_PYTHON, &[], |_| true);
}

/// All of OpenSSL is in one file, and that is a Python module.
fn reasons_of_failures_within_another_library() {
    let python = clients_on(13).expect("the case needs it");
    // It asks nobody for a name, and gives nobody up.
    let can_fail = |failure: &Failure| failure.name != "elsewhere.example" && failure.patience == PATIENT;
    reasons(&python, &["pyopenssl"], &["--pyopenssl"], can_fail);
}

/// A server hears from its client why there was no handshake, or what it says is no TLS.
fn refused_by_the_client() {
    let authority = Authority::new().expect("certificates can be made");
    let (certificate, key) = (authority.certificate(), authority.key());
    let text = |path: &Path| path.to_str().expect("temporary folders have names in UTF-8").to_owned();
    let server = Server::fastapi(&["--ssl-certfile", &text(&certificate), "--ssl-keyfile", &text(&key)]);
    let probe = attach(&[&server.service("bot")]);
    let port = server.port();
    let mut client = Client::start(&python().expect("the case needs it"), None, &[]);
    let became = client.shake("blocking", &host("any"), &port.to_string(), PATIENT);
    assert_eq!(became, BTreeMap::from([("CERTIFICATE_VERIFY_FAILED".to_owned(), COUNT)]));
    for _ in 0..COUNT {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: any\r\n\r\n").expect("the server reads");
        // It closes the connection, with or without an alert.
        let _reset = stream.read_to_end(&mut Vec::new());
    }
    let expected = BTreeMap::from(["certificate", "version"].map(|reason| (reason.to_owned(), COUNT)));
    let agreed = eventually(PATIENCE, || (failures(&probe, "unknown") == expected).then_some(()));
    assert!(agreed.is_some(), "{:?}\n{}", failures(&probe, "unknown"), probe.told());
    probe.scrape().assert_absent("miku_net_tls_handshake_seconds_count", &[]);
}
