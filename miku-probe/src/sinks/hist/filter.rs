//! Which exchanges, replies and calls the histogram counts.

use std::fmt;
use std::str::FromStr;

use regex::Regex;

use crate::observations::{Exchange, Names};
use crate::units::{ServiceId, Side};

/// A name, or a pattern in which each `*` stands for any run of characters, `/` among them.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// Absent when the text holds no `*` and is compared as it is.
    glob: Option<Regex>,
}

/// A pattern that can match nothing, or that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is empty.
    #[error("an empty pattern matches nothing; leave the filter out, or write `*`")]
    Empty,
    /// It is longer than a pattern may be.
    #[error("a pattern of more than {max} bytes", max = Pattern::MAX_BYTES)]
    TooLong,
}

impl Pattern {
    /// The longest pattern, in bytes; it bounds the memory of the compiled form.
    pub const MAX_BYTES: usize = 1024;

    /// Whether `text` is the name, or matches the pattern from its first character to its last.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.glob.as_ref().map_or(self.text == text, |glob| glob.is_match(text))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(PatternError::TooLong);
        }
        let glob = text.contains('*').then(|| {
            let parts: Vec<String> = text.split('*').map(regex::escape).collect();
            Regex::new(&format!("(?s)^{}$", parts.join(".*"))).expect("escaped text of bounded length always compiles")
        });
        Ok(Self { text: text.to_owned(), glob })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(formatter)
    }
}

/// What an exchange must be to count. An empty list lets everything pass; of a list, one entry has to match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Names of services.
    pub services: Vec<Pattern>,
    /// Sides.
    pub sides: Vec<Side>,
    /// Route templates.
    pub routes: Vec<Pattern>,
}

impl Filter {
    /// Whether `exchange` counts.
    #[must_use]
    pub fn passes(&self, exchange: &Exchange, names: &Names) -> bool {
        self.passes_side(exchange.service, exchange.side, names)
            && any(&self.routes, names.symbols.text(exchange.route))
    }

    /// Whether anything of `service` as this side counts.
    #[must_use]
    pub fn passes_side(&self, service: ServiceId, side: Side, names: &Names) -> bool {
        (self.sides.is_empty() || self.sides.contains(&side)) && self.passes_service(service, names)
    }

    /// Whether anything of `service` counts.
    #[must_use]
    pub fn passes_service(&self, service: ServiceId, names: &Names) -> bool {
        any(&self.services, names.service(service))
    }

    /// Its parts in words, such as `service bot`, `server side` and `route /api/*`; empty when everything passes.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        let list = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !self.services.is_empty() {
            parts.push(format!("service {}", list(&self.services)));
        }
        if !self.sides.is_empty() {
            let sides: Vec<&str> = self.sides.iter().map(|side| side.as_str()).collect();
            parts.push(format!("{} side", sides.join(", ")));
        }
        if !self.routes.is_empty() {
            parts.push(format!("route {}", list(&self.routes)));
        }
        parts
    }
}

/// Whether one of the patterns matches, if there are any.
fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect("a valid pattern")
    }

    #[test]
    fn a_name_matches_itself_alone() {
        assert!(pattern("/items/{id}").matches("/items/{id}"));
        assert!(!pattern("/items").matches("/items/{id}"));
        assert!(!pattern("bot").matches("robot"));
        assert!(!pattern("b.t").matches("bot"), "a dot is a dot");
    }

    #[test]
    fn a_star_stands_for_any_run() {
        assert!(pattern("*").matches(""));
        assert!(pattern("/api/*").matches("/api/v1/items/{id}"));
        assert!(pattern("*/items/*").matches("/api/items/{id}"));
        assert!(!pattern("/api/*").matches("/health"));
        assert!(!pattern("*.py").matches("xpy"));
        assert!(pattern("a*b").matches("a\nb"));
    }

    #[test]
    fn a_pattern_that_says_nothing_is_refused() {
        assert_eq!("".parse::<Pattern>().unwrap_err(), PatternError::Empty);
        assert_eq!("*".repeat(1025).parse::<Pattern>().unwrap_err(), PatternError::TooLong);
        assert!("é*".repeat(340).parse::<Pattern>().is_ok());
    }
}
