//! What the kernel says that a thread does: whether it runs, what it waits for, and how long it has run and waited to run.
//!
//! All of it is read from `/proc/PID/task/TID`, which stops nobody. Layouts: `proc(5)`, and `schedstat` as the kernel's
//! `Documentation/scheduler/sched-stats.rst` has it.

use std::fs;

use super::cause::{Sight, Wait};
use crate::samplers::python::Tid;
use crate::units::{Nanos, Tgid};

/// Looks at a thread; none when it has ended.
pub(super) fn sight(tgid: Tgid, tid: Tid) -> Option<Sight> {
    let folder = format!("/proc/{tgid}/task/{}", tid.0);
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    // Both may be refused, or left out of the kernel.
    let schedule = fs::read_to_string(format!("{folder}/schedstat")).ok();
    let (on_cpu, runnable) = schedule.as_deref().and_then(parse_schedule).unzip();
    let call = fs::read_to_string(format!("{folder}/syscall")).ok();
    let call = call.as_deref().and_then(Call::parse);
    let wait = match state {
        'R' => Wait::None,
        'D' => Wait::Disk,
        _ => call.map_or(Wait::Unknown, |call| call.wait(|fd| is_on_disk(tgid, fd))),
    };
    Some(Sight { time: Nanos::now(), on_cpu, runnable, wait })
}

fn parse_schedule(text: &str) -> Option<(Nanos, Nanos)> {
    let mut fields = text.split_whitespace().map(|field| field.parse().ok().map(Nanos));
    Some((fields.next()??, fields.next()??))
}

/// Whether a descriptor is of a file or a disk, and not of a socket, a pipe or a terminal.
fn is_on_disk(tgid: Tgid, fd: u64) -> bool {
    // No open file is behind what begins otherwise, such as `socket:[…]`.
    let file = || fs::read_link(format!("/proc/{tgid}/fd/{fd}")).is_ok_and(|target| target.starts_with("/"));
    let of_files = || {
        use std::os::unix::fs::FileTypeExt as _;
        // Followed through the link itself, so that it is the file that the process has open, wherever that is.
        fs::metadata(format!("/proc/{tgid}/fd/{fd}"))
            .is_ok_and(|of| of.is_file() || of.is_dir() || of.file_type().is_block_device())
    };
    file() && of_files()
}

/// The system call that a thread waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    number: i64,
    arguments: [u64; 4],
}

impl Call {
    /// None while the thread runs, or waits elsewhere.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        let number = fields.next()?.parse().ok().filter(|number| *number >= 0)?;
        let mut argument = || u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok();
        Some(Self { number, arguments: [argument()?, argument()?, argument()?, argument()?] })
    }

    fn wait(self, on_disk: impl Fn(u64) -> bool) -> Wait {
        let [first, second, _, fourth] = self.arguments;
        // Which of these there are differs by machine.
        #[cfg(target_arch = "x86_64")]
        match self.number {
            libc::SYS_poll => return if second == 0 { Wait::Sleep } else { Wait::Peer },
            libc::SYS_select => return if first == 0 { Wait::Sleep } else { Wait::Peer },
            libc::SYS_open | libc::SYS_stat | libc::SYS_unlink | libc::SYS_rename | libc::SYS_mkdir => {
                return Wait::Disk;
            }
            libc::SYS_epoll_wait => return Wait::Peer,
            _ => {}
        }
        match self.number {
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => Wait::Sleep,
            libc::SYS_pselect6 if first == 0 => Wait::Sleep,
            libc::SYS_ppoll if second == 0 => Wait::Sleep,
            // Its fourth argument is the time after which it gives up.
            libc::SYS_futex if fourth != 0 => Wait::TimedLock,
            libc::SYS_futex | libc::SYS_flock | libc::SYS_fcntl | libc::SYS_semop | libc::SYS_semtimedop => Wait::Lock,
            libc::SYS_fsync
            | libc::SYS_fdatasync
            | libc::SYS_sync
            | libc::SYS_syncfs
            | libc::SYS_sync_file_range
            | libc::SYS_msync
            | libc::SYS_openat
            | libc::SYS_newfstatat
            | libc::SYS_statx
            | libc::SYS_unlinkat
            | libc::SYS_renameat2
            | libc::SYS_getdents64
            | libc::SYS_ftruncate
            | libc::SYS_fallocate => Wait::Disk,
            libc::SYS_read
            | libc::SYS_write
            | libc::SYS_readv
            | libc::SYS_writev
            | libc::SYS_pread64
            | libc::SYS_pwrite64
            | libc::SYS_preadv
            | libc::SYS_pwritev
            | libc::SYS_preadv2
            | libc::SYS_pwritev2
            | libc::SYS_sendfile
            | libc::SYS_copy_file_range => {
                if on_disk(first) {
                    Wait::Disk
                } else {
                    Wait::Peer
                }
            }
            libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_connect
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_ppoll
            | libc::SYS_pselect6
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_wait4
            | libc::SYS_waitid => Wait::Peer,
            _ => Wait::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(text: &str, on_disk: bool) -> Option<Wait> {
        Call::parse(text).map(|call| call.wait(|_| on_disk))
    }

    #[test]
    fn what_a_thread_waits_for_is_told_by_its_call() {
        let rest = "0x1 0x7ffe 0x0 0x0 0x0 0x7ffd 0x7f12";
        assert_eq!(waits("running\n", false), None);
        assert_eq!(waits("-1 0x7ffd 0x7f12", false), None);
        let call = |number: libc::c_long| format!("{number} 0x0 {rest}");
        assert_eq!(waits(&call(libc::SYS_clock_nanosleep), false), Some(Wait::Sleep));
        assert_eq!(waits(&call(libc::SYS_pselect6), false), Some(Wait::Sleep), "time.sleep before CPython 3.11");
        assert_eq!(waits(&format!("{} 0x5 {rest}", libc::SYS_pselect6), false), Some(Wait::Peer));
        assert_eq!(waits(&call(libc::SYS_fsync), false), Some(Wait::Disk));
        assert_eq!(waits(&call(libc::SYS_futex), false), Some(Wait::Lock));
        let timed = format!("{} 0x5581 0x189 0x0 0x7ffd 0x0 0xffffffff 0x7ffd 0x7f12", libc::SYS_futex);
        assert_eq!(waits(&timed, false), Some(Wait::TimedLock), "as one waits for the interpreter's lock");
        assert_eq!(waits(&call(libc::SYS_flock), false), Some(Wait::Lock));
        assert_eq!(waits(&call(libc::SYS_read), true), Some(Wait::Disk));
        assert_eq!(waits(&call(libc::SYS_read), false), Some(Wait::Peer));
        assert_eq!(waits(&call(libc::SYS_wait4), false), Some(Wait::Peer));
        assert_eq!(waits(&call(libc::SYS_getpid), false), Some(Wait::Unknown));
    }

    #[test]
    fn this_thread_is_seen_running() {
        let own = std::process::id();
        let tid = fs::read_link("/proc/thread-self").expect("there is one");
        let tid = tid.file_name().and_then(|name| name.to_str()?.parse().ok()).expect("it ends in a number");
        let seen = sight(Tgid(own), Tid(tid)).expect("it lives");
        assert_eq!(seen.wait, Wait::None);
        assert!(seen.on_cpu.is_some_and(|time| time > Nanos(0)));
        assert_eq!(sight(Tgid(own), Tid(u32::MAX)), None);
    }

    #[test]
    fn files_are_told_from_pipes() {
        use std::os::fd::AsRawFd as _;
        let own = Tgid(std::process::id());
        let file = tempfile::tempfile().expect("a file");
        let fd = |fd: i32| u64::try_from(fd).expect("it is open");
        assert!(is_on_disk(own, fd(file.as_raw_fd())));
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        assert!(!is_on_disk(own, fd(reader.as_raw_fd())));
        assert!(!is_on_disk(own, 1 << 30));
    }
}
