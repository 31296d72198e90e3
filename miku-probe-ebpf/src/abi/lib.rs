//! The record layouts that the kernel side and user space share.
//!
//! Everything that crosses the ring buffer or a map is declared here once, `repr(C)`, padded by hand and held to its
//! size and offsets by assertions at compile time. Integers are in the machine's own byte order. Every record begins
//! with a [`RecordHeader`], whose version user space checks before it believes anything else.
#![no_std]

mod arrivals;
mod bounds;
mod event_loop;
mod inflate;
mod layout;
mod looks;
mod offsets;
mod records;
mod sockets;
mod targets;
mod tls;

pub use arrivals::*;
pub use bounds::*;
pub use event_loop::*;
pub use inflate::*;
pub use looks::*;
pub use offsets::*;
pub use records::*;
pub use sockets::*;
pub use targets::*;
pub use tls::*;

/// The version of the layouts; it rises whenever one of them changes.
pub const ABI_VERSION: u8 = 9;

/// A layout: made of integers and arrays of integers alone, its padding named fields, so that any bytes are a
/// value and every value is bytes.
///
/// # Safety
/// Implementors are as the first sentence says.
pub unsafe trait Plain: Copy + 'static {}

/// The bytes of a layout.
#[must_use]
pub const fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a reference to `T` covers its size in bytes, all of which are set, since it has no hidden padding.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}
