//! When what a process reads had come to its socket.

use crate::RecordHeader;

/// How many times are kept of one socket: those of the last segments that brought something.
pub const ARRIVALS: usize = 128;

/// Segments that come so soon after each other have one time.
pub const ARRIVAL_APART_NS: u64 = 100_000;

/// What had waited so long when it was read is told.
pub const ARRIVAL_WAIT_NS: u64 = 500_000;

/// Bytes that came at one time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`; 0 of none.
    pub time_ns: u64,
    /// The sequence number of the first.
    pub from: u32,
    /// The one behind the last.
    pub to: u32,
}

/// What the kernel side keeps of a TCP socket of a process with [`TARGET_ARRIVALS`](crate::TARGET_ARRIVALS).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    /// When the first of the bytes came that have not been read since.
    pub unread_ns: u64,
    /// Its sequence number.
    pub unread_from: u32,
    /// The place of the latest of `segments`.
    pub latest: u32,
    /// 1 if the last read was told.
    pub told: u32,
    /// Zero.
    pub padding: u32,
    /// The last segments.
    pub segments: [Arrival; ARRIVALS],
}

/// When what a process now read had come. It comes before the bytes themselves are told. If something had waited, the last
/// segments follow the record, [`ARRIVALS`] of them in no order; if not, nothing does, and that is told because it was
/// otherwise the last time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ArrivalsRecord {
    /// Kind [`RecordKind::Arrivals`](crate::RecordKind::Arrivals).
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The file descriptor.
    pub handle: u64,
    /// The sequence number behind the last byte that was read.
    pub end: u32,
    /// Bytes that were read.
    pub size: u32,
}

/// Where this kernel keeps what is read when a segment comes, found by user space before loading; 0 where that failed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArrivalOffsets {
    /// `struct tcp_sock`, `rcv_nxt`.
    pub rcv_nxt: u32,
    /// The same, `copied_seq`.
    pub copied_seq: u32,
    /// `struct sk_buff`, the `end_seq` of the `struct tcp_skb_cb` in its `cb`.
    pub end_seq: u32,
}
