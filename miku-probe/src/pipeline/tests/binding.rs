//! Sockets that carry TLS streams: under whose name their bytes count.

use miku_probe_abi::BindRecord;
use proptest::collection::vec;
use proptest::prelude::*;

use super::tls::{SSL, free, handshake, server_name, tell};
use super::*;

pub(super) fn bind(time: u64, ssl: u64, fd: i32, bound: bool) -> Vec<u8> {
    let header = header(RecordKind::Bind, time, size_of::<BindRecord>());
    let record =
        BindRecord { header, generation: 100, handle: ssl, socket_generation: 90, fd, bound: u32::from(bound) };
    bytes_of(&record).to_vec()
}

/// Bytes received so far, by the label `peer`.
fn received(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<(String, u64)> {
    let text = |symbol| pipeline.names.symbols.text(symbol).to_owned();
    let seen = pipeline.sink.0.iter().filter_map(|seen| match seen {
        Observation::Bytes { direction: Direction::In, peer, bytes, .. } => Some((text(*peer), *bytes)),
        _ => None,
    });
    seen.collect()
}

fn peers_of_handshakes(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<String> {
    let text = |symbol| pipeline.names.symbols.text(symbol).to_owned();
    let seen = pipeline.sink.0.iter().filter_map(|seen| match seen {
        Observation::Handshake { peer, .. } => Some(text(*peer)),
        _ => None,
    });
    seen.collect()
}

fn socket(fd: i32) -> ConnId {
    ConnId { tgid: Tgid(TGID), handle: Handle::Socket(fd), generation: Nanos(90) }
}

fn to(name: &str, bytes: u64) -> (String, u64) {
    (name.to_owned(), bytes)
}

#[test]
fn bytes_of_a_bound_socket_count_under_the_streams_name_until_it_is_unbound() {
    let mut pipeline = pipeline();
    tell(&mut pipeline, &[open(90, FD, Origin::Connected), server_name(110, SSL, b"api.example")]);
    pipeline.moved(socket(FD), 1000, 0);
    pipeline.record(&bind(200, SSL, FD, true));
    pipeline.moved(socket(FD), 1500, 0);
    pipeline.record(&bind(300, SSL, FD, false));
    pipeline.moved(socket(FD), 1700, 0);
    assert_eq!(received(&pipeline), [to("loopback", 1000), to("api.example", 500), to("loopback", 200)]);
}

#[test]
fn what_a_socket_moved_before_its_stream_was_freed_keeps_the_name() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            open(90, FD, Origin::Connected),
            server_name(110, SSL, b"api.example"),
            bind(200, SSL, FD, true),
            free(300, SSL),
            close(400, 90, 700, 50),
            // The descriptor's next socket has no stream.
            open(500, FD, Origin::Connected),
            close(600, 500, 33, 0),
        ],
    );
    assert_eq!(received(&pipeline), [to("api.example", 700), to("loopback", 33)]);
}

#[test]
fn a_socket_that_is_said_to_carry_two_streams_is_believed_of_neither() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            open(90, FD, Origin::Connected),
            server_name(110, SSL, b"one.example"),
            server_name(110, SSL + 64, b"two.example"),
            bind(200, SSL, FD, true),
            bind(210, SSL + 64, FD, true),
            bind(220, SSL, FD, true),
            close(400, 90, 700, 50),
        ],
    );
    assert_eq!(received(&pipeline), [to("loopback", 700)]);
}

#[test]
fn another_stream_may_follow_on_the_same_socket() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            open(90, FD, Origin::Connected),
            server_name(110, SSL, b"one.example"),
            bind(200, SSL, FD, true),
            free(210, SSL),
            server_name(220, SSL + 64, b"two.example"),
            bind(230, SSL + 64, FD, true),
            close(400, 90, 700, 50),
        ],
    );
    assert_eq!(received(&pipeline), [to("two.example", 700)]);
}

#[test]
fn names_of_bound_sockets_are_capped_and_a_stream_without_one_leaves_the_class() {
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, Caps { servers: 1, connections: 10, ..CAPS });
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    for (at, name) in [(0, Some("a")), (1, Some("b")), (2, None)] {
        let ssl = SSL + at * 64;
        let fd = FD + i32::try_from(at).expect("a few");
        pipeline.record(&open(90, fd, Origin::Connected));
        if let Some(name) = name {
            pipeline.record(&server_name(110, ssl, name.as_bytes()));
        }
        pipeline.record(&bind(200, ssl, fd, true));
        pipeline.moved(socket(fd), 10 + at, 0);
    }
    assert_eq!(received(&pipeline), [to("a", 10), to("other", 11), to("loopback", 12)]);
}

#[test]
fn a_handshake_without_a_name_has_its_sockets_class() {
    let mut pipeline = pipeline();
    tell(&mut pipeline, &[open(90, FD, Origin::Connected), handshake(150, SSL, 1)]);
    assert_eq!(peers_of_handshakes(&pipeline), [""; 0], "it waits");
    pipeline.record(&bind(200, SSL, FD, true));
    assert_eq!(peers_of_handshakes(&pipeline), ["loopback"]);
    tell(&mut pipeline, &[free(300, SSL), bind(310, SSL, FD, true), handshake(320, SSL, 1)]);
    assert_eq!(peers_of_handshakes(&pipeline), ["loopback", "loopback"], "bound already");
    tell(&mut pipeline, &[handshake(330, SSL + 64, 1), free(340, SSL + 64)]);
    assert_eq!(peers_of_handshakes(&pipeline)[2..], ["unknown"], "never bound");
}

/// What may happen to one of a few streams and one of as many sockets.
#[derive(Clone, Copy, Debug)]
enum Step {
    Bound(bool),
    Freed,
    Closed,
    Moved(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Bound),
        1 => Just(Step::Freed),
        1 => Just(Step::Closed),
        6 => (1..1000u64).prop_map(Step::Moved),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..crate::regressions::config() })]

    #[test]
    fn bytes_count_once_and_under_no_name_but_that_of_the_stream_last_bound(
        steps in vec((0..4usize, 0..4usize, step()), 1..200),
    ) {
        let mut pipeline = Pipeline::new(Kept::default(), Nowhere, Caps { connections: 60, ..CAPS });
        let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
        pipeline.add_target(Tgid(TGID), service);
        let ssl = |stream: u64| SSL + stream * 64;
        let fd = |socket: usize| FD + i32::try_from(socket).expect("a few");
        let name = |stream: u64| format!("s{stream}.example");
        let begin = |pipeline: &mut Pipeline<Kept, Nowhere>, stream: u64| {
            pipeline.record(&server_name(110, ssl(stream), name(stream).as_bytes()));
        };
        let mut streams = [0, 1, 2, 3];
        let mut next = 4;
        for (at, stream) in streams.into_iter().enumerate() {
            pipeline.record(&open(90, fd(at), Origin::Connected));
            begin(&mut pipeline, stream);
        }
        // Of each socket: what it moved, whose it is, and whether that stream still lives.
        let mut moved = [0; 4];
        let mut owner: [Option<(u64, bool)>; 4] = [None; 4];
        let mut contested = [false; 4];
        let mut expected = Vec::new();
        for (place, at, step) in steps {
            let stream = streams[place];
            match step {
                Step::Bound(bound) => {
                    pipeline.record(&bind(200, ssl(stream), fd(at), bound));
                    match owner[at] {
                        _ if contested[at] => {}
                        Some((other, true)) if bound && other != stream => (owner[at], contested[at]) = (None, true),
                        _ if bound => owner[at] = Some((stream, true)),
                        Some((other, true)) if other == stream => owner[at] = None,
                        _ => {}
                    }
                }
                Step::Freed => {
                    pipeline.record(&free(300, ssl(stream)));
                    for owner in owner.iter_mut().flatten().filter(|owner| owner.0 == stream) {
                        owner.1 = false;
                    }
                    streams[place] = next;
                    next += 1;
                    begin(&mut pipeline, streams[place]);
                }
                Step::Closed => {
                    let mut gone = close(400, 90, moved[at], 0);
                    let handle = std::mem::offset_of!(CloseRecord, handle);
                    gone[handle..handle + 8].copy_from_slice(&u64::from(fd(at).unsigned_abs()).to_ne_bytes());
                    pipeline.record(&gone);
                    pipeline.record(&open(90, fd(at), Origin::Connected));
                    (moved[at], owner[at], contested[at]) = (0, None, false);
                }
                Step::Moved(bytes) => {
                    moved[at] += bytes;
                    pipeline.moved(socket(fd(at)), moved[at], 0);
                    let peer = owner[at].map_or("loopback".to_owned(), |(stream, _)| name(stream));
                    expected.push((peer, bytes));
                }
            }
        }
        prop_assert_eq!(received(&pipeline), expected);
    }
}
