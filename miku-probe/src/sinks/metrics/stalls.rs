//! Event loops that did not turn: how often, and where in the program.

use std::collections::HashSet;

use prometheus::{IntCounter, Registry};

use super::catalog::family;
use super::keys::OTHER;
use crate::observations::{Names, Stall, StallChange};
use crate::sinks::families::Family;
use crate::units::ServiceId;

/// How many different places of a program, of all services, are told apart before the rest is `other`.
const PLACE_LIMIT: usize = 100;

/// The series of stalls.
pub(super) struct Series {
    stalls: Family<IntCounter, 3>,
    places: HashSet<(ServiceId, String)>,
}

impl Series {
    pub(super) fn new(registry: &Registry) -> Self {
        let stalls = family(
            registry,
            "miku_event_loop_stalls_total",
            "Turns of an event loop that exceeded a threshold in seconds, counted while they last; one that exceeds more \
             than one counts under each. The place is the file and the function that blocked, or unknown.",
            ["service", "threshold", "where"],
            &[],
        );
        Self { stalls, places: HashSet::new() }
    }

    /// Counts a threshold that was exceeded; tells the label that was over its cap, if it was.
    pub(super) fn observe(&mut self, service: ServiceId, stall: &Stall, names: &Names) -> Option<&'static str> {
        let StallChange::Exceeds(threshold) = stall.change else { return None };
        let mut key = (service, stall.label());
        let over = self.places.len() >= PLACE_LIMIT && !self.places.contains(&key);
        if over {
            OTHER.clone_into(&mut key.1);
        }
        self.stalls.get([names.service(service), threshold.as_str(), &key.1]).inc();
        if !over {
            self.places.insert(key);
        }
        over.then_some("where")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{Cause, Observation, Place, Sink, Threshold};
    use crate::units::{Nanos, Tgid};

    fn told(metrics: &Metrics) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let of_stalls = |line: &&str| line.starts_with("miku_event_loop_") || line.contains("label=\"where\"");
        text.lines().filter(of_stalls).map(str::to_owned).collect()
    }

    #[test]
    fn thresholds_count_by_place_and_places_are_capped() {
        let names = Names { services: vec!["bot".to_owned()], ..Names::default() };
        let build = BuildInfo { version: "1".to_owned(), revision: "r".to_owned(), kernel: "k".to_owned() };
        let mut metrics = Metrics::new(&build);
        assert!(told(&metrics).is_empty());
        let mut see = |function: &str, change| {
            let place = Place { file: "/srv/bot.py".to_owned(), function: function.to_owned(), line: Some(3) };
            let what = Arc::new(Stall {
                tgid: Tgid(1),
                tid: 1,
                since: Nanos(0),
                time: Nanos(0),
                change,
                cause: Cause::Sleep,
                place: Some(place).filter(|_| !function.is_empty()),
                own: None,
                stack: Vec::new(),
                holder: None,
                no_stack: None,
            });
            metrics.observe(&Observation::Stall { service: ServiceId(0), what }, &names);
            told(&metrics)
        };
        see("nap", StallChange::Exceeds(Threshold::Tenth));
        see("nap", StallChange::Exceeds(Threshold::One));
        see("nap", StallChange::Lasts);
        see("", StallChange::Exceeds(Threshold::Tenth));
        assert_eq!(
            see("nap", StallChange::Ended),
            [
                "miku_event_loop_stalls_total{service=\"bot\",threshold=\"0.1\",where=\"bot.py:nap\"} 1",
                "miku_event_loop_stalls_total{service=\"bot\",threshold=\"0.1\",where=\"unknown\"} 1",
                "miku_event_loop_stalls_total{service=\"bot\",threshold=\"1\",where=\"bot.py:nap\"} 1",
            ]
        );
        for number in 0..PLACE_LIMIT {
            see(&format!("f{number}"), StallChange::Exceeds(Threshold::Ten));
        }
        let all = see("nap", StallChange::Exceeds(Threshold::Tenth));
        assert_eq!(all.iter().filter(|line| line.contains("where=\"bot.py:f")).count(), PLACE_LIMIT - 2);
        assert!(
            all.contains(
                &"miku_event_loop_stalls_total{service=\"bot\",threshold=\"10\",where=\"other\"} 2".to_owned()
            )
        );
        assert!(all.contains(&"miku_probe_label_overflow_total{label=\"where\"} 2".to_owned()), "{all:?}");
        assert!(all[0].ends_with("where=\"bot.py:nap\"} 2"), "what was known stays known: {all:?}");
    }
}
