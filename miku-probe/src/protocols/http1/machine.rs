//! The state machine of one connection: which bytes are whose.

mod messages;

use super::body::{Chunks, Ending, Progress};
use super::exchange::Queue;
use super::head::{
    Coding, Parsed, PartialHead, Role, Start, expected_start, parse_request, parse_response, plausible_start,
};
use super::{Bytes, End, Event, ExchangeId, Listener, Piece, Segment};
use crate::observations::{AbortReason, Outcome, Unmatched};
use crate::units::{Direction, Nanos, Side};

/// The state of one connection.
///
/// It stays small while the connection is idle, and bounded whatever comes: a head that comes in pieces holds at most
/// 8 KiB, a followed request at most 1.3 KiB, and at most 64 of them are followed at a time.
#[derive(Debug, Default)]
pub struct Machine {
    /// By [`Direction`].
    lanes: [Lane; 2],
    queue: Queue,
    /// Requests after those of the queue whose answers are still to come.
    beyond: u32,
    side: Option<Side>,
    /// The request under way is the newest of the queue.
    request_followed: bool,
    /// The answer under way is to the oldest of the queue.
    response_followed: bool,
    /// It was told that bytes are skipped, or why.
    skipping_told: bool,
    /// The other side sends no more.
    peer_finished: bool,
    /// Bytes of an answer moved after that.
    moved_since: bool,
    carries: Carries,
    /// What the next exchange is called.
    next: u32,
    /// By [`Direction`]: the bodies under way that are of interest. Most connections never have one.
    tellings: Option<Box<[Option<Telling>; 2]>>,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Lane {
    phase: Phase,
    /// The head under way only looks like one.
    tentative: bool,
}

/// Where in a message a direction stands.
#[derive(Debug, Default)]
enum Phase {
    /// No byte has been seen.
    #[default]
    Fresh,
    /// Skipping to the next segment that starts like a message.
    Unsynced,
    /// The next byte starts a message.
    Start,
    /// In a head that is still incomplete.
    Head(Box<PartialHead>),
    /// In a body of which so many bytes are to come.
    Length(u64),
    /// In a chunked body.
    Chunked(Chunks),
    /// In a chunked body whose framing was lost.
    Unframed(Ending),
    /// In a body that the end of the connection ends.
    UntilClose,
    /// In a message whose end cannot be known.
    Endless,
    /// After a `CONNECT`, until its answer tells what the bytes are.
    Held,
}

/// What is being taken in: when, and which way.
#[derive(Clone, Copy)]
struct At {
    time: Nanos,
    direction: Direction,
}

/// What is being told of a body.
#[derive(Debug)]
struct Telling {
    id: ExchangeId,
    role: Role,
    offset: u64,
    coding: Coding,
    /// Nothing of it was told of the segment at hand.
    first: bool,
}

impl Telling {
    const fn new(id: ExchangeId, role: Role, coding: Coding) -> Self {
        Self { id, role, offset: 0, coding, first: true }
    }

    fn tell(&mut self, time: Nanos, bytes: Bytes<'_>, listener: &mut impl Listener) {
        let size = bytes.size();
        let bytes = match (self.coding, bytes) {
            (Coding::Plain, bytes) => bytes,
            (Coding::Gzip, Bytes::Known(bytes)) => Bytes::Gzip(bytes),
            _ => Bytes::Unknown(size),
        };
        let first = std::mem::take(&mut self.first);
        listener.tell(Event::Body(Piece { id: self.id, role: self.role, time, first, offset: self.offset, bytes }));
        self.offset = self.offset.saturating_add(size);
    }
}

/// What a connection carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Carries {
    #[default]
    Http,
    /// Another protocol.
    Other,
    /// The same, in the segment where that came out; the end of the answer's head is not known.
    OtherUncertain,
}

impl Machine {
    /// Takes in one segment and tells what it brought, in order. Returned is what of it belongs to another protocol, once
    /// the connection carries one.
    pub fn segment<'a>(&mut self, segment: &Segment<'a>, listener: &mut impl Listener) -> Option<Segment<'a>> {
        if segment.size == 0 {
            return None;
        }
        if self.carries != Carries::Http {
            return Some(*segment);
        }
        let at = At { time: segment.time, direction: segment.direction };
        let prefix = &segment.prefix[..bounded(segment.size, segment.prefix.len())];
        let rest = segment.size - prefix.len() as u64;
        let tail = &segment.tail[segment.tail.len() - bounded(rest, segment.tail.len())..];
        let hidden = rest - tail.len() as u64;
        if let Some(telling) = self.telling(at) {
            telling.first = true;
        }
        self.look_for_start(at, prefix, listener);
        let left = self.known(at, prefix, listener);
        if self.carries != Carries::Http {
            return self.other(Segment { size: rest + left.len() as u64, prefix: left, tail, ..*segment });
        }
        if hidden > 0 {
            self.hidden(at, hidden, listener);
        }
        let left = self.known(at, tail, listener);
        if self.carries != Carries::Http {
            return self.other(Segment { size: left.len() as u64, prefix: left, tail: b"", ..*segment });
        }
        if let Phase::Unframed(ending) = self.lane(at).phase
            && ending.is_terminator()
        {
            self.message_ended(at, listener);
        }
        None
    }

    /// What is left of the segment in which the connection got another protocol.
    fn other<'a>(&mut self, left: Segment<'a>) -> Option<Segment<'a>> {
        let certain = std::mem::replace(&mut self.carries, Carries::Other) == Carries::Other;
        (certain && left.size > 0).then_some(left)
    }

    /// Whether a message of HTTP was seen so far.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.side.is_some()
    }

    /// Takes in that segments of this connection, in either direction, were lost before the next one.
    pub fn gap(&mut self, time: Nanos, listener: &mut impl Listener) {
        if self.carries != Carries::Http {
            return;
        }
        self.finish_all(Outcome::Unknown, time, listener);
        self.lose_sync();
        listener.tell(Event::Unmatched(Unmatched::Gap));
    }

    /// Takes in that the connection, or one half of it, ended.
    pub fn end(&mut self, time: Nanos, end: End, listener: &mut impl Listener) {
        let Some(side) = self.side else { return };
        if self.carries != Carries::Http {
            return;
        }
        let (peer, own) = match side {
            Side::Server => (AbortReason::ClientClosed, AbortReason::ServerClosed),
            Side::Client => (AbortReason::ServerClosed, AbortReason::ClientClosed),
        };
        let outcome = match end {
            End::PeerFinished => {
                self.peer_finished = true;
                self.moved_since = false;
                if side == Side::Server {
                    // The client may still read. But what it has not sent of a request, it never will.
                    if self.queue.oldest().is_some_and(|exchange| exchange.answered) {
                        self.finish(Outcome::Complete, time, listener);
                    }
                    return;
                }
                Outcome::Aborted(peer)
            }
            End::LocalClosed => Outcome::Aborted(if self.peer_finished { peer } else { own }),
            End::Reset => Outcome::Aborted(AbortReason::Reset),
            End::Timeout => Outcome::Aborted(AbortReason::Timeout),
            End::Over => Outcome::Aborted(AbortReason::Unknown),
            End::Detached => Outcome::Unknown,
        };
        self.count_partial_response(side, time);
        // The closing of the server's half is what ends a body without a declared length.
        let closed_by_server = match (side, end) {
            // Whoever ends what lasts until its end ends it as it should.
            (Side::Client, End::PeerFinished) | (_, End::Over) => true,
            (Side::Server, End::LocalClosed) => !self.peer_finished || self.moved_since,
            _ => false,
        };
        let unanswered = self.queue.len() - usize::from(self.queue.oldest().is_some_and(|exchange| exchange.answered));
        match self.lanes[response_lane(side)].phase {
            Phase::UntilClose if closed_by_server && self.response_followed => {
                self.finish(Outcome::Complete, time, listener);
            }
            Phase::Endless if self.response_followed => self.finish(Outcome::Unknown, time, listener),
            _ => {}
        }
        self.finish_all(outcome, time, listener);
        self.lose_sync();
        if end == End::Detached {
            for _ in 0..unanswered {
                listener.tell(Event::Unmatched(Unmatched::Detached));
            }
        }
    }

    fn lane(&mut self, at: At) -> &mut Lane {
        &mut self.lanes[at.direction as usize]
    }

    fn phase(&mut self, at: At) -> &mut Phase {
        &mut self.lane(at).phase
    }

    fn telling(&mut self, at: At) -> Option<&mut Telling> {
        self.tellings.as_deref_mut()?[at.direction as usize].as_mut()
    }

    /// Which message of an exchange the direction carries, once that is known.
    fn role(&self, direction: Direction) -> Option<Role> {
        Some(match (self.side?, direction) {
            (Side::Server, Direction::In) | (Side::Client, Direction::Out) => Role::Request,
            (Side::Server, Direction::Out) | (Side::Client, Direction::In) => Role::Response,
        })
    }

    /// At the start of a segment: whether a message starts here although the state would not have it.
    fn look_for_start(&mut self, at: At, prefix: &[u8], listener: &mut impl Listener) {
        let role = self.role(at.direction);
        let fits = |start| matches!(start, Start::Message(found) if role.is_none_or(|role| role == found));
        let lane = self.lane(at);
        let tentative = lane.tentative;
        match lane.phase {
            Phase::Fresh | Phase::Unsynced => {
                let start = plausible_start(prefix);
                if fits(start) || (start == Start::Unclear && !prefix.is_empty()) {
                    lane.phase = Phase::Start;
                    lane.tentative = true;
                } else {
                    self.skip(at, listener);
                }
            }
            // What came before was no head, if a new one starts here.
            Phase::Head(_) if tentative && fits(plausible_start(prefix)) => lane.phase = Phase::Start,
            Phase::Endless if fits(plausible_start(prefix)) => match role {
                Some(Role::Response) if self.response_followed => {
                    self.finish(Outcome::Unknown, at.time, listener);
                    *self.phase(at) = Phase::Start;
                }
                _ => self.message_ended(at, listener),
            },
            Phase::Length(_) | Phase::Chunked(_) | Phase::Unframed(_) | Phase::UntilClose => match role {
                // The answer came early, and made the client give up the rest of its request.
                Some(Role::Request)
                    if self.queue.oldest().is_some_and(|exchange| exchange.answered)
                        && fits(plausible_start(prefix)) =>
                {
                    self.message_ended(at, listener);
                }
                // Nobody knows whether this was the answer to a HEAD, which has no body.
                Some(Role::Response) if !self.response_followed && fits(plausible_start(prefix)) => {
                    self.message_ended(at, listener);
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Goes on skipping, and tells so when the probe came in the middle of a message.
    fn skip(&mut self, at: At, listener: &mut impl Listener) {
        *self.lane(at) = Lane { phase: Phase::Unsynced, tentative: false };
        if self.side.is_none() && !std::mem::replace(&mut self.skipping_told, true) {
            listener.tell(Event::Unmatched(Unmatched::MidMessage));
        }
    }

    /// Tells of the next bytes of the body under way, if it is of interest.
    fn tell_body(&mut self, at: At, bytes: Bytes<'_>, listener: &mut impl Listener) {
        if let Some(telling) = self.telling(at) {
            telling.tell(at.time, bytes, listener);
        }
    }

    /// Takes in the next bytes, which are known. Returned are those that another protocol begins with.
    fn known<'a>(&mut self, at: At, mut bytes: &'a [u8], listener: &mut impl Listener) -> &'a [u8] {
        // Every round takes bytes, or goes from a head that leads nowhere to a phase that takes all.
        while !bytes.is_empty() && self.carries == Carries::Http {
            let all = bytes.len();
            let used = match self.phase(at) {
                Phase::Start => self.start(at, bytes, listener),
                Phase::Head(_) => self.more_of_head(at, bytes, listener),
                Phase::Length(remaining) => {
                    let used = bounded(*remaining, all);
                    self.tell_body(at, Bytes::Known(&bytes[..used]), listener);
                    self.of_length(at, used as u64, listener);
                    used
                }
                Phase::Chunked(_) => match self.chunks(at, bytes, listener) {
                    Progress::More => {
                        self.count(at, all as u64);
                        all
                    }
                    Progress::Ended(used) => {
                        self.count(at, used as u64);
                        self.message_ended(at, listener);
                        used
                    }
                    Progress::Broken => {
                        *self.phase(at) = Phase::Endless;
                        listener.tell(Event::Unmatched(Unmatched::Malformed));
                        0
                    }
                },
                Phase::Unframed(ending) => {
                    ending.known(bytes);
                    self.tell_body(at, Bytes::Raw(bytes), listener);
                    self.count(at, all as u64);
                    all
                }
                Phase::UntilClose => {
                    self.tell_body(at, Bytes::Known(bytes), listener);
                    self.count(at, all as u64);
                    all
                }
                Phase::Endless => {
                    self.count(at, all as u64);
                    all
                }
                Phase::Fresh | Phase::Unsynced | Phase::Held => all,
            };
            bytes = &bytes[used..];
        }
        bytes
    }

    /// Follows known bytes of a chunked body, and tells of its data if it is of interest.
    fn chunks(&mut self, at: At, bytes: &[u8], listener: &mut impl Listener) -> Progress {
        let lane = at.direction as usize;
        let Phase::Chunked(chunks) = &mut self.lanes[lane].phase else { return Progress::Broken };
        match self.tellings.as_deref_mut().and_then(|tellings| tellings[lane].as_mut()) {
            Some(telling) => chunks.known(bytes, |data| telling.tell(at.time, Bytes::Known(data), listener)),
            None => chunks.known(bytes, |_| {}),
        }
    }

    /// Takes in the next `count` bytes, which are not known.
    fn hidden(&mut self, at: At, mut count: u64, listener: &mut impl Listener) {
        while count > 0 && self.carries == Carries::Http {
            let used = match self.phase(at) {
                Phase::Start => {
                    self.truncated(at, b"", at.time, listener);
                    0
                }
                Phase::Head(_) => {
                    if let Phase::Head(head) = std::mem::take(self.phase(at)) {
                        self.truncated(at, head.bytes(), head.time, listener);
                    }
                    0
                }
                Phase::Length(remaining) => {
                    let used = count.min(*remaining);
                    self.tell_body(at, Bytes::Unknown(used), listener);
                    self.of_length(at, used, listener);
                    used
                }
                Phase::Chunked(chunks) => {
                    if !chunks.hidden(count) {
                        *self.phase(at) = Phase::Unframed(Ending::default());
                    }
                    self.tell_body(at, Bytes::Unknown(count), listener);
                    self.count(at, count);
                    count
                }
                Phase::Unframed(ending) => {
                    ending.hidden();
                    self.tell_body(at, Bytes::Unknown(count), listener);
                    self.count(at, count);
                    count
                }
                Phase::UntilClose => {
                    self.tell_body(at, Bytes::Unknown(count), listener);
                    self.count(at, count);
                    count
                }
                Phase::Endless => {
                    self.count(at, count);
                    count
                }
                Phase::Fresh | Phase::Unsynced | Phase::Held => count,
            };
            count -= used;
        }
    }

    /// What `bytes` start with, as a head of this direction.
    fn start_of(&mut self, at: At, bytes: &[u8]) -> Start {
        match self.role(at.direction) {
            Some(role) if !self.lane(at).tentative => expected_start(role, bytes),
            role => match plausible_start(bytes) {
                Start::Message(found) if role.is_some_and(|role| role != found) => Start::Neither,
                start => start,
            },
        }
    }

    /// Takes in known bytes where a message starts, and tells how many it took.
    fn start(&mut self, at: At, bytes: &[u8], listener: &mut impl Listener) -> usize {
        if !self.lane(at).tentative {
            // Empty lines before a message are nobody's (RFC 9112, section 2.2).
            let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            if blank > 0 {
                return blank;
            }
        }
        // The common way: the whole head is there.
        let parsed = match self.start_of(at, bytes) {
            Start::Message(Role::Request) => match parse_request(bytes) {
                Parsed::Whole(head, length) => {
                    self.request(at, &head, length, at.time, listener);
                    return length;
                }
                Parsed::Partial => Parsed::Partial,
                Parsed::TooMany => Parsed::TooMany,
                Parsed::Invalid => Parsed::Invalid,
            },
            Start::Message(Role::Response) => match parse_response(bytes, at.direction == Direction::In) {
                Parsed::Whole(head, length) => {
                    self.response(at, head, length, at.time, listener);
                    return length;
                }
                parsed => parsed,
            },
            Start::Unclear => Parsed::Partial,
            Start::Neither => Parsed::Invalid,
        };
        match parsed {
            Parsed::Partial => {
                *self.phase(at) = Phase::Head(Box::new(PartialHead::new(at.time)));
                0
            }
            Parsed::TooMany => {
                self.truncated(at, bytes, at.time, listener);
                bytes.len()
            }
            _ => {
                self.reject(at, listener);
                bytes.len()
            }
        }
    }

    /// Takes in known bytes of a head under way, and tells how many it took.
    fn more_of_head(&mut self, at: At, bytes: &[u8], listener: &mut impl Listener) -> usize {
        let Phase::Head(mut head) = std::mem::take(self.phase(at)) else { return 0 };
        let Some((used, whole)) = head.take(bytes) else {
            self.truncated(at, head.bytes(), head.time, listener);
            return 0;
        };
        let start = self.start_of(at, head.bytes());
        if !whole && start != Start::Neither {
            *self.phase(at) = Phase::Head(head);
            return used;
        }
        let length = head.bytes().len();
        match start {
            Start::Message(Role::Request) => match parse_request(head.bytes()) {
                Parsed::Whole(request, end) if end == length => self.request(at, &request, length, head.time, listener),
                Parsed::TooMany => self.truncated(at, head.bytes(), head.time, listener),
                _ => self.reject(at, listener),
            },
            Start::Message(Role::Response) => match parse_response(head.bytes(), at.direction == Direction::In) {
                Parsed::Whole(response, end) if end == length => {
                    self.response(at, response, length, head.time, listener);
                }
                Parsed::TooMany => self.truncated(at, head.bytes(), head.time, listener),
                _ => self.reject(at, listener),
            },
            Start::Unclear | Start::Neither => self.reject(at, listener),
        }
        used
    }

    /// Takes in that bytes which had to be a head are none.
    fn reject(&mut self, at: At, listener: &mut impl Listener) {
        if self.lane(at).tentative {
            self.skip(at, listener);
            return;
        }
        *self.phase(at) = Phase::Unsynced;
        if self.role(at.direction) == Some(Role::Response) {
            self.beyond = 0;
            self.finish_all(Outcome::Unknown, at.time, listener);
        }
        listener.tell(Event::Unmatched(Unmatched::Malformed));
    }

    /// Bytes allocated beside the machine itself.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        let heads =
            self.lanes.iter().map(|lane| if let Phase::Head(head) = &lane.phase { head.allocated() } else { 0 });
        let tellings = self.tellings.as_deref().map_or(0, size_of_val);
        heads.sum::<usize>() + tellings + self.queue.allocated()
    }

    /// Makes both directions wait for the next segment that starts like a message.
    fn lose_sync(&mut self) {
        for lane in &mut self.lanes {
            *lane = Lane { phase: Phase::Unsynced, tentative: false };
        }
        self.skipping_told = true;
        self.beyond = 0;
        self.request_followed = false;
        self.response_followed = false;
    }
}

/// Where a connection's answers are among its lanes.
const fn response_lane(side: Side) -> usize {
    match side {
        Side::Server => Direction::Out as usize,
        Side::Client => Direction::In as usize,
    }
}

/// As much of `count` as fits `most`.
fn bounded(count: u64, most: usize) -> usize {
    usize::try_from(count).map_or(most, |count| count.min(most))
}
