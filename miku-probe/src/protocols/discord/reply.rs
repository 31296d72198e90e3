//! How long a person waits for a bot's answer: from what one process receives and sends to replies and their phases.
//!
//! A conversation begins with the gateway's event that carries a person's message or interaction. It ends with the first
//! REST call that answers it: a message that is created, a callback of type 4 or 7, or, after a callback of type 5 or 6,
//! the first follow-up or edit by the interaction's token. Typing is no answer, an edit of a message is none, and of
//! several answers only the first counts.
//!
//! It is measured from when the event had come to the bot's socket to when the answer to that call had, as far as that is
//! known: a bot that is busy reads either late. Everything else goes by when the bot read and wrote.
//!
//! # What is certain
//! An interaction's calls carry its id or token. A message that is created may name the one that it answers
//! (`message_reference`), in whatever channel. Those ties are exact. All else is concluded, and only so far:
//!
//! - **Turns.** An event loop goes on with what it awaited in the turn in which that arrives. So what a thread sends is put
//!   down to the one thing that it received in this turn, if it received nothing else and has sent nothing before. A turn
//!   ends where the loop waits with nothing left to do. Of threads of which that is not told, a turn lasts at most 20 ms
//!   and up to the first thing that is received after something was sent, and what is sent more than 5 ms after what was
//!   received is put down to nothing. What was received, and made the thread send nothing in that turn, is over: that is how
//!   messages that the bot ignores fall out. What waits for a new connection is put down to what made the thread ask for
//!   that. A turn says for whom the bot types, for whom it calls a language model, and whom a message without a reference
//!   answers, if it goes to that person's channel and nobody else there is at the point of being answered. For what goes to
//!   a channel it is enough that of all that was received only one thing is of that channel.
//! - **Sleepers.** A process of which code was seen to go on without anything received, or in a turn that something else
//!   made, is believed less for five minutes: about a channel only if no other young message is there, about a language
//!   model only if the call's start and end agree and nobody else was at the point of doing anything.
//! - **Alone.** If one conversation is open in a channel, what the bot does there without a reference is for it. Open is
//!   every message of the last five minutes that was not answered, whether the bot means to or not. It holds only if the bot
//!   was not seen at work in the channel for ten seconds after it had answered somebody, for an answer may have several
//!   parts; and only if the bot began to answer that one and waits for no call of his, or the message is less than three
//!   seconds old, for a bot may write of its own accord. If the turn says otherwise, it does not hold. If events were
//!   missed, it does not for five minutes.
//!
//! An answer that fits neither, while somebody in that channel may be meant, is [`Unmatched::AnswerAmbiguous`]; from then
//! on those people may have been answered, so that a later exact tie is [`Unmatched::AnswerNotFirst`] and no reply. Whoever
//! waits for a call of his own to end cannot be meant. Ignored messages are forgotten after five minutes and count nowhere.
//!
//! # Language models
//! A call belongs to a conversation if its turn says so at its start, and at its end too: the answer was sent in the turn
//! in which the model's answer, or a part of it, arrived. If parts of other people's arrived as well, whose calls their starts
//! said were theirs, that is no hindrance. One of the two is enough if nobody else was at the point of
//! doing anything: each who began to be answered waited for a call of his own. It is enough, too, that only one
//! conversation was open in the process, the process was serving no request, and nothing else made the thread call. If
//! start and end disagree, it belongs to nobody. What belongs to nobody is [`Phase::Other`] and counts as
//! [`Unmatched::LlmAmbiguous`].
//!
//! # What is assumed
//! Code that sleeps, or that waits for another thread, may go on in a turn that something else made. It takes two such
//! coincidences at one conversation, each within a turn, to tie a call to the wrong one, and one to take a message without a
//! reference for the answer to another message of the same channel. And what a timer makes the bot write where one person
//! alone is at the point of being answered is taken for that answer.
//!
//! # Unanswered
//! A person who waits in vain counts only where the bot certainly began: it typed, called a model, deferred, or failed to
//! answer, and did nothing more for five minutes, or its process ended. An acknowledgement of type 6 alone is none: it
//! promises nothing. If the bot meanwhile wrote something that belongs to nobody, it is [`Unmatched::UnansweredUnsure`].

mod events;
mod outcomes;
mod phases;
#[cfg(test)]
mod properties;
mod table;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{HashMap, VecDeque};

pub use self::events::{
    Action, At, Author, Body, CallId, Dial, Event, Input, InteractionKind, LlmId, Reference, Reply, Source, Token,
    WORKED_MAX, Worked,
};
use self::outcomes::Doubts;
use self::phases::{Span, part};
use self::table::{Conversation, Id, Key, Retry, Rivals, State, Table, Try};
use self::turns::{Cause, Turns, Why};
use crate::observations::{ConversationOutcome, Phase, Unmatched};
use crate::protocols::arrivals::Came;
use crate::units::Nanos;

/// How long a message may wait without a sign, and a bot that began may do nothing.
const WINDOW: Nanos = Nanos(300_000_000_000);

/// How long a bot may still be at work on further parts of an answer.
const TRAIL: Nanos = Nanos(10_000_000_000);

/// How young a message is for which a bot may do something without having shown that it means to.
const FRESH: Nanos = Nanos(3_000_000_000);

/// After which time a call that never ended is given up.
const CALL_MAX: Nanos = Nanos(900_000_000_000);

/// How long a call of a language model that ended, and belongs to nobody yet, may still turn out to be somebody's.
const LLM_KEPT: Nanos = Nanos(10_000_000_000);

/// How soon after it began to type a library may type again to go on: they do so every five to nine seconds.
const TYPE_AGAIN: Nanos = Nanos(4_000_000_000);

/// How many REST calls, and how many calls of language models, are followed at once.
const CALLS_MAX: usize = 4_096;

/// How long a connection may take to be made.
const DIAL_MAX: Nanos = Nanos(60_000_000_000);

/// How many connections that are not made yet are followed at once.
const DIALS_MAX: usize = 1_024;

/// How many nonces of refused messages are kept in mind.
const REFUSED_MAX: usize = 64;

/// How many actions that belong to nobody for certain are kept in mind.
const UNCERTAIN_MAX: usize = 256;

/// The status of a refusal by a rate limit (RFC 6585, section 4).
const TOO_MANY_REQUESTS: u16 = 429;

/// To whom an answer without a reference goes, as it looked when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// For certain.
    Tied(Id),
    /// It is a further part of an answer, or belongs to an interaction.
    Further,
    /// Nobody waits there.
    Nobody,
    /// Somebody may be meant.
    Ambiguous,
}

/// A REST call under way.
#[derive(Debug)]
struct Call {
    action: Action,
    start: Nanos,
    why: Why,
    /// Whose it is, when the path or the turn says so.
    owner: Option<Id>,
    verdict: Verdict,
    rivals: Rivals,
    /// When the last of its answer had come, once it has ended.
    answered: Came,
}

/// A call of a language model.
#[derive(Debug)]
struct Llm {
    /// It runs on this machine.
    here: bool,
    start: Nanos,
    first_token: Option<Nanos>,
    end: Option<Nanos>,
    /// Whose its turn says it is.
    started_by: Option<Id>,
    /// Whose it is, because nobody else was there.
    alone: Option<Id>,
    rivals: Rivals,
    /// Who waits for its end.
    waits: Option<Id>,
    /// Somebody waited when it began, and it was neither tied nor counted yet.
    unsettled: bool,
}

/// The replies of one process.
#[derive(Debug, Default)]
pub struct Replies {
    table: Table,
    turns: Turns,
    calls: HashMap<CallId, Call>,
    llms: HashMap<LlmId, Llm>,
    /// Actions that belong to nobody for certain: when, and in which channel if that is known.
    uncertain: VecDeque<(Nanos, Option<u64>)>,
    /// The latest of those that were forgotten.
    uncertain_lost: Option<Nanos>,
    /// Requests that the process serves.
    serving: u32,
    /// When something was written that belongs to nobody.
    stray: Option<Nanos>,
    /// Nonces of messages that were refused, and are nobody's for certain.
    refused: VecDeque<u64>,
    /// Connections that were asked for and over which nothing was sent yet: by which thread, when, and why.
    dials: HashMap<Dial, (u32, Nanos, Why)>,
    /// Of which source the next thing is the first, and why its connection was asked for.
    opened: Option<(Source, Why)>,
    /// When code of the process was last seen to go on without, or in another's, turn.
    slept: Option<Nanos>,
    doubts: Doubts,
}

impl Replies {
    /// Takes in one thing. They come in the order in which they happened.
    pub fn feed(&mut self, at: At, input: Input, tell: &mut impl FnMut(Event)) {
        let At { time, tid, source } = at;
        match input {
            Input::Message { channel, message, author, came } => {
                let cause = match author {
                    Author::Person => self.enter(Key::Message(message), Some(channel), State::Silent, time, came, tell),
                    // Bots do not answer themselves.
                    Author::Itself => Cause::Bytes,
                    Author::Machine => Cause::Other,
                };
                self.turns.receive(tid, source, cause, time);
            }
            Input::Interaction { interaction, token, channel, kind, came } => {
                let state = match kind {
                    InteractionKind::Command | InteractionKind::Component | InteractionKind::ModalSubmit => {
                        State::Silent
                    }
                    InteractionKind::Autocomplete | InteractionKind::Other => State::Answered,
                };
                let key = Key::Interaction(interaction, token.0);
                let cause = self.enter(key, channel, state, time, came, tell);
                self.turns.receive(tid, source, cause, time);
            }
            Input::Waits => self.turns.wait(tid, time),
            Input::Dials { dial } => self.dials(at, dial),
            Input::Opens { dial } => self.opens(at, dial),
            Input::Received => self.turns.receive(tid, source, Cause::Other, time),
            Input::Bytes => self.turns.receive(tid, source, Cause::Bytes, time),
            Input::Sent => {
                self.turns.send(tid, time);
            }
            Input::CallBegan { call, action } => self.call_began(at, call, action, tell),
            Input::CallEnded { call, answered, status, body } => {
                let cause = self.call_ended(time, call, answered, status, body, tell);
                self.turns.receive(tid, source, cause, time);
            }
            Input::LlmBegan { llm, here } => self.llm_began(at, llm, here, tell),
            Input::LlmReceived { llm, first_token } => {
                if first_token {
                    self.llm_spoke(llm, time);
                }
                self.turns.receive(tid, source, Cause::Llm(llm), time);
            }
            Input::LlmEnded { llm } => {
                self.llm_ended(llm, time);
                self.turns.receive(tid, source, Cause::Llm(llm), time);
            }
            Input::ServingBegan => self.serving = self.serving.saturating_add(1),
            Input::ServingEnded => self.serving = self.serving.saturating_sub(1),
        }
    }

    /// Takes in that things may have been missed: records were lost, or the process ran before it was watched.
    pub fn gap(&mut self, time: Nanos) {
        self.table.gap(time);
        self.turns.clear();
    }

    /// Lets time pass: to be called about once a second.
    pub fn tick(&mut self, now: Nanos, tell: &mut impl FnMut(Event)) {
        if now >= WINDOW {
            for id in self.table.older(now.since(WINDOW)) {
                self.expire(id, now, tell);
            }
        }
        self.table.prune(now);
        self.calls.retain(|_, call| now.since(call.start) < CALL_MAX);
        let table = &self.table;
        self.llms.retain(|_, llm| {
            let owned = llm.started_by.or(llm.alone).is_some_and(|id| table.get(id).is_some_and(Conversation::is_open));
            let keep =
                now.since(llm.start) < CALL_MAX && (owned || llm.end.is_none_or(|end| now.since(end) < LLM_KEPT));
            if !keep && llm.unsettled {
                tell(Event::Unmatched(Unmatched::LlmAmbiguous));
            }
            keep
        });
        self.dials.retain(|_, (_, time, _)| now.since(*time) < DIAL_MAX);
        while self.uncertain.front().is_some_and(|(time, _)| now.since(*time) > WINDOW) {
            self.uncertain.pop_front();
        }
        self.doubts.prune(now);
        self.tell_open(tell);
    }

    /// The process ended: whom it began to answer is not answered any more.
    pub fn finish(mut self, tell: &mut impl FnMut(Event)) {
        let begun: Vec<Id> = self.table.begun().collect();
        for id in begun {
            self.give_up(id, tell);
        }
        for id in self.table.open() {
            if let Some(one) = self.table.remove(id) {
                self.forget(&one, tell);
            }
        }
        self.tell_none_open(tell);
        for _ in self.llms.values().filter(|llm| llm.unsettled) {
            tell(Event::Unmatched(Unmatched::LlmAmbiguous));
        }
    }

    fn expire(&mut self, id: Id, now: Nanos, tell: &mut impl FnMut(Event)) {
        let Some(one) = self.table.get(id) else { return };
        let idle = now.since(one.last);
        match one.state {
            State::Begun if idle < CALL_MAX && (idle < WINDOW || one.is_blocked()) => {}
            State::Begun => self.give_up(id, tell),
            State::Answered | State::Spoiled if idle < TRAIL => {}
            State::Silent | State::Answered | State::Spoiled => {
                if let Some(one) = self.table.remove(id) {
                    self.forget(&one, tell);
                }
            }
        }
    }

    fn give_up(&mut self, id: Id, tell: &mut impl FnMut(Event)) {
        let Some(one) = self.table.remove(id) else { return };
        let unsure = self.stray.is_some_and(|stray| stray >= one.event);
        tell(if unsure { Event::Unmatched(Unmatched::UnansweredUnsure) } else { Event::Unanswered(one.kind()) });
        let outcome = if unsure { ConversationOutcome::Unknown } else { ConversationOutcome::Unanswered };
        tell(Event::Ended(one.kind(), outcome));
    }

    /// Enters what a person did, and tells what that may cause.
    fn enter(
        &mut self,
        key: Key,
        channel: Option<u64>,
        state: State,
        time: Nanos,
        came: Came,
        tell: &mut impl FnMut(Event),
    ) -> Cause {
        let (id, crowded_out) = self.table.insert(key, channel, state, time, came);
        if let Some(one) = crowded_out {
            tell(Event::Unmatched(Unmatched::TableFull));
            if one.state == State::Begun {
                tell(Event::Ended(one.kind(), ConversationOutcome::Unknown));
            }
        }
        // What comes a second time, as after a session is resumed, was heard already.
        id.map_or(Cause::Other, Cause::Conversation)
    }

    /// A thread asks for a connection.
    fn dials(&mut self, at: At, dial: Dial) {
        let why = self.turns.send(at.tid, at.time);
        // A name may have been resolved before, by another thread.
        let why = if why == Why::Uncaused { Why::Dialed { known: true } } else { why };
        if self.dials.len() < DIALS_MAX || self.dials.contains_key(&dial) {
            self.dials.insert(dial, (at.tid, at.time, why));
        }
    }

    /// The next thing goes over a new connection: finds out why that was asked for.
    fn opens(&mut self, at: At, dial: Option<Dial>) {
        // Where it is not known which it was, it is the one that the thread waits for, if there is one only.
        let one = dial.or_else(|| only(self.dials.iter().filter(|(_, (tid, ..))| *tid == at.tid)).copied());
        let asked = one.and_then(|dial| self.dials.remove(&dial)).map(|(.., why)| why);
        let unknown = dial.is_none() && self.turns.are_told(at.tid);
        let asked = asked.or(unknown.then_some(Why::Dialed { known: false }));
        self.opened = asked.map(|why| (at.source, why));
    }

    /// Why a thread sends something: if over a connection that it had to wait for, why it asked for that.
    fn why(&mut self, at: At) -> Why {
        let now = self.turns.send(at.tid, at.time);
        let asked = self.opened.take().filter(|(source, _)| *source == at.source);
        asked.map_or(now, |(_, why)| why)
    }

    fn call_began(&mut self, at: At, id: CallId, action: Action, tell: &mut impl FnMut(Event)) {
        let why = self.why(at);
        if self.calls.len() >= CALLS_MAX {
            tell(Event::Unmatched(Unmatched::TableFull));
            return;
        }
        let rivals = self.table.rivals();
        let mut verdict = Verdict::Nobody;
        let owner = match action {
            Action::Typing { channel } => self.typing(channel, why, at.time, tell),
            Action::Create { channel } => {
                // After a refusal it is told when to go on.
                let refused = self.table.open_in(channel).any(|(_, one)| one.retry.is_some());
                if why == Why::Uncaused && !refused && self.table.open_in(channel).next().is_some() {
                    self.slept(at.time);
                }
                verdict = self.verdict(channel, why, at.time);
                match verdict {
                    Verdict::Tied(id) => Some(id),
                    _ => None,
                }
            }
            Action::Callback { interaction, token } => {
                self.table.interaction(interaction).or_else(|| self.table.token(token.0))
            }
            Action::Webhook { token } => self.table.token(token.0),
            Action::Edit { channel } => {
                self.table.touch(channel, at.time);
                None
            }
            Action::Other => None,
        };
        if let Some(one) = owner.and_then(|owner| self.table.get_mut(owner)) {
            one.calls += 1;
        }
        if let (Some(owner), Action::Callback { .. } | Action::Webhook { .. }) = (owner, action) {
            self.check(owner, why, at.time);
            self.act(owner, at.time);
        }
        let answered = Came::Read(at.time);
        self.calls.insert(id, Call { action, start: at.time, why, owner, verdict, rivals, answered });
    }

    /// Code went on that was made to by a timer or another thread.
    fn slept(&mut self, time: Nanos) {
        self.slept = self.slept.max(Some(time));
    }

    /// Whether code of the process was seen to do so lately.
    fn is_sleeper(&self, time: Nanos) -> bool {
        self.slept.is_some_and(|slept| time.since(slept) < WINDOW)
    }

    /// Something was sent that is a conversation's for certain: holds against it what its turn says.
    fn check(&mut self, id: Id, why: Why, time: Nanos) {
        if self.table.get(id).is_some_and(|one| one.retry.is_some()) {
            return;
        }
        let other = self.owner_of(why).is_some_and(|owner| owner != id);
        if other || why == Why::Uncaused {
            self.slept(time);
        }
    }

    /// Whether the turn may be believed about a channel: in a process that sleeps, not if there is another young message.
    fn is_believed(&self, id: Id, channel: u64, time: Nanos) -> bool {
        let rival = |(other, one): (Id, &Conversation)| {
            other != id && !one.is_speechless() && (one.state == State::Begun || time.since(one.event) <= TRAIL)
        };
        !self.is_sleeper(time) || !self.table.open_in(channel).any(rival)
    }

    /// For whom the bot begins to type.
    fn typing(&mut self, channel: u64, why: Why, time: Nanos, tell: &mut impl FnMut(Event)) -> Option<Id> {
        let refused =
            only(self.table.open_in(channel)).filter(|id| self.table.get(*id).is_some_and(Conversation::waits_to_type));
        // Libraries type again every few seconds while they type: it may be that.
        let again = |one: &Conversation| one.typed.is_some_and(|typed| time.since(typed) >= TYPE_AGAIN);
        let renewals = self.table.open_in(channel).filter(|(_, one)| again(one)).count();
        if why == Why::Uncaused && renewals == 0 && refused.is_none() {
            self.slept(time);
        }
        let sole = || {
            let sole = self.table.sole_in(channel, time)?;
            (self.agrees(why, sole) && self.is_signed(sole, time)).then_some(sole)
        };
        let by_turn = || {
            let id = self.owner_in(why, channel)?;
            let open = self.table.get(id)?.is_open();
            (open && renewals == 0 && self.is_believed(id, channel, time)).then_some(id)
        };
        let Some(owner) = by_turn().or(refused).or_else(sole) else {
            if let Some(id) = only(self.table.open_in(channel).filter(|(_, one)| again(one))) {
                // Who is perhaps still typed for is not given up yet.
                self.begin(id, time, tell);
            } else if renewals == 0 && self.table.open_in(channel).next().is_some() {
                self.types_for_somebody(channel, time, tell);
            }
            self.is_uncertain(time, Some(channel));
            return None;
        };
        self.act(owner, time);
        self.begin(owner, time, tell);
        if let Some(one) = self.table.get_mut(owner) {
            one.typed = Some(time);
            if let Some(refused) = one.typing_refused.take() {
                Conversation::keep(&mut one.sleeps, (refused, time));
            }
        }
        Some(owner)
    }

    /// Whom a message that is created in `channel` answers, if it turns out to have no reference.
    fn verdict(&self, channel: u64, why: Why, time: Nanos) -> Verdict {
        // What else was received may make a bot write as well.
        let others = matches!(why, Why::Unclear(things) if things.contains(&Some(Cause::Other)));
        let caused = self.owner_in(why, channel).filter(|_| !others);
        if let Some((id, one)) = caused.and_then(|id| self.table.get(id).map(|one| (id, one))) {
            if !one.is_open() || !one.is_message() {
                return Verdict::Further;
            }
            let mut others = self.table.open_in(channel).filter(|(other, _)| *other != id);
            let rivals = others.any(|(_, one)| one.state == State::Begun && !one.is_blocked());
            if !rivals && self.is_believed(id, channel, time) {
                return Verdict::Tied(id);
            }
            return Verdict::Ambiguous;
        }
        if let Some((id, one)) = self.table.sole_in(channel, time).and_then(|id| Some((id, self.table.get(id)?))) {
            if !one.is_message() {
                return Verdict::Nobody;
            }
            let tied = self.agrees(why, id) && !one.is_blocked() && self.is_signed(id, time);
            return if tied { Verdict::Tied(id) } else { Verdict::Ambiguous };
        }
        if self.table.open_in(channel).any(|(_, one)| one.is_message() && !one.is_speechless()) {
            Verdict::Ambiguous
        } else if self.table.is_trailing(channel, time) {
            Verdict::Further
        } else {
            Verdict::Nobody
        }
    }

    /// Whether it is plausible that the bot does something for a conversation now.
    fn is_signed(&self, id: Id, time: Nanos) -> bool {
        self.table.get(id).is_some_and(|one| one.state == State::Begun || time.since(one.event) <= FRESH)
    }

    /// The conversation that made a thread send, if that is clear.
    fn owner_of(&self, why: Why) -> Option<Id> {
        match why {
            Why::Caused(cause) => self.owner(cause),
            Why::Unclear(_) | Why::Late(_) | Why::Uncaused | Why::Dialed { .. } => None,
        }
    }

    /// The only conversation of a channel that may have made a thread send something there.
    fn owner_in(&self, why: Why, channel: u64) -> Option<Id> {
        let here = |id: &Id| self.table.get(*id).is_some_and(|one| one.channel == Some(channel));
        match why {
            Why::Caused(cause) => self.owner(cause).filter(here),
            Why::Unclear(things) => {
                // Part of whose model's answer it is that nobody knows, may be anybody's.
                let anybodys =
                    |cause: &Cause| matches!(cause, Cause::Llm(_) | Cause::Bytes) && self.owner(*cause).is_none();
                if things.iter().flatten().any(anybodys) {
                    return None;
                }
                let mut owners = things.into_iter().flatten().filter_map(|cause| self.owner(cause)).filter(here);
                let first = owners.next()?;
                owners.all(|other| other == first).then_some(first)
            }
            Why::Late(_) | Why::Uncaused | Why::Dialed { .. } => None,
        }
    }

    /// Whether a conversation may have made a thread send.
    fn agrees(&self, why: Why, id: Id) -> bool {
        match why {
            Why::Caused(cause) => self.owner(cause) == Some(id),
            // What else was received may make a bot write as well.
            Why::Unclear(things) | Why::Late(things) if things.contains(&Some(Cause::Other)) => false,
            Why::Unclear(things) | Why::Late(things) => {
                things.into_iter().flatten().any(|cause| self.owner(cause) == Some(id))
            }
            Why::Uncaused | Why::Dialed { known: true } => true,
            Why::Dialed { known: false } => false,
        }
    }

    fn owner(&self, cause: Cause) -> Option<Id> {
        match cause {
            Cause::Bytes | Cause::Other => None,
            Cause::Conversation(id) => Some(id),
            Cause::Llm(llm) => self.llms.get(&llm).and_then(|llm| llm.started_by.or(llm.alone)),
        }
    }

    /// The bot does something visible for a conversation.
    fn act(&mut self, id: Id, time: Nanos) {
        let Some(one) = self.table.get(id) else { return };
        let pickup = one.pickup.unwrap_or_else(|| {
            let forgotten = self.uncertain_lost.filter(|lost| *lost >= one.event).map(|_| one.event);
            let seen = self.uncertain.iter().find(|(when, channel)| {
                *when >= one.event && channel.is_none_or(|channel| one.channel == Some(channel))
            });
            let doubt = forgotten.or(seen.map(|(when, _)| *when));
            doubt.map_or(time, |doubt| doubt.min(time))
        });
        if let Some(one) = self.table.get_mut(id) {
            one.pickup = Some(pickup.min(time));
            one.last = one.last.max(time);
        }
    }

    /// Somebody's first visible action may have been this one.
    fn is_uncertain(&mut self, time: Nanos, channel: Option<u64>) {
        if self.uncertain.len() >= UNCERTAIN_MAX {
            self.uncertain_lost = self.uncertain.pop_front().map(|(time, _)| time);
        }
        self.uncertain.push_back((time, channel));
    }

    /// Takes in the end of a REST call, and tells what that may cause.
    fn call_ended(
        &mut self,
        end: Nanos,
        id: CallId,
        answered: Came,
        status: Option<u16>,
        body: Body,
        tell: &mut impl FnMut(Event),
    ) -> Cause {
        let Some(mut call) = self.calls.remove(&id) else { return Cause::Other };
        call.answered = answered;
        if let Some(one) = call.owner.and_then(|owner| self.table.get_mut(owner)) {
            one.calls -= 1;
            one.last = one.last.max(end);
        }
        let owner = match call.action {
            Action::Typing { .. } => {
                if let (Some(TOO_MANY_REQUESTS), Some(one)) =
                    (status, call.owner.and_then(|owner| self.table.get_mut(owner)))
                {
                    one.typing_refused = Some(end);
                }
                call.owner
            }
            Action::Create { channel } => self.created(&call, channel, end, status, body, tell),
            Action::Callback { .. } => self.called_back(&call, end, status, body.callback, tell),
            Action::Webhook { .. } => {
                match call.owner {
                    Some(owner) => self.answer(owner, &call, end, status, body.nonce, tell),
                    None if is_success(status) => self.strayed(&call, end, tell),
                    None => {}
                }
                call.owner
            }
            Action::Edit { channel } => {
                self.table.touch(channel, end);
                None
            }
            Action::Other => None,
        };
        owner.map_or(Cause::Other, Cause::Conversation)
    }

    /// Something was written where nobody waits. Perhaps it is the answer to somebody who waits elsewhere.
    fn strayed(&mut self, call: &Call, time: Nanos, tell: &mut impl FnMut(Event)) {
        self.stray = Some(time);
        if let Some(id) = self.owner_of(call.why)
            && self.table.get(id).is_some_and(Conversation::is_open)
            && matches!(call.action, Action::Webhook { .. })
        {
            self.end(id, State::Spoiled, ConversationOutcome::Ambiguous, time, tell);
            tell(Event::Unmatched(Unmatched::AnswerAmbiguous));
        }
    }

    /// A message was created, or not: tells whose it is.
    fn created(
        &mut self,
        call: &Call,
        channel: u64,
        end: Nanos,
        status: Option<u16>,
        body: Body,
        tell: &mut impl FnMut(Event),
    ) -> Option<Id> {
        let retried = || {
            let same = |retry: Retry| retry.nonce.is_some() && retry.nonce == body.nonce;
            let unknown = |retry: Retry| retry.nonce.is_none() || body.nonce.is_none();
            let by_nonce = self.table.open_in(channel).filter(|(_, one)| one.retry.is_some_and(same));
            let alone = only(self.table.open_in(channel));
            only(by_nonce).or(alone.filter(|id| self.table.get(*id).is_some_and(|one| one.retry.is_some_and(unknown))))
        };
        let failed = status.is_some() && !is_success(status);
        let owner = match (body.reference, call.verdict) {
            (Reference::To(message), _) => {
                let owner = self.table.message(message);
                if let Some(owner) = owner {
                    self.check(owner, call.why, call.start);
                } else if !failed {
                    self.stray = Some(end);
                    tell(Event::Unmatched(Unmatched::AnswerUnknown));
                }
                owner
            }
            (Reference::Absent, verdict) => match (retried(), verdict) {
                (Some(retry), _) => Some(retry),
                (None, _) if body.nonce.is_some_and(|nonce| self.refused.contains(&nonce)) => {
                    self.is_ambiguous(channel, end, status, tell);
                    None
                }
                (None, Verdict::Tied(id)) => Some(id),
                (None, Verdict::Further) => {
                    self.table.touch(channel, end);
                    if !failed {
                        self.answers_somebody(channel, ConversationOutcome::Ambiguous, tell);
                    }
                    let known = self.owner_of(call.why);
                    return known.filter(|id| self.table.get(*id).is_some_and(|one| one.channel == Some(channel)));
                }
                (None, Verdict::Nobody) => {
                    if !failed {
                        self.stray = Some(end);
                        tell(Event::Unmatched(Unmatched::AnswerUnknown));
                        self.answers_somebody(channel, ConversationOutcome::Ambiguous, tell);
                    }
                    None
                }
                (None, Verdict::Ambiguous) => {
                    self.is_ambiguous(channel, end, status, tell);
                    None
                }
            },
            (Reference::Unseen, verdict) => {
                if !failed {
                    tell(Event::Unmatched(Unmatched::AnswerHalfSeen));
                    self.stray = Some(end);
                    if matches!(verdict, Verdict::Tied(_) | Verdict::Ambiguous) {
                        self.spoil(channel, end, ConversationOutcome::Unknown, tell);
                    }
                }
                None
            }
        };
        match (owner, body.nonce) {
            (Some(owner), _) => self.answer(owner, call, end, status, body.nonce, tell),
            (None, Some(nonce)) if status == Some(TOO_MANY_REQUESTS) => {
                if self.refused.len() >= REFUSED_MAX {
                    self.refused.pop_front();
                }
                self.refused.push_back(nonce);
            }
            (None, _) => {}
        }
        owner
    }

    /// A message was created that may answer any of several, or none.
    fn is_ambiguous(&mut self, channel: u64, end: Nanos, status: Option<u16>, tell: &mut impl FnMut(Event)) {
        if is_success(status) || status.is_none() {
            tell(Event::Unmatched(Unmatched::AnswerAmbiguous));
            self.spoil(channel, end, ConversationOutcome::Ambiguous, tell);
        }
    }

    /// Whoever may have been meant by a message in `channel` may have been answered. If all of them wait for something,
    /// it may have been any.
    fn spoil(&mut self, channel: u64, time: Nanos, outcome: ConversationOutcome, tell: &mut impl FnMut(Event)) {
        let meant = |one: &Conversation| one.is_message() && !one.is_speechless();
        let anybody = self.table.open_in(channel).any(|(_, one)| meant(one));
        let ids: Vec<Id> = self
            .table
            .open_in(channel)
            .filter(|(_, one)| if anybody { meant(one) } else { one.is_message() })
            .map(|(id, _)| id)
            .collect();
        self.spoil_all(channel, ids, outcome, time, tell);
        self.table.touch(channel, time);
    }

    fn called_back(
        &mut self,
        call: &Call,
        end: Nanos,
        status: Option<u16>,
        callback: Option<u64>,
        tell: &mut impl FnMut(Event),
    ) -> Option<Id> {
        let owner = call.owner?;
        let open = self.table.get(owner).is_some_and(Conversation::is_open);
        match (status, callback) {
            _ if !open => {}
            (Some(200..=299), Some(4 | 7)) => self.answer(owner, call, end, status, None, tell),
            (Some(200..=299), Some(deferred @ (5 | 6))) => {
                if let Some(one) = self.table.get_mut(owner) {
                    // What was refused until now was not the answer, which is yet to come.
                    if let Some(refused) = one.tries.drain(..).next_back().filter(|last| last.refused) {
                        Conversation::keep(&mut one.sleeps, (refused.end, call.start));
                    }
                    one.retry = None;
                }
                if deferred == 5 {
                    self.begin(owner, end, tell);
                }
            }
            // A form, or what else is shown at once: nobody waits on.
            (Some(200..=299), Some(_)) => self.end(owner, State::Answered, ConversationOutcome::Form, end, tell),
            (Some(200..=299) | None, _) => {
                self.end(owner, State::Spoiled, ConversationOutcome::Unknown, end, tell);
                tell(Event::Unmatched(Unmatched::AnswerHalfSeen));
            }
            (Some(_), _) => self.answer(owner, call, end, status, None, tell),
        }
        Some(owner)
    }

    /// A call that answers a conversation for certain ended.
    fn answer(
        &mut self,
        id: Id,
        call: &Call,
        end: Nanos,
        status: Option<u16>,
        nonce: Option<u64>,
        tell: &mut impl FnMut(Event),
    ) {
        let Some(one) = self.table.get(id) else { return };
        if one.state == State::Answered {
            if let Some(channel) = one.channel {
                self.table.touch(channel, end);
            }
            return;
        }
        if one.state == State::Spoiled {
            if is_success(status) {
                let channel = one.channel;
                self.table.set(id, State::Answered, end);
                tell(Event::Unmatched(Unmatched::AnswerNotFirst));
                if let Some(channel) = channel {
                    self.answers_somebody(channel, ConversationOutcome::Ambiguous, tell);
                }
            }
            return;
        }
        match status {
            Some(200..=299) if call.start >= one.event => {
                self.act(id, call.start);
                if let Some(reply) = self.reply(id, call) {
                    let unknown = |came| matches!(came, Came::Before(_));
                    if self.table.get(id).is_some_and(|one| unknown(one.came)) || unknown(call.answered) {
                        tell(Event::Unmatched(Unmatched::ArrivalUnknown));
                    }
                    tell(Event::Reply(reply));
                }
                self.end(id, State::Answered, ConversationOutcome::Replied, end, tell);
                self.settle(id, tell);
            }
            Some(200..=299) | None => {
                self.end(id, State::Spoiled, ConversationOutcome::Unknown, end, tell);
                tell(Event::Unmatched(Unmatched::AnswerHalfSeen));
            }
            Some(other) => {
                self.act(id, call.start);
                self.begin(id, end, tell);
                let Some(one) = self.table.get_mut(id) else { return };
                let refused = other == TOO_MANY_REQUESTS;
                Conversation::keep(&mut one.tries, Try { start: call.start, end, refused });
                one.retry = refused.then_some(Retry { nonce });
            }
        }
    }

    /// The model's answer that made a conversation be answered. Of several parts that arrived in that turn it is the one of a
    /// call of its own, if each is of somebody's.
    fn ending(&self, id: Id, why: Why) -> Option<LlmId> {
        let things = match why {
            Why::Caused(Cause::Llm(llm)) => return Some(llm),
            Why::Unclear(things) => things,
            _ => return None,
        };
        let parts = things.into_iter().flatten().filter_map(|cause| match cause {
            Cause::Llm(llm) => Some((llm, self.llms.get(&llm).and_then(|llm| llm.started_by))),
            _ => None,
        });
        let mut own = None;
        for (llm, owner) in parts {
            if owner? == id && own.replace(llm).is_some() {
                return None;
            }
        }
        own
    }

    /// The reply that a call makes.
    fn reply(&mut self, id: Id, call: &Call) -> Option<Reply> {
        let end = call.answered.time().max(call.start);
        let ending = self.ending(id, call.why);
        let sleeper = self.is_sleeper(call.start);
        let one = self.table.get(id)?;
        let mut spans = Vec::new();
        let last = Try { start: call.start, end, refused: false };
        let tries: Vec<Try> = one.tries.iter().copied().chain([last]).collect();
        spans.extend(tries.iter().map(|one| Span { phase: Phase::Post, start: one.start, end: one.end }));
        spans.extend(tries.windows(2).filter(|pair| pair[0].refused).map(|pair| Span {
            phase: Phase::RateLimit,
            start: pair[0].end,
            end: pair[1].start,
        }));
        let mut pickup = one.pickup.unwrap_or(call.start);
        let perhaps = one.llms.iter().copied().chain(ending.filter(|ending| !one.llms.contains(ending)));
        let (mut worked, mut certain) = (Vec::new(), true);
        for llm_id in perhaps {
            let Some(llm) = self.llms.get_mut(&llm_id) else { continue };
            let ends = ending == Some(llm_id);
            let belongs = llm.start >= one.event
                && match llm.started_by {
                    Some(owner) if sleeper => owner == id && ends && llm.rivals.only(id),
                    Some(owner) => owner == id && (ends || llm.rivals.only(id)),
                    None if llm.alone == Some(id) => true,
                    None => !sleeper && ends && llm.rivals.only(id) && call.rivals.only(id),
                };
            certain &= belongs && llm.here;
            if !belongs {
                continue;
            }
            llm.unsettled = false;
            pickup = pickup.min(llm.start);
            let stop = llm.end.unwrap_or(end);
            let first = llm.first_token.unwrap_or(stop);
            worked.push((llm.start, stop));
            spans.push(Span { phase: Phase::LlmFirstToken, start: llm.start, end: first });
            spans.push(Span { phase: Phase::LlmGeneration, start: first, end: stop });
        }
        spans.extend(one.sleeps.iter().map(|(start, end)| Span { phase: Phase::RateLimit, start: *start, end: *end }));
        let event = one.came.time();
        spans.push(Span { phase: Phase::Pickup, start: event, end: pickup });
        let phases = part(event, end, &spans);
        let mut told = Worked::default();
        if certain && worked.len() <= WORKED_MAX {
            told.iter_mut().zip(worked).for_each(|(place, span)| *place = Some(span));
        }
        Some(Reply { kind: one.kind(), event, duration: end.since(event), phases, worked: told })
    }

    /// Counts the calls of language models that seemed to be a conversation's, and forgets those that ended.
    fn settle(&mut self, id: Id, tell: &mut impl FnMut(Event)) {
        let Some(one) = self.table.get_mut(id) else { return };
        (one.waiting, one.speechless) = (0, 0);
        for llm_id in std::mem::take(&mut one.llms) {
            let Some(llm) = self.llms.get_mut(&llm_id) else { continue };
            llm.waits = None;
            if std::mem::take(&mut llm.unsettled) {
                tell(Event::Unmatched(Unmatched::LlmAmbiguous));
            }
            if llm.end.is_some() {
                self.llms.remove(&llm_id);
            }
        }
    }

    fn llm_began(&mut self, at: At, id: LlmId, here: bool, tell: &mut impl FnMut(Event)) {
        let time = at.time;
        let why = self.why(at);
        if why == Why::Uncaused {
            self.slept(time);
        }
        if self.llms.len() >= CALLS_MAX {
            tell(Event::Unmatched(Unmatched::TableFull));
            self.is_uncertain(time, None);
            return;
        }
        let open = |id: &Id| self.table.get(*id).is_some_and(Conversation::is_open);
        let started_by = self.owner_of(why).filter(open);
        let sole = self.table.sole(time).filter(|id| self.serving == 0 && self.agrees(why, *id));
        let alone = sole.filter(|id| self.table.get(*id).is_some_and(|one| !one.is_blocked()));
        let rivals = self.table.rivals();
        let owner = started_by.or(alone);
        let unsettled = self.table.is_any_open();
        let certain = started_by.is_some_and(|id| rivals.only(id) && !self.is_sleeper(time));
        if certain && let Some(id) = started_by {
            self.act(id, time);
            self.begin(id, time, tell);
        } else {
            self.is_uncertain(time, None);
        }
        let sleeper = self.is_sleeper(time) && alone.is_none();
        let waits = owner.and_then(|id| self.table.get_mut(id)).is_some_and(|one| {
            let kept = Conversation::keep(&mut one.llms, id);
            // Where the turn is not believed, nobody is believed to wait.
            let waits = kept && !sleeper;
            one.waiting += u32::from(waits);
            one.speechless += u32::from(waits);
            waits
        });
        let waits = owner.filter(|_| waits);
        let llm = Llm { here, start: time, first_token: None, end: None, started_by, alone, rivals, waits, unsettled };
        self.llms.insert(id, llm);
    }

    fn llm_spoke(&mut self, id: LlmId, time: Nanos) {
        let Some(llm) = self.llms.get_mut(&id).filter(|llm| llm.first_token.is_none() && llm.end.is_none()) else {
            return;
        };
        llm.first_token = Some(time);
        if let Some(one) = llm.waits.and_then(|id| self.table.get_mut(id)) {
            one.speechless -= 1;
        }
    }

    fn llm_ended(&mut self, id: LlmId, time: Nanos) {
        let Some(llm) = self.llms.get_mut(&id) else { return };
        llm.end.get_or_insert(time);
        let spoke = llm.first_token.is_some();
        if let Some(one) = llm.waits.take().and_then(|id| self.table.get_mut(id)) {
            one.waiting -= 1;
            one.speechless -= u32::from(!spoke);
            one.last = one.last.max(time);
        }
    }
}

/// The only one of these, if there is one only.
fn only<T, V>(mut some: impl Iterator<Item = (T, V)>) -> Option<T> {
    match (some.next(), some.next()) {
        (Some((one, _)), None) => Some(one),
        _ => None,
    }
}

fn is_success(status: Option<u16>) -> bool {
    matches!(status, Some(200..=299))
}
