//! Real servers over TLS: what the probe counts of them is what their clients counted.

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::client::counted_by;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::{attach, host};
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::{Server, python};
use crate::tls_stage::assert_all_matched;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(uvicorn_h11, Python), case!(uvicorn_uvloop, Python), case!(aiohttp_server, Python)]
}

const REQUESTS: u64 = 600;

/// Has the server asked by clients that nobody watches, each of which counts by itself.
fn exact(start: impl FnOnce(&[&str]) -> Server) {
    let authority = Authority::new().expect("certificates can be made");
    let (certificate, key) = (authority.certificate(), authority.key());
    let path = |path: &std::path::Path| path.to_str().expect("temporary folders have names in UTF-8").to_owned();
    let server = start(&["--ssl-certfile", &path(&certificate), "--ssl-keyfile", &path(&key)]);
    let probe = attach(&[&server.service("web")]);
    let mut truth = Truth::default();
    for library in ["aiohttp", "requests"] {
        let mut command = python().expect("the case needs it").script("client.py");
        command.args([library, "--host", &host(library), "--port", &server.port().to_string(), "--ms", "1"]);
        command.args(["--threads", "4", "--requests", &REQUESTS.to_string()]).arg("--ca").arg(authority.root());
        let mut client = Process::start(library, &mut command);
        client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        client.tell("go");
        truth.merge(&counted_by(&client, PATIENCE));
    }
    assert_eq!(truth.total(), 2 * REQUESTS);
    assert!(truth.requests.keys().all(|key| key.status == 200), "{:?}", truth.requests);
    probe.assert_agrees(&truth, "web", Side::Server);
    let labels = [("service", "web"), ("url_scheme", "https")];
    let scrape = probe.scrape();
    assert_eq!(scrape.count("http_server_request_duration_seconds_count", &labels), truth.total(), "with {labels:?}");
    // The server asks nobody.
    scrape.assert_absent("http_client_request_duration_seconds_count", &[]);
    assert_all_matched(&probe);
}

fn uvicorn_h11() {
    exact(|options| Server::fastapi(&[&["--http", "h11"], options].concat()));
}

fn uvicorn_uvloop() {
    exact(|options| Server::fastapi(&[&["--http", "httptools", "--loop", "uvloop"], options].concat()));
}

fn aiohttp_server() {
    exact(Server::aiohttp_with);
}
