//! Route templates: what a path becomes before it may be a label.
//!
//! A path comes off the wire, so it may be anything, and it may hold secrets. A [`RouteTable`] makes it one of a bounded
//! number of texts:
//!
//! 1. The first configured [`RoutePattern`] that matches, in the order of configuration, as Starlette and FastAPI do it.
//! 2. Else the automatic [`template`], as long as there are fewer than the table's cap.
//! 3. Else [`OTHER`], and the caller is told that the cap was what did it.
//!
//! An automatic template takes one of the places only with an answer that shows that there is such a route: neither
//! without a status nor with 404 or 405. So whoever tries out paths fills [`OTHER`] and no places. That is not told as
//! overflow: no cap was reached, and a real route gets its place with its first other answer.
//!
//! Nothing is kept for a path, only for a template, so that no stream of paths makes the table grow. A path that is its
//! own template, which most are, is found by one look-up without further work.

mod automatic;
#[cfg(test)]
mod tests;

pub use automatic::{SEGMENTS_MAX, TEMPLATE_MAX, template};

use std::collections::HashMap;
use std::str::FromStr;

use regex::{RegexSet, RegexSetBuilder};
use thiserror::Error;

use crate::units::{Symbol, Symbols};

/// The route of all paths that have none of their own. No template equals it.
pub const OTHER: &str = "other";

/// How many automatic templates a service has, unless configured otherwise.
pub const DEFAULT_CAP: usize = 100;

/// Why a route pattern, or a list of them, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// Routes start at the root.
    #[error("the route {0:?} does not begin with a slash")]
    NoSlash(String),
    /// A brace without its partner.
    #[error("the route {0:?} has an unbalanced brace")]
    Unbalanced(String),
    /// Between braces stands no parameter name.
    #[error("the route {route:?} has a parameter {name:?}, which is no name of letters, digits and underscores")]
    Name {
        /// The pattern.
        route: String,
        /// What stands where the name should.
        name: String,
    },
    /// Two parameters have one name.
    #[error("the route {route:?} has the parameter {name:?} twice")]
    Duplicate {
        /// The pattern.
        route: String,
        /// The name.
        name: String,
    },
    /// After the colon stands no convertor that Starlette has.
    #[error("the route {route:?} has an unknown convertor {convertor:?}: str, int, float, uuid and path are known")]
    Convertor {
        /// The pattern.
        route: String,
        /// What stands where the convertor should.
        convertor: String,
    },
    /// The patterns together are too large to be compiled.
    #[error("the route patterns are too many or too long: {0}")]
    TooLarge(String),
}

/// A configured route, as FastAPI and Starlette write them: `/users/{id}`, `/files/{rest:path}`.
///
/// Convertors are Starlette's: `str` (the default: anything but a slash), `int`, `float`, `uuid` and `path`. The path is
/// matched after percent-decoding the characters that a segment may contain literally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePattern {
    text: String,
    expression: String,
}

impl RoutePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is no route that Starlette would take.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        if !text.starts_with('/') {
            return Err(RouteError::NoSlash(text.into()));
        }
        let unbalanced = || RouteError::Unbalanced(text.into());
        let mut names = Vec::new();
        let mut expression = String::from("^");
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (parameter, after) = after.split_once('}').ok_or_else(unbalanced)?;
            if literal.contains('}') || parameter.contains('{') {
                return Err(unbalanced());
            }
            expression.push_str(&regex::escape(literal));
            let (name, convertor) = parameter.split_once(':').unwrap_or((parameter, "str"));
            let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
            if !valid {
                return Err(RouteError::Name { route: text.into(), name: name.into() });
            }
            if names.contains(&name) {
                return Err(RouteError::Duplicate { route: text.into(), name: name.into() });
            }
            names.push(name);
            expression.push_str(match convertor {
                "str" => "[^/]+",
                "int" => "[0-9]+",
                "float" => r"[0-9]+(?:\.[0-9]+)?",
                "uuid" => "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
                "path" => "(?s:.*)",
                _ => return Err(RouteError::Convertor { route: text.into(), convertor: convertor.into() }),
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err(unbalanced());
        }
        expression.push_str(&regex::escape(rest));
        expression.push('$');
        Ok(Self { text: text.into(), expression })
    }

    /// The pattern as it was written, which is the label's value.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for RoutePattern {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        Self::parse(text)
    }
}

/// The routes of one service.
#[derive(Debug)]
pub struct RouteTable {
    patterns: Vec<(RoutePattern, Option<Symbol>)>,
    expressions: RegexSet,
    /// The automatic templates that have a place.
    templates: HashMap<Box<str>, Symbol>,
    cap: usize,
    other: Option<Symbol>,
    /// The template at hand.
    scratch: String,
}

impl RouteTable {
    /// A table of configured patterns, and at most `cap` automatic templates beside them.
    ///
    /// # Errors
    /// When the patterns are more than the regular expression engine takes.
    pub fn new(patterns: Vec<RoutePattern>, cap: usize) -> Result<Self, RouteError> {
        let expressions = RegexSetBuilder::new(patterns.iter().map(|pattern| &pattern.expression))
            .build()
            .map_err(|error| RouteError::TooLarge(error.to_string()))?;
        let patterns = patterns.into_iter().map(|pattern| (pattern, None)).collect();
        Ok(Self { patterns, expressions, templates: HashMap::new(), cap, other: None, scratch: String::new() })
    }

    /// The route that somebody else made a template of, and whether it is [`OTHER`] because the cap is reached.
    ///
    /// `template` holds no value of the path's, and there is such a route, whatever the answer.
    pub fn known(&mut self, template: &str, symbols: &mut Symbols) -> (Symbol, bool) {
        if let Some(symbol) = self.templates.get(template) {
            return (*symbol, false);
        }
        if self.templates.len() < self.cap {
            let symbol = symbols.intern(template);
            self.templates.insert(template.into(), symbol);
            return (symbol, false);
        }
        (*self.other.get_or_insert_with(|| symbols.intern(OTHER)), true)
    }

    /// The route of `path`, and whether it is [`OTHER`] because the cap is reached.
    ///
    /// `path` is without query and fragment. An empty one, as that of a `CONNECT` or of a request that was not seen, has
    /// the empty route.
    pub fn route(&mut self, path: &str, status: Option<u16>, symbols: &mut Symbols) -> (Symbol, bool) {
        if path.is_empty() {
            return (Symbol::EMPTY, false);
        }
        // Only paths that no pattern matches ever become templates, so this look-up may come first. A path that spells
        // out a template's braces finds that template: a route that is counted anyway.
        if let Some(symbol) = self.templates.get(path) {
            return (*symbol, false);
        }
        if !self.patterns.is_empty()
            && let Some(first) = self.expressions.matches(path).iter().next()
        {
            let (pattern, symbol) = &mut self.patterns[first];
            return (*symbol.get_or_insert_with(|| symbols.intern(&pattern.text)), false);
        }
        self.scratch.clear();
        template(path, &mut self.scratch);
        if let Some(symbol) = self.templates.get(self.scratch.as_str()) {
            return (*symbol, false);
        }
        if matches!(status, None | Some(404 | 405)) {
            return (*self.other.get_or_insert_with(|| symbols.intern(OTHER)), false);
        }
        let template = std::mem::take(&mut self.scratch);
        let route = self.known(&template, symbols);
        self.scratch = template;
        route
    }
}
