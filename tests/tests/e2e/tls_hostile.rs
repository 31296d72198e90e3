//! TLS where it is hardest to look into, and where looking could do harm.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use miku_probe_tests::harness::memory::mappings;
use miku_probe_tests::harness::probe::{Probe, exit_limit};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::{SecureServer, attach, sites, wait_sites};
use miku_probe_tests::harness::{PATIENCE, eventually};
use tempfile::TempDir;

use crate::tls_stage::{Bot, assert_all_matched, assert_asked, plain, serve, shared_library};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(strict_filter, PlainPython),
        case!(strict_filter_come_and_go, PlainPython),
        case!(library_deleted, SharedLibrary),
        case!(library_replaced, SharedLibrary),
        case!(library_without_sections, SharedLibrary),
        case!(targets_that_die_at_once, PlainPython),
    ]
}

/// The filter itself: a bot lives under it as long as it does what bots do, and dies when it does anything else.
fn assert_filter_is_strict(server: &SecureServer) {
    let mut bot = Bot::confined(server, "control");
    bot.ask("/fast", 100);
    bot.tell("again");
    bot.ask("/fast", 100);
    assert!(bot.process.alive(), "a bot lives under the filter without a probe: {}", bot.process.story());
    bot.process.tell("forbidden");
    let status = bot.process.wait(PATIENCE).expect("it is killed");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{}", bot.process.story());
}

fn strict_filter() {
    let server = serve();
    assert_filter_is_strict(&server);
    let mut bot = Bot::confined(&server, "confined");
    let probe = attach(&[&bot.service("bot")]);
    bot.ask("/items/1", 2000);
    bot.tell("again");
    bot.ask("/fast", 500);
    assert!(bot.process.alive(), "{}", bot.process.story());
    assert_asked(&probe, "bot", &server.truth(&bot.name), &bot.name, &server.port());
    assert_all_matched(&probe);
    assert!(probe.stop().success());
    bot.ask("/fast", 100);
    assert!(bot.process.alive(), "{}", bot.process.story());
}

/// Coming and going are when a breakpoint stands only half.
fn strict_filter_come_and_go() {
    let server = serve();
    let mut bot = Bot::confined(&server, "confined");
    for time in 1..=5 {
        bot.tell("busy /fast");
        let probe = attach(&[&bot.service("bot")]);
        probe.wait_for("requests under the load", |scrape| {
            let seen = scrape.try_count("http_client_request_duration_seconds_count", &[("service", "bot")]);
            (seen > Some(50)).then_some(())
        });
        assert!(probe.stop().success());
        bot.ask("/items/1", 20);
        assert!(bot.process.alive(), "after the probe came and went {time} times: {}", bot.process.story());
    }
    let truth = server.truth(&bot.name);
    assert_eq!(truth.failed, 0);
    let items = truth.requests.iter().filter(|(key, _)| key.route == "/items/{}").map(|(_, count)| count).sum::<u64>();
    assert_eq!(items, 100);
}

/// A copy of the TLS library in a folder of its own.
fn private_copy() -> (TempDir, PathBuf) {
    let library = PathBuf::from(shared_library().expect("the case needs it"));
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join(library.file_name().expect("a file has a name"));
    fs::copy(&library, &copy).expect("the library can be copied");
    (folder, copy)
}

fn maps(bot: &Bot, name: &str) -> bool {
    let all = mappings(bot.process.pid()).expect("the bot lives");
    all.iter().any(|mapping| mapping.name == name && mapping.rights.contains('x'))
}

fn assert_measured(server: &SecureServer, bot: &mut Bot) {
    let probe = attach(&[&bot.service("bot")]);
    bot.ask("/items/1", 200);
    assert_asked(&probe, "bot", &server.truth(&bot.name), &bot.name, &server.port());
    assert!(probe.stop().success());
}

/// As a package upgrade does it in its first step.
fn library_deleted() {
    let server = serve();
    let (_folder, library) = private_copy();
    let mut bot = Bot::with_library(&server, "deleted", &library);
    fs::remove_file(&library).expect("the folder is the case's own");
    assert!(maps(&bot, &format!("{} (deleted)", library.display())), "the bot has the deleted file mapped");
    assert_measured(&server, &mut bot);
}

/// As a package upgrade does it in the end: what stands under the name is another file.
fn library_replaced() {
    let server = serve();
    let (folder, library) = private_copy();
    let mut bot = Bot::with_library(&server, "replaced", &library);
    let newer = folder.path().join("newer");
    // Any file that is not the library; a probe that put its breakpoints by this one would hit nothing or worse.
    fs::write(&newer, vec![0xc3; 1 << 20]).expect("the folder can be written to");
    fs::rename(&newer, &library).expect("both are in one folder");
    assert!(maps(&bot, &format!("{} (deleted)", library.display())), "the bot has the old file mapped");
    assert_measured(&server, &mut bot);
}

/// A library without section headers has no symbol table that tools would find; the dynamic loader does not need any.
/// The probe does need it, and says that it cannot attach; whatever else there is, is measured.
fn library_without_sections() {
    const SECTIONS_AT: usize = 0x28;
    const SECTION_COUNT: usize = 0x3c;
    let server = serve();
    let (_folder, library) = private_copy();
    let mut bytes = fs::read(&library).expect("the copy is there");
    assert_eq!(&bytes[..5], b"\x7fELF\x02", "a library of 64 bits");
    bytes[SECTIONS_AT..SECTIONS_AT + 8].fill(0);
    bytes[SECTION_COUNT..SECTION_COUNT + 4].fill(0);
    fs::write(&library, bytes).expect("the folder is the case's own");
    let (mut bare, mut whole) = (Bot::with_library(&server, "bare", &library), Bot::start(&server, "whole", 2));
    assert!(maps(&bare, &library.display().to_string()), "the bot has the bare file mapped");
    let probe = Probe::attach(&[&bare.service("bare"), &whole.service("whole")]);
    wait_sites(&probe, "whole");
    let failures = probe.wait_for("a word on the bare library", |scrape| {
        let failures = scrape.counts_by("miku_probe_attach_failures_total", &[], &["kind", "reason"]);
        (!failures.is_empty()).then_some(failures)
    });
    assert_eq!(failures, BTreeMap::from([("tls stripped".to_owned(), 1)]));
    assert_eq!(sites(&probe, "bare"), Some(0));
    bare.ask("/items/1", 100);
    whole.ask("/items/1", 100);
    assert_asked(&probe, "whole", &server.truth(&whole.name), &whole.name, &server.port());
    probe.scrape().assert_absent("http_client_request_duration_seconds_count", &[("service", "bare")]);
}

/// Targets that end while the probe is about to attach to them cost nobody else anything.
fn targets_that_die_at_once() {
    const PROGRAM: &str = "import ssl, time, sys; time.sleep(float(sys.argv[2]))";
    let server = serve();
    let mut bot = Bot::start(&server, "steady", 2);
    let mark = format!("short-lived-{}", std::process::id());
    let mut probe = Probe::launch(&[&bot.service("bot"), &format!("short=cmdline:{mark}")], &[]);
    probe.wait_target("bot");
    let python = plain().expect("the case needs it");
    for step in 0..16 {
        // From before the library is loaded to a good while after it.
        let life = format!("{:.3}", f64::from(step) * 0.01);
        let mut command = Command::new(python.path());
        let mut short = Process::start("a short-lived target", command.args(["-c", PROGRAM, &mark, &life]));
        let ended = eventually(PATIENCE, || (!short.alive()).then_some(()));
        assert!(ended.is_some(), "{}", short.story());
    }
    wait_sites(&probe, "bot");
    bot.ask("/items/1", 200);
    assert_asked(&probe, "bot", &server.truth(&bot.name), &bot.name, &server.port());
    assert!(probe.process().alive(), "{}", probe.process().story());
    assert_eq!(probe.status("/livez"), Some(200));
    probe.wait_for("that nobody short-lived is watched any more", |scrape| {
        (scrape.value("miku_probe_targets", &[("service", "short"), ("state", "attached")]) == 0.0).then_some(())
    });
    // None of them asked anybody.
    probe.scrape().assert_absent("http_client_request_duration_seconds_count", &[("service", "short")]);
    let status = probe.process().stop(libc::SIGTERM, exit_limit());
    assert!(status.success(), "{}", probe.process().story());
}
