//! What watched processes move over their sockets: the twin of `socket.rs` on the kernel side.
//!
//! Hooks, from Linux 6.3 on: `sock:sock_recv_length`, `sock:sock_send_length`, `sock:inet_sock_set_state`,
//! `tcp:tcp_destroy_sock`, raw before Linux 7, and `syscalls:sys_enter_close` while there are Unix sockets to follow; before it:
//! `tp_btf/sys_exit` and `syscalls:sys_enter_close`. Metrics: all of HTTP, `miku_net_bytes_total`.

use super::{Form, Hook, Intent, Probe, offsets};

/// The label `kind` of this family.
pub const KIND: &str = "socket";

/// How sockets are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the system calls on them.
    Calls,
    /// By the sockets' own tracepoints.
    Sockets,
}

/// The probe that tells closings of descriptors, of any kind.
pub(super) const CLOSE: Probe = tracepoint("sys_enter_close", "syscalls", "sys_enter_close");

const BY_CALL: &[Probe] = &[
    Probe { program: "sys_exit", kind: KIND, hook: Hook::BtfTracepoint("sys_exit"), intent: Intent::Required },
    CLOSE,
];

const BY_SOCKET: &[Probe] = &[
    tracepoint("sock_recv_length", "sock", "sock_recv_length"),
    tracepoint("sock_send_length", "sock", "sock_send_length"),
    tracepoint("sock_set_state", "sock", "inet_sock_set_state"),
    tracepoint("tcp_destroy_sock", "tcp", "tcp_destroy_sock"),
];

const BY_SOCKET_RAW: &[Probe] = &[
    raw("sock_recv_length_raw", "sock_recv_length"),
    raw("sock_send_length_raw", "sock_send_length"),
    raw("sock_set_state_raw", "inet_sock_set_state"),
    raw("tcp_destroy_sock_raw", "tcp_destroy_sock"),
];

impl Way {
    /// By the sockets, where this kernel's tell by themselves what moves; else by the calls.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        if offsets::sockets_tell() { Self::Sockets } else { Self::Calls }
    }

    /// The probes that are attached from the start.
    #[must_use]
    pub const fn probes(self, form: Form) -> &'static [Probe] {
        match (self, form) {
            (Self::Calls, _) => BY_CALL,
            (Self::Sockets, Form::Ordinary) => BY_SOCKET,
            (Self::Sockets, Form::Raw) => BY_SOCKET_RAW,
        }
    }
}

const fn tracepoint(program: &'static str, category: &'static str, name: &'static str) -> Probe {
    Probe { program, kind: KIND, hook: Hook::Tracepoint(category, name), intent: Intent::Required }
}

const fn raw(program: &'static str, name: &'static str) -> Probe {
    Probe { program, kind: KIND, hook: Hook::RawTracepoint(name), intent: Intent::Required }
}
