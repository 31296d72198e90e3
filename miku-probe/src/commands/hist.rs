//! `miku-probe hist`: the live latency histogram.

use std::time::SystemTime;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval_at};

use super::{Signals, check, runtime};
use crate::config::HistConfig;
use crate::observations::{Names, Observation, Sink, Unmatched};
use crate::probes;
use crate::sinks::hist::{Display, Frame, Hist, Key, Status, keys};
use crate::units::Nanos;
use crate::watch::Watch;

/// Watches and shows a histogram until SIGINT, SIGTERM, the key `q`, or the last of the intervals asked for.
///
/// # Errors
/// When the kernel side cannot be attached or the output cannot be written. A reader that
/// went away shows as a broken pipe among the causes.
pub fn run(config: HistConfig) -> anyhow::Result<()> {
    runtime()?.block_on(show(config))
}

/// The histogram, and what is counted beside it.
struct Shown {
    hist: Hist,
    lost: u64,
    unmatched: u64,
}

impl Sink for Shown {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        match observation {
            Observation::Lost { count, .. } => self.lost += count,
            // Such an exchange is in the histogram's own count of unknown ones.
            Observation::Unmatched { reason: Unmatched::HalfSeen, .. } => {}
            Observation::Unmatched { .. } => self.unmatched += 1,
            _ => self.hist.observe(observation, names),
        }
    }
}

async fn show(config: HistConfig) -> anyhow::Result<()> {
    let HistConfig { settings, options } = config;
    check::preflight(probes::object())?;
    let mut signals = Signals::new()?;
    let mut resized = signal(SignalKind::window_change()).context("cannot hear of changes of the window")?;
    let shown = Shown { hist: Hist::new(&options, Nanos::now()), lost: 0, unmatched: 0 };
    let mut watch = Watch::start(settings, shown)?;
    // Only now: what was said so far would be lost on the alternate screen.
    watch.sink_mut().hist.reset(Nanos::now());
    let mut display = Display::open(&options).context("cannot use the terminal")?;
    let mut pressed = display.has_keys().then(keys);
    let period = options.interval.duration();
    let mut beats = interval_at(tokio::time::Instant::now() + period, period);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);

    // A terminal shows at once what is awaited.
    if display.has_keys() {
        display.show(frame(&mut watch, Hist::first))?;
    }
    loop {
        let next = async {
            match &mut pressed {
                Some(pressed) => pressed.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = signals.end() => break,
            key = next => match key {
                Some(Key::Quit) => break,
                Some(Key::Reset) => watch.sink_mut().hist.reset(Nanos::now()),
                Some(Key::Pause) => display.toggle_pause()?,
                None => pressed = None,
            },
            _ = resized.recv() => display.resized()?,
            _ = beats.tick() => {
                display.show(frame(&mut watch, Hist::tick))?;
                if watch.sink_mut().hist.is_done() {
                    break;
                }
            }
            stepped = watch.step() => stepped.context("cannot poll the ring of records")?,
        }
    }
    let last = frame(&mut watch, Hist::finish);
    // Detached before the summary is printed: whoever reads it may start the next thing.
    drop(watch);
    display.finish(&last)?;
    Ok(())
}

/// What there is to show now.
fn frame(watch: &mut Watch<Shown>, take: impl FnOnce(&mut Hist, Nanos, SystemTime, &Status) -> Frame) -> Frame {
    watch.settle();
    let targets = watch.targets();
    let shown = watch.sink_mut();
    let status = Status { targets, lost: shown.lost, unmatched: shown.unmatched };
    take(&mut shown.hist, Nanos::now(), SystemTime::now(), &status)
}
