//! What is told of the network beneath all protocols: connections, names, and how TCP fares.
//!
//! A peer is a host's name where one is known, else a class (`loopback`, `lan`, `internet`).

use miku_probe_abi::ERRNO_UNTOLD;

use crate::units::{Direction, Nanos, Side, Symbol};

/// Something that happened on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// A connection was made.
    Opened {
        /// With whom.
        peer: Symbol,
        /// Which end the service is: a client has called `connect`.
        side: Side,
        /// How long `connect` took, of a client's.
        time: Option<Nanos>,
    },
    /// A `connect` failed.
    ConnectFailed {
        /// Whom it was to reach.
        peer: Symbol,
        /// Why.
        reason: ConnectFailure,
    },
    /// So many connections are open now.
    Open {
        /// With whom.
        peer: Symbol,
        /// How many; `None` when nobody knows any more.
        count: Option<u64>,
    },
    /// TCP sent segments once more.
    Retransmitted {
        /// To whom.
        peer: Symbol,
        /// How many.
        count: u64,
    },
    /// A connection was reset.
    Reset {
        /// With whom.
        peer: Symbol,
        /// Which way the reset went.
        direction: Direction,
    },
    /// The smoothed round-trip time of a connection on which something has moved.
    RoundTrip {
        /// With whom.
        peer: Symbol,
        /// By TCP's own account.
        time: Nanos,
    },
    /// Connections to a port that is listened on were turned away, mostly because too many waited to be accepted.
    ListenDropped {
        /// The port.
        port: u16,
        /// How many since the last time.
        count: u64,
    },
    /// A name was resolved, or was not.
    Resolved {
        /// What came of it.
        outcome: Resolution,
        /// How long it took.
        time: Nanos,
    },
}

/// Why a `connect` failed: the values of the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnectFailure {
    /// Nobody listens there, or a reset says so.
    Refused,
    /// No answer until the kernel gave up.
    Timeout,
    /// No way there, by a router's or this machine's own word.
    Unreachable,
    /// Reset in another way.
    Reset,
    /// No port of this machine's was left.
    NoPort,
    /// The process closed the socket before there was an answer, as clients with a time limit do.
    Abandoned,
    /// This machine itself refused before a packet was sent: no route, a firewall, a missing permission.
    Local,
    /// Any other error.
    Other,
}

impl ConnectFailure {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// That of an `errno`, 0 when the process gave up, [`ERRNO_UNTOLD`] when nobody told it.
    #[must_use]
    pub const fn of(errno: i32) -> Self {
        const UNTOLD: i32 = ERRNO_UNTOLD as i32;
        match errno {
            0 => Self::Abandoned,
            UNTOLD => Self::Local,
            libc::ECONNREFUSED => Self::Refused,
            libc::ETIMEDOUT => Self::Timeout,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN | libc::ENONET => {
                Self::Unreachable
            }
            libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Self::Reset,
            libc::EADDRNOTAVAIL => Self::NoPort,
            _ => Self::Other,
        }
    }

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::NoPort => "no_port",
            Self::Abandoned => "abandoned",
            Self::Local => "local",
            Self::Other => "other",
        }
    }
}

/// What came of resolving a name: the values of the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// There are addresses.
    Ok,
    /// There is no such name, or it has no address.
    NotFound,
    /// No server could tell now: mostly because none answered in time.
    Again,
    /// Anything else.
    Failed,
}

impl Resolution {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// That of what `getaddrinfo` returned. The numbers are those of glibc, musl and bionic alike but for the last two,
    /// which only glibc has (`netdb.h`).
    #[must_use]
    pub const fn of(result: i32) -> Self {
        const EAI_ADDRFAMILY: i32 = -9;
        match result {
            0 => Self::Ok,
            libc::EAI_NONAME | libc::EAI_NODATA | EAI_ADDRFAMILY => Self::NotFound,
            libc::EAI_AGAIN => Self::Again,
            _ => Self::Failed,
        }
    }

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Again => "again",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_an_operator_would_do() {
        for (errno, reason) in [(0, "abandoned"), (111, "refused"), (110, "timeout"), (101, "unreachable")] {
            assert_eq!(ConnectFailure::of(errno).as_str(), reason);
        }
        for (errno, reason) in [(113, "unreachable"), (104, "reset"), (99, "no_port"), (13, "other"), (65_535, "local")]
        {
            assert_eq!(ConnectFailure::of(errno).as_str(), reason);
        }
    }

    #[test]
    fn results_of_the_resolver_are_sorted() {
        for (result, outcome) in [
            (0, "ok"),
            (-2, "not_found"),
            (-5, "not_found"),
            (-9, "not_found"),
            (-3, "again"),
            (-4, "failed"),
            (-11, "failed"),
        ] {
            assert_eq!(Resolution::of(result).as_str(), outcome);
        }
    }
}
