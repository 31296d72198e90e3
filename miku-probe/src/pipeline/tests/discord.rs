//! Calls of Discord's API: their routes, and what its rate limits cost.

use super::*;
use crate::observations::RateLimitScope;

const SECOND: u64 = 1_000_000_000;

/// A client's call on a plain connection, as to a stand-in for Discord, from `start` to `end` in milliseconds.
struct Call<'a> {
    path: &'a str,
    host: &'a str,
    start: u64,
    end: u64,
    answer: &'a str,
}

impl<'a> Call<'a> {
    fn to_standin(path: &'a str, start: u64, end: u64, answer: &'a str) -> Self {
        Self { path, host: "127.0.0.1:8443", start, end, answer }
    }

    fn tell(&self, pipeline: &mut Pipeline<Kept, Nowhere>) {
        let Self { path, host, start, end, answer } = self;
        let request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        pipeline.record(&data(start * SECOND / 1000, 100, 0, Direction::Out, request.as_bytes()));
        pipeline.record(&data(end * SECOND / 1000, 100, 0, Direction::In, answer.as_bytes()));
    }
}

/// Routes in order.
fn routes(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<&str> {
    pipeline.sink.exchanges().iter().map(|exchange| pipeline.names.symbols.text(exchange.route)).collect()
}

/// What was told of rate limits, each with its route.
#[derive(Debug, Default, PartialEq)]
struct Limits<'a> {
    /// In milliseconds.
    waits: Vec<(&'a str, u64)>,
    refusals: Vec<(&'a str, RateLimitScope)>,
    quotas: Vec<(&'a str, f64)>,
}

fn limits(pipeline: &Pipeline<Kept, Nowhere>) -> Limits<'_> {
    let text = |symbol: &Symbol| pipeline.names.symbols.text(*symbol);
    let mut limits = Limits::default();
    for seen in &pipeline.sink.0 {
        match seen {
            Observation::RateLimitWait { route, wait, .. } => {
                limits.waits.push((text(route), wait.0 * 1000 / SECOND));
            }
            Observation::RateLimited { scope, route, .. } => limits.refusals.push((text(route), *scope)),
            Observation::RateLimitRemaining { route, ratio, .. } => limits.quotas.push((text(route), *ratio)),
            _ => {}
        }
    }
    limits
}

const MESSAGES: &str = "/api/v10/channels/1122334455667788990/messages";
const ELSEWHERE: &str = "/api/v10/channels/1122334455667788991/messages";
const TEMPLATE: &str = "/api/v10/channels/{channel_id}/messages";
const OK: &str = "200 OK\r\nX-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4";
const REFUSED: &str = "429 Too Many Requests\r\nRetry-After: 1\r\nX-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 0";

#[test]
fn a_refused_call_waits_until_its_second_try() {
    let mut pipeline = pipeline();
    for call in [
        Call::to_standin(MESSAGES, 0, 100, OK),
        Call::to_standin(MESSAGES, 200, 250, REFUSED),
        Call::to_standin(ELSEWHERE, 300, 350, OK),
        Call::to_standin(MESSAGES, 1270, 1300, OK),
        Call::to_standin(MESSAGES, 1400, 1500, OK),
    ] {
        call.tell(&mut pipeline);
    }
    let Limits { waits, refusals, quotas } = limits(&pipeline);
    assert_eq!(waits, [(TEMPLATE, 1020)]);
    assert_eq!(refusals, [(TEMPLATE, RateLimitScope::User)]);
    assert_eq!(quotas, [0.8, 0.0, 0.8, 0.8, 0.8].map(|ratio| (TEMPLATE, ratio)));
    assert_eq!(routes(&pipeline), [TEMPLATE; 5]);
}

#[test]
fn refusals_in_a_row_add_up_and_one_without_a_second_try_counts_no_wait() {
    let mut pipeline = pipeline();
    for call in [
        Call::to_standin(MESSAGES, 0, 100, "429 No\r\nRetry-After: 1\r\nX-RateLimit-Scope: shared"),
        Call::to_standin(MESSAGES, 1100, 1200, "429 No\r\nRetry-After: 2\r\nX-RateLimit-Global: true"),
        Call::to_standin(MESSAGES, 3200, 3300, REFUSED),
        Call::to_standin(MESSAGES, 60_000, 60_100, OK),
    ] {
        call.tell(&mut pipeline);
    }
    let Limits { waits, refusals, .. } = limits(&pipeline);
    assert_eq!(waits, [(TEMPLATE, 1000), (TEMPLATE, 2000)]);
    let scopes: Vec<_> = refusals.iter().map(|(_, scope)| *scope).collect();
    assert_eq!(scopes, [RateLimitScope::Shared, RateLimitScope::Global, RateLimitScope::User]);
}

#[test]
fn what_is_not_discords_has_no_rate_limits() {
    let mut pipeline = pipeline();
    for path in ["/v1/chat/completions", "/api/v1/orders"] {
        Call::to_standin(path, 0, 100, REFUSED).tell(&mut pipeline);
        Call::to_standin(path, 1100, 1200, OK).tell(&mut pipeline);
    }
    assert_eq!(limits(&pipeline), Limits::default());
    pipeline.record(&open(2 * SECOND, FD, Origin::Accepted));
    let request = format!("POST {MESSAGES} HTTP/1.1\r\nHost: discord.com\r\n\r\n");
    pipeline.record(&data(2 * SECOND + 1, 2 * SECOND, 0, Direction::In, request.as_bytes()));
    let answer = format!("HTTP/1.1 {REFUSED}\r\nContent-Length: 0\r\n\r\n");
    pipeline.record(&data(2 * SECOND + 2, 2 * SECOND, 0, Direction::Out, answer.as_bytes()));
    assert_eq!(limits(&pipeline), Limits::default(), "a server with such paths is not Discord");
    assert_eq!(routes(&pipeline).last(), Some(&"/api/v10/channels/{id}/messages"));
}

#[test]
fn tokens_in_paths_end_in_no_route_whoever_is_asked() {
    let token = "3sHfvvBcmQYsXqIo4xZyVbKx-aWpTgRzLrmD_xoJkEjUhTnQwPyCvGiFlSdAbNeM0123";
    let path = |rest: &str| format!("{rest}/1122334455667788990/{token}");
    let mut pipeline = pipeline();
    for (at, (host, path)) in [
        ("discord.com", path("/api/webhooks")),
        ("Canary.Discord.com:443", path("/api/v10/webhooks")),
        ("127.0.0.1:8443", path("/api/v10/webhooks")),
        ("proxy.local", path("/api/webhooks")),
        ("proxy.local", path("/discord/api/v10/interactions") + "/callback"),
    ]
    .iter()
    .enumerate()
    {
        let at = at as u64 * 10;
        Call { path, host, start: at, end: at + 1, answer: "404 Not Found" }.tell(&mut pipeline);
        Call { path, host, start: at + 2, end: at + 3, answer: "200 OK" }.tell(&mut pipeline);
    }
    let versioned = "/api/v10/webhooks/{webhook_id}/{token}";
    let unversioned = "/api/webhooks/{webhook_id}/{token}";
    assert_eq!(
        routes(&pipeline),
        [
            unversioned,
            unversioned,
            versioned,
            versioned,
            versioned,
            versioned,
            "other",
            "/api/webhooks/{id}/{token}",
            "other",
            "/discord/api/v10/interactions/{id}/{token}/callback",
        ],
        "a call of Discord's API has its route whatever the answer"
    );
}
