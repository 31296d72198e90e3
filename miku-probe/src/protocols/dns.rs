//! DNS, as a client that asks a name server by itself speaks it (RFC 1035, RFC 3596): for which names it wants addresses, and
//! what it is told.
//!
//! A look-up is all that is asked for one name at once, of IPv4 and of IPv6: it lasts from the first question to the last
//! answer, and has found something if either has. A question that is asked again, since nobody answered, is the same one.
//!
//! Bounds: [`LOOKUPS_MAX`] look-ups at once over one socket, [`QUESTIONS_MAX`] questions of each, [`ADDRESSES_MAX`] addresses.

use std::net::IpAddr;

use crate::observations::Resolution;
use crate::units::Nanos;

/// How many look-ups of one socket are followed at once; of more the oldest is forgotten.
const LOOKUPS_MAX: usize = 64;

/// How many questions of one look-up wait for an answer.
const QUESTIONS_MAX: usize = 8;

/// How many addresses of one look-up are told.
const ADDRESSES_MAX: usize = 16;

/// The longest name, with its lengths (section 2.3.4).
const NAME_MAX: usize = 255;

/// Bytes of a message's header (section 4.1.1), and bits of its third and fourth.
const HEADER: usize = 12;
const ANSWER: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const CODE: u16 = 0x000f;

/// `RCODE` (section 4.1.1).
mod code {
    pub(super) const NO_ERROR: u16 = 0;
    pub(super) const SERVER_FAILURE: u16 = 2;
    pub(super) const NAME_ERROR: u16 = 3;
}

/// The class of the internet.
const INTERNET: u16 = 1;

/// What is asked for of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl Kind {
    fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::A),
            28 => Some(Self::Aaaa),
            _ => None,
        }
    }

    /// The address in the data of a record of this kind.
    fn address(self, data: &[u8]) -> Option<IpAddr> {
        match self {
            Self::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            Self::Aaaa => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        }
    }
}

/// A look-up that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The name, in lower case, its labels parted by dots.
    pub name: Box<[u8]>,
    /// What came of it.
    pub outcome: Resolution,
    /// From its first question to its last answer, or until nobody waited for one any more.
    pub duration: Nanos,
    /// The addresses that were found.
    pub addresses: Vec<IpAddr>,
}

/// A look-up that waits for answers.
#[derive(Debug)]
struct Pending {
    name: Box<[u8]>,
    since: Nanos,
    /// The numbers of the questions that wait, and what they ask for.
    questions: Vec<(u16, Kind)>,
    /// The best of what was answered, and when that was last.
    answered: Option<(Resolution, Nanos)>,
    addresses: Vec<IpAddr>,
}

impl Pending {
    /// Ends it, at `time` if nothing was answered.
    fn end(self, time: Nanos) -> Lookup {
        let (outcome, time) = self.answered.unwrap_or((Resolution::Again, time));
        Lookup { name: self.name, outcome, duration: time.since(self.since), addresses: self.addresses }
    }
}

/// One socket of a client's to a name server.
#[derive(Debug, Default)]
pub struct Client {
    /// In the order of their first questions.
    pending: Vec<Pending>,
}

impl Client {
    /// Takes in a message to the server.
    pub fn sent(&mut self, message: &[u8], time: Nanos) {
        let Some(Message { id, flags, name, kind, .. }) = Message::parse(message) else { return };
        if flags & ANSWER != 0 {
            return;
        }
        let lookup = match self.pending.iter_mut().find(|lookup| lookup.name == name) {
            Some(lookup) => lookup,
            None => {
                if self.pending.len() >= LOOKUPS_MAX {
                    self.pending.remove(0);
                }
                self.pending.push(Pending {
                    name,
                    since: time,
                    questions: Vec::new(),
                    answered: None,
                    addresses: Vec::new(),
                });
                self.pending.last_mut().expect("it was just pushed")
            }
        };
        if lookup.questions.len() < QUESTIONS_MAX && !lookup.questions.contains(&(id, kind)) {
            lookup.questions.push((id, kind));
        }
    }

    /// Takes in a message from the server; returned is the look-up that is over with it.
    pub fn received(&mut self, message: &[u8], time: Nanos) -> Option<Lookup> {
        let Message { id, flags, name, kind, answers } = Message::parse(message)?;
        if flags & ANSWER == 0 {
            return None;
        }
        let waits = |lookup: &Pending| lookup.name == name && lookup.questions.contains(&(id, kind));
        let place = self.pending.iter().position(waits)?;
        let lookup = &mut self.pending[place];
        // Whoever asked more than once is content with one answer.
        lookup.questions.retain(|(_, other)| *other != kind);
        let found = lookup.addresses.len();
        let room = ADDRESSES_MAX - found;
        lookup.addresses.extend(answers.filter_map(|(kind, data)| kind.address(data)).take(room));
        let outcome = match flags & CODE {
            // The rest is asked for over TCP, which is not followed.
            code::NO_ERROR if lookup.addresses.len() == found && flags & TRUNCATED != 0 => {
                self.pending.remove(place);
                return None;
            }
            code::NO_ERROR if lookup.addresses.len() > found || room == 0 => Resolution::Ok,
            code::NO_ERROR | code::NAME_ERROR => Resolution::NotFound,
            code::SERVER_FAILURE => Resolution::Again,
            _ => Resolution::Failed,
        };
        let best = lookup.answered.map_or(outcome, |(before, _)| before.min(outcome));
        lookup.answered = Some((best, time));
        lookup.questions.is_empty().then(|| self.pending.remove(place).end(time))
    }

    /// The socket was closed: whoever waited for an answer has given it up. Returned are the look-ups that are over.
    pub fn closed(&mut self, time: Nanos) -> impl Iterator<Item = Lookup> + use<> {
        std::mem::take(&mut self.pending).into_iter().map(move |lookup| lookup.end(time))
    }

    /// Something was lost: nothing that waits is believed any more.
    pub fn gap(&mut self) {
        self.pending.clear();
    }
}

/// A message with a single question for addresses.
struct Message<'a> {
    id: u16,
    flags: u16,
    name: Box<[u8]>,
    kind: Kind,
    answers: Answers<'a>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [id, flags, questions, answers] = [0, 2, 4, 6].map(|at| number(bytes, at));
        if questions? != 1 {
            return None;
        }
        let (name, at) = name(bytes, HEADER)?;
        let (kind, class) = (Kind::from_number(number(bytes, at)?)?, number(bytes, at + 2)?);
        let answers = Answers { bytes, at: at + 4, left: answers? };
        (class == INTERNET).then_some(Self { id: id?, flags: flags?, name, kind, answers })
    }
}

/// The answers in a message that are addresses, as far as they can be read.
struct Answers<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u16,
}

impl<'a> Iterator for Answers<'a> {
    type Item = (Kind, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            let at = behind_name(self.bytes, self.at)?;
            let [kind, class, length] = [0, 2, 8].map(|field| number(self.bytes, at + field));
            let data = at + 10;
            self.at = data + usize::from(length?);
            if let (Some(kind), Some(INTERNET)) = (Kind::from_number(kind?), class) {
                return Some((kind, self.bytes.get(data..self.at)?));
            }
        }
        None
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The name at `at`, where nothing is there that it could share, and what lies behind it.
fn name(bytes: &[u8], mut at: usize) -> Option<(Box<[u8]>, usize)> {
    /// A label's length has no more bits.
    const LABEL_MAX: u8 = 63;
    let mut name = Vec::new();
    loop {
        let length = *bytes.get(at)?;
        at += 1;
        if length == 0 {
            return Some((name.into(), at));
        }
        let label = bytes.get(at..at + usize::from(length)).filter(|_| length <= LABEL_MAX)?;
        at += label.len();
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.iter().map(u8::to_ascii_lowercase));
        if name.len() > NAME_MAX {
            return None;
        }
    }
}

/// What lies behind the name at `at`, which may end in a pointer to one that it shares (section 4.1.4).
fn behind_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    const POINTER: u8 = 0xc0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & POINTER == POINTER => return Some(at + 2),
            length if length & POINTER != 0 => return None,
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    const A: u16 = 1;
    const AAAA: u16 = 28;
    const OK: u16 = ANSWER;

    fn message(id: u16, flags: u16, asked: &str, kind: u16, answers: &[(u16, &[u8])]) -> Vec<u8> {
        let count = u16::try_from(answers.len()).expect("few");
        let mut bytes: Vec<u8> = [id, flags, 1, count, 0, 0].iter().flat_map(|number| number.to_be_bytes()).collect();
        for label in asked.split('.') {
            bytes.push(u8::try_from(label.len()).expect("short"));
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend([kind, 1].iter().flat_map(|number| number.to_be_bytes()));
        for (kind, data) in answers {
            let length = u16::try_from(data.len()).expect("short");
            bytes.extend([0xc00c, *kind, 1, 0, 60, length].iter().flat_map(|number| number.to_be_bytes()));
            bytes.extend(*data);
        }
        bytes
    }

    fn asked(questions: &[(u16, &str, u16, u64)]) -> Client {
        let mut client = Client::default();
        for (id, name, kind, at) in questions {
            client.sent(&message(*id, 0x0100, name, *kind, &[]), Nanos(*at));
        }
        client
    }

    fn told(lookup: Option<Lookup>) -> Option<(String, &'static str, u64, Vec<String>)> {
        let Lookup { name, outcome, duration, addresses } = lookup?;
        let addresses = addresses.iter().map(IpAddr::to_string).collect();
        Some((String::from_utf8_lossy(&name).into_owned(), outcome.as_str(), duration.0, addresses))
    }

    #[test]
    fn a_look_up_lasts_until_both_kinds_of_addresses_are_answered() {
        let mut client = asked(&[(7, "One.Miku.test", A, 100), (8, "one.miku.test", AAAA, 110)]);
        let alias: &[u8] = b"\x03two\xc0\x10";
        let first = message(7, OK, "one.miku.test", A, &[(5, alias), (A, &[10, 0, 0, 1]), (A, &[10, 0, 0, 2])]);
        assert_eq!(client.received(&first, Nanos(300)), None);
        let second = client.received(&message(8, OK, "one.miku.test", AAAA, &[]), Nanos(400));
        let addresses = vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        assert_eq!(told(second), Some(("one.miku.test".to_owned(), "ok", 300, addresses)));
        assert_eq!(client.received(&first, Nanos(500)), None, "nobody waits for it any more");
    }

    #[test]
    fn what_came_of_it_is_told_by_the_server_s_code() {
        for (flags, outcome) in
            [(OK, "not_found"), (OK | 3, "not_found"), (OK | 2, "again"), (OK | 5, "failed"), (OK | 1, "failed")]
        {
            let mut client = asked(&[(1, "a.test", A, 1)]);
            let lookup = client.received(&message(1, flags, "a.test", A, &[]), Nanos(3));
            assert_eq!(told(lookup).map(|(_, outcome, time, _)| (outcome, time)), Some((outcome, 2)));
        }
    }

    #[test]
    fn what_nobody_answers_is_over_with_its_socket() {
        let mut client =
            asked(&[(1, "a.test", A, 1), (2, "a.test", A, 50), (3, "b.test", AAAA, 60), (4, "b.test", A, 60)]);
        assert_eq!(client.received(&message(4, OK, "b.test", A, &[(A, &[10, 0, 0, 3])]), Nanos(70)), None);
        let over: Vec<_> = client.closed(Nanos(100)).filter_map(|lookup| told(Some(lookup))).collect();
        let expected =
            [("a.test".to_owned(), "again", 99, vec![]), ("b.test".to_owned(), "ok", 10, vec!["10.0.0.3".to_owned()])];
        assert_eq!(over, expected);
        assert_eq!(client.closed(Nanos(101)).count(), 0);
    }

    #[test]
    fn the_answer_to_either_of_two_tries_will_do() {
        for id in [1, 2] {
            let mut client = asked(&[(1, "a.test", A, 10), (2, "a.test", A, 20)]);
            let lookup = client.received(&message(id, OK, "a.test", A, &[(A, &[10, 0, 0, 4])]), Nanos(30));
            assert_eq!(told(lookup).map(|(_, outcome, time, _)| (outcome, time)), Some(("ok", 20)));
        }
    }

    #[test]
    fn what_was_not_asked_is_not_answered() {
        let answer = |id, name, kind| message(id, OK, name, kind, &[(A, &[10, 0, 0, 5])]);
        for wrong in
            [answer(2, "a.test", A), answer(1, "b.test", A), answer(1, "a.test", AAAA), answer(1, "a.test", 16)]
        {
            assert_eq!(asked(&[(1, "a.test", A, 1)]).received(&wrong, Nanos(2)), None);
        }
        assert_eq!(
            asked(&[(1, "a.test", A, 1)]).received(&message(1, 0, "a.test", A, &[]), Nanos(2)),
            None,
            "no answer"
        );
        assert_eq!(asked(&[(1, "a.test", 16, 1)]).closed(Nanos(9)).count(), 0, "texts are no addresses");
        let mut truncated = asked(&[(1, "a.test", A, 1)]);
        assert_eq!(truncated.received(&message(1, OK | TRUNCATED, "a.test", A, &[]), Nanos(2)), None);
        assert_eq!(truncated.closed(Nanos(3)).count(), 0, "it is asked again where nobody looks");
    }

    #[test]
    fn answers_name_their_owner_in_any_way() {
        let answer = |owner: &[u8]| {
            let mut bytes = message(1, OK, "a.test", A, &[]);
            bytes[7] = 2;
            for (owner, last) in [(owner, 7), (b"\xc0\x0c", 8)] {
                bytes.extend(owner);
                bytes.extend([A, 1, 0, 60, 4].iter().flat_map(|number| number.to_be_bytes()));
                bytes.extend([10, 0, 0, last]);
            }
            told(asked(&[(1, "a.test", A, 1)]).received(&bytes, Nanos(2))).expect("it is answered").3
        };
        let both = ["10.0.0.7", "10.0.0.8"];
        assert_eq!(answer(b"\x01a\x04test\x00"), both, "spelled out");
        assert_eq!(answer(b"\x01b\xc0\x0e"), both, "a label, and what it shares");
        assert_eq!(answer(b"\x00"), both, "the root");
        for reserved in [0x40, 0x80] {
            let owner = [&[reserved][..], &vec![b'a'; usize::from(reserved)], &[0]].concat();
            assert_eq!(answer(&owner), [""; 0], "no length has these bits");
        }
    }

    #[test]
    fn after_a_loss_nobody_waits() {
        let mut client = asked(&[(1, "a.test", A, 1)]);
        client.gap();
        assert_eq!(client.received(&message(1, OK, "a.test", A, &[(A, &[10, 0, 0, 4])]), Nanos(2)), None);
        assert_eq!(client.closed(Nanos(3)).count(), 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut client = Client::default();
        for number in 0..10_000_u16 {
            let name = format!("{}.test", number % 1_000);
            client.sent(&message(number, 0, &name, A, &[]), Nanos(u64::from(number)));
        }
        assert_eq!(client.pending.len(), LOOKUPS_MAX);
        for number in 0..100 {
            client.sent(&message(number, 0, "same.test", A, &[]), Nanos(0));
        }
        assert_eq!(client.pending.last().map(|lookup| lookup.questions.len()), Some(QUESTIONS_MAX));
        let (id, kind) = client.pending.last().expect("it waits").questions[0];
        assert_eq!(kind, Kind::A);
        let data = [10, 0, 0, 6];
        let many: Vec<(u16, &[u8])> = vec![(A, &data); 500];
        let lookup = client.received(&message(id, OK, "same.test", A, &many), Nanos(9)).expect("it is answered");
        assert_eq!((lookup.addresses.len(), lookup.outcome), (ADDRESSES_MAX, Resolution::Ok));
    }

    /// Questions and answers of which some bytes were changed and the end may be missing.
    #[test]
    fn no_bytes_harm_it() {
        let asks = message(1, 0x0100, "a.test", A, &[]);
        let answers = message(1, OK, "a.test", A, &[(5, b"\x01b\xc0\x0e"), (A, &[10, 0, 0, 1]), (A, &[10, 0, 0, 2])]);
        let change = |length: usize| {
            let end = prop_oneof![2 => Just(length), 1 => 0..length];
            (proptest::collection::vec((0..length, any::<u8>()), 0..6), end)
        };
        let (cases, answered) = (1_000, Cell::new(0));
        let strategy = proptest::collection::vec((change(asks.len()), change(answers.len())), 1..6);
        crate::regressions::check(cases, file!(), &strategy, |messages| {
            let mut client = Client::default();
            let apply = |whole: &[u8], (changes, end): (Vec<(usize, u8)>, usize)| {
                let mut bytes = whole.to_vec();
                changes.into_iter().for_each(|(place, byte)| bytes[place] = byte);
                bytes.truncate(end);
                bytes
            };
            for (number, (question, answer)) in messages.into_iter().enumerate() {
                let now = Nanos(10 * number as u64);
                client.sent(&apply(&asks, question), now);
                let over = client.received(&apply(&answers, answer), Nanos(now.0 + 5));
                if let Some(lookup) = &over {
                    prop_assert!(
                        lookup.addresses.len() <= ADDRESSES_MAX && lookup.name.len() <= NAME_MAX,
                        "{lookup:?}"
                    );
                    prop_assert!(lookup.duration.0 % 10 == 5 && lookup.duration <= now + Nanos(5), "{lookup:?}");
                    prop_assert!(!lookup.addresses.is_empty() || lookup.outcome != Resolution::Ok, "{lookup:?}");
                    answered.set(answered.get() + 1);
                }
            }
            prop_assert!(client.closed(Nanos(100)).count() <= LOOKUPS_MAX);
            Ok(())
        });
        assert!(answered.get() > cases / 10, "of {cases} clients, {} look-ups were answered", answered.get());
    }
}
