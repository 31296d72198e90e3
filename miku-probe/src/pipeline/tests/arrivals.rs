//! What lay unread in a bot's sockets: from when to when a person waited.

use miku_probe_abi::{Arrival, ArrivalsRecord, INFLATED_ENDS, INFLATED_STARTS, InflatedRecord};

use super::binding::bind;
use super::bots::{API, GATEWAY, SWITCHED, connected, frame, masked, told, upgrade};
use super::tls::{plain, tell};
use super::*;
use crate::observations::{GatewayChange, Phase};

/// The sockets of the gateway's stream and of the API's.
const GATEWAY_FD: i32 = FD;
const API_FD: i32 = FD + 1;
/// What a record of TLS 1.3 adds to what is in it.
const OVERHEAD: usize = 22;

/// Something is read that came in these pieces, each at its time, or had not waited.
fn arrived(time: u64, fd: i32, pieces: &[(usize, u64)]) -> Vec<u8> {
    let mut arrivals = Vec::new();
    let mut end = 4_000_000_000_u32;
    for (size, time_ns) in pieces {
        let (from, size) = (end, u32::try_from(*size).expect("a piece is short"));
        end = end.wrapping_add(size);
        arrivals.push(Arrival { time_ns: *time_ns, from, to: end });
    }
    let length = size_of::<ArrivalsRecord>() + size_of_val(&arrivals[..]);
    let record = ArrivalsRecord {
        header: header(RecordKind::Arrivals, time, length),
        generation: 90,
        handle: u64::from(fd.unsigned_abs()),
        end,
        size: end.wrapping_sub(4_000_000_000),
    };
    arrivals.iter().fold(bytes_of(&record).to_vec(), |bytes, arrival| [&bytes[..], bytes_of(arrival)].concat())
}

fn inflated(time: u64, text: &str, consumed: usize) -> Vec<u8> {
    let size = u32::try_from(text.len()).expect("a payload is short");
    let record = InflatedRecord {
        header: header(RecordKind::Inflated, time, size_of::<InflatedRecord>() + text.len()),
        generation: 95,
        handle: 0x2000,
        lost: 0,
        size,
        captured: size,
        flags: INFLATED_STARTS | INFLATED_ENDS,
        consumed: u32::try_from(consumed).expect("a payload is short"),
        padding: 0,
    };
    [bytes_of(&record), text.as_bytes()].concat()
}

/// Binds the two streams to their sockets.
fn bound(pipeline: &mut Pipeline<Kept, Nowhere>) {
    for (stream, fd) in [(GATEWAY, GATEWAY_FD), (API, API_FD)] {
        pipeline.record(&open(90, fd, Origin::Connected));
        pipeline.record(&bind(91, stream, fd, true));
    }
}

fn message(id: u64) -> String {
    format!(
        r#"{{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{{"type":0,"id":"{id}","channel_id":"5","author":{{"id":"8"}}}}}}"#
    )
}

fn post(id: u64) -> Vec<u8> {
    let body = format!(r#"{{"content":"hello","message_reference":{{"message_id":"{id}","channel_id":"5"}}}}"#);
    format!(
        "POST /api/v10/channels/5/messages HTTP/1.1\r\nHost: discord.com\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

const POSTED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// How long each reply took, of that to be picked up, and how many of them are not sure.
fn replies(pipeline: &Pipeline<Kept, Nowhere>) -> (Vec<(u64, u64)>, usize) {
    let replies = told(pipeline).into_iter().filter_map(|what| match what {
        Discord::Reply { duration, phases, .. } => {
            assert_eq!(phases.sum(), duration);
            Some((duration.0, phases.get(Phase::Pickup).unwrap_or_default().0))
        }
        _ => None,
    });
    let unsure = |seen: &Observation| matches!(seen, Observation::Unmatched { reason: Unmatched::ArrivalUnknown, .. });
    (replies.collect(), pipeline.sink.count(unsure))
}

#[test]
fn people_wait_while_what_they_wrote_and_what_answers_them_lies_unread() {
    let mut pipeline = connected();
    bound(&mut pipeline);
    let frames = [1, 2].map(|id| frame(&message(id)));
    let records = frames.each_ref().map(|frame| frame.len() + OVERHEAD);
    tell(
        &mut pipeline,
        &[
            // Two came while the bot did something else.
            arrived(90_000_000, GATEWAY_FD, &[(records[0], 20_000_000)]),
            plain(90_000_000, GATEWAY, Direction::In, &frames[0]),
            arrived(90_000_000, GATEWAY_FD, &[(records[1], 50_000_000)]),
            plain(90_000_000, GATEWAY, Direction::In, &frames[1]),
            plain(91_000_000, API, Direction::Out, &post(1)),
            arrived(150_000_000, API_FD, &[(POSTED.len() + OVERHEAD, 110_000_000)]),
            plain(150_000_000, API, Direction::In, POSTED),
            plain(151_000_000, API, Direction::Out, &post(2)),
            // This one was read as it came.
            arrived(170_000_000, API_FD, &[]),
            plain(170_000_000, API, Direction::In, POSTED),
        ],
    );
    assert_eq!(replies(&pipeline), (vec![(90_000_000, 71_000_000), (120_000_000, 101_000_000)], 0));
}

#[test]
fn what_is_decompressed_came_in_the_order_of_its_frames() {
    let mut pipeline = pipeline();
    let binary = |size: usize| [&[0x82, u8::try_from(size).expect("short")][..], &vec![0x7b; size]].concat();
    let wire = [40, 50, 60].map(|size| size + 2 + OVERHEAD);
    tell(
        &mut pipeline,
        &[
            plain(1_000, GATEWAY, Direction::Out, &upgrade("gateway.discord.gg")),
            plain(2_000, GATEWAY, Direction::In, SWITCHED),
            plain(3_000, GATEWAY, Direction::In, &binary(30)),
            inflated(3_100, r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#, 30),
            plain(4_000, GATEWAY, Direction::Out, &masked(r#"{"op":1,"d":null}"#)),
        ],
    );
    bound(&mut pipeline);
    tell(
        &mut pipeline,
        &[
            arrived(
                90_000_000,
                GATEWAY_FD,
                &[(wire[0], 9_000_000), (wire[1] - 5, 20_000_000), (wire[2] + 5, 50_000_000)],
            ),
            plain(90_000_000, GATEWAY, Direction::In, &binary(40)),
            plain(90_000_000, GATEWAY, Direction::In, &binary(50)),
            plain(90_000_000, GATEWAY, Direction::In, &binary(60)),
            inflated(90_100_000, r#"{"t":null,"s":null,"op":11,"d":null}"#, 40),
            inflated(90_200_000, &message(1), 50),
            inflated(90_300_000, &message(2), 60),
            plain(91_000_000, API, Direction::Out, &post(1)),
            plain(100_000_000, API, Direction::In, POSTED),
            plain(101_000_000, API, Direction::Out, &post(2)),
            plain(110_000_000, API, Direction::In, POSTED),
        ],
    );
    let heartbeats: Vec<_> = told(&pipeline)
        .into_iter()
        .filter_map(|what| match what {
            Discord::Gateway { change: GatewayChange::Heartbeat(took), .. } => Some(took),
            _ => None,
        })
        .collect();
    assert_eq!(heartbeats, [Nanos(9_000_000 - 4_000)]);
    // The last bytes of the second came with the third.
    assert_eq!(replies(&pipeline), (vec![(50_000_000, 41_000_000), (60_000_000, 51_000_000)], 0));
}

#[test]
fn what_waited_on_a_socket_of_which_nothing_is_known_is_counted() {
    let mut pipeline = connected();
    for fd in [GATEWAY_FD, API_FD] {
        pipeline.record(&open(90, fd, Origin::Connected));
    }
    let frame = frame(&message(1));
    tell(
        &mut pipeline,
        &[
            plain(90_000_000, GATEWAY, Direction::In, &frame),
            plain(91_000_000, API, Direction::Out, &post(1)),
            arrived(100_000_000, API_FD, &[(POSTED.len() + OVERHEAD, 95_000_000)]),
            plain(100_010_000, API, Direction::In, POSTED),
        ],
    );
    assert_eq!(replies(&pipeline), (vec![(10_010_000, 1_000_000)], 1), "until it was read");
}

#[test]
fn a_wait_of_unknown_length_is_counted() {
    let mut pipeline = connected();
    bound(&mut pipeline);
    let frames = [1, 2].map(|id| frame(&message(id)));
    let size = frames[0].len() + OVERHEAD;
    tell(
        &mut pipeline,
        &[
            // A ticket is among it.
            arrived(90_000_000, GATEWAY_FD, &[(size, 20_000_000), (200, 50_000_000), (size, 60_000_000)]),
            plain(90_000_000, GATEWAY, Direction::In, &frames[0]),
            plain(90_000_000, GATEWAY, Direction::In, &frames[1]),
            plain(91_000_000, API, Direction::Out, &post(1)),
            plain(100_000_000, API, Direction::In, POSTED),
        ],
    );
    assert_eq!(replies(&pipeline), (vec![(10_000_000, 1_000_000)], 1), "from when it was read");
}
