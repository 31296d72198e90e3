//! By property: many shards at once, of which some were connected before the watching, in any order of things. The truth
//! is which stream belongs to which websocket, and when each heartbeat was sent.

use std::cell::Cell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::testing::{ACK, Bot, HELLO, beat, control, dispatch};
use crate::protocols::http1::End;
use crate::units::Direction;

/// What may happen next to a shard.
#[derive(Clone, Copy, Debug)]
enum Step {
    Dispatch,
    Beat,
    Ack,
}

#[derive(Debug, Default)]
struct Shard {
    sequence: u64,
    /// When the heartbeat was sent that waits for its ack.
    sent: Option<u64>,
}

#[test]
fn every_dispatch_once_and_no_heartbeat_under_another_connection() {
    let kinds = select(vec![Step::Dispatch, Step::Beat, Step::Ack, Step::Ack]);
    let steps = vec((any::<Index>(), kinds, 1..400u64), 0..200);
    // Of connections seen from their opening and of others: heartbeats that were told, and those that there were.
    let (mine, joined) = (Cell::new((0, 0)), Cell::new((0, 0)));
    crate::regressions::check(300, file!(), &(vec(1..1000u64, 0..4), 0..4usize, steps), |(before, after, steps)| {
        let mut bot = Bot::new();
        let mut shards: Vec<Shard> = before.iter().map(|sequence| Shard { sequence: *sequence, sent: None }).collect();
        for _ in 0..after {
            let number = shards.len() as u64;
            bot.connects(number, Some((number as u32, 99)));
            shards.push(Shard { sequence: 1, sent: None });
        }
        let told = bot.news();
        prop_assert_eq!(told.iter().filter(|line| line.ends_with("beat 90")).count(), after);
        for (which, step, pause) in steps {
            if shards.is_empty() {
                break;
            }
            let number = which.index(shards.len());
            let (known, shard) = (number >= before.len(), &mut shards[number]);
            let name = if known { number.to_string() } else { "?".into() };
            bot.waits(pause);
            match step {
                Step::Dispatch => {
                    shard.sequence += 1;
                    bot.hears(number as u64, &dispatch("X", shard.sequence, "{}"));
                    prop_assert_eq!(bot.news(), [format!("{name} X")]);
                }
                Step::Beat if shard.sent.is_none() => {
                    shard.sent = Some(bot.time);
                    bot.says(number as u64, &beat(shard.sequence));
                    prop_assert!(bot.news().is_empty());
                }
                Step::Ack if shard.sent.is_some() => {
                    let took = bot.time - shard.sent.take().expect("one is waited for");
                    bot.hears(number as u64, ACK);
                    let beats: Vec<_> = bot.news().into_iter().filter(|line| line.contains("beat")).collect();
                    let truth = format!("{name} beat {took}");
                    let count = if known { &mine } else { &joined };
                    count.set((count.get().0 + beats.len(), count.get().1 + 1));
                    // Of a connection seen from its opening everything is known.
                    prop_assert!(beats == [truth.clone()] || !known && beats.is_empty(), "{beats:?}, not {truth}");
                }
                Step::Beat | Step::Ack => {}
            }
        }
        Ok(())
    });
    assert!(mine.get().1 > 100 && mine.get().0 == mine.get().1, "{mine:?}");
    let (told, all) = joined.get();
    assert!(all > 100 && told * 10 > all * 7, "of {all} heartbeats of connections that were joined, {told} were told");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..crate::regressions::config() })]

    #[test]
    fn nothing_breaks_it(steps in vec((0..12u8, 0..4u64, any::<Index>(), 0..50_000u64), 0..300)) {
        let mut bot = Bot::new();
        let texts = [
            HELLO.to_string(), ACK.to_string(), beat(1), beat("null"), control(7, "null"), control(9, "true"), control(1, "null"),
            dispatch("READY", 1, r#"{"session_id":"a","shard":[1,2]}"#), dispatch("RESUMED", 9, "{}"), dispatch("X", 1, "{}"),
            r#"{"op":6,"d":{"session_id":"a"}}"#.into(), r#"{"op":2,"d":{"token":"b"}}"#.into(), "{".into(), String::new(),
        ];
        for (step, number, text, pause) in steps {
            let text = &texts[text.index(texts.len())];
            let direction = if pause % 2 == 0 { Direction::In } else { Direction::Out };
            bot.waits(pause);
            match step {
                0 => bot.opens(number, if pause % 3 == 0 { "gateway.discord.gg" } else { "x" }),
                1 | 2 => bot.says(number, text),
                3 => bot.reads(number, text),
                4..=6 => bot.hears(number, text),
                7 => bot.hears_piece(number, text, pause % 2 == 0, pause % 3 == 0, pause as usize),
                8 => bot.closes(number, direction, 4000),
                9 => bot.ends(number, if pause % 2 == 0 { End::Over } else { End::PeerFinished }),
                10 => bot.frees(number),
                _ => bot.loses_pieces(number).loses_frames(number, direction).ticks(),
            };
            prop_assert!(bot.gateways.connections.len() <= 8 + 4 * 2);
        }
        // Whatever came before: when all is over, nothing is left, and nothing is up.
        for number in 0..4 {
            bot.ends(number, End::Over).frees(number);
        }
        prop_assert!(bot.gateways.connections.is_empty(), "{:?}", bot.gateways.connections);
        let mut up = std::collections::BTreeMap::new();
        for line in bot.news() {
            if let Some((label, state)) = line.split_once(" is ") {
                up.insert(label.to_string(), state.to_string());
            }
        }
        prop_assert!(up.values().all(|state| state != "up"), "{up:?}");
    }
}
