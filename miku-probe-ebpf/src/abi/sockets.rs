//! What is kept of sockets and of the calls on them.

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
    /// Which way the last segment went: a [`Direction`](crate::Direction), or [`Connection::NO_DIRECTION`].
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
