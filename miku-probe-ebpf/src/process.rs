//! Lives of processes: which are born to watched ones, become other programs, end, or begin to serve or to call.
//!
//! Hooks: `task:task_newtask` (it tells threads from processes, which `sched:sched_process_fork` does not),
//! `sched:sched_process_exec`, `sched:sched_process_exit`, `oom:mark_victim`, `sock:inet_sock_set_state`, the last in
//! either of its forms: it alone meets other programs, in interrupts. All are rare.

use aya_ebpf::helpers::bpf_get_current_task;
use aya_ebpf::macros::{raw_tracepoint, tracepoint};
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use miku_probe_abi::{
    EXIT_OOM_VICTIM, EXIT_STATUS_KNOWN, ExitRecord, FILTER_SLOTS, FILTER_WATCHED, ProcessRecord, RecordKind,
    TARGET_OOM_VICTIM,
};

use crate::maps::{
    FILTER, Skip, TARGETS, Wake, count, current, field, header, maybe_watched, offsets, put, task_offsets, watched,
};
use crate::memory::read_kernel;
use crate::state::{Change, states};

/// `CLONE_THREAD` of `linux/sched.h`.
const CLONE_THREAD: u64 = 0x1_0000;
/// The one port that says something of a process before it is watched: TLS.
const HTTPS: u16 = 443;
/// `SIGNAL_GROUP_EXIT` of `linux/sched/signal.h`: all threads end together, with one status.
const SIGNAL_GROUP_EXIT: u32 = 4;

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
    if field::<u64>(ctx, offsets.newtask_clone_flags)? & CLONE_THREAD != 0 {
        return Err(Skip);
    }
    let child = field::<u32>(ctx, offsets.newtask_pid)?;
    if TARGETS.insert(child, 0, 0).is_err() {
        count(|counters| counters.targets_full += 1);
        return Err(Skip);
    }
    if let Some(slot) = FILTER.get_ptr_mut(child & (FILTER_SLOTS - 1)) {
        // SAFETY: the pointer is to a map value, in which this is only ever set.
        unsafe { *slot |= FILTER_WATCHED };
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
    let _: Result<(), Skip> = try_exit();
    0
}

fn try_exit() -> Result<(), Skip> {
    let (tgid, tid) = current();
    if !maybe_watched(tgid) {
        return Err(Skip);
    }
    let target = TARGETS.get_ptr(tgid).ok_or(Skip)?;
    let mut flags = 0;
    // SAFETY: the pointer is to a value of a preallocated map; only flags are ever set in it.
    if unsafe { *target } & TARGET_OOM_VICTIM != 0 {
        flags |= EXIT_OOM_VICTIM;
    }
    let mut status = 0;
    if task_offsets().known == 0 {
        if tgid != tid {
            return Err(Skip);
        }
    } else {
        let Some(known) = exit_status()? else { return Err(Skip) };
        status = known;
        flags |= EXIT_STATUS_KNOWN;
    }
    let header = header(RecordKind::Exit, size_of::<ExitRecord>());
    put(RecordKind::Exit, Wake::Now, &ExitRecord { header, status, flags });
    Ok(())
}

/// What the parent will be told, once no thread of the running process is left. Two that end at once may both be the last:
/// user space takes the first.
fn exit_status() -> Result<Option<u32>, Skip> {
    let at = task_offsets();
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let signal: u64 = read_kernel(task + u64::from(at.signal))?;
    if read_kernel::<i32>(signal + u64::from(at.live))? > 0 {
        return Ok(None);
    }
    // As `wait_task_zombie` in the kernel's `kernel/exit.c` concludes it.
    if read_kernel::<u32>(signal + u64::from(at.flags))? & SIGNAL_GROUP_EXIT != 0 {
        return read_kernel(signal + u64::from(at.group_exit_code)).map(Some);
    }
    let leader: u64 = read_kernel(task + u64::from(at.group_leader))?;
    read_kernel(leader + u64::from(at.exit_code)).map(Some)
}

#[tracepoint(category = "oom", name = "mark_victim")]
pub(crate) fn mark_victim(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_mark_victim(&ctx);
    0
}

/// Notes it for the victim's end, which tells whether it came of that: it runs in whoever wanted memory.
fn try_mark_victim(ctx: &TracePointContext) -> Result<(), Skip> {
    let victim = field::<u32>(ctx, offsets().mark_victim_pid)?;
    if !maybe_watched(victim) {
        return Err(Skip);
    }
    let target = TARGETS.get_ptr_mut(victim).ok_or(Skip)?;
    // SAFETY: the pointer is to a value of a preallocated map; every writer writes the same flag.
    unsafe { *target |= TARGET_OOM_VICTIM };
    Ok(())
}

#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = Change::of_event(&ctx).and_then(|change| try_set_state(&change));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_set_state(&Change::of_arguments(&ctx));
    0
}

#[inline(always)]
fn try_set_state(change: &Change) -> Result<(), Skip> {
    // Both states are entered by the process itself, in `listen` and in `connect`; the others may be entered by anybody.
    match change.now {
        states::LISTEN => tell(RecordKind::Listen, 0, change.port()?),
        states::SYN_SENT if change.peer_port()? == HTTPS => tell(RecordKind::Dial, 0, HTTPS),
        _ => {}
    }
    Ok(())
}

fn tell(kind: RecordKind, child: u32, port: u16) {
    let header = header(kind, size_of::<ProcessRecord>());
    put(kind, Wake::Now, &ProcessRecord { header, child, port, padding: 0 });
}
