//! `cargo xtask test`: every test there is, in tiers.
//!
//! - lint: formatting, clippy, licences, sources and advisories of the dependencies;
//! - pure: everything that needs no privileges and no kernel side;
//! - privileged: the release binary as root against real servers;
//! - accuracy: the cases of that tier that compare times, held to what the documentation promises of a quiet machine;
//! - kernels: the release binary under Debian's kernels.
//!
//! As root on a kernel that allows BPF everything can run, so nothing may be skipped: what cannot run there has failed.
//! Elsewhere what is skipped is counted by reason. A tier that was not asked for is not part of the run and is not
//! mentioned.

mod accuracy;
mod dependencies;
mod summary;

use std::fs;
use std::io;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use miku_probe_tests::harness::kernel;
use miku_probe_tests::mode::Mode;

use crate::build;
use crate::kernels::{self, Choice};
use crate::setup::{self, Need};
use crate::sh::{Sh, say, workspace};
use summary::{Outcome, Summary};

/// Run every test: formatting and lints, pure, privileged, accuracy, and under other kernels
#[derive(Args)]
pub(crate) struct Test {
    /// Run only this tier; repeat it for several
    #[arg(long, value_enum)]
    only: Vec<Tier>,
    /// Which kernels to boot
    #[arg(long, value_enum, default_value = "ci")]
    kernels: Choice,
    /// Fail when anything is skipped
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// Formatting, clippy, dependencies
    Lint,
    /// What needs no privileges
    Pure,
    /// The real binary as root
    Privileged,
    /// Times within the promised bounds, on a quiet machine
    Accuracy,
    /// Debian's kernels under qemu
    Kernels,
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        // The reason why the probe cannot attach here. Where it can, everything else can run too.
        let refused = kernel::allows_bpf().err();
        let [pure_wanted, privileged_wanted, accuracy_wanted] =
            [Tier::Pure, Tier::Privileged, Tier::Accuracy].map(|tier| self.wants(tier));
        let kernels_wanted = self.wants(Tier::Kernels);
        let mut summary = Summary::default();
        if self.wants(Tier::Lint) {
            headline("lint");
            for (name, outcome) in lint() {
                summary.add(name, outcome);
            }
        }
        if pure_wanted {
            headline("pure");
            let outcome = pure(refused.is_none(), &mut summary);
            summary.add("pure", outcome);
        }
        // What attaches needs the BPF object and the release binary; one build serves all these tiers.
        let mut built = false;
        if privileged_wanted || accuracy_wanted || kernels_wanted {
            headline("build");
            let result = build::release();
            built = result.is_ok();
            summary.add("build", Outcome::of(result));
        }
        let attached = |run: fn() -> Outcome| match &refused {
            _ if !built => not_built(),
            Some(reason) => {
                Outcome::Skipped(format!("it attaches to the kernel, which is not possible here: {reason}"))
            }
            None => run(),
        };
        if privileged_wanted {
            headline("privileged");
            summary.add("privileged", attached(privileged));
        }
        if accuracy_wanted {
            headline("accuracy");
            summary.add("accuracy", attached(accuracy::run));
        }
        if kernels_wanted {
            headline("kernels");
            let outcome = if built { other_kernels(self.kernels, refused.is_none()) } else { not_built() };
            summary.add("kernels", outcome);
        }
        headline("summary");
        for line in summary.lines() {
            say(line);
        }
        summary.conclude(self.strict)
    }

    fn wants(&self, tier: Tier) -> bool {
        let left_out = tier == Tier::Kernels && self.kernels == Choice::None;
        !left_out && (self.only.is_empty() || self.only.contains(&tier))
    }
}

fn headline(name: &str) {
    say(format_args!("\n=== {name}"));
}

fn not_built() -> Outcome {
    Outcome::Skipped("there is nothing to run, because the build failed".to_owned())
}

fn lint() -> Vec<(&'static str, Outcome)> {
    let mut parts = match setup::ensure(&[Need::Lint]) {
        Ok(()) => {
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
            vec![("lint: format", Outcome::of(format.run())), ("lint: clippy", Outcome::of(clippy.run()))]
        }
        Err(error) => vec![("lint", Outcome::Failed(format!("{error:#}")))],
    };
    parts.extend(dependencies::check());
    parts
}

/// Runs every test program except for the end-to-end cases, which belong to other tiers.
fn pure(skips_forbidden: bool, summary: &mut Summary) -> Outcome {
    let mut tests = Sh::new("cargo").args(["test", "--workspace"]).env(Mode::VARIABLE, Mode::Elsewhere.name());
    if skips_forbidden {
        // Some tests look at an interpreter and the libraries that come with it.
        if let Err(error) = setup::ensure(&[Need::Python]) {
            return Outcome::Failed(format!("{error:#}"));
        }
        tests = tests.env(test_skips::POLICY, "forbidden");
        return Outcome::of(tests.run());
    }
    let file = workspace().join("target/skipped-tests");
    let emptied = match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let counted = emptied.with_context(|| format!("cannot remove {}", file.display())).and_then(|()| {
        let result = tests.env(test_skips::POLICY, "allowed").env(test_skips::FILE, &file).run();
        summary.add_skipped_tests(test_skips::read(&file).context("cannot count the skipped tests")?);
        result
    });
    Outcome::of(counted)
}

fn privileged() -> Outcome {
    if let Err(error) = setup::ensure(&[Need::Python]) {
        return Outcome::Failed(format!("{error:#}"));
    }
    let suite = Sh::new("cargo")
        .args(["test", "--package", "miku-probe-tests", "--test", "e2e"])
        .env(Mode::VARIABLE, Mode::Required.name())
        .env("MIKU_PROBE_BIN", build::release_binary());
    Outcome::of(suite.run())
}

fn other_kernels(choice: Choice, skips_forbidden: bool) -> Outcome {
    match kernels::unsupported() {
        Some(reason) if skips_forbidden => {
            Outcome::Failed(format!("{reason}; to leave other kernels out on purpose: --kernels none"))
        }
        Some(reason) => Outcome::Skipped(reason.to_owned()),
        None => match kernels::run(choice) {
            Ok(versions) => Outcome::Passed(versions),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(only: &[Tier], kernels: Choice) -> Test {
        Test { only: only.to_vec(), kernels, strict: false }
    }

    #[test]
    fn what_was_not_asked_for_is_not_part_of_the_run() {
        let all = [Tier::Lint, Tier::Pure, Tier::Privileged, Tier::Accuracy, Tier::Kernels];
        assert!(all.iter().all(|tier| test(&[], Choice::Ci).wants(*tier)));
        assert!(!test(&[], Choice::None).wants(Tier::Kernels));
        let only = test(&[Tier::Pure], Choice::Ci);
        assert!(all.iter().all(|tier| only.wants(*tier) == (*tier == Tier::Pure)));
    }
}
