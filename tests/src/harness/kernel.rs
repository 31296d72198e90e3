//! What the kernel allows, and what it holds for a process.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;

/// The part of `union bpf_attr` that loading a program reads; see `linux/bpf.h`.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are live for the call, their size is told, and both commands used here give a descriptor
    // that nobody else owns.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>());
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0);
        descriptor.map(|descriptor| OwnedFd::from_raw_fd(descriptor)).ok_or_else(io::Error::last_os_error)
    }
}

/// Whether this process may load BPF programs; the reason when it may not.
///
/// # Errors
/// When it is not root, or the kernel refuses.
pub fn allows_bpf() -> Result<(), String> {
    // SAFETY: geteuid cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Err("not root".into());
    }
    // r0 = 0; exit
    let program: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    let attributes = LoadAttributes {
        kind: BPF_PROG_TYPE_TRACEPOINT,
        instructions: 2,
        program: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
    };
    bpf(BPF_PROG_LOAD, &attributes).map(drop).map_err(|error| format!("the kernel refuses BPF: {error}"))
}

/// The ids of the BPF programs that a process holds descriptors of.
#[must_use]
pub fn program_ids(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Vec::new() };
    let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut ids: Vec<u32> = texts
        .flat_map(|text| {
            let id = |line: &str| line.strip_prefix("prog_id:")?.trim().parse().ok();
            text.lines().filter_map(id).collect::<Vec<u32>>()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether a BPF program is still loaded.
///
/// # Panics
/// When the kernel does not say so.
#[must_use]
pub fn program_exists(id: u32) -> bool {
    match bpf(BPF_PROG_GET_FD_BY_ID, &[id, 0, 0]) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => panic!("whether BPF program {id} is loaded cannot be told: {error}"),
    }
}

/// The processes that a process has started and that still run.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// How long the first thread of a process has run on a CPU.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let path = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let nanos = text.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_else(|| panic!("{path} is {text:?}")))
}

/// Bytes of memory that a process has resident.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// Those of them that are its own: no file's, and not the ring's, of which more is resident until it was filled once.
///
/// # Panics
/// When it is gone.
#[must_use]
pub fn own_bytes(pid: u32) -> u64 {
    status_bytes(pid, "RssAnon:")
}

fn status_bytes(pid: u32, name: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_else(|| panic!("no {name} in {path}: {status}")) * 1024
}
