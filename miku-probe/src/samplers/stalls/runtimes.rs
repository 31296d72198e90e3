//! Which runtimes run event loops, and which threads run them: known from what a process has mapped and from the functions that
//! a thread is in, whatever it does at the moment.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use crate::samplers::python::Frame;
use crate::units::Tgid;

/// How much is read of what a process has mapped: of a large one the interpreter is among the first.
const MAPS_MAX: u64 = 1 << 20;

/// The functions within which Python's event loops turn, by the ends of their files' paths. What turns in compiled code, as
/// uvloop does, is called from one of them.
const TURNING: [(&str, &[&str]); 9] = [
    ("asyncio/base_events.py", &["_run_once", "run_forever", "run_until_complete"]),
    ("asyncio/runners.py", &["run"]),
    ("uvloop/__init__.py", &["run"]),
    ("trio/_core/_run.py", &["run", "unrolled_run"]),
    ("twisted/internet/base.py", &["run", "mainLoop"]),
    ("tornado/ioloop.py", &["start"]),
    ("tornado/platform/asyncio.py", &["start"]),
    ("curio/kernel.py", &["run"]),
    ("gevent/hub.py", &["run"]),
];

/// What a process is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// A Python interpreter is in it.
    Python,
    /// Its first thread runs libuv, as Node does.
    Libuv,
    /// Anything else.
    Other,
}

impl Program {
    /// That of a process, by its executable and what it has mapped. One that has ended is anything else.
    pub(super) fn of(tgid: Tgid) -> Self {
        let executable = fs::read_link(format!("/proc/{tgid}/exe")).unwrap_or_default();
        let mut maps = Vec::new();
        if let Ok(file) = File::open(format!("/proc/{tgid}/maps")) {
            // What could be read tells what it tells.
            let _cut: Result<usize, _> = file.take(MAPS_MAX).read_to_end(&mut maps);
        }
        Self::told(&executable, &String::from_utf8_lossy(&maps))
    }

    fn told(executable: &Path, maps: &str) -> Self {
        let name = executable.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "node" || name == "nodejs" {
            return Self::Libuv;
        }
        let mut files = maps.lines().filter_map(|line| line.split_once('/')?.1.rsplit('/').next());
        if name.starts_with("python") || files.any(|file| file.starts_with("libpython") || file.contains(".cpython-")) {
            return Self::Python;
        }
        Self::Other
    }
}

/// Whether a thread whose calls these are, innermost first, runs an event loop.
pub(super) fn runs_loop(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| {
        // With its class, from CPython 3.11 on.
        let function = frame.function.rsplit('.').next().unwrap_or_default();
        TURNING.iter().any(|(file, functions)| in_file(&frame.file, file) && functions.contains(&function))
    })
}

fn in_file(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('/'))
}

/// The epoll descriptor of a process that has only one.
pub(super) fn only_selector(tgid: Tgid) -> Option<u32> {
    let folder = fs::read_dir(format!("/proc/{tgid}/fd")).ok()?;
    let is_selector = |path: &Path| fs::read_link(path).is_ok_and(|link| link == Path::new("anon_inode:[eventpoll]"));
    let mut selectors = folder.filter_map(Result::ok).filter(|entry| is_selector(&entry.path()));
    let only = selectors.next()?.file_name().to_str()?.parse().ok()?;
    selectors.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_by_what_is_mapped() {
        let of = |executable: &str, maps: &str| Program::told(Path::new(executable), maps);
        assert_eq!(of("/usr/bin/python3.11", ""), Program::Python);
        assert_eq!(of("/app/bot", "7f00-7f10 r-xp 0 0:1 5 /app/_internal/libpython3.12.so.1.0\n"), Program::Python);
        let module = "7f00-7f10 r-xp 0 0:1 5 /usr/lib/x/_ssl.cpython-311-x86_64-linux-gnu.so\n";
        assert_eq!(of("/usr/bin/uwsgi", module), Program::Python);
        assert_eq!(of("/usr/bin/node", module), Program::Libuv);
        assert_eq!(
            of("/usr/bin/cat", "7f00-7f10 r--p 0 0:1 5 /srv/python/libc.so.6\n7f20-7f30 rw-p 0 0:0 0 [heap]\n"),
            Program::Other
        );
        assert_eq!(Program::of(Tgid(i32::MAX.cast_unsigned())), Program::Other, "there is none");
    }

    #[test]
    fn a_loop_is_known_by_the_functions_it_is_in() {
        let frame =
            |file: &str, function: &str| Frame { function: function.to_owned(), file: file.to_owned(), line: Some(1) };
        let asks = frame("/srv/bot.py", "asks_a_dead_server");
        let run = |file: &str, function: &str| {
            runs_loop(&[asks.clone(), frame(file, function), frame("/srv/bot.py", "<module>")])
        };
        assert!(run("/usr/lib/python3.11/asyncio/base_events.py", "BaseEventLoop._run_once"));
        assert!(run("/usr/lib/python3.9/asyncio/base_events.py", "run_forever"));
        assert!(run("asyncio/runners.py", "Runner.run"), "out of an archive");
        assert!(!run("/usr/lib/python3.11/asyncio/base_events.py", "_set_reuseport"));
        assert!(!run("/srv/myasyncio/runners.py", "run"));
        assert!(!run("/usr/lib/python3.11/subprocess.py", "run"));
        assert!(!runs_loop(&[]));
    }

    #[test]
    fn the_only_selector_of_a_process() {
        // SAFETY: the call makes a descriptor, which is closed below.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        // Other tests of this program have theirs.
        let only = only_selector(Tgid(std::process::id()));
        assert!(only.is_none_or(|only| only == fd.cast_unsigned()), "{only:?}");
        // SAFETY: nobody else knows the descriptor.
        assert_eq!(unsafe { libc::close(fd) }, 0);
    }
}
