//! What watched processes move over their sockets: the twin of `socket.rs` on the kernel side.
//!
//! Hooks: `raw_tracepoint/sys_exit`, `syscalls:sys_enter_close`. Metrics: all of HTTP, `miku_net_bytes_total`.

use super::{Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "socket";

/// The probes of this family.
pub const PROBES: &[Probe] = &[
    Probe { program: "sys_exit", kind: KIND, hook: Hook::RawTracepoint("sys_exit"), intent: Intent::Required },
    Probe {
        program: "sys_enter_close",
        kind: KIND,
        hook: Hook::Tracepoint("syscalls", "sys_enter_close"),
        intent: Intent::Required,
    },
];
