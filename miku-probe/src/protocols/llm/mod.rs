//! Calls of language models: whether an exchange is one, when its tokens came, and what its server says of it.
//!
//! The path says what an exchange may be, its request's body whether it is. A streamed answer is read event by event
//! (server-sent events, or a JSON text a line), whatever the segments are: an event counts as a token if it has content.
//! Roles, pings and empty events do not. How many tokens there were in truth is what the server says, or not known.
//!
//! Of an event that is not known whole, its known start decides as far as it goes. Where that leaves it open, the segment
//! counts as one token, and the call is told as not exact. So, where little is known of every segment, the first token is
//! the first segment of the body, which is right for a server that sends one event a segment and no event without content
//! before. What was counted and timed is looked for in the last bytes of such an event too, and in those of a long answer that
//! comes whole.
//!
//! Text is skipped as it is read. Only the start and the end of a line whose rest is still to come are kept, at most 5 KiB of
//! it, and wiped as soon as the line has ended; of what is not streamed the first 8 KiB and the last one, until it has ended.

mod events;
mod follower;
mod gzip;
mod lines;
#[cfg(test)]
mod tests;
mod usage;

pub use self::follower::{Follower, Progress};
pub use self::gzip::Inflaters;
use crate::observations::{CallOutcome, Finish, Method, Operation, Tokens, Unmatched};
use crate::units::{Nanos, Side};

/// Whose way of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's, which most servers speak.
    OpenAi,
    /// OpenAI's responses.
    Responses,
    /// llama.cpp's own.
    LlamaCpp,
    /// Ollama's own.
    Ollama,
    /// Anthropic's.
    Anthropic,
}

/// A place that generates text, or makes vectors of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whose way of asking.
    pub dialect: Dialect,
    /// What is asked for.
    pub operation: Operation,
}

impl Endpoint {
    /// The endpoint that a request goes to, by method and path; whatever stands before the path's known end is a proxy's.
    /// Lists of models and the like are none.
    #[must_use]
    pub fn of(method: Method, path: &str) -> Option<Self> {
        use Operation::{Chat, Embeddings, TextCompletion};
        const PATHS: [(&str, Dialect, Operation); 11] = [
            ("/chat/completions", Dialect::OpenAi, Chat),
            ("/completions", Dialect::OpenAi, TextCompletion),
            ("/v1/responses", Dialect::Responses, Chat),
            ("/completion", Dialect::LlamaCpp, TextCompletion),
            ("/api/chat", Dialect::Ollama, Chat),
            ("/api/generate", Dialect::Ollama, TextCompletion),
            ("/v1/messages", Dialect::Anthropic, Chat),
            ("/api/embed", Dialect::Ollama, Embeddings),
            ("/api/embeddings", Dialect::Ollama, Embeddings),
            ("/embeddings", Dialect::OpenAi, Embeddings),
            ("/embedding", Dialect::LlamaCpp, Embeddings),
        ];
        if method != Method::Post {
            return None;
        }
        let (_, dialect, operation) = PATHS.into_iter().find(|(end, ..)| path.ends_with(end))?;
        Some(Self { dialect, operation })
    }

    /// Whether the path alone makes it certain; the other paths are plain enough to be anybody's.
    fn is_certain(self) -> bool {
        self.dialect == Dialect::OpenAi && self.operation != Operation::Embeddings
    }
}

/// A call of a language model.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Which end the watched process is.
    pub side: Side,
    /// What was asked.
    pub endpoint: Endpoint,
    /// The model's name as the answer says it, else as it was asked for; it is off the wire, and at most
    /// [`Call::MODEL_MAX`] bytes of it are kept.
    pub model: Option<Box<str>>,
    /// Whether it was the answer that said it.
    pub model_answered: bool,
    /// When the request's first byte moved.
    pub start: Nanos,
    /// When the answer's first byte moved, which may be long before the first token.
    pub first_byte: Option<Nanos>,
    /// When the first event with content came; nothing if none came, or the answer was not streamed.
    pub first_token: Option<Nanos>,
    /// Whether the first token came no earlier, and no later, than told.
    pub first_token_certain: bool,
    /// When the last event with content came.
    pub last_token: Option<Nanos>,
    /// When the answer's last byte moved, or the exchange was cut short.
    pub end: Nanos,
    /// Whether the answer was streamed, or should have been; nothing if that was not seen.
    pub streaming: Option<bool>,
    /// Events with content. They need not be one token each.
    pub chunks: u64,
    /// Why not every event was read, if so. Then the first token may have come later than told, the chunks are segments, and
    /// what is missing may not have been seen.
    pub unread: Option<Unmatched>,
    /// The answer's status, when its head was seen.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: CallOutcome,
    /// Why the model stopped.
    pub finish: Option<Finish>,
    /// How many tokens it took, as the server says.
    pub tokens: Tokens,
    /// Tokens a second of generation.
    pub tokens_per_second: Option<f64>,
    /// How long the prompt took, as the server says.
    pub prompt: Option<Nanos>,
    /// How long the generation took, as the server says.
    pub predicted: Option<Nanos>,
    /// How long it took to load the model, as the server says.
    pub load: Option<Nanos>,
    /// How long it waited before the server began with it: what the server's own times leave of it.
    pub queued: Option<Nanos>,
}

impl Call {
    /// The most bytes of a model's name that are kept. Longer ones are cut, and too long to be a label.
    pub const MODEL_MAX: usize = 160;
}
