//! The accuracy tier: the cases that compare times, held to what the documentation promises of a quiet machine.
//!
//! Each case runs alone, while [`NoiseMeter`] measures beside it what else happens on the machine. A case that fails
//! runs again once the machine is quiet, as long as there is time for that. If it never passes, it has failed when the
//! machine was quiet in two of its runs; otherwise the tier is neither passed nor failed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use miku_probe_tests::mode::Mode;
use miku_probe_tests::noise::{Attempt, Judgement, Noise, NoiseMeter, judge};

use super::summary::Outcome;
use crate::build;
use crate::setup::{self, Need};
use crate::sh::{Sh, say};

/// How long the tier may wait for a quiet machine and repeat cases, all cases together. Every case runs once in any case.
const PATIENCE: Duration = Duration::from_secs(8 * 60);

/// How often a case runs at most.
const ATTEMPTS: usize = 4;

/// How long the machine must be quiet before a case runs.
const CALM: Duration = Duration::from_secs(1);

/// How often noise is sampled beside a case: seldom enough for the samples to disturb nothing that is measured in
/// microseconds.
const INTERVAL: Duration = Duration::from_millis(10);

/// A case that has run.
struct Judged {
    case: String,
    judgement: Judgement,
    /// The noise during its last attempt.
    noise: Noise,
}

pub(super) fn run() -> Outcome {
    match setup::ensure(&[Need::Python]).and_then(|()| measure()) {
        Ok(judged) => conclude(&judged),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn measure() -> Result<Vec<Judged>> {
    let cases = list()?;
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    for case in cases {
        let mut attempts: Vec<Attempt> = Vec::new();
        let (judgement, noise) = loop {
            wait_until_quiet(deadline)?;
            let meter = NoiseMeter::start(INTERVAL)?;
            let passed = suite().args(["--exact", &case]).status()?.success();
            let noise = meter.finish()?;
            let word = if noise.is_quiet() { "quiet" } else { "noisy" };
            say(format_args!("accuracy: {case}: {word}: {noise}"));
            attempts.push(Attempt { passed, noise });
            let judgement = judge(&attempts);
            // What failed on a quiet machine runs again in any case: it may be a failure, and must not pass for noise.
            let in_time = Instant::now() < deadline || noise.is_quiet();
            let again = judgement == Judgement::Noisy && attempts.len() < ATTEMPTS && in_time;
            if !again {
                break (judgement, noise);
            }
        };
        all.push(Judged { case, judgement, noise });
    }
    Ok(all)
}

/// A command of the suite in its mode for accuracy; the command line of the test program follows.
fn suite() -> Sh {
    let suite = Sh::new("cargo").args(["test", "--quiet", "--package", "miku-probe-tests", "--test", "e2e", "--"]);
    suite.env(Mode::VARIABLE, Mode::Accuracy.name()).env("MIKU_PROBE_BIN", build::release_binary())
}

/// The names of the cases.
fn list() -> Result<Vec<String>> {
    let text = suite().arg("--list").output().context("cannot list the cases that compare times")?;
    let cases: Vec<String> = text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    ensure!(!cases.is_empty(), "the suite has no case that compares times");
    Ok(cases)
}

/// Returns when the machine is quiet, or at the deadline.
fn wait_until_quiet(deadline: Instant) -> Result<()> {
    let mut told = false;
    loop {
        let noise = NoiseMeter::watch(CALM)?;
        if noise.is_quiet() || Instant::now() > deadline {
            return Ok(());
        }
        if !told {
            say(format_args!("accuracy: waiting for a quiet machine: {noise}"));
            told = true;
        }
    }
}

fn conclude(judged: &[Judged]) -> Outcome {
    let of = |judgement: Judgement| {
        let cases = judged.iter().filter(move |judged| judged.judgement == judgement);
        cases.map(|Judged { case, noise, .. }| format!("{case} ({noise})")).collect::<Vec<_>>()
    };
    let (failed, noisy) = (of(Judgement::Failed), of(Judgement::Noisy));
    let passed = of(Judgement::Passed).len();
    if !failed.is_empty() {
        return Outcome::Failed(format!("on a quiet machine: {}", failed.join(", ")));
    }
    if noisy.is_empty() {
        return Outcome::Passed(format!("{passed} cases within the promised bounds"));
    }
    let why = format!(
        "{passed} of {} cases within the promised bounds; on a noisy machine failed: {}",
        judged.len(),
        noisy.join(", ")
    );
    Outcome::Undecided("NOISY", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(case: &str, judgement: Judgement) -> Judged {
        Judged { case: case.to_owned(), judgement, noise: Noise { steal: 0.12, ..Noise::default() } }
    }

    #[test]
    fn every_case_passes_or_the_tier_does_not() {
        let passed = || judged("llm::a", Judgement::Passed);
        let noisy = || judged("llm::b", Judgement::Noisy);
        let failed = || judged("llm::c", Judgement::Failed);
        assert_eq!(conclude(&[passed(), passed()]), Outcome::Passed("2 cases within the promised bounds".to_owned()));
        let Outcome::Undecided("NOISY", why) = conclude(&[passed(), noisy()]) else {
            panic!("one case never saw a quiet machine")
        };
        assert!(why.starts_with("1 of 2 cases") && why.contains("llm::b (steal 12.0 %"), "{why}");
        let Outcome::Failed(why) = conclude(&[passed(), noisy(), failed()]) else { panic!("one case failed") };
        assert!(why.contains("llm::c") && !why.contains("llm::b"), "{why}");
    }
}
