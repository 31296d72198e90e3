//! A week of a bot's life in some seconds: what the probe keeps of it does not grow.
//!
//! Everything that can be new all the time is: connections, addresses, names, paths, people, channels, conversations, models,
//! and processes. Some of it is never seen to end. The bytes that are allocated are counted by the allocator itself, after
//! each day.

mod written;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use miku_probe::observations::{Names, Observation, Sink};
use miku_probe::pipeline::{Caps, Pipeline};
use miku_probe::sinks::health::{Health, Thresholds};
use miku_probe::sinks::metrics::{BuildInfo, Metrics};
use miku_probe::units::{Direction, Nanos, ServiceId, Tgid};
use miku_probe_abi::Origin;
use written::{Nowhere, Process};

/// The system's allocator, and how many bytes it has given and not got back.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; beside it a number is changed.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of the same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const MINUTES_A_DAY: u64 = 24 * 60;
const DAYS: u64 = 7;

/// Something happens every so many minutes.
const STEP: usize = 2;

/// How much more may be held after a week than after two days: tables that are full and hash tables that grow by doubling
/// are full and grown by then.
const GROWTH_MAX: f64 = 1.02;

/// What the probe has when it runs: metrics, and the judgement of health.
struct Sinks(Metrics, Health);

impl Sink for Sinks {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        self.0.observe(observation, names);
        self.1.observe(observation, names);
    }
}

/// Numbers that nobody has seen before.
struct Fresh(u64);

impl Fresh {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        // So that they do not come in order, and none twice.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn ip(&mut self) -> [u8; 4] {
        let [a, b, c, ..] = self.next().to_ne_bytes();
        [10, a, b, c]
    }
}

struct Week {
    pipeline: Pipeline<Sinks, Nowhere>,
    services: [ServiceId; 2],
    fresh: Fresh,
    /// The processes of the two services; the second is a bot.
    tgids: [u32; 2],
    gateway: u64,
}

impl Week {
    fn begin() -> Self {
        let caps = Caps { routes: 100, servers: 100, connections: 4096 };
        let sinks = Sinks(Metrics::new(&BuildInfo::current()), Health::new(Thresholds::default(), Nanos(0)));
        let mut pipeline = Pipeline::new(sinks, Nowhere, caps);
        let services = ["api", "bot"].map(|name| pipeline.add_service(name, Vec::new()).expect("no patterns are well"));
        let mut week = Self { pipeline, services, fresh: Fresh(0), tgids: [100, 101], gateway: 0 };
        for (service, tgid) in week.services.into_iter().zip(week.tgids) {
            week.pipeline.add_target(Tgid(tgid), service);
        }
        week
    }

    fn tell(&mut self, records: impl IntoIterator<Item = Vec<u8>>) {
        for record in records {
            self.pipeline.record(&record);
        }
    }

    /// Somebody asks the service for what nobody asked for before, and it asks others; every tenth time its process ends in
    /// the midst of it without a word.
    fn api(&mut self, minute: u64) {
        let now = Process { tgid: self.tgids[0], time: minute * MINUTE };
        let (fd, generation) = (10 + (minute % 50) as i32, now.time);
        let ip = self.fresh.ip();
        let mut records = vec![now.open(fd, generation, Origin::Accepted, ip, 40_000)];
        for _ in 0..3 {
            let path = format!("/{:x}/users/{}?q={}", self.fresh.next(), self.fresh.next(), self.fresh.next());
            let request = format!("GET {path} HTTP/1.1\r\nHost: h{:x}.example\r\n\r\n", self.fresh.next());
            records.push(now.after(1_000).data(fd, generation, Direction::In, request.as_bytes()));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            records.push(now.after(2_000_000).data(fd, generation, Direction::Out, answer));
        }
        let (peer, port, name) = (fd + 100, 80, format!("s{:x}.example", self.fresh.next()));
        let ip = self.fresh.ip();
        records.push(now.resolved(&name, ip));
        records.push(now.open(peer, generation, Origin::Connected, ip, port));
        let request = format!("GET /{:x} HTTP/1.1\r\nHost: {name}\r\n\r\n", self.fresh.next());
        records.push(now.after(3_000_000).data(peer, generation, Direction::Out, request.as_bytes()));
        let ssl = 0x7f00_0000_0000 + self.fresh.next() % (1 << 40);
        records.push(now.server_name(ssl, generation, &format!("t{:x}.example", self.fresh.next())));
        records.push(now.after(MINUTE / 60).handshake(ssl, generation));
        records.push(now.after(SECOND).plaintext(ssl, generation, Direction::Out, request.as_bytes()));
        let unfinished = minute.is_multiple_of(10);
        if !unfinished {
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            records.push(now.after(2 * SECOND).plaintext(ssl, generation, Direction::In, answer));
            records.push(now.after(3 * SECOND).data(peer, generation, Direction::In, answer));
            records.push(now.after(3 * SECOND).free(ssl, generation));
            records.extend([fd, peer].map(|fd| now.after(4 * SECOND).close(fd, generation)));
        }
        self.tell(records);
        if unfinished {
            self.pipeline.remove_target(Tgid(self.tgids[0]), Nanos(now.time + 5 * SECOND));
            self.tgids[0] += 2;
            self.pipeline.add_target(Tgid(self.tgids[0]), self.services[0]);
        }
    }

    /// A bot hears from its gateway, asks a model, and answers every other message; each six hours it connects anew.
    fn bot(&mut self, minute: u64) {
        const RECONNECTS: u64 = 6 * 60;
        let now = Process { tgid: self.tgids[1], time: minute * MINUTE + 10 * SECOND };
        let mut records = Vec::new();
        if minute.is_multiple_of(RECONNECTS) {
            records.push(now.inflate_end(0x5000 + self.gateway, self.gateway));
            self.gateway = minute + 1;
        }
        let (stream, generation) = (0x5000 + self.gateway, self.gateway);
        let hears = |at: Process, text: &str| at.inflated(stream, generation, text);
        if minute.is_multiple_of(RECONNECTS) {
            records.push(hears(now, r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#));
            let ready = format!(
                r#"{{"t":"READY","s":1,"op":0,"d":{{"user":{{"id":"7"}},"session_id":"{:x}","guilds":[]}}}}"#,
                self.fresh.next()
            );
            records.push(hears(now.after(1_000), &ready));
        }
        records.push(hears(now.after(2_000), r#"{"t":null,"s":null,"op":11,"d":null}"#));
        for name in ["PRESENCE_UPDATE", "GUILD_CREATE", &format!("E{:X}", self.fresh.next())] {
            let event = format!(r#"{{"t":"{name}","s":2,"op":0,"d":{{"id":"{}"}}}}"#, self.fresh.next());
            records.push(hears(now.after(3_000), &event));
        }
        for number in 0..4 {
            let at = now.after(SECOND * (1 + number));
            let [message, channel, author] = [0; 3].map(|_: u8| self.fresh.next() >> 1);
            records.push(hears(
                at,
                &format!(
                    r#"{{"t":"MESSAGE_CREATE","s":3,"op":0,"d":{{"type":0,"id":"{message}","channel_id":"{channel}","author":{{"id":"{author}"}}}}}}"#
                ),
            ));
            records.push(hears(
                at,
                &format!(
                    r#"{{"t":"INTERACTION_CREATE","s":3,"op":0,"d":{{"type":2,"token":"t{:x}","id":"{}","data":{{"name":"c{:x}","type":1}},"channel_id":"{channel}","member":{{"user":{{"id":"{author}"}}}}}}}}"#,
                    self.fresh.next(),
                    self.fresh.next() >> 1,
                    self.fresh.next()
                ),
            ));
            let llm = 0x6000 + number * 0x100;
            let ask = format!(r#"{{"model":"m{:x}","stream":true}}"#, self.fresh.next());
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" la\"}}]}\n\n";
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            let asks = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nHost: llm\r\nContent-Length: {}\r\n\r\n{ask}",
                ask.len()
            );
            records.push(at.after(1_000_000).plaintext(llm, 1, Direction::Out, asks.as_bytes()));
            records.push(at.after(2_000_000).plaintext(llm, 1, Direction::In, head.as_bytes()));
            for token in 0..5 {
                let later = at.after(3_000_000 + token * 20_000_000);
                records.push(later.plaintext(llm, 1, Direction::In, chunk.as_bytes()));
            }
            // Some streams do not end in the order that they should.
            if number != 3 {
                records.push(at.after(200_000_000).plaintext(llm, 1, Direction::In, b"0\r\n\r\n"));
            } else {
                records.push(at.after(200_000_000).free(llm, 1));
            }
            if number % 2 == 0 {
                let rest = 0x9000 + number;
                let body = format!(
                    r#"{{"content":"x","message_reference":{{"message_id":"{message}","channel_id":"{channel}"}}}}"#
                );
                let post = format!(
                    "POST /api/v10/channels/{channel}/messages HTTP/1.1\r\nHost: discord.com\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let answer = b"HTTP/1.1 200 OK\r\nX-RateLimit-Remaining: 4\r\nX-RateLimit-Limit: 5\r\nContent-Length: 2\r\n\r\n{}";
                records.push(at.after(300_000_000).plaintext(rest, 1, Direction::Out, post.as_bytes()));
                records.push(at.after(400_000_000).plaintext(rest, 1, Direction::In, answer));
            }
        }
        self.tell(records);
    }

    fn day(&mut self, day: u64) {
        for minute in (day * MINUTES_A_DAY..(day + 1) * MINUTES_A_DAY).step_by(STEP) {
            self.api(minute);
            self.bot(minute);
            self.pipeline.tick(Nanos(minute * MINUTE + 59 * SECOND));
            self.pipeline.end_batch(Nanos(minute * MINUTE), Nanos(minute * MINUTE));
        }
    }

    fn replies(&mut self) -> f64 {
        let families = self.pipeline.sink_mut().0.registry().gather();
        let of = |family: &&prometheus::proto::MetricFamily| family.name() == "miku_discord_reply_duration_seconds";
        let metrics = families.iter().find(of).map_or(&[][..], |family| family.get_metric());
        metrics.iter().map(|metric| metric.get_histogram().get_sample_count() as f64).sum()
    }
}

#[test]
fn a_week_takes_no_more_memory_than_two_days() {
    let before = HELD.load(Ordering::Relaxed);
    let mut week = Week::begin();
    let mut held = Vec::new();
    for day in 0..DAYS {
        week.day(day);
        held.push(HELD.load(Ordering::Relaxed).saturating_sub(before));
    }
    eprintln!("held after each day: {held:?} bytes");
    // It was not idle all the time.
    assert!(week.replies() >= (2 * DAYS * MINUTES_A_DAY) as f64 / STEP as f64 * 0.9, "{} replies", week.replies());
    let (second, last) = (held[1] as f64, held[DAYS as usize - 1] as f64);
    assert!(last <= second * GROWTH_MAX, "{last} bytes after a week, {second} after two days: {held:?}");
}
