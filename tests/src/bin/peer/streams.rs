//! Streams of tokens, many at once and on time: a server that answers as one of language models does, and a client that counts.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use miku_probe_tests::wire::{self, Kind};
use serde_json::json;

use crate::serve::raise_descriptor_limit;

/// How to stream.
#[derive(Args)]
pub(crate) struct Options {
    /// Tokens of an answer.
    #[arg(long, default_value_t = 100)]
    tokens: u32,
    /// Time from one token to the next, in milliseconds.
    #[arg(long, default_value_t = 20)]
    every: u32,
}

/// Whom to ask for streams.
#[derive(Args)]
pub(crate) struct Asking {
    /// The server.
    address: SocketAddr,
    /// How many streams at once.
    #[arg(long, short = 'c', default_value_t = 100)]
    streams: usize,
}

/// One answer on its way.
struct Stream {
    socket: TcpStream,
    left: u32,
}

/// Serves until killed.
pub(crate) fn serve(options: &Options) -> Result<()> {
    raise_descriptor_limit();
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
    println!("listening on {}", listener.local_addr()?);
    let (begin, begun) = mpsc::channel();
    let (tokens, every) = (options.tokens, options.every.max(1));
    thread::spawn(move || pace(&begun, tokens, every));
    for socket in listener.incoming() {
        let (socket, begin) = (socket?, begin.clone());
        // Blocked on its request alone; what comes then is the pacemaker's.
        thread::Builder::new().stack_size(64 * 1024).spawn(move || answer(socket, tokens, &begin))?;
    }
    Ok(())
}

/// Reads one request and hands its answer over.
fn answer(mut socket: TcpStream, tokens: u32, begin: &Sender<Stream>) {
    let (mut inbox, mut block) = (Vec::new(), [0; 4096]);
    loop {
        match wire::take(&mut inbox, Kind::Request, false) {
            Ok(Some(_)) => break,
            Ok(None) => {}
            Err(_) => return,
        }
        match socket.read(&mut block) {
            Ok(0) | Err(_) => return,
            Ok(length) => inbox.extend_from_slice(&block[..length]),
        }
    }
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    if socket.set_nodelay(true).and_then(|()| socket.write_all(head)).is_ok() {
        // The pacemaker lives as long as the process.
        let _ = begin.send(Stream { socket, left: tokens });
    }
}

/// An event in a chunk of its own.
fn chunk(event: &str) -> Vec<u8> {
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// Gives each stream a token every so many milliseconds, in turns of one millisecond, so that not all are due at once.
fn pace(begun: &Receiver<Stream>, tokens: u32, every: u32) {
    const START: &str =
        r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"miku-bench","choices":["#;
    let token =
        chunk(&format!("data: {START}{{\"index\":0,\"delta\":{{\"content\":\" la\"}},\"finish_reason\":null}}]}}\n\n"));
    let usage = format!(r#""usage":{{"prompt_tokens":9,"completion_tokens":{tokens},"total_tokens":{}}}"#, tokens + 9);
    let finish = format!("data: {START}{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}],{usage}}}\n\n");
    let end = [chunk(&format!("{finish}data: [DONE]\n\n")), b"0\r\n\r\n".to_vec()].concat();
    let mut slots: Vec<Vec<Stream>> = (0..every).map(|_| Vec::new()).collect();
    let mut next = 0;
    let start = Instant::now();
    for turn in 0_u32.. {
        for stream in begun.try_iter() {
            slots[next % every as usize].push(stream);
            next += 1;
        }
        let slot = &mut slots[(turn % every) as usize];
        slot.retain_mut(|stream| {
            let piece = if stream.left == 0 { &end } else { &token };
            let more = stream.left > 0 && stream.socket.write_all(piece).is_ok();
            if stream.left == 0 {
                // Whoever does not take the end is not missed.
                let _ = stream.socket.write_all(piece);
            }
            stream.left = stream.left.saturating_sub(1);
            more
        });
        let due = Duration::from_millis(u64::from(turn) + 1);
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
}

/// A connection of the client.
struct Asked {
    socket: TcpStream,
    events: u64,
    /// The byte before, for the blank line that ends an event.
    last: u8,
    ended: bool,
}

/// Opens all connections, prints `ready`, waits for a line on standard input, asks on all of them, and counts until all ended.
pub(crate) fn ask(options: &Asking) -> Result<()> {
    /// The finish and `[DONE]`.
    const NO_TOKENS: u64 = 2;
    raise_descriptor_limit();
    let poll = Poll::new()?;
    let mut all = Vec::new();
    for number in 0..options.streams {
        let socket = TcpStream::connect(options.address).context("connecting")?;
        socket.set_nodelay(true)?;
        poll.add(&socket, number as u64)?;
        all.push(Asked { socket, events: 0, last: 0, ended: false });
    }
    println!("ready");
    io::stdin().lock().read_line(&mut String::new())?;
    let body =
        json!({"model": "miku-bench", "stream": true, "messages": [{"role": "user", "content": "sing"}]}).to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        options.address,
        body.len()
    );
    let start = Instant::now();
    for asked in &mut all {
        asked.socket.write_all(request.as_bytes()).context("asking")?;
        asked.socket.set_nonblocking(true)?;
    }
    let (mut open, mut block) = (all.len(), vec![0; 64 * 1024]);
    while open > 0 {
        for number in poll.wait()? {
            let asked = &mut all[usize::try_from(number)?];
            let length = match asked.socket.read(&mut block) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                result => result.context("a stream broke off")?,
            };
            let bytes = &block[..length];
            for byte in bytes {
                asked.events += u64::from(*byte == b'\n' && asked.last == b'\n');
                asked.last = *byte;
            }
            if !asked.ended && (length == 0 || bytes.ends_with(b"0\r\n\r\n")) {
                asked.ended = true;
                open -= 1;
            }
        }
    }
    let tokens = all.iter().map(|asked| asked.events.saturating_sub(NO_TOKENS)).sum::<u64>();
    println!("{}", json!({"streams": all.len(), "tokens": tokens, "seconds": start.elapsed().as_secs_f64()}));
    Ok(())
}

/// Waits on many sockets.
struct Poll(OwnedFd);

impl Poll {
    fn new() -> Result<Self> {
        // SAFETY: epoll_create1 takes flags and touches no memory of ours.
        let descriptor = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        ensure!(descriptor >= 0, "epoll_create1: {}", io::Error::last_os_error());
        // SAFETY: the kernel gave this descriptor to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn add(&self, socket: &TcpStream, number: u64) -> Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: number };
        // SAFETY: the pointer is to a live event, and both descriptors are open.
        let added = unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) };
        ensure!(added == 0, "epoll_ctl: {}", io::Error::last_os_error());
        Ok(())
    }

    /// The numbers of those that have something to read.
    fn wait(&self) -> Result<Vec<u64>> {
        const MOST: usize = 256;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MOST];
        let room = libc::c_int::try_from(MOST).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer is to as many live events as are said.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, -1) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            ensure!(error.kind() == io::ErrorKind::Interrupted, "epoll_wait: {error}");
            return Ok(Vec::new());
        };
        Ok(events[..count].iter().map(|event| event.u64).collect())
    }
}
