//! What is observed of the machine's GPUs.

use std::fmt;

use crate::units::{Nanos, ServiceId};

/// An enum of label values.
macro_rules! labels {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$what])* $variant),+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

labels! {
    /// Why nothing can be said of a GPU, or of any.
    Unavailable {
        /// The driver's library is not installed.
        LibraryAbsent = "library_absent",
        /// The library is there and cannot be used: it is no such library, or too old.
        LibraryUnusable = "library_unusable",
        /// The driver is not loaded.
        DriverAbsent = "driver_absent",
        /// The library belongs to another version of the driver, as after an upgrade without a restart.
        VersionMismatch = "version_mismatch",
        /// The probe may not ask.
        NoPermission = "no_permission",
        /// There is a driver and no GPU.
        NoGpu = "no_gpu",
        /// It fell off the bus, or must be reset before it can be used.
        GpuLost = "gpu_lost",
        /// A call into the library did not return in time.
        Hung = "hung",
        /// The driver gives no value and no better reason.
        Failed = "failed",
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LibraryAbsent => "no NVIDIA driver",
            Self::LibraryUnusable => "the NVIDIA driver's library cannot be used",
            Self::DriverAbsent => "the NVIDIA driver is not loaded",
            Self::VersionMismatch => "the NVIDIA driver and its library are of different versions",
            Self::NoPermission => "the NVIDIA driver does not permit it",
            Self::NoGpu => "the NVIDIA driver has no GPU",
            Self::GpuLost => "the GPU is lost, or must be reset",
            Self::Hung => "the NVIDIA driver does not answer",
            Self::Failed => "the NVIDIA driver tells nothing",
        })
    }
}

labels! {
    /// What of a GPU is busy.
    Task {
        /// Kernels run.
        Sm = "sm",
        /// Memory is read or written.
        MemoryBandwidth = "memory_bandwidth",
        /// The video encoder.
        Encoder = "encoder",
        /// The video decoder.
        Decoder = "decoder",
    }
}

labels! {
    /// Where a temperature is taken.
    Sensor {
        /// The processor.
        Gpu = "gpu",
        /// The memory.
        Memory = "memory",
    }
}

labels! {
    /// What a clock drives.
    ClockDomain {
        /// Graphics.
        Graphics = "graphics",
        /// The multiprocessors.
        Sm = "sm",
        /// The memory.
        Memory = "memory",
        /// Encoder and decoder.
        Video = "video",
    }
}

labels! {
    /// Why clocks are lower than they could be.
    ThrottleReason {
        /// There is nothing to do.
        Idle = "idle",
        /// Someone set them so.
        ApplicationsClocks = "applications_clocks",
        /// The power limit.
        SoftwarePowerCap = "software_power_cap",
        /// The hardware slows itself down, for its temperature or its power.
        HardwareSlowdown = "hardware_slowdown",
        /// Another GPU of its group is slow.
        SyncBoost = "sync_boost",
        /// The driver, for the temperature.
        SoftwareThermal = "software_thermal",
        /// The hardware, for the temperature.
        HardwareThermal = "hardware_thermal",
        /// The hardware, for the power supply.
        HardwarePowerBrake = "hardware_power_brake",
        /// The display.
        DisplayClocks = "display_clocks",
    }
}

labels! {
    /// Whether an error of memory was corrected.
    EccKind {
        /// It was.
        Corrected = "corrected",
        /// It was not.
        Uncorrected = "uncorrected",
    }
}

labels! {
    /// Where an error of memory was.
    EccLocation {
        /// The first cache.
        L1 = "l1_cache",
        /// The second cache.
        L2 = "l2_cache",
        /// The GPU's own memory.
        Device = "device_memory",
        /// Registers.
        Registers = "register_file",
        /// Textures.
        Texture = "texture_memory",
        /// Shared memory.
        Shared = "shared_memory",
        /// The convergence barrier unit.
        Cbu = "cbu",
        /// All static memory together, on newer GPUs.
        Sram = "sram",
    }
}

labels! {
    /// Why rows of memory are replaced by spare ones.
    RemapCause {
        /// Errors that were corrected.
        Corrected = "corrected",
        /// Errors that were not.
        Uncorrected = "uncorrected",
        /// Some wait for a reset to be replaced: 1 or 0.
        Pending = "pending",
        /// Some could not be replaced: 1 or 0.
        Failed = "failed",
    }
}

labels! {
    /// Which way bytes go over the bus, as the GPU sees it.
    PcieDirection {
        /// From the GPU.
        Transmit = "transmit",
        /// To the GPU.
        Receive = "receive",
    }
}

labels! {
    /// What the calls of language models do that are served here.
    LlmPhase {
        /// Prompts are evaluated, or wait for that.
        Prompt = "prompt",
        /// Answers are generated.
        Generation = "generation",
    }
}

/// A GPU's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// All of it.
    pub total: u64,
    /// What is in use. Older drivers count what is reserved in.
    pub used: u64,
    /// What is free.
    pub free: u64,
    /// What driver and firmware keep for themselves; none where the driver does not tell it apart.
    pub reserved: Option<u64>,
}

/// A process that uses a GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuProcess {
    /// Its number in the initial PID namespace.
    pub pid: u32,
    /// Whose it is: the service of the process or of its nearest ancestor that is watched.
    pub service: Option<ServiceId>,
    /// Its name; empty when it is gone already.
    pub comm: String,
    /// Bytes of the GPU's memory that it holds.
    pub memory: Option<u64>,
    /// The part of the time in which its kernels ran, from 0 to 1, since the last sample.
    pub sm_ratio: Option<f64>,
}

/// What a GPU told at one moment. What the driver did not tell is not in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// Its id for good.
    pub uuid: Option<String>,
    /// The product's name.
    pub name: Option<String>,
    /// Its memory.
    pub memory: Option<GpuMemory>,
    /// From 0 to 1.
    pub utilization: Vec<(Task, f64)>,
    /// Degrees Celsius.
    pub temperatures: Vec<(Sensor, f64)>,
    /// What it draws.
    pub power_watts: Option<f64>,
    /// What it may draw.
    pub power_limit_watts: Option<f64>,
    /// What it has used since the driver was loaded.
    pub energy_joules: Option<f64>,
    /// Hertz.
    pub clocks: Vec<(ClockDomain, f64)>,
    /// Whether each reason that this GPU knows holds.
    pub throttle: Vec<(ThrottleReason, bool)>,
    /// Bytes over the bus.
    pub pcie_bytes: Vec<(PcieDirection, u64)>,
    /// Errors of memory since the driver was loaded.
    pub ecc_errors: Vec<((EccKind, EccLocation), u64)>,
    /// Rows of memory.
    pub remapped_rows: Vec<(RemapCause, u64)>,
    /// From 0 to 1, by the fan's number.
    pub fans: Vec<(u32, f64)>,
    /// The processes that use it.
    pub processes: Vec<GpuProcess>,
    /// Seconds until its memory is used up, if it goes on as it does.
    pub exhausted_in: Option<f64>,
}

/// A GPU, or a part of one that stands for itself (MIG).
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its number among the driver's, such as `0`; of a part, both numbers, such as `0:1`.
    pub gpu: String,
    /// What it told, or why it told nothing.
    pub told: Result<Reading, Unavailable>,
}

/// All GPUs at one moment. It takes the place of the sample before it.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuSample {
    /// When asking began.
    pub time: Nanos,
    /// Until when it may be shown: by then there is another one, unless something is wrong.
    pub valid_until: Nanos,
    /// The GPUs, or why nothing can be said of any.
    pub devices: Result<Vec<Device>, Unavailable>,
    /// Critical errors since the last sample, by the GPU and NVIDIA's number.
    pub xids: Vec<(String, u64)>,
}

impl Reading {
    /// The part of the time in which kernels ran, from 0 to 1.
    #[must_use]
    pub fn busy(&self) -> Option<f64> {
        self.utilization.iter().find(|(task, _)| *task == Task::Sm).map(|(_, ratio)| *ratio)
    }
}

impl GpuSample {
    /// The GPUs that told something, with their numbers; parts of one that stand for themselves (MIG) too.
    pub fn readings(&self) -> impl Iterator<Item = (&str, &Reading)> {
        let devices = self.devices.iter().flatten();
        devices.filter_map(|device| Some((device.gpu.as_str(), device.told.as_ref().ok()?)))
    }

    /// All that the GPUs used since the driver was loaded, in joules; none unless each of them tells it.
    #[must_use]
    pub fn energy_joules(&self) -> Option<f64> {
        let whole = self.devices.as_deref().ok()?.iter().filter(|device| !device.gpu.contains(':'));
        let energies: Option<Vec<f64>> = whole.map(|device| device.told.as_ref().ok()?.energy_joules).collect();
        energies.filter(|energies| !energies.is_empty()).map(|energies| energies.iter().sum())
    }
}

/// What is told of GPUs.
#[derive(Clone, Debug, PartialEq)]
pub enum Gpu {
    /// What they told when they were asked.
    Sample(GpuSample),
    /// What they told at a time, all of which a single phase of the calls that are served here had filled. It comes with the next
    /// sample.
    During(LlmPhase, GpuSample),
    /// A service's processes asked the CUDA driver for memory.
    Allocations(Allocations),
}

/// What the processes of a service asked the CUDA driver for, since this was last told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocations {
    /// Whose.
    pub service: ServiceId,
    /// Bytes asked for, those that were refused among them.
    pub bytes: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// The last of these, in the clock of the kernel's records, and its size in bytes.
    pub last_failure: Option<(Nanos, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOT: ServiceId = ServiceId(0);

    fn sample(free: u64, exhausted_in: Option<f64>, energies: &[Option<f64>]) -> GpuSample {
        let process = GpuProcess { pid: 1, service: Some(BOT), comm: String::new(), memory: None, sm_ratio: None };
        let device = |(number, energy): (usize, &Option<f64>)| Device {
            gpu: number.to_string(),
            told: Ok(Reading {
                memory: Some(GpuMemory { total: 10 << 30, used: (10 << 30) - free, free, reserved: None }),
                processes: vec![process.clone()],
                energy_joules: *energy,
                exhausted_in,
                ..Reading::default()
            }),
        };
        GpuSample {
            time: Nanos(1),
            valid_until: Nanos(2),
            devices: Ok(energies.iter().enumerate().map(device).collect()),
            xids: Vec::new(),
        }
    }

    #[test]
    fn the_energy_of_all_is_told_by_all_or_not() {
        assert_eq!(sample(1, None, &[Some(1.5), Some(2.0)]).energy_joules(), Some(3.5));
        assert_eq!(sample(1, None, &[Some(1.5), None]).energy_joules(), None);
        assert_eq!(sample(1, None, &[]).energy_joules(), None);
    }
}
