//! What a thread waits for, by the system call that it is in. `/proc/PID/task/TID/syscall` tells that and stops nobody; its
//! layout is in `proc(5)`.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use miku_probe_abi::OffReason;

use super::cause::Wait;
use crate::probes::event_loop::{InitialState, TurnKind};
use crate::samplers::python::Tid;
use crate::units::Tgid;

/// What a thread waits for now. A kernel that does not tell says nothing of anything.
pub(super) fn wait(tgid: Tgid, tid: Tid) -> Wait {
    let call = syscall(tgid, tid).and_then(|text| Call::parse(&text));
    call.map_or(Wait::Other, |call| call.wait(|fd| is_on_disk(tgid, fd)))
}

/// The state of a thread now, in the kernel side's terms; none when the thread has ended or `/proc` does not show its call.
pub(super) fn initial_state(tgid: Tgid, tid: Tid) -> Option<InitialState> {
    syscall(tgid, tid).map(|text| parse_state(&text))
}

fn syscall(tgid: Tgid, tid: Tid) -> Option<String> {
    fs::read_to_string(format!("/proc/{tgid}/task/{}/syscall", tid.0)).ok()
}

/// Maps the file `syscall` to a state, by the same rules as `event_loop.rs` on the kernel side. A thread that blocks outside of
/// any call waits for a page of its memory.
fn parse_state(text: &str) -> InitialState {
    let Some(call) = Call::parse(text) else {
        let kind = if text.starts_with('-') { TurnKind::Off(OffReason::Disk) } else { TurnKind::Runs };
        return InitialState::Iterating(kind);
    };
    let [first, second, ..] = call.arguments;
    #[cfg(target_arch = "x86_64")]
    let (epoll_wait, select, poll) = (libc::SYS_epoll_wait, libc::SYS_select, libc::SYS_poll);
    // Other architectures have only the newer calls.
    #[cfg(not(target_arch = "x86_64"))]
    let (epoll_wait, select, poll) = (libc::SYS_epoll_pwait, libc::SYS_pselect6, libc::SYS_ppoll);
    let number = call.number;
    if [epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2].contains(&number) {
        // The kernel takes a descriptor from the lower half of the register.
        return InitialState::Waiting((first & 0xffff_ffff) as u32);
    }
    let sleeps = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&number)
        || ([select, libc::SYS_pselect6].contains(&number) && first == 0)
        || ([poll, libc::SYS_ppoll].contains(&number) && second == 0);
    let locks = [libc::SYS_futex, libc::SYS_flock, libc::SYS_fcntl].contains(&number);
    InitialState::Iterating(TurnKind::Off(match (sleeps, locks) {
        (true, _) => OffReason::Sleep,
        (false, true) => OffReason::Lock,
        (false, false) => OffReason::Call,
    }))
}

/// Whether a descriptor is of a file or a disk, and not of a socket, a pipe or a terminal.
fn is_on_disk(tgid: Tgid, fd: u64) -> bool {
    // Followed through the link, so that it is the file that the process has open, wherever that is.
    fs::metadata(format!("/proc/{tgid}/fd/{fd}"))
        .is_ok_and(|of| of.is_file() || of.is_dir() || of.file_type().is_block_device())
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
        let [first, _, _, fourth] = self.arguments;
        // These there are on x86-64 only.
        #[cfg(target_arch = "x86_64")]
        if let libc::SYS_open
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_unlink
        | libc::SYS_rename
        | libc::SYS_mkdir
        | libc::SYS_rmdir
        | libc::SYS_getdents = self.number
        {
            return Wait::Disk;
        }
        match self.number {
            // Its fourth argument is the time after which it gives up.
            libc::SYS_futex if fourth != 0 => Wait::TimedLock,
            libc::SYS_futex | libc::SYS_flock | libc::SYS_fcntl => Wait::Lock,
            libc::SYS_fsync
            | libc::SYS_fdatasync
            | libc::SYS_sync
            | libc::SYS_syncfs
            | libc::SYS_sync_file_range
            | libc::SYS_msync
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
            | libc::SYS_copy_file_range
                if on_disk(first) =>
            {
                Wait::Disk
            }
            _ => Wait::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_waits_for_is_told_by_its_call() {
        let waits = |text: &str, on_disk: bool| Call::parse(text).map(|call| call.wait(|_| on_disk));
        let call =
            |number: libc::c_long, fourth: &str| format!("{number} 0x3 0x1 0x7ffe {fourth} 0x0 0x0 0x7ffd 0x7f12\n");
        assert_eq!(waits("running\n", false), None);
        assert_eq!(waits("-1 0x7ffd 0x7f12\n", false), None);
        assert_eq!(waits("", false), None);
        assert_eq!(waits(&call(libc::SYS_fsync, "0x0"), false), Some(Wait::Disk));
        assert_eq!(waits(&call(libc::SYS_read, "0x0"), true), Some(Wait::Disk));
        assert_eq!(waits(&call(libc::SYS_read, "0x0"), false), Some(Wait::Other));
        assert_eq!(waits(&call(libc::SYS_futex, "0x7ffd"), false), Some(Wait::TimedLock));
        assert_eq!(waits(&call(libc::SYS_futex, "0x0"), false), Some(Wait::Lock));
        assert_eq!(waits(&call(libc::SYS_flock, "0x0"), false), Some(Wait::Lock));
        assert_eq!(waits(&call(libc::SYS_recvfrom, "0x0"), false), Some(Wait::Other));
    }

    #[test]
    fn a_state_is_parsed_from_the_call() {
        let state = |number: libc::c_long, first: &str, second: &str| {
            parse_state(&format!("{number} {first} {second} 0x7ffe 0x0 0x0 0x0 0x7ffd 0x7f12\n"))
        };
        let off = |reason| InitialState::Iterating(TurnKind::Off(reason));
        assert_eq!(parse_state("running\n"), InitialState::Iterating(TurnKind::Runs));
        assert_eq!(parse_state("-1 0x7ffd 0x7f12\n"), off(OffReason::Disk));
        assert_eq!(state(libc::SYS_epoll_wait, "0x5", "0x7ffd"), InitialState::Waiting(5));
        assert_eq!(state(libc::SYS_epoll_pwait, "0xffffffff00000006", "0x7ffd"), InitialState::Waiting(6));
        assert_eq!(state(libc::SYS_epoll_pwait2, "0x7", "0x7ffd"), InitialState::Waiting(7));
        for number in [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_select, libc::SYS_pselect6] {
            assert_eq!(state(number, "0x0", "0x1"), off(OffReason::Sleep));
        }
        for number in [libc::SYS_poll, libc::SYS_ppoll] {
            assert_eq!(state(number, "0x7ffd", "0x0"), off(OffReason::Sleep));
        }
        for number in [libc::SYS_futex, libc::SYS_flock, libc::SYS_fcntl] {
            assert_eq!(state(number, "0x3", "0x1"), off(OffReason::Lock));
        }
        assert_eq!(state(libc::SYS_recvfrom, "0x3", "0x7ffd"), off(OffReason::Call));
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

    #[test]
    fn a_thread_that_is_gone_waits_for_nothing() {
        assert_eq!(wait(Tgid(std::process::id()), Tid(u32::MAX)), Wait::Other);
    }
}
