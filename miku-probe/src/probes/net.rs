//! How TCP connections come about, fail and suffer, and the names that are resolved: the twin of `net.rs` on the kernel side.
//!
//! Hooks: `sock:inet_sock_set_state`, `tcp:tcp_destroy_sock`, `tcp:tcp_retransmit_skb`, `tcp:tcp_send_reset`,
//! `tcp:tcp_receive_reset`, and uprobes on libc's `getaddrinfo` and `connect` where [`crate::discovery::libraries`] found
//! them. Metrics: `miku_net_connections_total`, `miku_net_connect_seconds`, `miku_net_connect_failures_total`,
//! `miku_net_tcp_retransmits_total`, `miku_net_tcp_resets_total`, `miku_net_dns_seconds`. Without them all else goes on.

use aya::maps::{HashMap, MapData, MapError};
use miku_probe_abi::{ListenerKey, NetOffsets};

use super::{Form, Hook, Intent, OffsetError, Probe, TypesError, offsets};
use crate::units::Tgid;

/// The label `kind` of this family.
pub const KIND: &str = "net";

const ORDINARY: &[Probe] = &[
    optional("net_set_state", Hook::Tracepoint("sock", "inet_sock_set_state")),
    optional("net_destroy", Hook::Tracepoint("tcp", "tcp_destroy_sock")),
    optional("net_retransmit", Hook::Tracepoint("tcp", "tcp_retransmit_skb")),
    optional("net_send_reset", Hook::Tracepoint("tcp", "tcp_send_reset")),
    optional("net_receive_reset", Hook::Tracepoint("tcp", "tcp_receive_reset")),
];

const RAW: &[Probe] = &[
    optional("net_set_state_raw", Hook::RawTracepoint("inet_sock_set_state")),
    optional("net_destroy_raw", Hook::RawTracepoint("tcp_destroy_sock")),
    optional("net_retransmit_raw", Hook::RawTracepoint("tcp_retransmit_skb")),
    optional("net_send_reset_raw", Hook::RawTracepoint("tcp_send_reset")),
    optional("net_receive_reset_raw", Hook::RawTracepoint("tcp_receive_reset")),
];

/// The probes of this family.
pub(super) const fn probes(form: Form) -> &'static [Probe] {
    match form {
        Form::Ordinary => ORDINARY,
        Form::Raw => RAW,
    }
}

/// The programs of this family that stand in libc.
pub(super) const PROGRAMS: &[&str] = &[RESOLVE, RESOLVE_RETURN, DIAL, DIAL_RETURN];

pub(super) const RESOLVE: &str = "net_resolve";
pub(super) const RESOLVE_RETURN: &str = "net_resolve_return";
pub(super) const DIAL: &str = "net_dial";
pub(super) const DIAL_RETURN: &str = "net_dial_return";

const fn optional(program: &'static str, hook: Hook) -> Probe {
    Probe { program, kind: KIND, hook, intent: Intent::Optional }
}

/// Why TCP's tracepoints are of no use on this kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    /// The places of what is read of sockets could not be found.
    #[error(transparent)]
    Types(#[from] TypesError),
    /// The tracepoints' fields could not be found.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
}

/// Where this kernel keeps what the programs read.
pub(super) fn read_offsets(types: Result<NetOffsets, TypesError>) -> Result<NetOffsets, NetError> {
    Ok(offsets::net(types?)?)
}

/// Who listens on which port: what the kernel side cannot know of those that did before they were watched.
pub struct ListenerTable(HashMap<MapData, ListenerKey, u32>);

impl ListenerTable {
    pub(super) fn new(map: aya::maps::Map) -> Result<Self, MapError> {
        HashMap::try_from(map).map(Self)
    }

    /// Connections to this port, in the network namespace with this inode, are from now on counted for this process.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn insert(&mut self, namespace: u32, port: u16, tgid: Tgid) -> Result<(), MapError> {
        self.0.insert(ListenerKey { namespace, port: u32::from(port) }, tgid.0, 0)
    }
}
