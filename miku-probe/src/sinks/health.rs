//! What the health endpoints tell: named checks, each with its status, the reason, and since when it stands.
//!
//! Whoever knows something reports it to a [`Health`]; [`web`](super::web) asks it for a [`Report`]. Three questions
//! are told apart: whether the probe itself lives, whether it is attached to all it must be attached to, and whether
//! the watched services are well.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::observations::{Discord, GatewayChange, Names, Observation, Shard, Sink};
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

/// What is known of the thing that a check looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is well.
    Ok,
    /// It is not well.
    Failing,
    /// It cannot be told, or not yet.
    Unknown,
}

impl Status {
    /// The name in texts and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Unknown => "unknown",
        }
    }

    /// The status of a whole of whose parts these are the statuses: one failing part fails it.
    fn of_all(statuses: impl Iterator<Item = Self>) -> Self {
        statuses.fold(Self::Ok, |whole, part| match (whole, part) {
            (Self::Failing, _) | (_, Self::Failing) => Self::Failing,
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Ok, Self::Ok) => Self::Ok,
        })
    }
}

/// One check as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What is looked at, such as `process`.
    pub name: &'static str,
    /// Whose, when it belongs to one service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which shard's, when it belongs to a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// How it is.
    pub status: Status,
    /// Why, in one line; empty when there is nothing to say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when the status is what it is, in UTC.
    #[serde(serialize_with = "as_rfc_3339")]
    pub since: SystemTime,
    /// For how many seconds the status has been what it is.
    pub seconds: f64,
}

impl fmt::Display for Check {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.status.as_str(), self.name)?;
        if let Some(service) = &self.service {
            write!(formatter, " of {}", OneLine(service))?;
        }
        if let Some(shard) = &self.shard {
            write!(formatter, ", shard {shard},")?;
        }
        write!(formatter, " since {} ({:.0} s)", rfc_3339(self.since), self.seconds)?;
        if self.reason.is_empty() { Ok(()) } else { write!(formatter, ": {}", OneLine(&self.reason)) }
    }
}

/// A text from elsewhere, as part of a line: control characters are spaces.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| formatter.write_char(if char.is_control() { ' ' } else { char }))
    }
}

/// Some checks, and what they come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Failing when any check fails, else unknown when any is unknown.
    pub status: Status,
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    fn of(checks: Vec<Check>) -> Self {
        Self { status: Status::of_all(checks.iter().map(|check| check.status)), checks }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.status.as_str())?;
        self.checks.iter().try_for_each(|check| writeln!(formatter, "{check}"))
    }
}

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
    checks: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    service: Option<String>,
    shard: Option<Shard>,
    required: bool,
    status: Status,
    reason: String,
    since: Nanos,
}

impl Health {
    /// A state in which the probe lives since `now` and is not attached yet.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        let kernel = Entry {
            name: KERNEL,
            service: None,
            shard: None,
            required: true,
            status: Status::Unknown,
            reason: "not attached yet".to_owned(),
            since: now,
        };
        Self {
            inner: Arc::new(Inner {
                last_beat: AtomicU64::new(now.0),
                alive_since: AtomicU64::new(now.0),
                checks: Mutex::new(vec![kernel]),
            }),
        }
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
        self.update(PROCESS, Some(service), None, now, |entry| entry.required = true);
    }

    /// Reports how many processes of `service` are attached, and how many match but cannot be followed and why.
    pub fn targets(&self, service: &str, attached: u32, failed: u32, why: &str, now: Nanos) {
        let (status, reason) = match (attached, failed) {
            (0, 0) => (Status::Failing, "no process matches".to_owned()),
            (0, failed) => (Status::Failing, format!("none of {failed} matching processes can be followed: {why}")),
            (attached, 0) => (Status::Ok, format!("{attached} attached")),
            (attached, failed) => (Status::Ok, format!("{attached} attached, {failed} cannot be followed: {why}")),
        };
        self.check(PROCESS, Some(service), status, &reason, now);
    }

    /// Drops all checks of `service`, when it is no longer watched for.
    pub fn forget(&self, service: &str) {
        let mut checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.retain(|entry| entry.service.as_deref() != Some(service));
    }

    /// Reports on anything else that belongs to the health of a service, or of all. Its time goes on while the status
    /// stays, whatever the reason.
    pub fn check(&self, name: &'static str, service: Option<&str>, status: Status, reason: &str, now: Nanos) {
        self.update(name, service, None, now, |entry| entry.set(status, reason, now));
    }

    /// Reports what happened to the gateway of a shard. Nothing is checked of a shard before that; and nothing of one that
    /// is gone.
    fn gateway(&self, service: &str, shard: Shard, change: GatewayChange, now: Nanos) {
        let set = |name, status, reason: &str| {
            self.update(name, Some(service), Some(shard), now, |entry| entry.set(status, reason, now));
        };
        match change {
            GatewayChange::Up => set(GATEWAY, Status::Ok, ""),
            GatewayChange::Down => set(GATEWAY, Status::Failing, "no heartbeat is acknowledged"),
            GatewayChange::Heartbeat(time) => {
                set(HEARTBEAT, Status::Ok, &format!("within {:.0} ms", time.seconds() * 1e3));
            }
            GatewayChange::Missed => set(HEARTBEAT, Status::Failing, "the next was due before it was acknowledged"),
            GatewayChange::Gone => {
                let mut checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
                checks.retain(|entry| entry.shard != Some(shard) || entry.service.as_deref() != Some(service));
            }
            GatewayChange::Reconnect { .. } | GatewayChange::SessionStarted => {}
        }
    }

    fn update(
        &self,
        name: &'static str,
        service: Option<&str>,
        shard: Option<Shard>,
        now: Nanos,
        change: impl FnOnce(&mut Entry),
    ) {
        let mut checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            |entry: &&mut Entry| entry.name == name && entry.shard == shard && entry.service.as_deref() == service;
        if let Some(entry) = checks.iter_mut().find(same) {
            change(entry);
            return;
        }
        // A shard's number comes off the wire.
        let others = || checks.iter().filter(|entry| entry.name == name && entry.shard.is_some()).count();
        if shard.is_some() && others() >= SHARDS_MAX {
            return;
        }
        let mut entry = Entry {
            name,
            service: service.map(str::to_owned),
            shard,
            required: false,
            status: Status::Unknown,
            reason: "not known yet".to_owned(),
            since: now,
        };
        change(&mut entry);
        checks.push(entry);
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
        let checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
        Report::of(checks.iter().filter(|entry| entry.required).map(|entry| entry.check(&clock)).collect())
    }

    /// All checks, of the probe and of the services. Only [`Status::Failing`] is ill: what cannot be told raises no
    /// alarm.
    #[must_use]
    pub fn report(&self, now: Nanos) -> Report {
        let clock = Clock::at(now);
        let checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
        Report::of(std::iter::once(self.probe(&clock)).chain(checks.iter().map(|entry| entry.check(&clock))).collect())
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
        Entry { name: PROBE, service: None, shard: None, required: true, status, reason, since }.check(clock)
    }
}

impl Sink for Health {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        if let Observation::Discord { service, what: Discord::Gateway { shard, time, change } } = *observation {
            self.gateway(names.service(service), shard, change, time);
        }
    }
}

impl Entry {
    fn set(&mut self, status: Status, reason: &str, now: Nanos) {
        if self.status != status {
            self.status = status;
            self.since = now;
        }
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
        }
    }

    fn check(&self, clock: &Clock) -> Check {
        let span = clock.monotonic.since(self.since);
        Check {
            name: self.name,
            service: self.service.clone(),
            shard: self.shard.map(Shard::label),
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

fn rfc_3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |timestamp| format!("{timestamp:.3}"))
}

fn as_rfc_3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc_3339(*time))
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
        let health = Health::new(START);
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
        let health = Health::new(START);
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
        let health = Health::new(START);
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
        let mut health = Health::new(START);
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
        let health = Health::new(START);
        health.check("gateway", Some("b\not"), Status::Failing, "two\r\nlines\x1b[2J", START);
        let text = health.report(START).to_string();
        assert_eq!(text.lines().count(), 4, "{text:?}");
        assert!(text.contains("failing gateway of b ot since ") && text.contains(": two  lines [2J\n"), "{text:?}");
    }

    #[test]
    fn what_cannot_be_told_is_no_failure() {
        let health = Health::new(START);
        health.kernel(Status::Ok, "", START);
        health.check("gateway", Some("bot"), Status::Unknown, "attached in mid-stream", START);
        assert_eq!(health.report(START).status, Status::Unknown);
    }

    #[test]
    fn texts_and_json_say_the_same() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let report = Report::of(vec![
            Check {
                name: "process",
                service: Some("bot".to_owned()),
                shard: None,
                status: Status::Failing,
                reason: "no process matches".to_owned(),
                since,
                seconds: 12.5,
            },
            Check {
                name: "gateway up",
                service: Some("bot".to_owned()),
                shard: Some("0".to_owned()),
                status: Status::Ok,
                reason: String::new(),
                since,
                seconds: 60.0,
            },
        ]);
        assert_eq!(
            report.to_string(),
            "failing\n\
             failing process of bot since 2023-11-14T22:13:20.250Z (12 s): no process matches\n\
             ok gateway up of bot, shard 0, since 2023-11-14T22:13:20.250Z (60 s)\n"
        );
        assert_eq!(
            serde_json::to_value(&report).expect("all of it is plain data"),
            serde_json::json!({"status": "failing", "checks": [
                {"name": "process", "service": "bot", "status": "failing", "reason": "no process matches",
                 "since": "2023-11-14T22:13:20.250Z", "seconds": 12.5},
                {"name": "gateway up", "service": "bot", "shard": "0", "status": "ok",
                 "since": "2023-11-14T22:13:20.250Z", "seconds": 60.0}
            ]})
        );
    }
}
