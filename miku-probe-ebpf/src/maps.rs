//! The maps and settings that the programs share with each other and with user space, and the way onto the ring.

use core::arch::asm;
use core::ptr::read_volatile;

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::TracePointContext;
use miku_probe_abi::{
    ABI_VERSION, ConnectionKey, Counters, FILTER_SLOTS, Plain, RecordHeader, RecordKind, SocketOffsets, SwitchOffsets,
    TaskOffsets, TracepointOffsets, bytes_of,
};

/// All records, in the order in which they happened on each processor. User space sets the size.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// [`FILTER_WATCHED`](miku_probe_abi::FILTER_WATCHED) where a watched process may be, and more: a slot is shared by all
/// numbers with the same low bits.
#[map]
pub(crate) static FILTER: Array<u64> = Array::with_max_entries(FILTER_SLOTS, 0);

/// The watched processes, with what is known of each.
#[map]
pub(crate) static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(8192, 0);

/// Whose a socket is, by the kernel's address of it. User space sets the size.
#[map]
pub(crate) static SOCKETS: LruHashMap<u64, ConnectionKey> = LruHashMap::with_max_entries(32768, 0);

/// What each processor has counted.
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Where the tracepoints keep their fields on this kernel.
#[unsafe(no_mangle)]
static OFFSETS: TracepointOffsets = TracepointOffsets {
    newtask_pid: 0,
    newtask_clone_flags: 0,
    set_state_oldstate: 0,
    set_state_newstate: 0,
    close_fd: 0,
    set_state_skaddr: 0,
    destroy_skaddr: 0,
    mark_victim_pid: 0,
};

/// Where this kernel's sockets keep what is read of them.
#[unsafe(no_mangle)]
static SOCKET_OFFSETS: SocketOffsets =
    SocketOffsets { socket_type: 0, family: 0, dport: 0, daddr: 0, v6_daddr: 0, protocol: 0, sport: 0 };

/// Where this kernel's tasks keep what is read of them.
#[unsafe(no_mangle)]
static TASK_OFFSETS: TaskOffsets =
    TaskOffsets { known: 0, group_leader: 0, exit_code: 0, signal: 0, live: 0, flags: 0, group_exit_code: 0 };

/// Where this kernel's tasks keep what is read when they are switched.
#[unsafe(no_mangle)]
static SWITCH_OFFSETS: SwitchOffsets = SwitchOffsets { pid: 0, stack: 0 };

/// User space is woken when this many bytes wait in the ring; below that it comes by itself.
#[unsafe(no_mangle)]
static WAKE_BYTES: u64 = 1 << 20;

/// How far past [`WAKE_BYTES`] a record still wakes: a wake-up is dear, and one is enough.
const WAKE_WINDOW: u64 = 64 << 10;

/// Nothing to do here; not an error.
pub(crate) struct Skip;

/// The offsets that user space found.
pub(crate) fn offsets() -> TracepointOffsets {
    // SAFETY: a static of this object; volatile, because user space sets it before the program is loaded.
    unsafe { read_volatile(&raw const OFFSETS) }
}

/// A field of a tracepoint, at an offset of [`offsets`].
#[inline(always)]
pub(crate) fn field<T>(ctx: &TracePointContext, offset: u32) -> Result<T, Skip> {
    // SAFETY: the helper checks the address itself; the offset is of a field that the kernel's format file names.
    unsafe { ctx.read_at(offset as usize) }.map_err(|_| Skip)
}

/// The places in a socket that user space found.
#[inline(always)]
pub(crate) fn socket_offsets() -> SocketOffsets {
    // SAFETY: as in `offsets`.
    unsafe { read_volatile(&raw const SOCKET_OFFSETS) }
}

/// The places in a task that user space found.
#[inline(always)]
pub(crate) fn task_offsets() -> TaskOffsets {
    // SAFETY: as in `offsets`.
    unsafe { read_volatile(&raw const TASK_OFFSETS) }
}

/// The places in a task that is switched that user space found.
#[inline(always)]
pub(crate) fn switch_offsets() -> SwitchOffsets {
    // SAFETY: as in `offsets`.
    unsafe { read_volatile(&raw const SWITCH_OFFSETS) }
}

/// What may hold for `tgid`, or for another in its slot: `FILTER_*`. What is not in it is certain.
#[inline(always)]
pub(crate) fn filter(tgid: u32) -> u64 {
    FILTER.get(tgid & (FILTER_SLOTS - 1)).copied().unwrap_or(0)
}

/// Whether `tgid` may be watched: false is certain.
#[inline(always)]
pub(crate) fn maybe_watched(tgid: u32) -> bool {
    filter(tgid) != 0
}

/// Whether `tgid` is watched.
#[inline(always)]
pub(crate) fn watched(tgid: u32) -> bool {
    TARGETS.get_ptr(tgid).is_some()
}

/// Whether this is to be told of a process: a `TARGET_*`, of which the filter has the like.
#[inline(always)]
pub(crate) fn is_told(tgid: u32, what: u32) -> bool {
    // SAFETY: the pointer is to a value of a preallocated map.
    TARGETS.get_ptr(tgid).is_some_and(|target| unsafe { *target } & what != 0)
}

/// The process and the thread that run now.
#[inline(always)]
pub(crate) fn current() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}

/// The header of a record of now.
#[inline(always)]
pub(crate) fn header(kind: RecordKind, length: usize) -> RecordHeader {
    let (tgid, tid) = current();
    // SAFETY: the helper has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    RecordHeader { version: ABI_VERSION, kind: kind as u8, padding: 0, length: length as u32, time_ns, tgid, tid }
}

/// When a record shall wake user space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At once: somebody must act.
    Now,
    /// When much has piled up.
    Late,
}

/// The flags with which a record goes onto the ring.
#[inline(always)]
pub(crate) fn wake_flags(wake: Wake) -> u64 {
    if wake == Wake::Now {
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    // SAFETY: as in `offsets`.
    let threshold = unsafe { read_volatile(&raw const WAKE_BYTES) };
    let waiting = RECORDS.query(u64::from(BPF_RB_AVAIL_DATA));
    if waiting >= threshold && waiting < threshold + WAKE_WINDOW {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}

/// Changes this processor's counters.
#[inline(always)]
pub(crate) fn count(change: impl FnOnce(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this processor's own value, and nothing else runs on it meanwhile.
        change(unsafe { &mut *counters });
    }
}

/// Adds one to one of this processor's counters, in programs that another may interrupt on the same processor.
#[inline(always)]
pub(crate) fn add_one(counter: impl FnOnce(*mut Counters) -> *mut u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the pointer is to a live counter of this processor's.
        unsafe { add(counter(counters), 1) };
    }
}

/// Adds to a counter that others may add to at the same time.
///
/// # Safety
/// The pointer is to a live, aligned counter.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, growth: u64) {
    // SAFETY: the caller vouches for the pointer. The library offers no atomic addition for this target; the instruction is
    // one that the oldest kernels know.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) counter, in(reg) growth) };
}

/// Counts a record that did not fit the ring.
#[inline(always)]
pub(crate) fn lost_record(kind: RecordKind) {
    let place = kind.place();
    // SAFETY: the pointer is to live counters, and every kind has a place.
    add_one(|counters| unsafe { &raw mut (*counters).lost[place] });
    sent_record();
}

/// Counts a record that was made, so that user space can say whether each was seen or lost.
#[inline(always)]
fn sent_record() {
    // SAFETY: the pointer is to live counters.
    add_one(|counters| unsafe { &raw mut (*counters).sent });
}

/// Puts a record that was written in its place on the ring.
#[inline(always)]
pub(crate) fn submit<T>(entry: RingBufEntry<T>) {
    entry.submit(wake_flags(Wake::Late));
    sent_record();
}

/// Puts a record on the ring; says whether it fitted, and counts it if not.
#[inline(always)]
pub(crate) fn put<T: Plain>(kind: RecordKind, wake: Wake, record: &T) -> bool {
    let fitted = RECORDS.output::<[u8]>(bytes_of(record), wake_flags(wake)).is_ok();
    if fitted {
        sent_record();
    } else {
        lost_record(kind);
    }
    fitted
}
