//! What the tests share: a machine, what it told, and the kernel side's rules of capture.

use super::{Direction, End, Event, Finished, Machine, RateLimit, Segment};
use crate::observations::{Method, Outcome, Unmatched};
use crate::units::{Nanos, Side};
use miku_probe_abi::{CAPTURE_LATER, CAPTURE_MAX, TAIL};

/// An [`Event`] that owns what it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Began,
    Finished(Exchange),
    Upgraded,
    Unmatched(Unmatched),
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

/// A watched connection.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) machine: Machine,
    pub(super) told: Vec<Told>,
    pub(super) time: u64,
    capture: Capture,
}

impl Watched {
    pub(super) fn new(capture: Capture) -> Self {
        Self { machine: Machine::default(), told: Vec::new(), time: 0, capture }
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

    pub(super) fn ends(&mut self, end: End) -> &mut Self {
        self.time += 1;
        let told = &mut self.told;
        self.machine.end(Nanos(self.time), end, &mut |event| told.push(event.into()));
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

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Began { .. } => Self::Began,
            Event::Finished(finished) => Self::Finished(finished.into()),
            Event::Upgraded => Self::Upgraded,
            Event::Unmatched(reason) => Self::Unmatched(reason),
        }
    }
}
