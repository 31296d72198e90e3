//! `miku-probe gpu`: what the NVIDIA driver tells of the GPUs now, as metrics. It attaches nothing and needs no privileges.

use std::io::Write;
use std::thread;
use std::time::Duration;

use prometheus::TextEncoder;

use crate::config::GpuConfig;
use crate::observations::{Gpu, Names, Observation, Sink};
use crate::samplers::Targets;
use crate::samplers::gpu::{Sampler, Settings};
use crate::sinks::metrics::{BuildInfo, Metrics};

/// How long processes are watched, for their use of the GPUs is told only since an earlier look.
const LOOK: Duration = Duration::from_millis(500);

/// Asks twice and prints what came of the second time to `output`.
///
/// # Errors
/// When nothing can be said of any GPU, or `output` cannot be written.
pub fn run(config: GpuConfig, output: &mut impl Write) -> anyhow::Result<()> {
    let settings = Settings { library: config.library, ..Settings::default() };
    let mut sampler = Sampler::new(settings, Targets::default());
    if sampler.sample().devices.is_ok() {
        thread::sleep(LOOK);
    }
    let sample = sampler.sample();
    let reason = sample.devices.as_ref().err().copied();
    let mut metrics = Metrics::new(&BuildInfo::current());
    metrics.observe(&Observation::Gpu(Gpu::Sample(sample)), &Names::default());
    let mut families = metrics.registry().gather();
    families.retain(|family| family.name().starts_with("miku_gpu_"));
    output.write_all(TextEncoder::new().encode_to_string(&families)?.as_bytes())?;
    output.flush()?;
    reason.map_or(Ok(()), |reason| Err(anyhow::anyhow!("nothing is known of any GPU: {reason}")))
}
