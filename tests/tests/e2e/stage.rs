//! The services and clients that the cases watch, and what those count by themselves.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::{Process, free_port};
use miku_probe_tests::harness::python::{Python, service};
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::Truth;
use miku_probe_tests::wire::{self, Address};
use serde_json::Value;

/// The suite's own server and load generator.
pub(crate) const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// The environment with current packages.
pub(crate) fn python() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let make = || Python::with("current", &["uvicorn.txt", "aiohttp.txt", "clients.txt"]);
    PYTHON.get_or_init(|| make().map_err(|error| format!("{error:#}"))).clone()
}

/// The environment with aiohttp 3.8.
pub(crate) fn old_python() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let make = || Python::with("aiohttp-old", &["aiohttp-old.txt"]);
    PYTHON.get_or_init(|| make().map_err(|error| format!("{error:#}"))).clone()
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: Address,
}

impl Server {
    /// The suite's own server, with these options.
    pub(crate) fn peer(options: &[&str]) -> Self {
        Self::peer_by(Command::new(PEER).arg("serve").args(options))
    }

    /// The suite's own server, by a command that ends in it.
    pub(crate) fn peer_by(command: &mut Command) -> Self {
        let process = Process::start("the peer", command);
        let address = process.wait_said(PATIENCE, |line| line.strip_prefix("listening on ")?.parse().ok());
        Self { process, address }
    }

    /// The FastAPI service under uvicorn.
    pub(crate) fn fastapi(options: &[&str]) -> Self {
        let port = free_port();
        let mut command = python().expect("the case needs it").script("fastapi_app.py");
        let process = Process::start("uvicorn", command.args(["--port", &port.to_string()]).args(options));
        Self::answering(process, Address::Tcp(([127, 0, 0, 1], port).into()))
    }

    /// The FastAPI service under uvicorn on a Unix socket.
    pub(crate) fn fastapi_unix(socket: &Path) -> Self {
        let mut command = python().expect("the case needs it").script("fastapi_app.py");
        let process = Process::start("uvicorn", command.arg("--uds").arg(socket));
        Self::answering(process, Address::Unix(socket.into()))
    }

    /// The aiohttp server.
    pub(crate) fn aiohttp() -> Self {
        Self::aiohttp_with(&[])
    }

    /// The aiohttp server, with these options.
    pub(crate) fn aiohttp_with(options: &[&str]) -> Self {
        Self::aiohttp_by(&service("aiohttp_app.py"), options)
    }

    /// A copy of the aiohttp server's script.
    pub(crate) fn aiohttp_at(script: &Path) -> Self {
        Self::aiohttp_by(script, &[])
    }

    fn aiohttp_by(script: &Path, options: &[&str]) -> Self {
        let port = free_port();
        let mut command = python().expect("the case needs it").file(script);
        let process = Process::start("aiohttp", command.args(["--port", &port.to_string()]).args(options));
        Self::answering(process, Address::Tcp(([127, 0, 0, 1], port).into()))
    }

    fn answering(process: Process, address: Address) -> Self {
        let listens = || match &address {
            Address::Tcp(address) => TcpStream::connect(address).map(drop).ok(),
            Address::Unix(path) => UnixStream::connect(path).map(drop).ok(),
        };
        eventually(PATIENCE, listens).unwrap_or_else(|| panic!("nobody listens at {address}: {}", process.story()));
        Self { process, address }
    }

    /// A service `name` that is this process.
    pub(crate) fn service(&self, name: &str) -> String {
        format!("{name}=pid:{}", self.process.pid())
    }

    /// Its TCP port.
    pub(crate) fn port(&self) -> u16 {
        match &self.address {
            Address::Tcp(address) => address.port(),
            Address::Unix(path) => panic!("{} has no port", path.display()),
        }
    }

    /// Has it asked by the load generator, and then once more, so that what came before that last answer has passed
    /// through the probe when the last answer has.
    pub(crate) fn load(&self, options: &[&str]) -> Truth {
        let mut truth = load(&self.address, options);
        truth.merge(&load(&self.address, &["--ask", "/items/0", "-n", "1", "-c", "1", "--durations"]));
        truth
    }

    /// What the suite's own server has counted so far. The question is counted neither by itself nor in its answer,
    /// but later.
    pub(crate) fn truth(&self) -> Truth {
        let message = wire::get(&self.address, "/__truth", "").expect("the server answers");
        Truth::from_json(&serde_json::from_slice(&message.body).expect("the truth is JSON")).expect("a truth")
    }
}

/// The suite's own server with the probe attached to it as `web`.
pub(crate) fn watched(options: &[&str]) -> (Server, Probe) {
    let server = Server::peer(options);
    let probe = Probe::attach(&[&server.service("web")]);
    (server, probe)
}

/// Runs the load generator to its end.
pub(crate) fn load(address: &Address, options: &[&str]) -> Truth {
    Load::start(address, options).truth()
}

/// A load generator at work.
pub(crate) struct Load {
    pub(crate) process: Process,
}

impl Load {
    /// Starts it; with `--warm-up`, it waits for [`Load::go`].
    pub(crate) fn start(address: &Address, options: &[&str]) -> Self {
        let mut command = Command::new(PEER);
        command.arg("load").arg(address.to_string()).args(options);
        Self { process: Process::start("the load generator", &mut command) }
    }

    /// Waits until it has warmed up.
    pub(crate) fn wait_ready(&self) {
        self.process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) {
        self.process.tell("go");
    }

    /// What it counted, once it is done.
    pub(crate) fn truth(self) -> Truth {
        let line = self.process.wait_said(Duration::from_secs(60), |line| line.strip_prefix('{').map(str::to_owned));
        let value: Value = serde_json::from_str(&format!("{{{line}")).expect("the load generator writes JSON");
        Truth::from_json(&value).expect("a truth")
    }
}

/// A configuration file.
pub(crate) struct Config {
    _folder: tempfile::TempDir,
    path: String,
}

impl Config {
    /// One that says `text`.
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).expect("the folder can be written to");
        let path = path.to_str().expect("temporary folders have names in UTF-8").to_owned();
        Self { _folder: folder, path }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}
