//! What watched processes move over their sockets: the twin of `socket.rs` on the kernel side.
//!
//! Hooks: `tp_btf/sys_exit`, `syscalls:sys_enter_close`; from Linux 7 on also `sock:sock_recv_length` and
//! `sock:sock_send_length`. Metrics: all of HTTP, `miku_net_bytes_total`.

use super::{Hook, Intent, Probe};

/// The label `kind` of this family.
pub const KIND: &str = "socket";

/// The programs that tell what moves, where system calls tell it, and where sockets do.
pub(super) const BY_CALL: &[&str] = &["sys_exit", "sys_enter_close"];
pub(super) const BY_SOCKET: &[&str] = &["sock_recv_length", "sock_send_length"];

/// The probes of this family.
pub const PROBES: &[Probe] = &[
    Probe { program: "sys_exit", kind: KIND, hook: Hook::BtfTracepoint("sys_exit"), intent: Intent::Required },
    tracepoint("syscalls", "sys_enter_close", Intent::Required),
    tracepoint("sock", "sock_recv_length", Intent::Preemptible),
    tracepoint("sock", "sock_send_length", Intent::Preemptible),
];

const fn tracepoint(category: &'static str, name: &'static str, intent: Intent) -> Probe {
    Probe { program: name, kind: KIND, hook: Hook::Tracepoint(category, name), intent }
}
