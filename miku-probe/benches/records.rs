//! How many records user space takes in: from the bytes on the ring to the metrics, on one core.
//!
//! One stream is what a uvicorn on asyncio makes of keep-alive requests: three records an exchange, over 64 connections.
//! The second is what a discord.py on asyncio makes of its REST calls within TLS: two records an exchange, over 64 streams.
//! The third is what llama.cpp makes of a thousand streamed answers at once: one record an event.

#[path = "../tests/written/mod.rs"]
mod written;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use miku_probe::observations::{Names, Observation, Sink};
use miku_probe::pipeline::{Caps, Pipeline};
use miku_probe::sinks::metrics::{BuildInfo, Metrics};
use miku_probe::units::{Direction, Nanos, Tgid};
use miku_probe_abi::Origin;
use written::{Nowhere, Process};

const CONNECTIONS: i32 = 64;
const EXCHANGES: u32 = 400;
const TGID: u32 = 42;
const GENERATION: u64 = 1;

/// Takes observations and keeps nothing: what remains is the cost of everything before the sinks.
struct Nothing;

impl Sink for Nothing {
    fn observe(&mut self, observation: &Observation, _names: &Names) {
        black_box(observation);
    }
}

const fn at(time: u64) -> Process {
    Process { tgid: TGID, time }
}

fn open(fd: i32) -> Vec<u8> {
    at(GENERATION).open(fd, GENERATION, Origin::Accepted, [127, 0, 0, 1], 8080)
}

fn data(fd: i32, time: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
    at(time).data(fd, GENERATION, direction, bytes)
}

fn stream() -> Vec<Vec<u8>> {
    let request = b"POST /channels/123456789012345678/messages HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\
        Accept-Encoding: gzip, deflate\r\nUser-Agent: python-httpx/0.28\r\nContent-Type: application/json\r\n\
        Content-Length: 27\r\n\r\n{\"content\": \"hello, miku!\"}";
    let head = b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 14:15:30 GMT\r\nserver: uvicorn\r\ncontent-length: 11\r\n\
        content-type: application/json\r\n\r\n";
    let body = b"{\"ok\":true}";
    let mut records: Vec<_> = (0..CONNECTIONS).map(open).collect();
    for exchange in 0..EXCHANGES {
        for fd in 0..CONNECTIONS {
            let time = u64::from(exchange) * 1_000_000 + 1000;
            records.push(data(fd, time, Direction::In, request));
            records.push(data(fd, time + 500_000, Direction::Out, head));
            records.push(data(fd, time + 510_000, Direction::Out, body));
        }
    }
    records
}

fn discord() -> Vec<Vec<u8>> {
    let request = b"POST /api/v10/channels/123456789012345678/messages HTTP/1.1\r\nHost: discord.com\r\n\
        User-Agent: DiscordBot (https://github.com/Rapptz/discord.py 2.7.1) Python/3.13 aiohttp/3.13.2\r\n\
        Authorization: Bot 0000000000000000000000000000.000000.00000000000000000000000000000000000000\r\n\
        Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nContent-Length: 27\r\nContent-Type: application/json\r\n\r\n\
        {\"content\": \"hello, miku!\"}";
    let response = b"HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 14:15:30 GMT\r\nContent-Type: application/json\r\n\
        Content-Length: 11\r\nConnection: keep-alive\r\nstrict-transport-security: max-age=31536000\r\n\
        x-ratelimit-bucket: 80c17d2f203122d936070c88c8d10f33\r\nx-ratelimit-limit: 5\r\nx-ratelimit-remaining: 4\r\n\
        x-ratelimit-reset: 1795356931.000\r\nx-ratelimit-reset-after: 1.000\r\nvia: 1.1 google\r\n\
        cf-cache-status: DYNAMIC\r\nServer: cloudflare\r\nCF-RAY: 0000000000000000-FRA\r\n\r\n{\"ok\":true}";
    let mut records = Vec::new();
    for exchange in 0..EXCHANGES {
        for stream in 0..CONNECTIONS.unsigned_abs() {
            let (ssl, time) = (0x7f00_0000_0000 + u64::from(stream) * 64, u64::from(exchange) * 1_000_000 + 1000);
            records.push(at(time).plaintext(ssl, GENERATION, Direction::Out, request));
            records.push(at(time + 500_000).plaintext(ssl, GENERATION, Direction::In, response));
        }
    }
    records
}

/// Streams of a server of language models at once, and the events of each.
const STREAMS: i32 = 1000;
const EVENTS: u64 = 50;

fn models() -> Vec<Vec<u8>> {
    let ask = b"POST /v1/chat/completions HTTP/1.1\r\nHost: llm:8080\r\nContent-Type: application/json\r\n\
        Content-Length: 73\r\n\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"sing\"}],\"model\":\"m\",\"stream\":true}";
    let head = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5, \
        max=100\r\nTransfer-Encoding: chunked\r\n\r\n";
    let event = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" world\"}}],\
        \"created\":1795356931,\"id\":\"chatcmpl-00000000000000000000000000000000\",\"model\":\"m\",\
        \"system_fingerprint\":\"b0000-00000000\",\"object\":\"chat.completion.chunk\"}\n\n";
    let event = format!("{:x}\r\n{event}\r\n", event.len());
    let mut records: Vec<_> = (0..STREAMS).map(open).collect();
    records.extend((0..STREAMS).map(|fd| data(fd, 1000, Direction::In, ask)));
    records.extend((0..STREAMS).map(|fd| data(fd, 2000, Direction::Out, head)));
    for number in 1..=EVENTS {
        records.extend((0..STREAMS).map(|fd| data(fd, number * 20_000_000, Direction::Out, event.as_bytes())));
    }
    records
}

fn replay<S: Sink>(records: &[Vec<u8>], sink: S) -> Pipeline<S, Nowhere> {
    let caps = Caps { routes: 100, servers: 100, connections: 32_768 };
    let mut pipeline = Pipeline::new(sink, Nowhere, caps);
    let service = pipeline.add_service("bot", Vec::new()).expect("no patterns are well");
    pipeline.add_target(Tgid(TGID), service);
    for record in records {
        pipeline.record(record);
    }
    pipeline.end_batch(Nanos(2), Nanos(1));
    pipeline
}

fn records(criterion: &mut Criterion) {
    let records = stream();
    let mut group = criterion.benchmark_group("records");
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("to_metrics", |bencher| {
        bencher.iter_with_large_drop(|| replay(&records, Metrics::new(&BuildInfo::current())));
    });
    group.bench_function("to_nothing", |bencher| bencher.iter_with_large_drop(|| replay(&records, Nothing)));
    let records = discord();
    group.throughput(Throughput::Elements(records.len() as u64));
    group.bench_function("discord_to_metrics", |bencher| {
        bencher.iter_with_large_drop(|| replay(&records, Metrics::new(&BuildInfo::current())));
    });
    let records = models();
    group.throughput(Throughput::Elements(u64::from(STREAMS.unsigned_abs()) * EVENTS));
    group.bench_function("llm_to_nothing", |bencher| bencher.iter_with_large_drop(|| replay(&records, Nothing)));
    group.bench_function("llm_to_metrics", |bencher| {
        bencher.iter_with_large_drop(|| replay(&records, Metrics::new(&BuildInfo::current())));
    });
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
