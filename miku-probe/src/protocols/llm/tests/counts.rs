//! What servers count, time and say of a call, in each dialect's own words.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Bot, CHAT, SSE, STREAM, chunk, delta};
use crate::observations::{CallOutcome, Finish, Operation, Tokens, Unmatched};
use crate::protocols::http1::End;
use crate::protocols::llm::{Call, Progress};
use crate::units::Nanos;

const MS: u64 = 1_000_000;

/// As llama.cpp ends a stream.
const LLAMA_CPP_END: &str = "data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}],\"created\":1,\
    \"id\":\"c\",\"model\":\"tiny.gguf\",\"object\":\"chat.completion.chunk\",\"timings\":{\"cache_n\":5,\"prompt_n\":7,\
    \"prompt_ms\":12.5,\"prompt_per_token_ms\":1.7,\"predicted_n\":20,\"predicted_ms\":100.25,\
    \"predicted_per_second\":199.5}}\n\n";

fn tokens(input: u64, output: u64, cached: u64) -> Tokens {
    Tokens { input: Some(input), output: Some(output), cached: Some(cached) }
}

fn streamed(path: &str, request: &str, head: &str, events: &[&str]) -> Call {
    let mut bot = Bot::default();
    bot.asks(path, request).receives(head);
    for event in events {
        bot.receives(chunk(event));
    }
    bot.receives("0\r\n\r\n");
    bot.call()
}

fn whole(path: &str, request: &str, answer: &str) -> Call {
    let mut bot = Bot::default();
    bot.asks(path, request);
    let length = answer.len();
    bot.receives(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}"
    ));
    bot.call()
}

#[test]
fn llama_cpp_times_what_it_does() {
    let call = streamed(CHAT, STREAM, SSE, &[&delta(r#"{"content":"Hi"}"#), LLAMA_CPP_END, "data: [DONE]\n\n"]);
    assert_eq!(call.tokens, tokens(12, 20, 5));
    assert_eq!((call.prompt, call.predicted), (Some(Nanos(12_500_000)), Some(Nanos(100_250_000))));
    assert_eq!(call.tokens_per_second, Some(199.5));
    assert_eq!((call.finish, call.model.as_deref()), (Some(Finish::Length), Some("tiny.gguf")));
    let older = LLAMA_CPP_END.replace("\"predicted_per_second\":199.5", "\"x\":1");
    let call = streamed(CHAT, STREAM, SSE, &[&delta(r#"{"content":"Hi"}"#), &older]);
    assert!(call.tokens_per_second.is_some_and(|rate| (rate - 20.0 / 0.10025).abs() < 1e-9), "{call:?}");
    let usage = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":21,\"prompt_tokens\":12,\"total_tokens\":33,\
        \"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\n";
    let call = streamed(CHAT, STREAM, SSE, &[&delta(r#"{"content":"Hi"}"#), LLAMA_CPP_END, usage]);
    assert_eq!(call.tokens, tokens(12, 21, 5), "what was used is what counts");
}

#[test]
fn an_answer_that_comes_whole_says_what_was_used() {
    let timings = LLAMA_CPP_END.split_once("\"timings\"").expect("it has them").1.trim_end().trim_end_matches('}');
    let answer = format!(
        "{{\"choices\":[{{\"finish_reason\":\"stop\",\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}}}}],\
         \"created\":1,\"model\":\"tiny.gguf\",\"usage\":{{\"completion_tokens\":20,\"prompt_tokens\":12,\
         \"total_tokens\":32}},\"id\":\"c\",\"timings\"{timings}}}}}",
        "word ".repeat(5)
    );
    for answer in [answer.clone(), answer.replace("word ", &"word ".repeat(5000))] {
        let call = whole(CHAT, r#"{"model":"asked"}"#, &answer);
        assert_eq!((call.tokens, call.prompt), (tokens(12, 20, 5), Some(Nanos(12_500_000))));
        assert_eq!((call.streaming, call.outcome), (Some(false), CallOutcome::Complete));
        assert_eq!((call.first_token, call.unread), (None, None));
        assert!(call.tokens_per_second.is_some());
    }
    let call = whole(CHAT, r#"{"model":"asked"}"#, &answer);
    assert_eq!((call.model.as_deref(), call.finish), (Some("tiny.gguf"), Some(Finish::Stop)));
}

#[test]
fn what_stands_at_the_end_of_a_long_answer_is_enough() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50000\r\n\r\n{{\"choices\":[{{\"text\":\"{}",
        "x".repeat(3000)
    );
    let rest = 50_000 - 3000 - "{\"choices\":[{\"text\":\"".len() as u64;
    let end = "xxx\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":40,\"total_tokens\":43}}";
    let mut bot = Bot::default();
    bot.asks(CHAT, r#"{"model":"m"}"#).receives(answer);
    bot.received_partly(rest, b"x", end.as_bytes());
    let call = bot.call();
    assert_eq!((call.tokens.input, call.tokens.output), (Some(3), Some(40)));
}

#[test]
fn openai_says_what_was_used_when_asked() {
    let first = delta(r#"{"content":"Hi"}"#);
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":11,\"total_tokens\":111,\
        \"prompt_tokens_details\":{\"cached_tokens\":64,\"audio_tokens\":0},\
        \"completion_tokens_details\":{\"reasoning_tokens\":0}}}\n\n";
    let call = streamed(CHAT, STREAM, SSE, &[&first, &delta(r#"{"content":"Hi"}"#), usage, "data: [DONE]\n\n"]);
    assert_eq!(call.tokens, tokens(100, 11, 64));
    // Ten tokens came in the nanosecond after the first.
    assert_eq!(call.tokens_per_second, Some(10e9));
    let hidden = usage.replace("\"reasoning_tokens\":0", "\"reasoning_tokens\":7");
    let call = streamed(CHAT, STREAM, SSE, &[&first, &delta(r#"{"content":"Hi"}"#), &hidden]);
    assert_eq!((call.tokens.output, call.tokens_per_second), (Some(11), None), "nobody saw when the others came");
    let call = streamed(CHAT, STREAM, SSE, &[&first, "data: [DONE]\n\n"]);
    assert_eq!((call.tokens, call.tokens_per_second), (Tokens::default(), None), "chunks are no tokens");
}

#[test]
fn openai_responses() {
    let text = "some text ".repeat(3000);
    let events = [
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"status\":\
         \"in_progress\",\"model\":\"gpt\",\"output\":[],\"usage\":null}}\n\n"
            .to_owned(),
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"some\"}\n\n"
            .into(),
        format!(
            "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"id\":\"r\",\"status\":\
             \"completed\",\"model\":\"gpt\",\"output\":[{{\"content\":[{{\"text\":\"{text}\"}}]}}],\"usage\":\
             {{\"input_tokens\":36,\"input_tokens_details\":{{\"cached_tokens\":8}},\"output_tokens\":87,\
             \"output_tokens_details\":{{\"reasoning_tokens\":0}},\"total_tokens\":123}},\"user\":null}}}}\n\n"
        ),
    ];
    let body = events.concat();
    for (size, unread) in [(usize::MAX, None), (1000, Some(Unmatched::Unread))] {
        let mut bot = Bot::default();
        bot.asks("/v1/responses", r#"{"model":"gpt","input":"x","stream":true}"#);
        bot.receives(SSE.replace("Transfer-Encoding: chunked", &format!("Content-Length: {}", body.len())));
        for piece in body.as_bytes().chunks(size) {
            bot.receives(piece);
        }
        let call = bot.call();
        assert_eq!((call.tokens, call.chunks), (tokens(36, 87, 8), 1));
        assert_eq!((call.model.as_deref(), call.outcome), (Some("gpt"), CallOutcome::Complete));
        assert_eq!(call.unread, unread, "the last event is longer than what is kept of a line that comes in pieces");
    }
}

#[test]
fn an_answer_that_was_cut_short_says_why() {
    let incomplete = |reason: &str| {
        format!(
            "event: response.incomplete\ndata: {{\"type\":\"response.incomplete\",\"response\":{{\"status\":\"incomplete\",\
             \"incomplete_details\":{{\"kind\":\"x\",\"reason\":\"{reason}\"}}}}}}\n\n"
        )
    };
    for (reason, finish) in [("max_output_tokens", Finish::Length), ("content_filter", Finish::ContentFilter)] {
        let call = streamed("/v1/responses", STREAM, SSE, &[&incomplete(reason)]);
        assert_eq!((call.finish, call.outcome), (Some(finish), CallOutcome::Complete), "{reason}");
    }
}

#[test]
fn llama_cpp_s_own_answers_say_why_they_ended() {
    for (stop, finish) in [("eos", Some(Finish::Stop)), ("limit", Some(Finish::Length)), ("none", None)] {
        let last = format!("data: {{\"content\":\"\",\"stop\":true,\"stop_type\":\"{stop}\"}}\n\n");
        let call = streamed("/completion", STREAM, SSE, &["data: {\"content\":\"Hi\",\"stop\":false}\n\n", &last]);
        assert_eq!((call.finish, call.chunks), (finish, 1), "{stop}");
    }
}

#[test]
fn anthropic_counts_what_was_cached_apart() {
    let events = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"model\":\
         \"claude\",\"content\":[],\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":3,\
         \"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\
         \"text_delta\",\"text\":\"Hello\"}}\n\n",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\"},\"usage\":\
         {\"output_tokens\":15}}\n\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ];
    let call = streamed("/v1/messages", STREAM, SSE, &events);
    assert_eq!(call.tokens, tokens(128, 15, 100));
    assert_eq!((call.model.as_deref(), call.finish), (Some("claude"), Some(Finish::ToolCalls)));
    let call = whole(
        "/v1/messages",
        r#"{"model":"claude"}"#,
        r#"{"type":"message","model":"claude","content":[{"type":"text","text":"Hi"}],"stop_reason":"max_tokens",
           "usage":{"input_tokens":2,"output_tokens":3}}"#,
    );
    assert_eq!((call.tokens.input, call.tokens.output, call.finish), (Some(2), Some(3), Some(Finish::Length)));
}

#[test]
fn ollama_says_where_the_time_went() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let last = "{\"model\":\"llama3\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\",\
        \"done\":true,\"total_duration\":4000000000,\"load_duration\":1500000000,\"prompt_eval_count\":26,\
        \"prompt_eval_duration\":130000000,\"eval_count\":298,\"eval_duration\":2000000000}\n";
    let first = "{\"model\":\"llama3\",\"message\":{\"content\":\"Hi\"},\"done\":false}\n";
    let call = streamed("/api/chat", r#"{"model":"llama3","messages":[]}"#, head, &[first, last]);
    assert_eq!((call.tokens.input, call.tokens.output), (Some(26), Some(298)));
    assert_eq!((call.load, call.predicted), (Some(Nanos(1500 * MS)), Some(Nanos(2000 * MS))));
    assert_eq!(call.tokens_per_second, Some(149.0));
    assert_eq!((call.finish, call.queued), (Some(Finish::Stop), Some(Nanos(0))));
}

#[test]
fn embeddings_have_no_output() {
    for (path, request, answer, input) in [
        (
            "/v1/embeddings",
            r#"{"model":"e","input":["a"]}"#,
            format!(
                r#"{{"object":"list","data":[{{"embedding":[{}0.5]}}],"model":"e","usage":{{"prompt_tokens":8,"total_tokens":8}}}}"#,
                "0.25,".repeat(4000)
            ),
            Some(8),
        ),
        (
            "/api/embed",
            r#"{"model":"e","input":"a"}"#,
            r#"{"model":"e","embeddings":[[0.1]],"total_duration":14143917,"load_duration":1019500,"prompt_eval_count":8}"#
                .to_owned(),
            Some(8),
        ),
        ("/embedding", r#"{"input":"a"}"#, r#"[{"index":0,"embedding":[[0.1]]}]"#.to_owned(), None),
    ] {
        let call = whole(path, request, &answer);
        assert_eq!(call.endpoint.operation, Operation::Embeddings, "{path}");
        assert_eq!((call.tokens.input, call.tokens.output), (input, None), "{path}");
        assert_eq!((call.streaming, call.outcome), (Some(false), CallOutcome::Complete), "{path}");
    }
}

#[test]
fn the_model_is_the_one_that_answers() {
    let model = |request: &str, event: &str| {
        let call = streamed(CHAT, request, SSE, &[event]);
        (call.model.map(String::from), call.model_answered)
    };
    let answer = |model: &str| format!("data: {{\"model\":{model},\"choices\":[]}}\n\n");
    let asked = r#"{"model":"asked","stream":true}"#;
    assert_eq!(model(asked, &answer("\"answered\"")), (Some("answered".into()), true));
    assert_eq!(model(asked, "data: {}\n\n"), (Some("asked".into()), false));
    assert_eq!(model(asked, &answer("\"\\u0000\"")), (Some("asked".into()), false), "that is no name");
    assert_eq!(model("{}", "data: {}\n\n"), (None, false));
    let (long, _) = model(asked, &answer(&format!("\"{}\"", "x".repeat(5000))));
    assert!(long.is_none_or(|model| model.len() <= Call::MODEL_MAX));
    // The name and whether to stream stand behind the messages.
    let request = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"behind","stream":true}}"#,
        "long ".repeat(9000)
    );
    assert_eq!(model(&request, "data: {}\n\n"), (Some("behind".into()), false));
}

#[test]
fn gaps_are_told_as_they_come() {
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    let token = delta(r#"{"content":"Hi"}"#);
    bot.receives(chunk(&token));
    bot.time += 9;
    bot.receives([chunk(&token), chunk(&token), chunk(&token)].concat());
    bot.receives(chunk(": ping\n\n"));
    bot.receives(chunk(&token));
    bot.ends(End::LocalClosed);
    let progress: Vec<_> = bot.listener.progress.iter().map(|(progress, _)| *progress).collect();
    let one = Progress { tokens: 1, ..Progress::default() };
    let then = |gap| Progress { gap: Some(Nanos(gap)), ..one };
    assert_eq!(progress, [Progress { first: true, ..one }, then(10), then(0), then(0), then(2)]);
    assert_eq!(bot.call().outcome, CallOutcome::Aborted);
}

#[test]
fn a_gap_is_not_told_where_something_may_have_come() {
    let token = delta(r#"{"content":"Hi"}"#);
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.receives(chunk(&token));
    bot.known = Some((20, 0));
    bot.receives(chunk(&token));
    bot.known = None;
    // Framing is not lost by one chunk of which all is covered.
    bot.receives(chunk(&token));
    bot.receives(chunk(&token));
    bot.receives("0\r\n\r\n");
    let gaps: Vec<_> = bot.listener.progress.iter().filter_map(|(progress, _)| progress.gap).collect();
    assert_eq!(gaps, [Nanos(1)]);
    assert_eq!((bot.call().chunks, bot.call().unread), (4, Some(Unmatched::Unread)));
}

#[test]
fn after_lost_framing_events_are_read_on() {
    let token = delta(r#"{"content":"Hi"}"#);
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    // Several events in one segment of which only the start and the end are known.
    let many: String = (0..20).map(|_| chunk(&token)).collect();
    let (start, end) = (many.as_bytes()[..300].to_vec(), many.as_bytes()[many.len() - 300..].to_vec());
    bot.received_partly(many.len() as u64, &start, &end);
    let before = bot.listener.progress.len();
    for _ in 0..3 {
        bot.receives(chunk(&token));
    }
    bot.receives(chunk(&format!("{LLAMA_CPP_END}data: [DONE]\n\n")));
    bot.receives("0\r\n\r\n");
    let call = bot.call();
    assert_eq!(bot.listener.progress.len(), before + 3);
    assert_eq!((call.tokens, call.outcome), (tokens(12, 20, 5), CallOutcome::Complete));
    assert_eq!(call.unread, Some(Unmatched::Unread));
}

#[test]
fn what_gzip_made_small_is_read() {
    let body = [delta(r#"{"content":"Hi"}"#), delta(r#"{"content":"!"}"#), LLAMA_CPP_END.to_owned()].concat();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).expect("memory takes all");
    let coded = encoder.finish().expect("memory takes all");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        coded.len()
    );
    for size in [1, 50, 4096] {
        let mut bot = Bot::default();
        bot.asks(CHAT, STREAM).receives(&head);
        for piece in coded.chunks(size) {
            bot.receives(piece);
        }
        let call = bot.call();
        assert_eq!((call.tokens, call.chunks, call.unread), (tokens(12, 20, 5), 2, None), "{size}");
    }
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(&head);
    bot.known = Some((10, 8));
    bot.receives(&coded);
    assert_eq!((bot.call().tokens, bot.call().unread), (Tokens::default(), Some(Unmatched::Coded)));
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(head.replace("gzip", "br"));
    bot.receives(&coded);
    assert_eq!(bot.call().unread, Some(Unmatched::Coded));
}

#[test]
fn wrong_types_and_no_text_at_all() {
    // An event stream that says it is text, and one that says nothing.
    for media in ["Content-Type: text/plain\r\n", ""] {
        let head = SSE.replace("Content-Type: text/event-stream\r\n", media);
        let call = streamed(CHAT, STREAM, &head, &[&delta(r#"{"content":"Hi"}"#), LLAMA_CPP_END]);
        assert_eq!((call.tokens, call.chunks), (tokens(12, 20, 5), 1), "{media}");
    }
    let mut bot = Bot::default();
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.receives(chunk("data: {\"choices\":[{\"delta\":{\"content\":\"\u{fffd}").replace('\u{fffd}', "").into_bytes());
    bot.receives(b"\xff\xfe\xff\"}}]}\n\n\r\n".as_slice());
    bot.ends(End::PeerFinished);
    assert!(bot.call().chunks <= 1);
    let call = streamed(CHAT, STREAM, SSE, &["data: {no json}\n\n", "data: [1]\n\n", "\u{0}\n\n"]);
    assert_eq!((call.chunks, call.unread), (0, Some(Unmatched::Malformed)));
}

#[test]
fn a_call_waits_for_what_its_server_does_not_account_for() {
    let mut bot = Bot { time: 0, ..Bot::default() };
    bot.asks(CHAT, STREAM).receives(SSE);
    bot.time = 100 * MS;
    bot.receives(chunk(&delta(r#"{"content":"Hi"}"#)));
    bot.time = 200 * MS;
    bot.receives(chunk(LLAMA_CPP_END));
    bot.receives("0\r\n\r\n");
    // From 1 ns on to the first token, less 12.5 ms for the prompt.
    assert_eq!(bot.call().queued, Some(Nanos(100 * MS - 12_500_000)));
}
