//! The bots of the cases with a Discord, and the environments that they and the stand-in run in.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use miku_probe_tests::harness::PATIENCE;
use miku_probe_tests::harness::discord::{Discord, LLM, environment};
use miku_probe_tests::harness::hermetic::Hermetic;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::{Python, interpreter};
use miku_probe_tests::harness::secure::wait_sites;
use serde_json::json;

/// Options of a stand-in that offers a gateway without TLS.
pub(crate) const PLAIN: [&str; 6] = [
    "--plain-port",
    "8080",
    "--gateway-url",
    "ws://gateway.discord.gg:8080",
    "--resume-url",
    "ws://gateway.discord.gg:8080",
];

/// What the gateway's messages are compressed with: discord.py asks for the one that it has a library for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Zstd,
}

/// The environment of the stand-in, and of bots on discord.py that have the library for zstd.
pub(crate) fn with_zstd() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    PYTHON.get_or_init(|| environment().map_err(|error| format!("{error:#}"))).clone()
}

/// The environment of bots on discord.py that have no library for zstd.
pub(crate) fn with_zlib() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let files = ["aiohttp.txt", "discord.txt"];
    PYTHON.get_or_init(|| Python::with("discord", &files).map_err(|error| format!("{error:#}"))).clone()
}

/// The environment of bots on discord.py that speak.
pub(crate) fn with_voice() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let files = ["aiohttp.txt", "discord.txt", "voice.txt"];
    PYTHON.get_or_init(|| Python::with("discord-voice", &files).map_err(|error| format!("{error:#}"))).clone()
}

/// What a bot is built on, beyond the current discord.py.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Library {
    /// discord.py as it was before it could do zstd.
    OldDiscordPy,
    Nextcord,
    PyCord,
    Disnake,
    /// The same, told to ask for no compression.
    Uncompressed,
    Hikari,
}

impl Library {
    /// As `discord_echo.py` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::OldDiscordPy => "discord.py",
            Self::Nextcord => "nextcord",
            Self::PyCord => "py-cord",
            Self::Disnake => "disnake",
            Self::Uncompressed => "disnake-uncompressed",
            Self::Hikari => "hikari",
        }
    }

    /// What it asks the gateway to compress with.
    pub(crate) fn compression(self) -> Option<&'static str> {
        (self != Self::Uncompressed).then_some("zlib-stream")
    }

    /// Its environment.
    pub(crate) fn python(self) -> Result<Python, String> {
        static PYTHONS: Mutex<BTreeMap<Library, Result<Python, String>>> = Mutex::new(BTreeMap::new());
        let mut pythons = PYTHONS.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || match self {
            Self::OldDiscordPy => Python::with("discord-old", &["aiohttp.txt", "discord-old.txt"]),
            // The lowest version of Python that it has a package for.
            Self::Nextcord => Python::of(&interpreter(12)?, "nextcord", &["aiohttp.txt", "nextcord.txt"]),
            Self::PyCord => Python::with("py-cord", &["aiohttp.txt", "py-cord.txt"]),
            Self::Disnake | Self::Uncompressed => Python::with("disnake", &["aiohttp.txt", "disnake.txt"]),
            Self::Hikari => Python::with("hikari", &["hikari.txt"]),
        };
        pythons.entry(self).or_insert_with(|| make().map_err(|error| format!("{error:#}"))).clone()
    }
}

/// A command that starts the bot that repeats what it is told.
pub(crate) fn echo(library: Library) -> Command {
    let mut command = library.python().expect("the case needs it").script("discord_echo.py");
    command.arg(library.name());
    command
}

/// Whether a place for the stand-in can be made here.
pub(crate) fn hermetic() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
    Hermetic::new(&[], folder.path()).map(drop).map_err(|error| format!("{error:#}"))
}

/// A stand-in with these options.
pub(crate) fn discord(options: &[&str]) -> Discord {
    Discord::start(&with_zstd().expect("the case needs it"), options)
}

/// A command that starts the bot on discord.py.
pub(crate) fn bot(compression: Compression, options: &[&str]) -> Command {
    let python = match compression {
        Compression::Zlib => with_zlib(),
        Compression::Zstd => with_zstd(),
    };
    let mut command = python.expect("the case needs it").script("discord_bot.py");
    command.args(options);
    command
}

/// A command that starts the bot that nothing which the gateway sends can fell.
pub(crate) fn tolerant(compression: Option<Compression>) -> Command {
    let mut command = with_zstd().expect("the case needs it").script("discord_tolerant.py");
    let name = match compression {
        None => "",
        Some(Compression::Zlib) => "zlib-stream",
        Some(Compression::Zstd) => "zstd-stream",
    };
    command.args(["--compress", name]);
    command
}

/// Starts a bot that a probe has been waiting for, so that it misses nothing of it.
pub(crate) fn watched_from_the_start(discord: &mut Discord, command: &mut Command) -> (Process, Probe) {
    watched_by(&[], discord, command)
}

/// [`watched_from_the_start`], by a probe with more options.
pub(crate) fn watched_by(options: &[&str], discord: &mut Discord, command: &mut Command) -> (Process, Probe) {
    // Other cases run the same script; no other has this folder.
    let name = discord.folder().display().to_string();
    let probe = Probe::launch(&[&format!("bot=cmdline:--name {name}")], options);
    let mut bot = discord.program("a bot", command.args(["--name", &name, "--wait"]));
    // However late the probe gets a CPU, the bot connects only when the probe is in its libraries.
    bot.wait_said(PATIENCE, |line| (line == "started").then_some(()));
    wait_sites(&probe, "bot");
    probe.wait_for("a site in zlib or zstd", |scrape| {
        let labels = [("service", "bot"), ("kind", "inflate")];
        (scrape.try_count("miku_probe_sites", &labels) > Some(0)).then_some(())
    });
    connect(discord, &mut bot);
    (bot, probe)
}

/// Has a bot connect that waits for a word, and waits until it is ready and has identified.
pub(crate) fn connect(discord: &mut Discord, bot: &mut Process) {
    bot.tell("go");
    bot.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
    discord.tell(&json!({"do": "ready"}));
}

/// The LLM server, with these options.
pub(crate) fn llm(discord: &Discord, options: &[&str]) -> (Process, String) {
    let process = discord.llm(&with_zstd().expect("the case needs it"), options);
    (process, format!("http://{LLM}"))
}
