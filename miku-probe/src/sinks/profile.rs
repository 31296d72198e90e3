//! A profile: how often which stack was seen, and the three forms in which it is written down.

mod folded;
mod pprof;
mod svg;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::observations::Place;

/// Different stacks of one profile; what comes after is counted as [`OVERFULL`].
const STACKS_MAX: usize = 100_000;

/// The function that stands for all stacks above [`STACKS_MAX`].
const OVERFULL: &str = "(other stacks)";

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line for each stack, outermost first, with its count: what flame graph tools read.
    Folded,
    /// A picture, a flame graph.
    Svg,
    /// The gzipped protocol buffer that `go tool pprof` and its like read.
    Pprof,
}

/// One call in a stack.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// What is no function: a process, or a remark.
    Root(String),
    /// A function of Python's, at a line.
    Python(Place),
}

/// `function (file:line)`, or the root's own text.
impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(text) => formatter.write_str(text),
            Self::Python(place) => place.fmt(formatter),
        }
    }
}

/// How often which stack was seen.
#[derive(Clone, Debug)]
pub struct Profile {
    /// From one look to the next.
    pub period: Duration,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Stacks, outermost call first, and how often each was seen.
    stacks: BTreeMap<Vec<Call>, u64>,
}

impl Profile {
    /// One that has seen nothing.
    #[must_use]
    pub fn new(period: Duration, start: SystemTime) -> Self {
        Self { period, start, duration: Duration::ZERO, stacks: BTreeMap::new() }
    }

    /// Counts a stack, outermost call first.
    pub fn add(&mut self, stack: Vec<Call>) {
        self.count(stack, 1);
    }

    /// Takes in all that another one counted.
    pub fn merge(&mut self, other: Self) {
        for (stack, count) in other.stacks {
            self.count(stack, count);
        }
    }

    fn count(&mut self, stack: Vec<Call>, count: u64) {
        let full = self.stacks.len() >= STACKS_MAX && !self.stacks.contains_key(&stack);
        let stack = if full { vec![Call::Root(OVERFULL.to_owned())] } else { stack };
        *self.stacks.entry(stack).or_default() += count;
    }

    /// How many stacks were seen, each as often as it was.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.stacks.values().sum()
    }

    /// Writes it.
    ///
    /// # Errors
    /// When `output` cannot be written to.
    pub fn write(&self, form: Form, output: &mut impl Write) -> io::Result<()> {
        match form {
            Form::Folded => folded::write(self, output),
            Form::Svg => svg::write(self, output),
            Form::Pprof => pprof::write(self, output),
        }
    }
}

#[cfg(test)]
mod testing {
    use super::*;

    /// A stack of functions in `bot.py`, outermost first.
    pub(super) fn stack(functions: &[(&str, u32)]) -> Vec<Call> {
        let call = |(function, line): &(&str, u32)| {
            Call::Python(Place {
                file: "/srv/bot.py".to_owned(),
                function: (*function).to_owned(),
                line: Some(*line).filter(|line| *line > 0),
            })
        };
        std::iter::once(Call::Root("bot".to_owned())).chain(functions.iter().map(call)).collect()
    }

    /// `main` at work in two functions, and one stack that is neither.
    pub(super) fn profile() -> Profile {
        let mut profile = Profile::new(Duration::from_millis(10), SystemTime::UNIX_EPOCH);
        for _ in 0..3 {
            profile.add(stack(&[("main", 40), ("work", 7)]));
        }
        profile.add(stack(&[("main", 41), ("a;b <c>", 0)]));
        profile.duration = Duration::from_secs(1);
        profile
    }

    #[test]
    fn stacks_are_counted_and_merged() {
        let mut whole = profile();
        whole.merge(profile());
        assert_eq!(whole.samples(), 8);
        assert_eq!(whole.stacks.len(), 2);
        assert_eq!(whole.stacks[&stack(&[("main", 40), ("work", 7)])], 6);
    }
}
