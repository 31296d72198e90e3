//! The probe's own `process_*` metrics, the set that every Prometheus client library shows, read when they are scraped.
//!
//! The names are those of <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>, and the
//! values come from `/proc/self`, as proc(5) describes it. What cannot be read is left out.

use std::collections::HashMap;
use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

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
    ticks_per_second: f64,
    page_bytes: f64,
    boot_time: Option<f64>,
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
        Self {
            descriptions,
            ticks_per_second: system_value(libc::_SC_CLK_TCK),
            page_bytes: system_value(libc::_SC_PAGESIZE),
            boot_time: fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time),
        }
    }
}

impl Collector for OwnProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stat = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse);
        let stat = stat.as_ref();
        let values = [
            stat.map(|stat| stat.cpu_ticks / self.ticks_per_second),
            stat.map(|stat| stat.resident_pages * self.page_bytes),
            stat.map(|stat| stat.virtual_bytes),
            stat.zip(self.boot_time).map(|(stat, boot)| boot + stat.start_ticks / self.ticks_per_second),
            stat.map(|stat| stat.threads),
            open_descriptors(),
            fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(descriptor_limit),
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

#[allow(clippy::cast_precision_loss, reason = "clock ticks and page sizes are small")]
fn system_value(name: libc::c_int) -> f64 {
    // SAFETY: sysconf takes a number, touches no memory of ours, and answers any number.
    let value = unsafe { libc::sysconf(name) };
    value as f64
}

/// What is wanted of `/proc/self/stat`, in its own units.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    /// Reads a line of the form of proc_pid_stat(5), whose second field, a name in parentheses, may hold anything.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        // The first of these is field 3 of the manual page.
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// The time of boot in seconds since the epoch, from the text of `/proc/stat`.
fn boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The soft limit of open files, from the text of `/proc/self/limits`; none when it is unlimited.
fn descriptor_limit(text: &str) -> Option<f64> {
    let limits = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limits.split_ascii_whitespace().next()?.parse::<u32>().ok().map(f64::from)
}

#[allow(clippy::cast_precision_loss, reason = "descriptors are few")]
fn open_descriptors() -> Option<f64> {
    // One of them is the listing's own, open only while it is read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_whose_name_holds_parentheses() {
        let line = "42 (a) R (b) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1234 8192000 300 184467 1 1 0";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                cpu_ticks: 300.0,
                threads: 7.0,
                start_ticks: 1234.0,
                virtual_bytes: 8_192_000.0,
                resident_pages: 300.0
            })
        );
        assert_eq!(Stat::parse("42 (short) S 1 2 3"), None);
    }

    #[test]
    fn reads_boot_time_and_limit() {
        assert_eq!(boot_time("cpu 1 2 3\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000.0));
        assert_eq!(boot_time("cpu 1 2 3\n"), None);
        let limits =
            |soft: &str| format!("Limit  Soft Limit  Hard Limit  Units\nMax open files   {soft}   4096  files\n");
        assert_eq!(descriptor_limit(&limits("1024")), Some(1024.0));
        assert_eq!(descriptor_limit(&limits("unlimited")), None);
    }

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
