//! Connections and names beneath the protocols: which peer they bear, and what is open when.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use miku_probe_abi::{ANSWERS_MAX, Answer, NAME_MAX, NetEvent, NetRecord, ResolvedRecord};

use super::*;
use crate::observations::{ConnectFailure, Net, Resolution};
use crate::samplers::Target;
use crate::samplers::tcp::{Connection as Sampled, Listener, Round};

const BOT: ServiceId = ServiceId(0);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);

fn net(time: u64, event: NetEvent, ip: Ipv4Addr, errno: u16) -> Vec<u8> {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&ip.octets());
    let header = header(RecordKind::Net, time, size_of::<NetRecord>());
    let event = event as u8;
    let record =
        NetRecord { header, duration_ns: 5, count: 3, errno, port: 443, family: 2, event, padding: [0; 5], address };
    bytes_of(&record).to_vec()
}

fn resolved(time: u64, text: &str, result: i32, ips: &[Ipv4Addr]) -> Vec<u8> {
    let mut name = [0; NAME_MAX];
    name[..text.len()].copy_from_slice(text.as_bytes());
    let mut addresses = [Answer { family: 0, address: [0; 16] }; ANSWERS_MAX];
    for (answer, ip) in addresses.iter_mut().zip(ips) {
        answer.family = 2;
        answer.address[..4].copy_from_slice(&ip.octets());
    }
    let record = ResolvedRecord {
        header: header(RecordKind::Resolved, time, size_of::<ResolvedRecord>()),
        duration_ns: 9,
        result,
        length: u32::try_from(text.len()).expect("a name is short"),
        answers: u32::try_from(ips.len()).expect("few"),
        padding: 0,
        addresses,
        name,
    };
    bytes_of(&record).to_vec()
}

/// What was told of the network since the last time, peers by their names.
fn told(pipeline: &mut Pipeline<Kept, Nowhere>) -> Vec<(String, Net)> {
    let seen = std::mem::take(&mut pipeline.sink.0);
    let what = seen.into_iter().filter_map(|seen| match seen {
        Observation::Net { what, .. } => Some(what),
        _ => None,
    });
    what.map(|what| {
        let peer = match what {
            Net::Opened { peer, .. }
            | Net::ConnectFailed { peer, .. }
            | Net::Open { peer, .. }
            | Net::Retransmitted { peer, .. }
            | Net::Reset { peer, .. }
            | Net::RoundTrip { peer, .. } => pipeline.names.symbols.text(peer).to_owned(),
            Net::ListenDropped { .. } | Net::Resolved { .. } => String::new(),
        };
        (peer, what)
    })
    .collect()
}

#[test]
fn a_connection_bears_the_name_that_its_process_resolved() {
    let mut pipeline = pipeline();
    let stranger = Ipv4Addr::new(203, 0, 113, 9);
    for bytes in [
        net(1, NetEvent::Connected, HERE, 0),
        resolved(2, "API.Example.", 0, &[HERE, HERE]),
        net(3, NetEvent::Connected, HERE, 0),
        net(4, NetEvent::Failed, stranger, 111),
        net(5, NetEvent::Retransmitted, HERE, 0),
        net(6, NetEvent::ResetSent, HERE, 0),
        net(7, NetEvent::Accepted, Ipv4Addr::LOCALHOST, 0),
    ] {
        pipeline.record(&bytes);
    }
    let told = told(&mut pipeline);
    let peers: Vec<_> = told.iter().map(|(peer, _)| peer.as_str()).collect();
    assert_eq!(peers, ["lan", "", "api.example", "internet", "api.example", "api.example", "loopback"]);
    let expected = Net::Resolved { outcome: Resolution::Ok, time: Nanos(9) };
    assert_eq!(told[1].1, expected);
    assert!(matches!(told[2].1, Net::Opened { side: Side::Client, time: Some(Nanos(5)), .. }));
    assert!(matches!(told[3].1, Net::ConnectFailed { reason: ConnectFailure::Refused, .. }));
    assert!(matches!(told[4].1, Net::Retransmitted { count: 3, .. }));
    assert!(matches!(told[5].1, Net::Reset { direction: Direction::Out, .. }));
    assert!(matches!(told[6].1, Net::Opened { side: Side::Server, time: None, .. }));
}

#[test]
fn a_look_up_is_told_by_its_messages_and_names_what_is_connected_to() {
    const ASKED: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x04miku\x04test\0\0\x01\0\x01";
    const TOLD: &[u8] = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0\x04miku\x04test\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x07";
    let mut pipeline = pipeline();
    let mut opened = written::Process { tgid: TGID, time: 100 }.open(FD, 100, Origin::Connected, [127, 0, 0, 53], 53);
    opened[std::mem::offset_of!(OpenRecord, socket_type)] = 2;
    for bytes in [
        opened,
        data(200, 100, 0, Direction::Out, ASKED),
        data(5_200, 100, 0, Direction::In, TOLD),
        net(6_000, NetEvent::Connected, HERE, 0),
    ] {
        pipeline.record(&bytes);
    }
    assert!(pipeline.saw_names());
    let told = told(&mut pipeline);
    let [(_, resolved), (peer, Net::Opened { .. })] = &told[..] else { panic!("{told:?}") };
    assert_eq!(*resolved, Net::Resolved { outcome: Resolution::Ok, time: Nanos(5_000) });
    assert_eq!(peer, "miku.test");
}

#[test]
fn what_cannot_be_a_label_names_nobody() {
    let mut pipeline = pipeline();
    for bytes in [
        resolved(1, "a\"b", 0, &[HERE]),
        resolved(2, "10.0.0.7", 0, &[HERE]),
        resolved(3, "absent.example", -2, &[]),
        net(4, NetEvent::Connected, HERE, 0),
    ] {
        pipeline.record(&bytes);
    }
    let told = told(&mut pipeline);
    let outcomes = told.iter().filter_map(|(_, what)| match what {
        Net::Resolved { outcome, .. } => Some(*outcome),
        _ => None,
    });
    assert_eq!(outcomes.collect::<Vec<_>>(), [Resolution::Ok, Resolution::NotFound], "an address is no name");
    assert_eq!(told.last().map(|(peer, _)| peer.as_str()), Some("lan"));
}

#[test]
fn names_over_the_cap_name_nobody_and_that_is_told() {
    let mut pipeline = pipeline();
    for number in 0..=CAPS.servers {
        let last = u8::try_from(number).expect("a small number");
        pipeline.record(&resolved(1, &format!("{number}.example"), 0, &[Ipv4Addr::new(10, 1, 0, last)]));
    }
    let overflows = pipeline.sink.count(|seen| matches!(seen, Observation::LabelOverflow { label: "peer" }));
    assert_eq!(overflows, 1);
    let last = u8::try_from(CAPS.servers).expect("a small number");
    told(&mut pipeline);
    pipeline.record(&net(2, NetEvent::Connected, Ipv4Addr::new(10, 1, 0, last), 0));
    pipeline.record(&net(3, NetEvent::Connected, Ipv4Addr::new(10, 1, 0, 0), 0));
    let peers: Vec<_> = told(&mut pipeline).into_iter().map(|(peer, _)| peer).collect();
    assert_eq!(peers, ["lan", "0.example"]);
}

fn round(ips: &[Ipv4Addr], dropped: &[u32], there: bool) -> Round {
    let target = Target { service: BOT, tgid: Tgid(TGID) };
    let connection =
        |ip: &Ipv4Addr| Sampled { target, peer: (IpAddr::from(*ip), 443).into(), round_trip: Some(Nanos(7)) };
    let listener = |dropped: &u32| Listener { target, namespace: 1, inode: 77, port: 8080, dropped: *dropped };
    Round {
        services: if there { HashSet::from([BOT]) } else { HashSet::new() },
        connections: ips.iter().map(connection).collect(),
        listeners: dropped.iter().map(listener).collect(),
    }
}

#[test]
fn what_is_open_is_told_until_there_is_none_or_nobody_knows() {
    let mut pipeline = pipeline();
    let open = |pipeline: &mut Pipeline<Kept, Nowhere>, round: &Round| {
        pipeline.tcp_round(round, Nanos(10));
        let told = told(pipeline).into_iter().filter_map(|(peer, what)| match what {
            Net::Open { count, .. } => Some((peer, count)),
            _ => None,
        });
        let mut open: Vec<_> = told.collect();
        open.sort_unstable();
        open
    };
    let lan = |count| ("lan".to_owned(), count);
    let loopback = |count| ("loopback".to_owned(), count);
    let both = open(&mut pipeline, &round(&[HERE, HERE, Ipv4Addr::LOCALHOST], &[], true));
    assert_eq!(both, [lan(Some(2)), loopback(Some(1))]);
    assert_eq!(open(&mut pipeline, &round(&[HERE], &[], true)), [lan(Some(1)), loopback(Some(0))]);
    assert_eq!(open(&mut pipeline, &round(&[], &[], false)), [lan(None), loopback(None)]);
    assert_eq!(open(&mut pipeline, &round(&[], &[], false)), []);
    pipeline.remove_target(Tgid(TGID), Nanos(11));
    assert_eq!(open(&mut pipeline, &round(&[HERE], &[], true)), [], "it is watched no more");
}

#[test]
fn what_was_turned_away_counts_from_the_first_sight_on() {
    let mut pipeline = pipeline();
    let mut counts = Vec::new();
    for dropped in [&[5][..], &[7], &[7], &[], &[9], &[10]] {
        pipeline.tcp_round(&round(&[], dropped, true), Nanos(10));
        counts.extend(told(&mut pipeline).into_iter().filter_map(|(_, what)| match what {
            Net::ListenDropped { port: 8080, count } => Some(count),
            _ => None,
        }));
    }
    assert_eq!(counts, [0, 2, 0, 0, 1], "one that was gone meanwhile is another");
}
