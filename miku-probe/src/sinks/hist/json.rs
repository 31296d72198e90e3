//! Frames as JSON: one object a line.
//!
//! | member | holds |
//! |---|---|
//! | `time` | time of day at the end of the interval, RFC 3339 in UTC, to the millisecond |
//! | `final` | `true` on the last line, whose `interval` is the unfinished one |
//! | `elapsed_seconds` | from the start (or the last reset) until now |
//! | `interval_seconds` | the interval's true length, by the monotonic clock |
//! | `targets` | the attached processes, in words |
//! | `filtered` | exchanges since the start that the filter held back |
//! | `lost` | records lost since the start |
//! | `unmatched` | messages since the start that belong to no whole exchange |
//! | `interval`, `total` | a window each: the interval's, and that since the start |
//! | `routes` | an array of routes by count, over all since the start |
//!
//! A window has `count` (complete exchanges), `rate` (per second), the durations `p50`, `p90`, `p99`, `p999` and `max` in
//! seconds, `errors` (5xx at a server, 4xx and 5xx at a client; they are part of `count`), `aborted` and `unknown`
//! (they are not), `first_byte` with the same five times and their `count`, and `buckets`.
//!
//! A bucket is `{"above", "le", "count"}`: it stands for the durations above `above` and not above `le` seconds, and
//! `count` is how many exchanges took at most `le`, so the last one is the window's `count`. Buckets that add none are
//! left out. The bounds are log-linear and always the same; the middle of a bucket is within 3 % of all in it.
//!
//! A route has `service`, `side`, `method`, `server`, `port`, `route`, `count`, `rate` (in the interval), `p50`, `p90`,
//! `p99`, `p999`, `max`, `errors`, `aborted` and `unknown`. The one that stands for all routes above the cap has
//! `"other": true` and no names.
//!
//! With `--reply` the times are those of replies. A window then has `unanswered`, and neither `errors`, `aborted`,
//! `unknown` nor `first_byte`; and in the place of `routes` stands `phases`, an array of `{"phase", "count", "share"}` with
//! the same five times: how many replies had the phase, its share of the time of all replies, and how long it took.
//!
//! What was not measured is `null` or absent, never 0.

use jiff::{Timestamp, Unit};
use serde::Serialize;

use super::ladder::Ladder;
use super::numbers::rate_of;
use super::recorder::{Times, Window};
use super::{Frame, Moment, Origin, PhaseRow, RouteRow, Subject};
use crate::units::Nanos;

#[derive(Serialize)]
struct Object<'a> {
    time: Option<String>,
    r#final: bool,
    elapsed_seconds: f64,
    interval_seconds: f64,
    targets: &'a [String],
    filtered: u64,
    lost: u64,
    unmatched: u64,
    interval: WindowObject,
    total: WindowObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<RouteObject<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<Vec<PhaseObject>>,
}

#[derive(Serialize)]
struct PhaseObject {
    phase: &'static str,
    count: u64,
    share: f64,
    #[serde(flatten)]
    times: Seconds,
}

/// What is told of exchanges alone.
#[derive(Serialize)]
struct Outcomes {
    errors: u64,
    aborted: u64,
    unknown: u64,
    first_byte: FirstByte,
}

#[derive(Serialize)]
struct Seconds {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    max: Option<f64>,
}

#[derive(Serialize)]
struct FirstByte {
    count: u64,
    #[serde(flatten)]
    times: Seconds,
}

#[derive(Serialize)]
struct Bucket {
    above: f64,
    le: f64,
    count: u64,
}

#[derive(Serialize)]
struct WindowObject {
    count: u64,
    rate: Option<f64>,
    #[serde(flatten)]
    times: Seconds,
    #[serde(flatten)]
    outcomes: Option<Outcomes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unanswered: Option<u64>,
    buckets: Vec<Bucket>,
}

#[derive(Serialize)]
struct RouteObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    other: bool,
    count: u64,
    rate: Option<f64>,
    #[serde(flatten)]
    times: Seconds,
    errors: u64,
    aborted: u64,
    unknown: u64,
}

/// `frame` as one line, without its end.
#[must_use]
pub fn object(frame: &Frame) -> String {
    let time = Timestamp::try_from(frame.wall).and_then(|time| time.round(Unit::Millisecond));
    let object = Object {
        time: time.ok().map(|time| format!("{time:.3}")),
        r#final: frame.moment == Moment::Final,
        elapsed_seconds: frame.elapsed.seconds(),
        interval_seconds: frame.length.seconds(),
        targets: &frame.status.targets,
        filtered: frame.filtered,
        lost: frame.status.lost,
        unmatched: frame.status.unmatched,
        interval: window(&frame.interval, frame.length, frame.subject),
        total: window(&frame.total, frame.elapsed, frame.subject),
        routes: match frame.subject {
            Subject::Exchanges => Some(frame.routes.iter().map(|row| route(row, frame.length)).collect()),
            Subject::Replies => None,
        },
        phases: match frame.subject {
            Subject::Exchanges => None,
            Subject::Replies => Some(frame.phases.iter().map(phase).collect()),
        },
    };
    serde_json::to_string(&object).expect("texts and numbers always serialise")
}

fn seconds(times: Times) -> Seconds {
    let seconds = |time: Option<Nanos>| time.map(Nanos::seconds);
    Seconds {
        p50: seconds(times.p50),
        p90: seconds(times.p90),
        p99: seconds(times.p99),
        p999: seconds(times.p999),
        max: seconds(times.max),
    }
}

fn phase(row: &PhaseRow) -> PhaseObject {
    PhaseObject { phase: row.phase.as_str(), count: row.count, share: row.share, times: seconds(row.times) }
}

fn window(window: &Window, length: Nanos, subject: Subject) -> WindowObject {
    let ladder = Ladder::log_linear();
    let mut sum = 0;
    let above = std::iter::once(&Nanos(0)).chain(ladder.bounds());
    let buckets = above
        .zip(ladder.bounds())
        .zip(ladder.counts(&window.duration))
        .filter(|(_, count)| *count > 0)
        .map(|((above, le), count)| {
            sum += count;
            Bucket { above: above.seconds(), le: le.seconds(), count: sum }
        })
        .collect();
    WindowObject {
        count: window.duration.count(),
        rate: rate_of(window.duration.count(), length),
        times: seconds(window.duration.times()),
        outcomes: (subject == Subject::Exchanges).then(|| Outcomes {
            errors: window.failures.errors,
            aborted: window.failures.aborted,
            unknown: window.failures.unknown,
            first_byte: FirstByte { count: window.first_byte.count(), times: seconds(window.first_byte.times()) },
        }),
        unanswered: (subject == Subject::Replies).then_some(window.unanswered),
        buckets,
    }
}

fn route(row: &RouteRow, length: Nanos) -> RouteObject<'_> {
    let name = match &row.origin {
        Origin::Route(name) => Some(name),
        Origin::Other => None,
    };
    RouteObject {
        service: name.map(|name| name.service.as_str()),
        side: name.map(|name| name.side.as_str()),
        method: name.map(|name| name.method.as_str()),
        server: name.map(|name| name.server.as_str()).filter(|server| !server.is_empty()),
        port: name.map(|name| name.port).filter(|port| *port > 0),
        route: name.map(|name| name.route.as_str()),
        other: name.is_none(),
        count: row.count,
        rate: rate_of(row.interval_count, length),
        times: seconds(row.times),
        errors: row.failures.errors,
        aborted: row.failures.aborted,
        unknown: row.failures.unknown,
    }
}
