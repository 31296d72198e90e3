//! What a call of Discord's REST API does, as far as conversations are concerned.
//!
//! Its method and path tell most of it. The request's body tells to what a message answers, and how an interaction is
//! answered: of it only ids, numbers and hashes are taken, from its first bytes and its last ones if not all are known.
//! <https://discord.com/developers/docs/resources/message#create-message>,
//! <https://discord.com/developers/docs/interactions/receiving-and-responding>.

use std::hash::BuildHasher;

use memchr::memmem;

use crate::observations::Method;
use crate::protocols::http1::Collected;
use crate::protocols::json::{Scanner, Stop, What};

#[cfg(test)]
mod tests;

/// The bytes of a request's body that are enough to read: all that is known of a message of 2,000 characters that are no
/// emoji, however they are escaped.
pub const BODY_MAX: usize = 16 << 10;

/// A call. Tokens are hashed at once by the caller's hasher, as `hash_one` of their bytes as a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Shows that the bot types in a channel.
    Typing {
        /// The channel.
        channel: u64,
    },
    /// Posts a message.
    Post {
        /// The channel.
        channel: u64,
        /// What it answers to.
        reference: Reference,
        /// The hash of its nonce, if it has one and that is known: a second try has the same.
        nonce: Option<u64>,
    },
    /// Changes a message.
    Edit {
        /// The channel.
        channel: u64,
        /// The message.
        message: u64,
    },
    /// Deletes a message.
    Delete {
        /// The channel.
        channel: u64,
        /// The message.
        message: u64,
    },
    /// Puts a reaction to a message.
    React {
        /// The channel.
        channel: u64,
        /// The message.
        message: u64,
    },
    /// Answers an interaction, the first time.
    Respond {
        /// The interaction.
        interaction: u64,
        /// The hash of its token.
        token: u64,
        /// How, if that is known.
        response: Option<Response>,
    },
    /// Posts another message to an interaction, or by any webhook, which reads the same.
    Followup {
        /// The application, or the webhook.
        application: u64,
        /// The hash of the interaction's token, or the webhook's.
        token: u64,
    },
    /// Changes a message to an interaction, or of any webhook.
    EditFollowup {
        /// The application, or the webhook.
        application: u64,
        /// The hash of the interaction's token, or the webhook's.
        token: u64,
        /// The message; none for the first answer (`@original`).
        message: Option<u64>,
    },
    /// Anything else: what it does is no part of a conversation, or asks without changing anything.
    Other,
}

/// What a message answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Too little of the body was seen.
    Unknown,
    /// Nothing. It may forward another message.
    Nothing,
    /// A message.
    To {
        /// The message.
        message: u64,
        /// The channel that it says the message is in.
        channel: Option<u64>,
    },
}

/// How an interaction is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Pong (1).
    Pong,
    /// With a message (4).
    Message,
    /// With a message that will follow (5).
    DeferredMessage,
    /// With a change of the message that will follow (6).
    DeferredUpdate,
    /// With a change of the message (7).
    Update,
    /// With choices (8).
    Choices,
    /// With a form to fill in (9).
    Modal,
    /// Otherwise.
    Other,
}

impl From<u64> for Response {
    fn from(number: u64) -> Self {
        match number {
            1 => Self::Pong,
            4 => Self::Message,
            5 => Self::DeferredMessage,
            6 => Self::DeferredUpdate,
            7 => Self::Update,
            8 => Self::Choices,
            9 => Self::Modal,
            _ => Self::Other,
        }
    }
}

impl Response {
    /// Its number, if it is one of these.
    #[must_use]
    pub const fn number(self) -> Option<u64> {
        Some(match self {
            Self::Pong => 1,
            Self::Message => 4,
            Self::DeferredMessage => 5,
            Self::DeferredUpdate => 6,
            Self::Update => 7,
            Self::Choices => 8,
            Self::Modal => 9,
            Self::Other => return None,
        })
    }
}

impl Action {
    /// What a call with this method and path does, its body aside. Whether the path is one of Discord's, the caller has to
    /// know from the host, or from [`super::rest::template`].
    #[must_use]
    pub fn of(method: Method, path: &str, hasher: &impl BuildHasher) -> Self {
        Self::read_path(method, path, hasher).unwrap_or(Self::Other)
    }

    fn read_path(method: Method, path: &str, hasher: &impl BuildHasher) -> Option<Self> {
        let mut rest = path.strip_prefix("/api/")?.split('/');
        let mut segments = [""; 7];
        let mut count = 0;
        let mut next = rest.next();
        if next.is_some_and(is_version) {
            next = rest.next();
        }
        while let Some(segment) = next {
            *segments.get_mut(count)? = segment;
            count += 1;
            next = rest.next();
        }
        let hash = |token: &str| (!token.is_empty()).then(|| hasher.hash_one(token.as_bytes()));
        Some(match (method, &segments[..count]) {
            (Method::Post, ["channels", channel, "typing"]) => Self::Typing { channel: id(channel)? },
            (Method::Post, ["channels", channel, "messages"]) => {
                Self::Post { channel: id(channel)?, reference: Reference::Unknown, nonce: None }
            }
            (Method::Patch, ["channels", channel, "messages", message]) => {
                Self::Edit { channel: id(channel)?, message: id(message)? }
            }
            (Method::Delete, ["channels", channel, "messages", message]) => {
                Self::Delete { channel: id(channel)?, message: id(message)? }
            }
            (Method::Put, ["channels", channel, "messages", message, "reactions", _, "@me"]) => {
                Self::React { channel: id(channel)?, message: id(message)? }
            }
            (Method::Post, ["interactions", interaction, token, "callback"]) => {
                Self::Respond { interaction: id(interaction)?, token: hash(token)?, response: None }
            }
            (Method::Post, ["webhooks", application, token]) => {
                Self::Followup { application: id(application)?, token: hash(token)? }
            }
            (Method::Patch, ["webhooks", application, token, "messages", message]) => {
                let message = if *message == "@original" { None } else { Some(id(message)?) };
                Self::EditFollowup { application: id(application)?, token: hash(token)?, message }
            }
            _ => return None,
        })
    }

    /// Whether the request's body tells more.
    #[must_use]
    pub const fn wants_body(&self) -> bool {
        matches!(self, Self::Post { .. } | Self::Respond { .. })
    }

    /// Takes in what is known of the request's body, up to its end.
    pub fn read_body(&mut self, body: &Collected, hasher: &impl BuildHasher) {
        let (json, tail) = match body.head() {
            head if head.starts_with(b"--") => (payload_json(head), &b""[..]),
            head => (head, body.tail()),
        };
        match self {
            Self::Post { reference, nonce, .. } => {
                let read = Message::read(json, tail, hasher);
                (*reference, *nonce) = (read.reference, read.nonce);
            }
            Self::Respond { response, .. } => *response = response_type(json),
            _ => {}
        }
    }
}

/// Whether a segment of a path is the API's version.
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or("");
    (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn id(segment: &str) -> Option<u64> {
    // `parse` takes a sign.
    if segment.starts_with(|first: char| first.is_ascii_digit()) { segment.parse().ok() } else { None }
}

/// The JSON of a form in parts (RFC 7578), as far as it is known: the part that is called `payload_json`.
fn payload_json(form: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'\n', form).map_or(form.len(), |end| end + 1);
    let delimiter = form[..end].trim_ascii_end();
    if end == form.len() || delimiter.len() > 2 + 70 {
        return b"";
    }
    let finder = memmem::Finder::new(delimiter);
    let mut rest = &form[delimiter.len()..];
    // Every round passes a delimiter.
    loop {
        let (part, more) = match finder.find(rest) {
            Some(next) => (&rest[..next], Some(&rest[next + delimiter.len()..])),
            None => (rest, None),
        };
        if let Some(blank) = memmem::find(part, b"\r\n\r\n") {
            let (headers, body) = part.split_at(blank);
            let named = |name: &[u8]| memmem::find(headers, name).is_some();
            if named(b"name=\"payload_json\"") || named(b"name=payload_json") {
                return &body[4..];
            }
        }
        match more {
            Some(more) => rest = more,
            None => return b"",
        }
    }
}

/// What the body of a new message tells.
struct Message {
    reference: Reference,
    nonce: Option<u64>,
}

impl Message {
    fn read(json: &[u8], tail: &[u8], hasher: &impl BuildHasher) -> Self {
        let mut read = Self { reference: Reference::Unknown, nonce: None };
        let mut scanner = Scanner::new(json);
        if !scanner.next().is_some_and(|item| item.what == What::Object) {
            return read;
        }
        while let Some(item) = scanner.next() {
            match item.what {
                What::Object if item.is("message_reference") => {
                    if let Some(reference) = reference(&mut scanner) {
                        read.reference = reference;
                    }
                }
                What::Object | What::Array => scanner.leave(),
                what if item.is("nonce") => read.nonce = nonce(what, hasher),
                _ => {}
            }
        }
        if scanner.stop() == Some(Stop::Whole) {
            if read.reference == Reference::Unknown {
                read.reference = Reference::Nothing;
            }
            return read;
        }
        if read.reference == Reference::Unknown
            && let Some(mut scanner) = Scanner::behind(tail, "\"message_reference\"")
            && scanner.next().is_some_and(|item| item.what == What::Object)
            && let Some(reference) = reference(&mut scanner)
        {
            read.reference = reference;
        }
        if read.nonce.is_none() {
            read.nonce = Scanner::behind(tail, "\"nonce\"")
                .and_then(|mut scanner| scanner.next())
                .and_then(|item| nonce(item.what, hasher));
        }
        read
    }
}

/// A reference whose object was just told; nothing if its end is not known.
fn reference(scanner: &mut Scanner<'_>) -> Option<Reference> {
    let (mut message, mut channel, mut forwards) = (None, None, false);
    while let Some(item) = scanner.next() {
        match item.what {
            What::End => {
                let to = message.filter(|_| !forwards).map(|message| Reference::To { message, channel });
                return Some(to.unwrap_or(Reference::Nothing));
            }
            What::Object | What::Array => scanner.leave(),
            what if item.is("message_id") => message = what.id(),
            what if item.is("channel_id") => channel = what.id(),
            // <https://discord.com/developers/docs/resources/message#message-reference-types>
            what if item.is("type") => forwards = what.id().is_some_and(|number| number != 0),
            _ => {}
        }
    }
    None
}

fn nonce(what: What<'_>, hasher: &impl BuildHasher) -> Option<u64> {
    match what {
        What::Text(text) => text.hash(hasher),
        What::Number(number) => number.unsigned().map(|_| hasher.hash_one(number.raw())),
        _ => None,
    }
}

/// The type of an answer to an interaction.
fn response_type(json: &[u8]) -> Option<Response> {
    let mut scanner = Scanner::new(json);
    if scanner.next()?.what != What::Object {
        return None;
    }
    while let Some(item) = scanner.next() {
        match item.what {
            What::Object | What::Array => scanner.leave(),
            what if item.is("type") => return what.id().map(Response::from),
            _ => {}
        }
    }
    None
}
