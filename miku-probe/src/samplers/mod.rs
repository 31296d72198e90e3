//! What nothing tells of itself and must be asked for: processes, sockets and GPUs, at intervals.
//!
//! A sampler runs on a thread of its own, since what it asks may take its time or never answer. It is told which processes
//! are watched and gives [`Sample`]s, which `watch.rs` hands on as observations. It never waits for whoever takes them: when
//! nobody does, samples are dropped, and the next one is as good.

pub mod gpu;
pub mod process;
pub mod profile;
pub mod python;
pub mod stalls;
pub mod tcp;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::observations::{GpuSample, Stall};
use crate::units::{ServiceId, Tgid};

/// Samples that wait to be taken.
const WAITING_MAX: usize = 1024;

/// A watched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Whose.
    pub service: ServiceId,
    /// Which.
    pub tgid: Tgid,
}

/// The processes that are watched now: written by who finds them, read by the samplers.
#[derive(Clone, Debug, Default)]
pub struct Targets(Arc<Mutex<Arc<[Target]>>>);

impl Targets {
    /// One is watched from now on.
    pub fn insert(&self, target: Target) {
        self.change(|targets| targets.push(target));
    }

    /// One is watched no more.
    pub fn remove(&self, tgid: Tgid) {
        self.change(|targets| targets.retain(|target| target.tgid != tgid));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Target>)) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut targets = slot.to_vec();
        change(&mut targets);
        *slot = targets.into();
    }

    /// Those of now.
    #[must_use]
    pub fn get(&self) -> Arc<[Target]> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a sampler found.
#[derive(Clone, Debug)]
pub enum Sample {
    /// What a process uses.
    Process(process::Look),
    /// A round over TCP's sockets.
    Tcp(tcp::Round),
    /// Why such a round is not whole, in a word: the label `reason`. It is told once.
    TcpFailed(&'static str),
    /// Of the GPUs.
    Gpu(GpuSample),
    /// An event loop does not turn, or does again.
    Stall(Target, Arc<Stall>),
}

/// Where samples go.
#[derive(Clone, Debug)]
pub struct Samples(mpsc::Sender<Sample>);

impl Samples {
    /// Hands a sample on; says whether there was room for it.
    pub fn give(&self, sample: Sample) -> bool {
        self.0.try_send(sample).is_ok()
    }

    /// Whether anybody still takes samples; a sampler ends when nobody does.
    #[must_use]
    pub fn wanted(&self) -> bool {
        !self.0.is_closed()
    }
}

/// Both ends of the way that samples go.
#[must_use]
pub fn channel() -> (Samples, mpsc::Receiver<Sample>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Samples(sender), receiver)
}
