//! HTTP/1.1 from either end of a connection: segments in, exchanges out.
//!
//! A segment is what one system call moved. Its first bytes are known, and its last eight; what lies between may not
//! be. So a [`Machine`] follows each direction by the framing that the heads declare (RFC 9112, section 6), counts what
//! it cannot see, and says so where that is not enough:
//!
//! - A body with a length is counted by size alone. A chunked body is followed exactly while the chunk at hand covers
//!   what is not known; after that, by its terminator (see `body.rs`).
//! - A head longer than what is known of it is told as [`Unmatched::HeadTruncated`]. Its exchange keeps what was seen;
//!   if it was the answer's head, the outcome is unknown.
//! - Where the bytes fit no message (the probe attached in the middle of one, records were lost, or it is no HTTP) the
//!   direction is skipped to the next segment that starts like a message.
//!
//! Requests and answers are matched by their order. An exchange is told when both its messages have ended: an answer
//! that comes before the request's end waits for it, or for the connection's end.

mod body;
mod exchange;
mod head;
mod limits;
mod machine;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use limits::RateLimit;
pub use machine::Machine;

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
    /// It is over, and nobody can say who ended it: all that is told of a TLS stream.
    Over,
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
    /// The request's path: the target without query and fragment, and without scheme and authority when it came in
    /// absolute form. At most 1024 bytes; empty for a `CONNECT`, and when it was not seen.
    pub path: &'a str,
    /// The `Host` header, or the authority of an absolute target, without a user's name; at most 255 bytes, empty when
    /// absent.
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
    /// What the answer said of rate limits; nothing when the watched process is the server.
    pub limits: RateLimit,
}
