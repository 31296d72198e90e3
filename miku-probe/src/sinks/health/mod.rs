//! What the health endpoints tell: named checks, each with its status, the reason, and since when it stands.
//!
//! Whoever knows something reports it to a [`Health`]; [`web`](super::web) asks it for a [`Report`]. Three questions
//! are told apart: whether the probe itself lives, whether it is attached to all it must be attached to, and whether
//! the watched services are well. What is judged by thresholds is judged in [`facts`].

mod check;
pub mod facts;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use self::check::{Check, Report, Status};
use self::facts::{GpuMemory, OF_A_SERVICE, ServiceFacts, Verdict};
pub use self::facts::{Stall, Thresholds};
use crate::discovery::usage::machine_memory;
use crate::observations::{
    CallOutcome, Device, Discord, EventLoop, GatewayChange, Gpu, GpuSample, Llm, Names, Observation, ProcessEnd,
    ProcessNews, Shard, Sink, StallChange,
};
use crate::units::Nanos;

/// How long the probe may go without a heartbeat before it counts as dead.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);

/// The check of the probe itself.
const PROBE: &str = "probe";
/// The check of the kernel side.
const KERNEL: &str = "kernel";
/// The check of a service's processes.
const PROCESS: &str = "process";
/// The check of a shard's gateway.
const GATEWAY: &str = "gateway up";
/// The check of a shard's latest heartbeat.
const HEARTBEAT: &str = "last heartbeat acked";

/// How many shards are checked, each on its own.
const SHARDS_MAX: usize = 500;

/// The state of health, shared by whoever reports to it and whoever asks; clones are the same state.
#[derive(Clone, Debug)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The last heartbeat, in nanoseconds of `CLOCK_MONOTONIC`.
    last_beat: AtomicU64,
    /// When the run of heartbeats without a gap began, in the same.
    alive_since: AtomicU64,
    thresholds: Thresholds,
    /// Bytes that the machine has.
    machine_memory: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    checks: Vec<Entry>,
    services: BTreeMap<String, ServiceFacts>,
    /// How a service's last process ended.
    ends: BTreeMap<String, ProcessEnd>,
    gpus: BTreeMap<String, GpuMemory>,
}

/// Whose a check is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Subject {
    service: Option<String>,
    shard: Option<Shard>,
    gpu: Option<String>,
}

impl Subject {
    fn service(service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..Self::default() }
    }
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    subject: Subject,
    required: bool,
    status: Status,
    reason: String,
    since: Nanos,
}

impl Health {
    /// A state in which the probe lives since `now` and is not attached yet.
    #[must_use]
    pub fn new(thresholds: Thresholds, now: Nanos) -> Self {
        let kernel = Entry {
            name: KERNEL,
            subject: Subject::default(),
            required: true,
            status: Status::Unknown,
            reason: "not attached yet".to_owned(),
            since: now,
        };
        Self {
            inner: Arc::new(Inner {
                last_beat: AtomicU64::new(now.0),
                alive_since: AtomicU64::new(now.0),
                thresholds,
                machine_memory: machine_memory(),
                state: Mutex::new(State {
                    checks: vec![kernel],
                    services: BTreeMap::new(),
                    ends: BTreeMap::new(),
                    gpus: BTreeMap::new(),
                }),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A heartbeat of the thread that drains the kernel's ring. Cheap, and never blocks.
    pub fn beat(&self, now: Nanos) {
        let last = Nanos(self.inner.last_beat.swap(now.0, Ordering::Relaxed));
        if now.since(last) > HEARTBEAT_LIMIT.into() {
            self.inner.alive_since.store(now.0, Ordering::Relaxed);
        }
    }

    /// Reports on the kernel side: whether its programs are attached, and if not, why.
    pub fn kernel(&self, status: Status, reason: &str, now: Nanos) {
        self.check(KERNEL, None, status, reason, now);
    }

    /// Says that the probe is not ready before a process of `service` is attached.
    pub fn require(&self, service: &str, now: Nanos) {
        self.state().update(PROCESS, &Subject::service(service), now, |entry| entry.required = true);
    }

    /// Reports how many processes of `service` are attached, and how many match but cannot be followed and why.
    pub fn targets(&self, service: &str, attached: u32, failed: u32, why: &str, now: Nanos) {
        let (status, reason) = match (attached, failed) {
            (0, 0) => {
                let last = self.state().ends.get(service).copied();
                // A job that succeeded is no failure, unless the service is required.
                let well = last == Some(ProcessEnd::Code(0)) && !self.state().requires(service);
                let last = last.map(|end| format!("; the last one {end}")).unwrap_or_default();
                (if well { Status::Ok } else { Status::Failing }, format!("no process matches{last}"))
            }
            (0, failed) => (Status::Failing, format!("none of {failed} matching processes can be followed: {why}")),
            (attached, 0) => (Status::Ok, format!("{attached} attached")),
            (attached, failed) => (Status::Ok, format!("{attached} attached, {failed} cannot be followed: {why}")),
        };
        self.check(PROCESS, Some(service), status, &reason, now);
    }

    /// Drops all checks of `service`, when it is no longer watched for.
    pub fn forget(&self, service: &str) {
        let mut state = self.state();
        state.checks.retain(|entry| entry.subject.service.as_deref() != Some(service));
        state.services.remove(service);
        state.ends.remove(service);
    }

    /// Reports on anything else that belongs to the health of a service, or of all. Its time goes on while the status
    /// stays, whatever the reason.
    pub fn check(&self, name: &'static str, service: Option<&str>, status: Status, reason: &str, now: Nanos) {
        let subject = service.map(Subject::service).unwrap_or_default();
        self.state().update(name, &subject, now, |entry| entry.set(status, reason, now));
    }

    /// Reports that the event loop of `service` stands still in one turn, or that it runs. Before that nothing is checked.
    fn loop_stalled(&self, service: &str, stall: Option<Stall>) {
        self.state().services.entry(service.to_owned()).or_default().stalled(stall);
    }

    /// Reports that a call of a language model by `service` ended, well or not.
    fn llm_answered(&self, service: &str, well: bool, time: Nanos) {
        self.state().services.entry(service.to_owned()).or_default().answered(well, time);
    }

    /// Reports how much memory of a GPU is used: bytes, and how many there are. One of which that cannot be told any more is
    /// not checked.
    fn gpu_memory(&self, gpu: &str, memory: Option<(u64, u64)>, time: Nanos) {
        let mut state = self.state();
        match memory {
            Some((used, total)) => drop(state.gpus.insert(gpu.to_owned(), GpuMemory { used, total, time })),
            None => {
                state.gpus.remove(gpu);
                state.checks.retain(|entry| entry.subject.gpu.as_deref() != Some(gpu));
            }
        }
    }

    /// Takes in what all GPUs told: those that are not among them, or did not tell, are not checked any more.
    fn gpus(&self, sample: &GpuSample) {
        let devices = sample.devices.as_deref().unwrap_or_default();
        let told = |device: &Device| {
            let memory = device.told.as_ref().ok()?.memory?;
            Some((device.gpu.clone(), (memory.used, memory.total)))
        };
        let told: BTreeMap<_, _> = devices.iter().filter_map(told).collect();
        let known: Vec<_> = self.state().gpus.keys().cloned().collect();
        for gpu in known.iter().filter(|gpu| !told.contains_key(*gpu)) {
            self.gpu_memory(gpu, None, sample.time);
        }
        for (gpu, memory) in told {
            self.gpu_memory(&gpu, Some(memory), sample.time);
        }
    }

    /// Judges what is known by the thresholds. To be called about once a second, so that a change is told from when it came
    /// about; a report does it too.
    pub fn judge(&self, now: Nanos) {
        let thresholds = &self.inner.thresholds;
        let mut state = self.state();
        let mut found: Vec<(Subject, Verdict)> = Vec::new();
        for (service, facts) in &state.services {
            let subject = Subject::service(service);
            found.extend(facts.verdicts(thresholds, now).into_iter().map(|verdict| (subject.clone(), verdict)));
        }
        for (gpu, memory) in &state.gpus {
            let subject = Subject { gpu: Some(gpu.clone()), ..Subject::default() };
            found.push((subject, memory.verdict(thresholds, now)));
        }
        state.checks.retain(|entry| {
            let same =
                |(subject, verdict): &(Subject, Verdict)| entry.name == verdict.name && entry.subject == *subject;
            !OF_A_SERVICE.contains(&entry.name) || found.iter().any(same)
        });
        for (subject, Verdict { name, status, reason, since }) in found {
            state.update(name, &subject, now, |entry| entry.set(status, &reason, since.unwrap_or(now)));
        }
    }

    /// Takes in what becomes of the processes of `service`.
    fn process(&self, service: &str, news: &ProcessNews) {
        let mut state = self.state();
        match news {
            ProcessNews::Vitals(vitals) => {
                let facts = state.services.entry(service.to_owned()).or_default();
                facts.looked_at(vitals, self.inner.machine_memory);
            }
            ProcessNews::Gone { tgid } => {
                if let Some(facts) = state.services.get_mut(service) {
                    facts.gone(*tgid);
                }
            }
            ProcessNews::Ended { end, .. } => drop(state.ends.insert(service.to_owned(), *end)),
            ProcessNews::Counted | ProcessNews::Started => {}
        }
    }

    /// Reports what happened to the gateway of a shard. Nothing is checked of a shard before that; and nothing of one that
    /// is gone.
    fn gateway(&self, service: &str, shard: Shard, change: GatewayChange, now: Nanos) {
        let subject = Subject { shard: Some(shard), ..Subject::service(service) };
        let set = |name, status, reason: &str| {
            self.state().update(name, &subject, now, |entry| entry.set(status, reason, now));
        };
        match change {
            GatewayChange::Up => set(GATEWAY, Status::Ok, ""),
            GatewayChange::Down => set(GATEWAY, Status::Failing, "no heartbeat is acknowledged"),
            GatewayChange::Heartbeat(time) => {
                set(HEARTBEAT, Status::Ok, &format!("within {:.0} ms", time.seconds() * 1e3));
            }
            GatewayChange::Missed => set(HEARTBEAT, Status::Failing, "the next was due before it was acknowledged"),
            GatewayChange::Gone => self.state().checks.retain(|entry| entry.subject != subject),
            GatewayChange::Reconnect { .. } | GatewayChange::SessionStarted => {}
        }
    }

    /// Whether the probe lives: its heartbeat is not older than [`HEARTBEAT_LIMIT`].
    #[must_use]
    pub fn liveness(&self, now: Nanos) -> Report {
        Report::of(vec![self.probe(&Clock::at(now))])
    }

    /// Whether the kernel side is attached, and a process of every required service. Anything but [`Status::Ok`] is
    /// not ready.
    #[must_use]
    pub fn readiness(&self, now: Nanos) -> Report {
        let clock = Clock::at(now);
        let state = self.state();
        Report::of(state.checks.iter().filter(|entry| entry.required).map(|entry| entry.check(&clock)).collect())
    }

    /// All checks, of the probe and of the services. Only [`Status::Failing`] is ill: what cannot be told raises no
    /// alarm.
    #[must_use]
    pub fn report(&self, now: Nanos) -> Report {
        self.judge(now);
        let clock = Clock::at(now);
        let state = self.state();
        Report::of(
            std::iter::once(self.probe(&clock)).chain(state.checks.iter().map(|entry| entry.check(&clock))).collect(),
        )
    }

    fn probe(&self, clock: &Clock) -> Check {
        let last = Nanos(self.inner.last_beat.load(Ordering::Relaxed));
        let limit = Nanos::from(HEARTBEAT_LIMIT);
        let silence = clock.monotonic.since(last);
        let (status, reason, since) = if silence > limit {
            (Status::Failing, format!("no heartbeat for {:.0} s", silence.seconds()), last + limit)
        } else {
            (Status::Ok, String::new(), Nanos(self.inner.alive_since.load(Ordering::Relaxed)))
        };
        Entry { name: PROBE, subject: Subject::default(), required: true, status, reason, since }.check(clock)
    }
}

impl Sink for Health {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        match *observation {
            Observation::Discord { service, what: Discord::Gateway { shard, time, change } } => {
                self.gateway(names.service(service), shard, change, time);
            }
            Observation::Process { service, ref what } => self.process(names.service(service), what),
            // A thread that only behaves like an event loop may be a worker that waits for its next task.
            Observation::EventLoop { what: EventLoop::Stall(ref stall), .. } if !stall.recognised => {}
            Observation::EventLoop { service, what: EventLoop::Stall(ref stall) } => {
                let lasts = stall.change != StallChange::Ended;
                let stall = lasts.then(|| Stall {
                    since: stall.since,
                    place: stall.in_words(),
                    begun_before: stall.begun_before,
                });
                self.loop_stalled(names.service(service), stall);
            }
            Observation::Llm { service, what: Llm::Call(ref call) } => {
                let well = match call.outcome {
                    CallOutcome::Complete => true,
                    CallOutcome::Failed => false,
                    // Nobody knows how it would have ended.
                    CallOutcome::Aborted | CallOutcome::Unknown => return,
                };
                self.llm_answered(names.service(service), well, Nanos::now());
            }
            Observation::Gpu(Gpu::Sample(ref sample)) => self.gpus(sample),
            _ => {}
        }
    }
}

impl State {
    /// Whether `service` is required.
    fn requires(&self, service: &str) -> bool {
        let subject = Subject::service(service);
        self.checks.iter().any(|entry| entry.name == PROCESS && entry.subject == subject && entry.required)
    }

    fn update(&mut self, name: &'static str, subject: &Subject, now: Nanos, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.checks.iter_mut().find(|entry| entry.name == name && entry.subject == *subject) {
            change(entry);
            return;
        }
        // A shard's number comes off the wire.
        let others = || self.checks.iter().filter(|entry| entry.name == name && entry.subject.shard.is_some()).count();
        if subject.shard.is_some() && others() >= SHARDS_MAX {
            return;
        }
        let mut entry = Entry {
            name,
            subject: subject.clone(),
            required: false,
            status: Status::Unknown,
            reason: "not known yet".to_owned(),
            since: now,
        };
        change(&mut entry);
        self.checks.push(entry);
    }
}

impl Entry {
    fn set(&mut self, status: Status, reason: &str, since: Nanos) {
        if self.status != status {
            self.status = status;
            self.since = since;
        }
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
        }
    }

    fn check(&self, clock: &Clock) -> Check {
        let span = clock.monotonic.since(self.since);
        Check {
            name: self.name,
            service: self.subject.service.clone(),
            shard: self.subject.shard.map(Shard::label),
            gpu: self.subject.gpu.clone(),
            status: self.status,
            reason: self.reason.clone(),
            since: clock.wall.checked_sub(Duration::from_nanos(span.0)).unwrap_or(SystemTime::UNIX_EPOCH),
            seconds: span.seconds(),
        }
    }
}

/// The same moment on both clocks. Times are kept on the monotonic one, so that setting the wall clock moves none.
struct Clock {
    monotonic: Nanos,
    wall: SystemTime,
}

impl Clock {
    fn at(monotonic: Nanos) -> Self {
        Self { monotonic, wall: SystemTime::now() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ServiceId;

    const START: Nanos = Nanos(1_000_000_000_000);

    fn after(seconds: u64) -> Nanos {
        START + Duration::from_secs(seconds).into()
    }

    fn check<'a>(report: &'a Report, name: &str) -> &'a Check {
        report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name} in {report}"))
    }

    #[test]
    fn the_probe_lives_while_its_heart_beats() {
        let health = Health::new(Thresholds::default(), START);
        assert_eq!(health.liveness(after(5)).status, Status::Ok);
        let dead = health.liveness(after(8));
        assert_eq!(dead.status, Status::Failing);
        assert_eq!(check(&dead, "probe").reason, "no heartbeat for 8 s");
        assert_eq!(check(&dead, "probe").seconds, 3.0, "it failed when the limit passed");

        health.beat(after(10));
        health.beat(after(12));
        let alive = health.liveness(after(13));
        assert_eq!(alive.status, Status::Ok);
        assert_eq!(check(&alive, "probe").seconds, 3.0, "it lives since the first beat after the gap");
        assert_eq!(health.report(after(30)).status, Status::Failing, "a dead probe knows nothing of anybody's health");
    }

    #[test]
    fn ready_means_attached_to_all_that_is_required() {
        let health = Health::new(Thresholds::default(), START);
        assert_eq!(health.readiness(START).status, Status::Unknown);
        health.kernel(Status::Ok, "", START);
        assert_eq!(health.readiness(START).status, Status::Ok);
        health.require("bot", START);
        assert_eq!(health.readiness(START).status, Status::Unknown);
        health.targets("llm", 0, 0, "", START);
        health.targets("bot", 0, 2, "permission denied", START);
        let report = health.readiness(START);
        assert_eq!(report.status, Status::Failing);
        assert_eq!(check(&report, "process").reason, "none of 2 matching processes can be followed: permission denied");
        health.targets("bot", 1, 0, "", START);
        assert_eq!(health.readiness(START).status, Status::Ok, "nobody requires llm");
        assert_eq!(health.report(START).status, Status::Failing, "but it is not up");
        health.forget("llm");
        assert_eq!(health.report(START).status, Status::Ok);
    }

    #[test]
    fn time_goes_on_while_the_status_stays() {
        let health = Health::new(Thresholds::default(), START);
        health.targets("bot", 1, 0, "", after(1));
        health.targets("bot", 2, 0, "", after(4));
        let seconds = |now| check(&health.report(now), "process").seconds;
        assert_eq!(seconds(after(6)), 5.0);
        health.targets("bot", 0, 0, "", after(7));
        assert_eq!(seconds(after(9)), 2.0);
    }

    #[test]
    fn a_gateway_is_checked_from_when_it_is_seen_until_it_is_gone() {
        let names = Names { services: vec!["bot".to_owned()], ..Names::default() };
        let mut health = Health::new(Thresholds::default(), START);
        health.beat(after(10));
        health.kernel(Status::Ok, "", START);
        let mut see = |shard: u32, change, seconds| {
            let what = Discord::Gateway { shard: Shard(Some(shard)), time: after(seconds), change };
            health.observe(&Observation::Discord { service: ServiceId(0), what }, &names);
            let report = health.report(after(10));
            let checks = report.checks.iter().filter(|check| check.shard.is_some());
            let seen: Vec<_> =
                checks.map(|one| (one.name, one.shard.clone().unwrap_or_default(), one.status, one.seconds)).collect();
            (report.status, seen)
        };
        let zero = || "0".to_owned();
        assert_eq!(see(0, GatewayChange::SessionStarted, 0), (Status::Ok, vec![]));
        see(0, GatewayChange::Up, 1);
        see(0, GatewayChange::Heartbeat(Nanos(45_000_000)), 2);
        see(1, GatewayChange::Up, 3);
        see(0, GatewayChange::Missed, 5);
        let (status, seen) = see(0, GatewayChange::Down, 6);
        assert_eq!(status, Status::Failing);
        assert_eq!(
            seen,
            [
                (GATEWAY, zero(), Status::Failing, 4.0),
                (HEARTBEAT, zero(), Status::Failing, 5.0),
                (GATEWAY, "1".to_owned(), Status::Ok, 7.0),
            ]
        );
        assert_eq!(see(0, GatewayChange::Gone, 7), (Status::Ok, vec![(GATEWAY, "1".to_owned(), Status::Ok, 7.0)]));
        for shard in 0..2_000 {
            see(shard, GatewayChange::Up, 8);
        }
        assert_eq!(see(0, GatewayChange::Missed, 9).1.len(), SHARDS_MAX + 1, "a gateway may tell of any number");
    }

    #[test]
    fn a_check_is_one_line_whatever_its_texts_hold() {
        let health = Health::new(Thresholds::default(), START);
        health.check("gateway", Some("b\not"), Status::Failing, "two\r\nlines\x1b[2J", START);
        let text = health.report(START).to_string();
        assert_eq!(text.lines().count(), 4, "{text:?}");
        assert!(text.contains("failing gateway of b ot since ") && text.contains(": two  lines [2J\n"), "{text:?}");
    }

    #[test]
    fn what_cannot_be_told_is_no_failure() {
        let health = Health::new(Thresholds::default(), START);
        health.kernel(Status::Ok, "", START);
        health.check("gateway", Some("bot"), Status::Unknown, "attached in mid-stream", START);
        assert_eq!(health.report(START).status, Status::Unknown);
    }

    #[test]
    fn what_is_judged_by_thresholds_stands_since_it_came_about() {
        let health = Health::new(Thresholds::default(), START);
        health.kernel(Status::Ok, "", START);
        health.beat(after(30));
        assert_eq!(health.report(after(1)).checks.len(), 2);
        health.loop_stalled("bot", None);
        health.judge(after(2));
        health.loop_stalled("bot", Some(Stall { since: after(10), place: String::new(), begun_before: false }));
        let report = health.report(after(20));
        assert_eq!((report.status, check(&report, facts::LOOP).seconds), (Status::Failing, 5.0), "since second 15");
        health.loop_stalled("bot", None);
        assert_eq!(health.report(after(21)).status, Status::Ok);
        for time in 22..25 {
            health.llm_answered("bot", false, after(time));
        }
        assert_eq!(check(&health.report(after(30)), facts::LLM).seconds, 8.0);
        health.llm_answered("bot", true, after(30));

        health.gpu_memory("0", Some((99, 100)), after(30));
        let report = health.report(after(30));
        assert_eq!((report.status, check(&report, facts::GPU_MEMORY).gpu.as_deref()), (Status::Failing, Some("0")));
        assert!(report.to_string().contains("failing GPU memory left of GPU 0 since "), "{report}");
        health.gpu_memory("0", None, after(31));
        assert_eq!(health.report(after(31)).status, Status::Ok);
    }

    #[test]
    fn a_process_s_checks_go_with_it_and_its_end_is_told() {
        let names = Names { services: vec!["bot".to_owned()], ..Names::default() };
        let mut health = Health::new(Thresholds::default(), START);
        health.beat(after(9));
        let mut see = |what| {
            health.observe(&Observation::Process { service: ServiceId(0), what }, &names);
            health.targets("bot", 0, 0, "", after(9));
            health.report(after(9))
        };
        let tgid = crate::units::Tgid(7);
        let vitals = crate::observations::Vitals {
            tgid,
            time: after(9),
            start: None,
            memory: crate::observations::Memory::default(),
            threads: None,
            open_fds: Some(10),
            max_fds: Some(10),
            cpu: None,
            switches: None,
            faults: None,
            io: None,
            growth: None,
            cgroup: None,
        };
        let report = see(ProcessNews::Vitals(Box::new(vitals)));
        assert_eq!(check(&report, facts::DESCRIPTORS).status, Status::Failing);
        assert_eq!(check(&report, PROCESS).reason, "no process matches");
        see(ProcessNews::Ended { time: after(9), end: ProcessEnd::Signal(11) });
        let report = see(ProcessNews::Gone { tgid });
        assert!(report.checks.iter().all(|check| check.name != facts::DESCRIPTORS), "{report}");
        assert_eq!(check(&report, PROCESS).reason, "no process matches; the last one was killed by SIGSEGV");
        assert_eq!(check(&report, PROCESS).status, Status::Failing);
        let mut well = || see(ProcessNews::Ended { time: after(9), end: ProcessEnd::Code(0) });
        assert_eq!(check(&well(), PROCESS).status, Status::Ok, "the job succeeded");
        health.require("bot", START);
        health.targets("bot", 0, 0, "", after(9));
        assert_eq!(check(&health.report(after(9)), PROCESS).status, Status::Failing, "it is required");
    }
}
