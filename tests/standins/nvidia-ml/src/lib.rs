//! A stand-in for NVIDIA's management library, `libnvidia-ml.so.1`: its real C interface, and values by a script.
//!
//! Structures, numbers and results are those of `nvml.h`. The script lies beside the library and is read anew whenever the
//! number beside it changes. A key that it does not have is not supported. A value is a number or a text, `!7` for the result 7,
//! or `hang` for a call that does not return before the script says something else.
//!
//! | key | what it stands for |
//! |---|---|
//! | `driver` | when it is a result: that of every call. Once it was one, all must be initialized anew |
//! | `version`, `count` | the driver's version, how many GPUs there are |
//! | `gpu0` | when it is a result: that of every call for this GPU |
//! | `gpu0.KEY` | a value of this GPU: see the functions below |
//! | `gpu0.mig1` | a part of it exists; `gpu0.mig1.KEY` are the part's values |
//! | `gpu0.compute`, `.graphics`, `.mps` | processes, as `pid:bytes,pid:bytes` |
//! | `gpu0.sm` | what processes used, as `pid:time:percent,…` |
//! | `gpu0.xid` | a critical error, as `number:xid`: told once for each number |

#![allow(clippy::not_unsafe_ptr_arg_deref, reason = "they are called by the C interface, which no keyword binds")]

pub mod script;

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::script::{GENERATION, SCRIPT};

type Return = c_uint;
const SUCCESS: Return = 0;
const UNINITIALIZED: Return = 1;
const INVALID_ARGUMENT: Return = 2;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const TIMEOUT: Return = 10;
const VERSION: Return = 25;
const UNKNOWN: Return = 999;

/// `nvmlDevice_t`: the GPU's number and one, and from bit 16 on the part's number and one.
type Device = *mut c_void;

struct State {
    folder: PathBuf,
    generation: &'static AtomicU64,
    read: u64,
    values: HashMap<String, String>,
    /// How many times it was initialized and not shut down.
    users: u32,
    /// The number of the last critical error that was told, by the GPU's number.
    told: HashMap<u32, u64>,
    /// The GPUs whose critical errors are told, by the set's number.
    sets: HashMap<usize, Vec<u32>>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

impl State {
    fn new() -> Option<Self> {
        // SAFETY: the address is of a function of this library, and the structure is live.
        let folder = unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            if libc::dladdr(initialized as *const c_void, &raw mut info) == 0 {
                return None;
            }
            PathBuf::from(OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes())).parent()?.to_owned()
        };
        let file = File::open(folder.join(GENERATION)).ok()?;
        // SAFETY: a new mapping of a file that is as long, read as one number; it is never unmapped.
        let generation = unsafe {
            let mapped = libc::mmap(std::ptr::null_mut(), 8, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0);
            if mapped == libc::MAP_FAILED {
                return None;
            }
            &*mapped.cast::<AtomicU64>()
        };
        Some(Self {
            folder,
            generation,
            read: 0,
            values: HashMap::new(),
            users: 0,
            told: HashMap::new(),
            sets: HashMap::new(),
        })
    }

    /// The value of a key, by the latest script.
    fn value(&mut self, key: &str) -> Option<String> {
        let generation = self.generation.load(Ordering::Acquire);
        if generation != self.read {
            let text = fs::read_to_string(self.folder.join(SCRIPT)).unwrap_or_default();
            let lines = text.lines().filter_map(|line| line.trim().split_once(' '));
            self.values = lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
            self.read = generation;
        }
        self.values.get(key).cloned()
    }
}

fn with<T>(call: impl FnOnce(&mut State) -> T) -> Result<T, Return> {
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    if state.is_none() {
        *state = State::new();
    }
    state.as_mut().map(call).ok_or(UNKNOWN)
}

/// The value of a key. Nothing is locked while it hangs.
fn value(key: &str) -> Result<String, Return> {
    loop {
        match with(|state| state.value(key))?.ok_or(NOT_SUPPORTED)? {
            hang if hang == "hang" => thread::sleep(Duration::from_millis(1)),
            result if result.starts_with('!') => return Err(result[1..].parse().unwrap_or(UNKNOWN)),
            value => return Ok(value),
        }
    }
}

fn number(key: &str) -> Result<u64, Return> {
    value(key)?.parse().map_err(|_| UNKNOWN)
}

/// Whether it was initialized, and the driver is there.
fn initialized() -> Result<(), Return> {
    match value("driver") {
        Err(NOT_SUPPORTED) | Ok(_) => {}
        Err(result) => {
            with(|state| state.users = 0)?;
            return Err(result);
        }
    }
    if with(|state| state.users)? == 0 { Err(UNINITIALIZED) } else { Ok(()) }
}

/// What the keys of a device begin with.
fn prefix(device: Device) -> Result<String, Return> {
    initialized()?;
    let (index, part) = numbers(device)?;
    let gpu = format!("gpu{index}");
    match value(&gpu) {
        Err(NOT_SUPPORTED) | Ok(_) => {}
        Err(result) => return Err(result),
    }
    Ok(part.map_or(gpu.clone(), |part| format!("{gpu}.mig{part}")))
}

fn numbers(device: Device) -> Result<(u32, Option<u32>), Return> {
    let bits = device as usize as u32;
    let index = (bits & 0xffff).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    Ok((index, (bits >> 16).checked_sub(1)))
}

fn handle(index: u32, part: Option<u32>) -> Device {
    let part = part.map_or(0, |part| part + 1);
    (index + 1 + (part << 16)) as usize as Device
}

fn returned(result: Result<(), Return>) -> Return {
    result.err().unwrap_or(SUCCESS)
}

/// Writes what a caller asked for.
fn put<T>(to: *mut T, value: T) -> Result<(), Return> {
    if to.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: the caller passes a pointer to a value of this type, as the interface says.
    unsafe { to.write(value) };
    Ok(())
}

fn put_number(device: Device, key: &str, to: *mut c_uint) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let number = number(&format!("{prefix}.{key}"))?;
        put(to, number as c_uint)
    }))
}

fn put_text(text: &str, to: *mut c_char, room: c_uint) -> Result<(), Return> {
    if text.len() >= room as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    for (at, byte) in text.bytes().chain([0]).enumerate() {
        // SAFETY: the caller passes a buffer of `room` bytes, as the interface says.
        unsafe { to.add(at).write(byte as c_char) };
    }
    Ok(())
}

/// Functions that tell one number of a device, by its key.
macro_rules! numbers {
    ($($function:ident => $key:literal),+ $(,)?) => {
        $(
            #[doc = concat!("`", stringify!($function), "`: the key `", $key, "`.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $function(device: Device, to: *mut c_uint) -> Return {
                put_number(device, $key, to)
            }
        )+
    };
}

numbers! {
    nvmlDeviceGetPowerUsage => "power",
    nvmlDeviceGetEnforcedPowerLimit => "power_limit",
    nvmlDeviceGetNumFans => "fans",
    nvmlDeviceGetMaxMigDeviceCount => "mig_max",
}

/// `nvmlInit_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Return {
    returned(match value("driver") {
        Err(NOT_SUPPORTED) | Ok(_) => with(|state| state.users += 1),
        Err(result) => Err(result),
    })
}

/// `nvmlShutdown`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Return {
    returned(initialized().and_then(|()| with(|state| state.users = state.users.saturating_sub(1))))
}

/// `nvmlSystemGetDriverVersion`: the key `version`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, room: c_uint) -> Return {
    returned(initialized().and_then(|()| put_text(&value("version")?, to, room)))
}

/// `nvmlDeviceGetCount_v2`: the key `count`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> Return {
    returned(initialized().and_then(|()| put(to, number("count")? as c_uint)))
}

/// `nvmlDeviceGetHandleByIndex_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut Device) -> Return {
    returned(initialized().and_then(|()| {
        if u64::from(index) >= number("count")? {
            return Err(INVALID_ARGUMENT);
        }
        prefix(handle(index, None))?;
        put(to, handle(index, None))
    }))
}

/// `nvmlDeviceGetMigMode`: the key `mig_mode`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(device: Device, current: *mut c_uint, pending: *mut c_uint) -> Return {
    match put_number(device, "mig_mode", current) {
        SUCCESS => put_number(device, "mig_mode", pending),
        result => result,
    }
}

/// `nvmlDeviceGetMigDeviceHandleByIndex`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(device: Device, part: c_uint, to: *mut Device) -> Return {
    returned(prefix(device).and_then(|prefix| {
        value(&format!("{prefix}.mig{part}")).map_err(|_| NOT_FOUND)?;
        put(to, handle(numbers(device)?.0, Some(part)))
    }))
}

/// `nvmlDeviceGetUUID`: the key `uuid`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: Device, to: *mut c_char, room: c_uint) -> Return {
    returned(prefix(device).and_then(|prefix| put_text(&value(&format!("{prefix}.uuid"))?, to, room)))
}

/// `nvmlDeviceGetName`: the key `name`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: Device, to: *mut c_char, room: c_uint) -> Return {
    returned(prefix(device).and_then(|prefix| put_text(&value(&format!("{prefix}.name"))?, to, room)))
}

/// `nvmlMemory_t`
#[repr(C)]
pub struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlMemory_v2_t`
#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlDeviceGetMemoryInfo`: the keys `total`, `free`, `used` and `reserved`, of which this version counts the last as used.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: Device, to: *mut Memory) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let number = |key| number(&format!("{prefix}.{key}"));
        let used = number("used")? + number("reserved").unwrap_or(0);
        put(to, Memory { total: number("total")?, free: number("free")?, used })
    }))
}

/// `nvmlDeviceGetMemoryInfo_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, to: *mut MemoryV2) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let number = |key| number(&format!("{prefix}.{key}"));
        // SAFETY: the caller passes such a structure, of which it has set the version.
        let version = unsafe { to.as_ref() }.ok_or(INVALID_ARGUMENT)?.version;
        if version != 2 << 24 | size_of::<MemoryV2>() as u32 {
            return Err(VERSION);
        }
        let (total, reserved) = (number("total")?, number("reserved")?);
        put(to, MemoryV2 { version, total, reserved, free: number("free")?, used: number("used")? })
    }))
}

/// `nvmlUtilization_t`
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlDeviceGetUtilizationRates`: the keys `busy` and `memory_busy`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: Device, to: *mut Utilization) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let number = |key| number(&format!("{prefix}.{key}"));
        put(to, Utilization { gpu: number("busy")? as c_uint, memory: number("memory_busy")? as c_uint })
    }))
}

/// `nvmlDeviceGetEncoderUtilization`: the key `encoder`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEncoderUtilization(device: Device, to: *mut c_uint, period: *mut c_uint) -> Return {
    put_number(device, "encoder", to).max(returned(put(period, 167_000)))
}

/// `nvmlDeviceGetDecoderUtilization`: the key `decoder`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetDecoderUtilization(device: Device, to: *mut c_uint, period: *mut c_uint) -> Return {
    put_number(device, "decoder", to).max(returned(put(period, 167_000)))
}

/// `nvmlDeviceGetTemperature`: the key `temperature`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(device: Device, sensor: c_uint, to: *mut c_uint) -> Return {
    if sensor == 0 { put_number(device, "temperature", to) } else { INVALID_ARGUMENT }
}

/// `nvmlDeviceGetTotalEnergyConsumption`: the key `energy`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTotalEnergyConsumption(device: Device, to: *mut c_ulonglong) -> Return {
    returned(prefix(device).and_then(|prefix| put(to, number(&format!("{prefix}.energy"))?)))
}

/// `nvmlDeviceGetClockInfo`: the keys `clock0` to `clock3`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetClockInfo(device: Device, domain: c_uint, to: *mut c_uint) -> Return {
    put_number(device, &format!("clock{domain}"), to)
}

/// `nvmlDeviceGetSupportedClocksThrottleReasons`: the key `throttle_known`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetSupportedClocksThrottleReasons(device: Device, to: *mut c_ulonglong) -> Return {
    returned(prefix(device).and_then(|prefix| put(to, number(&format!("{prefix}.throttle_known"))?)))
}

/// `nvmlDeviceGetCurrentClocksThrottleReasons`: the key `throttle`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(device: Device, to: *mut c_ulonglong) -> Return {
    returned(prefix(device).and_then(|prefix| put(to, number(&format!("{prefix}.throttle"))?)))
}

/// `nvmlDeviceGetEccMode`: the key `ecc`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEccMode(device: Device, current: *mut c_uint, pending: *mut c_uint) -> Return {
    match put_number(device, "ecc", current) {
        SUCCESS => put_number(device, "ecc", pending),
        result => result,
    }
}

/// `nvmlDeviceGetMemoryErrorCounter`: the keys `ecc.TYPE.LOCATION`, of those since the driver was loaded.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryErrorCounter(
    device: Device,
    kind: c_uint,
    since: c_uint,
    location: c_uint,
    to: *mut c_ulonglong,
) -> Return {
    returned(prefix(device).and_then(|prefix| {
        if since != 0 {
            return Err(INVALID_ARGUMENT);
        }
        put(to, number(&format!("{prefix}.ecc.{kind}.{location}"))?)
    }))
}

/// `nvmlDeviceGetFanSpeed_v2`: the keys `fan0` and on.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFanSpeed_v2(device: Device, fan: c_uint, to: *mut c_uint) -> Return {
    put_number(device, &format!("fan{fan}"), to)
}

/// `nvmlFieldValue_t`, whose value is a union of eight bytes.
#[repr(C)]
pub struct FieldValue {
    field: c_uint,
    scope: c_uint,
    time: i64,
    latency: i64,
    kind: c_uint,
    result: Return,
    value: u64,
}

/// `nvmlDeviceGetFieldValues`: the keys `field82` and so on.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetFieldValues(device: Device, count: c_int, values: *mut FieldValue) -> Return {
    const UNSIGNED_LONG_LONG: c_uint = 3;
    returned(prefix(device).and_then(|prefix| {
        for at in 0..usize::try_from(count).map_err(|_| INVALID_ARGUMENT)? {
            // SAFETY: the caller passes an array of so many.
            let value = unsafe { &mut *values.add(at) };
            match number(&format!("{prefix}.field{}", value.field)) {
                Ok(number) => (value.result, value.kind, value.value) = (SUCCESS, UNSIGNED_LONG_LONG, number),
                Err(result) => value.result = result,
            }
        }
        Ok(())
    }))
}

/// `nvmlProcessUtilizationSample_t`
#[repr(C)]
pub struct ProcessUse {
    pid: c_uint,
    time: c_ulonglong,
    sm: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

/// `nvmlDeviceGetProcessUtilization`: the key `sm`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Device,
    to: *mut ProcessUse,
    count: *mut c_uint,
    since: c_ulonglong,
) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let text = value(&format!("{prefix}.sm"))?;
        let mut uses = Vec::new();
        for entry in text.split(',') {
            let numbers: Vec<u64> = entry.split(':').filter_map(|number| number.parse().ok()).collect();
            let [pid, time, sm] = numbers[..] else { return Err(UNKNOWN) };
            if time > since {
                let (pid, sm) = (pid as c_uint, sm as c_uint);
                uses.push(ProcessUse { pid, time, sm, memory: 0, encoder: 0, decoder: 0 });
            }
        }
        if uses.is_empty() {
            return Err(NOT_FOUND);
        }
        fill(uses, to, count)
    }))
}

/// Fills a caller's array, or says how long it must be.
fn fill<T>(values: Vec<T>, to: *mut T, count: *mut c_uint) -> Result<(), Return> {
    // SAFETY: the caller passes the room of its array.
    let room = *unsafe { count.as_ref() }.ok_or(INVALID_ARGUMENT)?;
    put(count, values.len() as c_uint)?;
    if (room as usize) < values.len() || (to.is_null() && !values.is_empty()) {
        return Err(INSUFFICIENT_SIZE);
    }
    for (at, value) in values.into_iter().enumerate() {
        // SAFETY: the array has room for so many.
        unsafe { to.add(at).write(value) };
    }
    Ok(())
}

/// `nvmlProcessInfo_v1_t`
#[repr(C)]
pub struct ProcessV1 {
    pid: c_uint,
    memory: c_ulonglong,
}

/// `nvmlProcessInfo_v2_t`, which the third version of the functions fills too.
#[repr(C)]
pub struct ProcessV2 {
    pid: c_uint,
    memory: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

fn processes<T>(
    device: Device,
    key: &str,
    to: *mut T,
    count: *mut c_uint,
    process: impl Fn(c_uint, c_ulonglong) -> T,
) -> Return {
    returned(prefix(device).and_then(|prefix| {
        let text = value(&format!("{prefix}.{key}"))?;
        let listed = text.split(',').filter_map(|entry| entry.split_once(':'));
        let listed = listed.map(|(pid, bytes)| {
            // What the driver does not tell of a process is the greatest number.
            process(pid.parse().unwrap_or(0), bytes.parse().unwrap_or(c_ulonglong::MAX))
        });
        fill(listed.collect(), to, count)
    }))
}

const fn second(pid: c_uint, memory: c_ulonglong) -> ProcessV2 {
    ProcessV2 { pid, memory, gpu_instance: c_uint::MAX, compute_instance: c_uint::MAX }
}

/// The three versions of the functions that list processes, by their key.
macro_rules! lists {
    ($($key:literal: $v1:ident, $v2:ident, $v3:ident);+ $(;)?) => {
        $(
            #[doc = concat!("`", stringify!($v1), "`: the key `", $key, "`.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $v1(device: Device, count: *mut c_uint, to: *mut ProcessV1) -> Return {
                processes(device, $key, to, count, |pid, memory| ProcessV1 { pid, memory })
            }

            #[doc = concat!("`", stringify!($v2), "`: the key `", $key, "`.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $v2(device: Device, count: *mut c_uint, to: *mut ProcessV2) -> Return {
                processes(device, $key, to, count, second)
            }

            #[doc = concat!("`", stringify!($v3), "`: the key `", $key, "`.")]
            #[unsafe(no_mangle)]
            pub extern "C" fn $v3(device: Device, count: *mut c_uint, to: *mut ProcessV2) -> Return {
                processes(device, $key, to, count, second)
            }
        )+
    };
}

lists! {
    "compute": nvmlDeviceGetComputeRunningProcesses, nvmlDeviceGetComputeRunningProcesses_v2,
        nvmlDeviceGetComputeRunningProcesses_v3;
    "graphics": nvmlDeviceGetGraphicsRunningProcesses, nvmlDeviceGetGraphicsRunningProcesses_v2,
        nvmlDeviceGetGraphicsRunningProcesses_v3;
    "mps": nvmlDeviceGetMPSComputeRunningProcesses, nvmlDeviceGetMPSComputeRunningProcesses_v2,
        nvmlDeviceGetMPSComputeRunningProcesses_v3;
}

/// `nvmlEventSetCreate`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(to: *mut *mut c_void) -> Return {
    returned(initialized().and_then(|()| {
        let number = with(|state| {
            let number = state.sets.keys().max().map_or(1, |last| last + 1);
            state.sets.insert(number, Vec::new());
            number
        })?;
        put(to, number as *mut c_void)
    }))
}

/// `nvmlDeviceRegisterEvents`, when the script has a key `xid` for this GPU.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(device: Device, _events: c_ulonglong, set: *mut c_void) -> Return {
    returned(prefix(device).and_then(|prefix| {
        value(&format!("{prefix}.xid"))?;
        let index = numbers(device)?.0;
        with(|state| state.sets.entry(set as usize).or_default().push(index))
    }))
}

/// `nvmlEventData_t`
#[repr(C)]
pub struct Event {
    device: Device,
    kind: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// `nvmlEventSetWait_v2`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetWait_v2(set: *mut c_void, to: *mut Event, _timeout: c_uint) -> Return {
    const XID: c_ulonglong = 8;
    returned(initialized().and_then(|()| {
        let gpus = with(|state| state.sets.get(&(set as usize)).cloned())?.ok_or(INVALID_ARGUMENT)?;
        for gpu in gpus {
            let Ok(text) = value(&format!("gpu{gpu}.xid")) else { continue };
            let Some((event, xid)) = text.split_once(':') else { continue };
            let event: u64 = event.parse().map_err(|_| UNKNOWN)?;
            if with(|state| state.told.insert(gpu, event))?.unwrap_or(0) < event {
                let data = xid.parse().map_err(|_| UNKNOWN)?;
                let (gpu_instance, compute_instance) = (c_uint::MAX, c_uint::MAX);
                return put(to, Event { device: handle(gpu, None), kind: XID, data, gpu_instance, compute_instance });
            }
        }
        Err(TIMEOUT)
    }))
}

/// `nvmlEventSetFree`
#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: *mut c_void) -> Return {
    returned(with(|state| drop(state.sets.remove(&(set as usize)))))
}
