//! The bots of the cases with a Discord, and the environments that they and the stand-in run in.

use std::process::Command;
use std::sync::OnceLock;

use miku_probe_tests::harness::discord::{Discord, LLM, environment};
use miku_probe_tests::harness::hermetic::Hermetic;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;

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

/// The LLM server, with these options.
pub(crate) fn llm(discord: &Discord, options: &[&str]) -> (Process, String) {
    let process = discord.llm(&with_zstd().expect("the case needs it"), options);
    (process, format!("http://{LLM}"))
}
