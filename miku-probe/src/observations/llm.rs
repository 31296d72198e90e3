//! What is observed of calls of language models, from either end of the connection.

use crate::units::{Nanos, Side, Symbol};

/// What a call asks of a model: the values of OpenTelemetry's attribute `gen_ai.operation.name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// An answer to a conversation.
    Chat,
    /// The continuation of a text.
    TextCompletion,
    /// Vectors for texts.
    Embeddings,
}

impl Operation {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallOutcome {
    /// The model said all that it was asked for, or as much as it was allowed to.
    Complete,
    /// The server refused, or told of an error within the answer.
    Failed,
    /// It was cut short.
    Aborted,
    /// Part of it was not seen.
    Unknown,
}

impl CallOutcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Complete, Self::Failed, Self::Aborted, Self::Unknown];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
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
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Stop, Self::Length, Self::ToolCalls, Self::ContentFilter, Self::Other];

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

/// What tells calls apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LlmLabels {
    /// Which end the service is.
    pub side: Side,
    /// The model, as the answer names it, else as the request does; `unknown` if neither was seen.
    pub model: Symbol,
    /// The server's name or address, for a client's call; else empty.
    pub server: Symbol,
    /// What is asked.
    pub operation: Operation,
    /// Whether the answer comes as a stream, if that was seen.
    pub streaming: Option<bool>,
}

/// Tokens that a call took, as its server said; absent when it did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub input: Option<u64>,
    /// Of the answer.
    pub output: Option<u64>,
    /// Of the prompt, those that the server had evaluated before.
    pub cached: Option<u64>,
}

/// A call that ended. All times are from its request's first byte.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LlmCall {
    /// What tells it from others.
    pub labels: LlmLabels,
    /// How it ended.
    pub outcome: CallOutcome,
    /// To the answer's last byte, or to the end of a call that was cut short.
    pub duration: Nanos,
    /// To the answer's first byte, which may come long before the first token.
    pub first_byte: Option<Nanos>,
    /// To the first token, of a stream.
    pub first_token: Option<Nanos>,
    /// Output tokens a second of generation.
    pub tokens_per_second: Option<f64>,
    /// Its tokens.
    pub tokens: Tokens,
    /// How long the server says that it evaluated the prompt.
    pub prompt: Option<Nanos>,
    /// How long the server says that it generated.
    pub predicted: Option<Nanos>,
    /// How long the call waited before the server began with it: what of its time the server's own timings do not account
    /// for. Nothing where the server tells none.
    pub queued: Option<Nanos>,
    /// Why the model stopped, if it did and that was seen.
    pub finish: Option<Finish>,
}

/// One thing observed of calls of language models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Llm {
    /// A call began (`+1`) or ended (`-1`).
    InFlight {
        /// Which end the service is.
        side: Side,
        /// The server's name or address, for a client's call; else empty.
        server: Symbol,
        /// The change.
        change: i8,
    },
    /// A call ended.
    Call(LlmCall),
    /// Tokens of a stream came.
    Gap {
        /// What tells the call from others.
        labels: LlmLabels,
        /// The time since the token before.
        gap: Nanos,
        /// How many tokens came after such a gap each.
        count: u64,
    },
    /// Another model answers than before.
    ModelSwitch {
        /// The one that answers now.
        model: Symbol,
        /// How long the first call that it answered waited because of that, if known.
        load: Option<Nanos>,
    },
    /// What a call, which is served here, had of the energy that this machine's GPUs drew.
    Energy {
        /// The model that answered it.
        model: Symbol,
        /// All GPUs' draw while it was under way, at each moment in equal parts with the others under way.
        joules: f64,
    },
}
