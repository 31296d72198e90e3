//! A thread for each process whose stacks are read: reading another's memory may take its time, as when its pages are on
//! a file server that does not answer. Whoever asks waits until a deadline and no longer.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Reader, StackError, Thread};
use crate::units::{Nanos, Tgid};

/// Processes whose stacks are read at once.
pub const PROCESSES_MAX: usize = 64;

/// How long nothing is tried again in a process in which no interpreter was found: it may have just begun.
const RETRY: Duration = Duration::from_secs(5);

type Answer = Result<Vec<Thread>, StackError>;

/// The readers of many processes.
#[derive(Debug, Default)]
pub struct Stacks {
    workers: HashMap<Tgid, Worker>,
}

#[derive(Debug)]
struct Worker {
    questions: Sender<SyncSender<Answer>>,
    /// What was asked and not answered in time, and when.
    late: Option<(Nanos, Receiver<Answer>)>,
}

impl Stacks {
    /// Opens a process, so that its first stack is read without delay. Does nothing if it is open.
    ///
    /// # Errors
    /// When too many are.
    pub fn open(&mut self, tgid: Tgid) -> Result<(), StackError> {
        if self.workers.contains_key(&tgid) {
            return Ok(());
        }
        if self.workers.len() >= PROCESSES_MAX {
            return Err(StackError::TooMany);
        }
        let (questions, asked) = mpsc::channel();
        let spawned = thread::Builder::new().name("stacks".to_owned()).spawn(move || answer(tgid, &asked));
        if let Err(error) = spawned {
            return Err(StackError::Torn(format!("cannot start a thread: {error}")));
        }
        self.workers.insert(tgid, Worker { questions, late: None });
        Ok(())
    }

    /// What all threads of Python's in a process do now, or did at some time since `since`, if that is known already.
    ///
    /// # Errors
    /// When that is not known within `patience`.
    pub fn threads(&mut self, tgid: Tgid, since: Nanos, patience: Duration) -> Answer {
        self.open(tgid)?;
        let worker = self.workers.get_mut(&tgid).ok_or(StackError::Gone)?;
        if let Some((asked, late)) = worker.late.take() {
            match late.try_recv() {
                Err(TryRecvError::Empty) => {
                    worker.late = Some((asked, late));
                    return Err(StackError::Late);
                }
                Ok(answer) if asked >= since => return answer,
                Ok(_) | Err(TryRecvError::Disconnected) => {}
            }
        }
        let asked = Nanos::now();
        let (reply, answer) = mpsc::sync_channel(1);
        if worker.questions.send(reply).is_err() {
            self.workers.remove(&tgid);
            return Err(StackError::Gone);
        }
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                worker.late = Some((asked, answer));
                Err(StackError::Late)
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.workers.remove(&tgid);
                Err(StackError::Gone)
            }
        }
    }

    /// Lets go of all processes but these.
    pub fn retain(&mut self, mut keep: impl FnMut(Tgid) -> bool) {
        self.workers.retain(|tgid, _| keep(*tgid));
    }
}

/// Answers until nobody can ask any more, or the process has ended.
fn answer(tgid: Tgid, asked: &Receiver<SyncSender<Answer>>) {
    let mut reader = Reader::open(tgid);
    let mut tried = Instant::now();
    while let Ok(reply) = asked.recv() {
        if reader.is_err() && tried.elapsed() >= RETRY {
            reader = Reader::open(tgid);
            tried = Instant::now();
        }
        let mut answer = read(&mut reader);
        // Another thread of it may have run on meanwhile, or it may have become another program.
        if matches!(answer, Err(StackError::Torn(_))) {
            answer = read(&mut reader);
        }
        if matches!(answer, Err(StackError::Torn(_))) {
            reader = Reader::open(tgid);
            tried = Instant::now();
            answer = read(&mut reader);
        }
        let ended = answer == Err(StackError::Gone);
        // Nobody waits for an answer that comes too late.
        drop(reply.send(answer));
        if ended {
            return;
        }
    }
}

fn read(reader: &mut Result<Reader, StackError>) -> Answer {
    match reader {
        Ok(reader) => reader.threads(),
        Err(error) => Err(error.clone()),
    }
}
