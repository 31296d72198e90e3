//! The same by property: how frames are split over segments, and how much of those is known, changes nothing of what is
//! told of them; and nothing that comes off a socket breaks the machine.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::testing::{Frame, Message, Told, Watched};
use super::{Kind, Machine};
use crate::protocols::prefix::PREFIX_MAX;
use crate::units::Direction;

/// What a peer says, in order.
#[derive(Clone, Debug)]
enum Said {
    /// A message, where it is cut into frames, and the control frames that are put in after each.
    Message {
        kind: Kind,
        compressed: bool,
        bytes: Vec<u8>,
        cuts: Vec<Index>,
        between: Vec<bool>,
    },
    Ping,
    Pong,
}

fn said() -> impl Strategy<Value = Said> {
    let length =
        prop_oneof![40 => 0..200usize, 10 => 120..140usize, 1 => 65_530..65_540usize, 1 => 32_000..33_000usize];
    let bytes = (length, any::<u8>())
        .prop_map(|(length, seed)| (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect());
    let kind = prop_oneof![Just(Kind::Text), Just(Kind::Binary)];
    prop_oneof![
        5 => (kind, any::<bool>(), bytes, vec(any::<Index>(), 0..4), vec(any::<bool>(), 4)).prop_map(
            |(kind, compressed, bytes, cuts, between)| Said::Message { kind, compressed, bytes, cuts, between }
        ),
        1 => Just(Said::Ping),
        1 => Just(Said::Pong),
    ]
}

/// What is told, with places in the stream of bytes for times: of the first byte's and of the last byte's.
#[derive(Clone, Debug)]
enum Truth {
    Message { kind: Kind, compressed: bool, bytes: Vec<u8>, places: Vec<usize>, first: usize, last: usize },
    Control { ping: bool, last: usize },
}

/// The bytes of all that is said, which of them are of heads, and what has to be told.
fn written(said: &[Said], mask: Option<[u8; 4]>) -> (Vec<u8>, Vec<bool>, Vec<Truth>) {
    let (mut stream, mut heads, mut truth) = (Vec::new(), Vec::new(), Vec::new());
    let mut write = |frame: Frame| {
        let frame = Frame { mask, ..frame };
        let start = stream.len();
        stream.extend(frame.bytes());
        heads.resize(start + frame.head().len(), true);
        heads.resize(stream.len(), false);
        (start, start + frame.head().len(), stream.len() - 1)
    };
    for said in said {
        match said {
            Said::Ping => truth.push(Truth::Control { ping: true, last: write(Frame::new(0x89, "abc")).2 }),
            Said::Pong => truth.push(Truth::Control { ping: false, last: write(Frame::new(0x8a, "")).2 }),
            Said::Message { kind, compressed, bytes, cuts, between } => {
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
                cuts.sort_unstable();
                cuts.push(bytes.len());
                let (mut done, mut first, mut end, mut places) = (0, None, 0, Vec::new());
                for (at, cut) in cuts.iter().enumerate() {
                    let opcode = match (at, kind) {
                        (0, Kind::Text) => 1,
                        (0, Kind::Binary) => 2,
                        _ => 0,
                    };
                    let fin = if at + 1 == cuts.len() { 0x80 } else { 0 };
                    let rsv = if *compressed && at == 0 { 0x40 } else { 0 };
                    let (start, payload, last) = write(Frame::new(opcode | fin | rsv, &bytes[done..*cut]));
                    places.extend(payload..payload + cut - done);
                    (done, end) = (*cut, last);
                    first.get_or_insert(start);
                    if fin == 0 && between[at % between.len()] {
                        truth.push(Truth::Control { ping: true, last: write(Frame::new(0x89, "between")).2 });
                    }
                }
                let (bytes, first) = (bytes.clone(), first.expect("a message has a frame"));
                truth.push(Truth::Message { kind: *kind, compressed: *compressed, bytes, places, first, last: end });
            }
        }
    }
    (stream, heads, truth)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..crate::regressions::config() })]

    #[test]
    fn splits_and_what_is_known_of_them_change_nothing(
        said in vec(said(), 1..8),
        mask in any::<Option<[u8; 4]>>(),
        splits in vec(any::<Index>(), 0..40),
        known in vec(any::<Index>(), 41),
        all_known in any::<bool>(),
    ) {
        let direction = if mask.is_some() { Direction::Out } else { Direction::In };
        let (stream, heads, truth) = written(&said, mask);
        let mut ends: Vec<usize> = splits.iter().map(|split| split.index(stream.len()) + 1).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        ends.dedup();
        let mut watched = Watched::client();
        let mut seen = vec![false; stream.len()];
        let mut start = 0;
        for (end, known) in ends.iter().zip(&known) {
            let bytes = &stream[start..*end];
            // No head may be hidden, or what comes after it could not be followed.
            let least = heads[start..*end].iter().rposition(|head| *head).map_or(0, |at| at + 1);
            let prefix = if all_known { bytes.len() } else { least + known.index(bytes.len() - least + 1) };
            let tail = &bytes[bytes.len() - (bytes.len() - prefix).min(8)..];
            seen[start..start + prefix].fill(true);
            seen[end - tail.len()..*end].fill(true);
            watched.partly(direction, bytes.len() as u64, &bytes[..prefix], tail);
            start = *end;
        }
        let time = |place: usize| ends.iter().position(|end| place < *end).expect("a place is in a segment") as u64 + 1;
        let expected: Vec<_> = truth.iter().map(|truth| match truth {
            Truth::Control { ping: true, last } => Told::Ping(direction, time(*last)),
            Truth::Control { ping: false, last } => Told::Pong(direction, time(*last)),
            Truth::Message { kind, compressed, bytes, places, first, last } => {
                let known = places.iter().take_while(|place| seen[**place]).count().min(PREFIX_MAX);
                let known = if *compressed { 0 } else { known };
                Told::Message(Message {
                    direction,
                    started: time(*first),
                    time: time(*last),
                    kind: *kind,
                    compressed: *compressed,
                    size: bytes.len() as u64,
                    bytes: bytes[..known].to_vec(),
                    whole: known == bytes.len() && !*compressed,
                })
            }
        }).collect();
        prop_assert_eq!(watched.news(), expected);
    }

    #[test]
    fn nothing_breaks_it(
        segments in vec((any::<bool>(), 0..70_000u64, vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..10), any::<u8>()), 0..60),
        upgraded in any::<bool>(),
    ) {
        let mut watched = if upgraded { Watched::client() } else { Watched::mid_life() };
        for (out, size, prefix, tail, gap) in segments {
            let direction = if out { Direction::Out } else { Direction::In };
            watched.partly(direction, size, &prefix, &tail);
            if gap < 8 {
                watched.gap();
            }
            prop_assert!(watched.machine.allocated() <= 2 * PREFIX_MAX);
        }
        prop_assert!(size_of::<Machine>() < 1024);
    }
}

#[test]
fn what_is_hidden_makes_nothing_up() {
    let strategy = (vec(0..400usize, 1..30), vec(any::<Index>(), 0..40), vec(any::<Index>(), 41));
    let (all, seen) = (Cell::new(0), Cell::new(0));
    crate::regressions::check(256, file!(), &strategy, |(lengths, splits, known)| {
        // Letters that no frame begins with.
        let messages: Vec<String> =
            lengths.iter().zip(0..).map(|(length, at)| format!("m{at}z").repeat(*length)).collect();
        all.set(all.get() + messages.len());
        let stream: Vec<u8> = messages.iter().flat_map(|text| Frame::new(0x81, text.as_bytes()).bytes()).collect();
        let mut ends: Vec<usize> = splits.iter().map(|split| split.index(stream.len()) + 1).collect();
        ends.push(stream.len());
        ends.sort_unstable();
        ends.dedup();
        let mut watched = Watched::mid_life();
        let mut start = 0;
        for (end, known) in ends.iter().zip(&known) {
            let bytes = &stream[start..*end];
            let prefix = known.index(bytes.len() + 1);
            watched.partly(
                Direction::In,
                bytes.len() as u64,
                &bytes[..prefix],
                &bytes[bytes.len() - (bytes.len() - prefix).min(8)..],
            );
            start = *end;
        }
        let mut truth = messages.iter();
        for told in watched.news() {
            if let Told::Message(message) = told {
                seen.set(seen.get() + 1);
                let is_it =
                    |text: &&String| text.len() as u64 == message.size && text.as_bytes().starts_with(&message.bytes);
                prop_assert!(truth.any(|text| is_it(&text)), "never said, or not then: {message:?}");
            }
        }
        Ok(())
    });
    assert!(seen.get() * 20 > all.get(), "of {} messages, {} were told", all.get(), seen.get());
}
