//! What a process decompresses as a client of Discord's gateway does is told message by message, and nothing else is.
//!
//! What each call of the library put out is the truth: the client says it, and what records come of it is worked out here.

use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{Python, service};
use miku_probe_tests::harness::{client, eventually};

use crate::stage::PEER;
use crate::tls_stage::{NOTICED_WITHIN, plain};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(zlib_messages, PlainPython),
        case!(zlib_messages_on_other_versions, Python39, Python313),
        case!(zstd_messages, Zstd),
        case!(nothing_else_of_zlib, PlainPython),
        case!(nothing_else_of_zstd, Zstd),
        case!(in_mid_life, PlainPython),
        case!(late_library, PlainPython),
        case!(strict_filter, PlainPython),
    ]
}

/// How long the client may be busy with what one case has it do.
const WORK: Duration = Duration::from_secs(60);

/// The most bytes of one record, of a message that matters, and of another, as the probe documents them.
const PIECE: u64 = 4096;
const MATTERS: u64 = 32 << 10;
const OTHER: u64 = 512;

/// Events of which more is copied than of others; `-` is a payload whose event is not told at its start.
const EVENTS_THAT_MATTER: [&str; 3] = ["MESSAGE_CREATE", "INTERACTION_CREATE", "-"];

/// Sizes around those at which something changes: in the probe, and in CPython's and zstandard's buffers.
const SIZES: [u64; 16] = [
    100,
    511,
    512,
    513,
    4_095,
    4_096,
    4_097,
    8_192,
    16_384,
    32_767,
    32_768,
    32_769,
    98_304,
    131_072,
    131_073,
    200 << 10,
];

/// The environment with zstandard.
pub(crate) fn zstd() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    PYTHON.get_or_init(|| Python::with("zstd", &["zstd.txt"]).map_err(|error| format!("{error:#}"))).clone()
}

/// A client that decompresses as it is told.
struct Bot {
    process: Process,
    told: usize,
    said: usize,
}

impl Bot {
    fn start(python: &Python) -> Self {
        Self::by(&mut Command::new(python.path()))
    }

    fn by(command: &mut Command) -> Self {
        command.arg(service("inflate_bot.py")).env("PYTHONDONTWRITEBYTECODE", "1");
        let process = Process::start("the client", command);
        process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
        Self { process, told: 0, said: 0 }
    }

    /// Has it do something, and waits until it says that it is done.
    fn tell(&mut self, command: &str) {
        self.process.tell(command);
        self.told += 1;
        let done = format!("done {}", self.told);
        self.process.wait_said(WORK, |line| (line == done).then_some(()));
    }

    /// Has it decompress messages, and works out of what it says how many records must come of it.
    fn send(&mut self, kind: &str, event: &str, sizes: &[u64]) -> u64 {
        let text: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        self.tell(&format!("send {kind} {event} {}", text.join(" ")));
        let calls: Vec<Vec<u64>> = self.process.said().iter().filter_map(|line| calls(line)).collect();
        let budget = if EVENTS_THAT_MATTER.contains(&event) { MATTERS } else { OTHER };
        let new = &calls[std::mem::replace(&mut self.said, calls.len())..];
        assert_eq!(new.iter().map(|calls| calls.iter().sum::<u64>()).collect::<Vec<_>>(), sizes);
        new.iter().map(|calls| records(calls, budget)).sum()
    }

    fn service(&self) -> String {
        format!("bot=pid:{}", self.process.pid())
    }
}

/// What the client says of the calls for a message.
fn calls(line: &str) -> Option<Vec<u64>> {
    let numbers = line.strip_prefix("calls ")?;
    Some(numbers.split(' ').map(|number| number.parse().expect("a number")).collect())
}

/// How many records tell a message that came by these calls.
fn records(calls: &[u64], mut budget: u64) -> u64 {
    let of_call = |size: &u64| {
        let copied = budget.min(*size);
        budget -= copied;
        // What is not copied goes with the last piece that is, or alone where none is.
        copied.div_ceil(PIECE).max(1)
    };
    calls.iter().map(of_call).sum()
}

fn attach(bot: &Bot) -> Probe {
    let probe = Probe::attach(&[&bot.service()]);
    wait_sites(&probe);
    probe
}

const SITES: &str = "miku_probe_sites";
const OF_INFLATE: [(&str, &str); 2] = [("service", "bot"), ("kind", "inflate")];

fn wait_sites(probe: &Probe) {
    probe.wait_for("a site in zlib or zstd", |scrape| (scrape.try_count(SITES, &OF_INFLATE) > Some(0)).then_some(()));
}

fn told(scrape: &Scrape, kind: &str) -> u64 {
    scrape.count("miku_probe_records_total", &[("kind", kind)])
}

/// Asserts that so many records of messages have come, and so many of ends, and none was lost.
fn assert_records(probe: &Probe, messages: u64, ends: u64) {
    let mut seen = (0, 0);
    let agreed = eventually(Duration::from_secs(5), || {
        let scrape = probe.scrape();
        seen = (told(&scrape, "inflated"), told(&scrape, "inflate_end"));
        (seen == (messages, ends)).then_some(())
    });
    assert!(agreed.is_some(), "{seen:?} records came, not {:?}\n{}", (messages, ends), probe.told());
    probe.assert_lossless();
}

/// All sizes and events, on a stream that the probe sees from its start on, and on one after it.
fn assert_messages(python: &Python, kind: &str) {
    let mut bot = Bot::start(python);
    let folder = folder();
    bot.tell(&format!("noise {kind} {}", folder.path().display()));
    let probe = attach(&bot);
    let mut expected = 0;
    for ends in 0..2 {
        // As the gateway's own first word.
        expected += bot.send(kind, "-", &[20]);
        for event in ["MESSAGE_CREATE", "INTERACTION_CREATE", "GUILD_CREATE", "-"] {
            expected += bot.send(kind, event, &SIZES);
            assert_records(&probe, expected, ends);
        }
        bot.tell(&format!("end {kind}"));
        assert_records(&probe, expected, ends + 1);
    }
    assert!(probe.stop().success());
    bot.send(kind, "MESSAGE_CREATE", &SIZES);
    assert!(bot.process.alive(), "{}", bot.process.story());
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn zlib_messages() {
    assert_messages(&plain().expect("the case needs it"), "zlib");
}

fn zlib_messages_on_other_versions() {
    for minor in [9, 13] {
        assert_messages(&client::environment(minor).expect("the case needs it"), "zlib");
    }
}

fn zstd_messages() {
    assert_messages(&zstd().expect("the case needs it"), "zstd");
}

/// Bodies, files, imports and other streams give nothing, and a gateway beside them all it should.
fn assert_nothing_else(python: &Python, kind: &str) {
    let folder = folder();
    let noise = format!("noise {kind} {}", folder.path().display());
    let mut bot = Bot::start(python);
    bot.tell(&noise);
    let probe = attach(&bot);
    bot.tell(&noise);
    let expected = bot.send(kind, "-", &[20]) + bot.send(kind, "MESSAGE_CREATE", &[100, 5_000]);
    assert_records(&probe, expected, 0);
    bot.tell(&noise);
    let expected = expected + bot.send(kind, "MESSAGE_CREATE", &[100, 5_000]);
    assert_records(&probe, expected, 0);
}

fn nothing_else_of_zlib() {
    assert_nothing_else(&plain().expect("the case needs it"), "zlib");
}

fn nothing_else_of_zstd() {
    assert_nothing_else(&zstd().expect("the case needs it"), "zstd");
}

/// A stream that was long in use when the probe came is told from the next message on, be it long.
fn in_mid_life() {
    for first in [100, 200 << 10] {
        let mut bot = Bot::start(&plain().expect("the case needs it"));
        bot.send("zlib", "-", &[20]);
        bot.send("zlib", "GUILD_CREATE", &SIZES);
        let probe = attach(&bot);
        let expected = bot.send("zlib", "MESSAGE_CREATE", &[first]) + bot.send("zlib", "MESSAGE_CREATE", &SIZES);
        assert_records(&probe, expected, 0);
    }
}

/// A process that loads the library long after it was found is noticed in time.
fn late_library() {
    // Without what an installation may have it import by itself.
    let mut bot = Bot::by(Command::new(plain().expect("the case needs it").path()).args(["-I", "-S"]));
    let probe = Probe::attach(&[&bot.service()]);
    assert_eq!(probe.scrape().value(SITES, &OF_INFLATE), 0.0, "it has not loaded the library yet");
    bot.send("zlib", "-", &[20]);
    std::thread::sleep(NOTICED_WITHIN);
    let expected = bot.send("zlib", "MESSAGE_CREATE", &SIZES);
    wait_sites(&probe);
    assert_records(&probe, expected, 0);
}

/// A filter that kills at any unusual system call leaves a client alive in which the probe stands.
fn strict_filter() {
    let mut command = Command::new(PEER);
    command.args(["confine", "--"]).arg(plain().expect("the case needs it").path());
    let mut bot = Bot::by(&mut command);
    bot.send("zlib", "-", &[20]);
    for _ in 0..3 {
        let probe = attach(&bot);
        let mut expected = 0;
        for _ in 0..20 {
            expected += bot.send("zlib", "MESSAGE_CREATE", &SIZES);
        }
        assert_records(&probe, expected, 0);
        assert!(probe.stop().success());
        bot.send("zlib", "MESSAGE_CREATE", &SIZES);
        assert!(bot.process.alive(), "{}", bot.process.story());
    }
}
