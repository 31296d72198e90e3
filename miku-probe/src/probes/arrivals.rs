//! When what bots read had come to their sockets: the twin of `arrivals.rs` on the kernel side.
//!
//! Hook: `tcp:tcp_probe`, from Linux 6.3 on and from when a bot is known. Metrics: those of replies and heartbeats, which without it count from when
//! the bot read, and not from when there was something to read.

use super::{Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "arrivals";

/// Raw on every kernel: the ordinary form would be left out wherever a packet comes in the midst of another program, and tells
/// the socket only on newer ones. What a raw one misses where it is preempted shows, by the sequence numbers.
pub(super) const PROBE: Probe =
    Probe { program: "tcp_arrival", kind: KIND, hook: Hook::RawTracepoint("tcp_probe"), intent: Intent::Optional };
