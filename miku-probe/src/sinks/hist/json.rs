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
//! With `--llm` the times are those of calls of language models. A window then has `failed`, `aborted` and `unknown` (how calls
//! ended; all that ended well are `count`, and have the durations), the distributions `first_token` and `inter_token` with
//! their own `count`, times and `buckets`, `tokens_per_second` with `count` and the rates `p50`, `p90`, `p99`, `p999` and `min`,
//! each of which so many calls reach, and `tokens` as servers counted them: `input`, `output` and `cached`. In the place of
//! `routes` stand `in_flight` and `models`, an array of `service`, `side`, `server`, `model`, `operation`, `count`, `failed`,
//! `aborted`, `unknown` and the three distributions without buckets; the one that stands for all models above the cap has
//! `"other": true` and no names. Where the machine has GPUs, `gpus` is an array of what each told last: `gpu`, `busy_ratio`,
//! `power_watts`, `power_limit_watts`, `memory_used_bytes` and `memory_total_bytes`; and `prompt` and `generation`, what it did since
//! the start while all calls that were served were in that phase: `samples`, and the means `busy_ratio` and `power_watts`.
//!
//! What was not measured is `null` or absent, never 0.

use jiff::{Timestamp, Unit};
use serde::Serialize;

use super::calls::{CallWindow, Ends, ModelRow, Speeds, TokenCounts};
use super::gpus::{GpuPhase, GpuRow};
use super::ladder::Ladder;
use super::numbers::rate_of;
use super::recorder::{Latencies, Times, Window};
use super::{Frame, Moment, Origin, PhaseRow, RouteRow, Subject};
use crate::observations::{CallOutcome, LlmPhase};
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
    interval: AnyWindow,
    total: AnyWindow,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<RouteObject<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phases: Option<Vec<PhaseObject>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<ModelObject<'a>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gpus: Vec<GpuObject<'a>>,
}

#[derive(Serialize)]
struct GpuObject<'a> {
    gpu: &'a str,
    busy_ratio: Option<f64>,
    power_watts: Option<f64>,
    power_limit_watts: Option<f64>,
    memory_used_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    prompt: GpuPhaseObject,
    generation: GpuPhaseObject,
}

#[derive(Serialize)]
struct GpuPhaseObject {
    samples: u64,
    busy_ratio: Option<f64>,
    power_watts: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnyWindow {
    Plain(Box<WindowObject>),
    Calls(Box<CallsObject>),
}

/// A window of calls of language models.
#[derive(Serialize)]
struct CallsObject {
    #[serde(flatten)]
    ends: EndsObject,
    rate: Option<f64>,
    #[serde(flatten)]
    times: Seconds,
    buckets: Vec<Bucket>,
    #[serde(flatten)]
    speeds: SpeedsObject,
    tokens: TokensObject,
}

/// How calls ended.
#[derive(Serialize)]
struct EndsObject {
    count: u64,
    failed: u64,
    aborted: u64,
    unknown: u64,
}

#[derive(Serialize)]
struct SpeedsObject {
    first_token: Distribution,
    inter_token: Distribution,
    tokens_per_second: RatesObject,
}

#[derive(Serialize)]
struct Distribution {
    count: u64,
    #[serde(flatten)]
    times: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Vec<Bucket>>,
}

#[derive(Serialize)]
struct RatesObject {
    count: u64,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    p999: Option<f64>,
    min: Option<f64>,
}

#[derive(Serialize)]
struct TokensObject {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
}

#[derive(Serialize)]
struct ModelObject<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    other: bool,
    #[serde(flatten)]
    ends: EndsObject,
    #[serde(flatten)]
    speeds: SpeedsObject,
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
        interval: match &frame.calls {
            Some(seen) => calls(&seen.interval, frame.length),
            None => window(&frame.interval, frame.length, frame.subject),
        },
        total: match &frame.calls {
            Some(seen) => calls(&seen.total, frame.elapsed),
            None => window(&frame.total, frame.elapsed, frame.subject),
        },
        routes: (frame.subject == Subject::Exchanges)
            .then(|| frame.routes.iter().map(|row| route(row, frame.length)).collect()),
        phases: (frame.subject == Subject::Replies).then(|| frame.phases.iter().map(phase).collect()),
        in_flight: frame.calls.as_ref().map(|seen| seen.in_flight),
        models: frame.calls.as_ref().map(|seen| seen.models.iter().map(model).collect()),
        gpus: frame.calls.iter().flat_map(|seen| &seen.gpus).map(gpu).collect(),
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

fn gpu(row: &GpuRow) -> GpuObject<'_> {
    let phase = |phase: LlmPhase| {
        let GpuPhase { samples, busy, power } = row.phases[phase as usize];
        GpuPhaseObject { samples, busy_ratio: busy.get(), power_watts: power.get() }
    };
    GpuObject {
        gpu: &row.gpu,
        busy_ratio: row.busy,
        power_watts: row.power.0,
        power_limit_watts: row.power.1,
        memory_used_bytes: row.memory.map(|memory| memory.used),
        memory_total_bytes: row.memory.map(|memory| memory.total),
        prompt: phase(LlmPhase::Prompt),
        generation: phase(LlmPhase::Generation),
    }
}

/// The buckets of a distribution that are not empty.
fn buckets(latencies: &Latencies) -> Vec<Bucket> {
    let ladder = Ladder::log_linear();
    let mut sum = 0;
    let above = std::iter::once(&Nanos(0)).chain(ladder.bounds());
    above
        .zip(ladder.bounds())
        .zip(ladder.counts(latencies))
        .filter(|(_, count)| *count > 0)
        .map(|((above, le), count)| {
            sum += count;
            Bucket { above: above.seconds(), le: le.seconds(), count: sum }
        })
        .collect()
}

fn window(window: &Window, length: Nanos, subject: Subject) -> AnyWindow {
    AnyWindow::Plain(Box::new(WindowObject {
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
        buckets: buckets(&window.duration),
    }))
}

fn calls(window: &CallWindow, length: Nanos) -> AnyWindow {
    let CallWindow { ends, duration, speeds: seen, tokens } = window;
    let TokenCounts { input, output, cached } = *tokens;
    AnyWindow::Calls(Box::new(CallsObject {
        ends: ended(ends),
        rate: rate_of(duration.count(), length),
        times: seconds(duration.times()),
        buckets: buckets(duration),
        speeds: speeds(seen, true),
        tokens: TokensObject { input, output, cached },
    }))
}

fn ended(ends: &Ends) -> EndsObject {
    EndsObject {
        count: ends.get(CallOutcome::Complete),
        failed: ends.get(CallOutcome::Failed),
        aborted: ends.get(CallOutcome::Aborted),
        unknown: ends.get(CallOutcome::Unknown),
    }
}

fn speeds(speeds: &Speeds, with_buckets: bool) -> SpeedsObject {
    let distribution = |latencies: &Latencies| Distribution {
        count: latencies.count(),
        times: seconds(latencies.times()),
        buckets: with_buckets.then(|| buckets(latencies)),
    };
    let rates = &speeds.rate;
    SpeedsObject {
        first_token: distribution(&speeds.first_token),
        inter_token: distribution(&speeds.inter_token),
        tokens_per_second: RatesObject {
            count: rates.count(),
            p50: rates.reached_by(0.5),
            p90: rates.reached_by(0.9),
            p99: rates.reached_by(0.99),
            p999: rates.reached_by(0.999),
            min: rates.reached_by(1.0),
        },
    }
}

fn model(row: &ModelRow) -> ModelObject<'_> {
    let ModelRow { name, ends, speeds: seen } = row;
    let name = name.as_ref();
    ModelObject {
        service: name.map(|name| name.service.as_str()),
        side: name.map(|name| name.side.as_str()),
        server: name.map(|name| name.server.as_str()).filter(|server| !server.is_empty()),
        model: name.map(|name| name.model.as_str()),
        operation: name.map(|name| name.operation.as_str()),
        other: name.is_none(),
        ends: ended(ends),
        speeds: speeds(seen, false),
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
