//! What is known of one gateway connection: of its websocket, of the stream that inflates what comes over it, or of both.

use super::Reason;
use super::assembler::Assembler;
use super::heartbeats::Heartbeats;
use crate::protocols::discord::payload::Shard;
use crate::units::{ConnId, Nanos};

/// What carries the payloads to the bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Not known yet.
    Unknown,
    /// The websocket's own messages: nothing is compressed.
    Plain,
    /// This stream.
    Stream(ConnId),
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Its websocket, while it is known and open.
    pub(super) socket: Option<ConnId>,
    pub(super) inbound: Inbound,
    /// Whatever of it was seen first was seen from its start.
    pub(super) fresh: bool,
    /// It is over, and what there was to tell has been told.
    pub(super) over: bool,
    /// By [`Direction`]: nobody knows where frames of its websocket begin, so a closing one may have been missed.
    pub(super) blurred: [bool; 2],
    pub(super) assembler: Assembler,
    pub(super) heartbeats: Heartbeats,
    /// Whether acks come; nothing until one has come or was missed.
    pub(super) up: Option<bool>,
    /// It was up, and has taken the place of one that went.
    pub(super) settled: bool,
    pub(super) shard: Option<Shard>,
    /// The hash of its session's id.
    pub(super) session: Option<u64>,
    /// Discord asked the bot to connect anew.
    pub(super) asked_away: bool,
    /// Discord said that the session is none.
    pub(super) invalid: bool,
    /// The last sequence number that came.
    pub(super) received: Option<u64>,
    /// The one that the last heartbeat named.
    pub(super) named: Option<u64>,
    /// The stream, and the number, that the last heartbeat fitted alone.
    pub(super) sight: Option<(ConnId, u64)>,
}

impl Connection {
    fn new(socket: Option<ConnId>, inbound: Inbound, fresh: bool) -> Self {
        Self {
            socket,
            inbound,
            fresh,
            over: false,
            blurred: [!fresh; 2],
            assembler: Assembler::default(),
            heartbeats: Heartbeats::default(),
            up: None,
            settled: false,
            shard: None,
            session: None,
            asked_away: false,
            invalid: false,
            received: None,
            named: None,
            sight: None,
        }
    }

    pub(super) fn of_socket(socket: ConnId, fresh: bool) -> Self {
        Self::new(Some(socket), Inbound::Unknown, fresh)
    }

    pub(super) fn of_stream(stream: ConnId, fresh: bool) -> Self {
        Self::new(None, Inbound::Stream(stream), fresh)
    }

    pub(super) fn has_stream(&self, stream: ConnId) -> bool {
        self.inbound == Inbound::Stream(stream)
    }

    /// The stream of which the websocket is still to be found.
    pub(super) fn lone_stream(&self) -> Option<ConnId> {
        match self.inbound {
            Inbound::Stream(stream) if self.socket.is_none() && !self.over => Some(stream),
            _ => None,
        }
    }

    /// Whether it is a websocket whose stream is still to be found.
    pub(super) fn is_lone_socket(&self) -> bool {
        self.socket.is_some() && self.inbound == Inbound::Unknown && !self.over
    }

    /// Whether nothing is left of it.
    pub(super) fn is_gone(&self) -> bool {
        self.socket.is_none() && !matches!(self.inbound, Inbound::Stream(_))
    }

    /// Adds what was seen of its other half.
    pub(super) fn join(&mut self, stream: Self) {
        self.inbound = stream.inbound;
        self.assembler = stream.assembler;
        self.heartbeats.join(&stream.heartbeats);
        self.up = stream.up.or(self.up);
        self.settled |= stream.settled;
        self.shard = self.shard.or(stream.shard);
        self.session = stream.session.or(self.session);
        self.asked_away |= stream.asked_away;
        self.invalid |= stream.invalid;
        self.received = stream.received;
        self.sight = None;
    }

    /// Takes in that its stream is its own no more.
    pub(super) fn part(&mut self) {
        self.inbound = Inbound::Unknown;
        // Another stream may be found for it, but not because that began when this did.
        self.fresh = false;
    }

    /// Whether, at `now`, an ack is known to be missing for so long that it may be why the bot gives up.
    pub(super) fn is_overdue(&self, now: Nanos) -> bool {
        self.inbound != Inbound::Unknown && self.heartbeats.overdue(now)
    }

    /// Why Discord made the bot give the connection up, if it did.
    pub(super) fn cause(&self) -> Option<Reason> {
        if self.asked_away {
            Some(Reason::Requested)
        } else if self.invalid {
            Some(Reason::InvalidSession)
        } else {
            None
        }
    }
}
