//! What a server counted and timed of a call, whichever dialect it says it in.

use crate::observations::Tokens;
use crate::protocols::json::Number;
use crate::units::Nanos;

/// Fewer tokens take no time that could be told: llama.cpp begins to time with the first.
const TIMED_MIN: u64 = 2;

/// What was said so far. What is said again replaces what was said before, as servers that say it with every event mean it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    input: Option<u64>,
    output: Option<u64>,
    cached: Option<u64>,
    /// Of Anthropic, who does not count among the input what was in the cache or went there.
    cache_read: Option<u64>,
    cache_written: Option<u64>,
    /// Tokens of the output that nobody may see.
    reasoning: Option<u64>,
    /// Of llama.cpp's `timings`.
    prompt_n: Option<u64>,
    cache_n: Option<u64>,
    predicted_n: Option<u64>,
    predicted_per_second: Option<f64>,
    pub(super) prompt: Option<Nanos>,
    pub(super) predicted: Option<Nanos>,
    /// Of Ollama: how long it took to load the model, and all together.
    pub(super) load: Option<Nanos>,
    pub(super) total: Option<Nanos>,
}

impl Usage {
    /// Takes in what was said after this.
    pub(super) fn merge(&mut self, later: &Self) {
        let merge = |kept: &mut Option<u64>, later: Option<u64>| *kept = later.or(*kept);
        merge(&mut self.input, later.input);
        merge(&mut self.output, later.output);
        merge(&mut self.cached, later.cached);
        merge(&mut self.cache_read, later.cache_read);
        merge(&mut self.cache_written, later.cache_written);
        merge(&mut self.reasoning, later.reasoning);
        merge(&mut self.prompt_n, later.prompt_n);
        merge(&mut self.cache_n, later.cache_n);
        merge(&mut self.predicted_n, later.predicted_n);
        self.predicted_per_second = later.predicted_per_second.or(self.predicted_per_second);
        self.prompt = later.prompt.or(self.prompt);
        self.predicted = later.predicted.or(self.predicted);
        self.load = later.load.or(self.load);
        self.total = later.total.or(self.total);
    }

    /// Takes in a number of a `usage` object, or of one within it.
    pub(super) fn counted(&mut self, name: &str, number: Number<'_>) {
        let place = match name {
            "prompt_tokens" | "input_tokens" => &mut self.input,
            "completion_tokens" | "output_tokens" => &mut self.output,
            "cache_read_input_tokens" => &mut self.cache_read,
            "cache_creation_input_tokens" => &mut self.cache_written,
            "cached_tokens" | "prompt_cache_hit_tokens" => &mut self.cached,
            "reasoning_tokens" => &mut self.reasoning,
            _ => return,
        };
        *place = number.unsigned().or(*place);
    }

    /// Takes in a number of llama.cpp's `timings`.
    pub(super) fn timed(&mut self, name: &str, number: Number<'_>) {
        match name {
            "prompt_n" => self.prompt_n = number.unsigned().or(self.prompt_n),
            "cache_n" => self.cache_n = number.unsigned().or(self.cache_n),
            "predicted_n" => self.predicted_n = number.unsigned().or(self.predicted_n),
            "predicted_per_second" => {
                self.predicted_per_second =
                    number.float().filter(|rate| rate.is_finite()).or(self.predicted_per_second);
            }
            "prompt_ms" => self.prompt = milliseconds(number).or(self.prompt),
            "predicted_ms" => self.predicted = milliseconds(number).or(self.predicted),
            _ => {}
        }
    }

    /// Takes in a number that stands beside the text: Ollama's and llama.cpp's own.
    pub(super) fn beside(&mut self, name: &str, number: Number<'_>) {
        let nanoseconds = || number.unsigned().map(Nanos);
        match name {
            "prompt_eval_count" | "tokens_evaluated" => self.input = number.unsigned().or(self.input),
            "eval_count" | "tokens_predicted" => self.output = number.unsigned().or(self.output),
            "prompt_eval_duration" => self.prompt = nanoseconds().or(self.prompt),
            "eval_duration" => self.predicted = nanoseconds().or(self.predicted),
            "load_duration" => self.load = nanoseconds().or(self.load),
            "total_duration" => self.total = nanoseconds().or(self.total),
            _ => {}
        }
    }

    /// The names that [`Usage::beside`] knows, in quotes.
    pub(super) const BESIDE: [(&str, &str); 8] = [
        ("prompt_eval_count", "\"prompt_eval_count\""),
        ("tokens_evaluated", "\"tokens_evaluated\""),
        ("eval_count", "\"eval_count\""),
        ("tokens_predicted", "\"tokens_predicted\""),
        ("prompt_eval_duration", "\"prompt_eval_duration\""),
        ("eval_duration", "\"eval_duration\""),
        ("load_duration", "\"load_duration\""),
        ("total_duration", "\"total_duration\""),
    ];

    /// The tokens, in words that are the same for all dialects.
    pub(super) fn tokens(&self) -> Tokens {
        let elsewhere = self.cache_read.unwrap_or(0).saturating_add(self.cache_written.unwrap_or(0));
        let timed = || self.cache_n?.checked_add(self.prompt_n?);
        Tokens {
            input: self.input.map(|input| input.saturating_add(elsewhere)).or_else(timed),
            output: self.output.or(self.predicted_n),
            cached: self.cached.or(self.cache_read).or(self.cache_n),
        }
    }

    /// Tokens a second, as the server timed them; or else, of a stream of which the times of the first token and the last
    /// are certain, those that it counted over that time. Nothing where part of them was not to be seen.
    pub(super) fn tokens_per_second(&self, stream: Option<(Nanos, Nanos)>) -> Option<f64> {
        let enough = |tokens: &u64| *tokens >= TIMED_MIN;
        let rate = |tokens: u64, time: Nanos| {
            #[allow(clippy::cast_precision_loss, reason = "nobody generates more tokens than a double holds")]
            let tokens = tokens as f64;
            (time.0 > 0).then(|| tokens / time.seconds())
        };
        let tokens = self.predicted_n.or(self.output).filter(enough)?;
        if self.predicted_per_second.is_some() {
            return self.predicted_per_second;
        }
        if let Some(predicted) = self.predicted {
            return rate(tokens, predicted);
        }
        let (first, last) = stream.filter(|_| self.reasoning.is_none_or(|hidden| hidden == 0))?;
        // The first of them came when the time began.
        rate(tokens - 1, last.since(first))
    }

    /// How long a call waited that took so long to its end and, if it was streamed, to its first token: what the server's
    /// own times leave of that.
    pub(super) fn queued(&self, duration: Nanos, first_token: Option<Nanos>) -> Option<Nanos> {
        if let Some(total) = self.total {
            return Some(duration.since(total));
        }
        match (first_token, self.prompt, self.predicted) {
            (Some(first), Some(prompt), _) => Some(first.since(prompt)),
            (None, Some(prompt), Some(predicted)) => Some(duration.since(prompt + predicted)),
            _ => None,
        }
    }
}

/// The most milliseconds that are believed: some 30 years.
const MILLISECONDS_MAX: f64 = 1e12;

fn milliseconds(number: Number<'_>) -> Option<Nanos> {
    let milliseconds = number.float().filter(|milliseconds| (0.0..MILLISECONDS_MAX).contains(milliseconds))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is neither negative nor that large")]
    let nanos = (milliseconds * 1e6) as u64;
    Some(Nanos(nanos))
}
