//! Programs that measure rather than observe: empty ones, and the same small job done by each way of hooking system
//! calls that was weighed against the one in `socket.rs`.
//!
//! The job: filter by process, then add what a call moved to the count of its (process, descriptor).
#![no_std]
#![no_main]

mod object;
mod registers;

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::{btf_tracepoint, fentry, map, raw_tracepoint, tracepoint, uprobe};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext, RawTracePointContext, TracePointContext};
use miku_probe_abi::{ConnectionKey, FILTER_SLOTS};

use crate::registers::{Registers, SavedRegisters};

/// Not 0 where a watched process may be, as in `maps.rs`.
#[map]
static FILTER: Array<u64> = Array::with_max_entries(FILTER_SLOTS, 0);

/// Bytes by process and descriptor.
#[map]
static BYTES: HashMap<ConnectionKey, u64> = HashMap::with_max_entries(1024, 0);

/// Descriptors of calls that have begun, by thread: what a pair of programs must keep between entry and exit.
#[map]
static PENDING: HashMap<u64, i32> = HashMap::with_max_entries(8192, 0);

/// Calls that returned: to processes that are not watched, and to those that are.
#[map]
static CALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Where a tracepoint of an entry keeps its first argument, and one of an exit its result: behind the eight common
/// bytes and the call's number (`syscalls/sys_enter_read/format`).
const FIELD_OFFSET: usize = 16;

/// Calls that move bytes, by their numbers of x86-64: read, write, readv, writev, sendfile, sendto, recvfrom, sendmsg,
/// recvmsg.
#[inline(always)]
fn moves(number: u64) -> bool {
    matches!(number, 0 | 1 | 19 | 20 | 40 | 44..=47)
}

/// Process and thread, if the process is watched.
#[inline(always)]
fn watched() -> Option<u64> {
    let both = bpf_get_current_pid_tgid();
    let tgid = (both >> 32) as u32;
    (*FILTER.get(tgid & (FILTER_SLOTS - 1))? != 0).then_some(both)
}

#[inline(always)]
fn add(both: u64, fd: i32, bytes: i64) -> Option<()> {
    let key = ConnectionKey { tgid: (both >> 32) as u32, fd };
    if let Some(sum) = BYTES.get_ptr_mut(key) {
        // SAFETY: the pointer is to a value of a preallocated map; a count that another processor overwrites is no loss.
        unsafe { *sum += bytes as u64 };
        return Some(());
    }
    BYTES.insert(key, bytes as u64, 0).ok()
}

#[inline(always)]
fn read_registers(address: u64) -> Option<Registers> {
    let mut registers = core::mem::MaybeUninit::<Registers>::uninit();
    let from = address + core::mem::offset_of!(SavedRegisters, call) as u64;
    // SAFETY: the destination is as large as the size says; the helper checks the source itself.
    let result = unsafe {
        bpf_probe_read_kernel(
            registers.as_mut_ptr().cast::<c_void>(),
            size_of::<Registers>() as u32,
            from as *const c_void,
        )
    };
    // SAFETY: on success the helper has written all of it.
    (result == 0).then(|| unsafe { registers.assume_init() })
}

#[inline(always)]
fn field(ctx: &TracePointContext) -> Option<i64> {
    // SAFETY: the helper checks the address itself.
    unsafe { ctx.read_at::<i64>(FIELD_OFFSET) }.ok()
}

/// An empty raw tracepoint, for `sys_enter` and `sys_exit`.
#[raw_tracepoint]
pub(crate) fn empty_raw(_ctx: RawTracePointContext) -> i32 {
    0
}

/// An empty tracepoint, for any.
#[tracepoint]
pub(crate) fn empty_tracepoint(_ctx: TracePointContext) -> u32 {
    0
}

/// An empty raw tracepoint with type information.
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn empty_btf(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// The same for switches of threads: a program is loaded for one tracepoint.
#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn empty_btf_switch(_ctx: BtfTracePointContext) -> i32 {
    0
}

/// An empty program on a function's entry, which some kernels refuse.
#[fentry(function = "do_epoll_wait")]
pub(crate) fn empty_fentry(_ctx: FEntryContext) -> i32 {
    0
}

/// An empty program on an instruction of a library, or on a function's return.
#[uprobe]
pub(crate) fn empty_uprobe(_ctx: ProbeContext) -> u32 {
    0
}

/// The job with one raw tracepoint, on the exit, that finds the arguments in the saved registers.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub(crate) fn raw_exit(ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = try_raw_exit(&ctx);
    0
}

#[inline(always)]
fn try_raw_exit(ctx: &RawTracePointContext) -> Option<()> {
    let both = watched()?;
    let result: i64 = ctx.arg(1);
    if result <= 0 {
        return None;
    }
    let registers = read_registers(ctx.arg(0))?;
    if !moves(registers.orig_ax) {
        return None;
    }
    add(both, registers.di as i32, result)
}

/// The same with type information, so that the registers are loaded without a helper.
#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn btf_exit(ctx: BtfTracePointContext) -> i32 {
    let _: Option<()> = try_btf_exit(&ctx);
    0
}

#[inline(always)]
fn try_btf_exit(ctx: &BtfTracePointContext) -> Option<()> {
    let both = watched()?;
    let result: i64 = ctx.arg(1);
    if result <= 0 {
        return None;
    }
    // SAFETY: the kernel passes the task's saved registers, and the verifier holds the loads to that type.
    let registers = unsafe { SavedRegisters::load(ctx.arg(0)) };
    if !moves(registers.orig_ax) {
        return None;
    }
    add(both, registers.di as i32, result)
}

/// The job with a pair of raw tracepoints: this one keeps the descriptor for the other.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn raw_pair_enter(ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = try_raw_pair_enter(&ctx);
    0
}

#[inline(always)]
fn try_raw_pair_enter(ctx: &RawTracePointContext) -> Option<()> {
    let both = watched()?;
    if !moves(ctx.arg(1)) {
        return None;
    }
    let registers = read_registers(ctx.arg(0))?;
    PENDING.insert(both, registers.di as i32, 0).ok()
}

/// The pair's exit.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub(crate) fn raw_pair_exit(ctx: RawTracePointContext) -> i32 {
    let _: Option<()> = finish(ctx.arg(1));
    0
}

/// The job with a pair of tracepoints for each system call of interest.
#[tracepoint]
pub(crate) fn tracepoint_enter(ctx: TracePointContext) -> u32 {
    let _: Option<()> = try_tracepoint_enter(&ctx);
    0
}

#[inline(always)]
fn try_tracepoint_enter(ctx: &TracePointContext) -> Option<()> {
    let both = watched()?;
    PENDING.insert(both, field(ctx)? as i32, 0).ok()
}

/// The pairs' exit.
#[tracepoint]
pub(crate) fn tracepoint_exit(ctx: TracePointContext) -> u32 {
    let _: Option<()> = field(&ctx).and_then(finish);
    0
}

#[inline(always)]
fn finish(result: i64) -> Option<()> {
    let both = watched()?;
    // SAFETY: only the thread itself, which is here, changes its entry.
    let fd = *unsafe { PENDING.get(both) }?;
    PENDING.remove(both).ok()?;
    if result <= 0 {
        return None;
    }
    add(both, fd, result)
}

/// Counts calls, so that what others measure can be told a call.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub(crate) fn count_calls(_ctx: RawTracePointContext) -> i32 {
    let place = u32::from(watched().is_some());
    if let Some(calls) = CALLS.get_ptr_mut(place) {
        // SAFETY: the pointer is to this processor's own value, and nothing else runs on it meanwhile.
        unsafe { *calls += 1 };
    }
    0
}

/// What a close would cost by the raw entry of all calls, instead of a tracepoint of its own.
#[raw_tracepoint(tracepoint = "sys_enter")]
pub(crate) fn raw_close(ctx: RawTracePointContext) -> i32 {
    const CLOSE: u64 = 3;
    let _: Option<()> = watched().filter(|_| ctx.arg::<u64>(1) == CLOSE).and_then(|both| {
        let registers = read_registers(ctx.arg(0))?;
        BYTES.remove(ConnectionKey { tgid: (both >> 32) as u32, fd: registers.di as i32 }).ok()
    });
    0
}
