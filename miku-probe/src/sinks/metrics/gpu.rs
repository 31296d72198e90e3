//! What is told of GPUs.
//!
//! The gauges are those of one sample, all of them: they appear and vanish together, and no scrape sees a part of one sample
//! and a part of another. One that no other followed in time is shown no more. Counters that the driver keeps are shown as it tells them; what is counted here goes on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, IntCounter, IntGauge};

use super::FastMap;
use super::catalog::{Catalog, family};
use super::keys::OTHER;
use crate::observations::{Allocations, Device, Gpu, GpuProcess, GpuSample, Names, Reading};
use crate::sinks::families::{Family, FamilyInfo, FamilyKind};
use crate::units::{Nanos, ServiceId};

/// How many processes of one GPU are told apart before the rest is `other`.
const PROCESS_LIMIT: usize = 200;

/// How many pairs of GPU and Xid are counted apart before Xids become `other`.
const XID_LIMIT: usize = 200;

const GAUGE: MetricType = MetricType::GAUGE;
const COUNTER: MetricType = MetricType::COUNTER;

/// Parts of a whole, and what a GPU may draw.
const RATIO_BUCKETS: &[f64] = &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const POWER_BUCKETS: &[f64] =
    &[25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0, 400.0, 500.0, 600.0, 800.0, 1000.0];

/// What a family of the driver's samples is.
#[derive(Clone, Copy)]
struct About {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
}

impl From<About> for FamilyInfo {
    fn from(About { name, help, kind, labels }: About) -> Self {
        Self { name, kind: FamilyKind::of(kind), labels: labels.to_vec(), help, buckets: &[] }
    }
}

const UP: About = About {
    name: "miku_gpu_up",
    help: "1 while the driver tells of the GPU, 0 while it does not; without the label gpu when it tells of none at all.",
    kind: GAUGE,
    labels: &["gpu"],
};
const INFO: About = About {
    name: "miku_gpu_info",
    help: "1, with the GPU's id for good and the product's name.",
    kind: GAUGE,
    labels: &["gpu", "uuid", "name"],
};
const MEMORY_TOTAL: About =
    About { name: "miku_gpu_memory_total_bytes", help: "The GPU's memory.", kind: GAUGE, labels: &["gpu"] };
const MEMORY_USED: About = About {
    name: "miku_gpu_memory_used_bytes",
    help: "Memory in use. Drivers that do not tell what is reserved count that in.",
    kind: GAUGE,
    labels: &["gpu"],
};
const MEMORY_FREE: About =
    About { name: "miku_gpu_memory_free_bytes", help: "Memory that is free.", kind: GAUGE, labels: &["gpu"] };
const MEMORY_RESERVED: About = About {
    name: "miku_gpu_memory_reserved_bytes",
    help: "Memory that the driver and the firmware keep for themselves.",
    kind: GAUGE,
    labels: &["gpu"],
};
const EXHAUSTED_IN: About = About {
    name: "miku_gpu_memory_exhausted_in_seconds",
    help: "Time until the GPU's memory is used up if it grows on as in the last five minutes; absent while it does not grow.",
    kind: GAUGE,
    labels: &["gpu"],
};
const UTILIZATION: About = About {
    name: "miku_gpu_utilization_ratio",
    help: "Part of the driver's last sampling period, of a sixth of a second to a second, in which the GPU was busy with this.",
    kind: GAUGE,
    labels: &["gpu", "task"],
};
const TEMPERATURE: About =
    About { name: "miku_gpu_temperature_celsius", help: "Temperature.", kind: GAUGE, labels: &["gpu", "sensor"] };
const POWER: About =
    About { name: "miku_gpu_power_watts", help: "Power that the GPU draws.", kind: GAUGE, labels: &["gpu"] };
const POWER_LIMIT: About = About {
    name: "miku_gpu_power_limit_watts",
    help: "Power that the GPU may draw, by all limits together.",
    kind: GAUGE,
    labels: &["gpu"],
};
const ENERGY: About = About {
    name: "miku_gpu_energy_joules_total",
    help: "Energy that the GPU used since the driver was loaded.",
    kind: COUNTER,
    labels: &["gpu"],
};
const CLOCK: About = About { name: "miku_gpu_clock_hertz", help: "Clock.", kind: GAUGE, labels: &["gpu", "domain"] };
const THROTTLE: About = About {
    name: "miku_gpu_throttle_active",
    help: "1 while the clocks are held down for this reason, 0 while they are not; reasons that the GPU does not know are absent.",
    kind: GAUGE,
    labels: &["gpu", "reason"],
};
const PCIE: About = About {
    name: "miku_gpu_pcie_bytes_total",
    help: "Bytes that the GPU moved over PCI Express.",
    kind: COUNTER,
    labels: &["gpu", "direction"],
};
const ECC: About = About {
    name: "miku_gpu_ecc_errors_total",
    help: "Errors of memory since the driver was loaded.",
    kind: COUNTER,
    labels: &["gpu", "type", "location"],
};
const XID: About = About {
    name: "miku_gpu_xid_errors_total",
    help: "Critical errors, by NVIDIA's number, since the probe watches.",
    kind: COUNTER,
    labels: &["gpu", "xid"],
};
const REMAPPED: About = About {
    name: "miku_gpu_remapped_rows",
    help: "Rows of memory that were replaced, by why; 1 under pending or failed when some wait for it or could not be.",
    kind: GAUGE,
    labels: &["gpu", "cause"],
};
const FAN: About = About {
    name: "miku_gpu_fan_ratio",
    help: "The fan's intended speed, as part of its greatest.",
    kind: GAUGE,
    labels: &["gpu", "fan"],
};
const PROCESS_MEMORY: About = About {
    name: "miku_gpu_process_memory_bytes",
    help: "Memory of the GPU that a process holds, be it idle.",
    kind: GAUGE,
    labels: &["gpu", "service", "pid", "comm"],
};
const PROCESS_SM: About = About {
    name: "miku_gpu_process_sm_ratio",
    help: "Part of the time in which the process's kernels ran, in the driver's latest sample; absent while it has none.",
    kind: GAUGE,
    labels: &["gpu", "service", "pid"],
};
const AGE: About = About {
    name: "miku_gpu_sample_age_seconds",
    help: "Time since the GPUs were last asked with success.",
    kind: GAUGE,
    labels: &[],
};

const FAMILIES: [About; 22] = [
    UP,
    INFO,
    MEMORY_TOTAL,
    MEMORY_USED,
    MEMORY_FREE,
    MEMORY_RESERVED,
    EXHAUSTED_IN,
    UTILIZATION,
    TEMPERATURE,
    POWER,
    POWER_LIMIT,
    ENERGY,
    CLOCK,
    THROTTLE,
    PCIE,
    ECC,
    XID,
    REMAPPED,
    FAN,
    PROCESS_MEMORY,
    PROCESS_SM,
    AGE,
];

/// What is shown: families by name.
type Shown = BTreeMap<&'static str, MetricFamily>;

/// What the last sample told, and when that was.
#[derive(Default)]
struct Latest {
    families: Shown,
    valid_until: Nanos,
    xids: BTreeMap<(String, String), u64>,
    time: Option<Nanos>,
}

/// Shows the latest sample.
struct Samples {
    descriptions: Vec<Desc>,
    latest: Arc<Mutex<Latest>>,
}

impl Samples {
    fn new(latest: Arc<Mutex<Latest>>) -> Self {
        let describe = |About { name, help, .. }: About| {
            Desc::new(name.to_owned(), help.to_owned(), Vec::new(), HashMap::new())
                .unwrap_or_else(|error| panic!("{name} is not a valid family: {error}"))
        };
        Self { descriptions: FAMILIES.into_iter().map(describe).collect(), latest }
    }
}

impl Collector for Samples {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = Shown::new();
        let mut families = Vec::new();
        if Nanos::now() <= latest.valid_until {
            families.extend(latest.families.values().cloned());
        } else if !latest.families.is_empty() {
            show(&mut counted, UP, &[], 0.0);
        }
        for ((gpu, xid), count) in &latest.xids {
            show(&mut counted, XID, &[("gpu", gpu), ("xid", xid)], *count as f64);
        }
        if let Some(time) = latest.time {
            show(&mut counted, AGE, &[], Nanos::now().since(time).seconds());
        }
        families.extend(counted.into_values());
        families
    }
}

/// Adds a series. Empty labels are left out, as Prometheus takes them.
fn show(shown: &mut Shown, About { name, help, kind, .. }: About, labels: &[(&str, &str)], value: f64) {
    let family = shown.entry(name).or_insert_with(|| {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family
    });
    let labels = labels.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::from_label(labels.collect());
    if kind == COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    family.mut_metric().push(metric);
}

/// The series of GPUs.
pub(super) struct Series {
    latest: Arc<Mutex<Latest>>,
    failures: Family<IntCounter, 1>,
    bytes: Family<IntCounter, 1>,
    failed_bytes: Family<IntGauge, 1>,
    failed_time: Family<prometheus::Gauge, 1>,
    allocations: FastMap<ServiceId, (IntCounter, IntCounter)>,
    busy: Family<Histogram, 2>,
    power: Family<Histogram, 2>,
    memory: Family<Histogram, 2>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        let latest = Arc::<Mutex<Latest>>::default();
        catalog.register(Samples::new(Arc::clone(&latest)), FAMILIES.map(FamilyInfo::from));
        Self {
            latest,
            failures: family(
                catalog,
                "miku_gpu_allocation_failures_total",
                "Requests for GPU memory that the CUDA driver refused.",
                ["service"],
                &[],
            ),
            bytes: family(
                catalog,
                "miku_gpu_allocation_bytes_total",
                "GPU memory that was asked of the CUDA driver, what it refused included.",
                ["service"],
                &[],
            ),
            failed_bytes: family(
                catalog,
                "miku_gpu_last_allocation_failure_bytes",
                "Size of the last request for GPU memory that the CUDA driver refused.",
                ["service"],
                &[],
            ),
            failed_time: family(
                catalog,
                "miku_gpu_last_allocation_failure_timestamp_seconds",
                "When that was, in seconds since the epoch.",
                ["service"],
                &[],
            ),
            allocations: FastMap::default(),
            busy: family(
                catalog,
                "miku_llm_gpu_utilization_ratio",
                "Use of a GPU's multiprocessors while all calls of language models that were served on the machine were in one phase \
                 (prompt: none had its first token yet; generation: each had), one observation a sample that lies in it.",
                ["gpu", "phase"],
                RATIO_BUCKETS,
            ),
            power: family(
                catalog,
                "miku_llm_gpu_power_watts",
                "Power that a GPU drew while all calls of language models that were served were in one phase.",
                ["gpu", "phase"],
                POWER_BUCKETS,
            ),
            memory: family(
                catalog,
                "miku_llm_gpu_memory_ratio",
                "Part of a GPU's memory that was in use while all calls of language models that were served were in one phase.",
                ["gpu", "phase"],
                RATIO_BUCKETS,
            ),
        }
    }

    /// Takes one observation in, and tells whether a label was over its cap.
    pub(super) fn observe(&mut self, what: &Gpu, names: &Names) -> Option<&'static str> {
        match what {
            Gpu::Sample(sample) => self.sample(sample, names),
            Gpu::During(phase, sample) => {
                for (gpu, reading) in sample.readings() {
                    let labels = [gpu, phase.as_str()];
                    let memory = reading.memory.filter(|memory| memory.total > 0);
                    let memory = memory.map(|memory| memory.used as f64 / memory.total as f64);
                    for (family, value) in
                        [(&self.busy, reading.busy()), (&self.power, reading.power_watts), (&self.memory, memory)]
                    {
                        if let Some(value) = value {
                            family.get(labels).observe(value);
                        }
                    }
                }
                None
            }
            Gpu::Allocations(Allocations { service, bytes, failures, last_failure }) => {
                let series = self.allocations.entry(*service).or_insert_with(|| {
                    let name = names.service(*service);
                    (self.bytes.get([name]), self.failures.get([name]))
                });
                series.0.inc_by(*bytes);
                series.1.inc_by(*failures);
                if let Some((time, bytes)) = last_failure {
                    let labels = [names.service(*service)];
                    self.failed_bytes.get(labels).set(i64::try_from(*bytes).unwrap_or(i64::MAX));
                    self.failed_time.get(labels).set(seconds_since_epoch(*time));
                }
                None
            }
        }
    }

    fn sample(&mut self, sample: &GpuSample, names: &Names) -> Option<&'static str> {
        let mut shown = Shown::new();
        let mut overflow = None;
        let devices = sample.devices.as_deref().unwrap_or_default();
        if devices.is_empty() {
            show(&mut shown, UP, &[], 0.0);
        }
        for Device { gpu, told } in devices {
            show(&mut shown, UP, &[("gpu", gpu)], f64::from(u8::from(told.is_ok())));
            if let Ok(reading) = told {
                show_reading(&mut shown, gpu, reading);
                overflow = show_processes(&mut shown, gpu, &reading.processes, names).or(overflow);
            }
        }
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.families = shown;
        latest.valid_until = sample.valid_until;
        if devices.iter().any(|device| device.told.is_ok()) {
            latest.time = Some(sample.time);
        }
        for (gpu, xid) in &sample.xids {
            let mut key = (gpu.clone(), xid.to_string());
            if latest.xids.len() >= XID_LIMIT && !latest.xids.contains_key(&key) {
                overflow = Some("xid");
                key.1 = OTHER.to_owned();
            }
            *latest.xids.entry(key).or_default() += 1;
        }
        overflow
    }
}

/// A time of the kernel's records as the clock on the wall shows it.
fn seconds_since_epoch(time: Nanos) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    now - Nanos::now().since(time).seconds()
}

fn show_reading(shown: &mut Shown, gpu: &str, reading: &Reading) {
    let mut one = |about: About, value: Option<f64>| {
        if let Some(value) = value {
            show(shown, about, &[("gpu", gpu)], value);
        }
    };
    one(MEMORY_TOTAL, reading.memory.map(|memory| memory.total as f64));
    one(MEMORY_USED, reading.memory.map(|memory| memory.used as f64));
    one(MEMORY_FREE, reading.memory.map(|memory| memory.free as f64));
    one(MEMORY_RESERVED, reading.memory.and_then(|memory| memory.reserved).map(|bytes| bytes as f64));
    one(EXHAUSTED_IN, reading.exhausted_in);
    one(POWER, reading.power_watts);
    one(POWER_LIMIT, reading.power_limit_watts);
    one(ENERGY, reading.energy_joules);
    let [uuid, name] = [&reading.uuid, &reading.name].map(|text| text.as_deref().unwrap_or_default());
    if !uuid.is_empty() || !name.is_empty() {
        show(shown, INFO, &[("gpu", gpu), ("uuid", uuid), ("name", name)], 1.0);
    }
    let mut each = |about: About, label: &str, value: &str, number: f64| {
        show(shown, about, &[("gpu", gpu), (label, value)], number);
    };
    for (task, busy) in &reading.utilization {
        each(UTILIZATION, "task", task.as_str(), *busy);
    }
    for (sensor, degrees) in &reading.temperatures {
        each(TEMPERATURE, "sensor", sensor.as_str(), *degrees);
    }
    for (domain, hertz) in &reading.clocks {
        each(CLOCK, "domain", domain.as_str(), *hertz);
    }
    for (reason, active) in &reading.throttle {
        each(THROTTLE, "reason", reason.as_str(), f64::from(u8::from(*active)));
    }
    for (direction, bytes) in &reading.pcie_bytes {
        each(PCIE, "direction", direction.as_str(), *bytes as f64);
    }
    for (cause, rows) in &reading.remapped_rows {
        each(REMAPPED, "cause", cause.as_str(), *rows as f64);
    }
    for (fan, speed) in &reading.fans {
        each(FAN, "fan", &fan.to_string(), *speed);
    }
    for ((kind, location), count) in &reading.ecc_errors {
        let labels = [("gpu", gpu), ("type", kind.as_str()), ("location", location.as_str())];
        show(shown, ECC, &labels, *count as f64);
    }
}

/// Shows processes, those of services first; tells whether there were too many.
fn show_processes(shown: &mut Shown, gpu: &str, processes: &[GpuProcess], names: &Names) -> Option<&'static str> {
    let mut order: Vec<&GpuProcess> = processes.iter().collect();
    order.sort_by_key(|process| (process.service.is_none(), process.pid));
    let (told, rest) = order.split_at(order.len().min(PROCESS_LIMIT));
    for process in told {
        let service = process.service.map_or("", |service| names.service(service));
        let pid = process.pid.to_string();
        if let Some(bytes) = process.memory {
            let labels = [("gpu", gpu), ("service", service), ("pid", &*pid), ("comm", &*process.comm)];
            show(shown, PROCESS_MEMORY, &labels, bytes as f64);
        }
        if let Some(ratio) = process.sm_ratio {
            show(shown, PROCESS_SM, &[("gpu", gpu), ("service", service), ("pid", &*pid)], ratio);
        }
    }
    let bytes: u64 = rest.iter().filter_map(|process| process.memory).sum();
    if rest.is_empty() {
        return None;
    }
    show(shown, PROCESS_MEMORY, &[("gpu", gpu), ("pid", OTHER), ("comm", OTHER)], bytes as f64);
    Some("pid")
}

#[cfg(test)]
mod tests {
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{EccKind, EccLocation, GpuMemory, LlmPhase, Observation, Sink, Task, Unavailable};

    const BOT: ServiceId = ServiceId(0);

    fn sink() -> (Metrics, Names) {
        (Metrics::new(&BuildInfo::current()), Names { services: vec!["bot".to_owned()], ..Names::default() })
    }

    fn see(metrics: &mut Metrics, names: &Names, devices: Result<Vec<Device>, Unavailable>, xids: &[u64]) {
        let xids = xids.iter().map(|xid| ("0".to_owned(), *xid)).collect();
        let time = Nanos::now();
        let sample = GpuSample { time, valid_until: Nanos(time.0 + 3_600_000_000_000), devices, xids };
        metrics.observe(&Observation::Gpu(Gpu::Sample(sample)), names);
    }

    /// The samples of GPUs, but for the one that goes with the time.
    fn told(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let lines = text.lines().filter(|line| line.starts_with("miku_gpu_") && !line.contains("_age_"));
        lines.map(str::to_owned).collect()
    }

    fn reading() -> Reading {
        Reading {
            uuid: Some("GPU-1".to_owned()),
            memory: Some(GpuMemory { total: 100, used: 60, free: 30, reserved: None }),
            utilization: vec![(Task::Sm, 0.5)],
            energy_joules: Some(7.25),
            ecc_errors: vec![((EccKind::Uncorrected, EccLocation::Sram), 3)],
            ..Reading::default()
        }
    }

    fn device(gpu: &str, told: Result<Reading, Unavailable>) -> Device {
        Device { gpu: gpu.to_owned(), told }
    }

    #[test]
    fn nothing_is_told_before_anybody_asked() {
        assert_eq!(told(&sink().0), Vec::<String>::new());
    }

    #[test]
    fn a_sample_takes_the_place_of_the_one_before() {
        let (mut metrics, names) = sink();
        see(&mut metrics, &names, Ok(vec![device("0", Ok(reading())), device("1", Err(Unavailable::GpuLost))]), &[79]);
        let expected = [
            r#"miku_gpu_ecc_errors_total{gpu="0",location="sram",type="uncorrected"} 3"#,
            r#"miku_gpu_energy_joules_total{gpu="0"} 7.25"#,
            r#"miku_gpu_info{gpu="0",uuid="GPU-1"} 1"#,
            r#"miku_gpu_memory_free_bytes{gpu="0"} 30"#,
            r#"miku_gpu_memory_total_bytes{gpu="0"} 100"#,
            r#"miku_gpu_memory_used_bytes{gpu="0"} 60"#,
            r#"miku_gpu_up{gpu="0"} 1"#,
            r#"miku_gpu_up{gpu="1"} 0"#,
            r#"miku_gpu_utilization_ratio{gpu="0",task="sm"} 0.5"#,
            r#"miku_gpu_xid_errors_total{gpu="0",xid="79"} 1"#,
        ];
        let sorted = |metrics: &Metrics| {
            let mut lines = told(metrics);
            lines.sort();
            // The encoder writes labels as they come.
            lines
                .into_iter()
                .map(|line| {
                    line.replace(r#"type="uncorrected",location="sram""#, r#"location="sram",type="uncorrected""#)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sorted(&metrics), expected);
        see(&mut metrics, &names, Err(Unavailable::Hung), &[79]);
        assert_eq!(sorted(&metrics), ["miku_gpu_up 0", r#"miku_gpu_xid_errors_total{gpu="0",xid="79"} 2"#]);
    }

    #[test]
    fn a_sample_that_none_followed_is_shown_no_more() {
        let (mut metrics, names) = sink();
        let time = Nanos::now();
        let sample =
            GpuSample { time, valid_until: time, devices: Ok(vec![device("0", Ok(reading()))]), xids: Vec::new() };
        metrics.observe(&Observation::Gpu(Gpu::Sample(sample)), &names);
        assert_eq!(told(&metrics), ["miku_gpu_up 0"]);
    }

    #[test]
    fn the_age_is_that_of_the_last_success() {
        let (mut metrics, names) = sink();
        let age = |metrics: &Metrics| {
            let families = metrics.registry().gather();
            let family = families.iter().find(|family| family.name() == "miku_gpu_sample_age_seconds");
            family.map(|family| family.get_metric()[0].get_gauge().get_value())
        };
        see(&mut metrics, &names, Err(Unavailable::DriverAbsent), &[]);
        assert_eq!(age(&metrics), None);
        see(&mut metrics, &names, Ok(vec![device("0", Ok(reading()))]), &[]);
        let first = age(&metrics).expect("it succeeded");
        see(&mut metrics, &names, Ok(vec![device("0", Err(Unavailable::GpuLost))]), &[]);
        assert!(age(&metrics).is_some_and(|age| age > first && age < 10.0));
    }

    #[test]
    fn processes_beyond_the_cap_are_one_and_those_of_services_are_never_among_them() {
        let (mut metrics, names) = sink();
        let process = |pid: u32| GpuProcess {
            pid,
            service: (pid == 1_000).then_some(BOT),
            comm: "python3".to_owned(),
            memory: Some(u64::from(pid)),
            sm_ratio: (pid == 1_000).then_some(0.25),
        };
        let count = PROCESS_LIMIT as u32 + 2;
        let processes: Vec<_> = (1..count).chain([1_000]).map(process).collect();
        see(&mut metrics, &names, Ok(vec![device("0", Ok(Reading { processes, ..reading() }))]), &[]);
        let lines = told(&metrics);
        let of_service = r#"miku_gpu_process_memory_bytes{gpu="0",service="bot",pid="1000",comm="python3"} 1000"#;
        assert!(lines.iter().any(|line| line == of_service), "{lines:#?}");
        let ratio = r#"miku_gpu_process_sm_ratio{gpu="0",service="bot",pid="1000"} 0.25"#;
        assert!(lines.iter().any(|line| line == ratio), "{lines:#?}");
        let rest = format!(r#"{{gpu="0",pid="other",comm="other"}} {}"#, u64::from(count - 2) + u64::from(count - 1));
        assert!(lines.iter().any(|line| line.ends_with(&rest)), "{rest} {lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.contains("process_memory")).count(), PROCESS_LIMIT + 1);
    }

    #[test]
    fn what_was_sampled_in_a_phase_is_observed_once_each_in_that_phase() {
        let (mut metrics, names) = sink();
        let memory = |total| Some(GpuMemory { total, used: 60, free: 30, reserved: None });
        let devices = Ok(vec![
            device("0", Ok(Reading { memory: memory(80), power_watts: Some(200.0), ..reading() })),
            device("1", Ok(Reading { memory: memory(0), ..Reading::default() })),
            device("2", Err(Unavailable::GpuLost)),
        ]);
        let sample = GpuSample { time: Nanos(1), valid_until: Nanos(2), devices, xids: Vec::new() };
        metrics.observe(&Observation::Gpu(Gpu::During(LlmPhase::Generation, sample)), &names);
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let mut lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("miku_llm_gpu_") && !line.contains("_bucket{"))
            .map(|line| line.replace(r#"{gpu="0",phase="generation"}"#, ""))
            .collect();
        lines.sort();
        let expected = [
            "miku_llm_gpu_memory_ratio_count 1",
            "miku_llm_gpu_memory_ratio_sum 0.75",
            "miku_llm_gpu_power_watts_count 1",
            "miku_llm_gpu_power_watts_sum 200",
            "miku_llm_gpu_utilization_ratio_count 1",
            "miku_llm_gpu_utilization_ratio_sum 0.5",
        ];
        assert_eq!(lines, expected, "memory of no size has no part in use");
    }

    #[test]
    fn an_allocation_that_failed_has_its_size_and_the_time_of_day() {
        let (mut metrics, names) = sink();
        let ago = Nanos::from(std::time::Duration::from_secs(60));
        let last_failure = Some((Nanos(Nanos::now().0 - ago.0), 4096));
        let allocations = Allocations { service: BOT, bytes: 4096, failures: 1, last_failure };
        metrics.observe(&Observation::Gpu(Gpu::Allocations(allocations)), &names);
        let value = |name: &str| {
            let families = metrics.registry().gather();
            let family = families.iter().find(|family| family.name() == name).expect("it is told");
            family.get_metric()[0].get_gauge().get_value()
        };
        assert_eq!(value("miku_gpu_last_allocation_failure_bytes"), 4096.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs_f64();
        let time = value("miku_gpu_last_allocation_failure_timestamp_seconds");
        assert!((now - 60.0 - time).abs() < 5.0, "{time} at {now}");
    }

    #[test]
    fn what_has_neither_a_name_nor_a_number_of_its_own_has_no_info() {
        for (uuid, name, shown) in [("", "", 0), ("GPU-1", "", 1), ("", "H200", 1)] {
            let (mut metrics, names) = sink();
            let [uuid, name] = [uuid, name].map(|text| Some(text.to_owned()));
            see(&mut metrics, &names, Ok(vec![device("0", Ok(Reading { uuid, name, ..Reading::default() }))]), &[]);
            assert_eq!(told(&metrics).iter().filter(|line| line.starts_with("miku_gpu_info{")).count(), shown);
        }
    }

    #[test]
    fn xids_over_the_cap_are_other_and_those_that_are_known_are_not() {
        let (mut metrics, names) = sink();
        let xids: Vec<u64> = (0..=XID_LIMIT as u64).collect();
        see(&mut metrics, &names, Ok(Vec::new()), &xids);
        see(&mut metrics, &names, Ok(Vec::new()), &[0]);
        let lines: Vec<_> = told(&metrics).into_iter().filter(|line| line.starts_with("miku_gpu_xid")).collect();
        assert_eq!(lines.len(), XID_LIMIT + 1);
        for line in
            [r#"miku_gpu_xid_errors_total{gpu="0",xid="0"} 2"#, r#"miku_gpu_xid_errors_total{gpu="0",xid="other"} 1"#]
        {
            assert!(lines.iter().any(|other| other == line), "{line} {lines:#?}");
        }
    }

    #[test]
    fn allocations_add_up_and_none_failed_is_a_count() {
        let (mut metrics, names) = sink();
        let asked = |bytes, failures| {
            Observation::Gpu(Gpu::Allocations(Allocations { service: BOT, bytes, failures, last_failure: None }))
        };
        metrics.observe(&asked(100, 0), &names);
        assert_eq!(
            told(&metrics),
            [
                r#"miku_gpu_allocation_bytes_total{service="bot"} 100"#,
                r#"miku_gpu_allocation_failures_total{service="bot"} 0"#
            ]
        );
        metrics.observe(&asked(50, 2), &names);
        assert!(told(&metrics)[0].ends_with(" 150") && told(&metrics)[1].ends_with(" 2"));
    }
}
