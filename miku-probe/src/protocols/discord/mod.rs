//! Discord: what is known of its API beyond HTTP.

mod limits;
pub mod rest;

pub use limits::{Call, Waits};
