//! Where observations end: each sink consumes them, and none knows where they come from.
//!
//! [`metrics`] keeps the numbers that Prometheus scrapes, [`health`] the state that the health endpoints tell, and
//! [`web`] serves both over HTTP. [`hist`] is the live histogram of the terminal.

mod counted;
mod families;
pub mod health;
pub mod hist;
pub mod metrics;
mod negotiation;
pub mod openmetrics;
mod own_process;
pub mod web;
