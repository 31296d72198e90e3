//! Calls of language models: whether an exchange is one, and when its tokens came.
//!
//! The path says what an exchange may be, its request's body whether it is. A streamed answer is read event by event
//! (server-sent events, or a JSON text a line), whatever the segments are: an event counts as a token if it has content.
//! Roles, pings and empty events do not.
//!
//! Of an event that is not known whole, its known start decides as far as it goes. Where that leaves it open, the segment
//! counts as one token, and the call is told as not exact. So, where little is known of every segment, the first token is
//! the first segment of the body, which is right for a server that sends one event a segment and no event without content
//! before.
//!
//! Text is skipped as it is read. Only the start of a line whose rest is still to come is kept, at most 4 KiB of it, and
//! wiped as soon as the line has ended.

mod events;
mod lines;
#[cfg(test)]
mod tests;

use self::events::{Facts, Verdict};
use self::lines::{Line, Lines};
use crate::observations::{AbortReason, Method, Outcome};
use crate::protocols::http1::{Answer, Bytes, Collected, Event, ExchangeId, Finished, Media, Piece, Request, Role};
use crate::protocols::json::{Scanner, Stop, What};
use crate::units::{Nanos, Side};

/// The first bytes of a request's body that are read.
const REQUEST_MAX: usize = 8 << 10;

/// Unknown bytes of a body that are too few for an event: they may be the end of chunked framing.
const EVENT_MIN: u64 = 8;

/// Whose way of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's, which most servers speak.
    OpenAi,
    /// llama.cpp's own.
    LlamaCpp,
    /// Ollama's own.
    Ollama,
    /// Anthropic's.
    Anthropic,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The next message of a conversation.
    Chat,
    /// More of a text.
    Completion,
    /// OpenAI's responses.
    Response,
}

/// A place that generates text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whose way of asking.
    pub dialect: Dialect,
    /// What is asked for.
    pub operation: Operation,
}

impl Endpoint {
    /// The endpoint that a request goes to, by method and path; whatever stands before the path's known end is a proxy's.
    /// Embeddings, lists of models and the like generate nothing.
    #[must_use]
    pub fn of(method: Method, path: &str) -> Option<Self> {
        use Operation::{Chat, Completion, Response};
        const PATHS: [(&str, Dialect, Operation); 7] = [
            ("/chat/completions", Dialect::OpenAi, Chat),
            ("/completions", Dialect::OpenAi, Completion),
            ("/v1/responses", Dialect::OpenAi, Response),
            ("/completion", Dialect::LlamaCpp, Completion),
            ("/api/chat", Dialect::Ollama, Chat),
            ("/api/generate", Dialect::Ollama, Completion),
            ("/v1/messages", Dialect::Anthropic, Chat),
        ];
        if method != Method::Post {
            return None;
        }
        let (_, dialect, operation) = PATHS.into_iter().find(|(end, ..)| path.ends_with(end))?;
        Some(Self { dialect, operation })
    }

    /// Whether the path alone makes it certain; the other paths are plain enough to be anybody's.
    fn is_certain(self) -> bool {
        self.dialect == Dialect::OpenAi && self.operation != Operation::Response
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LlmOutcome {
    /// The answer came whole, or as far as its last event.
    Complete,
    /// The server refused it, or broke it off with an error.
    Failed,
    /// It was cut short.
    Aborted(AbortReason),
    /// Part of it was not seen.
    Unknown,
}

/// A call of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlmCall {
    /// Which end the watched process is.
    pub side: Side,
    /// What was asked.
    pub endpoint: Endpoint,
    /// When the request's first byte moved.
    pub start: Nanos,
    /// When the answer's first byte moved, which may be long before the first token.
    pub first_byte: Option<Nanos>,
    /// When the first event with content came; nothing if none came, or the answer was not streamed.
    pub first_token: Option<Nanos>,
    /// When the last event with content came.
    pub last_token: Option<Nanos>,
    /// When the answer's last byte moved, or the exchange was cut short.
    pub end: Nanos,
    /// Whether the answer was streamed, or should have been; nothing if that was not seen.
    pub streaming: Option<bool>,
    /// Events with content. They need not be one token each.
    pub chunks: u64,
    /// Whether every event was read. Otherwise the first token may have come later than told, the chunks are segments, and
    /// what is missing may not have been seen.
    pub exact: bool,
    /// The answer's status, when its head was seen.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: LlmOutcome,
}

/// What a piece of an answer brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No token.
    Nothing,
    /// The first token, and perhaps more.
    FirstToken,
    /// More tokens.
    Tokens,
}

/// How the events of a streamed answer are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// It is not known yet.
    Unknown,
    /// <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>, a `data` line an event, as
    /// all servers write them.
    EventStream,
    JsonLines,
    /// It is not streamed.
    Whole,
}

/// Follows one exchange that may be a call of a language model.
#[derive(Debug)]
pub struct Follower {
    id: ExchangeId,
    side: Side,
    endpoint: Endpoint,
    start: Nanos,
    /// Until it is read.
    request: Option<Box<Collected>>,
    /// Whether the request asks for a stream, as far as that is known.
    asked_stream: Option<bool>,
    /// Whether it is a call: the request or the answer read like one.
    certain: bool,
    answer: Option<Answer>,
    format: Format,
    lines: Lines,
    /// What the last `event` line says of the data after it.
    named: Option<Verdict>,
    /// An event of the segment at hand was read.
    decided: bool,
    first_token: Option<Nanos>,
    last_token: Option<Nanos>,
    chunks: u64,
    exact: bool,
    ended: bool,
    failed: bool,
}

impl Follower {
    /// Begins to follow an exchange, if it may be a call; its interest is in the whole of it.
    #[must_use]
    pub fn new(request: &Request<'_>) -> Option<Self> {
        let endpoint = Endpoint::of(request.method, request.path)?;
        Some(Self {
            id: request.id,
            side: request.side,
            endpoint,
            start: request.start,
            request: Some(Box::new(Collected::new(REQUEST_MAX))),
            asked_stream: None,
            certain: endpoint.is_certain(),
            answer: None,
            format: Format::Unknown,
            lines: Lines::default(),
            named: None,
            decided: false,
            first_token: None,
            last_token: None,
            chunks: 0,
            exact: true,
            ended: false,
            failed: false,
        })
    }

    /// Which exchange it follows.
    #[must_use]
    pub const fn id(&self) -> ExchangeId {
        self.id
    }

    /// Whether it is known by now to be a call: at the latest when its request was seen to its end, unless too little of that
    /// is known.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        self.certain
    }

    /// When the last token came, so far.
    #[must_use]
    pub const fn last_token(&self) -> Option<Nanos> {
        self.last_token
    }

    /// When the first token came, so far.
    #[must_use]
    pub const fn first_token(&self) -> Option<Nanos> {
        self.first_token
    }

    /// Takes in what was told of the connection; what is not of this exchange changes nothing.
    pub fn tell(&mut self, event: &Event<'_>) -> Progress {
        match event {
            Event::Body(piece) if piece.id == self.id && piece.role == Role::Request => {
                if let Some(request) = &mut self.request {
                    request.push(piece);
                }
            }
            Event::Body(piece) if piece.id == self.id => return self.answer_body(piece),
            Event::Asked { id, .. } if *id == self.id => self.read_request(),
            Event::Answered(answer) if answer.id == self.id => {
                // Servers that answer early have read enough, and so was there to read.
                self.read_request();
                self.answer = Some(*answer);
                self.format = match answer.media {
                    Media::EventStream => Format::EventStream,
                    Media::JsonLines => Format::JsonLines,
                    Media::Json => Format::Whole,
                    _ => Format::Unknown,
                };
            }
            _ => {}
        }
        Progress::Nothing
    }

    /// What the call was, when its exchange has ended; nothing if it was none.
    #[must_use]
    pub fn finish(mut self, finished: &Finished<'_>) -> Option<LlmCall> {
        self.read_request();
        let failed = self.failed || finished.status.is_some_and(|status| status >= 400);
        let streaming = match self.format {
            Format::EventStream | Format::JsonLines => Some(true),
            Format::Whole if !failed => Some(false),
            _ => self.asked_stream,
        };
        let outcome = match finished.outcome {
            _ if failed => LlmOutcome::Failed,
            _ if self.ended => LlmOutcome::Complete,
            Outcome::Complete => LlmOutcome::Complete,
            Outcome::Aborted(reason) => LlmOutcome::Aborted(reason),
            Outcome::Unknown => LlmOutcome::Unknown,
        };
        self.certain.then_some(LlmCall {
            side: self.side,
            endpoint: self.endpoint,
            start: self.start,
            first_byte: finished.first_byte,
            first_token: self.first_token,
            last_token: self.last_token,
            end: finished.end,
            streaming,
            chunks: self.chunks,
            exact: self.exact && finished.outcome != Outcome::Unknown,
            status: finished.status,
            outcome,
        })
    }

    /// Reads what is known of the request's body, and forgets it.
    fn read_request(&mut self) {
        let Some(body) = self.request.take() else { return };
        let mut scanner = Scanner::new(body.head());
        if !scanner.next().is_some_and(|item| item.what == What::Object) {
            return;
        }
        while let Some(item) = scanner.next() {
            self.certain |= ["model", "messages", "prompt", "input"].into_iter().any(|name| item.is(name));
            match item.what {
                What::Object | What::Array => scanner.leave(),
                What::Bool(stream) if item.is("stream") => self.asked_stream = Some(stream),
                _ => {}
            }
        }
        if self.asked_stream.is_some() {
            return;
        }
        if scanner.stop() == Some(Stop::Whole) {
            // <https://github.com/ollama/ollama/blob/main/docs/api.md>
            self.asked_stream = Some(self.endpoint.dialect == Dialect::Ollama);
        } else if let Some(What::Bool(stream)) =
            Scanner::behind(body.tail(), "\"stream\"").and_then(|mut value| value.next()).map(|item| item.what)
        {
            self.asked_stream = Some(stream);
        }
    }

    fn answer_body(&mut self, piece: &Piece<'_>) -> Progress {
        if self.format == Format::Unknown {
            self.format = match piece.bytes {
                Bytes::Known(bytes) => match bytes.trim_ascii_start() {
                    [] => return Progress::Nothing,
                    [b'{', ..] if self.asked_stream == Some(true) => Format::JsonLines,
                    [b'd' | b'e' | b'i' | b'r' | b':', ..] if self.asked_stream != Some(false) => Format::EventStream,
                    _ => Format::Whole,
                },
                Bytes::Unknown(_) if self.asked_stream == Some(true) => Format::EventStream,
                Bytes::Unknown(_) => return Progress::Nothing,
            };
        }
        if self.format == Format::Whole {
            return Progress::Nothing;
        }
        if piece.first {
            self.decided = false;
        }
        let before = self.chunks;
        let mut lines = std::mem::take(&mut self.lines);
        match piece.bytes {
            Bytes::Known(bytes) => lines.known(bytes, piece.first, |line| self.line(line, piece.time)),
            Bytes::Unknown(size) => {
                self.exact = false;
                lines.unknown(|line| self.line(line, piece.time));
                // What the last name says ends somewhere in what is not known.
                let named = self.named.take();
                if !self.decided && size >= EVENT_MIN {
                    if named != Some(Verdict::Without) {
                        self.token(piece.time);
                    }
                    self.decided = true;
                }
            }
        }
        self.lines = lines;
        match (before, self.chunks) {
            (before, after) if before == after => Progress::Nothing,
            (0, _) => Progress::FirstToken,
            _ => Progress::Tokens,
        }
    }

    fn line(&mut self, line: Line<'_>, time: Nanos) {
        if self.format == Format::JsonLines {
            return self.event(line, time);
        }
        let field = |name: &str| {
            let value = line.bytes.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
            Some(value.strip_prefix(b" ").unwrap_or(value))
        };
        if let Some(data) = field("data") {
            if data.trim_ascii_end() == b"[DONE]" && line.whole {
                self.ended = true;
                self.decided = true;
                return;
            }
            self.event(Line { bytes: data, ..line }, time);
        } else if let Some(name) = field("event") {
            self.named = if line.whole { events::named(name) } else { None };
        } else if line.bytes.is_empty() {
            self.named = None;
        }
    }

    /// Takes in an event, or the known start of one.
    fn event(&mut self, line: Line<'_>, time: Nanos) {
        let Facts { verdict, ended, failed } = events::read(line.bytes);
        self.ended |= ended;
        self.failed |= failed;
        let verdict = match verdict {
            Some(verdict) => verdict,
            // A line that is no JSON is no event of ours.
            None if line.whole || line.bytes.first().is_some_and(|byte| *byte != b'{') => Verdict::Without,
            None => {
                self.exact = false;
                self.named.unwrap_or(Verdict::Content)
            }
        };
        self.decided = true;
        if verdict == Verdict::Content {
            self.certain = true;
            self.token(time);
        }
    }

    fn token(&mut self, time: Nanos) {
        self.first_token.get_or_insert(time);
        self.last_token = Some(time);
        self.chunks += 1;
    }
}
