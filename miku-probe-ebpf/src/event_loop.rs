//! Turns of event loops: when a thread waits in its selector and when it works, and why it does not run while it should.
//!
//! Hooks: `syscalls:sys_enter_*` of the calls that wait (`epoll_wait`, `epoll_pwait`, `epoll_pwait2`, `poll`, `ppoll`,
//! `select`, `pselect6`), and `sched:sched_switch`. A turn ends where a wait is asked for. Where a wait that blocks ends is
//! told by the thread's being put on a processor, some microseconds before the call returns; one that does not block ends
//! where it begins. So no call's return is hooked.
//!
//! A thread's loop is the selector that it waits in again and again. Waits in others, such as for a single socket in the
//! midst of a turn, are part of the turn.
//!
//! Of a process of which that is wanted, each wait for whatever comes is told by a record too: then all that was to be done
//! because of what had come is done. Waits that only look what has come meanwhile are not.
//!
//! The second is there in its raw form too, with types, for kernels where that runs with preemption off, as ordinary
//! tracepoints always do: `socket/by_socket.rs` says what is better about it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_tracepoint, map, tracepoint};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use miku_probe_abi::{
    FILTER_SLOTS, FILTER_TURNS, LOOP_MOVES, LOOP_OFF, LOOP_RUNS, LOOP_WAITS, LoopThread, OFF_REASONS, OffReason,
    RecordHeader, RecordKind, SwitchEvent, TARGET_TURNS, TURN_BOUNDS, WaitEvent,
};

use crate::maps::{Skip, Wake, count, current, field, filter, header, is_told, put, switch_offsets, watched};
use crate::memory::{read_kernel, read_user, task_registers};
use crate::registers::{Registers, SavedRegisters};

/// Threads of watched processes that wait in selectors, by their number.
#[map]
static LOOPS: HashMap<u32, LoopThread> = HashMap::with_max_entries(4096, 0);

/// Not 0 where such a thread may be: a slot is shared by all numbers with the same low bits. It tells most threads of the
/// machine that they are none.
#[map]
static LOOP_FILTER: Array<u64> = Array::with_max_entries(FILTER_SLOTS, 0);

/// After so many waits in another selector, with none in its own between, that one is the thread's loop.
const STRANGE_MAX: u32 = 16;

/// System call numbers of x86-64 (`asm/unistd_64.h`).
mod number {
    pub(super) const POLL: u64 = 7;
    pub(super) const SELECT: u64 = 23;
    pub(super) const NANOSLEEP: u64 = 35;
    pub(super) const CLONE: u64 = 56;
    pub(super) const VFORK: u64 = 58;
    pub(super) const FCNTL: u64 = 72;
    pub(super) const FLOCK: u64 = 73;
    pub(super) const FUTEX: u64 = 202;
    pub(super) const CLOCK_NANOSLEEP: u64 = 230;
    pub(super) const EPOLL_WAIT: u64 = 232;
    pub(super) const PSELECT6: u64 = 270;
    pub(super) const PPOLL: u64 = 271;
    pub(super) const EPOLL_PWAIT: u64 = 281;
    pub(super) const CLONE3: u64 = 435;
    pub(super) const EPOLL_PWAIT2: u64 = 441;
    pub(super) const FUTEX_WAITV: u64 = 449;
    pub(super) const FUTEX_WAIT: u64 = 455;
}

/// `TASK_REPORT` of `linux/sched.h`: all ways in which a thread may be stopped or asleep. In none of them, it could run.
const STATES: u64 = 0xff;
/// `TASK_INTERRUPTIBLE` and `TASK_UNINTERRUPTIBLE` among them.
const INTERRUPTIBLE: u64 = 1;
const UNINTERRUPTIBLE: u64 = 2;

/// What stands for the selectors without a descriptor; those of epoll are below.
const BY_POLL: u64 = 1 << 32;
const BY_SELECT: u64 = 2 << 32;

/// The selector that a call waits in, if it is one that an event loop waits in: a single descriptor is polled by whoever
/// waits for it alone, and none by whoever only sleeps.
#[inline(always)]
fn selector(call: u64, first: u64, second: u64) -> Option<u64> {
    match call {
        number::EPOLL_WAIT | number::EPOLL_PWAIT | number::EPOLL_PWAIT2 => Some(first & 0xffff_ffff),
        number::POLL | number::PPOLL if second > 1 => Some(BY_POLL),
        number::SELECT | number::PSELECT6 if first != 0 => Some(BY_SELECT),
        _ => None,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn may_loop(tid: u32) -> bool {
    LOOP_FILTER.get(tid & (FILTER_SLOTS - 1)).is_some_and(|slot| *slot != 0)
}

#[tracepoint(category = "syscalls", name = "sys_enter_epoll_wait")]
pub(crate) fn selector_wait(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_wait(&ctx);
    0
}

#[inline(always)]
fn try_wait(ctx: &TracePointContext) -> Result<(), Skip> {
    let (tgid, tid) = current();
    let filter = filter(tgid);
    if filter == 0 {
        return Err(Skip);
    }
    let event = ctx.as_ptr() as *const WaitEvent;
    // SAFETY: a tracepoint's context holds its fields, which user space has found where the layout says.
    let (call, first, second) = unsafe {
        (
            (&raw const (*event).call).read_volatile(),
            (&raw const (*event).first).read_volatile(),
            (&raw const (*event).second).read_volatile(),
        )
    };
    let selector = selector(u64::from(call), first, second).ok_or(Skip)?;
    let now = now();
    let Some(thread) = LOOPS.get_ptr_mut(tid) else { return appear(tgid, tid, selector, now) };
    // SAFETY: the pointer is to a value of a preallocated map, which only the programs that see this thread write.
    let thread = unsafe { &mut *thread };
    if thread.tgid != tgid {
        // Its number was another's before.
        return appear(tgid, tid, selector, now);
    }
    if thread.selector != selector {
        // A loop on epoll is none on anything else; two of a kind change when the thread waits in one only.
        let strange = thread.strange + 1;
        thread.strange = strange;
        let better = selector < BY_POLL && thread.selector >= BY_POLL;
        let worse = selector >= BY_POLL && thread.selector < BY_POLL;
        if worse || (!better && strange < STRANGE_MAX) {
            return Err(Skip);
        }
        thread.selector = selector;
    }
    thread.strange = 0;
    let began = thread.turn_since;
    thread.idle_ns += began - thread.wait_since;
    let busy = now - began;
    thread.busy_ns += busy;
    for reason in 0..OFF_REASONS {
        thread.off_ns[reason] += thread.turn_off[reason];
        thread.turn_off[reason] = 0;
    }
    let bucket = bucket(busy);
    thread.turns[bucket] += 1;
    thread.wait_since = now;
    thread.turn_since = now;
    if filter & FILTER_TURNS != 0 {
        return tell_wait(ctx, tgid, u64::from(call));
    }
    Ok(())
}

/// A loop waits: tells it where that is wanted, and where it waits for whatever comes. With something left to do it only looks
/// what has come meanwhile.
#[inline(never)]
fn tell_wait(ctx: &TracePointContext, tgid: u32, call: u64) -> Result<(), Skip> {
    /// Where a call's arguments begin among the tracepoint's fields.
    const ARGUMENTS: u32 = core::mem::offset_of!(WaitEvent, first) as u32;
    if !is_told(tgid, TARGET_TURNS) {
        return Err(Skip);
    }
    let place = match call {
        number::POLL | number::PPOLL => 2,
        number::SELECT | number::PSELECT6 => 4,
        _ => 3,
    };
    let limit: u64 = field(ctx, ARGUMENTS + 8 * place)?;
    let waits = match call {
        number::POLL | number::EPOLL_WAIT | number::EPOLL_PWAIT => limit as i32 != 0,
        // A `struct timespec` or `struct timeval`, or nothing, which is forever.
        _ => limit == 0 || read_user::<[u64; 2]>(limit)? != [0, 0],
    };
    if waits {
        put(RecordKind::Waits, Wake::Late, &header(RecordKind::Waits, size_of::<RecordHeader>()));
    }
    Ok(())
}

/// The bucket of a turn.
#[inline(always)]
fn bucket(busy: u64) -> usize {
    let mut bucket = 0;
    for bound in TURN_BOUNDS {
        bucket += usize::from(busy > bound);
    }
    // For the verifier, which does not add up.
    bucket & 15
}

/// A thread waits for the first time.
#[inline(never)]
fn appear(tgid: u32, tid: u32, selector: u64, now: u64) -> Result<(), Skip> {
    if !watched(tgid) {
        return Err(Skip);
    }
    if LOOPS.insert(tid, LoopThread::new(tgid, selector, now), 0).is_err() {
        count(|counters| counters.table_full += 1);
        return Err(Skip);
    }
    let slot = LOOP_FILTER.get_ptr_mut(tid & (FILTER_SLOTS - 1)).ok_or(Skip)?;
    // SAFETY: the pointer is to a map value; every writer writes the same 1.
    unsafe { *slot = 1 };
    Ok(())
}

/// The running thread used a socket of a stream that nobody had used before.
#[inline(always)]
pub(crate) fn moves(tid: u32) {
    if may_loop(tid)
        && let Some(thread) = LOOPS.get_ptr_mut(tid)
    {
        // SAFETY: as in `try_wait`.
        unsafe { (*thread).flags |= LOOP_MOVES };
    }
}

#[btf_tracepoint(function = "sched_switch")]
pub(crate) fn sched_switch_raw(ctx: BtfTracePointContext) -> i32 {
    Switch::of_arguments(&ctx).take_in(|| Ok(task_registers()));
    0
}

#[tracepoint(category = "sched", name = "sched_switch")]
pub(crate) fn sched_switch(ctx: TracePointContext) -> u32 {
    Switch::of_event(&ctx).take_in(|| Ok(task_registers()));
    0
}

/// The same for kernels before 5.15, which have no helper that tells a task's saved registers.
#[tracepoint(category = "sched", name = "sched_switch")]
pub(crate) fn sched_switch_old(ctx: TracePointContext) -> u32 {
    Switch::of_event(&ctx).take_in(|| {
        /// `THREAD_SIZE` of `asm/page_64_types.h`, at whose end a thread's stack holds them, and their size.
        const STACK: u64 = 16 << 10;
        const REGISTERS: u64 = 21 * 8;
        // SAFETY: the helper has no preconditions.
        let task = unsafe { bpf_get_current_task() };
        let stack: u64 = read_kernel(task + u64::from(switch_offsets().stack))?;
        let at = core::mem::offset_of!(SavedRegisters, call) as u64;
        read_kernel::<Registers>(stack + STACK - REGISTERS + at)
    });
    0
}

/// A thread is taken off its processor, another is put on it.
struct Switch {
    prev: u32,
    /// Of [`STATES`], or nothing where the thread could go on running.
    state: u64,
    next: u32,
}

impl Switch {
    #[inline(always)]
    fn of_event(ctx: &TracePointContext) -> Self {
        let event = ctx.as_ptr() as *const SwitchEvent;
        // SAFETY: as in `try_wait`.
        unsafe {
            Self {
                prev: (&raw const (*event).prev_pid).read_volatile(),
                state: (&raw const (*event).prev_state).read_volatile(),
                next: (&raw const (*event).next_pid).read_volatile(),
            }
        }
    }

    /// By `TP_PROTO(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)` of
    /// `trace/events/sched.h`, from Linux 5.18 on. The running task is still the one that is taken off.
    #[inline(always)]
    fn of_arguments(ctx: &BtfTracePointContext) -> Self {
        let preempted = ctx.arg::<u64>(0) & 0xff != 0;
        let next: *const u8 = ctx.arg(2);
        Self {
            prev: current().1,
            state: if preempted { 0 } else { ctx.arg::<u64>(3) & 0xffff_ffff },
            // SAFETY: the verifier knows the argument for a task, and holds the load to one of its fields: the place is a number
            // that cannot change once the program is loaded. A helper in its stead takes longer than all the rest.
            next: unsafe { next.add(switch_offsets().pid as usize).cast::<u32>().read_volatile() },
        }
    }

    #[inline(always)]
    fn take_in(self, registers: impl Fn() -> Result<Registers, Skip>) {
        if may_loop(self.prev)
            && let Some(thread) = LOOPS.get_ptr_mut(self.prev)
        {
            // SAFETY: as in `try_wait`.
            let thread = unsafe { &mut *thread };
            thread.off_since = now();
            thread.state = off_state(self.state, thread.selector, registers);
        }
        if may_loop(self.next)
            && let Some(thread) = LOOPS.get_ptr_mut(self.next)
        {
            // SAFETY: as in `try_wait`.
            back(unsafe { &mut *thread });
        }
    }
}

/// Why a thread does not run any more: its new state.
#[inline(always)]
fn off_state(state: u64, own: u64, registers: impl Fn() -> Result<Registers, Skip>) -> u32 {
    let could_run = state & STATES == 0;
    let Ok(registers) = registers() else {
        return off(match (could_run, state & UNINTERRUPTIBLE) {
            (true, _) => OffReason::Cpu,
            (false, 0) => OffReason::Call,
            (false, _) => OffReason::Disk,
        });
    };
    let call = registers.orig_ax;
    // One that was woken and put off again on its way out of the wait has not begun its turn.
    if (could_run || state & INTERRUPTIBLE != 0) && selector(call, registers.di, registers.si) == Some(own) {
        return LOOP_WAITS;
    }
    if could_run {
        return off(OffReason::Cpu);
    }
    off(match call {
        // Until the child has become another program.
        number::CLONE | number::VFORK | number::CLONE3 => OffReason::Call,
        _ if state & UNINTERRUPTIBLE != 0 => OffReason::Disk,
        number::FUTEX | number::FUTEX_WAIT | number::FUTEX_WAITV | number::FCNTL | number::FLOCK => OffReason::Lock,
        number::NANOSLEEP | number::CLOCK_NANOSLEEP => OffReason::Sleep,
        number::SELECT | number::PSELECT6 if registers.di == 0 => OffReason::Sleep,
        number::POLL | number::PPOLL if registers.si == 0 => OffReason::Sleep,
        _ => OffReason::Call,
    })
}

#[inline(always)]
fn off(reason: OffReason) -> u32 {
    LOOP_OFF + reason as u32
}

/// A thread runs again.
#[inline(always)]
fn back(thread: &mut LoopThread) {
    let state = thread.state;
    thread.state = LOOP_RUNS;
    let now = now();
    if state == LOOP_WAITS {
        thread.turn_since = now;
        thread.turn_off = [0; OFF_REASONS];
        return;
    }
    let reason = state.wrapping_sub(LOOP_OFF) as usize;
    if reason < OFF_REASONS {
        thread.turn_off[reason] += now - thread.off_since;
    }
}
