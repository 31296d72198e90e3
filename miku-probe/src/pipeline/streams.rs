//! TLS streams: connections of their own, which carry the plaintext of some socket's bytes.
//!
//! A stream is told by the process and the address of its `SSL`, its peer by the name that the client asked for (SNI) or by
//! the `Host` of its requests: both come from the stream itself, so that no two streams can be taken for each other.
//!
//! Which socket carries it is enrichment, which nothing depends on. Where the kernel side is sure of it, the socket's bytes
//! count under the stream's name instead of a class, and a stream without a name has its socket's class. A socket that is
//! said to carry two streams at once is believed of neither.

use super::connections::{Carried, Made};
use super::servers::host_name;
use super::{End, Peer, Pipeline, World};
use crate::intake::{Bind, Handshake, ServerName};
use crate::observations::{Observation, Sink};
use crate::units::{ConnId, Handle, Nanos, Symbol, Tgid};

impl<S: Sink, W: World> Pipeline<S, W> {
    /// Takes in which server a stream's client wants. A name that is none is not kept.
    pub(super) fn server_name(&mut self, said: &ServerName<'_>) {
        if self.enter(said.id, said.time)
            && let Some(connection) = self.connections.get_mut(said.id)
        {
            connection.server_name = host_name(said.name);
        }
    }

    /// Observes a handshake that ended, under the name that the client asked for until then. Where it asked for none, one
    /// that succeeded waits for the stream to be bound to its socket, at most until the stream ends.
    pub(super) fn handshake(&mut self, handshake: &Handshake) {
        if !self.enter(handshake.id, handshake.time) {
            return;
        }
        let class = self.socket_class(handshake.id);
        let Some(connection) = self.connections.get_mut(handshake.id) else { return };
        let service = connection.service;
        connection.made = handshake.outcome.is_ok().then_some(Made::Handshake);
        if connection.server_name.is_none()
            && class.is_none()
            && let Ok(duration) = handshake.outcome
        {
            connection.handshake = Some(duration);
            return;
        }
        let peer = self.stream_name(handshake.id).or(class).unwrap_or(self.connections.nobody().class);
        self.observe(&Observation::Handshake { service, peer, outcome: handshake.outcome });
    }

    /// Observes the handshake that waits for the class of its peer, if one does.
    pub(super) fn release_handshake(&mut self, id: ConnId, class: Option<Symbol>) {
        let nobody = self.connections.nobody().class;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if let Some(duration) = connection.handshake.take() {
            let service = connection.service;
            let peer = class.unwrap_or(nobody);
            self.observe(&Observation::Handshake { service, peer, outcome: Ok(duration) });
        }
    }

    /// Takes in that a socket carries a stream, or that it does not.
    pub(super) fn bind(&mut self, bind: &Bind) {
        if !self.enter(bind.id, bind.time) {
            return;
        }
        let Some(socket) = self.connections.get_mut(bind.socket) else { return };
        let before = socket.carried;
        let after = match before {
            Carried::Contested => return,
            Carried::Stream(stream, _) if !bind.bound && stream == bind.id => Carried::Unknown,
            Carried::Stream(stream, _)
                if bind.bound && stream != bind.id && self.connections.get_mut(stream).is_some() =>
            {
                Carried::Contested
            }
            _ if bind.bound => Carried::Stream(bind.id, self.stream_name(bind.id)),
            _ => return,
        };
        if let Some(socket) = self.connections.get_mut(bind.socket) {
            socket.carried = after;
        }
        if let Some(stream) = self.connections.get_mut(bind.id) {
            stream.socket = matches!(after, Carried::Stream(..)).then_some(bind.socket);
        }
        if let Carried::Stream(_, Some(name)) = after
            && let Handle::Socket(fd) = bind.socket.handle
            && let Some((service, Peer { ip: Some(ip), .. })) = self.service_and_peer(bind.socket, fd)
        {
            self.learn(service, ip, name, bind.time);
        }
        if let Some(class) = self.socket_class(bind.id) {
            self.release_handshake(bind.id, Some(class));
        }
    }

    /// The class of the socket that carries a stream.
    fn socket_class(&mut self, stream: ConnId) -> Option<Symbol> {
        let socket = self.connections.get_mut(stream)?.socket?;
        let Handle::Socket(fd) = socket.handle else { return None };
        let (_, peer) = self.service_and_peer(socket, fd)?;
        Some(peer.class)
    }

    /// The name that a stream's client asked for, as a label.
    fn stream_name(&mut self, stream: ConnId) -> Option<Symbol> {
        let Self { connections, services, names, sink, .. } = self;
        let connection = connections.get_mut(stream)?;
        let kept = services.get_mut(usize::from(connection.service.0))?;
        let (peer, overflow) = kept.servers.peer(connection.server_name.as_deref()?, &mut names.symbols);
        if overflow {
            sink.observe(&Observation::LabelOverflow { label: "peer" }, names);
        }
        Some(peer)
    }

    /// Ends the streams of a process that became another program: their memory is gone, and nobody tells.
    pub(super) fn forget_streams(&mut self, tgid: Tgid, time: Nanos) {
        for id in self.connections.of(tgid) {
            if matches!(id.handle, Handle::Tls(_)) {
                self.release_handshake(id, None);
                self.end(id, time, End::Over);
                self.connections.remove(id);
            }
        }
    }
}
