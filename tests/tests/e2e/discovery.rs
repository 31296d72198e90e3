//! Which processes are watched, however they are named and whenever they come.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::{Process, free_port};
use miku_probe_tests::harness::python::service;
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::{Config, Load, PEER, Server};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(by_every_name_before),
        case!(by_every_name_after),
        case!(many_services_of_one_name),
        case!(by_itself, Python),
        case!(from_a_file),
        case!(restart),
        case!(exec_into_a_target),
        case!(own_namespaces, Namespaces),
        case!(container, ControlGroup),
    ]
}

/// How soon after it listens a new target's requests must be seen.
const PICKED_UP_WITHIN: Duration = Duration::from_millis(200);

/// The suite's own server under a name that no other process has.
struct Named {
    folder: tempfile::TempDir,
    name: String,
}

impl Named {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let name = format!("{name}-{}", std::process::id() % 10_000);
        fs::copy(PEER, folder.path().join(&name)).expect("the peer can be copied");
        Self { folder, name }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(self.path());
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
        command
    }

    /// All ways to name it, but by its pid.
    fn selectors(&self, port: u16) -> [String; 4] {
        let Self { name, .. } = self;
        [
            format!("comm:{name}"),
            format!("cmdline:{name} serve .*--listen 127"),
            format!("exe:{}", self.path().display()),
            format!("port:{port}"),
        ]
    }
}

fn assert_seen(probe: &Probe, server: &Server) {
    probe.assert_agrees(&server.load(&["-n", "200", "-c", "8"]), "web", Side::Server);
}

fn by_every_name_before() {
    let (named, port) = (Named::new("before"), free_port());
    let server = Server::peer_by(&mut named.command(port));
    for selector in named.selectors(port) {
        eprintln!("by {selector}");
        assert_seen(&Probe::attach(&[&format!("web={selector}")]), &server);
    }
}

fn by_every_name_after() {
    let (named, port) = (Named::new("after"), free_port());
    for selector in named.selectors(port) {
        eprintln!("by {selector}");
        let probe = Probe::launch(&[&format!("web={selector}")], &[]);
        let server = Server::peer_by(&mut named.command(port));
        std::thread::sleep(PICKED_UP_WITHIN);
        assert_seen(&probe, &server);
    }
}

/// A service may be named in several ways, and several services be watched at once.
fn many_services_of_one_name() {
    let (named, port) = (Named::new("several"), free_port());
    let first = Server::peer_by(&mut named.command(port));
    let (second, third) = (Server::peer(&[]), Server::peer(&[]));
    let services = [format!("web=comm:{}", named.name), second.service("web"), third.service("other")];
    let probe = Probe::attach(&[&services[0], &services[1], &services[2]]);
    let mut truth = first.load(&["-n", "100"]);
    truth.merge(&second.load(&["-n", "150"]));
    probe.assert_agrees(&truth, "web", Side::Server);
    probe.assert_agrees(&third.load(&["-n", "70"]), "other", Side::Server);
}

/// With nothing said, the probe finds a Python server, names it after its script, and says so.
fn by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = format!("bot-{}", std::process::id());
    let script = folder.path().join(format!("{name}.py"));
    fs::copy(service("aiohttp_app.py"), &script).expect("the script can be copied");
    let before = Server::aiohttp_at(&script);
    let mut probe = Probe::launch(&[], &[]);
    probe.wait_target(&name);
    let chosen = format!("watching {} ", before.process.pid());
    probe.process().wait_complained(PATIENCE, |line| (line.contains(&chosen) && line.contains(&name)).then_some(()));
    let mut truth = before.load(&["-n", "200", "-c", "8"]);
    drop(before);
    let after = Server::aiohttp_at(&script);
    std::thread::sleep(PICKED_UP_WITHIN);
    truth.merge(&after.load(&["-n", "200", "-c", "8"]));
    probe.assert_agrees(&truth, &name, Side::Server);
}

/// The same by a configuration file as by options.
fn from_a_file() {
    let server = Server::peer(&[]);
    let config =
        Config::new(&format!("[[service]]\nname = \"web\"\npid = {}\nrequired = true\n", server.process.pid()));
    let probe = Probe::launch(&[], &["--config", config.path()]);
    probe.wait_ready();
    assert_seen(&probe, &server);
}

fn restart() {
    let (named, port) = (Named::new("restart"), free_port());
    let probe = Probe::launch(&[&format!("web=port:{port}")], &[]);
    let mut truth = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
    for _ in 0..3 {
        let server = Server::peer_by(&mut named.command(port));
        std::thread::sleep(PICKED_UP_WITHIN);
        truth.merge(&server.load(&["-n", "100", "-c", "4"]));
        probe.assert_agrees(&truth, "web", Side::Server);
    }
}

fn exec_into_a_target() {
    let named = Named::new("exec");
    let probe = Probe::launch(&[&format!("web=exe:{}", named.path().display())], &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "read line && exec \"$0\" serve"]).arg(named.path());
    let mut process = Process::start("a shell", &mut command);
    process.tell("go");
    let address = process.wait_said(PATIENCE, |line| line.strip_prefix("listening on ")?.parse().ok());
    std::thread::sleep(PICKED_UP_WITHIN);
    assert_seen(&probe, &Server { process, address });
}

/// What `unshare` is told to make namespaces as a container has them.
const UNSHARE: [&str; 5] = ["--pid", "--fork", "--mount", "--mount-proc", "--kill-child"];

/// Whether namespaces can be made here.
pub(crate) fn namespaces() -> Result<(), String> {
    let output = Command::new("unshare").args(UNSHARE).arg("true").output();
    let output = output.map_err(|error| format!("no unshare: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("no namespaces: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn own_namespaces() {
    let (named, port) = (Named::new("spaces"), free_port());
    let start = || {
        let inside = named.command(port);
        let mut command = Command::new("unshare");
        command.args(UNSHARE).arg(inside.get_program()).args(inside.get_args());
        Server::peer_by(&mut command)
    };
    let port_selector = format!("web=port:{port}");
    let server = start();
    for selector in
        [&format!("web=comm:{}", named.name), &format!("web=exe:{}", named.path().display()), &port_selector]
    {
        eprintln!("by {selector}");
        assert_seen(&Probe::attach(&[selector]), &server);
    }
    drop(server);
    let probe = Probe::launch(&[&port_selector], &[]);
    let server = start();
    std::thread::sleep(PICKED_UP_WITHIN);
    assert_seen(&probe, &server);
}

/// A control group of the suite's own, as a container runtime makes one.
pub(crate) struct ControlGroup {
    path: PathBuf,
}

impl ControlGroup {
    /// Makes one of this name.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let root = roots.iter().map(Path::new).find(|root| root.join("cgroup.procs").exists());
        let path = root.ok_or("no control group tree is mounted")?.join(name);
        if !path.exists() {
            fs::create_dir(&path).map_err(|error| format!("no control group can be made: {error}"))?;
        }
        let group = Self { path };
        let procs = group.path.join("cgroup.procs");
        let writable = fs::OpenOptions::new().write(true).open(&procs);
        writable.map_err(|error| format!("{} cannot be written to: {error}", procs.display()))?;
        Ok(group)
    }

    /// One that may have no more than so many bytes of memory, with or without version 2 of control groups.
    pub(crate) fn with_memory(name: &str, bytes: u64) -> Result<Self, String> {
        let set = |path: &Path, value: &str| {
            fs::write(path, value).map_err(|error| format!("{} cannot be set: {error}", path.display()))
        };
        let old = Path::new("/sys/fs/cgroup/memory");
        let limits: [(&str, String); 2];
        let path = if old.join("cgroup.procs").exists() {
            limits = [("memory.limit_in_bytes", bytes.to_string()), ("memory.swappiness", "0".to_owned())];
            old.join(name)
        } else {
            let root = Path::new("/sys/fs/cgroup");
            set(&root.join("cgroup.subtree_control"), "+memory")?;
            limits = [("memory.max", bytes.to_string()), ("memory.swap.max", "0".to_owned())];
            root.join(name)
        };
        fs::create_dir_all(&path).map_err(|error| format!("no control group can be made: {error}"))?;
        let group = Self { path };
        for (file, value) in &limits {
            let file = group.path.join(file);
            // Where there is no swap, nothing can be said of it.
            if file.exists() {
                set(&file, value)?;
            }
        }
        Ok(group)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A group with a process in it stays; then the process outlived its case, which that case's own drop prevents.
        let _ = fs::remove_dir(&self.path);
    }
}

fn container() {
    let id = format!("{:08x}{}", std::process::id(), "0123456789abcdef".repeat(4).split_off(8));
    let group = ControlGroup::new(&format!("docker-{id}.scope")).expect("the case needs it");
    let procs = group.path.join("cgroup.procs");
    let start = || {
        let mut command = Command::new(PEER);
        let procs = procs.clone();
        command.arg("serve");
        // SAFETY: it opens and writes one file; the parent's other threads hold no lock that this waits for.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        Server::peer_by(&mut command)
    };
    let outside = Server::peer(&[]);
    let server = start();
    for selector in [format!("web=container:{id}"), format!("web=container:{}", &id[..12])] {
        eprintln!("by {selector}");
        let probe = Probe::attach(&[&selector]);
        let mut load = Load::start(&outside.address, &["-n", "50", "--warm-up", "0"]);
        load.wait_ready();
        load.go();
        assert_eq!(load.truth().total(), 50, "of a server that is in no container");
        assert_seen(&probe, &server);
    }
    drop(server);
    let probe = Probe::launch(&[&format!("web=container:{id}")], &[]);
    let server = start();
    std::thread::sleep(PICKED_UP_WITHIN);
    assert_seen(&probe, &server);
    drop(server);
}
