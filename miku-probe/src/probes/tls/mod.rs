//! What watched processes read from and write to their TLS streams: the twin of `tls.rs` on the kernel side.
//!
//! Hooks: uprobes where [`crate::discovery::libraries`] found sites, in each watched process apart
//! ([`Attacher`](super::attacher::Attacher)), at places that a [`Plan`](super::plan::Plan) tells. Metrics: HTTP and Discord over TLS, `miku_net_tls_handshake_*`,
//! `miku_probe_sites`.

mod scrub;

pub use scrub::Scrubber;

/// The programs of this family that do without cookies.
pub(super) const PROGRAMS: &[&str] = &[
    READ,
    READ_R8,
    WRITE,
    WRITE_R8,
    RETURN,
    RETURN_EX,
    HANDSHAKE,
    HANDSHAKE_RETURN,
    CONTROL,
    SERVER_NAME,
    FREE,
    ERROR,
    PUT_ERROR,
];

/// The programs of this family that are told what stands where by a [`TlsExit`](miku_probe_abi::TlsExit).
pub(super) const WITH_COOKIES: &[&str] = &[EXIT, HANDSHAKE_EXIT];

pub(super) const READ: &str = "tls_read";
pub(super) const READ_R8: &str = "tls_read_r8";
pub(super) const WRITE: &str = "tls_write";
pub(super) const WRITE_R8: &str = "tls_write_r8";
pub(super) const RETURN: &str = "tls_return";
pub(super) const RETURN_EX: &str = "tls_return_ex";
pub(super) const EXIT: &str = "tls_exit";
pub(super) const HANDSHAKE: &str = "tls_handshake";
pub(super) const HANDSHAKE_RETURN: &str = "tls_handshake_return";
pub(super) const HANDSHAKE_EXIT: &str = "tls_handshake_exit";
pub(super) const CONTROL: &str = "tls_control";
pub(super) const SERVER_NAME: &str = "tls_server_name";
pub(super) const FREE: &str = "tls_free";
pub(super) const ERROR: &str = "tls_error";
pub(super) const PUT_ERROR: &str = "tls_put_error";
