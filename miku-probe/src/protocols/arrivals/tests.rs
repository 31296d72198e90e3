//! Arrivals by example, and against a connection that is simulated byte by byte.

use std::iter::empty;

use proptest::prelude::*;

use super::*;

fn ms(millis: u64) -> Nanos {
    Nanos(millis * 1_000_000)
}

fn batch(end: u32, size: u32, arrivals: &[(u32, u32, u64)]) -> Batch {
    Batch::new(end, size, arrivals.iter().map(|(from, to, millis)| (*from, *to, ms(*millis))))
}

#[test]
fn a_batch_is_what_was_read_and_nothing_else() {
    let arrivals = [(120, 150, 3), (90, 110, 1), (110, 120, 2), (150, 200, 4)];
    let spans = [(10, Some(ms(1))), (20, Some(ms(2))), (40, Some(ms(3)))];
    assert_eq!(batch(140, 40, &arrivals).spans, spans, "from 100 to 140");
    let holes = batch(140, 40, &[(90, 110, 1), (120, 130, 2)]);
    assert_eq!(holes.spans, [(10, Some(ms(1))), (20, None), (30, Some(ms(2))), (40, None)]);
    assert_eq!(batch(140, 40, &[]).spans, [(40, None)]);
    // Sequence numbers go around.
    let around = batch(6, 10, &[(u32::MAX - 3, 2, 1), (2, 9, 2)]);
    assert_eq!(around.spans, [(6, Some(ms(1))), (10, Some(ms(2)))]);
}

#[test]
fn plain_bytes_are_those_of_the_batch_in_their_order() {
    let mut unread = Unread::new(false);
    assert_eq!(unread.read(5, ms(1)), Came::Read(ms(1)));
    unread.batch(Some(batch(40, 40, &[(0, 10, 2), (10, 40, 5)])));
    assert_eq!(unread.read(10, ms(9)), Came::At(ms(2)));
    assert_eq!(unread.read(30, ms(9)), Came::At(ms(5)));
    assert_eq!(unread.read(30, ms(10)), Came::Read(ms(10)), "the batch is over");
    unread.batch(Some(batch(80, 40, &[(0, 10, 2)])));
    assert_eq!(unread.read(40, ms(20)), Came::Before(ms(20)), "it had waited, but since when");
    unread.batch(Some(batch(80, 40, &[(0, 90, 2)])));
    unread.batch(None);
    assert_eq!(unread.read(40, ms(30)), Came::Read(ms(30)));
}

#[test]
fn records_are_placed_once_they_fill_the_batch() {
    let mut unread = Unread::new(true);
    unread.follow();
    // A message of 100 bytes, in a frame of 102, in a record of TLS 1.3.
    unread.batch(Some(batch(124, 124, &[(0, 124, 1)])));
    assert_eq!(unread.read(102, ms(2)), Came::At(ms(1)));
    assert_eq!(unread.take(100), Some(Came::At(ms(1))));
    // Three of them at different times, read late.
    let one = 124;
    unread.batch(Some(batch(3 * one, 3 * one, &[(0, one, 10), (one, 2 * one, 20), (2 * one, 3 * one, 30)])));
    assert_eq!(unread.read(102, ms(40)), Came::Before(ms(40)), "what else is in it is not known");
    unread.read(102, ms(40));
    assert_eq!(unread.read(102, ms(40)), Came::At(ms(30)));
    for came in [10, 20, 30] {
        assert_eq!(unread.take(100), Some(Came::At(ms(came))));
    }
    // With a record among them that nobody reads, such as a ticket.
    let size = 3 * one + 200;
    unread.batch(Some(batch(size, size, &[(0, one, 50), (one, one + 200, 60), (one + 200, size, 70)])));
    for _ in 0..3 {
        assert_eq!(unread.read(102, ms(80)), Came::Before(ms(80)));
        assert_eq!(unread.take(100), Some(Came::Before(ms(80))));
    }
}

#[test]
fn what_came_within_a_millisecond_came_at_once() {
    let mut unread = Unread::new(true);
    unread.batch(Some(batch(1000, 1000, &[(0, 500, 10), (500, 1000, 11)])));
    assert_eq!(unread.read(100, ms(40)), Came::At(ms(11)));
    unread.batch(Some(batch(1000, 1000, &[(0, 500, 10), (500, 1000, 12)])));
    assert_eq!(unread.read(100, ms(40)), Came::Before(ms(40)));
}

#[test]
fn messages_are_found_again_after_what_is_none() {
    let mut unread = Unread::new(false);
    unread.follow();
    unread.read(30, ms(1));
    assert_eq!(unread.take(10), None, "in mid-life nobody knows what lies before it");
    unread.read(12, ms(2));
    assert_eq!(unread.take(10), Some(Came::Read(ms(2))), "it is all that there is");
    unread.read(24, ms(3));
    assert_eq!(unread.take(10), Some(Came::Read(ms(3))));
    assert_eq!(unread.take(10), Some(Came::Read(ms(3))));
    // A ping.
    unread.read(2, ms(4));
    unread.lose();
    unread.read(12, ms(5));
    assert_eq!(unread.take(10), Some(Came::Read(ms(5))));
    assert_eq!(unread.take(10), None, "there is none");
    unread.batch(Some(batch(40, 40, &[(0, 40, 6)])));
    unread.read(40, ms(7));
    assert_eq!(unread.take(10), Some(Came::Before(ms(7))), "something had waited: was it this");
}

/// An ack that lay unread, and long after it a message that was read at once: the message did not come with the ack.
#[test]
fn what_fits_nothing_counts_from_when_it_was_read() {
    let mut unread = Unread::new(false);
    unread.follow();
    unread.batch(Some(batch(40, 40, &[(0, 40, 1_000)])));
    unread.read(40, ms(1_002));
    unread.batch(None);
    unread.read(300, ms(42_000));
    assert_eq!(unread.take(200), Some(Came::Before(ms(42_000))));
    assert_eq!(unread.take(90), None, "nothing is left of which it could be");
}

#[test]
fn what_nobody_takes_is_not_kept_for_ever() {
    let mut unread = Unread::new(false);
    unread.follow();
    for time in 0..10 * PIECES_MAX as u64 {
        unread.read(12, ms(time));
        assert!(unread.messages.as_ref().is_some_and(|messages| messages.pieces.len() <= PIECES_MAX));
    }
    unread.gap();
    unread.batch(Some(Batch::new(0, 0, empty())));
    assert_eq!(unread.read(1, ms(1)), Came::Before(ms(1)));
}

/// Messages of these sizes, each written at another time in segments that may be cut anywhere, read in as many reads, and taken
/// one by one: when the last byte of each came.
#[derive(Clone, Debug)]
struct Story {
    messages: Vec<u64>,
    encrypted: bool,
    /// How many messages are read at once.
    reads: Vec<usize>,
    /// How many segments a message comes in.
    segments: u64,
}

fn story() -> impl Strategy<Value = Story> {
    let messages = prop::collection::vec(prop_oneof![1..125u64, 126..5_000u64, Just(70_000)], 1..40);
    (messages, any::<bool>(), prop::collection::vec(1..7usize, 40), 1..4u64)
        .prop_map(|(messages, encrypted, reads, segments)| Story { messages, encrypted, reads, segments })
}

proptest! {
    #![proptest_config(crate::regressions::config())]

    #[test]
    fn each_message_is_told_when_it_came(story in story()) {
        let Story { messages, encrypted, reads, segments } = story;
        let overhead = if encrypted { 22 } else { 0 };
        let mut unread = Unread::new(encrypted);
        unread.follow();
        let (mut sequence, mut time) = (u64::from(u32::MAX) - 1_000, 1_000);
        let mut rest = &messages[..];
        for (turn, count) in reads.into_iter().enumerate() {
            // The first comes alone: from then on it is known where messages begin.
            let (now, later) = rest.split_at(if turn == 0 { 1 } else { count.min(rest.len()) });
            rest = later;
            let start = sequence;
            let (mut arrivals, mut came) = (Vec::new(), Vec::new());
            for payload in now {
                let wire = frame(*payload) + overhead;
                for part in 0..segments {
                    let (from, to) = (wire * part / segments, wire * (part + 1) / segments);
                    time += 5;
                    arrivals.push(((sequence + from) as u32, (sequence + to) as u32, ms(time)));
                }
                sequence += wire;
                came.push(ms(time));
            }
            let size = u32::try_from(sequence - start).expect("a read is short");
            unread.batch(Some(Batch::new(sequence as u32, size, arrivals.into_iter().rev())));
            time += 10;
            if encrypted {
                for payload in now {
                    unread.read(frame(*payload), ms(time));
                }
            } else {
                unread.read(u64::from(size), ms(time));
            }
            for (payload, came) in now.iter().zip(came) {
                prop_assert_eq!(unread.take(*payload), Some(Came::At(came)));
            }
            if rest.is_empty() {
                break;
            }
        }
    }

    /// Whatever is told of it, nothing is kept beyond its bounds, and nothing is said to have come later than it was read.
    #[test]
    fn nothing_breaks_it(
        steps in prop::collection::vec((0..6u8, 0..3_000u32, 0..3_000u32, 0..50u64), 0..300),
        encrypted in any::<bool>(),
    ) {
        let mut unread = Unread::new(encrypted);
        unread.follow();
        for (now, (what, size, other, early)) in (100..).zip(steps) {
            match what {
                0 => {
                    let at = ms(now - early);
                    let arrivals = [(0, other, at), (other, other + size, at)];
                    unread.batch(Some(Batch::new(size, size, arrivals.into_iter())));
                }
                1 => unread.batch(None),
                2 => unread.lose(),
                3 => prop_assert!(unread.take(u64::from(size)).is_none_or(|came| came.time() <= ms(now))),
                _ => prop_assert!(unread.read(u64::from(size), ms(now)).time() <= ms(now)),
            }
        }
    }
}
