//! Running other programs: shown before they run, and never left behind.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// Writes one line to standard error; a reader that has gone away is no error.
pub(crate) fn say(line: impl Display) {
    use io::Write;
    let _ = writeln!(io::stderr(), "{line}");
}

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or_else(|| xtask.to_owned(), Path::to_owned)
}

/// A command as one would type it: a program, its arguments, and what it adds to the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sh {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl Sh {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), envs: Vec::new(), dir: None }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// The same as [`std::process::Command`], with no standard input: nothing here asks questions.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.envs.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command.current_dir(self.dir.clone().unwrap_or_else(workspace));
        command
    }

    /// Shows the command, runs it on this terminal, and waits for it.
    pub(crate) fn status(&self) -> Result<ExitStatus> {
        say(format_args!("$ {self}"));
        self.command().status().with_context(|| format!("cannot run `{self}`"))
    }

    /// As [`Sh::status`]; anything but exit code 0 is an error.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Runs quietly and returns standard output; the error carries what the command said.
    pub(crate) fn output(&self) -> Result<String> {
        let output = self.command().output().with_context(|| format!("cannot run `{self}`"))?;
        if !output.status.success() {
            bail!("`{self}` failed: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Shows the command and runs it with its output in a file, for no longer than `limit`. The root of the error is
    /// the first line of the output that is about an error, or else the last.
    pub(crate) fn run_within(&self, limit: Duration, log: &Path) -> Result<()> {
        say(format_args!("$ {self}"));
        let mut child = self.background(log)?;
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.ended()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(anyhow!("it took longer than {} s", limit.as_secs()))
                    .with_context(|| format!("ended `{self}`"));
            }
            thread::sleep(Duration::from_millis(20));
        };
        if !status.success() {
            let text = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
            let text = String::from_utf8_lossy(&text);
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let last = lines.clone().next_back().unwrap_or("no output");
            let reason = lines.find(|line| line.starts_with("fatal: ") || line.starts_with("error: ")).unwrap_or(last);
            return Err(anyhow!("{reason}")).with_context(|| format!("`{self}` failed: {status}"));
        }
        Ok(())
    }

    /// [`Background::start`] of this command.
    pub(crate) fn background(&self, log: &Path) -> Result<Background> {
        Background::start(self.command(), log)
    }
}

impl Display for Sh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.envs {
            write!(f, "{}={} ", name.to_string_lossy(), quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        self.args.iter().try_for_each(|arg| write!(f, " {}", quoted(arg)))
    }
}

/// A word as a shell wants it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Has the kernel send `signal` to the child when this process dies, however it dies.
pub(crate) fn die_with_parent(command: &mut Command, signal: libc::c_int) {
    // SAFETY: between fork and exec the closure makes one system call, which is async-signal-safe, and allocates
    // nothing.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Sends a signal to a process, or with a negative number to a process group. A target that has ended is no error.
pub(crate) fn signal(pid: i32, signal: libc::c_int) {
    // SAFETY: `kill` takes plain numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}

/// A child in its own process group; the whole group is stopped when this value is dropped.
pub(crate) struct Background {
    child: Child,
}

impl Background {
    /// Starts a command in a process group of its own, so that a Ctrl-C on the terminal does not reach it, with no input
    /// and its output in a file. It is stopped when the returned guard goes.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone().context("cannot duplicate a file handle")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        die_with_parent(&mut command, libc::SIGTERM);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a child")
    }

    /// Asks the group to end and waits; kills it when it has not ended after `grace`.
    pub(crate) fn stop(&mut self, grace: Duration) {
        let group = -i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(group, libc::SIGTERM);
            let deadline = Instant::now() + grace;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            signal(group, libc::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(3));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_command_that_can_be_pasted() {
        let command = Sh::new("cargo").arg("build").arg("it's").env("RUSTFLAGS", "-Ca=b -Cc=d");
        assert_eq!(command.to_string(), r"RUSTFLAGS='-Ca=b -Cc=d' cargo build 'it'\''s'");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = dir.path().join("log");
        let run = |script: &str, limit| Sh::new("sh").args(["-c", script]).run_within(limit, &log);
        let long = Duration::from_secs(60);
        assert!(run("exit 0", long).is_ok());
        let failed = run("echo first; echo last >&2; exit 3", long).expect_err("it fails");
        assert_eq!(failed.root_cause().to_string(), "last");
        assert!(failed.to_string().ends_with("failed: exit status: 3"), "{failed}");
        let failed =
            run("echo one; echo fatal: no route; echo fatal: gave up; echo two; exit 1", long).expect_err("it fails");
        assert_eq!(failed.root_cause().to_string(), "fatal: no route");
        let begun = Instant::now();
        let late = run("sleep 600", Duration::from_millis(50)).expect_err("it takes too long");
        assert_eq!(late.root_cause().to_string(), "it took longer than 0 s");
        assert!(begun.elapsed() < long);
    }

    #[test]
    fn a_background_child_and_its_children_end_with_the_guard() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = dir.path().join("log");
        // The shell's own child is the one that must not be left behind.
        let script = "sleep 600 & echo $!; wait";
        let guard = Sh::new("sh").args(["-c", script]).background(&log).expect("sh starts");
        let grandchild = loop {
            let text = std::fs::read_to_string(&log).expect("the log is readable");
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.parse::<i32>().expect("the shell prints a pid");
            }
            thread::yield_now();
        };
        drop(guard);
        let gone =
            |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone(grandchild) {
            assert!(Instant::now() < deadline, "process {grandchild} outlived its group");
            thread::yield_now();
        }
    }
}
