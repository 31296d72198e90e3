//! What watched processes ask the CUDA driver for: memory of the GPU.
//!
//! Hooks: uprobes on `cuMemAlloc_v2`, `cuMemAllocAsync`, `cuMemCreate` and `cuMemAllocManaged` of `libcuda.so.1`, where user
//! space finds them. All four have the number of bytes for their second argument and a `CUresult` for their result, as
//! `cuda.h` has it. Nothing is told by records: user space reads the table when it likes.
//!
//! As in `tls.rs`, programs run preemptibly: counts are added to by an atomic instruction.

use aya_ebpf::macros::{map, uprobe};
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::ProbeContext;
use miku_probe_abi::CudaAllocations;

use crate::maps::{Skip, add};
use crate::tls::{now, table_full, thread};

/// What each process asked for.
#[map]
static CUDA_ALLOCATIONS: HashMap<u32, CudaAllocations> = HashMap::with_max_entries(1024, 0);

/// The size that a call asks for, by thread; as `TLS_CALLS`.
#[map]
static CUDA_CALLS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// `BPF_NOEXIST` of `linux/bpf.h`.
const NO_EXIST: u64 = 1;

#[uprobe]
pub(crate) fn cuda_allocate(ctx: ProbeContext) -> u32 {
    // SAFETY: the kernel passes the registers, and the verifier holds the loads to their places.
    let size = unsafe { (*ctx.regs).rsi };
    if CUDA_CALLS.insert(thread(), size, 0).is_err() {
        table_full();
    }
    0
}

#[uprobe]
pub(crate) fn cuda_allocate_return(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `cuda_allocate`.
    let _: Result<(), Skip> = try_return(unsafe { (*ctx.regs).rax } as u32);
    0
}

#[inline(always)]
fn try_return(result: u32) -> Result<(), Skip> {
    let thread = thread();
    let size = CUDA_CALLS.get_ptr(thread).ok_or(Skip)?;
    // SAFETY: the pointer is to a value of a preallocated map, which stays memory of that type, and which only this thread
    // uses.
    let size = unsafe { *size };
    // A call within the call has been counted, and this is the end of neither any more.
    CUDA_CALLS.remove(thread).map_err(|_| Skip)?;
    let tgid = (thread >> 32) as u32;
    let known = match CUDA_ALLOCATIONS.get_ptr_mut(tgid) {
        Some(known) => known,
        None => {
            // Another thread may have come first, which is as good.
            let _exists = CUDA_ALLOCATIONS.insert(tgid, CudaAllocations::default(), NO_EXIST);
            match CUDA_ALLOCATIONS.get_ptr_mut(tgid) {
                Some(known) => known,
                None => {
                    table_full();
                    return Err(Skip);
                }
            }
        }
    };
    // SAFETY: the pointer is to a live value of a preallocated map, here and below; user space removes it only when the
    // process is watched no more.
    unsafe {
        add(&raw mut (*known).bytes, size);
        add(&raw mut (*known).calls, 1);
        if result != 0 {
            (*known).failed_ns = now();
            (*known).failed_bytes = size;
            (*known).failed_result = u64::from(result);
            // Last: who reads this one finds the others.
            add(&raw mut (*known).failures, 1);
        }
    }
    Ok(())
}
