//! HTTP/1.1 from either end of a connection: segments in, exchanges out.

use crate::observations::{Method, Outcome, Unmatched};
use crate::units::{Direction, Nanos, Side};

/// A run of bytes that one system call moved, of which the start and the end are known.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// When the system call returned.
    pub time: Nanos,
    /// Which way.
    pub direction: Direction,
    /// How many bytes moved; never 0.
    pub size: u64,
    /// The first bytes, `size` of them or fewer.
    pub prefix: &'a [u8],
    /// The last bytes (at most 8), when `prefix` is shorter than `size`; they may overlap with it. Else empty.
    pub tail: &'a [u8],
}

/// How a connection, or one half of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A read returned 0: the other side sends no more. This side may still send.
    PeerFinished,
    /// The watched process closed the descriptor.
    LocalClosed,
    /// The other side reset the connection, or writing to it failed.
    Reset,
    /// The connection timed out.
    Timeout,
    /// The process is no longer watched, or ended with the connection open.
    Detached,
}

/// What the state machine tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request began: one more in flight.
    Began {
        /// Which end the watched process is.
        side: Side,
    },
    /// An exchange ended: one fewer in flight.
    Finished(Finished<'a>),
    /// The connection now carries another protocol; nothing more will be told of it.
    Upgraded,
    /// Something belongs to no whole exchange.
    Unmatched(Unmatched),
}

/// A request and its answer, as far as they were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished<'a> {
    /// Which end the watched process is.
    pub side: Side,
    /// The request's method.
    pub method: Method,
    /// The request's path: the target without query and fragment, and without scheme and authority when it came in absolute form.
    /// Bounded; empty when it was not seen.
    pub path: &'a str,
    /// The `Host` header, or the authority of an absolute target; bounded, empty when absent.
    pub host: &'a str,
    /// The status of the final answer, when its head was seen.
    pub status: Option<u16>,
    /// When the request's first byte moved.
    pub start: Nanos,
    /// When the final answer's first byte moved. Interim answers (1xx) do not count.
    pub first_byte: Option<Nanos>,
    /// When the answer's last byte moved, or the exchange was cut short.
    pub end: Nanos,
    /// Bytes of the request, head and body.
    pub request_bytes: u64,
    /// Bytes of the answer, head and body, interim answers included.
    pub response_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// The state of one connection.
#[derive(Debug, Default)]
pub struct Machine {}

impl Machine {
    /// Takes in one segment and tells what it brought, in order.
    pub fn segment(&mut self, _segment: &Segment<'_>, _tell: &mut impl FnMut(Event<'_>)) {}

    /// Takes in that segments of this connection, in either direction, were lost before the next one.
    pub fn gap(&mut self, _time: Nanos, _tell: &mut impl FnMut(Event<'_>)) {}

    /// Takes in that the connection, or one half of it, ended.
    pub fn end(&mut self, _time: Nanos, _end: End, _tell: &mut impl FnMut(Event<'_>)) {}
}
