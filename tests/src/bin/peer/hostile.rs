//! A client that sends what no decent client sends. It cares for no answer, only for having sent it.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use miku_probe_tests::wire::{Address, Io, Socket};

/// What to send.
#[derive(Args)]
pub(crate) struct Options {
    /// Whom to send it to: IP:PORT or unix:PATH.
    address: Address,
    /// Which mischief; all of them, one after the other, when none is named.
    #[arg(long)]
    kind: Vec<Mischief>,
    /// How often each.
    #[arg(long, default_value_t = 10)]
    times: u64,
    /// Where the random numbers start.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which system calls move the bytes.
    #[arg(long, value_enum, default_value_t)]
    io: Io,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mischief {
    /// Random bytes.
    Random,
    /// A request whose bytes are random from the path on.
    RandomHead,
    /// A head that goes on for a megabyte.
    EndlessHead,
    /// A request line of a megabyte.
    EndlessLine,
    /// Ten thousand header lines.
    ManyHeaders,
    /// Chunk sizes beyond all bounds.
    GiantChunk,
    /// A `Content-Length` beyond all bounds.
    GiantLength,
    /// `Content-Length` and chunks at once, twice, negative.
    TwoLengths,
    /// Half a request, then the end.
    Half,
    /// A request a byte at a time, given up in the middle.
    Slowloris,
    /// Requests upon requests without reading an answer, then a reset.
    Flood,
    /// A WebSocket's bytes without a handshake, a TLS hello, HTTP/2's preface.
    Foreign,
    /// An answer instead of a request.
    Answer,
    /// Connections that are opened and closed without a byte.
    Nothing,
}

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()).flatten().take(count).collect()
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut random = Random(options.seed.max(1));
    let kinds = if options.kind.is_empty() { Mischief::value_variants() } else { &options.kind };
    for kind in kinds {
        for _ in 0..options.times {
            let socket = Socket::connect(&options.address, options.io);
            let mut socket = socket.with_context(|| format!("connecting to {} for {kind:?}", options.address))?;
            // The server may hang up as soon as it has had enough, which is its good right.
            let _ = kind.play(&mut socket, &mut random);
        }
    }
    Ok(())
}

impl Mischief {
    fn play(self, socket: &mut Socket, random: &mut Random) -> std::io::Result<()> {
        const MEGABYTE: usize = 1 << 20;
        match self {
            Self::Random => {
                let length = 1 + usize::try_from(random.next() % 20_000).unwrap_or(0);
                socket.write_all(&random.bytes(length))?;
            }
            Self::RandomHead => {
                socket.write_all(b"GET /")?;
                socket.write_all(&random.bytes(500))?;
                socket.write_all(b" HTTP/1.1\r\nHost: ")?;
                socket.write_all(&random.bytes(500))?;
                socket.write_all(b"\r\n\r\n")?;
            }
            Self::EndlessHead => {
                socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ")?;
                socket.write_all(&vec![b'a'; MEGABYTE])?;
            }
            Self::EndlessLine => {
                socket.write_all(b"GET /")?;
                socket.write_all(&vec![b'a'; MEGABYTE])?;
            }
            Self::ManyHeaders => {
                socket.write_all(b"GET / HTTP/1.1\r\n")?;
                socket.write_all("X: y\r\n".repeat(10_000).as_bytes())?;
                socket.write_all(b"\r\n")?;
            }
            Self::GiantChunk => {
                socket.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                socket.write_all(b"ffffffffffffffff\r\nabc\r\nfffffffffffffffffffffffff\r\n-1\r\n\r\n")?;
            }
            Self::GiantLength => {
                socket
                    .write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nabc")?;
            }
            Self::TwoLengths => {
                socket.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\nContent-Length: 3\r\n")?;
                socket.write_all(b"Content-Length: 4\r\nTransfer-Encoding: chunked, gzip\r\n\r\nabcd")?;
            }
            Self::Half => socket.write_all(b"GET /half HTTP/1.1\r\nHost: a\r\nX-Ha")?,
            Self::Slowloris => {
                for byte in b"GET /slowloris HTTP/1.1\r\nHost: a\r\nX: " {
                    socket.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            Self::Flood => {
                socket.reset_on_close()?;
                // As many as fit the buffers of both ends, so that nobody waits for ever for the other to read.
                for _ in 0..100 {
                    socket.write_all(&b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8))?;
                }
                return Ok(());
            }
            Self::Foreign => {
                socket.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")?;
                socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
                socket.write_all(&random.bytes(64))?;
            }
            Self::Answer => socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")?,
            Self::Nothing => {}
        }
        socket.finish()?;
        socket.set_read_timeout(Duration::from_millis(50))?;
        let _ = socket.read(&mut [0; 4096])?;
        Ok(())
    }
}
