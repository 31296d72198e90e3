//! The kernel's own account of TCP sockets, by netlink (`sock_diag(7)`).
//!
//! Layouts are those of `linux/netlink.h`, `linux/inet_diag.h`, `linux/sock_diag.h` and `linux/tcp.h`. What comes is read
//! piece by piece, and whatever does not fit ends the reading of that socket.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// `SOCK_DIAG_BY_FAMILY`, the kind of question and of its answers.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 0x1 | 0x300;

/// `TCP_*` of `net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;
/// The states that are asked for.
const STATES: u32 = 1 << ESTABLISHED | 1 << CLOSE_WAIT | 1 << LISTEN;

/// `INET_DIAG_INFO` and `INET_DIAG_SKMEMINFO`.
const INFO: u16 = 2;
const SKMEMINFO: u16 = 7;

/// `struct nlmsghdr`, `struct inet_diag_req_v2`, `struct inet_diag_msg`, `struct rtattr`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
const ATTRIBUTE: usize = 4;

/// Where `struct inet_diag_msg` has its fields.
const STATE_AT: usize = 1;
const SOURCE_PORT_AT: usize = 4;
const PORT_AT: usize = 6;
const ADDRESS_AT: usize = 24;
const INODE_AT: usize = 68;

/// Where `struct tcp_info` has `tcpi_last_ack_recv`, in milliseconds, and `tcpi_rtt`, in microseconds.
const LAST_ACK_AT: usize = 56;
const RTT_AT: usize = 68;

/// Where `SK_MEMINFO_DROPS` is among the words of a socket's memory.
const DROPS_AT: usize = 8 * 4;

/// How long the kernel may take to answer.
static PATIENCE: libc::timeval = libc::timeval { tv_sec: 2, tv_usec: 0 };

/// What a socket is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is one end of a connection, of which at least this side has not said all.
    Open,
    /// It waits for connections.
    Listening,
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiagSocket {
    pub(super) state: State,
    pub(super) inode: u64,
    /// Its own port.
    pub(super) local: u16,
    pub(super) peer: SocketAddr,
    /// Smoothed.
    pub(super) round_trip: Option<Duration>,
    /// How long ago the other side acknowledged something.
    pub(super) last_acknowledged: Option<Duration>,
    /// Packets that the socket had to drop; of one that listens, connections.
    pub(super) dropped: u32,
}

/// All TCP sockets of this thread's network namespace that are open or listen.
///
/// # Errors
/// When the kernel does not tell.
pub(super) fn sockets() -> io::Result<Vec<DiagSocket>> {
    let netlink = open()?;
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        ask(&netlink, u8::try_from(family).unwrap_or(0))?;
        let mut answer = vec![0; 64 * 1024];
        loop {
            let length = receive(&netlink, &mut answer)?;
            if take(&answer[..length], &mut sockets)? {
                break;
            }
        }
    }
    Ok(sockets)
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor for us, and nobody else knows of it.
    let netlink = unsafe { OwnedFd::from_raw_fd(fd) };
    let size = size_of::<libc::timeval>() as libc::socklen_t;
    // SAFETY: the pointer is to a live timeval of the size that is told.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const PATIENCE).cast(), size) };
    if set == 0 { Ok(netlink) } else { Err(io::Error::last_os_error()) }
}

fn ask(netlink: &OwnedFd, family: u8) -> io::Result<()> {
    let mut question = [0; HEADER + REQUEST];
    question[..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    question[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let request = &mut question[HEADER..];
    request[0] = family;
    request[1] = libc::IPPROTO_TCP as u8;
    request[2] = 1 << (INFO - 1) | 1 << (SKMEMINFO - 1);
    request[4..8].copy_from_slice(&STATES.to_ne_bytes());
    // SAFETY: an address of zeros is the kernel's, but for its family, which is set next.
    let mut kernel: libc::sockaddr_nl = unsafe { zeroed() };
    kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: both pointers are to live memory of the lengths that are told.
    let sent = unsafe {
        libc::sendto(netlink.as_raw_fd(), question.as_ptr().cast(), question.len(), 0, (&raw const kernel).cast(), size)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive(netlink: &OwnedFd, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer is to live, writable memory of the length that is told.
    let length = unsafe { libc::recv(netlink.as_raw_fd(), to.as_mut_ptr().cast(), to.len(), 0) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Takes in one piece of the answer; says whether it was the last.
fn take(mut bytes: &[u8], sockets: &mut Vec<DiagSocket>) -> io::Result<bool> {
    while let Some(header) = bytes.get(..HEADER) {
        let length = word(header, 0).unwrap_or(0) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        match half(header, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let error = word(body, 0).map_or(0, |word| (word as i32).wrapping_neg());
                return Err(io::Error::from_raw_os_error(error));
            }
            Some(SOCK_DIAG_BY_FAMILY) => sockets.extend(socket(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// A socket, if it is one that is of interest.
fn socket(body: &[u8]) -> Option<DiagSocket> {
    let message = body.get(..MESSAGE)?;
    let state = match message[STATE_AT] {
        ESTABLISHED | CLOSE_WAIT => State::Open,
        LISTEN => State::Listening,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let address: [u8; 16] = message.get(ADDRESS_AT..ADDRESS_AT + 16)?.try_into().ok()?;
    let [a, b, c, d, ..] = address;
    let ip = match i32::from(message[0]) {
        libc::AF_INET => Ipv4Addr::new(a, b, c, d).into(),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
        _ => return None,
    };
    let mut this = DiagSocket {
        state,
        inode: u64::from(word(message, INODE_AT)?),
        local: port(SOURCE_PORT_AT)?,
        peer: SocketAddr::new(ip, port(PORT_AT)?),
        round_trip: None,
        last_acknowledged: None,
        dropped: 0,
    };
    let mut attributes = &body[MESSAGE..];
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let length = usize::from(length);
        let Some(value) = attributes.get(ATTRIBUTE..length) else { break };
        match kind {
            INFO => {
                // Of a connection that nobody has measured yet it is 0.
                let rtt = word(value, RTT_AT).filter(|rtt| *rtt != 0);
                this.round_trip = rtt.map(|rtt| Duration::from_micros(rtt.into()));
                let ago = word(value, LAST_ACK_AT);
                this.last_acknowledged = ago.map(|ago| Duration::from_millis(ago.into()));
            }
            SKMEMINFO => this.dropped = word(value, DROPS_AT).unwrap_or(0),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(this)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = (HEADER + body.len()) as u32;
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        let mut message = [&head, body].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn connection() -> Vec<u8> {
        let mut body = vec![0; MESSAGE];
        (body[0], body[STATE_AT]) = (libc::AF_INET as u8, ESTABLISHED);
        body[SOURCE_PORT_AT..SOURCE_PORT_AT + 4].copy_from_slice(&[0x1f, 0x90, 0x01, 0xbb]);
        body[ADDRESS_AT..ADDRESS_AT + 4].copy_from_slice(&[10, 0, 0, 7]);
        body[INODE_AT..].copy_from_slice(&77_u32.to_ne_bytes());
        let mut info = [0; 104];
        info[LAST_ACK_AT..LAST_ACK_AT + 4].copy_from_slice(&40_u32.to_ne_bytes());
        info[RTT_AT..RTT_AT + 4].copy_from_slice(&1500_u32.to_ne_bytes());
        body.extend([&108_u16.to_ne_bytes()[..], &INFO.to_ne_bytes(), &info].concat());
        let mut memory = [0; 36];
        memory[DROPS_AT..].copy_from_slice(&9_u32.to_ne_bytes());
        body.extend([&40_u16.to_ne_bytes()[..], &SKMEMINFO.to_ne_bytes(), &memory].concat());
        body
    }

    #[test]
    fn a_socket_is_read_with_its_attributes() {
        let mut sockets = Vec::new();
        let answer = [message(SOCK_DIAG_BY_FAMILY, &connection()), message(NLMSG_DONE, &[0; 4])].concat();
        assert!(take(&answer, &mut sockets).expect("no error was told"));
        let expected = DiagSocket {
            state: State::Open,
            inode: 77,
            local: 8080,
            peer: "10.0.0.7:443".parse().expect("an address"),
            round_trip: Some(Duration::from_micros(1500)),
            last_acknowledged: Some(Duration::from_millis(40)),
            dropped: 9,
        };
        assert_eq!(sockets, [expected]);
    }

    #[test]
    fn an_error_is_the_kernels() {
        let answer = message(NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes());
        let error = take(&answer, &mut Vec::new()).expect_err("one was told");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn every_truncation_is_borne() {
        let whole = message(SOCK_DIAG_BY_FAMILY, &connection());
        for length in 0..whole.len() {
            let mut sockets = Vec::new();
            assert!(!take(&whole[..length], &mut sockets).expect("no error was told"));
            assert!(sockets.is_empty(), "took {length} of {} bytes", whole.len());
        }
        let body = connection();
        for length in 0..body.len() {
            assert_eq!(socket(&body[..length]).is_some(), length >= MESSAGE);
        }
    }

    /// An answer of several messages, of which some bytes were changed and the end may be missing.
    #[test]
    fn anything_is_borne() {
        let whole = vec![message(SOCK_DIAG_BY_FAMILY, &connection()); 3].concat();
        let changes = proptest::collection::vec((0..whole.len(), any::<u8>()), 0..40);
        let end = prop_oneof![Just(whole.len()), 0..whole.len()];
        let (cases, read) = (256, Cell::new(0));
        crate::regressions::check(cases, file!(), &(changes, end), |(changes, end)| {
            let mut bytes = whole.clone();
            changes.into_iter().for_each(|(place, byte)| bytes[place] = byte);
            let mut sockets = Vec::new();
            let _any = take(&bytes[..end], &mut sockets);
            prop_assert!(sockets.len() <= end / (HEADER + MESSAGE), "{sockets:?}");
            read.set(read.get() + u32::from(!sockets.is_empty()));
            Ok(())
        });
        assert!(read.get() > cases / 10, "of {cases} answers sockets were read from {}", read.get());
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn any_attributes_are_borne(rest in proptest::collection::vec(any::<u8>(), 0..256)) {
            let body = [&connection()[..MESSAGE], &rest].concat();
            prop_assert!(socket(&body).is_some());
        }
    }
}
