//! The record layouts that the kernel side and user space share.
//!
//! Everything that crosses the ring buffer or a map is declared here once, `repr(C)`, padded by hand and held to its
//! size and offsets by assertions at compile time. Integers are in the machine's own byte order. Every record begins
//! with a [`RecordHeader`], whose version user space checks before it believes anything else.
#![no_std]

use core::mem::{offset_of, size_of};

/// The version of the layouts below; it rises whenever one of them changes.
pub const ABI_VERSION: u8 = 1;

/// The most bytes that are copied of the start of one message, and so of one segment.
pub const CAPTURE_MAX: usize = 4096;

/// How many bytes are copied of the start of every later segment of a message.
pub const CAPTURE_LATER: usize = 32;

/// How many bytes are copied of the end of a segment whose start was not copied whole.
pub const TAIL: usize = 8;

/// How many pieces of one gathered read or write are told apart; what follows them is one last piece.
pub const GATHER_MAX: usize = 16;

/// The most bytes of a socket address that are copied: as many as a `sockaddr_un` has.
pub const ADDRESS_MAX: usize = 112;

/// Slots of the table that tells at once whether a process is certainly not watched.
pub const FILTER_SLOTS: u32 = 1 << 14;

/// How many programs stand on one hook, so that one can step in for another: see [`Lane`].
pub const LANES: u32 = 3;

/// The counters' slot of the programs that have no lanes.
pub const NO_LANE: u32 = LANES;

/// Which of the programs on a hook is running.
///
/// From Linux 7 on the kernel may run another task while a program on a system call runs, and leaves that same program
/// out for everybody else on the processor meanwhile. So several stand on the hook: each system call is handled by the
/// first of them that runs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Handles everything it sees.
    First = 0,
    /// Handles what the first did not see.
    Second = 1,
    /// Handles what neither saw.
    Third = 2,
}

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
    /// A watched process ended: [`ProcessRecord`].
    Exit = 6,
    /// Any process began to listen on a TCP port: [`ProcessRecord`] with the port.
    Listen = 7,
    /// Any process began to connect to a TCP port: [`ProcessRecord`] with the port.
    Dial = 8,
}

impl RecordKind {
    /// All kinds, in the order of their numbers, which start at 1.
    pub const ALL: [Self; 8] =
        [Self::Data, Self::Open, Self::Close, Self::Fork, Self::Exec, Self::Exit, Self::Listen, Self::Dial];

    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        if number == 0 || number as usize > Self::ALL.len() { None } else { Some(Self::ALL[number as usize - 1]) }
    }
}

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// [`ABI_VERSION`] of the side that wrote it.
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

/// Bytes that moved over a connection; `captured` bytes of their start follow the record.
///
/// A record with `size` 0 tells the end of what the other side sends (`errno` 0) or that the connection failed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DataRecord {
    /// Kind [`RecordKind::Data`].
    pub header: RecordHeader,
    /// The connection's generation: when it was opened or first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The file descriptor.
    pub fd: i32,
    /// Number of this record among the connection's data records, those that were lost counted in.
    pub sequence: u32,
    /// Bytes moved.
    pub size: u32,
    /// Bytes of the start that follow this record.
    pub captured: u32,
    /// A [`Direction`].
    pub direction: u8,
    /// Bytes of `tail` that are set, counted from its front.
    pub tail_length: u8,
    /// The error that ended the connection, or 0.
    pub errno: u16,
    /// Zero.
    pub padding: u32,
    /// The last bytes of the segment, when `captured` is smaller than `size`.
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

/// A connection that was closed by its process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloseRecord {
    /// Kind [`RecordKind::Close`].
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The file descriptor.
    pub fd: i32,
    /// How many data records it had, those that were lost counted in.
    pub sequence: u32,
    /// All bytes received.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
}

/// Something in the life of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessRecord {
    /// Kind [`RecordKind::Fork`], [`RecordKind::Exec`], [`RecordKind::Exit`], [`RecordKind::Listen`] or [`RecordKind::Dial`].
    pub header: RecordHeader,
    /// The child of a fork.
    pub child: u32,
    /// The port listened on or connected to.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

/// Key of a connection while its descriptor is open.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// The file descriptor.
    pub fd: i32,
}

/// The connection carries HTTP/1 as far as the kernel side can see, so its segments are reported.
pub const CONNECTION_REPORTED: u16 = 1;

/// Its opening has been told. A socket that is only made, or listens, is in the table untold.
pub const CONNECTION_TOLD: u16 = 2;

/// What the kernel side keeps of an open connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// When it was opened or first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// All bytes received.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
    /// Data records so far, those that were lost counted in.
    pub sequence: u32,
    /// Bytes that may still be copied of the current message's start.
    pub budget: u32,
    /// Which way the last segment went: a [`Direction`], or [`Connection::NO_DIRECTION`].
    pub direction: u32,
    /// [`CONNECTION_REPORTED`] and [`CONNECTION_TOLD`].
    pub flags: u16,
    /// The socket's type, or 0 when it is not known.
    pub socket_type: u16,
}

impl Connection {
    /// Nothing has moved yet.
    pub const NO_DIRECTION: u32 = 2;

    /// A connection on which nothing has moved yet.
    #[must_use]
    pub const fn new(generation: u64, flags: u16, socket_type: u16) -> Self {
        let direction = Self::NO_DIRECTION;
        Self { generation, bytes_in: 0, bytes_out: 0, sequence: 0, budget: 0, direction, flags, socket_type }
    }
}

/// What one processor has counted; every field only rises.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Records written, by [`RecordKind`] number minus one.
    pub records: [u64; 8],
    /// Records that did not fit the ring, by [`RecordKind`] number minus one.
    pub lost: [u64; 8],
    /// Of the lost data records, those that began a message to the watched process.
    pub lost_starts_in: u64,
    /// Of the lost data records, those that began a message from the watched process.
    pub lost_starts_out: u64,
    /// Connections that did not fit the table.
    pub table_full: u64,
    /// Children that did not fit the table of watched processes.
    pub targets_full: u64,
    /// Captures that the kernel could not read, because the memory was not resident.
    pub unreadable: u64,
}

/// Offsets of the tracepoint fields that move between kernels, read from tracefs by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracepointOffsets {
    /// `task:task_newtask`, `pid`.
    pub newtask_pid: u32,
    /// `task:task_newtask`, `clone_flags`.
    pub newtask_clone_flags: u32,
    /// `sock:inet_sock_set_state`, `newstate`.
    pub set_state_newstate: u32,
    /// `sock:inet_sock_set_state`, `sport`.
    pub set_state_sport: u32,
    /// `sock:inet_sock_set_state`, `dport`.
    pub set_state_dport: u32,
    /// `syscalls:sys_enter_close`, `fd`.
    pub close_fd: u32,
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 24);
    assert!(offset_of!(RecordHeader, length) == 4);
    assert!(offset_of!(RecordHeader, time_ns) == 8);
    assert!(offset_of!(RecordHeader, tgid) == 16);
    assert!(offset_of!(RecordHeader, tid) == 20);
    assert!(size_of::<DataRecord>() == 64);
    assert!(offset_of!(DataRecord, generation) == 24);
    assert!(offset_of!(DataRecord, fd) == 32);
    assert!(offset_of!(DataRecord, sequence) == 36);
    assert!(offset_of!(DataRecord, size) == 40);
    assert!(offset_of!(DataRecord, captured) == 44);
    assert!(offset_of!(DataRecord, direction) == 48);
    assert!(offset_of!(DataRecord, tail_length) == 49);
    assert!(offset_of!(DataRecord, errno) == 50);
    assert!(offset_of!(DataRecord, tail) == 56);
    assert!(size_of::<OpenRecord>() == 160);
    assert!(offset_of!(OpenRecord, origin) == 40);
    assert!(offset_of!(OpenRecord, address_length) == 44);
    assert!(offset_of!(OpenRecord, address) == 48);
    assert!(size_of::<CloseRecord>() == 56);
    assert!(offset_of!(CloseRecord, bytes_in) == 40);
    assert!(size_of::<ProcessRecord>() == 32);
    assert!(offset_of!(ProcessRecord, child) == 24);
    assert!(offset_of!(ProcessRecord, port) == 28);
    assert!(size_of::<ConnectionKey>() == 8);
    assert!(size_of::<Connection>() == 40);
    assert!(size_of::<Counters>() == 168);
    assert!(size_of::<TracepointOffsets>() == 24);
};

/// A layout above: made of integers and arrays of integers alone, its padding named fields, so that any bytes are a
/// value and every value is bytes.
///
/// # Safety
/// Implementors are as the first sentence says.
pub unsafe trait Plain: Copy + 'static {}

/// The bytes of a layout.
#[must_use]
pub const fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a reference to `T` covers its size in bytes, all of which are set, since it has no hidden padding.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

macro_rules! plain {
    ($($layout:ty),+) => {$(
        // SAFETY: see the declaration: `repr(C)`, integers alone, no hidden padding, as the sizes above assert.
        unsafe impl Plain for $layout {}
        // SAFETY: as above, which is what `Pod` asks.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $layout {}
    )+};
}

plain!(
    RecordHeader,
    DataRecord,
    OpenRecord,
    CloseRecord,
    ProcessRecord,
    ConnectionKey,
    Connection,
    Counters,
    TracepointOffsets
);
