//! Python's stacks, read from outside without stopping anybody: py-spy finds the interpreter and walks its frames with
//! `process_vm_readv`, and nothing is ever attached.
//!
//! A running thread changes its frames while they are read, so what is read of one may be torn: such a reading fails or
//! shows a stack that never was, seldom and harmlessly. The frames of a thread that is blocked hold still.
//!
//! What it reads: CPython 2.7 and 3.3 to 3.15, of the main interpreter. Not: frames of other languages, since unwinding
//! them means stopping the thread; free-threaded builds; a process of more than 4,096 threads of Python.

mod threads;
mod worker;

use std::io;
use std::panic::{self, AssertUnwindSafe};

use py_spy::config::{Config, LineNo, LockingStrategy};
use py_spy::{PythonSpy, StackTrace};

use self::threads::Numbers;
pub use self::worker::{PROCESSES_MAX, Stacks};
use crate::units::Tgid;

/// A thread, by its number in the initial PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// One call of a Python function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// The function, with its class and what it is defined in from CPython 3.11 on.
    pub function: String,
    /// The file, as the interpreter knows it.
    pub file: String,
    /// The line that runs; none where it could not be read.
    pub line: Option<u32>,
}

/// What a thread of Python's does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Which; none where it cannot be told.
    pub tid: Option<Tid>,
    /// Whether it held the interpreter's lock.
    pub holds_gil: bool,
    /// What it is in, innermost first. Empty while it runs nothing of Python's.
    pub frames: Vec<Frame>,
}

/// Why there is no stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StackError {
    /// The process is there, but its memory may not be read.
    #[error("its memory may not be read: the probe needs CAP_SYS_PTRACE over it")]
    Denied,
    /// The process has ended.
    #[error("the process has ended")]
    Gone,
    /// No Python interpreter was found in it.
    #[error("no Python interpreter is found in it ({0})")]
    NoInterpreter(String),
    /// What was read made no sense; mostly a thread that ran on meanwhile.
    #[error("its stacks could not be read ({0})")]
    Torn(String),
    /// It does not have this thread, or not in Python.
    #[error("the thread runs nothing of Python's")]
    NoThread,
    /// Reading takes too long.
    #[error("reading its memory takes too long")]
    Late,
    /// More processes than are followed at once.
    #[error("more than {PROCESSES_MAX} processes are looked at")]
    TooMany,
}

/// Reads the stacks of one process. Opening reads its program's symbols and takes some tens of milliseconds, a reading
/// less than one.
pub struct Reader {
    tgid: Tgid,
    spy: PythonSpy,
    numbers: Numbers,
}

impl Reader {
    /// Finds the interpreter in a process.
    ///
    /// # Errors
    /// When there is none, it is not ready yet, or it may not be read.
    pub fn open(tgid: Tgid) -> Result<Self, StackError> {
        let pid = py_spy::Pid::try_from(tgid.0).map_err(|_| StackError::Gone)?;
        let spy = guarded(tgid, || PythonSpy::new(pid, &settings())).map_err(|error| match error {
            StackError::Torn(reason) => StackError::NoInterpreter(reason),
            other => other,
        })?;
        Ok(Self { tgid, spy, numbers: Numbers::of(tgid) })
    }

    /// What all its threads of Python do now.
    ///
    /// # Errors
    /// When it has ended, or what was read made no sense: the next reading may succeed.
    pub fn threads(&mut self) -> Result<Vec<Thread>, StackError> {
        let Self { tgid, spy, numbers } = self;
        let traces = guarded(*tgid, || spy.get_stack_traces())?;
        let tids = numbers.look_up(&traces);
        Ok(traces.into_iter().zip(tids).map(|(trace, tid)| Thread::new(trace, tid)).collect())
    }

    /// The interpreter's version, such as `3.11.2`.
    #[must_use]
    pub fn version(&self) -> String {
        self.spy.version.to_string()
    }
}

fn settings() -> Config {
    Config {
        // Never `Lock`, its default: that would stop the process.
        blocking: LockingStrategy::NonBlocking,
        native: false,
        // Names are read out of a dictionary of the process, which changes while it is read.
        collect_thread_names: false,
        // Else it looks for each file on the disk.
        full_filenames: true,
        lineno: LineNo::LastInstruction,
        ..Config::default()
    }
}

/// Runs what reads memory that may be anything: it may fail, and it may panic.
fn guarded<T>(tgid: Tgid, read: impl FnOnce() -> Result<T, anyhow::Error>) -> Result<T, StackError> {
    let error = match panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(_) => anyhow::anyhow!("what was read makes no sense"),
    };
    Err(classify(tgid, &error))
}

fn classify(tgid: Tgid, error: &anyhow::Error) -> StackError {
    // A process that has ended and waits for its parent has no mappings any more.
    if threads::has_ended(tgid) {
        return StackError::Gone;
    }
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    // The library's own errors of reading carry the system's within them, unnamed.
    let causes = error.chain();
    if causes.into_iter().any(|cause| cause.downcast_ref().is_some_and(refused) || says_refused(cause)) {
        return StackError::Denied;
    }
    StackError::Torn(format!("{error:#}"))
}

fn says_refused(cause: &(dyn std::error::Error + 'static)) -> bool {
    let text = cause.to_string();
    text.contains("Operation not permitted") || text.contains("Permission denied")
}

impl Thread {
    fn new(trace: StackTrace, tid: Option<Tid>) -> Self {
        let frames = trace.frames.into_iter().map(|frame| Frame {
            function: frame.name,
            file: frame.filename,
            line: u32::try_from(frame.line).ok().filter(|line| *line > 0),
        });
        Self { tid, holds_gil: trace.owns_gil, frames: frames.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_python_is_told_so() {
        let own = Tgid(std::process::id());
        let error = Reader::open(own).err().expect("this program is not Python");
        assert!(matches!(error, StackError::NoInterpreter(_)), "{error:?}");
    }

    #[test]
    fn a_process_that_ended_is_told_so() {
        let mut child = std::process::Command::new("true").spawn().expect("there is true");
        let tgid = Tgid(child.id());
        child.wait().expect("it ends");
        assert_eq!(Reader::open(tgid).err(), Some(StackError::Gone));
    }

    #[test]
    fn a_refusal_is_known_in_whatever_it_is_wrapped() {
        let own = Tgid(std::process::id());
        let refused = anyhow::Error::from(io::Error::from_raw_os_error(libc::EPERM)).context("Failed to copy");
        assert_eq!(classify(own, &refused), StackError::Denied);
        let texts = anyhow::anyhow!("Operation not permitted (os error 1)").context("Failed to open");
        assert_eq!(classify(own, &texts), StackError::Denied);
        let torn = anyhow::anyhow!("Max frame recursion depth reached");
        assert_eq!(classify(own, &torn), StackError::Torn("Max frame recursion depth reached".to_owned()));
    }
}
