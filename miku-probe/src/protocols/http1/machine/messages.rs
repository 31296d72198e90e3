//! What messages do to the exchanges in flight: where they begin, count, end, and are told.

use super::{At, Chunks, Machine, Phase, Tell, response_lane};
use crate::observations::{Method, Outcome, Unmatched};
use crate::protocols::http1::exchange::Exchange;
use crate::protocols::http1::head::{
    Declared, RequestHead, ResponseHead, Role, Start, truncated_status, with_truncated_request,
};
use crate::protocols::http1::{Event, RateLimit};
use crate::units::{Direction, Nanos, Side};

/// What the head of an answer opened.
enum Opened {
    Final,
    Interim,
    Upgrade,
}

impl Machine {
    /// Takes in that only the start of a head is known. The message ends where the next one is seen.
    pub(super) fn truncated(&mut self, at: At, head: &[u8], start: Nanos, tell: &mut impl Tell) {
        let role = match (self.start_of(at, head), self.role(at.direction)) {
            (Start::Message(role), _) => role,
            (_, Some(role)) if !self.lane(at).tentative => role,
            _ => return self.skip(at, tell),
        };
        tell(Event::Unmatched(Unmatched::HeadTruncated));
        match role {
            Role::Request => {
                with_truncated_request(head, |request| self.open_request(at, &request, head.len(), start, tell));
                *self.phase(at) = Phase::Endless;
            }
            Role::Response => {
                let (status, limits) = (truncated_status(head), RateLimit::default());
                let opened = self.open_response(at, status, limits, head.len(), start, tell);
                *self.phase(at) = match opened {
                    Opened::Final => Phase::Endless,
                    Opened::Interim | Opened::Upgrade => Phase::Unsynced,
                };
            }
        }
    }

    /// Takes in the whole head of a request.
    pub(super) fn request(
        &mut self,
        at: At,
        head: &RequestHead<'_>,
        length: usize,
        start: Nanos,
        tell: &mut impl Tell,
    ) {
        self.open_request(at, head, length, start, tell);
        *self.phase(at) = match head.declared {
            _ if head.method == Method::Connect => {
                self.message_ended(at, tell);
                Phase::Held
            }
            Declared::Nothing | Declared::Length(0) => return self.message_ended(at, tell),
            Declared::Length(length) => Phase::Length(length),
            Declared::Chunked => Phase::Chunked(Chunks::new()),
            Declared::OtherCoding | Declared::Invalid => {
                tell(Event::Unmatched(Unmatched::Malformed));
                Phase::Endless
            }
        };
    }

    /// Takes in the whole head of a response (RFC 9112, section 6.3).
    pub(super) fn response(&mut self, at: At, head: ResponseHead, length: usize, start: Nanos, tell: &mut impl Tell) {
        match self.open_response(at, head.status, head.limits, length, start, tell) {
            Opened::Upgrade => return,
            Opened::Interim => return *self.phase(at) = Phase::Start,
            Opened::Final => {}
        }
        let to_head = self.response_followed && self.queue.oldest().is_some_and(Exchange::is_head);
        *self.phase(at) = match head.declared {
            _ if to_head || matches!(head.status, Some(204 | 304)) => return self.message_ended(at, tell),
            Declared::Length(0) => return self.message_ended(at, tell),
            Declared::Length(length) => Phase::Length(length),
            Declared::Chunked => Phase::Chunked(Chunks::new()),
            Declared::Nothing | Declared::OtherCoding => Phase::UntilClose,
            Declared::Invalid => {
                tell(Event::Unmatched(Unmatched::Malformed));
                Phase::Endless
            }
        };
    }

    /// Takes in that a message of `role` was recognised.
    fn recognised(&mut self, at: At, role: Role) {
        self.lane(at).tentative = false;
        if self.side.is_none() {
            self.side = Some(match (role, at.direction) {
                (Role::Request, Direction::In) | (Role::Response, Direction::Out) => Side::Server,
                (Role::Request, Direction::Out) | (Role::Response, Direction::In) => Side::Client,
            });
            // Where a request comes first, the other direction starts with its answer.
            let other = &mut self.lanes[1 - at.direction as usize];
            if role == Role::Request && matches!(other.phase, Phase::Fresh) {
                other.phase = Phase::Start;
            }
        }
    }

    fn open_request(&mut self, at: At, head: &RequestHead<'_>, length: usize, start: Nanos, tell: &mut impl Tell) {
        self.recognised(at, Role::Request);
        let Some(side) = self.side else { return };
        let response = &mut self.lanes[response_lane(side)].phase;
        // A client that does not pipeline asks again only after the answer, wherever that ended.
        if matches!(response, Phase::Endless | Phase::Unframed(_))
            && self.queue.len() == usize::from(self.response_followed)
        {
            *response = Phase::Unsynced;
            if let Some(end) = self.queue.oldest().map(|exchange| exchange.last_byte) {
                self.finish(Outcome::Unknown, end, tell);
            }
        }
        // Answers come in order: no request can be followed after one that is not.
        let exchange = if self.beyond == 0 { self.queue.push() } else { None };
        self.request_followed = exchange.is_some();
        let Some(exchange) = exchange else {
            self.beyond = self.beyond.saturating_add(1);
            return tell(Event::Unmatched(Unmatched::PipelineTooDeep));
        };
        exchange.begin(head, start);
        exchange.request_bytes = length as u64;
        tell(Event::Began { side });
    }

    fn open_response(
        &mut self,
        at: At,
        status: Option<u16>,
        limits: RateLimit,
        length: usize,
        start: Nanos,
        tell: &mut impl Tell,
    ) -> Opened {
        self.recognised(at, Role::Response);
        let request = 1 - at.direction as usize;
        let interim = status.is_some_and(|status| (100..200).contains(&status) && status != 101);
        if !interim && self.queue.oldest().is_some_and(|exchange| exchange.answered) {
            // An answer to a request of which nothing was seen: the one before will not get longer.
            self.lanes[request].phase = Phase::Unsynced;
            self.finish(Outcome::Complete, at.time, tell);
        }
        // What began before the request is no answer to it.
        let answers = |exchange: &Exchange| !exchange.answered && exchange.start <= start;
        self.response_followed = self.queue.oldest().is_some_and(answers);
        self.count(at, length as u64);
        if interim {
            self.response_followed = false;
            return Opened::Interim;
        }
        let mut upgrade = status == Some(101);
        match self.queue.oldest_mut() {
            Some(exchange) if self.response_followed => {
                exchange.status = status;
                exchange.limits = limits;
                exchange.first_byte = Some(start);
                upgrade |= exchange.is_connect() && status.is_some_and(|status| (200..300).contains(&status));
            }
            None if self.beyond > 0 => self.beyond -= 1,
            _ => tell(Event::Unmatched(Unmatched::ResponseWithoutRequest)),
        }
        if upgrade {
            if self.response_followed {
                self.finish(Outcome::Complete, at.time, tell);
            }
            self.finish_all(Outcome::Unknown, at.time, tell);
            self.lanes = Default::default();
            self.upgraded = true;
            tell(Event::Upgraded);
            return Opened::Upgrade;
        }
        if matches!(self.lanes[request].phase, Phase::Held) {
            self.lanes[request].phase = Phase::Start;
        }
        Opened::Final
    }

    /// Takes in `count` bytes of a body with a length, which has at least as many to come.
    pub(super) fn of_length(&mut self, at: At, count: u64, tell: &mut impl Tell) {
        self.count(at, count);
        if let Phase::Length(remaining) = self.phase(at) {
            *remaining -= count;
            if *remaining == 0 {
                self.message_ended(at, tell);
            }
        }
    }

    /// Counts bytes of the message under way.
    pub(super) fn count(&mut self, at: At, count: u64) {
        match self.role(at.direction) {
            Some(Role::Request) if self.request_followed => {
                if let Some(exchange) = self.queue.newest_mut() {
                    exchange.request_bytes = exchange.request_bytes.saturating_add(count);
                }
            }
            Some(Role::Response) if self.response_followed => {
                self.moved_since = true;
                if let Some(exchange) = self.queue.oldest_mut() {
                    exchange.response_bytes = exchange.response_bytes.saturating_add(count);
                    exchange.last_byte = at.time;
                }
            }
            _ => {}
        }
    }

    /// Takes in that the message under way has ended.
    pub(super) fn message_ended(&mut self, at: At, tell: &mut impl Tell) {
        *self.phase(at) = Phase::Start;
        match self.role(at.direction) {
            Some(Role::Request) if std::mem::take(&mut self.request_followed) => {
                let Some(exchange) = self.queue.newest_mut() else { return };
                exchange.asked = true;
                if exchange.answered {
                    self.finish(Outcome::Complete, at.time, tell);
                }
            }
            Some(Role::Response) if std::mem::take(&mut self.response_followed) => {
                let Some(exchange) = self.queue.oldest_mut() else { return };
                exchange.answered = true;
                let asked = exchange.asked;
                // Where the request's end cannot be known, it ends with its answer.
                let request = &mut self.lanes[1 - at.direction as usize].phase;
                let endless = !asked && matches!(request, Phase::Endless | Phase::Unframed(_));
                if endless {
                    *request = Phase::Unsynced;
                }
                if asked || endless {
                    self.finish(Outcome::Complete, at.time, tell);
                }
            }
            _ => {}
        }
    }

    /// Adds the start of an answer's head that the connection's end cuts off.
    pub(super) fn count_partial_response(&mut self, side: Side, time: Nanos) {
        let Phase::Head(head) = &self.lanes[response_lane(side)].phase else { return };
        if let Some(exchange) = self.queue.oldest_mut()
            && !exchange.answered
        {
            exchange.response_bytes += head.bytes().len() as u64;
            exchange.last_byte = time;
        }
    }

    /// Tells of the oldest exchange, and forgets it. An answer seen whole makes it complete, whatever came of the
    /// request's rest.
    pub(super) fn finish(&mut self, outcome: Outcome, time: Nanos, tell: &mut impl Tell) {
        let (Some(side), Some(exchange)) = (self.side, self.queue.oldest()) else { return };
        let outcome = if exchange.answered { Outcome::Complete } else { outcome };
        let end = if outcome == Outcome::Complete { exchange.last_byte } else { time };
        tell(Event::Finished(exchange.finished(side, outcome, end)));
        self.queue.pop();
        self.response_followed = false;
        if self.queue.is_empty() {
            self.request_followed = false;
        }
    }

    pub(super) fn finish_all(&mut self, outcome: Outcome, time: Nanos, tell: &mut impl Tell) {
        while !self.queue.is_empty() {
            self.finish(outcome, time, tell);
        }
    }
}
