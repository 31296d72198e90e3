//! The commands that look and attach nothing.

use std::process::Command;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::command;
use miku_probe_tests::harness::process::Process;
use serde_json::Value;

use crate::stage::Server;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(ps), case!(check), case!(help_and_version)]
}

/// Runs a command to its good end and tells its standard output.
fn output(command: &mut Command) -> String {
    let mut process = Process::start("the probe", command);
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.story()));
    process.wait_silent(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", process.story());
    process.said().join("\n")
}

fn ps() {
    let server = Server::peer(&[]);
    let pid = server.process.pid().to_string();
    let service = server.service("web");
    let table = output(&mut command(&["ps", "--service", &service]));
    assert!(table.lines().any(|line| line.contains(&pid) && line.contains("web")), "{table}");
    let json = output(&mut command(&["ps", "--service", &service, "--json"]));
    assert!(
        json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
            || serde_json::from_str::<Value>(&json).is_ok()
    );
    assert!(json.contains(&pid) && json.contains("\"web\""), "{json}");
}

fn check() {
    let table = output(&mut command(&["check"]));
    assert!(!table.is_empty());
    assert!(!table.contains('\x1b'), "no colours in a pipe: {table}");
    let json = output(&mut command(&["check", "--json"]));
    assert!(
        json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok())
            || serde_json::from_str::<Value>(&json).is_ok()
    );
}

fn help_and_version() {
    let version = output(&mut command(&["--version"]));
    assert!(version.starts_with("miku-probe "), "{version}");
    let help = output(&mut command(&["--help"]));
    for name in ["run", "hist", "ps", "check"] {
        assert!(help.contains(name), "{name} is not in {help}");
    }
}
