//! When a probe comes to a bot on Discord: before it connects, while it does, and long after.

use std::collections::BTreeMap;
use std::time::Duration;

use miku_probe_tests::harness::discord::{Discord, Log};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::attach;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::json;

use crate::discord_metrics::{BOT, UP, assert_events, assert_replied, told};
use crate::discord_stage::{Compression, bot, discord, watched_from_the_start};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(before, DiscordZstd, Hermetic),
        case!(while_connecting_by_zlib, Discord, DiscordZstd, Hermetic),
        case!(while_connecting_by_zstd, DiscordZstd, Hermetic),
        case!(long_after, Discord, DiscordZstd, Hermetic),
    ]
}

/// Asserts that the only gateway there is, of this shard, is up: a heartbeat may have to come first.
fn assert_up(probe: &Probe, shard: &str) {
    let all = || probe.scrape().counts_by(UP, &BOT, &["shard"]);
    let up = eventually(PATIENCE, || (all() == BTreeMap::from([(shard.to_owned(), 1)])).then_some(()));
    assert!(up.is_some(), "{:?} are up\n{}", all(), told(probe));
}

/// Asserts that what happens from now on is told, and with it what happened after `events` and `replies`.
fn assert_told(probe: &Probe, discord: &mut Discord, events: &BTreeMap<String, u64>, replies: usize) {
    for (text, count) in [("!reply hi", 5), ("not for a bot", 5)] {
        let load = json!({"do": "messages", "text": text, "count": count, "channels": 5, "rate": 20});
        discord.tell(&load);
    }
    discord.wait_replies(replies + 5);
    assert_events(probe, discord, events);
    assert_replied(probe, discord, replies);
}

fn before() {
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zstd, &[]));
    assert_up(&probe, "0");
    assert_told(&probe, &mut discord, &BTreeMap::new(), 0);
}

/// The websocket is open, and nothing has come over it.
fn while_connecting(compression: Compression) {
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    discord.tell(&json!({"do": "hold"}));
    let bot: Process = discord.program("discord.py", &mut bot(compression, &[]));
    discord.wait("a gateway connection", |log| (!log.connected.is_empty()).then_some(()));
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    assert!(discord.log().sent.is_empty(), "nothing was to be sent before");
    discord.tell(&json!({"do": "release"}));
    bot.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    assert_up(&probe, "0");
    assert_told(&probe, &mut discord, &BTreeMap::new(), 0);
}

fn while_connecting_by_zlib() {
    while_connecting(Compression::Zlib);
}

fn while_connecting_by_zstd() {
    while_connecting(Compression::Zstd);
}

/// A bot at which nothing but heartbeats went by for half a minute. Nobody told the probe of which shard it is.
fn long_after() {
    const IDLE: Duration = Duration::from_secs(30);
    let mut discord = discord(&["--heartbeat-ms", "4000"]);
    let bot = discord.bot("discord.py", &mut bot(Compression::Zlib, &[]));
    let beats = |log: &Log| -> Vec<u64> {
        log.received.iter().filter(|received| received.op == 1).map(|received| received.at).collect()
    };
    let idle = eventually(IDLE + PATIENCE, || {
        let beats = beats(discord.log());
        let length = Duration::from_nanos(beats.last()?.saturating_sub(*beats.first()?));
        (length >= IDLE && beats.len() >= 7).then_some(())
    });
    assert!(idle.is_some(), "heartbeats at {:?}", beats(discord.log()));
    let (events, replies) = (discord.log().events(), discord.log().replies().len());
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    assert_up(&probe, "unknown");
    assert_told(&probe, &mut discord, &events, replies);
    assert_up(&probe, "unknown");
}
