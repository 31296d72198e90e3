//! `miku-probe stalls`: event loops that do not turn, told while they do not.

use std::io::{self, IsTerminal as _, Stdout};

use anyhow::Context as _;

use super::{Signals, check, runtime};
use crate::config::StallsConfig;
use crate::probes;
use crate::sinks::stalls::{Options, StallLog};
use crate::watch::Watch;

/// Watches and writes the log until SIGINT or SIGTERM.
///
/// # Errors
/// When the kernel side cannot be attached or the output cannot be written. A reader that went away shows as a broken pipe
/// among the causes.
pub fn run(config: StallsConfig) -> anyhow::Result<()> {
    runtime()?.block_on(show(config))
}

async fn show(config: StallsConfig) -> anyhow::Result<()> {
    let StallsConfig { settings, json, stack } = config;
    check::preflight(probes::object())?;
    let mut signals = Signals::new()?;
    let terminal = io::stdout().is_terminal() && !json;
    let log: StallLog<Stdout> = StallLog::new(io::stdout(), Options { json, stack, terminal });
    let mut watch = Watch::start(settings, log)?;
    for target in watch.targets() {
        log::info!("watching the loops of {target}");
    }
    loop {
        tokio::select! {
            biased;
            () = signals.end() => break,
            stepped = watch.step() => stepped.context("cannot poll the ring of records")?,
        }
        watch.sink_mut().check()?;
    }
    let log = std::mem::replace(watch.sink_mut(), StallLog::new(io::stdout(), Options { json, stack, terminal }));
    // Detached before the summary is printed: whoever reads it may start the next thing.
    drop(watch);
    log.finish()?;
    Ok(())
}
