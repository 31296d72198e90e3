//! What is observed of an event loop that does not turn.

use std::fmt;
use std::path::Path;

use super::StallThreshold;
use crate::units::{Nanos, Tgid};

/// Why a loop does not turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its thread runs.
    Computation,
    /// Its thread is ready to run and gets no processor.
    Starved,
    /// Its thread waits for a time to pass.
    Sleep,
    /// Its thread waits for a disk or a file system.
    Disk,
    /// Its thread waits for a lock: of a file, or of its own process, the interpreter's among them.
    Lock,
    /// Its thread waits for another process, over a socket or a pipe or until it ends.
    Peer,
    /// What it waits for cannot be told.
    Unknown,
}

impl Cause {
    /// A word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Computation => "computation",
            Self::Starved => "starved",
            Self::Sleep => "sleep",
            Self::Disk => "disk",
            Self::Lock => "lock",
            Self::Peer => "peer",
            Self::Unknown => "unknown",
        }
    }

    /// What a person is told.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Computation => "computes",
            Self::Starved => "gets no processor",
            Self::Sleep => "sleeps",
            Self::Disk => "waits for a disk",
            Self::Lock => "waits for a lock",
            Self::Peer => "waits for another process",
            Self::Unknown => "waits",
        }
    }
}

/// A line of a Python function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, as the interpreter knows it.
    pub file: String,
    /// The function.
    pub function: String,
    /// The line; none where it could not be read.
    pub line: Option<u32>,
}

impl Place {
    /// The longest file or function name in a label.
    const LABEL_MAX: usize = 80;

    /// `file:function`, of the file's name alone, as a label. It does not change when lines move.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}:{}", cleaned(file_name(&self.file)), cleaned(&self.function))
    }

    /// Whether the file belongs to Python or to a package that was installed, by where such files are put.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        let file = self.file.as_str();
        let standard = || {
            file.split_once("/lib/python3.")
                .is_some_and(|(_, rest)| rest.trim_start_matches(char::is_numeric).starts_with('/'))
        };
        file.starts_with('<') || file.contains("/site-packages/") || file.contains("/dist-packages/") || standard()
    }
}

/// `function (file:line)`, of the file's name alone.
impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}", cleaned(&self.function), cleaned(file_name(&self.file)))?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        formatter.write_str(")")
    }
}

fn file_name(file: &str) -> &str {
    Path::new(file).file_name().and_then(|name| name.to_str()).unwrap_or(file)
}

/// Without what a terminal would obey, and bounded.
fn cleaned(text: &str) -> String {
    let clean = |character: char| if character.is_control() { '?' } else { character };
    text.chars().take(Place::LABEL_MAX).map(clean).collect()
}

/// What became of a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StallChange {
    /// The turn exceeds this threshold now. The first one is how a stall begins to be told.
    Exceeds(StallThreshold),
    /// It still lasts; where and why may be known better.
    Lasts,
    /// It is over. [`Stall::time`] is how long it was seen to last.
    Ended,
}

/// A turn of an event loop that takes too long.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    /// The process.
    pub tgid: Tgid,
    /// The loop's thread.
    pub tid: u32,
    /// When the turn began.
    pub since: Nanos,
    /// How long it has lasted.
    pub time: Nanos,
    /// How long of that its thread was on a processor.
    pub on_cpu: Nanos,
    /// What became of it.
    pub change: StallChange,
    /// Why it does not turn, as far as was seen.
    pub cause: Cause,
    /// The innermost Python function, and of it the line, that was seen most often; none if no stack could be read.
    pub place: Option<Place>,
    /// The innermost function of that stack that belongs neither to Python nor to an installed package, if another.
    pub own: Option<Place>,
    /// That stack, innermost first.
    pub stack: Vec<Place>,
    /// What the thread that held the interpreter's lock was in, if the loop's thread waits for that.
    pub holder: Option<Place>,
    /// Why there is no stack.
    pub no_stack: Option<String>,
    /// Whether the iteration started before the probe attached; then `time` is a lower bound.
    pub begun_before: bool,
    /// Whether the loop was recognised by its runtime, rather than by how its thread behaves.
    pub recognised: bool,
}

impl Stall {
    /// One of which nothing is known.
    #[must_use]
    pub const fn new(tgid: Tgid, tid: u32, since: Nanos, change: StallChange) -> Self {
        Self {
            tgid,
            tid,
            since,
            time: Nanos(0),
            on_cpu: Nanos(0),
            change,
            cause: Cause::Unknown,
            place: None,
            own: None,
            stack: Vec::new(),
            holder: None,
            no_stack: None,
            begun_before: false,
            recognised: false,
        }
    }

    /// The value of the label `where`; none if that is not known.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        self.place.as_ref().map(Place::label)
    }

    /// Where it hangs and why, in one line without the time.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut text = match &self.place {
            Some(place) => format!("{} in {place}", self.cause.in_words()),
            None => self.cause.in_words().to_owned(),
        };
        if let Some(own) = &self.own {
            text.push_str(&format!(", called from {own}"));
        }
        if let Some(holder) = &self.holder {
            text.push_str(&format!(", held by a thread in {holder}"));
        }
        if let Some(reason) = &self.no_stack {
            text.push_str(&format!(", no stack: {reason}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(file: &str, function: &str, line: u32) -> Place {
        Place { file: file.to_owned(), function: function.to_owned(), line: Some(line) }
    }

    #[test]
    fn a_label_has_no_folder_and_no_line_and_is_bounded() {
        assert_eq!(place("/srv/bot/bot.py", "Bot.on_message", 7).label(), "bot.py:Bot.on_message");
        assert_eq!(place("<stdin>", "<module>", 7).label(), "<stdin>:<module>");
        assert_eq!(place("a\x1b[2J.py", "f\n", 7).label(), "a?[2J.py:f?");
        assert_eq!(place("x.py", &"f".repeat(500), 7).label().len(), "x.py:".len() + Place::LABEL_MAX);
        assert_eq!(place("/srv/bot.py", "run", 7).to_string(), "run (bot.py:7)");
        assert_eq!(Place { line: None, ..place("bot.py", "run", 0) }.to_string(), "run (bot.py)");
    }

    #[test]
    fn what_was_installed_is_known_by_its_folder() {
        for file in [
            "/usr/lib/python3.11/asyncio/base_events.py",
            "/usr/local/lib/python3.13/threading.py",
            "/srv/venv/lib/python3.12/site-packages/requests/api.py",
            "/usr/lib/python3/dist-packages/requests/api.py",
            "<frozen importlib._bootstrap>",
        ] {
            assert!(place(file, "f", 1).is_installed(), "{file}");
        }
        for file in ["/srv/bot.py", "/home/me/lib/python3.x/bot.py", "bot.py"] {
            assert!(!place(file, "f", 1).is_installed(), "{file}");
        }
    }

    #[test]
    fn a_stall_says_what_is_known_of_it() {
        let mut stall = Stall {
            cause: Cause::Peer,
            place: Some(place("/usr/lib/python3.11/ssl.py", "SSLSocket.read", 1166)),
            own: Some(place("/srv/bot.py", "ask", 12)),
            ..Stall::new(Tgid(1), 1, Nanos(0), StallChange::Exceeds(StallThreshold::Tenth))
        };
        assert_eq!(
            stall.in_words(),
            "waits for another process in SSLSocket.read (ssl.py:1166), called from ask (bot.py:12)"
        );
        assert_eq!(stall.label().as_deref(), Some("ssl.py:SSLSocket.read"));
        stall = Stall { place: None, own: None, no_stack: Some("denied".to_owned()), ..stall };
        assert_eq!(stall.in_words(), "waits for another process, no stack: denied");
        assert_eq!(stall.label(), None);
    }
}
