//! A process of the suite's own, which never outlives it.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// What a process has written to one of its streams so far.
#[derive(Debug, Default)]
struct Lines {
    written: Mutex<Written>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    /// Nobody can write any more.
    ended: bool,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let lines = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                lines.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
                lines.more.notify_all();
            }
            lines.lock().ended = true;
            lines.more.notify_all();
        });
    }

    /// Waits until nobody can write any more; says whether that came within the time.
    fn wait_ended(&self, limit: Duration) -> bool {
        self.wait(limit, |written| written.ended.then_some(())).is_some()
    }

    /// Waits until `look` finds something, nobody can write any more, or the time is over.
    fn wait<T>(&self, limit: Duration, look: impl Fn(&Written) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut written = self.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let found = look(&written);
            if found.is_some() || written.ended || left.is_zero() {
                return found;
            }
            written = self.more.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running process at the head of its own process group. The whole group dies when this is dropped, and the process
/// itself when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    said: Arc<Lines>,
    complained: Arc<Lines>,
    reaped: bool,
    /// Whether it was sent a signal that may end or stop it.
    signalled: AtomicBool,
}

impl Process {
    /// Starts `command`; `what` names it in messages.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(what: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        // SAFETY: prctl is async-signal-safe, and the closure touches no memory of this process.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        // A program that was written a moment ago is busy as long as a child that another thread is just starting holds
        // the descriptor it was written by.
        let started = eventually(PATIENCE, || match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            started => Some(started),
        });
        let mut child = started
            .unwrap_or_else(|| Err(ErrorKind::ExecutableFileBusy.into()))
            .unwrap_or_else(|error| panic!("{what} does not start: {command:?}: {error}"));
        let (said, complained) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        said.collect(child.stdout.take().expect("standard output is a pipe"));
        complained.collect(child.stderr.take().expect("standard error is a pipe"));
        Self { child, what: what.into(), said, complained, reaped: false, signalled: AtomicBool::new(false) }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines of its standard output so far.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        self.said.lock().lines.clone()
    }

    /// All lines of its standard error so far.
    #[must_use]
    pub fn complained(&self) -> Vec<String> {
        self.complained.lock().lines.clone()
    }

    /// Its standard input, until [`Process::finish_input`].
    ///
    /// # Panics
    /// When it was closed already.
    pub fn input(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("standard input was closed")
    }

    /// Writes one line to its standard input.
    ///
    /// # Panics
    /// When it does not take it.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input(), "{line}").unwrap_or_else(|error| panic!("{} takes no input: {error}", self.what));
    }

    /// Closes its standard input.
    pub fn finish_input(&mut self) {
        self.child.stdin = None;
    }

    /// Waits for a line of its standard output of which `pick` makes something.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_said<T>(&self, limit: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        self.wait_line(&self.said, limit, pick)
    }

    /// Waits for a line of its standard error of which `pick` makes something.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn wait_complained<T>(&self, limit: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        self.wait_line(&self.complained, limit, pick)
    }

    fn wait_line<T>(&self, lines: &Lines, limit: Duration, pick: impl Fn(&str) -> Option<T>) -> T {
        let found = lines.wait(limit, |written| written.lines.iter().find_map(|line| pick(line)));
        found.unwrap_or_else(|| panic!("what was waited for did not come within {limit:?}: {}", self.story()))
    }

    /// Waits until it can write no more, as when it has ended.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn wait_silent(&self, limit: Duration) {
        for lines in [&self.said, &self.complained] {
            assert!(lines.wait_ended(limit), "it could still write after {limit:?}: {}", self.story());
        }
    }

    /// Everything it said, for a message.
    #[must_use]
    pub fn story(&self) -> String {
        let (said, complained) = (self.said(), self.complained());
        format!("{} said {said:#?} and complained {complained:#?}", self.what)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        !self.reaped && matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it was sent a signal that ends or stops it, and not one since that lets it go on.
    #[must_use]
    pub fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Relaxed)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        self.signalled.store(![libc::SIGCONT, libc::SIGHUP].contains(&signal), Ordering::Relaxed);
        // SAFETY: the process was started here and has not been waited for unless it ended, in which case a zombie or
        // nobody takes the signal.
        unsafe { libc::kill(self.pid().cast_signed(), signal) };
    }

    /// Waits for its end, after which all that it wrote has been read; none when it goes on for longer than `limit`.
    ///
    /// # Panics
    /// When the kernel does not tell.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        /// Whoever it started may hold its streams open.
        const UNREAD: Duration = Duration::from_secs(1);
        let status = eventually(limit, || self.child.try_wait().expect("a child of this process can be waited for"))?;
        for lines in [&self.said, &self.complained] {
            lines.wait_ended(UNREAD);
        }
        Some(status)
    }

    /// Sends `signal` and tells how it ended.
    ///
    /// # Panics
    /// When it goes on for longer than `limit`.
    pub fn stop(&mut self, signal: libc::c_int, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait(limit).unwrap_or_else(|| panic!("{:?} after signal {signal} still there: {}", limit, self.story()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: the group is the child's own, and holds nothing but what it started.
            unsafe { libc::kill(-self.pid().cast_signed(), libc::SIGKILL) };
        }
        // It may have been waited for already.
        let _ = self.child.wait();
        self.reaped = true;
    }
}

/// A command that runs as `nobody`, without any capability.
///
/// What runs is a copy of the program in a folder that every user may enter, because the program itself may be in a checkout
/// in somebody's private home. The copy is removed when this is dropped.
#[derive(Debug)]
pub struct AsNobody {
    command: Command,
    _folder: TempDir,
}

impl AsNobody {
    /// Of a command that names its program by a path. Its arguments and environment are kept, its working directory is not.
    ///
    /// # Panics
    /// When the program cannot be copied.
    #[must_use]
    pub fn new(original: &Command) -> Self {
        const NOBODY: u32 = 65_534;
        let program = Path::new(original.get_program());
        let folder = tempfile::tempdir_in(open_folder()).expect("a folder for everybody");
        let copy = folder.path().join(program.file_name().expect("a program has a name"));
        // By another process: a descriptor of this one, in a child that another thread is just starting, keeps the copy busy.
        let copied = Command::new("cp").arg("--").args([program, &copy]).status().expect("cp starts");
        assert!(copied.success(), "{} cannot be copied", program.display());
        for path in [folder.path(), &copy] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is ours");
        }
        let mut command = Command::new(copy);
        command.args(original.get_args()).current_dir("/").uid(NOBODY).gid(NOBODY);
        for (name, value) in original.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self { command, _folder: folder }
    }

    /// The command, to be run while this lives.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }
}

/// The first folder for temporary files that every user may enter.
fn open_folder() -> PathBuf {
    let enters = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.mode() & 0o001 != 0);
    [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()]
        .into_iter()
        .find(|path| path.is_absolute() && path.ancestors().all(enters))
        .expect("there is a folder for everybody's temporary files")
}

/// A TCP port on which nobody listens, and below those that the kernel gives to clients.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    use std::sync::atomic::AtomicU16;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap_or(0);
    (0..10_000)
        .map(|_| 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("ten thousand ports are not all taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_runs_a_program_of_a_private_folder() {
        // SAFETY: geteuid cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return test_skips::skip("only root can run a program as another user");
        }
        let private = tempfile::tempdir().expect("a folder");
        fs::set_permissions(private.path(), Permissions::from_mode(0o700)).expect("it is ours");
        let program = private.path().join("id");
        fs::copy("/usr/bin/id", &program).expect("a program that is on every machine");
        fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("it is ours");
        let mut nobody = AsNobody::new(Command::new(&program).arg("-u"));
        let output = nobody.command().output().expect("it may be run");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "65534\n", "{output:?}");
    }
}
