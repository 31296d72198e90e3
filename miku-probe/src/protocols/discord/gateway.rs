//! The gateway connections of one process: what its websockets and inflated streams say, and what that means.
//!
//! A connection to the gateway has two halves that an observer sees apart: the websocket, over which the bot's own payloads
//! go uncompressed, and the stream which inflates what comes over it. Neither names the other; `gateway/joining.rs` says
//! when they are joined. Until then both are followed on their own: every dispatch is told, an ack shows that the gateway is
//! up, and the time at which a heartbeat was sent waits for its ack.
//!
//! A connection may also be seen as a websocket alone, when nothing is compressed.

mod assembler;
mod connection;
mod heartbeats;
mod joining;
mod labels;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::RandomState;

use assembler::Inflated;
pub use assembler::Piece;
use connection::{Connection, Inbound};
use labels::{Label, Labels};

use super::payload::{Kind, Op, Payload, Shard};
use crate::observations::ReconnectReason as Reason;
use crate::protocols::arrivals::Came;
use crate::protocols::http1::End;
use crate::protocols::json::Stop;
use crate::protocols::websocket::{self, Message};
use crate::units::{ConnId, Direction, Nanos};

/// How many connections are followed in one process.
pub const CONNECTIONS_MAX: usize = 1024;

/// How many other websockets are kept in mind which were seen to open: any of them may turn out to be one of the gateway's.
const OPENED_MAX: usize = 256;

/// How many sessions are kept in mind, to know which shard goes on when one is resumed.
const SESSIONS_MAX: usize = CONNECTIONS_MAX;

/// The code of a connection that ends without a closing frame (RFC 6455, section 7.4.1).
const ABNORMAL: u16 = 1006;

/// The codes with which a bot closes that wants no more (RFC 6455, section 7.4.1): normal, and going away.
const DELIBERATE: [u16; 2] = [1000, 1001];

/// Something that happened to a gateway connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told<'a> {
    /// Whose: the shard, if it is known. [`Event::Up`] says itself whose it is.
    pub shard: Option<Shard>,
    /// When.
    pub time: Nanos,
    /// What.
    pub event: Event<'a>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// Whether acks come, over all connections of a shard: told whenever it changes. Nothing means that nothing more is
    /// known of connections under this number, as when a shard's number becomes known.
    Up {
        /// The shard's number; nothing for all those together whose numbers are not known.
        shard: Option<u32>,
        /// Whether the last heartbeat was acked in time.
        up: Option<bool>,
    },
    /// An event of Discord's came: each is told once.
    Dispatch {
        /// The payload.
        payload: &'a Payload,
        /// When its first byte was read; [`Told::time`] is when its last was.
        started: Nanos,
        /// When its last byte had come to be read.
        came: Came,
        /// How long it is, in bytes.
        size: u64,
    },
    /// A session began (`READY`).
    SessionStarted,
    /// A session went on over another connection (`RESUMED`).
    Resumed,
    /// A heartbeat was acked: the time from its sending to the ack.
    Heartbeat(Nanos),
    /// A heartbeat was not acked when the next was due.
    Missed,
    /// The connection was lost or given up, so that the bot has to connect anew. Not told when a bot closes it for good.
    Reconnect {
        /// Why.
        reason: Reason,
        /// The code of the first closing frame; 1006 when there was none (RFC 6455, section 7.1.5), nothing when it was
        /// not seen.
        close_code: Option<u16>,
    },
    /// A payload that is no JSON, or has no `op` as far as it is known.
    Unreadable,
    /// A connection was not taken in, for there are [`CONNECTIONS_MAX`]. Told with every message of it.
    Refused,
}

/// Whether `name`, which may have a port, is a host of Discord's gateway.
#[must_use]
pub fn is_gateway_host(name: &str) -> bool {
    let name = name.split_once(':').map_or(name, |(name, _)| name).to_ascii_lowercase();
    name.strip_suffix(".discord.gg").is_some_and(|name| name.starts_with("gateway") && !name.contains('.'))
}

/// When a message came, and how long it is.
struct Place {
    started: Nanos,
    time: Nanos,
    came: Came,
    size: u64,
}

/// Whoever is told.
trait Tell: FnMut(Told<'_>) {}
impl<T: FnMut(Told<'_>)> Tell for T {}

/// The gateway connections of one process.
///
/// Fed by whoever knows its connections:
///
/// ```
/// use std::hash::RandomState;
///
/// use miku_probe::protocols::discord::gateway::{Event, Gateways, Piece, Told};
/// use miku_probe::protocols::websocket::{Machine, Segment};
/// use miku_probe::units::{ConnId, Direction, Handle, Nanos, Side, Tgid};
///
/// let mut gateways = Gateways::new(Nanos(0), RandomState::new());
/// let mut told = Vec::new();
/// let mut tell = |told_now: Told<'_>| match told_now.event {
///     Event::Heartbeat(took) => told.push(took),
///     _ => {}
/// };
/// let socket = ConnId { tgid: Tgid(1), handle: Handle::Tls(0x1000), generation: Nanos(1) };
/// let stream = ConnId { tgid: Tgid(1), handle: Handle::Tls(0x2000), generation: Nanos(2) };
///
/// // After the answer 101 to a request for this host; `Machine::mid_life` where that was not seen.
/// gateways.opened(socket, "gateway.discord.gg");
/// let mut machine = Machine::after_upgrade(Side::Client);
///
/// // A message that the bot inflated.
/// let hello = br#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#;
/// let size = hello.len() as u64;
/// gateways.inflated(stream, &Piece { time: Nanos(5), came: None, starts: true, ends: true, size, bytes: hello }, &mut tell);
///
/// // What it wrote: {"op":1,"d":null}, masked with zeros.
/// let frame = b"\x81\x91\0\0\0\0{\"op\":1,\"d\":null}";
/// let segment = Segment { time: Nanos(10), direction: Direction::Out, size: 23, prefix: frame, tail: b"" };
/// machine.segment(&segment, &mut |event| gateways.websocket(socket, &event, None, &mut tell));
///
/// let ack = br#"{"t":null,"s":null,"op":11,"d":null}"#;
/// gateways.inflated(stream, &Piece { time: Nanos(70), came: None, starts: true, ends: true, size: 36, bytes: ack }, &mut tell);
/// assert_eq!(told, [Nanos(60)]);
/// ```
#[derive(Debug)]
pub struct Gateways {
    /// When the watching began.
    since: Nanos,
    hasher: RandomState,
    connections: Vec<Connection>,
    /// Websockets seen to open of which nobody knows what they are, the oldest first.
    opened: VecDeque<ConnId>,
    /// Hashes of sessions' ids and their shards, the oldest first.
    sessions: VecDeque<(u64, Shard)>,
    labels: Labels,
    /// Websockets of the gateway that ended without a stream of theirs being known.
    orphans: u32,
    /// Acks of streams without a websocket, to some of the heartbeats that wait over websockets without a stream.
    unclaimed: usize,
}

impl Gateways {
    /// A process that is watched since `since`. Secrets are hashed by `hasher`: the same for all that are to be compared.
    #[must_use]
    pub fn new(since: Nanos, hasher: RandomState) -> Self {
        Self {
            since,
            hasher,
            connections: Vec::new(),
            opened: VecDeque::new(),
            sessions: VecDeque::new(),
            labels: Labels::default(),
            orphans: 0,
            unclaimed: 0,
        }
    }

    /// Takes in that a connection to `host` became a websocket. One that is not seen to is taken in with its messages.
    pub fn opened(&mut self, socket: ConnId, host: &str) {
        if !is_gateway_host(host) {
            if self.opened.len() == OPENED_MAX {
                self.opened.pop_front();
            }
            self.opened.push_back(socket);
        } else if self.at_socket(socket).is_none() && self.connections.len() < CONNECTIONS_MAX {
            self.connections.push(Connection::of_socket(socket, true));
        }
    }

    /// Whether a websocket is one of the gateway's of which it is not known that something inflates what comes over it.
    #[must_use]
    pub fn is_uncompressed(&self, socket: ConnId) -> bool {
        self.at_socket(socket).is_some_and(|at| !matches!(self.connections[at].inbound, Inbound::Stream(_)))
    }

    /// Takes in what a websocket brought, whosoever it is; `came` is when the message had come to be read, if it is known.
    pub fn websocket(
        &mut self,
        socket: ConnId,
        event: &websocket::Event<'_>,
        came: Option<Came>,
        tell: &mut impl FnMut(Told<'_>),
    ) {
        match event {
            websocket::Event::Message(message) => {
                self.message(socket, message, came.unwrap_or(Came::Read(message.time)), tell);
                self.blur(socket, message.direction, false);
            }
            websocket::Event::Close { direction, time, code } => {
                let Some(at) = self.at_socket(socket) else { return };
                let connection = &self.connections[at];
                let reason = connection.cause().or(match direction {
                    Direction::In => Some(Reason::Closed),
                    Direction::Out if connection.is_overdue(*time) => Some(Reason::MissedHeartbeat),
                    Direction::Out if code.is_some_and(|code| DELIBERATE.contains(&code)) => None,
                    Direction::Out => Some(Reason::Unknown),
                });
                self.over(at, *time, reason, *code, tell);
                self.tell_up(*time, tell);
            }
            websocket::Event::Lost { direction, .. } => self.blur(socket, *direction, true),
            websocket::Event::Ping { direction, .. } | websocket::Event::Pong { direction, .. } => {
                self.blur(socket, *direction, false);
            }
        }
    }

    /// Takes in that the connection under a websocket, or one half of it, ended.
    pub fn ended(&mut self, socket: ConnId, time: Nanos, end: End, tell: &mut impl FnMut(Told<'_>)) {
        self.opened.retain(|opened| *opened != socket);
        let Some(at) = self.at_socket(socket) else { return };
        if end == End::Detached {
            // Nobody knows how it goes on.
            self.connections[at].over = true;
        } else {
            self.broke(at, time, end, tell);
        }
        if end != End::PeerFinished {
            self.connections[at].socket = None;
            self.forget_if_gone(at);
        }
        self.tell_up(time, tell);
    }

    /// The websocket over which comes what a stream inflates, if that is known.
    #[must_use]
    pub fn websocket_of(&self, stream: ConnId) -> Option<ConnId> {
        self.connections.iter().find(|connection| connection.has_stream(stream))?.socket
    }

    /// Takes in what was inflated of a stream that looks like the gateway's.
    pub fn inflated(&mut self, stream: ConnId, piece: &Piece<'_>, tell: &mut impl FnMut(Told<'_>)) {
        let at = self.connections.iter().position(|connection| connection.has_stream(stream));
        let at = match at {
            Some(at) => at,
            None if self.connections.len() < CONNECTIONS_MAX => {
                self.connections.push(Connection::of_stream(stream, false));
                self.connections.len() - 1
            }
            None => {
                if piece.starts {
                    tell(Told { shard: None, time: piece.time, event: Event::Refused });
                }
                return;
            }
        };
        let mut assembler = std::mem::take(&mut self.connections[at].assembler);
        assembler.piece(piece, |message| self.inflated_message(stream, message, tell));
        // Its connection may have been joined with another meanwhile.
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.has_stream(stream)) {
            connection.assembler = assembler;
        }
        self.tell_up(piece.time, tell);
    }

    /// Takes in that records of a stream were lost before the next one.
    pub fn stream_gap(&mut self, stream: ConnId, tell: &mut impl FnMut(Told<'_>)) {
        let Some(at) = self.connections.iter().position(|connection| connection.has_stream(stream)) else { return };
        let connection = &mut self.connections[at];
        connection.heartbeats.gap();
        let mut assembler = std::mem::take(&mut connection.assembler);
        assembler.cut(&mut |message: &Inflated<'_>| self.inflated_message(stream, message, tell));
    }

    /// Takes in that a stream was freed.
    pub fn stream_ended(&mut self, stream: ConnId, time: Nanos, tell: &mut impl FnMut(Told<'_>)) {
        self.stream_gap(stream, tell);
        let Some(at) = self.connections.iter().position(|connection| connection.has_stream(stream)) else { return };
        if self.connections[at].lone_stream().is_some() {
            // Its connection is over as well. If a websocket ended that may be its own, that has been told.
            let cause = self.connections[at].cause();
            if self.orphans > 0 {
                self.orphans -= 1;
                self.over(at, time, None, None, tell);
            } else {
                self.over(at, time, cause, None, tell);
            }
        }
        self.connections[at].part();
        self.forget_if_gone(at);
        self.tell_up(time, tell);
    }

    /// Takes in that time goes by: a connection on which no ack has come for too long is not up. Once a second will do.
    pub fn tick(&mut self, now: Nanos, tell: &mut impl FnMut(Told<'_>)) {
        for connection in &mut self.connections {
            if connection.up == Some(true) && connection.heartbeats.silent(now) {
                connection.up = Some(false);
            }
        }
        self.tell_up(now, tell);
    }

    /// Takes in whether it is unknown where frames of a websocket begin.
    fn blur(&mut self, socket: ConnId, direction: Direction, blurred: bool) {
        if let Some(at) = self.at_socket(socket) {
            self.connections[at].blurred[direction as usize] = blurred;
        }
    }

    fn at_socket(&self, socket: ConnId) -> Option<usize> {
        self.connections.iter().position(|connection| connection.socket == Some(socket))
    }

    /// Takes in a message of a websocket, which may be anybody's.
    fn message(&mut self, socket: ConnId, message: &Message<'_>, came: Came, tell: &mut impl Tell) {
        let at = self.at_socket(socket);
        // Where payloads are due, what is none is told too.
        let is_due =
            message.direction == Direction::In && at.is_some_and(|at| self.connections[at].inbound == Inbound::Plain);
        if message.compressed || !(is_due || message.bytes.starts_with(b"{")) {
            return;
        }
        if at.is_some_and(|at| self.connections[at].over) {
            return;
        }
        let inbound = at.map_or(Inbound::Unknown, |at| self.connections[at].inbound);
        if message.direction == Direction::In && matches!(inbound, Inbound::Stream(_)) {
            return;
        }
        let payload = Payload::scan(message.bytes, message.whole, &self.hasher);
        let is_gateway = match message.direction {
            Direction::Out => at.is_some() || is_from_bot(&payload),
            // What is compressed may happen to begin like this.
            Direction::In => inbound == Inbound::Plain || is_from_discord(&payload),
        };
        if !is_gateway {
            return;
        }
        let Some(at) = at.or_else(|| self.take_in(socket)) else {
            return tell(Told { shard: None, time: message.time, event: Event::Refused });
        };
        match message.direction {
            Direction::Out => self.sent(at, &payload, message.started, tell),
            Direction::In => {
                self.connections[at].inbound = Inbound::Plain;
                let Message { started, time, size, .. } = *message;
                self.received(at, &payload, &Place { started, time, came, size }, tell);
            }
        }
        self.tell_up(message.time, tell);
    }

    /// Takes in that a websocket is one of the gateway's, if there is room for it.
    fn take_in(&mut self, socket: ConnId) -> Option<usize> {
        if self.connections.len() == CONNECTIONS_MAX {
            return None;
        }
        let opened = self.opened.iter().position(|opened| *opened == socket);
        if let Some(place) = opened {
            self.opened.remove(place);
        }
        self.connections.push(Connection::of_socket(socket, opened.is_some()));
        Some(self.connections.len() - 1)
    }

    /// Takes in what the bot said over the connection at `at`.
    fn sent(&mut self, mut at: usize, payload: &Payload, time: Nanos, tell: &mut impl Tell) {
        if self.connections[at].is_lone_socket()
            && let Some(stream) = self.greeted(at)
        {
            at = self.join(at, stream);
        }
        match payload.op {
            Some(Op::Heartbeat) => {
                let named = if let Kind::Number(number) = payload.data.kind { Some(number) } else { None };
                at = self.fit(at, named);
                if self.connections[at].is_lone_socket() {
                    self.forget_expired(time);
                }
                let connection = &mut self.connections[at];
                connection.named = named;
                let acks_seen = connection.inbound != Inbound::Unknown;
                if connection.heartbeats.sent(time, acks_seen) {
                    connection.up = Some(false);
                    let shard = connection.shard;
                    tell(Told { shard, time, event: Event::Missed });
                }
            }
            Some(Op::Identify) => {
                // Who does not say which shard he is is the only one.
                let alone = (payload.stop == Stop::Whole).then_some(Shard { index: 0, count: 1 });
                self.connections[at].shard = payload.data.shard.or(alone);
                self.settle(at);
            }
            Some(Op::Resume) => {
                let session = payload.data.session;
                let shard = self.sessions.iter().find(|(known, _)| session == Some(*known)).map(|(_, shard)| *shard);
                let connection = &mut self.connections[at];
                connection.session = session;
                connection.shard = connection.shard.or(shard);
                self.supersede(at, time, tell);
            }
            _ => {}
        }
    }

    /// A session goes on over the connection at `at`: whichever had it before is over, even if its end was not seen.
    fn supersede(&mut self, at: usize, time: Nanos, tell: &mut impl Tell) {
        let Some(session) = self.connections[at].session else { return };
        for older in 0..self.connections.len() {
            let connection = &self.connections[older];
            if older != at && connection.session == Some(session) && !connection.over {
                self.broke(older, time, End::Over, tell);
            }
        }
    }

    /// Takes in that the connection at `at` ended. If a closing frame came before, that has been told.
    fn broke(&mut self, at: usize, time: Nanos, end: End, tell: &mut impl Tell) {
        let connection = &self.connections[at];
        let blurred = connection.blurred.contains(&true);
        let overdue = connection.is_overdue(time);
        let reason = connection.cause().unwrap_or(match end {
            _ if blurred => Reason::Unknown,
            End::LocalClosed if overdue => Reason::MissedHeartbeat,
            End::LocalClosed => Reason::Unknown,
            _ => Reason::Network,
        });
        self.over(at, time, Some(reason), (!blurred).then_some(ABNORMAL), tell);
    }

    /// Takes in a message of a stream.
    fn inflated_message(&mut self, stream: ConnId, message: &Inflated<'_>, tell: &mut impl Tell) {
        let payload = Payload::scan(message.bytes, message.whole, &self.hasher);
        let Some(mut at) = self.connections.iter().position(|connection| connection.has_stream(stream)) else { return };
        match payload.op {
            Some(Op::Hello) => {
                let connection = &mut self.connections[at];
                let is_new = connection.lone_stream().is_some() && connection.received.is_none();
                if is_new {
                    connection.fresh = true;
                } else {
                    // The bot uses the stream again, for another connection.
                    connection.part();
                    self.forget_if_gone(at);
                    self.connections.push(Connection::of_stream(stream, true));
                    at = self.connections.len() - 1;
                }
            }
            Some(Op::HeartbeatAck) if self.connections[at].lone_stream().is_some() => {
                self.forget_expired(message.time);
                match self.waiting(at) {
                    Some(socket) => at = self.join(socket, at),
                    None => self.unclaimed_ack(message.time),
                }
            }
            _ => {}
        }
        let Inflated { started, time, came, size, .. } = *message;
        self.received(at, &payload, &Place { started, time, came, size }, tell);
    }

    /// Takes in what came over the connection at `at`.
    fn received(&mut self, at: usize, payload: &Payload, place: &Place, tell: &mut impl Tell) {
        let Place { started, time, came, size } = *place;
        let connection = &mut self.connections[at];
        if payload.stop == Stop::Malformed || payload.op.is_none() {
            return tell(Told { shard: connection.shard, time, event: Event::Unreadable });
        }
        let mut began = None;
        match payload.op {
            Some(Op::Dispatch) => {
                connection.received = payload.sequence.or(connection.received);
                match payload.event.as_deref() {
                    Some("READY") => {
                        let alone = (payload.stop == Stop::Whole).then_some(Shard { index: 0, count: 1 });
                        connection.shard = payload.data.shard.or(connection.shard).or(alone);
                        connection.session = payload.data.session;
                        connection.invalid = false;
                        began = Some(Event::SessionStarted);
                    }
                    Some("RESUMED") => {
                        connection.invalid = false;
                        began = Some(Event::Resumed);
                    }
                    _ => {}
                }
                let shard = connection.shard;
                tell(Told { shard, time, event: Event::Dispatch { payload, started, came, size } });
                if let Some(event) = began {
                    tell(Told { shard, time, event });
                    self.remember_session(at);
                }
            }
            Some(Op::Heartbeat) => connection.heartbeats.asked(),
            Some(Op::Reconnect) => connection.asked_away = true,
            Some(Op::InvalidSession) => connection.invalid = true,
            Some(Op::Hello) => {
                if let Some(interval) = payload.data.heartbeat_interval.filter(|interval| *interval > 0) {
                    connection.heartbeats.interval(Nanos(interval.saturating_mul(1_000_000)));
                }
            }
            Some(Op::HeartbeatAck) if !connection.over => {
                let took = connection.heartbeats.ack(came.time());
                if let Some(took) = took {
                    tell(Told { shard: connection.shard, time, event: Event::Heartbeat(took) });
                }
                connection.up = Some(true);
            }
            _ => {}
        }
        self.settle(at);
    }

    /// Lets a connection that is up take the place of one that went, once it is clear of which shard it is, or that nobody
    /// will know.
    fn settle(&mut self, at: usize) {
        let label = self.label(at);
        let connection = &mut self.connections[at];
        let clear = connection.shard.is_some() || connection.received.is_some();
        if connection.up == Some(true) && !connection.over && clear && !connection.settled {
            connection.settled = true;
            self.labels.came(label);
        }
    }

    fn remember_session(&mut self, at: usize) {
        let Connection { session: Some(session), shard: Some(shard), .. } = self.connections[at] else { return };
        self.sessions.retain(|(known, _)| *known != session);
        if self.sessions.len() == SESSIONS_MAX {
            self.sessions.pop_front();
        }
        self.sessions.push_back((session, shard));
    }

    /// Takes in that the connection at `at` is over, and tells why if it has to be told.
    fn over(&mut self, at: usize, time: Nanos, reason: Option<Reason>, code: Option<u16>, tell: &mut impl Tell) {
        let label = self.label(at);
        let connection = &mut self.connections[at];
        if std::mem::replace(&mut connection.over, true) {
            return;
        }
        let shard = connection.shard;
        if connection.inbound == Inbound::Unknown {
            self.orphans = self.orphans.saturating_add(1);
            self.unclaimed = 0;
        }
        if connection.up.is_some() {
            self.labels.went(label, connection.settled);
        }
        if reason == Some(Reason::MissedHeartbeat) && !connection.heartbeats.missed() {
            tell(Told { shard, time, event: Event::Missed });
        }
        if let Some(reason) = reason {
            tell(Told { shard, time, event: Event::Reconnect { reason, close_code: code } });
        }
    }

    fn forget_if_gone(&mut self, at: usize) {
        if self.connections[at].is_gone() {
            self.connections.swap_remove(at);
        }
    }

    fn label(&self, at: usize) -> Label {
        self.labels.of(self.connections[at].shard.map(|shard| shard.index))
    }

    fn tell_up(&mut self, time: Nanos, tell: &mut impl Tell) {
        let Self { connections, labels, .. } = self;
        let living = connections.iter().filter(|connection| !connection.over);
        let known = living.filter_map(|connection| Some((connection.shard, connection.up?)));
        let known: Vec<(Label, bool)> =
            known.map(|(shard, up)| (labels.of(shard.map(|shard| shard.index)), up)).collect();
        labels.changes(known.into_iter(), |shard, up| tell(Told { shard: None, time, event: Event::Up { shard, up } }));
    }
}

/// Whether only a bot can say this to the gateway. Its voice connections, which speak much alike, have other numbers.
fn is_from_bot(payload: &Payload) -> bool {
    let kind = payload.data.kind;
    match payload.op {
        Some(Op::Heartbeat) => matches!(kind, Kind::Null | Kind::Number(_)),
        Some(Op::Resume) => payload.data.session.is_some(),
        Some(Op::Identify) => payload.data.has_token,
        _ => false,
    }
}

/// Whether only the gateway can say this.
fn is_from_discord(payload: &Payload) -> bool {
    let known = matches!(
        payload.op,
        Some(Op::Dispatch | Op::Heartbeat | Op::Reconnect | Op::InvalidSession | Op::Hello | Op::HeartbeatAck)
    );
    payload.is_inbound && known
}
