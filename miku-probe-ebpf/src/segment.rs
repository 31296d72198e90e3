//! Segments: bytes that one call moved, written as data records where they stand in the ring.
//!
//! Nothing is put together elsewhere first, and what is touched is little: these programs run where the caches hold what the
//! watched process needs.
//!
//! How much is copied is decided by what a message looks like where it starts: see [`Course`].
//!
//! Bounds: [`CAPTURE_MAX`] bytes of a message's start are copied, or of a websocket's frame that shows a JSON object;
//! [`CAPTURE_CALL`] of a call of Discord's API; [`CAPTURE_FRAME`] of any other frame that goes out; [`CAPTURE_LATER`] of each
//! later segment; the last [`TAIL`] of a segment that was not copied whole.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use miku_probe_abi::{
    ABI_VERSION, CAPTURE_CALL, CAPTURE_FRAME, CAPTURE_LATER, CAPTURE_MAX, DataRecord, Direction, FRAMES, LOOK,
    RecordHeader, RecordKind, START, TAIL, looks_like_call, looks_like_frame, looks_like_object, looks_like_start,
    looks_like_tls, looks_like_upgrade,
};

use crate::maps::{RECORDS, Wake, add_one, lost_record, wake_flags};
use crate::memory::{read_user_at_most, read_user_bytes};

/// What is reported, and what is TLS and not looked at: flags of a connection, and the first of a TLS stream too.
const REPORTED: u32 = 1;
const TLS: u32 = 4;

/// The longest head of a frame without a mask (RFC 6455, section 5.2).
const FRAME_HEAD: u32 = 10;

/// What the start of a segment looks like: a message of HTTP, a frame with a JSON object, any frame, a TLS record.
const STARTS: u32 = 1;
const OBJECT: u32 = 2;
const FRAME: u32 = 4;
const LIKE_TLS: u32 = 8;

const _: () = {
    use miku_probe_abi::{CONNECTION_REPORTED, CONNECTION_TLS, STREAM_REPORTED};
    assert!(CONNECTION_REPORTED as u32 == REPORTED && STREAM_REPORTED == REPORTED && CONNECTION_TLS as u32 == TLS);
};

/// Bytes that a call moved, in one piece, and whose they are.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
    /// The [`DataRecord`]'s.
    pub(crate) generation: u64,
    pub(crate) handle: u64,
    /// Where they are in the process; 0 when they cannot be reached.
    pub(crate) base: u64,
    pub(crate) size: u32,
    pub(crate) errno: u32,
    /// A [`Direction`].
    pub(crate) direction: u32,
    /// The rest is filled in on the way. Bytes of it that are to be copied, at most as many as there are.
    wanted: u32,
    /// Records of the connection that were lost before it.
    lost: u32,
    /// What it looks like.
    looks: u32,
    /// What the connection's flags are with it.
    flags: u32,
    /// 1 if the direction turned with it.
    turned: u32,
    /// 1 if a message of HTTP begins with it.
    begins: u32,
    /// What it begins with, once it was copied.
    start: [u8; START],
}

impl Segment {
    /// One of which nothing has been said.
    pub(crate) const NOTHING: Self = Self {
        tgid: 0,
        tid: 0,
        generation: 0,
        handle: 0,
        base: 0,
        size: 0,
        errno: 0,
        direction: 0,
        wanted: 0,
        lost: 0,
        looks: 0,
        flags: 0,
        turned: 0,
        begins: 0,
        start: [0; START],
    };

    /// Says whose it is. What was said of another before does no harm: [`Course::follow`] says the rest anew.
    #[inline(always)]
    pub(crate) fn of(&mut self, tgid: u32, tid: u32, generation: u64, handle: u64) {
        (self.tgid, self.tid) = (tgid, tid);
        (self.generation, self.handle) = (generation, handle);
    }

    /// What it looks like. A function of its own, as the next, since the stack of all that call each other is short.
    #[inline(never)]
    fn look<const SOCKET: bool>(&mut self) -> u32 {
        let (first, length) = look(self.base, self.size);
        let bit = |looks, bit| if looks { bit } else { 0 };
        let mut looks = bit(looks_like_start(&first, length), STARTS);
        looks |= bit(looks_like_object(&first, length), OBJECT);
        looks |= bit(looks_like_frame(&first, length), FRAME);
        if SOCKET {
            looks |= bit(looks_like_tls(&first, length), LIKE_TLS);
        }
        // SAFETY: the place is this segment's own. Volatile, since the verifier shall take what is read for anything: then it
        // follows one way from here on, and not one for every look.
        unsafe {
            (&raw mut self.looks).write_volatile(looks);
            (&raw const self.looks).read_volatile()
        }
    }

    /// Whether it begins a call of Discord's API, before it was copied.
    #[inline(never)]
    fn is_call(&self) -> bool {
        let (first, length) = look(self.base, self.size);
        let mut start = [0; START];
        start[..LOOK].copy_from_slice(&first);
        self.direction == Direction::Out as u32 && looks_like_call(&start, length)
    }
}

/// What a connection or stream has carried so far, as far as it matters to what is copied of it: places in its entry of a
/// table.
pub(crate) struct Course<'a> {
    pub(crate) flags: u32,
    /// Bytes that may still be copied of the current message's start.
    pub(crate) budget: &'a mut u32,
    /// Which way the last segment went.
    pub(crate) direction: &'a mut u32,
    /// Segments that did not fit the ring.
    pub(crate) lost: &'a mut u32,
}

impl Course<'_> {
    /// Takes in the next segment, and tells it when it is to be told. Returned are the flags from now on.
    ///
    /// `SOCKET`: it is a connection, not a TLS stream.
    #[inline(always)]
    pub(crate) fn follow<const SOCKET: bool>(self, segment: &mut Segment) -> u32 {
        let Self { mut flags, budget, direction, lost } = self;
        let turned = segment.size != 0 && *direction != segment.direction;
        if flags & (REPORTED | FRAMES) != REPORTED || !turned {
            let looks = segment.look::<SOCKET>();
            if flags & REPORTED == 0 {
                if looks & (STARTS | OBJECT) == 0 {
                    return if looks & LIKE_TLS != 0 { flags | TLS } else { flags };
                }
                flags |= if looks & OBJECT != 0 { REPORTED | FRAMES } else { REPORTED };
            }
            if flags & FRAMES == 0 {
                if turned || looks & STARTS != 0 {
                    *budget = CAPTURE_MAX as u32;
                }
            } else if looks & OBJECT != 0 {
                *budget = CAPTURE_MAX as u32;
            } else if turned || looks & FRAME != 0 {
                *budget = if segment.direction == Direction::Out as u32 {
                    CAPTURE_FRAME as u32
                } else if segment.size <= FRAME_HEAD {
                    // What it is the head of comes with the next segment.
                    CAPTURE_MAX as u32
                } else {
                    0
                };
            }
        } else {
            // A message of what is reported begins where the direction turns; elsewhere it must be looked for.
            *budget = CAPTURE_MAX as u32;
        }
        let begins = *budget == CAPTURE_MAX as u32 && flags & FRAMES == 0;
        if begins && segment.size > CAPTURE_MAX as u32 && segment.is_call() {
            *budget = CAPTURE_CALL as u32;
        }
        if segment.size != 0 {
            *direction = segment.direction;
        }
        segment.wanted = wanted(*budget, segment.size);
        segment.lost = *lost;
        // What is needed afterwards is kept with the segment, since there may be where the verifier does not follow it.
        segment.flags = flags;
        segment.turned = u32::from(turned);
        segment.begins = u32::from(begins);
        let kind = if SOCKET { RecordKind::Data } else { RecordKind::Plaintext };
        let Some(captured) = tell(kind, segment) else {
            *lost = lost.wrapping_add(1);
            lost_record(kind);
            if segment.turned != 0 {
                lost_start(segment.direction);
            }
            return segment.flags;
        };
        if segment.begins != 0 {
            if looks_like_upgrade(&segment.start, captured as usize) {
                segment.flags |= FRAMES;
            } else if *budget == CAPTURE_MAX as u32
                && segment.direction == Direction::Out as u32
                && looks_like_call(&segment.start, captured as usize)
            {
                *budget = CAPTURE_CALL as u32;
            }
        }
        *budget = budget.saturating_sub(captured);
        segment.flags
    }
}

/// How many bytes of a segment are to be copied when `budget` are left of those of its message.
#[inline(always)]
fn wanted(budget: u32, size: u32) -> u32 {
    let most = if budget > CAPTURE_LATER as u32 { budget } else { CAPTURE_LATER as u32 };
    if size < most { size } else { most }
}

/// The first bytes of a segment, and how many of them are there.
#[inline(always)]
fn look(base: u64, size: u32) -> ([u8; LOOK], usize) {
    let mut first = [0; LOOK];
    let length = if size < LOOK as u32 { size } else { LOOK as u32 };
    let there = base != 0 && read_user_bytes(first.as_mut_ptr(), length, base);
    (first, if there { length as usize } else { 0 })
}

/// Counts a lost segment that began a message.
#[inline(always)]
fn lost_start(direction: u32) {
    add_one(|counters| {
        let into = direction == Direction::In as u32;
        // SAFETY: the pointer is to live counters.
        unsafe { if into { &raw mut (*counters).lost_starts_in } else { &raw mut (*counters).lost_starts_out } }
    });
}

/// A data record with room for what is captured.
#[repr(C)]
struct Captured<const ROOM: usize> {
    record: DataRecord,
    bytes: [u8; ROOM],
}

/// Puts a segment on the ring; says how many bytes of it were copied, or that it did not fit.
#[inline(always)]
fn tell(kind: RecordKind, segment: &mut Segment) -> Option<u32> {
    // As little of the ring as holds it; the sizes must be known to the verifier.
    match segment.wanted {
        0..=32 => tell_in::<32>(kind, segment),
        33..=256 => tell_in::<256>(kind, segment),
        257..=1024 => tell_in::<1024>(kind, segment),
        1025..=4096 => tell_in::<CAPTURE_MAX>(kind, segment),
        _ => tell_in::<CAPTURE_CALL>(kind, segment),
    }
}

/// [`tell`], in an entry with room for `ROOM` captured bytes.
#[inline(never)]
fn tell_in<const ROOM: usize>(kind: RecordKind, segment: &mut Segment) -> Option<u32> {
    let mut entry = RECORDS.reserve::<Captured<ROOM>>(0)?;
    let to = entry.as_mut_ptr();
    let mut captured = 0;
    if segment.base != 0 && segment.wanted != 0 {
        // SAFETY: the pointer is to the entry's memory, of which so many bytes are for what is captured.
        captured =
            unsafe { read_user_at_most::<ROOM>((&raw mut (*to).bytes).cast::<u8>(), segment.wanted, segment.base) };
        if captured != 0 {
            // SAFETY: as above; there is room for more. What lies behind the copied bytes is not looked at.
            segment.start = unsafe { (&raw const (*to).bytes).cast::<[u8; START]>().read() };
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
            kind: kind as u8,
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
