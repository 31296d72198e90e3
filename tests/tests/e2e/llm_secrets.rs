//! What people ask a language model, and what it says, is in nothing that the probe says, and soon in nothing that it holds.
//!
//! That is so of the optimised build. Without optimisation the search for line ends keeps the 32 bytes that it looks at on the
//! stack, where they stay until something else is put there.

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::llm::{Client, LlmServer};
use miku_probe_tests::harness::memory::find;
use miku_probe_tests::harness::probe::{Probe, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::wait_sites;
use miku_probe_tests::harness::tls::Authority;
use serde_json::Value;

use crate::llm::{ENDS, python, wait_calls};
use crate::secrets::{assert_forgotten, assert_never_said, assert_not_on_pages, halves, unheard_of};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(prompts_and_completions_in_clear_text, Llm), case!(prompts_and_completions_under_tls, Llm)]
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// Has a client ask with a secret in every dialect, streamed and not; the stand-in's answers repeat what was asked.
fn search(authority: Option<&Authority>) {
    let python = python().expect("the case needs it");
    let secrets = [("prompt", unheard_of(LETTERS, 21)), ("completion", unheard_of(LETTERS, 21))];
    let folder = tempfile::tempdir().expect("a folder");
    // The stand-in keeps to itself what it says in its other dialects.
    let mut server = LlmServer::standin(&python, &folder.path().join("truth"), authority, &["--said-on-input"]);
    server.process.tell(&secrets[1].1);
    // Four of each dialect.
    const CALLS: usize = 36;
    let count = CALLS.to_string();
    let options = ["--dialects", "all", "--stream", "mixed", "--calls", &count, "--concurrency", "4"];
    let mut command_of_client = server.client(&python, &[&options[..], &["--question-on-input"]].concat());
    if let Some(authority) = authority {
        command_of_client.args(["--host", "llm.miku.test"]).arg("--ca").arg(authority.root());
    }
    let mut client = Client::start(&mut command_of_client);

    let services = [server.service("llm"), client.service("bot")];
    let mut probe = Probe::launch(&[&services[0], &services[1]], &["-vvv"]);
    let mut watch = command(&["hist", "--llm", "-vvv", "--json", "--interval", "0.2"]);
    let mut hist = Process::start("hist", watch.args(["--service", &services[0], "--service", &services[1]]));
    let targets = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["targets"].as_array()?.len());
    hist.wait_said(PATIENCE, |line| (targets(line) == Some(2)).then_some(()));
    for (service, _) in ENDS {
        probe.wait_target(service);
        if authority.is_some() {
            wait_sites(&probe, service);
        }
    }
    let calls = client.ask(&secrets[0].1);
    assert_eq!(calls.iter().filter(|call| call.status == Some(200)).count(), CALLS, "{calls:?}");
    wait_calls(&probe, "complete", calls.len());
    let total = |line: &str| serde_json::from_str::<Value>(line).ok()?["total"]["count"].as_u64();
    hist.wait_said(PATIENCE, |line| (total(line) == Some(2 * calls.len() as u64)).then_some(()));

    let needles: Vec<_> = secrets.iter().flat_map(|(name, secret)| halves(name, secret)).collect();
    // The search is worth something only where the secrets are.
    for pid in [server.process.pid(), client.process.pid()] {
        let held = find(pid, &needles).expect("it lives");
        for (name, _) in &secrets {
            assert!(held.iter().any(|hit| hit.contains(name)), "no {name} in process {pid}: {held:?}");
        }
    }
    assert_not_on_pages(&probe, &needles);
    assert_forgotten("the probe", probe.pid(), &needles);
    assert_forgotten("the histogram", hist.pid(), &needles);
    assert_never_said(&mut probe, &mut hist, &needles);
}

fn prompts_and_completions_in_clear_text() {
    search(None);
}

fn prompts_and_completions_under_tls() {
    search(Some(&Authority::new().expect("certificates can be made")));
}
