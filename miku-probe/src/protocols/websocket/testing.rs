//! What the tests share: frames as a peer writes them, a machine, and what it told.

use super::{Event, Kind, Machine, Segment};
use crate::units::{Direction, Nanos, Side};

/// A frame to be written.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// Opcode, and the bits before it.
    pub(super) first: u8,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn new(first: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { first, mask: None, payload: payload.into() }
    }

    pub(super) fn masked(self, mask: [u8; 4]) -> Self {
        Self { mask: Some(mask), ..self }
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut head = vec![self.first];
        match self.payload.len() {
            short @ 0..126 => head.push(masked | short as u8),
            middle @ 126..0x1_0000 => {
                head.push(masked | 126);
                head.extend((middle as u16).to_be_bytes());
            }
            long => {
                head.push(masked | 127);
                head.extend((long as u64).to_be_bytes());
            }
        }
        head.extend(self.mask.iter().flatten());
        head
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        let mask = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// An [`Event`] that owns what it tells, its times as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Message(Message),
    Close(Direction, u64, Option<u16>),
    Ping(Direction, u64),
    Pong(Direction, u64),
    Lost(Direction, u64),
}

/// A message that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) direction: Direction,
    pub(super) started: u64,
    pub(super) time: u64,
    pub(super) kind: Kind,
    pub(super) compressed: bool,
    pub(super) size: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) whole: bool,
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Message(message) => Self::Message(Message {
                direction: message.direction,
                started: message.started.0,
                time: message.time.0,
                kind: message.kind,
                compressed: message.compressed,
                size: message.size,
                bytes: message.bytes.to_vec(),
                whole: message.whole,
            }),
            Event::Close { direction, time, code } => Self::Close(direction, time.0, code),
            Event::Ping { direction, time } => Self::Ping(direction, time.0),
            Event::Pong { direction, time } => Self::Pong(direction, time.0),
            Event::Lost { direction, time } => Self::Lost(direction, time.0),
        }
    }
}

/// A watched connection. Every segment is one nanosecond after the one before it; the first is at 1.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) machine: Machine,
    pub(super) told: Vec<Told>,
    pub(super) time: u64,
}

impl Watched {
    pub(super) fn client() -> Self {
        Self { machine: Machine::after_upgrade(Side::Client), told: Vec::new(), time: 0 }
    }

    pub(super) fn mid_life() -> Self {
        Self { machine: Machine::mid_life(), ..Self::client() }
    }

    pub(super) fn receives(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.partly(Direction::In, bytes.len() as u64, bytes, b"")
    }

    pub(super) fn sends(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.partly(Direction::Out, bytes.len() as u64, bytes, b"")
    }

    pub(super) fn partly(&mut self, direction: Direction, size: u64, prefix: &[u8], tail: &[u8]) -> &mut Self {
        self.time += 1;
        let segment = Segment { time: Nanos(self.time), direction, size, prefix, tail };
        let told = &mut self.told;
        self.machine.segment(&segment, &mut |event| told.push(event.into()));
        self
    }

    pub(super) fn gap(&mut self) -> &mut Self {
        self.time += 1;
        let told = &mut self.told;
        self.machine.gap(Nanos(self.time), &mut |event| told.push(event.into()));
        self
    }

    /// What was told since the last call.
    pub(super) fn news(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }
}

/// A text that came or went at once, at `time`.
pub(super) fn text(direction: Direction, time: u64, text: &str) -> Told {
    Told::Message(Message {
        direction,
        started: time,
        time,
        kind: Kind::Text,
        compressed: false,
        size: text.len() as u64,
        bytes: text.into(),
        whole: true,
    })
}
