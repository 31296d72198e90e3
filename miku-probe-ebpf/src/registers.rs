//! The saved registers of a system call on x86-64 (`struct pt_regs` of `asm/ptrace.h`), which no kernel lays out otherwise.

/// The part that holds the arguments and the call's number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) ax: u64,
    pub(crate) cx: u64,
    pub(crate) dx: u64,
    pub(crate) si: u64,
    pub(crate) di: u64,
    pub(crate) orig_ax: u64,
}

/// All of them up to that part's end.
#[repr(C)]
pub(crate) struct SavedRegisters {
    pub(crate) r15_to_r11: [u64; 7],
    pub(crate) call: Registers,
}
