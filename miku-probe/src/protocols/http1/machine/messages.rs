//! What messages do to the exchanges in flight: where they begin, count, end, and are told.

use super::{At, Carries, Chunks, Machine, Phase, Telling, response_lane};
use crate::observations::{Method, Outcome, Unmatched};
use crate::protocols::http1::exchange::Exchange;
use crate::protocols::http1::head::{
    Coding, Declared, Media, Protocol, RequestHead, ResponseHead, Role, Start, truncated_status, with_truncated_request,
};
use crate::protocols::http1::{Event, ExchangeId, Interest, Listener, RateLimit, Upgraded};
use crate::units::{Direction, Nanos, Side};

/// What the head of an answer opened.
enum Opened {
    Final,
    Interim,
    Upgrade,
}

impl Machine {
    /// Takes in that only the start of a head is known. The message ends where the next one is seen.
    pub(super) fn truncated(&mut self, at: At, head: &[u8], start: Nanos, listener: &mut impl Listener) {
        let role = match (self.start_of(at, head), self.role(at.direction)) {
            (Start::Message(role), _) => role,
            (_, Some(role)) if !self.lane(at).tentative => role,
            _ => return self.skip(at, listener),
        };
        listener.tell(Event::Unmatched(Unmatched::HeadTruncated));
        match role {
            Role::Request => {
                with_truncated_request(head, |request| self.open_request(at, &request, head.len(), start, listener));
                *self.phase(at) = Phase::Endless;
            }
            Role::Response => {
                let response = ResponseHead {
                    status: truncated_status(head),
                    declared: Declared::Nothing,
                    coding: Coding::Plain,
                    content_type: b"",
                    upgrade: Protocol::Other,
                    limits: RateLimit::default(),
                };
                *self.phase(at) = match self.open_response(at, &response, head.len(), start, listener) {
                    Opened::Final => Phase::Endless,
                    Opened::Interim => Phase::Unsynced,
                    Opened::Upgrade => {
                        self.carries = Carries::OtherUncertain;
                        Phase::Unsynced
                    }
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
        listener: &mut impl Listener,
    ) {
        self.open_request(at, head, length, start, listener);
        let phase = match head.declared {
            _ if head.method == Method::Connect => {
                self.message_ended(at, listener);
                return *self.phase(at) = Phase::Held;
            }
            Declared::Nothing | Declared::Length(0) => return self.message_ended(at, listener),
            Declared::Length(length) => Phase::Length(length),
            Declared::Chunked => Phase::Chunked(Chunks::new()),
            Declared::OtherCoding | Declared::Invalid => {
                listener.tell(Event::Unmatched(Unmatched::Malformed));
                return *self.phase(at) = Phase::Endless;
            }
        };
        let exchange = if self.request_followed { self.queue.newest_mut() } else { None };
        let wanted = exchange.filter(|exchange| exchange.interest != Interest::Nothing).map(|exchange| exchange.id);
        self.begin_body(at, phase, wanted.map(|id| Telling::new(id, Role::Request, head.coding)));
    }

    /// Takes in that a body begins, and whether it is told of.
    fn begin_body(&mut self, at: At, phase: Phase, telling: Option<Telling>) {
        *self.phase(at) = phase;
        if telling.is_some() || self.tellings.is_some() {
            self.tellings.get_or_insert_default()[at.direction as usize] = telling;
        }
    }

    /// Takes in the whole head of a response (RFC 9112, section 6.3).
    pub(super) fn response(
        &mut self,
        at: At,
        head: ResponseHead<'_>,
        length: usize,
        start: Nanos,
        listener: &mut impl Listener,
    ) {
        match self.open_response(at, &head, length, start, listener) {
            Opened::Upgrade => return,
            Opened::Interim => return *self.phase(at) = Phase::Start,
            Opened::Final => {}
        }
        let to_head = self.response_followed && self.queue.oldest().is_some_and(Exchange::is_head);
        let phase = match head.declared {
            _ if to_head || matches!(head.status, Some(204 | 304)) => return self.message_ended(at, listener),
            Declared::Length(0) => return self.message_ended(at, listener),
            Declared::Length(length) => Phase::Length(length),
            Declared::Chunked => Phase::Chunked(Chunks::new()),
            Declared::Nothing | Declared::OtherCoding => Phase::UntilClose,
            Declared::Invalid => {
                listener.tell(Event::Unmatched(Unmatched::Malformed));
                return *self.phase(at) = Phase::Endless;
            }
        };
        let exchange = if self.response_followed { self.queue.oldest() } else { None };
        let wanted = exchange.filter(|exchange| exchange.interest == Interest::Whole).map(|exchange| exchange.id);
        self.begin_body(at, phase, wanted.map(|id| Telling::new(id, Role::Response, head.coding)));
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

    fn open_request(
        &mut self,
        at: At,
        head: &RequestHead<'_>,
        length: usize,
        start: Nanos,
        listener: &mut impl Listener,
    ) {
        self.recognised(at, Role::Request);
        let Some(side) = self.side else { return };
        let response = &mut self.lanes[response_lane(side)].phase;
        // A client that does not pipeline asks again only after the answer, wherever that ended.
        if matches!(response, Phase::Endless | Phase::Unframed(_))
            && self.queue.len() == usize::from(self.response_followed)
        {
            *response = Phase::Unsynced;
            if let Some(end) = self.queue.oldest().map(|exchange| exchange.last_byte) {
                self.finish(Outcome::Unknown, end, listener);
            }
        }
        // Answers come in order: no request can be followed after one that is not.
        let exchange = if self.beyond == 0 { self.queue.push() } else { None };
        self.request_followed = exchange.is_some();
        let Some(exchange) = exchange else {
            self.beyond = self.beyond.saturating_add(1);
            return listener.tell(Event::Unmatched(Unmatched::PipelineTooDeep));
        };
        exchange.id = ExchangeId(self.next);
        self.next = self.next.wrapping_add(1);
        exchange.begin(head, start);
        exchange.request_bytes = length as u64;
        listener.tell(Event::Began { side });
        exchange.interest = listener.interest(&exchange.request(side));
    }

    fn open_response(
        &mut self,
        at: At,
        head: &ResponseHead<'_>,
        length: usize,
        start: Nanos,
        listener: &mut impl Listener,
    ) -> Opened {
        let ResponseHead { status, limits, .. } = *head;
        self.recognised(at, Role::Response);
        let request = 1 - at.direction as usize;
        let interim = status.is_some_and(|status| (100..200).contains(&status) && status != 101);
        if !interim && self.queue.oldest().is_some_and(|exchange| exchange.answered) {
            // An answer to a request of which nothing was seen: the one before will not get longer.
            self.lanes[request].phase = Phase::Unsynced;
            self.finish(Outcome::Complete, at.time, listener);
        }
        // What began before the request is no answer to it.
        let answers = |exchange: &Exchange| !exchange.answered && exchange.start <= start;
        self.response_followed = self.queue.oldest().is_some_and(answers);
        self.count(at, length as u64);
        if interim {
            self.response_followed = false;
            return Opened::Interim;
        }
        let mut upgrade = (status == Some(101)).then_some(head.upgrade);
        match self.queue.oldest_mut() {
            Some(exchange) if self.response_followed => {
                exchange.status = status;
                exchange.limits = limits;
                exchange.first_byte = Some(start);
                if exchange.is_connect() && status.is_some_and(|status| (200..300).contains(&status)) {
                    upgrade = Some(Protocol::Tunnel);
                }
                if exchange.interest != Interest::Nothing {
                    listener.tell(Event::Answered(exchange.answer(start, Media::of(head.content_type), head.coding)));
                }
            }
            None if self.beyond > 0 => self.beyond -= 1,
            _ => listener.tell(Event::Unmatched(Unmatched::ResponseWithoutRequest)),
        }
        if let Some(protocol) = upgrade {
            self.upgrade(at, protocol, listener);
            return Opened::Upgrade;
        }
        if matches!(self.lanes[request].phase, Phase::Held) {
            self.lanes[request].phase = Phase::Start;
        }
        Opened::Final
    }

    /// Takes in that the connection carries another protocol after the answer's head.
    fn upgrade(&mut self, at: At, protocol: Protocol, listener: &mut impl Listener) {
        let Some(side) = self.side else { return };
        self.lanes = Default::default();
        self.tellings = None;
        self.carries = Carries::Other;
        if !std::mem::take(&mut self.response_followed) {
            self.finish_all(Outcome::Unknown, at.time, listener);
            return listener.tell(Event::Upgraded(Upgraded { side, protocol, path: "", host: "", time: at.time }));
        }
        let exchange = self.queue.take();
        listener.tell(Event::Finished(exchange.finished(side, Outcome::Complete, exchange.last_byte)));
        self.finish_all(Outcome::Unknown, at.time, listener);
        listener.tell(Event::Upgraded(exchange.upgraded(side, protocol, at.time)));
    }

    /// Takes in `count` bytes of a body with a length, which has at least as many to come.
    pub(super) fn of_length(&mut self, at: At, count: u64, listener: &mut impl Listener) {
        self.count(at, count);
        if let Phase::Length(remaining) = self.phase(at) {
            *remaining -= count;
            if *remaining == 0 {
                self.message_ended(at, listener);
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
    pub(super) fn message_ended(&mut self, at: At, listener: &mut impl Listener) {
        *self.phase(at) = Phase::Start;
        if let Some(tellings) = &mut self.tellings {
            tellings[at.direction as usize] = None;
        }
        match self.role(at.direction) {
            Some(Role::Request) if std::mem::take(&mut self.request_followed) => {
                let Some(exchange) = self.queue.newest_mut() else { return };
                exchange.asked = true;
                if exchange.interest != Interest::Nothing {
                    listener.tell(Event::Asked { id: exchange.id, time: at.time });
                }
                if exchange.answered {
                    self.finish(Outcome::Complete, at.time, listener);
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
                    self.finish(Outcome::Complete, at.time, listener);
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
    pub(super) fn finish(&mut self, outcome: Outcome, time: Nanos, listener: &mut impl Listener) {
        let (Some(side), Some(exchange)) = (self.side, self.queue.oldest()) else { return };
        let outcome = if exchange.answered { Outcome::Complete } else { outcome };
        let end = if outcome == Outcome::Complete { exchange.last_byte } else { time };
        listener.tell(Event::Finished(exchange.finished(side, outcome, end)));
        for telling in self.tellings.as_deref_mut().into_iter().flatten() {
            // Nothing more is told of it, although its bytes may still come.
            telling.take_if(|telling| telling.id == exchange.id);
        }
        self.queue.pop();
        self.response_followed = false;
        if self.queue.is_empty() {
            self.request_followed = false;
        }
    }

    pub(super) fn finish_all(&mut self, outcome: Outcome, time: Nanos, listener: &mut impl Listener) {
        while !self.queue.is_empty() {
            self.finish(outcome, time, listener);
        }
    }
}
