//! A stand-in for NVIDIA's driver interface, `libcuda.so.1`: the functions that ask for memory, and those that a small job
//! needs, with their real C interface.
//!
//! There are as many bytes as `CUDA_STANDIN_BYTES` in the environment says, and nothing is ever behind them. Names, arguments
//! and results are those of `cuda.h`.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

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

/// Functions that do nothing and succeed, with as many arguments as they have.
macro_rules! idle {
    ($($function:ident($($argument:ident: $type:ty),*)),+ $(,)?) => {
        $(
            #[doc = concat!("`", stringify!($function), "`")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $function($($argument: $type),*) -> CuResult {
                SUCCESS
            }
        )+
    };
}

idle! {
    cuInit(_flags: c_uint),
    cuDeviceGet(_device: *mut c_int, _ordinal: c_int),
    cuDevicePrimaryCtxRetain(_context: *mut *mut c_void, _device: c_int),
    cuCtxSetCurrent(_context: *mut c_void),
    cuModuleLoadData(_module: *mut *mut c_void, _image: *const c_void),
    cuModuleGetFunction(_function: *mut *mut c_void, _module: *mut c_void, _name: *const c_char),
    cuLaunchKernel(
        _function: *mut c_void,
        _blocks_x: c_uint,
        _blocks_y: c_uint,
        _blocks_z: c_uint,
        _threads_x: c_uint,
        _threads_y: c_uint,
        _threads_z: c_uint,
        _shared_bytes: c_uint,
        _stream: *mut c_void,
        _parameters: *mut *mut c_void,
        _extra: *mut *mut c_void
    ),
}

/// `cuCtxSynchronize`: as long as a kernel may take.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CuResult {
    thread::sleep(Duration::from_millis(10));
    SUCCESS
}
