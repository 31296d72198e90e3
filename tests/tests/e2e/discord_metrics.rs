//! What the probe tells of a bot on Discord, held against the stand-in's own log: the gateway, replies, commands.

use std::collections::BTreeMap;
use std::time::Duration;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::discord::{Discord, Kind, LlmCall, Log, Reply};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::secure::attach;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::json;

use crate::discord_stage::{Compression, Library, PLAIN, bot, discord, echo, llm, watched_by, watched_from_the_start};
use crate::{Case, case, holds_to_promises};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(events_by_zlib, Discord, DiscordZstd, Hermetic),
        case!(events_by_zstd, DiscordZstd, Hermetic),
        case!(events_in_mid_life, Discord, DiscordZstd, Hermetic),
        case!(shards, DiscordZstd, Hermetic),
        case!(heartbeats, Discord, DiscordZstd, Hermetic).compares_times(),
        case!(missed_heartbeats, DiscordZstd, Hermetic),
        case!(reconnects, Discord, DiscordZstd, Hermetic),
        case!(replies_and_phases, DiscordZstd, Hermetic).compares_times(),
        case!(replies_in_mid_life, Discord, DiscordZstd, Hermetic).compares_times(),
        case!(replies_without_reference, Discord, DiscordZstd, Hermetic).compares_times(),
        case!(replies_through_rate_limits, Discord, DiscordZstd, Hermetic).compares_times(),
        case!(phases_of_a_stream, DiscordZstd, Hermetic).compares_times(),
        case!(phases_of_many_streams_at_once, DiscordZstd, Hermetic).compares_times(),
        case!(unanswered, DiscordZstd, Hermetic),
        case!(hostile_commands, Discord, DiscordZstd, Hermetic),
        case!(two_hundred_a_second, DiscordZstd, Hermetic).compares_times(),
        case!(stalls, Discord, DiscordZstd, Hermetic).compares_times(),
        case!(uncompressed, Disnake, DiscordZstd, Hermetic).compares_times(),
        case!(plain, Disnake, DiscordZstd, Hermetic).compares_times(),
        case!(older_discord_py, DiscordOld, DiscordZstd, Hermetic).compares_times(),
        case!(nextcord, Nextcord, DiscordZstd, Hermetic).compares_times(),
        case!(py_cord, PyCord, DiscordZstd, Hermetic).compares_times(),
        case!(disnake, Disnake, DiscordZstd, Hermetic).compares_times(),
        case!(hikari, Hikari, DiscordZstd, Hermetic).compares_times(),
    ]
}

pub(crate) const EVENTS: &str = "miku_discord_gateway_events_total";
pub(crate) const UP: &str = "miku_discord_gateway_up";
const HEARTBEAT: &str = "miku_discord_gateway_heartbeat_seconds";
const MISSED: &str = "miku_discord_gateway_missed_heartbeats_total";
pub(crate) const RECONNECTS: &str = "miku_discord_gateway_reconnects_total";
pub(crate) const REPLY: &str = "miku_discord_reply_duration_seconds";
const PHASE: &str = "miku_discord_reply_phase_seconds";
pub(crate) const COMMANDS: &str = "miku_discord_commands_total";
pub(crate) const BOT: [(&str, &str); 1] = [("service", "bot")];

/// How far a reply may be off the stand-in's own timing.
pub(crate) fn reply_within() -> f64 {
    if holds_to_promises() { 0.002 } else { 0.05 }
}

/// How far a heartbeat may be.
fn heartbeat_within() -> f64 {
    if holds_to_promises() { 0.001 } else { 0.01 }
}

/// How much shorter than by the stand-in's clock a reply or a heartbeat may be. Both look at the same clock of the kernel, the
/// stand-in before what the probe sees and after it: whatever holds them up makes the probe's time longer, never shorter.
const SHORTER: f64 = 0.001;

/// The bot's counts by one label.
pub(crate) fn by(scrape: &Scrape, name: &str, label: &str) -> BTreeMap<String, u64> {
    scrape.counts_by(name, &BOT, &[label])
}

/// Asserts that the gateway's events are those of the log, but for what was there `before`.
pub(crate) fn assert_events(probe: &Probe, discord: &mut Discord, before: &BTreeMap<String, u64>) {
    let (mut events, mut seen) = (BTreeMap::new(), BTreeMap::new());
    let agreed = eventually(PATIENCE, || {
        let log = discord.log();
        if !log.settled() {
            return None;
        }
        events = log.events();
        for (name, count) in before {
            *events.get_mut(name)? -= count;
        }
        events.retain(|_, count| *count > 0);
        seen = by(&probe.scrape(), EVENTS, "event");
        (seen == events).then_some(())
    });
    assert!(agreed.is_some(), "{events:#?} in the log, {seen:#?} in the metrics\n{}", probe.told());
}

/// Asserts that the replies are those of the log but for the first `before`.
fn assert_replies(probe: &Probe, discord: &mut Discord, before: usize) {
    assert_replied(probe, discord, before);
    for kind in [Kind::Message, Kind::Interaction] {
        let replies = discord.log().replies().iter().skip(before);
        let replies: Vec<&Reply> = replies.filter(|reply| reply.kind == kind).collect();
        if !replies.is_empty() {
            assert_durations(probe, kind, &replies);
        }
    }
}

/// Asserts that each reply, of a probe that tells of it, took as long as the stand-in says. Where others use the machine too, a
/// few may be off.
fn assert_each(probe: &mut Probe, discord: &mut Discord) {
    let read = |line: &str| -> Option<(u64, f64)> {
        let (came, took) = line.split_once("what came at ")?.1.split_once(" ns was answered after ")?;
        let took = Duration::from_nanos(took.strip_suffix(" ns")?.parse().ok()?);
        Some((came.parse().ok()?, took.as_secs_f64()))
    };
    let mut log = discord.log().replies().to_vec();
    let told =
        |probe: &mut Probe| probe.process().complained().iter().filter_map(|line| read(line)).collect::<Vec<_>>();
    let all = eventually(PATIENCE, || (told(probe).len() == log.len()).then_some(()));
    let mut told = told(probe);
    assert!(all.is_some(), "{} replies, {} were told", log.len(), told.len());
    log.sort_by_key(|reply| reply.asked);
    told.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    // What came at once is told in the order of its answers.
    let mut at = 0;
    for together in told.chunk_by(|one, other| one.0 == other.0) {
        log[at..at + together.len()].sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        at += together.len();
    }
    let off = |((_, seen), reply): (&(u64, f64), &Reply)| {
        let what = format!("{} to {} s by the stand-in, {seen} s by the probe", reply.least, reply.seconds);
        ((seen - reply.seconds).max(reply.least - seen).max(0.0), what)
    };
    let mut off: Vec<(f64, String)> = told.iter().zip(&log).map(off).collect();
    off.sort_by(|a, b| a.0.total_cmp(&b.0));
    let at = |percent: usize| &off[(off.len() - 1) * percent / 100];
    let [half, most, all] = [50, 99, 100].map(|percent| at(percent).0 * 1e3);
    eprintln!("{} replies: half within {half:.2} ms, 99 % within {most:.2}, all within {all:.2}", off.len());
    let (off, what) = at(if holds_to_promises() { 100 } else { 90 });
    assert!(*off <= reply_within(), "{what}");
    let (off, what) = at(50);
    assert!(*off <= HALF_WITHIN, "half of the replies are further off than this one: {what}");
}

/// How far off half of the replies may be at most, on whatever machine: what a bot or the stand-in waits for a CPU is in few
/// of them.
const HALF_WITHIN: f64 = 0.002;

/// Asserts that replies of a kind, all of which are in the metrics, took as long as the stand-in says: their sum, and as far
/// as the buckets show each of them.
fn assert_durations(probe: &Probe, kind: Kind, replies: &[&Reply]) {
    let labels = [("service", "bot"), ("kind", kind.label())];
    let scrape = probe.scrape();
    let count = replies.len() as f64;
    let sum = scrape.sum(&format!("{REPLY}_sum"), &labels);
    let least = replies.iter().map(|reply| reply.least).sum::<f64>() - count * SHORTER;
    let most = replies.iter().map(|reply| reply.seconds).sum::<f64>() + count * reply_within();
    assert!((least..=most).contains(&sum), "{kind:?}: {least} to {most} s happened, {sum} s are in the metrics");
    let buckets = scrape.try_buckets(REPLY, &labels).expect("a histogram with a sum has buckets");
    for (bound, seen) in buckets {
        let count = |time: &dyn Fn(&Reply) -> f64| replies.iter().filter(|reply| time(reply) <= bound).count() as u64;
        let range = count(&|reply| reply.seconds + reply_within())..=count(&|reply| reply.least - SHORTER);
        assert!(range.contains(&seen), "{kind:?} up to {bound} s: {range:?} happened, not {seen}");
    }
}

/// Asserts that there are as many replies as in the log but for the first `before`. How long they took is left out: on a
/// machine with other work, bots read late what was sent in time.
pub(crate) fn assert_replied(probe: &Probe, discord: &mut Discord, before: usize) {
    for kind in [Kind::Message, Kind::Interaction] {
        let happened = discord.log().replies().iter().skip(before).filter(|reply| reply.kind == kind).count() as u64;
        let labels = [("service", "bot"), ("kind", kind.label())];
        // A kind that nobody was answered in has no series.
        let expected = (happened > 0).then_some(happened);
        let seen = || probe.scrape().try_count(&format!("{REPLY}_count"), &labels);
        let agreed = eventually(PATIENCE, || (seen() == expected).then_some(()));
        assert!(agreed.is_some(), "{happened} {kind:?} happened, {:?} are in the metrics\n{}", seen(), told(probe));
    }
    assert_phases(probe);
    assert_accounted(probe, discord, before);
}

/// Asserts that whoever the bot acted on, by the stand-in's log but for the first `before` replies, is accounted for: each
/// once, or as an answer of which nobody can say whose it is.
fn assert_accounted(probe: &Probe, discord: &mut Discord, before: usize) {
    // What the bot did before it was watched, and was not done with, is not known.
    if before > 0 {
        return;
    }
    let acted = discord.log().acted_on();
    for (kind, acted) in acted {
        let labels = [("service", "bot"), ("kind", kind.label())];
        let mut seen = String::new();
        let accounted = eventually(PATIENCE, || {
            let scrape = probe.scrape();
            let started = scrape.try_count("miku_discord_conversations_started_total", &labels).unwrap_or(0);
            let unclear: f64 = scrape
                .try_matching("miku_probe_unmatched_total", &[("protocol", "discord")])
                .into_iter()
                .filter(|sample| sample.label("reason").starts_with("answer_"))
                .map(|sample| sample.value)
                .sum();
            seen = format!("{started} started, {unclear} answers are unclear");
            ((started as f64 - acted as f64).abs() <= unclear).then_some(())
        });
        assert!(accounted.is_some(), "the bot acted on {acted} of {kind:?}; {seen}\n{}", told(probe));
    }
}

/// Asserts that the phases are all the time that there was, but for what rounding makes of so many doubles.
fn assert_phases(probe: &Probe) {
    let scrape = probe.scrape();
    let (whole, parts) = (scrape.sum(&format!("{REPLY}_sum"), &BOT), scrape.sum(&format!("{PHASE}_sum"), &BOT));
    let most = 1e-9 * scrape.sum(&format!("{REPLY}_count"), &BOT);
    assert!((whole - parts).abs() <= most, "{whole} s of replies, {parts} s of phases\n{}", told(probe));
}

/// What the probe told of Discord, for a message.
pub(crate) fn told(probe: &Probe) -> String {
    probe.scrape().show(&["miku_discord_", "miku_probe_unmatched_total"])
}

/// Has people do what is answered with a reference or a token, and waits for the answers.
fn ask(discord: &mut Discord, count: usize) {
    let before = discord.log().replies().len();
    let texts = ["!reply hi", "!replyllm hi", "!streamllm hi", "!twice hi"];
    for text in texts {
        discord.tell(&json!({"do": "messages", "text": text, "count": count, "channels": count, "rate": 20}));
    }
    discord.tell(&json!({"do": "messages", "text": "!replyllm hi", "count": count, "channels": 2, "dm": true}));
    discord.tell(&json!({"do": "messages", "text": "not for a bot", "count": count, "channels": 2}));
    let interactions =
        [("command", "ask"), ("command", "ask-original"), ("command", "hello"), ("component", "b"), ("modal", "f")];
    for (kind, name) in interactions {
        discord.tell(&json!({"do": "interactions", "kind": kind, "name": name, "count": count, "rate": 20}));
    }
    discord.tell(&json!({"do": "interactions", "kind": "autocomplete", "count": count}));
    discord.wait_replies(before + count * (texts.len() + 1 + interactions.len()));
}

/// Sends some of everything that a gateway sends.
fn some_of_everything(discord: &mut Discord) {
    ask(discord, 2);
    let typing = json!({"channel_id": "1", "user_id": "1", "timestamp": 1});
    for (name, d) in [("TYPING_START", typing), ("SOMETHING_NEW", json!({})), ("RATHER_NEW", json!(null))] {
        discord.tell(&json!({"do": "event", "t": name, "d": d, "count": 7}));
    }
    discord.tell(&json!({"do": "guild", "bytes": 100 * 1024}));
    discord.tell(&json!({"do": "messages", "text": "x", "length": 4000, "count": 5, "channels": 5}));
    let largest = discord.log().sent.iter().map(|sent| sent.size).max();
    assert!(largest >= Some(100 * 1024), "the largest message has {largest:?} bytes");
}

fn events(compression: Compression, options: &[&str]) {
    let mut discord = discord(&["--guild-bytes", "102400"]);
    let (_llm, url) = llm(&discord, &[]);
    let mut command = bot(compression, &["--llm", &url]);
    let (_bot, probe) = watched_from_the_start(&mut discord, command.args(options));
    some_of_everything(&mut discord);
    assert_events(&probe, &mut discord, &BTreeMap::new());
    let up = probe.scrape().value(UP, &[("service", "bot"), ("shard", "0")]);
    assert_eq!(up, 1.0, "{}", told(&probe));
    probe.assert_lossless();
}

fn events_by_zlib() {
    events(Compression::Zlib, &[]);
}

fn events_by_zstd() {
    events(Compression::Zstd, &["--stream-llm"]);
}

fn events_in_mid_life() {
    let mut discord = discord(&[]);
    let (_llm, url) = llm(&discord, &[]);
    let bot = discord.bot("discord.py", &mut bot(Compression::Zlib, &["--llm", &url]));
    some_of_everything(&mut discord);
    discord.wait("all events", |log| log.settled().then_some(()));
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    let before = discord.log().events();
    some_of_everything(&mut discord);
    assert_events(&probe, &mut discord, &before);
}

fn shards() {
    let mut discord = discord(&["--guilds", "4", "--channels", "8", "--shards", "2", "--heartbeat-ms", "400"]);
    let mut command = bot(Compression::Zstd, &["--shards", "2"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut command);
    discord.tell(&json!({"do": "messages", "text": "!reply hi", "count": 16, "channels": 8, "rate": 40}));
    discord.wait_replies(16);
    assert_events(&probe, &mut discord, &BTreeMap::new());
    probe.wait_for("two shards that are up", |scrape| {
        (by(scrape, UP, "shard") == BTreeMap::from(["0", "1"].map(|shard| (shard.to_owned(), 1)))).then_some(())
    });
    for shard in ["0", "1"] {
        let labels = [("service", "bot"), ("shard", shard)];
        probe.wait_for(&format!("a heartbeat of shard {shard}"), |scrape| {
            (scrape.try_count(&format!("{HEARTBEAT}_count"), &labels) > Some(0)).then_some(())
        });
    }
}

fn heartbeats() {
    let mut discord = discord(&["--heartbeat-ms", "300"]);
    discord.tell(&json!({"do": "acks", "after": 0.02}));
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zlib, &[]));
    let acked = |log: &Log| log.heartbeats().into_iter().flatten().collect::<Vec<f64>>();
    discord.wait("ten heartbeats", |log| (acked(log).len() >= 10).then_some(()));
    let labels = [("service", "bot")];
    let mut compared = None;
    // Both are looked at between two heartbeats.
    let agreed = eventually(PATIENCE, || {
        let seconds = acked(discord.log());
        let scrape = probe.scrape();
        let [count, sum] = ["count", "sum"].map(|part| scrape.try_sum(&format!("{HEARTBEAT}_{part}"), &labels));
        compared = Some((seconds.clone(), count, sum));
        (count == Some(seconds.len() as f64)).then_some((seconds, sum?))
    });
    let (seconds, sum) = agreed.unwrap_or_else(|| panic!("{compared:?}"));
    let told = seconds.iter().sum::<f64>();
    let [less, more] = [SHORTER, heartbeat_within()].map(|each| each * seconds.len() as f64);
    assert!((-less..=more).contains(&(sum - told)), "{told} s in the log, {sum} s in the metrics, of {seconds:?}");
    assert_eq!(probe.scrape().count(MISSED, &labels), 0);
}

fn missed_heartbeats() {
    let mut discord = discord(&["--heartbeat-ms", "300"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zstd, &[]));
    let up = |probe: &Probe, value: f64| {
        probe.wait_for(&format!("a gateway that is {value}"), |scrape| {
            let labels = [("service", "bot"), ("shard", "0")];
            (scrape.try_value(UP, &labels) == Some(value)).then_some(())
        });
    };
    up(&probe, 1.0);
    discord.tell(&json!({"do": "acks", "after": null}));
    let sent = discord.log().heartbeats().len();
    discord.wait("four heartbeats", |log| (log.heartbeats().len() >= sent + 4).then_some(()));
    up(&probe, 0.0);
    discord.tell(&json!({"do": "acks", "after": 0}));
    let sent = discord.log().heartbeats().len();
    discord.wait("two heartbeats", |log| (log.heartbeats().len() >= sent + 2).then_some(()));
    up(&probe, 1.0);
    // The last one's ack may be on its way.
    let mut heartbeats = discord.log().heartbeats();
    heartbeats.pop();
    let missed = heartbeats.iter().filter(|heartbeat| heartbeat.is_none()).count();
    assert!(missed >= 3, "{heartbeats:?}");
    assert_eq!(probe.scrape().count(MISSED, &[("service", "bot")]), missed as u64, "{heartbeats:?}");
}

fn reconnects() {
    let mut discord = discord(&[]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zlib, &[]));
    let steps = [
        (json!({"do": "reconnect"}), "requested", None, "RESUMED"),
        (json!({"do": "close", "code": 4000}), "closed", Some("4000"), "RESUMED"),
        (json!({"do": "close", "code": 4009}), "closed", Some("4009"), "RESUMED"),
        (json!({"do": "invalid", "resumable": true}), "invalid_session", None, "RESUMED"),
        (json!({"do": "drop"}), "network", Some("1006"), "RESUMED"),
        (json!({"do": "invalid", "resumable": false}), "invalid_session", None, "READY"),
    ];
    let mut reconnects: BTreeMap<String, u64> = BTreeMap::new();
    for (expected, (command, reason, code, back_by)) in (1..).zip(steps) {
        let before = discord.log().events().get(back_by).copied().unwrap_or_default();
        discord.tell(&command);
        discord.wait(back_by, |log| (log.events().get(back_by).copied() > Some(before)).then_some(()));
        let seen = probe.wait_for(&format!("what {command} made the bot do"), |scrape| {
            (scrape.try_count(RECONNECTS, &BOT) == Some(expected)).then(|| scrape.clone())
        });
        // With which code the bot itself closes, the library decides.
        let steps = usize::try_from(expected).expect("a few steps");
        let closed = discord.wait("the end of the connection before", |log| log.closed.get(steps - 1).cloned());
        let by_bot = closed.code.map(|code| code.to_string());
        let code = code.map(str::to_owned).or(by_bot).expect("a connection that ends has a code");
        *reconnects.entry(format!("{reason} {code}")).or_default() += 1;
        assert_eq!(seen.counts_by(RECONNECTS, &BOT, &["reason", "close_code"]), reconnects, "after {command}");
    }
    let sessions = discord.log().events()["READY"];
    probe.wait_for("every session's start", |scrape| {
        (scrape.try_count("miku_discord_gateway_session_starts_total", &BOT) == Some(sessions)).then_some(())
    });
    assert_events(&probe, &mut discord, &BTreeMap::new());
}

fn replies_and_phases() {
    let mut discord = discord(&["--delay-ms", "20"]);
    let (_llm, url) = llm(&discord, &["--spread", "0.5"]);
    let mut command = bot(Compression::Zstd, &["--llm", &url, "--stream-llm", "--api-port", "8000"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut command);
    ask(&mut discord, 8);
    assert_replies(&probe, &mut discord, 0);
}

fn replies_in_mid_life() {
    let mut discord = discord(&[]);
    let (_llm, url) = llm(&discord, &[]);
    let bot = discord.bot("discord.py", &mut bot(Compression::Zlib, &["--llm", &url]));
    ask(&mut discord, 2);
    let before = discord.log().replies().len();
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    ask(&mut discord, 4);
    assert_replies(&probe, &mut discord, before);
}

/// One at a time, what a bot writes in a channel is for the one who asked there; elsewhere it is nobody's for certain.
fn replies_without_reference() {
    let mut discord = discord(&[]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zlib, &[]));
    // Without a reference it counts that nothing else happens in the same turn of the event loop: people take their time.
    let think = json!({"do": "pause", "seconds": 0.1});
    for (dm, replies) in [(false, 3), (true, 5)] {
        discord.tell(
            &json!({"do": "messages", "text": "!send hi", "dm": dm, "count": if dm { 2 } else { 3 }, "rate": 10}),
        );
        discord.wait_replies(replies);
        discord.tell(&think);
    }
    assert_replies(&probe, &mut discord, 0);
    discord.tell(&json!({"do": "messages", "text": "!elsewhere hi"}));
    discord.wait_replies(6);
    discord.tell(&think);
    discord.tell(&json!({"do": "messages", "text": "!reply hi"}));
    discord.wait_replies(7);
    probe.wait_for("the reply after that", |scrape| {
        (scrape.try_count(&format!("{REPLY}_count"), &BOT) == Some(6)).then_some(())
    });
}

fn replies_through_rate_limits() {
    let mut discord = discord(&[]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zlib, &[]));
    let mut slept = 0.0;
    for (number, (scope, seconds)) in [("user", 0.3), ("shared", 0.2), ("global", 0.25)].into_iter().enumerate() {
        let route = "/channels/{channel_id}/messages";
        discord.tell(&json!({"do": "refuse", "method": "POST", "route": route, "scope": scope, "seconds": seconds}));
        discord.tell(&json!({"do": "messages", "text": "!reply hi"}));
        discord.wait_replies(number + 1);
        slept += seconds;
    }
    assert_replies(&probe, &mut discord, 0);
    let labels = [("service", "bot"), ("phase", "rate_limit")];
    let told = probe.scrape().sum(&format!("{PHASE}_sum"), &labels);
    assert!(told >= slept && told < slept + 0.3, "told to sleep for {slept} s, slept {told} s by the probe");
}

fn phases_of_a_stream() {
    const COUNT: u32 = 5;
    let mut discord = discord(&["--delay-ms", "30"]);
    let (_llm, url) = llm(&discord, &["--prompt-ms", "200", "--token-ms", "20", "--tokens", "10"]);
    let mut command = bot(Compression::Zstd, &["--llm", &url, "--stream-llm"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut command);
    for number in 1..=COUNT {
        discord.tell(&json!({"do": "messages", "text": "!replyllm hi"}));
        discord.wait_replies(number as usize);
    }
    assert_replies(&probe, &mut discord, 0);
    let calls = discord.llm_calls();
    assert_eq!(calls.len(), COUNT as usize);
    let scrape = probe.scrape();
    let first = calls.iter().map(|call| call.until_first).sum::<f64>();
    let rest = calls.iter().map(|call| call.until_last - call.until_first).sum::<f64>();
    for (phase, told) in [("llm_first_token", first), ("llm_generation", rest)] {
        let labels = [("service", "bot"), ("phase", phase)];
        assert_eq!(scrape.count(&format!("{PHASE}_count"), &labels), u64::from(COUNT), "{phase}");
        let seen = scrape.sum(&format!("{PHASE}_sum"), &labels);
        let most = if holds_to_promises() { 0.005 } else { 0.05 } * f64::from(COUNT);
        assert!((seen - told).abs() <= most, "{phase}: {told} s by the LLM, {seen} s by the probe");
    }
}

/// With some eight replies in flight, most of them have the model's phases, and all calls take the same time. On a busy machine
/// more arrives in one iteration of the bot's loop, so fewer replies have phases, and their mean is only bounded by the shortest
/// and the longest call.
fn phases_of_many_streams_at_once() {
    const COUNT: usize = 120;
    let least = if holds_to_promises() { COUNT * 7 / 10 } else { 1 };
    let mut discord = discord(&["--delay-ms", "30"]);
    let (_llm, url) = llm(&discord, &["--prompt-ms", "200", "--token-ms", "20", "--tokens", "10"]);
    let mut command = bot(Compression::Zstd, &["--llm", &url, "--stream-llm"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut command);
    let load = json!({"do": "messages", "text": "!replyllm hi", "count": COUNT, "channels": 40, "rate": 15});
    discord.tell_within(Duration::from_secs(60), &load);
    discord.wait_replies(COUNT);
    assert_replies(&probe, &mut discord, 0);
    let calls = discord.llm_calls();
    assert_eq!(calls.len(), COUNT);
    let scrape = probe.scrape();
    let first: fn(&LlmCall) -> f64 = |call| call.until_first;
    let rest: fn(&LlmCall) -> f64 = |call| call.until_last - call.until_first;
    for (phase, took) in [("llm_first_token", first), ("llm_generation", rest)] {
        let labels = [("service", "bot"), ("phase", phase)];
        let count = scrape.sum(&format!("{PHASE}_count"), &labels);
        let seen = scrape.sum(&format!("{PHASE}_sum"), &labels) / count;
        let took: Vec<f64> = calls.iter().map(took).collect();
        let mean = took.iter().sum::<f64>() / COUNT as f64;
        let [low, high] = [f64::min as fn(f64, f64) -> f64, f64::max].map(|of| took.iter().copied().fold(mean, of));
        eprintln!("{phase}: {count} of {COUNT} replies, {seen} s on average, {mean} ({low} to {high}) by the model");
        assert!(count >= least as f64, "{phase}: {count}\n{}", probe.told());
        let by_model = if holds_to_promises() { mean..=mean } else { low..=high };
        let within = by_model.start() - reply_within()..=by_model.end() + reply_within();
        assert!(within.contains(&seen), "{phase}: {by_model:?} s by the model, {seen} s by the probe");
    }
}

/// Whoever was typed at and got nothing, when the bot ended.
fn unanswered() {
    let mut discord = discord(&[]);
    let (mut bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zstd, &[]));
    for text in ["not for a bot", "!typing", "!react", "!reply hi"] {
        discord.tell(&json!({"do": "messages", "text": text, "count": 2, "channels": 2, "rate": 10}));
    }
    discord.wait_replies(2);
    bot.stop(libc::SIGTERM, PATIENCE);
    let labels = [("service", "bot"), ("kind", "message")];
    probe.wait_for("two who wait in vain", |scrape| {
        (scrape.try_count("miku_discord_unanswered_total", &labels) == Some(2)).then_some(())
    });
    assert_eq!(probe.scrape().count(&format!("{REPLY}_count"), &labels), 2, "{}", told(&probe));
}

fn hostile_commands() {
    const COUNT: u64 = 1000;
    let mut discord = discord(&[]);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut bot(Compression::Zlib, &[]));
    discord.tell(&json!({"do": "interactions", "kind": "command", "name": "ping", "count": 3, "rate": 10}));
    let evil = json!({"do": "interactions", "kind": "command", "name": "evil", "hostile": true, "count": COUNT,
        "rate": 100});
    discord.tell_within(Duration::from_secs(60), &evil);
    discord.wait("so many replies", |log| (log.replies().len() as u64 == COUNT + 3).then_some(()));
    probe.wait_for("all of the commands", |scrape| (scrape.try_count(COMMANDS, &BOT) == Some(COUNT + 3)).then_some(()));
    let commands = by(&probe.scrape(), COMMANDS, "command");
    assert_eq!(commands.get("ping"), Some(&3));
    assert_commands_capped(&probe, COUNT - (COMMAND_NAMES - 1));
}

/// How many names of commands the probe tells apart.
pub(crate) const COMMAND_NAMES: u64 = 200;

/// Asserts that as many names as possible are told apart, and that so many commands are `other`, of which each is counted.
pub(crate) fn assert_commands_capped(probe: &Probe, others: u64) {
    let scrape = probe.scrape();
    let commands = by(&scrape, COMMANDS, "command");
    assert_eq!(commands.len() as u64, COMMAND_NAMES + 1, "names of commands");
    assert_eq!(commands.get("other"), Some(&others));
    assert_eq!(scrape.count("miku_probe_label_overflow_total", &[("label", "command")]), others);
}

/// The goal: at 200 messages a second over 50 channels, every reply, however late the bot reads what was sent in time.
fn two_hundred_a_second() {
    const COUNT: usize = 2000;
    let mut discord = discord(&[]);
    let (_bot, mut probe) = watched_by(&["-vvv"], &mut discord, &mut bot(Compression::Zstd, &[]));
    let load = json!({"do": "messages", "text": "!reply hi", "count": COUNT, "channels": 50, "rate": 200});
    discord.tell_within(Duration::from_secs(60), &load);
    let replied = eventually(Duration::from_secs(60), || (discord.log().replies().len() == COUNT).then_some(()));
    assert!(replied.is_some(), "{} replies", discord.log().replies().len());
    assert_events(&probe, &mut discord, &BTreeMap::new());
    assert_replies(&probe, &mut discord, 0);
    assert_each(&mut probe, &mut discord);
    probe.assert_lossless();
}

/// People wait while the bot does something else, and what they wrote and what answers them lies unread in its sockets.
fn stalls() {
    const STALLS: usize = 4;
    const COUNT: usize = 30;
    let mut discord = discord(&["--delay-ms", "30"]);
    let (_bot, mut probe) = watched_by(&["-vvv"], &mut discord, &mut bot(Compression::Zlib, &[]));
    for _ in 0..STALLS {
        let people =
            json!({"do": "messages", "text": "!reply hi", "count": COUNT, "channels": 10, "rate": 50, "aside": true});
        discord.tell(&people);
        discord.tell(&json!({"do": "pause", "seconds": 0.1}));
        discord.tell(&json!({"do": "messages", "text": "!stall 0.4"}));
        discord.tell(&json!({"do": "pause", "seconds": 0.7}));
    }
    discord.wait_replies(STALLS * (COUNT + 1));
    assert_replies(&probe, &mut discord, 0);
    assert_each(&mut probe, &mut discord);
    let waited = discord.log().replies().iter().filter(|reply| reply.seconds > 0.2).count();
    assert!(waited > STALLS * COUNT / 4, "only {waited} people had to wait");
    let mut unmatched = probe.scrape().counts_by("miku_probe_unmatched_total", &[("protocol", "discord")], &["reason"]);
    // The bot types for several people of a channel at once; whom it answers is certain by the references.
    unmatched.remove("typing_ambiguous");
    assert_eq!(unmatched, BTreeMap::new(), "nothing is uncertain of these replies");
    probe.assert_lossless();
}

/// A bot on another library: its gateway's events, and its replies.
fn other(library: Library) {
    echoes(library, &[]);
}

fn echoes(library: Library, options: &[&str]) {
    let mut discord = discord(options);
    let (_bot, probe) = watched_from_the_start(&mut discord, &mut echo(library));
    let texts = [("!hi", 10), ("not for a bot", 10)];
    for (text, count) in texts {
        discord.tell(&json!({"do": "messages", "text": text, "count": count, "channels": 5, "rate": 20}));
    }
    discord.wait_replies(10);
    assert_events(&probe, &mut discord, &BTreeMap::new());
    assert_replies(&probe, &mut discord, 0);
}

fn uncompressed() {
    other(Library::Uncompressed);
}

fn plain() {
    echoes(Library::Uncompressed, &PLAIN);
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
