//! What NVIDIA's driver tells of the GPUs. Metrics: `miku_gpu_*`.
//!
//! The driver's library (NVML) may hang, lie or be missing. So it is called on a thread of its own ([`worker`]), each call has
//! a deadline, and a thread that misses it is given up: another is tried later, and no more than [`HUNG_MAX`] at once. Each
//! sample stands for itself. What the driver does not tell is not in it, and where it tells nothing there is a reason
//! ([`Unavailable`]), which is said once.
//!
//! Processes are numbered as the probe sees them, since it runs in the initial PID namespace, and so those of containers are
//! too.

pub mod forecast;
mod nvml;
mod worker;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use self::forecast::Forecast;
use self::worker::{Deadlines, Hung, Progress, Told, Worker};
use super::{Sample, Samples, Targets};
use crate::discovery::process::ProcFs;
use crate::observations::{Device, GpuProcess, GpuSample, Unavailable};
use crate::units::{Nanos, ServiceId, Tgid};

/// How many threads may hang at once before no other is tried.
pub const HUNG_MAX: usize = 3;

/// How many ancestors of a process are looked at to find whose it is.
const ANCESTORS: usize = 16;

/// How the GPUs are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How often.
    pub interval: Duration,
    /// The driver's library, where it is not where the loader finds it.
    pub library: Option<PathBuf>,
    /// How long a call may take.
    pub call: Duration,
    /// How long opening the library may take: the driver may have to wake the GPUs.
    pub open: Duration,
    /// How long to wait before the library is opened anew, after it failed; after a thread hung twice as long each time.
    pub retry: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            library: None,
            call: Duration::from_secs(2),
            open: Duration::from_secs(30),
            retry: Duration::from_secs(10),
        }
    }
}

/// Asks the GPUs, and waits for the answer no longer than it may take.
pub struct Sampler {
    settings: Settings,
    targets: Targets,
    proc: ProcFs,
    worker: Option<Worker>,
    /// Threads that were given up, or are to close the library, and have not ended.
    hung: Vec<Arc<Progress>>,
    hangs: u32,
    retry_at: Option<Instant>,
    reason: Option<Unavailable>,
    /// Reasons that were said, of all and of single GPUs.
    said: HashMap<String, Unavailable>,
    forecasts: HashMap<String, Forecast>,
}

impl Sampler {
    /// One that has asked nothing yet.
    #[must_use]
    pub fn new(settings: Settings, targets: Targets) -> Self {
        Self {
            settings,
            targets,
            proc: ProcFs::default(),
            worker: None,
            hung: Vec::new(),
            hangs: 0,
            retry_at: None,
            reason: None,
            said: HashMap::new(),
            forecasts: HashMap::new(),
        }
    }

    /// How many threads hang now.
    #[must_use]
    pub fn hung(&self) -> usize {
        self.hung.iter().filter(|progress| !progress.ended()).count()
    }

    /// Asks for everything.
    pub fn sample(&mut self) -> GpuSample {
        let time = Nanos::now();
        let Told { mut devices, xids } = self.ask();
        match &mut devices {
            Ok(devices) => {
                self.forecasts.retain(|gpu, _| devices.iter().any(|device| device.gpu == *gpu));
                for device in devices {
                    self.complete(time, device);
                }
            }
            Err(_) => self.forecasts.clear(),
        }
        for (gpu, xid) in &xids {
            log::warn!("GPU {gpu} has a critical error: Xid {xid}");
        }
        self.say(&devices);
        // The next one begins an interval later, and takes about as long as its slowest call at most.
        let validity = self.settings.interval + self.settings.call * 2;
        let valid_until = Nanos(time.0.saturating_add(u64::try_from(validity.as_nanos()).unwrap_or(u64::MAX)));
        GpuSample { time, valid_until, devices, xids }
    }

    fn ask(&mut self) -> Told {
        self.hung.retain(|progress| !progress.ended());
        if let (Some(at), Some(reason)) = (self.retry_at, self.reason)
            && Instant::now() < at
        {
            return Told::nothing(reason);
        }
        if self.hung.len() >= HUNG_MAX {
            return self.failed(Unavailable::Hung);
        }
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => match self.open() {
                Ok(worker) => worker,
                Err(error) => {
                    log::warn!("cannot start a thread: {error}");
                    return self.failed(Unavailable::Failed);
                }
            },
        };
        match worker.sample() {
            Ok(told) => {
                let gone = |devices: &[Device]| devices.iter().any(|device| device.told.is_err());
                let stays = match &told.devices {
                    Err(reason) => {
                        self.failed(*reason);
                        false
                    }
                    // Only who opens the library anew sees a GPU that came back.
                    Ok(devices) => !gone(devices) || worker.born.elapsed() < self.settings.retry,
                };
                if told.devices.is_ok() {
                    self.hangs = 0;
                }
                if stays {
                    self.worker = Some(worker);
                } else {
                    // Closing the library may hang as well.
                    self.hung.push(worker.close());
                }
                told
            }
            Err(Hung { call, progress }) => {
                self.hung.push(progress);
                self.hangs = self.hangs.saturating_add(1);
                log::warn!("the NVIDIA driver does not return from {call}; {} calls hang", self.hung.len());
                self.failed(Unavailable::Hung)
            }
        }
    }

    fn open(&self) -> io::Result<Worker> {
        let Settings { call, open, library, .. } = &self.settings;
        Worker::start(library.clone(), Deadlines { open: *open, call: *call })
    }

    /// Waits with the next try.
    fn failed(&mut self, reason: Unavailable) -> Told {
        /// 64 times the first wait.
        const DOUBLINGS_MAX: u32 = 6;
        let wait = self.settings.retry * (1 << self.hangs.saturating_sub(1).min(DOUBLINGS_MAX));
        self.retry_at = Some(Instant::now() + wait);
        self.reason = Some(reason);
        Told::nothing(reason)
    }

    /// Adds what the driver does not know: whose the processes are, and how long the memory lasts.
    fn complete(&mut self, time: Nanos, device: &mut Device) {
        let Ok(reading) = &mut device.told else {
            self.forecasts.remove(&device.gpu);
            return;
        };
        match reading.memory {
            Some(memory) => {
                let forecast = self.forecasts.entry(device.gpu.clone()).or_default();
                reading.exhausted_in = forecast.push(time, memory.used, memory.used.saturating_add(memory.free));
            }
            None => drop(self.forecasts.remove(&device.gpu)),
        }
        let targets = self.targets.get();
        let services: HashMap<Tgid, ServiceId> = targets.iter().map(|target| (target.tgid, target.service)).collect();
        for process in &mut reading.processes {
            self.name(process, &services);
        }
    }

    fn name(&self, process: &mut GpuProcess, services: &HashMap<Tgid, ServiceId>) {
        let mut tgid = Tgid(process.pid);
        process.service = services.get(&tgid).copied();
        let Some(mut found) = self.proc.process(tgid) else { return };
        found.comm().clone_into(&mut process.comm);
        for _ in 0..ANCESTORS {
            if process.service.is_some() || found.parent().0 <= 1 {
                return;
            }
            tgid = found.parent();
            process.service = services.get(&tgid).copied();
            let Some(parent) = self.proc.process(tgid) else { return };
            found = parent;
        }
    }

    /// Says what changed.
    fn say(&mut self, devices: &Result<Vec<Device>, Unavailable>) {
        let mut now = HashMap::new();
        match devices {
            Err(reason) => drop(now.insert(String::new(), *reason)),
            Ok(devices) => {
                let lost = devices.iter().filter_map(|device| Some((device.gpu.clone(), *device.told.as_ref().err()?)));
                now.extend(lost);
            }
        }
        for (gpu, reason) in &now {
            if self.said.get(gpu) == Some(reason) {
                continue;
            }
            match (gpu.as_str(), reason) {
                // Most machines have none.
                ("", Unavailable::LibraryAbsent | Unavailable::DriverAbsent) => {
                    log::info!("no GPU is watched: {reason} ({})", reason.as_str());
                }
                ("", _) => log::warn!("no GPU is watched: {reason} ({})", reason.as_str()),
                (gpu, _) => log::warn!("nothing is known of GPU {gpu}: {reason} ({})", reason.as_str()),
            }
        }
        for gpu in self.said.keys().filter(|gpu| !now.contains_key(*gpu)) {
            if gpu.is_empty() { log::info!("the GPUs answer") } else { log::info!("GPU {gpu} answers") }
        }
        self.said = now;
    }
}

/// Asks once, and says nothing: what `check` shows.
///
/// # Errors
/// Why nothing can be said of any GPU.
pub fn look(settings: Settings) -> Result<Vec<Device>, Unavailable> {
    let mut sampler = Sampler::new(settings, Targets::default());
    sampler.ask().devices
}

/// Starts the thread that asks at intervals; it ends when nobody takes its samples any more.
///
/// # Errors
/// When the system has no thread.
pub fn start(settings: Settings, targets: Targets, samples: Samples) -> io::Result<()> {
    let interval = settings.interval;
    let mut sampler = Sampler::new(settings, targets);
    let work = move || {
        let mut due = Instant::now();
        while samples.wanted() {
            // One that nobody has room for is as good as the next.
            let _full = samples.give(Sample::Gpu(sampler.sample()));
            due = (due + interval).max(Instant::now());
            while samples.wanted() && Instant::now() < due {
                thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(500)));
            }
        }
    };
    thread::Builder::new().name("gpu".to_owned()).spawn(work)?;
    Ok(())
}

#[cfg(test)]
mod tests;
