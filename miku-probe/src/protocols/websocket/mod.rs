//! The WebSocket protocol (RFC 6455) from either end of a connection: segments in, messages out.
//!
//! A [`Machine`] follows each direction by the lengths that the frames declare. Where a frame's head stands in bytes that
//! are not known, or cannot be one, the direction is skipped to the next segment that starts like a frame; what is found so
//! is believed once a frame ends where the segment does, or where another one begins.
//!
//! A message is told when it ends, with the first of its bytes, the mask taken off. One that is compressed
//! (`permessage-deflate`, RFC 7692) is told without: no outside observer has the state to inflate it.

mod frame;
mod machine;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use super::http1::Segment;
pub use machine::Machine;

use crate::units::{Direction, Nanos};

/// What a message is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Text in UTF-8. Whether it is valid is not looked at.
    Text,
    /// Anything.
    Binary,
}

/// What the state machine tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A message ended.
    Message(Message<'a>),
    /// A side said that it closes the connection: the last that is told of its direction.
    Close {
        /// Which side: [`Direction::Out`] when it is the watched process.
        direction: Direction,
        /// When.
        time: Nanos,
        /// The code, 1005 when it was said that there is none (section 7.1.5), nothing when it is not known.
        code: Option<u16>,
    },
    /// A ping.
    Ping {
        /// Which way.
        direction: Direction,
        /// When it ended.
        time: Nanos,
    },
    /// A pong.
    Pong {
        /// Which way.
        direction: Direction,
        /// When it ended.
        time: Nanos,
    },
    /// Where frames begin is no longer known, and the message under way will not be told.
    Lost {
        /// Which way.
        direction: Direction,
        /// When.
        time: Nanos,
    },
}

/// A message, put together from its fragments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Which way.
    pub direction: Direction,
    /// When the segment moved that its first frame begins in.
    pub started: Nanos,
    /// When the segment moved that its last frame ends in.
    pub time: Nanos,
    /// What it is said to be.
    pub kind: Kind,
    /// Whether it is compressed; its bytes are not told then.
    pub compressed: bool,
    /// Bytes of it, without the frames' heads.
    pub size: u64,
    /// The first of them, at most 32 KiB. They may hold secrets.
    pub bytes: &'a [u8],
    /// Whether that is all of them.
    pub whole: bool,
}

impl std::fmt::Debug for Message<'_> {
    /// Shows nothing of its bytes: they may be secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Message")
            .field("direction", &self.direction)
            .field("time", &self.time)
            .field("kind", &self.kind)
            .field("size", &self.size)
            .field("known", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
