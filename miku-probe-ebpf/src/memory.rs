//! Reading what is not the program's own: the kernel's memory and that of the running process. Nothing writes to either.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user, bpf_task_pt_regs,
};

use crate::maps::Skip;
use crate::registers::{Registers, SavedRegisters};

/// Reads a value of the kernel's.
#[inline(always)]
pub(crate) fn read_kernel<T: Copy>(address: u64) -> Result<T, Skip> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is as large as the size says; the helper checks the source itself.
    let result = unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast::<c_void>(), size_of::<T>() as u32, address as *const c_void)
    };
    // SAFETY: on success the helper has written all of it.
    if result == 0 { Ok(unsafe { value.assume_init() }) } else { Err(Skip) }
}

/// The registers that the running task saved when it entered the kernel; for kernels from 5.15 on.
#[inline(always)]
pub(crate) fn task_registers() -> Registers {
    // SAFETY: the helpers have no preconditions: the task is the running one. The verifier holds each load to the type of
    // what they return.
    unsafe {
        let saved = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const SavedRegisters;
        SavedRegisters::load(saved)
    }
}

/// Reads a value of the process's.
#[inline(always)]
pub(crate) fn read_user<T: Copy>(address: u64) -> Result<T, Skip> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as in `read_kernel`.
    if read_user_bytes(value.as_mut_ptr().cast(), size_of::<T>() as u32, address) {
        // SAFETY: on success the helper has written all of it.
        Ok(unsafe { value.assume_init() })
    } else {
        Err(Skip)
    }
}

/// Reads `length` bytes of the process's; says whether it could.
#[inline(always)]
pub(crate) fn read_user_bytes(to: *mut u8, length: u32, from: u64) -> bool {
    // SAFETY: callers pass a destination of at least `length` bytes, which the verifier holds them to; the helper
    // checks the source itself and does not fault.
    unsafe { bpf_probe_read_user(to.cast::<c_void>(), length, from as *const c_void) == 0 }
}

/// Reads `wanted` bytes of the process's, at most `ROOM`; returns how many were read, none where they cannot be. `ROOM` is a
/// power of two.
///
/// # Safety
/// The destination has room for `ROOM` bytes.
#[inline(always)]
pub(crate) unsafe fn read_user_at_most<const ROOM: usize>(to: *mut u8, wanted: u32, from: u64) -> u32 {
    if wanted >= ROOM as u32 {
        return if read_user_bytes(to, ROOM as u32, from) { ROOM as u32 } else { 0 };
    }
    // Older verifiers believe in the bound of a length only when it was masked, which the compiler knows to be needless.
    let mut length = wanted;
    // SAFETY: the instruction changes nothing but its operand.
    unsafe { asm!("{0} &= {1}", inout(reg) length, const ROOM - 1, options(pure, nomem, nostack)) };
    if read_user_bytes(to, length, from) { length } else { 0 }
}
