//! What a run of the tests amounts to: how each part went, which tests were skipped and why, and the exit code.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::sh::say;

/// How a part of the tests went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed(String),
    /// It did not run, for this reason.
    Skipped(String),
    /// It ran, or tried to, and what is outside this project kept it from an answer. The first word says what that is.
    Undecided(&'static str, String),
    Failed(String),
}

impl Outcome {
    pub(super) fn of(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed(String::new()),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    fn line(&self, name: &str) -> String {
        let (word, why) = match self {
            Self::Passed(what) => ("ok", what),
            Self::Skipped(why) => ("SKIPPED", why),
            Self::Undecided(word, why) => (*word, why),
            Self::Failed(why) => ("FAILED", why),
        };
        format!("{name:<22} {word:<12} {why}").trim_end().to_owned()
    }
}

/// How all parts went.
#[derive(Debug, Default)]
pub(super) struct Summary {
    parts: Vec<(&'static str, Outcome)>,
    /// Tests that were skipped within parts, by reason.
    tests: BTreeMap<String, usize>,
}

impl Summary {
    /// Adds a part, and says at once, for all to see, when it neither passed nor failed.
    pub(super) fn add(&mut self, name: &'static str, outcome: Outcome) {
        if matches!(outcome, Outcome::Skipped(_) | Outcome::Undecided(..)) {
            let bar = "!".repeat(80);
            say(format_args!("{bar}\n!! {}\n{bar}", outcome.line(name)));
        }
        self.parts.push((name, outcome));
    }

    pub(super) fn add_skipped_tests(&mut self, skipped: BTreeMap<String, usize>) {
        for (reason, count) in skipped {
            *self.tests.entry(reason).or_default() += count;
        }
    }

    fn count(&self, is: fn(&Outcome) -> bool) -> usize {
        self.parts.iter().filter(|(_, outcome)| is(outcome)).count()
    }

    /// Everything that was skipped: whole parts, and tests within the others.
    fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Skipped(_))) + self.tests.values().sum::<usize>()
    }

    fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_)))
    }

    /// The lines to show: each part, then what was skipped and what is undecided, with the reasons, then the counts.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.parts.iter().map(|(name, outcome)| outcome.line(name)).collect();
        let parts = self.parts.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Skipped(why) => Some(format!("the part {name}, because {why}")),
            _ => None,
        });
        let tests = self.tests.iter().map(|(reason, count)| match count {
            1 => format!("1 test: {reason}"),
            _ => format!("{count} tests: {reason}"),
        });
        let skipped: Vec<String> = parts.chain(tests).collect();
        if !skipped.is_empty() {
            lines.push(format!("skipped: {}", skipped.join("; ")));
        }
        let undecided = self.parts.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Undecided(word, _) => Some(format!("{name} ({word})")),
            _ => None,
        });
        let undecided: Vec<String> = undecided.collect();
        if !undecided.is_empty() {
            lines.push(format!("neither passed nor failed: {}", undecided.join(", ")));
        }
        let passed = self.count(|outcome| matches!(outcome, Outcome::Passed(_)));
        lines.push(format!("total: {passed} passed, {} failed, {} skipped", self.failed(), self.skipped()));
        lines
    }

    /// What the exit code says: a part that failed is an error; with `strict`, so is everything that was skipped.
    pub(super) fn conclude(&self, strict: bool) -> Result<()> {
        let (failed, skipped) = (self.failed(), self.skipped());
        if failed > 0 {
            bail!("{failed} of {} parts failed", self.parts.len());
        }
        if strict && skipped > 0 {
            bail!("{skipped} skipped, which --strict does not allow");
        }
        if self.parts.is_empty() {
            bail!("nothing was run");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(parts: Vec<(&'static str, Outcome)>, tests: &[(&str, usize)]) -> Summary {
        let mut summary = Summary::default();
        for (name, outcome) in parts {
            summary.add(name, outcome);
        }
        summary.add_skipped_tests(tests.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect());
        summary
    }

    fn passed() -> (&'static str, Outcome) {
        ("pure", Outcome::Passed(String::new()))
    }

    fn skipped() -> (&'static str, Outcome) {
        ("privileged", Outcome::Skipped("it takes root".to_owned()))
    }

    fn undecided() -> (&'static str, Outcome) {
        ("accuracy", Outcome::Undecided("NOISY", "steal 12.0 %".to_owned()))
    }

    #[test]
    fn the_last_line_counts_and_the_lines_before_it_say_why() {
        let lines = summary(vec![passed(), skipped(), undecided()], &[("no root", 9), ("no zlib", 1)]).lines();
        assert_eq!(
            lines,
            [
                "pure                   ok",
                "privileged             SKIPPED      it takes root",
                "accuracy               NOISY        steal 12.0 %",
                "skipped: the part privileged, because it takes root; 9 tests: no root; 1 test: no zlib",
                "neither passed nor failed: accuracy (NOISY)",
                "total: 1 passed, 0 failed, 11 skipped",
            ]
        );
        assert_eq!(
            summary(vec![passed()], &[]).lines().last().expect("a last line"),
            "total: 1 passed, 0 failed, 0 skipped"
        );
    }

    #[test]
    fn the_same_reason_in_two_parts_is_one_reason() {
        let mut summary = summary(vec![passed()], &[("no root", 2)]);
        summary.add_skipped_tests(BTreeMap::from([("no root".to_owned(), 3)]));
        assert!(summary.lines().contains(&"skipped: 5 tests: no root".to_owned()));
    }

    #[test]
    fn a_failure_fails_the_whole() {
        let summary = summary(vec![passed(), ("kernels", Outcome::Failed("x".to_owned()))], &[]);
        for strict in [false, true] {
            assert_eq!(summary.conclude(strict).expect_err("one part failed").to_string(), "1 of 2 parts failed");
        }
    }

    #[test]
    fn a_skip_fails_only_where_it_must_not_happen() {
        for (summary, count) in
            [(summary(vec![passed(), skipped()], &[]), 1), (summary(vec![passed()], &[("no root", 3)]), 3)]
        {
            assert!(summary.conclude(false).is_ok());
            let error = summary.conclude(true).expect_err("something was skipped").to_string();
            assert_eq!(error, format!("{count} skipped, which --strict does not allow"));
        }
    }

    #[test]
    fn what_is_undecided_is_not_passed_and_no_skip() {
        let summary = summary(vec![passed(), undecided()], &[]);
        assert!(summary.conclude(true).is_ok());
        assert_eq!(summary.lines().last().expect("a last line"), "total: 1 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn a_run_of_nothing_is_no_success() {
        assert!(summary(vec![], &[]).conclude(false).is_err());
    }
}
