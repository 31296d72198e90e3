//! Where observations end: each sink consumes them, and none knows where they come from.
//!
//! [`metrics`] keeps the numbers that Prometheus scrapes, [`health`] the state that the health endpoints tell, and
//! [`web`] serves both over HTTP. [`hist`] is the live histogram of the terminal, [`stalls`] the log of loops that do not
//! turn, and [`profile`] is what a profile is written in.

mod counted;
mod families;
pub mod health;
pub mod hist;
pub mod metrics;
mod negotiation;
pub mod openmetrics;
mod own_process;
pub mod profile;
pub mod stalls;
pub mod web;
