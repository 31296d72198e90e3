//! Sockets noticed by their own tracepoints, from Linux 6.3 on: no system call is hooked, so that none becomes slower.
//!
//! Hooks: `sock:sock_recv_length` and `sock:sock_send_length` tell what moves, within the system call that the task's
//! saved registers tell; `sock:inet_sock_set_state` and `tcp:tcp_destroy_sock` tell closings of TCP sockets. A connection
//! becomes known by its first bytes, and a descriptor that is used again by its socket. Closings of other sockets are told
//! by `syscalls:sys_enter_close`, which is attached only while there are Unix sockets to follow.
//!
//! Each is there twice, and user space attaches one of the two. In its ordinary form a tracepoint runs no program on a
//! processor where another one runs, or where a map is just changed by a system call. In its raw form it runs its programs
//! then too, and at less cost, but from Linux 7 on preemptibly: while the task of one is preempted, the kernel leaves that
//! program out for all others on the processor.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::{map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::{RawTracePointContext, TracePointContext};
use miku_probe_abi::{Connection, ConnectionKey, Direction, FILTER_ARRIVALS, LengthEvent, OpenRecord, Origin};

use super::{AF_INET, AF_INET6, AF_UNIX, Call, Shape, UNMOVED, close, number, open, opening, tells};
use crate::connections;
use crate::maps::{SOCKETS, Skip, count, current, field, filter, maybe_watched, offsets, socket_offsets, watched};
use crate::memory::{read_kernel, read_user_bytes, task_registers};
use crate::state::{Change, states};

/// What a socket enters whose own process ends its side.
const ENDED: [i32; 2] = [states::FIN_WAIT1, states::LAST_ACK];

/// Sizes of `struct sockaddr_in`, `struct sockaddr_in6` and of a `struct sockaddr_un` without a path; where the second
/// keeps its address.
const INET_SIZE: u32 = 16;
const INET6_SIZE: u32 = 28;
const UNIX_SIZE: u32 = 2;
const INET6_AT: usize = 8;

/// The connection that becomes known now: too much for the stack.
#[map]
static OPENING: PerCpuArray<OpenRecord> = PerCpuArray::with_max_entries(1, 0);

#[tracepoint(category = "sock", name = "sock_recv_length")]
pub(crate) fn sock_recv_length(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_length(Direction::In, || Length::of_event(&ctx));
    0
}

#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub(crate) fn sock_recv_length_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_length(Direction::In, || Length::of_arguments(&ctx));
    0
}

#[tracepoint(category = "sock", name = "sock_send_length")]
pub(crate) fn sock_send_length(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_length(Direction::Out, || Length::of_event(&ctx));
    0
}

#[raw_tracepoint(tracepoint = "sock_send_length")]
pub(crate) fn sock_send_length_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_length(Direction::Out, || Length::of_arguments(&ctx));
    0
}

/// What a socket moved.
struct Length {
    /// The kernel's address of the socket.
    socket: u64,
    /// Bytes, or the negative error.
    result: i64,
    /// `MSG_*`.
    flags: u64,
}

impl Length {
    #[inline(always)]
    fn of_event(ctx: &TracePointContext) -> Self {
        let event = ctx.as_ptr() as *const LengthEvent;
        // SAFETY: a tracepoint's context holds its fields, which user space has found where the layout says.
        unsafe {
            Self {
                socket: (&raw const (*event).sk).read_volatile(),
                result: i64::from((&raw const (*event).ret).read_volatile()),
                flags: (&raw const (*event).flags).read_volatile() as u64,
            }
        }
    }

    /// By `TP_PROTO(struct sock *sk, int ret, int flags)` of `trace/events/sock.h`.
    #[inline(always)]
    fn of_arguments(ctx: &RawTracePointContext) -> Self {
        Self { socket: ctx.arg(0), result: i64::from(ctx.arg::<i32>(1)), flags: ctx.arg::<i32>(2) as u64 }
    }
}

/// A socket moved bytes, or failed to.
#[inline(always)]
fn try_length(direction: Direction, length: impl FnOnce() -> Length) -> Result<(), Skip> {
    let (tgid, tid) = current();
    if !maybe_watched(tgid) {
        return Err(Skip);
    }
    let Length { socket, result, flags } = length();
    let peeked = direction == Direction::In && flags & UNMOVED != 0;
    if peeked || (result < 0 && !tells(result)) {
        return Err(Skip);
    }
    let registers = task_registers();
    let (shape, fd) = match registers.orig_ax {
        number::READ | number::WRITE | number::RECVFROM | number::SENDTO => (Shape::Buffer, registers.di as i32),
        number::READV | number::WRITEV => (Shape::Vector, registers.di as i32),
        number::RECVMSG | number::SENDMSG => (Shape::Message, registers.di as i32),
        // One event a message: its bytes are not looked for.
        number::RECVMMSG | number::SENDMMSG | number::SENDFILE => (Shape::File, registers.di as i32),
        // Others, such as `splice`, name the descriptor elsewhere or not at all.
        _ => (Shape::File, owner(socket)?.fd),
    };
    let call = Call { key: ConnectionKey { tgid, fd }, tid, result, registers: &registers };
    let connection = connection(&call, socket)?;
    if direction == Direction::In && result > 0 && filter(tgid) & FILTER_ARRIVALS != 0 {
        // Without it the bytes are told all the same.
        let _: Result<(), Skip> = crate::arrivals::read(&call.key, connection, result as u32);
    }
    call.moved(connection, direction, shape)
}

/// The connection of this call; when the socket was not seen on this descriptor before, a new one.
#[inline(always)]
fn connection(call: &Call<'_>, socket: u64) -> Result<*mut Connection, Skip> {
    let known = connections::find(call.key);
    if let Some(connection) = known
        // SAFETY: the pointer is to a live map value.
        && unsafe { (*connection).socket } == socket
    {
        return Ok(connection);
    }
    if call.result <= 0 || !watched(call.key.tgid) {
        return Err(Skip);
    }
    let family: u16 = read_kernel(socket + u64::from(socket_offsets().family))?;
    if !matches!(u64::from(family), AF_UNIX | AF_INET | AF_INET6) {
        return Err(Skip);
    }
    if known.is_some() {
        // Its descriptor is used again, so it was closed, which nobody told.
        replace(call.key)?;
    }
    appear(call, socket, family)?;
    connections::find(call.key).ok_or(Skip)
}

/// Closes what was on this descriptor before. On its own, as [`appear`] is, since what either needs is too much for the stack
/// beside the other's and what is needed to tell bytes.
#[inline(never)]
fn replace(key: ConnectionKey) -> Result<(), Skip> {
    let older = connections::find(key).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value.
    let older = unsafe { *older };
    close(key, &older)
}

/// A socket of this family is seen for the first time on this descriptor.
#[inline(never)]
fn appear(call: &Call<'_>, socket: u64, family: u16) -> Result<(), Skip> {
    let at = socket_offsets();
    let socket_type: u16 = read_kernel(socket + u64::from(at.socket_type))?;
    let record = OPENING.get_ptr_mut(0).ok_or(Skip)?;
    // SAFETY: the pointer is to this processor's own value, and nothing else of this program runs on it meanwhile.
    let record = unsafe { &mut *record };
    *record = opening(call.key, Origin::FirstSeen, socket_type, socket);
    name_peer(record, family, socket)?;
    if record.address_length == 0 && call.registers.orig_ax == number::SENDTO {
        // A datagram that is sent without `connect` names its destination itself.
        let size = if u64::from(family) == AF_INET { INET_SIZE } else { INET6_SIZE };
        let (address, length) = (call.registers.r8, call.registers.r9 as u32);
        if address != 0 && length >= size && read_user_bytes(record.address.as_mut_ptr(), size, address) {
            record.address_length = size;
        }
    }
    open(call.key, record)?;
    if SOCKETS.insert(socket, call.key, 0).is_err() {
        count(|counters| counters.table_full += 1);
    }
    Ok(())
}

/// Writes down the address of a socket's other side, in the layout that system calls use; nothing when it has none.
#[inline(always)]
fn name_peer(record: &mut OpenRecord, family: u16, socket: u64) -> Result<(), Skip> {
    let at = socket_offsets();
    record.address[..2].copy_from_slice(&family.to_ne_bytes());
    if u64::from(family) == AF_UNIX {
        record.address_length = UNIX_SIZE;
        return Ok(());
    }
    let port: [u8; 2] = read_kernel(socket + u64::from(at.dport))?;
    if port == [0; 2] {
        return Ok(());
    }
    record.address[2..4].copy_from_slice(&port);
    if u64::from(family) == AF_INET {
        let address: [u8; 4] = read_kernel(socket + u64::from(at.daddr))?;
        record.address[4..8].copy_from_slice(&address);
        record.address_length = INET_SIZE;
    } else {
        let address: [u8; 16] = read_kernel(socket + u64::from(at.v6_daddr))?;
        record.address[INET6_AT..INET6_AT + 16].copy_from_slice(&address);
        record.address_length = INET6_SIZE;
    }
    Ok(())
}

/// Whose a socket is.
#[inline(always)]
fn owner(socket: u64) -> Result<ConnectionKey, Skip> {
    let key = SOCKETS.get_ptr(socket).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value.
    Ok(unsafe { *key })
}

#[tracepoint(category = "sock", name = "inet_sock_set_state")]
pub(crate) fn sock_set_state(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = Change::of_event(&ctx).and_then(|change| try_set_state(&change));
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub(crate) fn sock_set_state_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_set_state(&Change::of_arguments(&ctx));
    0
}

#[inline(always)]
fn try_set_state(change: &Change) -> Result<(), Skip> {
    if !ENDED.contains(&change.now)
        || SOCKETS.get_ptr(change.socket).is_none()
        || task_registers().orig_ax == number::SHUTDOWN
    {
        return Err(Skip);
    }
    closed(change.socket)
}

#[tracepoint(category = "tcp", name = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = field(&ctx, offsets().destroy_skaddr).and_then(closed);
    0
}

/// By `TP_PROTO(struct sock *sk)` of `trace/events/tcp.h`.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub(crate) fn tcp_destroy_sock_raw(ctx: RawTracePointContext) -> i32 {
    let _: Result<(), Skip> = closed(ctx.arg(0));
    0
}

/// A socket was closed by the process that used it last.
#[inline(always)]
fn closed(socket: u64) -> Result<(), Skip> {
    let key = owner(socket)?;
    let _: Result<(), Skip> = SOCKETS.remove(socket).map_err(|_| Skip);
    let connection = connections::find(key).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value.
    let connection = unsafe { *connection };
    if connection.socket != socket {
        return Err(Skip);
    }
    close(key, &connection)
}
