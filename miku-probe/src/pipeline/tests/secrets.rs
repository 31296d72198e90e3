//! Known secrets go through every part of messages, and come out nowhere.

use prometheus::TextEncoder;

use super::tls::{SSL, plain, server_name};
use super::*;
use crate::sinks::metrics::{BuildInfo, Metrics};

/// A webhook's token, and pieces that would tell of it.
const TOKEN: &str = "cAnArY00tOkEn11Zx-3sHfvvBcmQYsXqIo4_ZyVbKxaWpTgRzLrmDxoJkEjUhTnQwPyC";
const PIECES: [&str; 5] = ["cAnArY", "canary", "tOkEn11Zx", "QYsXqIo4", "1122334455667788990"];

const PATHS: [&str; 7] = [
    "/api/v10/webhooks/1122334455667788990/TOKEN?wait=canary",
    "/api/v10/interactions/1122334455667788990/TOKEN/callback",
    "/api/v10/invites/canary",
    "/api/v10/channels/1122334455667788990/messages/1122334455667788990/reactions/canary:1122334455667788990/@me",
    "/api/webhooks/1122334455667788990/TOKEN",
    "/elsewhere/TOKEN/messages#canary",
    "http://user:canary@api.example/TOKEN",
];

fn request(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: api.example\r\nAuthorization: Bot canary.{TOKEN}\r\nCookie: session=canary\r\n\
         Proxy-Authorization: Basic canary\r\nX-Api-Key: canary\r\nX-RateLimit-Scope: canary\r\nContent-Length: 20\r\n\r\n\
         {{\"content\": \"canary\"}}"
    )
    .replace("TOKEN", TOKEN)
}

const ANSWER: &str = "HTTP/1.1 429 canary\r\nSet-Cookie: session=canary\r\nX-RateLimit-Bucket: canary\r\nRetry-After: canary\r\n\
    X-RateLimit-Scope: canary\r\nX-RateLimit-Limit: canary\r\nContent-Length: 6\r\n\r\ncanary";

/// Sends all of it over plain connections and over TLS streams, whole and in pieces.
fn drive<S: Sink + std::fmt::Debug>(sink: S) -> Pipeline<S, Nowhere> {
    let mut pipeline = Pipeline::new(sink, Nowhere, CAPS);
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    let mut time = 1_000;
    let ssl = |at: usize| SSL + at as u64;
    for pieces in [1, 3] {
        for (path, tls) in PATHS.iter().flat_map(|path| [(path, false), (path, true)]) {
            pipeline.record(&server_name(time, ssl(0), b"canary\r\nname"));
            for (direction, bytes) in [(Direction::Out, request(path)), (Direction::In, ANSWER.to_owned())] {
                for piece in bytes.as_bytes().chunks(bytes.len().div_ceil(pieces)) {
                    time += 1_000;
                    let record =
                        if tls { plain(time, ssl(0), direction, piece) } else { data(time, 100, 0, direction, piece) };
                    pipeline.record(&record);
                    clean(&format!("{pipeline:?}"));
                }
            }
        }
    }
    pipeline.record(&[0; 12]);
    pipeline.end_batch(Nanos(time), Nanos(time));
    pipeline
}

#[track_caller]
fn clean(text: &str) {
    for piece in PIECES {
        let bytes = format!("{:?}", piece.as_bytes()).replace(['[', ']'], "");
        let found = text.find(piece).or_else(|| text.find(&bytes));
        assert_eq!(found, None, "{piece} is told in {text}");
    }
}

#[test]
fn no_secret_is_observed_or_kept_where_a_message_might_show_it() {
    let pipeline = drive(Kept::default());
    assert_eq!(pipeline.sink.exchanges().len(), 2 * 2 * PATHS.len());
    clean(&format!("{:?}", pipeline.names));
    clean(&format!("{:?}", pipeline.sink.0));
    assert_eq!(pipeline.sink.in_flight(), 0);
}

/// The metrics, which cannot be shown otherwise.
struct Told(Metrics);

impl std::fmt::Debug for Told {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = TextEncoder::new().encode_to_string(&self.0.registry().gather());
        formatter.write_str(&text.expect("a String takes all"))
    }
}

impl Sink for Told {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        self.0.observe(observation, names);
    }
}

#[test]
fn no_secret_is_in_the_metrics() {
    let pipeline = drive(Told(Metrics::new(&BuildInfo::current())));
    let text = format!("{:?}", pipeline.sink);
    clean(&text);
    assert!(text.contains("miku_discord_rate_limited_total{"), "{text}");
}
