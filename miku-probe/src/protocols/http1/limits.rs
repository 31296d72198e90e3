//! What an answer's head says of rate limits: numbers from a few named headers, and nothing else.

use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use httparse::Header;

use crate::observations::RateLimitScope;
use crate::units::Nanos;

/// What an answer says of rate limits, in the headers `X-RateLimit-Limit`, `-Remaining`, `-Scope` and `-Global`
/// (<https://discord.com/developers/docs/topics/rate-limits>) and `Retry-After` (RFC 9110, section 10.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// How many requests the caller has in all until the limit resets; more than 65,535 are not told.
    pub limit: Option<NonZeroU16>,
    /// How many of these are left; more than 65,535 are not told.
    pub remaining: Option<u16>,
    /// Whom the limit counts together.
    pub scope: Option<RateLimitScope>,
    /// In milliseconds, rounded up, so that none at all is told as 1.
    retry_after: Option<NonZeroU32>,
}

impl RateLimit {
    /// How long the caller is asked to wait, when the answer says so in seconds; at most some 49 days are told.
    #[must_use]
    pub fn retry_after(&self) -> Option<Nanos> {
        self.retry_after.map(|milliseconds| Nanos(u64::from(milliseconds.get()) * 1_000_000))
    }

    /// How much of the limit is left, from 0 to 1, when the answer says both.
    #[must_use]
    pub fn remaining_ratio(&self) -> Option<f64> {
        let (limit, remaining) = (self.limit?, self.remaining?);
        Some((f64::from(remaining) / f64::from(limit.get())).min(1.0))
    }

    /// Reads the headers of an answer.
    pub(super) fn of(headers: &[Header<'_>]) -> Self {
        let mut found = Self::default();
        let mut global = false;
        for Header { name, value } in headers {
            match name.len() {
                11 if name.eq_ignore_ascii_case("retry-after") => found.retry_after = milliseconds(value),
                17 if name.eq_ignore_ascii_case("x-ratelimit-limit") => {
                    found.limit = number(value).and_then(NonZeroU16::new);
                }
                17 if name.eq_ignore_ascii_case("x-ratelimit-scope") => found.scope = scope(value),
                18 if name.eq_ignore_ascii_case("x-ratelimit-global") => global = value.eq_ignore_ascii_case(b"true"),
                21 if name.eq_ignore_ascii_case("x-ratelimit-remaining") => {
                    found.remaining = number(value);
                }
                _ => {}
            }
        }
        if global && found.scope.is_none() {
            found.scope = Some(RateLimitScope::Global);
        }
        found
    }
}

fn scope(value: &[u8]) -> Option<RateLimitScope> {
    [RateLimitScope::User, RateLimitScope::Global, RateLimitScope::Shared]
        .into_iter()
        .find(|scope| value.eq_ignore_ascii_case(scope.as_str().as_bytes()))
}

/// A whole number without a sign.
fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if plain { str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// Seconds, with a fraction or without; a date is none.
fn milliseconds(value: &[u8]) -> Option<NonZeroU32> {
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b"0"[..]),
    };
    if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let thousandths = fraction.iter().chain(b"000").take(3).fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let more = u32::from(fraction.iter().skip(3).any(|digit| *digit != b'0'));
    let milliseconds = number::<u32>(whole)?.saturating_mul(1000).saturating_add(thousandths + more);
    NonZeroU32::new(milliseconds.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)]) -> RateLimit {
        let headers: Vec<_> = headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        RateLimit::of(&headers)
    }

    #[test]
    fn the_headers_of_discord() {
        let told = of(&[
            ("X-RateLimit-Limit", "5"),
            ("x-ratelimit-remaining", "0"),
            ("X-RateLimit-Reset", "1470173023.123"),
            ("X-RateLimit-Reset-After", "64.57"),
            ("X-RateLimit-Bucket", "abcd1234"),
            ("X-RateLimit-Scope", "shared"),
            ("Retry-After", "65"),
        ]);
        assert_eq!((told.limit, told.remaining), (NonZeroU16::new(5), Some(0)));
        assert_eq!((told.scope, told.retry_after()), (Some(RateLimitScope::Shared), Some(Nanos(65_000_000_000))));
        assert_eq!(told.remaining_ratio(), Some(0.0));
        let ratio = |limit, remaining| {
            of(&[("X-RateLimit-Limit", limit), ("X-RateLimit-Remaining", remaining)]).remaining_ratio()
        };
        assert_eq!([ratio("5", "4"), ratio("5", "6"), ratio("0", "1")], [Some(0.8), Some(1.0), None]);
        assert_eq!(of(&[("Content-Length", "5"), ("Server", "x")]), RateLimit::default());
    }

    #[test]
    fn the_scope_may_be_told_in_two_ways() {
        let scope = |headers| of(headers).scope;
        assert_eq!(scope(&[("X-RateLimit-Global", "true")]), Some(RateLimitScope::Global));
        assert_eq!(scope(&[("X-RateLimit-Global", "false")]), None);
        let both = [("X-RateLimit-Global", "true"), ("X-RateLimit-Scope", "user")];
        assert_eq!(scope(&both), Some(RateLimitScope::User), "the newer header is the more exact");
        assert_eq!(scope(&[("X-RateLimit-Scope", "everybody")]), None);
    }

    #[test]
    fn numbers_that_are_none_are_not_told() {
        let wait = |value| of(&[("Retry-After", value)]).retry_after().map(|wait| wait.0 / 1_000_000);
        for (value, expected) in [
            ("1", Some(1000)),
            ("0.3", Some(300)),
            ("1.0649", Some(1065)),
            ("0", Some(1)),
            ("4294967296", None),
            ("4294967295", Some(u64::from(u32::MAX))),
            ("-1", None),
            ("1.", None),
            (".5", None),
            ("1e3", None),
            ("inf", None),
            ("", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            assert_eq!(wait(value), expected, "{value:?}");
        }
        let told = of(&[("X-RateLimit-Limit", "0"), ("X-RateLimit-Remaining", "70000")]);
        assert_eq!((told.limit, told.remaining), (None, None));
    }
}
