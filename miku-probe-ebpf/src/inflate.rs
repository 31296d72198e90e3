//! What watched processes decompress by zlib and zstd, as far as it looks like the payloads of Discord's gateway.
//!
//! Hooks: uprobes on `inflate` and `ZSTD_decompressStream`, at places that user space chooses. The entry keeps by thread
//! where the output is to go, the return sees how far it came; what lies between has just been written and can be read.
//!
//! A message is what the gateway flushes: it has ended when a call has used all its input, has room left for output, and, as
//! far as zlib tells it, stands between two blocks. A stream is told from the first output on that looks like a payload at
//! the start of a message, and until its data ends, it is reset or freed. Bodies of HTTP and files are not flushed, but
//! end: they are passed over, unless they are zstd's, begin as payloads do and come in parts. Nothing is kept of streams
//! that are not told.
//!
//! Bounds: one call a thread, [`INFLATED_MAX`] or [`INFLATED_OTHER`] bytes of a message, streams that are told longest ago
//! make room for others.
//!
//! As in `tls.rs`, programs run preemptibly: nothing here uses memory of the processor's.
//!
//! [`INFLATED_MAX`]: miku_probe_abi::INFLATED_MAX
//! [`INFLATED_OTHER`]: miku_probe_abi::INFLATED_OTHER

use aya_ebpf::macros::{map, uprobe};
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::ProbeContext;
use miku_probe_abi::{
    ABI_VERSION, CAPTURE_MAX, CloseRecord, INFLATE_BETWEEN_BLOCKS, INFLATE_WITHIN, INFLATED_ENDS, INFLATED_MAX,
    INFLATED_OTHER, INFLATED_STARTS, InflateCall, InflateStream, InflatedRecord, PayloadLook, RecordHeader, RecordKind,
    StreamKey,
};

use crate::maps::{RECORDS, Skip, Wake, add_one, current, header, lost_record, put, submit};
use crate::memory::{read_user, read_user_at_most};
use crate::tls::{now, table_full, thread};

/// The streams of watched processes that are told.
#[map]
static INFLATE_STREAMS: LruHashMap<StreamKey, InflateStream> = LruHashMap::with_max_entries(4096, 0);

/// Calls that have begun, by thread; as `TLS_CALLS`.
#[map]
static INFLATE_CALLS: LruHashMap<u64, InflateCall> = LruHashMap::with_max_entries(8192, 0);

/// How many pieces of one call are told apart at most.
const PIECES: u32 = INFLATED_MAX / CAPTURE_MAX as u32;

/// `Z_OK` and `Z_BUF_ERROR` of `zlib.h`; the latter when a call could do nothing.
const Z_OK: i32 = 0;
const Z_BUF_ERROR: i32 = -5;

/// What `inflate` says of itself by `data_type` whenever it returns (`zlib.h`): it decodes the last block, or it has just
/// ended one.
const LAST_BLOCK: i32 = 64;
const BETWEEN_BLOCKS: i32 = 128;

/// Errors of zstd are the last numbers (`ZSTD_isError`; `ZSTD_error_maxCode` of `zstd_errors.h`).
const ZSTD_ERRORS: u64 = 120;

/// `z_stream` of `zlib.h`, as far as it is read.
#[repr(C)]
#[derive(Clone, Copy)]
struct ZStream {
    next_in: u64,
    avail_in: u32,
    padding: u32,
    total_in: u64,
    next_out: u64,
    avail_out: u32,
    more_padding: u32,
    total_out: u64,
    msg: u64,
    state: u64,
    zalloc: u64,
    zfree: u64,
    opaque: u64,
    data_type: i32,
}

/// `ZSTD_inBuffer` and `ZSTD_outBuffer` of `zstd.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ZBuffer {
    start: u64,
    size: u64,
    pos: u64,
}

/// What a call did.
struct Output {
    /// Bytes that it put out.
    size: u64,
    /// Bytes that it took in.
    consumed: u64,
    /// Whether it is known that they are the first of their stream.
    first: bool,
    /// Whether it is known that they are not.
    later: bool,
    /// Whether the input is used up and there was room for more output: a message ends with them if it can end there.
    drained: bool,
    /// Whether one can; `None` when the call did nothing that would have changed it.
    between_blocks: Option<bool>,
    /// Whether the stream does, which a gateway's never does in order.
    over: bool,
}

/// `int inflate(z_stream *strm, int flush)`
#[uprobe]
pub(crate) fn inflate(ctx: ProbeContext) -> u32 {
    // SAFETY: the kernel passes the registers, and the verifier holds the loads to their places.
    let stream = unsafe { (*ctx.regs).rdi };
    // As far as it is read here: up to where the output goes.
    if let Ok([from, _, _, base]) = read_user::<[u64; 4]>(stream) {
        begin(InflateCall { stream, base, output: 0, input: 0, from });
    }
    0
}

#[uprobe]
pub(crate) fn inflate_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `inflate`.
    let _: Result<(), Skip> = try_inflate_return(unsafe { (*ctx.regs).rax } as i32);
    0
}

#[inline(always)]
fn try_inflate_return(result: i32) -> Result<(), Skip> {
    let thread = thread();
    let call = end(thread)?;
    let after: ZStream = read_user(call.stream)?;
    let size = after.next_out.wrapping_sub(call.base);
    let output = Output {
        size,
        consumed: after.next_in.wrapping_sub(call.from),
        first: size != 0 && after.total_out == size,
        later: after.total_out != size,
        drained: after.avail_in == 0 && after.avail_out != 0,
        // Such a call forgets what it should say here.
        between_blocks: if result == Z_BUF_ERROR { None } else { Some(after.data_type & BETWEEN_BLOCKS != 0) },
        over: (result != Z_OK && result != Z_BUF_ERROR) || after.data_type & LAST_BLOCK != 0,
    };
    came(thread, &call, &output)
}

/// `size_t ZSTD_decompressStream(ZSTD_DStream *zds, ZSTD_outBuffer *output, ZSTD_inBuffer *input)`
#[uprobe]
pub(crate) fn zstd(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `inflate`.
    let (stream, output, input) = unsafe { ((*ctx.regs).rdi, (*ctx.regs).rsi, (*ctx.regs).rdx) };
    if let Ok(ZBuffer { start, pos, .. }) = read_user(output)
        && let Ok(ZBuffer { pos: from, .. }) = read_user(input)
    {
        begin(InflateCall { stream, base: start.wrapping_add(pos), output, input, from });
    }
    0
}

#[uprobe]
pub(crate) fn zstd_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `inflate`.
    let _: Result<(), Skip> = try_zstd_return(unsafe { (*ctx.regs).rax });
    0
}

#[inline(always)]
fn try_zstd_return(result: u64) -> Result<(), Skip> {
    let thread = thread();
    let call = end(thread)?;
    let to: ZBuffer = read_user(call.output)?;
    let from: ZBuffer = read_user(call.input)?;
    let output = Output {
        size: to.start.wrapping_add(to.pos).wrapping_sub(call.base),
        consumed: from.pos.wrapping_sub(call.from),
        first: false,
        later: false,
        drained: from.pos == from.size && to.pos < to.size,
        between_blocks: Some(true),
        // 0 at the end of a frame.
        over: result == 0 || result > ZSTD_ERRORS.wrapping_neg(),
    };
    came(thread, &call, &output)
}

/// `inflateEnd(strm)`, `ZSTD_freeDCtx(dctx)`, `ZSTD_DCtx_reset(dctx, directive)`
#[uprobe]
pub(crate) fn inflate_end(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `inflate`.
    over(StreamKey::new(current().0, unsafe { (*ctx.regs).rdi }));
    0
}

#[inline(always)]
fn begin(call: InflateCall) {
    let thread = thread();
    if let Some(known) = INFLATE_CALLS.get_ptr_mut(thread) {
        // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this
        // thread uses.
        unsafe { *known = call };
    } else if INFLATE_CALLS.insert(thread, call, 0).is_err() {
        table_full();
    }
}

/// The call that this thread is in, which ends.
#[inline(always)]
fn end(thread: u64) -> Result<InflateCall, Skip> {
    let known = INFLATE_CALLS.get_ptr_mut(thread).ok_or(Skip)?;
    // SAFETY: as in `begin`.
    let known = unsafe { &mut *known };
    let call = *known;
    known.stream = 0;
    if call.stream == 0 { Err(Skip) } else { Ok(call) }
}

/// Tells what a call put out, when its stream is one that is told.
#[inline(always)]
fn came(thread: u64, call: &InflateCall, output: &Output) -> Result<(), Skip> {
    let key = StreamKey::new((thread >> 32) as u32, call.stream);
    if output.over || output.first {
        over(key);
    }
    if output.over || output.size > u64::from(u32::MAX) {
        return Err(Skip);
    }
    let stream = match INFLATE_STREAMS.get_ptr_mut(key) {
        Some(stream) => stream,
        // What a gateway says first is short: a body would not end a message so soon.
        None if output.size == 0 || !(output.later || (output.drained && output.between_blocks == Some(true))) => {
            return Err(Skip);
        }
        None if !look(call.base, output.size as u32).is_payload() => return Err(Skip),
        None => {
            if INFLATE_STREAMS.insert(key, InflateStream::new(now()), 0).is_err() {
                table_full();
                return Err(Skip);
            }
            INFLATE_STREAMS.get_ptr_mut(key).ok_or(Skip)?
        }
    };
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. No library allows two
    // threads to use one stream at once.
    let stream = unsafe { &mut *stream };
    let size = output.size as u32;
    stream.consumed = stream.consumed.wrapping_add(output.consumed as u32);
    let mut flags = 0;
    if stream.flags & INFLATE_WITHIN == 0 {
        if size == 0 {
            return Err(Skip);
        }
        flags = INFLATED_STARTS;
        stream.budget = look(call.base, size).budget();
    }
    let between_blocks = output.between_blocks.unwrap_or(stream.flags & INFLATE_BETWEEN_BLOCKS != 0);
    let ends = output.drained && between_blocks;
    stream.flags = if between_blocks { INFLATE_BETWEEN_BLOCKS } else { 0 } | if ends { 0 } else { INFLATE_WITHIN };
    stream.bytes += u64::from(size);
    if size == 0 && !ends {
        return Err(Skip);
    }
    let mut rest = Rest {
        thread,
        time_ns: now(),
        handle: call.stream,
        base: call.base,
        size,
        flags,
        ends: if ends { INFLATED_ENDS } else { 0 },
        consumed: if ends { core::mem::replace(&mut stream.consumed, 0) } else { 0 },
        piece: 0,
        wanted: 0,
    };
    let mut next = || tell_next(stream, &mut rest);
    // No loop: old kernels refuse one whose end the compiler places before its start.
    const { assert!(PIECES == 8) };
    let _done = next() || next() || next() || next() || next() || next() || next() || next();
    Ok(())
}

/// Tells the next piece of what a call put out; says whether it was the last.
#[inline(never)]
fn tell_next(stream: &mut InflateStream, rest: &mut Rest) -> bool {
    let room = if stream.budget < CAPTURE_MAX as u32 { stream.budget } else { CAPTURE_MAX as u32 };
    rest.wanted = if rest.size < room { rest.size } else { room };
    stream.budget -= rest.wanted;
    // What is not copied is told with the last piece that is.
    let last = rest.wanted == rest.size || stream.budget == 0;
    rest.piece = if last { rest.size } else { rest.wanted };
    if last {
        rest.flags |= rest.ends;
    }
    // As little of the ring as holds it; the sizes must be known to the verifier.
    let fitted = match rest.wanted {
        0..=64 => tell::<64>(stream, rest),
        65..=INFLATED_OTHER => tell::<{ INFLATED_OTHER as usize }>(stream, rest),
        _ => tell::<CAPTURE_MAX>(stream, rest),
    };
    if !fitted {
        stream.lost = stream.lost.wrapping_add(1);
    }
    rest.size -= rest.piece;
    rest.base += u64::from(rest.piece);
    rest.flags = 0;
    last
}

/// The first bytes of what lies at `base`: nothing shorter than a word is a payload.
#[inline(always)]
fn look(base: u64, size: u32) -> PayloadLook {
    let word = |number: u64| {
        let there = u64::from(size) >= (number + 1) * 8;
        // What cannot be read stays zeros, which begin no payload.
        if there { read_user::<u64>(base + number * 8).unwrap_or(0) } else { 0 }
    };
    PayloadLook::new([word(0), word(1)])
}

/// What a call put out and has not been told yet.
struct Rest {
    thread: u64,
    time_ns: u64,
    handle: u64,
    base: u64,
    size: u32,
    /// [`INFLATED_STARTS`] before the first piece of a message.
    flags: u32,
    /// [`INFLATED_ENDS`] when a message ends with it.
    ends: u32,
    /// Bytes that were taken in for that message.
    consumed: u32,
    /// Bytes that the next piece stands for.
    piece: u32,
    /// Bytes of the next piece that are to be copied, at most as many as there are.
    wanted: u32,
}

/// A record with room for what is captured.
#[repr(C)]
struct Captured<const ROOM: usize> {
    record: InflatedRecord,
    bytes: [u8; ROOM],
}

/// Puts the next piece on the ring, in an entry with room for `ROOM` bytes of it; says whether it fitted.
#[inline(never)]
fn tell<const ROOM: usize>(stream: &InflateStream, rest: &Rest) -> bool {
    let Some(mut entry) = RECORDS.reserve::<Captured<ROOM>>(0) else {
        lost_record(RecordKind::Inflated);
        return false;
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the pointer is to the entry's memory, of which so many bytes are for what is captured.
    let captured = unsafe { read_user_at_most::<ROOM>((&raw mut (*to).bytes).cast::<u8>(), rest.wanted, rest.base) };
    if captured != rest.wanted {
        // SAFETY: the pointer is to live counters.
        add_one(|counters| unsafe { &raw mut (*counters).unreadable });
    }
    let record = InflatedRecord {
        header: RecordHeader {
            version: ABI_VERSION,
            kind: RecordKind::Inflated as u8,
            padding: 0,
            length: size_of::<InflatedRecord>() as u32 + captured,
            time_ns: rest.time_ns,
            tgid: (rest.thread >> 32) as u32,
            tid: rest.thread as u32,
        },
        generation: stream.generation,
        handle: rest.handle,
        lost: stream.lost,
        size: rest.piece,
        captured,
        flags: rest.flags,
        consumed: rest.consumed,
        padding: 0,
    };
    // SAFETY: as above.
    unsafe { (&raw mut (*to).record).write(record) };
    submit(entry);
    true
}

/// Forgets a stream, and tells its end when it was told of.
#[inline(always)]
fn over(key: StreamKey) {
    let Some(stream) = INFLATE_STREAMS.get_ptr(key) else { return };
    // SAFETY: as in `came`.
    let stream = unsafe { *stream };
    if INFLATE_STREAMS.remove(key).is_err() {
        return;
    }
    let record = CloseRecord {
        header: header(RecordKind::InflateEnd, size_of::<CloseRecord>()),
        generation: stream.generation,
        handle: key.address,
        bytes_in: stream.bytes,
        bytes_out: 0,
        lost: stream.lost,
        padding: 0,
    };
    put(RecordKind::InflateEnd, Wake::Late, &record);
}
