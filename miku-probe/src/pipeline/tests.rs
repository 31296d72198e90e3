//! Records in, observations out.

mod arrivals;
mod binding;
mod bots;
mod discord;
mod models;
mod net;
mod secrets;
mod tls;
#[path = "../../tests/written/mod.rs"]
mod written;

use miku_probe_abi::{
    ABI_VERSION, CloseRecord, DataRecord, OpenRecord, Origin, ProcessRecord, RecordHeader, RecordKind, TAIL, bytes_of,
};

use self::written::Nowhere;
use super::*;
use crate::discovery::sockets::Socket;
use crate::observations::{AbortReason, Exchange, Method, Outcome, Unmatched};
use crate::units::{Scheme, Side, Symbol};

const TGID: u32 = 42;
const FD: i32 = 9;

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Kept(Vec<Observation>);

impl Sink for Kept {
    fn observe(&mut self, observation: &Observation, _names: &Names) {
        self.0.push(observation.clone());
    }
}

impl Kept {
    fn exchanges(&self) -> Vec<&Exchange> {
        self.0
            .iter()
            .filter_map(|seen| if let Observation::Exchange(exchange) = seen { Some(exchange) } else { None })
            .collect()
    }

    fn in_flight(&self) -> i32 {
        self.0
            .iter()
            .map(|seen| if let Observation::InFlight { change, .. } = seen { i32::from(*change) } else { 0 })
            .sum()
    }

    fn bytes(&self) -> Vec<(Direction, Transport, u64)> {
        self.0
            .iter()
            .filter_map(|seen| match seen {
                Observation::Bytes { direction, transport, bytes, .. } => Some((*direction, *transport, *bytes)),
                _ => None,
            })
            .collect()
    }

    fn count(&self, wanted: impl Fn(&Observation) -> bool) -> usize {
        self.0.iter().filter(|seen| wanted(seen)).count()
    }
}

const CAPS: Caps = Caps { routes: 100, servers: 100, connections: 4 };

fn pipeline() -> Pipeline<Kept, Nowhere> {
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, CAPS);
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    pipeline
}

fn header(kind: RecordKind, time: u64, length: usize) -> RecordHeader {
    let length = u32::try_from(length).expect("a record is short");
    RecordHeader { version: ABI_VERSION, kind: kind as u8, padding: 0, length, time_ns: time, tgid: TGID, tid: TGID }
}

fn open(time: u64, fd: i32, origin: Origin) -> Vec<u8> {
    written::Process { tgid: TGID, time }.open(fd, time, origin, [127, 0, 0, 1], 8080)
}

fn data(time: u64, generation: u64, lost: u32, direction: Direction, bytes: &[u8]) -> Vec<u8> {
    let record = DataRecord {
        header: header(RecordKind::Data, time, size_of::<DataRecord>() + bytes.len()),
        generation,
        handle: u64::from(FD.unsigned_abs()),
        lost,
        size: u32::try_from(bytes.len()).expect("a capture is short"),
        captured: u16::try_from(bytes.len()).expect("a capture is short"),
        tail_length: 0,
        errno: 0,
        direction: direction as u8,
        padding: 0,
        tail: [0; TAIL],
    };
    [bytes_of(&record), bytes].concat()
}

fn close(time: u64, generation: u64, bytes_in: u64, bytes_out: u64) -> Vec<u8> {
    let header = header(RecordKind::Close, time, size_of::<CloseRecord>());
    bytes_of(&CloseRecord {
        header,
        generation,
        handle: u64::from(FD.unsigned_abs()),
        bytes_in,
        bytes_out,
        lost: 0,
        padding: 0,
    })
    .to_vec()
}

const REQUEST: &[u8] = b"GET /users/7?token=secret HTTP/1.1\r\nHost: Api.Example:8080\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_served_exchange_is_observed_once_with_its_times_and_bytes() {
    let mut pipeline = pipeline();
    for record in [
        open(100, FD, Origin::Accepted),
        data(200, 100, 0, Direction::In, REQUEST),
        data(1200, 100, 0, Direction::Out, RESPONSE),
        close(1300, 100, REQUEST.len() as u64, RESPONSE.len() as u64),
    ] {
        pipeline.record(&record);
    }
    let kept = &pipeline.sink;
    let [exchange] = kept.exchanges()[..] else { panic!("not one exchange: {:?}", kept.0) };
    assert_eq!((exchange.side, exchange.method, exchange.status), (Side::Server, Method::Get, Some(200)));
    assert_eq!((exchange.duration, exchange.first_byte), (Nanos(1000), Some(Nanos(1000))));
    assert_eq!((exchange.request_bytes, exchange.response_bytes), (REQUEST.len() as u64, RESPONSE.len() as u64));
    assert_eq!((exchange.outcome, exchange.server), (Outcome::Complete, Symbol::EMPTY));
    assert_eq!(exchange.scheme, Scheme::Http);
    assert!(!pipeline.names.symbols.text(exchange.route).contains("secret"), "a query is no part of a route");
    assert_eq!(kept.in_flight(), 0);
    let expected = [(Direction::In, REQUEST), (Direction::Out, RESPONSE)];
    assert_eq!(kept.bytes(), expected.map(|(direction, bytes)| (direction, Transport::Tcp, bytes.len() as u64)));
    assert_eq!(pipeline.connection_count(), 0);
}

#[test]
fn a_made_exchange_names_its_server_by_host() {
    let mut pipeline = pipeline();
    for record in [
        open(100, FD, Origin::Connected),
        data(200, 100, 0, Direction::Out, REQUEST),
        data(900, 100, 0, Direction::In, RESPONSE),
    ] {
        pipeline.record(&record);
    }
    let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange") };
    assert_eq!(exchange.side, Side::Client);
    assert_eq!((pipeline.names.symbols.text(exchange.server), exchange.port), ("api.example", 8080));
}

#[test]
fn bytes_that_were_not_told_are_told_when_the_connection_closes() {
    let mut pipeline = pipeline();
    pipeline.record(&open(100, FD, Origin::Connected));
    pipeline.record(&close(300, 100, 700, 50));
    assert_eq!(pipeline.sink.bytes(), [(Direction::In, Transport::Tcp, 700), (Direction::Out, Transport::Tcp, 50)]);
}

#[test]
fn a_descriptor_that_is_used_again_ends_the_connection_before() {
    let mut pipeline = pipeline();
    pipeline.record(&open(100, FD, Origin::Accepted));
    pipeline.record(&data(200, 100, 0, Direction::In, REQUEST));
    pipeline.record(&open(300, FD, Origin::Accepted));
    let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange") };
    assert_eq!(exchange.outcome, Outcome::Aborted(AbortReason::ServerClosed));
    pipeline.record(&close(400, 100, 0, 0));
    assert_eq!(pipeline.connection_count(), 1, "a late close of the old one does not end the new one");
}

#[test]
fn what_ended_unheard_among_what_was_lost_is_no_abort() {
    let with_socket = |mut record: Vec<u8>, socket: u64| {
        let place = std::mem::offset_of!(OpenRecord, socket);
        record[place..place + 8].copy_from_slice(&socket.to_ne_bytes());
        record
    };
    // The close of the first was lost, the opening of the second too, and both of the third.
    let mut pipeline = pipeline();
    for record in [
        with_socket(open(100, FD, Origin::Accepted), 0xffff_1000),
        data(200, 100, 0, Direction::In, REQUEST),
        with_socket(open(300, FD, Origin::Accepted), 0xffff_2000),
        data(400, 300, 0, Direction::In, REQUEST),
        data(600, 500, 0, Direction::In, REQUEST),
    ] {
        pipeline.record(&record);
    }
    pipeline.vanished(ConnId { tgid: Tgid(TGID), handle: Handle::Socket(FD), generation: Nanos(500) }, Nanos(700));
    let outcomes: Vec<_> = pipeline.sink.exchanges().iter().map(|exchange| exchange.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown; 3]);
}

#[test]
fn what_was_lost_makes_the_exchange_unknown_and_no_other() {
    let mut pipeline = pipeline();
    for record in [
        open(100, FD, Origin::Accepted),
        data(200, 100, 0, Direction::In, REQUEST),
        data(300, 100, 2, Direction::Out, RESPONSE),
        data(400, 100, 2, Direction::In, REQUEST),
        data(500, 100, 2, Direction::Out, RESPONSE),
    ] {
        pipeline.record(&record);
    }
    let outcomes: Vec<_> = pipeline.sink.exchanges().iter().map(|exchange| exchange.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::Complete]);
    let half_seen = |seen: &Observation| matches!(seen, Observation::Unmatched { reason: Unmatched::HalfSeen, .. });
    assert_eq!(pipeline.sink.count(half_seen), 1);
}

#[test]
fn an_exchange_that_lost_its_end_is_not_aborted_by_the_close() {
    let mut pipeline = pipeline();
    pipeline.record(&open(100, FD, Origin::Accepted));
    pipeline.record(&data(200, 100, 0, Direction::In, REQUEST));
    let header = header(RecordKind::Close, 300, size_of::<CloseRecord>());
    let close = CloseRecord {
        header,
        generation: 100,
        handle: u64::from(FD.unsigned_abs()),
        bytes_in: 0,
        bytes_out: 0,
        lost: 1,
        padding: 0,
    };
    pipeline.record(bytes_of(&close));
    assert_eq!(pipeline.sink.exchanges()[0].outcome, Outcome::Unknown);
}

#[test]
fn a_process_that_is_let_go_leaves_nothing_in_flight() {
    let mut pipeline = pipeline();
    pipeline.record(&open(100, FD, Origin::Accepted));
    pipeline.record(&data(200, 100, 0, Direction::In, REQUEST));
    pipeline.remove_target(Tgid(TGID), Nanos(300));
    assert_eq!(pipeline.sink.in_flight(), 0);
    assert_eq!(pipeline.sink.exchanges()[0].outcome, Outcome::Unknown);
    assert_eq!(pipeline.connection_count(), 0);
    pipeline.record(&data(400, 100, 0, Direction::Out, RESPONSE));
    assert_eq!(pipeline.connection_count(), 0, "what comes late of it is not followed again");
}

#[test]
fn a_connection_that_its_other_end_ended_says_how() {
    for (errno, outcome) in [
        (0, Outcome::Aborted(AbortReason::ServerClosed)),
        (libc::ETIMEDOUT, Outcome::Aborted(AbortReason::Timeout)),
        (libc::ECONNRESET, Outcome::Aborted(AbortReason::Reset)),
    ] {
        let mut pipeline = pipeline();
        pipeline.record(&open(100, FD, Origin::Connected));
        pipeline.record(&data(200, 100, 0, Direction::Out, REQUEST));
        let mut end = data(300, 100, 0, Direction::In, b"");
        let place = std::mem::offset_of!(DataRecord, errno);
        let errno = u16::try_from(errno).expect("a number of an error is small").to_ne_bytes();
        end[place..place + errno.len()].copy_from_slice(&errno);
        pipeline.record(&end);
        pipeline.record(&close(400, 100, 0, 0));
        let [exchange] = pipeline.sink.exchanges()[..] else { panic!("not one exchange") };
        assert_eq!(exchange.outcome, outcome);
    }
}

#[test]
fn a_socket_that_was_open_before_is_followed_as_what_it_is() {
    let mut pipeline = pipeline();
    let socket = |fd: i32, transport: Transport| {
        let id = ConnId { tgid: Tgid(TGID), handle: Handle::Socket(fd), generation: Nanos(50) };
        (id, Socket { fd, transport, listening: false, local: None, peer: None })
    };
    let (tcp, udp, unix) = (socket(FD, Transport::Tcp), socket(10, Transport::Udp), socket(11, Transport::Unix));
    pipeline.seed(tcp.0, &tcp.1);
    pipeline.seed(udp.0, &udp.1);
    assert!(!pipeline.saw_unix() && !pipeline.saw_names());
    assert_eq!((pipeline.open_connections(Tgid(TGID)).len(), pipeline.other_than_tcp()), (2, vec![udp.0]));
    pipeline.seed(unix.0, &unix.1);
    assert!(pipeline.saw_unix() && !pipeline.saw_names());
    assert_eq!(pipeline.other_than_tcp().len(), 2);
    pipeline.seed(ConnId { tgid: Tgid(TGID + 1), ..tcp.0 }, &tcp.1);
    assert_eq!(pipeline.connection_count(), 3, "of a process that is not followed nothing is");
    pipeline.record(&data(200, 50, 0, Direction::In, REQUEST));
    assert_eq!(pipeline.sink.bytes(), [(Direction::In, Transport::Tcp, REQUEST.len() as u64)]);
    // It was introduced, so that its end without a word is an end.
    pipeline.vanished(tcp.0, Nanos(300));
    assert_eq!(pipeline.sink.exchanges()[0].outcome, Outcome::Aborted(AbortReason::ServerClosed));
    let targets: Vec<_> = pipeline.targets().collect();
    assert_eq!(targets, [(Tgid(TGID), "bot")]);
}

#[test]
fn connections_over_the_cap_are_counted_as_lost() {
    let mut pipeline = pipeline();
    for fd in 0..6 {
        pipeline.record(&open(100, fd, Origin::Accepted));
    }
    assert_eq!(pipeline.connection_count(), CAPS.connections);
    assert_eq!(pipeline.sink.count(|seen| matches!(seen, Observation::Lost { at: LostWhere::Table, count: 1 })), 2);
}

#[test]
fn what_makes_no_sense_is_counted_and_nothing_else() {
    let mut pipeline = pipeline();
    for garbage in [&b""[..], &[0xff; 64], &open(1, FD, Origin::Accepted)[..30]] {
        assert_eq!(pipeline.record(garbage), (None, None));
    }
    assert_eq!(pipeline.sink.count(|seen| matches!(seen, Observation::Lost { at: LostWhere::Parser, count: 1 })), 3);
}

#[test]
fn news_of_processes_are_handed_back() {
    let mut pipeline = pipeline();
    let header = header(RecordKind::Fork, 7, size_of::<ProcessRecord>());
    let record = ProcessRecord { header, child: 43, port: 0, padding: 0 };
    let expected = (Some(Nanos(7)), Some((Tgid(TGID), Process::Fork { child: Tgid(43) })));
    assert_eq!(pipeline.record(bytes_of(&record)), expected);
}
