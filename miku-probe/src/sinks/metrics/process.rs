//! What is told of the processes of a service: what each uses, while it is there, and how many began and ended.

use std::collections::HashMap;

use prometheus::core::{Atomic, GenericCounter};
use prometheus::{Counter, Gauge, IntCounter, IntGauge};

use super::catalog::{Catalog, family};
use super::{FastMap, Total};
use crate::observations::{Cgroup, Names, ProcessEnd, ProcessNews, Resource, Vitals};
use crate::sinks::families::{Family, Series as Metric};
use crate::units::{Nanos, ServiceId, Tgid};

/// How many processes have series of their own at once.
const PROCESS_LIMIT: usize = 500;

/// A label that was over its cap, if any.
type Overflow = Option<&'static str>;

const PROCESS: [&str; 2] = ["service", "pid"];

/// A family of which each process has the series that are known of it.
struct Gauges<M>(Family<M, 2>);

impl<M: Metric> Gauges<M> {
    fn new(catalog: &Catalog, name: &'static str, help: &'static str) -> Self {
        Self(family(catalog, name, help, PROCESS, &[]))
    }
}

impl Gauges<IntGauge> {
    fn set(&self, process: [&str; 2], value: Option<u64>) {
        match value {
            Some(value) => self.0.get(process).set(i64::try_from(value).unwrap_or(i64::MAX)),
            None => self.0.remove(process),
        }
    }
}

impl Gauges<Gauge> {
    fn set(&self, process: [&str; 2], value: Option<f64>) {
        match value {
            Some(value) => self.0.get(process).set(value),
            None => self.0.remove(process),
        }
    }
}

/// The families.
struct Families {
    resident: Gauges<IntGauge>,
    virtual_size: Gauges<IntGauge>,
    shared: Gauges<IntGauge>,
    swap: Gauges<IntGauge>,
    threads: Gauges<IntGauge>,
    open_fds: Gauges<IntGauge>,
    max_fds: Gauges<IntGauge>,
    start: Gauges<Gauge>,
    growth: Gauges<Gauge>,
    growth_start: Gauges<Gauge>,
    cgroup_limit: Gauges<IntGauge>,
    cgroup_usage: Gauges<IntGauge>,
    cgroup_working_set: Gauges<IntGauge>,
    cgroup_cpu_limit: Gauges<Gauge>,
    cpu: Family<Counter, 3>,
    switches: Family<IntCounter, 3>,
    faults: Family<IntCounter, 3>,
    io: Family<IntCounter, 3>,
    throttled: Family<Counter, 2>,
    pressure: Family<Counter, 4>,
    starts: Family<IntCounter, 1>,
    exits: Family<IntCounter, 3>,
    oom_kills: Family<IntCounter, 1>,
}

impl Families {
    fn new(catalog: &Catalog) -> Self {
        let by = |third| ["service", "pid", third];
        Self {
            resident: Gauges::new(
                catalog,
                "miku_process_resident_memory_bytes",
                "Memory of the process that is not swapped out, shared pages included.",
            ),
            virtual_size: Gauges::new(
                catalog,
                "miku_process_virtual_memory_bytes",
                "Addresses that the process has mapped.",
            ),
            shared: Gauges::new(
                catalog,
                "miku_process_shared_memory_bytes",
                "Of the resident memory, pages of files and of shared memory.",
            ),
            swap: Gauges::new(catalog, "miku_process_swap_memory_bytes", "Memory of the process that is swapped out."),
            threads: Gauges::new(catalog, "miku_process_threads", "Threads of the process."),
            open_fds: Gauges::new(catalog, "miku_process_open_fds", "Descriptors that the process has open."),
            max_fds: Gauges::new(
                catalog,
                "miku_process_max_fds",
                "Descriptors that the process may have open; absent when there is no limit.",
            ),
            start: Gauges::new(
                catalog,
                "miku_process_start_time_seconds",
                "When the process began, in seconds since the epoch.",
            ),
            growth: Gauges::new(
                catalog,
                "miku_process_resident_memory_growth_bytes_per_hour",
                "Slope of the resident memory over the last hour, by an estimator that takes no garbage for a leak; absent \
                 until it is known.",
            ),
            growth_start: Gauges::new(
                catalog,
                "miku_process_resident_memory_growth_start_time_seconds",
                "Since when the resident memory grows, in seconds since the epoch; absent while it does not.",
            ),
            cgroup_limit: Gauges::new(
                catalog,
                "miku_process_cgroup_memory_limit_bytes",
                "The tightest limit of memory that is set on the process's control group or above it; absent without one.",
            ),
            cgroup_usage: Gauges::new(
                catalog,
                "miku_process_cgroup_memory_usage_bytes",
                "Memory of the control group that has that limit.",
            ),
            cgroup_working_set: Gauges::new(
                catalog,
                "miku_process_cgroup_memory_working_set_bytes",
                "The same without pages of files that nobody used lately, which the kernel drops before it kills.",
            ),
            cgroup_cpu_limit: Gauges::new(
                catalog,
                "miku_process_cgroup_cpu_limit_cores",
                "How many processors' time the process's control group may take; absent without a limit.",
            ),
            cpu: family(
                catalog,
                "miku_process_cpu_seconds_total",
                "Time of the process's threads on a processor, in their own code (user) and in the kernel (system).",
                by("mode"),
                &[],
            ),
            switches: family(
                catalog,
                "miku_process_context_switches_total",
                "How often the process's threads gave up the processor to wait (voluntary) or had to (involuntary).",
                by("type"),
                &[],
            ),
            faults: family(
                catalog,
                "miku_process_page_faults_total",
                "Page faults of the process, without the disk (minor) and with it (major).",
                by("type"),
                &[],
            ),
            io: family(
                catalog,
                "miku_process_io_bytes_total",
                "Bytes that the process made the disks read and write.",
                by("direction"),
                &[],
            ),
            throttled: family(
                catalog,
                "miku_process_cgroup_cpu_throttled_seconds_total",
                "Time for which the process's control group was kept off the processors by its limit.",
                PROCESS,
                &[],
            ),
            pressure: family(
                catalog,
                "miku_process_cgroup_pressure_seconds_total",
                "Time in which one task of the process's control group or more (some), or all of them (full), waited for \
                 the resource.",
                ["service", "pid", "resource", "kind"],
                &[],
            ),
            starts: family(
                catalog,
                "miku_process_starts_total",
                "Processes of the service that began while the probe watched.",
                ["service"],
                &[],
            ),
            exits: family(
                catalog,
                "miku_process_exits_total",
                "Processes of the service that ended, by how and with which code or signal.",
                ["service", "reason", "code"],
                &[],
            ),
            oom_kills: family(
                catalog,
                "miku_process_oom_kills_total",
                "Processes of the service that the kernel killed for want of memory.",
                ["service"],
                &[],
            ),
        }
    }
}

/// A counter of somebody else's total.
struct Followed<T: Atomic> {
    counter: GenericCounter<T>,
    total: Total,
}

impl<T: Atomic> Followed<T> {
    fn of(counter: GenericCounter<T>) -> Self {
        Self { counter, total: Total::default() }
    }
}

impl Followed<prometheus::core::AtomicU64> {
    fn set(&mut self, total: u64) {
        self.counter.inc_by(self.total.advance(total));
    }
}

impl Followed<prometheus::core::AtomicF64> {
    fn set(&mut self, total: Nanos) {
        self.counter.inc_by(Nanos(self.total.advance(total.0)).seconds());
    }
}

/// The counters of one process; none of what is not known of it.
#[derive(Default)]
struct Counters {
    cpu: HashMap<&'static str, Followed<prometheus::core::AtomicF64>>,
    switches: HashMap<&'static str, Followed<prometheus::core::AtomicU64>>,
    faults: HashMap<&'static str, Followed<prometheus::core::AtomicU64>>,
    io: HashMap<&'static str, Followed<prometheus::core::AtomicU64>>,
    throttled: Option<Followed<prometheus::core::AtomicF64>>,
    pressure: HashMap<(&'static str, &'static str), Followed<prometheus::core::AtomicF64>>,
}

/// The series of processes.
pub(super) struct Series {
    families: Families,
    processes: FastMap<(ServiceId, Tgid), Counters>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self { families: Families::new(catalog), processes: FastMap::default() }
    }

    /// Takes one observation in, and tells whether a label was over its cap.
    pub(super) fn observe(&mut self, service: ServiceId, what: &ProcessNews, names: &Names) -> Overflow {
        let name = names.service(service);
        match what {
            ProcessNews::Vitals(vitals) => return self.vitals(service, vitals, name),
            ProcessNews::Gone { tgid } => self.gone((service, *tgid), name),
            ProcessNews::Counted => {
                self.families.starts.get([name]);
                self.families.oom_kills.get([name]);
            }
            ProcessNews::Started => self.families.starts.get([name]).inc(),
            ProcessNews::Ended { end, .. } => {
                self.families.exits.get([name, end.reason(), &end.code()]).inc();
                if *end == ProcessEnd::OomKill {
                    self.families.oom_kills.get([name]).inc();
                }
            }
        }
        None
    }

    fn vitals(&mut self, service: ServiceId, vitals: &Vitals, name: &str) -> Overflow {
        let key = (service, vitals.tgid);
        if self.processes.len() >= PROCESS_LIMIT && !self.processes.contains_key(&key) {
            // No number would be true of all others together.
            return Some("pid");
        }
        let pid = vitals.tgid.to_string();
        let process = [name, pid.as_str()];
        let families = &self.families;
        let Vitals { memory, growth, cgroup, .. } = vitals;
        families.resident.set(process, memory.resident);
        families.virtual_size.set(process, memory.virtual_size);
        families.shared.set(process, memory.shared);
        families.swap.set(process, memory.swap);
        families.threads.set(process, vitals.threads);
        families.open_fds.set(process, vitals.open_fds);
        families.max_fds.set(process, vitals.max_fds);
        families.start.set(process, vitals.start);
        families.growth.set(process, growth.map(|growth| growth.bytes_per_hour));
        let since = growth.and_then(|growth| growth.since);
        families.growth_start.set(process, since.map(|since| unix_time(since, vitals.time)));

        let counters = self.processes.entry(key).or_default();
        if let Some(cpu) = vitals.cpu {
            for (mode, time) in [("user", cpu.user), ("system", cpu.system)] {
                let new = || Followed::of(families.cpu.get([name, &pid, mode]));
                counters.cpu.entry(mode).or_insert_with(new).set(time);
            }
        }
        let pairs = [
            (
                &families.switches,
                &mut counters.switches,
                vitals.switches.map(|all| [("voluntary", all.voluntary), ("involuntary", all.involuntary)]),
            ),
            (
                &families.faults,
                &mut counters.faults,
                vitals.faults.map(|all| [("minor", all.minor), ("major", all.major)]),
            ),
            (&families.io, &mut counters.io, vitals.io.map(|all| [("read", all.read), ("write", all.write)])),
        ];
        for (family, counters, totals) in pairs {
            for (label, total) in totals.into_iter().flatten() {
                let new = || Followed::of(family.get([name, &pid, label]));
                counters.entry(label).or_insert_with(new).set(total);
            }
        }
        groups(families, counters, cgroup.unwrap_or_default(), process);
        None
    }

    fn gone(&mut self, key: (ServiceId, Tgid), name: &str) {
        let Some(counters) = self.processes.remove(&key) else { return };
        let pid = key.1.to_string();
        let process = [name, pid.as_str()];
        let families = &self.families;
        for gauges in [
            &families.resident,
            &families.virtual_size,
            &families.shared,
            &families.swap,
            &families.threads,
            &families.open_fds,
            &families.max_fds,
            &families.cgroup_limit,
            &families.cgroup_usage,
            &families.cgroup_working_set,
        ] {
            gauges.set(process, None);
        }
        for gauges in [&families.start, &families.growth, &families.growth_start, &families.cgroup_cpu_limit] {
            gauges.set(process, None);
        }
        for mode in counters.cpu.keys() {
            families.cpu.remove([name, &pid, mode]);
        }
        for (family, counters) in [
            (&families.switches, &counters.switches),
            (&families.faults, &counters.faults),
            (&families.io, &counters.io),
        ] {
            for label in counters.keys() {
                family.remove([name, &pid, label]);
            }
        }
        families.throttled.remove(process);
        for (resource, kind) in counters.pressure.keys() {
            families.pressure.remove([name, &pid, resource, kind]);
        }
    }
}

fn groups(families: &Families, counters: &mut Counters, cgroup: Cgroup, process: [&str; 2]) {
    let [name, pid] = process;
    families.cgroup_limit.set(process, cgroup.memory.map(|memory| memory.limit));
    families.cgroup_usage.set(process, cgroup.memory.map(|memory| memory.usage));
    families.cgroup_working_set.set(process, cgroup.memory.map(|memory| memory.working_set));
    families.cgroup_cpu_limit.set(process, cgroup.cpu_limit);
    if let Some(time) = cgroup.cpu_throttled {
        counters.throttled.get_or_insert_with(|| Followed::of(families.throttled.get(process))).set(time);
    }
    for (resource, pressure) in Resource::ALL.into_iter().zip(cgroup.pressure) {
        let Some(pressure) = pressure else { continue };
        for (kind, time) in [("some", Some(pressure.some)), ("full", pressure.full)] {
            let Some(time) = time else { continue };
            let resource = resource.as_str();
            let new = || Followed::of(families.pressure.get([name, pid, resource, kind]));
            counters.pressure.entry((resource, kind)).or_insert_with(new).set(time);
        }
    }
}

/// A time of the monotonic clock, `now` being the present of it, in seconds since the epoch.
fn unix_time(time: Nanos, now: Nanos) -> f64 {
    let present = std::time::UNIX_EPOCH.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64());
    present - now.since(time).seconds()
}

#[cfg(test)]
mod tests {
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{
        CgroupMemory, CpuTime, DiskBytes, Faults, Growth, Memory, Observation, Pressure, Sink, Switches,
    };

    const BOT: ServiceId = ServiceId(0);

    fn sink() -> (Metrics, Names) {
        (Metrics::new(&BuildInfo::current()), Names { services: vec!["bot".to_owned()], ..Names::default() })
    }

    fn see(metrics: &mut Metrics, names: &Names, what: ProcessNews) {
        metrics.observe(&Observation::Process { service: BOT, what }, names);
    }

    fn told(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        text.lines().filter(|line| line.starts_with("miku_process_")).map(str::to_owned).collect()
    }

    /// Of which nothing is known.
    fn nothing(tgid: u32) -> Vitals {
        Vitals {
            tgid: Tgid(tgid),
            time: Nanos(9_000_000_000),
            start: None,
            memory: Memory::default(),
            threads: None,
            open_fds: None,
            max_fds: None,
            cpu: None,
            switches: None,
            faults: None,
            io: None,
            growth: None,
            cgroup: None,
        }
    }

    fn all(tgid: u32, factor: u64) -> Vitals {
        let time = |seconds: u64| Nanos(seconds * 500_000_000 * factor);
        let pressure = Pressure { some: time(3), full: Some(time(1)) };
        Vitals {
            start: Some(1_700_000_000.5),
            memory: Memory { resident: Some(100), virtual_size: Some(200), shared: Some(30), swap: Some(0) },
            threads: Some(4),
            open_fds: Some(7),
            max_fds: Some(1024),
            cpu: Some(CpuTime { user: time(5), system: time(2) }),
            switches: Some(Switches { voluntary: 10 * factor, involuntary: factor }),
            faults: Some(Faults { minor: 1000 * factor, major: 0 }),
            io: Some(DiskBytes { read: 4096 * factor, write: 8192 * factor }),
            growth: Some(Growth { bytes_per_hour: -12.5, since: None }),
            cgroup: Some(Cgroup {
                memory: Some(CgroupMemory { limit: 512, usage: 300, working_set: 250 }),
                cpu_limit: Some(1.5),
                cpu_throttled: Some(time(1)),
                pressure: [Some(Pressure { full: None, ..pressure }), Some(pressure), None],
            }),
            ..nothing(tgid)
        }
    }

    #[test]
    fn a_process_has_series_of_what_is_known_while_it_is_there() {
        let (mut metrics, names) = sink();
        see(&mut metrics, &names, ProcessNews::Vitals(Box::new(nothing(42))));
        assert_eq!(told(&metrics), Vec::<String>::new(), "nothing is known");
        see(&mut metrics, &names, ProcessNews::Vitals(Box::new(all(42, 1))));
        see(&mut metrics, &names, ProcessNews::Vitals(Box::new(all(42, 3))));
        let process = "pid=\"42\",service=\"bot\"";
        let expected = [
            "cgroup_cpu_limit_cores{P} 1.5",
            "cgroup_cpu_throttled_seconds_total{P} 1.5",
            "cgroup_memory_limit_bytes{P} 512",
            "cgroup_memory_usage_bytes{P} 300",
            "cgroup_memory_working_set_bytes{P} 250",
            "cgroup_pressure_seconds_total{kind=\"full\",P,resource=\"memory\"} 1.5",
            "cgroup_pressure_seconds_total{kind=\"some\",P,resource=\"cpu\"} 4.5",
            "cgroup_pressure_seconds_total{kind=\"some\",P,resource=\"memory\"} 4.5",
            "context_switches_total{P,type=\"involuntary\"} 3",
            "context_switches_total{P,type=\"voluntary\"} 30",
            "cpu_seconds_total{mode=\"system\",P} 3",
            "cpu_seconds_total{mode=\"user\",P} 7.5",
            "io_bytes_total{direction=\"read\",P} 12288",
            "io_bytes_total{direction=\"write\",P} 24576",
            "max_fds{P} 1024",
            "open_fds{P} 7",
            "page_faults_total{P,type=\"major\"} 0",
            "page_faults_total{P,type=\"minor\"} 3000",
            "resident_memory_bytes{P} 100",
            "resident_memory_growth_bytes_per_hour{P} -12.5",
            "shared_memory_bytes{P} 30",
            "start_time_seconds{P} 1700000000.5",
            "swap_memory_bytes{P} 0",
            "threads{P} 4",
            "virtual_memory_bytes{P} 200",
        ]
        .map(|line| {
            let labels = if line.contains(",P,resource") {
                line.replace(",P,resource=\"memory\"", ",pid=\"42\",resource=\"memory\",service=\"bot\"")
                    .replace(",P,resource=\"cpu\"", ",pid=\"42\",resource=\"cpu\",service=\"bot\"")
            } else {
                line.replace('P', process)
            };
            format!("miku_process_{labels}")
        });
        let mut seen = told(&metrics);
        seen.sort_unstable();
        assert_eq!(seen, expected);
        see(&mut metrics, &names, ProcessNews::Gone { tgid: Tgid(43) });
        assert_eq!(told(&metrics).len(), expected.len(), "another one ended");
        see(&mut metrics, &names, ProcessNews::Gone { tgid: Tgid(42) });
        assert_eq!(told(&metrics), Vec::<String>::new());
    }

    #[test]
    fn growth_is_told_with_when_it_began_and_no_more_when_it_stops() {
        let (mut metrics, names) = sink();
        let growing = Growth { bytes_per_hour: 1e7, since: Some(Nanos(0)) };
        for (growth, lines) in [(Some(growing), 2), (Some(Growth { since: None, ..growing }), 1), (None, 0)] {
            see(&mut metrics, &names, ProcessNews::Vitals(Box::new(Vitals { growth, ..nothing(42) })));
            assert_eq!(told(&metrics).len(), lines, "{growth:?}");
        }
        let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970").as_secs_f64();
        assert!((unix_time(Nanos(1_000_000_000), Nanos(11_000_000_000)) - (now - 10.0)).abs() < 2.0);
    }

    #[test]
    fn starts_and_ends_are_counts_of_the_service() {
        let (mut metrics, names) = sink();
        see(&mut metrics, &names, ProcessNews::Counted);
        assert_eq!(
            told(&metrics),
            ["miku_process_oom_kills_total{service=\"bot\"} 0", "miku_process_starts_total{service=\"bot\"} 0"]
        );
        for end in
            [ProcessEnd::Code(3), ProcessEnd::Code(3), ProcessEnd::Signal(15), ProcessEnd::OomKill, ProcessEnd::Unknown]
        {
            see(&mut metrics, &names, ProcessNews::Started);
            see(&mut metrics, &names, ProcessNews::Ended { time: Nanos(1), end });
        }
        assert_eq!(
            told(&metrics),
            [
                "miku_process_exits_total{reason=\"unknown\",service=\"bot\"} 1",
                "miku_process_exits_total{code=\"3\",reason=\"exit\",service=\"bot\"} 2",
                "miku_process_exits_total{code=\"SIGKILL\",reason=\"oom_kill\",service=\"bot\"} 1",
                "miku_process_exits_total{code=\"SIGTERM\",reason=\"signal\",service=\"bot\"} 1",
                "miku_process_oom_kills_total{service=\"bot\"} 1",
                "miku_process_starts_total{service=\"bot\"} 5",
            ]
        );
    }

    #[test]
    fn processes_over_the_cap_have_no_series_until_others_end() {
        let (mut metrics, names) = sink();
        let limit = u32::try_from(PROCESS_LIMIT).expect("it is small");
        let look = |tgid| ProcessNews::Vitals(Box::new(Vitals { threads: Some(1), ..nothing(tgid) }));
        for tgid in 0..limit + 10 {
            see(&mut metrics, &names, look(tgid));
        }
        assert_eq!(told(&metrics).len(), PROCESS_LIMIT);
        see(&mut metrics, &names, ProcessNews::Gone { tgid: Tgid(0) });
        see(&mut metrics, &names, look(limit));
        assert_eq!(told(&metrics).len(), PROCESS_LIMIT);
    }
}
