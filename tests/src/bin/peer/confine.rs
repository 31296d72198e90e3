//! Runs a program under a seccomp filter that kills it at the first system call it was not seen to need.
//!
//! Container runtimes have such filters, with longer lists. This one is as strict as can be: it holds what CPython's
//! interpreter, its `asyncio` and `ssl`, and the C library under them were seen to call, recorded with `strace -fc`.
//! Whatever a probe would have the target call for it is not among that.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

/// What to run.
#[derive(Args)]
pub(crate) struct Options {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The system calls that a Python bot makes, and those that other versions of its C library make in their place.
const CALLS: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls that younger architectures no longer have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut filter = filter()?;
    let length = libc::c_ushort::try_from(filter.len()).context("the filter's length")?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // What the filter kills is meant to die, and nobody looks at what is left of it.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) } != 0 {
        return Err(io::Error::last_os_error()).context("forbidding core dumps");
    }
    // SAFETY: the program points to `filter`, which is alive and of the length told; both calls change nothing but what
    // this process may do from now on.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if !installed {
        return Err(io::Error::last_os_error()).context("installing the filter");
    }
    let Some((program, arguments)) = options.command.split_first() else { bail!("nothing to run") };
    Err(Command::new(program).args(arguments).exec()).context("running it")
}

/// The filter as instructions of classic BPF.
fn filter() -> Result<Vec<libc::sock_filter>> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let give = |verdict| statement(libc::BPF_RET | libc::BPF_K, verdict);
    let unless = |value| {
        let mut jump = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)?;
        jump.jf = 1;
        Ok::<_, anyhow::Error>(jump)
    };
    let mut all = vec![load(ARCHITECTURE_AT)?];
    let mut foreign = unless(ARCHITECTURE)?;
    (foreign.jt, foreign.jf) = (1, 0);
    all.extend([foreign, give(libc::SECCOMP_RET_KILL_PROCESS)?, load(NUMBER)?]);
    for call in CALLS.iter().chain(OLD_CALLS) {
        all.extend([unless(u32::try_from(*call)?)?, give(libc::SECCOMP_RET_ALLOW)?]);
    }
    all.push(give(libc::SECCOMP_RET_KILL_PROCESS)?);
    Ok(all)
}

fn statement(code: u32, value: u32) -> Result<libc::sock_filter> {
    Ok(libc::sock_filter { code: u16::try_from(code)?, jt: 0, jf: 0, k: value })
}
