//! The suite's own servers and clients must agree with one another before anybody is measured against them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use miku_probe_tests::harness::tls::{Authority, DOMAIN};
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::Truth;
use miku_probe_tests::wire::{self, Address, Kind};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// A server that ends with the test.
struct Server {
    child: Child,
    address: Address,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let mut child = Command::new(PEER)
            .arg("serve")
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer was built with this test");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("the server says where it listens");
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("the server said {line:?}"));
        Self { child, address: address.parse().expect("an address") }
    }

    fn load(&self, options: &[&str]) -> Truth {
        let output = Command::new(PEER).arg("load").arg(self.address.to_string()).args(options).output();
        let output = output.expect("the peer was built with this test");
        assert!(output.status.success(), "load {options:?}: {}", String::from_utf8_lossy(&output.stderr));
        Truth::from_json(&serde_json::from_slice(&output.stdout).expect("load writes JSON")).expect("a truth")
    }

    fn truth(&self) -> Truth {
        let message = wire::get(&self.address, "/__truth", "").expect("the server answers");
        Truth::from_json(&serde_json::from_slice(&message.body).expect("JSON")).expect("a truth")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agree(server: &[&str], load: &[&str]) {
    let server = Server::start(server);
    let asked = server.load(load);
    let answered = server.truth();
    assert_eq!(asked.requests, answered.requests, "counts after {load:?}");
    assert_eq!(asked.request_bytes, answered.request_bytes, "bytes asked after {load:?}");
    assert_eq!(asked.response_bytes, answered.response_bytes, "bytes answered after {load:?}");
}

const MIX: [&str; 14] = [
    "--ask",
    "/fast",
    "--ask",
    "/items/7",
    "--ask",
    "/status/204",
    "--ask",
    "HEAD /fast",
    "--ask",
    "/chunked?n=3",
    "--ask",
    "/status/404",
    "--ask",
    "POST /echo",
];

#[test]
fn every_way_to_move_bytes() {
    for io in ["read-write", "recv-send", "vectored", "message"] {
        agree(&["--io", io, "--accept-null"], &[&MIX[..], &["-n", "700", "--io", io]].concat());
    }
}

#[test]
fn every_way_to_cut_requests() {
    for split in ["none", "head", "bytes", "gather"] {
        let cut = ["-n", "70", "--split", split, "--body", "3000"];
        agree(&[], &[&MIX[..], &cut].concat());
        agree(&["--writers", "0"], &[&MIX[..], &cut, &["--chunked"]].concat());
    }
}

#[test]
fn pipelines_and_lone_requests() {
    agree(&[], &[&MIX[..], &["-n", "801", "--pipeline", "8"]].concat());
    agree(&[], &[&MIX[..], &["-n", "100", "--close"]].concat());
    agree(&[], &["-n", "300", "-c", "200", "--threads", "3", "--random-paths", "--ask", "/items"]);
}

#[test]
fn a_unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("unix:{}", folder.path().join("socket").display());
    agree(&["--listen", &address], &MIX);
}

#[test]
fn slow_answers_are_timed_by_both() {
    let server = Server::start(&[]);
    let asked = server.load(&["--ask", "/slow?ms=30", "-n", "8"]);
    assert!(asked.quantile(0.0).is_none(), "durations are written only when they are asked for");
    let asked = server.load(&["--ask", "/slow?ms=30", "-n", "8", "--durations"]);
    assert!(asked.quantile(0.0).is_some_and(|least| least >= 0.03), "the quickest took {:?}", asked.quantile(0.0));
    assert!(asked.mean().is_some_and(|mean| mean < 0.5), "the mean is {:?}", asked.mean());
}

#[test]
fn the_server_survives_mischief() {
    let server = Server::start(&[]);
    let status = Command::new(PEER).arg("hostile").arg(server.address.to_string()).args(["--times", "2"]).status();
    assert!(status.expect("the peer was built with this test").success());
    let asked = server.load(&["-n", "50"]);
    assert_eq!(asked.total(), 50);
}

/// A socket that counts what came and went.
struct Counted {
    stream: TcpStream,
    received: u64,
    sent: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.received += length as u64;
        Ok(length)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.stream.write(bytes)?;
        self.sent += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Under every name, its requests; on the wire, every byte.
#[test]
fn the_tls_server_counts_by_name() {
    let authority = Authority::new().expect("certificates can be made");
    let mut child = Command::new(PEER)
        .arg("serve-tls")
        .arg("--certificate")
        .arg(authority.certificate())
        .arg("--key")
        .arg(authority.key())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the peer was built with this test");
    let mut lines = BufReader::new(child.stdout.take().expect("standard output is a pipe")).lines();
    let mut told = |prefix| {
        let line = lines.next().expect("the server says where it listens").expect("in UTF-8");
        line.strip_prefix(prefix).unwrap_or_else(|| panic!("the server said {line:?}")).to_owned()
    };
    let (telling, address) = (told("truth on "), told("listening on "));
    // It ends with the test, however that ends.
    let server = Server { child, address: telling.parse().expect("an address") };

    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.root()).expect("the authority's certificate");
    roots.add(root).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = Arc::new(config.expect("versions").with_root_certificates(roots).with_no_client_auth());

    let (mut received, mut sent) = (0, 0);
    for (name, count) in [("one", 1), ("other", 3)] {
        let stream = TcpStream::connect(&address).expect("the server listens");
        let host = ServerName::try_from(format!("{name}.{DOMAIN}")).expect("a name");
        let connection = ClientConnection::new(Arc::clone(&config), host).expect("a configuration");
        let mut stream = StreamOwned::new(connection, Counted { stream, received: 0, sent: 0 });
        for _ in 0..count {
            let request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
            stream.write_all(request).expect("the server reads");
            let (mut buffer, mut block) = (Vec::new(), [0; 4096]);
            let answer = loop {
                let length = stream.read(&mut block).expect("the server answers");
                buffer.extend_from_slice(&block[..length]);
                if let Some(answer) = wire::take(&mut buffer, Kind::Answer, false).expect("HTTP") {
                    break answer;
                }
            };
            assert_eq!(answer.body, b"hello");
        }
        (received, sent) = (received + stream.sock.received, sent + stream.sock.sent);
    }
    let told = || -> Value {
        let message = wire::get(&server.address, "/", "").expect("the server tells");
        serde_json::from_slice(&message.body).expect("JSON")
    };
    // What was sent may have come before the server has counted it.
    let value = eventually(PATIENCE, || Some(told()).filter(|value| value["sent"].as_u64() >= Some(received)));
    let value = value.unwrap_or_else(told);
    for (name, count) in [("one", 1), ("other", 3)] {
        let truth = Truth::from_json(&value["names"][format!("{name}.{DOMAIN}")]).expect("a truth");
        let mut wanted = Truth::default();
        wanted.add("POST", "/echo", 200, count);
        assert_eq!(truth.requests, wanted.requests, "{name}");
    }
    let seen = |name: &str| value[name].as_u64();
    assert_eq!((seen("handshakes"), seen("received"), seen("sent")), (Some(2), Some(sent), Some(received)));
}
