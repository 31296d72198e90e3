//! A process that does nothing but system calls, and times them.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

/// Which system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// `sendto` and `recvfrom` in turn, small requests and answers of HTTP.
    Http,
    /// `sendto` and `recvfrom` in turn, something else.
    Move,
    /// `getppid`.
    Other,
}

/// The parent's end of such a process.
pub(crate) struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start() -> Result<Self> {
        let program = std::env::current_exe().context("this program has no name")?;
        let mut child = Command::new(program)
            .arg("work")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        let orders = child.stdin.take().context("a worker has no input")?;
        let answers = BufReader::new(child.stdout.take().context("a worker has no output")?);
        Ok(Self { child, orders, answers })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Nanoseconds of processor time a call.
    pub(crate) fn run(&mut self, kind: Kind, calls: u32) -> Result<f64> {
        let name = kind.to_possible_value().context("every kind has a name")?;
        writeln!(self.orders, "{} {calls}", name.get_name()).context("a worker takes no orders")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("a worker does not answer")?;
        line.trim().parse().with_context(|| format!("a worker answered {line:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process itself: an order a line, until there are no more.
pub(crate) fn work() -> Result<()> {
    // A pair each: a connection that has carried a message of HTTP is followed more closely from then on.
    let http = UnixStream::pair().context("cannot make a pair of sockets")?;
    let other = UnixStream::pair().context("cannot make a pair of sockets")?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read orders")?;
        let Some((kind, calls)) = line.split_once(' ') else { bail!("an order is KIND CALLS, not {line:?}") };
        let kind = Kind::from_str(kind, false).map_err(anyhow::Error::msg)?;
        let calls: u32 = calls.parse().context("a number of calls")?;
        let start = processor_time()?;
        match kind {
            Kind::Http => {
                const REQUEST: &[u8] = b"GET /items/7 HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
                const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";
                for _ in 0..calls / 4 {
                    carry(&http.0, &http.1, REQUEST)?;
                    carry(&http.1, &http.0, ANSWER)?;
                }
            }
            Kind::Move => {
                for _ in 0..calls / 2 {
                    carry(&other.0, &other.1, b"something that is no message of any protocol")?;
                }
            }
            Kind::Other => {
                for _ in 0..calls {
                    // SAFETY: it takes nothing and cannot fail. Not by libc's wrapper, which might keep the answer.
                    unsafe { libc::syscall(libc::SYS_getppid) };
                }
            }
        }
        println!("{}", (processor_time()? - start) / f64::from(calls));
    }
    Ok(())
}

/// One `sendto` and one `recvfrom`.
fn carry(from: &UnixStream, to: &UnixStream, bytes: &[u8]) -> Result<()> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let mut buffer = [0_u8; 256];
    // SAFETY: the pointers are to live memory of the lengths given.
    let (sent, received) = unsafe {
        let sent = libc::send(from, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
        (sent, libc::recv(to, buffer.as_mut_ptr().cast(), buffer.len(), 0))
    };
    ensure!(sent == received && usize::try_from(sent) == Ok(bytes.len()), "{sent} bytes sent, {received} received");
    Ok(())
}

/// Nanoseconds that this thread has run: others on the processor do not count in.
fn processor_time() -> Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(result == 0, "no clock of the thread: {}", io::Error::last_os_error());
    #[allow(clippy::cast_precision_loss, reason = "less than a day of nanoseconds")]
    Ok(time.tv_sec as f64 * 1e9 + time.tv_nsec as f64)
}
