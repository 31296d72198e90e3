//! Bots that speak: bytes of voice, held against the voice server's own log.

use std::collections::BTreeMap;

use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::json;

use crate::discord_metrics::{BOT, RECONNECTS, UP, assert_events, by};
use crate::discord_stage::{discord, watched_from_the_start, with_voice};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(spoken, Voice, DiscordZstd, Hermetic), case!(spoken_compressed, Voice, DiscordZstd, Hermetic)]
}

const VOICE: &str = "miku_discord_voice_bytes_total";

fn spoken() {
    speak(&[]);
}

/// discord.py offers to compress what it exchanges with voice servers.
fn spoken_compressed() {
    speak(&["--voice-deflate"]);
}

fn speak(options: &[&str]) {
    const PACKETS: usize = 40;
    let python: Python = with_voice().expect("the case needs it");
    let mut discord = discord(options);
    let (bot, probe) = watched_from_the_start(&mut discord, &mut python.script("discord_bot.py"));
    discord.tell(&json!({"do": "ready"}));
    discord.tell(&json!({"do": "messages", "text": format!("!speak {PACKETS}")}));
    let spoken = eventually(PATIENCE, || (!discord.log().replies().is_empty()).then_some(()));
    assert!(spoken.is_some(), "the bot said nothing: {}", bot.story());

    let happened = discord.log().voice.clone();
    assert_eq!(happened.keys().collect::<Vec<_>>(), ["receive", "transmit"], "the bot speaks and hears");
    // Without what is said to find out addresses, each packet has a head of twelve bytes and a nonce of four.
    assert!(happened.values().all(|bytes| *bytes > PACKETS as u64 * 16), "{happened:?}");
    let mut seen = BTreeMap::new();
    let agreed = eventually(PATIENCE, || {
        seen = by(&probe.scrape(), VOICE, "direction");
        (seen == happened).then_some(())
    });
    let network = || by(&probe.scrape(), "miku_net_bytes_total", "transport");
    assert!(agreed.is_some(), "{happened:?} in the log, {seen:?} of {:?} in the metrics\n{}", network(), probe.told());
    // What goes over the voice server's websocket is none of the gateway's.
    assert_events(&probe, &mut discord, &BTreeMap::new());
    let scrape = probe.scrape();
    assert_eq!(by(&scrape, UP, "shard"), BTreeMap::from([("0".to_owned(), 1)]), "{}", probe.told());
    scrape.assert_absent(RECONNECTS, &BOT);
}
