//! What it costs to look into bodies, on one core: the events of a language model's stream, and the messages that a bot
//! posts, each from the segment to what is told.

use std::hash::RandomState;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use miku_probe::protocols::discord::calls::{Action, BODY_MAX};
use miku_probe::protocols::http1::{Collected, Event, Interest, Listener, Machine, Request, Segment};
use miku_probe::protocols::llm::{Follower, Inflaters, Progress};
use miku_probe::units::{Direction, Nanos};

const EVENTS: u64 = 1_000;

/// Follows every call of a language model.
#[derive(Default)]
struct Models {
    follower: Option<Follower>,
    inflaters: Inflaters,
    told: u64,
}

impl Listener for Models {
    fn tell(&mut self, event: Event<'_>) {
        if let Some(follower) = &mut self.follower {
            self.told += u64::from(follower.tell(&event) != Progress::default());
        }
    }

    fn interest(&mut self, request: &Request<'_>) -> Interest {
        self.follower = Follower::new(request, &self.inflaters);
        Interest::Whole
    }
}

/// Reads every call of Discord's API.
#[derive(Default)]
struct Calls {
    hasher: RandomState,
    call: Option<(Action, Collected)>,
}

impl Listener for Calls {
    fn tell(&mut self, event: Event<'_>) {
        match event {
            Event::Body(piece) => {
                if let Some((_, body)) = &mut self.call {
                    body.push(&piece);
                }
            }
            Event::Asked { .. } => {
                if let Some((mut action, body)) = self.call.take() {
                    action.read_body(&body, &self.hasher);
                    black_box(action);
                }
            }
            _ => {}
        }
    }

    fn interest(&mut self, request: &Request<'_>) -> Interest {
        let action = Action::of(request.method, request.path, &self.hasher);
        self.call = Some((action, Collected::new(BODY_MAX)));
        Interest::Request
    }
}

fn feed(machine: &mut Machine, direction: Direction, bytes: &[u8], listener: &mut impl Listener) {
    let segment = Segment { time: Nanos(1), direction, size: bytes.len() as u64, prefix: bytes, tail: b"" };
    machine.segment(&segment, listener);
}

fn protocols(criterion: &mut Criterion) {
    let ask = b"POST /v1/chat/completions HTTP/1.1\r\nHost: llm\r\nContent-Length: 27\r\n\r\n\
        {\"model\":\"m\",\"stream\":true }";
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let data = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" world\"}}],\
        \"created\":1795356931,\"id\":\"chatcmpl-00000000000000000000000000000000\",\"model\":\"m\",\
        \"system_fingerprint\":\"b0000-00000000\",\"object\":\"chat.completion.chunk\"}\n\n";
    let chunk = format!("{:x}\r\n{data}\r\n", data.len());
    let mut group = criterion.benchmark_group("bodies");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("llm_events", |bencher| {
        bencher.iter(|| {
            let (mut machine, mut models) = (Machine::default(), Models::default());
            feed(&mut machine, Direction::Out, ask, &mut models);
            feed(&mut machine, Direction::In, head, &mut models);
            for _ in 0..EVENTS {
                feed(&mut machine, Direction::In, chunk.as_bytes(), &mut models);
            }
            assert_eq!(models.told, EVENTS);
        });
    });
    group.bench_function("llm_events_of_no_interest", |bencher| {
        bencher.iter(|| {
            let mut machine = Machine::default();
            let mut nobody = |event: Event<'_>| _ = black_box(event);
            feed(&mut machine, Direction::Out, ask, &mut nobody);
            feed(&mut machine, Direction::In, head, &mut nobody);
            for _ in 0..EVENTS {
                feed(&mut machine, Direction::In, chunk.as_bytes(), &mut nobody);
            }
        });
    });
    let body = format!(
        "{{\"content\":\"{}\",\"tts\":false,\"message_reference\":{{\"message_id\":\"1122334455667788990\",\
         \"channel_id\":\"1122334455667788991\"}},\"nonce\":\"1122334455667788992\"}}",
        "hello, miku! ".repeat(20)
    );
    let post = format!(
        "POST /api/v10/channels/1122334455667788991/messages HTTP/1.1\r\nHost: discord.com\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    group.throughput(Throughput::Elements(1));
    group.bench_function("discord_messages", |bencher| {
        let (mut machine, mut calls) = (Machine::default(), Calls::default());
        bencher.iter(|| {
            feed(&mut machine, Direction::Out, post.as_bytes(), &mut calls);
            feed(&mut machine, Direction::In, answer, &mut calls);
        });
    });
    group.finish();
}

criterion_group!(benches, protocols);
criterion_main!(benches);
