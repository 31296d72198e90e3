//! What one event of a streamed answer tells, whichever dialect it is in.
//!
//! No two dialects mean different things by the same member at the same place, so that one reading fits all:
//! <https://platform.openai.com/docs/api-reference/chat-streaming>,
//! <https://platform.openai.com/docs/api-reference/responses-streaming>,
//! <https://docs.anthropic.com/en/docs/build-with-claude/streaming>,
//! <https://github.com/ollama/ollama/blob/main/docs/api.md>,
//! <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>.

use crate::protocols::json::{Item, Scanner, Stop, Text, What};

/// Whether an event brings content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Content,
    /// It does not.
    Without,
}

/// What an event tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Nothing where too little of it is known, or it is no JSON.
    pub(super) verdict: Option<Verdict>,
    /// The generation has ended.
    pub(super) ended: bool,
    /// The server failed.
    pub(super) failed: bool,
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
}

/// The deepest of them.
const PLACES: usize = 5;

/// Reads an event, or the start of one.
pub(super) fn read(bytes: &[u8]) -> Facts {
    let mut facts = Facts::default();
    let mut scanner = Scanner::new(bytes);
    let mut places = [Place::Event; PLACES];
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
        Place::Choices | Place::Parts => &[],
    };
    names.iter().any(|name| item.is(name))
}

impl Facts {
    /// Takes in a text that is not generated.
    fn text(&mut self, place: Place, item: &Item<'_>, text: Text<'_>) {
        match place {
            Place::Choice => self.ended |= item.is("finish_reason"),
            Place::BlockDelta => self.ended |= item.is("stop_reason"),
            Place::Event if item.is("type") => {
                self.ended |=
                    ["message_stop", "response.completed", "response.incomplete"].iter().any(|end| text.is(end));
                self.failed |= ["error", "response.failed"].iter().any(|failure| text.is(failure));
            }
            Place::Event => self.failed |= item.is("error"),
            _ => {}
        }
    }
}
