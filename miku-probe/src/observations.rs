//! What the protocols make of the records, and the sinks consume: the one arrow between the two.

mod discord;
mod event_loop;
mod gpu;
mod llm;
mod net;
mod process;
mod stalls;

use miku_probe_abi::RecordKind;

pub use self::discord::{
    Active, ConversationOutcome, Discord, GatewayChange, Phase, Phases, ReconnectReason, ReplyKind, Shard, Window,
};
pub use self::event_loop::{EventLoop, StallThreshold, Turns, off_reason};
pub use self::gpu::{
    Allocations, ClockDomain, Device, EccKind, EccLocation, Gpu, GpuMemory, GpuProcess, GpuSample, LlmPhase,
    PcieDirection, Reading, RemapCause, Sensor, Task, ThrottleReason, Unavailable,
};
pub use self::llm::{CallOutcome, Finish, Llm, LlmCall, LlmLabels, Operation, Tokens};
pub use self::net::{ConnectFailure, Net, Resolution};
pub use self::process::{
    Cgroup, CgroupMemory, CpuTime, DiskBytes, Faults, Growth, Memory, Pressure, ProcessEnd, ProcessNews, Resource,
    Switches, Vitals,
};
pub use self::stalls::{Cause, Place, Stall, StallChange};
use crate::units::{Direction, Nanos, Scheme, ServiceId, Side, Symbol, Symbols, Transport};

/// The request methods that OpenTelemetry knows by name; all others are one label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the method of its name, of RFC 9110 and RFC 5789")]
pub enum Method {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
    /// Any other.
    Other,
}

impl Method {
    /// The method of this token, which is case-sensitive (RFC 9110, section 9.1).
    #[must_use]
    pub fn from_token(token: &[u8]) -> Self {
        match token {
            b"CONNECT" => Self::Connect,
            b"DELETE" => Self::Delete,
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
            Self::Other => "_OTHER",
        }
    }
}

/// Why an exchange ended before its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbortReason {
    /// The client closed the connection.
    ClientClosed,
    /// The server closed the connection.
    ServerClosed,
    /// The connection was reset.
    Reset,
    /// The connection timed out.
    Timeout,
    /// It ended, and nobody can say by whom.
    Unknown,
}

impl AbortReason {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ServerClosed => "server_closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeFailure {
    /// One side did not accept the other's certificate, for whatever is wrong with it or its name, or got none.
    Certificate,
    /// They have no version of the protocol in common, or what the other side speaks is no TLS at all.
    Version,
    /// They have no cipher or other algorithm in common.
    Cipher,
    /// The other side refused with an alert that says something else.
    Alert,
    /// The library raised no error: the other side closed the connection, or the process gave up.
    Closed,
    /// Something else is wrong.
    Other,
}

impl HandshakeFailure {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Certificate, Self::Version, Self::Cipher, Self::Alert, Self::Closed, Self::Other];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Version => "version",
            Self::Cipher => "cipher",
            Self::Alert => "alert",
            Self::Closed => "closed",
            Self::Other => "other",
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Both messages were seen to their last byte.
    Complete,
    /// It was cut short.
    Aborted(AbortReason),
    /// Part of it was not seen, so neither its end nor its status may be told.
    Unknown,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Whose.
    pub service: ServiceId,
    /// Which end the service is.
    pub side: Side,
    /// Whether it went through TLS.
    pub scheme: Scheme,
    /// The request's method.
    pub method: Method,
    /// The route template.
    pub route: Symbol,
    /// The server's name or address, for a client's exchange; else empty.
    pub server: Symbol,
    /// The server's port, for a client's exchange; 0 when there is none.
    pub port: u16,
    /// The answer's status, when its head was seen.
    pub status: Option<u16>,
    /// When the request's first byte moved.
    pub start: Nanos,
    /// From the request's first byte to the first byte of the final answer.
    pub first_byte: Option<Nanos>,
    /// From the request's first byte to the last byte of the answer, or to the end of an aborted exchange.
    pub duration: Nanos,
    /// Bytes of the request, head and body.
    pub request_bytes: u64,
    /// Bytes of the answer, head and body.
    pub response_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Whom a rate limit counts together: the values of Discord's header `X-RateLimit-Scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateLimitScope {
    /// The caller, for this resource.
    User,
    /// The caller, for all it does.
    Global,
    /// All callers, for this resource. Discord does not hold it against the caller.
    Shared,
}

impl RateLimitScope {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Global => "global",
            Self::Shared => "shared",
        }
    }
}

/// Where something was lost: the values of the label `where` of `miku_probe_lost_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LostWhere {
    /// The ring buffer was full.
    Ring,
    /// A kernel table was full.
    Table,
    /// A message's start was longer than what is copied of it, or could not be read.
    Capture,
    /// A record that made no sense.
    Parser,
    /// The kernel left a program out, because it was running on that processor already.
    Recursion,
}

impl LostWhere {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ring, Self::Table, Self::Capture, Self::Parser, Self::Recursion];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Table => "table",
            Self::Capture => "capture",
            Self::Parser => "parser",
            Self::Recursion => "recursion",
        }
    }
}

/// Something that was seen but belongs to no whole exchange: the label `reason` of `miku_probe_unmatched_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unmatched {
    /// An answer to a request that was not seen.
    ResponseWithoutRequest,
    /// The probe attached in the middle of the message.
    MidMessage,
    /// Records of the connection were lost.
    Gap,
    /// Bytes that are not HTTP where a message had to start.
    Malformed,
    /// A head longer than what is copied of it.
    HeadTruncated,
    /// More requests in flight on one connection than are followed.
    PipelineTooDeep,
    /// The probe stopped watching, or the process ended, during the exchange.
    Detached,
    /// An exchange was followed but ended unknown: one for each [`Outcome::Unknown`], beside the reason why.
    HalfSeen,
    /// An answer of a bot's that could be the answer to more than one message, or to none.
    AnswerAmbiguous,
    /// An answer of a bot's to a message that was not seen, or in a channel where nobody waits for one.
    AnswerUnknown,
    /// An answer of a bot's of which too much was not seen to know to what, or whether it was one.
    AnswerHalfSeen,
    /// A message was answered for certain, but perhaps not for the first time.
    AnswerNotFirst,
    /// A person perhaps waits in vain; or was answered where it cannot be told.
    UnansweredUnsure,
    /// A bot began to type for one of several who wait in that channel.
    TypingAmbiguous,
    /// A call of a language model that was made while people waited, and cannot be told for whom.
    LlmAmbiguous,
    /// More is open at once than is followed.
    TableFull,
    /// A body in a content coding that is not undone.
    Coded,
    /// Part of a stream was not read, since it was not copied or not kept.
    Unread,
    /// What began or ended a reply had waited to be read, and nobody knows for how long: the reply took longer, or less, than is
    /// told.
    ArrivalUnknown,
}

impl Unmatched {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResponseWithoutRequest => "response_without_request",
            Self::MidMessage => "mid_message",
            Self::Gap => "gap",
            Self::Malformed => "malformed",
            Self::HeadTruncated => "head_truncated",
            Self::PipelineTooDeep => "pipeline_too_deep",
            Self::Detached => "detached",
            Self::HalfSeen => "half_seen",
            Self::AnswerAmbiguous => "answer_ambiguous",
            Self::AnswerUnknown => "answer_unknown",
            Self::AnswerHalfSeen => "answer_half_seen",
            Self::AnswerNotFirst => "answer_not_first",
            Self::UnansweredUnsure => "unanswered_unsure",
            Self::TypingAmbiguous => "typing_ambiguous",
            Self::LlmAmbiguous => "llm_ambiguous",
            Self::TableFull => "table_full",
            Self::Coded => "coded",
            Self::Unread => "unread",
            Self::ArrivalUnknown => "arrival_unknown",
        }
    }
}

/// The state of a watched process, as `miku_probe_targets` counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// Its system calls are followed.
    Attached,
    /// It matches, but cannot be followed.
    Failed,
}

impl TargetState {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Failed => "failed",
        }
    }
}

/// One thing observed.
#[derive(Clone, Debug)]
pub enum Observation {
    /// An exchange ended.
    Exchange(Exchange),
    /// A request began (`+1`) or ended (`-1`).
    InFlight {
        /// Whose.
        service: ServiceId,
        /// Which end the service is.
        side: Side,
        /// The change.
        change: i8,
    },
    /// Bytes moved over the network, headers of lower layers not counted.
    Bytes {
        /// Whose.
        service: ServiceId,
        /// Which way.
        direction: Direction,
        /// The other side: a host's name, or a class (`lan`, `loopback`, `internet`, `unknown`).
        peer: Symbol,
        /// What carried them.
        transport: Transport,
        /// How many.
        bytes: u64,
    },
    /// A TLS handshake ended.
    Handshake {
        /// Whose.
        service: ServiceId,
        /// The other side: the host's name that was asked for, or the class of one that is not known.
        peer: Symbol,
        /// From the first call that worked on it to its end, or why it failed.
        outcome: Result<Nanos, HandshakeFailure>,
    },
    /// Discord refused a request by its rate limit (status 429).
    RateLimited {
        /// Whose.
        service: ServiceId,
        /// Whom the limit counts together.
        scope: RateLimitScope,
        /// The route template.
        route: Symbol,
    },
    /// Discord told how much of a route's quota is left.
    RateLimitRemaining {
        /// Whose.
        service: ServiceId,
        /// The route template.
        route: Symbol,
        /// From 0, nothing, to 1, all of it.
        ratio: f64,
    },
    /// A request that Discord had refused by its rate limit was made again.
    RateLimitWait {
        /// Whose.
        service: ServiceId,
        /// The route template.
        route: Symbol,
        /// From the end of the refusal to the start of the next try.
        wait: Nanos,
    },
    /// A bot on Discord did something, or something happened to it.
    Discord {
        /// Whose.
        service: ServiceId,
        /// What.
        what: Discord,
    },
    /// A process of a service uses something, or came or went.
    Process {
        /// Whose.
        service: ServiceId,
        /// What.
        what: ProcessNews,
    },
    /// Something happened on the network beneath all protocols.
    Net {
        /// To whom.
        service: ServiceId,
        /// What.
        what: Net,
    },
    /// The GPUs told something, or somebody asked them for memory.
    Gpu(Gpu),
    /// Something is told of event loops.
    EventLoop {
        /// Whose.
        service: ServiceId,
        /// What.
        what: EventLoop,
    },
    /// A language model was called, or called upon.
    Llm {
        /// Whose.
        service: ServiceId,
        /// What.
        what: Llm,
    },
    /// Something belongs to no whole exchange.
    Unmatched {
        /// The protocol's name, such as `http1`.
        protocol: &'static str,
        /// Why.
        reason: Unmatched,
    },
    /// A label value was over its cap and counted under `other`.
    LabelOverflow {
        /// The label.
        label: &'static str,
    },
    /// Something was lost.
    Lost {
        /// Where.
        at: LostWhere,
        /// How many.
        count: u64,
    },
    /// Of the records that were lost, those that began a message: so many messages were never seen.
    LostMessages {
        /// Which way.
        direction: Direction,
        /// How many.
        count: u64,
    },
    /// Records came from the kernel.
    Records {
        /// Of which kind.
        kind: RecordKind,
        /// How many.
        count: u64,
    },
    /// So many records more were made in the kernel, by its own count.
    RecordsSent(u64),
    /// From a record's time in the kernel to the moment its observation reached the sinks.
    Delivery(Nanos),
    /// How many processes of a service are in a state now.
    Targets {
        /// Whose.
        service: ServiceId,
        /// Which state.
        state: TargetState,
        /// How many.
        count: u32,
    },
}

/// The names behind an observation's numbers.
#[derive(Debug, Default)]
pub struct Names {
    /// Names of services, by [`ServiceId`].
    pub services: Vec<String>,
    /// All other texts.
    pub symbols: Symbols,
}

impl Names {
    /// The name of `service`.
    #[must_use]
    pub fn service(&self, service: ServiceId) -> &str {
        self.services.get(usize::from(service.0)).map_or("", String::as_str)
    }
}

/// Consumes observations; knows nothing of where they come from.
pub trait Sink {
    /// Takes one observation in. It must not block: it stands on the path that drains the kernel's ring.
    fn observe(&mut self, observation: &Observation, names: &Names);
}
