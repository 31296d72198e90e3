//! Runs the state machines of a connection, and takes in what they tell: HTTP/1 first, and a websocket's frames if it
//! becomes one.

use super::bots::{Bots, Out};
use super::connections::{Connection, Made};
use super::models::Models;
use super::services::Link;
use super::{Pipeline, Step, World};
use crate::observations::{LostWhere, Observation, Outcome, Sink, Unmatched};
use crate::protocols::arrivals::{Came, Unread};
use crate::protocols::discord::gateway::is_gateway_host;
use crate::protocols::http1::{End, Event, Interest, Listener, Protocol, Request, Segment, Upgraded};
use crate::protocols::websocket;
use crate::units::{ConnId, Direction, Nanos, Side};

/// The label `protocol`.
const HTTP1: &str = "http1";

impl<S: Sink, W: World> Pipeline<S, W> {
    /// Runs the connection's state machines on something and observes what they tell.
    pub(super) fn feed(&mut self, id: ConnId, step: Step<'_>) {
        if self.asks(id, step) {
            return;
        }
        let Self { connections, services, names, sink, bots, models, .. } = self;
        let Some(connection) = connections.get_mut(id) else { return };
        let Connection {
            service,
            peer,
            made,
            ref server_name,
            ref mut machine,
            ref mut websocket,
            ref mut is_others,
            ref mut unread,
            ..
        } = *connection;
        let server_name = server_name.as_deref();
        let link = Link { service, scheme: id.handle.scheme(), peer, server_name };
        let Some(kept) = services.get_mut(usize::from(service.0)) else { return };
        let (tid, came) = if let Step::Segment(_, tid, came) = step { (tid, Some(came)) } else { (0, None) };
        let out = Out { service, kept, names, sink };
        let mut listening = Listening { id, tid, came, link, made, bots, models, out, became: None, blurred: false };
        match step {
            Step::Segment(segment, ..) => {
                if websocket.is_none() && !machine.has_begun() && websocket::Machine::looks_like_frames(&segment) {
                    *websocket = Some(Box::new(websocket::Machine::mid_life()));
                }
                let rest = match websocket {
                    Some(_) => Some(segment),
                    None => machine.segment(&segment, &mut listening),
                };
                if let Some(Became { side, is_gateway }) = listening.became.take() {
                    *is_others = !is_gateway;
                    *websocket = Some(Box::new(websocket::Machine::after_upgrade(side)));
                }
                match (websocket, rest) {
                    (Some(websocket), Some(rest)) => {
                        websocket.segment(&rest, &mut |event| {
                            let came = unread.as_mut().and_then(|unread| listening.take(unread, &event));
                            listening.websocket(&event, came);
                        });
                        let quiet = rest.direction == Direction::In && !*is_others;
                        listening.segment_ended(&segment, quiet);
                    }
                    _ => listening.segment_ended(&segment, false),
                }
            }
            Step::Gap(time) => {
                if let Some(unread) = unread {
                    unread.gap();
                }
                match websocket {
                    Some(websocket) => websocket.gap(time, &mut |event| listening.websocket(&event, None)),
                    None => machine.gap(time, &mut listening),
                }
            }
            Step::End(time, end) => {
                machine.end(time, end, &mut listening);
                listening.ended(time, end);
            }
        }
        if listening.blurred
            && let Some(unread) = unread
        {
            unread.lose();
        }
    }
}

/// A connection became a websocket.
struct Became {
    /// Which end the watched process is.
    side: Side,
    /// Whether it is one of a gateway of Discord's.
    is_gateway: bool,
}

/// Takes in what the machines of one connection tell.
struct Listening<'a, 'b, S> {
    id: ConnId,
    tid: u32,
    /// When what is read now had come.
    came: Option<Came>,
    link: Link<'a>,
    made: Option<Made>,
    bots: &'a mut Bots,
    models: &'a mut Models,
    out: Out<'b, S>,
    became: Option<Became>,
    /// Something was received that is no message for the process.
    blurred: bool,
}

impl<S: Sink> Listening<'_, '_, S> {
    fn unmatched(&mut self, reason: Unmatched) {
        self.out.observe(&Observation::Unmatched { protocol: HTTP1, reason });
    }

    fn upgraded(&mut self, upgraded: &Upgraded<'_>) {
        let Upgraded { side, protocol, host, time, .. } = *upgraded;
        if protocol != Protocol::WebSocket {
            return;
        }
        let host = if host.is_empty() { self.link.server_name.unwrap_or_default() } else { host };
        let is_gateway = side == Side::Client && is_gateway_host(host);
        let tgid = self.id.tgid;
        if is_gateway {
            self.bots.enter(tgid, self.out.service, time).opened(self.id, host);
        } else if let Some(bot) = self.bots.get_mut(tgid) {
            bot.opened(self.id, host);
        }
        self.became = Some(Became { side, is_gateway });
    }

    /// When a message that nobody decompresses had come, which the process has read with what is read now.
    fn take(&mut self, unread: &mut Unread, event: &websocket::Event<'_>) -> Option<Came> {
        let websocket::Event::Message(message) = event else { return None };
        let is_payload = message.direction == Direction::In && Bots::sounds_like_discord(message);
        if is_payload && self.bots.get_mut(self.id.tgid)?.is_uncompressed(self.id) {
            unread.take(message.size)
        } else {
            None
        }
    }

    fn websocket(&mut self, event: &websocket::Event<'_>, came: Option<Came>) {
        // Whether a process is a bot may come out by what it says over a websocket that was there before.
        if let websocket::Event::Message(message) = event
            && message.direction == Direction::Out
            && Bots::sounds_like_one(message)
        {
            self.bots.enter(self.id.tgid, self.out.service, message.started);
        }
        self.blurred |= match event {
            websocket::Event::Ping { direction, .. } | websocket::Event::Pong { direction, .. } => {
                *direction == Direction::In
            }
            _ => false,
        };
        if let Some(bot) = self.bots.get_mut(self.id.tgid) {
            bot.websocket(self.id, self.tid, event, came, &mut self.out);
        }
    }

    fn segment_ended(&mut self, segment: &Segment<'_>, quiet: bool) {
        if let Some(bot) = self.bots.get_mut(self.id.tgid) {
            bot.segment_ended(self.id, self.tid, segment.time, segment.direction, quiet, &mut self.out);
        }
    }

    fn ended(&mut self, time: Nanos, end: End) {
        if let Some(bot) = self.bots.get_mut(self.id.tgid) {
            bot.ended(self.id, time, end, &mut self.out);
        }
    }
}

impl<S: Sink> Listener for Listening<'_, '_, S> {
    fn tell(&mut self, event: Event<'_>) {
        let Self { id, tid, link, bots, models, out, .. } = self;
        let service = link.service;
        match event {
            Event::Began { side } => out.observe(&Observation::InFlight { service, side, change: 1 }),
            Event::Finished(finished) => {
                out.observe(&Observation::InFlight { service, side: finished.side, change: -1 });
                if finished.outcome == Outcome::Unknown {
                    self.unmatched(Unmatched::HalfSeen);
                }
                let Self { out, bots, models, .. } = self;
                out.kept.finished(self.link, &finished, out.names, out.sink);
                let llm = models.finished(self.id, &finished, out);
                if let Some(bot) = bots.get_mut(self.id.tgid) {
                    bot.finished(self.id, self.tid, &finished, self.came, llm, out);
                }
            }
            Event::Body(_) | Event::Asked { .. } | Event::Answered(_) => {
                let bot = bots.get_mut(id.tgid);
                let heard = models.tell(*id, &event, bot.is_some(), out);
                if let Some(bot) = bot {
                    bot.exchange(*id, *tid, &event, heard, out);
                }
            }
            Event::Upgraded(upgraded) => self.upgraded(&upgraded),
            Event::Unmatched(reason) => {
                if reason == Unmatched::HeadTruncated {
                    out.observe(&Observation::Lost { at: LostWhere::Capture, count: 1 });
                }
                self.unmatched(reason);
            }
        }
    }

    fn interest(&mut self, request: &Request<'_>) -> Interest {
        let Self { id, tid, link, made, bots, models, out, .. } = self;
        let made = made.filter(|_| request.id.is_first());
        if out.kept.is_discords(*link, request.side, request.path, request.host) {
            let bot = bots.enter(id.tgid, out.service, request.start);
            return bot.call(*id, *tid, request, made, out);
        }
        let bot = bots.get_mut(id.tgid);
        let (follows, heard) = models.request(*id, *link, request, bot.is_some(), out);
        if let Some(bot) = bot {
            bot.request(*id, *tid, request, made, heard, out);
        }
        if follows { Interest::Whole } else { Interest::Nothing }
    }
}
