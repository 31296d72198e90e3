//! Lives of processes: which are born to watched ones, become other programs, end, or begin to serve or to call.
//!
//! Hooks: `task:task_newtask` (it tells threads from processes, which `sched:sched_process_fork` does not),
//! `sched:sched_process_exec`, `sched:sched_process_exit`, `sock:inet_sock_set_state`. All are rare.

use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use miku_probe_abi::{FILTER_SLOTS, NO_LANE, ProcessRecord, RecordKind};

use crate::maps::{FILTER, Skip, TARGETS, Wake, count, current, header, maybe_watched, offsets, put, watched};

/// `CLONE_THREAD` of `linux/sched.h`.
const CLONE_THREAD: u64 = 0x1_0000;
/// `TCP_SYN_SENT` and `TCP_LISTEN` of `net/tcp_states.h`.
const TCP_SYN_SENT: i32 = 2;
const TCP_LISTEN: i32 = 10;
/// The one port that says something of a process before it is watched: TLS.
const HTTPS: u16 = 443;

#[tracepoint(category = "task", name = "task_newtask")]
pub(crate) fn task_newtask(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_newtask(&ctx);
    0
}

fn try_newtask(ctx: &TracePointContext) -> Result<(), Skip> {
    let (tgid, _) = current();
    if !maybe_watched(tgid) || !watched(tgid) {
        return Err(Skip);
    }
    let offsets = offsets();
    if read::<u64>(ctx, offsets.newtask_clone_flags)? & CLONE_THREAD != 0 {
        return Err(Skip);
    }
    let child = read::<u32>(ctx, offsets.newtask_pid)?;
    if TARGETS.insert(child, 0, 0).is_err() {
        count(NO_LANE, |counters| counters.targets_full += 1);
        return Err(Skip);
    }
    if let Some(slot) = FILTER.get_ptr_mut(child & (FILTER_SLOTS - 1)) {
        // SAFETY: the pointer is to a map value; every writer writes the same 1.
        unsafe { *slot = 1 };
    }
    tell(RecordKind::Fork, child, 0);
    Ok(())
}

#[tracepoint(category = "sched", name = "sched_process_exec")]
pub(crate) fn sched_process_exec(_ctx: TracePointContext) -> u32 {
    tell(RecordKind::Exec, 0, 0);
    0
}

#[tracepoint(category = "sched", name = "sched_process_exit")]
pub(crate) fn sched_process_exit(_ctx: TracePointContext) -> u32 {
    let (tgid, tid) = current();
    if tgid == tid && maybe_watched(tgid) && watched(tgid) {
        tell(RecordKind::Exit, 0, 0);
    }
    0
}

#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_set_state(&ctx);
    0
}

fn try_set_state(ctx: &TracePointContext) -> Result<(), Skip> {
    let offsets = offsets();
    // Both states are entered by the process itself, in `listen` and in `connect`; the others may be entered by anybody.
    match read::<i32>(ctx, offsets.set_state_newstate)? {
        TCP_LISTEN => tell(RecordKind::Listen, 0, read(ctx, offsets.set_state_sport)?),
        TCP_SYN_SENT if read::<u16>(ctx, offsets.set_state_dport)? == HTTPS => tell(RecordKind::Dial, 0, HTTPS),
        _ => {}
    }
    Ok(())
}

fn tell(kind: RecordKind, child: u32, port: u16) {
    let header = header(kind, size_of::<ProcessRecord>());
    put(NO_LANE, kind, Wake::Now, &ProcessRecord { header, child, port, padding: 0 });
}

#[inline(always)]
fn read<T>(ctx: &TracePointContext, offset: u32) -> Result<T, Skip> {
    // SAFETY: the helper checks the address itself; the offset is of a field that the kernel's format file names.
    unsafe { ctx.read_at(offset as usize) }.map_err(|_| Skip)
}
