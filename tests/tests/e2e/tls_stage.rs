//! The servers and clients of the cases in which all is encrypted, and what those count by themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{self, Python, service};
use miku_probe_tests::harness::tls::{Authority, DOMAIN};
use miku_probe_tests::truth::{Side, Truth};
use miku_probe_tests::wire::{self, Address};
use serde_json::Value;

use crate::stage::PEER;

/// How soon a TLS library that was loaded must be seen.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_millis(200);

/// How long a client may be busy with what one case has it do.
const WORK: Duration = Duration::from_secs(60);

/// The environment with the HTTPS clients, on CPython 3.`minor`.
pub(crate) fn clients_on(minor: u8) -> Result<Python, String> {
    let make = || Python::of(&python::interpreter(minor)?, &format!("tls-clients-3.{minor}"), &["tls-clients.txt"]);
    make().map_err(|error| format!("{error:#}"))
}

/// The newest CPython here of those that came after 3.13.
pub(crate) fn newer_minor() -> Option<u8> {
    static NEWEST: OnceLock<Option<u8>> = OnceLock::new();
    *NEWEST.get_or_init(|| (14..20).rev().find(|minor| python::interpreter(*minor).is_ok()))
}

/// The environment with discord.py.
pub(crate) fn discord() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let make = || Python::with("discord", &["aiohttp.txt", "discord.txt"]);
    PYTHON.get_or_init(|| make().map_err(|error| format!("{error:#}"))).clone()
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

/// A name under which the suite's server has a certificate.
pub(crate) fn host(name: &str) -> String {
    format!("{name}.{DOMAIN}")
}

/// The suite's own server, behind TLS that is not OpenSSL's.
pub(crate) struct SecureServer {
    _process: Process,
    address: Address,
    telling: Address,
    authority: Authority,
}

/// What the server counted of itself.
pub(crate) struct Served {
    /// By the name that the client asked for.
    pub(crate) names: BTreeMap<String, Truth>,
    /// How many clients came to an understanding with it.
    pub(crate) handshakes: u64,
    /// Encrypted bytes that it received, TLS's own included.
    pub(crate) received: u64,
    /// Encrypted bytes that it sent.
    pub(crate) sent: u64,
    /// By the name that the client asked for: encrypted bytes received and sent on connections whose handshake succeeded.
    pub(crate) encrypted: BTreeMap<String, [u64; 2]>,
}

impl SecureServer {
    /// One that listens.
    pub(crate) fn start() -> Self {
        let authority = Authority::new().expect("certificates can be made");
        let mut command = Command::new(PEER);
        command.arg("serve-tls").arg("--certificate").arg(authority.certificate()).arg("--key").arg(authority.key());
        let process = Process::start("the TLS server", &mut command);
        let told = |prefix: &'static str| process.wait_said(PATIENCE, |line| line.strip_prefix(prefix)?.parse().ok());
        let (telling, address) = (told("truth on "), told("listening on "));
        Self { _process: process, address, telling, authority }
    }

    /// Its TCP port, as text.
    pub(crate) fn port(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.port().to_string(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// Whom its clients are to trust.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What it has counted so far.
    pub(crate) fn served(&self) -> Served {
        let message = wire::get(&self.telling, "/", "").expect("the server tells");
        let value: Value = serde_json::from_slice(&message.body).expect("the truth is JSON");
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"));
        let names = value["names"].as_object().expect("names").iter();
        let names = names.map(|(name, truth)| (name.clone(), Truth::from_json(truth).expect("a truth")));
        Served {
            names: names.collect(),
            handshakes: number("handshakes"),
            received: number("received"),
            sent: number("sent"),
            encrypted: serde_json::from_value(value["encrypted"].clone()).expect("bytes by name"),
        }
    }

    /// What it has counted so far under one name.
    pub(crate) fn truth(&self, name: &str) -> Truth {
        self.served().names.remove(name).unwrap_or_else(|| panic!("nobody asked for {name}"))
    }

    /// A command of the suite's client with this library and these options, under this name.
    pub(crate) fn client(&self, python: &Python, library: &str, name: &str, options: &[&str]) -> Command {
        let mut command = python.script("client.py");
        command.args([library, "--host", name, "--port", &self.port()]).arg("--ca").arg(self.authority.root());
        command.args(["--ms", "1"]).args(options);
        command
    }
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

/// Starts a probe that watches these services, each of which has a TLS library mapped, and waits until it stands in it.
pub(crate) fn attach(services: &[&str]) -> Probe {
    let probe = Probe::attach(services);
    for service in services {
        wait_sites(&probe, service.split('=').next().unwrap_or(service));
    }
    probe
}

/// How many places of TLS libraries the probe stands in for a service.
pub(crate) fn sites(probe: &Probe, service: &str) -> f64 {
    probe.scrape().sum("miku_probe_sites", &[("service", service), ("kind", "tls")])
}

/// Waits until the probe stands in a TLS library of a service.
pub(crate) fn wait_sites(probe: &Probe, service: &str) {
    probe.wait_for(&format!("a TLS site of {service}"), |_| (sites(probe, service) > 0.0).then_some(()));
}

/// Asserts that all that `service` asked was asked of `name` at `port` by HTTPS, and agrees with what was counted of it.
pub(crate) fn assert_asked(probe: &Probe, service: &str, truth: &Truth, name: &str, port: &str) {
    probe.assert_agrees(truth, service, Side::Client);
    let scrape = probe.scrape();
    let labels = [("service", service), ("server_address", name), ("server_port", port), ("url_scheme", "https")];
    let seen = scrape.count("http_client_request_duration_seconds_count", &labels);
    assert_eq!(seen, truth.total(), "with {labels:?}\n{}", probe.told());
}

/// Asserts that nothing was seen of which the probe could make no sense.
pub(crate) fn assert_all_matched(probe: &Probe) {
    let unmatched = probe.scrape().sum("miku_probe_unmatched_total", &[]);
    assert_eq!(unmatched, 0.0, "{}", probe.told());
}
