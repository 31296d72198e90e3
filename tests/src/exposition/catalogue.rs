//! Every metric that a probe can export, as the probe itself lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Exposition, Line, SUFFIXES};

/// The label of a bucket's upper bound.
pub(super) const BOUND: &str = "le";

/// How many names a message proposes for one that does not exist.
const PROPOSALS: usize = 3;

/// All families that a probe can export.
#[derive(Debug)]
pub struct Catalogue {
    families: BTreeMap<String, Family>,
}

/// One family: a metric with all of its series.
#[derive(Debug)]
pub struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    /// Upper bounds of a histogram's buckets but the last, which has none.
    bounds: Vec<f64>,
}

impl Family {
    fn parse(value: &Value) -> Result<(String, Self)> {
        let text = |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no {key:?}"));
        let array = |key: &str| value[key].as_array().with_context(|| format!("no {key:?}"));
        let (name, kind, help) = (text("name")?, text("type")?, text("help")?);
        ensure!(matches!(kind.as_str(), "counter" | "gauge" | "histogram"), "{kind:?} is no type");
        ensure!(!help.trim().is_empty(), "no help text");
        ensure!((kind == "counter") == name.ends_with("_total"), "{name} is a {kind}");
        let label = |label: &Value| label.as_str().map(str::to_owned).context("a label that is no text");
        let labels = array("labels")?.iter().map(label).collect::<Result<BTreeSet<_>>>()?;
        ensure!(labels.len() == array("labels")?.len() && !labels.contains(BOUND), "the labels are {labels:?}");
        let bound = |bound: &Value| bound.as_f64().context("a bound that is no number");
        let bounds = match kind.as_str() {
            "histogram" => array("buckets")?.iter().map(bound).collect::<Result<Vec<_>>>()?,
            _ => Vec::new(),
        };
        ensure!((kind == "histogram") != bounds.is_empty(), "{} buckets", bounds.len());
        ensure!(bounds.is_sorted_by(|low, high| low < high), "the buckets do not rise: {bounds:?}");
        Ok((name, Self { kind, help, labels, bounds }))
    }

    /// Its type: `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The names of its labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// The upper bounds of its buckets, the infinite one included.
    pub fn bounds(&self) -> impl Iterator<Item = f64> + '_ {
        self.bounds.iter().copied().chain([f64::INFINITY])
    }

    /// Whether samples of this name may have a label.
    pub(super) fn has_label(&self, sample: &str, label: &str) -> bool {
        self.labels.contains(label) || (label == BOUND && self.kind == "histogram" && sample.ends_with("_bucket"))
    }

    fn has_bound(&self, text: &str) -> bool {
        text == "+Inf" || text.parse().is_ok_and(|bound| self.bounds.contains(&bound))
    }
}

impl Catalogue {
    /// Asks a binary of the probe for its catalogue, which is kept as long as this program runs.
    ///
    /// # Errors
    /// When it does not run, or what it prints is no catalogue.
    pub fn of(binary: &Path) -> Result<&'static Self> {
        let output = Command::new(binary).args(["metrics", "--json"]).output();
        let output = output.with_context(|| format!("running {}", binary.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{} metrics --json` failed: {}", binary.display(), complaint.trim());
        let value = serde_json::from_slice(&output.stdout).context("`metrics --json` prints no JSON")?;
        Ok(Box::leak(Box::new(Self::parse(&value)?)))
    }

    /// Reads an array of families: objects with `name`, `type`, `labels`, `help`, and `buckets` for histograms.
    ///
    /// # Errors
    /// When it is something else, is empty, or has a family twice.
    pub fn parse(value: &Value) -> Result<Self> {
        let mut families = BTreeMap::new();
        for family in value.as_array().context("the catalogue is no array")? {
            let (name, family) = Family::parse(family).with_context(|| format!("the family {family}"))?;
            ensure!(families.insert(name.clone(), family).is_none(), "{name} is there twice");
        }
        ensure!(!families.is_empty(), "the catalogue is empty");
        Ok(Self { families })
    }

    /// The family of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn family(&self, name: &str) -> &Family {
        self.families.get(name).unwrap_or_else(|| panic!("{}", self.unknown(name)))
    }

    fn is_histogram(&self, name: &str) -> bool {
        self.families.get(name).is_some_and(|family| family.kind == "histogram")
    }

    /// The family of samples of this name: a histogram's end in `_bucket`, `_sum` or `_count`.
    pub(super) fn of_sample(&self, sample: &str) -> Option<&Family> {
        let plain = self.families.get(sample).filter(|family| family.kind != "histogram");
        plain.or_else(|| {
            let family = |suffix| self.families.get(sample.strip_suffix(suffix)?);
            SUFFIXES.into_iter().find_map(family).filter(|family| family.kind == "histogram")
        })
    }

    /// The family that a query for samples of this name and with these labels is about.
    ///
    /// # Panics
    /// When the probe has no such metric, the metric no such label, or the histogram no such bound.
    #[track_caller]
    pub(super) fn queried(&self, sample: &str, labels: &[(&str, &str)]) -> &Family {
        let family = self.of_sample(sample).unwrap_or_else(|| panic!("{}", self.unknown(sample)));
        for (label, value) in labels {
            let known = &family.labels;
            assert!(family.has_label(sample, label), "{sample} has no label {label:?}; it has {known:?}");
            let bounds = &family.bounds;
            assert!(*label != BOUND || family.has_bound(value), "{sample} has no bound {value:?}; it has {bounds:?}");
        }
        family
    }

    /// Asserts that some metric begins so: what begins otherwise would be absent however much is exported.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub(super) fn assert_prefix(&self, prefix: &str) {
        assert!(self.families.keys().any(|name| name.starts_with(prefix)), "no metric's name begins with {prefix:?}");
    }

    /// Asserts that some metric has this label.
    ///
    /// # Panics
    /// When none has.
    #[track_caller]
    pub(super) fn assert_label(&self, label: &str) {
        assert!(self.families.values().any(|family| family.labels.contains(label)), "no metric has a label {label:?}");
    }

    fn unknown(&self, sample: &str) -> String {
        let names = self.families.iter().flat_map(|(name, family)| match family.kind.as_str() {
            "histogram" => SUFFIXES.iter().map(|suffix| format!("{name}{suffix}")).collect(),
            _ => vec![name.clone()],
        });
        let mut names: Vec<_> = names.map(|name| (strsim::levenshtein(&name, sample), name)).collect();
        names.sort();
        let nearest: Vec<_> = names.into_iter().take(PROPOSALS).map(|(_, name)| name).collect();
        format!("the probe exports no {sample}; the nearest are {}", nearest.join(", "))
    }

    /// Checks that a text exports nothing else than this, and each family as it is here.
    pub(super) fn check(&self, exposition: &Exposition) -> Result<()> {
        for (name, kind) in &exposition.types {
            let Some(family) = self.families.get(name) else { bail!("{name} is not in the catalogue") };
            ensure!(*kind == family.kind, "{name} is a {kind}, and a {} in the catalogue", family.kind);
            let help = exposition.helps.get(name).with_context(|| format!("{name} has no HELP line"))?;
            ensure!(*help == family.help, "the help of {name} is {help:?}, and in the catalogue {:?}", family.help);
        }
        for name in exposition.helps.keys() {
            ensure!(exposition.types.contains_key(name), "{name} has a HELP line and no TYPE line");
        }
        for line in &exposition.lines {
            let name = &line.name;
            let family = self.of_sample(name).with_context(|| format!("{name} is not in the catalogue"))?;
            for label in line.labels.keys() {
                ensure!(family.has_label(name, label), "{name} has a label {label:?} that the catalogue does not have");
            }
        }
        self.check_histograms(exposition)
    }

    /// Checks that every series of a histogram has the catalogue's buckets, whose counts rise to the number of all.
    fn check_histograms(&self, exposition: &Exposition) -> Result<()> {
        let mut series: BTreeMap<(&str, Labels<'_>), Buckets<'_>> = BTreeMap::new();
        for Line { name: sample, labels, value } in &exposition.lines {
            let parts = SUFFIXES.iter().find_map(|suffix| Some((sample.strip_suffix(suffix)?, *suffix)));
            let Some((name, suffix)) = parts.filter(|(name, _)| self.is_histogram(name)) else { continue };
            let others = labels.iter().filter(|(label, _)| *label != BOUND).collect();
            let series = series.entry((name, others)).or_default();
            match suffix {
                "_bucket" => {
                    let bound = labels.get(BOUND).with_context(|| format!("a bucket of {name} without a bound"))?;
                    series.counts.push((bound, *value));
                }
                "_sum" => series.sum = Some(*value),
                _ => series.count = Some(*value),
            }
        }
        for ((name, labels), Buckets { counts, sum, count }) in series {
            let about = || format!("{name} {labels:?}: buckets {counts:?}, sum {sum:?}, count {count:?}");
            let bounds = counts.iter().map(|(bound, _)| bound.trim_start_matches('+').parse::<f64>());
            let bounds = bounds.collect::<Result<Vec<_>, _>>().with_context(about)?;
            ensure!(bounds == self.families[name].bounds().collect::<Vec<_>>(), "other bounds: {}", about());
            ensure!(counts.is_sorted_by_key(|(_, count)| *count), "buckets that fall: {}", about());
            ensure!(
                sum.is_some() && counts.last().map(|(_, all)| *all) == count,
                "no sum or another count: {}",
                about()
            );
        }
        Ok(())
    }
}

/// Labels of a series.
type Labels<'a> = Vec<(&'a String, &'a String)>;

/// What a text says of one series of a histogram.
#[derive(Debug, Default)]
struct Buckets<'a> {
    counts: Vec<(&'a String, f64)>,
    sum: Option<f64>,
    count: Option<f64>,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A counter, a gauge and a histogram.
    pub(in crate::exposition) fn small() -> Catalogue {
        Catalogue::parse(&json!([
            {"name": "probe_lost_total", "type": "counter", "labels": ["place", "service"], "help": "Lost."},
            {"name": "probe_up", "type": "gauge", "labels": [], "help": "Up."},
            {"name": "wait_seconds", "type": "histogram", "labels": ["service"], "help": "Wait.", "buckets": [0.5, 1]},
        ]))
        .expect("it is a catalogue")
    }

    pub(in crate::exposition) const EXPORTED: &str = concat!(
        "# HELP probe_lost_total Lost.\n# TYPE probe_lost_total counter\n",
        "probe_lost_total{place=\"ring\",service=\"bot\"} 0\nprobe_lost_total{place=\"table\"} 3\n",
        "# HELP wait_seconds Wait.\n# TYPE wait_seconds histogram\n",
        "wait_seconds_bucket{service=\"bot\",le=\"0.5\"} 1\nwait_seconds_bucket{service=\"bot\",le=\"1\"} 1\n",
        "wait_seconds_bucket{service=\"bot\",le=\"+Inf\"} 2\nwait_seconds_sum{service=\"bot\"} 7.25\n",
        "wait_seconds_count{service=\"bot\"} 2\n",
    );

    fn check(text: &str) -> Result<()> {
        small().check(&Exposition::read(text).expect("the text is well formed"))
    }

    #[test]
    fn takes_what_it_has() {
        check(EXPORTED).expect("all of it is in the catalogue");
        check("").expect("nothing has to be exported");
    }

    #[test]
    fn refuses_what_it_does_not_have() {
        for (from, to, why) in [
            ("probe_lost_total", "probe_lots_total", "probe_lots_total is not in the catalogue"),
            ("TYPE probe_lost_total counter", "TYPE probe_lost_total gauge", "and a counter in the catalogue"),
            ("# HELP probe_lost_total Lost.\n", "", "probe_lost_total has no HELP line"),
            ("total Lost.", "total Gone.", "the help of probe_lost_total"),
            ("place=\"ring\"", "where=\"ring\"", "a label \"where\""),
            ("wait_seconds_sum{", "wait_seconds_sum{le=\"1\",", "a label \"le\""),
            ("wait_seconds_sum{service=\"bot\"} 7.25\n", "", "no sum"),
            ("le=\"0.5\"", "le=\"0.25\"", "other bounds"),
            ("wait_seconds_bucket{service=\"bot\",le=\"1\"} 1\n", "", "other bounds"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 2", "buckets that fall"),
            ("wait_seconds_count{service=\"bot\"} 2", "wait_seconds_count{service=\"bot\"} 3", "another count"),
        ] {
            let text = EXPORTED.replace(from, to);
            assert_ne!(text, EXPORTED, "{from:?} is nowhere");
            let error = check(&text).expect_err(why);
            assert!(format!("{error:#}").contains(why), "not {why:?} but {error:#}");
        }
        check("# HELP probe_up Up.\n").expect_err("a HELP line without a TYPE line");
    }

    #[test]
    fn is_no_catalogue() {
        let family = json!({"name": "a_total", "type": "counter", "labels": ["x"], "help": "A."});
        let with = |key: &str, value: Value| {
            let mut family = family.clone();
            family[key] = value;
            json!([family])
        };
        Catalogue::parse(&json!([family])).expect("this is one");
        for bad in [
            json!([]),
            json!({}),
            json!([family, family]),
            with("type", json!("summary")),
            with("type", json!("gauge")),
            with("name", json!("a")),
            with("help", json!("")),
            with("labels", json!(["x", "x"])),
            with("labels", json!(["le"])),
            with("labels", Value::Null),
            json!([{"name": "h", "type": "histogram", "labels": [], "help": "H."}]),
            json!([{"name": "h", "type": "histogram", "labels": [], "help": "H.", "buckets": []}]),
            json!([{"name": "h", "type": "histogram", "labels": [], "help": "H.", "buckets": [2, 1]}]),
        ] {
            assert!(Catalogue::parse(&bad).is_err(), "{bad} was taken");
        }
    }
}
