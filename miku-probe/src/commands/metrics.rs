//! `miku-probe metrics`: every metric that the probe can export, whether or not it has a value now. It attaches nothing and
//! needs no privileges.

use std::io::Write;

use crate::sinks::metrics::{BuildInfo, FamilyInfo, Metrics};

/// Prints the catalogue to `output`: a line for each metric with its help beneath, or one JSON array.
///
/// # Errors
/// When `output` cannot be written.
pub fn run(json: bool, output: &mut impl Write) -> anyhow::Result<()> {
    let metrics = Metrics::new(&BuildInfo::current());
    let families = metrics.catalog();
    if json {
        // As a text first, so that a broken pipe is an error of the pipe and not of JSON.
        writeln!(output, "{}", serde_json::to_string_pretty(families)?)?;
        return Ok(());
    }
    for FamilyInfo { name, kind, labels, help, .. } in families {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(output, "{name}{labels} {}\n    {help}", kind.as_str())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool) -> String {
        let mut output = Vec::new();
        run(json, &mut output).expect("memory takes all");
        String::from_utf8(output).expect("it prints UTF-8")
    }

    #[test]
    fn lists_each_family_once_with_its_type_labels_and_help() {
        let families: Vec<serde_json::Value> = serde_json::from_str(&printed(true)).expect("it prints JSON");
        let names: Vec<&str> = families.iter().filter_map(|family| family["name"].as_str()).collect();
        assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
        let of = |name: &str| families.iter().find(|family| family["name"] == name).expect("it is exported");
        let lost = of("miku_probe_lost_total");
        assert_eq!((&lost["type"], &lost["labels"]), (&"counter".into(), &serde_json::json!(["where"])));
        let gpu = of("miku_gpu_process_memory_bytes");
        assert_eq!(gpu["labels"], serde_json::json!(["gpu", "service", "pid", "comm"]));
        assert_eq!(of("process_open_fds")["type"], "gauge");
        let duration = of("miku_discord_reply_duration_seconds");
        assert_eq!(duration["type"], "histogram");
        assert!(duration["buckets"].as_array().is_some_and(|buckets| buckets.len() > 10), "{duration}");
        for family in &families {
            assert!(family["help"].as_str().is_some_and(|help| help.ends_with('.')), "{family}");
        }
    }

    #[test]
    fn the_text_shows_the_same_families() {
        let text = printed(false);
        let names = text.lines().filter(|line| !line.starts_with(' ')).count();
        let families: Vec<serde_json::Value> = serde_json::from_str(&printed(true)).expect("it prints JSON");
        assert_eq!(names, families.len());
        let lost = "miku_probe_lost_total{where} counter\n    What was lost, by where it was lost.\n";
        assert!(text.contains(lost), "{text}");
    }
}
