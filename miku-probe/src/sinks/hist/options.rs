//! What the user asked for, checked.

use std::ffi::OsStr;
use std::num::NonZero;
use std::str::FromStr;
use std::time::Duration;

use super::filter::Filter;
use super::line::Glyphs;

/// What to show, how, and how often.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How long an interval is.
    pub interval: Interval,
    /// How many intervals to show; `None` for no end.
    pub count: Option<NonZero<u64>>,
    /// For people or for machines.
    pub format: Format,
    /// Whether to use colours.
    pub color: ColorChoice,
    /// Which characters to draw with.
    pub glyphs: Glyphs,
    /// What is timed.
    pub subject: Subject,
    /// Which of them count.
    pub filter: Filter,
}

/// What is timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// HTTP exchanges.
    #[default]
    Exchanges,
    /// A bot's replies to people on Discord.
    Replies,
    /// Calls of language models.
    Calls,
}

impl Subject {
    /// One of them.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Exchanges => "exchange",
            Self::Replies => "reply",
            Self::Calls => "call",
        }
    }
}

/// For whom the output is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: a screen on a terminal, blocks of text elsewhere.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Whether to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorChoice {
    /// On a terminal that is not dumb, unless the variable `NO_COLOR` is set and not empty (<https://no-color.org>).
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Whether it comes to colours on an output that is a terminal or not, with these values of `NO_COLOR` and `TERM`.
    #[must_use]
    pub fn resolve(self, terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
        match self {
            Self::Auto => terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb"),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The length of an interval: 100 ms to one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(Duration);

/// A text that is no interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntervalError {
    /// It is not a number with a unit.
    #[error("expected a number of seconds, or a number with one of the units ms, s, m and h, such as `500ms`")]
    Syntax,
    /// It is too short or too long.
    #[error("an interval is from 100ms to 1h")]
    Range,
}

impl Default for Interval {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

impl Interval {
    /// The length.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for Interval {
    type Error = IntervalError;

    fn try_from(duration: Duration) -> Result<Self, IntervalError> {
        if (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&duration) {
            Ok(Self(duration))
        } else {
            Err(IntervalError::Range)
        }
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let seconds = match unit.trim_start() {
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(IntervalError::Syntax),
        };
        let number: f64 = number.parse().map_err(|_| IntervalError::Syntax)?;
        Duration::try_from_secs_f64(number * seconds).map_err(|_| IntervalError::Range)?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        for (text, millis) in
            [("1", 1_000), ("2.5", 2_500), ("500ms", 500), ("10 s", 10_000), ("1m", 60_000), ("1h", 3_600_000)]
        {
            assert_eq!(text.parse::<Interval>().expect(text).duration(), Duration::from_millis(millis));
        }
        for text in ["", "s", "1d", "-1", "1.2.3", "1e3", "inf"] {
            assert_eq!(text.parse::<Interval>(), Err(IntervalError::Syntax), "{text}");
        }
        for text in ["0", "99ms", "61m", "99999999999999999999999"] {
            assert_eq!(text.parse::<Interval>(), Err(IntervalError::Range), "{text}");
        }
    }

    #[test]
    fn colours_follow_the_terminal_and_no_color() {
        let set = Some(OsStr::new("1"));
        let empty = Some(OsStr::new(""));
        let dumb = Some(OsStr::new("dumb"));
        assert!(ColorChoice::Auto.resolve(true, None, Some(OsStr::new("xterm"))));
        assert!(ColorChoice::Auto.resolve(true, empty, None));
        assert!(!ColorChoice::Auto.resolve(true, set, None));
        assert!(!ColorChoice::Auto.resolve(true, None, dumb));
        assert!(!ColorChoice::Auto.resolve(false, None, None));
        assert!(ColorChoice::Always.resolve(false, set, dumb));
        assert!(!ColorChoice::Never.resolve(true, None, None));
    }
}
