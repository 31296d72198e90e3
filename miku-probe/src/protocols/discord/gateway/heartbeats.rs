//! The heartbeats of one connection, and the acks to them.
//!
//! An ack does not say which heartbeat it is to. Over one connection they come in order, so with one heartbeat unanswered
//! there is no doubt. After a missed one there is: the next ack may be a late one. It shows that acks come, but its time is
//! not told; the heartbeat after it is beyond doubt again.

use std::collections::VecDeque;

use crate::units::Nanos;

/// How many unanswered heartbeats are kept in mind; Discord may ask for some beyond the regular ones.
const PENDING_MAX: usize = 8;

/// The interval that is supposed while none is known; Discord's is 41.25 s.
const SUPPOSED: Nanos = Nanos(60_000_000_000);

/// How long an ack is waited for over a websocket whose stream is not known: less than until the next heartbeat.
const PATIENCE: Nanos = Nanos(40_000_000_000);

#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    /// When those were sent that are not answered.
    pending: VecDeque<Nanos>,
    /// One was missed, so the next ack may be to it.
    doubtful: bool,
    /// Discord asked for one.
    asked: bool,
    last_sent: Option<Nanos>,
    last_ack: Option<Nanos>,
    interval: Option<Nanos>,
    /// The interval is what Discord said, not what was seen.
    interval_told: bool,
    missed: bool,
}

impl Heartbeats {
    /// Takes in the interval that Discord asks for.
    pub(super) fn interval(&mut self, interval: Nanos) {
        (self.interval, self.interval_told) = (Some(interval), true);
    }

    /// Takes in that Discord asks for a heartbeat now.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// Takes in that one was sent: whether the one before was missed. While acks cannot be seen, none is.
    pub(super) fn sent(&mut self, time: Nanos, acks_seen: bool) -> bool {
        let gap = self.last_sent.map(|last| time.since(last));
        let asked = std::mem::take(&mut self.asked);
        let early = asked || gap.zip(self.interval).is_some_and(|(gap, interval)| gap.0 < interval.0 / 2);
        if !self.interval_told && !asked && gap.is_some() {
            self.interval = gap;
        }
        self.last_sent = Some(time);
        let missed = acks_seen && !early && !self.pending.is_empty();
        if missed || self.pending.len() == PENDING_MAX {
            self.pending.clear();
        }
        if self.pending.is_empty() {
            self.doubtful = missed;
        }
        self.missed |= missed;
        self.pending.push_back(time);
        missed
    }

    /// Takes in an ack: how long the heartbeat took that it is to, if that is known.
    pub(super) fn ack(&mut self, time: Nanos) -> Option<Nanos> {
        self.last_ack = Some(time);
        self.missed = false;
        let sent = self.pending.pop_front()?;
        if self.doubtful { None } else { Some(time.since(sent)) }
    }

    /// Takes in that records were lost, which may have been acks.
    pub(super) fn gap(&mut self) {
        self.pending.clear();
    }

    /// When the last one was sent, if it is unanswered.
    pub(super) fn awaited(&self) -> Option<Nanos> {
        self.pending.back().copied()
    }

    /// How many are unanswered.
    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Forgets those that no ack will come to any more; tells whether there were any.
    pub(super) fn expire(&mut self, now: Nanos) -> bool {
        let before = self.pending.len();
        self.pending.retain(|sent| now.since(*sent) <= PATIENCE);
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.len() < before
    }

    /// Whether, at `now`, a heartbeat is unanswered for so long that it may be why the bot gives up the connection.
    pub(super) fn overdue(&self, now: Nanos) -> bool {
        let patience = self.interval.unwrap_or(SUPPOSED).0 / 2;
        self.missed || self.pending.front().is_some_and(|sent| now.since(*sent).0 >= patience)
    }

    /// Whether, at `now`, the last ack is so long ago that another should have come.
    pub(super) fn silent(&self, now: Nanos) -> bool {
        let patience = (self.interval.unwrap_or(SUPPOSED).0 / 2).saturating_mul(3);
        self.last_ack.is_some_and(|ack| now.since(ack).0 > patience)
    }

    /// Whether one was missed, and no ack has come since.
    pub(super) fn missed(&self) -> bool {
        self.missed
    }

    /// Adds what was seen of the same connection's other half.
    pub(super) fn join(&mut self, acks: &Self) {
        self.asked |= acks.asked;
        self.last_ack = self.last_ack.max(acks.last_ack);
        if acks.interval_told {
            (self.interval, self.interval_told) = (acks.interval, true);
        }
        // What was sent before an ack that nobody could tell whose it is is answered, as far as anybody knows.
        self.pending.retain(|sent| acks.last_ack.is_none_or(|ack| ack < *sent));
        // To which of several the next ack is cannot be told: those before the last may have been answered unseen.
        self.doubtful = self.pending.len() > 1;
        self.pending.drain(..self.pending.len().saturating_sub(1));
    }
}
