//! How many records user space takes in: from the bytes on the ring to the metrics, on one core.
//!
//! One stream is what a uvicorn on asyncio makes of keep-alive requests: three records an exchange, over 64 connections.
//! The second is what a discord.py on asyncio makes of its REST calls within TLS: two records an exchange, over 64 streams.
//! The third is what llama.cpp makes of a thousand streamed answers at once: one record an event.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use miku_probe::discovery::sockets::Socket;
use miku_probe::observations::{Names, Observation, Sink};
use miku_probe::pipeline::{Caps, Pipeline, World};
use miku_probe::sinks::metrics::{BuildInfo, Metrics};
use miku_probe::units::{Direction, Nanos, Tgid};
use miku_probe_abi::{
    ABI_VERSION, ADDRESS_MAX, CAPTURE_MAX, DataRecord, OpenRecord, Origin, RecordHeader, RecordKind, TAIL, bytes_of,
};

const CONNECTIONS: i32 = 64;
const EXCHANGES: u32 = 400;
const TGID: u32 = 42;

struct Nowhere;

impl World for Nowhere {
    fn socket(&self, _tgid: Tgid, _fd: i32) -> Option<Socket> {
        None
    }
}

/// Takes observations and keeps nothing: what remains is the cost of everything before the sinks.
struct Nothing;

impl Sink for Nothing {
    fn observe(&mut self, observation: &Observation, _names: &Names) {
        black_box(observation);
    }
}

fn header(kind: RecordKind, time_ns: u64, length: usize) -> RecordHeader {
    let length = u32::try_from(length).expect("a record is short");
    RecordHeader { version: ABI_VERSION, kind: kind as u8, padding: 0, length, time_ns, tgid: TGID, tid: TGID }
}

fn open(fd: i32) -> Vec<u8> {
    let mut address = [0; ADDRESS_MAX];
    address[..8].copy_from_slice(&[2, 0, 0x1f, 0x90, 127, 0, 0, 1]);
    let record = OpenRecord {
        header: header(RecordKind::Open, 1, size_of::<OpenRecord>()),
        generation: 1,
        socket: 0,
        fd,
        result: 0,
        origin: Origin::Accepted as u8,
        socket_type: 1,
        padding: [0; 2],
        address_length: 16,
        address,
    };
    bytes_of(&record).to_vec()
}

fn data(fd: i32, time: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
    moved(RecordKind::Data, u64::from(fd.unsigned_abs()), time, direction, bytes)
}

fn moved(kind: RecordKind, handle: u64, time: u64, direction: Direction, bytes: &[u8]) -> Vec<u8> {
    let captured = &bytes[..bytes.len().min(CAPTURE_MAX)];
    let record = DataRecord {
        header: header(kind, time, size_of::<DataRecord>() + captured.len()),
        generation: 1,
        handle,
        lost: 0,
        size: u32::try_from(bytes.len()).expect("a segment is short"),
        captured: u16::try_from(captured.len()).expect("a capture is short"),
        tail_length: 0,
        errno: 0,
        direction: direction as u8,
        padding: 0,
        tail: [0; TAIL],
    };
    [bytes_of(&record), captured].concat()
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
            records.push(moved(RecordKind::Plaintext, ssl, time, Direction::Out, request));
            records.push(moved(RecordKind::Plaintext, ssl, time + 500_000, Direction::In, response));
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
