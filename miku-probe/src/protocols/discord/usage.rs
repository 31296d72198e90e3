//! What is used of a bot: who and where was active lately, in how many guilds it is, and names under a cap.
//!
//! Users and channels are counted by keyed hashes that callers make at once, with a key that lives as long as the process;
//! no id is kept, and none comes out. Up to [`Recent::CAP`] the count is exact. Above, it is an estimate after Flajolet and
//! others (HyperLogLog, 2007), whose standard error is 1.6 %, made of a sketch that remembers when it last saw what: so
//! its memory is bounded, and what is long gone falls out of it.

use std::collections::{HashMap, HashSet};

use crate::observations::{Active, Window};
use crate::units::{Nanos, Symbol, Symbols};

const MINUTE: u64 = 60_000_000_000;

/// What stands for names over a cap.
const OTHER: &str = "other";

/// How many things were seen within a window, by their hashes.
#[derive(Debug)]
pub struct Recent {
    seen: Seen,
}

#[derive(Debug)]
enum Seen {
    /// When each was last seen, in minutes.
    Exact(HashMap<u64, u32>),
    Sketch(Box<Sketch>),
}

impl Default for Recent {
    fn default() -> Self {
        Self { seen: Seen::Exact(HashMap::new()) }
    }
}

impl Recent {
    /// How many are counted exactly.
    pub const CAP: usize = 65_536;

    /// Takes in that the thing with this hash was seen.
    pub fn see(&mut self, hash: u64, time: Nanos) {
        let minute = minute(time);
        match &mut self.seen {
            Seen::Exact(exact) => {
                // An insertion would make room first, and look afterwards.
                if let Some(last) = exact.get_mut(&hash) {
                    *last = minute;
                    return;
                }
                if exact.len() >= exact.capacity().min(Self::CAP) {
                    // Into a new table: one of which something was removed may grow with no more in it.
                    let lately = exact.iter().filter(|(_, last)| is_within(Window::Day, **last, minute));
                    let mut kept = HashMap::with_capacity(2 * lately.clone().count());
                    kept.extend(lately);
                    *exact = kept;
                    if exact.len() >= Self::CAP {
                        let mut sketch = Box::<Sketch>::default();
                        exact.iter().for_each(|(hash, last)| sketch.see(*hash, *last));
                        sketch.see(hash, minute);
                        self.seen = Seen::Sketch(sketch);
                        return;
                    }
                }
                exact.insert(hash, minute);
            }
            Seen::Sketch(sketch) => sketch.see(hash, minute),
        }
    }

    /// How many were seen within `window` before `now`.
    #[must_use]
    pub fn count(&self, window: Window, now: Nanos) -> u64 {
        let now = minute(now);
        match &self.seen {
            Seen::Exact(exact) => exact.values().filter(|last| is_within(window, **last, now)).count() as u64,
            Seen::Sketch(sketch) => sketch.estimate(window, now),
        }
    }
}

fn minute(time: Nanos) -> u32 {
    u32::try_from(time.0 / MINUTE).unwrap_or(u32::MAX)
}

fn is_within(window: Window, last: u32, now: u32) -> bool {
    now.saturating_sub(last) < window.minutes()
}

/// The bits of a hash that choose a register.
const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The highest rank that is told from higher ones: enough for 2^36 things.
const RANKS: usize = 24;

/// A HyperLogLog of which each register knows when it last saw each rank.
#[derive(Debug)]
struct Sketch {
    /// Minutes plus one, by register and rank; 0 for never.
    last: Vec<[u32; RANKS]>,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { last: vec![[0; RANKS]; REGISTERS] }
    }
}

impl Sketch {
    fn see(&mut self, hash: u64, minute: u32) {
        let register = (hash >> (64 - INDEX_BITS)) as usize;
        let rank = ((hash << INDEX_BITS).leading_zeros() as usize).min(RANKS - 1);
        let last = &mut self.last[register][rank];
        *last = (*last).max(minute.saturating_add(1));
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate of few per cent, far below 2^53"
    )]
    fn estimate(&self, window: Window, now: u32) -> u64 {
        let seen = |last: &u32| last.checked_sub(1).is_some_and(|last| is_within(window, last, now));
        let ranks = self.last.iter().map(|register| register.iter().rposition(seen).map_or(0, |rank| rank + 1));
        let (mut sum, mut empty) = (0.0, 0_u32);
        for rank in ranks {
            sum += (-(rank as f64)).exp2();
            empty += u32::from(rank == 0);
        }
        let registers = REGISTERS as f64;
        let raw = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        // Few things: as many registers as are empty tell more.
        let estimate =
            if raw <= 2.5 * registers && empty > 0 { registers * (registers / f64::from(empty)).ln() } else { raw };
        estimate.round() as u64
    }
}

/// The users and channels of one service.
#[derive(Debug, Default)]
pub struct Usage {
    users: Recent,
    channels: Recent,
}

impl Usage {
    /// Takes in that a person did something somewhere; what is not known is absent.
    pub fn see(&mut self, user: Option<u64>, channel: Option<u64>, time: Nanos) {
        if let Some(user) = user {
            self.users.see(user, time);
        }
        if let Some(channel) = channel {
            self.channels.see(channel, time);
        }
    }

    /// How many were active within each window before `now`.
    #[must_use]
    pub fn active(&self, now: Nanos) -> [Active; Window::ALL.len()] {
        Window::ALL.map(|window| Active {
            window,
            users: self.users.count(window, now),
            channels: self.channels.count(window, now),
        })
    }
}

/// In how many guilds one session of the gateway is.
///
/// `READY` names the guilds; `GUILD_CREATE` comes for each of them, and for one that the bot joins. Until the former are
/// through, a guild that was joined is taken for one of them.
#[derive(Debug, Default)]
pub struct Guilds {
    /// How many `READY` named and were not left since; none before a session began.
    named: Option<u64>,
    /// The guilds that were created, by keyed hash.
    created: HashSet<u64>,
}

impl Guilds {
    /// The most guilds of one shard that Discord allows are 2,500; a gateway that tells of more is believed no more.
    const MAX: usize = 8_192;

    /// A session began, in so many guilds.
    pub fn ready(&mut self, guilds: u64) {
        self.named = Some(guilds);
        self.created.clear();
    }

    /// `GUILD_CREATE`: a guild became available, or the bot joined it.
    pub fn create(&mut self, guild: u64) {
        if self.created.len() < Self::MAX {
            self.created.insert(guild);
        }
    }

    /// `GUILD_DELETE`: the bot left a guild, unless that is only `unavailable`.
    pub fn delete(&mut self, guild: u64, unavailable: bool) {
        if !unavailable {
            self.created.remove(&guild);
            self.named = self.named.map(|named| named.saturating_sub(1));
        }
    }

    /// How many; none before a session began.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.named.map(|named| named.max(self.created.len() as u64))
    }
}

/// Names off the wire that become label values, as long as there are not too many.
#[derive(Debug)]
pub struct Vocabulary {
    cap: usize,
    known: HashMap<Box<str>, Symbol>,
    other: Option<Symbol>,
}

impl Vocabulary {
    /// The longest name that is kept, in bytes; longer ones are `other`. Discord's have at most 32 characters.
    pub const NAME_MAX: usize = 128;

    /// One that knows nothing, and will know at most `cap` names.
    #[must_use]
    pub fn new(cap: usize) -> Self {
        Self { cap, known: HashMap::new(), other: None }
    }

    /// The symbol of a name, and whether it is `other` because of a cap, or because it is empty, which no label can tell.
    pub fn symbol(&mut self, name: &str, symbols: &mut Symbols) -> (Symbol, bool) {
        if let Some(symbol) = self.known.get(name) {
            return (*symbol, false);
        }
        if self.known.len() < self.cap && (1..=Self::NAME_MAX).contains(&name.len()) {
            let symbol = symbols.intern(name);
            self.known.insert(name.into(), symbol);
            return (symbol, false);
        }
        (*self.other.get_or_insert_with(|| symbols.intern(OTHER)), true)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    fn at(minutes: u64) -> Nanos {
        Nanos(minutes * MINUTE)
    }

    fn hash(number: u64) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(number)
    }

    #[test]
    fn each_counts_once_and_falls_out_of_the_windows() {
        let mut usage = Usage::default();
        usage.see(Some(1), Some(10), at(100));
        usage.see(Some(2), Some(10), at(130));
        usage.see(Some(1), None, at(131));
        let counts = |now| usage.active(at(now)).map(|active| (active.users, active.channels));
        assert_eq!(counts(131), [(2, 1), (2, 1)]);
        assert_eq!(counts(189), [(2, 1), (2, 1)]);
        assert_eq!(counts(190), [(1, 0), (2, 1)]);
        assert_eq!(counts(191), [(0, 0), (2, 1)]);
        assert_eq!(counts(130 + 24 * 60), [(0, 0), (1, 0)]);
        assert_eq!(counts(131 + 24 * 60), [(0, 0), (0, 0)]);
    }

    #[test]
    fn above_the_cap_the_count_is_near_and_the_memory_bounded() {
        let mut recent = Recent::default();
        for number in 0..400_000 {
            // Three quarters of them are older than an hour at the end.
            recent.see(hash(number), at(if number % 4 == 0 { 1_000 } else { 900 }));
        }
        assert!(matches!(&recent.seen, Seen::Sketch(sketch) if sketch.last.len() == REGISTERS));
        for (window, truth) in [(Window::Hour, 100_000.0), (Window::Day, 400_000.0)] {
            let seen = recent.count(window, at(1_001)) as f64;
            assert!((seen / truth - 1.0_f64).abs() < 0.05, "{seen} of {truth}");
        }
        let alone = recent.count(Window::Hour, at(2_000));
        assert_eq!(alone, 0, "all of them are gone");
        for number in 0..1_000 {
            recent.see(hash(number), at(2_000));
        }
        let seen = recent.count(Window::Hour, at(2_000)) as f64;
        assert!((seen / 1_000.0 - 1.0).abs() < 0.05, "{seen} of few");
    }

    #[test]
    fn a_week_takes_no_more_room_than_two_days() {
        const A_MINUTE: u64 = 4;
        let mut recent = Recent::default();
        let mut room = Vec::new();
        for minute in 0..7 * 24 * 60 {
            for number in 0..A_MINUTE {
                for _ in 0..2 {
                    recent.see(hash(minute * A_MINUTE + number), at(minute));
                }
            }
            if (minute + 1) % (24 * 60) == 0 {
                let Seen::Exact(exact) = &recent.seen else { panic!("there are few") };
                room.push(exact.capacity());
            }
        }
        assert_eq!(recent.count(Window::Day, at(7 * 24 * 60 - 1)), 24 * 60 * A_MINUTE);
        assert!(room[1..].iter().all(|capacity| *capacity == room[1]), "{room:?}");
    }

    #[test]
    fn the_old_make_room_before_it_becomes_an_estimate() {
        let mut recent = Recent::default();
        for number in 0..Recent::CAP as u64 {
            recent.see(number, at(0));
        }
        recent.see(u64::MAX, at(24 * 60));
        assert_eq!(recent.count(Window::Day, at(24 * 60)), 1);
        assert!(matches!(&recent.seen, Seen::Exact(exact) if exact.len() == 1));
    }

    #[test]
    fn guilds_are_known_from_the_session_s_start() {
        let mut guilds = Guilds::default();
        guilds.create(5);
        assert_eq!(guilds.count(), None, "attached in the middle of a session");
        guilds.ready(2);
        assert_eq!(guilds.count(), Some(2));
        guilds.create(1);
        guilds.create(2);
        assert_eq!(guilds.count(), Some(2), "they are the named ones");
        guilds.create(3);
        assert_eq!(guilds.count(), Some(3), "joined");
        guilds.delete(1, true);
        assert_eq!(guilds.count(), Some(3), "an outage");
        guilds.create(1);
        guilds.delete(2, false);
        assert_eq!(guilds.count(), Some(2), "left");
        guilds.ready(7);
        assert_eq!(guilds.count(), Some(7));
    }

    #[test]
    fn names_over_the_cap_or_too_long_are_other() {
        let mut symbols = Symbols::default();
        let mut names = Vocabulary::new(2);
        let mut named = |name: &str| {
            let (symbol, over) = names.symbol(name, &mut symbols);
            (symbols.text(symbol).to_owned(), over)
        };
        assert_eq!(named(&"x".repeat(129)), ("other".to_owned(), true));
        assert_eq!(named(""), ("other".to_owned(), true));
        assert_eq!(named("ask"), ("ask".to_owned(), false));
        assert_eq!(named("ping"), ("ping".to_owned(), false));
        assert_eq!(named("pong"), ("other".to_owned(), true));
        assert_eq!(named("ask"), ("ask".to_owned(), false));
    }
}
