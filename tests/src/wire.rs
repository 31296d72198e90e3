//! HTTP/1.1 over a socket, by the system calls of one's choice.
//!
//! It is written from the RFCs and shares nothing with the probe's own parser, so that one mistake is not made twice.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

/// Where a server listens: `127.0.0.1:8000`, or `unix:/run/server.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        Ok(Self::Tcp(text.parse().with_context(|| format!("{text:?} is neither unix:PATH nor IP:PORT"))?))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Which system calls move the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// `read` and `write`, as Go and uvloop.
    #[default]
    ReadWrite,
    /// `recvfrom` and `sendto`, as asyncio.
    RecvSend,
    /// `readv` and `writev`, with two pieces of memory.
    Vectored,
    /// `recvmsg` and `sendmsg`, with two pieces of memory.
    Message,
}

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    io: Io,
}

impl Socket {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new(descriptor: OwnedFd, io: Io) -> Self {
        Self { descriptor, io }
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(address: &Address, io: Io) -> io::Result<Self> {
        let descriptor = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                OwnedFd::from(stream)
            }
            Address::Unix(path) => OwnedFd::from(UnixStream::connect(path)?),
        };
        Ok(Self::new(descriptor, io))
    }

    /// Makes every later read fail that has waited for `limit`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_read_timeout(&self, limit: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_usec: libc::suseconds_t::from(limit.subsec_micros().cast_signed()),
        };
        self.set_option(libc::SO_RCVTIMEO, &time)
    }

    /// Makes closing this socket reset the connection.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reset_on_close(&self) -> io::Result<()> {
        self.set_option(libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
    }

    fn set_option<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        let length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, and the pointer is to a live value of the length given.
        let result = unsafe {
            libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), length)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Tells the other side that no more comes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&self) -> io::Result<()> {
        // SAFETY: shutdown takes any descriptor.
        if unsafe { libc::shutdown(self.as_raw_fd(), libc::SHUT_WR) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Writes `first` and `second` in one gathering call as far as the kernel takes them, then the rest.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn gather(&mut self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let all = [first, second].concat();
        let pieces = [piece(first), piece(second)];
        // SAFETY: both pieces point to live memory of their length.
        let sent = result(unsafe { libc::writev(self.as_raw_fd(), pieces.as_ptr(), 2) })?;
        self.write_all(&all[sent..])
    }

    /// Waits until the socket may be written to, but not for ever: the other side may never read.
    fn wait_writable(&self) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: the pointer is to one live pollfd.
        if unsafe { libc::poll(&mut poll, 1, 10_000) } == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn piece(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn message(pieces: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all of a msghdr may be zero: null pointers of length zero.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.as_mut_ptr();
    header.msg_iovlen = pieces.len();
    header
}

fn result(moved: isize) -> io::Result<usize> {
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let descriptor = self.as_raw_fd();
        let length = buffer.len();
        let memory = buffer.as_mut_ptr();
        let (front, back) = buffer.split_at_mut(length.min(100));
        let mut pieces = [piece(front), piece(back)];
        // SAFETY: every call is given live memory, writable for the length it is told, and for no longer than the call.
        result(unsafe {
            match self.io {
                Io::ReadWrite => libc::read(descriptor, memory.cast(), length),
                Io::RecvSend => libc::recv(descriptor, memory.cast(), length, 0),
                Io::Vectored => libc::readv(descriptor, pieces.as_ptr(), 2),
                Io::Message => libc::recvmsg(descriptor, &mut message(&mut pieces), 0),
            }
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let descriptor = self.as_raw_fd();
        let (front, back) = bytes.split_at(bytes.len() / 2);
        let mut pieces = [piece(front), piece(back)];
        loop {
            // SAFETY: every call is given live memory, readable for the length it is told, and for no longer than the call.
            let sent = result(unsafe {
                match self.io {
                    Io::ReadWrite => libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()),
                    Io::RecvSend => libc::send(descriptor, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL),
                    Io::Vectored => libc::writev(descriptor, pieces.as_ptr(), 2),
                    Io::Message => libc::sendmsg(descriptor, &message(&mut pieces), libc::MSG_NOSIGNAL),
                }
            });
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_writable()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message's first line and header lines.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The request line or status line.
    pub first: String,
    /// Header names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Bytes on the wire, the empty line included.
    pub length: usize,
}

impl Head {
    /// Reads the head at the start of `bytes`; none while it is not whole.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some(Self { first, headers: headers.collect(), length: end + 4 })
    }

    /// The value of a header, named in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Whether a header, named in lower case, is there with this value, in any case.
    #[must_use]
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    /// The status of an answer.
    ///
    /// # Errors
    /// When this is no status line.
    pub fn status(&self) -> Result<u16> {
        let status = self.first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        status.and_then(|digits| digits.parse().ok()).with_context(|| format!("{:?} is no status line", self.first))
    }
}

/// A whole message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its head.
    pub head: Head,
    /// Its body, without chunk framing.
    pub body: Vec<u8>,
    /// Its bytes on the wire.
    pub length: usize,
}

/// What sort of message is read, as the length of a body depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Request,
    /// An answer to `HEAD`.
    AnswerToHead,
    /// An answer to anything else.
    Answer,
}

/// Takes the message at the start of `bytes` out of them; none while it is not whole. `ended` says that no more comes.
///
/// # Errors
/// When the framing makes no sense, or the bytes end in the middle of a message.
pub fn take(bytes: &mut Vec<u8>, kind: Kind, ended: bool) -> Result<Option<Message>> {
    let message = whole(bytes, kind, ended)?;
    match &message {
        Some(message) => drop(bytes.drain(..message.length)),
        None if ended && !bytes.is_empty() => bail!("the connection ended in the middle of a message"),
        None => {}
    }
    Ok(message)
}

fn whole(bytes: &[u8], kind: Kind, ended: bool) -> Result<Option<Message>> {
    let Some(head) = Head::parse(bytes) else { return Ok(None) };
    let rest = &bytes[head.length..];
    let bare = match kind {
        Kind::Request => false,
        Kind::AnswerToHead => true,
        Kind::Answer => matches!(head.status()?, 100..200 | 204 | 304),
    };
    let (body, length) = if bare {
        (Vec::new(), 0)
    } else if head.has("transfer-encoding", "chunked") {
        let Some((body, length)) = chunks(rest)? else { return Ok(None) };
        (body, length)
    } else if let Some(length) = head.header("content-length") {
        let length = length.parse::<usize>().with_context(|| format!("Content-Length {length:?}"))?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        (body.to_vec(), length)
    } else if kind == Kind::Request {
        (Vec::new(), 0)
    } else if ended {
        (rest.to_vec(), rest.len())
    } else {
        return Ok(None);
    };
    Ok(Some(Message { length: head.length + length, head, body }))
}

/// Reads a chunked body: its bytes, and how many they were on the wire.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[at..at + line]).context("chunk size")?;
        let size = usize::from_str_radix(text.split(';').next().unwrap_or(text).trim(), 16);
        let size = size.with_context(|| format!("chunk size {text:?}"))?;
        at += line + 2;
        let end = at.checked_add(size).and_then(|end| end.checked_add(2)).context("a chunk beyond all bounds")?;
        let Some(chunk) = bytes.get(at..end) else { return Ok(None) };
        at = end;
        if size == 0 {
            return Ok(Some((body, at)));
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// Reads one answer from `socket`; `buffer` holds what came before and keeps what comes behind it.
///
/// # Errors
/// When the connection fails or ends before the answer does.
pub fn answer(socket: &mut Socket, buffer: &mut Vec<u8>, kind: Kind) -> Result<Message> {
    let mut block = [0; 16 * 1024];
    let mut ended = false;
    loop {
        if let Some(message) = take(buffer, kind, ended)? {
            return Ok(message);
        }
        if ended {
            bail!("the connection ended before an answer came");
        }
        let length = socket.read(&mut block).context("reading an answer")?;
        ended = length == 0;
        buffer.extend_from_slice(&block[..length]);
    }
}

/// Sends `request` on a connection of its own and reads the answer.
///
/// # Errors
/// When nobody listens, or no whole answer comes within ten seconds.
pub fn exchange(address: &Address, request: &[u8]) -> Result<Message> {
    let mut socket = Socket::connect(address, Io::RecvSend).with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Duration::from_secs(10))?;
    socket.write_all(request)?;
    let kind = if request.starts_with(b"HEAD ") { Kind::AnswerToHead } else { Kind::Answer };
    answer(&mut socket, &mut Vec::new(), kind)
}

/// [`exchange`] of a plain `GET`, with more header lines if wanted, each ending in `\r\n`.
///
/// # Errors
/// As [`exchange`].
pub fn get(address: &Address, target: &str, headers: &str) -> Result<Message> {
    exchange(address, format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", host(address)).as_bytes())
}

/// What a client writes behind `Host:`.
#[must_use]
pub fn host(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str, kind: Kind) -> Option<Message> {
        take(&mut text.as_bytes().to_vec(), kind, false).expect("it makes sense")
    }

    #[test]
    fn bodies_end_where_they_say() {
        let length = one("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", Kind::Answer).expect("whole");
        assert_eq!((length.body.as_slice(), length.length), (&b"ok"[..], 40));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x\r\nays\r\n0\r\n\r\n";
        let message = one(chunked, Kind::Answer).expect("whole");
        assert_eq!((message.body.as_slice(), message.length), (&b"okays"[..], chunked.len()));
        for cut in 0..chunked.len() {
            assert!(one(&chunked[..cut], Kind::Answer).is_none(), "whole after {cut} bytes");
        }
        assert!(one("HTTP/1.1 204 No Content\r\n\r\n", Kind::Answer).is_some());
        assert!(one("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Kind::AnswerToHead).is_some());
        assert!(one("HTTP/1.1 200 OK\r\n\r\nuntil the end", Kind::Answer).is_none());
        assert!(one("GET / HTTP/1.1\r\n\r\n", Kind::Request).is_some());
    }

    #[test]
    fn an_end_is_a_body_or_an_error() {
        let mut open = b"HTTP/1.1 200 OK\r\n\r\nall".to_vec();
        assert_eq!(take(&mut open, Kind::Answer, true).expect("sense").expect("whole").body, b"all");
        let mut cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall".to_vec();
        assert!(take(&mut cut, Kind::Answer, true).is_err());
    }
}
