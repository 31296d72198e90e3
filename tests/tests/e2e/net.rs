//! Connections and names, held against what the kernel counts in a network namespace of the case's own, and against the
//! client's own clock.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use miku_probe_tests::exposition::Scrape;
use miku_probe_tests::harness::hermetic::Hermetic;
use miku_probe_tests::harness::probe::Probe;
use miku_probe_tests::harness::process::Process;
use miku_probe_tests::harness::python::Python;
use miku_probe_tests::harness::{PATIENCE, eventually};
use serde_json::Value;
use tempfile::TempDir;

use crate::tls_stage::plain;
use crate::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!(connections_and_their_failures, PlainPython, Hermetic),
        case!(losses_and_delays, PlainPython, Hermetic, TrafficControl),
        case!(names_and_whom_they_lead_to, PlainPython, Hermetic),
        case!(names_that_are_asked_for_without_the_c_library, PlainPython, Resolvers, Hermetic),
    ]
}

/// How long what the sampler tells may take: two of its rounds, and what a busy machine adds.
const ROUNDS: Duration = Duration::from_secs(15);

/// The names that lead somewhere, and where.
const NAMES: &str = r#"{"one.miku.test": ["10.77.0.1"], "six.miku.test": ["2001:db8::6"], "slow.miku.test": ["10.77.0.3"],
    "half.miku.test": ["10.77.0.4"], "other-half.miku.test": ["10.77.0.4"], "nowhere.miku.test": ["10.99.0.77"],
    "silence.miku.test": ["10.99.0.78"]}"#;

/// A counter's name, labels that it has, and its value.
type Count<'a> = (&'a str, &'a [(&'a str, &'a str)], u64);

/// A network with addresses that are not the loopback's, a name server, a client and a server; and a probe that watches both.
struct Network {
    probe: Probe,
    client: Peer,
    server: Peer,
    place: Hermetic,
    _names: Process,
    _folder: TempDir,
}

impl Network {
    fn new() -> Self {
        let python = plain().expect("the case needs it");
        Self::of(&mut python.script("net_peer.py"))
    }

    /// With this client.
    fn of(client: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Hermetic::new(&["unused.miku.test"], folder.path()).expect("the case needs it");
        let resolver = folder.path().join("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").expect("the folder is ours");
        let mount = format!("mount --bind {} /etc/resolv.conf", resolver.display());
        // Neighbours that do not answer are given up after 3 times 0.1 s, and connections after 1 and 2 s.
        for line in [
            mount.as_str(),
            "ip addr add 10.77.0.1/24 dev lo",
            "ip addr add 10.77.0.3/24 dev lo",
            "ip addr add 10.77.0.4/24 dev lo",
            "ip addr add 2001:db8::6/128 dev lo nodad",
            "ip link add here type veth peer name there",
            "ip link set here up",
            "ip link set there up",
            "ip addr add 10.99.0.1/24 dev here",
            "ip neigh add 10.99.0.78 lladdr 02:00:00:00:00:01 dev here",
            "echo 100 >/proc/sys/net/ipv4/neigh/here/retrans_time_ms",
            "echo 1 >/proc/sys/net/ipv4/tcp_syn_retries",
        ] {
            run(&place, line);
        }
        let python = plain().expect("the case needs it");
        let start = |what: &str, command: &mut Command| {
            let process = Process::start(what, place.contain(command));
            process.wait_said(PATIENCE, |line| (line == "ready").then_some(()));
            process
        };
        let names = start("the name server", python.script("net_names.py").arg(NAMES));
        let peer = |what: &str, command: &mut Command| Peer { process: start(what, command), told: 0 };
        let mut server = peer("the server", &mut python.script("net_peer.py"));
        let client = peer("the client", client);
        // Before the probe comes and after.
        server.ask("serve 10.77.0.1 8000");
        let services =
            [(&client, "client"), (&server, "server")].map(|(peer, name)| format!("{name}=pid:{}", peer.pid()));
        let probe = Probe::attach(&services.each_ref().map(String::as_str));
        probe.wait_for("the resolver's places", |scrape| {
            let at =
                |service| scrape.try_count("miku_probe_sites", &[("service", service), ("kind", "libc")]) >= Some(4);
            (at("client") && at("server")).then_some(())
        });
        for address in ["10.77.0.3", "10.77.0.4", "2001:db8::6"] {
            server.ask(&format!("serve {address} 8000"));
        }
        let this = Self { probe, client, server, place, _names: names, _folder: folder };
        // By now it is known who listened before.
        this.rounds("who listens", |scrape| {
            let drops = scrape.try_value("miku_net_listen_drops_total", &[("service", "server"), ("port", "8000")]);
            (drops == Some(0.0)).then_some(())
        });
        this
    }

    /// What the kernel has counted in this network, such as `Tcp:` `RetransSegs`.
    fn counted(&self, file: &str, group: &str, name: &str) -> u64 {
        let path = format!("/proc/{}/net/{file}", self.client.pid());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut rows = text.lines().filter_map(|line| line.strip_prefix(group)).map(str::split_ascii_whitespace);
        let (names, values) = (rows.next().expect("a row of names"), rows.next().expect("a row of numbers"));
        let (_, value) = names.zip(values).find(|(other, _)| *other == name).expect("the kernel counts it");
        value.parse().expect("a number")
    }

    fn tcp(&self, name: &str) -> u64 {
        self.counted("snmp", "Tcp:", name)
    }

    /// Waits until `look` finds something in the metrics that only a round of the sampler brings.
    fn rounds<T>(&self, what: &str, look: impl Fn(&Scrape) -> Option<T>) -> T {
        let found = eventually(ROUNDS, || look(&self.probe.scrape()));
        found.unwrap_or_else(|| panic!("{what} does not show in the metrics\n{}", self.told()))
    }

    /// Waits until all of these are what the probe counts.
    fn agree(&self, expected: &[Count<'_>]) {
        for (name, labels, count) in expected {
            let told = || self.probe.scrape().try_count(name, labels);
            let agreed = eventually(PATIENCE, || (told() == Some(*count)).then_some(()));
            assert!(agreed.is_some(), "{name} {labels:?} is {:?}, not {count}\n{}", told(), self.told());
        }
    }

    fn told(&self) -> String {
        format!("{}\n{}", self.probe.scrape().show(&["miku_net_"]), self.probe.told())
    }
}

/// Runs a line of shell there.
fn run(place: &Hermetic, line: &str) {
    let mut command = Command::new("sh");
    let output = place.contain(command.args(["-c", line])).output().expect("a shell starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// One end of connections.
struct Peer {
    process: Process,
    told: usize,
}

impl Peer {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn ask(&mut self, words: &str) -> Value {
        self.begin(words);
        self.answer()
    }

    fn begin(&mut self, words: &str) {
        self.process.tell(words);
        self.told += 1;
    }

    fn answer(&self) -> Value {
        let number = format!("{} ", self.told);
        let answer = self.process.wait_said(PATIENCE, |line| line.strip_prefix(&number).map(str::to_owned));
        serde_json::from_str(&answer).expect("it writes JSON")
    }

    /// Connects and tells how long that took by its own clock.
    fn connect(&mut self, host: &str, port: u16) -> f64 {
        let answer = self.ask(&format!("connect {host} {port} 20"));
        answer["seconds"].as_f64().unwrap_or_else(|| panic!("{host}: {answer}"))
    }
}

const CONNECTIONS: &str = "miku_net_connections_total";
const FAILURES: &str = "miku_net_connect_failures_total";

/// Connections over IPv4 and IPv6, made, open, closed and reset, and each way not to get one.
fn connections_and_their_failures() {
    let mut network = Network::new();
    let before = ["ActiveOpens", "PassiveOpens", "AttemptFails"].map(|name| network.tcp(name));
    for _ in 0..20 {
        network.client.connect("one.miku.test", 8000);
        network.client.connect("six.miku.test", 8000);
    }
    let sides = |host| [("service", "client"), ("peer", host), ("side", "client")];
    network.agree(&[
        (CONNECTIONS, &sides("one.miku.test"), 20),
        (CONNECTIONS, &sides("six.miku.test"), 20),
        (CONNECTIONS, &[("service", "server"), ("side", "server")], 40),
        ("miku_net_connect_seconds_count", &[("service", "client")], 40),
    ]);
    network.rounds("what is open", |scrape| {
        let open = |labels: &[(&str, &str)]| scrape.try_count("miku_net_connections_open", labels);
        let client = |peer| open(&[("service", "client"), ("peer", peer)]);
        let clients = ["one.miku.test", "six.miku.test"].map(client);
        (clients == [Some(20); 2] && open(&[("service", "server")]) == Some(40)).then_some(())
    });
    network.client.ask("abort");
    network.agree(&[
        ("miku_net_tcp_resets_total", &[("service", "client"), ("direction", "transmit")], 40),
        ("miku_net_tcp_resets_total", &[("service", "server"), ("direction", "receive")], 40),
    ]);
    // Somebody who has nothing to do with it does not count.
    run(&network.place, "exec 3<>/dev/null; timeout 5 bash -c 'exec 3<>/dev/tcp/10.77.0.1/9'; true");
    let mut became = BTreeMap::new();
    for (host, port, patience) in [
        ("one.miku.test", 9, 20.0),
        ("six.miku.test", 9, 20.0),
        ("nowhere.miku.test", 80, 20.0),
        ("silence.miku.test", 80, 20.0),
        ("silence.miku.test", 80, 0.2),
        // There is no way there at all, and nothing is sent.
        ("203.0.113.9", 80, 20.0),
        ("2001:db8:1::1", 80, 20.0),
    ] {
        let answer = network.client.ask(&format!("connect {host} {port} {patience}"));
        *became.entry(answer["errno"].as_i64()).or_insert(0) += 1;
    }
    // Refused twice, no way there, timed out by the kernel; and once by Python, which has no number for it.
    assert_eq!(became, BTreeMap::from([(Some(111), 2), (Some(113), 1), (Some(110), 1), (None, 1), (Some(101), 2)]));
    let failure = |peer, reason| [("service", "client"), ("peer", peer), ("reason", reason)];
    network.agree(&[
        (FAILURES, &failure("one.miku.test", "refused"), 1),
        (FAILURES, &failure("six.miku.test", "refused"), 1),
        (FAILURES, &failure("nowhere.miku.test", "unreachable"), 1),
        (FAILURES, &failure("silence.miku.test", "timeout"), 1),
        (FAILURES, &failure("silence.miku.test", "abandoned"), 1),
        (FAILURES, &failure("internet", "local"), 2),
        (FAILURES, &[], 7),
        (CONNECTIONS, &[], 80),
        ("miku_net_tcp_resets_total", &[], 80),
    ]);
    let [active, passive, failed] = before;
    // The stranger's too; and one that is abandoned has not failed, to the kernel.
    assert_eq!(network.tcp("ActiveOpens") - active, 40 + 5 + 1);
    assert_eq!(network.tcp("PassiveOpens") - passive, 40);
    assert_eq!(network.tcp("AttemptFails") - failed, 4 + 1);
    network.rounds("that nothing is open", |scrape| {
        (scrape.try_sum("miku_net_connections_open", &[]) == Some(0.0)).then_some(())
    });
}

/// Has the network drop what this filter picks of what comes in: numbers of classic BPF, as `tc-bpf(8)` has them.
fn lose(place: &Hermetic, filter: &str) {
    run(place, &format!("tc filter add dev lo ingress protocol all bpf da bytecode '{filter}'"));
}

/// Everything.
const ALL: &str = "1,6 0 0 2";

/// One in twenty packets of more than 200 bytes: `ld len; jgt 200; ld rand; jge 0.95; ret TC_ACT_SHOT; ret TC_ACT_OK`.
const SOME: &str = "6,128 0 0 0,37 0 3 200,32 0 0 4294963256,53 0 1 4080218931,6 0 0 2,6 0 0 0";

/// Whether the network can be made to lose packets.
pub(crate) fn traffic_control() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
    let place = Hermetic::new(&[], folder.path()).map_err(|error| format!("{error:#}"))?;
    let line =
        format!("tc qdisc add dev lo clsact && tc filter add dev lo ingress protocol all bpf da bytecode '{SOME}'");
    let mut command = Command::new("sh");
    let output = place.contain(command.args(["-c", &line])).output().map_err(|error| error.to_string())?;
    let complaint = || format!("no packets can be dropped by tc: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(complaint()) }
}

/// Segments that are sent once more, each of them; how long a connection takes whose first packet is lost; round trips; and
/// what a server that accepts nobody turns away.
fn losses_and_delays() {
    let mut network = Network::new();
    run(&network.place, "tc qdisc add dev lo clsact && ip link set lo mtu 1500");

    // The first packet is lost, the second one goes through a second later.
    lose(&network.place, ALL);
    network.client.begin("connect 10.77.0.3 8000 20");
    let sent = eventually(PATIENCE, || (network.tcp("ActiveOpens") > 0).then_some(()));
    assert!(sent.is_some(), "it does not connect");
    run(&network.place, "tc filter del dev lo ingress");
    let took = network.client.answer()["seconds"].as_f64().expect("it connects");
    assert!(took > 0.9, "nothing was lost: {took} s");
    network.agree(&[("miku_net_connect_seconds_count", &[("service", "client"), ("peer", "lan")], 1)]);
    let told = network.probe.scrape().sum("miku_net_connect_seconds_sum", &[("service", "client"), ("peer", "lan")]);
    // The client may have to wait for a processor before it looks at its clock.
    assert!((-0.001..0.05).contains(&(took - told)), "{told} s instead of the client's {took} s");
    network.agree(&[("miku_net_tcp_retransmits_total", &[("service", "client"), ("peer", "lan")], 1)]);

    network.client.connect("one.miku.test", 8000);
    lose(&network.place, SOME);
    network.client.ask("send 8000000");
    run(&network.place, "tc filter del dev lo ingress");
    let sent_again = network.tcp("RetransSegs");
    assert!(sent_again > 10, "too little was lost: {sent_again}");
    network.agree(&[("miku_net_tcp_retransmits_total", &[], sent_again)]);
    // A round may tell of what was before it was asked for; the next one then does not.
    let exact = (0..4).any(|_| {
        let (count, sum) = round_trips(&network.probe.scrape());
        let round_trip = network.client.ask("send 10")["rtt"].as_f64().expect("a number");
        let (more, sum_then) =
            network.rounds("a round-trip time", |scrape| Some(round_trips(scrape)).filter(|(then, _)| *then > count));
        more == count + 1 && (sum_then - sum - round_trip).abs() < 5e-7
    });
    assert!(exact, "no round-trip time is the kernel's own\n{}", network.told());

    // One may wait to be accepted, and one more.
    network.server.ask("deaf 10.77.0.4 8001 1");
    network.rounds("who listens", |scrape| {
        scrape.try_value("miku_net_listen_drops_total", &[("service", "server"), ("port", "8001")]).map(drop)
    });
    for _ in 0..6 {
        network.client.ask("connect 10.77.0.4 8001 0.2");
    }
    let turned_away = network.counted("netstat", "TcpExt:", "ListenDrops");
    assert!(turned_away >= 4, "{turned_away}");
    network.rounds("what was turned away", |scrape| {
        let dropped = scrape.count("miku_net_listen_drops_total", &[("service", "server"), ("port", "8001")]);
        (dropped == network.counted("netstat", "TcpExt:", "ListenDrops")).then_some(())
    });
}

/// How many round-trip times there are of the client's connections to one host, and their sum; 0 of none.
fn round_trips(scrape: &Scrape) -> (u64, f64) {
    let client = [("service", "client"), ("peer", "one.miku.test")];
    let count = scrape.try_count("miku_net_tcp_rtt_seconds_count", &client);
    (count.unwrap_or(0), scrape.try_sum("miku_net_tcp_rtt_seconds_sum", &client).unwrap_or(0.0))
}

/// Names that are resolved or not, how long that takes, and the connections that bear them.
fn names_and_whom_they_lead_to() {
    let mut network = Network::new();
    let mut clock: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
    for (name, outcome, error) in [
        ("one.miku.test", "ok", None),
        ("six.miku.test", "ok", None),
        ("slow.miku.test", "ok", None),
        ("absent.miku.test", "not_found", Some(-2)),
        ("broken.miku.test", "again", Some(-3)),
        ("silent.miku.test", "again", Some(-3)),
        // What is no name is not resolved.
        ("10.77.0.1", "", None),
        ("2001:db8::6", "", None),
    ] {
        let answer = network.client.ask(&format!("resolve {name}"));
        assert_eq!(answer["error"].as_i64(), error, "{name}: {answer}");
        let (count, seconds) = clock.entry(outcome).or_default();
        *count += 1;
        *seconds += answer["seconds"].as_f64().expect("a number");
    }
    clock.remove("");
    for (outcome, (count, seconds)) in clock {
        let labels = [("service", "client"), ("outcome", outcome)];
        network.agree(&[("miku_net_dns_seconds_count", &labels, count)]);
        let told = network.probe.scrape().sum("miku_net_dns_seconds_sum", &labels);
        // The client's thread may have to wait for a processor before it looks at its clock.
        let apart = (seconds - told) / count as f64;
        assert!((0.0..0.02).contains(&apart), "{outcome}: {told} s instead of the client's {seconds} s");
    }
    assert_eq!(network.probe.scrape().count("miku_net_dns_seconds_count", &[]), 6);

    // Bytes bear the name of whom they went to.
    for host in ["one.miku.test", "six.miku.test", "slow.miku.test"] {
        network.client.connect(host, 8000);
        network.client.ask("send 1000");
        network.client.ask("close");
        let bytes = |direction, bytes| {
            let labels = [("service", "client"), ("peer", host), ("direction", direction), ("transport", "tcp")];
            network.agree(&[("miku_net_bytes_total", &labels, bytes)]);
        };
        bytes("transmit", 1008);
        bytes("receive", 1);
    }
    // An address of two names is believed of neither.
    for host in ["half.miku.test", "other-half.miku.test"] {
        network.client.ask(&format!("resolve {host}"));
    }
    network.client.connect("half.miku.test", 8000);
    network.client.connect("other-half.miku.test", 8000);
    let sides = |host| [("service", "client"), ("peer", host), ("side", "client")];
    network.agree(&[(CONNECTIONS, &sides("lan"), 2)]);
    for host in ["half.miku.test", "other-half.miku.test"] {
        network.probe.scrape().assert_absent(CONNECTIONS, &[("peer", host)]);
    }
}

/// The environment of a client that resolves names by itself.
pub(crate) fn resolvers() -> Result<Python, String> {
    static PYTHON: OnceLock<Result<Python, String>> = OnceLock::new();
    let made = || Python::with("resolvers", &["resolvers.txt"]).map_err(|error| format!("{error:#}"));
    PYTHON.get_or_init(made).clone()
}

/// What c-ares and a library in Python ask of a name server, how long that takes, and the connections that bear the names.
fn names_that_are_asked_for_without_the_c_library() {
    const COUNT: &str = "miku_net_dns_seconds_count";
    const SUM: &str = "miku_net_dns_seconds_sum";
    let python = resolvers().expect("the case needs it");
    let mut network = Network::of(&mut python.script("net_resolvers.py"));
    for word in ["cares", "dnspython"] {
        for (name, outcome) in [
            ("one.miku.test", "ok"),
            ("slow.miku.test", "ok"),
            ("six.miku.test", if word == "cares" { "ok" } else { "not_found" }),
            ("absent.miku.test", "not_found"),
            ("broken.miku.test", "again"),
            ("silent.miku.test", "again"),
        ] {
            let labels = [("service", "client"), ("outcome", outcome)];
            let before = network.probe.scrape();
            let answer = network.client.ask(&format!("{word} {name}"));
            let clock = answer["seconds"].as_f64().expect("a number");
            // The first one of an outcome makes its series.
            let count = before.try_count(COUNT, &labels).unwrap_or(0);
            network.agree(&[(COUNT, &labels, count + 1)]);
            let told = network.probe.scrape().sum(SUM, &labels) - before.try_sum(SUM, &labels).unwrap_or(0.0);
            // The library's own work is around it, and dnspython thinks for a tenth of a second before it gives up.
            let most = if name.starts_with("silent") { 0.15 } else { 0.05 };
            let apart = clock - told;
            assert!(
                (0.0..most).contains(&apart),
                "{word} {name}: {told} s instead of the client's {clock} s: {answer}"
            );
        }
    }
    assert_eq!(network.probe.scrape().count(COUNT, &[]), 12);

    for address in ["10.77.0.1", "10.77.0.3"] {
        network.client.ask(&format!("connect {address}"));
    }
    let sides = |host| [("service", "client"), ("peer", host), ("side", "client")];
    network.agree(&[(CONNECTIONS, &sides("one.miku.test"), 1), (CONNECTIONS, &sides("slow.miku.test"), 1)]);
}
