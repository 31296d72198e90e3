//! Sums that close in whatever a probe exports: all that began has ended, goes on, or is said to be unknown or lost.
//!
//! The harness holds every probe of every case to them when the case is through with it, so that nothing falls out in
//! silence, whatever else a case looks at.

use std::collections::BTreeMap;

use crate::exposition::{Sample, Scrape};

/// One sum that must close: `whole` is what `parts` add up to, for each combination of `labels` that any of them has.
struct Sum {
    whole: &'static str,
    parts: &'static [Part],
    labels: &'static [&'static str],
}

/// Series that count towards a sum.
struct Part {
    name: &'static str,
    /// Labels that they have besides.
    with: &'static [(&'static str, &'static str)],
    /// A label of the sum that this family does not have, because only series of this value of it are in the family.
    only: Option<(&'static str, &'static str)>,
}

const fn part(name: &'static str) -> Part {
    Part { name, with: &[], only: None }
}

const SUMS: &[Sum] = &[
    Sum {
        whole: "miku_http_requests_started_total",
        parts: &[
            Part { only: Some(("side", "server")), ..part("http_server_request_duration_seconds_count") },
            Part { only: Some(("side", "client")), ..part("http_client_request_duration_seconds_count") },
            part("miku_http_requests_in_flight"),
            part("miku_http_requests_unknown_total"),
        ],
        labels: &["service", "side"],
    },
    Sum {
        whole: "miku_llm_requests_started_total",
        parts: &[part("miku_llm_request_duration_seconds_count"), part("miku_llm_requests_in_flight")],
        labels: &["service", "side"],
    },
    Sum {
        whole: "miku_discord_conversations_started_total",
        parts: &[part("miku_discord_conversations_ended_total"), part("miku_discord_conversations_open")],
        labels: &["service", "kind"],
    },
    Sum {
        whole: "miku_discord_reply_duration_seconds_count",
        parts: &[Part { with: &[("outcome", "replied")], ..part("miku_discord_conversations_ended_total") }],
        labels: &["service", "kind"],
    },
    Sum {
        whole: "miku_discord_unanswered_total",
        parts: &[Part { with: &[("outcome", "unanswered")], ..part("miku_discord_conversations_ended_total") }],
        labels: &["service", "kind"],
    },
];

impl Part {
    /// The value of a label of the sum, which may be the same for all series of the family.
    fn label<'a>(&self, sample: &'a Sample, label: &str) -> &'a str {
        self.only.filter(|(of, _)| *of == label).map_or_else(|| sample.label(label), |(_, value)| value)
    }
}

/// Each sum that does not close, in a line.
#[must_use]
pub fn gaps(scrape: &Scrape) -> Vec<String> {
    let mut lines = Vec::new();
    for Sum { whole, parts, labels } in SUMS {
        // By key, the whole and each part.
        let mut sums: BTreeMap<Vec<&str>, Vec<f64>> = BTreeMap::new();
        let whole = part(whole);
        for (place, part) in [&whole].into_iter().chain(*parts).enumerate() {
            for sample in scrape.try_matching(part.name, part.with) {
                let key = labels.iter().map(|label| part.label(sample, label)).collect();
                sums.entry(key).or_insert_with(|| vec![0.0; 1 + parts.len()])[place] += sample.value;
            }
        }
        for (key, values) in sums {
            let sum: f64 = values[1..].iter().sum();
            // They are whole numbers.
            if (values[0] - sum).abs() > 0.5 {
                let parts: Vec<String> =
                    parts.iter().zip(&values[1..]).map(|(part, value)| format!("{value} {}", part.name)).collect();
                lines.push(format!("{key:?}: {} {} are not {}", values[0], whole.name, parts.join(" + ")));
            }
        }
    }
    lines
}

/// Records that were made in the kernel, and those that were seen or lost, at one time.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    /// By the kernel side's own count.
    pub sent: f64,
    /// By user space's.
    pub told: f64,
}

impl Records {
    /// As a scrape has them.
    ///
    /// # Panics
    /// When it has not.
    #[must_use]
    pub fn of(scrape: &Scrape) -> Self {
        let lost = |at: &str| scrape.sum("miku_probe_lost_total", &[("where", at)]);
        Self {
            sent: scrape.sum("miku_probe_records_sent_total", &[]),
            told: scrape.sum("miku_probe_records_total", &[]) + lost("ring") + lost("parser"),
        }
    }

    /// Whether none is missing between two scrapes: each count is behind the other by what comes meanwhile at most. Where
    /// nothing comes, both have to be the same.
    #[must_use]
    pub fn close(earlier: Self, later: Self) -> bool {
        earlier.sent <= later.told && earlier.told <= later.sent
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::json;

    use super::*;
    use crate::exposition::Catalogue;

    /// What a probe exports that has seen two requests, a reply, and a call of a model to their ends.
    const CLOSED: &str = "\
# TYPE miku_http_requests_started_total counter
miku_http_requests_started_total{service=\"bot\",side=\"client\"} 3
miku_http_requests_started_total{service=\"bot\",side=\"server\"} 1
# TYPE http_client_request_duration_seconds histogram
http_client_request_duration_seconds_count{service=\"bot\",http_route=\"/a\"} 1
http_client_request_duration_seconds_count{service=\"bot\",http_route=\"/b\"} 1
# TYPE http_server_request_duration_seconds histogram
http_server_request_duration_seconds_count{service=\"bot\"} 1
# TYPE miku_http_requests_in_flight gauge
miku_http_requests_in_flight{service=\"bot\",side=\"client\"} 0
miku_http_requests_in_flight{service=\"bot\",side=\"server\"} 0
# TYPE miku_http_requests_unknown_total counter
miku_http_requests_unknown_total{service=\"bot\",side=\"client\"} 1
# TYPE miku_discord_conversations_started_total counter
miku_discord_conversations_started_total{service=\"bot\",kind=\"message\"} 2
# TYPE miku_discord_conversations_ended_total counter
miku_discord_conversations_ended_total{service=\"bot\",kind=\"message\",outcome=\"replied\"} 1
miku_discord_conversations_ended_total{service=\"bot\",kind=\"message\",outcome=\"unanswered\"} 0
# TYPE miku_discord_conversations_open gauge
miku_discord_conversations_open{service=\"bot\",kind=\"message\"} 1
# TYPE miku_discord_reply_duration_seconds histogram
miku_discord_reply_duration_seconds_count{service=\"bot\",kind=\"message\"} 1
# TYPE miku_discord_unanswered_total counter
miku_discord_unanswered_total{service=\"bot\",kind=\"message\"} 0
# TYPE miku_llm_requests_started_total counter
miku_llm_requests_started_total{service=\"bot\",side=\"client\",server_address=\"a\"} 1
miku_llm_requests_started_total{service=\"bot\",side=\"client\",server_address=\"b\"} 1
# TYPE miku_llm_request_duration_seconds histogram
miku_llm_request_duration_seconds_count{service=\"bot\",side=\"client\",server_address=\"a\"} 1
# TYPE miku_llm_requests_in_flight gauge
miku_llm_requests_in_flight{service=\"bot\",side=\"client\",server_address=\"b\"} 1
";

    /// The families that are summed up.
    fn catalogue() -> Catalogue {
        let service = |more: &[&'static str]| [&["service"], more].concat();
        let families = [
            ("miku_http_requests_started_total", "counter", service(&["side"])),
            ("http_client_request_duration_seconds", "histogram", service(&["http_route"])),
            ("http_server_request_duration_seconds", "histogram", service(&["http_route"])),
            ("miku_http_requests_in_flight", "gauge", service(&["side"])),
            ("miku_http_requests_unknown_total", "counter", service(&["side"])),
            ("miku_discord_conversations_started_total", "counter", service(&["kind"])),
            ("miku_discord_conversations_ended_total", "counter", service(&["kind", "outcome"])),
            ("miku_discord_conversations_open", "gauge", service(&["kind"])),
            ("miku_discord_reply_duration_seconds", "histogram", service(&["kind"])),
            ("miku_discord_unanswered_total", "counter", service(&["kind"])),
            ("miku_llm_requests_started_total", "counter", service(&["side", "server_address"])),
            ("miku_llm_request_duration_seconds", "histogram", service(&["side", "server_address"])),
            ("miku_llm_requests_in_flight", "gauge", service(&["side", "server_address"])),
        ];
        let families = families.map(|(name, kind, labels)| {
            let buckets: &[f64] = if kind == "histogram" { &[1.0] } else { &[] };
            json!({"name": name, "type": kind, "labels": labels, "help": "Help.", "buckets": buckets})
        });
        Catalogue::parse(&json!(families)).expect("it is a catalogue")
    }

    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(catalogue);

    /// What comes with a line: a help text, and the buckets and the sum of a histogram's count.
    fn whole(line: &str) -> String {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|line| line.split(' ').next()) {
            return format!("# HELP {name} Help.\n{line}\n");
        }
        let Some((name, rest)) = line.split_once("_seconds_count{") else { return format!("{line}\n") };
        let (labels, count) = rest.split_once("} ").expect("a value is behind the labels");
        let buckets = ["1", "+Inf"].map(|bound| format!("{name}_seconds_bucket{{{labels},le=\"{bound}\"}} {count}\n"));
        format!("{}{name}_seconds_sum{{{labels}}} 0\n{line}\n", buckets.concat())
    }

    fn gaps_of(text: &str) -> Vec<String> {
        let text: String = text.lines().map(whole).collect();
        gaps(&Scrape::parse(&text, &CATALOGUE).expect("the text is good"))
    }

    #[test]
    fn sums_that_close_are_silent() {
        assert_eq!(gaps_of(CLOSED), Vec::<String>::new());
        assert_eq!(gaps_of(""), Vec::<String>::new(), "nothing began");
    }

    #[test]
    fn whatever_is_missing_on_either_side_is_a_gap() {
        let lines = CLOSED.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.ends_with(" 0"));
        for (place, line) in lines {
            let without: String = CLOSED
                .lines()
                .enumerate()
                .filter(|(at, _)| *at != place)
                .map(|(_, line)| format!("{line}\n"))
                .collect();
            assert!(!gaps_of(&without).is_empty(), "without {line}");
        }
        let other = CLOSED.replace(
            "requests_in_flight{service=\"bot\",side=\"server\"} 0",
            "requests_in_flight{service=\"bot\",side=\"server\"} -1",
        );
        assert_eq!(
            gaps_of(&other),
            ["[\"bot\", \"server\"]: 1 miku_http_requests_started_total are not 1 \
              http_server_request_duration_seconds_count + 0 http_client_request_duration_seconds_count + -1 \
              miku_http_requests_in_flight + 0 miku_http_requests_unknown_total"]
        );
    }

    #[test]
    fn records_may_be_under_way_but_not_missing() {
        let at = |sent, told| Records { sent, told };
        assert!(Records::close(at(10.0, 10.0), at(10.0, 10.0)));
        assert!(Records::close(at(10.0, 8.0), at(10.0, 10.0)), "some were under way");
        assert!(Records::close(at(10.0, 12.0), at(14.0, 15.0)), "the one count was older than the other");
        assert!(!Records::close(at(10.0, 9.0), at(10.0, 9.0)), "one is missing");
        assert!(!Records::close(at(10.0, 11.0), at(10.0, 11.0)), "one was never made");
    }
}
