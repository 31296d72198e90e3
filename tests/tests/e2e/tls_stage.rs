//! The servers and clients of the cases in which all is encrypted, and what those count by themselves.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{self, Python, service};
use miku_probe_tests::harness::secure::{SecureServer, host};
use miku_probe_tests::harness::{PATIENCE, client};
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::PEER;

/// How soon a TLS library that was loaded must be seen.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_millis(200);

/// How long a client may be busy with what one case has it do.
const WORK: Duration = Duration::from_secs(60);

/// The environment with the HTTPS clients, on CPython 3.`minor`.
pub(crate) fn clients_on(minor: u8) -> Result<Python, String> {
    client::environment(minor).map_err(|error| format!("{error:#}"))
}

/// The newest CPython here of those that came after 3.13.
pub(crate) fn newer_minor() -> Option<u8> {
    static NEWEST: OnceLock<Option<u8>> = OnceLock::new();
    *NEWEST.get_or_init(|| python::minors().next_back().filter(|minor| *minor > 13))
}

/// An interpreter that needs no packages.
pub(crate) fn plain() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    PYTHON.get_or_init(|| Python::plain().map_err(|error| format!("{error:#}"))).clone()
}

/// Where [`plain`]'s TLS library is, when it has one in a file of its own.
pub(crate) fn shared_library() -> Result<String, String> {
    const PROGRAM: &str = "import ssl; print(open('/proc/self/maps').read())";
    let output = Command::new(plain()?.path()).args(["-c", PROGRAM]).output();
    let output = output.map_err(|error| format!("no Python: {error}"))?;
    let maps = String::from_utf8_lossy(&output.stdout);
    let paths = maps.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    let named = |path: &&str| path.rsplit('/').next().is_some_and(|file| file.starts_with(LIBRARY));
    paths.map(str::to_owned).find(|path| named(&path.as_str())).ok_or("this Python has no libssl of its own".into())
}

/// How the file of a shared TLS library begins.
pub(crate) const LIBRARY: &str = "libssl";

/// Whether there is Node.
pub(crate) fn node() -> Result<(), String> {
    let output = Command::new("node").arg("--version").output().map_err(|error| format!("no node: {error}"))?;
    if output.status.success() { Ok(()) } else { Err("node does not start".into()) }
}

/// The suite's own server, behind TLS that is not OpenSSL's.
pub(crate) fn serve() -> SecureServer {
    SecureServer::start(Path::new(PEER))
}

/// A client of the standard library alone, which does as it is told.
pub(crate) struct Bot {
    pub(crate) process: Process,
    pub(crate) name: String,
    told: usize,
}

impl Bot {
    /// One with `connections` open connections to `server`, under a name of its own.
    pub(crate) fn start(server: &SecureServer, name: &str, connections: u32) -> Self {
        let mut command = Command::new(plain().expect("the case needs it").path());
        Self::by(&mut command, "tls_bot.py", server, name, &["--connections", &connections.to_string()])
    }

    /// One that has not loaded the TLS library, and will be connected once.
    pub(crate) fn late(server: &SecureServer, name: &str) -> Self {
        Self::by(&mut Command::new(plain().expect("the case needs it").path()), "tls_late.py", server, name, &[])
    }

    /// One with two connections, under a filter that kills it at any unusual system call.
    pub(crate) fn confined(server: &SecureServer, name: &str) -> Self {
        let mut command = Command::new(PEER);
        command.args(["confine", "--"]).arg(plain().expect("the case needs it").path());
        Self::by(&mut command, "tls_bot.py", server, name, &[])
    }

    /// One with two connections and another file in the place of the TLS library.
    pub(crate) fn with_library(server: &SecureServer, name: &str, library: &Path) -> Self {
        let mut command = Command::new(plain().expect("the case needs it").path());
        Self::by(command.env("LD_PRELOAD", library), "tls_bot.py", server, name, &[])
    }

    fn by(command: &mut Command, script: &str, server: &SecureServer, name: &str, options: &[&str]) -> Self {
        let name = host(name);
        command.arg(service(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args(["--name", &name, "--port", &server.port()]).arg("--ca").arg(server.authority().root());
        let process = Process::start(&name, command.args(options));
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Self { process, name, told: 0 }
    }

    /// Has it do something, and waits until it says that it is done.
    pub(crate) fn tell(&mut self, command: &str) {
        self.process.tell(command);
        self.told += 1;
        let done = format!("done {}", self.told);
        self.process.wait_said(WORK, |line| (line == done).then_some(()));
    }

    /// Has it make so many requests.
    pub(crate) fn ask(&mut self, path: &str, count: u64) {
        self.tell(&format!("ask {path} {count}"));
    }

    /// A service `name` that is this process.
    pub(crate) fn service(&self, name: &str) -> String {
        format!("{name}=pid:{}", self.process.pid())
    }
}

/// Asserts that all that `service` asked was asked of `name` at `port` by HTTPS, and agrees with what was counted of it.
pub(crate) fn assert_asked(probe: &Probe, service: &str, truth: &Truth, name: &str, port: &str) {
    probe.assert_agrees(truth, service, Side::Client);
    let scrape = probe.scrape();
    let labels = [("service", service), ("server_address", name), ("server_port", port), ("url_scheme", "https")];
    let seen = scrape.count("http_client_request_duration_seconds_count", &labels);
    assert_eq!(seen, truth.total(), "with {labels:?}\n{}", probe.told());
}

/// Asserts that nothing of HTTP was seen of which the probe could make no sense. What a bot writes that answers nobody for
/// certain is counted apart.
pub(crate) fn assert_all_matched(probe: &Probe) {
    probe.scrape().assert_absent("miku_probe_unmatched_total", &[("protocol", "http1")]);
}
