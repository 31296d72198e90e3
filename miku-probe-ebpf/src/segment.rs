//! Segments: bytes that one call moved, written as data records where they stand in the ring.
//!
//! Nothing is put together elsewhere first, and what is touched is little: these programs run where the caches hold what the
//! watched process needs.
//!
//! How much is copied is decided by what a message looks like where it starts: see [`Course`].
//!
//! Bounds: [`CAPTURE_MAX`] bytes of a message's start are copied, or of a streamed event's, or of a websocket's frame that shows
//! a JSON object; [`CAPTURE_CALL`] of a call of Discord's API; [`CAPTURE_FRAME`] of any other frame that goes out;
//! [`CAPTURE_LATER`] of each later segment; the last [`TAIL`] of a segment that was not copied whole, or [`CAPTURE_TAIL`] in a
//! language model's call.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use miku_probe_abi::{
    ABI_VERSION, CAPTURE_CALL, CAPTURE_FRAME, CAPTURE_LATER, CAPTURE_MAX, CAPTURE_TAIL, DataRecord, Direction, FRAMES,
    LOOK, MODEL, RecordHeader, RecordKind, START, TAIL, looks_like_call, looks_like_event, looks_like_frame,
    looks_like_json, looks_like_model_call, looks_like_object, looks_like_request, looks_like_start, looks_like_tls,
    looks_like_upgrade,
};

use crate::maps::{RECORDS, add_one, lost_record, submit};
use crate::memory::{read_user_at_most, read_user_bytes};

/// What is reported, and what is TLS and not looked at: flags of a connection, and the first of a TLS stream too.
const REPORTED: u32 = 1;
const TLS: u32 = 4;

/// What message begins that is a call of Discord's API.
const CALL: u32 = 2;

/// The longest head of a frame without a mask (RFC 6455, section 5.2).
const FRAME_HEAD: u32 = 10;

/// What the start of a segment looks like: a message of HTTP, a frame with a JSON object, any frame, a TLS record, an event of an
/// event stream, a JSON object.
const STARTS: u32 = 1;
const OBJECT: u32 = 2;
const FRAME: u32 = 4;
const LIKE_TLS: u32 = 8;
const EVENT: u32 = 16;
const JSON: u32 = 32;

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
    /// 1 if the last [`CAPTURE_TAIL`] of it are to be copied too.
    long_tail: u32,
    /// Records of the connection that were lost before it.
    lost: u32,
    /// What it looks like.
    looks: u32,
    /// What the connection's flags are with it.
    flags: u32,
    /// 1 if the direction turned with it.
    turned: u32,
    /// Not 0 if a message of HTTP begins with it: [`CALL`] or another.
    begins: u32,
    /// What it begins with, once that was read.
    start: [u64; START / LOOK],
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
        long_tail: 0,
        lost: 0,
        looks: 0,
        flags: 0,
        turned: 0,
        begins: 0,
        start: [0; START / LOOK],
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
        let length = self.read_start(LOOK as u32);
        let first = self.start[0].to_ne_bytes();
        let bit = |looks, bit| if looks { bit } else { 0 };
        let mut looks = bit(looks_like_start(&first, length), STARTS);
        looks |= bit(looks_like_object(&first, length), OBJECT);
        looks |= bit(looks_like_frame(&first, length), FRAME);
        if SOCKET {
            looks |= bit(looks_like_tls(&first, length), LIKE_TLS);
        }
        self.forget(looks)
    }

    /// What else it looks like, once it was looked at and is nothing of the other.
    #[inline(never)]
    fn look_for_events(&mut self) -> u32 {
        let first = self.start[0].to_ne_bytes();
        let length = if self.size < LOOK as u32 { 0 } else { LOOK };
        let looks = if looks_like_event(&first, length) {
            EVENT
        } else if looks_like_json(&first, length) {
            JSON
        } else {
            0
        };
        self.forget(looks)
    }

    /// Has the verifier take what is returned for anything: then it follows one way from here on, and not one for every look.
    #[inline(always)]
    fn forget(&mut self, looks: u32) -> u32 {
        // SAFETY: the place is this segment's own.
        unsafe {
            (&raw mut self.looks).write_volatile(looks);
            (&raw const self.looks).read_volatile()
        }
    }

    /// Says by its start, of which so many bytes were read, what message it begins, and what that makes of the flags.
    #[inline(never)]
    fn begun(&mut self, length: u32) {
        let [first, then] = self.start.map(u64::to_ne_bytes);
        let length = length as usize;
        if looks_like_model_call(&first, &then, length) {
            self.flags |= MODEL;
        } else if looks_like_upgrade(&first, &then, length) {
            self.flags |= FRAMES;
        } else if looks_like_request(&first, length) {
            self.flags &= !MODEL;
            if self.direction == Direction::Out as u32 && looks_like_call(&first, length) {
                self.begins = CALL;
            }
        }
    }

    /// Reads no more of it than tells what it is, at most so many bytes; says how many these were.
    #[inline(always)]
    fn read_start(&mut self, most: u32) -> usize {
        let length = if self.size < most { self.size } else { most };
        self.start[0] = 0;
        let there = self.base != 0 && read_user_bytes(self.start.as_mut_ptr().cast(), length, self.base);
        if there { length as usize } else { 0 }
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
        // What is needed afterwards is kept with the segment, since there may be where the verifier does not follow it, and the
        // stack is short. A message of what is reported begins where the direction turns; elsewhere it must be looked for.
        segment.turned = u32::from(turned);
        segment.begins = segment.turned;
        segment.lost = *lost;
        if flags & (REPORTED | FRAMES) != REPORTED || !turned {
            let looks = segment.look::<SOCKET>();
            if flags & REPORTED == 0 {
                if looks & (STARTS | OBJECT) == 0 {
                    return if looks & LIKE_TLS != 0 { flags | TLS } else { flags };
                }
                flags |= if looks & OBJECT != 0 { REPORTED | FRAMES } else { REPORTED };
            }
            if flags & FRAMES == 0 {
                if looks & STARTS != 0 {
                    segment.begins = 1;
                }
                let streams = if segment.begins != 0 { 0 } else { segment.look_for_events() };
                if streams == EVENT || (streams == JSON && flags & MODEL != 0) {
                    // What follows it may be the rest of it.
                    *budget = if *budget > CAPTURE_MAX as u32 { *budget } else { CAPTURE_MAX as u32 };
                    flags |= MODEL;
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
        }
        if segment.size != 0 {
            *direction = segment.direction;
        }
        segment.flags = flags;
        if flags & FRAMES != 0 {
            segment.begins = 0;
        }
        if segment.begins != 0 {
            *budget = CAPTURE_MAX as u32;
            if segment.size > CAPTURE_MAX as u32 {
                let read = segment.read_start(START as u32);
                segment.begun(read as u32);
                if segment.begins == CALL {
                    *budget = CAPTURE_CALL as u32;
                }
            }
        }
        segment.wanted = wanted(*budget, segment.size);
        segment.long_tail = 0;
        if segment.flags & (MODEL | FRAMES) == MODEL && segment.wanted < segment.size {
            if segment.size <= CAPTURE_TAIL as u32 {
                segment.wanted = segment.size;
            } else {
                segment.long_tail = 1;
            }
        }
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
            segment.begun(captured);
            if *budget == CAPTURE_MAX as u32 && segment.begins == CALL {
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

/// Counts a lost segment that began a message.
#[inline(always)]
fn lost_start(direction: u32) {
    add_one(|counters| {
        let into = direction == Direction::In as u32;
        // SAFETY: the pointer is to live counters.
        unsafe { if into { &raw mut (*counters).lost_starts_in } else { &raw mut (*counters).lost_starts_out } }
    });
}

/// A data record with room for what is captured: a long end, if there is one, and the start.
#[repr(C)]
struct Captured<const ROOM: usize, const TAIL_ROOM: usize> {
    record: DataRecord,
    tail: [u8; TAIL_ROOM],
    bytes: [u8; ROOM],
}

/// Puts a segment on the ring; says how many bytes of it were copied, or that it did not fit.
#[inline(always)]
fn tell(kind: RecordKind, segment: &mut Segment) -> Option<u32> {
    // As little of the ring as holds it; the sizes must be known to the verifier.
    if segment.long_tail != 0 {
        return match segment.wanted {
            0..=32 => tell_in::<32, CAPTURE_TAIL>(kind, segment),
            _ => tell_in::<CAPTURE_MAX, CAPTURE_TAIL>(kind, segment),
        };
    }
    match segment.wanted {
        0..=32 => tell_in::<32, 0>(kind, segment),
        33..=256 => tell_in::<256, 0>(kind, segment),
        257..=512 => tell_in::<512, 0>(kind, segment),
        513..=1024 => tell_in::<1024, 0>(kind, segment),
        1025..=4096 => tell_in::<CAPTURE_MAX, 0>(kind, segment),
        _ => tell_in::<CAPTURE_CALL, 0>(kind, segment),
    }
}

/// [`tell`], in an entry with room for `ROOM` captured bytes of the start, and `TAIL_ROOM` of the end.
#[inline(never)]
fn tell_in<const ROOM: usize, const TAIL_ROOM: usize>(kind: RecordKind, segment: &mut Segment) -> Option<u32> {
    let mut entry = RECORDS.reserve::<Captured<ROOM, TAIL_ROOM>>(0)?;
    let to = entry.as_mut_ptr();
    let mut captured = 0;
    if segment.base != 0 && segment.wanted != 0 {
        // SAFETY: the pointer is to the entry's memory, of which so many bytes are for what is captured.
        captured =
            unsafe { read_user_at_most::<ROOM>((&raw mut (*to).bytes).cast::<u8>(), segment.wanted, segment.base) };
        if captured != 0 {
            // SAFETY: as above; there is room for more. What lies behind the copied bytes is not looked at.
            segment.start = unsafe { (&raw const (*to).bytes).cast::<[u64; START / LOOK]>().read() };
        } else {
            // SAFETY: the pointer is to live counters.
            add_one(|counters| unsafe { &raw mut (*counters).unreadable });
        }
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*to).record.tail).write([0; TAIL]) };
    let mut tail_length = 0;
    let end = segment.base + u64::from(segment.size);
    if TAIL_ROOM != 0 {
        tail_length = TAIL_ROOM as u32;
        // SAFETY: as above; a segment of which a long end is wanted is longer than that.
        let there =
            unsafe { read_user_bytes((&raw mut (*to).tail).cast::<u8>(), tail_length, end - u64::from(tail_length)) };
        if !there {
            entry.discard(0);
            return None;
        }
    } else if captured < segment.size && segment.base != 0 {
        tail_length = if segment.size < TAIL as u32 { segment.size } else { TAIL as u32 };
        let from = end - u64::from(tail_length);
        // SAFETY: as above.
        if !unsafe { read_user_bytes((&raw mut (*to).record.tail).cast::<u8>(), tail_length, from) } {
            tail_length = 0;
        }
    }
    let header = RecordHeader {
        version: ABI_VERSION,
        kind: kind as u8,
        padding: 0,
        length: (size_of::<DataRecord>() + TAIL_ROOM) as u32 + captured,
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        tgid: segment.tgid,
        tid: segment.tid,
    };
    // SAFETY: the pointer is to the entry's memory. All of the record is written, field by field, since the stack is short.
    unsafe {
        (&raw mut (*to).record.header).write(header);
        (&raw mut (*to).record.generation).write(segment.generation);
        (&raw mut (*to).record.handle).write(segment.handle);
        (&raw mut (*to).record.lost).write(segment.lost);
        (&raw mut (*to).record.size).write(segment.size);
        (&raw mut (*to).record.captured).write(captured as u16);
        (&raw mut (*to).record.tail_length).write(tail_length as u16);
        (&raw mut (*to).record.errno).write(segment.errno as u16);
        (&raw mut (*to).record.direction).write(segment.direction as u8);
        (&raw mut (*to).record.padding).write(0);
    }
    submit(entry);
    Some(captured)
}
