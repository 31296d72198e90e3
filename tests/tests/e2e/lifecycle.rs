//! How the probe comes to its end, and what it leaves.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use miku_probe_tests::harness::probe::{Probe, exit_limit};
use miku_probe_tests::harness::{PATIENCE, eventually, kernel};
use miku_probe_tests::truth::{Side, Truth};

use crate::stage::{Load, Server, load, watched};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(asked_to_end).compares_times(), case!(killed), case!(target_dies), case!(two_at_once)]
}

/// The BPF programs of the probe.
///
/// # Panics
/// When it holds none, because then nothing could be found left behind.
fn programs(probe: &Probe) -> Vec<u32> {
    let ids = kernel::program_ids(probe.pid());
    assert!(!ids.is_empty(), "the probe holds programs while it is attached");
    assert!(ids.iter().all(|id| kernel::program_exists(*id)), "{ids:?} are loaded while the probe is attached");
    ids
}

fn assert_gone(ids: &[u32]) {
    let gone = eventually(PATIENCE, || ids.iter().all(|id| !kernel::program_exists(*id)).then_some(()));
    gone.unwrap_or_else(|| panic!("of the programs {ids:?}, some are still loaded"));
}

fn asked_to_end() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let (server, mut probe) = watched(&[]);
        // Under load, and with a scrape connection open, an end is harder to come to.
        let idle = std::net::TcpStream::connect(probe.address().to_string()).expect("the probe listens");
        let mut work = Load::start(&server.address, &["-n", "100000", "-c", "8", "--rate", "2000", "--warm-up", "1"]);
        work.wait_ready();
        work.go();
        probe.wait_for("the load", |scrape| {
            (scrape.try_count("http_server_request_duration_seconds_count", &[]) > Some(100)).then_some(())
        });
        let ids = programs(&probe);
        let start = Instant::now();
        let status = probe.process().stop(signal, exit_limit());
        eprintln!("signal {signal}: ended after {:?}", start.elapsed());
        assert_eq!(status.code(), Some(0), "after signal {signal}: {}", probe.process().story());
        assert_gone(&ids);
        assert!(work.process.alive(), "the load goes on: {}", work.process.story());
        drop(idle);
    }
}

fn killed() {
    let (mut server, mut probe) = watched(&[]);
    let mut work = Load::start(&server.address, &["-n", "3000", "-c", "8", "--rate", "2000", "--warm-up", "1"]);
    work.wait_ready();
    work.go();
    probe.wait_for("the load", |scrape| {
        (scrape.try_count("http_server_request_duration_seconds_count", &[]) > Some(100)).then_some(())
    });
    let ids = programs(&probe);
    assert_eq!(probe.process().stop(libc::SIGKILL, PATIENCE).signal(), Some(libc::SIGKILL));
    assert_gone(&ids);
    assert_eq!(work.truth().total(), 3000, "the server served all the while");
    assert!(server.process.alive());
    // And the next probe finds nothing in its way.
    let probe = Probe::attach(&[&server.service("web")]);
    probe.assert_agrees(&server.load(&["-n", "50"]), "web", Side::Server);
}

fn target_dies() {
    let (mut server, other) = (Server::peer(&[]), Server::peer(&[]));
    let mut probe = Probe::attach(&[&server.service("web"), &other.service("other")]);
    let mut work = Load::start(&server.address, &["--ask", "/slow?ms=500", "-n", "8", "-c", "8", "--warm-up", "0"]);
    work.wait_ready();
    work.go();
    probe.wait_for("the requests in flight", |scrape| {
        (scrape.try_value("miku_http_requests_in_flight", &[("service", "web")]) == Some(8.0)).then_some(())
    });
    server.process.stop(libc::SIGKILL, PATIENCE);
    probe.wait_for("that nothing is in flight with a dead server", |scrape| {
        (scrape.try_value("miku_http_requests_in_flight", &[("service", "web")]) == Some(0.0)).then_some(())
    });
    probe.assert_agrees(&other.load(&["-n", "100"]), "other", Side::Server);
    assert!(probe.process().alive());
    assert_eq!(probe.status("/livez"), Some(200));
    assert!(probe.stop().success());
}

fn two_at_once() {
    let (server, first) = watched(&["--writers", "0"]);
    let mut truth = server.load(&["-n", "300"]);
    let second = Probe::attach(&[&server.service("web")]);
    let both = server.load(&["--ask", "/fast", "--ask", "/status/204", "-n", "5000", "-c", "16"]);
    truth.merge(&both);
    first.assert_agrees(&truth, "web", Side::Server);
    second.assert_agrees(&both, "web", Side::Server);
    assert!(second.stop().success());
    let more: Truth = load(&server.address, &["-n", "300"]);
    truth.merge(&more);
    first.assert_agrees(&truth, "web", Side::Server);
}
