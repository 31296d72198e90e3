//! What is told of the processes of a service: what they use, and how they come and go.

use std::borrow::Cow;
use std::fmt;

use crate::units::{Nanos, Tgid};

/// Something of a process, or of all of a service's.
#[derive(Clone, Debug, PartialEq)]
pub enum ProcessNews {
    /// What a look at it found.
    Vitals(Box<Vitals>),
    /// It is watched no more: what was told of it is so no longer.
    Gone {
        /// Which.
        tgid: Tgid,
    },
    /// The service has a process, so that starts and ends are counted from now on.
    Counted,
    /// A process of the service began.
    Started,
    /// A process of the service ended, or became another program.
    Ended {
        /// When.
        time: Nanos,
        /// How.
        end: ProcessEnd,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProcessEnd {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
    /// The kernel killed it for want of memory.
    OomKill,
    /// It goes on as a program that is none of the service's.
    OtherProgram,
    /// Nobody saw how.
    Unknown,
}

impl ProcessEnd {
    /// The end that a status tells of, as `wait(2)` gives it.
    #[must_use]
    pub const fn from_status(status: u32) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "both are masked to seven and eight bits")]
        match ((status & 0x7f) as u8, (status >> 8 & 0xff) as u8) {
            (0, code) => Self::Code(code),
            (signal, _) => Self::Signal(signal),
        }
    }

    /// The label `reason`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Code(_) => "exit",
            Self::Signal(_) => "signal",
            Self::OomKill => "oom_kill",
            Self::OtherProgram => "exec",
            Self::Unknown => "unknown",
        }
    }

    /// The label `code`: a number or a signal's name; empty where there is neither.
    #[must_use]
    pub fn code(self) -> Cow<'static, str> {
        match self {
            Self::Code(code) => code.to_string().into(),
            Self::Signal(signal) => signal_name(signal),
            Self::OomKill => signal_name(9),
            Self::OtherProgram | Self::Unknown => "".into(),
        }
    }
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "exited with code {code}"),
            Self::Signal(_) => write!(formatter, "was killed by {}", self.code()),
            Self::OomKill => formatter.write_str("was killed by the kernel for want of memory"),
            Self::OtherProgram => formatter.write_str("became another program"),
            Self::Unknown => formatter.write_str("ended"),
        }
    }
}

/// A signal's name, as `signal(7)` has it for x86-64.
fn signal_name(signal: u8) -> Cow<'static, str> {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    match NAMES.get(usize::from(signal).wrapping_sub(1)) {
        Some(name) => (*name).into(),
        None => format!("SIG{signal}").into(),
    }
}

/// What one look at a process found; what could not be read is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Vitals {
    /// Which process.
    pub tgid: Tgid,
    /// When it was looked at.
    pub time: Nanos,
    /// When it began, in seconds of Unix time.
    pub start: Option<f64>,
    /// Its memory.
    pub memory: Memory,
    /// Threads that it has.
    pub threads: Option<u64>,
    /// Descriptors that it has open.
    pub open_fds: Option<u64>,
    /// Descriptors that it may have open; absent when there is no limit.
    pub max_fds: Option<u64>,
    /// Time on a processor, of all its threads, past ones too.
    pub cpu: Option<CpuTime>,
    /// How often its threads gave the processor up, and were taken off it.
    pub switches: Option<Switches>,
    /// How often memory had to be brought in: without the disk, and from it.
    pub faults: Option<Faults>,
    /// What it made the disks do.
    pub io: Option<DiskBytes>,
    /// What becomes of its resident memory.
    pub growth: Option<Growth>,
    /// What its control group allows and suffers.
    pub cgroup: Option<Cgroup>,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In memory now, shared pages included.
    pub resident: Option<u64>,
    /// Addresses that are mapped.
    pub virtual_size: Option<u64>,
    /// Of the resident, pages of files and of shared memory.
    pub shared: Option<u64>,
    /// Swapped out.
    pub swap: Option<u64>,
}

/// Time on a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// In its own code.
    pub user: Nanos,
    /// In the kernel.
    pub system: Nanos,
}

/// Context switches of a process's threads since they began or were first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches {
    /// Because a thread waited.
    pub voluntary: u64,
    /// Because it was somebody else's turn.
    pub involuntary: u64,
}

/// Page faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Without the disk.
    pub minor: u64,
    /// With it.
    pub major: u64,
}

/// Bytes that were fetched from and sent to storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskBytes {
    /// Fetched.
    pub read: u64,
    /// Sent, or to be sent.
    pub write: u64,
}

/// How resident memory changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The slope, in bytes an hour; negative when it shrinks.
    pub bytes_per_hour: f64,
    /// Since when it grows, in the monotonic clock; absent when what it does is no growth.
    pub since: Option<Nanos>,
}

/// What the control group of a process allows and suffers. Limits are the tightest of it and those above it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// Its memory, where a limit is set on it or above it.
    pub memory: Option<CgroupMemory>,
    /// How many processors' time it may take.
    pub cpu_limit: Option<f64>,
    /// Time for which it was kept off the processors by that limit.
    pub cpu_throttled: Option<Nanos>,
    /// Time that was lost waiting: for processors, memory and I/O.
    pub pressure: [Option<Pressure>; Resource::ALL.len()],
}

/// Memory of a control group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMemory {
    /// What it may have.
    pub limit: u64,
    /// What the group with that limit has.
    pub usage: u64,
    /// Of that, what the kernel cannot simply drop: all but files that nobody used lately.
    pub working_set: u64,
}

/// What a control group may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A processor.
    Cpu,
    /// Memory.
    Memory,
    /// Storage.
    Io,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Io];

    /// The label value, and the name of the kernel's file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// Time lost waiting for a resource (the kernel's `Documentation/accounting/psi.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// In which at least one task waited.
    pub some: Nanos,
    /// In which all tasks waited; absent where the kernel does not tell.
    pub full: Option<Nanos>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_what_the_library_takes_it_for() {
        for status in 0..=0xffff_u32 {
            let raw = i32::try_from(status).expect("it is small");
            let expected = if libc::WIFEXITED(raw) {
                ProcessEnd::Code(u8::try_from(libc::WEXITSTATUS(raw)).expect("it is a byte"))
            } else if libc::WIFSIGNALED(raw) {
                ProcessEnd::Signal(u8::try_from(libc::WTERMSIG(raw)).expect("it is a byte"))
            } else {
                // Stopped or going on: the kernel gives no such status of an end.
                continue;
            };
            assert_eq!(ProcessEnd::from_status(status), expected, "{status:#x}");
        }
    }

    #[test]
    fn signals_have_the_library_s_numbers() {
        for (signal, name) in [
            (libc::SIGHUP, "SIGHUP"),
            (libc::SIGKILL, "SIGKILL"),
            (libc::SIGSEGV, "SIGSEGV"),
            (libc::SIGTERM, "SIGTERM"),
            (libc::SIGSTKFLT, "SIGSTKFLT"),
            (libc::SIGXCPU, "SIGXCPU"),
            (libc::SIGSYS, "SIGSYS"),
            (34, "SIG34"),
        ] {
            assert_eq!(signal_name(u8::try_from(signal).expect("it is small")), name);
        }
        assert_eq!(ProcessEnd::OomKill.code(), "SIGKILL");
    }
}
