//! Numbers as people read them: three digits and a unit.

use super::line::Glyphs;
use crate::units::Nanos;

/// What stands where nothing was measured.
pub(super) const fn absent(glyphs: Glyphs) -> &'static str {
    match glyphs {
        Glyphs::Unicode => "–",
        Glyphs::Ascii => "-",
    }
}

/// A time in at most seven columns, such as `850 µs`, `1.23 ms`, `12.3 s` or `2m03s`.
pub(super) fn time(time: Nanos, glyphs: Glyphs) -> String {
    let micro = match glyphs {
        Glyphs::Unicode => "µs",
        Glyphs::Ascii => "us",
    };
    let seconds = time.seconds();
    // The borders stand where three digits round up to the next unit, so that no `1000 ms` comes out.
    if seconds < 999.5e-6 {
        format!("{} {micro}", three_digits(seconds * 1e6))
    } else if seconds < 999.5e-3 {
        format!("{} ms", three_digits(seconds * 1e3))
    } else if seconds < 59.95 {
        format!("{} s", three_digits(seconds))
    } else {
        let whole = (time.0 + 500_000_000) / 1_000_000_000;
        if whole < 3_600 {
            format!("{}m{:02}s", whole / 60, whole % 60)
        } else {
            format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60)
        }
    }
}

/// A bound of a bucket, in at most seven columns and without trailing zeros: `1 ms`, `12.5 ms`.
pub(super) fn bound(bound: Nanos, glyphs: Glyphs) -> String {
    let text = time(bound, glyphs);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// A time since the start: `02:03`, `1:02:03`, `3d 01:02:03`.
pub(super) fn elapsed(time: Nanos) -> String {
    let whole = time.0 / 1_000_000_000;
    let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// A count in at most seven columns: exact below a million, three digits above.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn count(count: u64) -> String {
    match count {
        0..1_000_000 => grouped(count),
        1_000_000..999_500_000 => format!("{}M", three_digits(count as f64 / 1e6)),
        _ => format!("{}G", three_digits(count as f64 / 1e9)),
    }
}

/// A rate per second in at most six columns.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are finite, not negative, and far below 2^64"
)]
pub(super) fn rate(rate: f64) -> String {
    if rate == 0.0 {
        "0".to_owned()
    } else if rate < 0.005 {
        "<0.01".to_owned()
    } else if rate < 99.95 {
        three_digits(rate)
    } else if rate < 99_999.5 {
        grouped(rate.round() as u64)
    } else if rate < 999_500.0 {
        format!("{}k", three_digits(rate / 1e3))
    } else {
        count(rate.round() as u64)
    }
}

/// A bound of a bucket of rates, in at most six columns and without trailing zeros.
pub(super) fn rate_bound(bound: f64) -> String {
    let text = rate(bound);
    if !text.contains('.') || !text.ends_with('0') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A share, from 0 to 1, as percent in at most five columns; empty when there is none.
pub(super) fn percent(share: f64) -> String {
    if share == 0.0 {
        String::new()
    } else if share < 0.0005 {
        "<0.1%".to_owned()
    } else if share < 0.9995 {
        format!("{:.1}%", share * 100.0)
    } else {
        "100%".to_owned()
    }
}

/// The rate of `count` things in `time`; `None` for no time at all.
#[allow(clippy::cast_precision_loss, reason = "a rate is shown with three digits")]
pub(super) fn rate_of(count: u64, time: Nanos) -> Option<f64> {
    (time.0 > 0).then(|| count as f64 / time.seconds())
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number below 1,000 with three digits.
fn three_digits(number: f64) -> String {
    if number < 9.995 {
        format!("{number:.2}")
    } else if number < 99.95 {
        format!("{number:.1}")
    } else {
        format!("{number:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases = [
            (1_000, "1.00 µs"),
            (12_345, "12.3 µs"),
            (999_499, "999 µs"),
            (999_500, "1.00 ms"),
            (9_994_999, "9.99 ms"),
            (9_995_000, "10.0 ms"),
            (123_456_789, "123 ms"),
            (999_499_999, "999 ms"),
            (999_500_000, "1.00 s"),
            (59_949_000_000, "59.9 s"),
            (59_950_000_000, "1m00s"),
            (123_000_000_000, "2m03s"),
            (3_599_500_000_000, "1h00m"),
            (86_400_000_000_000, "24h00m"),
        ];
        for (nanos, text) in cases {
            assert_eq!(time(Nanos(nanos), Glyphs::Unicode), text, "{nanos} ns");
        }
        assert_eq!(time(Nanos(12_345), Glyphs::Ascii), "12.3 us");
    }

    #[test]
    fn bounds_have_no_trailing_zeros() {
        let cases = [
            (1_000, "1 µs"),
            (1_250_000, "1.25 ms"),
            (12_500_000, "12.5 ms"),
            (100_000_000, "100 ms"),
            (2_000_000_000, "2 s"),
            (20_000_000_000, "20 s"),
            (100_000_000_000, "1m40s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(bound(Nanos(nanos), Glyphs::Unicode), text, "{nanos} ns");
        }
    }

    #[test]
    fn bounds_of_rates_have_no_trailing_zeros() {
        let cases = [(0.5, "0.5"), (2.0, "2"), (12.5, "12.5"), (20.0, "20"), (100.0, "100"), (1_000.0, "1,000")];
        for (number, text) in cases {
            assert_eq!(rate_bound(number), text);
        }
    }

    #[test]
    fn counts_and_rates_fit_seven_columns() {
        let cases = [(0, "0"), (999, "999"), (999_999, "999,999"), (1_234_567, "1.23M"), (12_345_678_901, "12.3G")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        let cases = [
            (0.0, "0"),
            (0.001, "<0.01"),
            (0.05, "0.05"),
            (9.876, "9.88"),
            (98.04, "98.0"),
            (12_345.6, "12,346"),
            (123_456.0, "123k"),
            (1.5e6, "1.50M"),
        ];
        for (number, text) in cases {
            assert_eq!(rate(number), text);
        }
    }

    #[test]
    fn a_small_share_is_not_nothing() {
        let cases = [(0.0, ""), (0.0001, "<0.1%"), (0.1234, "12.3%"), (0.9994, "99.9%"), (1.0, "100%")];
        for (share, text) in cases {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn elapsed_time_reads_as_a_clock() {
        let cases = [(0, "00:00"), (123, "02:03"), (3_723, "1:02:03"), (262_923, "3d 01:02:03")];
        for (seconds, text) in cases {
            assert_eq!(elapsed(Nanos(seconds * 1_000_000_000)), text);
        }
    }

    #[test]
    fn no_time_has_no_rate() {
        assert_eq!(rate_of(5, Nanos(0)), None);
        assert_eq!(rate_of(5, Nanos(2_000_000_000)), Some(2.5));
    }
}
