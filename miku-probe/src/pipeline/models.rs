//! Calls of language models, by any process that is watched or to it: from exchanges to observations.
//!
//! Each call is followed once. What it tells goes to the sinks, and of a client's call the caller is told what a bot's replies
//! are to know of it.

use std::collections::HashMap;

use super::Pipeline;
use super::bots::Out;
use super::energy::EnergyShares;
use super::phases::{Change, Phases, Stage, UnderWay};
use super::services::Link;
use crate::observations::{
    CallOutcome, Discord, Gpu, GpuSample, Llm, LlmCall, LlmLabels, Observation, Operation, Sink, Unmatched,
};
use crate::protocols::discord::reply::LlmId;
use crate::protocols::discord::usage::Vocabulary;
use crate::protocols::http1::{Event, ExchangeId, Finished, Media, Request};
use crate::protocols::llm::{Call, Follower, Inflaters, Progress};
use crate::units::{ConnId, Nanos, ServiceId, Side, Symbol, Tgid};

/// The label `protocol`.
const LLM: &str = "llm";

/// Calls of one process that are followed at once. One takes up to 11 KiB while its request comes, and then mostly half a KiB.
const CALLS_MAX: usize = 8192;

/// The label of a model of which no name was seen.
const UNKNOWN: &str = "unknown";

/// What a server answers that loads a model (RFC 9110, section 15.6.4).
const UNAVAILABLE: u16 = 503;

/// All calls under way.
#[derive(Debug, Default)]
pub(super) struct Models {
    calls: HashMap<(ConnId, ExchangeId), Following, foldhash::fast::RandomState>,
    /// How many of them each process has.
    counts: HashMap<Tgid, usize>,
    inflaters: Inflaters,
    /// What the GPUs do for calls that are served here, once there are any.
    gpus: Option<Gpus>,
    /// The number of the next call.
    next: u64,
}

/// What energy is counted under.
#[derive(Clone, Copy, Debug)]
enum Used {
    /// A call of this model that this service served.
    Call(ServiceId, Symbol),
    /// A reply of this bot.
    Reply(ServiceId),
}

/// What becomes of what the GPUs tell.
#[derive(Debug)]
struct Gpus {
    energy: EnergyShares<Used>,
    phases: Phases,
}

impl Gpus {
    fn change(&mut self, time: Nanos, change: Change) {
        match change {
            Change { from: None, .. } => self.energy.in_flight(time, 1),
            Change { to: None, .. } => self.energy.in_flight(time, -1),
            _ => {}
        }
        self.phases.change(time, change);
    }
}

/// A call under way.
#[derive(Debug)]
struct Following {
    id: LlmId,
    follower: Follower,
    /// The label `server_address`.
    server: Symbol,
    /// The other end is on this machine.
    here: bool,
    /// It is certain that it is one, and that was told.
    begun: bool,
    /// What is done for it now.
    stage: Stage,
    /// The bot was told of it.
    bot_knows: bool,
}

/// What a bot's replies are to know of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) llm: LlmId,
    /// It runs on this machine, as far as the server's address tells.
    pub(super) here: bool,
    /// It began, or that has just become certain.
    pub(super) began: bool,
    /// Something of the answer came, and whether that is the first token.
    pub(super) first_token: Option<bool>,
}

/// The models of one service, and which one answers.
#[derive(Debug)]
pub(super) struct Answering {
    names: Vocabulary,
    /// By server, which is a process of the service's own or has a name, and by whether vectors are asked for, since servers keep a
    /// model for each.
    last: HashMap<(Option<Tgid>, Symbol, bool), Last>,
    /// The service is a server, so what it calls is a part of what it does.
    serves: bool,
}

/// What answered last.
#[derive(Debug, Default)]
struct Last {
    model: Option<Symbol>,
    /// Since when the server refuses.
    refuses: Option<Nanos>,
}

impl Answering {
    /// The most names of models that are told apart.
    const NAMES_MAX: usize = 64;

    /// Servers of which it is kept in mind what answered last; where there were more, all are forgotten.
    const LAST_MAX: usize = 1_024;

    pub(super) fn new() -> Self {
        Self { names: Vocabulary::new(Self::NAMES_MAX), last: HashMap::new(), serves: false }
    }

    /// Takes in a call of a process that ended, and tells whether another model answers than before.
    fn answered(&mut self, tgid: Tgid, call: &Call, labels: &LlmLabels) -> Option<Llm> {
        self.serves |= call.side == Side::Server;
        if self.serves && call.side == Side::Client {
            return None;
        }
        let process = (call.side == Side::Server).then_some(tgid);
        let key = (process, labels.server, labels.operation == Operation::Embeddings);
        if self.last.len() >= Self::LAST_MAX && !self.last.contains_key(&key) {
            self.last.clear();
        }
        let last = self.last.entry(key).or_default();
        if call.status == Some(UNAVAILABLE) {
            last.refuses.get_or_insert(call.start);
        }
        if call.outcome != CallOutcome::Complete || !call.model_answered {
            return None;
        }
        let refused = last.refuses.take().map(|since| call.start.since(since));
        let before = last.model.replace(labels.model)?;
        let waited = [refused, call.queued].into_iter().flatten().reduce(|sum, more| sum + more);
        (before != labels.model).then_some(Llm::ModelSwitch { model: labels.model, load: call.load.or(waited) })
    }
}

impl Models {
    /// A request began. Whether the whole exchange is of interest, and what a bot is to know if the process `is_bot`.
    pub(super) fn request<S: Sink>(
        &mut self,
        id: ConnId,
        link: Link<'_>,
        request: &Request<'_>,
        is_bot: bool,
        out: &mut Out<'_, S>,
    ) -> (bool, Option<Heard>) {
        let Some(follower) = Follower::new(request, &self.inflaters) else { return (false, None) };
        let count = self.counts.entry(id.tgid).or_insert(0);
        if *count >= CALLS_MAX {
            out.observe(&Observation::Unmatched { protocol: LLM, reason: Unmatched::TableFull });
            return (false, None);
        }
        *count += 1;
        self.next += 1;
        let server = match request.side {
            Side::Server => Symbol::EMPTY,
            Side::Client => out.kept.servers.name(request.host, link, &mut out.names.symbols).address,
        };
        let here = link.peer.and_then(|peer| peer.ip).is_some_and(|ip| ip.is_loopback());
        let mut following = Following {
            id: LlmId(self.next),
            follower,
            server,
            here,
            begun: false,
            stage: Stage::Unclear,
            bot_knows: false,
        };
        let began = following.begin_if_certain(is_bot, &mut self.gpus, out);
        let heard = Heard { llm: following.id, here, began, first_token: None };
        if let Some(lost) = self.calls.insert((id, request.id), following) {
            // Another connection had this one's name, and its end was never told.
            self.forget(id.tgid, &lost, request.start, out);
        }
        (true, began.then_some(heard))
    }

    /// Takes in what was found of an exchange that is of interest.
    pub(super) fn tell<S: Sink>(
        &mut self,
        id: ConnId,
        event: &Event<'_>,
        is_bot: bool,
        out: &mut Out<'_, S>,
    ) -> Option<Heard> {
        let exchange = match event {
            Event::Body(piece) => piece.id,
            Event::Asked { id, .. } => *id,
            Event::Answered(answer) => answer.id,
            _ => return None,
        };
        let following = self.calls.get_mut(&(id, exchange))?;
        let Progress { tokens, first, gap, at_once } = following.follower.tell(event);
        let began = following.begin_if_certain(is_bot, &mut self.gpus, out);
        if gap.is_some() || at_once > 0 {
            let labels = following.labels(out);
            for (gap, count) in [(gap, 1), (Some(Nanos(0)), at_once)] {
                if let Some(gap) = gap.filter(|_| count > 0) {
                    out.llm(Llm::Gap { labels, gap, count });
                }
            }
        }
        let whole = matches!(event, Event::Answered(answer) if answer.media == Media::Json);
        let first_token = if first || whole { Some(true) } else { (tokens > 0).then_some(false) };
        following.go_on(event, first, &mut self.gpus);
        let heard = Heard { llm: following.id, here: following.here, began, first_token };
        (following.bot_knows && (began || first_token.is_some())).then_some(heard)
    }

    /// An exchange ended. Returned is the number of the call, if a bot knows of it.
    pub(super) fn finished<S: Sink>(
        &mut self,
        id: ConnId,
        finished: &Finished<'_>,
        out: &mut Out<'_, S>,
    ) -> Option<LlmId> {
        let following = self.calls.remove(&(id, finished.id))?;
        self.forget(id.tgid, &following, finished.end, out);
        let Following { id: llm, follower, server, bot_knows, .. } = following;
        let known = bot_knows.then_some(llm);
        let (side, operation) = (follower.side(), follower.endpoint().operation);
        let Some(call) = follower.finish(finished) else { return known };
        let (model, overflow) = model(call.model.as_deref(), out);
        let labels = LlmLabels { side, model, server, operation, streaming: call.streaming };
        if overflow {
            out.observe(&Observation::LabelOverflow { label: "model" });
        }
        if let Some(reason) = call.unread {
            out.observe(&Observation::Unmatched { protocol: LLM, reason });
        }
        if let Some(gpus) = self.gpus.as_mut().filter(|_| side == Side::Server) {
            gpus.energy.ended(Used::Call(out.service, model), vec![(call.start, call.end)]);
        }
        let since = |time: Nanos| time.since(call.start);
        out.llm(Llm::Call(LlmCall {
            labels,
            outcome: call.outcome,
            duration: since(call.end),
            first_byte: call.first_byte.map(since),
            first_token: call.first_token.filter(|_| call.first_token_certain).map(since),
            tokens_per_second: call.tokens_per_second,
            tokens: call.tokens,
            prompt: call.prompt,
            predicted: call.predicted,
            queued: call.queued,
            finish: call.finish,
        }));
        if let Some(switch) = out.kept.answering.answered(id.tgid, &call, &labels) {
            out.llm(switch);
        }
        known
    }

    /// The calls that are served here now.
    fn under_way(&self) -> UnderWay {
        let mut under_way = UnderWay::default();
        for call in self.calls.values().filter(|call| call.begun && call.follower.side() == Side::Server) {
            under_way.take_in(Change { from: None, to: Some(call.stage) });
        }
        under_way
    }

    /// A call is followed no more; it ended then.
    fn forget<S: Sink>(&mut self, tgid: Tgid, following: &Following, end: Nanos, out: &mut Out<'_, S>) {
        if let Some(count) = self.counts.get_mut(&tgid) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&tgid);
            }
        }
        if following.begun {
            following.served(end, Change { from: Some(following.stage), to: None }, &mut self.gpus);
            following.in_flight(-1, out);
        }
    }
}

impl Following {
    /// Tells that it is a call, once that is certain. Returned is whether a bot is to be told too.
    fn begin_if_certain<S: Sink>(&mut self, is_bot: bool, gpus: &mut Option<Gpus>, out: &mut Out<'_, S>) -> bool {
        if !self.follower.is_call() || std::mem::replace(&mut self.begun, true) {
            return false;
        }
        self.served(self.follower.start(), Change { from: None, to: Some(self.stage) }, gpus);
        self.in_flight(1, out);
        self.bot_knows = is_bot && self.follower.side() == Side::Client;
        self.bot_knows
    }

    /// It began, or ended.
    fn in_flight<S: Sink>(&self, change: i8, out: &mut Out<'_, S>) {
        out.llm(Llm::InFlight { side: self.follower.side(), server: self.server, change });
    }

    /// Finds out what is done for it after an event, with which the first token came or not.
    fn go_on(&mut self, event: &Event<'_>, first: bool, gpus: &mut Option<Gpus>) {
        let time = match event {
            Event::Body(piece) => piece.time,
            Event::Asked { time, .. } => *time,
            Event::Answered(answer) => answer.time,
            _ => return,
        };
        let has_phases =
            self.follower.streaming() == Some(true) || self.follower.endpoint().operation == Operation::Embeddings;
        let next = match self.stage {
            Stage::Unclear | Stage::Prompt if first && has_phases => Stage::Answer,
            Stage::Unclear if has_phases => Stage::Prompt,
            stage => stage,
        };
        if self.begun && next != self.stage {
            let change = Change { from: Some(std::mem::replace(&mut self.stage, next)), to: Some(next) };
            self.served(time, change, gpus);
        }
    }

    /// Takes in what became of it, if it is served here: where the server of a client's call is, and whose GPUs it uses, is not
    /// known.
    fn served(&self, time: Nanos, change: Change, gpus: &mut Option<Gpus>) {
        if let Some(gpus) = gpus.as_mut().filter(|_| self.follower.side() == Side::Server) {
            gpus.change(time, change);
        }
    }

    /// What tells it from others, as far as that is known by now.
    fn labels<S: Sink>(&self, out: &mut Out<'_, S>) -> LlmLabels {
        let (side, operation) = (self.follower.side(), self.follower.endpoint().operation);
        let (model, _) = model(self.follower.model(), out);
        LlmLabels { side, model, server: self.server, operation, streaming: self.follower.streaming() }
    }
}

impl<S: Sink, W> Pipeline<S, W> {
    /// Takes in what the GPUs told, and shares out what they drew among the calls that are served here.
    pub fn gpus(&mut self, sample: GpuSample) {
        if self.models.gpus.is_none() && sample.readings().next().is_none() {
            self.sink.observe(&Observation::Gpu(Gpu::Sample(sample)), &self.names);
            return;
        }
        let under_way = self.models.under_way();
        let new = || Gpus { energy: EnergyShares::default(), phases: Phases::new(under_way) };
        let gpus = self.models.gpus.get_or_insert_with(new);
        for (number, kept) in (0..).zip(&mut self.services) {
            for spans in kept.community.worked.drain(..) {
                gpus.energy.ended(Used::Reply(ServiceId(number)), spans.into_iter().flatten().collect());
            }
        }
        for (used, joules) in gpus.energy.reading(sample.time, sample.energy_joules()) {
            let observation = match used {
                Used::Call(service, model) => Observation::Llm { service, what: Llm::Energy { model, joules } },
                // Nothing was drawn for calls that are served where nobody watches.
                Used::Reply(_) if joules == 0.0 => continue,
                Used::Reply(service) => Observation::Discord { service, what: Discord::Energy { joules } },
            };
            self.sink.observe(&observation, &self.names);
        }
        let during = gpus.phases.sample(sample.clone());
        self.sink.observe(&Observation::Gpu(Gpu::Sample(sample)), &self.names);
        if let Some((phase, sample)) = during {
            self.sink.observe(&Observation::Gpu(Gpu::During(phase, sample)), &self.names);
        }
    }
}

/// The label of a model's name, and whether the name was over the cap.
fn model<S: Sink>(name: Option<&str>, out: &mut Out<'_, S>) -> (Symbol, bool) {
    match name {
        Some(name) => out.kept.answering.names.symbol(name, &mut out.names.symbols),
        None => (out.names.symbols.intern(UNKNOWN), false),
    }
}
