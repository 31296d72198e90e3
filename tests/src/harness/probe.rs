//! The probe itself, as an operator runs it.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::closing::{self, Records};
use super::process::Process;
use super::{PATIENCE, eventually, target_folder};
use crate::exposition::{Catalogue, Scrape};
use crate::mode::Mode;
use crate::truth::{LEFT_OUT, Side, Truth, disagreements, losses};
use crate::wire::{self, Address, Message};

/// Where the probe's binary is: `MIKU_PROBE_BIN`, or the release build in the build folder.
///
/// # Errors
/// When it is not there.
pub fn binary() -> Result<PathBuf, String> {
    let path =
        std::env::var_os("MIKU_PROBE_BIN").map_or_else(|| target_folder().join("release/miku-probe"), PathBuf::from);
    if path.is_file() { Ok(path) } else { Err(format!("no probe at {} (set MIKU_PROBE_BIN)", path.display())) }
}

/// A command that runs the probe, without colours and with what it needs of the environment alone.
///
/// # Panics
/// When there is no binary, which the suite looks for before any case runs.
#[must_use]
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap_or_else(|reason| panic!("{reason}")));
    command.args(arguments).env("NO_COLOR", "1");
    command
}

/// All metrics that the probe can export, as its binary lists them; it is asked once.
///
/// # Panics
/// When it does not list them.
#[must_use]
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: OnceLock<&Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| {
        let path = binary().unwrap_or_else(|reason| panic!("{reason}"));
        Catalogue::of(&path).unwrap_or_else(|error| panic!("the probe has no catalogue of its metrics: {error:#}"))
    })
}

/// How long the probe may take from SIGTERM to its end: 2 s where nothing else uses the machine. Elsewhere the kernel, which
/// detaches the programs one after the other, waits for other CPUs as well.
#[must_use]
pub fn exit_limit() -> Duration {
    Duration::from_secs(if Mode::from_env() == Ok(Mode::Accuracy) { 2 } else { 10 })
}

/// A running `miku-probe run`.
#[derive(Debug)]
pub struct Probe {
    process: Process,
    address: Address,
    /// Where its metrics are.
    metrics: String,
}

impl Probe {
    /// Starts it with these services, each as `NAME=KIND:VALUE`, and waits until it has attached to all of them.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn attach(services: &[&str]) -> Self {
        let probe = Self::launch(services, &[]);
        probe.wait_ready();
        for service in services {
            probe.wait_target(service.split('=').next().unwrap_or(service));
        }
        probe
    }

    /// Starts it with these services, which may not be there yet, and more options, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn launch(services: &[&str], options: &[&str]) -> Self {
        let mut command = command(&["run", "--web.listen-address", "127.0.0.1:0"]);
        for service in services {
            command.args(["--service", service]);
        }
        let process = Process::start("the probe", command.args(options));
        let (address, metrics) = process.wait_complained(PATIENCE, |line| {
            let (time, url) = line.split_once(" INFO  listening on http://")?;
            assert!(time.len() == "2026-11-29T01:02:03.456Z".len() && time.ends_with('Z'), "{line}");
            let (address, path) = url.split(' ').next()?.split_once('/')?;
            Some((address.parse().ok()?, format!("/{path}")))
        });
        let probe = Self { process, address, metrics };
        let alive = eventually(PATIENCE, || (probe.status("/livez") == Some(200)).then_some(()));
        alive.unwrap_or_else(|| panic!("the probe does not say that it is alive: {}", probe.process.story()));
        probe
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_ready(&self) {
        let ready = eventually(PATIENCE, || (self.status("/readyz") == Some(200)).then_some(()));
        ready.unwrap_or_else(|| panic!("the probe does not get ready: {}", self.process.story()));
    }

    /// Waits until it watches at least one process of a service.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_target(&self, service: &str) {
        self.wait_for(&format!("a process of {service}"), |scrape| {
            let labels = [("service", service), ("state", "attached")];
            (scrape.try_count("miku_probe_targets", &labels) >= Some(1)).then_some(())
        });
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it answers; none when it does not.
    #[must_use]
    pub fn get(&self, target: &str, headers: &str) -> Option<Message> {
        wire::get(&self.address, target, headers).ok()
    }

    /// The status that it answers with; none when it does not.
    #[must_use]
    pub fn status(&self, target: &str) -> Option<u16> {
        self.get(target, "Connection: close\r\n")?.head.status().ok()
    }

    /// Its health, as machines read it.
    ///
    /// # Panics
    /// When it does not answer, or not in JSON.
    #[must_use]
    pub fn health(&self) -> Value {
        let message = self.get("/healthz", "Accept: application/json\r\nConnection: close\r\n");
        let message = message.unwrap_or_else(|| panic!("/healthz does not answer: {}", self.process.story()));
        let kind = message.head.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{kind:?}");
        serde_json::from_slice(&message.body).unwrap_or_else(|error| panic!("/healthz is no JSON: {error}"))
    }

    /// Waits until a check of `service` has `status` for a reason that ends so, and tells all of it.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_check(&self, name: &str, service: &str, status: &str, reason: &str) -> Value {
        let mut health = Value::Null;
        let found = eventually(PATIENCE, || {
            health = self.health();
            let check = check_of(&health, name, service)?;
            let ends = check["reason"].as_str().unwrap_or_default().ends_with(reason);
            (check["status"] == status && ends).then(|| check.clone())
        });
        found.unwrap_or_else(|| {
            panic!("`{name}` of {service} is not {status} with {reason:?}: {health:#}\n{}", self.told())
        })
    }

    /// The current result of a health check.
    #[must_use]
    pub fn check(&self, name: &str, service: &str) -> Option<Value> {
        check_of(&self.health(), name, service).cloned()
    }

    /// Its metrics.
    ///
    /// # Panics
    /// When it does not answer, or not by the format, or exports something that its catalogue does not have.
    #[must_use]
    pub fn scrape(&self) -> Scrape {
        let message = self.get(&self.metrics, "Connection: close\r\n");
        let message = message.unwrap_or_else(|| panic!("/metrics does not answer: {}", self.process.story()));
        assert_eq!(message.head.status().expect("an answer has a status"), 200, "/metrics: {:?}", message.head);
        let text = String::from_utf8(message.body).expect("metrics are UTF-8");
        Scrape::parse(&text, catalogue())
            .unwrap_or_else(|error| panic!("/metrics is not what it is to be: {error:#}\n{text}"))
    }

    /// Waits until the metrics of `service` agree with `truth`.
    ///
    /// # Panics
    /// When they do not in time.
    pub fn assert_agrees(&self, truth: &Truth, service: &str, side: Side) {
        let mut lines = Vec::new();
        let agreed = eventually(Duration::from_secs(5), || {
            lines = disagreements(truth, &self.scrape(), service, side);
            lines.is_empty().then_some(())
        });
        assert!(agreed.is_some(), "{service} disagrees:\n  {}\n{}", lines.join("\n  "), self.told());
    }

    /// Waits until `look` finds something in the metrics.
    ///
    /// # Panics
    /// When it does not in time; `what` says what was looked for.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&Scrape) -> Option<T>) -> T {
        let found = eventually(PATIENCE, || look(&self.scrape()));
        found.unwrap_or_else(|| panic!("{what} does not show in the metrics\n{}", self.told()))
    }

    /// Asserts that nothing of anything watched was lost. Runs that the kernel left out may be anybody's on the machine: whether
    /// any was of what is watched, counts have to show.
    ///
    /// # Panics
    /// When something was, or the metrics do not say so of every place.
    pub fn assert_lossless(&self) {
        let scrape = self.scrape();
        for (place, lost) in losses(&scrape) {
            assert!(lost == 0 || place == LEFT_OUT, "{lost} lost in {place}\n{}", self.told());
        }
        scrape.assert_absent("miku_probe_lost_messages_total", &[]);
    }

    /// Asserts that what began has ended, goes on, or is said to be unknown or lost ([`closing`]). Every probe is held to it when
    /// it goes.
    ///
    /// # Panics
    /// When something fell out in silence.
    pub fn assert_closes(&self) {
        let first = Records::of(&self.scrape());
        let mut lines = Vec::new();
        let closed = eventually(Duration::from_secs(5), || {
            let scrape = self.scrape();
            let records = Records::of(&scrape);
            lines = closing::gaps(&scrape);
            if !Records::close(first, records) {
                lines.push(format!("records: first {first:?}, then {records:?}"));
            }
            lines.is_empty().then_some(())
        });
        assert!(closed.is_some(), "sums do not close:\n  {}\n{}", lines.join("\n  "), self.told());
    }

    /// What the probe counted, and what it says of itself, for a message.
    #[must_use]
    pub fn told(&self) -> String {
        let shown = self.scrape().show(&[
            "http_",
            "miku_http_",
            "miku_llm_",
            "miku_process_",
            "miku_probe_unmatched",
            "miku_probe_lost",
            "miku_probe_targets",
        ]);
        format!("the metrics are{shown}\nand {}", self.process.story())
    }

    /// Ends it as a service manager does, and tells how it ended.
    ///
    /// # Panics
    /// When it takes longer than [`exit_limit`].
    pub fn stop(mut self) -> ExitStatus {
        self.assert_closes();
        self.process.stop(libc::SIGTERM, exit_limit())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // What a case has ended tells nothing any more; what ended by itself is a fault.
        if thread::panicking() || self.process.is_signalled() {
            return;
        }
        assert!(self.process.alive(), "the probe ended by itself: {}", self.process.story());
        self.assert_closes();
    }
}

fn check_of<'a>(health: &'a Value, name: &str, service: &str) -> Option<&'a Value> {
    health["checks"].as_array()?.iter().find(|check| check["name"] == name && check["service"] == service)
}
