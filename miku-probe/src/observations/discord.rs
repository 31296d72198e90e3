//! What is observed of a bot on Discord.

use crate::units::{Direction, Nanos, Symbol};

/// What a person did that a bot answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplyKind {
    /// Wrote a message.
    Message,
    /// Used a command, a button, a menu or a form.
    Interaction,
}

impl ReplyKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Message, Self::Interaction];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Interaction => "interaction",
        }
    }
}

/// How it ended for a person on whose message or interaction the bot acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConversationOutcome {
    /// The person was answered, and the time until then is known.
    Replied,
    /// The person was shown a form; what is sent by it is another interaction.
    Form,
    /// The bot wrote what may be the answer to this person, or to another.
    Ambiguous,
    /// The bot began to answer, and did nothing more.
    Unanswered,
    /// Too much was not seen to say.
    Unknown,
}

impl ConversationOutcome {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Replied, Self::Form, Self::Ambiguous, Self::Unanswered, Self::Unknown];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replied => "replied",
            Self::Form => "form",
            Self::Ambiguous => "ambiguous",
            Self::Unanswered => "unanswered",
            Self::Unknown => "unknown",
        }
    }
}

/// Where the time before a reply went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// From the gateway's event to the first thing that the bot was seen to do about it.
    Pickup,
    /// A call of a language model, until its first token.
    LlmFirstToken,
    /// The rest of that call.
    LlmGeneration,
    /// Sending the answer, all tries of it together.
    Post,
    /// Sleeping because Discord refused a call by its rate limit.
    RateLimit,
    /// All else, and all of which it is not certain what it was.
    Other,
}

impl Phase {
    /// All of them, in the order in which they mostly come.
    pub const ALL: [Self; 6] =
        [Self::Pickup, Self::LlmFirstToken, Self::LlmGeneration, Self::Post, Self::RateLimit, Self::Other];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pickup => "pickup",
            Self::LlmFirstToken => "llm_first_token",
            Self::LlmGeneration => "llm_generation",
            Self::Post => "post",
            Self::RateLimit => "rate_limit",
            Self::Other => "other",
        }
    }
}

/// The time that each phase took; a phase that was not seen has none. Together they are the reply's duration, to the
/// nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases([Option<Nanos>; Phase::ALL.len()]);

impl Phases {
    /// The time of `phase`.
    #[must_use]
    pub const fn get(&self, phase: Phase) -> Option<Nanos> {
        self.0[phase as usize]
    }

    /// Adds to the time of `phase`, which thereby was seen.
    pub fn add(&mut self, phase: Phase, time: Nanos) {
        let sum = self.0[phase as usize].get_or_insert(Nanos(0));
        *sum = *sum + time;
    }

    /// The phases that were seen.
    pub fn seen(&self) -> impl Iterator<Item = (Phase, Nanos)> + '_ {
        Phase::ALL.into_iter().filter_map(|phase| self.get(phase).map(|time| (phase, time)))
    }

    /// All of them together.
    #[must_use]
    pub fn sum(&self) -> Nanos {
        self.seen().fold(Nanos(0), |sum, (_, time)| sum + time)
    }
}

/// Which shard a gateway connection serves; nothing until it has said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub Option<u32>);

impl Shard {
    /// The label value.
    #[must_use]
    pub fn label(self) -> String {
        self.0.map_or_else(|| "unknown".to_owned(), |index| index.to_string())
    }
}

/// Why a bot connected to the gateway anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReconnectReason {
    /// Discord asked for it (opcode 7).
    Requested,
    /// Discord refused the session, or ended it (opcode 9).
    InvalidSession,
    /// Discord closed the connection.
    Closed,
    /// The bot closed it while a heartbeat was not acknowledged.
    MissedHeartbeat,
    /// It ended without a close frame.
    Network,
    /// The bot closed it and nothing shows why, or its end was not seen.
    Unknown,
}

impl ReconnectReason {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::InvalidSession => "invalid_session",
            Self::Closed => "closed",
            Self::MissedHeartbeat => "missed_heartbeat",
            Self::Network => "network",
            Self::Unknown => "unknown",
        }
    }
}

/// What happened to the gateway of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayChange {
    /// It is up, by its heartbeats.
    Up,
    /// It is not.
    Down,
    /// There is none any more: its process ended, or the shard turned out to have another index.
    Gone,
    /// A heartbeat was acknowledged, so long after it was sent.
    Heartbeat(Nanos),
    /// A heartbeat was not acknowledged before the next was due.
    Missed,
    /// The bot connects anew.
    Reconnect {
        /// Why.
        reason: ReconnectReason,
        /// The code of the close frame, if there was one.
        close_code: Option<u16>,
    },
    /// A new session began: nothing of an older one was resumed.
    SessionStarted,
}

/// Over which time activity is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The last hour.
    Hour,
    /// The last 24 hours.
    Day,
}

impl Window {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Hour, Self::Day];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
        }
    }

    /// Its length in minutes.
    #[must_use]
    pub const fn minutes(self) -> u32 {
        match self {
            Self::Hour => 60,
            Self::Day => 24 * 60,
        }
    }
}

/// How many users and channels were active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Over which time.
    pub window: Window,
    /// People who wrote or used a command.
    pub users: u64,
    /// Channels in which they did.
    pub channels: u64,
}

/// One thing observed of a bot on Discord.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Discord {
    /// A person was answered.
    Reply {
        /// To what.
        kind: ReplyKind,
        /// From the gateway's event to the end of the first REST answer to it.
        duration: Nanos,
        /// Where it went.
        phases: Phases,
    },
    /// What this machine's GPUs drew for a reply.
    Energy {
        /// How much.
        joules: f64,
    },
    /// The bot began to answer a person, and never did.
    Unanswered {
        /// What.
        kind: ReplyKind,
    },
    /// The bot acted for the first time on what a person did.
    ConversationStarted {
        /// What.
        kind: ReplyKind,
    },
    /// What had started is over: once for each [`Discord::ConversationStarted`].
    ConversationEnded {
        /// What.
        kind: ReplyKind,
        /// How.
        outcome: ConversationOutcome,
    },
    /// The number of conversations that have started and are not over changed.
    ConversationsOpen {
        /// What.
        kind: ReplyKind,
        /// By how much.
        change: i64,
    },
    /// Something happened to a shard's gateway.
    Gateway {
        /// Which shard's.
        shard: Shard,
        /// When.
        time: Nanos,
        /// What.
        change: GatewayChange,
    },
    /// The gateway dispatched an event.
    Event {
        /// Its name, such as `MESSAGE_CREATE`.
        name: Symbol,
    },
    /// A person used a command.
    Command {
        /// Its name.
        name: Symbol,
    },
    /// How many were active lately.
    Active(Active),
    /// In how many guilds the bot is now, or nothing when that is not known.
    Guilds(Option<u64>),
    /// Bytes of voice connections moved.
    Voice {
        /// Which way.
        direction: Direction,
        /// How many.
        bytes: u64,
    },
}
