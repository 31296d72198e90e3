//! Calls of all dialects, through the HTTP machine, however they are split.

mod counts;
mod endings;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::{Call, Dialect, Endpoint, Follower, Inflaters, Progress};
use crate::observations::{CallOutcome, Finish, Method, Operation, Tokens, Unmatched};
use crate::protocols::http1::{End, Event, Interest, Listener, Machine, Request, Segment};
use crate::units::{Direction, Nanos, Side};

/// A bot that calls a language model.
#[derive(Default)]
struct Bot {
    machine: Machine,
    listener: Followed,
    time: u64,
    /// The first bytes of a segment of the answer's that are known, and how many at its end.
    known: Option<(usize, usize)>,
}

#[derive(Default)]
struct Followed {
    followers: Vec<Follower>,
    progress: Vec<(Progress, u64)>,
    calls: Vec<Option<Call>>,
    inflaters: Inflaters,
    now: u64,
}

impl Listener for Followed {
    fn tell(&mut self, event: Event<'_>) {
        for follower in &mut self.followers {
            let progress = follower.tell(&event);
            if progress != Progress::default() {
                self.progress.push((progress, self.now));
            }
        }
        if let Event::Finished(finished) = event
            && let Some(at) = self.followers.iter().position(|follower| follower.id() == finished.id)
        {
            self.calls.push(self.followers.remove(at).finish(&finished));
        }
    }

    fn interest(&mut self, request: &Request<'_>) -> Interest {
        let Some(follower) = Follower::new(request, &self.inflaters) else { return Interest::Nothing };
        self.followers.push(follower);
        Interest::Whole
    }
}

impl Bot {
    fn moved(&mut self, direction: Direction, bytes: &[u8]) -> u64 {
        self.time += 1;
        self.listener.now = self.time;
        let (first, last) = self.known.filter(|_| direction == Direction::In).unwrap_or((bytes.len(), 0));
        let prefix = &bytes[..first.min(bytes.len())];
        let tail = if prefix.len() < bytes.len() { &bytes[bytes.len() - last.min(bytes.len())..] } else { b"" };
        let segment = Segment { time: Nanos(self.time), direction, size: bytes.len() as u64, prefix, tail };
        self.machine.segment(&segment, &mut self.listener);
        self.time
    }

    fn sends(&mut self, bytes: impl AsRef<[u8]>) -> u64 {
        self.moved(Direction::Out, bytes.as_ref())
    }

    fn receives(&mut self, bytes: impl AsRef<[u8]>) -> u64 {
        self.moved(Direction::In, bytes.as_ref())
    }

    /// A segment of the answer of which only the start and the end are known.
    fn received_partly(&mut self, size: u64, prefix: &[u8], tail: &[u8]) {
        self.time += 1;
        self.listener.now = self.time;
        let segment = Segment { time: Nanos(self.time), direction: Direction::In, size, prefix, tail };
        self.machine.segment(&segment, &mut self.listener);
    }

    fn asks(&mut self, path: &str, body: &str) -> &mut Self {
        let length = body.len();
        self.sends(format!("POST {path} HTTP/1.1\r\nhost: llm\r\ncontent-length: {length}\r\n\r\n{body}"));
        self
    }

    fn ends(&mut self, end: End) {
        self.time += 1;
        self.machine.end(Nanos(self.time), end, &mut self.listener);
    }

    fn call(&self) -> Call {
        match &self.listener.calls[..] {
            [Some(call)] => call.clone(),
            other => panic!("one call is told: {other:?}"),
        }
    }
}

const CHAT: &str = "/v1/chat/completions";
const STREAM: &str = r#"{"messages":[{"role":"user","content":"hi"}],"model":"m","stream":true}"#;
const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

fn delta(delta: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"finish_reason\":null,\"index\":0,\"delta\":{delta}}}],\"created\":1795356931,\
         \"id\":\"chatcmpl-0\",\"model\":\"m\",\"object\":\"chat.completion.chunk\"}}\n\n"
    )
}

#[test]
fn endpoints() {
    let of = |path| Endpoint::of(Method::Post, path).map(|endpoint| (endpoint.dialect, endpoint.operation));
    for (path, dialect, operation) in [
        ("/v1/chat/completions", Dialect::OpenAi, Operation::Chat),
        ("/api/v1/chat/completions", Dialect::OpenAi, Operation::Chat),
        ("/v1/completions", Dialect::OpenAi, Operation::TextCompletion),
        ("/v1/responses", Dialect::Responses, Operation::Chat),
        ("/completion", Dialect::LlamaCpp, Operation::TextCompletion),
        ("/upstream/m/completion", Dialect::LlamaCpp, Operation::TextCompletion),
        ("/api/chat", Dialect::Ollama, Operation::Chat),
        ("/api/generate", Dialect::Ollama, Operation::TextCompletion),
        ("/v1/messages", Dialect::Anthropic, Operation::Chat),
        ("/v1/embeddings", Dialect::OpenAi, Operation::Embeddings),
        ("/api/embed", Dialect::Ollama, Operation::Embeddings),
        ("/api/embeddings", Dialect::Ollama, Operation::Embeddings),
        ("/embedding", Dialect::LlamaCpp, Operation::Embeddings),
    ] {
        assert_eq!(of(path), Some((dialect, operation)), "{path}");
    }
    for path in ["/v1/models", "/api/tags", "/v1/messages/count_tokens", "/health", "/"] {
        assert_eq!(of(path), None, "{path}");
    }
    assert_eq!(Endpoint::of(Method::Get, CHAT), None);
}

/// As llama.cpp writes: the head before the prompt is evaluated, the role and the first token at once.
fn llama_cpp(bot: &mut Bot) -> [u64; 3] {
    bot.asks(CHAT, STREAM);
    let head = bot.receives(SSE);
    let first = [delta(r#"{"role":"assistant","content":null}"#), delta(r#"{"content":"Hel"}"#)].concat();
    let first = bot.receives(chunk(&first));
    bot.receives(chunk(&delta(r#"{"content":"lo"}"#)));
    let last = bot.receives(chunk(&delta(r#"{"content":"!"}"#)));
    let end = delta("{}").replace("\"finish_reason\":null", "\"finish_reason\":\"stop\"");
    bot.receives(chunk(&format!("{end}data: [DONE]\n\n")));
    bot.receives("0\r\n");
    bot.receives("\r\n");
    [head, first, last]
}

#[test]
fn a_streamed_call() {
    let mut bot = Bot::default();
    let [head, first, last] = llama_cpp(&mut bot);
    let expected = Call {
        side: Side::Client,
        endpoint: Endpoint { dialect: Dialect::OpenAi, operation: Operation::Chat },
        start: Nanos(1),
        first_byte: Some(Nanos(head)),
        model: Some("m".into()),
        model_answered: true,
        first_token: Some(Nanos(first)),
        first_token_certain: true,
        last_token: Some(Nanos(last)),
        end: Nanos(bot.time),
        streaming: Some(true),
        chunks: 3,
        unread: None,
        status: Some(200),
        outcome: CallOutcome::Complete,
        finish: Some(Finish::Stop),
        tokens: Tokens::default(),
        tokens_per_second: None,
        prompt: None,
        predicted: None,
        load: None,
        queued: None,
    };
    assert_eq!(bot.call(), expected);
    let more = Progress { tokens: 1, gap: Some(Nanos(1)), ..Progress::default() };
    let progress =
        [(Progress { tokens: 1, first: true, ..Progress::default() }, first), (more, first + 1), (more, last)];
    assert_eq!(bot.listener.progress, progress);
}

#[test]
fn a_streamed_call_of_which_little_is_known() {
    for known in [(32, 8), (60, 8), (300, 8), (32, 0), (0, 0)] {
        let mut bot = Bot { known: None, ..Bot::default() };
        bot.asks(CHAT, STREAM);
        let head = bot.receives(SSE);
        bot.known = Some(known);
        let both = [delta(r#"{"role":"assistant","content":null}"#), delta(r#"{"content":"Hel"}"#)].concat();
        let first = bot.receives(chunk(&both));
        let last = bot.receives(chunk(&delta(r#"{"content":"lo"}"#)));
        bot.receives("0\r\n\r\n");
        bot.ends(End::PeerFinished);
        let call = bot.call();
        assert_eq!((call.first_byte, call.first_token), (Some(Nanos(head)), Some(Nanos(first))), "{known:?}");
        assert_eq!((call.last_token, call.chunks, call.unread.is_none()), (Some(Nanos(last)), 2, false), "{known:?}");
    }
}

#[test]
fn what_is_compressed_is_told_by_its_segments() {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE.replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n"));
    let first = bot.receives(chunk(&"z".repeat(90)));
    let last = bot.receives(chunk(&"z".repeat(90)));
    bot.receives("0\r\n\r\n");
    let call = bot.call();
    assert_eq!((call.first_token, call.last_token), (Some(Nanos(first)), Some(Nanos(last))));
    assert_eq!((call.chunks, call.unread), (2, Some(Unmatched::Coded)));
}

#[test]
fn an_answer_that_is_not_seen_is_not_exact() {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM);
    assert!(bot.listener.followers[0].is_call());
    bot.known = Some((30, 8));
    bot.receives(SSE);
    bot.receives(chunk(&delta(r#"{"content":"Hi"}"#)));
    bot.ends(End::PeerFinished);
    let call = bot.call();
    assert_eq!((call.streaming, call.first_token, call.unread.is_none()), (Some(true), None, false));
    assert_eq!(call.outcome, CallOutcome::Unknown);
}

#[test]
fn anthropic_by_the_names_of_its_events() {
    let event = |name: &str, rest: &str| format!("event: {name}\ndata: {{\"type\":\"{name}\",{rest}}}\n\n");
    let message = r#""message":{"id":"msg_0","type":"message","role":"assistant","content":[],"stop_reason":null}"#;
    let events = [
        event("message_start", message),
        event("content_block_start", r#""index":0,"content_block":{"type":"text","text":""}"#),
        event("ping", r#""more":0"#),
        event("content_block_delta", r#""index":0,"delta":{"type":"text_delta","text":"Hello there"}"#),
        event("content_block_delta", r#""index":0,"delta":{"type":"text_delta","text":"! General Kenobi"}"#),
        event("content_block_stop", r#""index":0,"and":"more than is known""#),
        event(
            "message_delta",
            r#""delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}"#,
        ),
        event("message_stop", r#""and":"more than is known of it""#),
    ];
    for known in [None, Some((40, 8))] {
        let mut bot = Bot::default();
        bot.asks("/v1/messages", STREAM).receives(SSE);
        bot.known = known;
        let times: Vec<_> = events.iter().map(|event| bot.receives(chunk(event))).collect();
        bot.receives("0\r\n\r\n");
        let call = bot.call();
        assert_eq!((call.first_token, call.last_token), (Some(Nanos(times[3])), Some(Nanos(times[4]))), "{known:?}");
        assert_eq!((call.chunks, call.unread.is_none()), (2, known.is_none()));
    }
}

#[test]
fn what_is_said_of_one_event_is_not_said_of_the_next_segment() {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.known = Some((22, 0));
    bot.receives(chunk("event: ping\ndata: {\"type\": \"ping\"}\n\n"));
    let token = bot.receives(chunk(&delta(r#"{"content":"Hi"}"#)));
    bot.ends(End::LocalClosed);
    assert_eq!((bot.call().first_token, bot.call().chunks), (Some(Nanos(token)), 1));
}

#[test]
fn ollama_streams_unless_it_is_asked_not_to() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (path, body, empty, full) in [
        ("/api/chat", r#"{"model":"m","messages":[]}"#, r#""message":{"content":""}"#, r#""message":{"content":"Hi"}"#),
        ("/api/generate", r#"{"model":"m","prompt":"x"}"#, r#""response":"""#, r#""response":"Hi""#),
    ] {
        let mut bot = Bot::default();
        bot.asks(path, body).receives(head);
        bot.receives(chunk(&format!("{{\"model\":\"m\",{empty},\"done\":false}}\n")));
        let first = bot.receives(chunk(&format!("{{\"model\":\"m\",{full},\"done\":false}}\n")));
        bot.receives(chunk(&format!("{{\"model\":\"m\",{empty},\"done\":true,\"eval_count\":1}}\n")));
        bot.ends(End::LocalClosed);
        let call = bot.call();
        assert_eq!((call.first_token, call.chunks, call.streaming), (Some(Nanos(first)), 1, Some(true)));
        assert_eq!(call.outcome, CallOutcome::Complete, "its last event was seen");
        let mut bot = Bot::default();
        bot.asks(path, &body.replace('}', ",\"stream\":false}"));
        bot.receives("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        assert_eq!((bot.call().streaming, bot.call().first_token), (Some(false), None));
    }
}

#[test]
fn other_shapes_of_content() {
    let contents = [
        r#"{"choices":[{"text":"Hi","index":0}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"Hm"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"text","text":"Hi"}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f"}}]}}]}"#,
        r#"{"type":"response.output_text.delta","delta":"Hi"}"#,
        r#"{"content":"Hi","stop":false}"#,
        r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"a"}}"#,
        r#"{"choices":[{"delta":{"content":"\n"}}]}"#,
    ];
    let empties = [
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[]}}]}"#,
        r#"{"choices":[],"usage":{"completion_tokens":7}}"#,
        r#"{"type":"response.created","response":{"output":[{"content":"Hi"}],"error":null}}"#,
        r#"{"type":"message_start","message":{"content":[]}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":""}}"#,
        r#"{"content":"","stop":true}"#,
        r#"{"a":{"choices":[{"delta":{"content":"Hi"}}]}}"#,
        "[1]",
        "no JSON",
        "",
    ];
    for (events, chunks) in [(&contents[..], contents.len()), (&empties[..], 0)] {
        let mut bot = Bot::default();
        bot.asks(CHAT, STREAM).receives(SSE);
        for event in events {
            bot.receives(chunk(&format!(": ping\n\ndata:{event}\n\n")));
        }
        bot.receives("0\r\n\r\n");
        assert_eq!((bot.call().chunks, bot.call().unread.is_none()), (chunks as u64, true));
    }
}

#[test]
fn whether_it_is_streamed() {
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}";
    let refused = "HTTP/1.1 503 Loading\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    let told = |body: &str, answer: &str| {
        let mut bot = Bot::default();
        bot.asks(CHAT, body).receives(answer);
        (bot.call().streaming, bot.call().outcome)
    };
    assert_eq!(told(STREAM, refused), (Some(true), CallOutcome::Failed));
    assert_eq!(told(r#"{"model":"m"}"#, refused), (Some(false), CallOutcome::Failed));
    assert_eq!(told(r#"{"model":"m"#, refused), (None, CallOutcome::Failed));
    assert_eq!(told(r#"{"model":"m","stream":true}"#, json), (Some(false), CallOutcome::Complete), "it was not");
    // Of a long request the last bytes may tell.
    let mut bot = Bot::default();
    let long = STREAM.replace("hi", &"long ".repeat(4000));
    bot.asks(CHAT, &long).receives(refused);
    assert_eq!(bot.call().streaming, Some(true));
}

#[test]
fn ends() {
    let stream = |rest: &str, end: End| {
        let mut bot = Bot::default();
        bot.asks(CHAT, STREAM).receives(SSE);
        bot.receives(chunk(&delta(r#"{"content":"Hi"}"#)));
        if !rest.is_empty() {
            bot.receives(chunk(rest));
        }
        bot.ends(end);
        bot.call().outcome
    };
    assert_eq!(stream("", End::LocalClosed), CallOutcome::Aborted);
    assert_eq!(stream("", End::PeerFinished), CallOutcome::Aborted);
    assert_eq!(stream("", End::Detached), CallOutcome::Unknown);
    assert_eq!(stream("data: [DONE]\n\n", End::LocalClosed), CallOutcome::Complete);
    let last = delta("{}").replace("\"finish_reason\":null", "\"finish_reason\":\"length\"");
    assert_eq!(stream(&last, End::LocalClosed), CallOutcome::Complete);
    assert_eq!(stream("data: {\"error\":{\"code\":500}}\n\n", End::PeerFinished), CallOutcome::Failed);
    assert_eq!(stream("event: error\ndata: {\"type\":\"error\"}\n\n", End::PeerFinished), CallOutcome::Failed);
}

#[test]
fn what_only_looks_like_a_call_is_none() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    for (path, body, is_call) in [
        ("/api/chat", r#"{"text":"hello bot"}"#, false),
        ("/api/chat", r#"{"model":"m","text":"hello bot"}"#, true),
        ("/v1/messages", r#"{"to":"all"}"#, false),
        ("/v1/messages", "", false),
        (CHAT, "", true),
        ("/completion", r#"{"prompt":"x"}"#, true),
    ] {
        let mut bot = Bot::default();
        bot.asks(path, body).receives(answer);
        assert_eq!(bot.listener.calls.iter().flatten().count(), usize::from(is_call), "{path} {body}");
        assert!(bot.listener.followers.is_empty());
    }
}

#[test]
fn an_endless_event_is_bounded_and_no_more_than_a_token() {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.receives(chunk("data: {\"x\":\""));
    for _ in 0..1000 {
        bot.receives(chunk(&"y".repeat(10_000)));
    }
    bot.receives(chunk("\"}\n\n"));
    bot.receives("0\r\n\r\n");
    assert_eq!((bot.call().chunks, bot.call().unread.is_none()), (1, false));
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.receives(chunk(&delta(&"[{".repeat(100_000))));
    bot.receives("0\r\n\r\n");
    assert_eq!((bot.call().chunks, bot.call().outcome), (0, CallOutcome::Complete));
}

#[test]
fn nothing_of_what_is_said_is_shown() {
    let mut bot = Bot::default();
    bot.sends(format!("POST {CHAT} HTTP/1.1\r\ncontent-length: 90\r\n\r\n{{\"prompt\":\"canary"));
    assert!(!format!("{:?}", bot.listener.followers).contains("canary"));
    bot.receives(SSE);
    bot.receives(chunk("data: {\"content\":\"canary"));
    assert!(!format!("{:?}", bot.listener.followers).contains("canary"));
}

/// An event, and whether it has content.
fn event() -> impl Strategy<Value = (String, bool)> {
    let text = any::<String>().prop_filter("content", |text| !text.is_empty());
    prop_oneof![
        4 => text.prop_map(|text| (delta(&format!("{{\"content\":{}}}", serde_json::Value::from(text))), true)),
        1 => Just((delta(r#"{"role":"assistant","content":""}"#), false)),
        1 => Just((": keep-alive\n\n".to_owned(), false)),
        1 => Just(("event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n".to_owned(), false)),
        1 => Just(("data: {\"choices\":[],\"usage\":{\"total_tokens\":9}}\n\n".to_owned(), false)),
        1 => Just(("data: [DONE]\n\n".to_owned(), false)),
    ]
}

proptest! {
    #![proptest_config(crate::regressions::config())]

    #[test]
    fn any_split_tells_the_same(
        events in vec(event(), 0..12),
        chunked in any::<bool>(),
        sizes in vec(1..80usize, 1..8),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let mut bot = Bot::default();
        bot.asks(CHAT, STREAM);
        // Where in the answer each event with content has come as far as its line's end, of which only the line feed that
        // ends the event may be missing.
        let (mut plain, mut contents) = (String::new(), Vec::new());
        for (event, content) in &events {
            plain.push_str(event);
            if *content {
                contents.push(plain.len() - 2);
            }
        }
        plain.push_str("data: {\"choices\":[],\"usage\":{\"completion_tokens\":9}}\n\n");
        let mut body = Vec::new();
        let mut at = Vec::new();
        let mut sizes = sizes.iter().cycle();
        let mut rest = plain.as_bytes();
        while chunked && !rest.is_empty() {
            let (data, more) = rest.split_at(rest.len().min(*sizes.next().expect("sizes are endless")));
            body.extend(format!("{:x}\r\n", data.len()).into_bytes());
            at.extend(body.len()..body.len() + data.len());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
            rest = more;
        }
        let head = if chunked {
            body.extend_from_slice(b"0\r\n\r\n");
            SSE.to_owned()
        } else {
            body = plain.clone().into_bytes();
            at = (0..body.len()).collect();
            SSE.replace("Transfer-Encoding: chunked", &format!("Content-Length: {}", body.len()))
        };
        let answer = [head.as_bytes(), &body].concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(answer.len())).chain([0, answer.len()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut ends = Vec::new();
        for cut in cuts.windows(2) {
            let time = bot.receives(&answer[cut[0]..cut[1]]);
            ends.push((cut[1], time));
        }
        let time = |content: &usize| {
            let place = head.len() + at[*content];
            ends.iter().find(|(end, _)| place < *end).map(|(_, time)| Nanos(*time))
        };
        let call = bot.call();
        prop_assert_eq!(call.tokens.output, Some(9));
        let gaps = bot.listener.progress.iter().map(|(told, _)| u64::from(told.gap.is_some()) + told.at_once).sum::<u64>();
        prop_assert_eq!(gaps, contents.len().saturating_sub(1) as u64);
        prop_assert_eq!(call.chunks, contents.len() as u64);
        prop_assert_eq!(call.first_token, contents.first().and_then(time));
        prop_assert_eq!(call.last_token, contents.last().and_then(time));
        prop_assert!(call.unread.is_none());
        prop_assert_eq!((call.streaming, call.outcome), (Some(true), CallOutcome::Complete));
    }

    /// One event a segment, of which the start and perhaps the end are known: no token is later than the truth, and none
    /// is told where there is none for certain.
    #[test]
    fn with_less_known_the_first_token_is_no_later(
        events in vec(event(), 1..12),
        known in (0..200usize, select(vec![0, 8])),
    ) {
        let mut bot = Bot::default();
        bot.asks(CHAT, STREAM).receives(SSE);
        bot.known = Some(known);
        let times: Vec<_> = events.iter().map(|(event, _)| Nanos(bot.receives(chunk(event)))).collect();
        bot.ends(End::LocalClosed);
        let call = bot.call();
        let contents = events.iter().zip(&times).filter(|((_, content), _)| *content).map(|(_, time)| *time);
        let contents: Vec<_> = contents.collect();
        if let Some(first) = contents.first() {
            prop_assert!(call.first_token.is_some_and(|told| told <= *first), "{call:?}");
        }
        prop_assert!(call.chunks >= contents.len() as u64 && call.chunks <= events.len() as u64);
        prop_assert!(call.unread.is_some() || call.chunks == contents.len() as u64);
    }

    #[test]
    fn nothing_breaks_it(pieces in vec((any::<bool>(), vec(select(FRAGMENTS), 1..12), 0..60usize), 0..30)) {
        let mut bot = Bot::default();
        for (out, parts, known) in pieces {
            bot.known = (known < 50).then_some((known, 8));
            bot.moved(if out { Direction::Out } else { Direction::In }, parts.concat().as_bytes());
            prop_assert!(bot.listener.followers.len() <= 64);
        }
        bot.ends(End::LocalClosed);
        prop_assert!(bot.listener.followers.is_empty());
    }
}

/// What hostile streams are made of.
const FRAGMENTS: &[&str] = &[
    "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 20\r\n\r\n",
    "POST /api/chat HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
    SSE,
    "HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: 300\r\n\r\n",
    "20\r\n",
    "0\r\n\r\n",
    "data: ",
    "event: content_block_delta\n",
    "{\"choices\":[{\"delta\":{\"content\":\"",
    "{\"stream\":true",
    "x\"}}]}",
    "\n",
    "\n\n",
    "\r\n",
    "[DONE]",
    "{",
    "\"",
    "\\",
    ":",
    "\"usage\":{\"completion_tokens\":18446744073709551616",
    "\"timings\":{\"predicted_ms\":1e999,\"prompt_ms\":-1",
    "\"model\":\"\\ud800",
    "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 90\r\n\r\n\u{1f}",
];
