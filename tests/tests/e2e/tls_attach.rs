//! How the probe comes into a TLS library that is in use, and how it leaves it.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use miku_probe_tests::harness::memory::patched;
use miku_probe_tests::harness::probe::{Probe, exit_limit};
use miku_probe_tests::harness::secure::{SecureServer, attach, sites, wait_sites};
use miku_probe_tests::harness::{PATIENCE, eventually};
use miku_probe_tests::truth::{Side, Truth, counted};

use crate::tls_stage::{Bot, LIBRARY, NOTICED_WITHIN, assert_all_matched, assert_asked, serve};
use crate::{Case, case, holds_to_promises};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(in_mid_life, PlainPython),
        case!(late_library, PlainPython),
        case!(the_watched_and_no_other, SharedLibrary),
        case!(killed, SharedLibrary),
        case!(quick_to_come_and_go, SharedLibrary).compares_times(),
    ]
}

/// What the server counted under the bot's name of the requests to one route.
fn only(server: &SecureServer, bot: &Bot, route: &str) -> Truth {
    let mut truth = server.truth(&bot.name);
    truth.requests.retain(|key, _| key.route == route);
    (truth.request_bytes, truth.response_bytes) = (None, None);
    truth
}

/// Connections that were busy when the probe came are exact from the next request on.
fn in_mid_life() {
    let server = serve();
    let mut bot = Bot::start(&server, "old", 4);
    bot.ask("/fast", 100);
    bot.tell("busy /fast");
    let probe = attach(&[&bot.service("bot")]);
    // Whatever the probe came into the middle of is over by the time that these begin.
    bot.ask("/items/1", 500);
    bot.tell("busy /fast");
    bot.ask("/bytes/10", 500);
    let (items, bytes, fast) =
        (only(&server, &bot, "/items/{}"), only(&server, &bot, "/bytes/{}"), only(&server, &bot, "/fast"));
    assert_eq!((items.total(), bytes.total()), (500, 500));
    let labels = [("service", "bot"), ("server_address", bot.name.as_str()), ("url_scheme", "https")];
    let name = "http_client_request_duration_seconds_count";
    probe.wait_for("all requests that came after the probe", |scrape| {
        let seen = counted(scrape, "bot", Side::Client);
        let all = scrape.try_count(name, &labels) == Some(seen.values().sum());
        let exact = |truth: &Truth| truth.requests.iter().all(|(key, count)| seen.get(key) == Some(count));
        (all && exact(&items) && exact(&bytes)).then_some(())
    });
    let seen: u64 =
        fast.requests.keys().filter_map(|key| counted(&probe.scrape(), "bot", Side::Client).remove(key)).sum();
    assert!(seen > 0 && seen < fast.total(), "{seen} seen of {}, some of which came before the probe", fast.total());
    assert_eq!(probe.scrape().count("miku_probe_lost_total", &[("where", "ring")]), 0);
}

/// A process that loads the library long after it was found is noticed in time.
fn late_library() {
    let server = serve();
    let mut bot = Bot::late(&server, "late");
    let probe = Probe::attach(&[&bot.service("bot")]);
    assert_eq!(sites(&probe, "bot"), Some(0), "it has not loaded the library yet");
    bot.tell("load");
    std::thread::sleep(NOTICED_WITHIN);
    bot.ask("/items/1", 100);
    assert_asked(&probe, "bot", &server.truth(&bot.name), &bot.name, &server.port());
    wait_sites(&probe, "bot");
    assert_all_matched(&probe);
}

fn breakpoints(bot: &Bot) -> usize {
    patched(bot.process.pid(), LIBRARY).expect("the bot has the library mapped")
}

/// Another process with the same library has none of the probe's breakpoints, and none of its requests are counted.
fn the_watched_and_no_other() {
    let server = serve();
    let (mut watched, mut other) = (Bot::start(&server, "watched", 2), Bot::start(&server, "other", 2));
    assert_eq!((breakpoints(&watched), breakpoints(&other)), (0, 0), "before the probe came");
    let probe = attach(&[&watched.service("bot")]);
    let stand = breakpoints(&watched);
    assert!(stand > 0, "the probe stands in the library");
    eprintln!("{stand} bytes of the watched library are the probe's");
    for bot in [&mut watched, &mut other] {
        bot.ask("/items/1", 300);
    }
    assert_eq!(breakpoints(&other), 0, "while the probe watches another process");
    assert_asked(&probe, "bot", &server.truth(&watched.name), &watched.name, &server.port());
    let all = probe.scrape().count("http_client_request_duration_seconds_count", &[]);
    assert_eq!(all, 300, "and nothing of the other\n{}", probe.told());
    assert!(probe.stop().success());
    assert_eq!((breakpoints(&watched), breakpoints(&other)), (0, 0), "after the probe went");
    for bot in [&mut watched, &mut other] {
        bot.ask("/items/1", 50);
        assert_eq!(server.truth(&bot.name).total(), 350);
    }
}

/// A probe that is killed leaves no breakpoint behind, and a busy bot goes on.
fn killed() {
    let server = serve();
    let mut bot = Bot::start(&server, "survivor", 2);
    let mut probe = attach(&[&bot.service("bot")]);
    bot.tell("busy /fast");
    assert!(breakpoints(&bot) > 0, "the probe stands in the library");
    let status = probe.process().stop(libc::SIGKILL, PATIENCE);
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    let gone = eventually(PATIENCE, || (breakpoints(&bot) == 0).then_some(()));
    assert!(gone.is_some(), "{} bytes are still the probe's", breakpoints(&bot));
    bot.ask("/items/1", 200);
    assert_eq!(only(&server, &bot, "/items/{}").total(), 200);
    // And the next probe finds nothing in its way.
    let probe = attach(&[&bot.service("bot")]);
    bot.ask("/bytes/10", 100);
    let truth = only(&server, &bot, "/bytes/{}");
    probe.assert_agrees(&truth, "bot", Side::Client);
}

/// With all that there is of a Python bot.
fn quick_to_come_and_go() {
    let attached_within = Duration::from_millis(if holds_to_promises() { 500 } else { 5_000 });
    let server = serve();
    let mut bot = Bot::start(&server, "quick", 2);
    bot.tell("busy /slow?ms=2");
    for _ in 0..3 {
        let launched = Instant::now();
        let mut probe = Probe::launch(&[&bot.service("bot")], &[]);
        probe.wait_ready();
        let ready = Instant::now();
        wait_sites(&probe, "bot");
        let (up, sites_after) = (ready - launched, ready.elapsed());
        let all = sites(&probe, "bot").expect("it stands there");
        let leaving = Instant::now();
        let status = probe.process().stop(libc::SIGTERM, exit_limit());
        let left = leaving.elapsed();
        eprintln!("ready {up:?} after its launch, {all} TLS sites {sites_after:?} after that, gone within {left:?}");
        assert_eq!(status.code(), Some(0), "{}", probe.process().story());
        assert!(sites_after <= attached_within, "the TLS sites came {sites_after:?} after it said that it is ready");
        assert_eq!(breakpoints(&bot), 0, "after it went");
    }
    assert!(bot.process.alive());
}
