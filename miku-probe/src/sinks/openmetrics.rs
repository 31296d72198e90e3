//! The text format of OpenMetrics 1.0, for families gathered from a registry of the `prometheus` crate, which writes
//! only the older text format itself.
//!
//! The format is that of <https://prometheus.io/docs/specs/om/open_metrics_spec/>. Optional parts that the registry
//! does not hold, exemplars and creation times, are left out.

use std::io::{self, Write};

use prometheus::proto::{LabelPair, MetricFamily, MetricType};

/// The media type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Units that a family's name may end in. A `# UNIT` line must repeat the name's own suffix.
const UNITS: [&str; 9] = ["seconds", "bytes", "joules", "ratio", "celsius", "watts", "hertz", "volts", "meters"];

/// Writes all families and the end mark.
///
/// # Errors
/// Those of the writer; and [`io::ErrorKind::InvalidInput`] for a family of a type that this program does not use
/// (summary, untyped).
pub fn encode(families: &[MetricFamily], writer: &mut impl Write) -> io::Result<()> {
    for family in families {
        encode_family(family, writer)?;
    }
    writer.write_all(b"# EOF\n")
}

fn encode_family(family: &MetricFamily, writer: &mut impl Write) -> io::Result<()> {
    let (name, kind) = match family.get_field_type() {
        // The suffix belongs to a counter's sample, not to its family.
        MetricType::COUNTER => (family.name().strip_suffix("_total").unwrap_or(family.name()), "counter"),
        MetricType::GAUGE => (family.name(), "gauge"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        MetricType::SUMMARY | MetricType::UNTYPED => {
            let message = format!("{} is neither counter, gauge nor histogram", family.name());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    };
    writeln!(writer, "# TYPE {name} {kind}")?;
    if let Some(unit) = name.rsplit_once('_').map(|(_, suffix)| suffix).filter(|suffix| UNITS.contains(suffix)) {
        writeln!(writer, "# UNIT {name} {unit}")?;
    }
    if !family.help().is_empty() {
        write!(writer, "# HELP {name} ")?;
        write_escaped(writer, family.help())?;
        writer.write_all(b"\n")?;
    }
    for metric in family.get_metric() {
        let labels = metric.get_label();
        match family.get_field_type() {
            MetricType::COUNTER => {
                write_sample(writer, name, "_total", labels, None, metric.get_counter().get_value())?;
            }
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite()) {
                    let bound = Some(bucket.upper_bound());
                    write_sample(writer, name, "_bucket", labels, bound, count(bucket.cumulative_count()))?;
                }
                let all = count(histogram.get_sample_count());
                write_sample(writer, name, "_bucket", labels, Some(f64::INFINITY), all)?;
                write_sample(writer, name, "_count", labels, None, all)?;
                write_sample(writer, name, "_sum", labels, None, histogram.get_sample_sum())?;
            }
            _ => write_sample(writer, name, "", labels, None, metric.get_gauge().get_value())?,
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "the format's numbers are doubles, exact up to 2^53")]
fn count(count: u64) -> f64 {
    count as f64
}

fn write_sample(
    writer: &mut impl Write,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<f64>,
    value: f64,
) -> io::Result<()> {
    write!(writer, "{name}{suffix}")?;
    let mut separator = "{";
    for label in labels {
        write!(writer, "{separator}{}=\"", label.name())?;
        write_escaped(writer, label.value())?;
        writer.write_all(b"\"")?;
        separator = ",";
    }
    if let Some(bound) = bound {
        write!(writer, "{separator}le=\"{}\"", canonical(bound))?;
        separator = ",";
    }
    if separator == "," {
        writer.write_all(b"}")?;
    }
    if value.is_finite() { writeln!(writer, " {value}") } else { writeln!(writer, " {}", canonical(value)) }
}

/// A number in the format's canonical form, in which all exposers write the same bound alike: that of Go's `%g`, and
/// never without a point or an exponent.
fn canonical(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    if number == 0.0 || (1e-4..1e6).contains(&number.abs()) {
        return format!("{number:?}");
    }
    let scientific = format!("{number:e}");
    match scientific.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => scientific,
    }
}

/// Writes a text with the three characters escaped that help texts and label values may not hold.
fn write_escaped(writer: &mut impl Write, text: &str) -> io::Result<()> {
    let mut rest = text;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        let (plain, special) = rest.split_at(at);
        writer.write_all(plain.as_bytes())?;
        writer.write_all(match special.as_bytes()[0] {
            b'\n' => b"\\n",
            b'"' => b"\\\"",
            _ => b"\\\\",
        })?;
        rest = &special[1..];
    }
    writer.write_all(rest.as_bytes())
}

#[cfg(test)]
mod tests {
    use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};

    use super::*;

    fn encoded(registry: &Registry) -> String {
        let mut text = Vec::new();
        encode(&registry.gather(), &mut text).expect("a Vec takes all");
        String::from_utf8(text).expect("the format is UTF-8")
    }

    #[test]
    fn writes_all_types_as_the_specification_shows_them() {
        let registry = Registry::new();
        let requests =
            IntCounterVec::new(Opts::new("sent_bytes_total", "Back\\slash, \"quotes\" and\na line."), &["path"])
                .expect("valid");
        requests.with_label_values(&["C:\\DIR\\\n\"FILE\""]).inc_by(17);
        let seconds = Counter::new("cpu_seconds_total", "CPU.").expect("valid");
        seconds.inc_by(0.25);
        let gauge = Gauge::new("queue_length", "Queue.").expect("valid");
        gauge.set(-1.5);
        let histogram = Histogram::with_opts(HistogramOpts {
            common_opts: Opts::new("wait_seconds", "Wait.").const_label("side", "server"),
            buckets: vec![0.00001, 0.005, 1.0, 300.0],
        })
        .expect("valid");
        // Doubles whose sum is exact.
        for value in [0.5, 2.0, 512.0] {
            histogram.observe(value);
        }
        registry.register(Box::new(requests)).expect("new");
        registry.register(Box::new(seconds)).expect("new");
        registry.register(Box::new(gauge)).expect("new");
        registry.register(Box::new(histogram)).expect("new");
        let golden = r##"# TYPE cpu_seconds counter
# UNIT cpu_seconds seconds
# HELP cpu_seconds CPU.
cpu_seconds_total 0.25
# TYPE queue_length gauge
# HELP queue_length Queue.
queue_length -1.5
# TYPE sent_bytes counter
# UNIT sent_bytes bytes
# HELP sent_bytes Back\\slash, \"quotes\" and\na line.
sent_bytes_total{path="C:\\DIR\\\n\"FILE\""} 17
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
# HELP wait_seconds Wait.
wait_seconds_bucket{side="server",le="1e-05"} 0
wait_seconds_bucket{side="server",le="0.005"} 0
wait_seconds_bucket{side="server",le="1.0"} 1
wait_seconds_bucket{side="server",le="300.0"} 2
wait_seconds_bucket{side="server",le="+Inf"} 3
wait_seconds_count{side="server"} 3
wait_seconds_sum{side="server"} 514.5
# EOF
"##;
        assert_eq!(encoded(&registry), golden);
    }

    #[test]
    fn nothing_gathered_is_still_a_whole_text() {
        assert_eq!(encoded(&Registry::new()), "# EOF\n");
    }

    #[test]
    fn bounds_are_canonical() {
        // The specification's own examples, in its section on canonical numbers.
        for (number, text) in [
            (0.0, "0.0"),
            (1e-10, "1e-10"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (0.001, "0.001"),
            (0.9, "0.9"),
            (1.0, "1.0"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1e10, "1e+10"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(canonical(number), text, "of {number:e}");
        }
    }
}
