//! How the TCP sockets of watched processes fare: their round-trip times, how many are open, who listens, and what was turned
//! away there.
//!
//! The kernel is asked by netlink (`sock_diag(7)`), in the network namespace of each process: one question tells of all
//! sockets there, touches none of the processes, and costs a microsecond or two a socket. Whose a socket is, is told by its
//! inode among a process's descriptors. To ask, this thread moves into the namespace and back; no other thread is moved.
//!
//! A round is made every five seconds, at once when other processes are watched, and so seldom that it takes no more than half
//! a per cent of a processor.
//!
//! Metrics: `miku_net_connections_open`, `miku_net_tcp_rtt_seconds`, `miku_net_listen_drops_total`.

mod diag;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::diag::{DiagSocket, State};
use super::{Sample, Samples, Target, Targets};
use crate::units::{Nanos, ServiceId};

/// The least time between two rounds.
const INTERVAL: Duration = Duration::from_secs(5);

/// How often it is asked whether other processes are watched.
const LOOK: Duration = Duration::from_millis(100);

/// How many times as long as a round the pause behind it is at least.
const SHARE: u32 = 200;

/// How many descriptors of one process are looked at.
const DESCRIPTORS_MAX: usize = 65_536;

/// What one round found.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// The services that were looked at, in all of their processes.
    pub services: HashSet<ServiceId>,
    /// Open connections; one that several processes share is told once.
    pub connections: Vec<Connection>,
    /// Sockets that listen, alike.
    pub listeners: Vec<Listener>,
}

/// An open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Whose.
    pub target: Target,
    /// The other side.
    pub peer: SocketAddr,
    /// TCP's smoothed round-trip time, if the other side has acknowledged something since the last round.
    pub round_trip: Option<Nanos>,
}

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Whose.
    pub target: Target,
    /// Its network namespace, by inode.
    pub namespace: u32,
    /// The socket's inode.
    pub inode: u64,
    /// The port.
    pub port: u16,
    /// Connections that it has turned away since it was made.
    pub dropped: u32,
}

/// Starts the thread.
pub fn start(targets: Targets, samples: Samples) {
    let begun = thread::Builder::new().name("tcp".to_owned()).spawn(move || work(&targets, &samples));
    if let Err(error) = begun {
        log::warn!("nothing of round-trip times and open connections is told: {error}");
    }
}

fn work(targets: &Targets, samples: &Samples) {
    let mut looked: Arc<[Target]> = Arc::default();
    let mut last = Instant::now();
    let mut due = last;
    let mut complained = false;
    while samples.wanted() {
        let now = targets.get();
        if Arc::ptr_eq(&now, &looked) && Instant::now() < due {
            thread::sleep(LOOK);
            continue;
        }
        looked = now;
        let started = Instant::now();
        let (round, failure) = round(&looked, started - last);
        if let Some(error) = failure
            && !std::mem::replace(&mut complained, true)
        {
            log::warn!("not all round-trip times and open connections are told: {error}");
            samples.give(Sample::TcpFailed(error.reason()));
        }
        samples.give(Sample::Tcp(round));
        last = started;
        due = started + INTERVAL.max(started.elapsed() * SHARE);
    }
}

/// Why a process's sockets are not told.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    /// Its descriptors or its namespace cannot be read.
    #[error("the sockets of {tgid} cannot be listed")]
    Process {
        tgid: crate::units::Tgid,
        #[source]
        source: io::Error,
    },
    /// The kernel does not tell.
    #[error(
        "the kernel does not tell of its sockets, nor who listened before it was watched (is the module tcp_diag there?)"
    )]
    Netlink(#[source] io::Error),
}

impl RoundError {
    /// The label `reason`.
    fn reason(&self) -> &'static str {
        let (Self::Process { source, .. } | Self::Netlink(source)) = self;
        match source.kind() {
            io::ErrorKind::PermissionDenied => "permission_denied",
            io::ErrorKind::NotFound => "not_found",
            _ => "refused",
        }
    }
}

/// Asks for all sockets of `targets`; what fails is left out, and the first failure told.
fn round(targets: &[Target], since: Duration) -> (Round, Option<RoundError>) {
    let mut round = Round { services: targets.iter().map(|target| target.service).collect(), ..Round::default() };
    let mut failure = None;
    let mut namespaces: BTreeMap<u64, Vec<Target>> = BTreeMap::new();
    for target in targets {
        match fs::metadata(format!("/proc/{}/ns/net", target.tgid)) {
            Ok(namespace) => namespaces.entry(namespace.ino()).or_default().push(*target),
            // It has ended; that is told elsewhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                round.services.remove(&target.service);
                failure = failure.or(Some(RoundError::Process { tgid: target.tgid, source }));
            }
        }
    }
    for (namespace, targets) in namespaces {
        let mut owners = HashMap::new();
        for target in &targets {
            match inodes(*target, &mut owners) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(source) => {
                    round.services.remove(&target.service);
                    failure = failure.or(Some(RoundError::Process { tgid: target.tgid, source }));
                }
            }
        }
        // One that has ended has no namespace to ask in.
        let sockets = targets.iter().find_map(|target| within(*target, namespace, diag::sockets).transpose());
        match sockets {
            Some(Ok(sockets)) => {
                let namespace = u32::try_from(namespace).unwrap_or(0);
                sockets.iter().for_each(|socket| enter(&mut round, socket, &owners, namespace, since));
            }
            Some(Err(error)) => {
                round.services.retain(|service| targets.iter().all(|target| target.service != *service));
                failure = failure.or(Some(RoundError::Netlink(error)));
            }
            None => {}
        }
    }
    (round, failure)
}

fn enter(round: &mut Round, socket: &DiagSocket, owners: &HashMap<u64, Target>, namespace: u32, since: Duration) {
    let Some(target) = owners.get(&socket.inode).copied() else { return };
    match socket.state {
        State::Listening => {
            let DiagSocket { inode, dropped, local: port, .. } = *socket;
            round.listeners.push(Listener { target, namespace, inode, port, dropped });
        }
        State::Open => {
            let moved = socket.last_acknowledged.is_some_and(|ago| ago <= since);
            let round_trip = socket.round_trip.filter(|_| moved).map(Nanos::from);
            round.connections.push(Connection { target, peer: socket.peer, round_trip });
        }
    }
}

/// Enters the inodes of a process's sockets; who was first keeps what is shared.
fn inodes(target: Target, owners: &mut HashMap<u64, Target>) -> io::Result<()> {
    for entry in fs::read_dir(format!("/proc/{}/fd", target.tgid))?.take(DESCRIPTORS_MAX) {
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        let inode = link.as_os_str().as_bytes().strip_prefix(b"socket:[").and_then(|rest| rest.strip_suffix(b"]"));
        if let Some(inode) = inode.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok()) {
            owners.entry(inode).or_insert(target);
        }
    }
    Ok(())
}

/// Does something in the network namespace of a process, which has this inode; `None` when the process has ended. Afterwards
/// this thread is where it was.
fn within<T>(target: Target, namespace: u64, act: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
    const OWN: &str = "/proc/thread-self/ns/net";
    if fs::metadata(OWN)?.ino() == namespace {
        return act().map(Some);
    }
    let own = File::open(OWN)?;
    let other = match File::open(format!("/proc/{}/ns/net", target.tgid)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Meanwhile its number may be another process's.
    if other.metadata()?.ino() != namespace {
        return Ok(None);
    }
    enter_namespace(&other)?;
    let done = act();
    // Were it to stay there, all that it asks later would be of the wrong namespace; it cannot but succeed.
    enter_namespace(&own).expect("a thread may go back to where it came from");
    done.map(Some)
}

fn enter_namespace(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes two integers, and changes nothing but what network this thread sees.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::units::Tgid;

    fn own() -> Target {
        Target { service: ServiceId(0), tgid: Tgid(std::process::id()) }
    }

    #[test]
    fn own_connections_are_told_with_their_round_trips() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("loopback has ports");
            let address = listener.local_addr().expect("bound");
            let mut client = TcpStream::connect(address).expect("the listener has room");
            let (mut server, peer) = listener.accept().expect("one waits");
            client.write_all(b"x").expect("it is open");
            server.read_exact(&mut [0]).expect("one byte was sent");
            let (round, failure) = round(&[own()], INTERVAL);
            assert!(failure.is_none(), "{failure:?}");
            let of = |peer| round.connections.iter().find(|connection| connection.peer == peer);
            let time = of(address).expect("the client's end").round_trip.expect("it has been acknowledged");
            assert!(time > Nanos(0) && time < Nanos(1_000_000_000), "{time:?}");
            assert_eq!(of(peer).map(|connection| connection.target), Some(own()));
            let listening = round.listeners.iter().find(|listener| listener.port == address.port());
            let listening = listening.expect("the one that listens");
            let namespace = fs::metadata("/proc/self/ns/net").expect("every process has one").ino();
            assert_eq!((listening.dropped, u64::from(listening.namespace)), (0, namespace));
        }
    }

    #[test]
    fn a_process_that_is_gone_is_no_failure() {
        let gone = Target { service: ServiceId(3), tgid: Tgid(u32::MAX) };
        let (round, failure) = round(&[gone], INTERVAL);
        assert!(failure.is_none() && round.connections.is_empty() && round.listeners.is_empty());
    }
}
