//! The conversations of one process: what people did that the bot may answer.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{LlmId, TRAIL, WINDOW};
use crate::observations::ReplyKind;
use crate::protocols::arrivals::Came;
use crate::units::Nanos;

/// How many conversations are kept, those that were answered lately among them.
pub(super) const CONVERSATIONS_MAX: usize = 16_384;

/// How many open conversations of one channel are weighed against each other. More are found by their references alone.
const OPEN_MAX: usize = 512;

/// How many refused or failed tries, sleeps, and calls of language models are kept of one conversation.
const DETAILS_MAX: usize = 16;

/// A conversation, by the order of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

/// By what the REST API calls a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The message's id.
    Message(u64),
    /// The interaction's id and its token's hash.
    Interaction(u64, u64),
}

/// How far a conversation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The bot did nothing about it that is certain: most such messages are none of its business.
    Silent,
    /// The bot began to answer.
    Begun,
    /// It was answered, or is none that is answered.
    Answered,
    /// It may have been answered: what comes now is not certain to be the first answer.
    Spoiled,
}

/// A try of the answering call that did not succeed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    pub(super) start: Nanos,
    pub(super) end: Nanos,
    /// Whether a rate limit refused it, and not something else.
    pub(super) refused: bool,
}

/// What is waited for after a refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// The nonce of the refused message, if it had one: its next try has the same.
    pub(super) nonce: Option<u64>,
}

/// One thing that a person did.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) key: Key,
    /// When the bot took in the gateway's event.
    pub(super) event: Nanos,
    /// When that had come.
    pub(super) came: Came,
    pub(super) channel: Option<u64>,
    pub(super) state: State,
    /// When the bot last did something about it, or the event's time.
    pub(super) last: Nanos,
    /// Until when it is certain that the bot did nothing visible; none while it did not.
    pub(super) pickup: Option<Nanos>,
    /// When it last began to type for it.
    pub(super) typed: Option<Nanos>,
    /// When typing was refused by a rate limit and not tried again since.
    pub(super) typing_refused: Option<Nanos>,
    /// Its own REST calls that are under way.
    pub(super) calls: u32,
    /// Calls of language models for it that have not ended.
    pub(super) waiting: u32,
    /// Those of them of which no token has come.
    pub(super) speechless: u32,
    pub(super) tries: Vec<Try>,
    pub(super) retry: Option<Retry>,
    /// Sleeps after refusals of calls other than the answer.
    pub(super) sleeps: Vec<(Nanos, Nanos)>,
    /// Calls of language models that are perhaps its.
    pub(super) llms: Vec<LlmId>,
}

impl Conversation {
    pub(super) fn kind(&self) -> ReplyKind {
        match self.key {
            Key::Message(_) => ReplyKind::Message,
            Key::Interaction(..) => ReplyKind::Interaction,
        }
    }

    pub(super) fn is_message(&self) -> bool {
        self.kind() == ReplyKind::Message
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Silent | State::Begun)
    }

    /// Whether it waits for the network, and so does nothing else now.
    pub(super) fn is_blocked(&self) -> bool {
        self.calls > 0 || self.waiting > 0
    }

    /// Whether it can have nothing to say yet.
    pub(super) fn is_speechless(&self) -> bool {
        self.calls > 0 || self.speechless > 0
    }

    /// Whether its typing was refused and not tried again since.
    pub(super) fn waits_to_type(&self) -> bool {
        self.typing_refused.is_some()
    }

    /// Keeps one more detail, unless there are too many: then it is part of [`crate::observations::Phase::Other`].
    pub(super) fn keep<T>(details: &mut Vec<T>, detail: T) -> bool {
        let room = details.len() < DETAILS_MAX;
        if room {
            details.push(detail);
        }
        room
    }
}

/// What is known of a channel.
#[derive(Debug, Default)]
struct Channel {
    /// The open conversations in it, in order.
    open: VecDeque<Id>,
    /// When the bot was last seen at work in it after it had answered somebody.
    trailing: Option<Nanos>,
    /// Until when more may be open than those.
    incomplete: Nanos,
}

/// Conversations that began to be answered and may go on at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rivals {
    None,
    One(Id),
    Many,
}

impl Rivals {
    /// Whether nobody but `id` is there.
    pub(super) fn only(self, id: Id) -> bool {
        matches!(self, Self::None) || self == Self::One(id)
    }
}

/// The conversations of one process.
#[derive(Debug, Default)]
pub(super) struct Table {
    conversations: BTreeMap<Id, Conversation>,
    next: u64,
    messages: HashMap<u64, Id>,
    interactions: HashMap<u64, Id>,
    tokens: HashMap<u64, Id>,
    channels: HashMap<u64, Channel>,
    open: BTreeSet<Id>,
    begun: BTreeSet<Id>,
    /// Until when messages may be open that are not in the table.
    incomplete: Nanos,
    /// When somebody was last answered, anywhere.
    answered: Option<Nanos>,
}

impl Table {
    /// Enters a conversation; none when it is there already. The other is one that was open and had to go for it.
    pub(super) fn insert(
        &mut self,
        key: Key,
        channel: Option<u64>,
        state: State,
        event: Nanos,
        came: Came,
    ) -> (Option<Id>, Option<Conversation>) {
        let known = match key {
            Key::Message(message) => self.messages.contains_key(&message),
            Key::Interaction(interaction, _) => self.interactions.contains_key(&interaction),
        };
        if known {
            return (None, None);
        }
        let mut crowded_out = None;
        if self.conversations.len() >= CONVERSATIONS_MAX
            && let Some((id, _)) = self.conversations.first_key_value()
        {
            let id = *id;
            crowded_out = self.remove(id).filter(Conversation::is_open);
        }
        if crowded_out.is_some() || self.channels.len() >= 2 * CONVERSATIONS_MAX {
            self.channels.retain(|_, channel| !channel.open.is_empty());
            self.gap(event);
        }
        let id = Id(self.next);
        self.next += 1;
        match key {
            Key::Message(message) => drop(self.messages.insert(message, id)),
            Key::Interaction(interaction, token) => {
                self.interactions.insert(interaction, id);
                self.tokens.insert(token, id);
            }
        }
        self.conversations.insert(
            id,
            Conversation {
                key,
                event,
                came,
                channel,
                state,
                last: event,
                pickup: None,
                typed: None,
                typing_refused: None,
                calls: 0,
                waiting: 0,
                speechless: 0,
                tries: Vec::new(),
                retry: None,
                sleeps: Vec::new(),
                llms: Vec::new(),
            },
        );
        if state == State::Silent {
            self.open.insert(id);
            if let Some(channel) = channel {
                let channel = self.channels.entry(channel).or_default();
                channel.open.push_back(id);
                if channel.open.len() > OPEN_MAX {
                    let silent = |id: &Id| self.conversations.get(id).is_none_or(|one| one.state == State::Silent);
                    let least = channel.open.iter().position(silent).unwrap_or(0);
                    channel.open.remove(least);
                    channel.incomplete = event + WINDOW;
                }
            }
        }
        (Some(id), crowded_out)
    }

    /// Forgets a conversation.
    pub(super) fn remove(&mut self, id: Id) -> Option<Conversation> {
        self.close(id);
        let conversation = self.conversations.remove(&id)?;
        match conversation.key {
            Key::Message(message) => drop(self.messages.remove(&message)),
            Key::Interaction(interaction, token) => {
                self.interactions.remove(&interaction);
                if self.tokens.get(&token) == Some(&id) {
                    self.tokens.remove(&token);
                }
            }
        }
        Some(conversation)
    }

    fn close(&mut self, id: Id) {
        self.open.remove(&id);
        self.begun.remove(&id);
        let channel = self.conversations.get(&id).and_then(|conversation| conversation.channel);
        if let Some(channel) = channel.and_then(|channel| self.channels.get_mut(&channel)) {
            let at = channel.open.partition_point(|other| *other < id);
            if channel.open.get(at) == Some(&id) {
                channel.open.remove(at);
            }
        }
    }

    /// Moves a conversation that is open on to another state.
    pub(super) fn set(&mut self, id: Id, state: State, time: Nanos) {
        match state {
            State::Silent => {}
            State::Begun => drop(self.begun.insert(id)),
            State::Answered | State::Spoiled => {
                self.close(id);
                self.answered = self.answered.max(Some(time));
            }
        }
        let Some(conversation) = self.conversations.get_mut(&id) else { return };
        conversation.state = state;
        conversation.last = conversation.last.max(time);
        if !conversation.is_open()
            && let Some(channel) = conversation.channel
        {
            self.touch(channel, time);
        }
    }

    /// Takes in that the bot did something in a channel in which somebody was answered before.
    pub(super) fn touch(&mut self, channel: u64, time: Nanos) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            channel.trailing = channel.trailing.max(Some(time));
        }
    }

    pub(super) fn get(&self, id: Id) -> Option<&Conversation> {
        self.conversations.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Conversation> {
        self.conversations.get_mut(&id)
    }

    pub(super) fn message(&self, message: u64) -> Option<Id> {
        self.messages.get(&message).copied()
    }

    pub(super) fn interaction(&self, interaction: u64) -> Option<Id> {
        self.interactions.get(&interaction).copied()
    }

    pub(super) fn token(&self, token: u64) -> Option<Id> {
        self.tokens.get(&token).copied()
    }

    /// The open conversations of a channel, in order.
    pub(super) fn open_in(&self, channel: u64) -> impl Iterator<Item = (Id, &Conversation)> {
        let open = self.channels.get(&channel).into_iter().flat_map(|channel| &channel.open);
        open.filter_map(|id| self.conversations.get(id).map(|conversation| (*id, conversation)))
    }

    /// The ids of those that began to be answered.
    pub(super) fn begun(&self) -> impl Iterator<Item = Id> + '_ {
        self.begun.iter().copied()
    }

    /// The ids of those that are open.
    pub(super) fn open(&self) -> Vec<Id> {
        self.open.iter().copied().collect()
    }

    /// The one conversation that is open in a channel, when it is certain that there is one only, and that none before it
    /// is still being answered.
    pub(super) fn sole_in(&self, channel: u64, now: Nanos) -> Option<Id> {
        let trailing = self.is_trailing(channel, now);
        let channel = self.channels.get(&channel)?;
        let complete = now >= self.incomplete.max(channel.incomplete);
        let mut open = channel.open.iter();
        match (open.next(), open.next()) {
            (Some(one), None) if !trailing && complete => Some(*one),
            _ => None,
        }
    }

    /// Whether the bot may still be at work on an answer in a channel of which the first part was given.
    pub(super) fn is_trailing(&self, channel: u64, now: Nanos) -> bool {
        let trailing = self.channels.get(&channel).and_then(|channel| channel.trailing);
        trailing.is_some_and(|last| now.since(last) < TRAIL)
    }

    /// The one conversation that is open in the process, when it is certain that there is one only, and that none before it
    /// is still being worked on.
    pub(super) fn sole(&self, now: Nanos) -> Option<Id> {
        let mut open = self.open.iter();
        match (open.next(), open.next()) {
            (Some(one), None)
                if now >= self.incomplete && self.answered.is_none_or(|last| now.since(last) >= TRAIL) =>
            {
                Some(*one)
            }
            _ => None,
        }
    }

    /// Whether any conversation is open.
    pub(super) fn is_any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Those that began to be answered and wait for nothing that is known.
    pub(super) fn rivals(&self) -> Rivals {
        let unblocked = |id: &&Id| self.conversations.get(*id).is_some_and(|one| !one.is_blocked());
        let mut unblocked = self.begun.iter().filter(unblocked);
        match (unblocked.next(), unblocked.next()) {
            (None, _) => Rivals::None,
            (Some(one), None) => Rivals::One(*one),
            _ => Rivals::Many,
        }
    }

    /// Takes in that events may have been missed.
    pub(super) fn gap(&mut self, time: Nanos) {
        self.incomplete = self.incomplete.max(time + WINDOW);
    }

    /// The conversations whose event is so old, the oldest first.
    pub(super) fn older(&self, event: Nanos) -> Vec<Id> {
        self.conversations.iter().take_while(|(_, one)| one.event <= event).map(|(id, _)| *id).collect()
    }

    /// Forgets channels that nothing is known of.
    pub(super) fn prune(&mut self, now: Nanos) {
        self.channels.retain(|_, channel| {
            !channel.open.is_empty()
                || channel.incomplete > now
                || channel.trailing.is_some_and(|last| now.since(last) < TRAIL)
        });
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 7] {
        [
            self.conversations.len(),
            self.messages.len(),
            self.interactions.len(),
            self.tokens.len(),
            self.channels.len(),
            self.open.len(),
            self.begun.len(),
        ]
    }
}
