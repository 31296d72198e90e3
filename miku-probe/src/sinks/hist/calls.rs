//! Calls of language models: how long until the first token, how long between tokens, how many a second, by model.

use std::collections::HashMap;

use super::filter::Filter;
use super::gpus::{GpuRow, Gpus};
use super::recorder::{Latencies, Rates};
use crate::observations::{CallOutcome, Gpu, Llm, LlmCall, LlmLabels, Names, Operation};
use crate::units::{Nanos, ServiceId, Side, Symbol};

/// How calls ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends([u64; CallOutcome::ALL.len()]);

impl Ends {
    /// How many ended so.
    #[must_use]
    pub const fn get(&self, outcome: CallOutcome) -> u64 {
        self.0[outcome as usize]
    }

    /// How many ended.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.0.iter().sum()
    }

    fn record(&mut self, outcome: CallOutcome) {
        self.0[outcome as usize] += 1;
    }
}

/// Tokens as servers counted them; absent until one did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Of prompts, cached ones included.
    pub input: Option<u64>,
    /// Of answers.
    pub output: Option<u64>,
    /// Of prompts, those that servers had evaluated before.
    pub cached: Option<u64>,
}

/// The times of calls that are panels of their own.
#[derive(Clone, Debug, Default)]
pub struct Speeds {
    /// From a request's first byte to the first token.
    pub first_token: Latencies,
    /// From one token to the next.
    pub inter_token: Latencies,
    /// Tokens a second, one observation a call.
    pub rate: Rates,
}

/// What was seen of calls in a stretch of time.
#[derive(Clone, Debug, Default)]
pub struct CallWindow {
    /// How those that ended did so.
    pub ends: Ends,
    /// Durations of complete calls.
    pub duration: Latencies,
    /// The rest of their times, of those that were cut short too.
    pub speeds: Speeds,
    /// Their tokens.
    pub tokens: TokenCounts,
}

impl CallWindow {
    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.all() == 0 && self.speeds.inter_token.count() == 0
    }

    fn record(&mut self, call: &LlmCall) {
        self.ends.record(call.outcome);
        if call.outcome == CallOutcome::Complete {
            self.duration.record(call.duration);
        }
        self.speeds.record(call);
        let TokenCounts { input, output, cached } = &mut self.tokens;
        for (sum, count) in [(input, call.tokens.input), (output, call.tokens.output), (cached, call.tokens.cached)] {
            if let Some(count) = count {
                *sum = Some(sum.unwrap_or(0).saturating_add(count));
            }
        }
    }
}

impl Speeds {
    fn record(&mut self, call: &LlmCall) {
        if let Some(time) = call.first_token {
            self.first_token.record(time);
        }
        if let Some(rate) = call.tokens_per_second {
            self.rate.record(rate);
        }
    }
}

/// The name of a model, where it was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// The service.
    pub service: String,
    /// Which end the service is.
    pub side: Side,
    /// The server's name or address, for a client's calls; else empty.
    pub server: String,
    /// The model.
    pub model: String,
    /// What it was asked.
    pub operation: Operation,
}

/// What was seen of a model since the start.
#[derive(Clone, Debug)]
pub struct ModelRow {
    /// Which; nothing for all that came after the cap was reached.
    pub name: Option<ModelName>,
    /// How its calls ended.
    pub ends: Ends,
    /// Their times.
    pub speeds: Speeds,
}

/// What tells one model's row from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ModelKey {
    service: ServiceId,
    side: Side,
    server: Symbol,
    model: Symbol,
    operation: Operation,
}

/// The models, at most [`Models::MAX`] of them each on its own.
#[derive(Debug, Default)]
struct Models {
    rows: Vec<ModelRow>,
    index: HashMap<ModelKey, usize>,
    other: Option<Box<ModelRow>>,
}

impl Models {
    /// How many models have a row of their own.
    const MAX: usize = 16;

    fn row(&mut self, service: ServiceId, labels: &LlmLabels, names: &Names) -> &mut ModelRow {
        let LlmLabels { side, model, server, operation, .. } = *labels;
        let key = ModelKey { service, side, server, model, operation };
        if let Some(index) = self.index.get(&key) {
            return &mut self.rows[*index];
        }
        let row = |name| ModelRow { name, ends: Ends::default(), speeds: Speeds::default() };
        if self.rows.len() == Self::MAX {
            return self.other.get_or_insert_with(|| Box::new(row(None)));
        }
        self.index.insert(key, self.rows.len());
        self.rows.push(row(Some(ModelName {
            service: names.service(service).to_owned(),
            side,
            server: names.symbols.text(server).to_owned(),
            model: names.symbols.text(model).to_owned(),
            operation,
        })));
        self.rows.last_mut().expect("one was just pushed")
    }

    fn by_count(&self) -> Vec<ModelRow> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| std::cmp::Reverse(row.ends.all()));
        rows.extend(self.other.as_deref().cloned());
        rows
    }
}

/// What a frame shows of calls.
#[derive(Clone, Debug)]
pub struct Calls {
    /// What was seen in the interval.
    pub interval: CallWindow,
    /// What was seen since the start.
    pub total: CallWindow,
    /// Calls that are under way.
    pub in_flight: u64,
    /// The models by count, the highest first; the row of all others, if any, at the end.
    pub models: Vec<ModelRow>,
    /// The GPUs of the machine.
    pub gpus: Vec<GpuRow>,
}

/// The counts of calls since the start.
#[derive(Debug, Default)]
pub(super) struct CallTimes {
    interval: CallWindow,
    total: CallWindow,
    in_flight: i64,
    models: Models,
    gpus: Gpus,
}

impl CallTimes {
    /// Takes one observation in; tells whether the filter held back a call that ended.
    pub(super) fn record(&mut self, service: ServiceId, what: &Llm, filter: &Filter, names: &Names) -> bool {
        let side = match what {
            Llm::InFlight { side, .. } => *side,
            Llm::Call(LlmCall { labels, .. }) | Llm::Gap { labels, .. } => labels.side,
            Llm::ModelSwitch { .. } | Llm::Energy { .. } => return false,
        };
        if !filter.passes_side(service, side, names) {
            return matches!(what, Llm::Call(_));
        }
        match what {
            Llm::InFlight { change, .. } => self.in_flight += i64::from(*change),
            Llm::Call(call) => {
                self.interval.record(call);
                self.total.record(call);
                let row = self.models.row(service, &call.labels, names);
                row.ends.record(call.outcome);
                row.speeds.record(call);
            }
            Llm::Gap { labels, gap, count } => {
                let row = self.models.row(service, labels, names);
                for speeds in [&mut self.interval.speeds, &mut self.total.speeds, &mut row.speeds] {
                    speeds.inter_token.record_many(*gap, *count);
                }
            }
            Llm::ModelSwitch { .. } | Llm::Energy { .. } => {}
        }
        false
    }

    /// Takes in what GPUs do.
    pub(super) fn gpus(&mut self, what: &Gpu) {
        match what {
            Gpu::Sample(sample) => self.gpus.sample(sample),
            Gpu::During(phase, sample) => self.gpus.during(*phase, sample),
            Gpu::Allocations(_) => {}
        }
    }

    /// Forgets everything but what is under way.
    pub(super) fn reset(&mut self) {
        let mut gpus = std::mem::take(&mut self.gpus);
        gpus.reset();
        *self = Self { in_flight: self.in_flight, gpus, ..Self::default() };
    }

    /// Ends the interval at `now`, and tells what there is to show.
    pub(super) fn close_interval(&mut self, now: Nanos) -> Calls {
        Calls {
            interval: std::mem::take(&mut self.interval),
            total: self.total.clone(),
            in_flight: u64::try_from(self.in_flight).unwrap_or(0),
            models: self.models.by_count(),
            gpus: self.gpus.rows(now),
        }
    }
}
