//! From the bytes of a record to its meaning.

use miku_probe_abi::{
    ABI_VERSION, Answer, Arrival, ArrivalsRecord, BindRecord, CloseRecord, DataRecord, DialRecord, EXIT_OOM_VICTIM,
    EXIT_STATUS_KNOWN, ExitRecord, HandshakeRecord, INFLATED_ENDS, INFLATED_STARTS, InflatedRecord, NetEvent,
    NetRecord, OpenRecord, Origin, Plain, ProcessRecord, RecordHeader, RecordKind, ResolvedRecord, ServerNameRecord,
    TAIL, TlsError,
};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tls_errors::failure;
use crate::observations::{HandshakeFailure, ProcessEnd};
use crate::units::{ConnId, Direction, Handle, Nanos, Tgid};

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is shorter than it has to be, or its length is not what it says.
    #[error("a record of {got} bytes does not hold the {needed} it must")]
    Short {
        /// Bytes that came.
        got: usize,
        /// Bytes that it needs.
        needed: usize,
    },
    /// It was written by another version of the kernel side.
    #[error("a record of ABI version {0}, not {ABI_VERSION}")]
    Version(u8),
    /// No such kind, direction or origin.
    #[error("a record with an unknown number {0}")]
    Number(u8),
    /// No family of internet addresses.
    #[error("a record with an address of the unknown family {0}")]
    Family(u16),
    /// Flags of which some are not known.
    #[error("a record with unknown flags {0:#x}")]
    Flags(u32),
}

/// Bytes that moved, or the end of the other side's.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// On which connection.
    pub id: ConnId,
    /// The thread that moved them.
    pub tid: u32,
    /// When.
    pub time: Nanos,
    /// Records of the connection that were lost so far.
    pub lost: u32,
    /// Which way.
    pub direction: Direction,
    /// How many bytes; 0 for an end.
    pub size: u32,
    /// The error that ended the connection, or 0.
    pub errno: i32,
    /// The first bytes.
    pub prefix: &'a [u8],
    /// The last bytes, when `prefix` does not hold all.
    pub tail: &'a [u8],
}

/// A connection that became known.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    /// Which.
    pub id: ConnId,
    /// When.
    pub time: Nanos,
    /// How.
    pub origin: Origin,
    /// The error of `connect`, or 0.
    pub errno: i32,
    /// `SOCK_STREAM`, `SOCK_DGRAM` or another type; 0 when not known.
    pub socket_type: i32,
    /// A number that no other socket has meanwhile; 0 when not known.
    pub socket: u64,
    /// The other side's socket address as the kernel has it; empty when not known.
    pub address: &'a [u8],
}

/// What came out of a compressed stream: a message of its, or a part of one.
#[derive(Clone, Copy, Debug)]
pub struct Inflated<'a> {
    /// Of which stream.
    pub id: ConnId,
    /// The thread that decompressed it.
    pub tid: u32,
    /// When.
    pub time: Nanos,
    /// Whether a message starts with these bytes.
    pub starts: bool,
    /// Whether a message ends with these bytes.
    pub ends: bool,
    /// Bytes of the message that this stands for; 0 when it tells an end alone.
    pub size: u64,
    /// The first of them.
    pub bytes: &'a [u8],
    /// Records of the stream that were lost so far.
    pub lost: u32,
    /// Bytes of the stream that were taken in for the message, if it ends.
    pub consumed: u64,
}

/// When what a process reads next had come to its socket.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Which socket.
    pub id: ConnId,
    /// The thread that read it.
    pub tid: u32,
    /// When.
    pub time: Nanos,
    /// The sequence number behind the last byte that was read.
    pub end: u32,
    /// Bytes that were read.
    pub size: u32,
    segments: &'a [u8],
}

impl Arrived<'_> {
    /// Whether any of it had waited.
    #[must_use]
    pub const fn waited(&self) -> bool {
        !self.segments.is_empty()
    }

    /// When bytes came, perhaps others too: from the first of these sequence numbers to before the second.
    pub fn arrivals(&self) -> impl Iterator<Item = (u32, u32, Nanos)> {
        let arrivals = self.segments.chunks_exact(size_of::<Arrival>()).filter_map(|bytes| read::<Arrival>(bytes).ok());
        arrivals.filter(|arrival| arrival.time_ns != 0).map(|Arrival { time_ns, from, to }| (from, to, Nanos(time_ns)))
    }
}

/// A connection that its process closed, or a stream that ended.
#[derive(Clone, Copy, Debug)]
pub struct Close {
    /// Which.
    pub id: ConnId,
    /// When.
    pub time: Nanos,
    /// Records of the connection that were lost.
    pub lost: u32,
    /// All bytes received, or decompressed.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
}

/// A TLS handshake that ended.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    /// Of which stream.
    pub id: ConnId,
    /// When it ended.
    pub time: Nanos,
    /// From the first call that worked on it to its end, or why it failed.
    pub outcome: Result<Nanos, HandshakeFailure>,
}

/// The name of the server that a TLS client wants.
#[derive(Clone, Copy, Debug)]
pub struct ServerName<'a> {
    /// On which stream.
    pub id: ConnId,
    /// When.
    pub time: Nanos,
    /// The name as the process gave it.
    pub name: &'a [u8],
}

/// The socket that carries a TLS stream became known, or was found not to carry it.
#[derive(Clone, Copy, Debug)]
pub struct Bind {
    /// Which stream.
    pub id: ConnId,
    /// When.
    pub time: Nanos,
    /// Which socket.
    pub socket: ConnId,
    /// Whether the one carries the other.
    pub bound: bool,
}

/// Something became of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Whose it is.
    pub tgid: Tgid,
    /// When.
    pub time: Nanos,
    /// The other side.
    pub peer: SocketAddr,
    /// What.
    pub event: NetEvent,
    /// From the start of `connect` to its end.
    pub duration: Nanos,
    /// Segments that were sent once more.
    pub count: u32,
    /// The error of a `connect` that failed, or 0 when the process gave it up.
    pub errno: i32,
}

/// A name was resolved, or was not.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<'a> {
    /// By whom.
    pub tgid: Tgid,
    /// When.
    pub time: Nanos,
    /// How long it took.
    pub duration: Nanos,
    /// 0, or `EAI_*`.
    pub result: i32,
    /// The name as the process gave it.
    pub name: &'a [u8],
    answers: &'a [u8],
}

impl Resolved<'_> {
    /// The addresses of the answer, in its order; one may come several times.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let answers = self.answers.chunks_exact(size_of::<Answer>());
        answers.filter_map(|bytes| read::<Answer>(bytes).ok()).filter_map(|answer| ip(answer.family, answer.address))
    }
}

/// Something in the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// A watched process made another.
    Fork {
        /// The new process.
        child: Tgid,
    },
    /// It became another program.
    Exec,
    /// It ended.
    Exit {
        /// How.
        end: ProcessEnd,
    },
    /// It began to listen.
    Listen {
        /// On this TCP port.
        port: u16,
    },
    /// It began to connect.
    Dial {
        /// To this TCP port.
        port: u16,
    },
    /// It loaded or dropped a library, or is about to.
    Libraries,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// Bytes moved.
    Data(Data<'a>),
    /// A connection became known.
    Open(Open<'a>),
    /// A connection was closed, a TLS stream freed, or a compressed stream ended.
    Close(Close),
    /// Bytes came out of a compressed stream.
    Inflated(Inflated<'a>),
    /// Something that is read had come before.
    Arrived(Arrived<'a>),
    /// A TLS handshake ended.
    Handshake(Handshake),
    /// A TLS client named its server.
    ServerName(ServerName<'a>),
    /// A TLS stream was bound to its socket, or is so no more.
    Bind(Bind),
    /// Something became of a TCP connection.
    Net(Net),
    /// A name was resolved, or was not.
    Resolved(Resolved<'a>),
    /// A thread that is an event loop waits, with nothing left to do until something comes.
    Waits {
        /// Of which process.
        tgid: Tgid,
        /// Which thread.
        tid: u32,
        /// Since when.
        time: Nanos,
    },
    /// A thread asked for a connection.
    Dials {
        /// Of which process.
        tgid: Tgid,
        /// Which thread.
        tid: u32,
        /// When.
        time: Nanos,
        /// What the connection's [`Open`] will name.
        socket: u64,
    },
    /// Something in the life of a process.
    Process {
        /// Which process.
        tgid: Tgid,
        /// When.
        time: Nanos,
        /// What.
        event: Process,
    },
}

impl Record<'_> {
    /// When it happened.
    #[must_use]
    pub const fn time(&self) -> Nanos {
        match self {
            Record::Data(Data { time, .. })
            | Record::Open(Open { time, .. })
            | Record::Close(Close { time, .. })
            | Record::Inflated(Inflated { time, .. })
            | Record::Arrived(Arrived { time, .. })
            | Record::Handshake(Handshake { time, .. })
            | Record::ServerName(ServerName { time, .. })
            | Record::Bind(Bind { time, .. })
            | Record::Net(Net { time, .. })
            | Record::Resolved(Resolved { time, .. })
            | Record::Waits { time, .. }
            | Record::Dials { time, .. }
            | Record::Process { time, .. } => *time,
        }
    }

    /// Its kind on the ring.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        match self {
            Record::Data(Data { id: ConnId { handle: Handle::Socket(_), .. }, .. }) => RecordKind::Data,
            Record::Data(_) => RecordKind::Plaintext,
            Record::Open(_) => RecordKind::Open,
            Record::Close(close) => match close.id.handle {
                Handle::Socket(_) => RecordKind::Close,
                Handle::Tls(_) => RecordKind::Free,
                Handle::Inflate(_) => RecordKind::InflateEnd,
            },
            Record::Inflated(_) => RecordKind::Inflated,
            Record::Arrived(_) => RecordKind::Arrivals,
            Record::Handshake(_) => RecordKind::Handshake,
            Record::ServerName(_) => RecordKind::ServerName,
            Record::Bind(_) => RecordKind::Bind,
            Record::Net(_) => RecordKind::Net,
            Record::Resolved(_) => RecordKind::Resolved,
            Record::Waits { .. } => RecordKind::Waits,
            Record::Dials { .. } => RecordKind::Dials,
            Record::Process { event, .. } => match event {
                Process::Fork { .. } => RecordKind::Fork,
                Process::Exec => RecordKind::Exec,
                Process::Exit { .. } => RecordKind::Exit,
                Process::Listen { .. } => RecordKind::Listen,
                Process::Dial { .. } => RecordKind::Dial,
                Process::Libraries => RecordKind::Libraries,
            },
        }
    }
}

/// Decodes one record.
///
/// # Errors
/// When it is too short, of another version, or holds a number that means nothing.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let header: RecordHeader = read(bytes)?;
    if header.version != ABI_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    // The ring rounds lengths up to 8 bytes, so there may be more than the record says, never less.
    let bytes = bytes.get(..header.length as usize).ok_or(short(bytes, header.length as usize))?;
    let kind = RecordKind::from_number(header.kind).ok_or(DecodeError::Number(header.kind))?;
    let tgid = Tgid(header.tgid);
    let time = Nanos(header.time_ns);
    let process = |event| Record::Process { tgid, time, event };
    Ok(match kind {
        RecordKind::Data => Record::Data(data(bytes, tgid, time, socket)?),
        RecordKind::Plaintext => Record::Data(data(bytes, tgid, time, Handle::Tls)?),
        RecordKind::Open => Record::Open(open(bytes, tgid, time)?),
        RecordKind::Close => Record::Close(close(bytes, tgid, time, socket)?),
        RecordKind::Free => Record::Close(close(bytes, tgid, time, Handle::Tls)?),
        RecordKind::Inflated => Record::Inflated(inflated(bytes, tgid, time)?),
        RecordKind::Arrivals => Record::Arrived(arrived(bytes, tgid, time)?),
        RecordKind::InflateEnd => Record::Close(close(bytes, tgid, time, Handle::Inflate)?),
        RecordKind::Handshake => {
            let HandshakeRecord { generation, handle, duration_ns, result, error, .. } = read(bytes)?;
            let id = ConnId { tgid, handle: Handle::Tls(handle), generation: Nanos(generation) };
            let outcome = if result == 1 { Ok(Nanos(duration_ns)) } else { Err(failure(TlsError(error))) };
            Record::Handshake(Handshake { id, time, outcome })
        }
        RecordKind::ServerName => Record::ServerName(server_name(bytes, tgid, time)?),
        RecordKind::Bind => {
            let BindRecord { generation, handle, socket_generation, fd, bound, .. } = read(bytes)?;
            let id = ConnId { tgid, handle: Handle::Tls(handle), generation: Nanos(generation) };
            let socket = ConnId { tgid, handle: Handle::Socket(fd), generation: Nanos(socket_generation) };
            Record::Bind(Bind { id, time, socket, bound: bound != 0 })
        }
        RecordKind::Net => Record::Net(net(bytes, tgid, time)?),
        RecordKind::Resolved => Record::Resolved(resolved(bytes, tgid, time)?),
        RecordKind::Waits => Record::Waits { tgid, tid: header.tid, time },
        RecordKind::Dials => Record::Dials { tgid, tid: header.tid, time, socket: read::<DialRecord>(bytes)?.socket },
        RecordKind::Fork => process(Process::Fork { child: Tgid(read::<ProcessRecord>(bytes)?.child) }),
        RecordKind::Exec => process(Process::Exec),
        RecordKind::Exit => process(Process::Exit { end: end(&read(bytes)?)? }),
        RecordKind::Listen => process(Process::Listen { port: read::<ProcessRecord>(bytes)?.port }),
        RecordKind::Dial => process(Process::Dial { port: read::<ProcessRecord>(bytes)?.port }),
        RecordKind::Libraries => process(Process::Libraries),
    })
}

/// The handle of a socket's record.
const fn socket(handle: u64) -> Handle {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "a descriptor, as the process gave it"
    )]
    Handle::Socket(handle as i32)
}

fn close(bytes: &[u8], tgid: Tgid, time: Nanos, handle: fn(u64) -> Handle) -> Result<Close, DecodeError> {
    let record: CloseRecord = read(bytes)?;
    let id = ConnId { tgid, handle: handle(record.handle), generation: Nanos(record.generation) };
    let CloseRecord { lost, bytes_in, bytes_out, .. } = record;
    Ok(Close { id, time, lost, bytes_in, bytes_out })
}

fn end(record: &ExitRecord) -> Result<ProcessEnd, DecodeError> {
    let ExitRecord { status, flags, .. } = *record;
    if flags & !(EXIT_STATUS_KNOWN | EXIT_OOM_VICTIM) != 0 {
        return Err(DecodeError::Flags(flags));
    }
    let end = if flags & EXIT_STATUS_KNOWN == 0 { ProcessEnd::Unknown } else { ProcessEnd::from_status(status) };
    // One that was chosen while it ended by itself was not killed for that.
    Ok(match end {
        ProcessEnd::Signal(9) | ProcessEnd::Unknown if flags & EXIT_OOM_VICTIM != 0 => ProcessEnd::OomKill,
        end => end,
    })
}

fn server_name(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<ServerName<'_>, DecodeError> {
    const NAME_AT: usize = std::mem::offset_of!(ServerNameRecord, name);
    let record: ServerNameRecord = read(bytes)?;
    let end = NAME_AT + record.length as usize;
    let id = ConnId { tgid, handle: Handle::Tls(record.handle), generation: Nanos(record.generation) };
    Ok(ServerName { id, time, name: bytes.get(NAME_AT..end).ok_or(short(bytes, end))? })
}

fn data(bytes: &[u8], tgid: Tgid, time: Nanos, handle: fn(u64) -> Handle) -> Result<Data<'_>, DecodeError> {
    const TAIL_AT: usize = std::mem::offset_of!(DataRecord, tail);
    let record: DataRecord = read(bytes)?;
    let tail_length = usize::from(record.tail_length);
    // A long tail comes between the record and the start.
    let (tail_at, prefix_at) = if tail_length > TAIL {
        (size_of::<DataRecord>(), size_of::<DataRecord>() + tail_length)
    } else {
        (TAIL_AT, size_of::<DataRecord>())
    };
    let end = prefix_at + usize::from(record.captured);
    let (Some(tail), Some(prefix)) = (bytes.get(tail_at..tail_at + tail_length), bytes.get(prefix_at..end)) else {
        return Err(short(bytes, end));
    };
    if u32::from(record.captured.max(record.tail_length)) > record.size {
        return Err(short(bytes, end));
    }
    let direction = match record.direction {
        0 => Direction::In,
        1 => Direction::Out,
        other => return Err(DecodeError::Number(other)),
    };
    Ok(Data {
        id: ConnId { tgid, handle: handle(record.handle), generation: Nanos(record.generation) },
        tid: record.header.tid,
        time,
        lost: record.lost,
        direction,
        size: record.size,
        errno: i32::from(record.errno),
        prefix,
        tail,
    })
}

fn inflated(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<Inflated<'_>, DecodeError> {
    let record: InflatedRecord = read(bytes)?;
    let end = size_of::<InflatedRecord>() + record.captured as usize;
    let captured = bytes.get(size_of::<InflatedRecord>()..end).ok_or(short(bytes, end))?;
    if record.captured > record.size {
        return Err(short(bytes, end));
    }
    if record.flags & !(INFLATED_STARTS | INFLATED_ENDS) != 0 {
        return Err(DecodeError::Flags(record.flags));
    }
    Ok(Inflated {
        id: ConnId { tgid, handle: Handle::Inflate(record.handle), generation: Nanos(record.generation) },
        tid: record.header.tid,
        time,
        starts: record.flags & INFLATED_STARTS != 0,
        ends: record.flags & INFLATED_ENDS != 0,
        size: u64::from(record.size),
        bytes: captured,
        lost: record.lost,
        consumed: u64::from(record.consumed),
    })
}

fn arrived(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<Arrived<'_>, DecodeError> {
    let ArrivalsRecord { header, generation, handle, end, size } = read(bytes)?;
    let id = ConnId { tgid, handle: socket(handle), generation: Nanos(generation) };
    Ok(Arrived { id, tid: header.tid, time, end, size, segments: &bytes[size_of::<ArrivalsRecord>()..] })
}

fn open(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<Open<'_>, DecodeError> {
    const ADDRESS_AT: usize = std::mem::offset_of!(OpenRecord, address);
    let record: OpenRecord = read(bytes)?;
    let end = ADDRESS_AT + record.address_length as usize;
    Ok(Open {
        id: ConnId { tgid, handle: Handle::Socket(record.fd), generation: Nanos(record.generation) },
        time,
        origin: Origin::from_number(record.origin).ok_or(DecodeError::Number(record.origin))?,
        errno: -record.result,
        socket_type: i32::from(record.socket_type),
        socket: record.socket,
        address: bytes.get(ADDRESS_AT..end).ok_or(short(bytes, end))?,
    })
}

fn net(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<Net, DecodeError> {
    let record: NetRecord = read(bytes)?;
    let unknown = DecodeError::Family(record.family);
    Ok(Net {
        tgid,
        time,
        peer: SocketAddr::new(ip(u32::from(record.family), record.address).ok_or(unknown)?, record.port),
        event: NetEvent::from_number(record.event).ok_or(DecodeError::Number(record.event))?,
        duration: Nanos(record.duration_ns),
        count: record.count,
        errno: i32::from(record.errno),
    })
}

fn resolved(bytes: &[u8], tgid: Tgid, time: Nanos) -> Result<Resolved<'_>, DecodeError> {
    const ANSWERS_AT: usize = std::mem::offset_of!(ResolvedRecord, addresses);
    const NAME_AT: usize = std::mem::offset_of!(ResolvedRecord, name);
    let record: ResolvedRecord = read(bytes)?;
    let name_end = NAME_AT + record.length as usize;
    let answers_end = ANSWERS_AT + record.answers as usize * size_of::<Answer>();
    if answers_end > NAME_AT || name_end > size_of::<ResolvedRecord>() {
        return Err(short(bytes, answers_end.max(name_end)));
    }
    Ok(Resolved {
        tgid,
        time,
        duration: Nanos(record.duration_ns),
        result: record.result,
        name: bytes.get(NAME_AT..name_end).ok_or(short(bytes, name_end))?,
        answers: bytes.get(ANSWERS_AT..answers_end).ok_or(short(bytes, answers_end))?,
    })
}

/// The address of a family (`AF_*`), an IPv4 address in IPv6 form as an IPv4 one; `None` of other families.
fn ip(family: u32, address: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = address;
    match i32::try_from(family).ok()? {
        libc::AF_INET => Some(Ipv4Addr::new(a, b, c, d).into()),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(address)).to_canonical()),
        _ => None,
    }
}

const fn short(bytes: &[u8], needed: usize) -> DecodeError {
    DecodeError::Short { got: bytes.len(), needed }
}

fn read<T: Plain>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() < size_of::<T>() {
        return Err(short(bytes, size_of::<T>()));
    }
    // SAFETY: `bytes` holds at least the size of `T`, any bytes are a value of a `Plain` type, and the read is unaligned.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use miku_probe_abi::{CAPTURE_TAIL, bytes_of};

    use super::*;

    fn header(kind: RecordKind, length: usize) -> RecordHeader {
        let length = u32::try_from(length).expect("a record is short");
        RecordHeader { version: ABI_VERSION, kind: kind as u8, padding: 0, length, time_ns: 7, tgid: 42, tid: 43 }
    }

    fn data_record(captured: &[u8], size: u32) -> Vec<u8> {
        let record = DataRecord {
            header: header(RecordKind::Data, size_of::<DataRecord>() + captured.len()),
            generation: 5,
            handle: 9,
            lost: 3,
            size,
            captured: u16::try_from(captured.len()).expect("a capture is short"),
            tail_length: 2,
            errno: 0,
            direction: 1,
            padding: 0,
            tail: *b"yz......",
        };
        let mut bytes = bytes_of(&record).to_vec();
        bytes.extend_from_slice(captured);
        bytes
    }

    #[test]
    fn decodes_data_with_its_prefix_and_tail() {
        let bytes = data_record(b"HTTP/1.1 200 OK", 1000);
        let Ok(Record::Data(data)) = decode(&bytes) else { panic!("not data: {:?}", decode(&bytes)) };
        assert_eq!(data.id, ConnId { tgid: Tgid(42), handle: Handle::Socket(9), generation: Nanos(5) });
        assert_eq!((data.time, data.lost, data.size, data.direction), (Nanos(7), 3, 1000, Direction::Out));
        assert_eq!((data.prefix, data.tail), (&b"HTTP/1.1 200 OK"[..], &b"yz"[..]));
    }

    #[test]
    fn decodes_a_long_tail() {
        let mut bytes = data_record(&[&[b't'; CAPTURE_TAIL][..], b"start"].concat(), 5000);
        let tail_length = u16::try_from(CAPTURE_TAIL).expect("a tail is short");
        bytes[offset_of!(DataRecord, captured)..][..2].copy_from_slice(&5u16.to_ne_bytes());
        bytes[offset_of!(DataRecord, tail_length)..][..2].copy_from_slice(&tail_length.to_ne_bytes());
        let Ok(Record::Data(data)) = decode(&bytes) else { panic!("not data: {:?}", decode(&bytes)) };
        assert_eq!((data.prefix, data.tail), (&b"start"[..], &[b't'; CAPTURE_TAIL][..]));
        bytes[offset_of!(DataRecord, size)..][..4].copy_from_slice(&1000u32.to_ne_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Short { .. })), "no segment is shorter than its end");
    }

    #[test]
    fn decodes_what_tls_tells() {
        let mut bytes = data_record(b"GET", 3);
        bytes[offset_of!(RecordHeader, kind)] = RecordKind::Plaintext as u8;
        let Ok(record) = decode(&bytes) else { panic!("not plaintext") };
        assert_eq!(record.kind(), RecordKind::Plaintext);
        let id = ConnId { tgid: Tgid(42), handle: Handle::Tls(9), generation: Nanos(5) };
        assert!(matches!(record, Record::Data(data) if data.id == id && data.prefix == b"GET"));

        let mut name = [0; miku_probe_abi::NAME_MAX];
        name[..11].copy_from_slice(b"discord.com");
        let header = header(RecordKind::ServerName, size_of::<ServerNameRecord>());
        let record = ServerNameRecord { header, generation: 5, handle: 9, length: 11, padding: 0, name };
        assert!(
            matches!(decode(bytes_of(&record)), Ok(Record::ServerName(said)) if said.id == id && said.name == b"discord.com")
        );
        let lying = ServerNameRecord { length: 257, ..record };
        assert!(matches!(decode(bytes_of(&lying)), Err(DecodeError::Short { .. })));

        let header = RecordHeader { kind: RecordKind::Handshake as u8, length: 56, ..header };
        let error = TlsError::new(TlsError::OPENSSL, 134).0;
        for (result, outcome) in [(1, Ok(Nanos(77))), (-1, Err(HandshakeFailure::Certificate))] {
            let record = HandshakeRecord { header, generation: 5, handle: 9, duration_ns: 77, result, error };
            let Ok(Record::Handshake(handshake)) = decode(bytes_of(&record)) else { panic!("not a handshake") };
            assert_eq!((handshake.id, handshake.outcome), (id, outcome));
        }

        let header = RecordHeader { kind: RecordKind::Bind as u8, length: 56, ..header };
        let record = BindRecord { header, generation: 5, handle: 9, socket_generation: 4, fd: 8, bound: 1 };
        let Ok(Record::Bind(bind)) = decode(bytes_of(&record)) else { panic!("not a binding") };
        let socket = ConnId { tgid: Tgid(42), handle: Handle::Socket(8), generation: Nanos(4) };
        assert_eq!((bind.id, bind.socket, bind.bound), (id, socket, true));
    }

    fn inflated_record(captured: &[u8], size: u32, flags: u32) -> Vec<u8> {
        let length = size_of::<InflatedRecord>() + captured.len();
        let record = InflatedRecord {
            header: header(RecordKind::Inflated, length),
            generation: 5,
            handle: 9,
            lost: 3,
            size,
            captured: u32::try_from(captured.len()).expect("a capture is short"),
            flags,
            consumed: 77,
            padding: 0,
        };
        let mut bytes = bytes_of(&record).to_vec();
        bytes.extend_from_slice(captured);
        bytes
    }

    #[test]
    fn decodes_what_was_inflated() {
        let id = ConnId { tgid: Tgid(42), handle: Handle::Inflate(9), generation: Nanos(5) };
        for (flags, starts, ends) in [(0, false, false), (1, true, false), (2, false, true), (3, true, true)] {
            let bytes = inflated_record(b"{\"t\":", 1000, flags);
            let Ok(record) = decode(&bytes) else { panic!("not inflated: {:?}", decode(&bytes)) };
            assert_eq!((record.kind(), record.time()), (RecordKind::Inflated, Nanos(7)));
            let Record::Inflated(inflated) = record else { panic!("not inflated: {record:?}") };
            assert_eq!((inflated.id, inflated.tid, inflated.lost), (id, 43, 3));
            assert_eq!((inflated.starts, inflated.ends, inflated.size), (starts, ends, 1000));
            assert_eq!(inflated.consumed, 77);
            assert_eq!(inflated.bytes, b"{\"t\":");
        }
        let end = inflated_record(b"", 0, INFLATED_ENDS);
        assert!(
            matches!(decode(&end), Ok(Record::Inflated(told)) if told.ends && told.size == 0 && told.bytes.is_empty())
        );

        let header = header(RecordKind::InflateEnd, size_of::<CloseRecord>());
        let end = CloseRecord { header, generation: 5, handle: 9, bytes_in: 1000, bytes_out: 0, lost: 3, padding: 0 };
        let Ok(record) = decode(bytes_of(&end)) else { panic!("not an end") };
        assert_eq!(record.kind(), RecordKind::InflateEnd);
        assert!(matches!(record, Record::Close(close) if close.id == id && close.bytes_in == 1000 && close.lost == 3));
    }

    #[test]
    fn refuses_what_cannot_have_been_inflated() {
        let whole = inflated_record(b"{\"op\":11}", 9, INFLATED_STARTS | INFLATED_ENDS);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "took {length} of {} bytes", whole.len());
        }
        let more_than_there_was = inflated_record(b"{\"op\":11}", 8, 0);
        assert!(matches!(decode(&more_than_there_was), Err(DecodeError::Short { .. })));
        let mut lying = whole.clone();
        lying[offset_of!(InflatedRecord, captured)] = 200;
        assert!(matches!(decode(&lying), Err(DecodeError::Short { .. })));
        assert_eq!(decode(&inflated_record(b"", 9, 4)).unwrap_err(), DecodeError::Flags(4));
    }

    fn arrivals_record(arrivals: &[Arrival]) -> Vec<u8> {
        let length = size_of::<ArrivalsRecord>() + size_of_val(arrivals);
        let header = header(RecordKind::Arrivals, length);
        let record = ArrivalsRecord { header, generation: 5, handle: 9, end: 3, size: 8 };
        let mut bytes = bytes_of(&record).to_vec();
        arrivals.iter().for_each(|arrival| bytes.extend_from_slice(bytes_of(arrival)));
        bytes
    }

    #[test]
    fn decodes_when_something_came() {
        let arrivals =
            [Arrival { time_ns: 4, from: 1, to: 3 }, Arrival::default(), Arrival { time_ns: 2, from: 0, to: 1 }];
        let bytes = arrivals_record(&arrivals);
        let Ok(record) = decode(&bytes) else { panic!("not of arrivals: {:?}", decode(&bytes)) };
        assert_eq!((record.kind(), record.time()), (RecordKind::Arrivals, Nanos(7)));
        let Record::Arrived(arrived) = record else { panic!("not of arrivals: {record:?}") };
        assert_eq!(arrived.id, ConnId { tgid: Tgid(42), handle: Handle::Socket(9), generation: Nanos(5) });
        assert_eq!((arrived.tid, arrived.end, arrived.size, arrived.waited()), (43, 3, 8, true));
        let arrivals: Vec<_> = arrived.arrivals().collect();
        assert_eq!(arrivals, [(1, 3, Nanos(4)), (0, 1, Nanos(2))], "places that hold nothing are none");
        assert!(matches!(decode(&arrivals_record(&[])), Ok(Record::Arrived(arrived)) if !arrived.waited()));
        for length in 0..size_of::<ArrivalsRecord>() {
            assert!(decode(&bytes[..length]).is_err(), "took {length} bytes");
        }
    }

    fn net_record() -> NetRecord {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, 7]);
        NetRecord {
            header: header(RecordKind::Net, size_of::<NetRecord>()),
            duration_ns: 77,
            count: 3,
            errno: 111,
            port: 443,
            family: libc::AF_INET as u16,
            event: NetEvent::Failed as u8,
            padding: [0; 5],
            address,
        }
    }

    #[test]
    fn decodes_what_became_of_a_connection() {
        let record = net_record();
        let Ok(Record::Net(net)) = decode(bytes_of(&record)) else { panic!("not of the network") };
        let peer = "10.0.0.7:443".parse().expect("an address");
        let (tgid, time, duration) = (Tgid(42), Nanos(7), Nanos(77));
        assert_eq!(net, Net { tgid, time, peer, event: NetEvent::Failed, duration, count: 3, errno: 111 });
        let mut mapped = record;
        mapped.family = libc::AF_INET6 as u16;
        mapped.address = Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
        assert!(matches!(decode(bytes_of(&mapped)), Ok(Record::Net(net)) if net.peer == peer));
        assert_eq!(
            decode(bytes_of(&NetRecord { family: 1, ..record })).unwrap_err(),
            DecodeError::Family(1),
            "a Unix socket has no such address"
        );
        assert_eq!(decode(bytes_of(&NetRecord { event: 0, ..record })).unwrap_err(), DecodeError::Number(0));
    }

    #[test]
    fn decodes_what_was_resolved_and_refuses_what_cannot_have_been() {
        let mut name = [0xff; miku_probe_abi::NAME_MAX];
        name[..4].copy_from_slice(b"host");
        let none = Answer { family: 0, address: [0xff; 16] };
        let mut addresses = [none; miku_probe_abi::ANSWERS_MAX];
        addresses[0] = Answer { family: libc::AF_INET6 as u32, address: Ipv6Addr::LOCALHOST.octets() };
        let record = ResolvedRecord {
            header: header(RecordKind::Resolved, size_of::<ResolvedRecord>()),
            duration_ns: 77,
            result: -2,
            length: 4,
            answers: 2,
            padding: 0,
            addresses,
            name,
        };
        let bytes = bytes_of(&record);
        let Ok(Record::Resolved(resolved)) = decode(bytes) else { panic!("not resolved") };
        assert_eq!((resolved.name, resolved.result, resolved.duration), (&b"host"[..], -2, Nanos(77)));
        // What is no address is none.
        assert_eq!(resolved.addresses().collect::<Vec<_>>(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        for lying in [ResolvedRecord { length: 257, ..record }, ResolvedRecord { answers: 17, ..record }] {
            assert!(matches!(decode(bytes_of(&lying)), Err(DecodeError::Short { .. })));
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "took {length} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn padding_of_the_ring_is_not_part_of_the_record() {
        let mut bytes = data_record(b"GET", 3);
        bytes.extend_from_slice(&[0xff; 5]);
        let Ok(Record::Data(data)) = decode(&bytes) else { panic!("not data") };
        assert_eq!(data.prefix, b"GET");
    }

    #[test]
    fn refuses_another_version() {
        let mut bytes = data_record(b"GET", 3);
        bytes[0] = ABI_VERSION + 1;
        assert_eq!(decode(&bytes).unwrap_err(), DecodeError::Version(ABI_VERSION + 1));
    }

    #[test]
    fn refuses_every_truncation() {
        let whole = data_record(b"GET / HTTP/1.1", 14);
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "took {length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn refuses_lying_lengths() {
        let mut bytes = data_record(b"GET", 3);
        bytes[offset_of!(DataRecord, captured)] = 200;
        assert!(matches!(decode(&bytes), Err(DecodeError::Short { .. })));
        let mut bytes = data_record(b"GET", 3);
        bytes[offset_of!(DataRecord, tail_length)] = 9;
        assert!(matches!(decode(&bytes), Err(DecodeError::Short { .. })));
        let mut bytes = data_record(b"GET", 3);
        bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Short { .. })));
    }

    #[test]
    fn decodes_waits() {
        let header = header(RecordKind::Waits, size_of::<RecordHeader>());
        let record = decode(bytes_of(&header)).expect("a header is all that it is");
        assert_eq!((record.kind(), record.time()), (RecordKind::Waits, Nanos(header.time_ns)));
        let Record::Waits { tgid: Tgid(42), tid, .. } = record else { panic!("{record:?}") };
        assert_eq!(tid, header.tid);
    }

    #[test]
    fn decodes_dials() {
        let record = DialRecord { header: header(RecordKind::Dials, size_of::<DialRecord>()), socket: 77 };
        let bytes = bytes_of(&record);
        let told = decode(bytes).expect("it is whole");
        assert_eq!((told.kind(), told.time()), (RecordKind::Dials, Nanos(record.header.time_ns)));
        assert!(matches!(told, Record::Dials { tgid: Tgid(42), socket: 77, .. }), "{told:?}");
        let short = RecordHeader { length: size_of::<RecordHeader>() as u32, ..record.header };
        assert!(matches!(decode(bytes_of(&short)), Err(DecodeError::Short { .. })));
    }

    #[test]
    fn decodes_processes() {
        for (kind, expected) in [
            (RecordKind::Fork, Process::Fork { child: Tgid(77) }),
            (RecordKind::Exec, Process::Exec),
            (RecordKind::Listen, Process::Listen { port: 8080 }),
            (RecordKind::Dial, Process::Dial { port: 8080 }),
        ] {
            let record =
                ProcessRecord { header: header(kind, size_of::<ProcessRecord>()), child: 77, port: 8080, padding: 0 };
            let bytes = bytes_of(&record);
            let Ok(Record::Process { tgid: Tgid(42), event, .. }) = decode(bytes) else { panic!("{kind:?}") };
            assert_eq!(event, expected);
        }
    }

    #[test]
    fn decodes_how_a_process_ended() {
        let killed = libc::SIGKILL.cast_unsigned();
        for (status, flags, expected) in [
            (0, EXIT_STATUS_KNOWN, ProcessEnd::Code(0)),
            (3 << 8, EXIT_STATUS_KNOWN, ProcessEnd::Code(3)),
            (killed, EXIT_STATUS_KNOWN, ProcessEnd::Signal(9)),
            (libc::SIGABRT.cast_unsigned() | 0x80, EXIT_STATUS_KNOWN, ProcessEnd::Signal(6)),
            (killed, EXIT_STATUS_KNOWN | EXIT_OOM_VICTIM, ProcessEnd::OomKill),
            (0, EXIT_OOM_VICTIM, ProcessEnd::OomKill),
            (1 << 8, EXIT_STATUS_KNOWN | EXIT_OOM_VICTIM, ProcessEnd::Code(1)),
            (killed, 0, ProcessEnd::Unknown),
        ] {
            let record = ExitRecord { header: header(RecordKind::Exit, size_of::<ExitRecord>()), status, flags };
            let Ok(Record::Process { event, .. }) = decode(bytes_of(&record)) else { panic!("{status:#x} {flags}") };
            assert_eq!(event, Process::Exit { end: expected });
            let lying = ExitRecord { flags: flags | 4, ..record };
            assert_eq!(decode(bytes_of(&lying)).unwrap_err(), DecodeError::Flags(flags | 4));
        }
    }
}
