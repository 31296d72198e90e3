//! Sockets noticed by the system calls on them, on kernels before 6.3.
//!
//! Hooks: the tracepoint `sys_exit` in its form with type information, so that registers are loaded and not copied; it
//! sees a call's arguments and its result at once, so that nothing has to be kept between entry and exit; and
//! `syscalls:sys_enter_close`, since a descriptor is free for others before `close` returns.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, TracePointContext};
use miku_probe_abi::{ADDRESS_MAX, CONNECTION_TOLD, Connection, ConnectionKey, Direction, Origin, RecordKind};

use super::{AF_INET, AF_INET6, AF_UNIX};
use super::{Call, SOCK_STREAM, SOCK_TYPE_MASK, Shape, UNMOVED, close, errno, number, open, opening, tells};
use crate::connections;
use crate::maps::{Skip, Wake, current, field, maybe_watched, offsets, put, watched};
use crate::memory::{read_user, read_user_bytes};
use crate::registers::SavedRegisters;

/// Whether a call works on sockets only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// On any descriptor: a connection must be known already.
    Any,
    /// On sockets only.
    Socket,
}

#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    let _: Result<(), Skip> = try_sys_exit(&ctx);
    0
}

#[inline(always)]
fn try_sys_exit(ctx: &BtfTracePointContext) -> Result<(), Skip> {
    let (tgid, tid) = current();
    if !maybe_watched(tgid) {
        return Err(Skip);
    }
    let result: i64 = ctx.arg(1);
    if result < 0 && !tells(result) {
        return Err(Skip);
    }
    // SAFETY: the kernel passes the task's saved registers, and the verifier holds each load to their type.
    let registers = unsafe { SavedRegisters::load(ctx.arg(0)) };
    let key = ConnectionKey { tgid, fd: registers.di as i32 };
    let call = Call { key, tid, result, registers: &registers };
    match registers.orig_ax {
        number::ACCEPT | number::ACCEPT4 => call.accepted(),
        number::CONNECT => call.connected(),
        number::SOCKET => call.made(),
        number::READ => call.moved_on(Direction::In, Family::Any, Shape::Buffer),
        number::WRITE => call.moved_on(Direction::Out, Family::Any, Shape::Buffer),
        number::RECVFROM if registers.r10 & UNMOVED == 0 => call.moved_on(Direction::In, Family::Socket, Shape::Buffer),
        number::SENDTO => call.moved_on(Direction::Out, Family::Socket, Shape::Buffer),
        number::READV => call.moved_on(Direction::In, Family::Any, Shape::Vector),
        number::WRITEV => call.moved_on(Direction::Out, Family::Any, Shape::Vector),
        number::RECVMSG if registers.dx & UNMOVED == 0 => call.moved_on(Direction::In, Family::Socket, Shape::Message),
        number::SENDMSG => call.moved_on(Direction::Out, Family::Socket, Shape::Message),
        number::RECVMMSG if registers.r10 & UNMOVED == 0 => {
            call.moved_on(Direction::In, Family::Socket, Shape::Messages)
        }
        number::SENDMMSG => call.moved_on(Direction::Out, Family::Socket, Shape::Messages),
        number::SENDFILE => call.moved_on(Direction::Out, Family::Any, Shape::File),
        _ => Err(Skip),
    }
}

impl Call<'_> {
    #[inline(always)]
    fn moved_on(&self, direction: Direction, family: Family, shape: Shape) -> Result<(), Skip> {
        self.moved(self.connection(family)?, direction, shape)
    }

    /// The connection of this call; on a socket that was not seen to open, a new one.
    #[inline(always)]
    fn connection(&self, family: Family) -> Result<*mut Connection, Skip> {
        let socket_type = match connections::find(self.key) {
            // SAFETY: the pointer is to a live map value.
            Some(connection) if unsafe { (*connection).flags } & CONNECTION_TOLD != 0 => return Ok(connection),
            // SAFETY: as above.
            Some(connection) => unsafe { (*connection).socket_type },
            None if family == Family::Socket && watched(self.key.tgid) => 0,
            None => return Err(Skip),
        };
        if self.result <= 0 {
            return Err(Skip);
        }
        // A datagram that is sent without `connect` names its destination itself.
        let sendto = self.registers.orig_ax == number::SENDTO;
        let (address, length) = if sendto { (self.registers.r8, self.registers.r9 as u32) } else { (0, 0) };
        self.open(self.key, Origin::FirstSeen, socket_type, address, length)?;
        connections::find(self.key).ok_or(Skip)
    }

    #[inline(always)]
    fn accepted(&self) -> Result<(), Skip> {
        if self.result < 0 || !watched(self.key.tgid) {
            return Err(Skip);
        }
        let key = ConnectionKey { tgid: self.key.tgid, fd: self.result as i32 };
        let (address, length) = (self.registers.si, self.registers.dx);
        let length = if address == 0 || length == 0 { 0 } else { read_user::<u32>(length).unwrap_or(0) };
        self.open(key, Origin::Accepted, SOCK_STREAM, address, length)
    }

    #[inline(always)]
    fn connected(&self) -> Result<(), Skip> {
        if !watched(self.key.tgid) {
            return Err(Skip);
        }
        let socket_type = match connections::find(self.key) {
            // SAFETY: the pointer is to a live map value.
            Some(connection) => unsafe { (*connection).socket_type },
            None => 0,
        };
        self.open(self.key, Origin::Connected, socket_type, self.registers.si, self.registers.dx as u32)
    }

    /// Remembers a new socket's type, which no later call tells.
    #[inline(always)]
    fn made(&self) -> Result<(), Skip> {
        let (family, socket_type) = (self.registers.di, self.registers.si as u16 & SOCK_TYPE_MASK);
        if self.result < 0 || !matches!(family, AF_UNIX | AF_INET | AF_INET6) || !watched(self.key.tgid) {
            return Err(Skip);
        }
        let key = ConnectionKey { tgid: self.key.tgid, fd: self.result as i32 };
        // SAFETY: the helper has no preconditions.
        let generation = unsafe { bpf_ktime_get_ns() };
        connections::enter(key, &Connection::new(generation, 0, socket_type))
    }

    /// Begins a connection in the table, unless `connect` failed, and tells it.
    #[inline(always)]
    fn open(
        &self,
        key: ConnectionKey,
        origin: Origin,
        socket_type: u16,
        address: u64,
        length: u32,
    ) -> Result<(), Skip> {
        let mut record = opening(key, origin, socket_type, 0);
        if origin == Origin::Connected && self.result != errno::EINPROGRESS {
            record.result = self.result as i32;
        }
        if address != 0 && length != 0 {
            let length = if length as usize > ADDRESS_MAX { ADDRESS_MAX as u32 } else { length };
            if read_user_bytes(record.address.as_mut_ptr(), length, address) {
                record.address_length = length;
            }
        }
        if record.result != 0 {
            put(RecordKind::Open, Wake::Late, &record);
            return Ok(());
        }
        open(key, &record)
    }
}

#[tracepoint(category = "syscalls", name = "sys_enter_close")]
pub(crate) fn sys_enter_close(ctx: TracePointContext) -> u32 {
    let _: Result<(), Skip> = try_close(&ctx);
    0
}

fn try_close(ctx: &TracePointContext) -> Result<(), Skip> {
    let (tgid, _) = current();
    if !maybe_watched(tgid) {
        return Err(Skip);
    }
    let fd: u64 = field(ctx, offsets().close_fd)?;
    let key = ConnectionKey { tgid, fd: fd as i32 };
    let connection = connections::find(key).ok_or(Skip)?;
    // SAFETY: the pointer is to a live map value.
    let connection = unsafe { *connection };
    close(key, &connection)
}
