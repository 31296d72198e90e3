//! The words every room shares: times, processes, connections, and names that are compared by number.

use std::collections::HashMap;
use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

pub use miku_probe_abi::Direction;

/// A point in time or a span, in nanoseconds of `CLOCK_MONOTONIC`, the clock of the kernel's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live, writable timespec; CLOCK_MONOTONIC always exists on Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        Self(u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
    }

    /// The span from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// In seconds.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "a double holds nanoseconds of 104 days exactly, and seconds are what sinks show"
    )]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add for Nanos {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Nanos {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.since(other)
    }
}

impl From<Duration> for Nanos {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Returns a time in the form of RFC 3339, in UTC, to the millisecond that has begun; `unknown` for a time that the
/// format cannot hold.
pub(crate) fn rfc_3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |timestamp| format!("{timestamp:.3}"))
}

/// A process, by its number in the initial PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tgid(pub u32);

impl fmt::Display for Tgid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What a process calls a connection of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handle {
    /// A socket, by its file descriptor.
    Socket(i32),
    /// A TLS stream, by the address of its `SSL`.
    Tls(u64),
    /// A compressed stream, by the address of its `z_stream` or `ZSTD_DStream`.
    Inflate(u64),
}

impl Handle {
    /// The scheme of what is seen there: a TLS stream is seen as plaintext, so it is known to be one, and what is
    /// compressed within it, in practice, is too.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        match self {
            Self::Socket(_) => Scheme::Http,
            Self::Tls(_) | Self::Inflate(_) => Scheme::Https,
        }
    }
}

/// A connection: what its process calls it, and when it was opened, since descriptors and addresses are used again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// The process that holds it.
    pub tgid: Tgid,
    /// What the process calls it.
    pub handle: Handle,
    /// When it was opened or first seen.
    pub generation: Nanos,
}

/// A watched service, by its place in the configuration or the order of its discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u16);

/// Which end of an exchange the watched process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It answers requests.
    Server,
    /// It makes requests.
    Client,
}

impl Side {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// How a URL that leads over a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP in the clear.
    Http,
    /// HTTP within TLS.
    Https,
}

impl Scheme {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL without one means (RFC 9110, sections 4.2.1 and 4.2.2).
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// A Unix socket.
    Unix,
    /// Not known, or none of these.
    Other,
}

impl Transport {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
            Self::Other => "other",
        }
    }
}

/// A text that was met before, by number. The empty text is always [`Symbol::EMPTY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(u32);

impl Symbol {
    /// The empty text, which stands for an absent label.
    pub const EMPTY: Self = Self(0);
}

/// The texts behind [`Symbol`]s.
///
/// It only grows, so whoever interns bounds what he interns: nothing off the wire goes in before a cap has been held
/// against it.
#[derive(Debug)]
pub struct Symbols {
    numbers: HashMap<Box<str>, Symbol>,
    texts: Vec<Box<str>>,
}

impl Default for Symbols {
    fn default() -> Self {
        Self { numbers: HashMap::from([("".into(), Symbol::EMPTY)]), texts: vec!["".into()] }
    }
}

impl Symbols {
    /// The symbol of `text`, a new one if need be.
    ///
    /// # Panics
    /// At more than four thousand million texts.
    pub fn intern(&mut self, text: &str) -> Symbol {
        if let Some(symbol) = self.numbers.get(text) {
            return *symbol;
        }
        let symbol = Symbol(u32::try_from(self.texts.len()).expect("symbols are capped by whoever interns them"));
        self.numbers.insert(text.into(), symbol);
        self.texts.push(text.into());
        symbol
    }

    /// The text of `symbol`.
    #[must_use]
    pub fn text(&self, symbol: Symbol) -> &str {
        self.texts.get(symbol.0 as usize).map_or("", AsRef::as_ref)
    }
}
