//! What is told of calls of language models: how long they take, their tokens, and the models behind them.

use prometheus::{Counter, Histogram, IntCounter, IntGauge};

use super::FastMap;
use super::catalog::{Catalog, HTTP_BUCKETS, TOKEN_BUCKETS, TOKEN_RATE_BUCKETS, family};
use super::keys::Text;
use crate::observations::{CallOutcome, Finish, Llm, LlmCall, LlmLabels, Names, Operation, Tokens};
use crate::sinks::families::Family;
use crate::units::{Nanos, ServiceId, Side, Symbol};

/// How many different combinations of a call's labels are told apart before models become `other`.
///
/// Each takes about 4 KiB of memory and 15 KiB of an uncompressed scrape.
const CALL_LIMIT: usize = 200;

/// How many combinations without a model are told apart beyond [`CALL_LIMIT`] before servers become `other` too.
const CALL_RESERVE: usize = 100;

/// How many different combinations of service, side and server have a gauge of their own before servers become `other`.
const SERVER_LIMIT: usize = 500;

/// How many models of all services have their switches told apart before the rest is `other`.
const MODEL_LIMIT: usize = 500;

/// A label that was over its cap, if any.
type Overflow = Option<&'static str>;

/// The families of language models.
struct Families {
    duration: Family<Histogram, 7>,
    first_token: Family<Histogram, 6>,
    inter_token: Family<Histogram, 6>,
    rate: Family<Histogram, 6>,
    tokens: Family<IntCounter, 5>,
    started: Family<IntCounter, 3>,
    in_flight: Family<IntGauge, 3>,
    prompt: Family<Counter, 3>,
    predicted: Family<Counter, 3>,
    energy: Family<Counter, 2>,
    queue: Family<Histogram, 6>,
    finishes: Family<IntCounter, 4>,
    switches: Family<IntCounter, 2>,
    load: Family<Histogram, 2>,
}

impl Families {
    fn new(catalog: &Catalog) -> Self {
        const CALL: [&str; 6] = ["service", "side", "model", "server_address", "operation", "streaming"];
        let [service, side, model, server, operation, streaming] = CALL;
        Self {
            duration: family(
                catalog,
                "miku_llm_request_duration_seconds",
                "Duration of calls of language models, from the first byte of the request to the last byte of the answer, or \
                 to the end of what was seen of a call that was cut short or not seen whole.",
                [service, side, model, server, operation, streaming, "outcome"],
                HTTP_BUCKETS,
            ),
            first_token: family(
                catalog,
                "miku_llm_time_to_first_token_seconds",
                "Time from the first byte of a request to the first token of the answer, of calls that are streamed. Neither \
                 the answer's head nor its role is a token.",
                CALL,
                HTTP_BUCKETS,
            ),
            inter_token: family(
                catalog,
                "miku_llm_inter_token_seconds",
                "Time between one token of a streamed answer and the next.",
                CALL,
                TOKEN_BUCKETS,
            ),
            rate: family(
                catalog,
                "miku_llm_output_tokens_per_second",
                "Tokens of an answer by the time that it took to generate them, one observation a call.",
                CALL,
                TOKEN_RATE_BUCKETS,
            ),
            tokens: family(
                catalog,
                "miku_llm_tokens_total",
                "Tokens as the servers counted them; cached ones are input too. Calls of which the server did not say are not \
                 in it.",
                [service, side, model, server, "type"],
                &[],
            ),
            started: family(
                catalog,
                "miku_llm_requests_started_total",
                "Calls of language models that have begun. Each is in flight or among miku_llm_request_duration_seconds.",
                ["service", "side", "server_address"],
                &[],
            ),
            in_flight: family(
                catalog,
                "miku_llm_requests_in_flight",
                "Calls of language models that began and have not ended.",
                [service, side, server],
                &[],
            ),
            prompt: family(
                catalog,
                "miku_llm_prompt_seconds_total",
                "Time that servers say they evaluated prompts (llama.cpp's timings).",
                [service, side, model],
                &[],
            ),
            predicted: family(
                catalog,
                "miku_llm_predicted_seconds_total",
                "Time that servers say they generated answers (llama.cpp's timings).",
                [service, side, model],
                &[],
            ),
            energy: family(
                catalog,
                "miku_llm_energy_joules_total",
                "Energy that the GPUs of this machine drew for calls of language models that are served here: all that they drew \
                 while calls were under way, at each moment in equal parts.",
                [service, model],
                &[],
            ),
            queue: family(
                catalog,
                "miku_llm_queue_seconds",
                "How long calls waited before the server began with them: what of their time the server's own timings do not \
                 account for.",
                CALL,
                HTTP_BUCKETS,
            ),
            finishes: family(
                catalog,
                "miku_llm_finishes_total",
                "Answers by why the model stopped, as their servers said.",
                [service, side, model, "reason"],
                &[],
            ),
            switches: family(
                catalog,
                "miku_llm_model_switches_total",
                "Times that another model answered than before, by the one that answered then.",
                [service, model],
                &[],
            ),
            load: family(
                catalog,
                "miku_llm_model_load_seconds",
                "How long the first call after a switch waited for its model to be loaded.",
                [service, model],
                HTTP_BUCKETS,
            ),
        }
    }
}

/// Everything that tells a call's series from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    service: ServiceId,
    side: Side,
    model: Text,
    server: Text,
    operation: Operation,
    streaming: Option<bool>,
}

impl Key {
    fn of(service: ServiceId, labels: &LlmLabels) -> Self {
        let LlmLabels { side, model, server, operation, streaming } = *labels;
        Self { service, side, model: Text::Symbol(model), server: Text::Symbol(server), operation, streaming }
    }

    fn labels(self, names: &Names) -> [&str; 6] {
        let streaming = match self.streaming {
            Some(true) => "true",
            Some(false) => "false",
            None => "unknown",
        };
        [
            names.service(self.service),
            self.side.as_str(),
            self.model.text(names),
            self.server.text(names),
            self.operation.as_str(),
            streaming,
        ]
    }
}

/// The series of calls with the same labels; none until there is something to tell. Some are shared with calls that differ in
/// what those series do not tell.
#[derive(Default)]
struct CallSeries {
    duration: [Option<Histogram>; CallOutcome::ALL.len()],
    first_token: Option<Histogram>,
    inter_token: Option<Histogram>,
    rate: Option<Histogram>,
    input: Option<IntCounter>,
    output: Option<IntCounter>,
    cached: Option<IntCounter>,
    prompt: Option<Counter>,
    predicted: Option<Counter>,
    queue: Option<Histogram>,
    finishes: [Option<IntCounter>; Finish::ALL.len()],
}

impl CallSeries {
    fn observe(&mut self, families: &Families, call: &LlmCall, labels: [&str; 6]) {
        let [service, side, model, server, operation, streaming] = labels;
        self.duration[call.outcome as usize]
            .get_or_insert_with(|| {
                let outcome = call.outcome.as_str();
                families.duration.get([service, side, model, server, operation, streaming, outcome])
            })
            .observe(call.duration.seconds());
        if let Some(time) = call.first_token {
            self.first_token.get_or_insert_with(|| families.first_token.get(labels)).observe(time.seconds());
        }
        if let Some(rate) = call.tokens_per_second {
            self.rate.get_or_insert_with(|| families.rate.get(labels)).observe(rate);
        }
        if let Some(time) = call.queued {
            self.queue.get_or_insert_with(|| families.queue.get(labels)).observe(time.seconds());
        }
        if let Some(reason) = call.finish {
            self.finishes[reason as usize]
                .get_or_insert_with(|| families.finishes.get([service, side, model, reason.as_str()]))
                .inc();
        }
        let Tokens { input, output, cached } = call.tokens;
        for (slot, count, kind) in [
            (&mut self.input, input, "input"),
            (&mut self.output, output, "output"),
            (&mut self.cached, cached, "cached"),
        ] {
            if let Some(count) = count {
                slot.get_or_insert_with(|| families.tokens.get([service, side, model, server, kind])).inc_by(count);
            }
        }
        for (slot, time, family) in [
            (&mut self.prompt, call.prompt, &families.prompt),
            (&mut self.predicted, call.predicted, &families.predicted),
        ] {
            if let Some(time) = time {
                slot.get_or_insert_with(|| family.get([service, side, model])).inc_by(time.seconds());
            }
        }
    }
}

/// How many calls have begun and how many are under way.
struct RequestSeries {
    started: IntCounter,
    in_flight: IntGauge,
}

/// The series of a model's switches.
struct SwitchSeries {
    count: IntCounter,
    /// None until the time of one is known.
    load: Option<Histogram>,
}

/// The series of language models.
pub(super) struct Series {
    families: Families,
    calls: FastMap<Key, CallSeries>,
    requests: FastMap<(ServiceId, Side, Text), RequestSeries>,
    switches: FastMap<(ServiceId, Text), SwitchSeries>,
    energy: FastMap<(ServiceId, Text), Counter>,
}

impl Series {
    pub(super) fn new(catalog: &Catalog) -> Self {
        Self {
            families: Families::new(catalog),
            calls: FastMap::default(),
            requests: FastMap::default(),
            switches: FastMap::default(),
            energy: FastMap::default(),
        }
    }

    /// Takes one observation in, and tells whether a label was over its cap.
    pub(super) fn observe(&mut self, service: ServiceId, what: &Llm, names: &Names) -> Overflow {
        match what {
            Llm::InFlight { side, server, change } => self.in_flight(service, *side, *server, *change, names),
            Llm::Call(call) => {
                let (key, overflow) = self.admit(Key::of(service, &call.labels));
                self.calls.entry(key).or_default().observe(&self.families, call, key.labels(names));
                overflow
            }
            Llm::Gap { labels, gap, count } => {
                let (key, overflow) = self.admit(Key::of(service, labels));
                let series = self.calls.entry(key).or_default();
                let family = &self.families.inter_token;
                let histogram = series.inter_token.get_or_insert_with(|| family.get(key.labels(names)));
                for _ in 0..*count {
                    histogram.observe(gap.seconds());
                }
                overflow
            }
            Llm::ModelSwitch { model, load } => self.switched(service, *model, *load, names),
            Llm::Energy { model, joules } => self.drawn(service, *model, *joules, names),
        }
    }

    /// The key under which a combination is counted: its own while there is room, else one with fewer texts.
    fn admit(&self, mut key: Key) -> (Key, Overflow) {
        if self.calls.contains_key(&key) || self.calls.len() < CALL_LIMIT {
            return (key, None);
        }
        key.model = Text::Other;
        if self.calls.contains_key(&key) || self.calls.len() < CALL_LIMIT + CALL_RESERVE {
            return (key, Some("model"));
        }
        key.server = key.server.collapsed();
        (key, Some("server_address"))
    }

    fn in_flight(&mut self, service: ServiceId, side: Side, server: Symbol, change: i8, names: &Names) -> Overflow {
        let mut key = (service, side, Text::Symbol(server));
        let over = self.requests.len() >= SERVER_LIMIT && !self.requests.contains_key(&key);
        if over {
            key.2 = key.2.collapsed();
        }
        let Self { families, requests, .. } = self;
        let series = requests.entry(key).or_insert_with(|| {
            let labels = [names.service(service), side.as_str(), key.2.text(names)];
            RequestSeries { started: families.started.get(labels), in_flight: families.in_flight.get(labels) }
        });
        series.in_flight.add(i64::from(change));
        series.started.inc_by(u64::try_from(change).unwrap_or(0));
        over.then_some("server_address")
    }

    fn drawn(&mut self, service: ServiceId, model: Symbol, joules: f64, names: &Names) -> Overflow {
        let mut key = (service, Text::Symbol(model));
        let over = self.energy.len() >= MODEL_LIMIT && !self.energy.contains_key(&key);
        if over {
            key.1 = Text::Other;
        }
        let family = &self.families.energy;
        let counter = self.energy.entry(key).or_insert_with(|| family.get([names.service(service), key.1.text(names)]));
        counter.inc_by(joules.max(0.0));
        over.then_some("model")
    }

    fn switched(&mut self, service: ServiceId, model: Symbol, load: Option<Nanos>, names: &Names) -> Overflow {
        let mut key = (service, Text::Symbol(model));
        let over = self.switches.len() >= MODEL_LIMIT && !self.switches.contains_key(&key);
        if over {
            key.1 = Text::Other;
        }
        let labels = [names.service(service), key.1.text(names)];
        let families = &self.families;
        let series = self
            .switches
            .entry(key)
            .or_insert_with(|| SwitchSeries { count: families.switches.get(labels), load: None });
        series.count.inc();
        if let Some(time) = load {
            series.load.get_or_insert_with(|| families.load.get(labels)).observe(time.seconds());
        }
        over.then_some("model")
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::OTHER;
    use super::super::{BuildInfo, Metrics};
    use super::*;
    use crate::observations::{Observation, Sink};

    const BOT: ServiceId = ServiceId(0);
    const MILLISECOND: u64 = 1_000_000;

    fn sink() -> (Metrics, Names) {
        (Metrics::new(&BuildInfo::current()), Names { services: vec!["bot".to_owned()], ..Names::default() })
    }

    fn see(metrics: &mut Metrics, names: &Names, what: Llm) {
        metrics.observe(&Observation::Llm { service: BOT, what }, names);
    }

    fn labels(names: &mut Names) -> LlmLabels {
        LlmLabels {
            side: Side::Client,
            model: names.symbols.intern("miku-7b"),
            server: names.symbols.intern("llm.lan"),
            operation: Operation::Chat,
            streaming: Some(true),
        }
    }

    /// A streamed call of which all is known.
    fn call(labels: LlmLabels) -> LlmCall {
        LlmCall {
            labels,
            outcome: CallOutcome::Complete,
            duration: Nanos(1_500 * MILLISECOND),
            first_byte: Some(Nanos(10 * MILLISECOND)),
            first_token: Some(Nanos(250 * MILLISECOND)),
            tokens_per_second: Some(40.0),
            tokens: Tokens { input: Some(100), output: Some(50), cached: Some(80) },
            prompt: Some(Nanos(200 * MILLISECOND)),
            predicted: Some(Nanos(1_250 * MILLISECOND)),
            queued: Some(Nanos(50 * MILLISECOND)),
            finish: Some(Finish::Length),
        }
    }

    /// The samples that start so, without buckets.
    fn told(metrics: &Metrics, start: &str) -> Vec<String> {
        let families = metrics.registry().gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("a String takes all");
        let lines = text.lines().filter(|line| line.starts_with(start) && !line.contains("_bucket{"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn nothing_is_told_before_it_is_seen() {
        assert_eq!(told(&sink().0, "miku_llm_"), Vec::<String>::new());
    }

    #[test]
    fn a_call_of_which_all_is_known_is_told_with_all_its_labels() {
        let (mut metrics, mut names) = sink();
        let labels = labels(&mut names);
        see(&mut metrics, &names, Llm::Gap { labels, gap: Nanos(25 * MILLISECOND), count: 2 });
        see(&mut metrics, &names, Llm::Call(call(labels)));
        let less = "operation=\"chat\",server_address=\"llm.lan\",service=\"bot\",side=\"client\",streaming=\"true\"";
        let place = "model=\"miku-7b\",server_address=\"llm.lan\",service=\"bot\",side=\"client\"";
        let model = "model=\"miku-7b\",service=\"bot\",side=\"client\"";
        let outcome = "operation=\"chat\",outcome=\"complete\",server_address=\"llm.lan\",service=\"bot\",side=\"client\",streaming=\"true\"";
        assert_eq!(
            told(&metrics, "miku_llm_"),
            [
                "miku_llm_finishes_total{model=\"miku-7b\",reason=\"length\",service=\"bot\",side=\"client\"} 1"
                    .to_owned(),
                format!("miku_llm_inter_token_seconds_sum{{model=\"miku-7b\",{less}}} 0.05"),
                format!("miku_llm_inter_token_seconds_count{{model=\"miku-7b\",{less}}} 2"),
                format!("miku_llm_output_tokens_per_second_sum{{model=\"miku-7b\",{less}}} 40"),
                format!("miku_llm_output_tokens_per_second_count{{model=\"miku-7b\",{less}}} 1"),
                format!("miku_llm_predicted_seconds_total{{{model}}} 1.25"),
                format!("miku_llm_prompt_seconds_total{{{model}}} 0.2"),
                format!("miku_llm_queue_seconds_sum{{model=\"miku-7b\",{less}}} 0.05"),
                format!("miku_llm_queue_seconds_count{{model=\"miku-7b\",{less}}} 1"),
                format!("miku_llm_request_duration_seconds_sum{{model=\"miku-7b\",{outcome}}} 1.5"),
                format!("miku_llm_request_duration_seconds_count{{model=\"miku-7b\",{outcome}}} 1"),
                format!("miku_llm_time_to_first_token_seconds_sum{{model=\"miku-7b\",{less}}} 0.25"),
                format!("miku_llm_time_to_first_token_seconds_count{{model=\"miku-7b\",{less}}} 1"),
                format!("miku_llm_tokens_total{{{place},type=\"cached\"}} 80"),
                format!("miku_llm_tokens_total{{{place},type=\"input\"}} 100"),
                format!("miku_llm_tokens_total{{{place},type=\"output\"}} 50"),
            ]
        );
    }

    #[test]
    fn what_is_not_known_of_a_call_is_absent_and_not_zero() {
        let (mut metrics, mut names) = sink();
        let unknown = LlmLabels {
            side: Side::Server,
            model: names.symbols.intern("unknown"),
            server: Symbol::EMPTY,
            operation: Operation::TextCompletion,
            streaming: None,
        };
        let bare = LlmCall {
            outcome: CallOutcome::Aborted,
            first_byte: None,
            first_token: None,
            tokens_per_second: None,
            tokens: Tokens { input: None, output: Some(0), cached: None },
            prompt: None,
            predicted: None,
            queued: None,
            finish: None,
            ..call(unknown)
        };
        see(&mut metrics, &names, Llm::Call(bare));
        let place = "model=\"unknown\",service=\"bot\",side=\"server\"";
        let labels = "model=\"unknown\",operation=\"text_completion\",outcome=\"aborted\",service=\"bot\",side=\"server\",streaming=\"unknown\"";
        assert_eq!(
            told(&metrics, "miku_llm_"),
            [
                format!("miku_llm_request_duration_seconds_sum{{{labels}}} 1.5"),
                format!("miku_llm_request_duration_seconds_count{{{labels}}} 1"),
                format!("miku_llm_tokens_total{{{place},type=\"output\"}} 0"),
            ]
        );
    }

    #[test]
    fn buckets_are_those_of_the_contract() {
        let contract = |text: &str| -> Vec<f64> {
            text.split(' ').map(|bound| bound.parse().expect("the contract's bounds are numbers")).collect()
        };
        let http = contract(".005 .01 .025 .05 .075 .1 .25 .5 .75 1 2.5 5 7.5 10 30 60 120 300");
        let token = contract(".001 .0025 .005 .01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 10");
        let rate = contract("1 2 5 10 20 30 40 60 80 100 150 200 400 800");
        let (mut metrics, mut names) = sink();
        let labels = labels(&mut names);
        see(&mut metrics, &names, Llm::Gap { labels, gap: Nanos(1), count: 1 });
        see(&mut metrics, &names, Llm::Call(call(labels)));
        see(&mut metrics, &names, Llm::ModelSwitch { model: labels.model, load: Some(Nanos(1)) });
        let families = metrics.registry().gather();
        let llm = families.iter().filter(|family| family.name().starts_with("miku_llm_"));
        let mut seen = Vec::new();
        for family in llm.filter(|family| family.get_field_type() == prometheus::proto::MetricType::HISTOGRAM) {
            let buckets = family.get_metric()[0].get_histogram().get_bucket();
            let bounds: Vec<f64> = buckets.iter().map(prometheus::proto::Bucket::upper_bound).collect();
            let expected = match family.name() {
                "miku_llm_inter_token_seconds" => &token,
                "miku_llm_output_tokens_per_second" => &rate,
                _ => &http,
            };
            assert_eq!(&bounds, expected, "of {}", family.name());
            seen.push(family.name().to_owned());
        }
        assert_eq!(
            seen,
            [
                "miku_llm_inter_token_seconds",
                "miku_llm_model_load_seconds",
                "miku_llm_output_tokens_per_second",
                "miku_llm_queue_seconds",
                "miku_llm_request_duration_seconds",
                "miku_llm_time_to_first_token_seconds",
            ]
        );
    }

    #[test]
    fn outcomes_are_told_apart_and_share_what_has_no_outcome() {
        let (mut metrics, mut names) = sink();
        let labels = labels(&mut names);
        for outcome in CallOutcome::ALL {
            see(&mut metrics, &names, Llm::Call(LlmCall { outcome, ..call(labels) }));
        }
        let whole = LlmLabels { streaming: Some(false), operation: Operation::Embeddings, ..labels };
        see(&mut metrics, &names, Llm::Call(call(whole)));
        assert_eq!(told(&metrics, "miku_llm_request_duration_seconds_count").len(), 5);
        let first = told(&metrics, "miku_llm_time_to_first_token_seconds_count");
        assert_eq!(first.iter().filter(|line| line.ends_with(" 4")).count(), 1, "{first:?}");
        let output = told(&metrics, "miku_llm_tokens_total");
        let output: Vec<_> = output.iter().filter(|line| line.contains("type=\"output\"")).collect();
        assert_eq!(output.len(), 1, "neither operation nor stream tells tokens apart: {output:?}");
        assert!(output[0].ends_with(" 250"), "{output:?}");
    }

    #[test]
    fn calls_in_flight_are_a_gauge() {
        let (mut metrics, mut names) = sink();
        let server = names.symbols.intern("llm.lan");
        for (side, server, change) in [
            (Side::Client, server, 1),
            (Side::Client, server, 1),
            (Side::Server, Symbol::EMPTY, 1),
            (Side::Client, server, -1),
        ] {
            see(&mut metrics, &names, Llm::InFlight { side, server, change });
        }
        assert_eq!(
            told(&metrics, "miku_llm_"),
            [
                "miku_llm_requests_in_flight{service=\"bot\",side=\"server\"} 1",
                "miku_llm_requests_in_flight{server_address=\"llm.lan\",service=\"bot\",side=\"client\"} 1",
                "miku_llm_requests_started_total{service=\"bot\",side=\"server\"} 1",
                "miku_llm_requests_started_total{server_address=\"llm.lan\",service=\"bot\",side=\"client\"} 2",
            ]
        );
    }

    #[test]
    fn a_switch_has_a_load_time_only_where_that_is_known() {
        let (mut metrics, mut names) = sink();
        let [first, second] = ["a", "b"].map(|model| names.symbols.intern(model));
        for (model, load) in [(first, None), (second, Some(Nanos(4_000 * MILLISECOND))), (first, None)] {
            see(&mut metrics, &names, Llm::ModelSwitch { model, load });
        }
        assert_eq!(
            told(&metrics, "miku_llm_"),
            [
                "miku_llm_model_load_seconds_sum{model=\"b\",service=\"bot\"} 4",
                "miku_llm_model_load_seconds_count{model=\"b\",service=\"bot\"} 1",
                "miku_llm_model_switches_total{model=\"a\",service=\"bot\"} 2",
                "miku_llm_model_switches_total{model=\"b\",service=\"bot\"} 1",
            ]
        );
    }

    #[test]
    fn energy_adds_up_by_model_and_none_is_taken_back() {
        let (mut metrics, mut names) = sink();
        let model = names.symbols.intern("miku-7b");
        for joules in [2.5, -1.0, 0.5] {
            see(&mut metrics, &names, Llm::Energy { model, joules });
        }
        assert_eq!(told(&metrics, "miku_llm_"), ["miku_llm_energy_joules_total{model=\"miku-7b\",service=\"bot\"} 3"]);
    }

    #[test]
    fn no_flood_of_models_and_servers_grows_the_series_past_the_caps_or_loses_a_count() {
        const SENT: usize = 2_000;
        let (mut metrics, mut names) = sink();
        let base = labels(&mut names);
        for number in 0..SENT {
            let text = names.symbols.intern(&format!("name-{number}"));
            let labels = LlmLabels { model: text, server: text, ..base };
            see(&mut metrics, &names, Llm::InFlight { side: Side::Client, server: text, change: 1 });
            see(&mut metrics, &names, Llm::Gap { labels, gap: Nanos(1), count: 1 });
            see(&mut metrics, &names, Llm::Call(call(labels)));
            see(&mut metrics, &names, Llm::ModelSwitch { model: text, load: None });
            see(&mut metrics, &names, Llm::Energy { model: text, joules: 1.0 });
        }
        let value = |line: &String| line.rsplit(' ').next().and_then(|value| value.parse::<usize>().ok());
        for (family, series) in [
            ("miku_llm_request_duration_seconds_count", CALL_LIMIT + CALL_RESERVE + 1),
            ("miku_llm_inter_token_seconds_count", CALL_LIMIT + CALL_RESERVE + 1),
            ("miku_llm_requests_in_flight", SERVER_LIMIT + 1),
            ("miku_llm_model_switches_total", MODEL_LIMIT + 1),
            ("miku_llm_energy_joules_total", MODEL_LIMIT + 1),
        ] {
            let told = told(&metrics, family);
            assert_eq!(told.len(), series, "{family}");
            assert_eq!(told.iter().filter_map(value).sum::<usize>(), SENT, "{family}");
            assert!(told.iter().any(|line| line.contains(&format!("\"{OTHER}\""))), "{family}");
        }
        for number in 0..SENT {
            let server = names.symbols.intern(&format!("name-{number}"));
            see(&mut metrics, &names, Llm::InFlight { side: Side::Client, server, change: -1 });
        }
        let left = told(&metrics, "miku_llm_requests_in_flight");
        assert_eq!(left.iter().filter_map(value).sum::<usize>(), 0, "each went where it had come from: {left:?}");
        for label in ["model", "server_address"] {
            let overflow = told(&metrics, &format!("miku_probe_label_overflow_total{{label=\"{label}\"}}"));
            assert_eq!(overflow.len(), 1, "{label}");
        }
    }
}
