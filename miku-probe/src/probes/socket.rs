//! What watched processes move over their sockets: the twin of `socket.rs` on the kernel side.
//!
//! Hooks: `raw_tracepoint/sys_exit`, `syscalls:sys_enter_close`. Metrics: all of HTTP, `miku_net_bytes_total`.

use super::{Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "socket";

/// The programs of the first lane, and those of the last.
pub(super) const FIRST: [&str; 2] = ["sys_exit", "sys_enter_close"];
pub(super) const LAST: [&str; 2] = ["sys_exit_third", "sys_enter_close_third"];

/// The probes of this family, a lane after the other: the kernel runs them in the order in which they were attached.
pub const PROBES: &[Probe] = &[
    exit("sys_exit", Intent::Required),
    close("sys_enter_close", Intent::Required),
    exit("sys_exit_second", Intent::Relay),
    close("sys_enter_close_second", Intent::Relay),
    exit("sys_exit_third", Intent::Relay),
    close("sys_enter_close_third", Intent::Relay),
];

const fn exit(program: &'static str, intent: Intent) -> Probe {
    Probe { program, kind: KIND, hook: Hook::RawTracepoint("sys_exit"), intent }
}

const fn close(program: &'static str, intent: Intent) -> Probe {
    Probe { program, kind: KIND, hook: Hook::Tracepoint("syscalls", "sys_enter_close"), intent }
}
