//! What people write to a bot, and what it is known to Discord by, is in nothing that the probe says, and soon in nothing
//! that it holds.

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::discord::{Discord, Log};
use miku_probe_tests::harness::memory::find;
use miku_probe_tests::harness::probe::{Probe, command};
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::secure::wait_sites;
use serde_json::{Value, json};

use crate::discord_metrics::{BOT, REPLY};
use crate::discord_stage::{Compression, bot, connect, discord, llm};
use crate::secrets::{assert_forgotten, assert_never_said, assert_not_on_pages, halves, unheard_of};
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![case!(by_zlib, Discord, DiscordZstd, Hermetic), case!(by_zstd, DiscordZstd, Hermetic)]
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

/// Secrets that the case makes.
const MADE: [&str; 8] =
    ["bot token", "question", "prompt", "long message", "ignored message", "webhook token", "custom id", "user name"];

/// Has people say every secret, and the bot too.
fn say(discord: &mut Discord, secret: impl Fn(&str) -> String) {
    let before = discord.log().replies().len();
    let messages = [
        format!("!reply {}", secret("question")),
        format!("!streamllm {}", secret("prompt")),
        format!("!reply {} {}", "y".repeat(3900), secret("long message")),
        format!("!webhook {}", secret("webhook token")),
    ];
    for text in &messages {
        discord.tell(&json!({"do": "messages", "text": text, "channels": 1}));
    }
    discord.tell(&json!({"do": "messages", "text": secret("ignored message"), "count": 3, "channels": 3}));
    let interactions = [
        ("command", "ask".to_owned()),
        ("command", "ask-original".to_owned()),
        ("command", "hello".to_owned()),
        ("component", secret("custom id")),
        ("modal", secret("custom id")),
    ];
    for (kind, name) in &interactions {
        discord.tell(&json!({"do": "interactions", "kind": kind, "name": name}));
    }
    // The webhook's message is a reply to nothing that the stand-in could tell.
    discord.wait_replies(before + messages.len() - 1 + interactions.len());
}

/// Ends the connections, and waits until the bot is back.
fn come_back(discord: &mut Discord, command: &Value, by: &str) {
    let count = |log: &Log| log.events().get(by).copied().unwrap_or_default();
    let before = count(discord.log());
    discord.tell(command);
    discord.wait(by, |log| (count(log) > before).then_some(()));
}

fn search(compression: Compression) {
    let made = MADE.map(|name| (name, unheard_of(LETTERS, 21)));
    let secret = |wanted: &str| {
        let found = made.iter().find(|(name, _)| *name == wanted);
        found.unwrap_or_else(|| panic!("no secret is called {wanted}")).1.clone()
    };
    let mut discord = discord(&["--heartbeat-ms", "500"]);
    discord.tell(&json!({"do": "rename", "name": secret("user name")}));
    let (_llm, url) = llm(&discord, &[]);
    let name = discord.folder().display().to_string();
    let service = format!("bot=cmdline:--name {name}");
    let mut probe = Probe::launch(&[&service], &["-vvv"]);
    let mut watch = command(&["hist", "--reply", "-vvv", "--json", "--interval", "0.2", "--service", &service]);
    let mut hist = Process::start("hist", &mut watch);
    hist.wait_said(PATIENCE, |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object).map(drop));
    let mut command = bot(compression, &["--llm", &url, "--name", &name, "--wait"]);
    command.env("DISCORD_TOKEN", format!("OTk5.{}", secret("bot token")));
    let mut bot = discord.program("discord.py", &mut command);
    bot.wait_said(PATIENCE, |line| (line == "started").then_some(()));
    wait_sites(&probe, "bot");
    hist.wait_complained(PATIENCE, |line| line.contains("attached to").then_some(()));
    connect(&mut discord, &mut bot);

    say(&mut discord, secret);
    // It says again who it is, by its session, and by its token alone.
    come_back(&mut discord, &json!({"do": "drop"}), "RESUMED");
    come_back(&mut discord, &json!({"do": "invalid", "resumable": false}), "READY");
    say(&mut discord, secret);

    let replies = discord.log().replies().len() as u64;
    // What is not certain to answer somebody is counted apart.
    let unsure = [("protocol", "discord"), ("reason", "answer_ambiguous")];
    let replies = probe.wait_for("all replies", |scrape| {
        let told = scrape.try_count(&format!("{REPLY}_count"), &BOT)?;
        let unsure = scrape.try_count("miku_probe_unmatched_total", &unsure).unwrap_or(0);
        (told + unsure >= replies).then_some(told)
    });
    let total = |line: &str| serde_json::from_str::<Value>(line).ok()?["total"]["count"].as_u64();
    hist.wait_said(PATIENCE, |line| (total(line) >= Some(replies)).then_some(()));

    let mut needles: Vec<_> = made.iter().flat_map(|(name, secret)| halves(name, secret)).collect();
    let log = discord.log();
    let told: Vec<&str> = log.sent.iter().filter_map(|sent| sent.secret.as_deref()).collect();
    assert!(told.len() >= 2 + 2 * 5, "two sessions and ten interactions have secrets: {told:?}");
    // How the token of an interaction begins is no secret.
    let random = |secret: &str| secret.rsplit(':').next().unwrap_or_default().to_owned();
    needles.extend(told.iter().flat_map(|secret| halves("interaction token or session id", &random(secret))));
    // The search is worth something only where the secrets are.
    assert!(!find(bot.pid(), &needles).expect("the bot lives").is_empty(), "the bot holds its secrets");
    let ids = log.sent.iter().flat_map(|sent| [sent.channel.clone(), sent.by_person.clone().map(|(_, id)| id)]);
    needles.extend(ids.flatten().map(|id| ("id of a channel, message or interaction", id.into_bytes())));
    needles.sort();
    needles.dedup();

    assert_not_on_pages(&probe, &needles);
    assert_forgotten("the probe", probe.pid(), &needles);
    assert_forgotten("the histogram", hist.pid(), &needles);
    assert_never_said(&mut probe, &mut hist, &needles);
}

fn by_zlib() {
    search(Compression::Zlib);
}

fn by_zstd() {
    search(Compression::Zstd);
}
