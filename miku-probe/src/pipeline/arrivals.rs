//! When what a bot reads had come to its socket: the kernel side tells of sockets, and it is asked of the connections above.

use super::bots::Bot;
use super::connections::Carried;
use super::{Pipeline, World};
use crate::intake::Arrived;
use crate::observations::Sink;
use crate::protocols::arrivals::{Batch, Came, Unread};
use crate::protocols::http1::Segment;
use crate::units::{ConnId, Direction, Handle, Nanos};

/// How soon after it was received something is decrypted, as a rule.
const AT_ONCE: Nanos = Nanos(5_000_000);

impl<S: Sink, W: World> Pipeline<S, W> {
    /// Takes in when what is read next of a socket had come. It is that of the TLS stream which the socket carries, if one is
    /// known.
    pub(super) fn arrived(&mut self, arrived: &Arrived<'_>) {
        let Some(socket) = self.connections.get_mut(arrived.id) else { return };
        let above = if let Carried::Stream(stream, _) = socket.carried { stream } else { arrived.id };
        if above == arrived.id
            && arrived.waited()
            && let Some(bot) = self.bots.get_mut(arrived.id.tgid)
        {
            bot.read_late = Some((arrived.tid, arrived.time));
        }
        let batch = arrived.waited().then(|| Batch::new(arrived.end, arrived.size, arrived.arrivals()));
        if let Some(connection) = self.connections.get_mut(above)
            && (batch.is_some() || connection.unread.is_some())
        {
            connection.unread.get_or_insert_with(|| new(above)).batch(batch);
        }
    }

    /// Takes in what was read of a connection: when the last of it had come.
    pub(super) fn read(&mut self, id: ConnId, tid: u32, segment: &Segment<'_>) -> Came {
        let unasked = Came::Read(segment.time);
        let Some(connection) = self.connections.get_mut(id).filter(|_| segment.direction == Direction::In) else {
            return unasked;
        };
        let is_gateways = connection.websocket.is_some() && !connection.is_others;
        if is_gateways && self.bots.get_mut(id.tgid).is_some() {
            connection.unread.get_or_insert_with(|| new(id)).follow();
        }
        let unbound = matches!(id.handle, Handle::Tls(_)) && connection.socket.is_none();
        let late = |bot: &Bot| bot.read_late.is_some_and(|(by, time)| by == tid && segment.time.since(time) < AT_ONCE);
        if unbound && self.bots.get_mut(id.tgid).is_some_and(|bot| late(bot)) {
            // It may be what the thread has just read from a socket that carries nobody knows what.
            connection.unread.get_or_insert_with(|| new(id)).batch(Some(Batch::default()));
        }
        connection.unread.as_mut().map_or(unasked, |unread| unread.read(segment.size, segment.time))
    }
}

fn new(id: ConnId) -> Box<Unread> {
    Box::new(Unread::new(matches!(id.handle, Handle::Tls(_))))
}
