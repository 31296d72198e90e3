//! `cargo xtask bench`: what the probe must reach, measured on this machine; one file a section.
//!
//! Every comparison is made in one run, in pairs that lie next to each other and, wherever they can, take turns in which
//! comes first; pairs during which the host took more than 5 % of the processors' time are dropped. A table goes to
//! standard output, the numbers behind it to `target/bench/SECTION.json`.

mod exact;
mod hooks;
mod light;
mod llm;
mod records;
mod report;
mod scale;
mod stage;
mod stalls;
mod tls;
mod truth;

use std::fs;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::setup;
use crate::sh::{say, workspace};
use report::Report;
use stage::Stage;

/// Measure what the probe must reach: exact, true, light, at scale
#[derive(Args)]
pub(crate) struct Bench {
    /// Which sections; all of them when none is named
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Fewer repetitions: an indication, in a minute or less a section
    #[arg(long)]
    quick: bool,
    /// Fail when a goal is missed that depends on the machine, too
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Section {
    /// 100,000 requests at saturation, held against what the load generator counted
    Exact,
    /// Latency, held against clocks inside the server and the client
    True,
    /// What watching costs, beside what instrumentation inside the service costs
    Light,
    /// 10,000 connections and 50,000 requests a second
    Scale,
    /// Exchanges inside TLS: exact, true, and what watching them costs
    Tls,
    /// Language models: a thousand streams of tokens, and what watching costs a server
    Llm,
    /// Loops that are blocked on purpose, and what looking at them costs
    Stalls,
    /// What each way of hooking system calls costs
    Hooks,
    /// User-space processing on a replayed stream
    Records,
    /// All of them
    All,
}

impl Section {
    const EACH: [Self; 9] = [
        Self::Exact,
        Self::True,
        Self::Light,
        Self::Scale,
        Self::Tls,
        Self::Llm,
        Self::Stalls,
        Self::Hooks,
        Self::Records,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::True => "true",
            Self::Light => "light",
            Self::Scale => "scale",
            Self::Tls => "tls",
            Self::Llm => "llm",
            Self::Stalls => "stalls",
            Self::Hooks => "hooks",
            Self::Records => "records",
            Self::All => "all",
        }
    }

    fn measure(self, stage: &Stage) -> Result<Report> {
        match self {
            Self::Exact => exact::measure(stage),
            Self::True => truth::measure(stage),
            Self::Light => light::measure(stage),
            Self::Scale => scale::measure(stage),
            Self::Tls => tls::measure(stage),
            Self::Llm => llm::measure(stage),
            Self::Stalls => stalls::measure(stage),
            Self::Hooks => hooks::measure(stage),
            Self::Records => records::measure(stage),
            Self::All => bail!("all sections are no section"),
        }
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        if !setup::is_root() {
            bail!("the probe attaches to the kernel, which takes root: run `cargo xtask bench` as root");
        }
        let mut sections = self.sections;
        if sections.is_empty() || sections.contains(&Section::All) {
            sections = Section::EACH.to_vec();
        }
        sections.sort_unstable();
        sections.dedup();
        let stage = Stage::set(self.quick)?;
        let folder = workspace().join("target/bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (mut wrong, mut met, mut missed) = (Vec::new(), 0, 0);
        for section in sections {
            say(format_args!("bench: {}", section.name()));
            let report = section.measure(&stage).with_context(|| format!("the section `{}`", section.name()))?;
            println!("{report}");
            let path = folder.join(format!("{}.json", section.name()));
            let text = serde_json::to_string_pretty(&report.to_json(self.quick)).context("numbers always serialise")?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            wrong.extend(report.wrong());
            let goals = report.met_and_missed();
            (met, missed) = (met + goals.0, missed + goals.1);
        }
        say(format_args!("goals: {met} met, {missed} missed"));
        if !wrong.is_empty() {
            bail!("what has to be exact is not: {}", wrong.join("; "));
        }
        if self.strict && missed > 0 {
            bail!("{missed} goals were missed");
        }
        Ok(())
    }
}
