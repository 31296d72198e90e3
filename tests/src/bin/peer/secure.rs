//! A server that speaks TLS without OpenSSL, and counts for each name that its clients asked for.
//!
//! The truth it tells is in clear text on a listener of its own: whoever asks is no client of the server.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use miku_probe_tests::truth::Truth;
use miku_probe_tests::wire::{self, Head, Io, Kind, Message, Socket};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::routes::{self, Step};

/// How to serve.
#[derive(Args)]
pub(crate) struct Options {
    /// Its certificate, with the chain behind it, in PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its private key, in PEM.
    #[arg(long)]
    key: PathBuf,
}

/// What it counted of itself.
#[derive(Default)]
struct Counts {
    /// By the name that the client asked for; empty when it asked for none.
    names: Mutex<BTreeMap<String, Truth>>,
    handshakes: AtomicU64,
    /// Of all connections.
    encrypted: Encrypted,
    /// Of each connection whose handshake succeeded, with the name that its client asked for.
    connections: Mutex<Vec<(String, Arc<Encrypted>)>>,
}

/// Bytes off the wire and onto it, encrypted.
#[derive(Default)]
struct Encrypted {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counts {
    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Truth>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_json(&self) -> String {
        let names: BTreeMap<_, _> =
            self.names().iter().map(|(name, truth)| (name.clone(), truth.to_json(false))).collect();
        let mut encrypted = BTreeMap::<&str, [u64; 2]>::new();
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, bytes) in connections.iter() {
            let [received, sent] = encrypted.entry(name).or_default();
            *received += bytes.received.load(Ordering::SeqCst);
            *sent += bytes.sent.load(Ordering::SeqCst);
        }
        json!({
            "names": names,
            "encrypted": encrypted,
            "handshakes": self.handshakes.load(Ordering::SeqCst),
            "received": self.encrypted.received.load(Ordering::SeqCst),
            "sent": self.encrypted.sent.load(Ordering::SeqCst),
        })
        .to_string()
    }
}

/// A socket that counts its bytes.
struct Counted {
    socket: Socket,
    counts: Arc<Counts>,
    own: Arc<Encrypted>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.socket.read(buffer)?;
        for encrypted in [&self.counts.encrypted, &*self.own] {
            encrypted.received.fetch_add(length as u64, Ordering::SeqCst);
        }
        Ok(length)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.socket.write(bytes)?;
        for encrypted in [&self.counts.encrypted, &*self.own] {
            encrypted.sent.fetch_add(length as u64, Ordering::SeqCst);
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let config = Arc::new(configure(options)?);
    let counts = Arc::<Counts>::default();
    let (telling, serving) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    println!("truth on {}", telling.local_addr()?);
    println!("listening on {}", serving.local_addr()?);
    io::stdout().flush().context("standard output")?;
    let told = Arc::clone(&counts);
    thread::spawn(move || tell(&telling, &told));
    for stream in serving.incoming() {
        // Out of descriptors, or a client that went before it was served.
        let Ok(stream) = stream else { continue };
        stream.set_nodelay(true).context("a TCP socket")?;
        let socket = Socket::new(OwnedFd::from(stream), Io::RecvSend);
        let socket = Counted { socket, counts: Arc::clone(&counts), own: Arc::default() };
        let connection = ServerConnection::new(Arc::clone(&config)).context("the configuration")?;
        // A client that breaks off is no concern of the others.
        thread::spawn(move || serve(StreamOwned::new(connection, socket)));
    }
    Ok(())
}

fn configure(options: &Options) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&options.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("reading {}", options.certificate.display()))?;
    let key =
        PrivateKeyDer::from_pem_file(&options.key).with_context(|| format!("reading {}", options.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_no_client_auth().with_single_cert(chain, key)?)
}

/// Answers everything with the counts.
fn tell(listener: &TcpListener, counts: &Counts) {
    for stream in listener.incoming().flatten() {
        let mut socket = Socket::new(OwnedFd::from(stream), Io::RecvSend);
        let mut block = [0; 4096];
        if socket.read(&mut block).is_ok() {
            for step in routes::whole(200, "application/json", counts.to_json().as_bytes()) {
                if let Step::Write(bytes) = step {
                    // Whoever does not wait for the answer does not want it.
                    let _ = socket.write_all(&bytes);
                }
            }
        }
    }
}

/// Serves one connection to its end, which the client's going away is too.
fn serve(mut stream: StreamOwned<ServerConnection, Counted>) -> io::Result<()> {
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let counts = Arc::clone(&stream.sock.counts);
    counts.handshakes.fetch_add(1, Ordering::SeqCst);
    let name = stream.conn.server_name().unwrap_or_default().to_owned();
    let own = (name.clone(), Arc::clone(&stream.sock.own));
    counts.connections.lock().unwrap_or_else(PoisonError::into_inner).push(own);
    let (mut inbox, mut block, mut continued) = (Vec::new(), vec![0; 64 * 1024], false);
    loop {
        match stream.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(length) => inbox.extend_from_slice(&block[..length]),
            // Many a client closes its socket without a word.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
        while let Some(request) = wire::take(&mut inbox, Kind::Request, false).map_err(io::Error::other)? {
            continued = false;
            for step in reply(&counts, &name, &request) {
                match step {
                    Step::Write(bytes) => stream.write_all(&bytes)?,
                    Step::Pause(time) => {
                        stream.flush()?;
                        thread::sleep(time);
                    }
                    Step::Upgrade => return Err(ErrorKind::Unsupported.into()),
                    Step::Close => {
                        stream.conn.send_close_notify();
                        return stream.flush();
                    }
                    Step::Reset => return stream.sock.socket.reset_on_close(),
                }
            }
            stream.flush()?;
        }
        if !continued && Head::parse(&inbox).is_some_and(|head| head.has("expect", "100-continue")) {
            continued = true;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            stream.flush()?;
        }
    }
}

/// Counts a request and its answer, before anybody can have seen the answer.
fn reply(counts: &Counts, name: &str, request: &Message) -> Vec<Step> {
    let mut words = request.head.first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or("/"));
    let mut steps = Vec::new();
    let status = routes::reply(method, target, request, &mut steps);
    let empty = || Truth { request_bytes: Some(0), response_bytes: Some(0), ..Truth::default() };
    let mut names = counts.names();
    let truth = names.entry(name.to_owned()).or_insert_with(empty);
    match status {
        Some(status) => truth.add(method, target, status, 1),
        None => truth.failed += 1,
    }
    let written = steps.iter().map(|step| if let Step::Write(bytes) = step { bytes.len() } else { 0 });
    routes::add(&mut truth.request_bytes, request.length);
    routes::add(&mut truth.response_bytes, written.sum());
    drop(names);
    steps
}
