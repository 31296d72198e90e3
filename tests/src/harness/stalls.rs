//! A program whose event loop is blocked on purpose, `stalls.py`, and what `miku-probe stalls` tells of it.

use serde_json::Value;

use super::probe::command;
use super::process::Process;
use super::python::Python;
use super::{PATIENCE, eventually};

/// Ways to block, as the program and the probe call them.
pub const KINDS: [&str; 5] = ["sleep", "computation", "disk", "lock", "peer"];

/// A program whose loop is blocked when it is told to.
#[derive(Debug)]
pub struct Blocked {
    /// It.
    pub process: Process,
}

impl Blocked {
    /// Starts it, with these options.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start(python: &Python, options: &[&str]) -> Self {
        let process = Process::start("the blocked loop", python.script("stalls.py").args(options));
        process.wait_said(PATIENCE, |line| line.starts_with("ready").then_some(()));
        Self { process }
    }

    /// A service that it is.
    #[must_use]
    pub fn service(&self) -> String {
        format!("bot=pid:{}", self.process.pid())
    }

    /// Blocks the loop, and tells what the program says of it once it is over.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn plant(&mut self, kind: &str, seconds: f64) -> Value {
        let before = self.process.said().len();
        self.process.tell(&format!("{kind} {seconds}"));
        let answer = || self.process.said().into_iter().skip(before).find_map(|line| object(&line));
        eventually(PATIENCE, answer).unwrap_or_else(|| panic!("it does not come back: {}", self.process.story()))
    }
}

fn object(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
}

/// Starts `miku-probe stalls` on a service, with these options, and waits until it watches a process.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn start_log(service: &str, options: &[&str]) -> Process {
    let log = Process::start("stalls", command(&["stalls", "--service", service]).args(options));
    log.wait_complained(PATIENCE, |line| line.contains("watching the loops").then_some(()));
    log
}

/// A running `miku-probe stalls`, with these options, that knows the loop. It is known after some turns, and its program's
/// symbols after a while; so the loop is blocked for `seconds` until a stall is told with its place.
///
/// # Panics
/// When that is never.
pub fn watch(blocked: &mut Blocked, options: &[&str], seconds: f64) -> Process {
    let log = start_log(&blocked.service(), options);
    let known = eventually(PATIENCE, || {
        blocked.plant("sleep", seconds);
        let place = |line: &String| line.contains("in sleeps (") || line.contains("stalls.py:sleeps");
        log.said().iter().any(place).then_some(())
    });
    known.unwrap_or_else(|| panic!("no stall is told: {}", log.story()));
    log
}

/// What a program says of a time in which its loop was blocked, and the probe of the same.
#[derive(Debug)]
pub struct Told {
    kind: String,
    planted: Value,
    exceeds: Value,
    ended: Value,
}

/// Blocks the loop, and waits until the probe has told of it with `--json`.
///
/// # Panics
/// When it does not.
pub fn told(blocked: &mut Blocked, log: &Process, kind: &str, seconds: f64) -> Told {
    let before = log.said().len();
    let planted = blocked.plant(kind, seconds);
    let find = || {
        let events: Vec<Value> = log.said().into_iter().skip(before).filter_map(|line| object(&line)).collect();
        // What comes first may be the end of another one.
        let exceeds = events.iter().find(|value| value["event"] == "exceeds")?;
        let ended = |value: &&Value| value["event"] == "ended" && value["since"] == exceeds["since"];
        Some((exceeds.clone(), events.iter().find(ended)?.clone()))
    };
    let found = eventually(PATIENCE, find);
    let (exceeds, ended) = found.unwrap_or_else(|| panic!("{planted} is not told: {}", log.story()));
    Told { kind: kind.to_owned(), planted, exceeds, ended }
}

impl Told {
    /// What is wrong with what was told, if anything is: the line, the cause, when it was told, or how long it was.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        let Self { kind, planted, exceeds, ended } = self;
        let wrong = if let Some(wrong) = self.wrong_place() {
            return Some(wrong);
        } else if exceeds["time"].as_str() >= planted["over"].as_str() {
            // Both are times of day of one clock and one form, so their texts compare.
            "it was told when it was over"
        } else if !(0.6..1.1).contains(&(seconds(ended, "seconds") / seconds(planted, "took"))) {
            "the length is another"
        } else if ended["cause"] != *kind {
            // On a busy machine what computes may wait for a processor longer than it runs.
            let starved = kind == "computation" && seconds(planted, "ran") < 0.6 * seconds(planted, "took");
            if starved && ended["cause"] == "starved" {
                return None;
            }
            "the cause is another"
        } else {
            return None;
        };
        Some(format!("{wrong}:\n{planted}\n{exceeds}\n{ended}"))
    }

    fn wrong_place(&self) -> Option<String> {
        let Self { planted, exceeds, ended, .. } = self;
        let named = |event: &Value| {
            let place = &event["blocking"];
            place["line"] == planted["line"] && place["file"].as_str().is_some_and(|file| file.ends_with("/stalls.py"))
        };
        (!named(ended)).then(|| format!("the place is another:\n{planted}\n{exceeds}\n{ended}"))
    }

    /// How long it had lasted when it was told.
    #[must_use]
    pub fn delay(&self) -> f64 {
        seconds(&self.exceeds, "seconds")
    }

    /// # Panics
    /// When anything is [wrong](Self::wrong).
    pub fn assert(&self) {
        if let Some(wrong) = self.wrong() {
            panic!("{wrong}");
        }
    }

    /// # Panics
    /// When another place was told in the end.
    pub fn assert_place(&self) {
        if let Some(wrong) = self.wrong_place() {
            panic!("{wrong}");
        }
    }
}

fn seconds(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"))
}
