//! Discord: what is known of its API beyond HTTP, and how long people wait for a bot's answers.

pub mod calls;
pub mod gateway;
mod limits;
pub mod payload;
pub mod reply;
pub mod rest;
pub mod usage;
pub mod voice;

pub use limits::{Call, Waits};
