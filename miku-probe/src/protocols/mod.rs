//! Pure state machines: bytes and times in, events out; no I/O, no clock, no globals.

pub mod arrivals;
pub mod discord;
pub mod dns;
pub mod http1;
pub mod json;
pub mod llm;
mod prefix;
pub mod routes;
pub mod websocket;
