//! Discord: what is known of its API beyond HTTP.

pub mod calls;
pub mod gateway;
mod limits;
pub mod payload;
pub mod rest;

pub use limits::{Call, Waits};
