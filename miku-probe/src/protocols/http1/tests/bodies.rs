//! Bodies, answers' heads and other protocols, for those who want them.

use super::super::testing::{Capture, Piece, Told, Watched};
use super::super::{Answer, Coding, ExchangeId, Interest, Media, Protocol, Role};
use super::{GET, OK, only};
use crate::observations::Outcome;
use crate::protocols::http1::{Direction, Event, Listener, Machine, Request, Segment};
use crate::units::{Nanos, Side};

fn curious() -> Watched {
    Watched::wanting(Interest::Whole, Capture::Whole)
}

/// Role, time, whether it is the segment's first, offset, and bytes or their number.
type Short<'a> = (Role, u64, bool, u64, Result<&'a [u8], u64>);

fn short(piece: &Piece) -> Short<'_> {
    (piece.role, piece.time, piece.first, piece.offset, piece.bytes.as_deref().map_err(|size| *size))
}

fn pieces(watched: &Watched) -> Vec<Short<'_>> {
    watched.pieces.iter().map(short).collect()
}

const CHAT: &str = "POST /v1/chat HTTP/1.1\r\nhost: llm\r\ncontent-type: application/json; charset=utf-8\r\n\
    content-length: 6\r\n\r\n";

#[test]
fn bodies_and_heads_are_told_in_order() {
    let mut bot = curious();
    bot.sends(format!("{CHAT}abc")).sends("def");
    bot.receives("HTTP/1.1 100 Continue\r\n\r\n");
    bot.receives("HTTP/1.1 200 OK\r\nContent-Type: TEXT/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    bot.receives("4\r\nWiki\r\n3;x=y\r\npe").receives("d\r").receives("\n0\r\n\r\n");
    let (media, coding) = (Media::EventStream, Coding::Plain);
    let answer = Answer { id: ExchangeId::default(), status: Some(200), time: Nanos(4), media, coding };
    assert_eq!(bot.told[..3], [Told::Began, Told::Asked(2), Told::Answered(answer)]);
    assert_eq!(only(&bot).outcome, Outcome::Complete);
    assert_eq!(
        pieces(&bot),
        [
            (Role::Request, 1, true, 0, Ok(&b"abc"[..])),
            (Role::Request, 2, true, 3, Ok(b"def")),
            (Role::Response, 5, true, 0, Ok(b"Wiki")),
            (Role::Response, 5, false, 4, Ok(b"pe")),
            (Role::Response, 6, true, 6, Ok(b"d")),
        ]
    );
}

#[test]
fn only_what_is_wanted_is_told() {
    let mut bot = Watched::wanting(Interest::Request, Capture::Whole);
    bot.sends(format!("{CHAT}abcdef")).receives(OK);
    assert_eq!(pieces(&bot), [(Role::Request, 1, true, 0, Ok(&b"abcdef"[..]))]);
    assert!(matches!(bot.told[2], Told::Answered(Answer { media: Media::Undeclared, .. })), "{:?}", bot.told);
}

#[test]
fn pipelined_bodies_are_told_apart() {
    let mut bot = curious();
    bot.receives(format!("{CHAT}abcdef").repeat(2)).sends(OK.repeat(2));
    let ids = &bot.ids;
    assert_ne!(ids[0], ids[1]);
    let owners: Vec<_> = bot.pieces.iter().map(|piece| (piece.role, piece.id)).collect();
    let (request, response) = (Role::Request, Role::Response);
    assert_eq!(owners, [(request, ids[0]), (request, ids[1]), (response, ids[0]), (response, ids[1])]);
}

#[test]
fn bytes_that_are_not_known_are_counted() {
    let mut bot = curious();
    bot.sends("POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n");
    bot.partly(Direction::Out, 60, b"first", b"in front").partly(Direction::Out, 40, b"more", b"the tail");
    assert_eq!(
        pieces(&bot),
        [
            (Role::Request, 2, true, 0, Ok(&b"first"[..])),
            (Role::Request, 2, false, 5, Err(47)),
            (Role::Request, 2, false, 52, Ok(b"in front")),
            (Role::Request, 3, true, 60, Ok(b"more")),
            (Role::Request, 3, false, 64, Err(28)),
            (Role::Request, 3, false, 92, Ok(b"the tail")),
        ]
    );
}

#[test]
fn a_segment_that_is_one_chunk_keeps_the_framing() {
    let mut bot = curious();
    bot.sends(GET).receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    bot.partly(Direction::In, 4 + 0x30 + 2, b"30\r\ndata: {\"id\"", b"\":1}\n\n\r\n");
    bot.receives("0\r\n").receives("\r\n");
    assert_eq!(
        pieces(&bot),
        [
            (Role::Response, 3, true, 0, Ok(&b"data: {\"id\""[..])),
            (Role::Response, 3, false, 11, Err(0x30 - 11 - 6)),
            (Role::Response, 3, false, 42, Ok(b"\":1}\n\n")),
        ]
    );
    assert_eq!(only(&bot).outcome, Outcome::Complete);
}

#[test]
fn where_framing_is_lost_only_sizes_are_told() {
    let mut bot = curious();
    bot.sends(GET).receives("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    bot.partly(Direction::In, 500, b"30\r\ndata: {\"id\"", b"\n\n\r\n");
    bot.receives("2\r\nhi\r\n").receives("0\r\n\r\n");
    let sizes: Vec<_> =
        bot.pieces.iter().map(|piece| (piece.time, piece.bytes.as_deref().map_err(|size| *size))).collect();
    assert_eq!(sizes, [(3, Ok(&b"data: {\"id\""[..])), (3, Err(481)), (3, Err(4)), (4, Err(7)), (5, Err(5))]);
    assert_eq!(only(&bot).outcome, Outcome::Complete);
}

#[test]
fn what_is_compressed_is_only_timed() {
    for coding in ["Content-Encoding: gzip\r\nContent-Length: 5", "Transfer-Encoding: gzip, chunked"] {
        let body = if coding.contains("chunked") { "5\r\nhello\r\n0\r\n\r\n" } else { "hello" };
        let mut bot = curious();
        bot.sends(GET).receives(format!("HTTP/1.1 200 OK\r\n{coding}\r\n\r\n{body}"));
        assert_eq!(pieces(&bot), [(Role::Response, 2, true, 0, Err(5))], "{coding}");
    }
    let mut bot = curious();
    bot.sends(GET).receives("HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(pieces(&bot), [(Role::Response, 2, true, 0, Ok(&b"hello"[..]))]);
}

#[test]
fn what_has_ended_is_told_no_more_of() {
    let mut bot = curious();
    bot.sends(GET).receives("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").gap().receives("later");
    assert_eq!(bot.pieces.len(), 1);
    bot.sends(GET).receives("HTTP/1.0 200 OK\r\n\r\nsome").receives("text");
    assert_eq!(bot.pieces.len(), 3);
}

#[test]
fn what_follows_an_upgrade_is_handed_over() {
    let ask = "GET /?v=10 HTTP/1.1\r\nHost: gateway.local\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n";
    let became = (Side::Client, Protocol::WebSocket, "gateway.local".to_owned(), "/".to_owned());
    for split in [0, 5, switch.len() - 1] {
        let mut bot = Watched::new(Capture::Whole);
        bot.sends(ask);
        if split > 0 {
            bot.receives(&switch[..split]);
        }
        let bytes = [&switch.as_bytes()[split..], b"\x02\x7e"].concat();
        bot.partly(Direction::In, bytes.len() as u64 + 300, &bytes, b"the tail").sends("\u{1}").receives("\u{2}");
        assert_eq!(bot.became.as_ref(), Some(&became));
        assert_eq!(
            bot.others,
            [
                (302, b"\x02\x7e".to_vec(), b"the tail".to_vec()),
                (1, b"\x01".to_vec(), Vec::new()),
                (1, b"\x02".to_vec(), Vec::new())
            ]
        );
    }
    let mut bot = Watched::new(Capture::Whole);
    bot.sends(ask).receives(switch);
    assert_eq!((bot.others.len(), bot.became.as_ref()), (0, Some(&became)));
}

#[test]
fn a_tunnel_is_told_with_its_host() {
    let mut bot = Watched::new(Capture::Whole);
    bot.sends("CONNECT api.local:443 HTTP/1.1\r\n\r\n").receives("HTTP/1.1 200 OK\r\n\r\n").sends("\u{16}");
    assert_eq!(bot.became, Some((Side::Client, Protocol::Tunnel, "api.local:443".to_owned(), String::new())));
    assert_eq!(bot.others, [(1, b"\x16".to_vec(), Vec::new())]);
}

#[test]
fn an_upgrade_whose_head_is_not_known_whole_hands_over_what_comes_later() {
    let mut bot = Watched::new(Capture::Whole);
    bot.sends(GET)
        .partly(Direction::In, 900, b"HTTP/1.1 101 Switching", b"\x82\x01a\x82\x01b\x82\x01")
        .receives("\u{2}");
    assert_eq!(bot.became.as_ref().map(|became| became.1), Some(Protocol::Other));
    assert_eq!(bot.others, [(1, b"\x02".to_vec(), Vec::new())]);
}

#[test]
fn bodies_are_in_no_debug_output() {
    struct Shown(Vec<String>);
    impl Listener for Shown {
        fn tell(&mut self, event: Event<'_>) {
            self.0.push(format!("{event:?}"));
        }
        fn interest(&mut self, _: &Request<'_>) -> Interest {
            Interest::Whole
        }
    }
    let mut shown = Shown(Vec::new());
    let mut machine = Machine::default();
    let bytes = format!("{CHAT}canary");
    let segment = Segment {
        time: Nanos(1),
        direction: Direction::Out,
        size: bytes.len() as u64,
        prefix: bytes.as_bytes(),
        tail: b"",
    };
    machine.segment(&segment, &mut shown);
    assert!(
        shown.0.iter().any(|event| event.contains("Known")) && !shown.0.concat().contains("canary"),
        "{:?}",
        shown.0
    );
}
