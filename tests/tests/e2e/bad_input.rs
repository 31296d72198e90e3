//! What cannot be done is said in one clear line, and nothing is left half attached.

use std::net::TcpListener;
use std::process::Command;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::command;
use miku_probe_tests::harness::process::{AsNobody, Process};

use crate::stage::Config;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(not_root),
        case!(unknown_pid),
        case!(bad_regex),
        case!(bad_selector),
        case!(port_in_use),
        case!(unknown_key),
        case!(unknown_option),
        case!(missing_file),
    ]
}

const USAGE: i32 = 2;
const FAILURE: i32 = 1;

/// More than any kernel gives out.
const NO_PID: &str = "4194305";

/// Runs it to its end, and expects `code` and a line on standard error with every one of `words`.
fn assert_refused(command: &mut Command, code: i32, words: &[&str]) {
    let mut process = Process::start("the probe", command);
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.story()));
    process.wait_silent(PATIENCE);
    assert_eq!(status.code(), Some(code), "{}", process.story());
    let line = process.wait_complained(PATIENCE, |line| {
        let line = line.to_lowercase();
        words.iter().all(|word| line.contains(&word.to_lowercase())).then_some(line)
    });
    assert!(!line.contains("panicked"), "{line}");
    // A usage error may be followed by how to use it.
    if code == FAILURE {
        assert_eq!(process.complained().len(), 1, "one line, not more: {}", process.story());
    }
    assert!(process.said().is_empty(), "data goes to standard output, talk does not: {}", process.story());
}

fn run(options: &[&str]) -> Command {
    let mut command = command(&["run", "--web.listen-address", "127.0.0.1:0"]);
    command.args(options);
    command
}

fn not_root() {
    let mut stranger = AsNobody::new(&run(&["--service", "web=port:1"]));
    assert_refused(stranger.command(), FAILURE, &["root"]);
}

fn unknown_pid() {
    assert_refused(&mut run(&["--service", &format!("web=pid:{NO_PID}")]), FAILURE, &[NO_PID]);
}

fn bad_regex() {
    assert_refused(&mut run(&["--service", "web=cmdline:a(b"]), USAGE, &["a(b"]);
}

fn bad_selector() {
    assert_refused(&mut run(&["--service", "web=colour:red"]), USAGE, &["colour"]);
    assert_refused(&mut run(&["--service", "web"]), USAGE, &["web"]);
    assert_refused(&mut run(&["--service", "web=port:70000"]), USAGE, &["70000"]);
}

fn port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut command = command(&["run", "--service", "web=port:1", "--web.listen-address", &address]);
    assert_refused(&mut command, FAILURE, &[&address, "in use"]);
}

fn unknown_key() {
    let config = Config::new("colour = \"red\"\n");
    assert_refused(&mut run(&["--config", config.path()]), USAGE, &["colour", config.path()]);
}

fn unknown_option() {
    assert_refused(&mut run(&["--colour"]), USAGE, &["--colour"]);
}

fn missing_file() {
    assert_refused(&mut run(&["--config", "/nonexistent/config.toml"]), FAILURE, &["/nonexistent/config.toml"]);
}
