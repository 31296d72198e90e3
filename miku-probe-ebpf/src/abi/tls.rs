//! What is kept of TLS streams and of the calls into their libraries.

use crate::Connection;

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
    /// Which way the last segment went: a [`Direction`](crate::Direction), or [`Connection::NO_DIRECTION`].
    pub direction: u32,
    /// [`STREAM_REPORTED`], [`STREAM_ESTABLISHED`], [`STREAM_DRAINED`], [`FRAMES`](crate::FRAMES) and [`MODEL`](crate::MODEL).
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
    /// A [`Direction`](crate::Direction).
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
