//! Connections as TCP sees them, and names that are resolved: who the other side is, and what is told of it.
//!
//! A peer has a host's name where that is known for certain ([`hosts`](super::hosts)), else a class.

use std::collections::HashMap;
use std::net::IpAddr;

use miku_probe_abi::NetEvent;

use super::servers::host_name;
use super::{Pipeline, Step, World};
use crate::intake;
use crate::observations::{ConnectFailure, Net, Observation, Resolution, Sink};
use crate::protocols::dns::Lookup;
use crate::protocols::http1::Segment;
use crate::samplers::tcp::{Listener, Round};
use crate::units::{ConnId, Direction, Nanos, ServiceId, Side, Symbol};

/// What the rounds of the sampler have told so far.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    /// Peers of which the last round told, or an earlier one of a service that is still there.
    open: HashMap<(ServiceId, Symbol), u64>,
    /// What each socket that listens had turned away at the last round, by its inode.
    dropped: HashMap<u64, u32>,
}

impl<S: Sink, W: World> Pipeline<S, W> {
    /// Takes in what became of a connection.
    pub(super) fn net(&mut self, net: &intake::Net) {
        let Some(service) = self.target(net.tgid) else { return };
        let peer = self.peer_at(service, net.peer.ip(), net.time);
        let what = match net.event {
            NetEvent::Connected => Net::Opened { peer, side: Side::Client, time: Some(net.duration) },
            NetEvent::Accepted => Net::Opened { peer, side: Side::Server, time: None },
            NetEvent::Failed => Net::ConnectFailed { peer, reason: ConnectFailure::of(net.errno) },
            NetEvent::Retransmitted => Net::Retransmitted { peer, count: u64::from(net.count) },
            NetEvent::ResetReceived => Net::Reset { peer, direction: Direction::In },
            NetEvent::ResetSent => Net::Reset { peer, direction: Direction::Out },
        };
        self.observe(&Observation::Net { service, what });
    }

    /// Takes in that a name was resolved, or was not. An address in the name's place is none.
    pub(super) fn resolved(&mut self, resolved: &intake::Resolved<'_>) {
        let Some(service) = self.target(resolved.tgid) else { return };
        if is_address(resolved.name) {
            return;
        }
        let lookup = Lookup {
            name: resolved.name.into(),
            outcome: Resolution::of(resolved.result),
            duration: resolved.duration,
            addresses: resolved.addresses().collect(),
        };
        self.looked_up(service, &lookup, resolved.time);
    }

    /// Takes in what went over a socket, if that leads to a name server; says whether it does.
    pub(super) fn asks(&mut self, id: ConnId, step: Step<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let (service, Some(client)) = (connection.service, &mut connection.names) else { return false };
        let mut over = Vec::new();
        let time = match step {
            Step::Segment(Segment { time, direction: Direction::Out, prefix, .. }, ..) => {
                client.sent(prefix, time);
                time
            }
            Step::Segment(Segment { time, direction: Direction::In, prefix, .. }, ..) => {
                over.extend(client.received(prefix, time));
                time
            }
            Step::Gap(time) => {
                client.gap();
                time
            }
            Step::End(time, _) => {
                over.extend(client.closed(time));
                time
            }
        };
        for lookup in over {
            self.looked_up(service, &lookup, time);
        }
        true
    }

    fn looked_up(&mut self, service: ServiceId, lookup: &Lookup, now: Nanos) {
        let what = Net::Resolved { outcome: lookup.outcome, time: lookup.duration };
        self.observe(&Observation::Net { service, what });
        if let Some(name) = host_name(&lookup.name)
            && !lookup.addresses.is_empty()
            && let Some(name) = self.label_of(service, &name)
        {
            for ip in &lookup.addresses {
                self.learn(service, *ip, name, now);
            }
        }
    }

    /// Takes in a round of the sampler: `now` it was handed over.
    pub fn tcp_round(&mut self, round: &Round, now: Nanos) {
        let mut open: HashMap<(ServiceId, Symbol), u64> = HashMap::new();
        for connection in &round.connections {
            let service = connection.target.service;
            if self.target(connection.target.tgid) != Some(service) {
                continue;
            }
            let peer = self.peer_at(service, connection.peer.ip(), now);
            *open.entry((service, peer)).or_default() += 1;
            if let Some(time) = connection.round_trip {
                self.observe(&Observation::Net { service, what: Net::RoundTrip { peer, time } });
            }
        }
        let before = std::mem::take(&mut self.sampled.open);
        // A peer that was there and is not any more has none open, as long as its service is looked at.
        for (service, peer) in before.into_keys() {
            if round.services.contains(&service) {
                open.entry((service, peer)).or_default();
            } else {
                self.observe(&Observation::Net { service, what: Net::Open { peer, count: None } });
            }
        }
        for ((service, peer), count) in &open {
            let what = Net::Open { peer: *peer, count: Some(*count) };
            self.observe(&Observation::Net { service: *service, what });
        }
        self.sampled.open = open;
        self.listeners(&round.listeners);
    }

    fn listeners(&mut self, listeners: &[Listener]) {
        let before = std::mem::take(&mut self.sampled.dropped);
        for Listener { target, inode, port, dropped, .. } in listeners {
            self.sampled.dropped.insert(*inode, *dropped);
            // What a socket had turned away before it was first seen is nobody's to count.
            let count = before.get(inode).map_or(0, |before| dropped.wrapping_sub(*before));
            let what = Net::ListenDropped { port: *port, count: u64::from(count) };
            self.observe(&Observation::Net { service: target.service, what });
        }
    }

    /// The label of a service's peer at this address.
    fn peer_at(&mut self, service: ServiceId, ip: IpAddr, now: Nanos) -> Symbol {
        self.host_at(service, ip, now).unwrap_or_else(|| self.connections.class_of(ip))
    }

    /// The name of the host at this address, if a service knows it.
    pub(super) fn host_at(&mut self, service: ServiceId, ip: IpAddr, now: Nanos) -> Option<Symbol> {
        self.services.get_mut(usize::from(service.0))?.hosts.name(ip, now)
    }

    pub(super) fn learn(&mut self, service: ServiceId, ip: IpAddr, name: Symbol, now: Nanos) {
        if let Some(kept) = self.services.get_mut(usize::from(service.0)) {
            kept.hosts.learn(ip, name, now);
        }
    }

    /// A host's name as a label; `None` when there are too many.
    fn label_of(&mut self, service: ServiceId, name: &str) -> Option<Symbol> {
        let Self { services, names, sink, .. } = self;
        let (label, overflow) = services.get_mut(usize::from(service.0))?.servers.peer(name, &mut names.symbols);
        if overflow {
            sink.observe(&Observation::LabelOverflow { label: "peer" }, names);
        }
        (!overflow).then_some(label)
    }
}

/// Whether what is to be resolved is an address already, in any form that `inet_aton(3)` or IPv6 has.
fn is_address(name: &[u8]) -> bool {
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix(b"0x").is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    name.contains(&b':') || hexadecimal || (!last.is_empty() && last.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_not_names() {
        for address in ["127.0.0.1", "::1", "fe80::1%eth0", "2130706433", "0x7f000001", "127.1"] {
            assert!(is_address(address.as_bytes()), "{address}");
        }
        for name in ["localhost", "discord.com", "discord.com.", "1.example", "10.0.0.one", "0xdecafbadly", ""] {
            assert!(!is_address(name.as_bytes()), "{name}");
        }
    }
}
