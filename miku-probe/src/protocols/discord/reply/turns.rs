//! What made a thread send: the one thing that it received just before, or nothing that can be told.
//!
//! A turn is what a thread does between two waits for whatever comes. Of threads whose waits are not told, such as those of
//! programs without an event loop, turns are guessed by time.

use std::collections::HashMap;

use super::table::Id;
use super::{LlmId, Source};
use crate::units::Nanos;

/// How long a turn may take where it is not told when it ends: what is received later begins a new one.
pub(super) const TURN: Nanos = Nanos(20_000_000);

/// How soon after what it received a thread sends because of it, where turns are guessed.
pub(super) const CAUSED: Nanos = Nanos(5_000_000);

/// How many things that were received in one turn are told apart.
pub(super) const THINGS_MAX: usize = 6;

/// How many threads are followed; a process with more is believed nothing about the others.
const THREADS_MAX: usize = 1_024;

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Bytes whose meaning is not known, or not yet.
    Bytes,
    /// Something that belongs to no conversation.
    Other,
    /// An event of this conversation, or the answer to a call of it.
    Conversation(Id),
    /// Some of the answer of a language model.
    Llm(LlmId),
}

/// What was received in one turn; empty when it was more than is kept.
pub(super) type Things = [Option<Cause>; THINGS_MAX];

/// A turn of a thread.
#[derive(Debug)]
struct Turn {
    things: Vec<(Source, Cause)>,
    /// Something was sent in it.
    sent: bool,
    /// When something was last received in it, or when it began.
    last: Nanos,
    /// The thread's waits are told: it is known when its turns end.
    told: bool,
}

impl Turn {
    /// Whether it goes on at `time`.
    fn lasts(&self, time: Nanos) -> bool {
        self.told || time.since(self.last) <= TURN
    }

    /// A new one begins.
    fn begin(&mut self) {
        self.things.clear();
        self.sent = false;
    }
}

/// Why a thread sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Because of the only thing that it received in this turn, in which it had sent nothing yet.
    Caused(Cause),
    /// Because of one of these.
    Unclear(Things),
    /// The same, but so late that a timer or another thread may as well have made it send.
    Late(Things),
    /// It received nothing in this turn: a timer or another thread made it send.
    Uncaused,
    /// It had to wait for a connection. When it is known for which, it had received nothing in the turn in which it asked for
    /// that: a timer made it, or the thread that resolved a name.
    Dialed {
        /// Whether that is known.
        known: bool,
    },
}

/// What each thread received in the turn that it is in.
#[derive(Debug, Default)]
pub(super) struct Turns {
    threads: HashMap<u32, Turn>,
}

impl Turns {
    /// The turn that a thread is in; nothing when there are too many threads.
    fn turn(&mut self, tid: u32, time: Nanos) -> Option<&mut Turn> {
        if self.threads.len() >= THREADS_MAX && !self.threads.contains_key(&tid) {
            self.threads.retain(|_, turn| time.since(turn.last) <= TURN);
            if self.threads.len() >= THREADS_MAX {
                return None;
            }
        }
        let new = || Turn { things: Vec::new(), sent: false, last: time, told: false };
        Some(self.threads.entry(tid).or_insert_with(new))
    }

    /// Takes in that a thread waits for whatever comes, with nothing left to do: its turn is over.
    pub(super) fn wait(&mut self, tid: u32, time: Nanos) {
        let Some(turn) = self.turn(tid, time) else { return };
        turn.begin();
        turn.last = time;
        turn.told = true;
    }

    /// Takes in that a thread received something.
    pub(super) fn receive(&mut self, tid: u32, source: Source, cause: Cause, time: Nanos) {
        let Some(turn) = self.turn(tid, time) else { return };
        if (turn.sent && !turn.told) || !turn.lasts(time) {
            turn.begin();
        }
        turn.last = time;
        let known = turn.things.iter().position(|(from, known)| {
            (*from == source && (cause == Cause::Bytes || *known == Cause::Bytes))
                || (*known == cause && cause != Cause::Other)
        });
        match known {
            Some(at) if turn.things[at].1 == Cause::Bytes => turn.things[at].1 = cause,
            Some(_) => {}
            // One more than is told, so that it shows.
            None if turn.things.len() <= THINGS_MAX => turn.things.push((source, cause)),
            None => {}
        }
    }

    /// Takes in that a thread sent something, or asked for a connection to do so, and tells why.
    pub(super) fn send(&mut self, tid: u32, time: Nanos) -> Why {
        let Some(turn) = self.threads.get_mut(&tid).filter(|turn| turn.lasts(time)) else {
            return Why::Uncaused;
        };
        if turn.told && turn.things.is_empty() {
            return Why::Uncaused;
        }
        let first = !std::mem::replace(&mut turn.sent, true);
        let late = !turn.told && time.since(turn.last) > CAUSED;
        if let ([(_, cause)], true, false) = (&turn.things[..], first, late)
            && *cause != Cause::Bytes
        {
            return Why::Caused(*cause);
        }
        let mut things = Things::default();
        if turn.things.len() <= THINGS_MAX {
            for (place, (_, cause)) in things.iter_mut().zip(&turn.things) {
                *place = Some(*cause);
            }
        }
        if late { Why::Late(things) } else { Why::Unclear(things) }
    }

    /// Whether it is told when a thread's turns end.
    pub(super) fn are_told(&self, tid: u32) -> bool {
        self.threads.get(&tid).is_some_and(|turn| turn.told)
    }

    /// Forgets everything: something was lost.
    pub(super) fn clear(&mut self) {
        self.threads.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: Cause = Cause::Llm(LlmId(1));

    fn sent(things: &[(u64, Cause, u64)], at: u64) -> Why {
        let mut turns = Turns::default();
        for (source, cause, millis) in things {
            turns.receive(7, Source(*source), *cause, Nanos(millis * 1_000_000));
        }
        turns.send(7, Nanos(at * 1_000_000))
    }

    fn unclear(things: &[Cause]) -> Why {
        let mut all = Things::default();
        for (place, cause) in all.iter_mut().zip(things) {
            *place = Some(*cause);
        }
        Why::Unclear(all)
    }

    #[test]
    fn one_thing_is_a_cause_and_two_are_none() {
        assert_eq!(sent(&[(1, MODEL, 10)], 11), Why::Caused(MODEL));
        assert_eq!(sent(&[], 11), Why::Uncaused);
        assert_eq!(sent(&[(1, MODEL, 10), (2, Cause::Other, 10)], 11), unclear(&[MODEL, Cause::Other]));
        let two_of_one_connection = [(1, Cause::Other, 10), (1, Cause::Other, 10)];
        assert_eq!(sent(&two_of_one_connection, 11), unclear(&[Cause::Other, Cause::Other]));
        let two_parts_of_one_thing = [(1, MODEL, 10), (1, MODEL, 12)];
        assert_eq!(sent(&two_parts_of_one_thing, 13), Why::Caused(MODEL));
        let many: Vec<_> = (0..10).map(|source| (source, Cause::Llm(LlmId(source)), 10)).collect();
        assert_eq!(sent(&many, 11), unclear(&[]), "too many to be told apart");
    }

    #[test]
    fn bytes_are_told_from_what_they_turn_out_to_be() {
        let of_one_connection = [(1, Cause::Bytes, 10), (1, MODEL, 10), (1, Cause::Bytes, 10)];
        assert_eq!(sent(&of_one_connection, 11), Why::Caused(MODEL));
        let of_another = [(2, Cause::Bytes, 10), (1, MODEL, 10)];
        assert_eq!(sent(&of_another, 11), unclear(&[Cause::Bytes, MODEL]));
        assert_eq!(sent(&[(2, Cause::Bytes, 10)], 11), unclear(&[Cause::Bytes]), "nobody knows what they are");
    }

    #[test]
    fn a_turn_ends_with_time_and_with_what_is_sent() {
        assert!(matches!(sent(&[(1, MODEL, 10)], 16), Why::Late([Some(MODEL), None, ..])));
        assert_eq!(sent(&[(1, MODEL, 10)], 31), Why::Uncaused);
        assert_eq!(sent(&[(2, Cause::Other, 10), (1, MODEL, 31)], 32), Why::Caused(MODEL));
        let mut turns = Turns::default();
        turns.receive(7, Source(1), MODEL, Nanos(0));
        assert_eq!(turns.send(8, Nanos(1)), Why::Uncaused, "another thread");
        assert_eq!(turns.send(7, Nanos(1)), Why::Caused(MODEL));
        assert_eq!(turns.send(7, Nanos(2)), unclear(&[MODEL]), "it was not the next thing");
        turns.receive(7, Source(1), Cause::Other, Nanos(3));
        assert_eq!(turns.send(7, Nanos(4)), Why::Caused(Cause::Other));
    }

    #[test]
    fn where_waits_are_told_a_turn_lasts_until_the_next() {
        let mut turns = Turns::default();
        turns.wait(7, Nanos(0));
        assert_eq!(turns.send(7, Nanos(1)), Why::Uncaused, "a timer");
        turns.wait(7, Nanos(2));
        turns.receive(7, Source(1), MODEL, Nanos(3));
        assert_eq!(turns.send(7, Nanos(3 + 10 * TURN.0)), Why::Caused(MODEL), "however long the thread computed");
        turns.receive(7, Source(2), Cause::Other, Nanos(4 + 10 * TURN.0));
        let both = unclear(&[MODEL, Cause::Other]);
        assert_eq!(turns.send(7, Nanos(5 + 10 * TURN.0)), both, "the first may have made it send twice");
        turns.wait(7, Nanos(6 + 10 * TURN.0));
        assert_eq!(turns.send(7, Nanos(7 + 10 * TURN.0)), Why::Uncaused, "however soon after");
        turns.receive(8, Source(1), MODEL, Nanos(7 + 10 * TURN.0));
        assert_eq!(turns.send(8, Nanos(8 + 11 * TURN.0)), Why::Uncaused, "another thread's waits are not told");
    }

    #[test]
    fn threads_are_bounded() {
        let mut turns = Turns::default();
        for tid in 0..3_000 {
            turns.receive(tid, Source(1), MODEL, Nanos(0));
        }
        assert_eq!(turns.threads.len(), THREADS_MAX);
        turns.receive(5_000, Source(1), MODEL, Nanos(TURN.0 + 1));
        assert_eq!(turns.threads.len(), 1, "those that are over make room");
    }
}
