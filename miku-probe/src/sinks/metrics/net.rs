//! What is told of the network beneath all protocols. Bytes and TLS handshakes are in the parent module.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::catalog::{Catalog, FAST_BUCKETS, family};
use super::keys::{OTHER, Text};
use super::{FastMap, PEER_LIMIT, io_direction};
use crate::observations::{ConnectFailure, Names, Net, Resolution};
use crate::sinks::families::Family;
use crate::units::{Nanos, ServiceId};

/// How many ports of all services are told apart before the rest is `other`.
const PORT_LIMIT: usize = 100;

/// A label that was over its cap, if any.
type Overflow = Option<&'static str>;

struct Families {
    connections: Family<IntCounter, 3>,
    open: Family<IntGauge, 2>,
    connect: Family<Histogram, 2>,
    failures: Family<IntCounter, 3>,
    retransmits: Family<IntCounter, 2>,
    resets: Family<IntCounter, 3>,
    rtt: Family<Histogram, 2>,
    drops: Family<IntCounter, 2>,
    dns: Family<Histogram, 2>,
}

impl Families {
    fn new(catalog: &Catalog) -> Self {
        Self {
            connections: family(
                catalog,
                "miku_net_connections_total",
                "TCP connections that were made: by the service itself (side client) or by others to it (side server), by its \
                 peer: a host's name where it is known for certain, or loopback, lan or internet.",
                ["service", "peer", "side"],
                &[],
            ),
            open: family(
                catalog,
                "miku_net_connections_open",
                "TCP connections that are open now, asked of the kernel every five seconds.",
                ["service", "peer"],
                &[],
            ),
            connect: family(
                catalog,
                "miku_net_connect_seconds",
                "Time from the service's connect to the connection, also where connect did not wait for it.",
                ["service", "peer"],
                FAST_BUCKETS,
            ),
            failures: family(
                catalog,
                "miku_net_connect_failures_total",
                "Connections that the service tried to make in vain. Abandoned: it closed the socket before there was an \
                 answer. Local: this machine refused before a packet was sent, as for want of a route.",
                ["service", "peer", "reason"],
                &[],
            ),
            retransmits: family(
                catalog,
                "miku_net_tcp_retransmits_total",
                "TCP segments that were sent once more.",
                ["service", "peer"],
                &[],
            ),
            resets: family(
                catalog,
                "miku_net_tcp_resets_total",
                "TCP connections that were reset, by which way the reset went. Connections that were refused are not among \
                 them.",
                ["service", "peer", "direction"],
                &[],
            ),
            rtt: family(
                catalog,
                "miku_net_tcp_rtt_seconds",
                "Round-trip time of TCP connections as TCP smooths it, asked of the kernel every five seconds, of those whose \
                 peer has acknowledged something since.",
                ["service", "peer"],
                FAST_BUCKETS,
            ),
            drops: family(
                catalog,
                "miku_net_listen_drops_total",
                "Connections to a port of the service's that the kernel turned away, mostly because too many waited to be \
                 accepted.",
                ["service", "port"],
                &[],
            ),
            dns: family(
                catalog,
                "miku_net_dns_seconds",
                "Time that resolving a name took, by outcome: a call of the C library's getaddrinfo, or what the service itself asked \
                 of a name server over UDP. Again: no server could tell now, mostly because none answered in time. Addresses \
                 that are given in place of a name are not counted.",
                ["service", "outcome"],
                FAST_BUCKETS,
            ),
        }
    }
}

/// The series of one peer, each made when it is first needed.
#[derive(Default)]
struct PeerSeries {
    opened: [Option<IntCounter>; 2],
    open: Option<IntGauge>,
    connect: Option<Histogram>,
    failures: [Option<IntCounter>; ConnectFailure::COUNT],
    retransmits: Option<IntCounter>,
    resets: [Option<IntCounter>; 2],
    rtt: Option<Histogram>,
}

/// A port, or that it is over the cap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PortText {
    Port(u16),
    Other,
}

/// All series of the network.
pub(super) struct Series {
    families: Families,
    peers: FastMap<(ServiceId, Text), PeerSeries>,
    drops: FastMap<(ServiceId, PortText), IntCounter>,
    dns: FastMap<ServiceId, [Option<Histogram>; Resolution::COUNT]>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        let families = Families::new(catalog);
        Self { families, peers: FastMap::default(), drops: FastMap::default(), dns: FastMap::default() }
    }

    /// Takes in what happened; tells the label that was over its cap.
    pub(super) fn observe(&mut self, service: ServiceId, what: &Net, names: &Names) -> Overflow {
        let peer = match *what {
            Net::Opened { peer, .. }
            | Net::ConnectFailed { peer, .. }
            | Net::Open { peer, .. }
            | Net::Retransmitted { peer, .. }
            | Net::Reset { peer, .. }
            | Net::RoundTrip { peer, .. } => peer,
            Net::ListenDropped { port, count } => return self.dropped(service, port, count, names),
            Net::Resolved { outcome, time } => {
                self.resolved(service, outcome, time, names);
                return None;
            }
        };
        let mut key = (service, Text::Symbol(peer));
        let over = self.peers.len() >= PEER_LIMIT && !self.peers.contains_key(&key);
        if over {
            // A sum of what several peers have open is told by none of them.
            if matches!(what, Net::Open { .. }) {
                return Some("peer");
            }
            key.1 = Text::Other;
        }
        let labels = [names.service(service), key.1.text(names)];
        self.peers.entry(key).or_default().observe(&self.families, labels, what);
        over.then_some("peer")
    }

    fn resolved(&mut self, service: ServiceId, outcome: Resolution, time: Nanos, names: &Names) {
        let series = &mut self.dns.entry(service).or_default()[outcome as usize];
        let labels = [names.service(service), outcome.as_str()];
        series.get_or_insert_with(|| self.families.dns.get(labels)).observe(time.seconds());
    }

    fn dropped(&mut self, service: ServiceId, port: u16, count: u64, names: &Names) -> Overflow {
        let mut key = (service, PortText::Port(port));
        let over = self.drops.len() >= PORT_LIMIT && !self.drops.contains_key(&key);
        if over {
            key.1 = PortText::Other;
        }
        let text = if over { OTHER.to_owned() } else { port.to_string() };
        let labels = [names.service(service), &text];
        self.drops.entry(key).or_insert_with(|| self.families.drops.get(labels)).inc_by(count);
        over.then_some("port")
    }
}

impl PeerSeries {
    fn observe(&mut self, families: &Families, labels: [&str; 2], what: &Net) {
        let [service, peer] = labels;
        match *what {
            Net::Opened { side, time, .. } => {
                let counter = || families.connections.get([service, peer, side.as_str()]);
                self.opened[side as usize].get_or_insert_with(counter).inc();
                if let Some(time) = time {
                    self.connect.get_or_insert_with(|| families.connect.get(labels)).observe(time.seconds());
                }
            }
            Net::ConnectFailed { reason, .. } => {
                let counter = || families.failures.get([service, peer, reason.as_str()]);
                self.failures[reason as usize].get_or_insert_with(counter).inc();
            }
            Net::Open { count: Some(count), .. } => {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.open.get_or_insert_with(|| families.open.get(labels)).set(count);
            }
            Net::Open { count: None, .. } => {
                self.open = None;
                families.open.remove(labels);
            }
            Net::Retransmitted { count, .. } => {
                self.retransmits.get_or_insert_with(|| families.retransmits.get(labels)).inc_by(count);
            }
            Net::Reset { direction, .. } => {
                let counter = || families.resets.get([service, peer, io_direction(direction)]);
                self.resets[direction as usize].get_or_insert_with(counter).inc();
            }
            Net::RoundTrip { time, .. } => {
                self.rtt.get_or_insert_with(|| families.rtt.get(labels)).observe(time.seconds());
            }
            Net::ListenDropped { .. } | Net::Resolved { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{Observation, Sink};
    use crate::units::{Direction, Side};

    const BOT: ServiceId = ServiceId(0);

    fn sink() -> (Metrics, Names) {
        (Metrics::new(&BuildInfo::current()), Names { services: vec!["bot".to_owned()], ..Names::default() })
    }

    fn see(metrics: &mut Metrics, names: &Names, what: Net) {
        metrics.observe(&Observation::Net { service: BOT, what }, names);
    }

    /// The samples of the network, without buckets.
    fn told(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let lines = text.lines().filter(|line| line.starts_with("miku_net_") && !line.contains("_bucket{"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn what_happened_to_a_peer_is_told_and_nothing_else() {
        let (mut metrics, mut names) = sink();
        assert_eq!(told(&metrics), Vec::<String>::new());
        let peer = names.symbols.intern("one.example");
        for what in [
            Net::Opened { peer, side: Side::Client, time: Some(Nanos(250_000_000)) },
            Net::Opened { peer, side: Side::Server, time: None },
            Net::ConnectFailed { peer, reason: ConnectFailure::Refused },
            Net::Open { peer, count: Some(2) },
            Net::Retransmitted { peer, count: 3 },
            Net::Reset { peer, direction: Direction::In },
            Net::RoundTrip { peer, time: Nanos(500_000_000) },
            Net::ListenDropped { port: 8080, count: 0 },
            Net::Resolved { outcome: Resolution::Again, time: Nanos(1_000_000_000) },
        ] {
            see(&mut metrics, &names, what);
        }
        let mut expected = vec![
            r#"miku_net_connections_total{peer="one.example",service="bot",side="client"} 1"#,
            r#"miku_net_connections_total{peer="one.example",service="bot",side="server"} 1"#,
            r#"miku_net_connect_seconds_sum{peer="one.example",service="bot"} 0.25"#,
            r#"miku_net_connect_seconds_count{peer="one.example",service="bot"} 1"#,
            r#"miku_net_connect_failures_total{peer="one.example",reason="refused",service="bot"} 1"#,
            r#"miku_net_connections_open{peer="one.example",service="bot"} 2"#,
            r#"miku_net_tcp_retransmits_total{peer="one.example",service="bot"} 3"#,
            r#"miku_net_tcp_resets_total{direction="receive",peer="one.example",service="bot"} 1"#,
            r#"miku_net_tcp_rtt_seconds_sum{peer="one.example",service="bot"} 0.5"#,
            r#"miku_net_tcp_rtt_seconds_count{peer="one.example",service="bot"} 1"#,
            r#"miku_net_listen_drops_total{port="8080",service="bot"} 0"#,
            r#"miku_net_dns_seconds_sum{outcome="again",service="bot"} 1"#,
            r#"miku_net_dns_seconds_count{outcome="again",service="bot"} 1"#,
        ];
        expected.sort_unstable();
        let mut lines = told(&metrics);
        lines.sort_unstable();
        assert_eq!(lines, expected);
        see(&mut metrics, &names, Net::Open { peer, count: None });
        assert_eq!(told(&metrics).len(), expected.len() - 1, "nobody knows any more");
    }

    #[test]
    fn peers_and_ports_over_the_cap_are_other() {
        let (mut metrics, mut names) = sink();
        for number in 0..=PEER_LIMIT {
            let peer = names.symbols.intern(&format!("{number}.example"));
            see(&mut metrics, &names, Net::Retransmitted { peer, count: 1 });
            see(&mut metrics, &names, Net::Open { peer, count: Some(1) });
        }
        for port in 0..=u16::try_from(PORT_LIMIT).expect("a small number") {
            see(&mut metrics, &names, Net::ListenDropped { port, count: 1 });
        }
        let lines = told(&metrics);
        let has = |line: &str| lines.iter().any(|told| told == line);
        assert!(has(r#"miku_net_tcp_retransmits_total{peer="other",service="bot"} 1"#));
        assert!(has(r#"miku_net_listen_drops_total{port="other",service="bot"} 1"#));
        let open = lines.iter().filter(|line| line.starts_with("miku_net_connections_open"));
        assert_eq!(open.count(), PEER_LIMIT, "a sum of some is no gauge");
    }
}
