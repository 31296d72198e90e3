//! What is told to [`super::Replies`], and what it tells.

use crate::observations::{ConversationOutcome, Phases, ReplyKind, Unmatched};
use crate::protocols::arrivals::Came;
use crate::units::Nanos;

/// A connection (or a decompressed stream on it), by any number that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub u64);

/// A connection, from when it is asked for to when something is sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dial(pub u64);

/// A REST call, by any number that is its own while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// A call of a language model, by any number that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LlmId(pub u64);

/// Keyed hash of an interaction's token. Callers hash at once and keep no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// When and where something happened.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// When.
    pub time: Nanos,
    /// On which thread.
    pub tid: u32,
    /// On which connection.
    pub source: Source,
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// A person.
    Person,
    /// The bot itself.
    Itself,
    /// Another bot, or a webhook.
    Machine,
}

/// The type of an interaction: <https://discord.com/developers/docs/interactions/receiving-and-responding>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InteractionKind {
    /// A command.
    Command,
    /// A button or a menu.
    Component,
    /// A form that was sent.
    ModalSubmit,
    /// A person still types a command: nobody waits for an answer.
    Autocomplete,
    /// Anything else, such as a ping.
    Other,
}

impl InteractionKind {
    /// The kind of this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            2 => Self::Command,
            3 => Self::Component,
            4 => Self::Autocomplete,
            5 => Self::ModalSubmit,
            _ => Self::Other,
        }
    }
}

/// What a REST call does, as far as its method and path tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begins to type: `POST /channels/{channel}/typing`.
    Typing {
        /// Where.
        channel: u64,
    },
    /// Creates a message: `POST /channels/{channel}/messages`.
    Create {
        /// Where.
        channel: u64,
    },
    /// Edits a message: `PATCH /channels/{channel}/messages/{message}`.
    Edit {
        /// Where.
        channel: u64,
    },
    /// Answers an interaction: `POST /interactions/{interaction}/{token}/callback`.
    Callback {
        /// Which.
        interaction: u64,
        /// Its token.
        token: Token,
    },
    /// Writes or edits by a token: `POST /webhooks/{id}/{token}` or `PATCH …/messages/@original`. It may be an
    /// interaction's, or that of a channel's webhook.
    Webhook {
        /// The token.
        token: Token,
    },
    /// Anything else.
    Other,
}

/// Which message one that is created answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reference {
    /// Not enough of the body was seen.
    #[default]
    Unseen,
    /// It names none.
    Absent,
    /// The one with this id.
    To(u64),
}

/// What a REST call's body says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// `message_reference.message_id`.
    pub reference: Reference,
    /// The type of an interaction's callback.
    pub callback: Option<u64>,
    /// Hash of the `nonce`.
    pub nonce: Option<u64>,
}

/// Something that a process received or sent.
///
/// What a thread received and sent has to be told once, and all of it: bytes of connections whose content is seen elsewhere
/// (the socket below TLS, the compressed stream below `inflate`) under that one's [`Source`].
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// The gateway dispatched `MESSAGE_CREATE`.
    Message {
        /// Where.
        channel: u64,
        /// Its id.
        message: u64,
        /// By whom.
        author: Author,
        /// When it had come to be read.
        came: Came,
    },
    /// The gateway dispatched `INTERACTION_CREATE`.
    Interaction {
        /// Its id.
        interaction: u64,
        /// Its token.
        token: Token,
        /// Where.
        channel: Option<u64>,
        /// Its type.
        kind: InteractionKind,
        /// When it had come to be read.
        came: Came,
    },
    /// The thread waits for whatever comes, with nothing left to do. Of a thread of which this is never told it is not known
    /// when its turns end.
    Waits,
    /// The thread asked for a connection.
    Dials {
        /// Which.
        dial: Dial,
    },
    /// What is told next is the first that is sent over a connection.
    Opens {
        /// Which: one that was not asked for since it is told is none that is new. A new one of which it is not known is
        /// nothing.
        dial: Option<Dial>,
    },
    /// Anything else was received: another event, a request, the answer to a call that is not told as such.
    Received,
    /// Bytes were received that are part of something told under the same source, or of nothing known.
    Bytes,
    /// Anything else was sent.
    Sent,
    /// A REST call of Discord's API began.
    CallBegan {
        /// Which.
        call: CallId,
        /// What it does.
        action: Action,
    },
    /// It ended.
    CallEnded {
        /// Which.
        call: CallId,
        /// When the last of the answer had come to be read.
        answered: Came,
        /// Its status, if that was seen.
        status: Option<u16>,
        /// What its request said.
        body: Body,
    },
    /// A request to a language model began.
    LlmBegan {
        /// Which.
        llm: LlmId,
        /// Whether the model runs on this machine.
        here: bool,
    },
    /// Part of the model's answer came.
    LlmReceived {
        /// Which.
        llm: LlmId,
        /// Whether the first token is in it. Of an answer that is not streamed, that is its first byte.
        first_token: bool,
    },
    /// The model's answer ended, or was given up.
    LlmEnded {
        /// Which.
        llm: LlmId,
    },
    /// A request that the process serves began; tell [`Input::Received`] too.
    ServingBegan,
    /// The process answered it.
    ServingEnded,
}

/// A person was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the person did.
    pub kind: ReplyKind,
    /// When the gateway's event had come to be read.
    pub event: Nanos,
    /// From then to the end of the first answer.
    pub duration: Nanos,
    /// Where the time went; together it is the duration.
    pub phases: Phases,
    /// The calls of language models that worked for it on this machine.
    pub worked: Worked,
}

/// From when to when calls of language models on this machine worked for a reply: all of its calls, or none where that is not
/// certain, where one ran elsewhere, or where there are more than [`WORKED_MAX`].
pub type Worked = [Option<(Nanos, Nanos)>; WORKED_MAX];

/// How many calls of language models of one reply are told.
pub const WORKED_MAX: usize = 3;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A person was answered.
    Reply(Reply),
    /// The bot began to answer a person, and never did.
    Unanswered(ReplyKind),
    /// The bot acted on what a person did.
    Started(ReplyKind),
    /// What had started is over: told once for each [`Event::Started`].
    Ended(ReplyKind, ConversationOutcome),
    /// By how much the number of those changed that have started and are not over.
    Open(ReplyKind, i64),
    /// Something cannot be told.
    Unmatched(Unmatched),
}
