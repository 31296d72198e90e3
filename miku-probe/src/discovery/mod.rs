//! Which processes to watch: found by selectors, or chosen when there are none; their births, their children, their
//! ends.
//!
//! A [`Discovery`] keeps what is known of the machine's processes and answers with [`Change`]s. It is asked in two
//! ways: a full [`Discovery::scan`] at the start and every few seconds, which misses nothing, and the kernel's news
//! of single processes in between ([`Discovery::examine`], [`Discovery::forked`], [`Discovery::exited`]), which are
//! fast.
//!
//! All process numbers are those of the initial PID namespace, in which the kernel side counts too; so the probe must
//! run there, whatever namespaces its targets are in.
//!
//! # Which processes belong to a service
//! - Those that meet one of its selectors; the first service in the configuration's order wins.
//! - Children of such a process that run the same program: forked workers, and those of `multiprocessing`, which are
//!   forked and become the same Python anew. A child that becomes another program (`ffmpeg`, a shell) does not
//!   belong, unless it meets a selector itself.
//! - A process that becomes another program belongs no longer, unless that meets a selector too. A process that merely
//!   renames itself stays.
//!
//! The probe itself, and other probes, never belong to any.

pub mod addresses;
pub mod candidates;
pub mod cgroups;
pub mod containers;
#[cfg(test)]
pub(crate) mod fixture;
pub mod libraries;
pub mod lives;
pub mod process;
pub mod selectors;
pub mod sockets;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod usage;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;

use crate::discovery::candidates::Judgement;
use crate::discovery::process::{Exe, ProcFs, Process, StartTime};
use crate::discovery::selectors::{Selector, ServiceSpec, is_wrapper};
use crate::discovery::tcp::{TLS_PORT, Tables};
use crate::units::{ServiceId, Tgid};

/// The most services that are made up when none is configured: each is a label value.
pub const AUTOMATIC_SERVICES_MAX: usize = 32;

/// A process to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub tgid: Tgid,
    /// When it began; with the number, it names the process for good.
    pub start: StartTime,
    /// The service it belongs to.
    pub service: ServiceId,
    /// Its name, as the kernel keeps it.
    pub comm: String,
    /// Why it belongs there, in a few words.
    pub why: String,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service that no configuration names was made up. It comes before the first process of it.
    NewService {
        /// Its number: one more than the last.
        service: ServiceId,
        /// Its name.
        name: String,
    },
    /// A process is to be watched.
    Found(Target),
    /// A process is to be watched no longer: it ended or became another program.
    Gone {
        /// Its number.
        tgid: Tgid,
    },
    /// A process was looked at and is not watched. Told once for each process and reason.
    Rejected {
        /// Its number.
        tgid: Tgid,
        /// The service it would belong to, if any.
        service: Option<ServiceId>,
        /// Why not.
        reason: RejectReason,
    },
}

/// Why a process is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// It runs a 32-bit program, whose system calls do not pass the tracepoints that are watched.
    ThirtyTwoBit,
    /// This user may not read it.
    Unreadable,
    /// It would need a service more than [`AUTOMATIC_SERVICES_MAX`].
    TooManyServices,
    /// It is Python, but neither listens on TCP nor has a TLS connection now, and no selector names it.
    IdlePython,
}

impl RejectReason {
    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ThirtyTwoBit => "32_bit",
            Self::Unreadable => "unreadable",
            Self::TooManyServices => "too_many_services",
            Self::IdlePython => "idle",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ThirtyTwoBit => "a 32-bit program, whose system calls cannot be followed",
            Self::Unreadable => "may not be read by this user; run as root",
            Self::TooManyServices => "too many services already; name those you want with --service",
            Self::IdlePython => "neither listens on TCP nor has a TLS connection; name it with --service to watch it",
        })
    }
}

/// What the kernel tells of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It became another program.
    Exec,
    /// It began to listen on this TCP port.
    Listen(u16),
    /// It began to connect to this TCP port.
    Dial(u16),
}

/// A `pid:` selector that names no process.
#[derive(Debug, thiserror::Error)]
pub struct UnknownPid {
    /// The service.
    pub service: String,
    /// The number.
    pub pid: Tgid,
    /// The process that it is a thread of, if it is one.
    pub thread_of: Option<Tgid>,
}

impl fmt::Display for UnknownPid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, pid, thread_of } = self;
        match thread_of {
            Some(process) => {
                write!(formatter, "service {service}: {pid} is a thread of process {process}; write pid:{process}")
            }
            None => write!(
                formatter,
                "service {service}: there is no process {pid}; `miku-probe ps` lists those that can be watched"
            ),
        }
    }
}

/// A service whose targets run different executables, with one process of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixedService {
    /// Its name.
    pub service: String,
    /// The programs.
    pub programs: BTreeMap<String, Tgid>,
}

impl fmt::Display for MixedService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs: Vec<String> = self.programs.iter().map(|(name, tgid)| format!("{name} ({tgid})")).collect();
        write!(formatter, "{} matches different programs: {}", self.service, programs.join(", "))
    }
}

/// A process that is watched.
#[derive(Debug)]
struct Watched {
    start: StartTime,
    service: ServiceId,
    program: Option<Exe>,
}

/// What is to be done with a process.
enum Verdict {
    Watch { service: ServiceId, why: String },
    Reject { service: Option<ServiceId>, reason: RejectReason },
    Ignore,
}

/// What one look at processes reads beside them.
struct View {
    tables: Tables,
    /// Whether it is worth while to read which libraries they have mapped.
    libraries: bool,
}

/// Finds the processes to watch. See the module's description.
#[derive(Debug)]
pub struct Discovery {
    proc: ProcFs,
    specs: Vec<ServiceSpec>,
    names: Vec<String>,
    watched: HashMap<Tgid, Watched>,
    rejected: HashMap<Tgid, (StartTime, RejectReason)>,
    /// Processes that no automatic choice falls on as long as they run what they run, with their names: most of the
    /// machine, and so not looked into again.
    settled: HashMap<Tgid, (StartTime, String)>,
    /// The processes that the `pid:` selectors mean, fixed by the first scan.
    pinned: Option<HashMap<Tgid, StartTime>>,
    probe: Probe,
    unreadable: usize,
}

/// What is needed to know the probe from others.
#[derive(Debug)]
struct Probe {
    tgid: Tgid,
    exe: Option<Exe>,
    ancestors: HashSet<Tgid>,
}

impl Probe {
    fn find(proc: &ProcFs) -> Self {
        let tgid = Tgid(std::process::id());
        let process = proc.process(tgid);
        let mut ancestors = HashSet::new();
        let mut parent = process.as_ref().map(Process::parent);
        while let Some(tgid) = parent.filter(|tgid| tgid.0 > 1 && ancestors.insert(*tgid)) {
            parent = proc.process(tgid).map(|process| process.parent());
        }
        Self { tgid, exe: process.and_then(|process| process.exe().cloned()), ancestors }
    }

    /// Whether `process` is a probe.
    fn is(&self, process: &Process) -> bool {
        let same = |own: &Exe| process.exe().is_some_and(|exe| exe.same_program(own));
        process.tgid == self.tgid || self.exe.as_ref().is_some_and(same)
    }

    /// Whether `process` has the probe's command line in its own, as `sudo` and `sh -c` have: what a selector finds
    /// there is itself.
    fn is_wrapped_by(&self, process: &Process) -> bool {
        let Some(own) = self.exe.as_ref().map(Exe::name).filter(|name| !name.is_empty()) else { return false };
        self.ancestors.contains(&process.tgid) && process.arguments().iter().any(|argument| argument.contains(own))
    }
}

impl Discovery {
    /// Watches `specs`, or chooses by itself when there are none. Services are numbered in the order of `specs`.
    #[must_use]
    pub fn new(proc: ProcFs, specs: Vec<ServiceSpec>) -> Self {
        Self {
            probe: Probe::find(&proc),
            names: specs.iter().map(|spec| spec.name.clone()).collect(),
            proc,
            specs,
            watched: HashMap::new(),
            rejected: HashMap::new(),
            settled: HashMap::new(),
            pinned: None,
            unreadable: 0,
        }
    }

    /// The names of all services so far, by [`ServiceId`].
    #[must_use]
    pub fn services(&self) -> &[String] {
        &self.names
    }

    /// Whether services are made up, because none was named.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.specs.is_empty()
    }

    /// How many processes are watched for `service` now.
    #[must_use]
    pub fn count(&self, service: ServiceId) -> usize {
        self.watched.values().filter(|watched| watched.service == service).count()
    }

    /// The configured services whose targets run different executables: perhaps not all are meant.
    #[must_use]
    pub fn mixed_services(&self) -> Vec<MixedService> {
        let mut programs: BTreeMap<ServiceId, BTreeMap<String, Tgid>> = BTreeMap::new();
        for (tgid, watched) in self.watched.iter().filter(|_| !self.is_automatic()) {
            if let Some(program) = &watched.program {
                let first =
                    programs.entry(watched.service).or_default().entry(program.name().to_owned()).or_insert(*tgid);
                *first = (*tgid).min(*first);
            }
        }
        let several = programs.into_iter().filter(|(_, programs)| programs.len() > 1);
        several
            .filter_map(|(service, programs)| {
                Some(MixedService { service: self.names.get(usize::from(service.0))?.clone(), programs })
            })
            .collect()
    }

    /// How many processes the last scan could not judge, because this user may not read them.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// Checks that every `pid:` selector names a living process. For the start: later they may well have ended.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check_pids(&self) -> Result<(), UnknownPid> {
        for spec in &self.specs {
            for selector in &spec.selectors {
                let Selector::Pid(pid) = *selector else { continue };
                let thread_of = self.proc.thread_of(pid.0);
                if thread_of.is_some() || self.proc.process(pid).is_none() {
                    return Err(UnknownPid { service: spec.name.clone(), pid, thread_of });
                }
            }
        }
        Ok(())
    }

    /// Looks at all processes.
    ///
    /// # Errors
    /// When `/proc` cannot be read at all.
    pub fn scan(&mut self) -> io::Result<Vec<Change>> {
        let mut processes: Vec<Process> =
            self.proc.tgids()?.into_iter().filter_map(|tgid| self.proc.process(tgid)).collect();
        self.pin(&processes);
        let mut changes = Vec::new();
        let starts: HashMap<Tgid, StartTime> =
            processes.iter().map(|process| (process.tgid, process.start())).collect();
        self.watched.retain(|tgid, watched| {
            let alive = starts.get(tgid) == Some(&watched.start);
            if !alive {
                changes.push(Change::Gone { tgid: *tgid });
            }
            alive
        });
        self.rejected.retain(|tgid, (start, _)| starts.get(tgid) == Some(start));
        self.settled.retain(|tgid, (start, _)| starts.get(tgid) == Some(start));
        self.unreadable = 0;

        // Whether a process belongs depends on its parent, which is the older one; numbers settle a tie within a
        // clock tick.
        processes.sort_unstable_by_key(|process| (process.start(), process.tgid));
        let view = View { tables: Tables::default(), libraries: true };
        for process in &processes {
            match self.watched.get(&process.tgid) {
                Some(watched) if same_program(process.exe(), watched.program.as_ref()) => {}
                Some(_) => self.rejudge(process, &view, &mut changes),
                None => self.consider(process, &view, &mut changes),
            }
            self.unreadable += usize::from(process.refused() && !self.watched.contains_key(&process.tgid));
        }
        Ok(changes)
    }

    /// Looks at one process of which the kernel told something. Every program that starts anywhere comes by here, so it
    /// reads only what the selectors in use need.
    #[must_use]
    pub fn examine(&mut self, tgid: Tgid, event: Event) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.cares_for(event) {
            return changes;
        }
        let Some(process) = self.proc.process(tgid) else { return changes };
        if event == Event::Exec {
            self.settled.remove(&tgid);
        }
        self.forget_predecessor(&process, &mut changes);
        // Of a program that has just begun not even its libraries are mapped.
        let view = View { tables: Tables::default(), libraries: event != Event::Exec };
        if !self.watched.contains_key(&tgid) {
            self.consider(&process, &view, &mut changes);
        } else if event == Event::Exec {
            self.rejudge(&process, &view, &mut changes);
        }
        changes
    }

    /// Takes in that `parent` made `child`, which shares its service until it becomes another program.
    #[must_use]
    pub fn forked(&mut self, parent: Tgid, child: Tgid) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(watched) = self.watched.get(&parent) else { return changes };
        let (service, program) = (watched.service, watched.program.clone());
        // It may have ended already.
        let Some(process) = self.proc.process(child) else { return changes };
        self.forget_predecessor(&process, &mut changes);
        if !self.watched.contains_key(&child) {
            let why = format!("forked by {parent}");
            self.watch(&process, service, why, program, &mut changes);
        }
        changes
    }

    /// Takes in that `tgid` ended.
    #[must_use]
    pub fn exited(&mut self, tgid: Tgid) -> Vec<Change> {
        self.rejected.remove(&tgid);
        self.settled.remove(&tgid);
        self.watched.remove(&tgid).map(|_| Change::Gone { tgid }).into_iter().collect()
    }

    /// Whether this news can make a difference.
    fn cares_for(&self, event: Event) -> bool {
        let mut selectors = self.specs.iter().flat_map(|spec| &spec.selectors);
        match event {
            Event::Exec => true,
            Event::Listen(port) => {
                self.is_automatic()
                    || selectors.any(|selector| matches!(selector, Selector::Port(wanted) if *wanted == port))
            }
            Event::Dial(port) => self.is_automatic() && port == TLS_PORT,
        }
    }

    /// Fixes what the `pid:` selectors mean, the first time.
    fn pin(&mut self, processes: &[Process]) {
        if self.pinned.is_none() {
            let pids: HashSet<Tgid> = self
                .specs
                .iter()
                .flat_map(|spec| &spec.selectors)
                .filter_map(|selector| if let Selector::Pid(pid) = selector { Some(*pid) } else { None })
                .collect();
            let named = processes.iter().filter(|process| pids.contains(&process.tgid));
            self.pinned = Some(named.map(|process| (process.tgid, process.start())).collect());
        }
    }

    /// Lets go of an earlier process with the number of `process`.
    fn forget_predecessor(&mut self, process: &Process, changes: &mut Vec<Change>) {
        if self.watched.get(&process.tgid).is_some_and(|watched| watched.start != process.start()) {
            self.watched.remove(&process.tgid);
            changes.push(Change::Gone { tgid: process.tgid });
        }
    }

    /// Judges a process that is not watched.
    fn consider(&mut self, process: &Process, view: &View, changes: &mut Vec<Change>) {
        if process.is_kernel_thread() {
            return;
        }
        match self.judge(process, view, changes) {
            Verdict::Watch { service, why } => {
                let program = process.exe().cloned();
                self.watch(process, service, why, program, changes);
            }
            Verdict::Reject { service, reason } => self.reject(process, service, reason, changes),
            Verdict::Ignore => {}
        }
    }

    /// Judges a watched process that became a program, perhaps the same one.
    fn rejudge(&mut self, process: &Process, view: &View, changes: &mut Vec<Change>) {
        let tgid = process.tgid;
        let Some(watched) = self.watched.get(&tgid) else { return };
        let (service, same) = (watched.service, same_program(process.exe(), watched.program.as_ref()));
        let verdict = match self.judge(process, view, changes) {
            // Fresh from its start it serves nobody yet. If it is the same program it will.
            Verdict::Reject { reason: RejectReason::IdlePython, .. } | Verdict::Ignore
                if same && self.is_automatic() =>
            {
                return;
            }
            verdict => verdict,
        };
        if let Verdict::Watch { service: still, .. } = &verdict
            && *still == service
        {
            if let Some(watched) = self.watched.get_mut(&tgid) {
                watched.program = process.exe().cloned();
            }
            return;
        }
        self.watched.remove(&tgid);
        changes.push(Change::Gone { tgid });
        match verdict {
            Verdict::Watch { service, why } => self.watch(process, service, why, process.exe().cloned(), changes),
            Verdict::Reject { service, reason } => self.reject(process, service, reason, changes),
            Verdict::Ignore => {}
        }
    }

    fn judge(&mut self, process: &Process, view: &View, changes: &mut Vec<Change>) -> Verdict {
        let verdict =
            if self.is_automatic() { self.choose(process, view, changes) } else { self.select(process, &view.tables) };
        match verdict {
            Verdict::Watch { .. } | Verdict::Reject { .. } if self.probe.is(process) => Verdict::Ignore,
            Verdict::Watch { service, .. } if process.is_32_bit() => {
                Verdict::Reject { service: Some(service), reason: RejectReason::ThirtyTwoBit }
            }
            // Of its own processes a user may read everything; where that fails, attaching would too.
            Verdict::Watch { service, .. } if process.exe().is_none() && process.refused() => {
                Verdict::Reject { service: Some(service), reason: RejectReason::Unreadable }
            }
            verdict => verdict,
        }
    }

    /// Judges by the selectors.
    fn select(&self, process: &Process, tables: &Tables) -> Verdict {
        for (place, spec) in self.specs.iter().enumerate() {
            for selector in &spec.selectors {
                let meant = match selector {
                    Selector::Pid(pid) => {
                        self.pinned.as_ref().is_none_or(|pinned| pinned.get(pid) == Some(&process.start()))
                    }
                    Selector::Cmdline(_) => {
                        let wrapper = || process.exe().is_some_and(|exe| is_wrapper(exe.name()));
                        !self.probe.is_wrapped_by(process) && (spec.takes_any_program() || !wrapper())
                    }
                    _ => true,
                };
                if let Some(why) = selector.matches(process, tables).filter(|_| meant) {
                    let service = ServiceId(u16::try_from(place).expect("the configuration caps services"));
                    return Verdict::Watch { service, why };
                }
            }
        }
        self.inherited(process).unwrap_or(Verdict::Ignore)
    }

    /// Judges by what the process is and does.
    fn choose(&mut self, process: &Process, view: &View, changes: &mut Vec<Change>) -> Verdict {
        let inherited = self.inherited(process);
        if inherited.is_none() && self.is_settled(process) {
            return Verdict::Ignore;
        }
        let is_python = candidates::is_python(process, view.libraries);
        let judgement = candidates::judge(process, is_python, &view.tables);
        if let Some(Verdict::Watch { service, why }) = inherited {
            // A supervisor written in Python starts bots that are services of their own.
            let parent_name = self.names.get(usize::from(service.0));
            let own = candidates::script_name(process).is_some_and(|name| parent_name != Some(&name));
            if !own || !matches!(judgement, Judgement::Candidate { .. }) {
                return Verdict::Watch { service, why };
            }
        }
        match judgement {
            Judgement::Candidate { .. } if self.probe.is(process) => Verdict::Ignore,
            Judgement::Candidate { name, why } => match self.service(name, changes) {
                Some(service) => Verdict::Watch { service, why },
                None => Verdict::Reject { service: None, reason: RejectReason::TooManyServices },
            },
            // What its sockets are was not told.
            Judgement::IdlePython if process.refused() => {
                Verdict::Reject { service: None, reason: RejectReason::Unreadable }
            }
            Judgement::IdlePython => Verdict::Reject { service: None, reason: RejectReason::IdlePython },
            Judgement::Other => {
                self.settle(process, view);
                Verdict::Ignore
            }
        }
    }

    /// Whether `process` was found to be of no interest, and still runs what it ran then.
    fn is_settled(&self, process: &Process) -> bool {
        self.settled.get(&process.tgid).is_some_and(|(start, comm)| *start == process.start() && comm == process.comm())
    }

    /// Remembers that `process` is of no interest, once its libraries were read when all of them must have been mapped.
    fn settle(&mut self, process: &Process, view: &View) {
        const SETTLED_S: u64 = 10;
        let grown = || self.proc.age(process.start()).is_some_and(|age| age.as_secs() >= SETTLED_S);
        if view.libraries && grown() {
            self.settled.insert(process.tgid, (process.start(), process.comm().to_owned()));
        }
    }

    /// The verdict on a child of a watched process that runs the same program.
    fn inherited(&self, process: &Process) -> Option<Verdict> {
        let parent = process.parent();
        let watched = self.watched.get(&parent)?;
        let same = process.exe().is_some() && same_program(process.exe(), watched.program.as_ref());
        same.then(|| Verdict::Watch { service: watched.service, why: format!("same program as its parent {parent}") })
    }

    /// The service with this name, a new one if need be and there is room.
    fn service(&mut self, name: String, changes: &mut Vec<Change>) -> Option<ServiceId> {
        if let Some(place) = self.names.iter().position(|known| *known == name) {
            return u16::try_from(place).ok().map(ServiceId);
        }
        if self.names.len() >= AUTOMATIC_SERVICES_MAX {
            return None;
        }
        let service = ServiceId(u16::try_from(self.names.len()).ok()?);
        self.names.push(name.clone());
        changes.push(Change::NewService { service, name });
        Some(service)
    }

    fn watch(
        &mut self,
        process: &Process,
        service: ServiceId,
        why: String,
        program: Option<Exe>,
        changes: &mut Vec<Change>,
    ) {
        let (tgid, start) = (process.tgid, process.start());
        self.rejected.remove(&tgid);
        self.watched.insert(tgid, Watched { start, service, program });
        changes.push(Change::Found(Target { tgid, start, service, comm: process.comm().to_owned(), why }));
    }

    fn reject(
        &mut self,
        process: &Process,
        service: Option<ServiceId>,
        reason: RejectReason,
        changes: &mut Vec<Change>,
    ) {
        let key = (process.start(), reason);
        if self.rejected.insert(process.tgid, key) != Some(key) {
            changes.push(Change::Rejected { tgid: process.tgid, service, reason });
        }
    }
}

/// Whether both are known and the same program; two that cannot be read are taken for the same.
fn same_program(one: Option<&Exe>, other: Option<&Exe>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.same_program(other),
        (None, None) => true,
        _ => false,
    }
}
