//! The record layouts that the kernel side and user space share.
//!
//! Everything that crosses the ring buffer or a map is declared here once, `repr(C)`, padded by hand and held to its
//! size and offsets by assertions at compile time. Integers are in the machine's own byte order. Every record begins
//! with a [`RecordHeader`], whose version user space checks before it believes anything else.
#![no_std]

use core::mem::{offset_of, size_of};

/// The version of the layouts below; it rises whenever one of them changes.
pub const ABI_VERSION: u8 = 7;

/// The most bytes that are copied of the start of one message, unless it is a call of Discord's API.
pub const CAPTURE_MAX: usize = 4096;

/// The most bytes that are copied of a call of Discord's API: what a reply answers stands behind its text, which may be 2000
/// characters, of which each may be written in twelve.
pub const CAPTURE_CALL: usize = 32768;

/// How many bytes are copied of a frame that goes out over a websocket, unless it is small: as many as hold the session that
/// a bot goes on with.
pub const CAPTURE_FRAME: usize = 128;

/// How many bytes are copied of the start of every later segment of a message.
pub const CAPTURE_LATER: usize = 32;

/// How many bytes are copied of the end of a segment whose start was not copied whole.
pub const TAIL: usize = 8;

/// The same of a segment of a language model's call: what was used stands at the end of an answer, and often the model's name
/// and whether to stream at that of a question. A segment that is no longer is copied whole.
pub const CAPTURE_TAIL: usize = 1024;

/// How many pieces of one gathered read or write are told apart; what follows them is one last piece.
pub const GATHER_MAX: usize = 16;

/// The most bytes that are copied of one decompressed message whose kind matters, in pieces of [`CAPTURE_MAX`].
pub const INFLATED_MAX: u32 = 32 << 10;

/// The most bytes that are copied of any other.
pub const INFLATED_OTHER: u32 = 512;

/// The most bytes of a socket address that are copied: as many as a `sockaddr_un` has.
pub const ADDRESS_MAX: usize = 112;

/// The most bytes of a server's name that are copied: as many as the name system allows, and the zero at its end.
pub const NAME_MAX: usize = 256;

/// The most addresses of one answer that are copied, doubles included: a resolver lists each once for every kind of socket.
pub const ANSWERS_MAX: usize = 16;

/// How many bytes of the ring are overwritten at once when it is scrubbed, without the ring's own 8 bytes an entry, and
/// how many times that at most in one run: the smallest ring holds four.
pub const SCRUB_PIECE: usize = (16 << 10) - 8;
/// See [`SCRUB_PIECE`].
pub const SCRUB_PIECES: u32 = 16;

/// Slots of the table that tells at once whether a process is certainly not watched.
pub const FILTER_SLOTS: u32 = 1 << 14;

/// What a record tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// Bytes moved over a connection, or it failed: [`DataRecord`].
    Data = 1,
    /// A connection was accepted, begun, or first seen: [`OpenRecord`].
    Open = 2,
    /// A connection was closed: [`CloseRecord`].
    Close = 3,
    /// A watched process made another: [`ProcessRecord`] with the child.
    Fork = 4,
    /// Any process became another program: [`ProcessRecord`].
    Exec = 5,
    /// A watched process ended: [`ExitRecord`].
    Exit = 6,
    /// Any process began to listen on a TCP port: [`ProcessRecord`] with the port.
    Listen = 7,
    /// Any process began to connect to a TCP port: [`ProcessRecord`] with the port.
    Dial = 8,
    /// Plaintext went into or came out of a TLS stream: [`DataRecord`].
    Plaintext = 9,
    /// A TLS stream was freed: [`CloseRecord`].
    Free = 10,
    /// A TLS handshake ended: [`HandshakeRecord`].
    Handshake = 11,
    /// A TLS client named the server it wants: [`ServerNameRecord`].
    ServerName = 12,
    /// A watched process loaded a library, or is about to: [`ProcessRecord`].
    Libraries = 13,
    /// Which socket carries a TLS stream became known, or is so no more: [`BindRecord`].
    Bind = 14,
    /// Bytes came out of a compressed stream: [`InflatedRecord`].
    Inflated = 15,
    /// A compressed stream ended: [`CloseRecord`].
    InflateEnd = 16,
    /// Something became of a TCP connection of a watched process: [`NetRecord`].
    Net = 25,
    /// A watched process resolved a host's name: [`ResolvedRecord`].
    Resolved = 26,
    /// A thread that is an event loop, of a process with [`TARGET_TURNS`], waits, with nothing left to do until something
    /// comes: a [`RecordHeader`] alone.
    Waits = 27,
    /// A thread of a process with [`TARGET_TURNS`] asked for a TCP connection: [`DialRecord`].
    Dials = 28,
}

/// How many kinds of records there are.
pub const KINDS: usize = RecordKind::ALL.len();

impl RecordKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Data,
        Self::Open,
        Self::Close,
        Self::Fork,
        Self::Exec,
        Self::Exit,
        Self::Listen,
        Self::Dial,
        Self::Plaintext,
        Self::Free,
        Self::Handshake,
        Self::ServerName,
        Self::Libraries,
        Self::Bind,
        Self::Inflated,
        Self::InflateEnd,
        Self::Net,
        Self::Resolved,
        Self::Waits,
        Self::Dials,
    ];

    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        let mut place = 0;
        while place < Self::ALL.len() {
            if Self::ALL[place] as u8 == number {
                return Some(Self::ALL[place]);
            }
            place += 1;
        }
        None
    }

    /// Its place among [`RecordKind::ALL`], since their numbers have gaps.
    #[inline(always)]
    #[must_use]
    pub const fn place(self) -> usize {
        let number = self as usize;
        if number >= Self::Net as usize { number - Self::Net as usize + Self::InflateEnd as usize } else { number - 1 }
    }
}

/// The start of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// [`ABI_VERSION`] of the side that wrote it.
    pub version: u8,
    /// A [`RecordKind`].
    pub kind: u8,
    /// Zero.
    pub padding: u16,
    /// Length of the whole record in bytes, this header included.
    pub length: u32,
    /// When it happened: nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// The thread, in the initial PID namespace.
    pub tid: u32,
}

/// Which way bytes went, as the watched process sees it: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the process.
    In = 0,
    /// Out of the process.
    Out = 1,
}

/// How a connection came to be known: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By `accept` or `accept4`.
    Accepted = 1,
    /// By `connect`.
    Connected = 2,
    /// By the first bytes on a descriptor that was not seen to open.
    FirstSeen = 3,
    /// User space found it open when it began to watch.
    Seeded = 4,
}

impl Origin {
    /// The origin with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Accepted),
            2 => Some(Self::Connected),
            3 => Some(Self::FirstSeen),
            4 => Some(Self::Seeded),
            _ => None,
        }
    }
}

/// Bytes that moved over a connection, or plaintext over a TLS stream; `captured` bytes of their start follow the record. If
/// more than [`TAIL`] bytes of their end are told, those follow it first, [`CAPTURE_TAIL`] of them.
///
/// A record with `size` 0 tells the end of what the other side sends (`errno` 0) or that the connection failed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DataRecord {
    /// Kind [`RecordKind::Data`] or [`RecordKind::Plaintext`].
    pub header: RecordHeader,
    /// The connection's generation: when it was opened or first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The file descriptor; of plaintext the address of the stream's `SSL` in the process.
    pub handle: u64,
    /// Data records of this connection that did not fit the ring so far: when it has risen, some are missing before this.
    pub lost: u32,
    /// Bytes moved.
    pub size: u32,
    /// Bytes of the start that follow this record.
    pub captured: u16,
    /// Bytes of the end that are told, when `captured` is smaller than `size`: up to [`TAIL`] of them, counted from the front of
    /// `tail`, or [`CAPTURE_TAIL`] behind this record.
    pub tail_length: u16,
    /// The error that ended the connection, or 0.
    pub errno: u16,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub padding: u8,
    /// The last bytes of the segment, if they are few.
    pub tail: [u8; TAIL],
}

/// A connection that became known.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OpenRecord {
    /// Kind [`RecordKind::Open`].
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The kernel's address of the socket, or 0 where it is not known.
    pub socket: u64,
    /// The file descriptor.
    pub fd: i32,
    /// What `connect` returned: 0, or the negative error (`-EINPROGRESS` is none).
    pub result: i32,
    /// An [`Origin`].
    pub origin: u8,
    /// `SOCK_STREAM` (1), `SOCK_DGRAM` (2) or another type; 0 when not known.
    pub socket_type: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// Bytes of `address` that are set; 0 when the caller asked for none.
    pub address_length: u32,
    /// The other side's socket address as the system call gave it.
    pub address: [u8; ADDRESS_MAX],
}

/// A thread that asked for a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DialRecord {
    /// Kind [`RecordKind::Dials`].
    pub header: RecordHeader,
    /// The kernel's address of the socket.
    pub socket: u64,
}

/// The record's bytes begin a message.
pub const INFLATED_STARTS: u32 = 1;

/// The record's bytes end a message.
pub const INFLATED_ENDS: u32 = 2;

/// What came out of a compressed stream; `captured` bytes of its start follow the record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflatedRecord {
    /// Kind [`RecordKind::Inflated`].
    pub header: RecordHeader,
    /// The stream's generation: when it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The address of the stream's `z_stream` or `ZSTD_DStream` in the process.
    pub handle: u64,
    /// Records of this stream that did not fit the ring so far: when it has risen, some are missing before this.
    pub lost: u32,
    /// Bytes of the message that this record stands for; 0 when it tells a message's end alone.
    pub size: u32,
    /// Bytes of their start that follow this record.
    pub captured: u32,
    /// [`INFLATED_STARTS`] and [`INFLATED_ENDS`].
    pub flags: u32,
}

/// A connection that was closed by its process, or a TLS stream that it freed, or a compressed one that ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CloseRecord {
    /// Kind [`RecordKind::Close`], [`RecordKind::Free`] or [`RecordKind::InflateEnd`].
    pub header: RecordHeader,
    /// The connection's generation.
    pub generation: u64,
    /// The file descriptor; of a stream its address in the process.
    pub handle: u64,
    /// All bytes received, or decompressed.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
    /// Data records of this connection that did not fit the ring.
    pub lost: u32,
    /// Zero.
    pub padding: u32,
}

/// A TLS handshake that ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HandshakeRecord {
    /// Kind [`RecordKind::Handshake`].
    pub header: RecordHeader,
    /// The stream's generation: when it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// From the first call that worked on it to its end, in nanoseconds.
    pub duration_ns: u64,
    /// What the last call returned: 1 when it succeeded.
    pub result: i32,
    /// The first error of TLS that the library raised in it: a [`TlsError`], or 0.
    pub error: u32,
}

/// The name of the server that a TLS client wants (SNI).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ServerNameRecord {
    /// Kind [`RecordKind::ServerName`].
    pub header: RecordHeader,
    /// The stream's generation.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// Bytes of `name` that are set.
    pub length: u32,
    /// Zero.
    pub padding: u32,
    /// The name, without a zero at its end.
    pub name: [u8; NAME_MAX],
}

/// The socket that carries a TLS stream.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BindRecord {
    /// Kind [`RecordKind::Bind`].
    pub header: RecordHeader,
    /// The stream's generation.
    pub generation: u64,
    /// The address of the stream's `SSL` in the process.
    pub handle: u64,
    /// The socket's generation.
    pub socket_generation: u64,
    /// The socket's file descriptor.
    pub fd: i32,
    /// 1 when it became known, 0 when it was found not to be so.
    pub bound: u32,
}

/// Something in the life of a process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ProcessRecord {
    /// Kind [`RecordKind::Fork`], [`RecordKind::Exec`], [`RecordKind::Listen`], [`RecordKind::Dial`] or
    /// [`RecordKind::Libraries`].
    pub header: RecordHeader,
    /// The child of a fork.
    pub child: u32,
    /// The port listened on or connected to.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

/// The status of [`ExitRecord`] is known.
pub const EXIT_STATUS_KNOWN: u32 = 1;

/// The kernel chose the process to be killed for want of memory.
pub const EXIT_OOM_VICTIM: u32 = 2;

/// The end of a process: of its last thread, where the kernel tells which that is, else of its first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitRecord {
    /// Kind [`RecordKind::Exit`].
    pub header: RecordHeader,
    /// As `wait` gives it to the parent: a signal in the low 7 bits, or else a code in the 8 above.
    pub status: u32,
    /// [`EXIT_STATUS_KNOWN`] and [`EXIT_OOM_VICTIM`].
    pub flags: u32,
}

/// In the value of a watched process in the table of them: the kernel chose it to be killed for want of memory.
pub const TARGET_OOM_VICTIM: u32 = 1;

/// The same: it is to be told when its event loops wait, and when its threads ask for connections.
pub const TARGET_TURNS: u32 = 2;

/// In a slot of the filter of processes: one of those that share it is watched.
pub const FILTER_WATCHED: u64 = 1;

/// The same: one of them has [`TARGET_TURNS`].
pub const FILTER_TURNS: u64 = 2;

/// Connections that the first of their two tables holds, at most: as many as its buckets take two pages.
pub const CONNECTIONS_FEW: u32 = 512;

/// What became of a TCP connection: its numbers are those on the ring.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// The process's own `connect` came to its end well.
    Connected = 1,
    /// It did not.
    Failed = 2,
    /// A connection to a socket that the process listens on was made.
    Accepted = 3,
    /// Segments were sent once more.
    Retransmitted = 4,
    /// The other side reset the connection.
    ResetReceived = 5,
    /// This side did.
    ResetSent = 6,
}

impl NetEvent {
    /// The event with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Connected),
            2 => Some(Self::Failed),
            3 => Some(Self::Accepted),
            4 => Some(Self::Retransmitted),
            5 => Some(Self::ResetReceived),
            6 => Some(Self::ResetSent),
            _ => None,
        }
    }
}

/// This machine itself refused to connect, and did not tell why where it can be seen.
pub const ERRNO_UNTOLD: u16 = u16::MAX;

/// Something became of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NetRecord {
    /// Kind [`RecordKind::Net`]; its process is the one whose socket it is, whoever runs now.
    pub header: RecordHeader,
    /// From the start of `connect` to its end, in nanoseconds; 0 for other events.
    pub duration_ns: u64,
    /// Segments that were sent once more; 1 for other events.
    pub count: u32,
    /// The error of a `connect` that failed, 0 when the process closed the socket before it came to its end, or
    /// [`ERRNO_UNTOLD`].
    pub errno: u16,
    /// The other side's port.
    pub port: u16,
    /// `AF_*`.
    pub family: u16,
    /// A [`NetEvent`].
    pub event: u8,
    /// Zero.
    pub padding: [u8; 5],
    /// The other side's address; of an IPv4 one the first 4 bytes.
    pub address: [u8; 16],
}

/// A host's name that was resolved, or was not.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResolvedRecord {
    /// Kind [`RecordKind::Resolved`].
    pub header: RecordHeader,
    /// From the call to its return, in nanoseconds.
    pub duration_ns: u64,
    /// What `getaddrinfo` returned: 0, or `EAI_*`.
    pub result: i32,
    /// Bytes of `name` that are set.
    pub length: u32,
    /// Addresses that are set.
    pub answers: u32,
    /// Zero.
    pub padding: u32,
    /// The answer's addresses.
    pub addresses: [Answer; ANSWERS_MAX],
    /// The name that was asked for, without a zero at its end.
    pub name: [u8; NAME_MAX],
}

/// One address of an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// `AF_*`.
    pub family: u32,
    /// The address; of an IPv4 one the first 4 bytes.
    pub address: [u8; 16],
}

/// What the kernel side keeps of a TCP socket of a watched process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NetSocket {
    /// When its `connect` began, in nanoseconds of `CLOCK_MONOTONIC`; 0 once that has come to its end.
    pub connecting: u64,
    /// The process.
    pub tgid: u32,
    /// Zero.
    pub padding: u32,
}

/// A TCP port that is listened on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The network namespace, by its inode.
    pub namespace: u32,
    /// The port.
    pub port: u32,
}

/// A `getaddrinfo` that has begun, by its thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ResolveCall {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`; 0 when it has ended.
    pub started: u64,
    /// The address of the name.
    pub node: u64,
    /// Where the address of the answer goes.
    pub answer: u64,
}

/// A `connect` that has begun, by its thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DialCall {
    /// The address of the socket address.
    pub address: u64,
    /// The file descriptor.
    pub fd: i32,
    /// 0 when it has ended.
    pub pending: u32,
}

/// Key of a connection while its descriptor is open.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// The file descriptor.
    pub fd: i32,
}

/// The connection carries HTTP/1 or a websocket as far as the kernel side can see, so its segments are reported.
pub const CONNECTION_REPORTED: u16 = 1;

/// Its opening has been told. A socket that is only made, or listens, is in the table untold.
pub const CONNECTION_TOLD: u16 = 2;

/// It carries TLS, so nothing on it is looked at: ciphertext may look like anything.
pub const CONNECTION_TLS: u16 = 4;

/// It carries questions to a name server and their answers, each of which is copied whole.
pub const CONNECTION_NAMES: u16 = 32;

/// The port of name servers (RFC 1035, section 4.2.1).
pub const NAME_SERVER_PORT: u16 = 53;

/// It carries the frames of a websocket: what a segment begins with tells how much of it is copied. A TLS stream's flag too.
pub const FRAMES: u32 = 8;

/// It carries a call of a language model, as far as can be told by its path or by what it streams. A TLS stream's flag too.
pub const MODEL: u32 = 16;

/// How many bytes tell what a segment may be.
pub const LOOK: usize = 8;

/// How many bytes of a message's start tell what follows it.
pub const START: usize = 16;

/// One bit, and the top bit, in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
const TOP: u64 = 0x8080_8080_8080_8080;

/// Whether a segment that begins so may be the start of an HTTP/1 message: three capital letters, as methods and `HTTP/`
/// begin with, and no control character or other byte that no line of one begins with. `length` of the bytes are there.
///
/// All bytes are looked at as one number, so that it takes few instructions and no way through it is another to the kernel's
/// verifier: to a byte below 0x80 is added what makes it reach 0x80 just where its range begins or ends.
#[inline(always)]
#[must_use]
pub fn looks_like_start(first: &[u8; LOOK], length: usize) -> bool {
    const LETTERS: u64 = 0x80_8080;
    let mut word = u64::from_le_bytes(*first);
    if length < LOOK {
        // What is not there may be anything; let it be letters.
        let absent = u64::MAX << (length * 8);
        word = (word & !absent) | ((ONES * 0x41) & absent);
    }
    let printable = !(word.wrapping_add(ONES * (0x80 - 0x20))) | word.wrapping_add(ONES) | word;
    let letters = !(word.wrapping_add(ONES * (0x80 - 0x41))) | word.wrapping_add(ONES * (0x80 - 0x5b));
    length != 0 && (printable & TOP) | (letters & LETTERS) == 0
}

/// Whether a segment that begins so is the start of a TLS record: its kind, and the version that all since SSL 3 claim.
#[inline(always)]
#[must_use]
pub fn looks_like_tls(first: &[u8; LOOK], length: usize) -> bool {
    length >= 3 && (0x14 <= first[0] && first[0] <= 0x17) && first[1] == 3 && first[2] <= 4
}

/// Whether a segment that begins so is the start of a websocket's frame (RFC 6455, section 5.2) which holds a JSON object with
/// a member. Of a masked frame of 126 bytes or more that cannot be seen.
#[inline(always)]
#[must_use]
pub fn looks_like_object(first: &[u8; LOOK], length: usize) -> bool {
    let whole_or_first = first[0] == 0x81 || first[0] == 0x82;
    let object = match first[1] {
        2..=125 => [first[2], first[3]],
        126 => [first[4], first[5]],
        // What it begins with stands too far behind to be seen here: a length below 4 GiB has to do.
        127 if first[2] | first[3] | first[4] | first[5] == 0 => *b"{\"",
        0x82..=0xfd => [first[6] ^ first[2], first[7] ^ first[3]],
        _ => [0, 0],
    };
    length >= LOOK && whole_or_first && object[0] == b'{' && object[1] == b'"'
}

/// Whether a segment that begins so may be the start of any frame of a websocket, without extensions.
#[inline(always)]
#[must_use]
pub fn looks_like_frame(first: &[u8; LOOK], length: usize) -> bool {
    length >= 2 && matches!(first[0], 0x80..=0x82 | 0x88..=0x8a | 0..=2)
}

/// Whether a message that begins so is a call that may post something by Discord's API.
#[inline(always)]
#[must_use]
pub fn looks_like_call(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && begins(u64::from_le_bytes(*first), b"POST /ap")
}

/// Whether a message that begins so may be a call of a language model, by its path; unless that stands behind more of a
/// proxy's than is looked at. Of Discord's API none is.
#[inline(always)]
#[must_use]
pub fn looks_like_model_call(first: &[u8; LOOK], then: &[u8; LOOK], length: usize) -> bool {
    const V1: u16 = u16::from_le_bytes(*b"v1");
    const API: u16 = u16::from_le_bytes(*b"ap");
    const CHAT: u16 = u16::from_le_bytes(*b"ch");
    const COMPLETION: u16 = u16::from_le_bytes(*b"co");
    const EMBEDDING: u16 = u16::from_le_bytes(*b"em");
    const OPENAI: u16 = u16::from_le_bytes(*b"op");
    const UPSTREAM: u16 = u16::from_le_bytes(*b"up");
    let (first, then) = (u64::from_le_bytes(*first), u64::from_le_bytes(*then));
    if length < START || !begins(first, b"POST /") {
        return false;
    }
    match (first >> 48) as u16 {
        // OpenAI's `/v1/chat/completions`, `completions`, `responses` and `embeddings`, and Anthropic's `/v1/messages`.
        V1 => begins(then, b"/c") || begins(then, b"/r") || begins(then, b"/e") || begins(then, b"/m"),
        // Ollama's `/api/chat`, `generate`, `embed` and `embeddings`, and all of the above behind `/api`.
        API => begins(then, b"i/ch") || begins(then, b"i/ge") || begins(then, b"i/em") || begins(then, b"i/v1/"),
        // The same without a version, llama.cpp's `/completion` and `/embedding`, Azure's `/openai`, llama-swap's `/upstream`.
        first => matches!(first, CHAT | COMPLETION | EMBEDDING | OPENAI | UPSTREAM),
    }
}

/// Whether a segment that begins so may be the start of an event of an event stream, perhaps behind the size of a chunk.
#[inline(always)]
#[must_use]
pub fn looks_like_event(first: &[u8; LOOK], length: usize) -> bool {
    let line = line(first);
    length >= LOOK && (begins(line, b"\nda") || begins(line, b"\nev"))
}

/// Whether a segment that begins so may be the start of a JSON object with a member, perhaps behind the size of a chunk.
#[inline(always)]
#[must_use]
pub fn looks_like_json(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && begins(line(first), b"\n{\"")
}

/// The first line of what a segment begins with, from the line feed before it on: behind the size of a chunk (RFC 9112,
/// section 7.1), if that is there. Of a size of more than four digits nothing is told that is long enough to be compared.
#[inline(always)]
const fn line(first: &[u8; LOOK]) -> u64 {
    let word = u64::from_le_bytes(*first);
    if begins(word, b"data:") || begins(word, b"event:") || begins(word, b"{\"") {
        return (word << 8) | b'\n' as u64;
    }
    if !first[0].is_ascii_hexdigit() {
        return 0;
    }
    // The lowest byte that is a carriage return has its top bit set in this, and nothing else does that is lower.
    let returns = word ^ (ONES * b'\r' as u64);
    let returns = returns.wrapping_sub(ONES) & !returns & TOP;
    // What is above the carriage return comes down, by a division since no instruction tells where a bit is.
    let one_above = (returns & returns.wrapping_neg()) << 1;
    match word.checked_div(one_above) {
        Some(line) => line,
        None => 0,
    }
}

/// Whether the bytes of a word, the lowest first, begin so.
#[inline(always)]
const fn begins<const LENGTH: usize>(word: u64, text: &[u8; LENGTH]) -> bool {
    let (mut wanted, mut mask, mut at) = (0, 0, 0);
    while at < LENGTH {
        wanted |= (text[at] as u64) << (8 * at);
        mask |= 0xff << (8 * at);
        at += 1;
    }
    word & mask == wanted
}

/// Whether a message that begins so is a request, and no answer.
#[inline(always)]
#[must_use]
pub fn looks_like_request(first: &[u8; LOOK], length: usize) -> bool {
    length >= LOOK && !begins(u64::from_le_bytes(*first), b"HTTP/") && looks_like_start(first, LOOK)
}

/// Whether a message that begins so is the answer after which the connection carries something else.
#[inline(always)]
#[must_use]
pub fn looks_like_upgrade(first: &[u8; LOOK], then: &[u8; LOOK], length: usize) -> bool {
    length >= START && begins(u64::from_le_bytes(*first), b"HTTP/1.1") && begins(u64::from_le_bytes(*then), b" 101")
}

/// What the kernel side keeps of an open connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// When it was opened or first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// All bytes received.
    pub bytes_in: u64,
    /// All bytes sent.
    pub bytes_out: u64,
    /// Data records that did not fit the ring.
    pub lost: u32,
    /// Bytes that may still be copied of the current message's start.
    pub budget: u32,
    /// Which way the last segment went: a [`Direction`], or [`Connection::NO_DIRECTION`].
    pub direction: u32,
    /// [`CONNECTION_REPORTED`], [`CONNECTION_TOLD`], [`CONNECTION_TLS`], [`FRAMES`] and [`MODEL`].
    pub flags: u16,
    /// The socket's type, or 0 when it is not known.
    pub socket_type: u16,
    /// The kernel's address of the socket, or 0 while it is not known: what tells that a descriptor is used again.
    pub socket: u64,
}

impl Connection {
    /// Nothing has moved yet.
    pub const NO_DIRECTION: u32 = 2;

    /// A connection on which nothing has moved yet.
    #[must_use]
    pub const fn new(generation: u64, flags: u16, socket_type: u16) -> Self {
        let direction = Self::NO_DIRECTION;
        Self { generation, bytes_in: 0, bytes_out: 0, lost: 0, budget: 0, direction, flags, socket_type, socket: 0 }
    }
}

/// Key of a TLS stream or a compressed one from its first sight until it is freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The process, in the initial PID namespace.
    pub tgid: u32,
    /// Zero.
    pub padding: u32,
    /// The address of its `SSL`, `z_stream` or `ZSTD_DStream` in the process.
    pub address: u64,
}

impl StreamKey {
    /// The key of the stream at `address` in the process `tgid`.
    #[must_use]
    pub const fn new(tgid: u32, address: u64) -> Self {
        Self { tgid, padding: 0, address }
    }
}

/// The stream carries HTTP/1 or a websocket as far as the kernel side can see, so its segments are reported.
pub const STREAM_REPORTED: u32 = 1;

/// Its handshake has ended well, or nothing is to be told of it any more.
pub const STREAM_ESTABLISHED: u32 = 2;

/// The last read found it empty: what the next one finds has come since.
pub const STREAM_DRAINED: u32 = 4;

/// How many times in a row a stream and a socket must be seen together, before they are taken to be bound.
pub const PAIRS: u32 = 2;

/// What the kernel side keeps of a TLS stream.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// When it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// All plaintext that came out of it.
    pub bytes_in: u64,
    /// All plaintext that went into it.
    pub bytes_out: u64,
    /// When the first call that worked on the handshake began, or 0.
    pub handshake_began: u64,
    /// When the last call that worked on the handshake returned, or 0.
    pub handshake_ended: u64,
    /// What that call returned.
    pub handshake_result: i32,
    /// Plaintext records that did not fit the ring.
    pub lost: u32,
    /// Bytes that may still be copied of the current message's start.
    pub budget: u32,
    /// Which way the last segment went: a [`Direction`], or [`Connection::NO_DIRECTION`].
    pub direction: u32,
    /// [`STREAM_REPORTED`], [`STREAM_ESTABLISHED`], [`STREAM_DRAINED`], [`FRAMES`] and [`MODEL`].
    pub flags: u32,
    /// The first error of TLS that the library raised in its handshake: a [`TlsError`], or 0.
    pub error: u32,
    /// How many times in a row it was seen together with the socket below, up to [`PAIRS`], from which on it is bound.
    pub pairs: u32,
    /// The file descriptor of that socket.
    pub fd: i32,
    /// The generation of that socket; 0 while there is none.
    pub socket_generation: u64,
}

impl Stream {
    /// A stream on which nothing has moved yet.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self {
            generation,
            bytes_in: 0,
            bytes_out: 0,
            handshake_began: 0,
            handshake_ended: 0,
            handshake_result: 0,
            lost: 0,
            budget: 0,
            direction: Connection::NO_DIRECTION,
            flags: 0,
            error: 0,
            pairs: 0,
            fd: 0,
            socket_generation: 0,
        }
    }
}

/// The bytes were received within the read itself.
pub const RECEIVED_WITHIN: u32 = 1;

/// Bytes of another socket had not been read when they were received.
pub const RECEIVED_MIXED: u32 = 2;

/// An error that a library of OpenSSL's family raised, by its own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsError(pub u32);

impl TlsError {
    /// `ERR_LIB_SSL` of OpenSSL's `openssl/err.h`.
    pub const OPENSSL: u32 = 20;

    /// The same of BoringSSL's, which is another part of OpenSSL.
    pub const BORINGSSL: u32 = 16;

    /// The error `reason` (`SSL_R_*`) of the part `library` (`ERR_LIB_*`).
    #[must_use]
    pub const fn new(library: u32, reason: u32) -> Self {
        Self(library << 24 | reason & 0xff_ffff)
    }

    /// The part of the library that raised it.
    #[must_use]
    pub const fn library(self) -> u32 {
        self.0 >> 24
    }

    /// What that part says.
    #[must_use]
    pub const fn reason(self) -> u32 {
        self.0 & 0xff_ffff
    }
}

/// A call into a TLS library that has begun, by its thread, and what the thread last received from a socket that carries
/// TLS.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TlsCall {
    /// The address of the stream's `SSL`; 0 when the call has ended.
    pub ssl: u64,
    /// Where the plaintext is, or is to be.
    pub base: u64,
    /// The room there, or the bytes to be sent.
    pub size: u64,
    /// Where the number of bytes moved is to be written, in those forms that do.
    pub out: u64,
    /// A [`Direction`].
    pub direction: u32,
    /// Bytes received that no stream has yet been seen to take; 0 when there are none.
    pub received: u32,
    /// The generation of the socket that they came from.
    pub socket_generation: u64,
    /// Until when nothing is concluded from what this thread receives.
    pub mixed_until: u64,
    /// The file descriptor of the socket that they came from.
    pub fd: i32,
    /// [`RECEIVED_WITHIN`] and [`RECEIVED_MIXED`].
    pub received_flags: u32,
}

/// How many bytes tell what a decompressed message may be.
pub const PAYLOAD_LOOK: usize = 16;

/// The keys with which a payload of Discord's gateway may begin, up to the colon.
const PAYLOAD_KEYS: [&[u8]; 4] = [b"{\"t\":", b"{\"op\":", b"{\"s\":", b"{\"d\":"];

/// How the names of those events begin of which more is to be known, with what is before them in a payload that begins
/// with its name; no more than [`PAYLOAD_LOOK`] bytes of it.
const PAYLOAD_TOLD: [&[u8]; 3] = [b"{\"t\":\"MESSAGE_", b"{\"t\":\"INTERACTI", b"{\"t\":\"READY\""];

/// The start of a decompressed message, as far as it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct PayloadLook(u128);

impl PayloadLook {
    /// The first bytes of a message, in two words of the machine's own byte order; one that it does not fill is 0.
    #[must_use]
    #[inline(always)]
    pub const fn new(first: [u64; PAYLOAD_LOOK / 8]) -> Self {
        Self(first[0].to_le() as u128 | (first[1].to_le() as u128) << 64)
    }

    #[inline(always)]
    const fn begins_with(self, text: &[u8]) -> bool {
        let (mut value, mut mask) = (0, 0);
        let mut place = 0;
        while place < text.len() {
            value |= (text[place] as u128) << (place * 8);
            mask |= 0xff << (place * 8);
            place += 1;
        }
        self.0 & mask == value
    }

    /// Whether it may be a payload of Discord's gateway: it begins with one of the four keys that these have.
    #[must_use]
    #[inline(always)]
    pub const fn is_payload(self) -> bool {
        self.begins_with(PAYLOAD_KEYS[0])
            || self.begins_with(PAYLOAD_KEYS[1])
            || self.begins_with(PAYLOAD_KEYS[2])
            || self.begins_with(PAYLOAD_KEYS[3])
    }

    /// How many bytes of the message are to be copied: more of a payload whose event matters, or does not stand at its
    /// start.
    #[must_use]
    #[inline(always)]
    pub const fn budget(self) -> u32 {
        let matters = if self.begins_with(PAYLOAD_KEYS[0]) {
            self.begins_with(PAYLOAD_TOLD[0]) || self.begins_with(PAYLOAD_TOLD[1]) || self.begins_with(PAYLOAD_TOLD[2])
        } else {
            self.is_payload()
        };
        if matters { INFLATED_MAX } else { INFLATED_OTHER }
    }
}

/// A message has begun and not ended.
pub const INFLATE_WITHIN: u32 = 1;

/// When the last call returned, the decompressor stood where a message can end.
pub const INFLATE_BETWEEN_BLOCKS: u32 = 2;

/// What the kernel side keeps of a compressed stream that is reported.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflateStream {
    /// When it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// All bytes that came out of it since.
    pub bytes: u64,
    /// Records of it that did not fit the ring.
    pub lost: u32,
    /// Bytes that may still be copied of the current message.
    pub budget: u32,
    /// [`INFLATE_WITHIN`] and [`INFLATE_BETWEEN_BLOCKS`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}

impl InflateStream {
    /// A stream of which nothing has been told yet.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self { generation, bytes: 0, lost: 0, budget: 0, flags: 0, padding: 0 }
    }
}

/// A call that decompresses and has begun, by its thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflateCall {
    /// The address of its `z_stream` or `ZSTD_DStream`; 0 when the call has ended.
    pub stream: u64,
    /// Where its output goes.
    pub base: u64,
    /// The address of the `ZSTD_outBuffer`, or 0.
    pub output: u64,
    /// The address of the `ZSTD_inBuffer`, or 0.
    pub input: u64,
}

/// What a process asked the CUDA driver for; every count only rises.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaAllocations {
    /// Bytes, those that were refused included.
    pub bytes: u64,
    /// Requests.
    pub calls: u64,
    /// Those that were refused.
    pub failures: u64,
    /// When the last one was refused, in nanoseconds of `CLOCK_MONOTONIC`.
    pub failed_ns: u64,
    /// Its bytes.
    pub failed_bytes: u64,
    /// Its result, a `CUresult`.
    pub failed_result: u64,
}

/// What a probe on an instruction on a way out of a function must know, passed to it as its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsExit(pub u64);

impl TlsExit {
    const EX: u64 = 1 << 8;

    /// The result stands in the register whose place in `struct pt_regs` of x86-64 is `register`, counted from 0; for
    /// an `_ex` function it is 1 on success, else a number of bytes.
    #[must_use]
    pub const fn new(register: u8, ex: bool) -> Self {
        Self(register as u64 | if ex { Self::EX } else { 0 })
    }

    /// Where in `struct pt_regs` the result stands, in bytes.
    #[must_use]
    pub const fn register_offset(self) -> u32 {
        (self.0 as u32 & 0x1f) * 8
    }

    /// Whether the function is an `_ex` one.
    #[must_use]
    pub const fn is_ex(self) -> bool {
        self.0 & Self::EX != 0
    }
}

/// Upper bounds of the buckets in which turns of event loops are counted, in nanoseconds; above the last there is one more.
pub const TURN_BOUNDS: [u64; 15] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    60_000_000_000,
];

/// How many buckets there are.
pub const TURN_BUCKETS: usize = TURN_BOUNDS.len() + 1;

/// Why a thread did not run in the midst of a turn: its numbers are places in [`LoopThread::off_ns`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffReason {
    /// It could have run, and another did.
    Cpu = 0,
    /// It slept and could not be interrupted: it waited for a disk, mostly.
    Disk = 1,
    /// It waited for a lock, of memory or of a file.
    Lock = 2,
    /// It had asked to sleep.
    Sleep = 3,
    /// It waited in another call, such as one on a socket that blocks.
    Call = 4,
}

/// How many reasons there are.
pub const OFF_REASONS: usize = OffReason::ALL.len();

impl OffReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Disk, Self::Lock, Self::Sleep, Self::Call];
}

/// [`LoopThread::state`]: the thread runs.
pub const LOOP_RUNS: u32 = 0;

/// [`LoopThread::state`]: it sleeps in its selector.
pub const LOOP_WAITS: u32 = 1;

/// [`LoopThread::state`]: it does not run, for the [`OffReason`] whose number is added to this.
pub const LOOP_OFF: u32 = 2;

/// [`LoopThread::flags`]: it was the first to use a socket that carries a stream.
pub const LOOP_MOVES: u32 = 1;

/// What the kernel side keeps of a thread that waits in a selector. Nobody writes it but the programs that run while the
/// thread does, is taken off its processor or is put on one, so no two at once; user space reads it at any time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LoopThread {
    /// Its process.
    pub tgid: u32,
    /// [`LOOP_RUNS`], [`LOOP_WAITS`] or [`LOOP_OFF`] and more.
    pub state: u32,
    /// Which selector it waits in: an epoll descriptor, or which call without one.
    pub selector: u64,
    /// [`LOOP_MOVES`].
    pub flags: u32,
    /// Waits in another selector since it last waited in this one.
    pub strange: u32,
    /// When it was first seen, in nanoseconds of `CLOCK_MONOTONIC`, as all times are.
    pub generation: u64,
    /// When its last wait began.
    pub wait_since: u64,
    /// When the turn began: when that wait was last seen to end.
    pub turn_since: u64,
    /// When it was taken off its processor.
    pub off_since: u64,
    /// How long it did not run in this turn so far, by [`OffReason`].
    pub turn_off: [u64; OFF_REASONS],
    /// Turns that are over, by how long they were: see [`TURN_BOUNDS`].
    pub turns: [u64; TURN_BUCKETS],
    /// How long they were together.
    pub busy_ns: u64,
    /// How long it did not run in them, by [`OffReason`].
    pub off_ns: [u64; OFF_REASONS],
    /// How long it waited.
    pub idle_ns: u64,
}

impl LoopThread {
    /// A thread that begins to wait for the first time.
    #[must_use]
    pub const fn new(tgid: u32, selector: u64, now: u64) -> Self {
        Self {
            tgid,
            state: LOOP_RUNS,
            selector,
            flags: 0,
            strange: 0,
            generation: now,
            wait_since: now,
            turn_since: now,
            off_since: 0,
            turn_off: [0; OFF_REASONS],
            turns: [0; TURN_BUCKETS],
            busy_ns: 0,
            off_ns: [0; OFF_REASONS],
            idle_ns: 0,
        }
    }
}

/// What one processor has counted; every field only rises.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Records that did not fit the ring, by [`RecordKind::place`].
    pub lost: [u64; KINDS],
    /// Of the lost data records, those that began a message to the watched process.
    pub lost_starts_in: u64,
    /// Of the lost data records, those that began a message from the watched process.
    pub lost_starts_out: u64,
    /// Connections that did not fit the table.
    pub table_full: u64,
    /// Children that did not fit the table of watched processes.
    pub targets_full: u64,
    /// Captures that the kernel could not read, because the memory was not resident.
    pub unreadable: u64,
}

/// Offsets of the tracepoint fields that move between kernels, read from tracefs by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TracepointOffsets {
    /// `task:task_newtask`, `pid`.
    pub newtask_pid: u32,
    /// `task:task_newtask`, `clone_flags`.
    pub newtask_clone_flags: u32,
    /// `sock:inet_sock_set_state`, `oldstate`.
    pub set_state_oldstate: u32,
    /// `sock:inet_sock_set_state`, `newstate`.
    pub set_state_newstate: u32,
    /// `syscalls:sys_enter_close`, `fd`.
    pub close_fd: u32,
    /// `sock:inet_sock_set_state`, `skaddr`.
    pub set_state_skaddr: u32,
    /// `tcp:tcp_destroy_sock`, `skaddr`.
    pub destroy_skaddr: u32,
    /// `oom:mark_victim`, `pid`.
    pub mark_victim_pid: u32,
}

/// What `sock:sock_recv_length` and `sock:sock_send_length` tell in their ordinary form. They are so hot that their fields
/// are loaded where they have been since they came, in Linux 6.3, and not read by a helper; user space sees to it that they
/// are there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LengthEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// The kernel's address of the socket.
    pub sk: u64,
    /// `AF_*`.
    pub family: u16,
    /// `IPPROTO_*`.
    pub protocol: u16,
    /// Bytes, or the negative error.
    pub ret: i32,
    /// `MSG_*`.
    pub flags: i32,
}

/// What `syscalls:sys_enter_*` tell of a call that waits. Its fields are loaded where they stand, as those of
/// [`LengthEvent`] are; user space sees to it that they are there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WaitEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// Which call.
    pub call: u32,
    /// Nothing.
    pub padding: u32,
    /// Its first argument.
    pub first: u64,
    /// Its second.
    pub second: u64,
}

/// What `sched:sched_switch` tells: alike.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SwitchEvent {
    /// What all tracepoints have.
    pub common: u64,
    /// The name of the thread that is taken off.
    pub prev_comm: [u8; 16],
    /// Which thread it is, in the initial PID namespace.
    pub prev_pid: u32,
    /// Its priority.
    pub prev_prio: i32,
    /// `TASK_*`, or nothing of that where it could go on running.
    pub prev_state: u64,
    /// The name of the thread that is put on.
    pub next_comm: [u8; 16],
    /// Which thread it is.
    pub next_pid: u32,
}

/// Offsets in the kernel's `struct task_struct` of what is read when tasks are switched, read from its type information by user
/// space before loading; 0 where they are not needed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchOffsets {
    /// `pid`.
    pub pid: u32,
    /// `stack`.
    pub stack: u32,
}

/// Offsets in the kernel's `struct sock`, read from its type information by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `sk_type`.
    pub socket_type: u32,
    /// `skc_family` of its `__sk_common`.
    pub family: u32,
    /// The same, `skc_dport`.
    pub dport: u32,
    /// The same, `skc_daddr`.
    pub daddr: u32,
    /// The same, `skc_v6_daddr`.
    pub v6_daddr: u32,
    /// `sk_protocol`.
    pub protocol: u32,
    /// `inet_sport` of the `struct inet_sock` that it begins.
    pub sport: u32,
}

/// Offsets in the kernel's structures of a task and of what its threads share, read from its type information by user space
/// before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOffsets {
    /// 1 when the others are known.
    pub known: u32,
    /// `task_struct`, `group_leader`.
    pub group_leader: u32,
    /// `task_struct`, `exit_code`.
    pub exit_code: u32,
    /// `task_struct`, `signal`.
    pub signal: u32,
    /// `signal_struct`, `live`.
    pub live: u32,
    /// `signal_struct`, `flags`.
    pub flags: u32,
    /// `signal_struct`, `group_exit_code`.
    pub group_exit_code: u32,
}
/// Where this kernel keeps what the programs of `net.rs` read, found by user space before loading.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetOffsets {
    /// `tcp:tcp_retransmit_skb`, `skaddr`.
    pub retransmit_skaddr: u32,
    /// The same, `skbaddr`.
    pub retransmit_skbaddr: u32,
    /// `tcp:tcp_send_reset`, `skaddr`.
    pub send_reset_skaddr: u32,
    /// `tcp:tcp_receive_reset`, `skaddr`.
    pub receive_reset_skaddr: u32,
    /// `struct sock`, `sk_err`.
    pub sock_error: u32,
    /// `struct sock_common`, `skc_net`.
    pub net: u32,
    /// `struct net`, the `inum` of its `ns`.
    pub net_inum: u32,
    /// `struct sk_buff`, the `tcp_gso_segs` of the `struct tcp_skb_cb` in its `cb`.
    pub skb_segments: u32,
    /// `struct task_struct`, `files`.
    pub files: u32,
    /// `struct files_struct`, `fdt`.
    pub table: u32,
    /// `struct fdtable`, `max_fds`.
    pub table_length: u32,
    /// The same, `fd`.
    pub table_files: u32,
    /// `struct file`, `private_data`.
    pub file_data: u32,
    /// `struct socket`, `file`.
    pub socket_file: u32,
    /// The same, `sk`.
    pub socket_sock: u32,
}

const _: () = {
    assert!(size_of::<RecordHeader>() == 24);
    assert!(offset_of!(RecordHeader, length) == 4);
    assert!(offset_of!(RecordHeader, time_ns) == 8);
    assert!(offset_of!(RecordHeader, tgid) == 16);
    assert!(offset_of!(RecordHeader, tid) == 20);
    assert!(size_of::<DataRecord>() == 64);
    assert!(offset_of!(DataRecord, generation) == 24);
    assert!(offset_of!(DataRecord, handle) == 32);
    assert!(offset_of!(DataRecord, lost) == 40);
    assert!(offset_of!(DataRecord, size) == 44);
    assert!(offset_of!(DataRecord, captured) == 48);
    assert!(offset_of!(DataRecord, tail_length) == 50);
    assert!(offset_of!(DataRecord, errno) == 52);
    assert!(offset_of!(DataRecord, direction) == 54);
    assert!(CAPTURE_CALL <= u16::MAX as usize);
    assert!(offset_of!(DataRecord, tail) == 56);
    assert!(size_of::<OpenRecord>() == 168);
    assert!(offset_of!(OpenRecord, origin) == 48);
    assert!(offset_of!(OpenRecord, address_length) == 52);
    assert!(offset_of!(OpenRecord, address) == 56);
    assert!(size_of::<InflatedRecord>() == 56);
    assert!(offset_of!(InflatedRecord, generation) == 24);
    assert!(offset_of!(InflatedRecord, handle) == 32);
    assert!(offset_of!(InflatedRecord, lost) == 40);
    assert!(offset_of!(InflatedRecord, size) == 44);
    assert!(offset_of!(InflatedRecord, captured) == 48);
    assert!(offset_of!(InflatedRecord, flags) == 52);
    assert!(size_of::<CloseRecord>() == 64);
    assert!(offset_of!(CloseRecord, bytes_in) == 40);
    assert!(offset_of!(CloseRecord, lost) == 56);
    assert!(size_of::<HandshakeRecord>() == 56);
    assert!(offset_of!(HandshakeRecord, duration_ns) == 40);
    assert!(offset_of!(HandshakeRecord, result) == 48);
    assert!(size_of::<ServerNameRecord>() == 48 + NAME_MAX);
    assert!(offset_of!(ServerNameRecord, length) == 40);
    assert!(offset_of!(ServerNameRecord, name) == 48);
    assert!(size_of::<BindRecord>() == 56);
    assert!(offset_of!(BindRecord, socket_generation) == 40);
    assert!(offset_of!(BindRecord, bound) == 52);
    assert!(size_of::<ProcessRecord>() == 32);
    assert!(offset_of!(ProcessRecord, child) == 24);
    assert!(offset_of!(ProcessRecord, port) == 28);
    assert!(size_of::<ExitRecord>() == 32);
    assert!(offset_of!(ExitRecord, status) == 24);
    assert!(offset_of!(ExitRecord, flags) == 28);
    assert!(size_of::<ConnectionKey>() == 8);
    assert!(size_of::<Connection>() == 48);
    assert!(size_of::<StreamKey>() == 16);
    assert!(size_of::<Stream>() == 80);
    assert!(size_of::<TlsCall>() == 64);
    assert!(size_of::<InflateStream>() == 32);
    assert!(size_of::<InflateCall>() == 32);
    assert!(size_of::<NetRecord>() == 64);
    assert!(offset_of!(NetRecord, count) == 32);
    assert!(offset_of!(NetRecord, event) == 42);
    assert!(offset_of!(NetRecord, address) == 48);
    assert!(size_of::<Answer>() == 20);
    assert!(offset_of!(ResolvedRecord, addresses) == 48);
    assert!(offset_of!(ResolvedRecord, name) == 48 + ANSWERS_MAX * 20);
    assert!(size_of::<ResolvedRecord>() == 48 + ANSWERS_MAX * 20 + NAME_MAX);
    assert!(size_of::<NetSocket>() == 16);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<ResolveCall>() == 24);
    assert!(size_of::<DialCall>() == 16);
    assert!(size_of::<NetOffsets>() == 60);
    assert!(size_of::<Counters>() == 200);
    assert!(size_of::<TracepointOffsets>() == 32);
    assert!(size_of::<CudaAllocations>() == 48);
    assert!(size_of::<LoopThread>() == 280);
    assert!(offset_of!(LoopThread, generation) == 24);
    assert!(offset_of!(LoopThread, turn_off) == 56);
    assert!(offset_of!(LoopThread, turns) == 96);
    assert!(offset_of!(LengthEvent, sk) == 8);
    assert!(offset_of!(LengthEvent, family) == 16);
    assert!(offset_of!(LengthEvent, ret) == 20);
    assert!(offset_of!(LengthEvent, flags) == 24);
    assert!(offset_of!(WaitEvent, first) == 16);
    assert!(offset_of!(SwitchEvent, prev_pid) == 24);
    assert!(offset_of!(SwitchEvent, prev_state) == 32);
    assert!(offset_of!(SwitchEvent, next_pid) == 56);
    assert!(size_of::<SwitchOffsets>() == 8);
    assert!(size_of::<SocketOffsets>() == 28);
    assert!(size_of::<TaskOffsets>() == 28);
};

/// A layout above: made of integers and arrays of integers alone, its padding named fields, so that any bytes are a
/// value and every value is bytes.
///
/// # Safety
/// Implementors are as the first sentence says.
pub unsafe trait Plain: Copy + 'static {}

/// The bytes of a layout.
#[must_use]
pub const fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a reference to `T` covers its size in bytes, all of which are set, since it has no hidden padding.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

macro_rules! plain {
    ($($layout:ty),+) => {$(
        // SAFETY: see the declaration: `repr(C)`, integers alone, no hidden padding, as the sizes above assert.
        unsafe impl Plain for $layout {}
        // SAFETY: as above, which is what `Pod` asks.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $layout {}
    )+};
}

plain!(
    RecordHeader,
    DataRecord,
    InflatedRecord,
    OpenRecord,
    DialRecord,
    CloseRecord,
    HandshakeRecord,
    ServerNameRecord,
    BindRecord,
    ProcessRecord,
    ExitRecord,
    ConnectionKey,
    Connection,
    StreamKey,
    Stream,
    InflateStream,
    InflateCall,
    CudaAllocations,
    TlsCall,
    LoopThread,
    Counters,
    TracepointOffsets,
    SocketOffsets,
    TaskOffsets,
    NetRecord,
    ResolvedRecord,
    Answer,
    NetSocket,
    ListenerKey,
    ResolveCall,
    DialCall,
    NetOffsets,
    SwitchOffsets
);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    fn look(bytes: &[u8]) -> ([u8; LOOK], usize) {
        let mut first = [0xff; LOOK];
        let length = bytes.len().min(LOOK);
        first[..length].copy_from_slice(&bytes[..length]);
        (first, bytes.len())
    }

    #[test]
    fn messages_start_in_capital_letters() {
        let starts: [&[u8]; 6] = [b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK", b"G", b"GE", b"OPTIONS *", b"PROPFIND /x"];
        for bytes in starts {
            let (first, length) = look(bytes);
            assert!(looks_like_start(&first, length), "{bytes:?}");
        }
        let others: [&[u8]; 6] = [b"", b"get /", b"{\"a\":1}", b"QX\x01", b"QXZ\x01\x02", b"\x17\x03\x03\x00\x20"];
        for bytes in others {
            let (first, length) = look(bytes);
            assert!(!looks_like_start(&first, length), "{bytes:?}");
        }
    }

    #[test]
    fn every_byte_of_a_start_is_held_to_its_range() {
        let fits =
            |place: usize, byte: u8| if place < 3 { byte.is_ascii_uppercase() } else { (b' '..=b'~').contains(&byte) };
        for (one, other) in (0..LOOK).flat_map(|one| (0..LOOK).map(move |other| (one, other))) {
            for byte in 0..=u8::MAX {
                for more in [0x00, 0x1f, 0x20, 0x41, 0x5a, 0x5b, 0x7e, 0x7f, 0x80, 0xff] {
                    let mut first = [b'A'; LOOK];
                    first[one] = byte;
                    first[other] = more;
                    for length in 1..=LOOK {
                        let expected = first[..length].iter().enumerate().all(|(place, byte)| fits(place, *byte));
                        assert_eq!(looks_like_start(&first, length), expected, "{length} of {first:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn frames_with_objects_are_known_masked_and_not() {
        let masked = |payload: &[u8]| {
            let mask = [0xde, 0xad, 0xbe, 0xef];
            let head = [0x81, 0x80 | payload.len() as u8, mask[0], mask[1], mask[2], mask[3]];
            let body = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            head.into_iter().chain(body).collect::<std::vec::Vec<u8>>()
        };
        let objects = [
            masked(b"{\"op\":1,\"d\":251}"),
            b"\x82\x10{\"op\":11,\"d\":null".to_vec(),
            b"\x81\x7e\x10\x00{\"t\":\"RE".to_vec(),
            b"\x81\x7f\0\0\0\0\0\x01\x90\0{\"t\":\"GU".to_vec(),
        ];
        for bytes in objects {
            let (first, length) = look(&bytes);
            assert!(looks_like_object(&first, length) && looks_like_frame(&first, length), "{bytes:?}");
        }
        for bytes in [
            &masked(b"hello there")[..],
            b"\x82\x7e\x01\x00\x28\xb5\x2f\xfd",
            b"\x88\x02\x0f\xa0",
            b"GET / HTTP/1.1",
            b"\x82\x7f\x40\0\0\0\0\0",
        ] {
            let (first, length) = look(bytes);
            assert!(!looks_like_object(&first, length), "{bytes:?}");
        }
        let (first, length) = look(b"GET / HTTP/1.1");
        assert!(!looks_like_frame(&first, length));
    }

    /// The first two words of a text, blanks behind it.
    fn words(text: &str) -> ([u8; LOOK], [u8; LOOK]) {
        let text = format!("{text:16}");
        let (words, _) = text.as_bytes().as_chunks();
        (words[0], words[1])
    }

    #[test]
    fn calls_and_upgrades_are_known_by_their_start() {
        let call = |text: &str, length| looks_like_call(&words(text).0, length);
        let upgrade = |text: &str, length| looks_like_upgrade(&words(text).0, &words(text).1, length);
        assert!(call("POST /api/v10/ch", START));
        assert!(!call("POST /other/path", START));
        assert!(!call("POST /api/v10/ch", 7));
        assert!(upgrade("HTTP/1.1 101 Swi", START));
        assert!(!upgrade("HTTP/1.1 200 OK\r", START));
        assert!(!upgrade("HTTP/1.1 101 Swi", 12));
    }

    #[test]
    fn calls_of_models_are_known_by_their_path() {
        let call = |text: &str, length| looks_like_model_call(&words(text).0, &words(text).1, length);
        for path in [
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/embeddings",
            "/v1/messages",
            "/api/chat",
            "/api/generate",
            "/api/embed",
            "/api/v1/chat/completions",
            "/chat/completions",
            "/completion HTTP/1.1",
            "/embedding HTTP/1.1",
            "/openai/deployments/m/chat/completions",
            "/upstream/m/completion",
        ] {
            assert!(call(&format!("POST {path}"), START), "{path}");
            assert!(!call(&format!("POST {path}"), START - 1), "{path}");
            assert!(!call(&format!("GET {path}"), START), "{path}");
        }
        for path in ["/api/v10/channels/1", "/v1/users", "/users", "/api/users", "/v2/chat", "/", "/api/webhooks/1"] {
            assert!(!call(&format!("POST {path}"), START), "{path}");
        }
    }

    #[test]
    fn events_are_known_with_and_without_chunks() {
        let looks = |bytes: &[u8]| {
            let (first, length) = look(bytes);
            (looks_like_event(&first, length), looks_like_json(&first, length))
        };
        for bytes in [
            &b"data: {\"choices\""[..],
            b"data:{\"a\"",
            b"event: ping\n",
            b"a\r\ndata: ",
            b"1a3\r\ndata",
            b"FFFF\r\neve",
        ] {
            assert_eq!(looks(bytes), (true, false), "{bytes:?}");
        }
        for bytes in [&b"{\"model\":"[..], b"f5\r\n{\"model", b"1a3f\r\n{\""] {
            assert_eq!(looks(bytes), (false, true), "{bytes:?}");
        }
        for bytes in [
            &b"{\"a\":1}"[..7],
            b"0\r\n\r\n",
            b"database",
            b"{ \"a\": 1",
            b"[{\"a\":1}]",
            b"xyz\r\ndata: ",
            b"12345\r\ndata: ",
            b"GET / HTTP",
            b"\r\ndata: {",
            b"\x81\x7e{\"a\":1",
        ] {
            assert_eq!(looks(bytes), (false, false), "{bytes:?}");
        }
    }

    #[test]
    fn records_of_tls_are_known_by_kind_and_version() {
        for bytes in
            [b"\x16\x03\x01\x02\x00", b"\x17\x03\x03\x00\x20", b"\x15\x03\x03\x00\x02", b"\x14\x03\x03\x00\x01"]
        {
            let (first, length) = look(bytes);
            assert!(looks_like_tls(&first, length), "{bytes:?}");
        }
        for bytes in [&b"\x16\x03"[..], b"GET /", b"\x17\x04\x03\x00", b"\x18\x03\x03\x00", b""] {
            let (first, length) = look(bytes);
            assert!(!looks_like_tls(&first, length), "{bytes:?}");
        }
    }
    fn payload(text: &str) -> PayloadLook {
        let (words, _) = text.as_bytes().as_chunks();
        PayloadLook::new([0, 1].map(|number| words.get(number).map_or(0, |word| u64::from_ne_bytes(*word))))
    }

    #[test]
    fn payloads_begin_with_one_of_four_keys() {
        for text in [r#"{"t":null,"s":null,"op":10}"#, r#"{"op":11}"#, r#"{"s":1,"op":0}"#, r#"{"d":251,"op":1}"#] {
            assert!(payload(text).is_payload(), "{text}");
        }
        for text in ["", "{", r#"{"t""#, r#"{ "t":1}"#, r#"{"id":"1"}"#, r#"[{"t":1}]"#, "\u{83}l\0", "<html>"] {
            assert!(!payload(text).is_payload(), "{text}");
            assert_eq!(payload(text).budget(), INFLATED_OTHER, "{text}");
        }
    }

    #[test]
    fn more_is_copied_of_events_that_matter() {
        for name in ["MESSAGE_CREATE", "MESSAGE_REACTION_ADD", "INTERACTION_CREATE", "READY"] {
            assert_eq!(payload(&format!(r#"{{"t":"{name}","s":1}}"#)).budget(), INFLATED_MAX, "{name}");
        }
        for name in ["GUILD_CREATE", "INTEGRATION_CREATE", "READYING", "MESSAGES", "PRESENCE_UPDATE", "X"] {
            assert_eq!(payload(&format!(r#"{{"t":"{name}","s":1}}"#)).budget(), INFLATED_OTHER, "{name}");
        }
        assert_eq!(payload(r#"{"t":null,"s":null,"op":11}"#).budget(), INFLATED_OTHER);
        // Whose name comes later, if it has one.
        assert_eq!(payload(r#"{"op":0,"t":"X"}"#).budget(), INFLATED_MAX);
    }

    #[test]
    fn kinds_have_their_places_and_numbers() {
        for (place, kind) in RecordKind::ALL.into_iter().enumerate() {
            assert_eq!((kind.place(), RecordKind::from_number(kind as u8)), (place, Some(kind)));
        }
        assert!([0, 17, 24, 29, 255].into_iter().all(|number| RecordKind::from_number(number).is_none()));
    }

    #[test]
    fn pieces_fill_what_is_copied_of_a_message() {
        assert_eq!(INFLATED_MAX as usize % CAPTURE_MAX, 0);
    }
}
