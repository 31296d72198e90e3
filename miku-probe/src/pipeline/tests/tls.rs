//! TLS streams: what they tell, under which names, and what they are kept apart from.

use miku_probe_abi::{HandshakeRecord, NAME_MAX, ServerNameRecord, TlsError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::observations::HandshakeFailure;

/// The address of an `SSL`.
pub(super) const SSL: u64 = 0x7f00_dead_b000;

/// What `record` tells, of another connection and as another kind.
fn of_stream(mut record: Vec<u8>, kind: RecordKind, ssl: u64) -> Vec<u8> {
    const HANDLE: usize = std::mem::offset_of!(DataRecord, handle);
    const _: () = assert!(HANDLE == std::mem::offset_of!(CloseRecord, handle));
    record[std::mem::offset_of!(RecordHeader, kind)] = kind as u8;
    record[HANDLE..HANDLE + 8].copy_from_slice(&ssl.to_ne_bytes());
    record
}

pub(super) fn plain(time: u64, ssl: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
    of_stream(data(time, 100, 0, direction, bytes), RecordKind::Plaintext, ssl)
}

pub(super) fn free(time: u64, ssl: u64) -> Vec<u8> {
    of_stream(close(time, 100, 7, 7), RecordKind::Free, ssl)
}

pub(super) fn server_name(time: u64, ssl: u64, text: &[u8]) -> Vec<u8> {
    let mut name = [0; NAME_MAX];
    name[..text.len()].copy_from_slice(text);
    let header = header(RecordKind::ServerName, time, size_of::<ServerNameRecord>());
    let length = u32::try_from(text.len()).expect("a name is short");
    bytes_of(&ServerNameRecord { header, generation: 100, handle: ssl, length, padding: 0, name }).to_vec()
}

pub(super) fn handshake(time: u64, ssl: u64, result: i32) -> Vec<u8> {
    let header = header(RecordKind::Handshake, time, size_of::<HandshakeRecord>());
    let record = HandshakeRecord { header, generation: 100, handle: ssl, duration_ns: 30, result, error: 0 };
    bytes_of(&record).to_vec()
}

/// One that failed with an error of OpenSSL's.
fn failed(time: u64, ssl: u64, reason: u32) -> Vec<u8> {
    let header = header(RecordKind::Handshake, time, size_of::<HandshakeRecord>());
    let error = TlsError::new(TlsError::OPENSSL, reason).0;
    let record = HandshakeRecord { header, generation: 100, handle: ssl, duration_ns: 30, result: -1, error };
    bytes_of(&record).to_vec()
}

pub(super) fn tell(pipeline: &mut Pipeline<Kept, Nowhere>, records: &[Vec<u8>]) {
    for record in records {
        pipeline.record(record);
    }
}

/// The servers' names and ports of what was told, in order.
fn servers(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<(String, u16)> {
    let text = |symbol| pipeline.names.symbols.text(symbol).to_owned();
    pipeline.sink.exchanges().iter().map(|exchange| (text(exchange.server), exchange.port)).collect()
}

fn handshakes(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<(String, Result<u64, HandshakeFailure>)> {
    let seen = pipeline.sink.0.iter().filter_map(|seen| match seen {
        Observation::Handshake { peer, outcome, .. } => {
            Some((pipeline.names.symbols.text(*peer).to_owned(), outcome.map(|duration| duration.0)))
        }
        _ => None,
    });
    seen.collect()
}

const GET: &[u8] = b"GET /users HTTP/1.1\r\nHost: api.example\r\n\r\n";
const NAMELESS: &[u8] = b"GET /users HTTP/1.0\r\n\r\n";

#[test]
fn a_stream_is_a_connection_of_its_own_whose_bytes_are_none_of_the_networks() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            open(90, FD, Origin::Connected),
            server_name(110, SSL, b"api.example"),
            handshake(150, SSL, 1),
            plain(200, SSL, Direction::Out, GET),
            plain(900, SSL, Direction::In, RESPONSE),
            free(1000, SSL),
            close(1100, 90, 4000, 900),
        ],
    );
    let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange: {:?}", pipeline.sink.0) };
    assert_eq!((exchange.side, exchange.scheme, exchange.status), (Side::Client, Scheme::Https, Some(200)));
    assert_eq!((exchange.duration, exchange.outcome), (Nanos(700), Outcome::Complete));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (GET.len() as u64, RESPONSE.len() as u64));
    assert_eq!(servers(&pipeline), [("api.example".to_owned(), 443)]);
    assert_eq!(handshakes(&pipeline), [("api.example".to_owned(), Ok(30))]);
    let encrypted = [(Direction::In, Transport::Tcp, 4000), (Direction::Out, Transport::Tcp, 900)];
    assert_eq!(pipeline.sink.bytes(), encrypted, "encrypted bytes count once, plaintext never");
    assert_eq!((pipeline.sink.in_flight(), pipeline.connection_count()), (0, 0));
}

#[test]
fn a_server_within_tls_is_one() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            handshake(110, SSL, 1),
            plain(200, SSL, Direction::In, GET),
            plain(300, SSL, Direction::Out, RESPONSE),
            free(400, SSL),
        ],
    );
    let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange") };
    assert_eq!((exchange.side, exchange.scheme, exchange.server), (Side::Server, Scheme::Https, Symbol::EMPTY));
    assert_eq!(handshakes(&pipeline), [("unknown".to_owned(), Ok(30))], "nobody asked for a name");
}

#[test]
fn the_name_asked_for_stands_in_for_a_host_header_whenever_it_comes() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            plain(200, SSL, Direction::Out, NAMELESS),
            server_name(250, SSL, b"Late.Example."),
            plain(300, SSL, Direction::In, RESPONSE),
            plain(400, SSL, Direction::Out, GET),
            plain(500, SSL, Direction::In, RESPONSE),
            server_name(600, SSL, b"no\nname"),
            plain(700, SSL, Direction::Out, NAMELESS),
            plain(800, SSL, Direction::In, RESPONSE),
        ],
    );
    let named = |name: &str, port| (name.to_owned(), port);
    assert_eq!(servers(&pipeline), [named("late.example", 0), named("api.example", 443), named("", 0)]);
}

#[test]
fn fifty_streams_at_once_keep_their_names() {
    let caps = Caps { connections: 1000, ..CAPS };
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, caps);
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    let streams: Vec<(u64, String)> = (0..50).map(|at| (SSL + at * 64, format!("s{at}.example"))).collect();
    for (ssl, name) in &streams {
        pipeline.record(&server_name(110, *ssl, name.as_bytes()));
    }
    for (ssl, name) in &streams {
        let path = name.replace('.', "/");
        pipeline.record(&plain(200, *ssl, Direction::Out, format!("GET /{path} HTTP/1.0\r\n\r\n").as_bytes()));
        pipeline.record(&handshake(201, *ssl, 1));
    }
    for (ssl, _) in streams.iter().rev() {
        pipeline.record(&plain(300, *ssl, Direction::In, RESPONSE));
    }
    for exchange in pipeline.sink.exchanges() {
        let text = |symbol| pipeline.names.symbols.text(symbol);
        assert_eq!(text(exchange.route), format!("/{}", text(exchange.server).replace('.', "/")));
    }
    let expected: Vec<_> = streams.iter().map(|(_, name)| name.clone()).collect();
    assert_eq!(handshakes(&pipeline).into_iter().map(|(peer, _)| peer).collect::<Vec<_>>(), expected);
    let mut seen: Vec<_> = servers(&pipeline).into_iter().map(|(name, _)| name).collect();
    seen.reverse();
    assert_eq!(seen, expected);
}

#[test]
fn an_address_that_is_used_again_is_another_stream() {
    let mut pipeline = pipeline();
    tell(
        &mut pipeline,
        &[
            server_name(110, SSL, b"first.example"),
            plain(200, SSL, Direction::Out, NAMELESS),
            free(300, SSL),
            plain(400, SSL, Direction::Out, NAMELESS),
            plain(500, SSL, Direction::In, RESPONSE),
        ],
    );
    assert_eq!(servers(&pipeline), [("first.example".to_owned(), 0), (String::new(), 0)]);
    let outcomes: Vec<_> = pipeline.sink.exchanges().iter().map(|exchange| exchange.outcome).collect();
    assert_eq!(outcomes, [Outcome::Aborted(AbortReason::Unknown), Outcome::Complete]);
}

#[test]
fn a_handshake_that_failed_says_why() {
    let mut pipeline = pipeline();
    // SSL_R_CERTIFICATE_VERIFY_FAILED; and one that nothing was said of.
    tell(&mut pipeline, &[server_name(110, SSL, b"bad.example"), failed(150, SSL, 134), handshake(160, SSL + 8, 0)]);
    let expected = [("bad.example", HandshakeFailure::Certificate), ("unknown", HandshakeFailure::Closed)];
    assert_eq!(handshakes(&pipeline), expected.map(|(peer, failure)| (peer.to_owned(), Err(failure))));
}

#[test]
fn names_of_peers_are_capped() {
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, Caps { servers: 2, ..CAPS });
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    for name in ["a", "b", "c", "a"] {
        tell(&mut pipeline, &[server_name(110, SSL, name.as_bytes()), handshake(150, SSL, 1)]);
    }
    let peers: Vec<_> = handshakes(&pipeline).into_iter().map(|(peer, _)| peer).collect();
    assert_eq!(peers, ["a", "b", "other", "a"]);
    let overflow = |seen: &Observation| matches!(seen, Observation::LabelOverflow { label: "peer" });
    assert_eq!(pipeline.sink.count(overflow), 1);
}

#[test]
fn attaching_in_the_middle_of_an_answer_invents_nothing() {
    for middle in [
        &b"rest of a body that was begun before"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"{\"content\": \"GET /users HTTP/1.1\"}",
        b"5\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut pipeline = pipeline();
        pipeline.record(&plain(200, SSL, Direction::In, middle));
        assert_eq!(pipeline.sink.exchanges().len(), 0, "{}", middle.escape_ascii());
        assert_eq!(pipeline.sink.in_flight(), 0);
        tell(&mut pipeline, &[plain(300, SSL, Direction::Out, GET), plain(400, SSL, Direction::In, RESPONSE)]);
        let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange: {:?}", pipeline.sink.0) };
        assert_eq!((exchange.start, exchange.duration), (Nanos(300), Nanos(100)));
        assert_eq!((exchange.side, exchange.outcome), (Side::Client, Outcome::Complete));
    }
}

#[test]
fn an_upgrade_ends_http_on_the_stream() {
    let mut pipeline = pipeline();
    let upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x05hello";
    tell(
        &mut pipeline,
        &[
            plain(200, SSL, Direction::Out, GET),
            plain(300, SSL, Direction::In, upgrade),
            plain(400, SSL, Direction::Out, GET),
            plain(500, SSL, Direction::In, RESPONSE),
        ],
    );
    let statuses: Vec<_> = pipeline.sink.exchanges().iter().map(|exchange| exchange.status).collect();
    assert_eq!(statuses, [Some(101)]);
    assert_eq!(pipeline.sink.count(|seen| matches!(seen, Observation::Unmatched { .. })), 0);
}

#[test]
fn another_program_has_none_of_the_streams_of_the_one_before() {
    let mut pipeline = pipeline();
    tell(&mut pipeline, &[open(90, FD, Origin::Connected), plain(200, SSL, Direction::Out, GET)]);
    assert_eq!(pipeline.connection_count(), 2);
    let header = header(RecordKind::Exec, 300, size_of::<ProcessRecord>());
    pipeline.record(bytes_of(&ProcessRecord { header, child: 0, port: 0, padding: 0 }));
    assert_eq!((pipeline.connection_count(), pipeline.sink.in_flight()), (1, 0));
}

#[test]
fn streams_are_not_asked_after_as_sockets_are() {
    let mut pipeline = pipeline();
    tell(&mut pipeline, &[open(90, FD, Origin::Connected), handshake(150, SSL, 1)]);
    let silent: Vec<_> = pipeline.silent(10).into_iter().map(|id| id.handle).collect();
    assert_eq!(silent, [Handle::Socket(FD)]);
}

#[test]
fn streams_of_processes_that_are_not_followed_are_not() {
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, CAPS);
    tell(&mut pipeline, &[server_name(110, SSL, b"a"), handshake(150, SSL, 1), plain(200, SSL, Direction::Out, GET)]);
    assert_eq!((pipeline.connection_count(), pipeline.sink.0.len()), (0, 0));
}

/// The records of one stream: how it is named, how many calls are made on it, and into how many pieces they are cut.
fn life(number: usize, (by_host, calls, pieces): (bool, usize, usize)) -> Vec<Vec<u8>> {
    let (ssl, name) = (SSL + number as u64 * 0x40, format!("s{number}.example"));
    let host = if by_host { format!("Host: {name}:8443\r\n") } else { String::new() };
    let request = format!("GET /s{number}/example HTTP/1.1\r\n{host}Accept: */*\r\n\r\n");
    let mut records = vec![handshake(150, ssl, 1)];
    if !by_host {
        records.insert(0, server_name(110, ssl, name.as_bytes()));
    }
    for _ in 0..calls {
        for (direction, bytes) in [(Direction::Out, request.as_bytes()), (Direction::In, RESPONSE)] {
            let chunks = bytes.chunks(bytes.len().div_ceil(pieces));
            records.extend(chunks.map(|piece| plain(200, ssl, direction, piece)));
        }
    }
    records.push(free(900, ssl));
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..crate::regressions::config() })]

    #[test]
    fn streams_that_run_side_by_side_are_never_taken_for_each_other(
        plans in vec((any::<bool>(), 0..4usize, 1..4usize), 1..60),
        order in vec(any::<Index>(), 2000),
    ) {
        let mut pipeline = Pipeline::new(Kept::default(), Nowhere, Caps { connections: 60, ..CAPS });
        let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
        pipeline.add_target(Tgid(TGID), service);
        let mut lives: Vec<_> = plans.iter().enumerate().map(|(at, plan)| life(at, *plan).into_iter()).collect();
        let mut order = order.iter().cycle();
        while !lives.is_empty() {
            let at = order.next().expect("it goes round").index(lives.len());
            match lives[at].next() {
                Some(record) => drop(pipeline.record(&record)),
                None => drop(lives.swap_remove(at)),
            }
        }
        let text = |symbol| pipeline.names.symbols.text(symbol);
        let mut seen = vec![0; plans.len()];
        for exchange in pipeline.sink.exchanges() {
            let server = text(exchange.server);
            let number: usize = server[1..].trim_end_matches(".example").parse().expect("a server of ours");
            prop_assert_eq!(text(exchange.route), format!("/s{number}/example"));
            prop_assert_eq!(exchange.port, if plans[number].0 { 8443 } else { 0 });
            prop_assert_eq!((exchange.outcome, exchange.side), (Outcome::Complete, Side::Client));
            prop_assert_eq!(exchange.response_bytes, RESPONSE.len() as u64);
            seen[number] += 1;
        }
        prop_assert_eq!(seen, plans.iter().map(|(_, calls, _)| *calls).collect::<Vec<_>>());
        let mut peers: Vec<_> = handshakes(&pipeline).into_iter().map(|(peer, _)| peer).collect();
        let mut asked: Vec<_> = plans
            .iter()
            .enumerate()
            .map(|(at, (by_host, ..))| if *by_host { "unknown".to_owned() } else { format!("s{at}.example") })
            .collect();
        peers.sort_unstable();
        asked.sort_unstable();
        prop_assert_eq!(peers, asked);
        prop_assert_eq!(pipeline.sink.bytes(), []);
        prop_assert_eq!((pipeline.sink.in_flight(), pipeline.connection_count()), (0, 0));
    }
}
