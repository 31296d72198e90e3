//! What Discord's gateway sends is somebody's who may mean harm, or is only large, or much.

use std::collections::BTreeMap;
use std::time::Duration;

use miku_probe_tests::harness::discord::{Discord, Log};
use miku_probe_tests::harness::kernel::{own_bytes, resident_bytes};
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::attach;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::json;

use crate::discord_metrics::{
    BOT, COMMAND_NAMES, COMMANDS, EVENTS, RECONNECTS, REPLY, assert_commands_capped, assert_events, assert_replied, by,
    told,
};
use crate::discord_stage::{Compression, Library, bot, connect, discord, echo, tolerant, watched_from_the_start};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(payloads_by_zlib, Discord, DiscordZstd, Hermetic),
        case!(payloads_by_zstd, DiscordZstd, Hermetic),
        case!(payloads_uncompressed, DiscordZstd, Hermetic),
        case!(frames_by_zlib, DiscordZstd, Hermetic),
        case!(frames_by_zstd, DiscordZstd, Hermetic),
        case!(frames_uncompressed, DiscordZstd, Hermetic),
        case!(many_names_by_zlib, DiscordZstd, Hermetic),
        case!(many_names_uncompressed, DiscordZstd, Hermetic),
        case!(large_guild_by_zlib, Discord, DiscordZstd, Hermetic),
        case!(large_guild_by_zstd, DiscordZstd, Hermetic),
        case!(large_guild_uncompressed, Disnake, DiscordZstd, Hermetic),
        case!(memory_stays_flat, DiscordZstd, Hermetic),
    ]
}

/// What the probe may ever have resident, and by how much mischief may make it grow.
const MEMORY: u64 = 64 << 20;
const GROWTH: u64 = 16 << 20;

/// How long the stand-in may take for much.
const MUCH: Duration = Duration::from_secs(60);

const UNMATCHED: &str = "miku_probe_unmatched_total";
/// Messages of a gateway that the probe could not read.
const MALFORMED: [(&str, &str); 2] = [("protocol", "discord"), ("reason", "malformed")];

/// Starts the bot that nothing can fell, which does not connect yet.
fn start(discord: &Discord, compression: Option<Compression>) -> Process {
    let bot = discord.program("the bot that bears it", &mut tolerant(compression));
    bot.wait_said(PATIENCE, |line| (line == "started").then_some(()));
    bot
}

/// Starts it with a probe that misses nothing of it.
fn watched(discord: &mut Discord, compression: Option<Compression>) -> (Process, Probe) {
    let mut bot = start(discord, compression);
    let probe = attach(&[&format!("bot=pid:{}", bot.pid())]);
    connect(discord, &mut bot);
    (bot, probe)
}

/// Has some people be answered and others not.
fn behave(discord: &mut Discord) {
    let before = discord.log().replies().len();
    for text in ["!hi", "not for a bot"] {
        discord.tell(&json!({"do": "messages", "text": text, "count": 5, "channels": 5, "rate": 40}));
    }
    discord.wait_replies(before + 5);
}

/// Asserts that the probe lives, and is no larger than it may be after what began at `before` bytes.
fn assert_small(probe: &mut Probe, before: u64) {
    assert!(probe.process().alive(), "{}", probe.process().story());
    let resident = resident_bytes(probe.pid());
    assert!(
        resident < MEMORY && resident < before + GROWTH,
        "the probe has {resident} bytes resident, {before} before"
    );
    probe.assert_lossless();
    eprintln!("{} KiB resident before, {} KiB after", before >> 10, resident >> 10);
}

/// Texts that are no payloads of a gateway, whole or in halves.
fn no_payloads() -> Vec<String> {
    let mut texts = [
        "{",
        "}",
        "null",
        "[]",
        "\"op\"",
        "{}",
        "{\"t\":\"X\"}",
        "{\"t\":null,\"s\":null,\"op\":}",
        "{\"t\":null,\"s\":null,\"op\":\"zero\",\"d\":null}",
        "{\"t\":null,\"s\":null,\"op\":-1,\"d\":null}",
        "{\"t\":null,\"s\":null,\"op\":1e99999,\"d\":null}",
        "{\"t\":\"MESSAGE_CREATE\",\"s\":1,\"op\":0,\"d\":{}}}",
        "{\"t\":\"MESSAGE_CREATE\",\"s\":1,\"op\":0,\"d\":{},}",
        "\u{feff}{\"t\":\"MESSAGE_CREATE\",\"s\":1,\"op\":0,\"d\":{}}",
        // A payload that the gateway flushes in its middle is two messages.
        "{\"t\":\"MESSAGE_CREATE\",\"s\":1,\"op\":0,\"d\":{\"id\":\"70000000000",
        "0000000\",\"channel_id\":\"1\",\"content\":\"!hi\",\"author\":{\"id\":\"1\"}}}",
        "{\"t\":\"INTERACTION_CREATE\",\"s\":1,\"op\":0,\"d\":{\"token\":",
        "\"aW50\",\"id\":\"1\"}}",
    ]
    .map(str::to_owned)
    .to_vec();
    texts.extend([
        "[".repeat(10_000),
        "{\"d\":".repeat(10_000),
        format!("{{\"t\":\"MESSAGE_REACTION_ADD\",\"s\":1,\"d\":{}", "[".repeat(100_000)),
        // No name of an event is so long that its end is looked for.
        format!("{{\"t\":\"{}\",\"s\":1,\"op\":0,\"d\":{{}}}}", "E".repeat(64 << 10)),
        format!("{{\"{}\":0}}", "k".repeat(64 << 10)),
        "x".repeat(10 << 20),
    ]);
    texts
}

/// Events that are odd, but events.
fn odd_events() -> Vec<(&'static str, String)> {
    let event = |name: &str, d: &str| format!("{{\"t\":\"{name}\",\"s\":1,\"op\":0,\"d\":{d}}}");
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    vec![
        ("DEEP", event("DEEP", &deep(10_000))),
        ("MESSAGE_REACTION_ADD", event("MESSAGE_REACTION_ADD", &format!("{{\"emoji\":{}}}", deep(10_000)))),
        ("LARGE", event("LARGE", &format!("\"{}\"", "x".repeat(10 << 20)))),
        ("MESSAGE_REACTION_REMOVE", event("MESSAGE_REACTION_REMOVE", &format!("\"{}\"", "x".repeat(10 << 20)))),
        ("NOTHING", event("NOTHING", "null")),
        // Names that none can be: there is one of them by which the metrics tell those.
        ("other", event("lower_case", "null")),
        ("other", event("", "null")),
        ("other", event(&"E".repeat(65), "null")),
        ("other", "{\"t\":null,\"s\":1,\"op\":0,\"d\":null}".to_owned()),
        // Strings that a strict parser would refuse, and that are not looked into.
        ("ESCAPE", event("ESCAPE", "{\"content\":\"\\u12\"}")),
        ("CONTROL", event("CONTROL", "{\"content\":\"\n\"}")),
    ]
}

/// Bad payloads, to a bot that bears them.
fn payloads(compression: Option<Compression>) {
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    let (_bot, mut probe) = watched(&mut discord, compression);
    bad_payloads(&mut discord, &mut probe);
}

fn bad_payloads(discord: &mut Discord, probe: &mut Probe) {
    behave(discord);
    assert_events(probe, discord, &BTreeMap::new());
    let before = resident_bytes(probe.pid());
    probe.scrape().assert_absent(UNMATCHED, &MALFORMED);
    let texts = no_payloads();
    for text in &texts {
        discord.tell(&json!({"do": "raw", "text": text}));
    }
    for (name, text) in odd_events() {
        discord.tell(&json!({"do": "raw", "text": text, "t": name}));
    }
    // Until it has been through all of it, the bot reads late what comes.
    assert_events(probe, discord, &BTreeMap::new());
    assert_eq!(probe.scrape().count(UNMATCHED, &MALFORMED), texts.len() as u64, "{}", told(probe));
    behave(discord);
    assert_events(probe, discord, &BTreeMap::new());
    assert_replied(probe, discord, 0);
    assert_eq!(discord.log().connected.len(), 1, "the bot was to bear it: {:?}", discord.log().closed);
    assert_small(probe, before);
}

/// Beside it, with a Discord of its own, a bot on discord.py, which would not bear them.
fn payloads_by_zlib() {
    const REPLIES: usize = 10;
    let (mut bad, mut good) = (discord(&["--heartbeat-ms", "500"]), discord(&[]));
    let mut bot = start(&bad, Some(Compression::Zlib));
    let beside = good.bot("discord.py", &mut crate::discord_stage::bot(Compression::Zlib, &[]));
    let services = [format!("bot=pid:{}", bot.pid()), format!("good=pid:{}", beside.pid())];
    let mut probe = attach(&[&services[0], &services[1]]);
    connect(&mut bad, &mut bot);
    bad_payloads(&mut bad, &mut probe);
    good.tell(&json!({"do": "messages", "text": "!reply hi", "count": REPLIES, "channels": 5, "rate": 40}));
    good.wait_replies(REPLIES);
    let labels = [("service", "good"), ("kind", "message")];
    probe.wait_for("the replies of the bot beside it", |scrape| {
        (scrape.try_count(&format!("{REPLY}_count"), &labels) == Some(REPLIES as u64)).then_some(())
    });
}

fn payloads_by_zstd() {
    payloads(Some(Compression::Zstd));
}

fn payloads_uncompressed() {
    payloads(None);
}

/// Bytes that are no good frames, each where one starts.
const FRAMES: [(&str, &str); 9] = [
    ("a frame of 2^62 bytes", "827f4000000000000000"),
    ("a frame of 2^64 - 1 bytes", "827fffffffffffffffff7b2274223a"),
    ("a frame of 1 GiB, of which little comes", "827f00000000400000007b2274223a6e756c6c"),
    ("half a head", "827e01"),
    ("half a frame", "827e04007b2274223a224d4553534147455f4352454154"),
    ("fragments without an end", "027d7b2274223a"),
    ("the rest of nothing", "800568656c6c6f"),
    ("a masked frame, which no server sends", "828511223344796461686e"),
    ("what is not compressed where that is due", "820568656c6c6f"),
];

/// Bad frames, after each of which the connection ends in some way and the bot comes back.
fn frames(compression: Option<Compression>) {
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    let (bot, mut probe) = watched(&mut discord, compression);
    behave(&mut discord);
    let before = resident_bytes(probe.pid());
    for (what, hex) in FRAMES {
        let sessions = |log: &Log| log.events().get("READY").copied().unwrap_or_default();
        let known = sessions(discord.log());
        discord.tell(&json!({"do": "bytes", "hex": hex}));
        // Where the bot waits for more, or passes it over, the connection is cut.
        discord.tell(&json!({"do": "drop"}));
        discord.wait(&format!("a session after {what}"), |log| (sessions(log) > known).then_some(()));
        discord.wait("the guilds", |log| (log.events().get("GUILD_CREATE") >= log.events().get("READY")).then_some(()));
        behave(&mut discord);
    }
    assert!(bot.said().iter().filter(|line| *line == "ready").count() > FRAMES.len(), "{}", bot.story());
    assert_events(&probe, &mut discord, &BTreeMap::new());
    assert_replied(&probe, &mut discord, 0);
    // Of a connection that is cut this may be known only when the bot frees it.
    probe.wait_for("all reconnects", |scrape| {
        (scrape.try_count(RECONNECTS, &BOT) == Some(FRAMES.len() as u64)).then_some(())
    });
    assert_small(&mut probe, before);
}

fn frames_by_zlib() {
    frames(Some(Compression::Zlib));
}

fn frames_by_zstd() {
    frames(Some(Compression::Zstd));
}

fn frames_uncompressed() {
    frames(None);
}

/// How many names of events the probe tells apart.
const EVENT_NAMES: u64 = 128;

/// Thousands of names of events and of commands: labels have their caps, nothing is counted twice or not at all.
fn many_names(compression: Option<Compression>) {
    const COUNT: u64 = 3000;
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    let (_bot, mut probe) = watched(&mut discord, compression);
    behave(&mut discord);
    let before = resident_bytes(probe.pid());
    discord.tell_within(MUCH, &json!({"do": "event", "t": "EVIL", "d": {}, "count": COUNT, "hostile": true}));
    let commands = json!({"do": "interactions", "kind": "command", "name": "evil", "hostile": true, "count": COUNT});
    discord.tell_within(MUCH, &commands);
    // Names that are none, and one that is written in another way, beside what counts them.
    for name in ["lower_case", "", &"E".repeat(65), "UTF_\u{1f600}", "quote\\\"d", "ESC\\u0041PED"] {
        let text = format!("{{\"t\":\"{name}\",\"s\":1,\"op\":0,\"d\":{{}}}}");
        discord.tell(&json!({"do": "raw", "text": text, "t": name}));
    }
    let sent = discord.log().events();
    let happened: u64 = sent.values().sum();
    assert!(sent.len() as u64 > COUNT, "{} names were sent", sent.len());
    let seen = eventually(PATIENCE, || {
        let events = by(&probe.scrape(), EVENTS, "event");
        (events.values().sum::<u64>() == happened).then_some(events)
    });
    let seen = seen.unwrap_or_else(|| panic!("{happened} events happened\n{}", told(&probe)));
    assert_eq!(seen.len() as u64, EVENT_NAMES + 1, "names of events");
    for name in ["MESSAGE_CREATE", "READY", "GUILD_CREATE", "INTERACTION_CREATE"] {
        let known = seen.get(name);
        assert!(known == sent.get(name) || known.is_none(), "{name}: {known:?} of {:?}", sent.get(name));
    }
    probe.wait_for("all commands", |scrape| (scrape.try_count(COMMANDS, &BOT) == Some(COUNT)).then_some(()));
    // Until it has been through all of that, the bot reads late what comes.
    behave(&mut discord);
    assert_commands_capped(&probe, COUNT - COMMAND_NAMES);
    // Each event that is `other` is counted, whether its name is over the cap or is none.
    let over = probe.scrape().count("miku_probe_label_overflow_total", &[("label", "event")]);
    assert_eq!(Some(&over), seen.get("other"), "names of events that were too many or none");
    assert_replied(&probe, &mut discord, 0);
    assert_small(&mut probe, before);
}

fn many_names_by_zlib() {
    many_names(Some(Compression::Zlib));
}

fn many_names_uncompressed() {
    many_names(None);
}

/// A guild of 100 KiB at the start and again between messages hides none of them.
fn large_guild(bot: &mut std::process::Command) {
    let mut discord = discord(&["--guild-bytes", "102400"]);
    let (_bot, probe) = watched_from_the_start(&mut discord, bot);
    for round in 1..=5 {
        discord.tell(&json!({"do": "messages", "text": "!reply hi", "count": 4, "channels": 4, "rate": 40,
            "aside": true}));
        discord.tell(&json!({"do": "guild", "bytes": 100 << 10}));
        discord.tell(&json!({"do": "messages", "text": "not for a bot", "count": 4, "channels": 4}));
        discord.wait_replies(4 * round);
    }
    let guilds = discord.log().sent.iter().filter(|sent| sent.name.as_deref() == Some("GUILD_CREATE"));
    assert!(guilds.filter(|sent| sent.size >= 100 << 10).count() == 6, "{:?}", discord.log().summary());
    assert_events(&probe, &mut discord, &BTreeMap::new());
    assert_replied(&probe, &mut discord, 0);
}

fn large_guild_by_zlib() {
    large_guild(&mut bot(Compression::Zlib, &[]));
}

fn large_guild_by_zstd() {
    large_guild(&mut bot(Compression::Zstd, &[]));
}

fn large_guild_uncompressed() {
    large_guild(&mut echo(Library::Uncompressed));
}

/// Of a gateway's 24 idle hours this is the traffic: 20,000 messages that the bot ignores, one every four seconds or so,
/// as fast as they can be sent, with heartbeats between them. As many before it fill what is kept for minutes: 16,384
/// conversations. It shows that the probe keeps nothing of each. What takes
/// time itself to go wrong, such as users who are active for an hour or a day, or what is kept for minutes, it does not
/// show: tests of those have a clock of their own.
fn memory_stays_flat() {
    const FIRST: u64 = 20_000;
    const REST: u64 = 20_000;
    const FLAT: u64 = 2 << 20;
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    let (_bot, mut probe) = watched(&mut discord, Some(Compression::Zlib));
    let before = resident_bytes(probe.pid());
    let mut ignored = |count: u64| {
        let load = json!({"do": "messages", "text": "not for a bot", "count": count, "channels": 50});
        discord.tell_within(MUCH, &load);
        let sent = discord.log().events();
        let name = [("service", "bot"), ("event", "MESSAGE_CREATE")];
        let counted = eventually(MUCH, || {
            (probe.scrape().try_count(EVENTS, &name) == Some(sent["MESSAGE_CREATE"])).then_some(())
        });
        assert!(counted.is_some(), "{sent:?} were sent\n{}", told(&probe));
        own_bytes(probe.pid())
    };
    let (first, all) = (ignored(FIRST), ignored(REST));
    eprintln!("{} KiB of its own after {FIRST}, {} KiB after all", first >> 10, all >> 10);
    assert!(all.abs_diff(first) < FLAT, "{before} bytes before, {first} after {FIRST}, {all} after all");
    assert_events(&probe, &mut discord, &BTreeMap::new());
    assert_small(&mut probe, before);
}
