//! A stand-in for NVIDIA's driver interface, `libcuda.so.1`: the functions that ask for memory, with their real C interface.
//!
//! There are as many bytes as `CUDA_STANDIN_BYTES` in the environment says, and nothing is ever behind them. Names, arguments
//! and results are those of `cuda.h`.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

type CuResult = c_int;
const SUCCESS: CuResult = 0;
const INVALID_VALUE: CuResult = 1;
const OUT_OF_MEMORY: CuResult = 2;

/// Bytes that are left.
fn left() -> &'static AtomicUsize {
    static LEFT: OnceLock<AtomicUsize> = OnceLock::new();
    LEFT.get_or_init(|| {
        let bytes = std::env::var("CUDA_STANDIN_BYTES").ok().and_then(|bytes| bytes.parse().ok());
        AtomicUsize::new(bytes.unwrap_or(0))
    })
}

/// Gives out memory, if there is as much.
fn give(to: *mut c_ulonglong, size: usize) -> CuResult {
    if to.is_null() || size == 0 {
        return INVALID_VALUE;
    }
    let taken = left().fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(size));
    match taken {
        Ok(left) => {
            // SAFETY: the caller passes a pointer to such a number, as the interface says.
            unsafe { to.write(left as c_ulonglong) };
            SUCCESS
        }
        Err(_) => OUT_OF_MEMORY,
    }
}

/// `cuMemAlloc_v2`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(to: *mut c_ulonglong, size: usize) -> CuResult {
    give(to, size)
}

/// `cuMemAllocAsync`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(to: *mut c_ulonglong, size: usize, _stream: *mut c_void) -> CuResult {
    give(to, size)
}

/// `cuMemCreate`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemCreate(
    to: *mut c_ulonglong,
    size: usize,
    _properties: *const c_void,
    _flags: c_ulonglong,
) -> CuResult {
    give(to, size)
}

/// `cuMemAllocManaged`
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocManaged(to: *mut c_ulonglong, size: usize, _flags: c_uint) -> CuResult {
    give(to, size)
}
