//! What is kept of watched processes, and what each processor counts.

use crate::KINDS;

/// In the value of a watched process in the table of them: the kernel chose it to be killed for want of memory.
pub const TARGET_OOM_VICTIM: u32 = 1;

/// The same: it is to be told when its event loops wait, and when its threads ask for connections.
pub const TARGET_TURNS: u32 = 2;

/// The same: it is to be told when what it reads had come.
pub const TARGET_ARRIVALS: u32 = 4;

/// In a slot of the filter of processes: one of those that share it is watched.
pub const FILTER_WATCHED: u64 = 1;

/// The same: one of them has [`TARGET_TURNS`].
pub const FILTER_TURNS: u64 = 2;

/// The same: one of them has [`TARGET_ARRIVALS`].
pub const FILTER_ARRIVALS: u64 = 4;

/// What a process asked the CUDA driver for; every count only rises.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaAllocations {
    /// Bytes, those that were refused included.
    pub bytes: u64,
    /// Requests.
    pub calls: u64,
    /// Those that were refused.
    pub failures: u64,
    /// When the last one was refused, in nanoseconds of `CLOCK_MONOTONIC`.
    pub failed_ns: u64,
    /// Its bytes.
    pub failed_bytes: u64,
    /// Its result, a `CUresult`.
    pub failed_result: u64,
}

/// What one processor has counted; every field only rises.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Records that did not fit the ring, by [`RecordKind::place`](crate::RecordKind::place).
    pub lost: [u64; KINDS],
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
    /// Records that were made: those that are on the ring and those that are in `lost`.
    pub sent: u64,
}
