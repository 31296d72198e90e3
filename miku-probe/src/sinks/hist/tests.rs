//! The sink from exchanges to what is shown.

use std::fs;
use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::*;
use crate::observations::{
    AbortReason, CallOutcome, Device, Gpu, GpuMemory, GpuSample, Llm, LlmCall, LlmLabels, LlmPhase, Operation, Phase,
    Phases, Reading, ReplyKind, Task, Tokens,
};
use crate::units::Scheme;

const SECOND: Nanos = Nanos(1_000_000_000);

/// 2026-11-22 14:03:09.5 UTC.
fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_356_189_500)
}

fn at(seconds: u64) -> Nanos {
    Nanos(SECOND.0 * (100 + seconds))
}

fn names() -> Names {
    Names { services: vec!["bot".to_owned(), "llm".to_owned()], ..Names::default() }
}

fn exchange(names: &mut Names, route: &str, duration: Nanos) -> Exchange {
    Exchange {
        service: ServiceId(0),
        side: Side::Server,
        scheme: Scheme::Http,
        method: Method::Get,
        route: names.symbols.intern(route),
        server: Symbol::EMPTY,
        port: 0,
        status: Some(200),
        start: at(0),
        first_byte: Some(Nanos(duration.0 / 2)),
        duration,
        request_bytes: 100,
        response_bytes: 100,
        outcome: Outcome::Complete,
    }
}

fn hist(filter: Filter) -> Hist {
    Hist::new(&Options { filter, ..Options::default() }, at(0))
}

fn see(hist: &mut Hist, names: &Names, exchange: Exchange) {
    hist.observe(&Observation::Exchange(exchange), names);
}

fn status() -> Status {
    Status { targets: vec!["bot (pid 4242)".to_owned(), "llm (pid 777)".to_owned()], lost: 0, unmatched: 0 }
}

/// A load with two modes, at 4 ms and at 400 ms; then an interval in which the fast one got slower.
fn bimodal(status: &Status) -> (Hist, Frame) {
    let mut names = names();
    let discord = names.symbols.intern("discord.com");
    let mut hist = hist(Filter::default());
    let mut load = |hist: &mut Hist, count: u64, slower: u64| {
        for index in 0..count {
            // Two factors from full cycles through 0..1000 make a skewed hump.
            let hump = (index * 7_919 % 1_000) * (index * 104_729 % 1_000 + index / 1_000);
            let mut one = match index % 10 {
                0..=5 => exchange(&mut names, "/items/{item_id}", Nanos((3_000_000 + hump * 6) * slower)),
                6..=8 => {
                    let mut one = exchange(&mut names, "/api/v10/channels/{id}/messages", Nanos(9_000_000 + hump * 20));
                    (one.side, one.method, one.server, one.port) = (Side::Client, Method::Post, discord, 443);
                    one
                }
                _ => {
                    let mut one = exchange(&mut names, "/v1/chat/completions", Nanos(300_000_000 + hump * 500));
                    (one.service, one.method) = (ServiceId(1), Method::Post);
                    one
                }
            };
            match index % 200 {
                17 => one.status = Some(503),
                99 => one.outcome = Outcome::Aborted(AbortReason::ClientClosed),
                _ => {}
            }
            see(hist, &names, one);
        }
    };
    load(&mut hist, 12_000, 1);
    hist.tick(at(122), wall(), status);
    load(&mut hist, 100, 2);
    let frame = hist.tick(at(123), wall(), status);
    (hist, frame)
}

fn drawn(lines: &[Line], columns: usize) -> String {
    lines.iter().map(|line| format!("{}\n", line.encode(columns, false).trim_end())).collect()
}

/// Compares with a file of `golden/`; with `UPDATE_GOLDEN` set, writes it instead, to be looked at before it is kept.
fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/sinks/hist/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    assert!(text == golden, "{name} should be\n{golden}\nbut is\n{text}");
}

#[test]
fn screens_are_as_they_were_approved() {
    let (_, frame) = bimodal(&status());
    let (_, troubled) = bimodal(&Status { lost: 12, unmatched: 1, ..status() });
    let unicode = Look::default();
    let ascii = Look { glyphs: Glyphs::Ascii, color: false };
    let keys = Hints { keys: true, paused: false };
    for (name, frame, columns, rows, look, hints) in [
        ("80x24.txt", &frame, 80, 24, unicode, keys),
        ("80x24-ascii.txt", &frame, 80, 24, ascii, Hints::default()),
        ("120x40-lost.txt", &troubled, 120, 40, unicode, Hints { keys: true, paused: true }),
        ("60x15.txt", &frame, 60, 15, unicode, keys),
        ("40x10.txt", &frame, 40, 10, unicode, keys),
    ] {
        compare(name, &drawn(&screen(frame, Geometry { columns, rows }, look, hints), columns));
    }
}

#[test]
fn blocks_are_as_they_were_approved() {
    let (mut hist, frame) = bimodal(&status());
    compare("block.txt", &drawn(&block(&frame, 100, Look::default()), 100));
    let frame = hist.finish(at(124), wall(), &status());
    compare("final.txt", &drawn(&block(&frame, 100, Look::default()), 100));
}

#[test]
fn waiting_says_for_what() {
    let filter = Filter { routes: vec!["/api/*".parse().expect("a pattern")], ..Filter::default() };
    let mut hist = hist(filter);
    let mut names = names();
    let one = exchange(&mut names, "/health", SECOND);
    see(&mut hist, &names, one);
    let frame = hist.tick(at(1), wall(), &status());
    let geometry = Geometry { columns: 80, rows: 16 };
    compare("waiting.txt", &drawn(&screen(&frame, geometry, Look::default(), Hints::default()), 80));
    let frame = hist.tick(at(1), wall(), &Status::default());
    let text = drawn(&screen(&frame, geometry, Look::default(), Hints::default()), 80);
    assert!(text.contains("no process is attached"), "{text}");
}

#[test]
fn every_size_is_filled_and_never_overflown() {
    let (_, frame) = bimodal(&Status { lost: 12, unmatched: 1, ..status() });
    for columns in (1..130).step_by(7).chain([40, 52, 60, 66, 80, 100, 500]) {
        for rows in (1..45).step_by(3).chain([10, 16, 20, 24, 200]) {
            let lines = screen(&frame, Geometry { columns, rows }, Look::default(), Hints::default());
            assert_eq!(lines.len(), rows, "{columns}x{rows}");
            let widest = lines.iter().map(Line::width).max();
            assert!(columns < 40 || widest <= Some(columns), "{columns}x{rows}: {widest:?} in\n{}", drawn(&lines, 500));
        }
    }
}

#[test]
fn ascii_is_ascii() {
    let mut names = names();
    names.services[0] = "ボット".to_owned();
    let mut hist = hist(Filter::default());
    let one = exchange(&mut names, "/é\x1b[31m", Nanos(500_000));
    see(&mut hist, &names, one);
    let status = Status { targets: vec!["ボット".to_owned()], lost: 1, unmatched: 2 };
    let frame = hist.tick(at(1), wall(), &status);
    let look = Look { glyphs: Glyphs::Ascii, color: false };
    let text = drawn(&screen(&frame, Geometry { columns: 120, rows: 40 }, look, Hints::default()), 120);
    assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{text}");
    assert!(text.contains("/??[31m"), "{text}");
}

#[test]
fn each_outcome_counts_on_its_own() {
    let mut names = names();
    let mut hist = hist(Filter::default());
    let base = exchange(&mut names, "/", SECOND);
    for status in [Some(200), Some(404), Some(500), None] {
        see(&mut hist, &names, Exchange { status, ..base.clone() });
        see(&mut hist, &names, Exchange { status, side: Side::Client, ..base.clone() });
    }
    see(
        &mut hist,
        &names,
        Exchange { outcome: Outcome::Aborted(AbortReason::Reset), status: Some(500), ..base.clone() },
    );
    see(&mut hist, &names, Exchange { outcome: Outcome::Unknown, status: None, ..base.clone() });
    see(&mut hist, &names, Exchange { first_byte: None, ..base });
    let frame = hist.tick(at(1), wall(), &status());
    assert_eq!(frame.total.duration.count(), 9);
    assert_eq!(frame.total.first_byte.count(), 8);
    assert_eq!(frame.total.failures, Failures { errors: 3, aborted: 1, unknown: 1 });
    assert_eq!(frame.routes.iter().map(|row| row.count).collect::<Vec<_>>(), [5, 4]);
}

#[test]
fn intervals_add_up_to_the_total() {
    let mut names = names();
    let mut hist = hist(Filter::default());
    let one = exchange(&mut names, "/", SECOND);
    let mut sum = 0;
    for tick in 1..=3 {
        for _ in 0..tick {
            see(&mut hist, &names, one.clone());
        }
        let frame = hist.tick(at(tick * 2), wall(), &status());
        assert_eq!((frame.interval.duration.count(), frame.length), (tick, at(2).since(at(0))));
        assert_eq!(frame.routes[0].interval_count, tick);
        sum += frame.interval.duration.count();
    }
    see(&mut hist, &names, one);
    let frame = hist.finish(at(7), wall(), &status());
    assert_eq!((frame.interval.duration.count(), frame.length), (1, SECOND));
    assert_eq!((frame.total.duration.count(), frame.elapsed), (sum + 1, at(7).since(at(0))));
}

#[test]
fn it_is_done_after_as_many_intervals_as_were_asked_for() {
    let options = Options { count: NonZero::new(2), ..Options::default() };
    let mut hist = Hist::new(&options, at(0));
    let done: Vec<bool> = (1..=2)
        .map(|second| {
            hist.tick(at(second), wall(), &status());
            hist.is_done()
        })
        .collect();
    assert_eq!(done, [false, true]);
}

#[test]
fn a_reset_starts_again() {
    let (mut hist, _) = bimodal(&status());
    hist.reset(at(200));
    let frame = hist.tick(at(201), wall(), &status());
    assert_eq!((frame.total.duration.count(), frame.routes.len(), frame.elapsed, frame.length), (0, 0, SECOND, SECOND));
}

#[test]
fn the_filter_holds_back_what_does_not_match_in_every_part() {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a pattern")).collect::<Vec<Pattern>>();
    let mut names = names();
    let right = exchange(&mut names, "/api/items", SECOND);
    let route = exchange(&mut names, "/health", SECOND);
    let service = Exchange { service: ServiceId(1), ..right.clone() };
    let side = Exchange { side: Side::Client, ..right.clone() };
    let mut hist =
        hist(Filter { services: patterns(&["b*"]), sides: vec![Side::Server], routes: patterns(&["/none", "/api/*"]) });
    for one in [right, route, service, side] {
        see(&mut hist, &names, one);
    }
    let frame = hist.tick(at(1), wall(), &status());
    assert_eq!((frame.total.duration.count(), frame.filtered), (1, 3));
    assert_eq!(frame.filter, ["service b*", "server side", "route /none, /api/*"]);
}

#[test]
fn routes_above_the_cap_share_a_row() {
    let mut names = names();
    let mut hist = hist(Filter::default());
    for index in 0..Hist::MAX_ROUTES + 10 {
        let one = exchange(&mut names, &format!("/{index}"), SECOND);
        see(&mut hist, &names, one);
    }
    let frame = hist.tick(at(1), wall(), &status());
    assert_eq!(frame.routes.len(), Hist::MAX_ROUTES + 1);
    let last = frame.routes.last().expect("there are rows");
    assert_eq!((&last.origin, last.count), (&Origin::Other, 10));
}

fn json(frame: &Frame) -> Value {
    let mut bytes = Vec::new();
    Printer::new(&mut bytes, Format::Json, Look::default(), 80).print(frame).expect("a vector takes everything");
    let text = String::from_utf8(bytes).expect("JSON is UTF-8");
    assert_eq!(text.matches('\n').count(), 1, "one object a line");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn json_holds_what_is_documented() {
    let (mut hist, frame) = bimodal(&Status { lost: 12, unmatched: 1, ..status() });
    let value = json(&frame);
    assert_eq!(value["time"], "2026-11-22T14:03:09.500Z");
    assert_eq!(value["final"], false);
    assert_eq!((&value["elapsed_seconds"], &value["interval_seconds"]), (&123.0.into(), &1.0.into()));
    assert_eq!((&value["lost"], &value["unmatched"], &value["filtered"]), (&12.into(), &1.into(), &0.into()));
    assert_eq!(value["targets"][1], "llm (pid 777)");
    for window in ["interval", "total"] {
        let window = &value[window];
        let times: Vec<f64> = ["p50", "p90", "p99", "p999", "max"]
            .map(|name| window[name].as_f64().unwrap_or_else(|| panic!("{name} in {window}")))
            .to_vec();
        assert!(times.is_sorted(), "{times:?}");
        let buckets = window["buckets"].as_array().expect("an array");
        let numbers =
            |name: &str| buckets.iter().map(|bucket| bucket[name].as_f64().expect("a number")).collect::<Vec<_>>();
        for (above, le) in numbers("above").into_iter().zip(numbers("le")) {
            assert!(above < le && le <= above * 1.0501, "{above} to {le}");
        }
        assert!(numbers("le").is_sorted_by(|one, next| one < next));
        assert!(numbers("count").is_sorted_by(|one, next| one < next));
        assert_eq!(buckets.last().expect("a bucket")["count"], window["count"]);
    }
    assert_eq!(value["interval"]["rate"], value["interval"]["count"].as_f64().expect("a number"));
    assert_eq!(value["total"]["count"], 12_100 - 61);
    assert_eq!(value["total"]["aborted"], 61);
    assert_eq!(value["routes"][1]["server"], "discord.com");
    assert_eq!(value["routes"][1]["side"], "client");
    assert_eq!(value["routes"][0].get("server"), None, "absent, not empty");
    assert_eq!(json(&hist.finish(at(124), wall(), &status()))["final"], true);
}

#[test]
fn json_says_null_for_what_was_not_measured() {
    let value = json(&hist(Filter::default()).tick(at(0), wall(), &status()));
    for name in ["rate", "p50", "p99", "p999", "max"] {
        assert_eq!(value["total"].get(name), Some(&Value::Null), "{name}");
    }
    assert_eq!(value["total"]["count"], 0);
}

#[test]
fn a_block_for_a_log_holds_no_escape() {
    let (_, frame) = bimodal(&status());
    let mut bytes = Vec::new();
    Printer::new(&mut bytes, Format::Text, Look::default(), 100).print(&frame).expect("a vector takes everything");
    assert!(!bytes.contains(&0x1b));
    assert!(bytes.ends_with(b"\n\n"), "an empty line parts the blocks");
}

/// Takes one write and counts it.
#[derive(Default)]
struct Counting {
    writes: usize,
    bytes: Vec<u8>,
}

impl io::Write for &mut Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_screen_is_written_at_once_and_cleared_only_when_its_size_changes() {
    let (_, frame) = bimodal(&status());
    let geometry = Geometry { columns: 80, rows: 24 };
    let draw = |sizes: &[Geometry], pause: bool| {
        let mut seen = Counting::default();
        let mut screen = Screen::new(&mut seen, Look { glyphs: Glyphs::Unicode, color: true }, true);
        for size in sizes {
            screen.draw(frame.clone(), *size).expect("a vector takes everything");
        }
        if pause {
            screen.toggle_pause(geometry).expect("a vector takes everything");
            screen.draw(frame.clone(), geometry).expect("a vector takes everything");
        }
        (seen.writes, String::from_utf8(seen.bytes).expect("all UTF-8"))
    };
    let (writes, text) = draw(&[geometry, geometry], false);
    assert_eq!(writes, 2);
    assert_eq!(text.matches("\x1b[2J").count(), 1);
    assert!(text.starts_with("\x1b[?2026h") && text.ends_with("\x1b[?2026l"), "the terminal shows whole frames only");
    let (_, text) = draw(&[geometry, Geometry { columns: 81, rows: 24 }], false);
    assert_eq!(text.matches("\x1b[2J").count(), 2);
    let (writes, text) = draw(&[geometry], true);
    assert_eq!((writes, text.matches("paused").count()), (2, 1), "a paused screen stands still");
}

/// A reader that went away.
struct Gone;

impl io::Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_went_away_is_told_by_the_kind_of_error() {
    let (_, frame) = bimodal(&status());
    let printed = Printer::new(Gone, Format::Json, Look::default(), 80).print(&frame);
    assert_eq!(printed.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
    let drawn = Screen::new(Gone, Look::default(), false).draw(frame, Geometry { columns: 80, rows: 24 });
    assert_eq!(drawn.expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn keys_are_known() {
    assert_eq!(
        [b'q', b'R', b' ', b'x'].map(Key::from_byte),
        [Some(Key::Quit), Some(Key::Reset), Some(Key::Pause), None]
    );
}

/// Replies of a bot that mostly waits for its model, some of which Discord held up.
fn replies() -> (Hist, Frame) {
    let names = names();
    let mut hist = Hist::new(&Options { subject: Subject::Replies, ..Options::default() }, at(0));
    for index in 0..200 {
        let mut phases = Phases::default();
        phases.add(Phase::Pickup, Nanos(2_000_000 + index * 10_000));
        phases.add(Phase::LlmFirstToken, Nanos(400_000_000 + index * 1_000_000));
        phases.add(Phase::LlmGeneration, Nanos(1_500_000_000 + index * 12_000_000));
        phases.add(Phase::Post, Nanos(90_000_000));
        if index % 20 == 3 {
            phases.add(Phase::RateLimit, SECOND);
        }
        phases.add(Phase::Other, Nanos(0));
        let what = Discord::Reply { kind: ReplyKind::Message, duration: phases.sum(), phases };
        hist.observe(&Observation::Discord { service: ServiceId(0), what }, &names);
        if index == 100 {
            hist.tick(at(122), wall(), &status());
        }
    }
    let what = Discord::Unanswered { kind: ReplyKind::Interaction };
    hist.observe(&Observation::Discord { service: ServiceId(0), what }, &names);
    let frame = hist.tick(at(123), wall(), &status());
    (hist, frame)
}

#[test]
fn replies_are_shown_as_was_approved() {
    let (mut hist, frame) = replies();
    let ascii = Look { glyphs: Glyphs::Ascii, color: false };
    for (name, columns, rows, look) in [
        ("reply-80x24.txt", 80, 24, Look::default()),
        ("reply-80x24-ascii.txt", 80, 24, ascii),
        ("reply-120x40.txt", 120, 40, Look::default()),
        ("reply-60x15.txt", 60, 15, Look::default()),
    ] {
        compare(name, &drawn(&screen(&frame, Geometry { columns, rows }, look, Hints::default()), columns));
    }
    compare("reply-block.txt", &drawn(&block(&frame, 100, Look::default()), 100));
    let last = hist.finish(at(124), wall(), &status());
    compare("reply-final.txt", &drawn(&block(&last, 100, Look::default()), 100));
    hist.reset(at(124));
    let empty = hist.tick(at(125), wall(), &status());
    assert_eq!(empty.phases, []);
    let geometry = Geometry { columns: 80, rows: 16 };
    compare("reply-waiting.txt", &drawn(&screen(&empty, geometry, Look::default(), Hints::default()), 80));
}

#[test]
fn replies_fill_every_size_too() {
    let (_, frame) = replies();
    for columns in (1..130).step_by(7).chain([40, 60, 80]) {
        for rows in (1..45).step_by(3).chain([16, 20, 24]) {
            let lines = screen(&frame, Geometry { columns, rows }, Look::default(), Hints::default());
            assert_eq!(lines.len(), rows, "{columns}x{rows}");
            let widest = lines.iter().map(Line::width).max();
            assert!(columns < 40 || widest <= Some(columns), "{columns}x{rows}: {widest:?} in\n{}", drawn(&lines, 500));
        }
    }
}

#[test]
fn json_of_replies_has_phases_that_make_up_the_whole() {
    let (_, frame) = replies();
    let value = json(&frame);
    let total = &value["total"];
    assert_eq!((&total["count"], &total["unanswered"]), (&200.into(), &1.into()));
    assert_eq!((&value["interval"]["count"], &value["interval"]["unanswered"]), (&99.into(), &1.into()));
    for absent in ["errors", "aborted", "unknown", "first_byte"] {
        assert_eq!(total.get(absent), None, "{absent} is told of exchanges alone");
    }
    assert_eq!(value.get("routes"), None);
    let phases = value["phases"].as_array().expect("an array");
    let names: Vec<_> = phases.iter().filter_map(|phase| phase["phase"].as_str()).collect();
    assert_eq!(names, ["pickup", "llm_first_token", "llm_generation", "post", "rate_limit", "other"]);
    let shares: f64 = phases.iter().filter_map(|phase| phase["share"].as_f64()).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    assert_eq!(phases[4]["count"], 10);
    let p50 = phases[3]["p50"].as_f64().expect("a time");
    assert!((p50 / 0.09 - 1.0).abs() < 0.004, "{p50}");
}

#[test]
fn replies_and_exchanges_do_not_mix() {
    let mut names = names();
    let one = exchange(&mut names, "/", SECOND);
    let phases = Phases::default();
    let reply = Observation::Discord {
        service: ServiceId(0),
        what: Discord::Reply { kind: ReplyKind::Message, duration: SECOND, phases },
    };
    let other = Observation::Discord {
        service: ServiceId(1),
        what: Discord::Reply { kind: ReplyKind::Message, duration: SECOND, phases },
    };
    let filter = Filter { services: vec!["bot".parse().expect("a pattern")], ..Filter::default() };
    for (subject, count, filtered) in [(Subject::Exchanges, 1, 0), (Subject::Replies, 2, 1)] {
        let mut hist = Hist::new(&Options { subject, filter: filter.clone(), ..Options::default() }, at(0));
        see(&mut hist, &names, one.clone());
        for observation in [&reply, &reply, &other] {
            hist.observe(observation, &names);
        }
        let frame = hist.tick(at(1), wall(), &status());
        assert_eq!((frame.total.duration.count(), frame.filtered), (count, filtered), "{subject:?}");
    }
}

fn llm(hist: &mut Hist, names: &Names, what: Llm) {
    hist.observe(&Observation::Llm { service: ServiceId(0), what }, names);
}

/// A bot's streamed calls of this model.
fn call_labels(names: &mut Names, model: &str) -> LlmLabels {
    LlmLabels {
        side: Side::Client,
        model: names.symbols.intern(model),
        server: names.symbols.intern("llm.lan"),
        operation: Operation::Chat,
        streaming: Some(true),
    }
}

/// A call of which all that is shown is known.
fn call(labels: LlmLabels, first_token: Nanos, duration: Nanos, tokens_per_second: f64) -> LlmCall {
    LlmCall {
        labels,
        outcome: CallOutcome::Complete,
        duration,
        first_byte: Some(Nanos(1_000_000)),
        first_token: Some(first_token),
        tokens_per_second: Some(tokens_per_second),
        tokens: Tokens { input: Some(100), output: Some(41), cached: None },
        prompt: None,
        predicted: None,
        queued: None,
        finish: None,
    }
}

/// Calls of two models, of which one is five times slower, and some fail.
fn call_models(hist: &mut Hist, names: &mut Names, count: u64, busy: u64) {
    let [fast, slow] = ["miku-7b", "miku-70b-instruct"].map(|model| call_labels(names, model));
    for index in 0..count {
        let (labels, times) = if index % 4 == 0 { (slow, 5) } else { (fast, 1) };
        let hump = (index * 7_919 % 100) * (index * 104_729 % 100) * busy;
        for token in 0..20 {
            let gap = Nanos((12_000_000 + hump * 900 + token * 300_000) * times);
            llm(hist, names, Llm::Gap { labels, gap, count: 2 });
        }
        let first = Nanos((120_000_000 + hump * 40_000) * times);
        let duration = first + Nanos((500_000_000 + hump * 30_000) * times);
        let rate = 80.0 / f64::from(u32::try_from(times * (hump / 5_000 + 1)).expect("a small number"));
        let mut one = call(labels, first, duration, rate);
        if index % 50 == 7 {
            one.outcome = CallOutcome::Failed;
            (one.first_token, one.tokens_per_second, one.tokens) = (None, None, Tokens::default());
        }
        llm(hist, names, Llm::Call(one));
    }
}

/// Calls of two models; in the last interval both are busier.
fn called() -> (Hist, Frame) {
    let mut names = names();
    let mut hist = Hist::new(&Options { subject: Subject::Calls, ..Options::default() }, at(0));
    let LlmLabels { side, server, .. } = call_labels(&mut names, "");
    llm(&mut hist, &names, Llm::InFlight { side, server, change: 2 });
    call_models(&mut hist, &mut names, 200, 1);
    hist.tick(at(122), wall(), &status());
    call_models(&mut hist, &mut names, 12, 2);
    let frame = hist.tick(at(123), wall(), &status());
    (hist, frame)
}

#[test]
fn calls_are_shown_as_was_approved() {
    let (mut hist, frame) = called();
    let ascii = Look { glyphs: Glyphs::Ascii, color: false };
    for (name, columns, rows, look) in [
        ("llm-80x24.txt", 80, 24, Look::default()),
        ("llm-80x24-ascii.txt", 80, 24, ascii),
        ("llm-120x40.txt", 120, 40, Look::default()),
        ("llm-60x24.txt", 60, 24, Look::default()),
        ("llm-60x15.txt", 60, 15, Look::default()),
    ] {
        compare(name, &drawn(&screen(&frame, Geometry { columns, rows }, look, Hints::default()), columns));
    }
    compare("llm-block.txt", &drawn(&block(&frame, 100, Look::default()), 100));
    let last = hist.finish(at(124), wall(), &status());
    compare("llm-final.txt", &drawn(&block(&last, 100, Look::default()), 100));
    hist.reset(at(124));
    let empty = hist.tick(at(125), wall(), &status());
    let geometry = Geometry { columns: 80, rows: 16 };
    compare("llm-waiting.txt", &drawn(&screen(&empty, geometry, Look::default(), Hints::default()), 80));
    assert_eq!(empty.calls.expect("calls are timed").in_flight, 2, "a reset ends no call");
}

/// A GPU of 24 GiB that is so busy, and draws three watts for each per cent of it.
fn gpu_sample(percent: u32, valid_until: Nanos) -> GpuSample {
    let (total, used) = (24 << 30, 18 << 30);
    let reading = Reading {
        memory: Some(GpuMemory { total, used, free: total - used, reserved: None }),
        utilization: vec![(Task::MemoryBandwidth, 0.1), (Task::Sm, f64::from(percent) / 100.0)],
        power_watts: Some(3.0 * f64::from(percent)),
        power_limit_watts: Some(350.0),
        ..Reading::default()
    };
    let devices = [("0", Ok(reading)), ("1", Ok(Reading::default()))];
    let devices = devices.map(|(gpu, told)| Device { gpu: gpu.to_owned(), told }).into();
    GpuSample { time: at(0), valid_until, devices: Ok(devices), xids: Vec::new() }
}

/// Calls beside what a GPU does for them.
fn called_beside_gpus() -> Hist {
    let (mut hist, _) = called();
    let names = names();
    for what in [
        Gpu::During(LlmPhase::Prompt, gpu_sample(98, at(0))),
        Gpu::During(LlmPhase::Prompt, gpu_sample(92, at(0))),
        Gpu::During(LlmPhase::Generation, gpu_sample(80, at(0))),
        Gpu::Sample(gpu_sample(87, at(125))),
    ] {
        hist.observe(&Observation::Gpu(what), &names);
    }
    hist
}

#[test]
fn gpus_are_shown_beside_the_calls_while_they_are_asked() {
    let mut hist = called_beside_gpus();
    let frame = hist.tick(at(124), wall(), &status());
    for (name, columns, rows) in [("llm-gpu-120x40.txt", 120, 40), ("llm-gpu-60x24.txt", 60, 24)] {
        let geometry = Geometry { columns, rows };
        compare(name, &drawn(&screen(&frame, geometry, Look::default(), Hints::default()), columns));
    }
    let value = json(&frame);
    let expected = serde_json::json!({
        "gpu": "0", "busy_ratio": 0.87, "power_watts": 261.0, "power_limit_watts": 350.0,
        "memory_used_bytes": 18_u64 << 30, "memory_total_bytes": 24_u64 << 30,
        "prompt": {"samples": 2, "busy_ratio": 0.95, "power_watts": 285.0},
        "generation": {"samples": 1, "busy_ratio": 0.8, "power_watts": 240.0},
    });
    assert_eq!(value["gpus"][0], expected);
    assert_eq!((&value["gpus"][1]["busy_ratio"], value["gpus"].as_array().map(Vec::len)), (&Value::Null, Some(2)));
    let stale = hist.tick(at(126), wall(), &status());
    assert_eq!(json(&stale).get("gpus"), None, "what was told is too old");
    let (_, without) = called();
    assert_eq!(json(&without).get("gpus"), None);
}

#[test]
fn calls_fill_every_size_too() {
    let frame = called_beside_gpus().tick(at(124), wall(), &status());
    for columns in (1..130).step_by(7).chain([40, 60, 77, 78, 80, 500]) {
        for rows in (1..45).step_by(3).chain([15, 16, 20, 24, 200]) {
            let lines = screen(&frame, Geometry { columns, rows }, Look::default(), Hints::default());
            assert_eq!(lines.len(), rows, "{columns}x{rows}");
            let widest = lines.iter().map(Line::width).max();
            assert!(columns < 40 || widest <= Some(columns), "{columns}x{rows}: {widest:?} in\n{}", drawn(&lines, 500));
        }
    }
}

#[test]
fn json_of_calls_has_three_distributions_and_models() {
    let (_, frame) = called();
    let value = json(&frame);
    let (total, interval) = (&value["total"], &value["interval"]);
    assert_eq!((&total["count"], &total["failed"]), (&207.into(), &5.into()));
    assert_eq!((&interval["count"], &interval["failed"]), (&11.into(), &1.into()));
    assert_eq!(value["in_flight"], 2);
    assert_eq!(total["first_token"]["count"], 207);
    assert_eq!(total["inter_token"]["count"], 212 * 40);
    assert_eq!(total["tokens"], serde_json::json!({"input": 20_700, "output": 207 * 41, "cached": null}));
    for name in ["first_token", "inter_token"] {
        let last = total[name]["buckets"].as_array().and_then(|buckets| buckets.last()).expect("buckets");
        assert_eq!(last["count"], total[name]["count"], "{name}");
    }
    let rates = &total["tokens_per_second"];
    let [p50, p90, min] = ["p50", "p90", "min"].map(|name| rates[name].as_f64().expect("a rate"));
    assert!((p50 / 80.0 - 1.0).abs() < 0.01 && p50 >= p90 && p90 >= min && min > 0.0, "{rates}");
    assert_eq!((value.get("routes"), value.get("phases")), (None, None));
    let models = value["models"].as_array().expect("an array");
    let names: Vec<_> = models.iter().filter_map(|model| model["model"].as_str()).collect();
    assert_eq!(names, ["miku-7b", "miku-70b-instruct"]);
    assert_eq!(models[0]["operation"], "chat");
    assert_eq!(models[1]["first_token"].get("buckets"), None);
}

#[test]
fn calls_obey_the_filter_and_models_over_the_cap_share_a_row() {
    let mut names = names();
    let filter = Filter { sides: vec![Side::Client], ..Filter::default() };
    let mut hist = Hist::new(&Options { subject: Subject::Calls, filter, ..Options::default() }, at(0));
    for number in 0..20 {
        let labels = call_labels(&mut names, &format!("model-{number}"));
        llm(&mut hist, &names, Llm::Call(call(labels, SECOND, SECOND, 1.0)));
    }
    let served = LlmLabels { side: Side::Server, server: Symbol::EMPTY, ..call_labels(&mut names, "m") };
    llm(&mut hist, &names, Llm::Call(call(served, SECOND, SECOND, 1.0)));
    llm(&mut hist, &names, Llm::Gap { labels: served, gap: SECOND, count: 3 });
    llm(&mut hist, &names, Llm::InFlight { side: Side::Server, server: Symbol::EMPTY, change: 1 });
    let one = exchange(&mut names, "/", SECOND);
    see(&mut hist, &names, one);
    let frame = hist.tick(at(1), wall(), &status());
    assert_eq!(frame.filtered, 1);
    let calls = frame.calls.expect("calls are timed");
    assert_eq!((calls.total.ends.all(), calls.in_flight), (20, 0));
    assert_eq!(calls.total.speeds.inter_token.count(), 0);
    assert_eq!(calls.models.len(), 17);
    let other = calls.models.last().expect("models");
    assert_eq!((&other.name, other.ends.all()), (&None, 4));
}
