//! `miku-probe profile`: where Python spends its time, looked at from outside for some seconds.
//!
//! It loads nothing into the kernel and stops nobody: all it needs is to be allowed to read the process's memory.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};

use super::{Signals, runtime};
use crate::config::ProfileConfig;
use crate::discovery::process::ProcFs;
use crate::discovery::{Change, Discovery};
use crate::samplers::profile::{Seen, Settings, sample};
use crate::samplers::python::{Reader, StackError};
use crate::sinks::profile::{Form, Profile};
use crate::units::Tgid;

/// How long a process may let us wait once the time is over: its memory may be on a disk that does not answer.
const GRACE: Duration = Duration::from_secs(2);

/// Looks, and writes the profile down when the time is over or at SIGINT or SIGTERM.
///
/// # Errors
/// When there is no process to look at, none of them can be read, or the output cannot be written.
pub fn run(config: &ProfileConfig) -> anyhow::Result<()> {
    let to_terminal = config.output.is_none() && io::stdout().is_terminal();
    if to_terminal && config.form == Form::Pprof {
        bail!("a profile for pprof is no text; name a file with --output");
    }
    let targets = targets(config)?;
    // Made before the looking, so that nobody waits for a file that cannot be written.
    let mut output = match &config.output {
        Some(path) => Some(create(path)?),
        None => None,
    };
    let profile = runtime()?.block_on(look(config.settings, targets))?;
    match &mut output {
        Some((file, path)) => {
            let written = profile.write(config.form, file).and_then(|()| file.flush());
            written.with_context(|| format!("cannot write {}", path.display()))?;
            log::info!("wrote {}", path.display());
        }
        None => {
            let mut stdout = BufWriter::new(io::stdout().lock());
            profile.write(config.form, &mut stdout)?;
            stdout.flush()?;
        }
    }
    Ok(())
}

fn create(path: &Path) -> anyhow::Result<(BufWriter<File>, &Path)> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((BufWriter::new(file), path))
}

/// The processes to look at, with what they are called.
fn targets(config: &ProfileConfig) -> anyhow::Result<Vec<(Tgid, String)>> {
    let mut discovery = Discovery::new(ProcFs::default(), config.services.clone());
    discovery.check_pids()?;
    let changes = discovery.scan().context("cannot look at the processes")?;
    let mut targets = Vec::new();
    let mut refused = None;
    for change in changes {
        match change {
            Change::Found(target) => {
                let service = discovery.services().get(usize::from(target.service.0)).map_or("", String::as_str);
                targets.push((target.tgid, format!("{service} (pid {})", target.tgid)));
            }
            // Those that no service was named for are all others of the machine.
            Change::Rejected { tgid, service: Some(_), reason } => refused = refused.or(Some((tgid, reason))),
            _ => {}
        }
    }
    match refused {
        _ if !targets.is_empty() => Ok(targets),
        Some((tgid, reason)) => bail!("there is no process to look at: {tgid} {reason}"),
        None if discovery.unreadable() > 0 => {
            bail!("there is no process to look at, and permission denied to {}", discovery.unreadable())
        }
        None => bail!("there is no process to look at; name yours with --service"),
    }
}

async fn look(settings: Settings, targets: Vec<(Tgid, String)>) -> anyhow::Result<Profile> {
    let mut signals = Signals::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (results, seen) = mpsc::channel();
    let mut waiting: Vec<String> = Vec::new();
    for (tgid, name) in targets {
        let (results, stop, root) = (results.clone(), Arc::clone(&stop), name.clone());
        let work = move || drop(results.send((root.clone(), watch(tgid, &root, &settings, &stop))));
        thread::Builder::new().name("profile".to_owned()).spawn(work).context("cannot start a thread")?;
        waiting.push(name);
    }
    drop(results);
    let start = SystemTime::now();
    // All threads end by themselves; whoever takes longer is hung.
    let ended = async {
        let deadline = tokio::time::Instant::now() + settings.time + GRACE;
        let mut all = Vec::new();
        while all.len() < waiting.len() && tokio::time::Instant::now() < deadline {
            match seen.try_recv() {
                Ok(one) => all.push(one),
                Err(mpsc::TryRecvError::Disconnected) => break,
                Err(mpsc::TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        all
    };
    let stopped = async {
        signals.end().await;
        stop.store(true, Ordering::Relaxed);
        // What has been seen so far is waited for.
        std::future::pending().await
    };
    let all = tokio::select! {
        all = ended => all,
        all = stopped => all,
    };
    let mut profile = Profile::new(settings.period(), start);
    let mut failures = Vec::new();
    for (name, seen) in all {
        waiting.retain(|waits| *waits != name);
        match seen {
            Ok(seen) => {
                told(&name, &seen);
                profile.duration = profile.duration.max(seen.profile.duration);
                profile.merge(seen.profile);
            }
            Err(error) => failures.push(anyhow!("{name}: {error}")),
        }
    }
    failures.extend(waiting.iter().map(|name| anyhow!("{name}: {}", StackError::Late)));
    if profile.duration.is_zero() {
        let first = failures.into_iter().next().unwrap_or_else(|| anyhow!("nothing was seen"));
        return Err(first.context("no process could be looked at"));
    }
    for failure in failures {
        log::warn!("{failure}");
    }
    Ok(profile)
}

fn watch(tgid: Tgid, root: &str, settings: &Settings, stop: &AtomicBool) -> Result<Seen, StackError> {
    let mut reader = Reader::open(tgid)?;
    let seconds = settings.time.as_secs();
    log::info!("looking at {root}, Python {}, {} times a second for {seconds} s", reader.version(), settings.rate);
    Ok(sample(&mut reader, tgid, root, settings, stop))
}

fn told(name: &str, seen: &Seen) {
    log::info!("{name}: {} looks, {} stacks", seen.looks, seen.profile.samples());
    if seen.missed > 0 {
        log::warn!("{name}: {} looks were missed; a lower --rate may help", seen.missed);
    }
    for (reason, count) in &seen.failed {
        log::warn!("{name}: {count} looks failed: {reason}");
    }
    if seen.ended {
        log::warn!("{name} ended before the time was over");
    }
}
