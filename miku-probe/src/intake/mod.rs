//! Takes the kernel's records off the ring and decodes them; believes nothing but what it has checked.

mod decode;
mod ring;
mod tls_errors;

pub use decode::{
    Arrived, Bind, Close, Data, DecodeError, Handshake, Inflated, Net, Open, Process, Record, Resolved, ServerName,
    decode,
};
pub use ring::Ring;
