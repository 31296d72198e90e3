//! Which inflated stream belongs to which websocket. They are joined only where there is no other way for it to be.
//!
//! - A bot says nothing before it was greeted. So where a websocket that was seen to open is spoken over, its stream, if any,
//!   is already known. If no other such websocket lacks its stream, and just one stream that began with a greeting lacks its
//!   websocket, it is that one.
//! - An ack follows a heartbeat. Where just one websocket without a stream waits for one, and an ack comes out of a stream
//!   without a websocket, they belong together. This holds in mid-life as well, once what was on the wire when the
//!   watching began has come in.
//! - A heartbeat names the last sequence number that the bot received. If two in a row name different ones, and each fits
//!   just one stream, it is that one.

use super::Gateways;
use super::connection::Connection;
use crate::units::Nanos;

/// How long an ack may be on its way. So long after the watching began a heartbeat is not believed to be the only one.
const ON_THE_WAY: Nanos = Nanos(2_000_000_000);

impl Gateways {
    /// Takes in an ack of which nobody knows to which websocket it belongs. When there were as many as are waited for, none
    /// is any more.
    pub(super) fn unclaimed_ack(&mut self, time: Nanos) {
        if time < self.since + ON_THE_WAY {
            return;
        }
        self.unclaimed += 1;
        let lone = self.connections.iter().filter(|connection| connection.is_lone_socket());
        if self.unclaimed >= lone.map(|connection| connection.heartbeats.unanswered()).sum() {
            self.unclaimed = 0;
            for connection in self.connections.iter_mut().filter(|connection| connection.is_lone_socket()) {
                connection.heartbeats.gap();
            }
        }
    }

    /// Forgets the heartbeats over websockets without a stream that are too old for an ack.
    pub(super) fn forget_expired(&mut self, now: Nanos) {
        let mut any = false;
        for connection in self.connections.iter_mut().filter(|connection| connection.is_lone_socket()) {
            any |= connection.heartbeats.expire(now);
        }
        if any {
            // Some of the acks may have been to them.
            self.unclaimed = 0;
        }
    }

    /// The only stream that can belong to the websocket at `at`, which was seen to open and has now been spoken over.
    pub(super) fn greeted(&self, at: usize) -> Option<usize> {
        if self.only(|connection| connection.is_lone_socket() && connection.fresh)? != at {
            return None;
        }
        self.only(|connection| connection.lone_stream().is_some() && connection.fresh)
    }

    /// The only websocket that can have sent what the stream at `at` now brings the ack to.
    pub(super) fn waiting(&self, at: usize) -> Option<usize> {
        let socket =
            self.only(|connection| connection.is_lone_socket() && connection.heartbeats.awaited().is_some())?;
        let connection = &self.connections[socket];
        let sent = connection.heartbeats.awaited()?;
        // No bot names a number that it has not received.
        let contradicted = connection.named > self.connections[at].received && self.connections[at].received.is_some();
        (sent >= self.since + ON_THE_WAY && !contradicted).then_some(socket)
    }

    /// Takes in the number that a heartbeat over the connection at `at` names: where the connection is then, which may have
    /// been joined.
    pub(super) fn fit(&mut self, at: usize, named: Option<u64>) -> usize {
        if !self.connections[at].is_lone_socket() {
            return at;
        }
        let streams = |connection: &Connection| connection.lone_stream().is_some() && connection.received == named;
        let is_rival =
            |(place, rival): (usize, &Connection)| place != at && rival.is_lone_socket() && rival.named == named;
        let rivalled = self.connections.iter().enumerate().any(is_rival);
        let fitting = named.filter(|_| !rivalled).and_then(|number| Some((number, self.only(streams)?)));
        let sight = fitting.and_then(|(number, stream)| Some((self.connections[stream].lone_stream()?, number)));
        let before = std::mem::replace(&mut self.connections[at].sight, sight);
        match (before, sight, fitting) {
            (Some((old, first)), Some((new, second)), Some((_, stream))) if old == new && first != second => {
                self.join(at, stream)
            }
            _ => at,
        }
    }

    /// Where the only connection is of which `is` holds.
    fn only(&self, is: impl Fn(&Connection) -> bool) -> Option<usize> {
        let mut found = self.connections.iter().enumerate().filter(|(_, connection)| is(connection));
        let (at, _) = found.next()?;
        found.next().is_none().then_some(at)
    }

    /// Makes one connection of a websocket and a stream, and tells where it is.
    pub(super) fn join(&mut self, socket: usize, stream: usize) -> usize {
        let half = self.connections.swap_remove(stream);
        // The last one has taken the stream's place.
        let socket = if socket == self.connections.len() { stream } else { socket };
        self.connections[socket].join(half);
        // Some of the acks may have been to its heartbeats.
        self.unclaimed = 0;
        self.remember_session(socket);
        socket
    }
}
