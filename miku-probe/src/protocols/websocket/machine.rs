//! The state machine of one connection: which bytes are whose.

use super::frame::{HEAD_MAX, Head, Opcode, Parsed, parse};
use super::{Event, Kind, Message, Segment};
use crate::protocols::prefix::{PREFIX_MAX, Prefix};
use crate::units::{Direction, Nanos, Side};

/// The code of a close that gives none (RFC 6455, section 7.4.1).
const NO_CODE: u16 = 1005;

/// The state of one connection. It holds at most 32 KiB for each direction, and nothing between messages.
#[derive(Debug)]
pub struct Machine {
    /// By [`Direction`].
    lanes: [Lane; 2],
    /// Which end the watched process is: clients mask what they send (section 5.1).
    side: Option<Side>,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Lane {
    phase: Phase,
    /// The phase is only supposed: the bytes looked like a frame's.
    tentative: bool,
    message: Option<Fragments>,
}

/// Where in a frame a direction stands.
#[derive(Debug, Default)]
enum Phase {
    /// Skipping to the next segment that starts like a frame.
    #[default]
    Unsynced,
    /// In a frame's head, of which the first bytes came already, the first of all at `started`.
    Head { bytes: [u8; HEAD_MAX], length: usize, started: Nanos },
    /// In a frame, of which some bytes came already.
    Frame(Frame),
    /// After a close, which is the last of a direction.
    Closed,
}

impl Phase {
    const START: Self = Self::Head { bytes: [0; HEAD_MAX], length: 0, started: Nanos(0) };
}

#[derive(Debug)]
struct Frame {
    head: Head,
    /// Bytes taken in.
    taken: u64,
    /// The first bytes of a close, which are its code, as far as they are known.
    code: Prefix,
}

/// A message of which the last frame has not ended.
#[derive(Debug)]
struct Fragments {
    started: Nanos,
    kind: Kind,
    compressed: bool,
    size: u64,
    prefix: Prefix,
}

/// What is being taken in: when, and which way.
#[derive(Clone, Copy)]
struct At {
    time: Nanos,
    direction: Direction,
}

/// What follows in the same segment.
#[derive(Clone, Copy)]
enum Next<'a> {
    Nothing,
    Known(&'a [u8]),
    Hidden,
}

/// Whoever is told.
trait Tell: FnMut(Event<'_>) {}
impl<T: FnMut(Event<'_>)> Tell for T {}

impl Machine {
    /// A connection whose next bytes, in either direction, are the first of a frame: right after the upgrade.
    #[must_use]
    pub fn after_upgrade(side: Side) -> Self {
        let lane = || Lane { phase: Phase::START, ..Lane::default() };
        Self { lanes: [lane(), lane()], side: Some(side) }
    }

    /// A connection of which nobody knows where a frame begins.
    #[must_use]
    pub fn mid_life() -> Self {
        Self { lanes: Default::default(), side: None }
    }

    /// Whether a segment looks like a whole frame, or like several: worth a machine in mid-life.
    #[must_use]
    pub fn looks_like_frames(segment: &Segment<'_>) -> bool {
        segment.size > 0 && spans(segment, None)
    }

    /// Takes in one segment and tells what it brought, in order.
    pub fn segment(&mut self, segment: &Segment<'_>, tell: &mut impl FnMut(Event<'_>)) {
        if segment.size == 0 {
            return;
        }
        let at = At { time: segment.time, direction: segment.direction };
        let bounded = |count: u64, most: usize| usize::try_from(count).map_or(most, |count| count.min(most));
        let prefix = &segment.prefix[..bounded(segment.size, segment.prefix.len())];
        let rest = segment.size - prefix.len() as u64;
        let tail = &segment.tail[segment.tail.len() - bounded(rest, segment.tail.len())..];
        let hidden = rest - tail.len() as u64;
        self.look_for_start(at, segment, prefix);
        let after_hidden = if tail.is_empty() { Next::Nothing } else { Next::Known(tail) };
        self.known(at, prefix, if hidden > 0 { Next::Hidden } else { after_hidden }, tell);
        self.hidden(at, hidden, after_hidden, tell);
        self.known(at, tail, Next::Nothing, tell);
    }

    /// Takes in that segments of this connection, in either direction, were lost before the next one.
    pub fn gap(&mut self, time: Nanos, tell: &mut impl FnMut(Event<'_>)) {
        for direction in [Direction::In, Direction::Out] {
            self.lose(At { time, direction }, tell);
        }
    }

    fn lane(&mut self, at: At) -> &mut Lane {
        &mut self.lanes[at.direction as usize]
    }

    /// Whether frames of a direction bear a mask, once that is known.
    fn masked(&self, at: At) -> Option<bool> {
        self.side.map(|side| (side == Side::Client) == (at.direction == Direction::Out))
    }

    /// At the start of a segment: whether a frame starts here although the state would not have it.
    fn look_for_start(&mut self, at: At, segment: &Segment<'_>, prefix: &[u8]) {
        let masked = self.masked(at);
        let lane = self.lane(at);
        let starts = match lane.phase {
            Phase::Unsynced => !prefix.is_empty() && parse(prefix, masked) != Parsed::Invalid,
            // What came before was no frame, if whole ones are here.
            Phase::Head { .. } | Phase::Frame(_) => lane.tentative && spans(segment, masked),
            Phase::Closed => false,
        };
        if starts {
            *lane = Lane { phase: Phase::START, tentative: true, message: None };
        }
    }

    /// Takes in the next bytes, which are known.
    fn known(&mut self, at: At, mut bytes: &[u8], after: Next<'_>, tell: &mut impl Tell) {
        while !bytes.is_empty() {
            let masked = self.masked(at);
            let lane = self.lane(at);
            match &mut lane.phase {
                Phase::Unsynced | Phase::Closed => return,
                Phase::Head { bytes: head, length, started } => {
                    let old = *length;
                    if old == 0 {
                        *started = at.time;
                    }
                    let started = *started;
                    let more = bytes.len().min(HEAD_MAX - old);
                    head[old..old + more].copy_from_slice(&bytes[..more]);
                    match parse(&head[..old + more], masked) {
                        Parsed::Whole(head, length) => {
                            bytes = &bytes[length - old..];
                            if !self.begin(at, head, started, tell) {
                                return;
                            }
                            if head.length == 0 {
                                self.end(at, next(bytes, after), tell);
                            }
                        }
                        Parsed::Partial => {
                            *length += more;
                            return;
                        }
                        Parsed::Invalid => return self.lose(at, tell),
                    }
                }
                Phase::Frame(frame) => {
                    let left = frame.head.length - frame.taken;
                    let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let (part, rest) = bytes.split_at(count);
                    bytes = rest;
                    if let Some(message) = lane.message_at_once(at, part) {
                        if self.believe(at, next(bytes, after)) {
                            self.lane(at).phase = Phase::START;
                            tell(Event::Message(message));
                        }
                        continue;
                    }
                    lane.take(part);
                    if count as u64 == left {
                        self.end(at, next(bytes, after), tell);
                    }
                }
            }
        }
    }

    /// Takes in the next `count` bytes, which are not known.
    fn hidden(&mut self, at: At, mut count: u64, after: Next<'_>, tell: &mut impl Tell) {
        while count > 0 {
            let lane = self.lane(at);
            match &mut lane.phase {
                Phase::Unsynced | Phase::Closed => return,
                Phase::Head { .. } => return self.lose(at, tell),
                Phase::Frame(frame) => {
                    let left = frame.head.length - frame.taken;
                    let part = left.min(count);
                    count -= part;
                    lane.hide(part);
                    if part == left {
                        self.end(at, if count > 0 { Next::Hidden } else { after }, tell);
                    }
                }
            }
        }
    }

    /// Takes in a frame's head: whether there may be such a frame here.
    fn begin(&mut self, at: At, head: Head, started: Nanos, tell: &mut impl Tell) -> bool {
        let lane = self.lane(at);
        let kind = match head.opcode {
            Opcode::Text => Some(Kind::Text),
            Opcode::Binary => Some(Kind::Binary),
            // A fragment without a message goes on with one of which the start was not seen.
            _ => None,
        };
        if let Some(kind) = kind {
            if lane.message.is_some() {
                self.lose(at, tell);
                return false;
            }
            let (compressed, prefix) = (head.compressed, Prefix::default());
            lane.message = Some(Fragments { started, kind, compressed, size: 0, prefix });
        }
        lane.phase = Phase::Frame(Frame { head, taken: 0, code: Prefix::default() });
        true
    }

    /// Takes in that a frame ended.
    fn end(&mut self, at: At, next: Next<'_>, tell: &mut impl Tell) {
        if !self.believe(at, next) {
            return;
        }
        let lane = self.lane(at);
        let Phase::Frame(frame) = std::mem::replace(&mut lane.phase, Phase::START) else { return };
        let At { time, direction } = at;
        match frame.head.opcode {
            Opcode::Continuation | Opcode::Text | Opcode::Binary if !frame.head.last => {}
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                let Some(message) = lane.message.take() else { return };
                tell(Event::Message(Message {
                    direction,
                    started: message.started,
                    time,
                    kind: message.kind,
                    compressed: message.compressed,
                    size: message.size,
                    bytes: message.prefix.bytes(),
                    whole: message.prefix.is_whole() && !message.compressed,
                }));
            }
            Opcode::Close => {
                *lane = Lane { phase: Phase::Closed, tentative: false, message: None };
                let code = match frame.code.bytes().first_chunk() {
                    _ if frame.head.length == 0 => Some(NO_CODE),
                    code => code.map(|code| u16::from_be_bytes(*code)),
                };
                tell(Event::Close { direction, time, code });
            }
            Opcode::Ping => tell(Event::Ping { direction, time }),
            Opcode::Pong => tell(Event::Pong { direction, time }),
        }
    }

    /// At the end of a frame: whether it was one. A tentative one was if the segment ends with it, or goes on with another.
    fn believe(&mut self, at: At, next: Next<'_>) -> bool {
        let masked = match &self.lane(at).phase {
            Phase::Frame(frame) => frame.head.mask.is_some(),
            _ => return true,
        };
        if !self.lane(at).tentative {
            return true;
        }
        let believed = match next {
            Next::Nothing => true,
            Next::Known(bytes) => parse(bytes, Some(masked)) != Parsed::Invalid,
            Next::Hidden => false,
        };
        if believed {
            self.lane(at).tentative = false;
            let is_client = masked == (at.direction == Direction::Out);
            self.side = Some(if is_client { Side::Client } else { Side::Server });
        } else {
            *self.lane(at) = Lane::default();
        }
        believed
    }

    /// Forgets where frames begin.
    fn lose(&mut self, at: At, tell: &mut impl Tell) {
        let lane = self.lane(at);
        if matches!(lane.phase, Phase::Unsynced | Phase::Closed) {
            return;
        }
        let Lane { tentative, .. } = std::mem::take(lane);
        if !tentative {
            tell(Event::Lost { direction: at.direction, time: at.time });
        }
    }

    /// Bytes allocated beside the machine itself.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.lanes.iter().filter_map(|lane| lane.message.as_ref()).map(|message| message.prefix.allocated()).sum()
    }
}

impl Lane {
    /// Takes in bytes of the frame at hand.
    fn take(&mut self, bytes: &[u8]) {
        let Phase::Frame(frame) = &mut self.phase else { return };
        let offset = frame.taken;
        frame.taken += bytes.len() as u64;
        let kept = match frame.head.opcode {
            Opcode::Close => frame.code.push(bytes),
            Opcode::Ping | Opcode::Pong => return,
            _ => {
                let Some(message) = &mut self.message else { return };
                message.size += bytes.len() as u64;
                if message.compressed {
                    return;
                }
                message.prefix.push(bytes)
            }
        };
        if let Some(mask) = frame.head.mask {
            for (byte, place) in kept.iter_mut().zip(offset..) {
                *byte ^= mask[(place % 4) as usize];
            }
        }
    }

    /// Takes in bytes of the frame at hand which are not known.
    fn hide(&mut self, count: u64) {
        let Phase::Frame(frame) = &mut self.phase else { return };
        frame.taken += count;
        match frame.head.opcode {
            Opcode::Close => frame.code.hide(),
            Opcode::Ping | Opcode::Pong => {}
            _ => {
                if let Some(message) = &mut self.message {
                    message.size += count;
                    message.prefix.hide();
                }
            }
        }
    }

    /// The common way in: a message of one frame, without a mask, all of it in `part`. Nothing is copied.
    fn message_at_once<'a>(&mut self, at: At, part: &'a [u8]) -> Option<Message<'a>> {
        let Phase::Frame(Frame { head, taken: 0, .. }) = &self.phase else { return None };
        let is_data = matches!(head.opcode, Opcode::Text | Opcode::Binary);
        let is_whole = head.last && head.length == part.len() as u64;
        if !is_data || !is_whole || head.mask.is_some() || head.compressed {
            return None;
        }
        let Fragments { started, kind, .. } = self.message.take()?;
        Some(Message {
            direction: at.direction,
            started,
            time: at.time,
            kind,
            compressed: false,
            size: head.length,
            bytes: &part[..part.len().min(PREFIX_MAX)],
            whole: part.len() <= PREFIX_MAX,
        })
    }
}

/// What follows when `bytes` come before `after`.
const fn next<'a>(bytes: &'a [u8], after: Next<'a>) -> Next<'a> {
    if bytes.is_empty() { after } else { Next::Known(bytes) }
}

/// Whether a segment is made of frames, all heads of which are known, to its end.
fn spans(segment: &Segment<'_>, mut masked: Option<bool>) -> bool {
    let mut left = segment.size;
    let mut bytes = segment.prefix;
    while left > 0 {
        let Parsed::Whole(head, length) = parse(bytes, masked) else { return false };
        let size = length as u64 + head.length;
        masked = Some(head.mask.is_some());
        let Some(rest) = left.checked_sub(size) else { return false };
        left = rest;
        bytes = usize::try_from(size).ok().and_then(|size| bytes.get(size..)).unwrap_or_default();
    }
    true
}
