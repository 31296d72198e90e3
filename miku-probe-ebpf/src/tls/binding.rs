//! Which socket carries a TLS stream, from the order of what a thread does.
//!
//! What a thread receives from a socket that carries TLS is noted in its entry of [`TLS_CALLS`]. It belongs to the stream
//! that takes it next, which is certain only when
//!
//! - the socket was read within the very call, as of a stream that has a descriptor; or
//! - the stream had been found empty before, so that what it now gives has come since, and nothing else that the thread
//!   has received waits to be taken, and it is more than the plaintext that came of it.
//!
//! Whoever receives from several sockets before it reads their streams leaves bytes of one socket untaken when those of
//! another come: then nothing is concluded from what that thread does for a while. A stream is bound after [`PAIRS`] such
//! sights of the same socket in a row; one of another socket undoes it at once.

use miku_probe_abi::{
    BindRecord, ConnectionKey, Direction, PAIRS, RECEIVED_MIXED, RECEIVED_WITHIN, RecordKind, STREAM_DRAINED, Stream,
    StreamKey, TlsCall,
};

use super::{STREAMS, TLS_CALLS, now, table_full};
use crate::maps::{Skip, Wake, header, put};

/// How long nothing is concluded from a thread that has mixed what it received: far longer than bytes wait in a process
/// before they are decrypted.
const QUIET_NS: u64 = 1_000_000_000;

/// The entry of a thread that has done nothing.
pub(super) const NOTHING: TlsCall = TlsCall {
    ssl: 0,
    base: 0,
    size: 0,
    out: 0,
    direction: 0,
    received: 0,
    socket_generation: 0,
    mixed_until: 0,
    fd: 0,
    received_flags: 0,
};

/// Notes that the running thread received `size` bytes from a socket that carries TLS.
#[inline(always)]
pub(crate) fn received(socket: ConnectionKey, tid: u32, generation: u64, size: u32) {
    let thread = u64::from(socket.tgid) << 32 | u64::from(tid);
    let Some(call) = TLS_CALLS.get_ptr_mut(thread) else {
        let call = TlsCall { received: size, socket_generation: generation, fd: socket.fd, ..NOTHING };
        if TLS_CALLS.insert(thread, call, 0).is_err() {
            table_full();
        }
        return;
    };
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this
    // thread uses.
    let call = unsafe { &mut *call };
    let mut flags = 0;
    if call.received != 0 {
        flags = call.received_flags & RECEIVED_MIXED;
        if call.fd != socket.fd || call.socket_generation != generation {
            flags = RECEIVED_MIXED;
            call.mixed_until = now() + QUIET_NS;
        }
    }
    if call.ssl != 0 && call.direction == Direction::In as u32 {
        flags |= RECEIVED_WITHIN;
    }
    (call.fd, call.socket_generation, call.received) = (socket.fd, generation, size);
    call.received_flags = flags;
}

/// A read of the stream gave `size` bytes.
#[inline(always)]
pub(super) fn found(ssl: u64, stream: &mut Stream, call: &mut TlsCall, size: u32) {
    let drained = stream.flags & STREAM_DRAINED != 0;
    stream.flags &= !STREAM_DRAINED;
    take(ssl, stream, call, drained, size);
}

/// A read gave nothing: what the stream gives next will have come after now.
#[inline(always)]
pub(super) fn found_nothing(thread: u64, ssl: u64, call: &mut TlsCall) -> Result<(), Skip> {
    let stream = STREAMS.get_ptr_mut(StreamKey::new((thread >> 32) as u32, ssl)).ok_or(Skip)?;
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. No library allows two
    // threads to use one stream at once.
    let stream = unsafe { &mut *stream };
    stream.flags |= STREAM_DRAINED;
    // A piece of a record, or one that is not for the program. It tells nothing new, since a program also asks in vain.
    if call.received != 0 && (call.received_flags & RECEIVED_WITHIN != 0 || same(stream, call)) {
        call.received = 0;
    }
    Ok(())
}

/// A call that works on the stream's handshake returned: but for the first, it is made when something has come.
#[inline(always)]
pub(super) fn shook_hands(thread: u64, ssl: u64, stream: &mut Stream, result: i32) {
    let Some(call) = TLS_CALLS.get_ptr_mut(thread) else { return };
    // SAFETY: as in `received`.
    let call = unsafe { &mut *call };
    // No handshake ends well before something has come.
    let came = result == 1 || stream.handshake_ended != 0;
    take(ssl, stream, call, came, 0);
    if result == 1 {
        // What came with the end of the handshake waits in the stream.
        stream.flags &= !STREAM_DRAINED;
    }
}

/// Sees the stream together with the socket that the thread received from, when that is certain. `came` says whether what
/// the stream gave has come since it was found empty; it is of more than `least` bytes.
#[inline(always)]
fn take(ssl: u64, stream: &mut Stream, call: &mut TlsCall, came: bool, least: u32) {
    if call.received == 0 {
        return;
    }
    let within = call.received_flags & RECEIVED_WITHIN != 0;
    if !within && !came && !same(stream, call) {
        return;
    }
    let unmixed = call.received_flags & RECEIVED_MIXED == 0 && (call.mixed_until == 0 || now() > call.mixed_until);
    let certain = within || (came && unmixed && call.received > least);
    call.received = 0;
    if certain {
        pair(ssl, stream, call);
    }
}

/// Whether the thread received from the socket that the stream was last seen with.
#[inline(always)]
fn same(stream: &Stream, call: &TlsCall) -> bool {
    stream.socket_generation == call.socket_generation && stream.fd == call.fd
}

/// The stream was seen together with the socket. What cannot be told, since the ring is full, is left to the next time.
#[inline(always)]
fn pair(ssl: u64, stream: &mut Stream, call: &TlsCall) {
    if same(stream, call) {
        if stream.pairs + 1 == PAIRS && !tell(ssl, stream, 1) {
            return;
        }
        if stream.pairs < PAIRS {
            stream.pairs += 1;
        }
        return;
    }
    if stream.pairs == PAIRS && !tell(ssl, stream, 0) {
        return;
    }
    (stream.fd, stream.socket_generation, stream.pairs) = (call.fd, call.socket_generation, 1);
}

#[inline(always)]
fn tell(ssl: u64, stream: &Stream, bound: u32) -> bool {
    let record = BindRecord {
        header: header(RecordKind::Bind, size_of::<BindRecord>()),
        generation: stream.generation,
        handle: ssl,
        socket_generation: stream.socket_generation,
        fd: stream.fd,
        bound,
    };
    put(RecordKind::Bind, Wake::Late, &record)
}
