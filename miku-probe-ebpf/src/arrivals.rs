//! When what bots read had come to their sockets: how long it lay unread.
//!
//! Hooks: `tcp:tcp_probe`, which the kernel passes with each segment of an established connection before it takes that in;
//! attached only once a bot is known. What is read is noticed by `socket/by_socket.rs`, so it takes Linux 6.3: the one program
//! that notices it on older kernels is as large as their verifiers allow.
//!
//! A socket is kept in mind from the first read on. Of each segment it is known which bytes it brings, by their sequence
//! numbers. What had waited for [`ARRIVAL_WAIT_NS`] when it was read is told, before the bytes themselves are; user space
//! finds out which bytes came when. Bytes of a segment that was not noticed here, or came out of order, are of no known time.
//!
//! Bounds: [`ARRIVALS`] times a socket, later ones over earlier ones; sockets of which nothing was heard longest make room
//! for others.

use core::ffi::c_void;
use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, LruHashMap};
use aya_ebpf::programs::RawTracePointContext;
use miku_probe_abi::{
    ARRIVAL_APART_NS, ARRIVAL_WAIT_NS, ARRIVALS, Arrival, ArrivalOffsets, Arrivals, ArrivalsRecord, Connection,
    ConnectionKey, RecordKind, TARGET_ARRIVALS,
};

use crate::maps::{RECORDS, Skip, Wake, header, is_told, lost_record, put, socket_offsets, submit};
use crate::memory::read_kernel;
use crate::net::IPPROTO_TCP;
use crate::tls::{now, table_full};

/// What came to the sockets of bots, by the kernel's address of them.
#[map]
static ARRIVED: LruHashMap<u64, Arrivals> = LruHashMap::with_max_entries(256, 0);

/// What is entered for a new one: nothing. It is too much for the stack.
#[map]
static ARRIVED_NOTHING: Array<Arrivals> = Array::with_max_entries(1, 0);

/// Where this kernel keeps what is read here.
#[unsafe(no_mangle)]
static ARRIVAL_OFFSETS: ArrivalOffsets = ArrivalOffsets { rcv_nxt: 0, copied_seq: 0, end_seq: 0 };

#[inline(always)]
fn places() -> ArrivalOffsets {
    // SAFETY: a static of this object; volatile, because user space sets it before the program is loaded.
    unsafe { read_volatile(&raw const ARRIVAL_OFFSETS) }
}

/// By `TP_PROTO(const struct sock *sk, const struct sk_buff *skb)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_probe")]
pub(crate) fn tcp_arrival(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_arrival(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn try_arrival(socket: u64, buffer: u64) -> Result<(), Skip> {
    let known = ARRIVED.get_ptr_mut(socket).ok_or(Skip)?;
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. Only one processor at a time
    // takes in segments of a socket.
    let known = unsafe { &mut *known };
    let places = places();
    let from: u32 = read_kernel(socket + u64::from(places.rcv_nxt))?;
    let to: u32 = read_kernel(buffer + u64::from(places.end_seq))?;
    if to.wrapping_sub(from) as i32 <= 0 {
        // It brings nothing new.
        return Err(Skip);
    }
    let read: u32 = read_kernel(socket + u64::from(places.copied_seq))?;
    let time_ns = now();
    if read == from {
        (known.unread_ns, known.unread_from) = (time_ns, from);
    }
    let place = known.latest as usize % ARRIVALS;
    let latest = &mut known.segments[place];
    if latest.to == from && time_ns - latest.time_ns < ARRIVAL_APART_NS {
        latest.to = to;
        return Ok(());
    }
    // One that did not move the connection on, since it came too early, is forgotten.
    let next = if latest.from == from { place } else { (place + 1) % ARRIVALS };
    known.segments[next] = Arrival { time_ns, from, to };
    known.latest = next as u32;
    Ok(())
}

/// The running thread read `size` bytes from a connection: tells when they had come, if they had waited.
#[inline(never)]
pub(crate) fn read(key: &ConnectionKey, connection: *const Connection, size: u32) -> Result<(), Skip> {
    let ConnectionKey { tgid, fd } = *key;
    if !is_told(tgid, TARGET_ARRIVALS) {
        return Err(Skip);
    }
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type.
    let connection = unsafe { &*connection };
    let socket = connection.socket;
    let Some(known) = ARRIVED.get_ptr_mut(socket) else { return begin(socket) };
    // SAFETY: as in `try_arrival`. What comes meanwhile may take the place of a time that is told, and is told instead: that
    // of bytes that are not among those at hand.
    let known = unsafe { &mut *known };
    let end: u32 = read_kernel(socket + u64::from(places().copied_seq))?;
    // If something has come since, the mark is that of it.
    let waited = known.unread_from == end || now() - known.unread_ns >= ARRIVAL_WAIT_NS;
    let again = core::mem::replace(&mut known.told, u32::from(waited));
    if waited {
        return tell(connection, fd, end, size, known);
    }
    if again != 0 {
        let header = header(RecordKind::Arrivals, size_of::<ArrivalsRecord>());
        let record = ArrivalsRecord { header, generation: connection.generation, handle: fd as u64, end, size };
        put(RecordKind::Arrivals, Wake::Late, &record);
    }
    Ok(())
}

/// Keeps a socket in mind from now on, if it is TCP's.
#[inline(always)]
fn begin(socket: u64) -> Result<(), Skip> {
    let protocol: u16 = read_kernel(socket + u64::from(socket_offsets().protocol))?;
    if protocol != IPPROTO_TCP {
        return Err(Skip);
    }
    let nothing = ARRIVED_NOTHING.get(0).ok_or(Skip)?;
    if ARRIVED.insert(socket, nothing, 0).is_err() {
        table_full();
    }
    Ok(())
}

/// Forgets a socket; one that is not kept in mind is no error.
#[inline(always)]
pub(crate) fn forget(socket: u64) {
    let _: Result<(), Skip> = ARRIVED.remove(socket).map_err(|_| Skip);
}

/// The record and what follows it.
#[repr(C)]
struct Told {
    record: ArrivalsRecord,
    segments: [Arrival; ARRIVALS],
}

#[inline(always)]
fn tell(connection: &Connection, fd: i32, end: u32, size: u32, known: &Arrivals) -> Result<(), Skip> {
    let Some(mut entry) = RECORDS.reserve::<Told>(0) else {
        lost_record(RecordKind::Arrivals);
        return Err(Skip);
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the pointer is to the entry's memory, of which so many bytes are for what is copied. The source is read by the
    // helper, since it changes meanwhile.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut (*to).segments).cast::<c_void>(),
            size_of::<[Arrival; ARRIVALS]>() as u32,
            (&raw const known.segments).cast::<c_void>(),
        );
        (&raw mut (*to).record.header).write(header(RecordKind::Arrivals, size_of::<Told>()));
        (&raw mut (*to).record.generation).write(connection.generation);
        (&raw mut (*to).record.handle).write(fd as u64);
        (&raw mut (*to).record.end).write(end);
        (&raw mut (*to).record.size).write(size);
    }
    submit(entry);
    Ok(())
}
