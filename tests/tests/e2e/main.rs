//! The whole path: the real binary, as root, against real servers and clients, held against what those counted.
//!
//! A case whose needs are not met on this machine is ignored, and the reason is printed at the start and at the end. The
//! environment variable `MIKU_PROBE_E2E` changes that; see [`Mode`].

mod bad_input;
mod clients;
mod commands;
mod discord;
mod discord_attach;
mod discord_hostile;
mod discord_metrics;
mod discord_secrets;
mod discord_stage;
mod discord_voice;
mod discovery;
mod endpoints;
mod event_loop;
mod exchanges;
mod gpu;
mod hist;
mod hostile;
mod inflate;
mod lifecycle;
mod llm;
mod llm_dialects;
mod llm_secrets;
mod net;
mod process;
mod profile;
mod secrets;
mod servers;
mod stage;
mod stalls;
mod tls_attach;
mod tls_clients;
mod tls_handshakes;
mod tls_hostile;
mod tls_servers;
mod tls_stage;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::OnceLock;

use discord_stage::Library;
use libtest_mimic::{Arguments, Trial};
use miku_probe_tests::harness::{kernel, probe};
use miku_probe_tests::mode::Mode;

/// What a case cannot do without, beyond the probe and a kernel that lets it load programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// The environment with current packages.
    Python,
    /// The environment with aiohttp 3.8.
    OldPython,
    /// The environments with HTTPS clients, by interpreter.
    Python39,
    Python310,
    Python311,
    Python312,
    Python313,
    NewerPython,
    /// The environment with discord.py.
    Discord,
    /// The same with the library for zstd, and FastAPI; the stand-in's environment too.
    DiscordZstd,
    /// The environments of other libraries for Discord's bots.
    DiscordOld,
    Nextcord,
    PyCord,
    Disnake,
    Hikari,
    /// The environment of a bot that speaks.
    Voice,
    /// A network and names of one's own.
    Hermetic,
    /// The environment with libraries that ask name servers by themselves.
    Resolvers,
    /// A network that can be made to lose packets.
    TrafficControl,
    /// An interpreter that speaks TLS, without any packages.
    PlainPython,
    /// That interpreter with OpenSSL in a file of its own.
    SharedLibrary,
    /// The environment with zstandard.
    Zstd,
    /// The environment with llama.cpp.
    Llm,
    /// Node.
    Node,
    /// That the kernel dumps the memory of what is aborted.
    CoreDumps,
    /// A folder of the control group tree in which groups can be made.
    ControlGroup,
    /// A control group whose memory can be limited.
    MemoryGroup,
    /// That control groups tell of pressure.
    Pressure,
    /// PID and mount namespaces.
    Namespaces,
    /// File systems in files.
    Disk,
}

impl Need {
    /// Why it is not there.
    fn missing(self) -> Result<(), String> {
        match self {
            Self::Python => stage::python().map(drop),
            Self::OldPython => stage::old_python().map(drop),
            Self::Python39 => tls_stage::clients_on(9).map(drop),
            Self::Python310 => tls_stage::clients_on(10).map(drop),
            Self::Python311 => tls_stage::clients_on(11).map(drop),
            Self::Python312 => tls_stage::clients_on(12).map(drop),
            Self::Python313 => tls_stage::clients_on(13).map(drop),
            Self::NewerPython => {
                tls_stage::newer_minor().ok_or("no newer Python".into()).and_then(tls_stage::clients_on).map(drop)
            }
            Self::Discord => discord_stage::with_zlib().map(drop),
            Self::DiscordZstd => discord_stage::with_zstd().map(drop),
            Self::DiscordOld => Library::OldDiscordPy.python().map(drop),
            Self::Nextcord => Library::Nextcord.python().map(drop),
            Self::PyCord => Library::PyCord.python().map(drop),
            Self::Disnake => Library::Disnake.python().map(drop),
            Self::Hikari => Library::Hikari.python().map(drop),
            Self::Voice => discord_stage::with_voice().map(drop),
            Self::Hermetic => discord_stage::hermetic(),
            Self::Resolvers => net::resolvers().map(drop),
            Self::TrafficControl => net::traffic_control(),
            Self::PlainPython => tls_stage::plain().map(drop),
            Self::SharedLibrary => tls_stage::shared_library().map(drop),
            Self::Zstd => inflate::zstd().map(drop),
            Self::Llm => llm::python().map(drop),
            Self::Node => tls_stage::node(),
            Self::CoreDumps => secrets::core_dumps(),
            Self::ControlGroup => discovery::ControlGroup::new("miku-probe-check").map(drop),
            Self::MemoryGroup => process::memory_group("miku-probe-check").map(drop),
            Self::Pressure => process::pressure_group("miku-probe-check-pressure").map(drop),
            Self::Namespaces => discovery::namespaces(),
            Self::Disk => event_loop::disk(),
        }
    }
}

/// One case of the suite.
struct Case {
    name: &'static str,
    needs: &'static [Need],
    run: fn(),
    compares_times: bool,
}

impl Case {
    /// The case, marked as one that holds the probe's times against others' clocks: on a quiet machine it runs once
    /// more, alone and with narrow bounds (see [`holds_to_promises`]).
    const fn compares_times(self) -> Self {
        Self { compares_times: true, ..self }
    }
}

/// A case by its function's name.
macro_rules! case {
    ($function:path $(, $need:ident)*) => {
        crate::Case {
            name: stringify!($function),
            needs: &[$(crate::Need::$need),*],
            run: $function,
            compares_times: false,
        }
    };
}
use case;

/// What this run is for.
fn mode() -> Result<Mode, String> {
    static MODE: OnceLock<Result<Mode, String>> = OnceLock::new();
    MODE.get_or_init(Mode::from_env).clone()
}

/// Whether times are held to the bounds that the documentation promises of a quiet machine. Otherwise the bounds are
/// wide: on a busy machine a bot or its counterpart waits for a CPU without either of their clocks showing it.
pub(crate) fn holds_to_promises() -> bool {
    mode() == Ok(Mode::Accuracy)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let mode = match mode() {
        Ok(mode) => mode,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    // They wait more than they compute; many more at once would disturb what they measure.
    arguments.test_threads.get_or_insert(if mode == Mode::Accuracy { 1 } else { 3 });
    let cases = [
        ("servers", servers::cases()),
        ("clients", clients::cases()),
        ("exchanges", exchanges::cases()),
        ("discovery", discovery::cases()),
        ("lifecycle", lifecycle::cases()),
        ("process", process::cases()),
        ("endpoints", endpoints::cases()),
        ("event_loop", event_loop::cases()),
        ("hist", hist::cases()),
        ("commands", commands::cases()),
        ("bad_input", bad_input::cases()),
        ("hostile", hostile::cases()),
        ("tls_clients", tls_clients::cases()),
        ("tls_servers", tls_servers::cases()),
        ("tls_attach", tls_attach::cases()),
        ("tls_hostile", tls_hostile::cases()),
        ("tls_handshakes", tls_handshakes::cases()),
        ("inflate", inflate::cases()),
        ("gpu", gpu::cases()),
        ("discord", discord::cases()),
        ("discord_metrics", discord_metrics::cases()),
        ("discord_attach", discord_attach::cases()),
        ("discord_hostile", discord_hostile::cases()),
        ("discord_voice", discord_voice::cases()),
        ("discord_secrets", discord_secrets::cases()),
        ("net", net::cases()),
        ("llm", llm::cases()),
        ("llm_dialects", llm_dialects::cases()),
        ("llm_secrets", llm_secrets::cases()),
        ("stalls", stalls::cases()),
        ("profile", profile::cases()),
        ("secrets", secrets::cases()),
    ];
    let everywhere = || kernel::allows_bpf().and_then(|()| probe::binary().map(drop));
    let everywhere = if mode == Mode::Elsewhere { Ok(()) } else { everywhere() };
    let mut needs: BTreeMap<Need, Result<(), String>> = BTreeMap::new();
    let mut skipped: BTreeMap<String, usize> = BTreeMap::new();
    let (mut trials, mut selected) = (Vec::new(), 0);
    for (topic, cases) in cases {
        for case in cases.into_iter().filter(|case| mode.includes(case.compares_times)) {
            let name = format!("{topic}::{}", case.name);
            let is_selected = is_selected(&arguments, &name);
            selected += usize::from(is_selected);
            let missing = everywhere.clone().and_then(|()| {
                // Making an environment takes its time, so nobody does it who only lists the cases or runs others.
                if arguments.list || !is_selected {
                    return Ok(());
                }
                let mut all = case.needs.iter();
                all.try_for_each(|need| needs.entry(*need).or_insert_with(|| need.missing()).clone())
            });
            let (reason, run) = (missing.err(), case.run);
            if let Some(reason) = &reason {
                *skipped.entry(reason.clone()).or_default() += 1;
            }
            let ignored = reason.is_some() && !mode.forbids_skips();
            let trial = Trial::test(name, move || match reason {
                Some(reason) => Err(format!("cannot run here: {reason}").into()),
                None => {
                    run();
                    Ok(())
                }
            });
            trials.push(trial.with_ignored_flag(ignored));
        }
    }
    if selected == 0 && mode.forbids_skips() {
        eprintln!("error: no case matches, so nothing would be tested");
        return ExitCode::FAILURE;
    }
    tell(&skipped);
    let conclusion = libtest_mimic::run(&arguments, trials);
    tell(&skipped);
    conclusion.exit_code()
}

/// Whether the command line selects a case.
fn is_selected(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter.as_str()) };
    arguments.filter.as_ref().is_none_or(matches) && !arguments.skip.iter().any(matches)
}

fn tell(skipped: &BTreeMap<String, usize>) {
    for (reason, count) in skipped {
        eprintln!("\nNOT RUN: {count} end-to-end cases, because: {reason}");
    }
}
