//! The connections that are followed, by process and descriptor or TLS stream.

use std::collections::HashMap;
use std::net::IpAddr;

use miku_probe_abi::NAME_SERVER_PORT;

use crate::discovery::addresses::{Address, class};
use crate::discovery::sockets::Socket;
use crate::protocols::arrivals::Unread;
use crate::protocols::dns;
use crate::protocols::http1::Machine;
use crate::protocols::websocket;
use crate::units::{ConnId, Handle, Nanos, ServiceId, Symbol, Symbols, Tgid, Transport};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The label `peer`.
    pub class: Symbol,
    /// Its address, when it has one and it is known.
    pub ip: Option<IpAddr>,
    /// Its port; 0 when it has none or it is not known.
    pub port: u16,
    /// What carries the connection.
    pub transport: Transport,
    /// Whether no more can be learned by asking.
    pub resolved: bool,
}

impl Peer {
    /// Whether it is a name server.
    pub(super) fn tells_names(&self) -> bool {
        self.transport == Transport::Udp && self.port == NAME_SERVER_PORT
    }
}

/// Which TLS stream a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// None that is known.
    Unknown,
    /// This one, whose server has a name unless the client asked for none.
    Stream(ConnId, Option<Symbol>),
    /// More than one were taken for it, so that none is believed any more.
    Contested,
}

/// What is kept of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: Nanos,
    pub(super) service: ServiceId,
    pub(super) peer: Option<Peer>,
    /// The name of the host at its other end, where it was known when the connection became so.
    pub(super) host: Option<Symbol>,
    /// Whether it was told, or found, to be open, and is not known by what moved over it alone.
    pub(super) introduced: bool,
    /// Whether a data record of it has come.
    pub(super) heard: bool,
    /// Data records of it that were lost so far.
    pub(super) lost: u32,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// The host that a TLS client asked for, fit to be a label.
    pub(super) server_name: Option<Box<str>>,
    /// Of a TLS stream: how long its handshake took, while it waits for the class of its peer to be known.
    pub(super) handshake: Option<Nanos>,
    /// How it came to be, where it was not there before.
    pub(super) made: Option<Made>,
    /// Of a TLS stream: the socket that carries it.
    pub(super) socket: Option<ConnId>,
    /// Of a socket: the TLS stream that it carries.
    pub(super) carried: Carried,
    pub(super) machine: Machine,
    /// What follows its frames, if it became a websocket.
    pub(super) websocket: Option<Box<websocket::Machine>>,
    /// Whether that is known to be none of a gateway of Discord's.
    pub(super) is_others: bool,
    /// What follows its questions, if it leads to a name server.
    pub(super) names: Option<Box<dns::Client>>,
    /// When what is read of it had come, once any of it had waited or it leads to a gateway of Discord's.
    pub(super) unread: Option<Box<Unread>>,
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// With this socket.
    Socket(u64),
    /// By a TLS handshake.
    Handshake,
}

impl Connection {
    pub(super) fn new(generation: Nanos, service: ServiceId, peer: Option<Peer>) -> Self {
        Self {
            generation,
            service,
            peer,
            host: None,
            introduced: false,
            heard: false,
            lost: 0,
            bytes_in: 0,
            bytes_out: 0,
            server_name: None,
            handshake: None,
            made: None,
            socket: None,
            carried: Carried::Unknown,
            machine: Machine::default(),
            websocket: None,
            is_others: false,
            names: None,
            unread: None,
        }
    }
}

/// All connections, no more than a cap.
#[derive(Debug)]
pub(super) struct Connections {
    cap: usize,
    /// Its keys are the kernel's numbers and it is looked up at every record, so that a quick hash is due.
    open: HashMap<(Tgid, Handle), Connection, foldhash::fast::RandomState>,
    saw_unix: bool,
    saw_names: bool,
    classes: Classes,
}

/// The values of the label `peer`, interned once; addresses are interned per class, since they are not exported.
#[derive(Debug)]
struct Classes {
    known: HashMap<&'static str, Symbol>,
    unknown: Symbol,
}

impl Connections {
    pub(super) fn new(cap: usize, symbols: &mut Symbols) -> Self {
        let known = ["loopback", "lan", "internet"].map(|class| (class, symbols.intern(class))).into();
        Self {
            cap,
            open: HashMap::default(),
            saw_unix: false,
            saw_names: false,
            classes: Classes { known, unknown: symbols.intern("unknown") },
        }
    }

    /// Enters a connection; false when there are too many.
    pub(super) fn insert(&mut self, id: ConnId, connection: Connection) -> bool {
        let key = (id.tgid, id.handle);
        if self.open.len() >= self.cap && !self.open.contains_key(&key) {
            return false;
        }
        self.saw_unix |= connection.peer.is_some_and(|peer| peer.transport == Transport::Unix);
        self.saw_names |= connection.names.is_some();
        self.open.insert(key, connection);
        true
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.open.get_mut(&(id.tgid, id.handle)).filter(|connection| connection.generation == id.generation)
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        if self.get_mut(id).is_some() {
            self.open.remove(&(id.tgid, id.handle));
        }
    }

    /// The connection that had the descriptor or address of `id` before it.
    pub(super) fn older(&self, id: ConnId) -> Option<ConnId> {
        let generation = self.open.get(&(id.tgid, id.handle))?.generation;
        (generation < id.generation).then_some(ConnId { generation, ..id })
    }

    /// All of a process.
    pub(super) fn of(&self, tgid: Tgid) -> Vec<ConnId> {
        self.ids(|owner, _, _| owner == tgid).collect()
    }

    /// Sockets that are not TCP's, as far as is known.
    pub(super) fn other_than_tcp(&self) -> Vec<ConnId> {
        self.ids(|_, handle, connection| {
            matches!(handle, Handle::Socket(_)) && connection.peer.is_none_or(|peer| peer.transport != Transport::Tcp)
        })
        .collect()
    }

    /// Whether a Unix socket has been among them.
    pub(super) fn saw_unix(&self) -> bool {
        self.saw_unix
    }

    /// Whether a socket that leads to a name server has been among them.
    pub(super) fn saw_names(&self) -> bool {
        self.saw_names
    }

    fn ids(&self, wanted: impl Fn(Tgid, Handle, &Connection) -> bool) -> impl Iterator<Item = ConnId> {
        let wanted =
            move |((tgid, handle), connection): &(&(Tgid, Handle), &Connection)| wanted(*tgid, *handle, connection);
        self.open.iter().filter(wanted).map(|((tgid, handle), connection)| ConnId {
            tgid: *tgid,
            handle: *handle,
            generation: connection.generation,
        })
    }

    /// The sockets of which no data record has come, at most `limit`.
    pub(super) fn silent(&self, limit: usize) -> Vec<ConnId> {
        self.ids(|_, handle, connection| matches!(handle, Handle::Socket(_)) && !connection.heard).take(limit).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The other end of a connection that was opened with this address, on a socket of this type (`SOCK_*`, or 0).
    pub(super) fn peer_of_address(&self, address: &Address, socket_type: i32) -> Peer {
        let class = self.classes.known.get(address.class()).copied().unwrap_or(self.classes.unknown);
        let (ip, transport) = match (address, socket_type) {
            (Address::Ip(ip), libc::SOCK_STREAM) => (Some(ip.ip()), Transport::Tcp),
            (Address::Ip(ip), libc::SOCK_DGRAM) => (Some(ip.ip()), Transport::Udp),
            (Address::Ip(ip), _) => (Some(ip.ip()), Transport::Other),
            (Address::Unix(_), _) => (None, Transport::Unix),
        };
        Peer { class, ip, port: address.port().unwrap_or(0), transport, resolved: transport != Transport::Other }
    }

    /// The class of an address.
    pub(super) fn class_of(&self, ip: IpAddr) -> Symbol {
        self.classes.known.get(class(ip)).copied().unwrap_or(self.classes.unknown)
    }

    pub(super) fn peer_of_socket(&self, socket: &Socket) -> Peer {
        let peer = socket.peer.as_ref().map_or(self.nobody(), |address| self.peer_of_address(address, 0));
        Peer { transport: socket.transport, resolved: true, ..peer }
    }

    /// The other end of a connection of which nothing is known.
    pub(super) fn nobody(&self) -> Peer {
        Peer { class: self.classes.unknown, ip: None, port: 0, transport: Transport::Other, resolved: true }
    }
}
