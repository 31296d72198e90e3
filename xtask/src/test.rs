//! `cargo xtask test`: every test there is, in tiers, each of which says why it skips when it skips.
//!
//! - lint: formatting, clippy, and licences and sources of the dependencies;
//! - pure: everything that needs no privileges and no kernel side;
//! - privileged: the release binary as root against real servers;
//! - kernels: the same binary under Debian's kernels.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::build;
use crate::kernels::{self, Choice};
use crate::setup::{self, Need};
use crate::sh::{Sh, say};

/// Run every test: formatting and lints, pure, privileged, and under other kernels
#[derive(Args)]
pub(crate) struct Test {
    /// Run only this tier; repeat it for several
    #[arg(long, value_enum)]
    only: Vec<Tier>,
    /// Which kernels to boot
    #[arg(long, value_enum, default_value = "ci")]
    kernels: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Formatting, clippy, dependencies
    Lint,
    /// What needs no privileges
    Pure,
    /// The real binary as root
    Privileged,
    /// Debian's kernels under qemu
    Kernels,
}

/// How a tier, or a part of one, went.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed(String),
    Skipped(String),
    Failed(String),
}

impl Outcome {
    fn of(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed(String::new()),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    fn line(&self, name: &str) -> String {
        let (word, why) = match self {
            Self::Passed(what) => ("ok", what),
            Self::Skipped(why) => ("SKIPPED", why),
            Self::Failed(why) => ("FAILED", why),
        };
        format!("{name:<22} {word:<8} {why}").trim_end().to_owned()
    }
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        let mut summary: Vec<(&str, Outcome)> = Vec::new();
        let wanted = |tier: Tier| self.only.is_empty() || self.only.contains(&tier);
        if wanted(Tier::Lint) {
            headline("lint");
            summary.extend(lint());
        }
        if wanted(Tier::Pure) {
            headline("pure");
            summary.push(("pure", pure()));
        }
        // What attaches needs the BPF object and the release binary; one build serves both tiers.
        let attaching = wanted(Tier::Privileged) || (wanted(Tier::Kernels) && self.kernels != Choice::None);
        let built = if attaching {
            headline("build");
            let built = build::release();
            summary
                .push(("build", Outcome::of(built.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}")))));
            built.is_ok()
        } else {
            false
        };
        if wanted(Tier::Privileged) {
            headline("privileged");
            summary.push(("privileged", if built { privileged() } else { not_built() }));
        }
        if wanted(Tier::Kernels) {
            headline("kernels");
            summary.push(("kernels", if built || !attaching { other_kernels(self.kernels) } else { not_built() }));
        }
        headline("summary");
        for (name, outcome) in &summary {
            say(outcome.line(name));
        }
        conclude(&summary)
    }
}

fn headline(name: &str) {
    say(format_args!("\n=== {name}"));
}

fn not_built() -> Outcome {
    Outcome::Skipped("there is nothing to run, because the build failed".to_owned())
}

fn conclude(summary: &[(&str, Outcome)]) -> Result<()> {
    let count = |is: fn(&Outcome) -> bool| summary.iter().filter(|(_, outcome)| is(outcome)).count();
    let passed = count(|outcome| matches!(outcome, Outcome::Passed(_)));
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
    say(format_args!("parts: {passed} passed, {failed} failed, {skipped} skipped"));
    if failed > 0 {
        bail!("{failed} of {} parts failed", summary.len());
    }
    Ok(())
}

fn lint() -> Vec<(&'static str, Outcome)> {
    if let Err(error) = setup::ensure(&[Need::Lint]) {
        return vec![("lint", Outcome::Failed(format!("{error:#}")))];
    }
    let format = Sh::new("cargo").args(["fmt", "--all", "--check"]);
    let clippy = Sh::new("cargo").args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "miku-probe-tests/hooks",
        "--",
        "--deny",
        "warnings",
    ]);
    let dependencies = if Sh::new("cargo").args(["deny", "--version"]).output().is_ok() {
        // Advisories come from a repository that is not always in reach; they are for a run of their own.
        Outcome::of(Sh::new("cargo").args(["deny", "--workspace", "check", "licenses", "bans", "sources"]).run())
    } else {
        Outcome::Skipped("cargo-deny is not installed: `cargo install --locked cargo-deny`".to_owned())
    };
    vec![
        ("lint: format", Outcome::of(format.run())),
        ("lint: clippy", Outcome::of(clippy.run())),
        ("lint: dependencies", dependencies),
    ]
}

fn pure() -> Outcome {
    // The end-to-end cases would take any release binary that an earlier build left, and run twice.
    let no_probe = "nowhere: these cases belong to the privileged tier";
    Outcome::of(Sh::new("cargo").args(["test", "--workspace"]).env("MIKU_PROBE_BIN", no_probe).run())
}

fn privileged() -> Outcome {
    if !setup::is_root() {
        return loudly_skipped("it attaches to the kernel, which takes root: run `cargo xtask test` as root");
    }
    if let Err(reason) = miku_probe_tests::harness::kernel::allows_bpf() {
        return loudly_skipped(&format!("this kernel refuses BPF altogether: {reason}"));
    }
    if let Err(error) = setup::ensure(&[Need::Python]) {
        return Outcome::Failed(format!("{error:#}"));
    }
    let suite = Sh::new("cargo")
        .args(["test", "--package", "miku-probe-tests", "--test", "e2e"])
        .env("MIKU_PROBE_BIN", build::release_binary());
    Outcome::of(suite.run())
}

fn other_kernels(choice: Choice) -> Outcome {
    if choice == Choice::None {
        return Outcome::Skipped("--kernels none".to_owned());
    }
    if let Some(reason) = kernels::unsupported() {
        return loudly_skipped(reason);
    }
    match kernels::run(choice) {
        Ok(versions) => Outcome::Passed(versions),
        Err(error) => Outcome::Failed(format!("{error:#}")),
    }
}

fn loudly_skipped(why: &str) -> Outcome {
    let bar = "!".repeat(80);
    say(format_args!("{bar}\n!! NOT TESTED: {why}\n{bar}"));
    Outcome::Skipped(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_fails_the_whole_and_a_skip_does_not() {
        let passed = || ("pure", Outcome::Passed(String::new()));
        let skipped = || ("privileged", Outcome::Skipped("no root".to_owned()));
        assert!(conclude(&[passed(), skipped()]).is_ok());
        let error = conclude(&[passed(), ("kernels", Outcome::Failed("x".to_owned()))]).expect_err("one part failed");
        assert_eq!(error.to_string(), "1 of 2 parts failed");
    }

    #[test]
    fn a_skip_does_not_read_as_passed() {
        let line = Outcome::Skipped("no root".to_owned()).line("privileged");
        assert_eq!(line, "privileged             SKIPPED  no root");
    }
}
