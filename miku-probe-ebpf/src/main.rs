//! The kernel side of `miku-probe`: one file a probe family, each with a user-space twin of the same name.
#![no_std]
#![no_main]
// For the one atomic instruction in `maps.rs`.
#![feature(asm_experimental_arch)]

mod inflate;
mod maps;
mod memory;
mod process;
mod registers;
mod segment;
mod socket;
mod tls;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
