//! Secrets that pass through the probe's hands are in nothing that it says, and soon in nothing that it holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miku_probe_tests::harness::memory::{find, position};
use miku_probe_tests::harness::probe::{Probe, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::service;
use miku_probe_tests::harness::secure::wait_sites;
use miku_probe_tests::harness::tls::Authority;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::Value;

use crate::stage::Server;
use crate::tls_stage::plain;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(in_clear_text, PlainPython), case!(under_tls, PlainPython), case!(no_core_dumps, CoreDumps)]
}

/// How long after its exchange a secret may still be in the probe's memory.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(2);

/// Secrets of letters and digits, as tokens are.
const TOKENS: [&str; 17] = [
    "authorization",
    "basic",
    "cookie",
    "api-key",
    "late-header",
    "split-header",
    "broken-off",
    "query",
    "webhook",
    "webhook-message",
    "interaction",
    "body",
    "long-body",
    "set-cookie",
    "location",
    "answer-header",
    "answer-body",
];

/// Secrets of digits alone, as Discord's ids are.
const IDS: [&str; 4] = ["webhook-id", "interaction-id", "channel-id", "message-id"];

/// What no other process ever had in its memory.
fn secrets() -> BTreeMap<&'static str, String> {
    let tokens = TOKENS.map(|name| (name, unheard_of("abcdefghijklmnopqrstuvwxyz0123456789", 21)));
    let ids = IDS.map(|name| (name, unheard_of("0123456789", 19)));
    tokens.into_iter().chain(ids).collect()
}

/// A text of so many characters, at most 21, of an alphabet that no other process ever had in its memory.
pub(crate) fn unheard_of(alphabet: &str, length: usize) -> String {
    let mut random = File::open("/dev/urandom").expect("the kernel gives random bytes");
    let mut bytes = [0; 20];
    random.read_exact(&mut bytes).expect("the kernel gives random bytes");
    let digit = |byte: &u8| char::from(alphabet.as_bytes()[usize::from(*byte) % alphabet.len()]);
    // A snowflake does not begin with a 0.
    std::iter::once('7').chain(bytes.iter().map(digit)).take(length).collect()
}

/// What is searched for: each secret whole, and either half of it, as it may have been cut in two.
fn needles(secrets: &BTreeMap<&'static str, String>) -> Vec<(&'static str, Vec<u8>)> {
    secrets.iter().flat_map(|(name, secret)| halves(name, secret)).collect()
}

/// Either half of a secret, to search for.
pub(crate) fn halves(name: &'static str, secret: &str) -> [(&'static str, Vec<u8>); 2] {
    let (front, back) = secret.as_bytes().split_at(secret.len() / 2);
    [(name, front.to_vec()), (name, back.to_vec())]
}

/// Which secrets are in what was said, wholly or half.
pub(crate) fn said(text: &str, needles: &[(&'static str, Vec<u8>)]) -> Vec<&'static str> {
    needles.iter().filter(|(_, needle)| position(text.as_bytes(), needle).is_some()).map(|(name, _)| *name).collect()
}

/// One end of the exchanges, which waits for its secrets.
fn start(role: &str, options: &[&str]) -> Process {
    let mut command = Command::new(plain().expect("the case needs it").path());
    let process = Process::start(role, command.arg(service("canaries.py")).arg(role).args(options));
    process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    process
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have names in UTF-8")
}

/// Waits until the process holds no secret any more.
pub(crate) fn assert_forgotten(what: &str, pid: u32, needles: &[(&'static str, Vec<u8>)]) {
    let mut hits = Vec::new();
    let forgotten = eventually(FORGOTTEN_WITHIN, || {
        hits = find(pid, needles).unwrap_or_else(|error| panic!("{what} cannot be read: {error:#}"));
        hits.is_empty().then_some(())
    });
    assert!(forgotten.is_some(), "{what} still holds, after {FORGOTTEN_WITHIN:?}:\n  {}", hits.join("\n  "));
}

/// Drives every secret from a client to a server and back, both watched by a probe that says all it can and by a
/// histogram, and then looks for it everywhere.
fn search(authority: Option<&Authority>) {
    let secrets = secrets();
    let needles = needles(&secrets);
    let line = serde_json::to_string(&secrets).expect("a map of texts");
    let (mut server_options, mut client_options) = (Vec::new(), Vec::new());
    let paths = authority.map(|authority| [authority.certificate(), authority.key(), authority.root()]);
    if let Some([certificate, key, root]) = &paths {
        server_options.extend(["--certificate", text(certificate), "--key", text(key)]);
        client_options.extend(["--ca", text(root)]);
    }
    let mut server = start("server", &server_options);
    server.tell(&line);
    let port = server.wait_said(PATIENCE, |line| line.strip_prefix("listening ").map(str::to_owned));
    client_options.extend(["--port", &port]);
    let mut client = start("client", &client_options);
    // The probe looks at no more of a process than there is: the search is worth something only where the secrets are.
    assert!(!find(server.pid(), &needles).expect("the server lives").is_empty(), "the server holds its secrets");

    let services = [format!("web=pid:{}", server.pid()), format!("bot=pid:{}", client.pid())];
    let mut probe = Probe::launch(&[&services[0], &services[1]], &["-vvv"]);
    probe.wait_ready();
    let mut watch = command(&["hist", "-vvv", "--json", "--interval", "0.2"]);
    watch.args(["--service", &services[0], "--service", &services[1]]);
    let mut hist = Process::start("hist", &mut watch);
    let targets = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["targets"].as_array()?.len());
    hist.wait_said(PATIENCE, |line| (targets(line) == Some(2)).then_some(()));
    for service in ["web", "bot"] {
        probe.wait_target(service);
        if authority.is_some() {
            wait_sites(&probe, service);
        }
    }
    client.tell(&line);
    let count: u64 = client.wait_said(PATIENCE, |line| line.strip_prefix("done ")?.parse().ok());
    let scheme = if authority.is_some() { "https" } else { "http" };
    for side in ["client", "server"] {
        probe.wait_for(&format!("all that the {side} did"), |scrape| {
            let name = format!("http_{side}_request_duration_seconds_count");
            (scrape.count(&name, &[("url_scheme", scheme)]) == count).then_some(())
        });
    }
    let total = |line: &str| serde_json::from_str::<Value>(line).ok()?["total"]["count"].as_u64();
    hist.wait_said(PATIENCE, |line| (total(line) == Some(2 * count)).then_some(()));

    assert_not_on_pages(&probe, &needles);
    assert_forgotten("the probe", probe.pid(), &needles);
    assert_forgotten("the histogram", hist.pid(), &needles);
    assert_never_said(&mut probe, &mut hist, &needles);
}

/// Asserts that the probe's pages tell no secret, in any of their formats.
pub(crate) fn assert_not_on_pages(probe: &Probe, needles: &[(&'static str, Vec<u8>)]) {
    for page in ["/metrics", "/", "/healthz", "/readyz", "/livez", "/-/healthy", "/-/ready"] {
        for accept in ["", "Accept: application/json\r\n", "Accept: application/openmetrics-text\r\n"] {
            let page = probe.get(page, accept).expect("the probe answers");
            let page = String::from_utf8_lossy(&page.body).into_owned();
            assert_eq!(said(&page, needles), [""; 0], "in {page}");
        }
    }
}

/// Ends both, and asserts that neither ever said a secret.
pub(crate) fn assert_never_said(probe: &mut Probe, hist: &mut Process, needles: &[(&'static str, Vec<u8>)]) {
    for (process, signal) in [(hist, libc::SIGINT), (probe.process(), libc::SIGTERM)] {
        process.stop(signal, PATIENCE);
        process.wait_silent(PATIENCE);
        let story = process.story();
        assert!(
            !process.complained().is_empty() || !process.said().is_empty(),
            "it says something, at its most verbose"
        );
        assert_eq!(said(&story, needles), [""; 0], "in {story}");
    }
}

fn in_clear_text() {
    search(None);
}

fn under_tls() {
    search(Some(&Authority::new().expect("certificates can be made")));
}

/// Whether a process of this machine leaves a core dump when it is aborted, after all limits on that were lifted.
pub(crate) fn core_dumps() -> Result<(), String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a live rlimit. What this process starts from now on has its limit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_CORE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_CORE, &limit);
        }
    }
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut sleeper = Process::start("a sleeper", Command::new("sleep").arg("60").current_dir(folder.path()));
    let status = sleeper.stop(libc::SIGABRT, PATIENCE);
    if status.core_dumped() { Ok(()) } else { Err("nothing dumps core here".into()) }
}

/// A crash of the probe leaves nothing of its memory behind, on a machine where that of another program does.
fn no_core_dumps() {
    let (server, folder) = (Server::peer(&[]), tempfile::tempdir().expect("a folder"));
    let mut run = command(&["run", "--web.listen-address", "127.0.0.1:0", "--service", &server.service("web")]);
    // Where a dump would go, most often.
    let mut probe = Process::start("the probe", run.current_dir(folder.path()));
    probe.wait_complained(PATIENCE, |line| line.contains("listening on http").then_some(()));
    let status = probe.stop(libc::SIGABRT, PATIENCE);
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{}", probe.story());
    assert!(!status.core_dumped(), "the probe left a core dump");
}
