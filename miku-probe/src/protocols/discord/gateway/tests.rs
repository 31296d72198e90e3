//! By example.

use super::testing::{ACK, Bot, HELLO, beat, control, dispatch, line, socket, stream};
use super::{CONNECTIONS_MAX, OPENED_MAX, SESSIONS_MAX, is_gateway_host};
use crate::protocols::http1::End;
use crate::protocols::websocket::{Machine, Segment};
use crate::units::Direction::{In, Out};
use crate::units::Nanos;

const INTERVAL: u64 = 41_250;

/// What is told when a connection is made.
fn connected(shard: u32) -> Vec<String> {
    ["beat 90", "is up", "READY", "started"].iter().map(|what| format!("{shard} {what}")).collect()
}

#[test]
fn the_hosts_of_the_gateway() {
    for host in ["gateway.discord.gg", "gateway.discord.gg:443", "Gateway-us-east1-b.discord.GG"] {
        assert!(is_gateway_host(host), "{host}");
    }
    for host in
        ["discord.gg", "gateway.discord.com", "x.gateway.discord.gg", "gateway.discord.gg.evil", "gateway.x.discord.gg"]
    {
        assert!(!is_gateway_host(host), "{host}");
    }
}

#[test]
fn a_connection_from_its_opening() {
    let mut bot = Bot::new();
    bot.connects(1, None);
    assert_eq!(bot.news(), connected(0));
    bot.hears(1, &dispatch("MESSAGE_CREATE", 2, r#"{"id":"5"}"#));
    bot.waits(INTERVAL).says(1, &beat(2)).waits(104).hears(1, ACK);
    bot.waits(INTERVAL).says(1, &beat(2)).waits(95).hears(1, ACK);
    assert_eq!(bot.news(), ["0 MESSAGE_CREATE", "0 beat 104", "0 beat 95"]);
}

#[test]
fn in_mid_life_everything_counts_from_the_next_frame_on() {
    // The first thing seen is a dispatch, then a heartbeat of which nobody knows whose it is, then its ack.
    let mut bot = Bot::new();
    bot.hears(1, &dispatch("MESSAGE_CREATE", 250, "{}"));
    assert_eq!(bot.news(), ["? MESSAGE_CREATE"]);
    bot.says(1, &beat(250));
    assert_eq!(bot.news(), [""; 0]);
    bot.waits(80).hears(1, ACK);
    assert_eq!(bot.news(), ["? beat 80", "? is up"]);

    // A heartbeat.
    let mut bot = Bot::new();
    bot.says(1, &beat(250)).waits(80).hears(1, ACK).hears(1, &dispatch("TYPING_START", 251, "{}"));
    assert_eq!(bot.news(), ["? beat 80", "? is up", "? TYPING_START"]);

    // An ack: its heartbeat was not seen, but acks come.
    let mut bot = Bot::new();
    bot.hears(1, ACK);
    assert_eq!(bot.news(), ["? is up"]);
    bot.waits(INTERVAL).says(1, &beat(250)).waits(80).hears(1, ACK);
    assert_eq!(bot.news(), ["? beat 80"]);
}

#[test]
fn an_ack_that_was_on_its_way_when_the_watching_began_is_nobodys() {
    let mut bot = Bot::new();
    bot.time -= 59_000;
    bot.says(1, &beat(5)).waits(80).hears(1, ACK);
    assert_eq!(bot.news(), ["? is up"], "it may be another connection's");
    bot.waits(INTERVAL).says(1, &beat(5)).waits(80).hears(1, ACK);
    assert_eq!(bot.news(), ["? beat 80"]);
}

#[test]
fn a_missed_heartbeat_and_the_doubt_after_it() {
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(INTERVAL).says(1, &beat(1));
    assert_eq!(bot.news(), ["0 missed", "0 is down"]);
    bot.waits(70).hears(1, ACK);
    assert_eq!(bot.news(), ["0 is up"], "nobody knows which of the two was acked");
    bot.waits(INTERVAL).says(1, &beat(1)).waits(70).hears(1, ACK);
    assert_eq!(bot.news(), ["0 beat 70"]);
}

#[test]
fn acks_too_many() {
    let mut bot = Bot::new();
    bot.connects(1, None).hears(1, ACK).hears(1, ACK).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(70).hears(1, ACK).hears(1, ACK);
    assert_eq!(bot.news(), ["0 beat 70"]);
}

#[test]
fn a_heartbeat_that_discord_asked_for_is_one_more() {
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(20).hears(1, &control(1, "null")).says(1, &beat(1));
    bot.waits(50).hears(1, ACK).waits(20).hears(1, ACK);
    assert_eq!(bot.news(), ["0 beat 70", "0 beat 70"]);
}

#[test]
fn lost_records_are_not_missed_acks() {
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).loses_pieces(1).waits(INTERVAL).says(1, &beat(1)).waits(70).hears(1, ACK);
    assert_eq!(bot.news(), ["0 beat 70"]);
}

#[test]
fn a_bot_gives_up_a_connection_that_is_dead() {
    // discord.py goes on with heartbeats, and closes a minute after the last ack.
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(INTERVAL).says(1, &beat(1)).waits(20_000).closes(1, Out, 4000);
    bot.ends(1, End::Over).frees(1);
    assert_eq!(bot.news(), ["0 missed", "0 is down", "0 reconnects: missed_heartbeat 4000"]);
    // Others close where the next heartbeat would be due.
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(INTERVAL).closes(1, Out, 1000).ends(1, End::Over);
    assert_eq!(bot.news(), ["0 missed", "0 reconnects: missed_heartbeat 1000", "0 is down"]);
    // A heartbeat on its way is no reason.
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).says(1, &beat(1)).waits(10).closes(1, Out, 4000).ends(1, End::Over);
    assert_eq!(bot.news(), ["0 reconnects: unknown 4000", "0 is down"]);
}

#[test]
fn why_a_connection_ends() {
    type Way = fn(&mut Bot);
    let ways: [(&str, Way); 12] = [
        ("0 reconnects: requested 4000", |bot| _ = bot.hears(1, &control(7, "null")).closes(1, Out, 4000)),
        ("0 reconnects: requested 1001", |bot| _ = bot.hears(1, &control(7, "null")).closes(1, In, 1001)),
        ("0 reconnects: requested 1006", |bot| _ = bot.hears(1, &control(7, "null"))),
        ("0 reconnects: invalid_session 1000", |bot| _ = bot.hears(1, &control(9, "false")).closes(1, Out, 1000)),
        ("0 reconnects: invalid_session 4000", |bot| _ = bot.hears(1, &control(9, "true")).closes(1, Out, 4000)),
        ("0 reconnects: closed 1000", |bot| _ = bot.closes(1, In, 1000).closes(1, Out, 1000)),
        ("0 reconnects: closed 1001", |bot| _ = bot.closes(1, In, 1001).closes(1, Out, 1001)),
        ("0 reconnects: network 1006", |_| ()),
        ("0 reconnects: network 1006", |bot| _ = bot.ends(1, End::Reset)),
        ("0 reconnects: network 1006", |bot| _ = bot.ends(1, End::PeerFinished).ends(1, End::LocalClosed)),
        ("0 reconnects: unknown -", |bot| _ = bot.loses_frames(1, In)),
        ("0 reconnects: unknown 4000", |bot| _ = bot.closes(1, Out, 4000)),
    ];
    for (expected, way) in ways {
        let mut bot = Bot::new();
        bot.connects(1, None).news();
        way(&mut bot);
        bot.ends(1, End::Over).frees(1);
        assert_eq!(bot.news(), [expected, "0 is down"]);
    }
    for code in 4000..=4014 {
        let mut bot = Bot::new();
        bot.connects(1, None).news();
        bot.closes(1, In, code).closes(1, Out, code).ends(1, End::Over);
        assert_eq!(bot.news(), [format!("0 reconnects: closed {code}"), "0 is down".into()]);
    }
}

#[test]
fn a_bot_that_goes_for_good_does_not_reconnect() {
    for code in [1000, 1001] {
        let mut bot = Bot::new();
        bot.connects(1, None).news();
        bot.closes(1, Out, code).closes(1, In, code).ends(1, End::LocalClosed).frees(1);
        assert_eq!(bot.news(), ["0 is down"]);
    }
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.ends(1, End::Detached);
    assert_eq!(bot.news(), ["0 is gone"], "nobody watches it any more");
}

#[test]
fn a_session_is_resumed_by_its_own_shard() {
    let mut bot = Bot::new();
    bot.connects(1, Some((3, 8))).news();
    bot.hears(1, &control(7, "null")).closes(1, Out, 4000).ends(1, End::Over).news();
    // The old stream is freed late, as garbage is.
    bot.opens(2, "gateway.discord.gg").hears(2, HELLO).frees(1).says(2, &beat(1));
    bot.says(2, r#"{"op":6,"d":{"token":"secret","session_id":"session 1","seq":1}}"#).waits(80).hears(2, ACK);
    bot.hears(2, &dispatch("MESSAGE_CREATE", 2, "{}")).hears(2, &dispatch("RESUMED", 3, "{}"));
    assert_eq!(bot.news(), ["3 beat 80", "3 is up", "3 MESSAGE_CREATE", "3 RESUMED", "3 resumed"]);
    // It is refused, and begun anew over the same connection: that is no reconnect.
    bot.hears(2, &control(9, "false")).says(2, r#"{"op":2,"d":{"shard":[3,8],"token":"secret"}}"#);
    bot.hears(2, &dispatch("READY", 1, r#"{"session_id":"b","shard":[3,8]}"#)).ends(2, End::Over);
    assert_eq!(bot.news(), ["3 READY", "3 started", "3 reconnects: network 1006", "3 is down"]);
}

#[test]
fn a_connection_of_which_the_end_is_not_seen_is_over_when_its_session_is_resumed() {
    let mut bot = Bot::new();
    bot.connects(1, Some((3, 8))).news();
    bot.opens(2, "gateway.discord.gg").hears(2, HELLO).says(2, &beat(1));
    bot.says(2, r#"{"op":6,"d":{"seq":1,"session_id":"session 1","token":"secret"}}"#);
    assert_eq!(bot.news(), ["3 reconnects: network 1006", "3 is down"]);
    bot.waits(80).hears(2, ACK).hears(2, &dispatch("RESUMED", 2, "{}")).ends(1, End::Over).frees(1);
    assert_eq!(bot.news(), ["3 beat 80", "3 is up", "3 RESUMED", "3 resumed"]);
}

#[test]
fn what_was_connected_before_the_watching_comes_back_under_its_number() {
    let mut bot = Bot::new();
    bot.says(1, &beat(250)).waits(80).hears(1, ACK).hears(1, &dispatch("X", 251, "{}")).news();
    bot.closes(1, In, 4009).ends(1, End::Over).frees(1);
    assert_eq!(bot.news(), ["? reconnects: closed 4009", "? is down"]);
    bot.waits(1000).connects(2, None);
    let news = bot.news();
    assert_eq!(news, ["0 beat 90", "? is gone", "0 is up", "0 READY", "0 started"]);
}

#[test]
fn several_shards_in_one_process() {
    let mut bot = Bot::new();
    for shard in 0..5 {
        bot.connects(shard.into(), Some((shard, 5)));
        assert_eq!(bot.news(), connected(shard));
    }
    bot.waits(INTERVAL);
    for shard in 0..5 {
        bot.says(shard, &beat(1)).waits(10);
    }
    for shard in [3, 0, 4, 1, 2] {
        bot.hears(shard, ACK);
    }
    assert_eq!(bot.news(), ["3 beat 20", "0 beat 50", "4 beat 10", "1 beat 40", "2 beat 30"]);
    bot.closes(4, In, 4000).hears(2, &dispatch("X", 2, "{}")).ends(2, End::Reset);
    assert_eq!(
        bot.news(),
        ["4 reconnects: closed 4000", "4 is down", "2 X", "2 reconnects: network 1006", "2 is down"]
    );
}

#[test]
fn shards_that_open_at_once_wait_until_it_is_clear_which_stream_is_whose() {
    let mut bot = Bot::new();
    for shard in [0, 1] {
        bot.opens(shard, "gateway.discord.gg").hears(shard, HELLO);
    }
    for shard in [0, 1] {
        bot.says(shard, &beat("null")).says(shard, &format!(r#"{{"op":2,"d":{{"shard":[{shard},2],"token":"x"}}}}"#));
    }
    bot.hears(1, ACK).hears(0, ACK);
    assert_eq!(bot.news(), ["? is up"]);
    for shard in [0, 1] {
        bot.hears(shard, &dispatch("READY", 1, &format!(r#"{{"shard":[{shard},2]}}"#)));
    }
    assert_eq!(bot.news(), ["0 READY", "0 started", "0 is up", "1 READY", "1 started", "? is gone", "1 is up"]);
    for shard in [0, 1] {
        bot.waits(5000).says(shard, &beat(1)).waits(70 + shard).hears(shard, ACK);
    }
    assert_eq!(bot.news(), ["0 beat 70", "1 beat 71"]);
}

#[test]
fn in_mid_life_shards_are_told_apart_by_the_numbers_they_name() {
    let mut bot = Bot::new();
    let mut sequence = [100, 7000];
    for round in 0..3 {
        for shard in [0, 1] {
            sequence[shard] += 1;
            bot.hears(shard as u64, &dispatch("X", sequence[shard], "{}"));
        }
        // Always at once, so that no ack tells.
        bot.says(0, &beat(sequence[0])).says(1, &beat(sequence[1])).waits(60).hears(1, ACK).waits(5).hears(0, ACK);
        let beats: Vec<_> = bot.news().into_iter().filter(|line| line.contains("beat")).collect();
        assert_eq!(beats, if round == 0 { vec![] } else { vec!["? beat 60", "? beat 65"] }, "round {round}");
        bot.waits(INTERVAL);
    }
}

#[test]
fn two_connections_of_one_number_are_not_guessed_apart() {
    let mut bot = Bot::new();
    for _ in 0..3 {
        for shard in [0, 1] {
            bot.hears(shard, &dispatch("X", 5, "{}"));
        }
        bot.says(0, &beat(5)).says(1, &beat(5)).waits(60).hears(1, ACK).hears(0, ACK).waits(INTERVAL);
    }
    assert!(bot.news().iter().all(|line| !line.contains("beat") && !line.contains("missed")), "{:?}", bot.lines);
    // Alone, each is certain.
    bot.says(1, &beat(5)).waits(61).hears(1, ACK).waits(100).says(0, &beat(5)).waits(62).hears(0, ACK);
    assert_eq!(bot.news(), ["? beat 61", "? beat 62"]);
}

#[test]
fn an_ack_to_one_of_several_heartbeats_leaves_the_others_open() {
    let mut bot = Bot::new();
    bot.hears(0, &dispatch("X", 402, "{}")).says(2, &beat(1)).says(0, &beat(402)).hears(0, ACK);
    // Three were sent and two are acked, so one of them is still open when another websocket speaks.
    bot.says(0, &beat(402)).hears(2, ACK).says(1, &beat(1)).waits(3).hears(0, ACK);
    assert_eq!(bot.news(), ["? X", "? is up"], "it may be to the second one of the first websocket");
}

#[test]
fn nothing_is_missed_where_acks_cannot_be_seen() {
    let mut bot = Bot::new();
    bot.opens(1, "gateway.discord.gg");
    for _ in 0..4 {
        bot.says(1, &beat("null")).waits(INTERVAL);
    }
    bot.closes(1, Out, 4000).ends(1, End::Over);
    assert_eq!(bot.news(), ["? reconnects: unknown 4000"]);
}

#[test]
fn uncompressed_connections_need_no_stream() {
    let mut bot = Bot::new();
    bot.opens(1, "127.0.0.1:8080").reads(1, HELLO).waits(10).says(1, &beat("null")).waits(30).reads(1, ACK);
    bot.reads(1, &dispatch("READY", 1, r#"{"session_id":"a","shard":[0,1]}"#)).reads(1, &dispatch("X", 2, "{}"));
    assert_eq!(bot.news(), ["? beat 30", "? is up", "0 READY", "0 started", "? is gone", "0 is up", "0 X"]);
    bot.reads(1, r#"{"t":"X","s":3,"op":0,"d":{"#).reads(1, &control(7, "null")).closes(1, Out, 4000);
    assert_eq!(bot.news(), ["0 unreadable", "0 reconnects: requested 4000", "0 is down"]);

    // What does not even begin like a payload is told where one is due.
    let mut bot = Bot::new();
    bot.opens(1, "127.0.0.1:8080").reads(1, "null").reads(1, HELLO).reads(1, "null").reads(1, "").says(1, "null");
    assert_eq!(bot.news(), ["? unreadable", "? unreadable"]);

    // In mid-life, beside a compressed one.
    let mut bot = Bot::new();
    bot.reads(1, &dispatch("X", 2, "{}")).says(1, &beat(2)).says(2, &beat(9)).waits(20).hears(2, ACK).reads(1, ACK);
    assert_eq!(bot.news(), ["? X", "? beat 20", "? is up", "? beat 20"]);
}

#[test]
fn what_is_not_the_gateways_is_nothing() {
    let mut bot = Bot::new();
    bot.opens(1, "chat.example").opens(2, "c-iad01.discord.media");
    for text in [
        r#"{"type":"message","d":1}"#,
        r#"{"op":"subscribe","d":null}"#,
        r#"{"op":0,"d":{"server_id":"1","user_id":"2","session_id":"3","token":"4"}}"#,
        r#"{"op":1,"d":{"protocol":"udp","data":{}}}"#,
        r#"{"op":3,"d":1501184119561}"#,
        r#"{"op":5,"d":{"speaking":5}}"#,
        r#"{"op":7,"d":{"server_id":"1","session_id":"2","token":"3"}}"#,
        r#"{"op":1}"#,
        r#"{"op":2,"d":{}}"#,
        "{",
        "",
        "\u{0}",
    ] {
        bot.says(1, text).says(2, text).says(3, text).reads(1, text).reads(2, text).reads(3, text);
    }
    // A gateway of one's own, seen from its server.
    for text in [HELLO, ACK, &dispatch("READY", 1, "{}")] {
        bot.says(4, text);
    }
    bot.reads(4, &beat("null")).reads(4, r#"{"op":2,"d":{"token":"secret"}}"#);
    for number in 1..5 {
        bot.closes(number, In, 4000).ends(number, End::Reset);
    }
    assert_eq!(bot.news(), [""; 0]);
    assert!(bot.gateways.connections.is_empty() && bot.gateways.opened.is_empty());
}

#[test]
fn messages_in_pieces() {
    let mut bot = Bot::new();
    let text = dispatch("MESSAGE_CREATE", 2, r#"{"content":"long","channel_id":"7"}"#);
    let (first, rest) = text.split_at(50);
    bot.hears_piece(1, "goes on with what was not seen", false, true, 30);
    bot.hears_piece(1, first, true, false, 50).hears_piece(1, rest, false, true, rest.len());
    assert_eq!(bot.news(), ["? MESSAGE_CREATE"]);
    // Only the start is known; then the end is lost; then the end of the next.
    bot.hears_piece(1, first, true, false, 50).hears_piece(1, "", false, true, 9000);
    assert_eq!(bot.news(), ["? MESSAGE_CREATE"]);
    bot.hears_piece(1, first, true, false, 50).hears(1, &text);
    assert_eq!(bot.news(), ["? MESSAGE_CREATE", "? MESSAGE_CREATE"]);
    bot.hears_piece(1, first, true, false, 50).frees(1).frees(1);
    assert_eq!(bot.news(), ["? MESSAGE_CREATE"]);
}

#[test]
fn an_end_that_only_the_stream_shows() {
    let mut bot = Bot::new();
    bot.hears(1, ACK).hears(1, &control(7, "null")).frees(1);
    assert_eq!(bot.news(), ["? is up", "? reconnects: requested -", "? is down"]);
    // A websocket ended, and may have been its own: told once.
    let mut bot = Bot::new();
    bot.opens(1, "gateway.discord.gg").hears(1, ACK).hears(1, &control(7, "null")).closes(1, In, 4000).frees(1);
    assert_eq!(bot.news(), ["? is up", "? reconnects: closed 4000", "? is down"]);
}

#[test]
fn a_stream_used_again_is_another_connection() {
    let mut bot = Bot::new();
    bot.connects(1, Some((0, 2))).closes(1, In, 4000).ends(1, End::Over).news();
    bot.opens(2, "gateway.discord.gg").hears(1, HELLO).says(2, &beat(1)).waits(40).hears(1, ACK);
    assert_eq!(bot.news(), ["? beat 40", "? is up"]);
}

#[test]
fn without_acks_for_too_long_it_is_not_up() {
    let mut bot = Bot::new();
    bot.connects(1, None).news();
    bot.waits(INTERVAL).ticks().waits(20_000).ticks();
    assert_eq!(bot.news(), [""; 0]);
    bot.waits(1000).ticks().ticks();
    assert_eq!(bot.news(), ["0 is down"], "the bot says nothing any more");
    bot.says(1, &beat(1)).waits(50).hears(1, ACK).ticks();
    assert_eq!(bot.news(), ["0 beat 50", "0 is up"]);
}

#[test]
fn intervals_that_nobody_lives_to_see() {
    for interval in ["0", "1", "18446744073709551615", "-5", "1e400", "null"] {
        let mut bot = Bot::new();
        bot.opens(1, "gateway.discord.gg").hears(1, &control(10, &format!(r#"{{"heartbeat_interval":{interval}}}"#)));
        bot.says(1, &beat("null")).waits(50).hears(1, ACK).ticks();
        assert_eq!(bot.news()[0], "? beat 50", "{interval}");
    }
}

#[test]
fn tables_are_bounded() {
    let mut bot = Bot::new();
    let many = 2 * CONNECTIONS_MAX as u64;
    for number in 0..many {
        bot.opens(number, "chat.example").says(many + number, &beat(1)).hears(number, ACK);
        let session = dispatch("READY", 1, &format!(r#"{{"session_id":"{number}","shard":[{number},9999]}}"#));
        bot.hears(0, &session);
    }
    assert_eq!(bot.gateways.connections.len(), CONNECTIONS_MAX);
    assert_eq!((bot.gateways.opened.len(), bot.gateways.sessions.len()), (OPENED_MAX, SESSIONS_MAX));
    assert!(bot.news().contains(&"? refused".to_string()));
    for number in 0..2 * many {
        bot.ends(number, End::Over).frees(number);
    }
    assert!(bot.gateways.connections.is_empty(), "{:?}", bot.gateways.connections[0]);
    assert_ne!(socket(0), stream(0));
}

#[test]
fn from_bytes_on_a_connection_to_what_they_mean() {
    // The bytes of a session in mid-life: a heartbeat in two writes, a push of the bot, a close by Discord with code 4009.
    let mut bot = Bot::new();
    let mut machine = Machine::mid_life();
    let mut moved = |bot: &mut Bot, direction, bytes: &[u8]| {
        let time = Nanos(bot.time * 1_000_000);
        let segment = Segment { time, direction, size: bytes.len() as u64, prefix: bytes, tail: b"" };
        let mut lines = Vec::new();
        machine.segment(&segment, &mut |event| {
            bot.gateways.websocket(socket(1), &event, None, &mut |told| lines.push(line(&told)));
        });
        bot.lines.extend(lines);
    };
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let masked =
        |text: &str| text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect::<Vec<u8>>();
    let heartbeat = masked(&beat(251));
    let head = [&[0x81, 0x80 | heartbeat.len() as u8][..], &mask].concat();
    bot.hears(1, &dispatch("MESSAGE_CREATE", 251, "{}"));
    moved(&mut bot, In, b"\x82\x05\x78\x9c\x01\x02\x03");
    moved(&mut bot, Out, &head);
    moved(&mut bot, Out, &heartbeat);
    bot.waits(66);
    moved(&mut bot, In, b"\x82\x02\x7b\x7d");
    bot.hears(1, ACK);
    assert_eq!(bot.news(), ["? MESSAGE_CREATE", "? beat 66", "? is up"]);
    moved(&mut bot, In, b"\x88\x02\x0f\xa9");
    bot.ends(1, End::Over);
    assert_eq!(bot.news(), ["? reconnects: closed 4009", "? is down"]);
}
