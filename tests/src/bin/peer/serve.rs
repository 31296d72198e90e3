//! A server in the manner of Go's: a connection belongs to no thread. Whichever thread is free reads, and another one
//! writes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use miku_probe_tests::truth::Truth;
use miku_probe_tests::wire::{self, Address, Head, Io, Kind, Message, Socket};

use crate::routes::{self, Step};

/// How to serve.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to listen: IP:PORT (port 0 takes a free one) or unix:PATH.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Address,
    /// Ask `accept4` for no address, as cpp-httplib and uvloop do.
    #[arg(long)]
    accept_null: bool,
    /// Which system calls move the bytes.
    #[arg(long, value_enum, default_value_t)]
    io: Io,
    /// Threads that read.
    #[arg(long, default_value_t = 4)]
    readers: usize,
    /// Threads that write; with 0, whoever read a request answers it.
    #[arg(long, default_value_t = 4)]
    writers: usize,
    /// Where to write the truth at the end.
    #[arg(long)]
    truth: Option<PathBuf>,
}

struct Connection {
    socket: Socket,
    inbox: Vec<u8>,
    continued: bool,
    upgraded: bool,
    began: Option<Instant>,
}

struct Work {
    connection: Connection,
    steps: Vec<Step>,
    /// Whether the steps answer one whole request, so that it makes sense to time them.
    timed: bool,
}

struct Server {
    epoll: OwnedFd,
    idle: Mutex<HashMap<RawFd, Connection>>,
    truth: Mutex<Truth>,
    turn: AtomicUsize,
    writers: Vec<Sender<Work>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let signals = block_signals()?;
    raise_descriptor_limit();
    let (listener, address) = listen(&options.listen).with_context(|| format!("listening on {}", options.listen))?;
    // SAFETY: epoll_create1 makes a descriptor that nobody else owns.
    let epoll = unsafe { OwnedFd::from_raw_fd(checked(libc::epoll_create1(libc::EPOLL_CLOEXEC)).context("epoll")?) };
    let (writers, queues): (Vec<Sender<Work>>, Vec<Receiver<Work>>) =
        (0..options.writers).map(|_| mpsc::channel()).unzip();
    let truth = Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
    let (idle, truth) = (Mutex::new(HashMap::new()), Mutex::new(truth));
    let server = Arc::new(Server { epoll, idle, truth, turn: AtomicUsize::new(0), writers });
    for queue in queues {
        let server = Arc::clone(&server);
        thread::spawn(move || queue.into_iter().for_each(|work| server.carry_out(work)));
    }
    for _ in 0..options.readers.max(1) {
        let server = Arc::clone(&server);
        thread::spawn(move || server.read());
    }
    let accepting = Arc::clone(&server);
    let (null, io) = (options.accept_null, options.io);
    thread::spawn(move || accepting.accept(&listener, null, io));
    println!("listening on {address}");
    io::stdout().flush().context("standard output")?;
    let mut signal = 0;
    // SAFETY: both pointers are to live memory, and the signals are blocked in every thread.
    unsafe { libc::sigwait(&signals, &mut signal) };
    if let Some(path) = &options.truth {
        let text = lock(&server.truth).to_json(true).to_string();
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Blocks SIGTERM and SIGINT in this thread and those it starts, so that `sigwait` gets them.
fn block_signals() -> Result<libc::sigset_t> {
    // SAFETY: sigemptyset initialises the set before anything reads it, and the pointers are to live memory.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, libc::SIGTERM);
        libc::sigaddset(&mut signals, libc::SIGINT);
        checked(-libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut())).context("blocking signals")?;
        Ok(signals)
    }
}

/// Takes as many descriptors as are allowed; ten thousand connections want more than the usual 1,024.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a live rlimit. Failing leaves the limit as it is.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

fn listen(address: &Address) -> io::Result<(OwnedFd, Address)> {
    let (listener, bound) = match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            let bound = Address::Tcp(listener.local_addr()?);
            (OwnedFd::from(listener), bound)
        }
        Address::Unix(path) => (OwnedFd::from(UnixListener::bind(path)?), address.clone()),
    };
    // A second call makes the queue longer than the library's.
    // SAFETY: listen takes any descriptor.
    checked(unsafe { libc::listen(listener.as_raw_fd(), 4096) })?;
    Ok((listener, bound))
}

impl Server {
    fn accept(self: &Arc<Self>, listener: &OwnedFd, null: bool, io: Io) {
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        loop {
            // SAFETY: a sockaddr_storage may be all zero; accept4 writes at most as much of it as `length` says.
            let accepted = checked(unsafe {
                let mut peer: libc::sockaddr_storage = std::mem::zeroed();
                let mut length = libc::socklen_t::try_from(size_of_val(&peer)).unwrap_or(0);
                if null {
                    libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
                } else {
                    libc::accept4(listener.as_raw_fd(), std::ptr::from_mut(&mut peer).cast(), &mut length, flags)
                }
            });
            let Ok(descriptor) = accepted else {
                // Out of descriptors, most likely: others must close first.
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            // SAFETY: accept4 gave this descriptor to nobody else.
            let socket = Socket::new(unsafe { OwnedFd::from_raw_fd(descriptor) }, io);
            no_delay(descriptor);
            let connection = Connection { socket, inbox: Vec::new(), continued: false, upgraded: false, began: None };
            self.wait_for_more(connection, libc::EPOLL_CTL_ADD);
        }
    }

    /// Gives a connection to whichever thread sees first that there is more to read.
    fn wait_for_more(&self, connection: Connection, operation: libc::c_int) {
        let descriptor = connection.socket.as_raw_fd();
        let events = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLONESHOT).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: u64::from(descriptor.cast_unsigned()) };
        lock(&self.idle).insert(descriptor, connection);
        // SAFETY: the pointer is to a live event. The connection is in the table, so the descriptor is open.
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, descriptor, &mut event) };
    }

    fn read(self: &Arc<Self>) {
        let mut block = vec![0; 64 * 1024];
        loop {
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: the pointer is to one live event.
            if unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), &mut event, 1, -1) } != 1 {
                continue;
            }
            let descriptor = RawFd::try_from(event.u64).unwrap_or(-1);
            let Some(mut connection) = lock(&self.idle).remove(&descriptor) else { continue };
            match connection.socket.read(&mut block) {
                Ok(0) => {}
                Ok(length) => {
                    connection.began.get_or_insert_with(Instant::now);
                    connection.inbox.extend_from_slice(&block[..length]);
                    self.answer(connection);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait_for_more(connection, libc::EPOLL_CTL_MOD);
                }
                Err(_) => {}
            }
        }
    }

    fn answer(self: &Arc<Self>, mut connection: Connection) {
        let mut steps = Vec::new();
        let mut answered = 0;
        if connection.upgraded {
            steps.push(Step::Write(std::mem::take(&mut connection.inbox)));
        }
        loop {
            match wire::take(&mut connection.inbox, Kind::Request, false) {
                Ok(Some(request)) => {
                    answered += 1;
                    connection.continued = false;
                    self.reply(&request, &mut steps);
                }
                Ok(None) => break,
                Err(_) => {
                    steps.push(Step::Write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()));
                    steps.push(Step::Close);
                    break;
                }
            }
        }
        let waits = |head: Head| head.has("expect", "100-continue");
        if !connection.continued && Head::parse(&connection.inbox).is_some_and(waits) {
            connection.continued = true;
            steps.push(Step::Write(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        }
        // Whoever sends more than this before a request is whole is no friend.
        if connection.inbox.len() > 16 << 20 {
            steps.push(Step::Close);
        }
        let timed = answered == 1 && connection.inbox.is_empty();
        let pauses = steps.iter().any(|step| matches!(step, Step::Pause(_)));
        let work = Work { connection, steps, timed };
        if pauses {
            // A thread of its own, so that slow answers hold up no others.
            let server = Arc::clone(self);
            thread::spawn(move || server.carry_out(work));
        } else if work.steps.is_empty() || self.writers.is_empty() {
            self.carry_out(work);
        } else {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.writers.len();
            // The queue's other end lives as long as the process.
            let _ = self.writers[turn].send(work);
        }
    }

    /// Counts a request, and its answer if it gets a whole one.
    fn reply(&self, request: &Message, steps: &mut Vec<Step>) {
        let mut words = request.head.first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
        let before = steps.len();
        let mut truth = lock(&self.truth);
        let status = if target == "/__truth" {
            steps.extend(routes::whole(200, "application/json", truth.to_json(true).to_string().as_bytes()));
            Some(200)
        } else {
            routes::reply(method, target, request, steps)
        };
        match status {
            Some(status) => truth.add(method, target, status, 1),
            None => truth.failed += 1,
        }
        let written = steps[before..].iter().map(|step| if let Step::Write(bytes) = step { bytes.len() } else { 0 });
        routes::add(&mut truth.request_bytes, request.length);
        routes::add(&mut truth.response_bytes, written.sum());
    }

    fn carry_out(&self, work: Work) {
        let Work { mut connection, steps, timed } = work;
        for step in steps {
            match step {
                Step::Write(bytes) => {
                    if connection.socket.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Step::Pause(time) => thread::sleep(time),
                Step::Upgrade => connection.upgraded = true,
                Step::Close => return,
                Step::Reset => {
                    // Where the kernel refuses, the connection closes in peace instead.
                    let _ = connection.socket.reset_on_close();
                    return;
                }
            }
        }
        if connection.inbox.is_empty()
            && let Some(began) = connection.began.take()
            && timed
        {
            lock(&self.truth).durations.push(began.elapsed().as_secs_f64());
        }
        self.wait_for_more(connection, libc::EPOLL_CTL_MOD);
    }
}

/// Sends small answers at once. On a Unix socket the kernel refuses, and has no such delay.
fn no_delay(descriptor: RawFd) {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
    // SAFETY: the pointer is to a live int of the length given.
    unsafe {
        libc::setsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, std::ptr::from_ref(&on).cast(), length);
    }
}
