//! Loads the kernel side, attaches each probe on its own, and hands out its maps.
//!
//! One probe that fails never stops the others: each has a declared [`Intent`], and [`status`] makes of it and of what
//! came of attaching what the metrics and the readiness check say.

pub mod arrivals;
pub mod attacher;
mod attachments;
pub mod cuda;
pub mod event_loop;
pub mod inflate;
mod maps;
pub mod net;
mod offsets;
pub mod plan;
pub mod process;
pub mod socket;
mod statistics;
pub mod tls;
mod types;
mod unpreempted;
pub mod uprobe;

use std::collections::BTreeMap;
use std::fs::File;

use aya::programs::ProgramError;
use aya::util::KernelVersion;
use aya::{Btf, Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use miku_probe_abi::{CONNECTIONS_FEW, NetOffsets, SwitchOffsets, TaskOffsets};

use self::socket::Way;
use self::statistics::statistics_of;
use self::tls::Scrubber;
use self::uprobe::Uprobes;
use crate::discovery::libraries::Kind;

use self::types::KernelOffsets;
pub use attachments::Attachments;
pub use maps::{ConnectionTable, CounterTable, Maps, StreamTable, TargetTable};
pub use offsets::OffsetError;
pub use statistics::{RunStatistics, run_statistics, statistics_on};
pub use types::TypesError;

/// The BPF object that was built with this program; empty when it was built without one.
#[must_use]
pub fn object() -> &'static [u8] {
    static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/miku-probe.bpf.o"));
    OBJECT
}

/// Why the kernel side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The program holds no BPF object.
    #[error("this build has no BPF programs in it: build it with `cargo xtask build`")]
    NoObject,
    /// A tracepoint's fields could not be found.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The places of what is read of sockets could not be found.
    #[error(transparent)]
    Sockets(#[from] TypesError),
    /// The kernel does not tell its types.
    #[error("cannot read the kernel's type information: `miku-probe check` tells what is missing")]
    Types(#[source] aya::BtfError),
    /// The kernel did not take the object.
    #[error("the kernel refused the BPF object: `miku-probe check` tells what is missing")]
    Load(#[source] EbpfError),
    /// A map is not what this program expects.
    #[error("the BPF object has no usable map `{name}`")]
    Map {
        /// The map's name.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot use a BPF map")]
    MapAccess(#[from] aya::maps::MapError),
    /// A probe that nothing works without could not be attached.
    #[error("cannot attach {name}")]
    Required {
        /// Which probe.
        name: &'static str,
        /// Why.
        #[source]
        source: ProgramError,
    },
}

/// How much depends on a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Without it nothing can be measured.
    Required,
    /// Without it something is missing, and that is said.
    Optional,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A raw tracepoint with the kernel's type information, by name.
    BtfTracepoint(&'static str),
    /// A raw tracepoint, by name.
    RawTracepoint(&'static str),
    /// A tracepoint, by category and name.
    Tracepoint(&'static str, &'static str),
}

impl Hook {
    /// The tracepoint's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BtfTracepoint(name) | Self::RawTracepoint(name) | Self::Tracepoint(_, name) => name,
        }
    }
}

/// In which form programs stand on tracepoints that are hit in interrupts, or often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As any other. The kernel leaves out what meets another program, or a system call on a map, on its processor.
    Ordinary,
    /// Raw: cheaper, and left out only where the program itself is running on the processor already.
    Raw,
}

impl Form {
    /// The one that loses less.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        KernelVersion::current().map_or(Self::Ordinary, Self::of)
    }

    /// Raw programs run with preemption off before Linux 7. From then on a preempted one is left out for everybody else on
    /// its processor (measured: ARCHITECTURE.md), and there is nothing to ask whether they are.
    fn of(kernel: KernelVersion) -> Self {
        if kernel < KernelVersion::new(7, 0, 0) { Self::Raw } else { Self::Ordinary }
    }
}

/// A program of the object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The program's name in the object.
    pub program: &'static str,
    /// Its family: the label `kind`.
    pub kind: &'static str,
    /// Where it is attached.
    pub hook: Hook,
    /// How much depends on it.
    pub intent: Intent,
}

/// What is said of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is attached.
    Attached,
    /// It is not, and what it would measure is absent.
    Missing,
    /// It is not, so nothing is measured.
    Fatal,
}

/// What is to be said of a probe of this intent that was, or was not, attached.
#[must_use]
pub const fn status(intent: Intent, attached: bool) -> Status {
    match (attached, intent) {
        (true, _) => Status::Attached,
        (false, Intent::Optional) => Status::Missing,
        (false, Intent::Required) => Status::Fatal,
    }
}

/// Where programs stand on this kernel, but for those in libraries: from the start, and with `event_loops` as soon as somebody is
/// watched. A hook on which several stand is there several times.
#[must_use]
pub fn hooks(event_loops: bool) -> Vec<Hook> {
    let form = Form::of_this_kernel();
    let of_loops = if event_loops { event_loop::hooks(form) } else { Vec::new() };
    probes(Way::of_this_kernel(), form, true).map(|probe| probe.hook).chain(of_loops).collect()
}

/// The probes that are attached from the start, those of the network among them or not.
fn probes(way: Way, form: Form, net: bool) -> impl Iterator<Item = &'static Probe> {
    let net = if net { net::probes(form) } else { &[] };
    way.probes(form).iter().chain(process::probes(form)).chain(net)
}

/// Sizes that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the ring: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Open connections of watched processes that are followed at once.
    pub connections: u32,
}

/// A probe that could not be attached.
#[derive(Debug)]
pub struct Failure {
    /// Its family.
    pub kind: &'static str,
    /// Why, in a word: the label `reason`.
    pub reason: &'static str,
}

/// The loaded kernel side. Dropping it detaches and unloads everything.
pub struct Kernel {
    // Before the programs, which they hold on to.
    links: Attachments,
    ebpf: Ebpf,
    /// The programs of uprobes, until someone takes them to attach them.
    uprobes: Option<Uprobes>,
    /// Those of them that aya does not know, for what they cost.
    uprobe_descriptors: Vec<(&'static str, File)>,
    /// Until someone takes it.
    scrubber: Option<Scrubber>,
    attached: BTreeMap<&'static str, u32>,
    failures: Vec<Failure>,
    /// How sockets are noticed.
    way: Way,
    /// In which form programs stand on tracepoints.
    form: Form,
    /// Whether closings of descriptors are told.
    closes: bool,
    /// Whether TCP's tracepoints can be understood.
    net: bool,
    /// How switches of event loops' threads are noticed, unless they cannot be.
    switches: Option<event_loop::Switches>,
    /// Whether turns of event loops are told.
    turns: bool,
    /// Whether it is told when what is read had come; nothing where it cannot be.
    arrivals: Option<bool>,
    /// The kernel's types, until everything is attached: they take more memory than all the rest.
    btf: Option<Btf>,
}

impl Kernel {
    /// Loads the object; nothing is attached yet, so that the maps can be filled first.
    ///
    /// # Errors
    /// When there is no object, tracefs does not tell the tracepoints' fields, or the kernel refuses it.
    pub fn load(sizes: Sizes) -> Result<(Self, Maps), ProbeError> {
        if object().is_empty() {
            return Err(ProbeError::NoObject);
        }
        lift_memory_lock();
        let offsets = offsets::read()?;
        let (way, form) = (Way::of_this_kernel(), Form::of_this_kernel());
        // Each reading of the kernel's types takes some MiB: this one is over before the next.
        let KernelOffsets { sockets, tasks, net, switches, arrivals } = types::kernel_offsets()?;
        let socket_offsets = sockets?;
        let mut failures = Vec::new();
        let task_offsets = tasks.unwrap_or_else(|error| {
            log::warn!("how a process ended cannot be told: {}", chain(&error));
            failures.push(Failure { kind: process::KIND, reason: reason(&error) });
            TaskOffsets::default()
        });
        let arrival_offsets = arrivals
            .inspect_err(|error| {
                log::warn!("how long what is read had waited cannot be told: {}", chain(error));
                failures.push(Failure { kind: arrivals::KIND, reason: reason(error) });
            })
            .ok()
            .filter(|_| way == Way::Sockets);
        let net_offsets = net::read_offsets(net);
        let switches = loop_switches(form, switches, &mut failures);
        let switch_offsets = switches.map(event_loop::Switches::offsets).unwrap_or_default();
        let btf = Btf::from_sys_fs().map_err(ProbeError::Types)?;
        let wake = u64::from(sizes.ring_bytes) / 4;
        let few = sizes.connections.min(CONNECTIONS_FEW);
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("OFFSETS", &offsets, true)
            .override_global("WAKE_BYTES", &wake, true)
            .override_global("SOCKET_OFFSETS", &socket_offsets, true)
            .override_global("TASK_OFFSETS", &task_offsets, true)
            .override_global("SWITCH_OFFSETS", &switch_offsets, true)
            .override_global("ARRIVAL_OFFSETS", &arrival_offsets.unwrap_or_default(), true)
            .override_global("NET_OFFSETS", net_offsets.as_ref().unwrap_or(&NetOffsets::default()), true)
            .map_max_entries("RECORDS", sizes.ring_bytes)
            .map_max_entries("CONNECTIONS", few)
            .map_max_entries("MORE_CONNECTIONS", (sizes.connections - few).max(1))
            .map_max_entries("SOCKETS", sizes.connections)
            .map_max_entries("STREAMS", sizes.connections)
            .map_max_entries("NET_SOCKETS", sizes.connections)
            .load(object())
            .map_err(ProbeError::Load)?;
        let mut failed = |kind: &'static str, error: &(dyn std::error::Error + 'static), what| {
            log::warn!("{what}: {}", chain(error));
            failures.push(Failure { kind, reason: reason(error) });
        };
        if let Err(error) = &net_offsets {
            failed(net::KIND, error, "nothing of how connections come about and fail can be seen");
        }
        let programs = [tls::PROGRAMS, attacher::PROGRAMS].concat();
        let mut uprobes = Uprobes::load(&mut ebpf, object(), &programs, tls::WITH_COOKIES)
            .inspect_err(|error| {
                failed(Kind::Tls.as_str(), error, "nothing of TLS and of what is compressed can be seen");
            })
            .ok();
        if let Some(uprobes) = &mut uprobes {
            for (kind, programs, what) in [
                (Kind::Inflate, inflate::PROGRAMS, "nothing of what is compressed can be seen"),
                (Kind::Libc, net::PROGRAMS, "nothing of names that are resolved can be seen"),
                (Kind::Cuda, cuda::PROGRAMS, "nobody is seen to run out of GPU memory"),
            ] {
                if let Err(error) = uprobes.add(&mut ebpf, object(), programs) {
                    failed(kind.as_str(), &error, what);
                }
            }
        }
        let scrubber = Scrubber::load(&mut ebpf, sizes.ring_bytes)
            .inspect_err(|error| {
                failed(Kind::Tls.as_str(), error, "what was captured stays in memory until the ring has come around");
            })
            .ok();
        let uprobe_descriptors = uprobes.as_ref().map(Uprobes::descriptors).unwrap_or_default();
        let maps = Maps::take(&mut ebpf)?;
        let this = Self {
            links: Attachments::default(),
            ebpf,
            uprobes,
            uprobe_descriptors,
            scrubber,
            attached: BTreeMap::new(),
            failures,
            way,
            form,
            closes: way == Way::Calls,
            net: net_offsets.is_ok(),
            switches,
            turns: false,
            arrivals: arrival_offsets.map(|_| false),
            btf: Some(btf),
        };
        Ok((this, maps))
    }

    /// The programs of uprobes, once, unless the kernel refused them.
    pub fn take_uprobes(&mut self) -> Option<Uprobes> {
        self.uprobes.take()
    }

    /// What overwrites the ring, once, unless the kernel refused it.
    pub fn take_scrubber(&mut self) -> Option<Scrubber> {
        self.scrubber.take()
    }

    /// Attaches every probe that is for this kernel.
    ///
    /// # Errors
    /// When a required probe cannot be attached. What was attached before it is detached when `self` is dropped.
    pub fn attach(&mut self) -> Result<(), ProbeError> {
        let btf = self.btf.take();
        for probe in self.probes() {
            let outcome = self.attach_one(probe, btf.as_ref());
            self.account(probe, outcome)?;
        }
        if self.turns {
            self.attach_turns();
        } else {
            self.load_turns(btf.as_ref());
        }
        if self.arrivals == Some(true) {
            self.attach_later(&arrivals::PROBE);
        }
        Ok(())
    }

    /// Loads what needs the kernel's types, which are not there any more when it is attached. What is refused shows then.
    fn load_turns(&mut self, btf: Option<&Btf>) {
        let typed = |probe: &Probe| matches!(probe.hook, Hook::BtfTracepoint(_));
        for probe in self.switches.iter().flat_map(|switches| switches.probes()).filter(typed) {
            if let Some(program) = self.ebpf.program_mut(probe.program)
                && let Err(error) = Attachments::load(program, probe.hook, btf)
            {
                log::debug!("cannot load {}: {}", probe.program, chain(&error));
            }
        }
    }

    /// The probes that are attached from the start.
    fn probes(&self) -> impl Iterator<Item = &'static Probe> + use<> {
        probes(self.way, self.form, self.net)
    }

    /// Detaches every probe, and leaves the programs loaded for [`Kernel::attach`]: loading takes the verifier longer.
    ///
    /// # Errors
    /// When the kernel does not let go of one.
    pub fn detach(&mut self) -> Result<(), ProgramError> {
        self.attached.clear();
        self.closes = self.way == Way::Calls;
        self.links.detach()
    }

    /// How sockets are noticed.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// Sees to it that closings of all descriptors are told, those of Unix sockets too, which the sockets' own tracepoints
    /// do not tell. It puts every system call of the machine on the kernel's slower entry path.
    pub fn tell_closings(&mut self) {
        if std::mem::replace(&mut self.closes, true) {
            return;
        }
        log::info!("there are sockets to follow of which nothing else tells when they are closed: hooking close");
        // What fails here is missing, not fatal: all else goes on.
        self.attach_later(&Probe { intent: Intent::Optional, ..socket::CLOSE });
    }

    /// Sees to it that turns of event loops are told. It puts every system call of the machine on the kernel's slower entry
    /// path, so it waits until somebody is watched.
    pub fn tell_turns(&mut self) {
        if !std::mem::replace(&mut self.turns, true) {
            self.attach_turns();
        }
    }

    /// Sees to it that it is told when what bots read had come. It has every segment of TCP on the machine looked at, so it waits
    /// until there is a bot.
    pub fn tell_arrivals(&mut self) {
        if self.arrivals == Some(false) {
            self.arrivals = Some(true);
            self.attach_later(&arrivals::PROBE);
        }
    }

    fn attach_turns(&mut self) {
        let Some(switches) = self.switches else { return };
        for (place, probe) in switches.probes().iter().enumerate() {
            if !self.attach_later(probe) && place == 0 {
                log::warn!("nothing of event loops can be seen");
                return;
            }
        }
    }

    /// Attaches a probe without which all else goes on, and keeps what came of it; says whether it is attached.
    fn attach_later(&mut self, probe: &Probe) -> bool {
        let outcome = self.attach_one(probe, None);
        let attached = outcome.is_ok();
        if let Err(error) = self.account(probe, outcome) {
            log::warn!("{error}");
        }
        attached
    }

    /// Keeps what came of attaching a probe.
    fn account(&mut self, probe: &Probe, outcome: Result<(), ProgramError>) -> Result<(), ProbeError> {
        match (status(probe.intent, outcome.is_ok()), outcome) {
            (Status::Attached, _) => *self.attached.entry(probe.kind).or_default() += 1,
            (Status::Fatal, Err(source)) => return Err(ProbeError::Required { name: probe.program, source }),
            (_, outcome) => {
                let reason = outcome.err().map_or("other", |error| {
                    log::warn!("cannot attach {}: {}", probe.program, chain(&error));
                    reason(&error)
                });
                self.failures.push(Failure { kind: probe.kind, reason });
            }
        }
        Ok(())
    }

    fn attach_one(&mut self, probe: &Probe, btf: Option<&Btf>) -> Result<(), ProgramError> {
        let program = self.ebpf.program_mut(probe.program).ok_or_else(|| ProgramError::UnexpectedProgramType)?;
        self.links.attach(program, probe.hook, btf)
    }

    /// How many places are attached, by family.
    #[must_use]
    pub fn attached(&self) -> &BTreeMap<&'static str, u32> {
        &self.attached
    }

    /// The optional probes that could not be attached since this was last asked.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    /// How many runs of the programs that tell what moves, how processes and connections live, and when loops wait, the kernel
    /// has left out, of all processes, watched or not.
    #[must_use]
    pub fn missed(&self) -> u64 {
        let programs = self.probes().map(|probe| probe.program).chain(self.turns.then_some(event_loop::WAIT));
        let missed = programs.filter_map(|name| Some(statistics_of(name, self.ebpf.program(name)?.fd().ok()?)?.missed));
        missed.sum()
    }

    /// Run time and runs of every loaded program, as the kernel counts them; empty unless it has been told to.
    #[must_use]
    pub fn run_statistics(&self) -> Vec<RunStatistics> {
        let mut statistics = run_statistics(&self.ebpf);
        statistics
            .extend(self.uprobe_descriptors.iter().filter_map(|(name, descriptor)| statistics_of(name, descriptor)));
        statistics
    }
}

/// How switches of event loops' threads are noticed on this kernel; nothing, which is told, when they cannot be.
fn loop_switches(
    form: Form,
    offsets: Result<SwitchOffsets, TypesError>,
    failures: &mut Vec<Failure>,
) -> Option<event_loop::Switches> {
    event_loop::supported()
        .and_then(|()| Ok(event_loop::Switches::of_this_kernel(form, offsets)?))
        .inspect_err(|error| {
            log::warn!("nothing of event loops can be seen: {}", chain(error));
            failures.push(Failure { kind: event_loop::KIND, reason: reason(error) });
        })
        .ok()
}

/// What the system said, in a word that is fit for a label.
fn reason(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match io_causes(error).map(std::io::Error::kind).next() {
        Some(std::io::ErrorKind::PermissionDenied) => "permission_denied",
        Some(std::io::ErrorKind::NotFound) => "not_found",
        Some(_) => "refused",
        None => "other",
    }
}

/// What the system said, among an error and all that caused it.
fn io_causes<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a std::io::Error> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>())
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Kernels before 5.11 charge maps to the locked memory of whoever makes them. A refusal is not fatal: newer ones don't.
fn lift_memory_lock() {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        log::debug!("the limit of locked memory stays: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_follows_intent_and_outcome() {
        assert_eq!(status(Intent::Required, true), Status::Attached);
        assert_eq!(status(Intent::Optional, true), Status::Attached);
        assert_eq!(status(Intent::Optional, false), Status::Missing);
        assert_eq!(status(Intent::Required, false), Status::Fatal);
    }

    #[test]
    fn the_raw_form_is_for_kernels_that_let_it_run_to_its_end() {
        for ((major, minor, patch), expected) in [
            ((5, 10, 0), Form::Raw),
            ((6, 12, 117), Form::Raw),
            ((6, 19, 9), Form::Raw),
            ((7, 0, 0), Form::Ordinary),
            ((7, 2, 13), Form::Ordinary),
        ] {
            assert_eq!(Form::of(KernelVersion::new(major, minor, patch)), expected, "{major}.{minor}.{patch}");
        }
    }
}
