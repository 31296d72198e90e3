//! Where frames go: a terminal that is redrawn in place, or a stream of blocks or lines.
//!
//! Writing fails with [`io::ErrorKind::BrokenPipe`] once the reader is gone, which is a reason to end and no failure.

use std::io::{self, IsTerminal as _, Read as _, Stdout, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{env, panic, thread};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::queue;
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
};
use tokio::sync::mpsc;

use super::layout::{self, Geometry, Hints};
use super::line::{Line, Look};
use super::options::{Format, Options};
use super::{Frame, json};

/// The width of blocks where there is no terminal to ask.
const BLOCK_COLUMNS: usize = 100;

/// Draws frames in place. It writes a whole frame at once and overwrites what was there, so nothing flickers.
#[derive(Debug)]
pub struct Screen<W: Write> {
    writer: W,
    look: Look,
    hints: Hints,
    geometry: Option<Geometry>,
    frame: Option<Box<Frame>>,
}

impl<W: Write> Screen<W> {
    /// A screen that draws to `writer`. `keys` is whether the bottom line offers keys.
    pub const fn new(writer: W, look: Look, keys: bool) -> Self {
        Self { writer, look, hints: Hints { keys, paused: false }, geometry: None, frame: None }
    }

    /// Draws `frame`, unless the screen is paused.
    ///
    /// # Errors
    /// When writing fails.
    pub fn draw(&mut self, frame: Frame, geometry: Geometry) -> io::Result<()> {
        if self.hints.paused && self.frame.is_some() {
            return Ok(());
        }
        self.frame = Some(Box::new(frame));
        self.redraw(geometry)
    }

    /// Draws the last frame again, as after a change of the terminal's size.
    ///
    /// # Errors
    /// When writing fails.
    pub fn redraw(&mut self, geometry: Geometry) -> io::Result<()> {
        let Some(frame) = &self.frame else { return Ok(()) };
        let mut bytes = Vec::with_capacity(16 * 1024);
        queue!(bytes, BeginSynchronizedUpdate)?;
        // A terminal may have moved its lines about when it changed its size.
        if self.geometry.replace(geometry) != Some(geometry) {
            queue!(bytes, Clear(ClearType::All))?;
        }
        for (row, line) in (0..).zip(layout::screen(frame, geometry, self.look, self.hints)) {
            queue!(bytes, MoveTo(0, row))?;
            bytes.extend_from_slice(line.encode(geometry.columns, self.look.color).as_bytes());
            // At the right border the cursor stands on the last character, which clearing would take away.
            if line.width() < geometry.columns {
                queue!(bytes, Clear(ClearType::UntilNewLine))?;
            }
        }
        queue!(bytes, EndSynchronizedUpdate)?;
        self.writer.write_all(&bytes)?;
        self.writer.flush()
    }

    /// Pauses, or goes on with the next frame.
    ///
    /// # Errors
    /// When writing fails.
    pub fn toggle_pause(&mut self, geometry: Geometry) -> io::Result<()> {
        self.hints.paused = !self.hints.paused;
        self.redraw(geometry)
    }
}

/// Writes frames one after the other.
#[derive(Debug)]
pub struct Printer<W: Write> {
    writer: W,
    format: Format,
    look: Look,
    columns: usize,
}

impl<W: Write> Printer<W> {
    /// A printer to `writer`; blocks of text are at most `columns` wide.
    pub const fn new(writer: W, format: Format, look: Look, columns: usize) -> Self {
        Self { writer, format, look, columns }
    }

    /// Writes `frame` and flushes.
    ///
    /// # Errors
    /// When writing fails.
    pub fn print(&mut self, frame: &Frame) -> io::Result<()> {
        let mut text = String::new();
        match self.format {
            Format::Json => {
                text.push_str(&json::object(frame));
                text.push('\n');
            }
            Format::Text => {
                for line in layout::block(frame, self.columns, self.look) {
                    text.push_str(&self.encode(&line));
                    text.push('\n');
                }
            }
        }
        self.writer.write_all(text.as_bytes())?;
        self.writer.flush()
    }

    fn encode(&self, line: &Line) -> String {
        line.encode(self.columns, self.look.color).trim_end().to_owned()
    }
}

/// Whether the terminal is ours, and the modes to give back.
static TAKEN: AtomicBool = AtomicBool::new(false);
static MODES: Mutex<Option<libc::termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// The terminal of standard output, taken for a screen: the alternate screen without a cursor, and keys without echo.
/// It is given back when this is dropped, and before a panic's message is written.
#[derive(Debug)]
pub struct Session {
    keys: bool,
}

impl Session {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When writing to it fails.
    pub fn begin() -> io::Result<Self> {
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                next(info);
            }));
        });
        TAKEN.store(true, Ordering::SeqCst);
        let session = Self { keys: take_keys() };
        let mut bytes = Vec::new();
        queue!(bytes, EnterAlternateScreen, Hide)?;
        let mut stdout = io::stdout();
        stdout.write_all(&bytes)?;
        stdout.flush()?;
        Ok(session)
    }

    /// Whether single keys reach [`keys`].
    #[must_use]
    pub const fn has_keys(&self) -> bool {
        self.keys
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back, once. What fails here has nobody left to be told.
fn give_back() {
    if !TAKEN.swap(false, Ordering::SeqCst) {
        return;
    }
    let mut bytes = Vec::new();
    let _ = queue!(bytes, EndSynchronizedUpdate, LeaveAlternateScreen, Show);
    // Not through the lock of standard output, which a panicking thread may hold.
    // SAFETY: the pointer and the length are of one live vector.
    unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    if let Some(modes) = MODES.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // SAFETY: `modes` was filled in by tcgetattr for the same descriptor.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const modes) };
    }
}

/// Lets single keys through without echo, if standard input is the terminal and this process is in its foreground: a
/// background job would be stopped. Signals stay as they are, so Ctrl-C works whatever becomes of this process, except
/// that Ctrl-Z does nothing: it would leave the shell on the alternate screen.
fn take_keys() -> bool {
    // SAFETY: termios is plain old data, for which zero is a value.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: plain calls on a descriptor; `modes` is live and writable.
    let ours = unsafe {
        libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp()
            && libc::tcgetattr(libc::STDIN_FILENO, &raw mut modes) == 0
    };
    if !ours {
        return false;
    }
    *MODES.lock().unwrap_or_else(PoisonError::into_inner) = Some(modes);
    modes.c_lflag &= !(libc::ICANON | libc::ECHO);
    modes.c_cc[libc::VSUSP] = libc::_POSIX_VDISABLE;
    modes.c_cc[libc::VMIN] = 1;
    modes.c_cc[libc::VTIME] = 0;
    // SAFETY: `modes` came from tcgetattr for the same descriptor.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const modes) == 0 }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// End, with the final summary.
    Quit,
    /// Forget everything and start again: see [`super::Hist::reset`].
    Reset,
    /// Stand still, or go on.
    Pause,
}

impl Key {
    /// What this byte asks for, if anything.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'q' | b'Q' => Some(Self::Quit),
            b'r' | b'R' => Some(Self::Reset),
            b'p' | b'P' | b' ' => Some(Self::Pause),
            _ => None,
        }
    }
}

/// Reads keys from standard input on a thread of its own, which lasts as long as the process. The channel ends with the
/// input. To be called only when [`Display::has_keys`] says so.
#[must_use]
pub fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(8);
    thread::spawn(move || {
        for byte in io::stdin().lock().bytes() {
            let Ok(byte) = byte else { break };
            if Key::from_byte(byte).is_some_and(|key| sender.blocking_send(key).is_err()) {
                break;
            }
        }
    });
    receiver
}

/// Standard output, as a screen or as a stream, whichever it is good for.
#[derive(Debug)]
pub enum Display {
    /// A terminal.
    Live {
        /// What draws on it.
        screen: Screen<Stdout>,
        /// Prints the final summary, once the terminal was given back.
        printer: Printer<Stdout>,
        /// Holds the terminal.
        session: Session,
    },
    /// A file, a pipe, or a terminal that is to show JSON.
    Stream(Printer<Stdout>),
}

impl Display {
    /// Opens standard output as `options` and its kind ask for. A terminal is taken until [`Display::finish`] or drop.
    ///
    /// # Errors
    /// When the terminal cannot be written to.
    pub fn open(options: &Options) -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        let color = options.color.resolve(terminal, env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref());
        let look = Look { glyphs: options.glyphs, color };
        let columns = if terminal { size().columns } else { BLOCK_COLUMNS };
        let printer = Printer::new(io::stdout(), options.format, look, columns);
        // A dumb terminal has no cursor to move.
        if !terminal || options.format == Format::Json || env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return Ok(Self::Stream(printer));
        }
        let session = Session::begin()?;
        Ok(Self::Live { screen: Screen::new(io::stdout(), look, session.has_keys()), printer, session })
    }

    /// Whether single keys reach [`keys`].
    #[must_use]
    pub const fn has_keys(&self) -> bool {
        match self {
            Self::Live { session, .. } => session.has_keys(),
            Self::Stream(_) => false,
        }
    }

    /// Shows the frame of an interval.
    ///
    /// # Errors
    /// When writing fails.
    pub fn show(&mut self, frame: Frame) -> io::Result<()> {
        match self {
            Self::Live { screen, .. } => screen.draw(frame, size()),
            Self::Stream(printer) => printer.print(&frame),
        }
    }

    /// Draws again after the terminal's size changed (SIGWINCH).
    ///
    /// # Errors
    /// When writing fails.
    pub fn resized(&mut self) -> io::Result<()> {
        match self {
            Self::Live { screen, .. } => screen.redraw(size()),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Pauses a screen, or goes on.
    ///
    /// # Errors
    /// When writing fails.
    pub fn toggle_pause(&mut self) -> io::Result<()> {
        match self {
            Self::Live { screen, .. } => screen.toggle_pause(size()),
            Self::Stream(_) => Ok(()),
        }
    }

    /// Gives a terminal back and prints the final frame.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(self, frame: &Frame) -> io::Result<()> {
        match self {
            Self::Live { session, mut printer, .. } => {
                drop(session);
                printer.columns = size().columns;
                printer.print(frame)
            }
            Self::Stream(mut printer) => printer.print(frame),
        }
    }
}

/// The size of the terminal; 80 by 24 when it does not say.
fn size() -> Geometry {
    match terminal::size() {
        Ok((columns @ 1.., rows @ 1..)) => Geometry { columns: columns.into(), rows: rows.into() },
        _ => Geometry { columns: 80, rows: 24 },
    }
}
