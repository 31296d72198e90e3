//! What the tests share: a machine, what it told, and the kernel side's rules of capture.

use super::{
    Answer, Bytes, Direction, End, Event, ExchangeId, Finished, Interest, Listener, Machine, Protocol, RateLimit,
    Request, Role, Segment,
};
use crate::observations::{Method, Outcome, Unmatched};
use crate::units::{Nanos, Side};
use miku_probe_abi::{CAPTURE_LATER, CAPTURE_MAX, TAIL};

/// An [`Event`] that owns what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Began,
    /// When.
    Asked(u64),
    Answered(Answer),
    Finished(Exchange),
    Upgraded,
    Unmatched(Unmatched),
}

/// A piece of a body that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: ExchangeId,
    pub(super) role: Role,
    pub(super) time: u64,
    pub(super) first: bool,
    pub(super) offset: u64,
    /// The bytes, or how many they are.
    pub(super) bytes: Result<Vec<u8>, u64>,
}

/// A [`Finished`] that owns its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) side: Side,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) host: String,
    pub(super) status: Option<u16>,
    pub(super) start: u64,
    pub(super) first_byte: Option<u64>,
    pub(super) end: u64,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) outcome: Outcome,
    pub(super) limits: RateLimit,
}

impl From<Finished<'_>> for Exchange {
    fn from(finished: Finished<'_>) -> Self {
        Self {
            side: finished.side,
            method: finished.method,
            path: finished.path.into(),
            host: finished.host.into(),
            status: finished.status,
            start: finished.start.0,
            first_byte: finished.first_byte.map(|time| time.0),
            end: finished.end.0,
            request_bytes: finished.request_bytes,
            response_bytes: finished.response_bytes,
            outcome: finished.outcome,
            limits: finished.limits,
        }
    }
}

/// How much of a segment is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    /// All.
    Whole,
    /// What the kernel side copies: a budget for each message's start, then little.
    Budget { left: usize, last: Option<Direction> },
}

impl Capture {
    pub(super) const KERNEL: Self = Self::Budget { left: 0, last: None };

    /// How many bytes of the segment's start are copied.
    fn prefix(&mut self, direction: Direction, bytes: &[u8]) -> usize {
        let Self::Budget { left, last } = self else { return bytes.len() };
        const STARTS: [&[u8]; 8] =
            [b"GET ", b"POST ", b"PUT ", b"DELETE ", b"HEAD ", b"PATCH ", b"OPTIONS ", b"HTTP/1."];
        if *last != Some(direction) || STARTS.iter().any(|start| bytes.starts_with(start)) {
            *left = CAPTURE_MAX;
        }
        *last = Some(direction);
        let copied = bytes.len().min(CAPTURE_LATER.max(*left));
        *left = left.saturating_sub(copied);
        copied
    }
}

/// What a machine told.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) interest: Interest,
    pub(super) told: Vec<Told>,
    pub(super) ids: Vec<ExchangeId>,
    pub(super) pieces: Vec<Piece>,
    /// What the connection became, and by which host and path.
    pub(super) became: Option<(Side, Protocol, String, String)>,
}

impl Listener for Recorder {
    fn tell(&mut self, event: Event<'_>) {
        let told = match event {
            Event::Began { .. } => Told::Began,
            Event::Body(piece) => {
                let bytes = match piece.bytes {
                    Bytes::Known(bytes) => Ok(bytes.to_vec()),
                    Bytes::Raw(_) | Bytes::Gzip(_) | Bytes::Unknown(_) => Err(piece.bytes.size()),
                };
                let super::Piece { id, role, time: Nanos(time), first, offset, .. } = piece;
                return self.pieces.push(Piece { id, role, time, first, offset, bytes });
            }
            Event::Asked { time, .. } => Told::Asked(time.0),
            Event::Answered(answer) => Told::Answered(answer),
            Event::Finished(finished) => {
                self.ids.push(finished.id);
                Told::Finished(finished.into())
            }
            Event::Upgraded(upgraded) => {
                self.became =
                    Some((upgraded.side, upgraded.protocol, upgraded.host.to_owned(), upgraded.path.to_owned()));
                Told::Upgraded
            }
            Event::Unmatched(reason) => Told::Unmatched(reason),
        };
        self.told.push(told);
    }

    fn interest(&mut self, request: &Request<'_>) -> Interest {
        assert_eq!(self.told.last(), Some(&Told::Began), "the request {request:?} was told");
        self.interest
    }
}

/// A watched connection.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) machine: Machine,
    pub(super) recorder: Recorder,
    /// Size, first bytes and last bytes of what belongs to another protocol.
    pub(super) others: Vec<(u64, Vec<u8>, Vec<u8>)>,
    pub(super) time: u64,
    capture: Capture,
}

impl std::ops::Deref for Watched {
    type Target = Recorder;
    fn deref(&self) -> &Recorder {
        &self.recorder
    }
}

impl Watched {
    pub(super) fn new(capture: Capture) -> Self {
        Self::wanting(Interest::Nothing, capture)
    }

    pub(super) fn wanting(interest: Interest, capture: Capture) -> Self {
        let recorder = Recorder { interest, ..Recorder::default() };
        Self { machine: Machine::default(), recorder, others: Vec::new(), time: 0, capture }
    }

    /// One segment, one nanosecond after whatever was before it.
    pub(super) fn moved(&mut self, direction: Direction, bytes: &[u8]) -> &mut Self {
        let copied = self.capture.prefix(direction, bytes);
        let tail = if copied < bytes.len() { &bytes[bytes.len() - bytes.len().min(TAIL)..] } else { b"" };
        self.partly(direction, bytes.len() as u64, &bytes[..copied], tail)
    }

    pub(super) fn receives(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.moved(Direction::In, bytes.as_ref())
    }

    pub(super) fn sends(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.moved(Direction::Out, bytes.as_ref())
    }

    pub(super) fn partly(&mut self, direction: Direction, size: u64, prefix: &[u8], tail: &[u8]) -> &mut Self {
        self.time += 1;
        let segment = Segment { time: Nanos(self.time), direction, size, prefix, tail };
        if let Some(other) = self.machine.segment(&segment, &mut self.recorder) {
            assert_eq!((other.time, other.direction), (segment.time, direction));
            self.others.push((other.size, other.prefix.to_vec(), other.tail.to_vec()));
        }
        self
    }

    pub(super) fn gap(&mut self) -> &mut Self {
        self.time += 1;
        self.machine.gap(Nanos(self.time), &mut self.recorder);
        self
    }

    pub(super) fn ends(&mut self, end: End) -> &mut Self {
        self.time += 1;
        self.machine.end(Nanos(self.time), end, &mut self.recorder);
        self
    }

    /// What was finished so far.
    pub(super) fn finished(&self) -> Vec<&Exchange> {
        self.told
            .iter()
            .filter_map(|told| match told {
                Told::Finished(exchange) => Some(exchange),
                _ => None,
            })
            .collect()
    }

    /// What belongs to no exchange so far.
    pub(super) fn unmatched(&self) -> Vec<Unmatched> {
        self.told
            .iter()
            .filter_map(|told| match told {
                Told::Unmatched(reason) => Some(*reason),
                _ => None,
            })
            .collect()
    }

    /// Requests that began and have not ended.
    pub(super) fn in_flight(&self) -> i64 {
        self.told.iter().fold(0, |count, told| match told {
            Told::Began => count + 1,
            Told::Finished(_) => count - 1,
            _ => count,
        })
    }
}
