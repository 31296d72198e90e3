//! A server behind TLS that is not OpenSSL's, and a probe that stands in the TLS libraries of its clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::PATIENCE;
use super::probe::Probe;
use super::process::Process;
use super::python::Python;
use super::tls::{Authority, DOMAIN};
use crate::truth::Truth;
use crate::wire::{self, Address};

/// A name under which the suite's server has a certificate.
#[must_use]
pub fn host(name: &str) -> String {
    format!("{name}.{DOMAIN}")
}

/// The suite's own server, behind TLS that is not OpenSSL's.
#[derive(Debug)]
pub struct SecureServer {
    _process: Process,
    address: Address,
    telling: Address,
    authority: Authority,
}

/// What the server counted of itself.
#[derive(Debug)]
pub struct Served {
    /// By the name that the client asked for.
    pub names: BTreeMap<String, Truth>,
    /// How many clients came to an understanding with it.
    pub handshakes: u64,
    /// Encrypted bytes that it received, TLS's own included.
    pub received: u64,
    /// Encrypted bytes that it sent.
    pub sent: u64,
    /// By the name that the client asked for: encrypted bytes received and sent on connections whose handshake succeeded.
    pub encrypted: BTreeMap<String, [u64; 2]>,
}

impl SecureServer {
    /// One that listens; `peer` is the suite's own server and load generator.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(peer: &Path) -> Self {
        let authority = Authority::new().expect("certificates can be made");
        let mut command = Command::new(peer);
        command.arg("serve-tls").arg("--certificate").arg(authority.certificate()).arg("--key").arg(authority.key());
        let process = Process::start("the TLS server", &mut command);
        let told = |prefix: &'static str| process.wait_said(PATIENCE, |line| line.strip_prefix(prefix)?.parse().ok());
        let (telling, address) = (told("truth on "), told("listening on "));
        Self { _process: process, address, telling, authority }
    }

    /// Its TCP port, as text.
    ///
    /// # Panics
    /// When it listens on something else.
    #[must_use]
    pub fn port(&self) -> String {
        match &self.address {
            Address::Tcp(address) => address.port().to_string(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// Whom its clients are to trust.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What it has counted so far.
    ///
    /// # Panics
    /// When it does not tell.
    #[must_use]
    pub fn served(&self) -> Served {
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
    ///
    /// # Panics
    /// When that is nothing.
    #[must_use]
    pub fn truth(&self, name: &str) -> Truth {
        self.served().names.remove(name).unwrap_or_else(|| panic!("nobody asked for {name}"))
    }

    /// A command of the suite's client with this library and these options, under this name.
    #[must_use]
    pub fn client(&self, python: &Python, library: &str, name: &str, options: &[&str]) -> Command {
        let mut command = python.script("client.py");
        command.args([library, "--host", name, "--port", &self.port()]).arg("--ca").arg(self.authority.root());
        command.args(["--ms", "1"]).args(options);
        command
    }
}

/// Starts a probe that watches these services, each of which has a TLS library mapped, and waits until it stands in it.
///
/// # Panics
/// When it does not get there.
#[must_use]
pub fn attach(services: &[&str]) -> Probe {
    let probe = Probe::attach(services);
    for service in services {
        wait_sites(&probe, service.split('=').next().unwrap_or(service));
    }
    probe
}

/// How many places of TLS libraries the probe stands in for a service; none until it stands in one for the first time.
#[must_use]
pub fn sites(probe: &Probe, service: &str) -> Option<u64> {
    probe.scrape().try_count("miku_probe_sites", &[("service", service), ("kind", "tls")])
}

/// Waits until the probe stands in a TLS library of a service.
///
/// # Panics
/// When it does not in time.
pub fn wait_sites(probe: &Probe, service: &str) {
    probe.wait_for(&format!("a TLS site of {service}"), |_| (sites(probe, service) > Some(0)).then_some(()));
}
