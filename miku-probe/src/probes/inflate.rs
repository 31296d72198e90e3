//! What watched processes decompress by zlib and zstd: the twin of `inflate.rs` on the kernel side.
//!
//! Hooks: uprobes where [`crate::discovery::libraries`] found sites, as those of [`tls`](super::tls). Metrics: those of
//! Discord's gateway, `miku_probe_sites`.

/// The programs of this family.
pub(super) const PROGRAMS: &[&str] = &[INFLATE, INFLATE_RETURN, ZSTD, ZSTD_RETURN, END];

pub(super) const INFLATE: &str = "inflate";
pub(super) const INFLATE_RETURN: &str = "inflate_return";
pub(super) const ZSTD: &str = "zstd";
pub(super) const ZSTD_RETURN: &str = "zstd_return";
pub(super) const END: &str = "inflate_end";
