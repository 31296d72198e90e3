//! Segments: bytes that one call moved, written as data records where they stand in the ring.
//!
//! Nothing is put together elsewhere first, and what is touched is little: these programs run where the caches hold what the
//! watched process needs.
//!
//! Bounds: [`CAPTURE_MAX`] bytes of a segment are copied, and its last [`TAIL`].

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use miku_probe_abi::{ABI_VERSION, CAPTURE_LATER, CAPTURE_MAX, DataRecord, LOOK, RecordHeader, RecordKind, TAIL};

use crate::maps::{RECORDS, Wake, add_one, wake_flags};
use crate::memory::read_user_bytes;

/// Bytes that a call moved, in one piece, and whose they are.
pub(crate) struct Segment {
    pub(crate) kind: RecordKind,
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    /// The [`DataRecord`]'s.
    pub(crate) generation: u64,
    pub(crate) handle: u64,
    pub(crate) lost: u32,
    /// Where they are in the process; 0 when they cannot be reached.
    pub(crate) base: u64,
    pub(crate) size: u32,
    /// Bytes of it that are to be copied, at most as many as there are.
    pub(crate) wanted: u32,
    pub(crate) errno: u32,
    /// A [`miku_probe_abi::Direction`].
    pub(crate) direction: u32,
}

/// A data record with room for what is captured.
#[repr(C)]
struct Captured<const ROOM: usize> {
    record: DataRecord,
    bytes: [u8; ROOM],
}

/// How many bytes of a segment are to be copied when `budget` are left of those of its message.
#[inline(always)]
pub(crate) fn wanted(budget: u32, size: u32) -> u32 {
    let most = if budget > CAPTURE_LATER as u32 { budget } else { CAPTURE_LATER as u32 };
    if size < most { size } else { most }
}

/// The first bytes of a segment, and how many of them are there.
#[inline(always)]
pub(crate) fn look(base: u64, size: u32) -> ([u8; LOOK], usize) {
    let mut first = [0; LOOK];
    let length = if size < LOOK as u32 { size } else { LOOK as u32 };
    let there = base != 0 && read_user_bytes(first.as_mut_ptr(), length, base);
    (first, if there { length as usize } else { 0 })
}

/// Puts a segment on the ring; says how many bytes of it were copied, or that it did not fit, which the caller counts.
#[inline(always)]
pub(crate) fn tell(segment: &Segment) -> Option<u32> {
    // As little of the ring as holds it; the sizes must be known to the verifier.
    match segment.wanted {
        0..=32 => tell_in::<32>(segment),
        33..=256 => tell_in::<256>(segment),
        257..=1024 => tell_in::<1024>(segment),
        _ => tell_in::<CAPTURE_MAX>(segment),
    }
}

/// [`tell`], in an entry with room for `ROOM` captured bytes.
#[inline(never)]
fn tell_in<const ROOM: usize>(segment: &Segment) -> Option<u32> {
    let mut entry = RECORDS.reserve::<Captured<ROOM>>(0)?;
    let to = entry.as_mut_ptr();
    let mut captured = 0;
    if segment.base != 0 && segment.wanted != 0 {
        // SAFETY: the pointer is to the entry's memory. Each read is of a length that the verifier can see to be within it.
        let read = unsafe {
            let bytes = (&raw mut (*to).bytes).cast::<u8>();
            if segment.wanted >= ROOM as u32 {
                read_user_bytes(bytes, ROOM as u32, segment.base)
            } else {
                read_user_bytes(bytes, segment.wanted & (ROOM as u32 - 1), segment.base)
            }
        };
        if read {
            captured = if segment.wanted < ROOM as u32 { segment.wanted } else { ROOM as u32 };
        } else {
            // SAFETY: the pointer is to live counters.
            add_one(|counters| unsafe { &raw mut (*counters).unreadable });
        }
    }
    let mut tail = [0; TAIL];
    let mut tail_length = 0;
    if captured < segment.size && segment.base != 0 {
        tail_length = if segment.size < TAIL as u32 { segment.size } else { TAIL as u32 };
        let from = segment.base + u64::from(segment.size) - u64::from(tail_length);
        if !read_user_bytes(tail.as_mut_ptr(), tail_length, from) {
            tail_length = 0;
        }
    }
    let record = DataRecord {
        header: RecordHeader {
            version: ABI_VERSION,
            kind: segment.kind as u8,
            padding: 0,
            length: size_of::<DataRecord>() as u32 + captured,
            // SAFETY: the helper has no preconditions.
            time_ns: unsafe { bpf_ktime_get_ns() },
            tgid: segment.tgid,
            tid: segment.tid,
        },
        generation: segment.generation,
        handle: segment.handle,
        lost: segment.lost,
        size: segment.size,
        captured,
        errno: segment.errno as u16,
        direction: segment.direction as u8,
        tail_length: tail_length as u8,
        tail,
    };
    // SAFETY: as above.
    unsafe { (&raw mut (*to).record).write(record) };
    entry.submit(wake_flags(Wake::Late));
    Some(captured)
}
