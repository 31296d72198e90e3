//! The thread that calls into the driver's library, which may never come back: it is given up then, and counted.
//!
//! A thread that hangs cannot be ended. It keeps its handle of the library, tells nobody anything any more, and ends by itself
//! should its call return.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::error::NvmlError;

use super::nvml::{self, Session};
use crate::observations::{Device, Unavailable};
use crate::units::Nanos;

/// How often a call that is under way is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How many calls may take their full time within one sample.
const PATIENCE: u32 = 4;

/// What the driver told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) devices: Result<Vec<Device>, Unavailable>,
    /// By the GPU and NVIDIA's number.
    pub(super) xids: Vec<(String, u64)>,
}

impl Told {
    pub(super) const fn nothing(reason: Unavailable) -> Self {
        Self { devices: Err(reason), xids: Vec::new() }
    }
}

/// Where the thread is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// When the call that is under way began; 0 when none is.
    since: AtomicU64,
    call: Mutex<&'static str>,
    /// Whether nobody waits for the thread any more.
    given_up: AtomicBool,
    /// Whether it has ended.
    ended: AtomicBool,
}

impl Progress {
    /// Calls into the library.
    pub(super) fn run<T>(
        &self,
        name: &'static str,
        call: impl FnOnce() -> Result<T, NvmlError>,
    ) -> Result<T, NvmlError> {
        if self.given_up() {
            return Err(NvmlError::Timeout);
        }
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.since.store(Nanos::now().0, Ordering::Release);
        let result = call();
        self.since.store(0, Ordering::Release);
        result
    }

    pub(super) fn given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// The call that is under way and when it began.
    fn call(&self) -> Option<(&'static str, Nanos)> {
        let since = Nanos(self.since.load(Ordering::Acquire));
        (since.0 > 0).then(|| (*self.call.lock().unwrap_or_else(PoisonError::into_inner), since))
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Says that the thread has ended, however it did.
struct End(Arc<Progress>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// One that opens the library, which may have to wake the GPUs.
    pub(super) open: Duration,
    /// Any other.
    pub(super) call: Duration,
}

/// A thread with the library open.
#[derive(Debug)]
pub(super) struct Worker {
    requests: Sender<()>,
    answers: Receiver<Told>,
    progress: Arc<Progress>,
    deadlines: Deadlines,
    pub(super) born: Instant,
    /// Whether it may still have to open the library.
    fresh: Cell<bool>,
}

/// The thread did not come back.
#[derive(Debug)]
pub(super) struct Hung {
    /// In which call.
    pub(super) call: &'static str,
    pub(super) progress: Arc<Progress>,
}

impl Worker {
    pub(super) fn start(library: Option<PathBuf>, deadlines: Deadlines) -> io::Result<Self> {
        let (requests, asked) = mpsc::channel();
        let (told, answers) = mpsc::channel();
        let progress = Arc::new(Progress::default());
        let end = End(Arc::clone(&progress));
        let work = move || {
            let end = end;
            let progress = &*end.0;
            let nvml = match nvml::open(library.as_deref(), progress) {
                Ok(nvml) => nvml,
                Err(reason) => {
                    let _gone: Result<(), _> = asked.recv().map(|()| drop(told.send(Told::nothing(reason))));
                    return;
                }
            };
            let mut session = Session::new(&nvml, progress);
            while let Ok(()) = asked.recv() {
                let answer = session.sample();
                if progress.given_up() || told.send(answer).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("gpu driver".to_owned()).spawn(work)?;
        Ok(Self { requests, answers, progress, deadlines, born: Instant::now(), fresh: Cell::new(true) })
    }

    /// Has the thread close the library and end, without waiting for that.
    pub(super) fn close(self) -> Arc<Progress> {
        self.progress
    }

    /// Asks for a sample.
    ///
    /// # Errors
    /// When a call does not return in time; the thread is given up then.
    pub(super) fn sample(&self) -> Result<Told, Hung> {
        let begun = Nanos::now();
        // A thread that has ended gives no answer either.
        let _ended: Result<(), _> = self.requests.send(());
        loop {
            match self.answers.recv_timeout(LOOK) {
                Ok(told) => {
                    self.fresh.set(false);
                    return Ok(told);
                }
                // It panicked: the wrapper does where a function is missing that every library has.
                Err(RecvTimeoutError::Disconnected) => return Ok(Told::nothing(Unavailable::LibraryUnusable)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Nanos::now();
            let Some((call, since)) = self.progress.call() else { continue };
            let opens = call == nvml::OPEN;
            let limit = if opens { self.deadlines.open } else { self.deadlines.call };
            let over = |since: Nanos, limit: Duration| u128::from(now.since(since).0) > limit.as_nanos();
            let whole = limit * PATIENCE + if self.fresh.get() { self.deadlines.open } else { Duration::ZERO };
            if over(since, limit) || (!opens && over(begun, whole)) {
                self.progress.given_up.store(true, Ordering::Release);
                return Err(Hung { call, progress: Arc::clone(&self.progress) });
            }
        }
    }
}
