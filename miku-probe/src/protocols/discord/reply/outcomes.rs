//! How it ended for each person on whose message or interaction the bot acted: in exactly one way.
//!
//! A conversation starts when the bot first acts on what a person did, and ends with one [`ConversationOutcome`]. What the
//! bot ignores does neither. So at any time `started = ended + open`.
//!
//! Where the bot acts in a channel and several people may be meant, one person is counted for each such act, and no more
//! than there are: of ten messages that may be meant by one answer, nine may be none of the bot's business.

use std::collections::{HashMap, VecDeque};

use super::table::{CONVERSATIONS_MAX, Conversation, Id, State};
use super::{Event, Replies, TRAIL, WINDOW};
use crate::observations::{ConversationOutcome, ReplyKind, Unmatched};
use crate::units::Nanos;

/// How many times the bot began to type for nobody in particular are kept in mind of one channel.
const TYPINGS_MAX: usize = 64;

/// What the bot did in one channel that may be meant for any of several people.
#[derive(Debug, Default)]
struct Doubt {
    /// When it began to type for one of those who wait.
    typings: VecDeque<Nanos>,
    /// People who may have been answered and have been counted; each answer may be that of one of them.
    counted: u32,
    /// People who may have been answered, or whose message the bot ignores.
    uncounted: u32,
    /// When this was last so.
    last: Nanos,
}

/// The doubts of one process, by channel.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    channels: HashMap<u64, Doubt>,
    /// Conversations that were open when this was last reported, by kind.
    open: [usize; ReplyKind::ALL.len()],
}

impl Doubts {
    /// The doubts about a channel; none when there are too many channels of which there are any.
    fn entry(&mut self, channel: u64, time: Nanos) -> Option<&mut Doubt> {
        if self.channels.len() >= CONVERSATIONS_MAX && !self.channels.contains_key(&channel) {
            return None;
        }
        let doubt = self.channels.entry(channel).or_default();
        doubt.last = doubt.last.max(time);
        Some(doubt)
    }

    /// Takes one typing back that may have been for what a person did then in that channel.
    fn take_typing(&mut self, channel: Option<u64>, event: Nanos) -> bool {
        let Some(doubt) = channel.and_then(|channel| self.channels.get_mut(&channel)) else { return false };
        let at = doubt.typings.iter().position(|typed| *typed >= event);
        at.is_some_and(|at| doubt.typings.remove(at).is_some())
    }

    /// Forgets what is too old to matter.
    pub(super) fn prune(&mut self, now: Nanos) {
        self.channels.retain(|_, doubt| now.since(doubt.last) < WINDOW);
    }
}

impl Replies {
    /// The bot acts on what a person did, for certain.
    pub(super) fn begin(&mut self, id: Id, time: Nanos, tell: &mut impl FnMut(Event)) {
        if let Some(one) = self.table.get(id).filter(|one| one.state == State::Silent) {
            tell(Event::Started(one.kind()));
            self.doubts.take_typing(one.channel, one.event);
        }
        self.table.set(id, State::Begun, time);
    }

    /// A conversation is over, and nothing more is told of it; `state` is what it is from now on.
    pub(super) fn end(
        &mut self,
        id: Id,
        state: State,
        outcome: ConversationOutcome,
        time: Nanos,
        tell: &mut impl FnMut(Event),
    ) {
        let Some(one) = self.table.get(id) else { return };
        let (kind, open) = (one.kind(), one.is_open());
        if open {
            self.begin(id, time, tell);
            tell(Event::Ended(kind, outcome));
        }
        self.table.set(id, state, time);
    }

    /// One of those who wait in a channel is typed for, and nobody can say who.
    pub(super) fn types_for_somebody(&mut self, channel: u64, time: Nanos, tell: &mut impl FnMut(Event)) {
        tell(Event::Unmatched(Unmatched::TypingAmbiguous));
        match self.doubts.entry(channel, time) {
            Some(doubt) if doubt.typings.len() < TYPINGS_MAX => doubt.typings.push_back(time),
            Some(_) => {}
            None => tell(Event::Unmatched(Unmatched::TableFull)),
        }
    }

    /// Whoever of these may have been answered by one message in a channel is followed no more: those on whom the bot acted
    /// end so, and of the others as many as it typed for.
    pub(super) fn spoil_all(
        &mut self,
        channel: u64,
        ids: Vec<Id>,
        outcome: ConversationOutcome,
        time: Nanos,
        tell: &mut impl FnMut(Event),
    ) {
        let (mut counted, mut uncounted) = (0, 0);
        for id in ids {
            let Some(one) = self.table.get(id) else { continue };
            // The answer is hardly that of somebody for whom the bot did nothing for long.
            let active = time.since(one.last) < TRAIL;
            if one.state == State::Begun || self.doubts.take_typing(one.channel, one.event) {
                self.end(id, State::Spoiled, outcome, time, tell);
                counted += u32::from(active);
            } else {
                self.table.set(id, State::Spoiled, time);
                uncounted += 1;
            }
        }
        match self.doubts.entry(channel, time) {
            Some(doubt) => {
                doubt.counted += counted;
                doubt.uncounted += uncounted;
            }
            None => tell(Event::Unmatched(Unmatched::TableFull)),
        }
        self.answers_somebody(channel, outcome, tell);
    }

    /// A message in a channel may be the answer to one of those who are followed no more.
    pub(super) fn answers_somebody(
        &mut self,
        channel: u64,
        outcome: ConversationOutcome,
        tell: &mut impl FnMut(Event),
    ) {
        let Some(doubt) = self.doubts.channels.get_mut(&channel) else { return };
        if doubt.counted > 0 {
            doubt.counted -= 1;
        } else if doubt.uncounted > 0 {
            doubt.uncounted -= 1;
            tell(Event::Started(ReplyKind::Message));
            tell(Event::Ended(ReplyKind::Message, outcome));
        }
    }

    /// What the bot did nothing about that is certain is forgotten. If it was typed for, perhaps, it ends as unknown.
    pub(super) fn forget(&mut self, one: &Conversation, tell: &mut impl FnMut(Event)) {
        if one.state == State::Silent && self.doubts.take_typing(one.channel, one.event) {
            tell(Event::Started(one.kind()));
            tell(Event::Ended(one.kind(), ConversationOutcome::Unknown));
        }
    }

    /// Tells how many conversations are open now, by what changed.
    pub(super) fn tell_open(&mut self, tell: &mut impl FnMut(Event)) {
        let mut open = [0; ReplyKind::ALL.len()];
        for one in self.table.begun().filter_map(|id| self.table.get(id)) {
            open[one.kind() as usize] += 1;
        }
        self.tell_open_as(open, tell);
    }

    /// Tells that none is open any more.
    pub(super) fn tell_none_open(&mut self, tell: &mut impl FnMut(Event)) {
        self.tell_open_as(Default::default(), tell);
    }

    fn tell_open_as(&mut self, open: [usize; ReplyKind::ALL.len()], tell: &mut impl FnMut(Event)) {
        let before = std::mem::replace(&mut self.doubts.open, open);
        for (kind, (now, before)) in ReplyKind::ALL.into_iter().zip(open.into_iter().zip(before)) {
            let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            if now != before {
                tell(Event::Open(kind, count(now) - count(before)));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod ledger {
    use std::collections::BTreeMap;

    use super::{ConversationOutcome, Event};

    /// What has started, what of it has ended how, and what is said to be open.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(in super::super) struct Ledger {
        pub(in super::super) started: usize,
        pub(in super::super) ended: BTreeMap<ConversationOutcome, usize>,
        pub(in super::super) open: i64,
    }

    impl Ledger {
        /// Of all that was told of one process, up to a tick or its end.
        pub(in super::super) fn of<'a>(told: impl IntoIterator<Item = &'a Event>) -> Self {
            let mut ledger = Self::default();
            for event in told {
                match event {
                    Event::Started(_) => ledger.started += 1,
                    Event::Ended(_, outcome) => *ledger.ended.entry(*outcome).or_default() += 1,
                    Event::Open(_, change) => ledger.open += change,
                    Event::Reply(_) | Event::Unanswered(_) | Event::Unmatched(_) => {}
                }
            }
            ledger
        }

        /// How many ended so.
        pub(in super::super) fn ended(&self, outcome: ConversationOutcome) -> usize {
            self.ended.get(&outcome).copied().unwrap_or(0)
        }

        /// Whether each that started is over or open, and none is both or neither.
        pub(in super::super) fn closes(&self) -> bool {
            let over: usize = self.ended.values().sum();
            i64::try_from(self.started).ok() == i64::try_from(over).ok().map(|over| over + self.open)
        }
    }
}
