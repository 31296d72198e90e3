//! Bots on discord.py, a Discord of the suite's own, and what the probe tells of their calls: routes without ids, and
//! what rate limits cost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miku_probe_tests::harness::discord::{Closed, Connected, Discord, Log, Request, Sent};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::secure::attach;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::json;

use crate::discord_stage::{Compression, Library, PLAIN, bot, discord, echo, llm, watched_from_the_start, with_zlib};
use crate::tls_stage::assert_all_matched;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(calls_of_a_connected_bot, Discord, DiscordZstd, Hermetic),
        case!(calls_from_the_start, DiscordZstd, Hermetic),
        case!(the_stand_in_keeps_sessions, Discord, DiscordZstd, Hermetic),
        case!(plain_and_uncompressed, Disnake, DiscordZstd, Hermetic),
        case!(routes_and_limits, Discord, DiscordZstd, Hermetic),
        case!(older_discord_py, DiscordOld, DiscordZstd, Hermetic),
        case!(nextcord, Nextcord, DiscordZstd, Hermetic),
        case!(py_cord, PyCord, DiscordZstd, Hermetic),
        case!(disnake, Disnake, DiscordZstd, Hermetic),
        case!(hikari, Hikari, DiscordZstd, Hermetic),
    ]
}

const COUNT: &str = "http_client_request_duration_seconds_count";
const LABELS: [&str; 3] = ["http_request_method", "http_route", "http_response_status_code"];
const API: [(&str, &str); 3] = [("service", "bot"), ("server_address", "discord.com"), ("url_scheme", "https")];
const BOT: [(&str, &str); 1] = [("service", "bot")];
const POST_MESSAGE: &str = "/channels/{channel_id}/messages";

/// Asserts that the calls to Discord's API are those of the log, but for what was there `before`.
fn assert_calls(probe: &Probe, discord: &mut Discord, before: &BTreeMap<String, u64>) {
    let (mut calls, mut seen) = (BTreeMap::new(), BTreeMap::new());
    let agreed = eventually(PATIENCE, || {
        calls = discord.log().calls();
        for (call, count) in before {
            *calls.get_mut(call)? -= count;
        }
        calls.retain(|_, count| *count > 0);
        let counts = probe.scrape().counts_by(COUNT, &API, &LABELS);
        let (answered, given_up): (BTreeMap<_, _>, BTreeMap<_, _>) =
            counts.into_iter().partition(|(call, _)| !call.ends_with(' '));
        seen = answered;
        // What the bot gave up before its answer came, as typing when it has answered, the log knows as answered or not at
        // all.
        for (call, count) in &given_up {
            let (answered, logged) = (seen.iter_mut(), &calls);
            for (answered, seen) in answered.filter(|(answered, _)| answered.starts_with(call)) {
                *seen += logged.get(answered).map_or(0, |logged| logged.saturating_sub(*seen).min(*count));
            }
        }
        (seen == calls).then_some(())
    });
    assert!(agreed.is_some(), "{calls:#?} in the log, {seen:#?} in the metrics");
    assert!(!calls.is_empty(), "the bot called nobody");
    assert_all_matched(probe);
}

/// Asserts that there has been one gateway connection, of this kind.
fn assert_connected(log: &Log, compress: Option<&str>, tls: bool) {
    assert_eq!(log.connected, [Connected { compress: compress.map(str::to_owned), tls }]);
}

/// Has people do one of everything, and waits for the answers.
fn one_of_everything(discord: &mut Discord) {
    let before = discord.log().replies().len();
    let texts = ["!reply hi", "!replyllm hi", "!send hi", "!streamllm hi", "!elsewhere hi", "!twice hi"];
    for text in texts {
        discord.tell(&json!({"do": "messages", "text": text, "count": 3, "channels": 3}));
    }
    for text in ["!typing", "!react", "not for a bot"] {
        discord.tell(&json!({"do": "messages", "text": text, "count": 2, "channels": 2}));
    }
    discord.tell(&json!({"do": "messages", "text": "!replyllm hi", "count": 2, "channels": 2, "dm": true}));
    for name in ["ask", "ask-original", "hello"] {
        discord.tell(&json!({"do": "interactions", "kind": "command", "name": name}));
    }
    for kind in ["component", "modal", "autocomplete"] {
        discord.tell(&json!({"do": "interactions", "kind": kind}));
    }
    // Choices for half a word are no answer.
    discord.wait_replies(before + 3 * texts.len() + 2 + 3 + 2);
}

fn calls_of_a_connected_bot() {
    let mut discord = discord(&[]);
    let (_llm, url) = llm(&discord, &[]);
    let bot = discord.bot("discord.py", &mut bot(Compression::Zlib, &["--llm", &url]));
    let log = discord.log();
    assert_connected(log, Some("zlib-stream"), true);
    let before = log.calls();
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    one_of_everything(&mut discord);
    assert_calls(&probe, &mut discord, &before);
}

fn calls_from_the_start() {
    let mut discord = discord(&[]);
    let (_llm, url) = llm(&discord, &[]);
    let mut command = bot(Compression::Zstd, &["--llm", &url, "--stream-llm"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut command);
    assert_connected(discord.log(), Some("zstd-stream"), true);
    one_of_everything(&mut discord);
    assert_calls(&probe, &mut discord, &BTreeMap::new());
}

fn routes_and_limits() {
    let mut discord = discord(&[]);
    let edit = format!("{POST_MESSAGE}/{{message_id}}");
    for (method, route, skip, scope, seconds) in [
        ("POST", POST_MESSAGE, 1, "user", 0.4),
        ("POST", POST_MESSAGE, 5, "shared", 0.3),
        ("POST", POST_MESSAGE, 6, "shared", 0.2),
        ("PATCH", &edit, 2, "global", 0.5),
        ("POST", "/webhooks/{webhook_id}/{token}", 1, "user", 0.3),
    ] {
        let plan = json!({"do": "refuse", "method": method, "route": route, "skip": skip, "scope": scope,
            "seconds": seconds});
        discord.tell(&plan);
    }
    let mut command = with_zlib().expect("the case needs it").script("discord_client.py");
    let mut client = discord.program("discord.py", &mut command);
    client.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    let probe = attach(&[&format!("bot=pid:{}", client.pid())]);
    client.tell("go");
    client.wait_said(PATIENCE, |line| (line == "done").then_some(()));
    assert_calls(&probe, &mut discord, &BTreeMap::new());

    let log = &discord.log().requests;
    let mut limited: BTreeMap<String, u64> = BTreeMap::new();
    let mut waited: BTreeMap<String, f64> = BTreeMap::new();
    let mut remaining: BTreeMap<String, f64> = BTreeMap::new();
    for (place, entry) in log.iter().enumerate() {
        remaining.insert(entry.route.clone(), entry.remaining);
        if let Some(scope) = &entry.scope {
            *limited.entry(format!("{scope} {}", entry.route)).or_default() += 1;
            // What the library slept is what lies between the refusal and the same request's coming again.
            let again = |next: &&Request| (&next.method, &next.path) == (&entry.method, &entry.path);
            let next = log[place + 1..].iter().find(again).expect("the library tries again");
            *waited.entry(entry.route.clone()).or_default() +=
                Duration::from_nanos(next.received - entry.answered).as_secs_f64();
        }
    }
    assert!(log.len() > 50 && limited.len() == 4, "{} requests, and refused were {limited:?}", log.len());

    let scrape = probe.scrape();
    assert_eq!(scrape.counts_by("miku_discord_rate_limited_total", &BOT, &["scope", "http_route"]), limited);

    let seen = scrape.sums_by("miku_discord_rate_limit_wait_seconds_total", &BOT, &["http_route"]);
    assert_eq!(seen.keys().collect::<Vec<_>>(), waited.keys().collect::<Vec<_>>(), "routes on which it waited");
    for (route, seconds) in &waited {
        let off = (seen[route] - seconds).abs();
        assert!(off < 0.05 + seconds * 0.05, "{route}: {seconds} s by the log, {} s by the probe", seen[route]);
    }
    // Methods of one route have quotas of their own, and which was the last to answer is the label's business.
    let ratios = scrape.sums_by("miku_discord_rate_limit_remaining_ratio", &BOT, &["http_route"]);
    for (route, ratio) in &remaining {
        let methods = log.iter().filter(|entry| entry.route == *route).map(|entry| &entry.method);
        let one = methods.collect::<BTreeSet<_>>().len() == 1;
        let seen = ratios.get(route).unwrap_or_else(|| panic!("no quota of {route} in {ratios:?}"));
        assert!((0.0..=1.0).contains(seen), "{route}: {seen}");
        assert!(!one || (seen - ratio).abs() < 1e-9, "{route}: {ratio} in the log, {seen} in the metrics");
    }
}

/// A bot on another library.
fn other(library: Library) {
    echoes(library, &[], true);
}

fn echoes(library: Library, options: &[&str], tls: bool) {
    let mut discord = discord(options);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut echo(library));
    assert_connected(discord.log(), library.compression(), tls);
    for (text, count) in [("!hi", 10), ("not for a bot", 10)] {
        discord.tell(&json!({"do": "messages", "text": text, "count": count, "channels": 5, "rate": 20}));
    }
    discord.wait_replies(10);
    assert_calls(&probe, &mut discord, &BTreeMap::new());
}

/// A gateway that nothing hides.
fn plain_and_uncompressed() {
    echoes(Library::Uncompressed, &PLAIN, false);
}

/// The stand-in must do what it is told before anybody is measured against it.
fn the_stand_in_keeps_sessions() {
    let mut discord = discord(&["--heartbeat-ms", "250", "--guilds", "4", "--shards", "2", "--guild-bytes", "102400"]);
    let _bot = discord.bot("discord.py", &mut bot(Compression::Zlib, &["--shards", "2"]));
    assert_eq!(discord.log().connected.len(), 2, "one connection a shard");
    assert_eq!(discord.log().events()["GUILD_CREATE"], 4);
    let guild = |sent: &&Sent| sent.name.as_deref() == Some("GUILD_CREATE");
    assert!(
        discord.log().sent.iter().filter(guild).all(|sent| sent.size >= 102_400),
        "guilds as large as was asked for"
    );

    for (command, back_by, ended_by) in [
        (json!({"do": "reconnect"}), "RESUMED", ("bot", 4000)),
        (json!({"do": "close", "code": 4009}), "RESUMED", ("standin", 4009)),
        (json!({"do": "invalid", "resumable": true}), "RESUMED", ("bot", 4000)),
        (json!({"do": "drop"}), "RESUMED", ("standin", 1006)),
        (json!({"do": "invalid", "resumable": false}), "READY", ("bot", 1000)),
    ] {
        let count = |log: &Log| log.events().get(back_by).copied().unwrap_or_default();
        let (before, closed) = (count(discord.log()), discord.log().closed.len());
        discord.tell(&command);
        discord.wait(&format!("{back_by} after {command}"), |log| (count(log) == before + 2).then_some(()));
        let ends = &discord.log().closed[closed..];
        let as_told = |end: &Closed| (end.by.as_str(), end.code) == (ended_by.0, Some(ended_by.1));
        assert!(ends.len() == 2 && ends.iter().all(as_told), "{command}: {ends:?}");
    }
    discord.tell(&json!({"do": "messages", "text": "!reply hi", "count": 8, "channels": 8}));
    discord.wait_replies(8);

    let late = |log: &Log| log.heartbeats().into_iter().flatten().filter(|seconds| *seconds >= 0.1).count();
    assert_eq!(late(discord.log()), 0);
    discord.tell(&json!({"do": "acks", "after": 0.1}));
    discord.wait("late acks", |log| (late(log) >= 4).then_some(()));
    let missed = |log: &Log| log.heartbeats().iter().filter(|heartbeat| heartbeat.is_none()).count();
    discord.tell(&json!({"do": "acks", "after": null}));
    discord.wait("missing acks", |log| (missed(log) >= 6).then_some(()));
}

fn older_discord_py() {
    other(Library::OldDiscordPy);
}

fn nextcord() {
    other(Library::Nextcord);
}

fn py_cord() {
    other(Library::PyCord);
}

fn disnake() {
    other(Library::Disnake);
}

fn hikari() {
    other(Library::Hikari);
}
