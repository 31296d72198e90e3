//! The commands that look and attach nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::{catalogue, command};
use miku_probe_tests::harness::process::Process;
use serde_json::{Value, json};

use crate::stage::Server;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(ps),
        case!(check),
        case!(metrics),
        case!(broken_pipes),
        case!(completions),
        case!(man),
        case!(help_and_version),
    ]
}

/// Runs a command to its good end and tells its standard output.
fn output(command: &mut Command) -> String {
    let mut process = Process::start("the probe", command);
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", process.story()));
    process.wait_silent(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", process.story());
    process.said().join("\n")
}

/// What it prints, read as JSON.
fn parsed(command: &mut Command) -> Value {
    let text = output(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The words of each line of a table whose first line begins so.
fn rows(table: &str, titles: &str) -> Vec<Vec<String>> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    assert!(head.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(titles), "{table}");
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn ps() {
    let server = Server::peer(&[]);
    let (pid, service) = (server.process.pid(), server.service("web"));
    let report = parsed(&mut command(&["ps", "--service", &service, "--json"]));
    let [row] = &report["processes"].as_array().expect("an array")[..] else { panic!("one process: {report:#}") };
    let expected = json!({"pid": pid, "service": "web", "comm": "peer", "attach": true, "connections": 0,
        "listens": [server.address.to_string()]});
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(row[key], *value, "{key} in {row:#}");
    }
    assert_eq!((&report["automatic"], &report["without_process"]), (&json!(false), &json!([])), "{report:#}");
    let table = output(&mut command(&["ps", "--service", &service]));
    let [row] = &rows(&table, "PID SERVICE COMM UPTIME LISTENS CONNS TLS INFLATE ATTACH WHY")[..] else {
        panic!("one process: {table}")
    };
    assert_eq!(row[..3], [&pid.to_string(), "web", "peer"], "{table}");
    assert!(row[4..].contains(&server.address.to_string()) && row[4..].contains(&"yes".to_owned()), "{table}");
    // Of a service that nobody is, it is said that nobody is.
    let report = parsed(&mut command(&["ps", "--service", "gone=comm:nobody-has-this", "--json"]));
    assert_eq!(
        (&report["processes"], &report["without_process"]),
        (&json!([]), &json!(["gone (comm:nobody-has-this)"]))
    );
}

/// What `check` looks at, in its order, and whether the probe needs it.
const CHECKS: [(&str, bool); 22] = [
    ("kernel", true),
    ("architecture", true),
    ("privileges", true),
    ("PID namespace", true),
    ("BPF object", true),
    ("BPF maps", true),
    ("BPF ring buffer", true),
    ("BPF programs", true),
    ("kernel BTF", true),
    ("tracefs", true),
    ("tracepoints", true),
    ("perf events", true),
    ("lockdown", true),
    ("memlock limit", true),
    ("bpffs", false),
    ("uprobes", false),
    ("event loops", false),
    ("ptrace scope", false),
    ("seccomp", false),
    ("TLS libraries", false),
    ("zlib and zstd", false),
    ("GPU", false),
];

/// The suite runs where all that is needed is there; and what is said of it in JSON is said in the table.
fn check() {
    let report = parsed(&mut command(&["check", "--json"]));
    assert_eq!(report["ok"], true, "{report:#}");
    let checks = report["checks"].as_array().expect("an array");
    let named = checks.iter().map(|check| (check["name"].as_str().unwrap_or_default(), check["intent"] == "required"));
    assert_eq!(named.collect::<Vec<_>>(), CHECKS);
    let table = output(&mut command(&["check"]));
    assert!(!table.contains('\x1b'), "no colours in a pipe: {table}");
    let mut lines = table.lines();
    for check in checks {
        let text = |key: &str| check[key].as_str().unwrap_or_default();
        let (name, status, detail) = (text("name"), text("status"), text("detail"));
        assert!(status == "pass" || (status == "warn" && check["intent"] == "optional"), "{check:#}");
        assert!(!detail.is_empty() && (status == "warn" || check["remedy"].is_null()), "{check:#}");
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(&format!("{status}  {name} ")), "{line:?} of {check:#}");
        // Other cases start and end processes meanwhile that have libraries.
        let same = ["TLS libraries", "zlib and zstd"].contains(&name) || line.ends_with(detail);
        assert!(same, "{line:?} of {check:#}");
        if let Some(remedy) = check["remedy"].as_str() {
            assert!(lines.next().is_some_and(|line| line.ends_with(remedy)), "no remedy of {check:#}");
        }
    }
    assert_eq!(lines.collect::<Vec<_>>(), ["", "This machine can be probed."]);
}

/// The list for people has every metric that the list for programs has, each with its labels, type and help.
fn metrics() {
    let families = parsed(&mut command(&["metrics", "--json"]));
    let text = output(&mut command(&["metrics"]));
    let mut lines = text.lines();
    for family in families.as_array().expect("an array") {
        let text = |key: &str| family[key].as_str().expect("a text");
        let labels: Vec<&str> =
            family["labels"].as_array().expect("an array").iter().filter_map(Value::as_str).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        assert_eq!(lines.next(), Some(&*format!("{}{labels} {}", text("name"), text("type"))));
        assert_eq!(lines.next().map(str::trim_start), Some(text("help")));
    }
    assert_eq!(lines.next(), None);
    assert_eq!(catalogue().family("http_server_request_duration_seconds").kind(), "histogram");
}

/// A reader that has enough ends a command, which is no failure and needs no word.
fn broken_pipes() {
    for arguments in
        [&["metrics", "--json"][..], &["metrics"], &["ps", "--json"], &["check"], &["man"], &["completions", "zsh"]]
    {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command(arguments).stdout(writer).output().expect("the probe runs");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

/// The subcommands, by the help.
fn subcommands() -> Vec<String> {
    let help = output(&mut command(&["--help"]));
    let (_, list) = help.split_once("\nCommands:\n").unwrap_or_else(|| panic!("no list of commands: {help}"));
    let list = list.lines().take_while(|line| !line.is_empty());
    // What goes on in a second line is set in further.
    let name = |line: &str| {
        line.strip_prefix("  ")?.split_once(' ').filter(|(name, _)| !name.is_empty()).map(|name| name.0.to_owned())
    };
    list.filter_map(name).collect()
}

/// What bash makes of the script offers each subcommand and its flags.
fn completions() {
    // Has bash complete the last of the words, and prints what it offers.
    const COMPLETE: &str = "source /dev/stdin && complete -p miku-probe >&2 && COMP_WORDS=(\"$@\") && \
                            COMP_CWORD=$(($# - 1)) && _miku__probe miku-probe \"${!#}\" \"${@: -2:1}\" && \
                            printf '%s\\n' \"${COMPREPLY[@]}\"";
    let script = output(&mut command(&["completions", "bash"]));
    let offered = |words: &[&str]| -> BTreeSet<String> {
        let mut bash = Process::start("bash", Command::new("bash").args(["-c", COMPLETE, "bash"]).args(words));
        bash.input().write_all(script.as_bytes()).expect("bash reads");
        bash.finish_input();
        let status = bash.wait(PATIENCE).unwrap_or_else(|| panic!("it goes on: {}", bash.story()));
        assert!(status.success(), "{}", bash.story());
        bash.said().into_iter().collect()
    };
    let names = offered(&["miku-probe", ""]);
    for name in subcommands() {
        assert!(names.contains(&name), "{name} is not offered: {names:?}");
    }
    let flags = offered(&["miku-probe", "run", "--"]);
    for flag in ["--service", "--config", "--web.listen-address", "--limit.ring-bytes"] {
        assert!(flags.contains(flag), "{flag} is not offered: {flags:?}");
    }
    // Other shells' scripts are for them, and know the same commands.
    for (shell, first) in [("zsh", "#compdef miku-probe"), ("fish", "# Print an optspec")] {
        let script = output(&mut command(&["completions", shell]));
        assert!(script.starts_with(first), "{shell}: {script}");
        for name in subcommands() {
            assert!(script.contains(&name), "{name} is not in the script for {shell}");
        }
    }
}

/// The manual page has its parts, in roff, and tells of every subcommand.
fn man() {
    let page = output(&mut command(&["man"]));
    let head = |line: &&str| line.starts_with(".TH ");
    assert_eq!(page.lines().filter(head).count(), 1, "{page}");
    assert!(page.lines().find(head).is_some_and(|line| line.starts_with(".TH miku-probe 1 ")), "{page}");
    let parts: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
    for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS"] {
        assert!(parts.contains(&part), "no {part} in {parts:?}");
    }
    for name in subcommands() {
        assert!(page.lines().any(|line| line == format!("miku\\-probe\\-{name}(1)")), "{name} is not in {page}");
    }
}

fn help_and_version() {
    let version = output(&mut command(&["--version"]));
    let number = version.strip_prefix("miku-probe ").unwrap_or_else(|| panic!("{version}"));
    let parts: Vec<&str> = number.split('.').collect();
    assert!(parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok()), "{version}");
    let mut named = subcommands();
    named.sort();
    let expected = ["check", "completions", "gpu", "help", "hist", "man", "metrics", "profile", "ps", "run", "stalls"];
    assert_eq!(named, expected);
    for name in expected {
        let help = output(&mut command(&["help", name]));
        assert!(help.contains("\nUsage: miku-probe "), "{name}: {help}");
    }
}
