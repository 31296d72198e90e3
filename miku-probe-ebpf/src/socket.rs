//! What watched processes move over their sockets: what is told of it, whoever notices.
//!
//! Two ways of noticing, of which user space attaches one: [`by_socket`] where sockets have tracepoints of their own, from
//! Linux 6.3 on, and [`by_call`] on older kernels.
//!
//! Bounds: at most [`GATHER_MAX`] pieces a call; of each what `segment.rs` says.

mod by_call;
mod by_socket;

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use miku_probe_abi::{
    ADDRESS_MAX, CAPTURE_MAX, CONNECTION_NAMES, CONNECTION_REPORTED, CONNECTION_TLS, CONNECTION_TOLD, CloseRecord,
    Connection, ConnectionKey, Direction, GATHER_MAX, NAME_SERVER_PORT, OpenRecord, Origin, RecordKind,
};

use crate::connections;
use crate::maps::{SOCKETS, Skip, Wake, header, put};
use crate::memory::read_user;
use crate::registers::Registers;
use crate::segment::{Course, Segment};

/// Where the pieces of a gathered read or write are worked through one by one: the verifier follows the ranges of values on
/// the stack, and with them every way through a loop apart.
#[map]
static GATHERED: PerCpuArray<Piece> = PerCpuArray::with_max_entries(1, 0);

/// What is told now, for the same reason: with it in memory whose content the verifier forgets, all ways to its telling are
/// one.
#[map]
static TOLD: PerCpuArray<Segment> = PerCpuArray::with_max_entries(1, 0);

/// Bytes that one call moved, in one piece.
#[repr(C)]
#[derive(Clone, Copy)]
struct Piece {
    key: ConnectionKey,
    tid: u32,
    /// A [`Direction`].
    direction: u32,
    /// Where they are in the process; 0 when they cannot be reached.
    base: u64,
    size: u32,
    errno: u32,
    /// Bytes of the call that are in later pieces.
    left: u64,
}

/// System call numbers of x86-64 (`asm/unistd_64.h`).
mod number {
    pub(super) const READ: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const READV: u64 = 19;
    pub(super) const WRITEV: u64 = 20;
    pub(super) const SENDFILE: u64 = 40;
    pub(super) const SOCKET: u64 = 41;
    pub(super) const CONNECT: u64 = 42;
    pub(super) const ACCEPT: u64 = 43;
    pub(super) const SENDTO: u64 = 44;
    pub(super) const RECVFROM: u64 = 45;
    pub(super) const SENDMSG: u64 = 46;
    pub(super) const RECVMSG: u64 = 47;
    pub(super) const SHUTDOWN: u64 = 48;
    pub(super) const ACCEPT4: u64 = 288;
    pub(super) const RECVMMSG: u64 = 299;
    pub(super) const SENDMMSG: u64 = 307;
}

/// Errors of `asm-generic/errno.h` that say something of a connection.
mod errno {
    pub(super) const EPIPE: i64 = -32;
    pub(super) const ECONNABORTED: i64 = -103;
    pub(super) const ECONNRESET: i64 = -104;
    pub(super) const ETIMEDOUT: i64 = -110;
    pub(super) const ECONNREFUSED: i64 = -111;
    pub(super) const EHOSTUNREACH: i64 = -113;
    pub(super) const ENETUNREACH: i64 = -101;
    pub(super) const EINPROGRESS: i64 = -115;
}

/// `AF_*` and `SOCK_*` of `linux/socket.h` and `linux/net.h`.
const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;
const SOCK_TYPE_MASK: u16 = 0xf;

/// `MSG_PEEK` and `MSG_ERRQUEUE`: what such a call returns has not moved.
const UNMOVED: u64 = 0x2 | 0x2000;

/// `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Iovec {
    base: u64,
    length: u64,
}

/// `struct user_msghdr`, up to the vector's length.
#[repr(C)]
#[derive(Clone, Copy)]
struct Msghdr {
    name: u64,
    name_length: u64,
    iov: u64,
    iov_length: u64,
}

/// Size of `struct mmsghdr`, and where its `msg_len` is.
const MMSGHDR_SIZE: u64 = 64;
const MMSGHDR_LENGTH: u64 = 56;

/// Whether a failed call may say something of a connection.
#[inline(always)]
fn tells(result: i64) -> bool {
    use errno::{ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EINPROGRESS, ENETUNREACH, EPIPE, ETIMEDOUT};
    matches!(
        result,
        EPIPE | ENETUNREACH | ECONNABORTED | ECONNRESET | ETIMEDOUT | ECONNREFUSED | EHOSTUNREACH | EINPROGRESS
    )
}

/// How a call holds the bytes it moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// `(fd, buffer, …)`.
    Buffer,
    /// `(fd, iovec, count)`.
    Vector,
    /// `(fd, msghdr, flags)`.
    Message,
    /// `(fd, mmsghdr, count, flags)`.
    Messages,
    /// `(out_fd, in_fd, …)`: not in the process's memory.
    File,
}

/// A system call that returned.
struct Call<'a> {
    key: ConnectionKey,
    tid: u32,
    result: i64,
    registers: &'a Registers,
}

impl Call<'_> {
    #[inline(always)]
    fn moved(&self, connection: *mut Connection, direction: Direction, shape: Shape) -> Result<(), Skip> {
        let mut piece = Piece {
            key: self.key,
            tid: self.tid,
            direction: direction as u32,
            base: 0,
            size: self.result as u32,
            errno: 0,
            left: 0,
        };
        if self.result <= 0 {
            return self.ended(connection, piece, shape);
        }
        let (iov, pieces) = match shape {
            Shape::Buffer => {
                piece.base = self.registers.si;
                return segment(connection, &piece);
            }
            Shape::File => return segment(connection, &piece),
            Shape::Messages => {
                piece.size = self.sum_messages();
                return segment(connection, &piece);
            }
            Shape::Vector => (self.registers.si, self.registers.dx),
            Shape::Message => {
                let message: Msghdr = read_user(self.registers.si)?;
                (message.iov, message.iov_length)
            }
        };
        gathered(connection, &piece, iov, pieces)
    }

    /// The other side finished, or the connection failed.
    #[inline(always)]
    fn ended(&self, connection: *mut Connection, mut piece: Piece, shape: Shape) -> Result<(), Skip> {
        // A read into an empty buffer returns 0 and says nothing; so does a write of nothing.
        let wanted = if shape == Shape::Buffer { self.registers.dx } else { 1 };
        if self.result == 0 && (piece.direction != Direction::In as u32 || wanted == 0) {
            return Err(Skip);
        }
        // SAFETY: the pointer is to a live map value.
        if unsafe { (*connection).flags } & CONNECTION_REPORTED == 0 {
            return Err(Skip);
        }
        piece.size = 0;
        piece.errno = (-self.result) as u32;
        segment(connection, &piece)
    }

    /// Bytes of all messages of a `sendmmsg` or `recvmmsg`, of the first [`GATHER_MAX`] at least.
    #[inline(always)]
    fn sum_messages(&self) -> u32 {
        let mut sum = 0u32;
        for place in 0..GATHER_MAX as u64 {
            if place >= self.result as u64 {
                break;
            }
            let Ok(length) = read_user::<u32>(self.registers.si + place * MMSGHDR_SIZE + MMSGHDR_LENGTH) else { break };
            sum = sum.wrapping_add(length);
        }
        sum
    }
}

/// A connection that becomes known now, with nothing said of its other side yet; its socket is known, or 0.
#[inline(always)]
fn opening(key: ConnectionKey, origin: Origin, socket_type: u16, socket: u64) -> OpenRecord {
    let header = header(RecordKind::Open, size_of::<OpenRecord>());
    OpenRecord {
        header,
        generation: header.time_ns,
        socket,
        fd: key.fd,
        result: 0,
        origin: origin as u8,
        socket_type: socket_type as u8,
        padding: [0; 2],
        address_length: 0,
        address: [0; ADDRESS_MAX],
    }
}

/// Enters a connection into the table and tells it.
#[inline(always)]
fn open(key: ConnectionKey, record: &OpenRecord) -> Result<(), Skip> {
    // What the C library asks is told by its own calls.
    let names = if asks_names(record) && !crate::net::resolves() { CONNECTION_NAMES | CONNECTION_REPORTED } else { 0 };
    let mut connection = Connection::new(record.generation, CONNECTION_TOLD | names, u16::from(record.socket_type));
    connection.socket = record.socket;
    connections::enter(key, &connection)?;
    put(RecordKind::Open, Wake::Late, record);
    if u16::from(record.socket_type) == SOCK_STREAM {
        crate::event_loop::moves(record.header.tid);
    }
    Ok(())
}

/// Whether a new connection leads to a name server.
#[inline(always)]
fn asks_names(record: &OpenRecord) -> bool {
    // The port stands at the same place in both.
    let [family, port] = [[record.address[0], record.address[1]], [record.address[2], record.address[3]]];
    let family = u64::from(u16::from_ne_bytes(family));
    u16::from(record.socket_type) == SOCK_DGRAM
        && record.address_length != 0
        && u16::from_be_bytes(port) == NAME_SERVER_PORT
        && (family == AF_INET || family == AF_INET6)
}

/// Takes a connection off the table and tells that its process closed it.
#[inline(always)]
fn close(key: ConnectionKey, connection: &Connection) -> Result<(), Skip> {
    connections::remove(key)?;
    if connection.socket != 0 {
        // One that was never entered, or has gone by itself, is no error.
        let _: Result<(), i32> = SOCKETS.remove(connection.socket).map_err(|_| 0);
        crate::arrivals::forget(connection.socket);
    }
    let mut header = header(RecordKind::Close, size_of::<CloseRecord>());
    // It may be another that runs now: a socket outlives its descriptor.
    header.tgid = key.tgid;
    let record = CloseRecord {
        header,
        generation: connection.generation,
        handle: key.fd as u64,
        bytes_in: connection.bytes_in,
        bytes_out: connection.bytes_out,
        lost: connection.lost,
        padding: 0,
    };
    put(RecordKind::Close, Wake::Late, &record);
    Ok(())
}

/// Tells the pieces of a gathered read or write one by one, as if each had been a call of its own.
#[inline(never)]
fn gathered(connection: *mut Connection, whole: &Piece, iov: u64, pieces: u64) -> Result<(), Skip> {
    let piece = GATHERED.get_ptr_mut(0).ok_or(Skip)?;
    // SAFETY: the pointer is to this processor's own value, and nothing else uses it before this program ends.
    let piece = unsafe { &mut *piece };
    *piece = *whole;
    piece.left = u64::from(piece.size);
    for place in 0..GATHER_MAX as u64 {
        if place >= pieces {
            break;
        }
        let vector: Iovec = read_user(iov + place * size_of::<Iovec>() as u64)?;
        let size = if vector.length < piece.left { vector.length } else { piece.left };
        piece.base = vector.base;
        piece.size = size as u32;
        piece.left -= size;
        if size != 0 {
            segment(connection, piece)?;
        }
    }
    piece.base = 0;
    piece.size = piece.left as u32;
    if piece.size == 0 {
        return Ok(());
    }
    segment(connection, piece)
}

/// Counts one piece, and tells it when the connection is one whose segments are told.
#[inline(never)]
fn segment(connection: *mut Connection, piece: &Piece) -> Result<(), Skip> {
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type. A process that closes
    // a socket in one thread while another thread is in a call on it may have the value reused under this program's
    // hands, as two threads that use one socket at once may both be here: then a count may be off by a segment.
    let connection = unsafe { &mut *connection };
    let into = piece.direction == Direction::In as u32;
    if into {
        connection.bytes_in += u64::from(piece.size);
    } else {
        connection.bytes_out += u64::from(piece.size);
    }
    if connection.flags & CONNECTION_TLS != 0 {
        if into {
            crate::tls::received(piece.key, piece.tid, connection.generation, piece.size);
        }
        return Ok(());
    }

    if connection.flags & CONNECTION_NAMES != 0 {
        connection.budget = CAPTURE_MAX as u32;
    }
    let segment = TOLD.get_ptr_mut(0).ok_or(Skip)?;
    // SAFETY: the pointer is to this processor's own value, and nothing else uses it before this program ends.
    let segment = unsafe { &mut *segment };
    segment.of(piece.key.tgid, piece.tid, connection.generation, piece.key.fd as u64);
    (segment.base, segment.size) = (piece.base, piece.size);
    (segment.errno, segment.direction) = (piece.errno, piece.direction);
    let course = Course {
        flags: u32::from(connection.flags),
        budget: &mut connection.budget,
        direction: &mut connection.direction,
        lost: &mut connection.lost,
    };
    connection.flags = course.follow::<true>(segment) as u16;
    Ok(())
}
