//! TLS streams: connections of their own, which carry the plaintext of some socket's bytes.
//!
//! Which socket that is, is not guessed. A stream is told by the process and the address of its `SSL`, its peer by the
//! name that the client asked for (SNI) or by the `Host` of its requests: both come from the stream itself, so that no
//! two streams can be taken for each other.

use super::servers::host_name;
use super::{End, Pipeline, World};
use crate::intake::{Handshake, ServerName};
use crate::observations::{Observation, Sink};
use crate::units::{Handle, Nanos, Tgid};

impl<S: Sink, W: World> Pipeline<S, W> {
    /// Takes in which server a stream's client wants. A name that is none is not kept.
    pub(super) fn server_name(&mut self, said: &ServerName<'_>) {
        if self.enter(said.id, said.time)
            && let Some(connection) = self.connections.get_mut(said.id)
        {
            connection.server_name = host_name(said.name);
        }
    }

    /// Observes a handshake that ended, under the name that the client asked for until then.
    pub(super) fn handshake(&mut self, handshake: &Handshake) {
        if !self.enter(handshake.id, handshake.time) {
            return;
        }
        let Self { connections, services, names, sink, .. } = self;
        let nobody = connections.nobody().class;
        let Some(connection) = connections.get_mut(handshake.id) else { return };
        let service = connection.service;
        let Some(kept) = services.get_mut(usize::from(service.0)) else { return };
        let peer = match &connection.server_name {
            None => nobody,
            Some(name) => {
                let (peer, overflow) = kept.servers.peer(name, &mut names.symbols);
                if overflow {
                    sink.observe(&Observation::LabelOverflow { label: "peer" }, names);
                }
                peer
            }
        };
        sink.observe(&Observation::Handshake { service, peer, outcome: handshake.outcome }, names);
    }

    /// Ends the streams of a process that became another program: their memory is gone, and nobody tells.
    pub(super) fn forget_streams(&mut self, tgid: Tgid, time: Nanos) {
        for id in self.connections.of(tgid) {
            if matches!(id.handle, Handle::Tls(_)) {
                self.end(id, time, End::Over);
                self.connections.remove(id);
            }
        }
    }
}
