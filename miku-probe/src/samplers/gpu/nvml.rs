//! What is asked of the driver's library (NVML), and what its answers mean.
//!
//! Functions, their errors and units are those of NVIDIA's NVML API reference. What a driver or a GPU does not know it is not
//! asked again for a minute. Nothing is asked that measures for itself: bytes over the bus are read from counters, for the
//! call that tells their throughput takes 20 ms.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::c_uint;
use std::path::Path;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, MemoryLocation, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id;
use nvml_wrapper::{Device as NvmlDevice, EventSet, Nvml};
use nvml_wrapper_sys::bindings::{
    nvmlDevice_t, nvmlMemory_t, nvmlProcessInfo_v1_t, nvmlProcessInfo_v2_t,
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE, nvmlReturn_t,
};

use super::worker::{Progress, Told};
use crate::observations::{
    ClockDomain, Device, EccKind, EccLocation, GpuMemory, GpuProcess, PcieDirection, Reading, RemapCause, Sensor, Task,
    ThrottleReason, Unavailable,
};

/// The call that opens the library, which may take longer than others.
pub(super) const OPEN: &str = "nvmlInit";

/// After so many samples all is asked again that was not supported: someone may have changed a mode.
const ASK_AGAIN: u32 = 60;

/// GPUs and parts of one that are asked; more are left out.
const DEVICES_MAX: u32 = 64;

/// Processes of one list.
const PROCESSES_MAX: u32 = 4096;

/// Critical errors that are taken in by one sample of one GPU.
const XIDS_MAX: usize = 16;

/// `NVML_VALUE_NOT_AVAILABLE`.
const NOT_AVAILABLE: u64 = u64::MAX;

/// Opens the library.
pub(super) fn open(library: Option<&Path>, progress: &Progress) -> Result<Nvml, Unavailable> {
    let opened = progress.run(OPEN, || match library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        None => Nvml::init(),
    });
    opened.map_err(|error| {
        log::debug!("cannot open the NVIDIA driver's library: {error}");
        match error {
            // The loader says nothing but a text; this one is glibc's and musl's.
            NvmlError::LibloadingError(error) if error.to_string().contains("No such file") => {
                Unavailable::LibraryAbsent
            }
            NvmlError::LibloadingError(_) | NvmlError::FailedToLoadSymbol(_) => Unavailable::LibraryUnusable,
            NvmlError::NoPermission => Unavailable::NoPermission,
            NvmlError::LibraryNotFound => Unavailable::DriverAbsent,
            error => of_all(&error).or(of_one(&error)).unwrap_or(Unavailable::Failed),
        }
    })
}

/// What an error says of all GPUs.
fn of_all(error: &NvmlError) -> Option<Unavailable> {
    match error {
        NvmlError::DriverNotLoaded | NvmlError::Uninitialized => Some(Unavailable::DriverAbsent),
        NvmlError::LibRmVersionMismatch => Some(Unavailable::VersionMismatch),
        _ => None,
    }
}

/// What an error says of the GPU that was asked.
fn of_one(error: &NvmlError) -> Option<Unavailable> {
    match error {
        NvmlError::GpuLost | NvmlError::ResetRequired => Some(Unavailable::GpuLost),
        _ => None,
    }
}

/// Whether it makes no sense to ask again.
fn is_final(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::NoPermission
            | NvmlError::InvalidArg
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_)
    )
}

/// A call, the GPU's number, and what it is asked for.
type Question = (&'static str, u32, u32);

/// An open library, between samples.
pub(super) struct Session<'n> {
    nvml: &'n Nvml,
    progress: &'n Progress,
    unsupported: HashSet<Question>,
    samples: u32,
    /// How many GPUs there were.
    count: u32,
    /// What is told of critical errors, by the GPU's number; none where the driver does not.
    events: HashMap<u32, Option<EventSet<'n>>>,
    /// The time of the last look at processes' use, as the driver counts it, by the GPU's number.
    looked: HashMap<u32, u64>,
    /// Whether the third version of the processes' lists is as documented.
    third_lists: bool,
}

impl<'n> Session<'n> {
    pub(super) fn new(nvml: &'n Nvml, progress: &'n Progress) -> Self {
        let version = progress.run("nvmlSystemGetDriverVersion", || nvml.sys_driver_version());
        Self {
            nvml,
            progress,
            unsupported: HashSet::new(),
            samples: 0,
            count: 0,
            events: HashMap::new(),
            looked: HashMap::new(),
            third_lists: !version.is_ok_and(|version| has_longer_lists(&version)),
        }
    }

    /// Asks for everything.
    pub(super) fn sample(&mut self) -> Told {
        self.samples += 1;
        if self.samples.is_multiple_of(ASK_AGAIN) {
            self.unsupported.clear();
        }
        // First: a GPU that is lost says why by these.
        let xids = self.xids();
        Told { devices: self.devices(), xids }
    }

    fn devices(&mut self) -> Result<Vec<Device>, Unavailable> {
        let count = match self.progress.run("nvmlDeviceGetCount", || self.nvml.device_count()) {
            Ok(0) => return Err(Unavailable::NoGpu),
            Ok(count) => count.min(DEVICES_MAX),
            Err(NvmlError::NoPermission) => return Err(Unavailable::NoPermission),
            Err(error) => return Err(of_all(&error).unwrap_or(Unavailable::Failed)),
        };
        if std::mem::replace(&mut self.count, count) != count {
            // The same number may be another GPU's now.
            self.events.clear();
            self.looked.clear();
        }
        let mut devices = Vec::new();
        for index in 0..count {
            self.device(index, &mut devices)?;
        }
        Ok(devices)
    }

    /// Asks a GPU and its parts. An error is one of all GPUs.
    fn device(&mut self, index: u32, devices: &mut Vec<Device>) -> Result<(), Unavailable> {
        let nvml = self.nvml;
        let mut ask = Ask::new(self.progress, &mut self.unsupported, index, 0);
        let Some(device) = ask.get("nvmlDeviceGetHandleByIndex", 0, || nvml.device_by_index(index)) else {
            devices.push(Device { gpu: index.to_string(), told: Err(ask.conclude()?.unwrap_or(Unavailable::Failed)) });
            return Ok(());
        };
        let parted = ask.get("nvmlDeviceGetMigMode", 0, || device.mig_mode()).is_some_and(|mode| mode.current == 1);
        let mut reading = whole(&mut ask, &device);
        if !parted {
            let uses = uses(&mut ask, &device, self.looked.entry(index).or_default());
            reading.processes = processes(&mut ask, nvml, &device, self.third_lists, &uses);
        }
        let told = conclude(&ask, reading)?;
        let there = told.is_ok();
        devices.push(Device { gpu: index.to_string(), told });
        if there {
            let progress = self.progress;
            self.events.entry(index).or_insert_with(|| listen(progress, nvml, &device));
        }
        if parted && there {
            let mut ask = Ask::new(self.progress, &mut self.unsupported, index, 0);
            let parts = ask.get("nvmlDeviceGetMaxMigDeviceCount", 0, || device.mig_device_count()).unwrap_or(0);
            for part in 0..parts.min(DEVICES_MAX) {
                // No handle: there is no such part.
                let handle = "nvmlDeviceGetMigDeviceHandleByIndex";
                let Ok(device) = self.progress.run(handle, || device.mig_device_by_index(part)) else { continue };
                let mut ask = Ask::new(self.progress, &mut self.unsupported, index, part + 1);
                let mut reading = named(&mut ask, &device);
                reading.memory = memory(&mut ask, nvml, &device);
                reading.processes = processes(&mut ask, nvml, &device, self.third_lists, &HashMap::new());
                devices.push(Device { gpu: format!("{index}:{part}"), told: conclude(&ask, reading)? });
            }
        }
        Ok(())
    }

    /// The critical errors since the last sample.
    fn xids(&self) -> Vec<(String, u64)> {
        let mut xids = Vec::new();
        for (index, events) in &self.events {
            let Some(events) = events else { continue };
            for _ in 0..XIDS_MAX {
                let Ok(event) = self.progress.run("nvmlEventSetWait", || events.wait(0)) else { break };
                match event.event_data {
                    Some(XidError::Value(xid)) => xids.push((index.to_string(), xid)),
                    Some(XidError::Unknown) | None => {}
                }
            }
        }
        xids
    }
}

/// Whether the third version of the processes' lists has longer entries than documented: a mistake of the first drivers of
/// the 535 line, which 535.98 undid.
fn has_longer_lists(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    numbers.next() == Some(535) && numbers.next().is_some_and(|minor| (43..98).contains(&minor))
}

/// Has the driver tell critical errors from now on.
fn listen<'n>(progress: &Progress, nvml: &'n Nvml, device: &NvmlDevice<'n>) -> Option<EventSet<'n>> {
    let set = progress.run("nvmlEventSetCreate", || nvml.create_event_set()).ok()?;
    let register = || device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|error| error.error);
    progress.run("nvmlDeviceRegisterEvents", register).ok()
}

/// The questions to one GPU.
struct Ask<'s> {
    progress: &'s Progress,
    unsupported: &'s mut HashSet<Question>,
    device: u32,
    /// Whether it told anything.
    answered: bool,
    /// Why it need not be asked any further.
    lost: Option<Unavailable>,
    /// Why no GPU need be asked any further.
    over: Option<Unavailable>,
    refused: bool,
}

impl<'s> Ask<'s> {
    fn new(progress: &'s Progress, unsupported: &'s mut HashSet<Question>, device: u32, part: u32) -> Self {
        let device = device << 16 | part;
        Self { progress, unsupported, device, answered: false, lost: None, over: None, refused: false }
    }

    /// Asks, unless it is known that there is no answer.
    fn get<T>(&mut self, name: &'static str, what: u32, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        let question = (name, self.device, what);
        if self.lost.is_some() || self.over.is_some() || self.unsupported.contains(&question) {
            return None;
        }
        match self.progress.run(name, call) {
            Ok(value) => {
                self.answered = true;
                Some(value)
            }
            Err(error) => {
                log::trace!("{name} ({what}) of GPU {}: {error}", self.device >> 16);
                self.lost = of_one(&error);
                self.over = of_all(&error);
                self.refused |= matches!(error, NvmlError::NoPermission);
                if is_final(&error) {
                    self.unsupported.insert(question);
                }
                None
            }
        }
    }

    /// Why nothing can be said of this GPU, if so. An error is one of all GPUs.
    fn conclude(&self) -> Result<Option<Unavailable>, Unavailable> {
        if let Some(reason) = self.over {
            return Err(reason);
        }
        let silent = if self.refused { Unavailable::NoPermission } else { Unavailable::Failed };
        Ok(self.lost.or((!self.answered).then_some(silent)))
    }
}

/// What of a reading holds.
fn conclude(ask: &Ask<'_>, reading: Reading) -> Result<Result<Reading, Unavailable>, Unavailable> {
    // A handle or a mode alone is no answer.
    let told = reading != Reading::default();
    let silent = if ask.refused { Unavailable::NoPermission } else { Unavailable::Failed };
    Ok(match ask.conclude()? {
        Some(reason) => Err(reason),
        None if !told => Err(silent),
        None => Ok(reading),
    })
}

fn named(ask: &mut Ask<'_>, device: &NvmlDevice<'_>) -> Reading {
    Reading {
        uuid: ask.get("nvmlDeviceGetUUID", 0, || device.uuid()),
        name: ask.get("nvmlDeviceGetName", 0, || device.name()),
        ..Reading::default()
    }
}

/// All that a GPU tells of itself as a whole.
fn whole(ask: &mut Ask<'_>, device: &NvmlDevice<'_>) -> Reading {
    let mut reading = named(ask, device);
    reading.memory = memory(ask, device.nvml(), device);
    if let Some(rates) = ask.get("nvmlDeviceGetUtilizationRates", 0, || device.utilization_rates()) {
        reading.utilization.extend(ratio(rates.gpu).map(|busy| (Task::Sm, busy)));
        reading.utilization.extend(ratio(rates.memory).map(|busy| (Task::MemoryBandwidth, busy)));
    }
    let encoder = ask.get("nvmlDeviceGetEncoderUtilization", 0, || device.encoder_utilization());
    let decoder = ask.get("nvmlDeviceGetDecoderUtilization", 0, || device.decoder_utilization());
    for (task, rate) in [(Task::Encoder, encoder), (Task::Decoder, decoder)] {
        reading.utilization.extend(rate.and_then(|rate| ratio(rate.utilization)).map(|busy| (task, busy)));
    }
    let temperature = ask.get("nvmlDeviceGetTemperature", 0, || device.temperature(TemperatureSensor::Gpu));
    reading.temperatures.extend(temperature.map(|degrees| (Sensor::Gpu, f64::from(degrees))));
    let milli = |value: u32| f64::from(value) / 1e3;
    reading.power_watts = ask.get("nvmlDeviceGetPowerUsage", 0, || device.power_usage()).map(milli);
    reading.power_limit_watts =
        ask.get("nvmlDeviceGetEnforcedPowerLimit", 0, || device.enforced_power_limit()).map(milli);
    let energy = ask.get("nvmlDeviceGetTotalEnergyConsumption", 0, || device.total_energy_consumption());
    reading.energy_joules = energy.map(|millijoules| millijoules as f64 / 1e3);
    for (number, (domain, clock)) in [
        (ClockDomain::Graphics, Clock::Graphics),
        (ClockDomain::Sm, Clock::SM),
        (ClockDomain::Memory, Clock::Memory),
        (ClockDomain::Video, Clock::Video),
    ]
    .into_iter()
    .enumerate()
    {
        let megahertz = ask.get("nvmlDeviceGetClockInfo", number as u32, || device.clock_info(clock));
        reading.clocks.extend(megahertz.map(|megahertz| (domain, f64::from(megahertz) * 1e6)));
    }
    reading.throttle = throttle(ask, device);
    reading.ecc_errors = ecc_errors(ask, device);
    let fans = ask.get("nvmlDeviceGetNumFans", 0, || device.num_fans()).unwrap_or(0);
    for fan in 0..fans.min(DEVICES_MAX) {
        let percent = ask.get("nvmlDeviceGetFanSpeed", fan, || device.fan_speed(fan));
        reading.fans.extend(percent.map(|percent| (fan, f64::from(percent) / 100.0)));
    }
    fields(ask, device, &mut reading);
    reading
}

/// A percentage as a ratio. What is beyond a hundred is no percentage.
fn ratio(percent: u32) -> Option<f64> {
    (percent <= 100).then(|| f64::from(percent) / 100.0)
}

fn memory(ask: &mut Ask<'_>, nvml: &Nvml, device: &NvmlDevice<'_>) -> Option<GpuMemory> {
    if let Some(told) = ask.get("nvmlDeviceGetMemoryInfo_v2", 0, || device.memory_info()) {
        return Some(GpuMemory { total: told.total, used: told.used, free: told.free, reserved: Some(told.reserved) });
    }
    let told = ask.get("nvmlDeviceGetMemoryInfo", 0, || {
        let function = nvml.lib().nvmlDeviceGetMemoryInfo.as_ref();
        let function = function.map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))?;
        let mut told = nvmlMemory_t { total: 0, free: 0, used: 0 };
        // SAFETY: the handle is of this library, and the structure is live and the one that this version fills.
        nvml_try(unsafe { function(device.handle(), &raw mut told) })?;
        Ok(told)
    })?;
    Some(GpuMemory { total: told.total, used: told.used, free: told.free, reserved: None })
}

fn throttle(ask: &mut Ask<'_>, device: &NvmlDevice<'_>) -> Vec<(ThrottleReason, bool)> {
    let known = ask.get("nvmlDeviceGetSupportedClocksThrottleReasons", 0, || device.supported_throttle_reasons());
    let Some(now) = ask.get("nvmlDeviceGetCurrentClocksThrottleReasons", 0, || device.current_throttle_reasons())
    else {
        return Vec::new();
    };
    let reasons = [
        (ThrottleReason::Idle, ThrottleReasons::GPU_IDLE),
        (ThrottleReason::ApplicationsClocks, ThrottleReasons::APPLICATIONS_CLOCKS_SETTING),
        (ThrottleReason::SoftwarePowerCap, ThrottleReasons::SW_POWER_CAP),
        (ThrottleReason::HardwareSlowdown, ThrottleReasons::HW_SLOWDOWN),
        (ThrottleReason::SyncBoost, ThrottleReasons::SYNC_BOOST),
        (ThrottleReason::SoftwareThermal, ThrottleReasons::SW_THERMAL_SLOWDOWN),
        (ThrottleReason::HardwareThermal, ThrottleReasons::HW_THERMAL_SLOWDOWN),
        (ThrottleReason::HardwarePowerBrake, ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN),
        (ThrottleReason::DisplayClocks, ThrottleReasons::DISPLAY_CLOCK_SETTING),
    ];
    let is_known = |flag| now.contains(flag) || known.is_none_or(|known| known.contains(flag));
    let reasons = reasons.into_iter().filter(|(_, flag)| is_known(*flag));
    reasons.map(|(reason, flag)| (reason, now.contains(flag))).collect()
}

fn ecc_errors(ask: &mut Ask<'_>, device: &NvmlDevice<'_>) -> Vec<((EccKind, EccLocation), u64)> {
    // Without error correction there is nothing to count, and sixteen questions less.
    if !ask.get("nvmlDeviceGetEccMode", 0, || device.is_ecc_enabled()).is_some_and(|mode| mode.currently_enabled) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (location, place) in [
        (EccLocation::L1, MemoryLocation::L1Cache),
        (EccLocation::L2, MemoryLocation::L2Cache),
        (EccLocation::Device, MemoryLocation::Device),
        (EccLocation::Registers, MemoryLocation::RegisterFile),
        (EccLocation::Texture, MemoryLocation::Texture),
        (EccLocation::Shared, MemoryLocation::Shared),
        (EccLocation::Cbu, MemoryLocation::Cbu),
        (EccLocation::Sram, MemoryLocation::SRAM),
    ] {
        for (kind, error) in
            [(EccKind::Corrected, MemoryError::Corrected), (EccKind::Uncorrected, MemoryError::Uncorrected)]
        {
            let what = (location as u32) << 1 | kind as u32;
            let count = ask.get("nvmlDeviceGetMemoryErrorCounter", what, || {
                device.memory_error_counter(error, EccCounter::Volatile, place)
            });
            errors.extend(count.map(|count| ((kind, location), count)));
        }
    }
    errors
}

/// What has no function of its own.
fn fields(ask: &mut Ask<'_>, device: &NvmlDevice<'_>, reading: &mut Reading) {
    const FIELDS: &str = "nvmlDeviceGetFieldValues";
    let fields = [
        field_id::NVML_FI_DEV_MEMORY_TEMP,
        field_id::NVML_FI_DEV_REMAPPED_COR,
        field_id::NVML_FI_DEV_REMAPPED_UNC,
        field_id::NVML_FI_DEV_REMAPPED_PENDING,
        field_id::NVML_FI_DEV_REMAPPED_FAILURE,
        field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
        field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
    ];
    let known = |field: &u32| !ask.unsupported.contains(&(FIELDS, ask.device, *field));
    let fields: Vec<FieldId> = fields.into_iter().filter(known).map(FieldId).collect();
    if fields.is_empty() {
        return;
    }
    let Some(values) = ask.get(FIELDS, 0, || device.field_values_for(&fields)) else { return };
    for (FieldId(field), value) in fields.into_iter().zip(values) {
        // Each may fail by itself, in what it says as well as in how.
        let value = ask.get(FIELDS, field, || value?.value).and_then(|value| match value {
            SampleValue::U32(value) => Some(u64::from(value)),
            SampleValue::U64(value) => Some(value),
            SampleValue::I64(value) => u64::try_from(value).ok(),
            SampleValue::F64(_) => None,
        });
        let Some(value) = value else { continue };
        match field {
            // A GPU without the sensor may tell 0.
            field_id::NVML_FI_DEV_MEMORY_TEMP if value > 0 => {
                reading.temperatures.push((Sensor::Memory, value as f64));
            }
            field_id::NVML_FI_DEV_REMAPPED_COR => reading.remapped_rows.push((RemapCause::Corrected, value)),
            field_id::NVML_FI_DEV_REMAPPED_UNC => reading.remapped_rows.push((RemapCause::Uncorrected, value)),
            field_id::NVML_FI_DEV_REMAPPED_PENDING => reading.remapped_rows.push((RemapCause::Pending, value)),
            field_id::NVML_FI_DEV_REMAPPED_FAILURE => reading.remapped_rows.push((RemapCause::Failed, value)),
            field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES => reading.pcie_bytes.push((PcieDirection::Transmit, value)),
            field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES => reading.pcie_bytes.push((PcieDirection::Receive, value)),
            _ => {}
        }
    }
}

/// How busy each process kept the multiprocessors since the last look, as far as it did.
fn uses(ask: &mut Ask<'_>, device: &NvmlDevice<'_>, looked: &mut u64) -> HashMap<u32, f64> {
    let first = *looked == 0;
    let samples = ask.get("nvmlDeviceGetProcessUtilization", 0, || device.process_utilization_stats(*looked));
    let samples = samples.unwrap_or_default();
    let mut latest: HashMap<u32, (u64, f64)> = HashMap::new();
    for sample in samples {
        // The driver fills up its list with entries of nobody.
        let Some(ratio) = ratio(sample.sm_util).filter(|_| sample.pid != 0 && sample.timestamp > *looked) else {
            continue;
        };
        let entry = latest.entry(sample.pid).or_insert((0, 0.0));
        if sample.timestamp > entry.0 {
            *entry = (sample.timestamp, ratio);
        }
    }
    *looked = latest.values().map(|(time, _)| *time).max().unwrap_or(*looked).max(*looked);
    // The first look is at all that the driver remembers, of whatever time.
    if first { HashMap::new() } else { latest.into_iter().map(|(pid, (_, ratio))| (pid, ratio)).collect() }
}

/// All processes with memory on a GPU, be they idle.
fn processes(
    ask: &mut Ask<'_>,
    nvml: &Nvml,
    device: &NvmlDevice<'_>,
    third: bool,
    uses: &HashMap<u32, f64>,
) -> Vec<GpuProcess> {
    let library = nvml.lib();
    // SAFETY: the handle is only handed back to this library, while the device lives.
    let device = unsafe { device.handle() };
    let mut memory: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for (name, v3, v2, v1) in [
        (
            "nvmlDeviceGetComputeRunningProcesses",
            &library.nvmlDeviceGetComputeRunningProcesses_v3,
            &library.nvmlDeviceGetComputeRunningProcesses_v2,
            &library.nvmlDeviceGetComputeRunningProcesses,
        ),
        (
            "nvmlDeviceGetGraphicsRunningProcesses",
            &library.nvmlDeviceGetGraphicsRunningProcesses_v3,
            &library.nvmlDeviceGetGraphicsRunningProcesses_v2,
            &library.nvmlDeviceGetGraphicsRunningProcesses,
        ),
        (
            "nvmlDeviceGetMPSComputeRunningProcesses",
            &library.nvmlDeviceGetMPSComputeRunningProcesses_v3,
            &library.nvmlDeviceGetMPSComputeRunningProcesses_v2,
            &library.nvmlDeviceGetMPSComputeRunningProcesses,
        ),
    ] {
        let mut listed = None;
        if let Some(function) = v3.as_ref().ok().filter(|_| third) {
            listed = ask.get(name, 3, || list(device, *function, second));
        }
        if let (None, Ok(function)) = (&listed, v2) {
            listed = ask.get(name, 2, || list(device, *function, second));
        }
        if let (None, Ok(function)) = (&listed, v1) {
            listed = ask.get(name, 1, || list(device, *function, first));
        }
        for (pid, used) in listed.unwrap_or_default() {
            // Lists may have the same process, with the same memory.
            let known = memory.entry(pid).or_default();
            *known = (*known).max(used);
        }
    }
    let process = |(pid, memory): (u32, Option<u64>)| {
        let sm_ratio = uses.get(&pid).copied();
        GpuProcess { pid, service: None, comm: String::new(), memory, sm_ratio }
    };
    memory.into_iter().map(process).collect()
}

/// Fills a list of processes, of which it is told the room and tells the length.
type Lister<T> = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut T) -> nvmlReturn_t;

fn first(entry: &nvmlProcessInfo_v1_t) -> (u32, u64) {
    (entry.pid, entry.usedGpuMemory)
}

fn second(entry: &nvmlProcessInfo_v2_t) -> (u32, u64) {
    (entry.pid, entry.usedGpuMemory)
}

/// A list of processes. The wrapper's own asks for the length first, and fails when it has grown meanwhile.
fn list<T>(
    device: nvmlDevice_t,
    function: Lister<T>,
    entry: impl Fn(&T) -> (u32, u64),
) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
    let mut room: c_uint = 32;
    loop {
        let mut entries: Vec<T> = Vec::with_capacity(room as usize);
        let mut length = room;
        // SAFETY: the handle is of this library, and there is room for `length` entries of the version that it fills.
        let result = unsafe { function(device, &raw mut length, entries.as_mut_ptr()) };
        if result == nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE && room < PROCESSES_MAX {
            room = length.saturating_add(16).clamp(room * 2, PROCESSES_MAX);
            continue;
        }
        nvml_try(result)?;
        // SAFETY: the library has filled as many entries as it says, of those that there was room for.
        unsafe { entries.set_len(length.min(room) as usize) };
        let available = |used: u64| (used != NOT_AVAILABLE).then_some(used);
        return Ok(entries.iter().map(entry).map(|(pid, used)| (pid, available(used))).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_with_longer_lists_are_known_by_their_version() {
        for (version, expected) in [
            ("535.43.02", true),
            ("535.86.10", true),
            ("535.98", false),
            ("535.104.05", false),
            ("535", false),
            ("470.82.01", false),
            ("580.65.06", false),
            ("", false),
        ] {
            assert_eq!(has_longer_lists(version), expected, "{version}");
        }
    }
}
