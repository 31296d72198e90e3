//! What one event of a streamed answer tells, or an answer that comes whole, whichever dialect it is in.
//!
//! No two dialects mean different things by the same member at the same place, so that one reading fits all:
//! <https://platform.openai.com/docs/api-reference/chat-streaming>,
//! <https://platform.openai.com/docs/api-reference/responses-streaming>,
//! <https://docs.anthropic.com/en/docs/build-with-claude/streaming>,
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>,
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.

use super::usage::Usage;
use crate::observations::Finish;
use crate::protocols::json::{Item, Number, Scanner, Stop, Text, What};

/// Whether an event brings content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Content,
    /// It does not.
    Without,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Facts<'a> {
    /// Nothing where too little of it is known, or it is no JSON.
    pub(super) verdict: Option<Verdict>,
    /// The generation has ended.
    pub(super) ended: bool,
    /// A choice has ended. Others may go on.
    pub(super) stopped: bool,
    /// The server failed.
    pub(super) failed: bool,
    /// Why the model stopped.
    pub(super) finish: Option<Finish>,
    /// The model's name.
    pub(super) model: Option<Text<'a>>,
    /// What was counted and timed.
    pub(super) usage: Usage,
}

/// What an `event` line says of the data after it, if all such data are alike.
pub(super) fn named(name: &[u8]) -> Option<Verdict> {
    match name {
        b"content_block_delta" => Some(Verdict::Content),
        b"message_start"
        | b"content_block_start"
        | b"ping"
        | b"content_block_stop"
        | b"message_delta"
        | b"message_stop"
        | b"error" => Some(Verdict::Without),
        name if name.starts_with(b"response.") => {
            Some(if name.ends_with(b".delta") { Verdict::Content } else { Verdict::Without })
        }
        _ => None,
    }
}

/// The containers that are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Event,
    Choices,
    Choice,
    /// What a choice adds.
    ChoiceDelta,
    /// What a block adds.
    BlockDelta,
    Message,
    /// Calls of tools, or parts of a text: if there is one, that is content.
    Parts,
    /// The response that an event of OpenAI's responses is about.
    Response,
    /// Why such a one is not complete.
    Incomplete,
    Usage,
    Timings,
}

/// The deepest of them.
const PLACES: usize = 5;

/// Reads an event or a whole answer, or the start of one.
pub(super) fn read(bytes: &[u8]) -> Facts<'_> {
    walk(Scanner::new(bytes), Place::Event)
}

/// Reads the end of an event or of an answer whose start is not known, or was read before: what was counted, and why the model
/// stopped. What reads like a member's name is one.
pub(super) fn read_end(bytes: &[u8]) -> Facts<'_> {
    let behind = |name| Scanner::behind(bytes, name);
    let mut facts = Facts::default();
    for (name, place) in [("\"usage\"", Place::Usage), ("\"timings\"", Place::Timings)] {
        if let Some(scanner) = behind(name) {
            facts.usage.merge(&walk(scanner, place).usage);
        }
    }
    for (name, quoted) in Usage::BESIDE {
        if let Some(What::Number(number)) = behind(quoted).and_then(|mut value| value.next()).map(|item| item.what) {
            facts.usage.beside(name, number);
        }
    }
    for name in ["\"finish_reason\"", "\"stop_reason\"", "\"done_reason\""] {
        if let Some(What::Text(reason)) = behind(name).and_then(|mut value| value.next()).map(|item| item.what) {
            facts.stopped(reason);
        }
    }
    if let Some(What::Text(model)) = behind("\"model\"").and_then(|mut value| value.next()).map(|item| item.what) {
        facts.model = Some(model);
    }
    facts
}

fn walk(mut scanner: Scanner<'_>, first: Place) -> Facts<'_> {
    let mut facts = Facts::default();
    let mut places = [first; PLACES];
    let mut content = false;
    if !scanner.next().is_some_and(|item| item.what == What::Object) {
        return facts;
    }
    while let Some(item) = scanner.next() {
        let Some(place) = (item.depth as usize).checked_sub(1).and_then(|at| places.get(at)).copied() else { continue };
        match item.what {
            What::End => {}
            What::Object | What::Array => {
                facts.failed |= place == Place::Event && item.is("error");
                content |= place == Place::Parts || (place == Place::ChoiceDelta && item.is("function_call"));
                match (within(place, &item), places.get_mut(item.depth as usize)) {
                    (Some(within), Some(slot)) => *slot = within,
                    _ => scanner.leave(),
                }
            }
            What::Text(text) => {
                content |= is_content(place, &item) && !text.raw().is_empty();
                facts.text(place, &item, text);
            }
            What::Bool(true) => facts.ended |= place == Place::Event && (item.is("done") || item.is("stop")),
            What::Number(number) => facts.number(place, &item, number),
            _ => {}
        }
    }
    facts.verdict = match scanner.stop() {
        _ if content => Some(Verdict::Content),
        Some(Stop::Whole) => Some(Verdict::Without),
        _ => None,
    };
    facts
}

/// Which of the places a container is, if it is one.
fn within(place: Place, item: &Item<'_>) -> Option<Place> {
    Some(match (place, item.what) {
        (Place::Event, What::Array) if item.is("choices") => Place::Choices,
        (Place::Choices, What::Object) => Place::Choice,
        (Place::Choice, What::Object) if item.is("delta") => Place::ChoiceDelta,
        (Place::Event, What::Object) if item.is("delta") => Place::BlockDelta,
        (Place::Event, What::Object) if item.is("message") => Place::Message,
        (Place::Event, What::Object) if item.is("response") => Place::Response,
        (Place::Event, What::Object) if item.is("timings") => Place::Timings,
        (Place::Event | Place::Message | Place::Response, What::Object) if item.is("usage") => Place::Usage,
        (Place::Event | Place::Response, What::Object) if item.is("incomplete_details") => Place::Incomplete,
        // What is said in detail of the input or the output.
        (Place::Usage, What::Object) => Place::Usage,
        (Place::ChoiceDelta | Place::Message, What::Array) if item.is("tool_calls") => Place::Parts,
        (Place::ChoiceDelta, What::Array) if item.is("content") => Place::Parts,
        _ => return None,
    })
}

/// Whether a text at this place is generated.
fn is_content(place: Place, item: &Item<'_>) -> bool {
    let names: &[&str] = match place {
        Place::Event => &["content", "response", "delta", "thinking"],
        Place::Choice => &["text"],
        Place::ChoiceDelta => &["content", "reasoning_content", "reasoning", "refusal"],
        Place::BlockDelta => &["text", "thinking", "partial_json"],
        Place::Message => &["content", "thinking"],
        _ => &[],
    };
    names.iter().any(|name| item.is(name))
}

impl<'a> Facts<'a> {
    /// Takes in a text that is not generated.
    fn text(&mut self, place: Place, item: &Item<'_>, text: Text<'a>) {
        match place {
            Place::Choice if item.is("finish_reason") => self.stopped(text),
            Place::BlockDelta if item.is("stop_reason") => self.stopped(text),
            Place::Event if item.is("type") => {
                self.ended |=
                    ["message_stop", "response.completed", "response.incomplete"].iter().any(|end| text.is(end));
                self.failed |= ["error", "response.failed"].iter().any(|failure| text.is(failure));
            }
            Place::Event if item.is("model") => self.model = Some(text),
            Place::Event if item.is("done_reason") || item.is("stop_reason") => self.finish = Some(finish(text)),
            Place::Event if item.is("stop_type") && !text.is("none") => self.finish = Some(finish(text)),
            Place::Event => self.failed |= item.is("error"),
            Place::Message | Place::Response if item.is("model") => self.model = Some(text),
            Place::Response if item.is("status") && text.is("completed") => self.finish = Some(Finish::Stop),
            Place::Incomplete if item.is("reason") => self.finish = Some(finish(text)),
            _ => {}
        }
    }

    fn number(&mut self, place: Place, item: &Item<'_>, number: Number<'_>) {
        let Some(name) = item.key.and_then(|key| str::from_utf8(key.raw()).ok()) else { return };
        match place {
            Place::Usage => self.usage.counted(name, number),
            Place::Timings => self.usage.timed(name, number),
            Place::Event => self.usage.beside(name, number),
            _ => {}
        }
    }

    /// The model stopped, unless the reason says nothing: some servers write an empty one into each event.
    fn stopped(&mut self, reason: Text<'_>) {
        if ["", "null", "none"].iter().any(|nothing| reason.is(nothing)) {
            return;
        }
        self.stopped = true;
        self.finish = Some(finish(reason));
    }
}

/// Why a model stopped, in all dialects' words.
fn finish(reason: Text<'_>) -> Finish {
    let is = |names: &[&str]| names.iter().any(|name| reason.is(name));
    if is(&["stop", "end_turn", "stop_sequence", "eos", "word"]) {
        Finish::Stop
    } else if is(&["length", "max_tokens", "limit", "max_output_tokens"]) {
        Finish::Length
    } else if is(&["tool_calls", "function_call", "tool_use"]) {
        Finish::ToolCalls
    } else if is(&["content_filter", "refusal"]) {
        Finish::ContentFilter
    } else {
        Finish::Other
    }
}
