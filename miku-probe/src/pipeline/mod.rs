//! From decoded records to observations: keeps the connections, feeds each one's state machine, and names what comes out.
//!
//! It knows neither the kernel nor the clock: what it must ask of the world goes through [`World`], so that it runs the
//! same on a replayed stream.

mod arrivals;
mod bots;
mod changes;
mod connections;
mod energy;
mod hosts;
mod listening;
mod models;
mod net;
mod phases;
mod servers;
mod services;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;

use miku_probe_abi::RecordKind;

use self::bots::{Bot, Bots, Out};
pub use self::connections::Peer;
use self::connections::{Carried, Connection, Connections, Made};
use self::models::Models;
use self::services::Service;
use crate::discovery::addresses::decode_address;
use crate::discovery::sockets::Socket;
use crate::intake::{Close, Data, Inflated, Open, Process, Record, decode};
use crate::observations::{Discord, LostWhere, Names, Observation, Sink};
use crate::protocols::arrivals::Came;
use crate::protocols::http1::{End, Segment};
use crate::protocols::routes::{RouteError, RoutePattern};
use crate::units::{ConnId, Direction, Handle, Nanos, ServiceId, Tgid, Transport};

/// What the pipeline asks of the world outside it.
pub trait World {
    /// What a descriptor of a process is, when it can still be told.
    fn socket(&self, tgid: Tgid, fd: i32) -> Option<Socket>;
}

/// Caps on what comes off the wire.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Route templates a service.
    pub routes: usize,
    /// Names of servers a service calls.
    pub servers: usize,
    /// Connections followed at once.
    pub connections: usize,
}

/// Turns records into observations.
#[derive(Debug)]
pub struct Pipeline<S, W> {
    caps: Caps,
    names: Names,
    services: Vec<Service>,
    targets: HashMap<Tgid, ServiceId>,
    connections: Connections,
    bots: Bots,
    sampled: net::Sampled,
    /// The time of the last tick, for what need not be exact.
    clock: Nanos,
    models: Models,
    records: [u64; RecordKind::ALL.len()],
    captured: u64,
    sink: S,
    world: W,
}

impl<S: Sink, W: World> Pipeline<S, W> {
    /// A pipeline without services.
    pub fn new(sink: S, world: W, caps: Caps) -> Self {
        let mut names = Names::default();
        let connections = Connections::new(caps.connections, &mut names.symbols);
        Self {
            caps,
            names,
            services: Vec::new(),
            targets: HashMap::new(),
            connections,
            bots: Bots::default(),
            sampled: net::Sampled::default(),
            clock: Nanos(0),
            models: Models::default(),
            records: [0; RecordKind::ALL.len()],
            captured: 0,
            sink,
            world,
        }
    }

    /// Makes a service known, with its route patterns.
    ///
    /// # Errors
    /// When the patterns are too many to be matched together; none are always well.
    pub fn add_service(&mut self, name: &str, patterns: Vec<RoutePattern>) -> Result<ServiceId, RouteError> {
        let kept = Service::new(patterns, self.caps)?;
        let service = ServiceId(u16::try_from(self.services.len()).unwrap_or(u16::MAX));
        self.names.services.push(name.to_owned());
        self.services.push(kept);
        Ok(service)
    }

    /// Begins to follow a process.
    pub fn add_target(&mut self, tgid: Tgid, service: ServiceId) {
        self.targets.insert(tgid, service);
    }

    /// The service a process belongs to, when it is followed.
    #[must_use]
    pub fn target(&self, tgid: Tgid) -> Option<ServiceId> {
        self.targets.get(&tgid).copied()
    }

    /// The processes that are followed and the names of their services, by number.
    pub fn targets(&self) -> impl Iterator<Item = (Tgid, &str)> {
        let mut targets: Vec<_> =
            self.targets.iter().map(|(tgid, service)| (*tgid, self.names.service(*service))).collect();
        targets.sort_unstable();
        targets.into_iter()
    }

    /// Enters a connection that was open before its process was followed.
    pub fn seed(&mut self, id: ConnId, socket: &Socket) {
        if let Some(service) = self.target(id.tgid) {
            let peer = self.connections.peer_of_socket(socket);
            let connection = Connection::new(id.generation, service, Some(peer));
            self.connections.insert(id, Connection { introduced: true, ..connection });
        }
    }

    /// Ends to follow a process and its connections.
    pub fn remove_target(&mut self, tgid: Tgid, time: Nanos) {
        self.targets.remove(&tgid);
        for id in self.connections.of(tgid) {
            self.release_handshake(id, None);
            self.end(id, time, End::Detached);
            self.connections.remove(id);
        }
        self.forget_bot(tgid, time);
    }

    /// The connections of a process that are believed to be open.
    #[must_use]
    pub fn open_connections(&self, tgid: Tgid) -> Vec<ConnId> {
        self.connections.of(tgid)
    }

    /// A connection ended without a word, as those do that `exec` or `close_range` close.
    pub fn vanished(&mut self, id: ConnId, time: Nanos) {
        if self.connections.get_mut(id).is_some_and(|connection| !connection.introduced) {
            // Its opening was lost, and perhaps more.
            self.feed(id, Step::Gap(time));
        }
        self.release_handshake(id, None);
        self.end(id, time, End::LocalClosed);
        self.connections.remove(id);
    }

    /// The sockets that are believed to be open and are not TCP's.
    #[must_use]
    pub fn other_than_tcp(&self) -> Vec<ConnId> {
        self.connections.other_than_tcp()
    }

    /// Whether a Unix socket has been followed.
    #[must_use]
    pub fn saw_unix(&self) -> bool {
        self.connections.saw_unix()
    }

    /// Whether a socket that leads to a name server has been followed.
    #[must_use]
    pub fn saw_names(&self) -> bool {
        self.connections.saw_names()
    }

    /// How many connections are followed now.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// The names behind the observations.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Where the observations go.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Hands an observation from elsewhere to the sinks.
    pub fn observe(&mut self, observation: &Observation) {
        self.sink.observe(observation, &self.names);
    }

    /// The world as it is asked.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// Takes in one record as it came from the ring. Returned are its time, and what concerns a process, for discovery to
    /// judge.
    pub fn record(&mut self, bytes: &[u8]) -> (Option<Nanos>, Option<(Tgid, Process)>) {
        let record = match decode(bytes) {
            Ok(record) => record,
            Err(error) => {
                log::debug!("{error}");
                self.observe(&Observation::Lost { at: LostWhere::Parser, count: 1 });
                return (None, None);
            }
        };
        let time = Some(record.time());
        self.records[record.kind().place()] += 1;
        self.captured += u64::from(matches!(record, Record::Data(_) | Record::Inflated(_) | Record::ServerName(_)));
        match record {
            // What is decompressed is of no connection yet.
            Record::Inflated(inflated) => self.inflated(&inflated),
            Record::Close(Close { id: id @ ConnId { handle: Handle::Inflate(_), .. }, time, .. }) => {
                self.with_bot(id.tgid, |bot, out| bot.stream_ended(id, time, out));
            }
            Record::Data(data) => self.data(&data),
            Record::Arrived(arrived) => self.arrived(&arrived),
            Record::Open(open) => self.open(&open),
            Record::Close(close) => self.close(&close),
            Record::Handshake(handshake) => self.handshake(&handshake),
            Record::ServerName(said) => self.server_name(&said),
            Record::Bind(bind) => self.bind(&bind),
            Record::Net(net) => self.net(&net),
            Record::Resolved(resolved) => self.resolved(&resolved),
            Record::Waits { tgid, tid, time } => self.with_bot(tgid, |bot, out| bot.waits(tid, time, out)),
            Record::Dials { tgid, tid, time, socket } => {
                self.with_bot(tgid, |bot, out| bot.dials(tid, time, socket, out));
            }
            Record::Process { tgid, time: at, event } => {
                if event == Process::Exec && self.target(tgid).is_some() {
                    self.forget_streams(tgid, at);
                    self.forget_bot(tgid, at);
                }
                return (time, Some((tgid, event)));
            }
        }
        (time, None)
    }

    /// The processes that turned out to be bots since this was last asked: it is to be told when their event loops wait.
    pub fn take_new_bots(&mut self) -> Vec<Tgid> {
        self.bots.take_new()
    }

    /// How many records so far held bytes of the process's.
    #[must_use]
    pub const fn captured(&self) -> u64 {
        self.captured
    }

    /// Ends a batch of records, the first of which happened at `oldest`.
    pub fn end_batch(&mut self, now: Nanos, oldest: Nanos) {
        for (kind, count) in RecordKind::ALL.into_iter().zip(std::mem::take(&mut self.records)) {
            if count > 0 {
                self.observe(&Observation::Records { kind, count });
            }
        }
        self.observe(&Observation::Delivery(now.since(oldest)));
    }

    /// Connections on which nothing was told yet: their bytes are to be asked of the kernel side, at most `limit` at once.
    pub fn silent(&mut self, limit: usize) -> Vec<ConnId> {
        self.connections.silent(limit)
    }

    /// Takes in how many bytes a connection has moved in all.
    pub fn moved(&mut self, id: ConnId, bytes_in: u64, bytes_out: u64) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let more_in = bytes_in.saturating_sub(connection.bytes_in);
        let more_out = bytes_out.saturating_sub(connection.bytes_out);
        connection.bytes_in += more_in;
        connection.bytes_out += more_out;
        self.bytes(id, Direction::In, more_in);
        self.bytes(id, Direction::Out, more_out);
    }

    fn open(&mut self, open: &Open<'_>) {
        let Some(service) = self.target(open.id.tgid) else { return };
        if open.errno != 0 {
            return;
        }
        // Where sockets tell of themselves, they tell their end too: it was lost.
        self.replace_older(open.id, open.time, open.socket != 0);
        let peer =
            decode_address(open.address).map(|address| self.connections.peer_of_address(&address, open.socket_type));
        let host = peer.and_then(|peer| self.host_at(service, peer.ip?, open.time));
        let made = (open.socket != 0).then_some(Made::Socket(open.socket));
        let names = peer.filter(Peer::tells_names).map(|_| Box::default());
        let connection = Connection::new(open.id.generation, service, peer);
        let connection = Connection { host, made, names, introduced: true, ..connection };
        if !self.connections.insert(open.id, connection) {
            self.observe(&Observation::Lost { at: LostWhere::Table, count: 1 });
        }
    }

    /// A descriptor that is used again was closed before, even if that was not told; or it was, and `missed`, perhaps with more.
    fn replace_older(&mut self, id: ConnId, time: Nanos, missed: bool) {
        if let Some(older) = self.connections.older(id) {
            if missed {
                self.feed(older, Step::Gap(time));
            }
            self.vanished(older, time);
        }
    }

    fn close(&mut self, close: &Close) {
        if self.gap_before(close.id, close.lost) {
            self.feed(close.id, Step::Gap(close.time));
        }
        self.moved(close.id, close.bytes_in, close.bytes_out);
        self.release_handshake(close.id, None);
        let end = match close.id.handle {
            Handle::Socket(_) => End::LocalClosed,
            Handle::Tls(_) | Handle::Inflate(_) => End::Over,
        };
        self.end(close.id, close.time, end);
        self.connections.remove(close.id);
    }

    /// Makes sure that a connection is known; false when it is not to be followed.
    fn enter(&mut self, id: ConnId, time: Nanos) -> bool {
        if self.connections.get_mut(id).is_some() {
            return true;
        }
        let Some(service) = self.target(id.tgid) else { return false };
        // Its opening was told before anything moved, and did not come.
        self.replace_older(id, time, true);
        let entered = self.connections.insert(id, Connection::new(id.generation, service, None));
        if !entered {
            self.observe(&Observation::Lost { at: LostWhere::Table, count: 1 });
        }
        entered
    }

    fn data(&mut self, data: &Data<'_>) {
        // Of a socket, its opening was lost, or happened before the process was followed.
        if !self.enter(data.id, data.time) {
            return;
        }
        if self.gap_before(data.id, data.lost) {
            self.feed(data.id, Step::Gap(data.time));
            self.with_bot(data.id.tgid, |bot, _| bot.gap(data.time));
        }
        if data.size == 0 {
            let end = match data.errno {
                0 => End::PeerFinished,
                libc::ETIMEDOUT => End::Timeout,
                _ => End::Reset,
            };
            self.end(data.id, data.time, end);
            return;
        }
        let size = u64::from(data.size);
        if let Some(connection) = self.connections.get_mut(data.id) {
            connection.heard = true;
            match data.direction {
                Direction::In => connection.bytes_in += size,
                Direction::Out => connection.bytes_out += size,
            }
        }
        let segment =
            Segment { time: data.time, direction: data.direction, size, prefix: data.prefix, tail: data.tail };
        let came = self.read(data.id, data.tid, &segment);
        self.feed(data.id, Step::Segment(segment, data.tid, came));
        self.bytes(data.id, data.direction, size);
    }

    /// Whether records of the connection were lost since its last one, when now `lost` are in all.
    fn gap_before(&mut self, id: ConnId, lost: u32) -> bool {
        self.connections.get_mut(id).is_some_and(|connection| std::mem::replace(&mut connection.lost, lost) != lost)
    }

    fn end(&mut self, id: ConnId, time: Nanos, end: End) {
        self.feed(id, Step::End(time, end));
        // A websocket within TLS is over when its socket is: its library may free the stream much later. What it had
        // received of other protocols, the process may still read.
        if end != End::PeerFinished
            && let Some(Carried::Stream(stream, _)) = self.connections.get_mut(id).map(|socket| socket.carried)
        {
            let end = if end == End::Detached { end } else { End::Over };
            self.with_bot(id.tgid, |bot, out| bot.ended(stream, time, end, out));
        }
    }

    /// Observes bytes of a socket. Plaintext is none of the network's: its socket counts what it becomes.
    fn bytes(&mut self, id: ConnId, direction: Direction, bytes: u64) {
        let Handle::Socket(fd) = id.handle else { return };
        if bytes == 0 {
            return;
        }
        let Some((service, peer)) = self.service_and_peer(id, fd) else { return };
        let name = match self.connections.get_mut(id).map(|connection| connection.carried) {
            Some(Carried::Stream(_, name)) => name,
            _ => None,
        };
        let name = name.or(self.connections.get_mut(id).and_then(|connection| connection.host));
        let Peer { class, transport, ip, port, .. } = peer;
        if transport == Transport::Udp
            && let Some(ip) = ip
            && self.bots.get_mut(id.tgid).is_some_and(|bot| bot.speaks_to(SocketAddr::new(ip, port)))
        {
            self.observe(&Observation::Discord { service, what: Discord::Voice { direction, bytes } });
        }
        let observation = Observation::Bytes { service, direction, peer: name.unwrap_or(class), transport, bytes };
        self.sink.observe(&observation, &self.names);
    }

    /// Whose socket it is and who is at its other end, which is asked of the world when the call did not tell.
    fn service_and_peer(&mut self, id: ConnId, fd: i32) -> Option<(ServiceId, Peer)> {
        let connection = self.connections.get_mut(id)?;
        let service = connection.service;
        if let Some(peer) = connection.peer {
            // A connect tells the address but not what carries it.
            if peer.resolved {
                return Some((service, peer));
            }
        }
        let known = connection.peer;
        let peer = match self.world.socket(id.tgid, fd) {
            Some(socket) => self.connections.peer_of_socket(&socket),
            None => Peer { resolved: true, ..known.unwrap_or(self.connections.nobody()) },
        };
        let host = peer.ip.and_then(|ip| self.host_at(service, ip, self.clock));
        let connection = self.connections.get_mut(id)?;
        connection.peer = Some(peer);
        connection.host = connection.host.or(host);
        Some((service, peer))
    }

    /// Takes in what was inflated of a stream that looks like a gateway's.
    fn inflated(&mut self, inflated: &Inflated<'_>) {
        let tgid = inflated.id.tgid;
        if let Some(service) = self.target(tgid) {
            let bot = self.bots.enter(tgid, service, inflated.time);
            let websocket = bot.websocket_of(inflated.id).filter(|_| inflated.ends);
            let came = websocket.and_then(|id| self.connections.get_mut(id)?.unread.as_mut()?.take(inflated.consumed));
            self.with_bot(tgid, |bot, out| bot.inflated(inflated, came, out));
        }
    }

    /// Does something with the bot that a process is, if it is one.
    fn with_bot(&mut self, tgid: Tgid, act: impl FnOnce(&mut Bot, &mut Out<'_, S>)) {
        let Self { bots, services, names, sink, .. } = self;
        let Some(bot) = bots.get_mut(tgid) else { return };
        let service = bot.service;
        if let Some(kept) = services.get_mut(usize::from(service.0)) {
            act(bot, &mut Out { service, kept, names, sink });
        }
    }

    /// The process is no bot any more.
    fn forget_bot(&mut self, tgid: Tgid, time: Nanos) {
        let Self { bots, services, names, sink, .. } = self;
        let Some(bot) = bots.remove(tgid) else { return };
        let service = bot.service;
        if let Some(kept) = services.get_mut(usize::from(service.0)) {
            bot.gone(time, &mut Out { service, kept, names, sink });
        }
    }

    /// Lets time pass: to be called about once a second.
    pub fn tick(&mut self, now: Nanos) {
        self.clock = now;
        let Self { bots, services, names, sink, .. } = self;
        let active = bots.active_is_due(now);
        for bot in bots.iter_mut() {
            let service = bot.service;
            let Some(kept) = services.get_mut(usize::from(service.0)) else { continue };
            let mut out = Out { service, kept, names, sink };
            bot.tick(now, &mut out);
            if active {
                for active in out.kept.community.usage.active(now) {
                    out.observe(&Observation::Discord { service, what: Discord::Active(active) });
                }
            }
        }
    }
}

/// What a connection's state machine takes in.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// Bytes that moved, the thread that moved them, and when they had come to be read.
    Segment(Segment<'a>, u32, Came),
    Gap(Nanos),
    End(Nanos, End),
}
