//! How long a caller really waits after Discord refused a request by its rate limit.
//!
//! Libraries sleep through refusals and try again by themselves, so the bot sees nothing but a slow call. The wait is
//! measured: from the end of the refusal to the start of the next request with the same method and path. A next one
//! that comes much later than Discord asked for is no second try, and counts nothing.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use crate::observations::Method;
use crate::units::{Nanos, Symbol};

/// How many refusals of one service are kept in mind.
const PENDING_MAX: usize = 256;

/// How much later than it was asked for a second try may come: time for a backoff and for other calls of the route.
const GRACE: Nanos = Nanos(10_000_000_000);

/// How long a second try is waited for when the refusal did not say.
const UNSAID: Nanos = Nanos(60_000_000_000);

/// A request's method and path, by a number: the path itself may hold a token, so it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(u64);

#[derive(Clone, Copy, Debug)]
struct Pending {
    call: Call,
    route: Symbol,
    /// When the refusal ended.
    since: Nanos,
    /// When it is too late for a second try.
    until: Nanos,
}

/// The refused calls of one service that wait for their second try.
#[derive(Debug, Default)]
pub struct Waits {
    /// In the order of their ends, as they were told.
    pending: VecDeque<Pending>,
    hasher: RandomState,
}

impl Waits {
    /// Whether nothing is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The call with this method and path.
    #[must_use]
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(self.hasher.hash_one((method, path)))
    }

    /// Takes in that a call was refused at `time`, and for how long Discord asked to wait.
    pub fn refused(&mut self, call: Call, route: Symbol, time: Nanos, retry_after: Option<Nanos>) {
        self.pending.retain(|pending| pending.until >= time);
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        let until = time + retry_after.map_or(UNSAID, |wait| wait + GRACE);
        self.pending.push_back(Pending { call, route, since: time, until });
    }

    /// Takes in that a call was made at `time`: the route and the wait that it ends, if it is a second try.
    ///
    /// Calls are told when they end, so one that was under way at the refusal may come after it: it is no second try.
    pub fn made(&mut self, call: Call, time: Nanos) -> Option<(Symbol, Nanos)> {
        let at = self.pending.iter().position(|pending| pending.call == call && pending.since <= time)?;
        let pending = self.pending.remove(at)?;
        (time <= pending.until).then(|| (pending.route, time.since(pending.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * SECOND)
    }

    fn waits() -> (Waits, Call, Call) {
        let waits = Waits::default();
        let (one, other) = (waits.call(Method::Post, "/a"), waits.call(Method::Post, "/b"));
        (waits, one, other)
    }

    #[test]
    fn the_wait_is_from_the_refusal_to_the_second_try_of_the_same_call() {
        let (mut waits, one, other) = waits();
        waits.refused(one, Symbol::EMPTY, at(10), Some(at(2)));
        assert_eq!(waits.made(other, at(11)), None, "another path is another call");
        assert_eq!(waits.made(waits.call(Method::Get, "/a"), at(11)), None, "so is another method");
        assert_eq!(waits.made(one, at(9)), None, "it was under way at the refusal");
        assert_eq!(waits.made(one, Nanos(12 * SECOND + 7)), Some((Symbol::EMPTY, Nanos(2 * SECOND + 7))));
        assert_eq!(waits.made(one, at(13)), None, "a second try ends one wait");
    }

    #[test]
    fn calls_that_were_refused_together_wait_each_for_their_own() {
        let (mut waits, one, _) = waits();
        waits.refused(one, Symbol::EMPTY, at(10), Some(at(5)));
        waits.refused(one, Symbol::EMPTY, at(12), Some(at(3)));
        let tries = [waits.made(one, at(15)), waits.made(one, at(16)), waits.made(one, at(17))];
        assert_eq!(tries.map(|wait| wait.map(|(_, wait)| wait)), [Some(at(5)), Some(at(4)), None]);
    }

    #[test]
    fn what_comes_much_later_is_no_second_try() {
        let (mut waits, one, other) = waits();
        waits.refused(one, Symbol::EMPTY, at(10), Some(at(2)));
        waits.refused(other, Symbol::EMPTY, at(10), None);
        assert_eq!(waits.made(one, at(23)), None);
        assert!(waits.made(other, at(70)).is_some());
        assert!(waits.is_empty());
    }

    #[test]
    fn refusals_without_a_second_try_do_not_pile_up() {
        let (mut waits, one, _) = waits();
        for _ in 0..3 * PENDING_MAX {
            waits.refused(one, Symbol::EMPTY, at(1), Some(at(1000)));
        }
        assert_eq!(waits.pending.len(), PENDING_MAX);
        waits.refused(one, Symbol::EMPTY, at(2000), None);
        assert_eq!(waits.pending.len(), 1, "what is too late is forgotten");
    }
}
