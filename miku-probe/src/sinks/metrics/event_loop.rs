//! What is told of event loops: turns, where their time went, and stalls.

use miku_probe_abi::OffReason;
use prometheus::{Counter, IntCounter};

use super::FastMap;
use super::catalog::{Catalog, FAST_BUCKETS, family};
use super::keys::OTHER;
use crate::observations::{EventLoop, Names, StallChange, StallThreshold, Turns, off_reason};
use crate::sinks::counted::CountedHistogram;
use crate::sinks::families::Family;
use crate::units::ServiceId;

/// How many different places that block are told apart, of all services and thresholds, before the rest is `other`.
const PLACE_LIMIT: usize = 200;

/// What stands for a place that could not be found out.
const UNKNOWN: &str = "unknown";

/// The families of event loops.
struct Families {
    busy: Family<CountedHistogram, 1>,
    on_cpu: Family<Counter, 1>,
    off_cpu: Family<Counter, 2>,
    idle: Family<Counter, 1>,
    starved: Family<Counter, 1>,
    stalls: Family<IntCounter, 3>,
}

impl Families {
    fn new(catalog: &Catalog) -> Self {
        Self {
            busy: family(
                catalog,
                "miku_event_loop_busy_seconds",
                "Time of an event loop's turn, from the selector's return to the next wait.",
                ["service"],
                FAST_BUCKETS,
            ),
            on_cpu: family(
                catalog,
                "miku_event_loop_on_cpu_seconds_total",
                "Time that event loops ran on a processor within their turns.",
                ["service"],
                &[],
            ),
            off_cpu: family(
                catalog,
                "miku_event_loop_off_cpu_seconds_total",
                "Time within their turns that event loops did not run, because another thread did (cpu), or because they \
                 waited for a disk, mostly (disk), for a lock (lock), slept (sleep) or waited in another call (call).",
                ["service", "reason"],
                &[],
            ),
            idle: family(
                catalog,
                "miku_event_loop_idle_seconds_total",
                "Time that event loops waited in their selectors.",
                ["service"],
                &[],
            ),
            starved: family(
                catalog,
                "miku_event_loop_starved_seconds_total",
                "Time that event loops could have run and had no processor, within their turns and before them.",
                ["service"],
                &[],
            ),
            stalls: family(
                catalog,
                "miku_event_loop_stalls_total",
                "Turns of event loops that were longer than a threshold, in seconds, by the code that blocked.",
                ["service", "threshold", "where"],
                &[],
            ),
        }
    }
}

/// The series of a service but its stalls.
struct LoopSeries {
    busy: CountedHistogram,
    on_cpu: Counter,
    off_cpu: [Counter; OffReason::ALL.len()],
    idle: Counter,
    starved: Option<Counter>,
}

/// How many turns were longer than a threshold.
#[derive(Default)]
struct Stalled {
    /// By the kernel's count, those that are over.
    ended: u64,
    /// Those of which somebody told where, or that it cannot be told.
    placed: u64,
    /// Those of which nobody told anything.
    missed: u64,
}

/// The series of event loops.
pub(super) struct Series {
    families: Families,
    loops: FastMap<ServiceId, LoopSeries>,
    stalled: FastMap<(ServiceId, StallThreshold), Stalled>,
    stalls: FastMap<(ServiceId, StallThreshold, String), IntCounter>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self {
            families: Families::new(catalog),
            loops: FastMap::default(),
            stalled: FastMap::default(),
            stalls: FastMap::default(),
        }
    }

    /// Takes one observation in, and tells which label was over its cap, if any.
    pub(super) fn observe(&mut self, service: ServiceId, what: &EventLoop, names: &Names) -> Option<&'static str> {
        match what {
            EventLoop::Turns(turns) => {
                self.turns(service, turns, names);
                for threshold in StallThreshold::ALL {
                    self.stalled.entry((service, threshold)).or_default().ended += turns.stalled(threshold);
                    self.missed(service, threshold, names);
                }
                None
            }
            EventLoop::Stall(stall) => {
                let StallChange::Exceeds(threshold) = stall.change else { return None };
                self.stalled.entry((service, threshold)).or_default().placed += 1;
                self.stall(service, threshold, stall.label(), 1, names)
            }
        }
    }

    fn turns(&mut self, service: ServiceId, turns: &Turns, names: &Names) {
        let families = &self.families;
        let name = names.service(service);
        let series = self.loops.entry(service).or_insert_with(|| LoopSeries {
            busy: families.busy.get([name]),
            on_cpu: families.on_cpu.get([name]),
            off_cpu: OffReason::ALL.map(|reason| families.off_cpu.get([name, off_reason(reason)])),
            idle: families.idle.get([name]),
            starved: None,
        });
        series.on_cpu.inc_by(turns.on_cpu.seconds());
        for (counter, time) in series.off_cpu.iter().zip(turns.off_cpu) {
            counter.inc_by(time.seconds());
        }
        series.idle.inc_by(turns.idle.seconds());
        if let Some(starved) = turns.starved {
            series.starved.get_or_insert_with(|| families.starved.get([name])).inc_by(starved.seconds());
        }
        // Last, so that whoever sees turns sees where their time went.
        series.busy.add(&turns.turns, turns.busy.seconds());
    }

    /// Counts stalls that are over and of which nobody told where. One that goes on may have been told already.
    fn missed(&mut self, service: ServiceId, threshold: StallThreshold, names: &Names) {
        let stalled = self.stalled.entry((service, threshold)).or_default();
        let missed = stalled.ended.saturating_sub(stalled.placed + stalled.missed);
        if missed > 0 {
            stalled.missed += missed;
            self.stall(service, threshold, None, missed, names);
        }
    }

    fn stall(
        &mut self,
        service: ServiceId,
        threshold: StallThreshold,
        place: Option<String>,
        count: u64,
        names: &Names,
    ) -> Option<&'static str> {
        let mut key = (service, threshold, place.unwrap_or_else(|| UNKNOWN.to_owned()));
        let over = key.2 != UNKNOWN && self.stalls.len() >= PLACE_LIMIT && !self.stalls.contains_key(&key);
        if over {
            OTHER.clone_into(&mut key.2);
        }
        let families = &self.families;
        let series = |key: &(_, _, String)| families.stalls.get([names.service(service), threshold.as_str(), &key.2]);
        self.stalls.entry(key).or_insert_with_key(series).inc_by(count);
        over.then_some("where")
    }
}

#[cfg(test)]
mod tests {
    use miku_probe_abi::{TURN_BOUNDS, TURN_BUCKETS};
    use prometheus::{Registry, TextEncoder};

    use std::sync::Arc;

    use super::*;
    use crate::observations::{Place, Stall};
    use crate::units::{Nanos, Tgid};

    const BOT: ServiceId = ServiceId(0);

    fn shown(registry: &Registry, start: &str) -> Vec<String> {
        let text = TextEncoder::new().encode_to_string(&registry.gather()).expect("a String takes all");
        text.lines().filter_map(|line| line.strip_prefix(start)).map(str::to_owned).collect()
    }

    fn stall(function: &str, threshold: StallThreshold) -> EventLoop {
        let place = Place { file: "/srv/bot.py".to_owned(), function: function.to_owned(), line: Some(3) };
        EventLoop::Stall(Arc::new(Stall {
            place: Some(place),
            ..Stall::new(Tgid(1), 1, Nanos(0), StallChange::Exceeds(threshold))
        }))
    }

    fn names() -> Names {
        Names { services: vec!["bot".to_owned()], ..Names::default() }
    }

    /// So many turns in the bucket up to 2.5 s.
    fn long_turns(count: u64) -> EventLoop {
        let mut turns = [0; TURN_BUCKETS];
        turns[11] = count;
        EventLoop::Turns(Box::new(Turns { turns, busy: Nanos(count * 2_000_000_000), ..Turns::default() }))
    }

    #[test]
    fn the_kernels_buckets_are_those_of_the_contract() {
        assert_eq!(TURN_BOUNDS.map(|bound| Nanos(bound).seconds()), FAST_BUCKETS);
    }

    #[test]
    fn turns_are_told_as_they_were_counted() {
        let catalog = Catalog::default();
        let mut series = Series::new(&catalog);
        let times = Turns { on_cpu: Nanos(500_000_000), idle: Nanos(3_000_000_000), ..Turns::default() };
        let mut off = Turns { starved: Some(Nanos(0)), ..times };
        off.off_cpu[OffReason::Disk as usize] = Nanos(250_000_000);
        for what in [long_turns(2), EventLoop::Turns(Box::new(off))] {
            assert_eq!(series.observe(BOT, &what, &names()), None);
        }
        assert_eq!(shown(&catalog.registry(), "miku_event_loop_busy_seconds_sum"), ["{service=\"bot\"} 4"]);
        let buckets = shown(&catalog.registry(), "miku_event_loop_busy_seconds_bucket");
        assert_eq!(buckets[10..12], ["{service=\"bot\",le=\"1\"} 0", "{service=\"bot\",le=\"2.5\"} 2"]);
        assert_eq!(shown(&catalog.registry(), "miku_event_loop_on_cpu_seconds_total"), ["{service=\"bot\"} 0.5"]);
        assert_eq!(shown(&catalog.registry(), "miku_event_loop_idle_seconds_total"), ["{service=\"bot\"} 3"]);
        let off = shown(&catalog.registry(), "miku_event_loop_off_cpu_seconds_total");
        assert!(off.contains(&"{reason=\"disk\",service=\"bot\"} 0.25".to_owned()), "{off:?}");
        assert_eq!(shown(&catalog.registry(), "miku_event_loop_starved_seconds_total"), ["{service=\"bot\"} 0"]);
    }

    #[test]
    fn a_stall_that_nobody_explained_is_counted_when_it_is_over() {
        let catalog = Catalog::default();
        let mut series = Series::new(&catalog);
        let names = names();
        let stall = stall("work", StallThreshold::Second);
        let stalls = || {
            let mut stalls =
                shown(&catalog.registry(), "miku_event_loop_stalls_total{service=\"bot\",threshold=\"1\",where=");
            stalls.sort();
            stalls
        };
        // It is told while it lasts, and not again when it is over.
        series.observe(BOT, &stall, &names);
        assert_eq!(stalls(), ["\"bot.py:work\"} 1"]);
        series.observe(BOT, &long_turns(1), &names);
        assert_eq!(stalls(), ["\"bot.py:work\"} 1"]);
        series.observe(BOT, &long_turns(2), &names);
        series.observe(BOT, &stall, &names);
        assert_eq!(stalls(), ["\"bot.py:work\"} 2", "\"unknown\"} 2"]);
        series.observe(BOT, &long_turns(1), &names);
        assert_eq!(stalls(), ["\"bot.py:work\"} 2", "\"unknown\"} 2"]);
    }

    #[test]
    fn places_are_bounded() {
        let catalog = Catalog::default();
        let mut series = Series::new(&catalog);
        let names = names();
        for number in 0..PLACE_LIMIT + 3 {
            let over = series.observe(BOT, &stall(&format!("f{number}"), StallThreshold::Tenth), &names);
            assert_eq!(over, (number >= PLACE_LIMIT).then_some("where"));
        }
        let others = shown(
            &catalog.registry(),
            "miku_event_loop_stalls_total{service=\"bot\",threshold=\"0.1\",where=\"other\"}",
        );
        assert_eq!(others, [" 3"]);
    }
}
