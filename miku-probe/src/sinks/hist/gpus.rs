//! What GPUs do beside the calls of language models: a line each.

use std::collections::BTreeMap;

use super::layout;
use super::line::{Ink, Line, Look};
use crate::observations::{GpuMemory, GpuSample, LlmPhase, Reading};
use crate::units::Nanos;

/// How many GPUs have a line.
const SHOWN_MAX: usize = 4;

/// A mean of what was told, which may not be each time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn take_in(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    /// The mean, once something was told.
    #[must_use]
    pub fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// What a GPU did while all calls that were served were in one phase, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuPhase {
    /// Samples of it.
    pub samples: u64,
    /// The part of the time in which it was busy, from 0 to 1.
    pub busy: Mean,
    /// Watts that it drew.
    pub power: Mean,
}

/// A GPU, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuRow {
    /// Its number among the driver's.
    pub gpu: String,
    /// The part of the time in which it is busy, from 0 to 1.
    pub busy: Option<f64>,
    /// Watts that it draws, and that it may draw.
    pub power: (Option<f64>, Option<f64>),
    /// Its memory.
    pub memory: Option<GpuMemory>,
    /// What it did in each phase, in the order of [`LlmPhase::ALL`].
    pub phases: [GpuPhase; LlmPhase::ALL.len()],
}

/// The GPUs.
#[derive(Debug, Default)]
pub(super) struct Gpus {
    now: Option<GpuSample>,
    phases: BTreeMap<String, [GpuPhase; LlmPhase::ALL.len()]>,
}

impl Gpus {
    /// Takes in what they tell now.
    pub(super) fn sample(&mut self, sample: &GpuSample) {
        self.now = Some(sample.clone());
    }

    /// Takes in what they told while all calls were in one phase.
    pub(super) fn during(&mut self, phase: LlmPhase, sample: &GpuSample) {
        for (gpu, reading) in sample.readings() {
            let seen = &mut self.phases.entry(gpu.to_owned()).or_default()[phase as usize];
            seen.samples += 1;
            seen.busy.take_in(reading.busy());
            seen.power.take_in(reading.power_watts);
        }
    }

    /// Forgets what they did in each phase.
    pub(super) fn reset(&mut self) {
        self.phases.clear();
    }

    /// The GPUs of which something is known at `now`.
    pub(super) fn rows(&self, now: Nanos) -> Vec<GpuRow> {
        let row = |(gpu, reading): (&str, &Reading)| GpuRow {
            gpu: gpu.to_owned(),
            busy: reading.busy(),
            power: (reading.power_watts, reading.power_limit_watts),
            memory: reading.memory,
            phases: self.phases.get(gpu).copied().unwrap_or_default(),
        };
        self.now.iter().filter(|sample| now <= sample.valid_until).flat_map(GpuSample::readings).map(row).collect()
    }
}

/// A line for each GPU, and what is left out of it from the end where there is no room.
pub(super) fn lines(rows: &[GpuRow], columns: usize, look: Look) -> Vec<Line> {
    rows.iter().take(SHOWN_MAX).map(|row| line(row, columns, look)).collect()
}

fn line(row: &GpuRow, columns: usize, look: Look) -> Line {
    let percent = |ratio: f64| format!("{:.0} %", ratio * 100.0);
    let mut parts = vec![(Ink::Strong, format!("gpu {}", row.gpu))];
    parts.extend(row.busy.map(|busy| (Ink::Interval, format!("{} busy", percent(busy)))));
    parts.extend(match row.power {
        (Some(watts), Some(limit)) => Some((Ink::Plain, format!("{watts:.0} of {limit:.0} W"))),
        (Some(watts), None) => Some((Ink::Plain, format!("{watts:.0} W"))),
        (None, _) => None,
    });
    parts.extend(row.memory.map(|GpuMemory { used, total, .. }| {
        let ink = if gibibytes(used) > 0.95 * gibibytes(total) { Ink::Warning } else { Ink::Plain };
        (ink, format!("{:.1} of {:.1} GiB", gibibytes(used), gibibytes(total)))
    }));
    for (phase, name) in LlmPhase::ALL.iter().zip(["prompts", "answers"]) {
        let GpuPhase { busy, power, .. } = row.phases[*phase as usize];
        let told = [busy.get().map(percent), power.get().map(|watts| format!("{watts:.0} W"))];
        let told: Vec<String> = told.into_iter().flatten().collect();
        if !told.is_empty() {
            parts.push((Ink::Plain, format!("{name} {}", told.join(" "))));
        }
    }
    layout::joined(parts, columns, look)
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}
