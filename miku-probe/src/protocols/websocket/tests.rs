//! By example; the frames of the first are those of RFC 6455, section 5.7.

use super::testing::{Frame, Message, Told, Watched, text};
use super::{Event, Kind, Machine, Segment};
use crate::protocols::prefix::PREFIX_MAX;
use crate::units::Direction::{In, Out};
use crate::units::{Nanos, Side};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FIN_TEXT: u8 = 0x81;

#[test]
fn the_frames_of_the_specification() {
    let mut watched = Watched::client();
    watched.receives(b"\x81\x05\x48\x65\x6c\x6c\x6f");
    assert_eq!(watched.news(), [text(In, 1, "Hello")]);
    watched.sends(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(watched.news(), [text(Out, 2, "Hello")]);
    watched.receives(b"\x01\x03\x48\x65\x6c").receives(b"\x80\x02\x6c\x6f");
    let Told::Message(hello) = text(In, 4, "Hello") else { unreachable!() };
    assert_eq!(watched.news(), [Told::Message(Message { started: 3, ..hello })]);
    watched.receives(b"\x89\x05\x48\x65\x6c\x6c\x6f").sends(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(watched.news(), [Told::Ping(In, 5), Told::Pong(Out, 6)]);
    for (head, size) in [(&b"\x82\x7e\x01\x00"[..], 256), (b"\x82\x7f\0\0\0\0\0\x01\0\0", 65_536)] {
        watched.receives([head, &vec![7; size]].concat());
        let [Told::Message(message)] = &watched.news()[..] else { panic!("one message") };
        assert_eq!((message.kind, message.size, message.whole), (Kind::Binary, size as u64, size <= PREFIX_MAX));
        assert_eq!(message.bytes, vec![7; size.min(PREFIX_MAX)]);
    }
}

#[test]
fn one_segment_may_bring_several_messages_and_control_frames_between_fragments() {
    let mut watched = Watched::client();
    let frames = [
        Frame::new(0x01, "He"),
        Frame::new(0x89, "ping"),
        Frame::new(0x00, "ll"),
        Frame::new(0x8a, ""),
        Frame::new(0x80, "o"),
        Frame::new(FIN_TEXT, ""),
    ];
    watched.receives(frames.iter().flat_map(Frame::bytes).collect::<Vec<_>>());
    assert_eq!(watched.news(), [Told::Ping(In, 1), Told::Pong(In, 1), text(In, 1, "Hello"), text(In, 1, "")]);
}

#[test]
fn a_close_tells_its_code_and_is_the_last() {
    // The gap is of the direction that is still open.
    let mut watched = Watched::client();
    watched.receives(Frame::new(0x88, "").bytes()).gap();
    assert_eq!(watched.news(), [Told::Close(In, 1, Some(1005)), Told::Lost(Out, 2)]);
    for (payload, known, expected) in [
        (&4004u16.to_be_bytes()[..], 99, Some(4004)),
        (b"\x03\xe9going away", 99, Some(1001)),
        (b"\x03\xe9going away", 4, Some(1001)),
        (b"\x03\xe9going away", 3, None),
        (b"", 99, Some(1005)),
        (b"\x03", 99, None),
    ] {
        let mut watched = Watched::client();
        let bytes = Frame::new(0x88, payload).bytes();
        watched.partly(In, bytes.len() as u64, &bytes[..known.min(bytes.len())], b"");
        watched.receives(Frame::new(FIN_TEXT, "after").bytes());
        assert_eq!(watched.news(), [Told::Close(In, 1, expected)], "{payload:?}");
        watched.sends(Frame::new(0x88, payload).masked(MASK).bytes());
        assert!(matches!(watched.news()[..], [Told::Close(Out, 3, _)]), "{payload:?}");
    }
}

#[test]
fn what_is_compressed_is_told_without_its_bytes() {
    let mut watched = Watched::client();
    // RFC 7692, section 7.2.3.1: "Hello", compressed; in one frame and in two.
    watched.receives(b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00");
    watched.receives(b"\x41\x03\xf2\x48\xcd").receives(b"\x80\x04\xc9\xc9\x07\x00");
    let compressed = |started, time| {
        Told::Message(Message {
            direction: In,
            started,
            time,
            kind: Kind::Text,
            compressed: true,
            size: 7,
            bytes: Vec::new(),
            whole: false,
        })
    };
    assert_eq!(watched.news(), [compressed(1, 1), compressed(2, 3)]);
}

#[test]
fn of_what_is_not_known_only_the_length_is_told() {
    let mut watched = Watched::client();
    let long = Frame::new(FIN_TEXT, vec![b'a'; 40_000]).masked(MASK).bytes();
    watched.partly(Out, 16_384, &long[..4096], &long[16_376..16_384]);
    watched.partly(Out, long.len() as u64 - 16_384, &long[16_384..16_384 + 32], b"");
    watched.sends(Frame::new(FIN_TEXT, "next").masked(MASK).bytes());
    let expected = Message {
        direction: Out,
        started: 1,
        time: 2,
        kind: Kind::Text,
        compressed: false,
        size: 40_000,
        bytes: vec![b'a'; 4096 - 8],
        whole: false,
    };
    assert_eq!(watched.news(), [Told::Message(expected), text(Out, 3, "next")]);
}

#[test]
fn a_frame_whose_head_is_not_known_is_lost_and_the_next_segment_is_looked_at() {
    let mut watched = Watched::client();
    let two = [Frame::new(FIN_TEXT, vec![b'a'; 100]).bytes(), Frame::new(FIN_TEXT, vec![b'b'; 100]).bytes()].concat();
    watched.partly(In, two.len() as u64, &two[..50], &two[two.len() - 8..]);
    let Told::Message(first) = &watched.told[0] else { panic!("{:?}", watched.told) };
    assert_eq!((first.size, first.bytes.len(), first.whole), (100, 48, false));
    assert_eq!(watched.told[1..], [Told::Lost(In, 1)]);
    watched.news();
    watched.receives(b"nothing like a frame").receives(Frame::new(FIN_TEXT, "there").bytes());
    watched.receives([Frame::new(FIN_TEXT, "and").bytes(), Frame::new(0x89, "").bytes()].concat());
    assert_eq!(watched.news(), [text(In, 3, "there"), text(In, 4, "and"), Told::Ping(In, 4)]);
}

#[test]
fn a_gap_loses_the_messages_under_way_and_nothing_else() {
    let mut watched = Watched::client();
    watched.receives(Frame::new(0x01, "begun").bytes()).gap();
    assert_eq!(watched.news(), [Told::Lost(In, 2), Told::Lost(Out, 2)]);
    watched.gap();
    assert_eq!(watched.news(), [], "what is lost is told once");
    watched.receives(Frame::new(0x80, "ended").bytes());
    watched.receives(Frame::new(FIN_TEXT, "new").bytes());
    watched.sends(Frame::new(FIN_TEXT, "out").masked(MASK).bytes());
    assert_eq!(watched.news(), [text(In, 5, "new"), text(Out, 6, "out")], "a message without its start is none");
}

#[test]
fn in_mid_life_a_frame_is_believed_when_it_ends_with_a_segment() {
    let mut watched = Watched::mid_life();
    watched.receives(b"the rest of a frame").sends(Frame::new(FIN_TEXT, r#"{"op":1,"d":251}"#).masked(MASK).bytes());
    assert_eq!(watched.news(), [text(Out, 2, r#"{"op":1,"d":251}"#)]);
    let long = Frame::new(FIN_TEXT, vec![b'x'; 20_000]).bytes();
    watched.receives(&long[..16_384]).receives(&long[16_384..]);
    let [Told::Message(message)] = &watched.news()[..] else { panic!("one message") };
    assert_eq!((message.started, message.time, message.size, message.whole), (3, 4, 20_000, true));

    // It looks like the start of a frame of two bytes, and is the end of one.
    let mut watched = Watched::mid_life();
    watched.receives(b"\x81\x02ab, and more");
    watched.receives(b"\x82\x7f\0\0\0\0\x10\0\0\0 a long one that never was");
    watched.receives(Frame::new(FIN_TEXT, "whole").bytes());
    assert_eq!(watched.news(), [text(In, 3, "whole")]);
    // Now it is known that this side is a client, so what bears no mask is nothing that it sends.
    watched.sends(Frame::new(FIN_TEXT, "unmasked").bytes()).sends(Frame::new(FIN_TEXT, "masked").masked(MASK).bytes());
    assert_eq!(watched.news(), [text(Out, 5, "masked")]);
}

#[test]
fn a_server_masks_nothing() {
    let mut machine = Machine::after_upgrade(Side::Server);
    let mut told = Vec::new();
    for (direction, frame) in [(In, Frame::new(FIN_TEXT, "a").masked(MASK)), (Out, Frame::new(FIN_TEXT, "b"))] {
        let bytes = frame.bytes();
        let segment = Segment { time: Nanos(1), direction, size: bytes.len() as u64, prefix: &bytes, tail: b"" };
        assert!(Machine::looks_like_frames(&segment));
        machine.segment(&segment, &mut |event: Event<'_>| told.push(Told::from(event)));
    }
    assert_eq!(told, [text(In, 1, "a"), text(Out, 1, "b")]);
}

#[test]
fn what_can_be_no_frame_loses_the_direction() {
    for bytes in [
        &b"\x91\x01a"[..],
        b"\xa1\x01a",
        b"\x83\x01a",
        b"\x8b\x01a",
        b"\x09\x01a",
        b"\xc9\x01a",
        b"\xc0\x01a",
        b"\x89\x7e\x00\x7ea",
        b"\x82\x7e\x00\x7d",
        b"\x82\x7f\0\0\0\0\0\0\xff\xff",
        b"\x82\x7f\x80\0\0\0\0\0\0\0",
        b"\x82\x7f\0\0\0\0\x40\0\0\x01",
        b"\x82\xff\0\0\0\0\0\0\0\0",
        b"\x01\x01a\x01\x01b",
    ] {
        let mut watched = Watched::client();
        watched.receives(bytes).receives(Frame::new(FIN_TEXT, "next").bytes());
        assert_eq!(watched.news(), [Told::Lost(In, 1), text(In, 2, "next")], "{bytes:02x?}");
    }
}

#[test]
fn a_length_that_lies_holds_no_memory() {
    let mut watched = Watched::client();
    watched.receives(b"\x02\x7f\0\0\0\0\x40\0\0\0");
    for _ in 0..100 {
        watched.receives([b'x'; 4096]);
    }
    assert_eq!(watched.machine.allocated(), PREFIX_MAX);
    let mut watched = Watched::client();
    for _ in 0..100_000 {
        watched.receives(Frame::new(0x89, "").bytes());
    }
    watched.receives(Frame::new(0x01, "").bytes());
    for _ in 0..100_000 {
        watched.receives(Frame::new(0x00, "x").bytes());
    }
    assert_eq!(watched.machine.allocated(), PREFIX_MAX);
    watched.receives(Frame::new(0x80, "").bytes());
    assert_eq!(watched.machine.allocated(), 0);
    assert!(size_of::<Machine>() <= 320, "{}", size_of::<Machine>());
}
