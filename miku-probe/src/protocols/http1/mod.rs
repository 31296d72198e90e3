//! HTTP/1.1 from either end of a connection: segments in, exchanges out.
//!
//! A segment is what one system call moved. Its first bytes are known, and its last ones; what lies between may not
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
//! Whoever wants the bodies of an exchange says so when its request's head is known ([`Listener::interest`]). Then the
//! answer's head and the bodies are told piece by piece: bytes where they are known, and how many where they are not.
//! What nobody wants costs nothing, and no body is ever kept.
//!
//! Requests and answers are matched by their order. An exchange is told when both its messages have ended: an answer
//! that comes before the request's end waits for it, or for the connection's end.

mod body;
mod collected;
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

pub use collected::Collected;
pub use head::{Coding, Media, Protocol, Role};
pub use limits::RateLimit;
pub use machine::Machine;

use std::fmt;

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
    /// The last bytes, at least 8 as a rule, when `prefix` is shorter than `size`; they may overlap with it. Else empty.
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

/// Whoever is told what a [`Machine`] finds. A closure that takes events is one, which wants no more.
pub trait Listener {
    /// Takes in what was found.
    fn tell(&mut self, event: Event<'_>);

    /// What is wanted of the exchange that `request` begins, beside how it ends. It is asked once, when the request's head
    /// is known, after [`Event::Began`].
    fn interest(&mut self, request: &Request<'_>) -> Interest {
        let _ = request;
        Interest::Nothing
    }
}

impl<F: FnMut(Event<'_>)> Listener for F {
    fn tell(&mut self, event: Event<'_>) {
        self(event);
    }
}

/// What is wanted of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interest {
    /// Only how it ends.
    #[default]
    Nothing,
    /// The request's body, when it has ended, and the answer's head.
    Request,
    /// The answer's body too.
    Whole,
}

/// An exchange, by a number that no other one has that is in flight on the same connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExchangeId(u32);

impl ExchangeId {
    /// Whether it is the first that was seen on its connection.
    #[must_use]
    pub fn is_first(self) -> bool {
        self == Self::default()
    }
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What the exchange is called from here on.
    pub id: ExchangeId,
    /// Which end the watched process is.
    pub side: Side,
    /// The method.
    pub method: Method,
    /// As [`Finished::path`].
    pub path: &'a str,
    /// As [`Finished::host`].
    pub host: &'a str,
    /// When its first byte moved.
    pub start: Nanos,
}

/// The head of the final answer to a request of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The exchange.
    pub id: ExchangeId,
    /// Absent when too little of the head was seen.
    pub status: Option<u16>,
    /// When its first byte moved.
    pub time: Nanos,
    /// What the body is.
    pub media: Media,
    /// How the body is coded.
    pub coding: Coding,
}

/// A piece of a body. All pieces together, in their order, are the whole body, or its start if it is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The exchange.
    pub id: ExchangeId,
    /// Whose body it is.
    pub role: Role,
    /// When its segment moved.
    pub time: Nanos,
    /// Whether it is the first of this body in its segment.
    pub first: bool,
    /// How many bytes of the body were told before, known or not.
    pub offset: u64,
    /// What is known of it.
    pub bytes: Bytes<'a>,
}

/// What is known of a piece of a body. The bytes may hold secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bytes<'a> {
    /// The bytes themselves, free of chunked framing; never none.
    Known(&'a [u8]),
    /// The bytes themselves, and among them the framing of chunks, since that was lost; never none.
    Raw(&'a [u8]),
    /// The bytes as [`Coding::Gzip`] left them, free of chunked framing; never none.
    Gzip(&'a [u8]),
    /// How many they are, no more. Where chunked framing was lost, it counts in; the bytes of a body with [`Coding::Other`]
    /// are never told.
    Unknown(u64),
}

impl Bytes<'_> {
    /// How many they are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::Known(bytes) | Self::Raw(bytes) | Self::Gzip(bytes) => bytes.len() as u64,
            Self::Unknown(size) => *size,
        }
    }
}

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Known(_) => "Known",
            Self::Raw(_) => "Raw",
            Self::Gzip(_) => "Gzip",
            Self::Unknown(_) => "Unknown",
        };
        formatter.debug_tuple(name).field(&self.size()).finish()
    }
}

/// What the state machine tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request began: one more in flight.
    Began {
        /// Which end the watched process is.
        side: Side,
    },
    /// More of the body of a message of interest.
    Body(Piece<'a>),
    /// A request of interest was seen to its end. One that is cut short, or whose end cannot be known, has none.
    Asked {
        /// The exchange.
        id: ExchangeId,
        /// When its last byte moved.
        time: Nanos,
    },
    /// The final answer to a request of interest began.
    Answered(Answer),
    /// An exchange ended: one fewer in flight.
    Finished(Finished<'a>),
    /// The connection now carries another protocol; nothing more will be told of it.
    Upgraded(Upgraded<'a>),
    /// Something belongs to no whole exchange.
    Unmatched(Unmatched),
}

/// What a connection became, and by which request: nothing is known of that if it was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgraded<'a> {
    /// Which end the watched process is.
    pub side: Side,
    /// What it carries now.
    pub protocol: Protocol,
    /// As [`Finished::path`].
    pub path: &'a str,
    /// As [`Finished::host`].
    pub host: &'a str,
    /// When the answer's head was whole.
    pub time: Nanos,
}

/// A request and its answer, as far as they were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished<'a> {
    /// The exchange.
    pub id: ExchangeId,
    /// Which end the watched process is.
    pub side: Side,
    /// The request's method.
    pub method: Method,
    /// The request's path: the target without query and fragment, and without scheme and authority when it came in
    /// absolute form. Characters that a segment may contain literally are percent-decoded. At most 1024 bytes; empty for a `CONNECT`, and when
    /// it was not seen.
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
