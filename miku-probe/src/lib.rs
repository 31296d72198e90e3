//! `miku-probe` watches AI chat bots from outside: kernel records in, metrics and a live histogram out.
//!
//! Data goes one way: [`probes`] load and attach the kernel side, [`intake`] decodes its records, [`pipeline`] hands
//! segments to the pure state machines of [`protocols`], and their [`observations`] end in [`sinks`].
//! [`discovery`] finds which processes to watch.

pub mod cli;
pub mod commands;
pub mod config;
pub mod discovery;
pub mod mounts;
pub mod observations;
pub mod protocols;
pub mod units;
