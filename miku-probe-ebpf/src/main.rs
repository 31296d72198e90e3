//! The kernel side of `miku-probe`: one file a probe family, each with a user-space twin of the same name.
#![no_std]
#![no_main]
// For the one atomic instruction in `maps.rs`.
#![feature(asm_experimental_arch)]

mod arrivals;
mod connections;
mod cuda;
mod event_loop;
mod inflate;
mod maps;
mod memory;
mod net;
mod object;
mod process;
mod registers;
mod segment;
mod socket;
mod state;
mod tls;
