//! Records: what goes over the ring, from the kernel side to user space.

use crate::{ADDRESS_MAX, ANSWERS_MAX, NAME_MAX, TAIL};

/// What a record tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Bytes moved over a connection, or it failed: [`DataRecord`].
    Data = 1,
    /// A connection was accepted, begun, or first seen: [`OpenRecord`].
    Open = 2,
    /// A connection was closed: [`CloseRecord`].
    Close = 3,
    /// A watched process made another: [`ProcessRecord`] with the child.
    Fork = 4,
    /// Any process became another program: [`ProcessRecord`].
    Exec = 5,
    /// A watched process ended: [`ExitRecord`].
    Exit = 6,
    /// Any process began to listen on a TCP port: [`ProcessRecord`] with the port.
    Listen = 7,
    /// Any process began to connect to a TCP port: [`ProcessRecord`] with the port.
    Dial = 8,
    /// Plaintext went into or came out of a TLS stream: [`DataRecord`].
    Plaintext = 9,
    /// A TLS stream was freed: [`CloseRecord`].
    Free = 10,
    /// A TLS handshake ended: [`HandshakeRecord`].
    Handshake = 11,
    /// A TLS client named the server it wants: [`ServerNameRecord`].
    ServerName = 12,
    /// A watched process loaded a library, or is about to: [`ProcessRecord`].
    Libraries = 13,
    /// Which socket carries a TLS stream became known, or is so no more: [`BindRecord`].
    Bind = 14,
    /// Bytes came out of a compressed stream: [`InflatedRecord`].
    Inflated = 15,
    /// A compressed stream ended: [`CloseRecord`].
    InflateEnd = 16,
    /// Something became of a TCP connection of a watched process: [`NetRecord`].
    Net = 25,
    /// A watched process resolved a host's name: [`ResolvedRecord`].
    Resolved = 26,
    /// A thread that is an event loop, of a process with [`TARGET_TURNS`](crate::TARGET_TURNS), waits, with nothing left to do until something
    /// comes: a [`RecordHeader`] alone.
    Waits = 27,
    /// A thread of a process with [`TARGET_TURNS`](crate::TARGET_TURNS) asked for a TCP connection: [`DialRecord`].
    Dials = 28,
    /// A process with [`TARGET_ARRIVALS`](crate::TARGET_ARRIVALS) read what had come some time before:
    /// [`ArrivalsRecord`](crate::ArrivalsRecord).
    Arrivals = 29,
}

/// How many kinds of records there are.
pub const KINDS: usize = RecordKind::ALL.len();

impl RecordKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::Data,
        Self::Open,
        Self::Close,
        Self::Fork,
        Self::Exec,
        Self::Exit,
        Self::Listen,
        Self::Dial,
        Self::Plaintext,
        Self::Free,
        Self::Handshake,
        Self::ServerName,
        Self::Libraries,
        Self::Bind,
        Self::Inflated,
        Self::InflateEnd,
        Self::Net,
        Self::Resolved,
        Self::Waits,
        Self::Dials,
        Self::Arrivals,
    ];

    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        let mut place = 0;
        while place < Self::ALL.len() {
            if Self::ALL[place] as u8 == number {
                return Some(Self::ALL[place]);
            }
            place += 1;
        }
        None
    }

    /// Its place among [`RecordKind::ALL`], since their numbers have gaps.
    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> usize {
        let number = self as usize;
        if number >= Self::Net as usize { number - Self::Net as usize + Self::InflateEnd as usize } else { number - 1 }
    }
}

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// [`ABI_VERSION`](crate::ABI_VERSION) of the side that wrote it.
    pub version: u8,
    /// A [`RecordKind`].
    pub kind: u8,
    /// Zero.
    pub padding: u16,
    /// Length of the whole record in bytes, this header included.
    pub length: u32,
    /// When it happened: nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// The thread, in the initial PID namespace.
    pub tid: u32,
}

/// Which way bytes went, as the watched process sees it: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the process.
    In = 0,
    /// Out of the process.
    Out = 1,
}

/// How a connection came to be known: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By `accept` or `accept4`.
    Accepted = 1,
    /// By `connect`.
    Connected = 2,
    /// By the first bytes on a descriptor that was not seen to open.
    FirstSeen = 3,
    /// User space found it open when it began to watch.
    Seeded = 4,
}

impl Origin {
    /// The origin with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Accepted),
            2 => Some(Self::Connected),
            3 => Some(Self::FirstSeen),
            4 => Some(Self::Seeded),
            _ => None,
        }
    }
}

/// Bytes that moved over a connection, or plaintext over a TLS stream; `captured` bytes of their start follow the record. If
/// more than [`TAIL`] bytes of their end are told, those follow it first, [`CAPTURE_TAIL`](crate::CAPTURE_TAIL) of them.
///
/// A record with `size` 0 tells the end of what the other side sends (`errno` 0) or that the connection failed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DataRecord {
    /// Kind [`RecordKind::Data`] or [`RecordKind::Plaintext`].
    pub header: RecordHeader,
    /// The connection's generation: when it was opened or first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The file descriptor; of plaintext the address of the stream's `SSL` in the process.
    pub handle: u64,
    /// Data records of this connection that did not fit the ring so far: when it has risen, some are missing before this.
    pub lost: u32,
    /// Bytes moved.
    pub size: u32,
    /// Bytes of the start that follow this record.
    pub captured: u16,
    /// Bytes of the end that are told, when `captured` is smaller than `size`: up to [`TAIL`] of them, counted from the front of
    /// `tail`, or [`CAPTURE_TAIL`](crate::CAPTURE_TAIL) behind this record.
    pub tail_length: u16,
    /// The error that ended the connection, or 0.
    pub errno: u16,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub padding: u8,
    /// The last bytes of the segment, if they are few.
    pub tail: [u8; TAIL],
}

/// A connection that became known.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OpenRecord {
    /// Kind [`RecordKind::Open`].
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The kernel's address of the socket, or 0 where it is not known.
    pub socket: u64,
    /// The file descriptor.
    pub fd: i32,
    /// What `connect` returned: 0, or the negative error (`-EINPROGRESS` is none).
    pub result: i32,
    /// An [`Origin`].
    pub origin: u8,
    /// `SOCK_STREAM` (1), `SOCK_DGRAM` (2) or another type; 0 when not known.
    pub socket_type: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// Bytes of `address` that are set; 0 when the caller asked for none.
    pub address_length: u32,
    /// The other side's socket address as the system call gave it.
    pub address: [u8; ADDRESS_MAX],
}

/// A thread that asked for a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DialRecord {
    /// Kind [`RecordKind::Dials`].
    pub header: RecordHeader,
    /// The kernel's address of the socket.
    pub socket: u64,
}

/// The record's bytes begin a message.
pub const INFLATED_STARTS: u32 = 1;

/// The record's bytes end a message.
pub const INFLATED_ENDS: u32 = 2;

/// What came out of a compressed stream; `captured` bytes of its start follow the record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflatedRecord {
    /// Kind [`RecordKind::Inflated`].
    pub header: RecordHeader,
    /// The stream's generation: when it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The address of the stream's `z_stream` or `ZSTD_DStream` in the process.
    pub handle: u64,
    /// Records of this stream that did not fit the ring so far: when it has risen, some are missing before this.
    pub lost: u32,
    /// Bytes of the message that this record stands for; 0 when it tells a message's end alone.
    pub size: u32,
    /// Bytes of their start that follow this record.
    pub captured: u32,
    /// [`INFLATED_STARTS`] and [`INFLATED_ENDS`].
    pub flags: u32,
    /// Bytes of the stream that were taken in for the message, if it ends.
    pub consumed: u32,
    /// Zero.
    pub padding: u32,
}

/// A connection that was closed by its process, or a TLS stream that it freed, or a compressed one that ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloseRecord {
    /// Kind [`RecordKind::Close`], [`RecordKind::Free`] or [`RecordKind::InflateEnd`].
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The file descriptor; of a stream its address in the process.
    pub handle: u64,
    /// All bytes received, or decompressed.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
    /// Data records of this connection that did not fit the ring.
    pub lost: u32,
    /// Zero.
    pub padding: u32,
}

/// A TLS handshake that ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HandshakeRecord {
    /// Kind [`RecordKind::Handshake`].
    pub header: RecordHeader,
    /// The stream's generation: when it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// From the first call that worked on it to its end, in nanoseconds.
    pub duration_ns: u64,
    /// What the last call returned: 1 when it succeeded.
    pub result: i32,
    /// The first error of TLS that the library raised in it: a [`TlsError`](crate::TlsError), or 0.
    pub error: u32,
}

/// The name of the server that a TLS client wants (SNI).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServerNameRecord {
    /// Kind [`RecordKind::ServerName`].
    pub header: RecordHeader,
    /// The stream's generation.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// Bytes of `name` that are set.
    pub length: u32,
    /// Zero.
    pub padding: u32,
    /// The name, without a zero at its end.
    pub name: [u8; NAME_MAX],
}

/// The socket that carries a TLS stream.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BindRecord {
    /// Kind [`RecordKind::Bind`].
    pub header: RecordHeader,
    /// The stream's generation.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// The socket's generation.
    pub socket_generation: u64,
    /// The socket's file descriptor.
    pub fd: i32,
    /// 1 when it became known, 0 when it was found not to be so.
    pub bound: u32,
}

/// Something in the life of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessRecord {
    /// Kind [`RecordKind::Fork`], [`RecordKind::Exec`], [`RecordKind::Listen`], [`RecordKind::Dial`] or
    /// [`RecordKind::Libraries`].
    pub header: RecordHeader,
    /// The child of a fork.
    pub child: u32,
    /// The port listened on or connected to.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

/// The status of [`ExitRecord`] is known.
pub const EXIT_STATUS_KNOWN: u32 = 1;

/// The kernel chose the process to be killed for want of memory.
pub const EXIT_OOM_VICTIM: u32 = 2;

/// The end of a process: of its last thread, where the kernel tells which that is, else of its first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitRecord {
    /// Kind [`RecordKind::Exit`].
    pub header: RecordHeader,
    /// As `wait` gives it to the parent: a signal in the low 7 bits, or else a code in the 8 above.
    pub status: u32,
    /// [`EXIT_STATUS_KNOWN`] and [`EXIT_OOM_VICTIM`].
    pub flags: u32,
}

/// What became of a TCP connection: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// The process's own `connect` came to its end well.
    Connected = 1,
    /// It did not.
    Failed = 2,
    /// A connection to a socket that the process listens on was made.
    Accepted = 3,
    /// Segments were sent once more.
    Retransmitted = 4,
    /// The other side reset the connection.
    ResetReceived = 5,
    /// This side did.
    ResetSent = 6,
}

impl NetEvent {
    /// The event with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Connected),
            2 => Some(Self::Failed),
            3 => Some(Self::Accepted),
            4 => Some(Self::Retransmitted),
            5 => Some(Self::ResetReceived),
            6 => Some(Self::ResetSent),
            _ => None,
        }
    }
}

/// This machine itself refused to connect, and did not tell why where it can be seen.
pub const ERRNO_UNTOLD: u16 = u16::MAX;

/// Something became of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NetRecord {
    /// Kind [`RecordKind::Net`]; its process is the one whose socket it is, whoever runs now.
    pub header: RecordHeader,
    /// From the start of `connect` to its end, in nanoseconds; 0 for other events.
    pub duration_ns: u64,
    /// Segments that were sent once more; 1 for other events.
    pub count: u32,
    /// The error of a `connect` that failed, 0 when the process closed the socket before it came to its end, or
    /// [`ERRNO_UNTOLD`].
    pub errno: u16,
    /// The other side's port.
    pub port: u16,
    /// `AF_*`.
    pub family: u16,
    /// A [`NetEvent`].
    pub event: u8,
    /// Zero.
    pub padding: [u8; 5],
    /// The other side's address; of an IPv4 one the first 4 bytes.
    pub address: [u8; 16],
}

/// A host's name that was resolved, or was not.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResolvedRecord {
    /// Kind [`RecordKind::Resolved`].
    pub header: RecordHeader,
    /// From the call to its return, in nanoseconds.
    pub duration_ns: u64,
    /// What `getaddrinfo` returned: 0, or `EAI_*`.
    pub result: i32,
    /// Bytes of `name` that are set.
    pub length: u32,
    /// Addresses that are set.
    pub answers: u32,
    /// Zero.
    pub padding: u32,
    /// The answer's addresses.
    pub addresses: [Answer; ANSWERS_MAX],
    /// The name that was asked for, without a zero at its end.
    pub name: [u8; NAME_MAX],
}

/// One address of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// `AF_*`.
    pub family: u32,
    /// The address; of an IPv4 one the first 4 bytes.
    pub address: [u8; 16],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_their_places_and_numbers() {
        for (place, kind) in RecordKind::ALL.into_iter().enumerate() {
            assert_eq!((kind.place(), RecordKind::from_number(kind as u8)), (place, Some(kind)));
        }
        assert!([0, 17, 24, 30, 255].into_iter().all(|number| RecordKind::from_number(number).is_none()));
    }
}
