//! Bots on Discord: what a process says to it and hears from it, from exchanges, websockets and inflated streams to
//! observations.
//!
//! A process is followed as a bot from the first thing on that only a bot does: it calls Discord's API, connects to its
//! gateway, or inflates what only the gateway sends. From then on all that it is seen to receive and send is told to its
//! [`Replies`], each once. Bytes of a gateway's websocket are not: they are told as what comes out of the stream that
//! inflates them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use super::connections::Made;
use super::models::Heard;
use super::services::Service;
use crate::intake::Inflated;
use crate::observations::{Discord, GatewayChange, Llm, Names, Observation, Shard as ShardLabel, Sink, Unmatched};
use crate::protocols::arrivals::Came;
use crate::protocols::discord::calls::{self, Action};
use crate::protocols::discord::gateway::{self, Gateways, Told};
use crate::protocols::discord::payload::{Payload, Shard};
use crate::protocols::discord::reply::{
    self, At, Author, CallId, Dial, Input, InteractionKind, LlmId, Replies, Source, Token,
};
use crate::protocols::discord::usage::Guilds;
use crate::protocols::discord::voice;
use crate::protocols::http1::{Collected, End, Event, ExchangeId, Finished, Interest, Request};
use crate::protocols::websocket::{self, Message};
use crate::units::{ConnId, Direction, Nanos, ServiceId, Side, Tgid};

/// The label `protocol`.
const DISCORD: &str = "discord";

/// Inflated streams of one process whose losses are kept in mind: as many as [`Gateways`] follows.
const STREAMS_MAX: usize = gateway::CONNECTIONS_MAX;

/// Calls of one process whose bodies are followed at once: those that are more may be told as half seen.
const BODIES_MAX: usize = 1024;

/// Voice servers of one process that are kept in mind: a bot speaks in one channel of a guild at once.
const SPOKEN_TO_MAX: usize = 256;

/// Events that come in crowds and that bots only take note of.
const IDLE_EVENTS: [&str; 4] = ["TYPING_START", "PRESENCE_UPDATE", "GUILD_CREATE", "CHANNEL_UPDATE"];

/// How often the numbers of active users and channels are told.
const ACTIVE_EVERY: Nanos = Nanos(10_000_000_000);

/// All processes that are bots.
#[derive(Debug, Default)]
pub(super) struct Bots {
    bots: HashMap<Tgid, Bot>,
    /// Those of which nobody was told yet that they are.
    new: Vec<Tgid>,
    /// One key for all, so that users and channels of several processes of a service count once.
    hasher: RandomState,
    active_told: Nanos,
}

/// Whose observations they are, and where they go.
pub(super) struct Out<'a, S> {
    pub(super) service: ServiceId,
    pub(super) kept: &'a mut Service,
    pub(super) names: &'a mut Names,
    pub(super) sink: &'a mut S,
}

impl<S: Sink> Out<'_, S> {
    pub(super) fn observe(&mut self, observation: &Observation) {
        self.sink.observe(observation, self.names);
    }

    pub(super) fn llm(&mut self, what: Llm) {
        self.observe(&Observation::Llm { service: self.service, what });
    }

    fn discord(&mut self, what: Discord) {
        self.observe(&Observation::Discord { service: self.service, what });
    }

    fn unmatched(&mut self, reason: Unmatched) {
        self.observe(&Observation::Unmatched { protocol: DISCORD, reason });
    }

    fn overflow(&mut self, label: &'static str) {
        self.observe(&Observation::LabelOverflow { label });
    }

    fn replied(&mut self, event: reply::Event) {
        match event {
            reply::Event::Reply(reply) => {
                let reply::Reply { kind, event, duration, phases, worked } = reply;
                log::trace!("what came at {} ns was answered after {} ns", event.0, duration.0);
                self.kept.community.worked(worked);
                self.discord(Discord::Reply { kind, duration, phases });
            }
            reply::Event::Unanswered(kind) => self.discord(Discord::Unanswered { kind }),
            reply::Event::Started(kind) => self.discord(Discord::ConversationStarted { kind }),
            reply::Event::Ended(kind, outcome) => self.discord(Discord::ConversationEnded { kind, outcome }),
            reply::Event::Open(kind, change) => self.discord(Discord::ConversationsOpen { kind, change }),
            reply::Event::Unmatched(reason) => self.unmatched(reason),
        }
    }
}

impl Bots {
    pub(super) fn get_mut(&mut self, tgid: Tgid) -> Option<&mut Bot> {
        self.bots.get_mut(&tgid)
    }

    /// The bot that a process is, from now on.
    pub(super) fn enter(&mut self, tgid: Tgid, service: ServiceId, time: Nanos) -> &mut Bot {
        let Self { bots, new, hasher, .. } = self;
        bots.entry(tgid).or_insert_with(|| {
            new.push(tgid);
            Bot::new(service, time, hasher.clone())
        })
    }

    /// The bots that were entered since this was last asked.
    pub(super) fn take_new(&mut self) -> Vec<Tgid> {
        std::mem::take(&mut self.new)
    }

    /// Takes a bot off the list, to be told that it is no more.
    pub(super) fn remove(&mut self, tgid: Tgid) -> Option<Bot> {
        self.bots.remove(&tgid)
    }

    /// Whether what a process says over a websocket is what bots say to Discord's gateway, as far as can be told at a glance.
    pub(super) fn sounds_like_one(message: &Message<'_>) -> bool {
        !message.compressed && message.bytes.starts_with(b"{\"op\"")
    }

    /// Whether a message may be one of the gateway's that is not compressed.
    pub(super) fn sounds_like_discord(message: &Message<'_>) -> bool {
        !message.compressed && message.bytes.starts_with(b"{")
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bot> {
        self.bots.values_mut()
    }

    /// Whether it is time to tell of active users.
    pub(super) fn active_is_due(&mut self, now: Nanos) -> bool {
        let due = !self.bots.is_empty() && now.since(self.active_told) >= ACTIVE_EVERY;
        if due {
            self.active_told = now;
        }
        due
    }
}

/// A call of Discord's API under way.
struct Calling {
    id: CallId,
    action: Action,
    body: Option<Collected>,
}

/// One process.
pub(super) struct Bot {
    pub(super) service: ServiceId,
    gateways: Gateways,
    replies: Replies,
    hasher: RandomState,
    account: Account,
    calling: HashMap<(ConnId, ExchangeId), Calling>,
    /// The number of the next call.
    next: u64,
    /// Websockets to voice servers, and the streams that inflate what comes over them.
    voices: HashSet<ConnId>,
    /// Where voice goes, the latest last. What went there may be told after the websocket's end.
    spoken_to: VecDeque<SocketAddr>,
    /// Lost records of inflated streams so far.
    lost: HashMap<ConnId, u32>,
    /// Whether the segment at hand was told to the replies.
    told: bool,
    /// Which thread last read something that had waited from a socket of which nothing is known above, and when.
    pub(super) read_late: Option<(u32, Nanos)>,
}

impl fmt::Debug for Bot {
    /// Shows no ids of who talks where, which it holds as long as a conversation is open.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Bot")
            .field("service", &self.service)
            .field("calling", &self.calling.len())
            .finish_non_exhaustive()
    }
}

/// What a bot learns of itself.
#[derive(Default)]
struct Account {
    /// Its own user.
    itself: Option<u64>,
    guilds: HashMap<Option<Shard>, Guilds>,
    guilds_told: Option<u64>,
    /// The shards of which it was told whether they are up.
    shards: BTreeSet<ShardLabel>,
}

impl Bot {
    fn new(service: ServiceId, time: Nanos, hasher: RandomState) -> Self {
        Self {
            service,
            gateways: Gateways::new(time, hasher.clone()),
            replies: Replies::default(),
            hasher,
            account: Account::default(),
            calling: HashMap::new(),
            next: 0,
            voices: HashSet::new(),
            spoken_to: VecDeque::new(),
            lost: HashMap::new(),
            told: false,
            read_late: None,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn source(&self, id: ConnId) -> Source {
        Source(self.hasher.hash_one(id))
    }

    fn at(&self, id: ConnId, tid: u32, time: Nanos) -> At {
        At { time, tid, source: self.source(id) }
    }

    fn feed<S: Sink>(&mut self, at: At, input: Input, out: &mut Out<'_, S>) {
        self.told = true;
        self.replies.feed(at, input, &mut |event| out.replied(event));
    }

    /// One of its event loops waits, with nothing left to do.
    pub(super) fn waits<S: Sink>(&mut self, tid: u32, time: Nanos, out: &mut Out<'_, S>) {
        let at = At { time, tid, source: Source(0) };
        self.replies.feed(at, Input::Waits, &mut |event| out.replied(event));
    }

    /// One of its threads asks for a connection.
    pub(super) fn dials<S: Sink>(&mut self, tid: u32, time: Nanos, socket: u64, out: &mut Out<'_, S>) {
        let at = At { time, tid, source: Source(0) };
        self.replies.feed(at, Input::Dials { dial: Dial(socket) }, &mut |event| out.replied(event));
    }

    /// What is told next is the first that goes over a connection, if that was made so.
    fn opens<S: Sink>(&mut self, at: At, made: Option<Made>, out: &mut Out<'_, S>) {
        let dial = match made {
            None => return,
            Some(Made::Socket(socket)) => Some(Dial(socket)),
            Some(Made::Handshake) => None,
        };
        self.feed(at, Input::Opens { dial }, out);
    }

    /// A call of Discord's API began; `made`: it is the first over a connection that was made so.
    pub(super) fn call<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        request: &Request<'_>,
        made: Option<Made>,
        out: &mut Out<'_, S>,
    ) -> Interest {
        let action = Action::of(request.method, request.path, &self.hasher);
        let wants_body = action.wants_body();
        let call = CallId(self.number());
        let body = (wants_body && self.has_room(out)).then(|| Collected::new(calls::BODY_MAX));
        self.calling.insert((id, request.id), Calling { id: call, action, body });
        let at = self.at(id, tid, request.start);
        self.opens(at, made, out);
        self.feed(at, Input::CallBegan { call, action: action_of(&action) }, out);
        if wants_body { Interest::Request } else { Interest::Nothing }
    }

    /// A request began that is none to Discord's API; `heard`: it is a call of a language model.
    pub(super) fn request<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        request: &Request<'_>,
        made: Option<Made>,
        heard: Option<Heard>,
        out: &mut Out<'_, S>,
    ) {
        let at = self.at(id, tid, request.start);
        if request.side == Side::Server {
            self.feed(at, Input::ServingBegan, out);
            self.feed(at, Input::Received, out);
        } else {
            self.opens(at, made, out);
        }
        self.heard(at, heard, out);
    }

    /// Takes in what was heard of a call of a language model.
    fn heard<S: Sink>(&mut self, at: At, heard: Option<Heard>, out: &mut Out<'_, S>) {
        let Some(Heard { llm, here, began, first_token }) = heard else { return };
        if began {
            self.feed(at, Input::LlmBegan { llm, here }, out);
        }
        if let Some(first_token) = first_token {
            self.feed(at, Input::LlmReceived { llm, first_token }, out);
        }
    }

    /// Whether the body of one more call can be followed.
    fn has_room<S: Sink>(&self, out: &mut Out<'_, S>) -> bool {
        let room = self.calling.len() < BODIES_MAX;
        if !room {
            out.unmatched(Unmatched::TableFull);
        }
        room
    }

    /// Takes in what was found of an exchange that is of interest, and what was heard thereby of a language model.
    pub(super) fn exchange<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        event: &Event<'_>,
        heard: Option<Heard>,
        out: &mut Out<'_, S>,
    ) {
        let (exchange, time) = match event {
            Event::Body(piece) => (piece.id, piece.time),
            Event::Asked { id, time } => (*id, *time),
            Event::Answered(answer) => (answer.id, answer.time),
            _ => return,
        };
        if let Some(Calling { action, body, .. }) = self.calling.get_mut(&(id, exchange)) {
            match (event, &mut *body) {
                (Event::Body(piece), Some(body)) => body.push(piece),
                (Event::Asked { .. }, _) => read(action, body.take(), &self.hasher),
                _ => {}
            }
        }
        self.heard(self.at(id, tid, time), heard, out);
    }

    /// An exchange ended, and with it the call of a language model that it was; `came`: with something that was read, and had
    /// come then.
    pub(super) fn finished<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        finished: &Finished<'_>,
        came: Option<Came>,
        llm: Option<LlmId>,
        out: &mut Out<'_, S>,
    ) {
        let at = self.at(id, tid, finished.end);
        if let Some(Calling { id: call, mut action, body }) = self.calling.remove(&(id, finished.id)) {
            read(&mut action, body, &self.hasher);
            // Nothing follows an answer until the bot asks again, so its last byte is the last that was read.
            let answered = came.unwrap_or(Came::Read(finished.end));
            let body = body_of(&action);
            self.feed(at, Input::CallEnded { call, answered, status: finished.status, body }, out);
        } else if let Some(llm) = llm {
            self.feed(at, Input::LlmEnded { llm }, out);
        } else if finished.side == Side::Server {
            self.replies.feed(at, Input::ServingEnded, &mut |event| out.replied(event));
        }
    }

    /// Ends a segment: what of it was not told yet, is now, unless it is `quiet`: told elsewhere.
    pub(super) fn segment_ended<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        time: Nanos,
        direction: Direction,
        quiet: bool,
        out: &mut Out<'_, S>,
    ) {
        if !std::mem::take(&mut self.told) && !quiet {
            let input = if direction == Direction::In { Input::Bytes } else { Input::Sent };
            self.feed(self.at(id, tid, time), input, out);
            self.told = false;
        }
    }

    /// A connection to `host` became a websocket.
    pub(super) fn opened(&mut self, id: ConnId, host: &str) {
        if voice::is_host(host) {
            self.voices.insert(id);
        } else {
            self.gateways.opened(id, host);
        }
    }

    /// Whether what goes over UDP to this address is voice.
    pub(super) fn speaks_to(&self, address: SocketAddr) -> bool {
        self.spoken_to.contains(&address)
    }

    /// A voice server says something, of which `bytes` are the first or all.
    fn voice(&mut self, bytes: &[u8]) {
        let Some(destination) = voice::destination(bytes) else { return };
        if self.spoken_to.contains(&destination) {
            return;
        }
        if self.spoken_to.len() == SPOKEN_TO_MAX {
            self.spoken_to.pop_front();
        }
        self.spoken_to.push_back(destination);
    }

    /// Whether a websocket is a gateway's, over which nothing compressed is known to come.
    pub(super) fn is_uncompressed(&self, id: ConnId) -> bool {
        self.gateways.is_uncompressed(id)
    }

    /// Takes in what a websocket brought; `came`: the message had come then.
    pub(super) fn websocket<S: Sink>(
        &mut self,
        id: ConnId,
        tid: u32,
        event: &websocket::Event<'_>,
        came: Option<Came>,
        out: &mut Out<'_, S>,
    ) {
        if self.voices.contains(&id) {
            if let websocket::Event::Message(message) = event
                && message.direction == Direction::In
            {
                self.voice(message.bytes);
            }
            return;
        }
        let (gateways, mut hearing) = self.hear(self.source(id), tid, out);
        gateways.websocket(id, event, came, &mut |told| hearing.told(&told));
    }

    /// The websocket over which comes what a stream inflates, if that is known.
    pub(super) fn websocket_of(&self, stream: ConnId) -> Option<ConnId> {
        self.gateways.websocket_of(stream)
    }

    /// Takes in what was inflated; `came`: the message that it ends had come then.
    pub(super) fn inflated<S: Sink>(&mut self, inflated: &Inflated<'_>, came: Option<Came>, out: &mut Out<'_, S>) {
        let Inflated { id, tid, time, starts, ends, size, bytes, lost, .. } = *inflated;
        if starts && !self.voices.contains(&id) && voice::is_payload(bytes) {
            self.stream_ended(id, time, out);
            self.voices.insert(id);
        }
        if self.voices.contains(&id) {
            self.voice(bytes);
            return;
        }
        let has_room = self.lost.len() < STREAMS_MAX;
        let lost_before = match self.lost.get_mut(&id) {
            Some(before) => std::mem::replace(before, lost),
            None => {
                if has_room {
                    self.lost.insert(id, lost);
                }
                lost
            }
        };
        if lost != lost_before {
            self.replies.gap(time);
        }
        let (gateways, mut hearing) = self.hear(self.source(id), tid, out);
        if lost != lost_before {
            gateways.stream_gap(id, &mut |told| hearing.told(&told));
        }
        gateways
            .inflated(id, &gateway::Piece { time, came, starts, ends, size, bytes }, &mut |told| hearing.told(&told));
        self.told = false;
    }

    /// An inflated stream ended.
    pub(super) fn stream_ended<S: Sink>(&mut self, id: ConnId, time: Nanos, out: &mut Out<'_, S>) {
        self.lost.remove(&id);
        self.voices.remove(&id);
        let (gateways, mut hearing) = self.hear(self.source(id), 0, out);
        gateways.stream_ended(id, time, &mut |told| hearing.told(&told));
    }

    /// A connection, or one half of it, ended.
    pub(super) fn ended<S: Sink>(&mut self, id: ConnId, time: Nanos, end: End, out: &mut Out<'_, S>) {
        if end != End::PeerFinished {
            self.voices.remove(&id);
        }
        let (gateways, mut hearing) = self.hear(self.source(id), 0, out);
        gateways.ended(id, time, end, &mut |told| hearing.told(&told));
    }

    /// Records were lost.
    pub(super) fn gap(&mut self, time: Nanos) {
        self.replies.gap(time);
    }

    /// Lets time pass.
    pub(super) fn tick<S: Sink>(&mut self, now: Nanos, out: &mut Out<'_, S>) {
        let (gateways, mut hearing) = self.hear(Source(0), 0, out);
        gateways.tick(now, &mut |told| hearing.told(&told));
        self.replies.tick(now, &mut |event| out.replied(event));
    }

    /// The process is no more, or no longer watched.
    pub(super) fn gone<S: Sink>(self, time: Nanos, out: &mut Out<'_, S>) {
        self.replies.finish(&mut |event| out.replied(event));
        for shard in self.account.shards {
            out.discord(Discord::Gateway { shard, time, change: GatewayChange::Gone });
        }
        if self.account.guilds_told.is_some() {
            out.discord(Discord::Guilds(None));
        }
    }

    fn hear<'a, 'b, S>(
        &'a mut self,
        source: Source,
        tid: u32,
        out: &'a mut Out<'b, S>,
    ) -> (&'a mut Gateways, Hearing<'a, 'b, S>) {
        let Self { gateways, replies, hasher, account, told, .. } = self;
        (gateways, Hearing { replies, hasher, account, told, tid, source, out })
    }
}

/// Takes in what the gateways tell.
struct Hearing<'a, 'b, S> {
    replies: &'a mut Replies,
    hasher: &'a RandomState,
    account: &'a mut Account,
    told: &'a mut bool,
    tid: u32,
    source: Source,
    out: &'a mut Out<'b, S>,
}

impl<S: Sink> Hearing<'_, '_, S> {
    fn told(&mut self, told: &Told<'_>) {
        let Told { shard, time, event } = *told;
        let label = ShardLabel(shard.map(|shard| shard.index));
        let (shard, change) = match event {
            gateway::Event::Dispatch { payload, came, .. } => return self.dispatched(shard, time, came, payload),
            gateway::Event::Unreadable => return self.out.unmatched(Unmatched::Malformed),
            gateway::Event::Refused => return self.out.unmatched(Unmatched::TableFull),
            // It is dispatched as an event too.
            gateway::Event::Resumed => return,
            gateway::Event::Up { shard, up } => {
                let label = ShardLabel(shard);
                if up.is_some() {
                    self.account.shards.insert(label)
                } else {
                    self.account.shards.remove(&label)
                };
                let change = match up {
                    Some(true) => GatewayChange::Up,
                    Some(false) => GatewayChange::Down,
                    None => GatewayChange::Gone,
                };
                (label, change)
            }
            gateway::Event::SessionStarted => (label, GatewayChange::SessionStarted),
            gateway::Event::Heartbeat(wait) => (label, GatewayChange::Heartbeat(wait)),
            gateway::Event::Missed => (label, GatewayChange::Missed),
            gateway::Event::Reconnect { reason, close_code } => {
                (label, GatewayChange::Reconnect { reason, close_code })
            }
        };
        self.out.discord(Discord::Gateway { shard, time, change });
    }

    /// An event of Discord's came.
    fn dispatched(&mut self, shard: Option<Shard>, time: Nanos, came: Came, payload: &Payload) {
        let name = payload.event.as_deref().unwrap_or_default();
        let (symbol, overflow) = self.out.kept.community.events.symbol(name, &mut self.out.names.symbols);
        if overflow {
            self.out.overflow("event");
        }
        self.out.discord(Discord::Event { name: symbol });
        let data = &payload.data;
        // What no bot acts on does not hide what it does act on in the same turn.
        let mut input = if IDLE_EVENTS.contains(&name) { Input::Bytes } else { Input::Received };
        match name {
            "MESSAGE_CREATE" => {
                let author = self.author(payload);
                if author == Author::Person {
                    self.seen(data.author, data.channel, time);
                }
                if let (Some(channel), Some(message)) = (data.channel, data.id) {
                    input = Input::Message { channel, message, author, came };
                } else if author == Author::Person {
                    self.out.unmatched(Unmatched::HeadTruncated);
                }
            }
            "INTERACTION_CREATE" => {
                let kind = InteractionKind::from_number(data.r#type.unwrap_or(0));
                self.seen(data.member.or(data.user), data.channel, time);
                if kind == InteractionKind::Command
                    && let Some(command) = &data.command
                {
                    self.commanded(command);
                }
                if let (Some(interaction), Some(token)) = (data.id, data.token) {
                    input = Input::Interaction { interaction, token: Token(token), channel: data.channel, kind, came };
                } else {
                    self.out.unmatched(Unmatched::HeadTruncated);
                }
            }
            "READY" => {
                self.account.itself = data.user.or(self.account.itself);
                if let Some(guilds) = data.guilds {
                    self.guilds(shard, |kept| kept.ready(u64::from(guilds)));
                }
            }
            "GUILD_CREATE" => {
                if let Some(guild) = data.id {
                    let guild = self.hasher.hash_one(guild);
                    self.guilds(shard, |kept| kept.create(guild));
                }
            }
            "GUILD_DELETE" => {
                if let Some(guild) = data.id {
                    let guild = self.hasher.hash_one(guild);
                    self.guilds(shard, |kept| kept.delete(guild, data.unavailable == Some(true)));
                }
            }
            _ => {}
        }
        *self.told = true;
        let at = At { time, tid: self.tid, source: self.source };
        let out = &mut *self.out;
        self.replies.feed(at, input, &mut |event| out.replied(event));
    }

    /// Who wrote a message.
    fn author(&self, payload: &Payload) -> Author {
        /// Messages that people write: <https://discord.com/developers/docs/resources/message#message-object-message-types>.
        const WRITTEN: [u64; 3] = [0, 19, 21];
        let data = &payload.data;
        if data.author.is_some() && data.author == self.account.itself {
            Author::Itself
        } else if data.author.is_none()
            || data.webhook.is_some()
            || data.author_is_bot == Some(true)
            || data.r#type.is_some_and(|kind| !WRITTEN.contains(&kind))
        {
            Author::Machine
        } else {
            Author::Person
        }
    }

    /// A person did something somewhere.
    fn seen(&mut self, user: Option<u64>, channel: Option<u64>, time: Nanos) {
        let hash = |id: u64| self.hasher.hash_one(id);
        self.out.kept.community.usage.see(user.map(hash), channel.map(hash), time);
    }

    fn commanded(&mut self, command: &str) {
        let (name, overflow) = self.out.kept.community.commands.symbol(command, &mut self.out.names.symbols);
        if overflow {
            self.out.overflow("command");
        }
        self.out.discord(Discord::Command { name });
    }

    /// Changes what is known of a shard's guilds, and tells their number over all shards if it is another now.
    fn guilds(&mut self, shard: Option<Shard>, change: impl FnOnce(&mut Guilds)) {
        change(self.account.guilds.entry(shard).or_default());
        let all: Option<u64> = self.account.guilds.values().map(Guilds::count).sum();
        if all != self.account.guilds_told {
            self.account.guilds_told = all;
            self.out.discord(Discord::Guilds(all));
        }
    }
}

/// Reads what is known of a call's body, and forgets it.
fn read(action: &mut Action, body: Option<Collected>, hasher: &RandomState) {
    if let Some(body) = body {
        action.read_body(&body, hasher);
    }
}

/// What a call does, in the words of conversations.
fn action_of(action: &Action) -> reply::Action {
    match *action {
        Action::Typing { channel } => reply::Action::Typing { channel },
        Action::Post { channel, .. } => reply::Action::Create { channel },
        Action::Edit { channel, .. } => reply::Action::Edit { channel },
        Action::Respond { interaction, token, .. } => reply::Action::Callback { interaction, token: Token(token) },
        Action::Followup { token, .. } | Action::EditFollowup { token, .. } => {
            reply::Action::Webhook { token: Token(token) }
        }
        Action::Delete { .. } | Action::React { .. } | Action::Other => reply::Action::Other,
    }
}

/// What a call's body says, in the words of conversations.
fn body_of(action: &Action) -> reply::Body {
    match *action {
        Action::Post { reference, nonce, .. } => {
            let reference = match reference {
                calls::Reference::Unknown => reply::Reference::Unseen,
                calls::Reference::Nothing => reply::Reference::Absent,
                calls::Reference::To { message, .. } => reply::Reference::To(message),
            };
            reply::Body { reference, nonce, ..reply::Body::default() }
        }
        Action::Respond { response, .. } => {
            reply::Body { callback: response.and_then(calls::Response::number), ..reply::Body::default() }
        }
        _ => reply::Body::default(),
    }
}
