//! Follows one exchange that may be a call of a language model.

use super::events::{self, Facts, Verdict};
use super::gzip::{Inflater, Inflaters};
use super::lines::{Line, Lines};
use super::usage::Usage;
use super::{Call, Dialect, Endpoint};
use crate::observations::{CallOutcome, Finish, Operation, Outcome, Unmatched};
use crate::protocols::http1::{
    Answer, Bytes, Coding, Collected, Event, ExchangeId, Finished, Media, Piece, Request, Role,
};
use crate::protocols::json::{Scanner, Stop, Text, What};
use crate::units::{Nanos, Side};

/// The first bytes of a body that is no stream which are kept until it has ended.
const WHOLE_MAX: usize = 8 << 10;

/// Unknown bytes of a body that are too few for an event: they may be the end of chunked framing.
const EVENT_MIN: u64 = 8;

/// What a piece of an answer brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events with content, or segments in which there may have been some.
    pub tokens: u64,
    /// Whether the first of them is the first of all.
    pub first: bool,
    /// The time since the token before, of the first of them that has one; nothing where that is not certain.
    pub gap: Option<Nanos>,
    /// How many more of them came at once with one before, for certain.
    pub at_once: u64,
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
    asked_model: Option<Box<str>>,
    model: Option<Box<str>>,
    answer: Option<Answer>,
    format: Format,
    lines: Lines,
    /// Of an answer that comes whole.
    whole: Option<Box<Collected>>,
    inflaters: Inflaters,
    inflater: Option<Box<Inflater>>,
    /// What the last `event` line says of the data after it.
    named: Option<Verdict>,
    /// An event of the segment at hand was read.
    decided: bool,
    /// When the last piece of the answer came.
    moved: Nanos,
    first_token: Option<Nanos>,
    first_certain: bool,
    last_token: Option<Nanos>,
    /// Whether the last token came when it is said to have come.
    last_certain: bool,
    chunks: u64,
    /// What the piece at hand brought.
    progress: Progress,
    unread: Option<Unmatched>,
    /// A token may have come that was not counted.
    doubt: bool,
    ended: bool,
    /// A choice has ended, and nothing was added to any since.
    stopped: bool,
    failed: bool,
    finish: Option<Finish>,
    usage: Usage,
}

impl Follower {
    /// Begins to follow an exchange, if it may be a call; its interest is in the whole of it.
    #[must_use]
    pub fn new(request: &Request<'_>, inflaters: &Inflaters) -> Option<Self> {
        let endpoint = Endpoint::of(request.method, request.path)?;
        Some(Self {
            id: request.id,
            side: request.side,
            endpoint,
            start: request.start,
            request: Some(Box::new(Collected::new(WHOLE_MAX))),
            asked_stream: (endpoint.operation == Operation::Embeddings).then_some(false),
            certain: endpoint.is_certain(),
            asked_model: None,
            model: None,
            answer: None,
            format: Format::Unknown,
            lines: Lines::default(),
            whole: None,
            inflaters: inflaters.clone(),
            inflater: None,
            named: None,
            decided: false,
            moved: request.start,
            first_token: None,
            first_certain: false,
            last_token: None,
            last_certain: false,
            chunks: 0,
            progress: Progress::default(),
            unread: None,
            doubt: false,
            ended: false,
            stopped: false,
            failed: false,
            finish: None,
            usage: Usage::default(),
        })
    }

    /// Which exchange it follows.
    #[must_use]
    pub const fn id(&self) -> ExchangeId {
        self.id
    }

    /// When the request's first byte moved.
    #[must_use]
    pub const fn start(&self) -> Nanos {
        self.start
    }

    /// Which end the watched process is.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// What is asked.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whether it is known by now to be a call: at the latest when its request was seen to its end, unless too little of that
    /// is known.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        self.certain
    }

    /// The model's name as far as it is known by now, as [`Call::model`].
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref().or(self.asked_model.as_deref())
    }

    /// Whether the answer is streamed, as far as that is known by now.
    #[must_use]
    pub fn streaming(&self) -> Option<bool> {
        match self.format {
            Format::EventStream | Format::JsonLines => Some(true),
            Format::Whole if !self.has_failed() => Some(false),
            _ => self.asked_stream,
        }
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
        Progress::default()
    }

    /// What the call was, when its exchange has ended; nothing if it was none.
    #[must_use]
    pub fn finish(mut self, finished: &Finished<'_>) -> Option<Call> {
        self.read_request();
        self.read_rest();
        let streaming = self.streaming();
        let outcome = match finished.outcome {
            _ if self.has_failed() || finished.status.is_some_and(|status| status >= 400) => CallOutcome::Failed,
            _ if self.ended || self.stopped => CallOutcome::Complete,
            Outcome::Complete => CallOutcome::Complete,
            Outcome::Aborted(_) => CallOutcome::Aborted,
            Outcome::Unknown => CallOutcome::Unknown,
        };
        let exact = self.unread.is_none() && finished.outcome != Outcome::Unknown;
        let stream = self.first_token.zip(self.last_token).filter(|_| exact);
        let duration = finished.end.since(self.start);
        let first_token = self.first_token.filter(|_| self.first_certain);
        let complete = outcome == CallOutcome::Complete && (streaming == Some(false) || first_token.is_some());
        self.certain.then(|| Call {
            side: self.side,
            endpoint: self.endpoint,
            model_answered: self.model.is_some(),
            start: self.start,
            first_byte: finished.first_byte,
            first_token: self.first_token,
            first_token_certain: self.first_certain,
            last_token: self.last_token,
            end: finished.end,
            streaming,
            chunks: self.chunks,
            unread: self.unread.or((finished.outcome == Outcome::Unknown).then_some(Unmatched::HalfSeen)),
            status: finished.status,
            outcome,
            finish: self.finish,
            tokens: self.usage.tokens(),
            tokens_per_second: self.usage.tokens_per_second(stream),
            prompt: self.usage.prompt,
            predicted: self.usage.predicted,
            load: self.usage.load,
            queued: if complete {
                self.usage.queued(duration, first_token.map(|first| first.since(self.start)))
            } else {
                None
            },
            model: self.model.or(self.asked_model),
        })
    }

    fn has_failed(&self) -> bool {
        self.failed || self.answer.is_some_and(|answer| answer.status.is_some_and(|status| status >= 400))
    }

    /// Reads what is known of the request's body, and forgets it.
    fn read_request(&mut self) {
        let Some(body) = self.request.take() else { return };
        let mut scanner = Scanner::new(body.head());
        if scanner.next().is_some_and(|item| item.what == What::Object) {
            while let Some(item) = scanner.next() {
                self.certain |= ["model", "messages", "prompt", "input"].into_iter().any(|name| item.is(name));
                match item.what {
                    What::Object | What::Array => scanner.leave(),
                    What::Bool(stream) if item.is("stream") => self.asked_stream = Some(stream),
                    What::Text(model) if item.is("model") => self.asked_model = name(model),
                    _ => {}
                }
            }
        }
        let behind = |name| Scanner::behind(body.tail(), name).and_then(|mut value| value.next()).map(|item| item.what);
        if self.asked_model.is_none()
            && let Some(What::Text(model)) = behind("\"model\"")
        {
            self.certain = true;
            self.asked_model = name(model);
        }
        if self.asked_stream.is_some() {
            return;
        }
        if scanner.stop() == Some(Stop::Whole) {
            // <https://github.com/ollama/ollama/blob/main/docs/api.md>
            self.asked_stream = Some(self.endpoint.dialect == Dialect::Ollama);
        } else if let Some(What::Bool(stream)) = behind("\"stream\"") {
            self.asked_stream = Some(stream);
        }
    }

    fn answer_body(&mut self, piece: &Piece<'_>) -> Progress {
        self.progress = Progress::default();
        self.moved = piece.time;
        if piece.first {
            self.decided = false;
        }
        match piece.bytes {
            Bytes::Known(bytes) => self.known(bytes, piece, true),
            Bytes::Raw(bytes) => self.known(bytes, piece, false),
            Bytes::Gzip(bytes) => self.inflate(bytes, piece),
            Bytes::Unknown(size) => self.unknown(size, piece),
        }
        self.progress
    }

    /// Takes in bytes as gzip left them. What cannot be made plain counts as not known.
    fn inflate(&mut self, bytes: &[u8], piece: &Piece<'_>) {
        if self.unread.is_none() {
            let inflater = self.inflater.take().or_else(|| self.inflaters.open().map(Box::new));
            if let Some(mut inflater) = inflater {
                if inflater.next(bytes, |plain| self.known(plain, piece, true)) {
                    self.inflater = Some(inflater);
                    return;
                }
                self.unread = Some(Unmatched::Coded);
            } else {
                self.unread = Some(Unmatched::TableFull);
            }
        }
        self.unknown(bytes.len() as u64, piece);
    }

    /// Takes in known bytes, free of framing if they are `plain`.
    fn known(&mut self, bytes: &[u8], piece: &Piece<'_>, plain: bool) {
        if self.format == Format::Unknown {
            self.format = match bytes.trim_ascii_start() {
                [] => return,
                [b'{', ..] if self.asked_stream == Some(true) => Format::JsonLines,
                [b'd' | b'e' | b'i' | b'r' | b':', ..] if self.asked_stream != Some(false) => Format::EventStream,
                _ => Format::Whole,
            };
        }
        if self.format == Format::Whole {
            let bytes = if plain { Bytes::Known(bytes) } else { Bytes::Raw(bytes) };
            self.whole().push(&Piece { bytes, ..*piece });
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.known(bytes, piece.first, |line| self.line(line, piece.time));
        self.lines = lines;
    }

    /// Takes in that bytes came which are not known.
    fn unknown(&mut self, size: u64, piece: &Piece<'_>) {
        let coded = self.answer.is_some_and(|answer| answer.coding != Coding::Plain);
        // What gzip left cannot be read without any of it.
        self.inflater = None;
        match self.format {
            Format::Unknown if self.asked_stream == Some(true) => self.format = Format::EventStream,
            Format::Unknown => return,
            Format::Whole if coded => {
                self.unread.get_or_insert(Unmatched::Coded);
                return;
            }
            Format::Whole => return self.whole().push(piece),
            Format::EventStream | Format::JsonLines => {}
        }
        let reason = if coded { Unmatched::Coded } else { Unmatched::Unread };
        self.unread.get_or_insert(reason);
        let mut lines = std::mem::take(&mut self.lines);
        lines.unknown(|line| self.line(line, piece.time));
        self.lines = lines;
        // What the last name says ends somewhere in what is not known.
        let named = self.named.take();
        if size >= EVENT_MIN && named != Some(Verdict::Without) {
            if self.decided {
                self.doubt = true;
                self.last_certain = false;
            } else {
                self.token(piece.time, false);
            }
        }
        self.decided |= size >= EVENT_MIN;
    }

    fn whole(&mut self) -> &mut Collected {
        self.whole.get_or_insert_with(|| Box::new(Collected::new(WHOLE_MAX)))
    }

    /// Reads what is left when no more comes.
    fn read_rest(&mut self) {
        let time = self.moved;
        let mut lines = std::mem::take(&mut self.lines);
        lines.ended(|line| self.line(line, time));
        let Some(body) = self.whole.take() else { return };
        let start = events::read(body.head());
        self.learn(&start);
        if !body.is_whole() {
            self.learn(&events::read_end(body.tail()));
        }
        // Nobody answers so who was not asked for text or vectors.
        self.certain |= self.usage != Usage::default();
    }

    fn line(&mut self, line: Line<'_>, time: Nanos) {
        if line.bytes.is_empty() {
            if !line.end.is_empty() {
                self.learn(&events::read_end(line.end));
            }
            self.named = None;
            return;
        }
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
        }
    }

    /// Takes in an event, or the known start of one.
    fn event(&mut self, line: Line<'_>, time: Nanos) {
        let facts = events::read(line.bytes);
        self.stopped &= facts.verdict != Some(Verdict::Content);
        self.learn(&facts);
        if !line.end.is_empty() {
            self.learn(&events::read_end(line.end));
        }
        let mut certain = true;
        let verdict = match facts.verdict {
            Some(verdict) => verdict,
            // A line that is no JSON is no event of ours.
            None if line.whole || line.bytes.first().is_some_and(|byte| *byte != b'{') => {
                if line.whole && line.bytes.first() == Some(&b'{') {
                    self.unread.get_or_insert(Unmatched::Malformed);
                }
                Verdict::Without
            }
            None => {
                self.unread.get_or_insert(Unmatched::Unread);
                certain = self.named.is_some();
                self.named.unwrap_or(Verdict::Content)
            }
        };
        self.decided = true;
        if verdict == Verdict::Content {
            self.certain = true;
            self.token(time, certain);
        }
    }

    /// Takes in what was said beside the text.
    fn learn(&mut self, facts: &Facts<'_>) {
        self.ended |= facts.ended;
        self.stopped |= facts.stopped;
        self.failed |= facts.failed;
        self.finish = facts.finish.or(self.finish);
        self.usage.merge(&facts.usage);
        if let Some(model) = facts.model
            && !self.model.as_deref().is_some_and(|known| model.is(known))
        {
            self.model = name(model).or(self.model.take());
        }
    }

    /// Takes in that a token came; `certain` if that is so.
    fn token(&mut self, time: Nanos, certain: bool) {
        if self.first_token.is_none() {
            self.first_token = Some(time);
            self.first_certain = certain && !self.doubt;
            self.progress.first = true;
        } else if certain && self.last_certain {
            if self.progress.tokens == 0 {
                self.progress.gap = self.last_token.map(|last| time.since(last));
            } else {
                self.progress.at_once += 1;
            }
        }
        self.last_token = Some(time);
        self.last_certain = certain;
        self.progress.tokens += 1;
        self.chunks += 1;
    }
}

/// A model's name, as much of it as is kept; nothing if it is none.
fn name(text: Text<'_>) -> Option<Box<str>> {
    let bytes: Vec<u8> = text.decoded().take(Call::MODEL_MAX).collect();
    let name = String::from_utf8_lossy(&bytes);
    let fit = text.is_whole() && !name.trim().is_empty() && !name.contains(char::is_control);
    fit.then(|| name.as_ref().into())
}
