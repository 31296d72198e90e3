//! What is observed of calls of language models.

use super::AbortReason;
use crate::units::{Nanos, Side, Symbol};

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// The next message of a conversation.
    Chat,
    /// More of a text.
    Completion,
    /// OpenAI's responses.
    Response,
    /// Vectors for texts. No tokens come out.
    Embeddings,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Chat, Self::Completion, Self::Response, Self::Embeddings];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Response => "response",
            Self::Embeddings => "embeddings",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    /// The answer came whole, or as far as its last event, for whatever reason the model stopped.
    Complete,
    /// The server refused it, or broke it off with an error.
    Failed,
    /// It was cut short.
    Aborted(AbortReason),
    /// Part of it was not seen.
    Unknown,
}

impl CallOutcome {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Aborted(_) => "aborted",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finish {
    /// It had said all, or came to a text that was to stop it.
    Stop,
    /// It had said as much as it may.
    Length,
    /// It calls a tool.
    ToolCalls,
    /// What it said was held back.
    ContentFilter,
    /// Something else.
    Other,
}

impl Finish {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Other => "other",
        }
    }
}

/// What a call was, as labels say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LlmLabels {
    /// Which end the service is.
    pub side: Side,
    /// The model's name as the answer says it, or as it was asked for; `unknown` if neither was seen, `other` above the cap.
    pub model: Symbol,
    /// The server's name or address, for a client's call; else empty.
    pub server: Symbol,
    /// What was asked for.
    pub operation: Operation,
    /// Whether the answer was streamed, or should have been; nothing if that was not seen.
    pub streaming: Option<bool>,
}

/// How many tokens a call took, as the server counted them; nothing of what it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, those from the cache included.
    pub input: Option<u64>,
    /// Of the answer.
    pub output: Option<u64>,
    /// Of the prompt's, those that were in the cache.
    pub cached: Option<u64>,
}

/// A call that ended. All times are from its start, when the request's first byte moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlmCall {
    /// What it was.
    pub labels: LlmLabels,
    /// How it ended.
    pub outcome: CallOutcome,
    /// To the answer's last byte, or to where it was cut short.
    pub duration: Nanos,
    /// To the answer's first byte, which may be long before the first token.
    pub first_byte: Option<Nanos>,
    /// To the first event with content; nothing if none came, the answer was not streamed, or that cannot be told.
    pub first_token: Option<Nanos>,
    /// Tokens a second of generation: as the server timed it, or what it counted over the time from the first token to the last.
    pub tokens_per_second: Option<f64>,
    /// How many tokens it took.
    pub tokens: Tokens,
    /// How long the server took to evaluate the prompt, as it says.
    pub prompt: Option<Nanos>,
    /// How long it took to generate the answer, as it says.
    pub predicted: Option<Nanos>,
    /// How long the call waited before the server began with it: what of its time the server does not account for.
    pub queued: Option<Nanos>,
    /// Why the model stopped, if it did and that was seen.
    pub finish: Option<Finish>,
}

/// One thing observed of calls of language models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Llm {
    /// A call began (`+1`) or ended (`-1`). It is told as soon as it is certain that it is a call.
    InFlight {
        /// Which end the service is.
        side: Side,
        /// The server's name or address, for a client's call; else empty.
        server: Symbol,
        /// The change.
        change: i8,
    },
    /// More tokens came. They are told while the call is under way.
    Gap {
        /// What the call is, as far as it is known by now.
        labels: LlmLabels,
        /// From the tokens before to these, each.
        gap: Nanos,
        /// How many gaps of this length there were: those of events that came at once are nothing, and told apart from the
        /// one before them.
        count: u64,
    },
    /// A call ended.
    Call(LlmCall),
    /// Another model answers than before.
    ModelSwitch {
        /// The one that answers now.
        model: Symbol,
        /// How long the call waited because of that, if known.
        load: Option<Nanos>,
    },
}
