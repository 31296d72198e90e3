//! An event loop that waits in the selector it is told to: what Python's loops do, by every call there is.

use std::io::{self, BufRead, Write as _};
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

/// What to do.
#[derive(Args)]
pub(crate) struct Options {
    /// The call to wait in.
    #[arg(long, default_value = "epoll_wait")]
    by: Selector,
    /// How many turns.
    #[arg(long, default_value_t = 50)]
    turns: u32,
    /// Milliseconds of work in each.
    #[arg(long, default_value_t = 2)]
    busy: u64,
    /// Milliseconds of waiting before each.
    #[arg(long, default_value_t = 4)]
    idle: u32,
}

/// A call that waits for descriptors.
#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Selector {
    EpollWait,
    EpollPwait,
    EpollPwait2,
    Poll,
    Ppoll,
    Select,
    Pselect6,
}

/// Takes its turns once a line comes, and says how many, and how long it was busy and idle: `turns N busy S idle S`. Then it
/// stays until its input ends.
pub(crate) fn run(options: &Options) -> Result<()> {
    let waits = Waits::new()?;
    let mut lines = io::stdin().lock().lines();
    println!("ready");
    if lines.next().is_none() {
        return Ok(());
    }
    let (mut busy, mut idle) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..options.turns {
        let began = Instant::now();
        waits.wait(options.by, options.idle)?;
        let woken = Instant::now();
        while woken.elapsed() < Duration::from_millis(options.busy) {
            std::hint::spin_loop();
        }
        idle += woken - began;
        busy += woken.elapsed();
    }
    // The last turn ends with a wait.
    waits.wait(options.by, 0)?;
    println!("turns {} busy {} idle {}", options.turns, busy.as_secs_f64(), idle.as_secs_f64());
    io::stdout().flush().context("nobody listens")?;
    for line in lines {
        line.context("standard input cannot be read")?;
    }
    Ok(())
}

/// Two descriptors on which nothing ever happens.
struct Waits {
    pipes: [libc::c_int; 2],
    epoll: libc::c_int,
}

impl Waits {
    fn new() -> Result<Self> {
        let mut pipe = [0; 2];
        // SAFETY: the pointer is to two descriptors' room.
        let made = unsafe { libc::pipe(pipe.as_mut_ptr()) };
        ensure!(made == 0, "no pipe: {}", io::Error::last_os_error());
        // Another end for reading of the same pipe.
        // SAFETY: dup and epoll_create1 take plain numbers.
        let (other, epoll) = unsafe { (libc::dup(pipe[0]), libc::epoll_create1(0)) };
        let this = Self { pipes: [pipe[0], other], epoll };
        for pipe in this.pipes {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: the pointer is to a live event.
            let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, pipe, &raw mut event) };
            ensure!(added == 0, "no epoll: {}", io::Error::last_os_error());
        }
        Ok(this)
    }

    /// Waits for so many milliseconds.
    fn wait(&self, by: Selector, millis: u32) -> Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        let mut polled = self.pipes.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        let timespec = libc::timespec { tv_sec: 0, tv_nsec: libc::c_long::from(millis) * 1_000_000 };
        let mut timeval = libc::timeval { tv_sec: 0, tv_usec: libc::suseconds_t::from(millis) * 1_000 };
        let timeout = libc::c_int::try_from(millis).context("a wait that long")?;
        let highest = self.pipes[0].max(self.pipes[1]) + 1;
        let no_mask = ptr::null::<libc::sigset_t>();
        // SAFETY: every pointer is to a live value of its type, or null where that is allowed; the set holds no descriptor
        // above its size.
        let found = unsafe {
            let mut set = std::mem::zeroed::<libc::fd_set>();
            self.pipes.iter().for_each(|pipe| libc::FD_SET(*pipe, &raw mut set));
            let none = ptr::null_mut::<libc::fd_set>();
            match by {
                Selector::EpollWait => libc::epoll_wait(self.epoll, events.as_mut_ptr(), 4, timeout),
                Selector::EpollPwait => libc::epoll_pwait(self.epoll, events.as_mut_ptr(), 4, timeout, no_mask),
                Selector::EpollPwait2 => {
                    // The C library may be older than the call.
                    let events = events.as_mut_ptr();
                    let found =
                        libc::syscall(libc::SYS_epoll_pwait2, self.epoll, events, 4, &raw const timespec, no_mask, 0);
                    libc::c_int::try_from(found).unwrap_or(-1)
                }
                Selector::Poll => libc::poll(polled.as_mut_ptr(), 2, timeout),
                Selector::Ppoll => libc::ppoll(polled.as_mut_ptr(), 2, &raw const timespec, no_mask),
                Selector::Select => libc::select(highest, &raw mut set, none, none, &raw mut timeval),
                Selector::Pselect6 => libc::pselect(highest, &raw mut set, none, none, &raw const timespec, no_mask),
            }
        };
        match found {
            0 => Ok(()),
            -1 => bail!("cannot wait: {}", io::Error::last_os_error()),
            found => bail!("{found} events on a pipe into which nobody writes"),
        }
    }
}
