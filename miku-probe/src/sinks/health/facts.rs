//! What is known of a service, and what it comes to: facts and [`Thresholds`] in, [`Verdict`]s out. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::check::Status;
use crate::observations::{Growth, Vitals};
use crate::units::{Nanos, Tgid};

/// The check of the event loop.
pub const LOOP: &str = "loop not stalled";
/// The check of the language model that the service calls.
pub const LLM: &str = "LLM answering";
/// The check of the memory that is left.
pub const MEMORY: &str = "memory headroom";
/// The check of how fast memory grows.
pub const GROWTH: &str = "memory growth";
/// The check of the descriptors that are left.
pub const DESCRIPTORS: &str = "descriptors left";
/// The check of a GPU's memory.
pub const GPU_MEMORY: &str = "GPU memory left";

/// All checks of a service that verdicts are on.
pub(super) const OF_A_SERVICE: [&str; 5] = [LOOP, LLM, MEMORY, GROWTH, DESCRIPTORS];

/// From when on something is ill. Ratios go from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// How long a turn of the event loop may take.
    pub loop_stall: Duration,
    /// How many calls of a language model may fail one after another, less one.
    pub llm_failures: u32,
    /// How much of the memory that there is may be used.
    pub memory_ratio: f64,
    /// How many bytes an hour memory may grow.
    pub memory_growth: f64,
    /// How many of the descriptors that there may be may be open.
    pub descriptors_ratio: f64,
    /// How much of a GPU's memory may be used.
    pub gpu_memory_ratio: f64,
    /// After what time nothing is known any more of what is looked at again and again.
    pub stale: Duration,
}

/// What a mebibyte is.
const MIB: f64 = 1_048_576.0;

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            loop_stall: Duration::from_secs(5),
            llm_failures: 3,
            memory_ratio: 0.9,
            memory_growth: 100.0 * MIB,
            descriptors_ratio: 0.9,
            gpu_memory_ratio: 0.98,
            stale: Duration::from_secs(30),
        }
    }
}

/// A turn of the event loop that has not ended yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When it began.
    pub since: Nanos,
    /// What holds it up, such as `bot.py:reply:42`; empty when that is not known.
    pub place: String,
    /// Whether the iteration started before `since`.
    pub begun_before: bool,
}

/// What a check comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which check.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// Why.
    pub reason: String,
    /// Since when, where that can be told from the facts; else since it was first found.
    pub since: Option<Nanos>,
}

impl Verdict {
    fn new(name: &'static str, fails: bool, reason: String) -> Self {
        Self { name, status: if fails { Status::Failing } else { Status::Ok }, reason, since: None }
    }
}

/// What is known of a service.
#[derive(Clone, Debug, Default)]
pub struct ServiceFacts {
    processes: BTreeMap<Tgid, ProcessFacts>,
    /// Whether its loop stands still, once somebody knows.
    event_loop: Option<Option<Stall>>,
    calls: Option<Calls>,
}

#[derive(Clone, Debug)]
struct ProcessFacts {
    time: Nanos,
    memory: Option<Used>,
    /// Whether a control group sets the limit, or what the machine has.
    limited: bool,
    descriptors: Option<Used>,
    growth: Option<Growth>,
}

/// How much there is of something, and how much of it is taken.
#[derive(Clone, Copy, Debug)]
struct Used {
    used: u64,
    most: u64,
}

impl Used {
    fn ratio(self) -> f64 {
        float(self.used) / float(self.most.max(1))
    }
}

/// The last calls of a language model.
#[derive(Clone, Copy, Debug)]
struct Calls {
    last: Nanos,
    /// How many failed since one succeeded, and since when.
    failures: u32,
    failing_since: Nanos,
}

impl ServiceFacts {
    /// A process was looked at; `machine` is how much memory the machine has.
    pub fn looked_at(&mut self, vitals: &Vitals, machine: Option<u64>) {
        let group = vitals.cgroup.and_then(|group| group.memory);
        let of_group = group.map(|memory| Used { used: memory.working_set, most: memory.limit });
        let of_machine = vitals.memory.resident.zip(machine).map(|(used, most)| Used { used, most });
        let descriptors = vitals.open_fds.zip(vitals.max_fds).map(|(used, most)| Used { used, most });
        let facts = ProcessFacts {
            time: vitals.time,
            memory: of_group.or(of_machine),
            limited: of_group.is_some(),
            descriptors,
            growth: vitals.growth,
        };
        self.processes.insert(vitals.tgid, facts);
    }

    /// A process is watched no more.
    pub fn gone(&mut self, tgid: Tgid) {
        self.processes.remove(&tgid);
    }

    /// Its event loop stands still, or does not.
    pub fn stalled(&mut self, stall: Option<Stall>) {
        self.event_loop = Some(stall);
    }

    /// A call of a language model ended, well or not.
    pub fn answered(&mut self, well: bool, time: Nanos) {
        let calls = self.calls.get_or_insert(Calls { last: time, failures: 0, failing_since: time });
        calls.last = time;
        if well {
            calls.failures = 0;
        } else {
            if calls.failures == 0 {
                calls.failing_since = time;
            }
            calls.failures = calls.failures.saturating_add(1);
        }
    }

    /// What all that comes to; of what nothing is known there is no verdict.
    #[must_use]
    pub fn verdicts(&self, thresholds: &Thresholds, now: Nanos) -> Vec<Verdict> {
        let of_loop = self.event_loop.as_ref().map(|stall| judge_loop(stall.as_ref(), thresholds, now));
        let of_calls = self.calls.map(|calls| judge_calls(calls, thresholds));
        let mut verdicts: Vec<Verdict> = of_loop.into_iter().chain(of_calls).collect();
        if self.processes.is_empty() {
            return verdicts;
        }
        let fresh: Vec<(Tgid, &ProcessFacts)> = self
            .processes
            .iter()
            .filter(|(_, facts)| now.since(facts.time) <= thresholds.stale.into())
            .map(|(tgid, facts)| (*tgid, facts))
            .collect();
        if fresh.is_empty() {
            let last = self.processes.values().map(|facts| facts.time).max().unwrap_or_default();
            verdicts.extend([MEMORY, GROWTH, DESCRIPTORS].map(|name| Verdict {
                name,
                status: Status::Unknown,
                reason: format!("not looked at for {:.0} s", now.since(last).seconds()),
                since: Some(last + thresholds.stale.into()),
            }));
            return verdicts;
        }
        verdicts.extend(judge_memory(&fresh, thresholds));
        verdicts.extend(judge_growth(&fresh, thresholds, now));
        verdicts.extend(judge_descriptors(&fresh, thresholds));
        verdicts
    }
}

fn judge_loop(stall: Option<&Stall>, thresholds: &Thresholds, now: Nanos) -> Verdict {
    let limit = Nanos::from(thresholds.loop_stall);
    let Some(stall) = stall.filter(|stall| now.since(stall.since) > limit) else {
        return Verdict::new(LOOP, false, String::new());
    };
    let place = if stall.place.is_empty() { String::new() } else { format!(": {}", stall.place) };
    let least = if stall.begun_before { "at least " } else { "" };
    let reason = format!("one turn takes {least}{:.0} s so far{place}", now.since(stall.since).seconds());
    Verdict { since: Some(stall.since + limit), ..Verdict::new(LOOP, true, reason) }
}

fn judge_calls(calls: Calls, thresholds: &Thresholds) -> Verdict {
    let fails = calls.failures >= thresholds.llm_failures;
    let reason = match calls.failures {
        0 => String::new(),
        1 => "the last call failed".to_owned(),
        failures => format!("the last {failures} calls failed"),
    };
    Verdict { since: fails.then_some(calls.failing_since), ..Verdict::new(LLM, fails, reason) }
}

fn judge_memory(processes: &[(Tgid, &ProcessFacts)], thresholds: &Thresholds) -> Option<Verdict> {
    let known = processes.iter().filter_map(|(tgid, facts)| Some((tgid, facts.memory?, facts.limited)));
    let (tgid, memory, limited) = known.max_by(|one, other| one.1.ratio().total_cmp(&other.1.ratio()))?;
    let whose = if limited { "that its control group allows" } else { "that the machine has" };
    let reason = format!("{} of {} {whose} (pid {tgid})", bytes(float(memory.used)), bytes(float(memory.most)));
    Some(Verdict::new(MEMORY, memory.ratio() > thresholds.memory_ratio, reason))
}

fn judge_growth(processes: &[(Tgid, &ProcessFacts)], thresholds: &Thresholds, now: Nanos) -> Option<Verdict> {
    let known = processes.iter().filter_map(|(tgid, facts)| Some((tgid, facts.growth?)));
    let slope = |growth: Growth| if growth.since.is_some() { growth.bytes_per_hour } else { 0.0 };
    let (tgid, growth) = known.max_by(|one, other| slope(one.1).total_cmp(&slope(other.1)))?;
    let reason = growth.since.map_or_else(String::new, |since| {
        let minutes = now.since(since).seconds() / 60.0;
        format!("{} an hour for {minutes:.0} minutes (pid {tgid})", bytes(growth.bytes_per_hour))
    });
    Some(Verdict::new(GROWTH, slope(growth) > thresholds.memory_growth, reason))
}

fn judge_descriptors(processes: &[(Tgid, &ProcessFacts)], thresholds: &Thresholds) -> Option<Verdict> {
    let known = processes.iter().filter_map(|(tgid, facts)| Some((tgid, facts.descriptors?)));
    let (tgid, open) = known.max_by(|one, other| one.1.ratio().total_cmp(&other.1.ratio()))?;
    let reason = format!("{} of {} open (pid {tgid})", open.used, open.most);
    Some(Verdict::new(DESCRIPTORS, open.ratio() > thresholds.descriptors_ratio, reason))
}

/// The memory of a GPU, as it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// Bytes that are used.
    pub used: u64,
    /// Bytes that there are.
    pub total: u64,
    /// When that was so.
    pub time: Nanos,
}

impl GpuMemory {
    /// What it comes to.
    #[must_use]
    pub fn verdict(&self, thresholds: &Thresholds, now: Nanos) -> Verdict {
        let stale = Nanos::from(thresholds.stale);
        if now.since(self.time) > stale {
            let reason = format!("not looked at for {:.0} s", now.since(self.time).seconds());
            return Verdict { name: GPU_MEMORY, status: Status::Unknown, reason, since: Some(self.time + stale) };
        }
        let memory = Used { used: self.used, most: self.total };
        let reason = format!("{} of {}", bytes(float(self.used)), bytes(float(self.total)));
        Verdict::new(GPU_MEMORY, memory.ratio() > thresholds.gpu_memory_ratio, reason)
    }
}

fn bytes(bytes: f64) -> String {
    if bytes >= 10_240.0 * MIB {
        format!("{:.1} GiB", bytes / MIB / 1024.0)
    } else if bytes >= 100.0 * MIB {
        format!("{:.0} MiB", bytes / MIB)
    } else {
        format!("{:.1} MiB", bytes / MIB)
    }
}

#[allow(clippy::cast_precision_loss, reason = "bytes of memory and numbers of descriptors are below 2^53")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observations::{Cgroup, CgroupMemory, Memory};

    const MIB: u64 = 1 << 20;

    fn second(number: u64) -> Nanos {
        Duration::from_secs(number).into()
    }

    fn vitals(tgid: u32, time: u64) -> Vitals {
        Vitals {
            tgid: Tgid(tgid),
            time: second(time),
            start: None,
            memory: Memory::default(),
            threads: None,
            open_fds: None,
            max_fds: None,
            cpu: None,
            switches: None,
            faults: None,
            io: None,
            growth: None,
            cgroup: None,
        }
    }

    fn judged(facts: &ServiceFacts, now: u64) -> Vec<(&'static str, Status, String, Option<Nanos>)> {
        let verdicts = facts.verdicts(&Thresholds::default(), second(now));
        verdicts.into_iter().map(|one| (one.name, one.status, one.reason, one.since)).collect()
    }

    #[test]
    fn of_what_nothing_is_known_nothing_is_said() {
        let mut facts = ServiceFacts::default();
        assert_eq!(judged(&facts, 9), []);
        facts.looked_at(&vitals(1, 9), Some(1));
        assert_eq!(judged(&facts, 9), []);
    }

    #[test]
    fn a_loop_stands_still_while_a_turn_takes_too_long() {
        let mut facts = ServiceFacts::default();
        facts.stalled(None);
        assert_eq!(judged(&facts, 9), [(LOOP, Status::Ok, String::new(), None)]);
        let mut stall = Stall { since: second(10), place: "bot.py:reply:42".to_owned(), begun_before: false };
        facts.stalled(Some(stall.clone()));
        assert_eq!(judged(&facts, 15)[0].1, Status::Ok);
        let reason = "one turn takes 6 s so far: bot.py:reply:42".to_owned();
        assert_eq!(judged(&facts, 16), [(LOOP, Status::Failing, reason, Some(second(15)))]);
        stall.begun_before = true;
        facts.stalled(Some(stall));
        assert_eq!(judged(&facts, 16)[0].2, "one turn takes at least 6 s so far: bot.py:reply:42");
        facts.stalled(None);
        assert_eq!(judged(&facts, 17)[0].1, Status::Ok);
    }

    #[test]
    fn a_model_answers_until_calls_fail_one_after_another() {
        let mut facts = ServiceFacts::default();
        for (well, time, status, reason, since) in [
            (true, 1, Status::Ok, "", None),
            (false, 2, Status::Ok, "the last call failed", None),
            (true, 3, Status::Ok, "", None),
            (false, 4, Status::Ok, "the last call failed", None),
            (false, 5, Status::Ok, "the last 2 calls failed", None),
            (false, 6, Status::Failing, "the last 3 calls failed", Some(second(4))),
            (false, 7, Status::Failing, "the last 4 calls failed", Some(second(4))),
            (true, 8, Status::Ok, "", None),
        ] {
            facts.answered(well, second(time));
            assert_eq!(judged(&facts, time), [(LLM, status, reason.to_owned(), since)]);
        }
    }

    #[test]
    fn memory_is_held_against_the_group_s_limit_or_the_machine_s() {
        let memory = Memory { resident: Some(91 * MIB), ..Memory::default() };
        let mut facts = ServiceFacts::default();
        let free = Vitals { memory, ..vitals(1, 9) };
        facts.looked_at(&free, Some(1000 * MIB));
        let reason = "91.0 MiB of 1000 MiB that the machine has (pid 1)".to_owned();
        assert_eq!(judged(&facts, 9), [(MEMORY, Status::Ok, reason, None)]);
        let group = |working_set| Cgroup {
            memory: Some(CgroupMemory { limit: 200 * MIB, usage: 200 * MIB, working_set }),
            ..Cgroup::default()
        };
        for (working_set, status) in [(180, Status::Ok), (181, Status::Failing)] {
            let limited = Vitals { cgroup: Some(group(working_set * MIB)), ..Vitals { tgid: Tgid(2), ..free.clone() } };
            facts.looked_at(&limited, Some(1000 * MIB));
            let reason = format!("{working_set} MiB of 200 MiB that its control group allows (pid 2)");
            assert_eq!(judged(&facts, 9), [(MEMORY, status, reason, None)], "the worst process counts");
        }
        facts.gone(Tgid(2));
        assert_eq!(judged(&facts, 9)[0].1, Status::Ok);
    }

    #[test]
    fn growth_is_told_and_fails_when_it_is_fast() {
        let mut facts = ServiceFacts::default();
        for (rate, since, status, reason) in [
            (900.0, None, Status::Ok, String::new()),
            (10.5, Some(second(0)), Status::Ok, "10.5 MiB an hour for 30 minutes (pid 1)".to_owned()),
            (101.0, Some(second(60)), Status::Failing, "101 MiB an hour for 29 minutes (pid 1)".to_owned()),
        ] {
            let growth = Some(Growth { bytes_per_hour: rate * float(MIB), since });
            facts.looked_at(&Vitals { growth, ..vitals(1, 1800) }, None);
            assert_eq!(judged(&facts, 1800), [(GROWTH, status, reason, None)]);
        }
    }

    #[test]
    fn descriptors_run_out_before_they_have() {
        let mut facts = ServiceFacts::default();
        for (open, status) in [(900, Status::Ok), (901, Status::Failing)] {
            let found = Vitals { open_fds: Some(open), max_fds: Some(1000), ..vitals(1, 9) };
            facts.looked_at(&found, None);
            assert_eq!(judged(&facts, 9), [(DESCRIPTORS, status, format!("{open} of 1000 open (pid 1)"), None)]);
        }
    }

    #[test]
    fn what_was_not_looked_at_for_long_is_not_known() {
        let mut facts = ServiceFacts::default();
        facts.looked_at(&Vitals { open_fds: Some(1000), max_fds: Some(1000), ..vitals(1, 10) }, None);
        assert_eq!(judged(&facts, 40)[0].1, Status::Failing);
        let unknown = judged(&facts, 41);
        assert_eq!(unknown.len(), 3);
        for (_, status, reason, since) in unknown {
            assert_eq!((status, reason.as_str(), since), (Status::Unknown, "not looked at for 31 s", Some(second(40))));
        }
    }

    #[test]
    fn a_gpu_s_memory_is_exhausted_before_its_last_byte() {
        let gpu = |used| GpuMemory { used: used * MIB, total: 24_576 * MIB, time: second(10) };
        let verdict = |gpu: GpuMemory, now| gpu.verdict(&Thresholds::default(), second(now));
        assert_eq!(verdict(gpu(24_000), 10), Verdict::new(GPU_MEMORY, false, "23.4 GiB of 24.0 GiB".to_owned()));
        assert_eq!(verdict(gpu(24_200), 10).status, Status::Failing);
        assert_eq!(verdict(gpu(24_200), 41).status, Status::Unknown);
    }
}
