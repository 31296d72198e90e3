//! A load generator that counts by itself and times every request by its own clock.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, ensure};
use clap::{Args, ValueEnum};
use miku_probe_tests::truth::Truth;
use miku_probe_tests::wire::{self, Address, Io, Kind, Socket};

/// What to ask for, and how.
#[derive(Args)]
pub(crate) struct Options {
    /// Whom to ask: IP:PORT or unix:PATH.
    address: Address,
    /// What to ask for: PATH, or METHOD PATH; repeat it to take turns.
    #[arg(long = "ask", default_value = "/fast")]
    asks: Vec<Ask>,
    /// How many requests, over all connections.
    #[arg(long, short = 'n', default_value_t = 1000)]
    requests: u64,
    /// How many connections.
    #[arg(long, short = 'c', default_value_t = 4)]
    connections: usize,
    /// How many threads; each has its connections in turn. As many as connections, but at most 64, when not given.
    #[arg(long)]
    threads: Option<usize>,
    /// How many requests go out before the first answer is read.
    #[arg(long, default_value_t = 1)]
    pipeline: u64,
    /// How a request is cut into system calls.
    #[arg(long, value_enum, default_value_t)]
    split: Split,
    /// Which system calls move the bytes.
    #[arg(long, value_enum, default_value_t = Io::RecvSend)]
    io: Io,
    /// Bytes of every request's body.
    #[arg(long, default_value_t = 0)]
    body: usize,
    /// Send the body in chunks.
    #[arg(long)]
    chunked: bool,
    /// A new connection for every request.
    #[arg(long)]
    close: bool,
    /// Requests a second, over all connections; as many as possible when not given.
    #[arg(long)]
    rate: Option<f64>,
    /// Add a different word to every path.
    #[arg(long)]
    random_paths: bool,
    /// Name a different host in every request.
    #[arg(long)]
    random_hosts: bool,
    /// First make so many requests on every connection, uncounted; then print `ready` and wait for a line on standard
    /// input.
    #[arg(long)]
    warm_up: Option<u64>,
    /// Print every duration, not only quantiles.
    #[arg(long)]
    durations: bool,
}

#[derive(Clone, Debug)]
struct Ask {
    method: String,
    target: String,
}

impl FromStr for Ask {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
        ensure!(target.starts_with('/'), "{target:?} is no path");
        Ok(Self { method: method.into(), target: target.into() })
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Split {
    /// One write a request, or a pipeline of them.
    #[default]
    None,
    /// The head, then the body.
    Head,
    /// Every byte by itself.
    Bytes,
    /// Head and body by one gathering write.
    Gather,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let threads = options.threads.unwrap_or(options.connections.min(64)).clamp(1, options.connections.max(1));
    let left = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(Barrier::new(threads + 1));
    let (truth, seconds) = thread::scope(|scope| {
        let mut workers = Vec::new();
        for thread in 0..threads {
            let connections = options.connections / threads + usize::from(thread < options.connections % threads);
            let mut worker = Worker::new(options, thread, Arc::clone(&left));
            let gate = Arc::clone(&gate);
            workers.push(scope.spawn(move || {
                let opened = worker.open(connections);
                gate.wait();
                gate.wait();
                opened.and_then(|()| worker.work()).map(|()| worker.truth)
            }));
        }
        gate.wait();
        if options.warm_up.is_some() {
            println!("ready");
            let mut line = String::new();
            // When nobody says go, an end of the input does.
            let _ = std::io::stdin().lock().read_line(&mut line);
        }
        left.store(options.requests, Ordering::SeqCst);
        let start = Instant::now();
        gate.wait();
        let mut sum = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
        for worker in workers {
            sum.merge(&worker.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok::<_, Error>((sum, start.elapsed().as_secs_f64()))
    })?;
    println!("{}", Truth { seconds, ..truth }.to_json(options.durations));
    Ok(())
}

struct Worker<'a> {
    options: &'a Options,
    thread: usize,
    left: Arc<AtomicU64>,
    connections: VecDeque<(Socket, Vec<u8>)>,
    asked: usize,
    truth: Truth,
}

/// One request as it goes out.
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
    ask: Ask,
}

impl<'a> Worker<'a> {
    fn new(options: &'a Options, thread: usize, left: Arc<AtomicU64>) -> Self {
        let truth = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
        Self { options, thread, left, connections: VecDeque::new(), asked: thread, truth }
    }

    fn open(&mut self, connections: usize) -> Result<()> {
        for _ in 0..connections {
            let mut connection = self.connect()?;
            for _ in 0..self.options.warm_up.unwrap_or(0) {
                let requests = [self.request()];
                send(&mut connection.0, &requests, self.options.split)?;
                wire::answer(&mut connection.0, &mut connection.1, kind(&requests[0]))?;
            }
            self.connections.push_back(connection);
        }
        Ok(())
    }

    fn connect(&self) -> Result<(Socket, Vec<u8>)> {
        let address = &self.options.address;
        let socket = Socket::connect(address, self.options.io).with_context(|| format!("connecting to {address}"))?;
        socket.set_read_timeout(Duration::from_secs(60))?;
        Ok((socket, Vec::new()))
    }

    fn request(&mut self) -> Request {
        let options = self.options;
        let mut ask = options.asks[self.asked % options.asks.len()].clone();
        self.asked += 1;
        if options.random_paths {
            ask.target = format!("{}/{}", ask.target.trim_end_matches('/'), word(self.thread, self.asked));
        }
        let host = if options.random_hosts {
            format!("{}.example", word(self.thread, self.asked))
        } else {
            wire::host(&options.address)
        };
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", ask.method, ask.target);
        if options.close {
            head.push_str("Connection: close\r\n");
        }
        let plain = vec![b'x'; options.body];
        let body = if options.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
            let mut body = Vec::new();
            for chunk in plain.chunks(1000) {
                body.extend_from_slice(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            }
            body.extend_from_slice(b"0\r\n\r\n");
            body
        } else {
            if options.body > 0 {
                head.push_str(&format!("Content-Length: {}\r\n", options.body));
            }
            plain
        };
        head.push_str("\r\n");
        Request { head: head.into_bytes(), body, ask }
    }

    /// Takes as many requests as go out together from what is left.
    fn take(&self) -> u64 {
        let take = |left: u64| Some(left.saturating_sub(self.options.pipeline.max(1)));
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap_or(0);
        before.min(self.options.pipeline.max(1))
    }

    fn work(&mut self) -> Result<()> {
        let start = Instant::now();
        let threads = self.options.threads.unwrap_or(self.options.connections.min(64)).max(1);
        let mut done = 0_u32;
        loop {
            let count = self.take();
            if count == 0 {
                return Ok(());
            }
            if let Some(rate) = self.options.rate {
                #[allow(clippy::cast_precision_loss, reason = "a count of threads")]
                let due = Duration::from_secs_f64(f64::from(done) * threads as f64 / rate);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            done += 1;
            let requests: Vec<Request> = (0..count).map(|_| self.request()).collect();
            let kept = if self.options.close { None } else { self.connections.pop_front() };
            let mut connection = kept.map_or_else(|| self.connect(), Ok)?;
            self.exchange(&mut connection, &requests)?;
            if !self.options.close {
                self.connections.push_back(connection);
            }
        }
    }

    fn exchange(&mut self, (socket, buffer): &mut (Socket, Vec<u8>), requests: &[Request]) -> Result<()> {
        let start = Instant::now();
        send(socket, requests, self.options.split)?;
        for request in requests {
            let message = wire::answer(socket, buffer, kind(request))?;
            self.truth.durations.push(start.elapsed().as_secs_f64());
            self.truth.add(&request.ask.method, &request.ask.target, message.head.status()?, 1);
            for (sum, bytes) in [
                (&mut self.truth.request_bytes, request.head.len() + request.body.len()),
                (&mut self.truth.response_bytes, message.length),
            ] {
                *sum = sum.map(|sum| sum + bytes as u64);
            }
        }
        Ok(())
    }
}

fn kind(request: &Request) -> Kind {
    if request.ask.method == "HEAD" { Kind::AnswerToHead } else { Kind::Answer }
}

fn send(socket: &mut Socket, requests: &[Request], split: Split) -> Result<()> {
    match split {
        Split::None => {
            let all: Vec<u8> =
                requests.iter().flat_map(|request| [&request.head[..], &request.body].concat()).collect();
            socket.write_all(&all)
        }
        Split::Head => requests.iter().try_for_each(|request| {
            socket.write_all(&request.head)?;
            if request.body.is_empty() { Ok(()) } else { socket.write_all(&request.body) }
        }),
        Split::Bytes => requests.iter().try_for_each(|request| {
            request.head.iter().chain(&request.body).try_for_each(|byte| socket.write_all(&[*byte]))
        }),
        Split::Gather => requests.iter().try_for_each(|request| socket.gather(&request.head, &request.body)),
    }
    .context("sending")
}

/// A word that comes only once, of letters, so that no template takes it for a number.
fn word(thread: usize, asked: usize) -> String {
    let mut number = asked * 1000 + thread;
    let mut word = String::from("w");
    while number > 0 {
        word.push(char::from(b'a' + u8::try_from(number % 26).unwrap_or(0)));
        number /= 26;
    }
    word
}
