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

/// All of them up to that part's end. Behind a pointer of the kernel's the verifier knows their type and allows loads, one
/// register at a time.
#[repr(C)]
pub(crate) struct SavedRegisters {
    pub(crate) r15_to_r11: [u64; 7],
    pub(crate) call: Registers,
}

impl SavedRegisters {
    /// Loads what says which call it was and with which arguments; the other registers are 0.
    ///
    /// # Safety
    /// The pointer is one that the verifier knows to be to a task's saved registers.
    #[inline(always)]
    pub(crate) unsafe fn load(saved: *const Self) -> Registers {
        // SAFETY: as the caller promises; volatile, so that no two loads are made one, which the verifier would refuse.
        unsafe {
            Registers {
                r10: (&raw const (*saved).call.r10).read_volatile(),
                r9: (&raw const (*saved).call.r9).read_volatile(),
                r8: (&raw const (*saved).call.r8).read_volatile(),
                dx: (&raw const (*saved).call.dx).read_volatile(),
                si: (&raw const (*saved).call.si).read_volatile(),
                di: (&raw const (*saved).call.di).read_volatile(),
                orig_ax: (&raw const (*saved).call.orig_ax).read_volatile(),
                ax: 0,
                cx: 0,
            }
        }
    }
}
