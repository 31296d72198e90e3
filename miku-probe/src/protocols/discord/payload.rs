//! A payload of Discord's gateway, of which perhaps only the first bytes are known.
//!
//! Of what people write nothing is taken: ids, the names of commands, numbers, and two texts that are secrets (the token of
//! an interaction, the id of a session) as hashes. <https://discord.com/developers/docs/events/gateway-events> says what
//! the members mean.

use std::hash::BuildHasher;

use super::super::json::{Item, Scanner, Stop, Text, What};

#[cfg(test)]
mod tests;

/// The longest name of an event that is one.
const EVENT_MAX: usize = 64;

/// The longest name of a command, in characters, that is one; Discord allows half.
const NAME_MAX: usize = 64;

/// A kind of payload (<https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Something happened (0).
    Dispatch,
    /// The bot lives (1); from Discord: it shall say so.
    Heartbeat,
    /// The bot begins a session (2).
    Identify,
    /// The bot goes on with a session (6).
    Resume,
    /// The bot shall connect anew (7).
    Reconnect,
    /// The session is none, or no more (9).
    InvalidSession,
    /// The first of a connection (10).
    Hello,
    /// A heartbeat was heard (11).
    HeartbeatAck,
    /// Any other.
    Other(u64),
}

impl From<u64> for Op {
    fn from(number: u64) -> Self {
        match number {
            0 => Self::Dispatch,
            1 => Self::Heartbeat,
            2 => Self::Identify,
            6 => Self::Resume,
            7 => Self::Reconnect,
            9 => Self::InvalidSession,
            10 => Self::Hello,
            11 => Self::HeartbeatAck,
            other => Self::Other(other),
        }
    }
}

/// Which part of a bot's guilds a connection serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// The number of the part, from 0.
    pub index: u32,
    /// How many parts there are.
    pub count: u32,
}

/// What `d` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// It was not seen.
    #[default]
    Absent,
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number without sign and fraction.
    Number(u64),
    /// An object.
    Object,
    /// Anything else.
    Other,
}

/// What is known of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// `op`.
    pub op: Option<Op>,
    /// `t`, if it is such a name: at most 64 capital letters and underscores.
    pub event: Option<Box<str>>,
    /// `s`.
    pub sequence: Option<u64>,
    /// Both `t` and `s` are there, whatever they are: all payloads from Discord have them, and none to it.
    pub is_inbound: bool,
    /// `d`.
    pub data: Data,
    /// How far it goes.
    pub stop: Stop,
}

/// What is known of a payload's `d`. A member that was not seen, and one that is not what it should be, is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data {
    /// What it is.
    pub kind: Kind,
    /// `id`.
    pub id: Option<u64>,
    /// `channel_id`.
    pub channel: Option<u64>,
    /// `guild_id`.
    pub guild: Option<u64>,
    /// `webhook_id`.
    pub webhook: Option<u64>,
    /// `type`: of a message or of an interaction.
    pub r#type: Option<u64>,
    /// `author.id`.
    pub author: Option<u64>,
    /// `author.bot`.
    pub author_is_bot: Option<bool>,
    /// `message_reference.message_id`.
    pub refers_to: Option<u64>,
    /// `user.id`: the bot itself in `READY`, who acted in an interaction outside of guilds.
    pub user: Option<u64>,
    /// `member.user.id`: who acted in an interaction within a guild.
    pub member: Option<u64>,
    /// `data.name` of an interaction: the command, at most 64 characters.
    pub command: Option<Box<str>>,
    /// Whether an interaction has a `data.custom_id`.
    pub has_custom_id: bool,
    /// Whether there is a `token`.
    pub has_token: bool,
    /// The hash of an interaction's `token`, as [`Text::hash`] has it.
    pub token: Option<u64>,
    /// The hash of `session_id`, in `READY` and in what resumes.
    pub session: Option<u64>,
    /// `heartbeat_interval`, in milliseconds.
    pub heartbeat_interval: Option<u64>,
    /// `shard`.
    pub shard: Option<Shard>,
    /// How many `guilds` there are in `READY`, if the list was seen to its end.
    pub guilds: Option<u32>,
    /// `unavailable`: of a guild that cannot be reached now.
    pub unavailable: Option<bool>,
}

/// A container of which members are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Payload,
    Data,
    Author,
    Reference,
    User,
    Member,
    MemberUser,
    Interaction,
    Shard,
    Guilds,
}

/// How many containers deep members are taken.
const DEPTH: usize = 4;

/// The longest name of a member that is taken is shorter.
const KEY_ROOM: usize = 20;

/// What a scan has found that is not told as it stands.
#[derive(Default)]
struct Found<'a> {
    event: Option<Text<'a>>,
    has_event: bool,
    has_sequence: bool,
    session: Option<Text<'a>>,
    token: Option<Text<'a>>,
    command: Option<Text<'a>>,
    /// The elements of `shard`, and how many there are.
    shard: [Option<u64>; 2],
    shards: usize,
    guilds: u32,
}

impl Payload {
    /// Reads a payload of which `bytes` are the first; all, if it is `whole`. Secrets are hashed by `hasher`.
    #[must_use]
    pub fn scan(bytes: &[u8], whole: bool, hasher: &impl BuildHasher) -> Self {
        let data = Data::default();
        let mut payload =
            Self { op: None, event: None, sequence: None, is_inbound: false, data, stop: Stop::Truncated };
        let mut found = Found::default();
        let mut scanner = Scanner::new(bytes);
        let mut places = [Place::Payload; DEPTH];
        while let Some(item) = scanner.next() {
            let depth = item.depth as usize;
            if item.what == What::End {
                payload.ended(places[depth], &found);
                continue;
            }
            let inside = match depth.checked_sub(1) {
                Some(parent) => payload.take(places[parent], &item, &mut found),
                None => (item.what == What::Object).then_some(Place::Payload),
            };
            if matches!(item.what, What::Object | What::Array) {
                match (places.get_mut(depth), inside) {
                    (Some(place), Some(inside)) => *place = inside,
                    _ => scanner.leave(),
                }
            }
        }
        payload.stop = match scanner.stop() {
            Some(Stop::Whole) if whole && !bytes[scanner.offset()..].trim_ascii().is_empty() => Stop::Malformed,
            Some(Stop::Truncated) if whole => Stop::Malformed,
            stop => stop.unwrap_or(Stop::Malformed),
        };
        payload.is_inbound = found.has_event && found.has_sequence;
        payload.event = found.event.and_then(event_name);
        let hash = |text: Option<Text<'_>>| text.and_then(|text| text.hash(hasher));
        payload.data.session = hash(found.session);
        // The token of a bot stands there too, when it says who it is.
        if payload.event.as_deref() == Some("INTERACTION_CREATE") {
            payload.data.token = hash(found.token);
            payload.data.command = found.command.and_then(command_name);
        }
        payload
    }

    /// Takes in a member or an element of the container at `place`: what it is itself, if it is a container of which
    /// something is wanted.
    ///
    /// Of members of the same name the last counts, as with every parser that bots use: with a container, all that was
    /// known of the one before is forgotten.
    fn take<'a>(&mut self, place: Place, item: &Item<'a>, found: &mut Found<'a>) -> Option<Place> {
        let what = item.what;
        let text = if let What::Text(text) = what { Some(text) } else { None };
        let data = &mut self.data;
        let mut room = [0; KEY_ROOM];
        match (place, key(item, &mut room)) {
            (Place::Payload, b"op") => self.op = number(what).map(Op::from),
            (Place::Payload, b"s") => (found.has_sequence, self.sequence) = (true, number(what)),
            (Place::Payload, b"t") => (found.has_event, found.event) = (true, text),
            (Place::Payload, b"d") => {
                *data = Data { kind: kind(what), ..Data::default() };
                (found.session, found.token, found.command) = (None, None, None);
                return object(what, Place::Data);
            }
            (Place::Data, b"id") => data.id = what.id(),
            (Place::Data, b"channel_id") => data.channel = what.id(),
            (Place::Data, b"guild_id") => data.guild = what.id(),
            (Place::Data, b"webhook_id") => data.webhook = what.id(),
            (Place::Data, b"type") => data.r#type = number(what),
            (Place::Data, b"token") => (data.has_token, found.token) = (text.is_some(), text),
            (Place::Data, b"session_id") => found.session = text,
            (Place::Data, b"heartbeat_interval") => data.heartbeat_interval = number(what),
            (Place::Data, b"unavailable") => data.unavailable = truth(what),
            (Place::Data, b"author") => {
                (data.author, data.author_is_bot) = (None, None);
                return object(what, Place::Author);
            }
            (Place::Data, b"message_reference") => {
                data.refers_to = None;
                return object(what, Place::Reference);
            }
            (Place::Data, b"user") => {
                data.user = None;
                return object(what, Place::User);
            }
            (Place::Data, b"member") => {
                data.member = None;
                return object(what, Place::Member);
            }
            (Place::Data, b"data") => {
                (found.command, data.has_custom_id) = (None, false);
                return object(what, Place::Interaction);
            }
            (Place::Data, b"shard") => {
                (data.shard, found.shard, found.shards) = (None, [None; 2], 0);
                return array(what, Place::Shard);
            }
            (Place::Data, b"guilds") => {
                (data.guilds, found.guilds) = (None, 0);
                return array(what, Place::Guilds);
            }
            (Place::Author, b"id") => data.author = what.id(),
            (Place::Author, b"bot") => data.author_is_bot = truth(what),
            (Place::Reference, b"message_id") => data.refers_to = what.id(),
            (Place::User, b"id") => data.user = what.id(),
            (Place::Member, b"user") => {
                data.member = None;
                return object(what, Place::MemberUser);
            }
            (Place::MemberUser, b"id") => data.member = what.id(),
            (Place::Interaction, b"name") => found.command = text,
            (Place::Interaction, b"custom_id") => data.has_custom_id = true,
            (Place::Shard, _) => {
                if let Some(element) = found.shard.get_mut(found.shards) {
                    *element = number(what);
                }
                found.shards = found.shards.saturating_add(1);
            }
            (Place::Guilds, _) => found.guilds = found.guilds.saturating_add(1),
            _ => {}
        }
        None
    }

    /// Takes in that the container at `place` ended.
    fn ended(&mut self, place: Place, found: &Found<'_>) {
        match (place, found.shard.map(|number| u32::try_from(number?).ok())) {
            (Place::Shard, [Some(index), Some(count)]) if found.shards == 2 && index < count => {
                self.data.shard = Some(Shard { index, count });
            }
            (Place::Guilds, _) => self.data.guilds = Some(found.guilds),
            _ => {}
        }
    }
}

/// The name of a member, escapes undone; empty for an element, and for an escaped one that is longer than all that are
/// taken.
fn key<'a>(item: &Item<'a>, room: &'a mut [u8; KEY_ROOM]) -> &'a [u8] {
    let Some(key) = item.key else { return b"" };
    if !key.raw().contains(&b'\\') {
        return key.raw();
    }
    let mut length = 0;
    for byte in key.decoded() {
        let Some(place) = room.get_mut(length) else { return b"" };
        *place = byte;
        length += 1;
    }
    &room[..length]
}

fn object(what: What<'_>, place: Place) -> Option<Place> {
    (what == What::Object).then_some(place)
}

fn array(what: What<'_>, place: Place) -> Option<Place> {
    (what == What::Array).then_some(place)
}

fn number(what: What<'_>) -> Option<u64> {
    if let What::Number(number) = what { number.unsigned() } else { None }
}

fn truth(what: What<'_>) -> Option<bool> {
    if let What::Bool(truth) = what { Some(truth) } else { None }
}

fn kind(what: What<'_>) -> Kind {
    match what {
        What::Null => Kind::Null,
        What::Bool(truth) => Kind::Bool(truth),
        What::Number(number) => number.unsigned().map_or(Kind::Other, Kind::Number),
        What::Object => Kind::Object,
        What::Array | What::Text(_) | What::End => Kind::Other,
    }
}

/// A text's characters, if its end is known and it has no more than `most` bytes.
fn short(text: Text<'_>, most: usize) -> Option<Box<str>> {
    let bytes: Vec<u8> = if text.is_whole() { text.decoded().take(most + 1).collect() } else { return None };
    if bytes.len() > most { None } else { String::from_utf8(bytes).ok().map(String::into_boxed_str) }
}

fn event_name(text: Text<'_>) -> Option<Box<str>> {
    short(text, EVENT_MAX)
        .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
}

fn command_name(text: Text<'_>) -> Option<Box<str>> {
    short(text, 4 * NAME_MAX).filter(|name| !name.is_empty() && name.chars().count() <= NAME_MAX)
}
