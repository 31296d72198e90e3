//! Sinks: where observations end.

pub mod hist;
