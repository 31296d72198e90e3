//! `miku-probe` watches AI chat bots from outside: kernel records in, metrics and a live histogram out.
//!
//! Data goes one way: [`probes`] load and attach the kernel side, [`intake`] decodes its records, [`pipeline`] hands
//! segments to the pure state machines of [`protocols`], and their [`observations`] end in [`sinks`]. [`samplers`] ask for what
//! nothing tells.
//! [`discovery`] finds which processes to watch, and [`watch`] joins the rooms. [`cli`] and [`config`] say what is asked
//! for, [`commands`] do it, and [`mounts`] mounts what they need.

// For what unit tests share with those outside.
#[cfg(test)]
extern crate self as miku_probe;

pub mod cli;
pub mod commands;
pub mod config;
pub mod discovery;
pub mod intake;
pub mod mounts;
pub mod observations;
pub mod pipeline;
pub mod probes;
pub mod protocols;
#[cfg(test)]
mod regressions;
pub mod samplers;
pub mod sinks;
pub mod units;
pub mod watch;
