//! A bot's websockets, calls and voice, from records to what is observed of it.

use std::net::Ipv4Addr;

use super::tls::{SSL, plain, tell};
use super::*;
use crate::observations::{GatewayChange, Phase, ReplyKind, Shard};
use crate::units::Nanos;

/// The streams of the gateway, of the API and of a voice server.
pub(super) const GATEWAY: u64 = SSL;
pub(super) const API: u64 = SSL + 0x100;
const VOICE: u64 = SSL + 0x200;

pub(super) const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

pub(super) fn upgrade(host: &str) -> Vec<u8> {
    format!("GET /?v=10 HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").into_bytes()
}

/// A frame of text from a server.
pub(super) fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a payload is short");
    let head = if length < 126 { vec![0x81, length as u8] } else { [&[0x81, 126][..], &length.to_be_bytes()].concat() };
    [head, text.as_bytes().to_vec()].concat()
}

/// One from a client.
pub(super) fn masked(text: &str) -> Vec<u8> {
    let mask = [0x5a, 0xa5, 0x11, 0x77];
    let head = [0x81, 0x80 | u8::try_from(text.len()).expect("a payload is short")];
    let body = text.bytes().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
    head.into_iter().chain(mask).chain(body).collect()
}

pub(super) fn told(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<Discord> {
    let one = |seen: &Observation| if let Observation::Discord { what, .. } = seen { Some(*what) } else { None };
    pipeline.sink.0.iter().filter_map(one).collect()
}

/// A bot that has connected, uncompressed, and was told who it is.
pub(super) fn connected() -> Pipeline<Kept, Nowhere> {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            plain(1_000, GATEWAY, Direction::Out, &upgrade("gateway.discord.gg")),
            plain(2_000, GATEWAY, Direction::In, SWITCHED),
            plain(
                3_000,
                GATEWAY,
                Direction::In,
                &frame(r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#),
            ),
            plain(4_000, GATEWAY, Direction::Out, &masked(r#"{"op":1,"d":null}"#)),
            plain(9_000, GATEWAY, Direction::In, &frame(r#"{"t":null,"s":null,"op":11,"d":null}"#)),
            plain(
                10_000,
                GATEWAY,
                Direction::In,
                &frame(
                    r#"{"t":"READY","s":1,"op":0,"d":{"user":{"id":"7"},"shard":[2,4],"session_id":"x","guilds":[]}}"#,
                ),
            ),
        ],
    );
    pipeline
}

#[test]
fn a_gateway_is_followed_from_its_upgrade_on() {
    let pipeline = connected();
    let told = told(&pipeline);
    let change = |wanted: GatewayChange| {
        told.iter().any(|what| matches!(what, Discord::Gateway { change, .. } if *change == wanted))
    };
    assert!(change(GatewayChange::Heartbeat(Nanos(5_000))), "{told:?}");
    assert!(change(GatewayChange::SessionStarted), "{told:?}");
    let up = |what: &Discord| matches!(what, Discord::Gateway { shard: Shard(Some(2)), change: GatewayChange::Up, .. });
    assert!(told.iter().any(up), "{told:?}");
    assert!(told.iter().any(|what| matches!(what, Discord::Guilds(Some(0)))), "{told:?}");
}

#[test]
fn a_message_that_is_answered_by_reference_is_a_reply_with_phases() {
    let mut pipeline = connected();
    let message =
        r#"{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{"type":0,"id":"900","channel_id":"5","author":{"id":"8"}}}"#;
    let body = r#"{"content":"hello","message_reference":{"message_id":"900","channel_id":"5"}}"#;
    let post = format!(
        "POST /api/v10/channels/5/messages HTTP/1.1\r\nHost: discord.com\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tell(
        &mut pipeline,
        &[
            plain(20_000, GATEWAY, Direction::In, &frame(message)),
            plain(50_000, API, Direction::Out, post.as_bytes()),
            plain(90_000, API, Direction::In, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ],
    );
    let replies: Vec<_> = told(&pipeline).into_iter().filter(|what| matches!(what, Discord::Reply { .. })).collect();
    let [Discord::Reply { kind: ReplyKind::Message, duration, phases }] = replies[..] else { panic!("{replies:?}") };
    assert_eq!((duration, phases.sum()), (Nanos(70_000), Nanos(70_000)));
    assert_eq!((phases.get(Phase::Pickup), phases.get(Phase::Post)), (Some(Nanos(30_000)), Some(Nanos(40_000))));
    pipeline.tick(Nanos(20_000_000_000));
    assert!(told(&pipeline).iter().any(|what| matches!(what, Discord::Active(active) if active.users == 1)));
}

#[test]
fn a_bot_that_is_gone_has_no_gateway() {
    let mut pipeline = connected();
    pipeline.remove_target(Tgid(TGID), Nanos(30_000));
    let told = told(&pipeline);
    let gone =
        |what: &Discord| matches!(what, Discord::Gateway { shard: Shard(Some(2)), change: GatewayChange::Gone, .. });
    assert!(told.iter().any(gone), "{told:?}");
    assert!(matches!(told.last(), Some(Discord::Guilds(None))), "{told:?}");
}

#[test]
fn a_command_is_counted_by_its_name_and_answered_by_its_callback() {
    let mut pipeline = connected();
    let interaction = |kind: u8, name: &str, id: u8| {
        format!(
            r#"{{"t":"INTERACTION_CREATE","s":2,"op":0,"d":{{"type":{kind},"id":"{id}","token":"aW50-{id}","channel_id":"5",
            "member":{{"user":{{"id":"8"}}}},"data":{{"name":"{name}","type":1}}}}}}"#
        )
    };
    let body = r#"{"type":4,"data":{"content":"la"}}"#;
    let callback = format!(
        "POST /api/v10/interactions/90/aW50-90/callback HTTP/1.1\r\nHost: discord.com\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tell(
        &mut pipeline,
        &[
            plain(20_000, GATEWAY, Direction::In, &frame(&interaction(2, "sing", 90))),
            plain(50_000, API, Direction::Out, callback.as_bytes()),
            plain(60_000, API, Direction::In, b"HTTP/1.1 204 No Content\r\n\r\n"),
            // A button is no command.
            plain(70_000, GATEWAY, Direction::In, &frame(&interaction(3, "push", 91))),
        ],
    );
    let told = told(&pipeline);
    let commands = told.iter().filter_map(|what| if let Discord::Command { name } = what { Some(*name) } else { None });
    let commands: Vec<_> = commands.map(|name| pipeline.names.symbols.text(name)).collect();
    assert_eq!(commands, ["sing"]);
    let replies: Vec<_> = told.iter().filter(|what| matches!(what, Discord::Reply { .. })).collect();
    let [Discord::Reply { kind: ReplyKind::Interaction, duration: Nanos(40_000), .. }] = replies[..] else {
        panic!("{replies:?}")
    };
}

#[test]
fn guilds_are_those_that_were_named_and_joined_and_not_left() {
    let mut pipeline = connected();
    let guild = |what: &str, rest: &str| frame(&format!(r#"{{"t":"GUILD_{what}","s":2,"op":0,"d":{{{rest}}}}}"#));
    for (at, payload) in [
        guild("CREATE", r#""id":"11""#),
        guild("CREATE", r#""id":"12""#),
        guild("CREATE", r#""id":"12""#),
        guild("DELETE", r#""id":"12","unavailable":true"#),
        guild("CREATE", r#""id":"13""#),
        guild("DELETE", r#""id":"11""#),
    ]
    .iter()
    .enumerate()
    {
        tell(&mut pipeline, &[plain(20_000 + at as u64, GATEWAY, Direction::In, payload)]);
    }
    let counts = told(&pipeline).into_iter();
    let counts: Vec<_> =
        counts.filter_map(|what| if let Discord::Guilds(count) = what { count } else { None }).collect();
    assert_eq!(counts, [0, 1, 2, 3, 2], "one is told when it changes");
}

#[test]
fn a_process_turns_out_to_be_a_bot_once() {
    let mut pipeline = connected();
    assert_eq!(pipeline.take_new_bots(), [Tgid(TGID)]);
    assert_eq!(pipeline.take_new_bots(), []);
}

#[test]
fn where_records_were_lost_no_reply_is_told() {
    let message =
        r#"{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{"type":0,"id":"900","channel_id":"5","author":{"id":"8"}}}"#;
    let post = b"POST /api/v10/channels/5/messages HTTP/1.1\r\nHost: discord.com\r\nContent-Type: application/json\r\n\
        Content-Length: 15\r\n\r\n{\"content\":\"a\"}";
    // So late that nobody who wrote before the bot was watched still waits.
    const LATER: u64 = 3_600_000_000_000;
    for (lost, replies) in [(0_u32, 1), (1, 0)] {
        let mut pipeline = connected();
        let mut elsewhere = plain(LATER + 30_000, VOICE, Direction::In, b"anything");
        let place = std::mem::offset_of!(DataRecord, lost);
        elsewhere[place..place + 4].copy_from_slice(&lost.to_ne_bytes());
        tell(
            &mut pipeline,
            &[
                plain(LATER + 20_000, GATEWAY, Direction::In, &frame(message)),
                elsewhere,
                plain(LATER + 50_000, API, Direction::Out, post),
                plain(LATER + 90_000, API, Direction::In, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
            ],
        );
        pipeline.tick(Nanos(2 * LATER));
        let told = told(&pipeline);
        assert_eq!(
            told.iter().filter(|what| matches!(what, Discord::Reply { .. })).count(),
            replies,
            "{lost}: {told:?}"
        );
    }
}

#[test]
fn events_over_the_cap_are_other_and_what_has_no_ids_is_told() {
    let mut pipeline = connected();
    for number in 0..200_u8 {
        let name: String = [number / 26, number % 26].map(|digit| char::from(b'A' + digit)).iter().collect();
        let event = frame(&format!(r#"{{"t":"EVENT_{name}","s":2,"op":0,"d":{{}}}}"#));
        tell(&mut pipeline, &[plain(20_000 + u64::from(number), GATEWAY, Direction::In, &event)]);
    }
    let overflow = |seen: &Observation| matches!(seen, Observation::LabelOverflow { label: "event" });
    // READY was the first of 128.
    assert_eq!(pipeline.sink.count(overflow), 200 - 127);
    for (number, text) in [
        r#"{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{"type":0,"channel_id":"5","author":{"id":"8"}}}"#,
        r#"{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{"type":0,"id":"900","author":{"id":"8"}}}"#,
        r#"{"t":"MESSAGE_CREATE","s":2,"op":0,"d":{"type":0,"channel_id":"5","author":{"id":"8","bot":true}}}"#,
        r#"{"t":"INTERACTION_CREATE","s":2,"op":0,"d":{"type":2,"id":"90","user":{"id":"8"}}}"#,
    ]
    .iter()
    .enumerate()
    {
        tell(&mut pipeline, &[plain(30_000 + number as u64, GATEWAY, Direction::In, &frame(text))]);
    }
    let truncated =
        |seen: &Observation| matches!(seen, Observation::Unmatched { reason: Unmatched::HeadTruncated, .. });
    assert_eq!(pipeline.sink.count(truncated), 3, "of a bot's message nothing is wanted");
}

#[test]
fn voice_is_what_goes_over_udp_to_where_its_server_said() {
    let mut pipeline = connected();
    tell(
        &mut pipeline,
        &[
            plain(30_000, VOICE, Direction::Out, &upgrade("rotterdam1.discord.media")),
            plain(31_000, VOICE, Direction::In, SWITCHED),
            plain(32_000, VOICE, Direction::In, &frame(r#"{"op":2,"d":{"ssrc":1,"ip":"192.0.2.1","port":50007}}"#)),
        ],
    );
    for (fd, port) in [(20, 50_007_u16), (21, 53)] {
        let mut address = [0; miku_probe_abi::ADDRESS_MAX];
        address[..2].copy_from_slice(&2_u16.to_ne_bytes());
        address[2..4].copy_from_slice(&port.to_be_bytes());
        address[4..8].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 1).octets());
        let record = OpenRecord {
            header: header(RecordKind::Open, 40_000, size_of::<OpenRecord>()),
            generation: 40_000,
            socket: 0,
            fd,
            result: 0,
            origin: Origin::FirstSeen as u8,
            socket_type: 2,
            padding: [0; 2],
            address_length: 16,
            address,
        };
        pipeline.record(bytes_of(&record));
        let id = ConnId { tgid: Tgid(TGID), handle: Handle::Socket(fd), generation: Nanos(40_000) };
        pipeline.moved(id, 300, 5_000);
    }
    let voice: Vec<_> = told(&pipeline)
        .into_iter()
        .filter_map(|what| if let Discord::Voice { direction, bytes } = what { Some((direction, bytes)) } else { None })
        .collect();
    assert_eq!(voice, [(Direction::In, 300), (Direction::Out, 5_000)]);
}
