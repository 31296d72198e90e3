//! What the open descriptors of another process are: `pidfd_open(2)` and `pidfd_getfd(2)`, both in Linux 5.6.
//!
//! A descriptor is duplicated into the probe for as long as it takes to ask three questions, then closed. Nothing is
//! read from it or written to it. If the process closes its own in those microseconds, the connection ends that much
//! later.

use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use crate::discovery::addresses::{Address, decode_address};
use crate::units::{Tgid, Transport};

/// An open socket of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The descriptor, as the process numbers it.
    pub fd: i32,
    /// What it carries.
    pub transport: Transport,
    /// Whether it accepts connections.
    pub listening: bool,
    /// Its own address, when it has one.
    pub local: Option<Address>,
    /// The other end's, when it is connected.
    pub peer: Option<Address>,
}

/// The open sockets of `tgid`. A socket that closes while they are listed is left out.
///
/// # Errors
/// When there is no such process, or its descriptors may not be listed or duplicated: it takes `CAP_SYS_PTRACE`, and a
/// kernel where `kernel.yama.ptrace_scope` is not 3.
pub fn sockets(tgid: Tgid) -> io::Result<Vec<Socket>> {
    let process = PidFd::open(tgid)?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{tgid}/fd"))? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !target.as_os_str().as_bytes().starts_with(b"socket:[") {
            continue;
        }
        match process.socket(fd) {
            Ok(Some(socket)) => sockets.push(socket),
            Ok(None) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error),
        }
    }
    sockets.sort_unstable_by_key(|socket| socket.fd);
    Ok(sockets)
}

/// The open socket `fd` of `tgid`, in a handful of system calls; `None` when it is none, or may not be asked.
#[must_use]
pub fn socket(tgid: Tgid, fd: i32) -> Option<Socket> {
    PidFd::open(tgid).and_then(|process| process.socket(fd)).ok().flatten()
}

/// A process, held so that its number cannot come to mean another one meanwhile.
struct PidFd(OwnedFd);

impl PidFd {
    fn open(tgid: Tgid) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(tgid.0).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        owned(fd).map(Self)
    }

    /// Asks about its descriptor `fd`; `None` when that is no socket.
    fn socket(&self, fd: i32) -> io::Result<Option<Socket>> {
        // SAFETY: pidfd_getfd takes three integers and touches no memory of ours.
        let copy = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), fd, 0) })?;
        let Some(domain) = option(&copy, libc::SO_DOMAIN) else { return Ok(None) };
        let kind = option(&copy, libc::SO_TYPE);
        let protocol = option(&copy, libc::SO_PROTOCOL);
        let transport = match (domain, kind, protocol) {
            (libc::AF_UNIX, ..) => Transport::Unix,
            (libc::AF_INET | libc::AF_INET6, Some(libc::SOCK_STREAM), Some(libc::IPPROTO_TCP)) => Transport::Tcp,
            (libc::AF_INET | libc::AF_INET6, Some(libc::SOCK_DGRAM), Some(libc::IPPROTO_UDP)) => Transport::Udp,
            _ => Transport::Other,
        };
        Ok(Some(Socket {
            fd,
            transport,
            listening: option(&copy, libc::SO_ACCEPTCONN) == Some(1),
            local: name(&copy, libc::getsockname),
            peer: name(&copy, libc::getpeername),
        }))
    }
}

/// Takes over the descriptor that a system call returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the system call has just made this descriptor for us, and nobody else knows of it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A socket option that is an integer.
fn option(socket: &OwnedFd, option: libc::c_int) -> Option<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length are live and writable, and length says how large value is.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length)
    };
    (result == 0).then_some(value)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// The address that `call` (`getsockname` or `getpeername`) tells.
fn name(socket: &OwnedFd, call: NameCall) -> Option<Address> {
    const SIZE: usize = size_of::<libc::sockaddr_storage>();
    let mut storage = MaybeUninit::<[u8; SIZE]>::zeroed();
    let mut length = SIZE as libc::socklen_t;
    // SAFETY: the storage is live, writable and as long as length says; the call keeps neither pointer.
    let result = unsafe { call(socket.as_raw_fd(), storage.as_mut_ptr().cast(), &raw mut length) };
    // SAFETY: it began as zeros, and bytes may hold anything.
    let storage = unsafe { storage.assume_init() };
    (result == 0).then(|| decode_address(storage.get(..length as usize)?))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::{Duration, Instant};

    fn own(socket_of: &impl AsRawFd) -> Socket {
        let own = Tgid(std::process::id());
        let one = socket(own, socket_of.as_raw_fd()).expect("a process may ask about itself");
        let all = sockets(own).expect("a process may ask about itself");
        assert!(all.contains(&one), "{one:?} is not among {all:?}");
        one
    }

    #[test]
    fn tcp_sockets_tell_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("the listener has room");
        let (server, peer) = listener.accept().expect("one waits");
        let listening = own(&listener);
        let address = Address::Ip(listener.local_addr().expect("bound"));
        assert_eq!((listening.transport, listening.listening), (Transport::Tcp, true));
        assert_eq!((listening.local, listening.peer), (Some(address.clone()), None));
        let connected = own(&client);
        assert_eq!((connected.transport, connected.listening), (Transport::Tcp, false));
        assert_eq!((connected.local, connected.peer), (Some(Address::Ip(peer)), Some(address.clone())));
        let accepted = own(&server);
        assert_eq!((accepted.local, accepted.peer), (Some(address), Some(Address::Ip(peer))));
    }

    #[test]
    fn unix_and_udp_sockets_are_told_apart() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).expect("the folder is ours");
        let client = UnixStream::connect(&path).expect("the listener has room");
        let listening = own(&listener);
        assert_eq!((listening.transport, listening.listening), (Transport::Unix, true));
        assert_eq!(listening.local, Some(Address::Unix(Some(path.clone()))));
        assert_eq!(own(&client).peer, Some(Address::Unix(Some(path))));
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
        assert_eq!(own(&udp).transport, Transport::Udp);
    }

    #[test]
    fn what_is_no_socket_is_none() {
        let file = fs::File::open("/dev/null").expect("every machine has it");
        assert_eq!(socket(Tgid(std::process::id()), file.as_raw_fd()), None);
        assert_eq!(socket(Tgid(std::process::id()), 1_000_000), None);
        assert_eq!(socket(Tgid(u32::MAX), 0), None);
        assert!(sockets(Tgid(u32::MAX)).is_err());
    }

    #[test]
    fn no_descriptor_is_left_behind() {
        let own = Tgid(std::process::id());
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let address = listener.local_addr().expect("bound");
        let _ = socket(own, listener.as_raw_fd()).expect("a process may ask about itself");
        drop(listener);
        // Were a copy still open, the port would accept for ever. The other tests of this process list its descriptors
        // too, and may hold a copy for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < deadline, "somebody still listens on {address}");
        }
    }
}
