//! NVIDIA's driver interface (`libcuda.so.1`), loaded at run time: as much of it as a small job needs. No toolkit is.
//!
//! Names, arguments and results are those of `cuda.h`; a result of 0 is success.

use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The functions that ask for memory; all take where to put the address, the size, and what may be 0.
pub const ALLOCATORS: [&str; 4] = ["cuMemAlloc_v2", "cuMemAllocAsync", "cuMemCreate", "cuMemAllocManaged"];

/// More bytes than any GPU has.
pub const TOO_MUCH: usize = 1 << 60;

/// Counts for a while, so that the GPU is busy.
const KERNEL: &CStr = c"
.version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u32 rounds)
{
    .reg .pred %done;
    .reg .u32 %left;
    ld.param.u32 %left, [rounds];
AGAIN:
    sub.u32 %left, %left, 1;
    setp.ne.u32 %done, %left, 0;
    @%done bra AGAIN;
    ret;
}
";

/// The loaded library. It is never unloaded.
#[derive(Clone, Copy, Debug)]
pub struct Cuda {
    library: *mut c_void,
}

impl Cuda {
    /// Loads the library.
    ///
    /// # Errors
    /// When the loader does not find it.
    pub fn load(path: &Path) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the name is live; what the library does when it is loaded is the driver's.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        ensure!(!library.is_null(), "cannot load {}", path.display());
        Ok(Self { library })
    }

    fn function(self, name: &str) -> Result<*mut c_void> {
        let symbol = CString::new(name)?;
        // SAFETY: the handle is of a library that is never unloaded, and the name is live.
        let function = unsafe { libc::dlsym(self.library, symbol.as_ptr()) };
        ensure!(!function.is_null(), "the library has no {name}");
        Ok(function)
    }

    /// Asks for memory by one of [`ALLOCATORS`], and tells the address and the result.
    ///
    /// # Errors
    /// When the library has no such function.
    pub fn allocate(self, function: &str, bytes: usize) -> Result<(u64, c_int)> {
        ensure!(ALLOCATORS.contains(&function), "{function} does not ask for memory");
        type Allocator = unsafe extern "C" fn(*mut u64, usize, usize, usize) -> c_int;
        // SAFETY: each has these arguments in these registers, or fewer of them, and a `CUresult` for its result.
        let allocate: Allocator = unsafe { std::mem::transmute(self.function(function)?) };
        let mut address = 0;
        // SAFETY: the address is live; 0 stands for the default stream, no properties, and no flags.
        let result = unsafe { allocate(&raw mut address, bytes, 0, 0) };
        Ok((address, result))
    }

    /// Keeps the first GPU busy for `time`, with `bytes` of its memory taken, and asks for [`TOO_MUCH`] now and then; `ready`
    /// is called when it is so.
    ///
    /// # Errors
    /// When there is no GPU, or anything of it fails.
    pub fn work(self, bytes: usize, time: Duration, ready: impl FnOnce()) -> Result<()> {
        let checked = |name: &str, result: c_int| if result == 0 { Ok(()) } else { bail!("{name} gave {result}") };
        let (mut device, mut context, mut module, mut kernel) = (0_i32, null_mut(), null_mut(), null_mut());
        // SAFETY: each function is called with the arguments that `cuda.h` declares, all of them live.
        unsafe {
            type Init = unsafe extern "C" fn(c_uint) -> c_int;
            type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
            type Retain = unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int;
            type Set = unsafe extern "C" fn(*mut c_void) -> c_int;
            type LoadData = unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> c_int;
            type GetFunction = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const libc::c_char) -> c_int;
            let init: Init = std::mem::transmute(self.function("cuInit")?);
            checked("cuInit", init(0))?;
            let get: Get = std::mem::transmute(self.function("cuDeviceGet")?);
            checked("cuDeviceGet", get(&raw mut device, 0))?;
            let retain: Retain = std::mem::transmute(self.function("cuDevicePrimaryCtxRetain")?);
            checked("cuDevicePrimaryCtxRetain", retain(&raw mut context, device))?;
            let set: Set = std::mem::transmute(self.function("cuCtxSetCurrent")?);
            checked("cuCtxSetCurrent", set(context))?;
            let load: LoadData = std::mem::transmute(self.function("cuModuleLoadData")?);
            checked("cuModuleLoadData", load(&raw mut module, KERNEL.as_ptr().cast()))?;
            let get: GetFunction = std::mem::transmute(self.function("cuModuleGetFunction")?);
            checked("cuModuleGetFunction", get(&raw mut kernel, module, c"spin".as_ptr()))?;
        }
        let (_, result) = self.allocate("cuMemAlloc_v2", bytes).context("cannot ask for memory")?;
        checked("cuMemAlloc_v2", result)?;
        ready();
        let end = Instant::now() + time;
        while Instant::now() < end {
            let (_, result) = self.allocate("cuMemAlloc_v2", TOO_MUCH)?;
            ensure!(result != 0, "the driver gave what no GPU has");
            let pause = Instant::now() + Duration::from_secs(1);
            while Instant::now() < pause {
                self.launch(kernel)?;
            }
        }
        Ok(())
    }

    fn launch(self, kernel: *mut c_void) -> Result<()> {
        type Launch = unsafe extern "C" fn(
            *mut c_void,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            c_uint,
            *mut c_void,
            *mut *mut c_void,
            *mut *mut c_void,
        ) -> c_int;
        type Synchronize = unsafe extern "C" fn() -> c_int;
        let mut rounds: c_uint = 1 << 20;
        let mut parameters = [(&raw mut rounds).cast::<c_void>()];
        // SAFETY: as in `work`; the kernel takes one number, which outlives the launch, as the wait for its end follows.
        unsafe {
            let launch: Launch = std::mem::transmute(self.function("cuLaunchKernel")?);
            let synchronize: Synchronize = std::mem::transmute(self.function("cuCtxSynchronize")?);
            let (blocks, threads) = (1024, 256);
            let none = null_mut();
            let result = launch(kernel, blocks, 1, 1, threads, 1, 1, 0, none, parameters.as_mut_ptr(), null_mut());
            ensure!(result == 0, "cuLaunchKernel gave {result}");
            let result = synchronize();
            ensure!(result == 0, "cuCtxSynchronize gave {result}");
        }
        Ok(())
    }
}
