//! Calls of language models, by any process and to it.

use super::*;
use crate::observations::{CallOutcome, Device, Gpu, GpuSample, Llm, LlmCall, Operation, Reading};

const SECOND: u64 = 1_000_000_000;

const ASK: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: llm.local:8080\r\nContent-Length: 30\r\n\r\n\
    {\"model\":\"m\",\"stream\":true   }";
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000000\r\n\r\n";
const TOKEN: &[u8] = b"data: {\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"canary\"}}]}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

fn told(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<Llm> {
    pipeline
        .sink
        .0
        .iter()
        .filter_map(|seen| if let Observation::Llm { what, .. } = seen { Some(*what) } else { None })
        .collect()
}

fn calls(pipeline: &Pipeline<Kept, Nowhere>) -> Vec<LlmCall> {
    told(pipeline).iter().filter_map(|what| if let Llm::Call(call) = what { Some(*call) } else { None }).collect()
}

/// One call on a connection of its own, which begins at `time`.
fn call(pipeline: &mut Pipeline<Kept, Nowhere>, time: u64, origin: Origin, pieces: &[&[u8]], answer: &[&[u8]]) {
    let (asks, answers) = match origin {
        Origin::Accepted => (Direction::In, Direction::Out),
        _ => (Direction::Out, Direction::In),
    };
    pipeline.record(&open(time, FD, origin));
    let mut at = time;
    for (pieces, direction) in [(pieces, asks), (answer, answers)] {
        for piece in pieces {
            at += 100;
            pipeline.record(&data(at, time, 0, direction, piece));
        }
    }
    pipeline.record(&close(at + 100, time, 0, 0));
}

#[test]
fn a_call_is_observed_at_both_ends() {
    for (origin, side, server) in [(Origin::Connected, Side::Client, "llm.local"), (Origin::Accepted, Side::Server, "")]
    {
        let mut pipeline = pipeline();
        call(&mut pipeline, 1000, origin, &[ASK], &[HEAD, TOKEN, TOKEN, DONE]);
        let told = told(&pipeline);
        let [
            Llm::InFlight { change: 1, .. },
            Llm::Gap { gap: Nanos(100), count: 1, labels },
            Llm::InFlight { change: -1, .. },
            Llm::Call(call),
        ] = told[..]
        else {
            panic!("something else was told: {told:?}");
        };
        assert_eq!((call.labels, call.labels.side, call.labels.operation), (labels, side, Operation::Chat));
        assert_eq!((call.outcome, call.labels.streaming), (CallOutcome::Complete, Some(true)));
        assert_eq!((call.first_byte, call.first_token), (Some(Nanos(100)), Some(Nanos(200))));
        let text = |symbol| pipeline.names.symbols.text(symbol).to_owned();
        assert_eq!((text(labels.model), text(labels.server)), ("m".to_owned(), server.to_owned()));
    }
}

#[test]
fn what_is_no_call_is_not_observed_as_one() {
    let mut pipeline = pipeline();
    let ask = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\n{\"text\":\"hi!\"}";
    call(&mut pipeline, 1000, Origin::Accepted, &[ask], &[RESPONSE]);
    assert_eq!((told(&pipeline), pipeline.sink.exchanges().len()), (Vec::new(), 1));
}

#[test]
fn another_model_than_before_is_told_with_the_wait_for_it() {
    let mut pipeline = pipeline();
    let answer = |model: &str, load: u64| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n{:200}",
            format!("{{\"model\":\"{model}\",\"done\":true,\"load_duration\":{load},\"eval_count\":3}}")
        )
    };
    let ask = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\n{\"model\":\"x\",\"stream\":false}";
    for (time, model) in [(1000, "a"), (2000, "a"), (3000, "b"), (4000, "b")] {
        call(&mut pipeline, time, Origin::Connected, &[ask], &[answer(model, time).as_bytes()]);
    }
    let loads: Vec<_> = told(&pipeline)
        .iter()
        .filter_map(|what| if let Llm::ModelSwitch { load, .. } = what { Some(*load) } else { None })
        .collect();
    assert_eq!(loads, [Some(Nanos(3000))]);
}

#[test]
fn refusals_while_a_model_is_loaded_are_part_of_the_wait() {
    let mut pipeline = pipeline();
    let answer = |model: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{:20}",
            format!("{{\"model\":\"{model}\"}}")
        )
    };
    let refusal =
        b"HTTP/1.1 503 Loading\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"error\":{} }";
    let ask = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{\"model\":\"b\"}";
    call(&mut pipeline, 1000, Origin::Accepted, &[ask], &[answer("a").as_bytes()]);
    for time in [2000, 3000] {
        call(&mut pipeline, time, Origin::Accepted, &[ask], &[refusal]);
    }
    call(&mut pipeline, 4000, Origin::Accepted, &[ask], &[answer("b").as_bytes()]);
    let outcomes: Vec<_> = calls(&pipeline).iter().map(|call| call.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Complete, CallOutcome::Failed, CallOutcome::Failed, CallOutcome::Complete]);
    assert!(
        told(&pipeline).iter().any(|what| matches!(what, Llm::ModelSwitch { load: Some(Nanos(2000)), .. })),
        "{:?}",
        told(&pipeline)
    );
}

#[test]
fn calls_under_way_end_with_their_process() {
    let mut pipeline = pipeline();
    pipeline.record(&open(1000, FD, Origin::Connected));
    pipeline.record(&data(1100, 1000, 0, Direction::Out, ASK));
    pipeline.record(&data(1200, 1000, 0, Direction::In, HEAD));
    pipeline.record(&data(1300, 1000, 0, Direction::In, TOKEN));
    pipeline.remove_target(Tgid(TGID), Nanos(2000));
    let in_flight: i32 = told(&pipeline)
        .iter()
        .map(|what| if let Llm::InFlight { change, .. } = what { i32::from(*change) } else { 0 })
        .sum();
    assert_eq!(in_flight, 0);
    let [call] = calls(&pipeline)[..] else { panic!("not one call") };
    assert_eq!((call.outcome, call.first_token), (CallOutcome::Unknown, Some(Nanos(200))));
    assert!(!format!("{:?}", pipeline.models).contains("canary"));
}

#[test]
fn so_many_calls_are_followed_and_what_is_more_is_counted() {
    let caps = Caps { connections: 10_000, ..CAPS };
    let mut pipeline = Pipeline::new(Kept::default(), Nowhere, caps);
    let service = pipeline.add_service("llm", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    for fd in 0..8200u64 {
        let mut record = data(1000, 1000, 0, Direction::In, ASK);
        record[std::mem::offset_of!(DataRecord, handle)..][..8].copy_from_slice(&fd.to_ne_bytes());
        pipeline.record(&record);
    }
    let full = Observation::Unmatched { protocol: "llm", reason: Unmatched::TableFull };
    let is_full = |seen: &Observation| format!("{seen:?}") == format!("{full:?}");
    assert_eq!((told(&pipeline).len(), pipeline.sink.count(is_full)), (8192, 8));
    pipeline.remove_target(Tgid(TGID), Nanos(2000));
    assert_eq!(calls(&pipeline).len(), 8192);
}

#[test]
fn names_of_models_are_capped() {
    let mut pipeline = pipeline();
    for number in 0..200 {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n{:20}",
            format!("{{\"model\":\"{number}\"}}")
        );
        call(&mut pipeline, 1000 + number * 1000, Origin::Accepted, &[ASK], &[answer.as_bytes()]);
    }
    let models: std::collections::HashSet<_> = calls(&pipeline).iter().map(|call| call.labels.model).collect();
    assert!(models.len() <= 65, "{}", models.len());
    assert!(pipeline.sink.count(|seen| matches!(seen, Observation::LabelOverflow { label: "model" })) >= 135);
}

/// GPUs that draw 100 W, and are asked once a second.
fn sampled(second: u64) -> GpuSample {
    let reading = Reading { energy_joules: Some(5_000.0 + 100.0 * second as f64), ..Reading::default() };
    GpuSample {
        time: Nanos(second * SECOND),
        valid_until: Nanos((second + 2) * SECOND),
        devices: Ok(vec![Device { gpu: "0".to_owned(), told: Ok(reading) }]),
        xids: Vec::new(),
    }
}

#[test]
fn what_gpus_draw_goes_to_the_calls_that_are_served() {
    const ASK: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}";
    for (origin, asks, answers, expected) in [
        (Origin::Accepted, Direction::In, Direction::Out, Some(200.0)),
        (Origin::Connected, Direction::Out, Direction::In, None),
    ] {
        let mut pipeline = pipeline();
        for second in 1..=6 {
            pipeline.gpus(sampled(second));
            if second == 2 {
                pipeline.record(&open(2 * SECOND, FD, origin));
                pipeline.record(&data(2 * SECOND + 1, 2 * SECOND, 0, asks, ASK));
            }
            if second == 4 {
                pipeline.record(&data(4 * SECOND + 1, 2 * SECOND, 0, answers, ANSWER));
            }
        }
        let joules: Vec<f64> = told(&pipeline)
            .iter()
            .filter_map(|what| if let Llm::Energy { joules, .. } = what { Some(joules.round()) } else { None })
            .collect();
        assert_eq!(joules, Vec::from_iter(expected), "{origin:?}");
    }
}

#[test]
fn what_gpus_do_is_put_down_to_the_phase_of_what_is_served() {
    const WHOLE: &[u8] =
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\n{\"model\":\"m\",\"stream\":false}";
    const JSON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    for (origin, ask, head, expected) in [
        (Origin::Accepted, ASK, HEAD, "..ppp.ggg..."),
        // That it is streamed though nobody asked for that is known when it begins.
        (Origin::Accepted, WHOLE, HEAD, "....p.ggg..."),
        (Origin::Accepted, WHOLE, JSON, "............"),
        (Origin::Connected, ASK, HEAD, "............"),
    ] {
        let (asks, answers) = match origin {
            Origin::Accepted => (Direction::In, Direction::Out),
            _ => (Direction::Out, Direction::In),
        };
        let mut pipeline = pipeline();
        for second in 1..=13 {
            pipeline.gpus(sampled(second));
            let (time, born) = (second * SECOND + 1, 2 * SECOND);
            match second {
                2 => {
                    pipeline.record(&open(born, FD, origin));
                    pipeline.record(&data(time, born, 0, asks, ask));
                }
                4 => drop(pipeline.record(&data(time, born, 0, answers, head))),
                5 => drop(pipeline.record(&data(time + SECOND / 2, born, 0, answers, TOKEN))),
                7 => drop(pipeline.record(&data(time, born, 0, answers, TOKEN))),
                9 => drop(pipeline.record(&close(time, born, 0, 0))),
                _ => {}
            }
        }
        let mut seen = ['.'; 12];
        for observation in &pipeline.sink.0 {
            if let Observation::Gpu(Gpu::During(phase, sample)) = observation {
                seen[(sample.time.0 / SECOND) as usize - 1] = phase.as_str().chars().next().expect("it has a name");
            }
        }
        assert_eq!(seen.iter().collect::<String>(), expected, "{origin:?}");
    }
}
