//! What watched processes read from and write to their TLS streams, before it is encrypted and after it is decrypted.
//!
//! Hooks: uprobes in the TLS libraries that a process has mapped, at places that user space chooses. A read or a write is
//! two of them: the entry keeps the arguments by thread, the exit looks at the result. An exit is a return probe or a plain
//! probe on an instruction where the result stands in a register, whichever user space tells by a cookie. Kernels before 5.15
//! pass none, so what can do without is a program a form of the function.
//!
//! Programs on uprobes run preemptibly: another task may run one on the same processor in the midst of this one. So
//! nothing here uses memory of the processor's.
//!
//! Bounds: one call of a kind a thread (a read that is made by another one's callback hides the outer one); of what it moved
//! what `segment.rs` says.

mod binding;

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user_str,
};
use aya_ebpf::macros::{map, raw_tracepoint, uprobe};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use miku_probe_abi::{
    CloseRecord, Direction, HandshakeRecord, NAME_MAX, ProcessRecord, RECEIVED_WITHIN, RecordKind, SCRUB_PIECE,
    SCRUB_PIECES, STREAM_ESTABLISHED, ServerNameRecord, Stream, StreamKey, TlsCall, TlsError, TlsExit,
};

pub(crate) use self::binding::received;
use crate::maps::{RECORDS, Skip, Wake, add_one, current, header, lost_record, put, submit};
use crate::memory::{read_kernel, read_user};
use crate::segment::{Course, Segment};

/// The streams of watched processes. User space sets the size.
#[map]
static STREAMS: HashMap<StreamKey, Stream> = HashMap::with_max_entries(32768, 0);

/// Reads and writes that have begun, by thread. An entry stays when the call has ended, with `ssl` 0, since to make and
/// remove one costs much more than to find it; those of threads that are long gone make room for others.
#[map]
static TLS_CALLS: LruHashMap<u64, TlsCall> = LruHashMap::with_max_entries(8192, 0);

/// Handshakes that are being worked on, by thread: a call of its own, for a library may do it within a read.
#[map]
static TLS_HANDSHAKES: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// `SSL_CTRL_SET_TLSEXT_HOSTNAME` and `TLSEXT_NAMETYPE_host_name` of `openssl/tls1.h`.
const SET_HOST_NAME: u32 = 55;
const HOST_NAME: u64 = 0;

/// How a function says what it did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The result is the number of bytes, as an `int`.
    Plain,
    /// The result is 1, and the number of bytes is written to where an argument points.
    Ex,
}

#[uprobe]
pub(crate) fn tls_read(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    begin(&ctx, Direction::In, unsafe { (*ctx.regs).rcx });
    0
}

#[uprobe]
pub(crate) fn tls_read_r8(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    begin(&ctx, Direction::In, unsafe { (*ctx.regs).r8 });
    0
}

#[uprobe]
pub(crate) fn tls_write(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    begin(&ctx, Direction::Out, unsafe { (*ctx.regs).rcx });
    0
}

#[uprobe]
pub(crate) fn tls_write_r8(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    begin(&ctx, Direction::Out, unsafe { (*ctx.regs).r8 });
    0
}

#[uprobe]
pub(crate) fn tls_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let _: Result<(), Skip> = end(unsafe { (*ctx.regs).rax }, Form::Plain);
    0
}

#[uprobe]
pub(crate) fn tls_return_ex(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let _: Result<(), Skip> = end(unsafe { (*ctx.regs).rax }, Form::Ex);
    0
}

/// An instruction on a way out of a read or a write. For kernels that pass a cookie: see [`TlsExit`].
#[uprobe]
pub(crate) fn tls_exit(ctx: ProbeContext) -> u32 {
    let _: Result<(), Skip> = try_exit(&ctx);
    0
}

#[inline(always)]
fn try_exit(ctx: &ProbeContext) -> Result<(), Skip> {
    let exit = exit(ctx);
    end(result(ctx, exit)?, if exit.is_ex() { Form::Ex } else { Form::Plain })
}

/// What user space says of the instruction that was reached.
#[inline(always)]
fn exit(ctx: &ProbeContext) -> TlsExit {
    // SAFETY: the helper wants the program's context.
    TlsExit(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) })
}

/// The call's result, from the register where it stands at this exit.
#[inline(always)]
fn result(ctx: &ProbeContext, exit: TlsExit) -> Result<u64, Skip> {
    // The verifier allows no load at an offset that it does not know.
    read_kernel(ctx.regs as u64 + u64::from(exit.register_offset()))
}

#[inline(always)]
fn begin(ctx: &ProbeContext, direction: Direction, out: u64) {
    // SAFETY: the kernel passes the registers, and the verifier holds the loads to their places.
    let (ssl, base, size) = unsafe { ((*ctx.regs).rdi, (*ctx.regs).rsi, (*ctx.regs).rdx) };
    let thread = thread();
    if let Some(known) = TLS_CALLS.get_ptr_mut(thread) {
        // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this
        // thread uses.
        let known = unsafe { &mut *known };
        (known.ssl, known.base, known.size, known.out) = (ssl, base, size, out);
        known.direction = direction as u32;
        // What was received before is not received within this call.
        known.received_flags &= !RECEIVED_WITHIN;
        return;
    }
    let call = TlsCall { ssl, base, size, out, direction: direction as u32, ..binding::NOTHING };
    if TLS_CALLS.insert(thread, call, 0).is_err() {
        table_full();
    }
}

#[inline(always)]
fn end(result: u64, form: Form) -> Result<(), Skip> {
    let thread = thread();
    let known = TLS_CALLS.get_ptr_mut(thread).ok_or(Skip)?;
    // SAFETY: as in `begin`.
    let call = unsafe { &mut *known };
    if call.ssl == 0 {
        return Err(Skip);
    }
    let ssl = call.ssl;
    call.ssl = 0;
    let result = result as i32;
    let (size, room) = match form {
        Form::Plain if result > 0 => (result as u64, u64::from(call.size as u32)),
        Form::Ex if result == 1 => (read_user::<u64>(call.out)?, call.size),
        _ if call.direction == Direction::In as u32 => return binding::found_nothing(thread, ssl, call),
        _ => return Err(Skip),
    };
    // More than there was room for is no number of bytes.
    if size == 0 || size > room || size > u64::from(u32::MAX) {
        return Err(Skip);
    }
    moved(thread, ssl, call, size as u32)
}

/// Counts what a call moved, and tells it when the stream is one whose segments are told.
#[inline(always)]
fn moved(thread: u64, ssl: u64, call: &mut TlsCall, size: u32) -> Result<(), Skip> {
    let stream = stream((thread >> 32) as u32, ssl)?;
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. No library allows two
    // threads to use one stream at once.
    let stream = unsafe { &mut *stream };
    // What reads or writes has ended its handshake, whichever call did it.
    stream.flags |= STREAM_ESTABLISHED;
    if call.direction == Direction::In as u32 {
        stream.bytes_in += u64::from(size);
        binding::found(ssl, stream, call, size);
    } else {
        stream.bytes_out += u64::from(size);
    }

    let mut segment = Segment::NOTHING;
    segment.of((thread >> 32) as u32, thread as u32, stream.generation, ssl);
    (segment.base, segment.size, segment.direction) = (call.base, size, call.direction);
    let course = Course {
        flags: stream.flags,
        budget: &mut stream.budget,
        direction: &mut stream.direction,
        lost: &mut stream.lost,
    };
    stream.flags = course.follow::<false>(&mut segment);
    Ok(())
}

#[uprobe]
pub(crate) fn tls_handshake(ctx: ProbeContext) -> u32 {
    let _: Result<(), Skip> = try_handshake(&ctx);
    0
}

#[inline(always)]
fn try_handshake(ctx: &ProbeContext) -> Result<(), Skip> {
    // SAFETY: as in `begin`.
    let ssl = unsafe { (*ctx.regs).rdi };
    let stream = stream(current().0, ssl)?;
    // SAFETY: as in `moved`.
    let stream = unsafe { &mut *stream };
    if stream.flags & STREAM_ESTABLISHED != 0 {
        return Err(Skip);
    }
    if stream.handshake_began == 0 {
        stream.handshake_began = now();
    }
    if TLS_HANDSHAKES.insert(thread(), ssl, 0).is_err() {
        table_full();
    }
    Ok(())
}

#[uprobe]
pub(crate) fn tls_handshake_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let _: Result<(), Skip> = end_handshake(unsafe { (*ctx.regs).rax });
    0
}

/// An instruction on a way out of a handshake, as [`tls_exit`].
#[uprobe]
pub(crate) fn tls_handshake_exit(ctx: ProbeContext) -> u32 {
    let _: Result<(), Skip> = result(&ctx, exit(&ctx)).and_then(|result| end_handshake(result));
    0
}

#[inline(always)]
fn end_handshake(result: u64) -> Result<(), Skip> {
    let thread = thread();
    let ssl = TLS_HANDSHAKES.get_ptr(thread).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value, which only this thread changes.
    let ssl = unsafe { *ssl };
    TLS_HANDSHAKES.remove(thread).map_err(|_| Skip)?;
    let result = result as i32;
    let stream = stream(current().0, ssl)?;
    // SAFETY: as in `moved`.
    let stream = unsafe { &mut *stream };
    if result == 1 && stream.handshake_ended == 0 && is_moved(thread, ssl) {
        // No first words are answered within a read or a write: it was what comes after a handshake, such as a ticket, of a
        // stream that had not been seen.
        stream.flags |= STREAM_ESTABLISHED;
        return Err(Skip);
    }
    binding::shook_hands(thread, ssl, stream, result);
    stream.handshake_ended = now();
    stream.handshake_result = result;
    // Any other result without an error may be one that is tried again: then only that the stream is freed, which may be
    // much later, tells that it failed.
    if (result == 1 || stream.error != 0) && stream.flags & STREAM_ESTABLISHED == 0 {
        stream.flags |= STREAM_ESTABLISHED;
        handshake_ended(ssl, stream);
    }
    Ok(())
}

/// Whether the thread is in the midst of reading from the stream or writing to it.
#[inline(always)]
fn is_moved(thread: u64, ssl: u64) -> bool {
    // SAFETY: as in `begin`.
    TLS_CALLS.get_ptr(thread).is_some_and(|call| unsafe { (*call).ssl } == ssl)
}

#[inline(always)]
fn handshake_ended(ssl: u64, stream: &Stream) {
    let record = HandshakeRecord {
        header: header(RecordKind::Handshake, size_of::<HandshakeRecord>()),
        generation: stream.generation,
        handle: ssl,
        duration_ns: stream.handshake_ended - stream.handshake_began,
        result: stream.handshake_result,
        error: stream.error,
    };
    put(RecordKind::Handshake, Wake::Late, &record);
}

/// `ERR_vset_error(lib, reason, fmt, args)` or `ERR_set_error(lib, reason, fmt, ...)`, of OpenSSL 3 and later.
#[uprobe]
pub(crate) fn tls_error(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let (library, reason) = unsafe { ((*ctx.regs).rdi as u32, (*ctx.regs).rsi as u32) };
    if library == TlsError::OPENSSL {
        let _: Result<(), Skip> = raised(TlsError::new(library, reason));
    }
    0
}

/// `ERR_put_error(lib, func, reason, file, line)`, of OpenSSL until 1.1 and of BoringSSL.
#[uprobe]
pub(crate) fn tls_put_error(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let (library, reason) = unsafe { ((*ctx.regs).rdi as u32, (*ctx.regs).rdx as u32) };
    if library == TlsError::OPENSSL || library == TlsError::BORINGSSL {
        let _: Result<(), Skip> = raised(TlsError::new(library, reason));
    }
    0
}

/// Keeps the first error that is raised in a stream's handshake: those that follow tell only what became of it.
#[inline(always)]
fn raised(error: TlsError) -> Result<(), Skip> {
    let thread = thread();
    let ssl = if let Some(ssl) = TLS_HANDSHAKES.get_ptr(thread) {
        // SAFETY: as in `end_handshake`.
        unsafe { *ssl }
    } else {
        // SAFETY: as in `begin`.
        unsafe { (*TLS_CALLS.get_ptr(thread).ok_or(Skip)?).ssl }
    };
    let stream = STREAMS.get_ptr_mut(StreamKey::new((thread >> 32) as u32, ssl)).ok_or(Skip)?;
    // SAFETY: as in `moved`.
    let stream = unsafe { &mut *stream };
    if stream.flags & STREAM_ESTABLISHED == 0 && stream.error == 0 {
        stream.error = error.0;
    }
    Ok(())
}

/// `SSL_ctrl(ssl, cmd, larg, parg)`, which the macro `SSL_set_tlsext_host_name` is.
#[uprobe]
pub(crate) fn tls_control(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let (command, kind, name) = unsafe { ((*ctx.regs).rsi as u32, (*ctx.regs).rdx, (*ctx.regs).rcx) };
    if command == SET_HOST_NAME && kind == HOST_NAME {
        let _: Result<(), Skip> = try_server_name(&ctx, name);
    }
    0
}

/// `SSL_set_tlsext_host_name(ssl, name)`, which is a function in BoringSSL.
#[uprobe]
pub(crate) fn tls_server_name(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `begin`.
    let name = unsafe { (*ctx.regs).rsi };
    let _: Result<(), Skip> = try_server_name(&ctx, name);
    0
}

#[inline(always)]
fn try_server_name(ctx: &ProbeContext, name: u64) -> Result<(), Skip> {
    if name == 0 {
        return Err(Skip);
    }
    // SAFETY: as in `begin`.
    let ssl = unsafe { (*ctx.regs).rdi };
    let stream = stream(current().0, ssl)?;
    // SAFETY: as in `moved`.
    let generation = unsafe { (*stream).generation };
    let Some(mut entry) = RECORDS.reserve::<ServerNameRecord>(0) else {
        lost_record(RecordKind::ServerName);
        return Err(Skip);
    };
    let to = entry.as_mut_ptr();
    // SAFETY: the pointer is to the entry's memory, which has room for as many bytes as are asked for; the helper checks
    // the source itself.
    let length = unsafe {
        bpf_probe_read_user_str((&raw mut (*to).name).cast::<c_void>(), NAME_MAX as u32, name as *const c_void)
    };
    // It counts the zero at its end.
    if length <= 1 || length > NAME_MAX as i64 {
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
        return Err(Skip);
    }
    let header = header(RecordKind::ServerName, size_of::<ServerNameRecord>());
    // SAFETY: as above.
    unsafe {
        (&raw mut (*to).header).write(header);
        (&raw mut (*to).generation).write(generation);
        (&raw mut (*to).handle).write(ssl);
        (&raw mut (*to).length).write(length as u32 - 1);
        (&raw mut (*to).padding).write(0);
    }
    submit(entry);
    Ok(())
}

#[uprobe]
pub(crate) fn tls_free(ctx: ProbeContext) -> u32 {
    let _: Result<(), Skip> = try_free(&ctx);
    0
}

#[inline(always)]
fn try_free(ctx: &ProbeContext) -> Result<(), Skip> {
    // SAFETY: as in `begin`.
    let ssl = unsafe { (*ctx.regs).rdi };
    let key = StreamKey::new(current().0, ssl);
    let stream = STREAMS.get_ptr(key).ok_or(Skip)?;
    // SAFETY: as in `moved`.
    let stream = unsafe { *stream };
    STREAMS.remove(key).map_err(|_| Skip)?;
    if stream.flags & STREAM_ESTABLISHED == 0 && stream.handshake_ended != 0 {
        handshake_ended(ssl, &stream);
    }
    let record = CloseRecord {
        header: header(RecordKind::Free, size_of::<CloseRecord>()),
        generation: stream.generation,
        handle: ssl,
        bytes_in: stream.bytes_in,
        bytes_out: stream.bytes_out,
        lost: stream.lost,
        padding: 0,
    };
    put(RecordKind::Free, Wake::Late, &record);
    Ok(())
}

/// `_dl_debug_state()`, which the dynamic loader calls before and after it changes the list of loaded libraries.
#[uprobe]
pub(crate) fn libraries(_ctx: ProbeContext) -> u32 {
    let header = header(RecordKind::Libraries, size_of::<ProcessRecord>());
    let record = ProcessRecord { header, child: 0, port: 0, padding: 0 };
    put(RecordKind::Libraries, Wake::Late, &record);
    0
}

/// Overwrites as much of the ring as its first argument says, in pieces of [`SCRUB_PIECE`], with zeros that the reader
/// passes over. User space runs it, so that what was captured does not stay readable in the ring's memory.
#[raw_tracepoint]
pub(crate) fn scrub(ctx: RawTracePointContext) -> i32 {
    let pieces: u64 = ctx.arg(0);
    for place in 0..u64::from(SCRUB_PIECES) {
        if place >= pieces {
            break;
        }
        let Some(mut entry) = RECORDS.reserve::<[u8; SCRUB_PIECE]>(0) else { return 1 };
        let to = entry.as_mut_ptr().cast::<c_void>();
        // SAFETY: the entry has room for as many bytes. Nothing is readable at address 0, and then the helper fills the
        // destination with zeros, on every kernel that has it.
        unsafe { bpf_probe_read_kernel(to, SCRUB_PIECE as u32, core::ptr::null()) };
        entry.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
    0
}

/// The stream at this address in the running process; a new one when it was not known.
#[inline(always)]
fn stream(tgid: u32, ssl: u64) -> Result<*mut Stream, Skip> {
    let key = StreamKey::new(tgid, ssl);
    if let Some(stream) = STREAMS.get_ptr_mut(key) {
        return Ok(stream);
    }
    if STREAMS.insert(key, Stream::new(now()), 0).is_err() {
        table_full();
        return Err(Skip);
    }
    STREAMS.get_ptr_mut(key).ok_or(Skip)
}

#[inline(always)]
pub(crate) fn thread() -> u64 {
    bpf_get_current_pid_tgid()
}

#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
pub(crate) fn table_full() {
    // SAFETY: the pointer is to live counters.
    add_one(|counters| unsafe { &raw mut (*counters).table_full });
}
