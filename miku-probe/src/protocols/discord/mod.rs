//! Discord: what is known of its API beyond HTTP.

pub mod calls;
mod limits;
pub mod rest;

pub use limits::{Call, Waits};
