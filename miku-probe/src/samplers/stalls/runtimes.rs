//! Recognises event loops by their runtime: by the interpreter or executable of a process, and by the Python functions on a
//! thread's stack. It works whatever the thread does at the moment, so also for a loop that is already stalled.

use std::path::Path;

use crate::discovery::candidates::is_python;
use crate::discovery::process::Process;
use crate::samplers::python::Frame;

/// The functions that run Python event loops, by the end of their file's path. Compiled loops such as uvloop's are called from
/// one of them.
const LOOP_FUNCTIONS: [(&str, &[&str]); 9] = [
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

/// The runtime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runtime {
    /// A Python interpreter.
    Python,
    /// Node: the first thread runs libuv's loop.
    Libuv,
    /// No runtime that is known here.
    Other,
}

impl Runtime {
    /// The runtime of a process, by its executable, its name and its mapped files.
    pub(super) fn of(process: &Process) -> Self {
        if process.exe().is_some_and(|exe| ["node", "nodejs"].contains(&exe.name())) {
            return Self::Libuv;
        }
        // A statically linked interpreter shows in the extension modules that it has loaded.
        let interpreter =
            |name: &[u8]| name.starts_with(b"libpython") || name.windows(MODULE.len()).any(|window| window == MODULE);
        if is_python(process, false) || process.maps_file(interpreter) { Self::Python } else { Self::Other }
    }
}

/// In the file names of CPython's extension modules.
const MODULE: &[u8] = b".cpython-";

/// Whether a thread with this Python stack runs an event loop.
pub(super) fn runs_loop(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| {
        // With its class, from CPython 3.11 on.
        let function = frame.function.rsplit('.').next().unwrap_or_default();
        LOOP_FUNCTIONS.iter().any(|(file, functions)| in_file(&frame.file, file) && functions.contains(&function))
    })
}

fn in_file(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|start| start.is_empty() || start.ends_with('/'))
}

/// Whether a thread with this Python stack is idle in its loop (`Some(true)`) or waits in another selector in the middle of an
/// iteration (`Some(false)`). `None` if it is in no selector of Python's.
pub(super) fn idle_in_selector(frames: &[Frame]) -> Option<bool> {
    let [selector, caller @ ..] = frames else { return None };
    let selects = in_file(&selector.file, "selectors.py") && selector.function.rsplit('.').next() == Some("select");
    selects.then(|| runs_loop(&caller[..caller.len().min(1)]))
}

/// The epoll descriptors that a process has opened itself. A process that was forked within a running loop inherits the
/// descriptor, and a stack that looks as if the loop ran in it.
pub(super) fn own_epoll_descriptors(process: &Process) -> Vec<u32> {
    let is_epoll = |target: &Path| target == Path::new("anon_inode:[eventpoll]");
    let epolls = process.descriptors().filter(|(_, target)| is_epoll(target)).map(|(fd, _)| fd);
    epolls.filter(|fd| !is_inherited(process, *fd)).collect()
}

/// Whether the parent has the same open file at the same descriptor. What cannot be compared counts as inherited.
fn is_inherited(process: &Process, fd: u32) -> bool {
    const KCMP_FILE: libc::c_int = 0; // linux/kcmp.h
    let (child, parent) = (process.tgid.0.cast_signed(), process.parent().0.cast_signed());
    // SAFETY: kcmp takes five numbers and touches no memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, child, parent, KCMP_FILE, u64::from(fd), u64::from(fd)) };
    // No such descriptor, or no such process: a parent in an outer PID namespace has the number 0.
    let absent = || [Some(libc::EBADF), Some(libc::ESRCH)].contains(&std::io::Error::last_os_error().raw_os_error());
    order == 0 || (order < 0 && !absent())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use crate::discovery::process::ProcFs;
    use crate::units::Tgid;

    #[test]
    fn a_runtime_is_known_by_executable_and_mapped_files() {
        let fixture = Fixture::new();
        let of = |exe: &str, maps: &str| {
            fixture.add(&Sketch { exe, maps, ..Sketch::new(10) });
            Runtime::of(&fixture.proc.process(Tgid(10)).expect("it is in the fixture"))
        };
        assert_eq!(of("/usr/bin/python3.11", ""), Runtime::Python);
        assert_eq!(of("/app/bot", "7f00-7f10 r-xp 0 0:1 5 /app/_internal/libpython3.12.so.1.0\n"), Runtime::Python);
        let module = "7f00-7f10 r-xp 0 0:1 5 /usr/lib/x/_ssl.cpython-311-x86_64-linux-gnu.so\n";
        assert_eq!(of("/usr/bin/uwsgi", module), Runtime::Python);
        assert_eq!(of("/usr/bin/node", module), Runtime::Libuv);
        assert_eq!(of("/usr/bin/node (deleted)", module), Runtime::Libuv, "it was upgraded meanwhile");
        assert_eq!(
            of("/usr/bin/cat", "7f00-7f10 r--p 0 0:1 5 /srv/python/libc.so.6\n7f20-7f30 rw-p 0 0:0 0 [heap]\n"),
            Runtime::Other
        );
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
    fn a_selector_is_idle_only_when_the_loop_calls_it() {
        let frame =
            |file: &str, function: &str| Frame { function: function.to_owned(), file: file.to_owned(), line: Some(1) };
        let select = frame("/usr/lib/python3.11/selectors.py", "EpollSelector.select");
        let once = frame("/usr/lib/python3.11/asyncio/base_events.py", "BaseEventLoop._run_once");
        let communicate = frame("/usr/lib/python3.11/subprocess.py", "Popen._communicate");
        assert_eq!(idle_in_selector(&[select.clone(), once.clone()]), Some(true));
        assert_eq!(idle_in_selector(&[select.clone(), communicate.clone(), once.clone()]), Some(false));
        assert_eq!(idle_in_selector(&[communicate, once]), None);
        assert_eq!(idle_in_selector(&[select]), Some(false));
        assert_eq!(idle_in_selector(&[]), None);
    }

    #[test]
    fn inherited_epoll_descriptors_are_not_the_child_s_own() {
        // SAFETY: the call makes a descriptor that is owned from here on.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(0)) };
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat is there");
        let process = ProcFs::default().process(Tgid(child.id())).expect("it runs");
        let fd = u32::try_from(epoll.as_raw_fd()).expect("it is open");
        let inherited = process.descriptors().any(|(of_child, _)| of_child == fd);
        let own = own_epoll_descriptors(&process);
        drop(child.stdin.take());
        child.wait().expect("it is ours");
        assert!(inherited && own.is_empty(), "{own:?}");
    }

    #[test]
    fn only_epoll_descriptors_are_listed() {
        let of_child = |epolls: usize| {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::null());
            // SAFETY: between fork and exec the closure only makes system calls, which are async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    (0..epolls).try_for_each(|_| match libc::epoll_create1(0) {
                        -1 => Err(std::io::Error::last_os_error()),
                        _ => Ok(()),
                    })
                });
            }
            let mut child = command.spawn().expect("every machine has cat");
            let process = ProcFs::default().process(Tgid(child.id())).expect("it runs");
            let epolls = own_epoll_descriptors(&process);
            let opened: Vec<u32> = process.descriptors().map(|(fd, _)| fd).filter(|fd| *fd > 2).collect();
            drop(child.stdin.take());
            child.wait().expect("it is ours");
            (epolls, opened)
        };
        assert_eq!(of_child(0).0, [0_u32; 0]);
        for count in [1, 2] {
            let (epolls, opened) = of_child(count);
            assert!(epolls.len() == count && epolls.iter().all(|fd| opened.contains(fd)), "{epolls:?} of {opened:?}");
        }
    }
}
