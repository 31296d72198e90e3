//! `[process]` and `[health]`: how often processes are looked at, and from when on something is ill.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::file::{HealthKeys, ProcessKeys};
use crate::samplers::process::INTERVAL;
use crate::sinks::health::Thresholds;

/// How often processes are looked at.
pub(super) fn interval(keys: &ProcessKeys) -> Result<Duration, ConfigError> {
    let seconds =
        keys.interval_seconds.map(|seconds| within("process.interval_seconds", seconds, 1..=3600)).transpose()?;
    Ok(seconds.map_or(INTERVAL, Duration::from_secs))
}

/// From when on something is ill, where processes are looked at each `interval`.
pub(super) fn thresholds(keys: &HealthKeys, interval: Duration) -> Result<Thresholds, ConfigError> {
    const MIB: f64 = 1_048_576.0;
    const RATIO: RangeInclusive<f64> = 0.01..=1.0;
    let usual = Thresholds::default();
    let number = |name: &str, value: Option<f64>, usual: f64, range: RangeInclusive<f64>| {
        value.map_or(Ok(usual), |value| within(name, value, range))
    };
    let failures = keys.llm_failures.map(|failures| within("health.llm_failures", failures, 1..=1000)).transpose()?;
    let stall = usual.loop_stall.as_secs_f64();
    let stall = number("health.loop_stall_seconds", keys.loop_stall_seconds, stall, 0.01..=3600.0)?;
    let growth = usual.memory_growth / MIB;
    let growth = number("health.memory_growth_mib_per_hour", keys.memory_growth_mib_per_hour, growth, 1.0..=1e6)?;
    Ok(Thresholds {
        loop_stall: Duration::from_secs_f64(stall),
        llm_failures: failures.map_or(usual.llm_failures, |failures| u32::try_from(failures).unwrap_or(u32::MAX)),
        memory_ratio: number("health.memory_ratio", keys.memory_ratio, usual.memory_ratio, RATIO)?,
        memory_growth: growth * MIB,
        descriptors_ratio: number("health.descriptors_ratio", keys.descriptors_ratio, usual.descriptors_ratio, RATIO)?,
        gpu_memory_ratio: number("health.gpu_memory_ratio", keys.gpu_memory_ratio, usual.gpu_memory_ratio, RATIO)?,
        stale: 3 * interval + Duration::from_secs(15),
    })
}

fn within<T: PartialOrd + Display>(place: &str, value: T, range: RangeInclusive<T>) -> Result<T, ConfigError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("{value} is out of range; write {} to {}", range.start(), range.end());
    Err(ConfigError::value(place, message))
}
