//! The probe's own `process_*` metrics, the set that every Prometheus client library shows, read when they are scraped.
//!
//! The names are those of <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>, and the
//! values come from `/proc/self`, as proc(5) describes it. What cannot be read is left out.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use super::families::{FamilyInfo, FamilyKind};
use crate::discovery::usage::{Folder, boot_time};

/// Name, help and type of each metric, in the order in which [`OwnProcess::collect`] fills them.
const FAMILIES: [(&str, &str, MetricType); 7] = [
    ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", MetricType::COUNTER),
    ("process_resident_memory_bytes", "Resident memory size in bytes.", MetricType::GAUGE),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes.", MetricType::GAUGE),
    ("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", MetricType::GAUGE),
    ("process_threads", "Number of OS threads in the process.", MetricType::GAUGE),
    ("process_open_fds", "Number of open file descriptors.", MetricType::GAUGE),
    ("process_max_fds", "Maximum number of open file descriptors.", MetricType::GAUGE),
];

/// Collects the metrics of the process that it runs in.
pub(super) struct OwnProcess {
    descriptions: Vec<Desc>,
    folder: Folder,
    page_bytes: f64,
    boot_time: Option<f64>,
}

/// What each of them is.
pub(super) fn families() -> impl Iterator<Item = FamilyInfo> {
    FAMILIES.into_iter().map(|(name, help, kind)| FamilyInfo {
        name,
        kind: FamilyKind::of(kind),
        labels: Vec::new(),
        help,
        buckets: &[],
    })
}

impl OwnProcess {
    pub(super) fn new() -> Self {
        let descriptions = FAMILIES
            .iter()
            .map(|(name, help, _)| {
                Desc::new((*name).to_owned(), (*help).to_owned(), Vec::new(), HashMap::new())
                    .unwrap_or_else(|error| panic!("{name} is not a valid family: {error}"))
            })
            .collect();
        Self { descriptions, folder: Folder::own(), page_bytes: page_bytes(), boot_time: boot_time() }
    }
}

impl Collector for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let times = self.folder.stat();
        let times = times.as_ref();
        let values = [
            times.map(|times| (times.cpu.user + times.cpu.system).seconds()),
            times.map(|times| number(times.resident_pages) * self.page_bytes),
            times.map(|times| number(times.virtual_size)),
            times.zip(self.boot_time).map(|(times, boot)| boot + times.start.since_boot().as_secs_f64()),
            times.map(|times| number(times.threads)),
            self.folder.open_fds().map(number),
            self.folder.max_fds().map(number),
        ];
        FAMILIES
            .iter()
            .zip(values)
            .filter_map(|(&(name, help, kind), value)| {
                let mut metric = Metric::default();
                if kind == MetricType::COUNTER {
                    let mut counter = Counter::default();
                    counter.set_value(value?);
                    metric.set_counter(counter);
                } else {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value?);
                    metric.set_gauge(gauge);
                }
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(help.to_owned());
                family.set_field_type(kind);
                family.set_metric(vec![metric]);
                Some(family)
            })
            .collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "bytes of memory and numbers of threads are below 2^53")]
const fn number(number: u64) -> f64 {
    number as f64
}

#[allow(clippy::cast_precision_loss, reason = "page sizes are small")]
fn page_bytes() -> f64 {
    // SAFETY: sysconf takes a number, touches no memory of ours, and answers any number.
    let value = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    value as f64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn agrees_with_what_the_kernel_says_elsewhere() {
        let process = OwnProcess::new();
        let value = |families: &[MetricFamily], name: &str| {
            let family = families.iter().find(|family| family.name() == name);
            let metric = &family.unwrap_or_else(|| panic!("{name} is missing")).get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        let before = value(&process.collect(), "process_open_fds");
        let files: Vec<_> = (0..10).map(|_| fs::File::open("/proc/self/stat").expect("proc is mounted")).collect();
        let families = process.collect();
        // Tests beside this one open files too, so only a lower bound holds; ten of ours are open now.
        assert!(value(&families, "process_open_fds") >= 13.0, "{before} before, ten more after");
        drop(files);

        let status = fs::read_to_string("/proc/self/status").expect("proc is mounted");
        let kib = |field: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
            line.trim().trim_end_matches(" kB").parse::<f64>().expect("it is a number") * 1024.0
        };
        let resident = value(&families, "process_resident_memory_bytes");
        assert!((resident / kib("VmRSS:") - 1.0).abs() < 0.5, "{resident} against {}", kib("VmRSS:"));
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970").as_secs_f64();
        let start = value(&families, "process_start_time_seconds");
        assert!(start <= now + 2.0 && start > now - 3600.0, "started at {start}, now {now}");
        assert!(value(&families, "process_cpu_seconds_total") < 3600.0);
        assert!(value(&families, "process_max_fds") >= 13.0);
    }
}
