//! What the tracepoint `sock:inet_sock_set_state` tells, in either of its forms (`socket/by_socket.rs` says why there are
//! two): that a socket of an internet protocol goes from one state into another. Three families stand on it.

use aya_ebpf::programs::{RawTracePointContext, TracePointContext};

use crate::maps::{Skip, field, offsets, socket_offsets};
use crate::memory::read_kernel;

/// States of `net/tcp_states.h`.
pub(crate) mod states {
    pub(crate) const ESTABLISHED: i32 = 1;
    pub(crate) const SYN_SENT: i32 = 2;
    pub(crate) const SYN_RECV: i32 = 3;
    pub(crate) const FIN_WAIT1: i32 = 4;
    pub(crate) const CLOSE: i32 = 7;
    pub(crate) const LAST_ACK: i32 = 9;
    pub(crate) const LISTEN: i32 = 10;
}

/// A socket's change of state.
pub(crate) struct Change {
    /// The kernel's address of the socket.
    pub(crate) socket: u64,
    /// The state before, one of [`states`] or another.
    pub(crate) before: i32,
    /// The state from now on.
    pub(crate) now: i32,
}

impl Change {
    #[inline(always)]
    pub(crate) fn of_event(ctx: &TracePointContext) -> Result<Self, Skip> {
        let offsets = offsets();
        Ok(Self {
            socket: field(ctx, offsets.set_state_skaddr)?,
            before: field(ctx, offsets.set_state_oldstate)?,
            now: field(ctx, offsets.set_state_newstate)?,
        })
    }

    /// By `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)` of `trace/events/sock.h`.
    #[inline(always)]
    pub(crate) fn of_arguments(ctx: &RawTracePointContext) -> Self {
        Self { socket: ctx.arg(0), before: ctx.arg(1), now: ctx.arg(2) }
    }

    /// The socket's own port; 0 while it has none.
    #[inline(always)]
    pub(crate) fn port(&self) -> Result<u16, Skip> {
        read_kernel(self.socket + u64::from(socket_offsets().sport)).map(u16::from_be_bytes)
    }

    /// The port of the other side; 0 while there is none.
    #[inline(always)]
    pub(crate) fn peer_port(&self) -> Result<u16, Skip> {
        read_kernel(self.socket + u64::from(socket_offsets().dport)).map(u16::from_be_bytes)
    }

    /// `IPPROTO_*`.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> Result<u16, Skip> {
        read_kernel(self.socket + u64::from(socket_offsets().protocol))
    }
}
