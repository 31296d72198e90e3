//! The ways of hooking system calls, and those of hooking TLS libraries.

use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::maps::{Array, PerCpuArray};
use aya::programs::{BtfTracePoint, FEntry, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf};
use clap::ValueEnum;
use miku_probe::probes::socket::Way;
use miku_probe::probes::{Attachments, Hook, Kernel, Maps, RunStatistics, Sizes, TargetTable, hooks, run_statistics};
use miku_probe::units::Tgid;
use miku_probe_abi::FILTER_SLOTS;

use crate::tls::{EmptyTls, Where};
use crate::worker::Kind;

/// A way of hooking system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    /// Empty programs on every hook of the probe
    Empty,
    /// An empty program on the raw tracepoint sys_exit alone
    EmptyRawExit,
    /// An empty program with type information on the tracepoint sys_exit
    EmptyBtfExit,
    /// Empty programs on the raw tracepoints sys_enter and sys_exit
    EmptyRawPair,
    /// An empty program on the entry of a function
    EmptyFentry,
    /// Bytes counted by a pair of tracepoints for each of 15 system calls
    Tracepoints,
    /// Bytes counted by the raw tracepoints sys_enter and sys_exit
    RawPair,
    /// Bytes counted by the raw tracepoint sys_exit alone, as the probe does
    RawExit,
    /// Bytes counted by a program with type information on sys_exit, which loads the registers itself
    BtfExit,
    /// As raw-exit, and an empty program on the tracepoint sys_enter_close
    RawExitCloseTracepoint,
    /// As raw-exit, and closes by the raw tracepoint sys_enter
    RawExitCloseRaw,
    /// The probe's own programs, all of them
    Probe,
    /// A count of calls, not a way of its own
    CountCalls,
    /// Empty programs where the probe stands in TLS libraries
    EmptyTls,
    /// Empty programs on entry and return of the functions of TLS that move messages
    NaiveTls,
}

/// System calls that a tracepoint each would be needed for.
const CALLS: [&str; 15] = [
    "read",
    "write",
    "readv",
    "writev",
    "recvfrom",
    "sendto",
    "recvmsg",
    "sendmsg",
    "recvmmsg",
    "sendmmsg",
    "sendfile64",
    "accept",
    "accept4",
    "connect",
    "close",
];

/// The probe's usual sizes.
pub(crate) const SIZES: Sizes = Sizes { ring_bytes: 4 << 20, connections: 32768 };

impl Variant {
    /// All that hook system calls.
    pub(crate) const ALL: [Self; 12] = [
        Self::Empty,
        Self::EmptyRawExit,
        Self::EmptyBtfExit,
        Self::EmptyRawPair,
        Self::EmptyFentry,
        Self::Tracepoints,
        Self::RawPair,
        Self::RawExit,
        Self::BtfExit,
        Self::RawExitCloseTracepoint,
        Self::RawExitCloseRaw,
        Self::Probe,
    ];

    pub(crate) fn name(self) -> String {
        self.value().get_name().to_owned()
    }

    pub(crate) fn about(self) -> String {
        self.value().get_help().map(ToString::to_string).unwrap_or_default()
    }

    fn value(self) -> clap::builder::PossibleValue {
        self.to_possible_value().expect("no variant is hidden")
    }
}

/// The slot of a process in the filter.
pub(crate) fn slot(pid: u32) -> u32 {
    pid & (FILTER_SLOTS - 1)
}

/// What programs have cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    pub(crate) count: f64,
    pub(crate) nanoseconds: f64,
}

impl Sub for Runs {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { count: self.count - before.count, nanoseconds: self.nanoseconds - before.nanoseconds }
    }
}

/// An attached variant; dropping it detaches.
pub(crate) struct Attached {
    variant: Variant,
    programs: Programs,
}

enum Programs {
    Floor { _attachments: Attachments, ebpf: Ebpf },
    Tls(EmptyTls),
    Probe { kernel: Box<Kernel>, _targets: TargetTable, _drain: Drain },
}

impl Attached {
    pub(crate) fn new(variant: Variant, object: &[u8], watched: &[u32]) -> Result<Self> {
        let programs = match variant {
            Variant::Probe => probe(watched)?,
            Variant::EmptyTls => Programs::Tls(EmptyTls::attach(Where::Chosen, object, watched)?),
            Variant::NaiveTls => Programs::Tls(EmptyTls::attach(Where::Starts, object, watched)?),
            _ => floor(variant, object, watched)?,
        };
        Ok(Self { variant, programs })
    }

    pub(crate) fn runs(&self) -> Runs {
        let statistics: Vec<RunStatistics> = match &self.programs {
            Programs::Floor { ebpf, .. } => run_statistics(ebpf),
            Programs::Tls(programs) => programs.run_statistics(),
            Programs::Probe { kernel, .. } => kernel.run_statistics(),
        };
        #[allow(clippy::cast_precision_loss, reason = "a benchmark's counts")]
        let add = |sum: Runs, one: &RunStatistics| Runs {
            count: sum.count + one.runs as f64,
            nanoseconds: sum.nanoseconds + one.run_time_ns as f64,
        };
        statistics.iter().fold(Runs::default(), add)
    }

    /// Calls that returned so far, to processes that are not watched and to those that are; for [`Variant::CountCalls`].
    pub(crate) fn calls(&self) -> Result<[u64; 2]> {
        let Programs::Floor { ebpf, .. } = &self.programs else { return Ok([0; 2]) };
        let calls: PerCpuArray<_, u64> =
            ebpf.map("CALLS").context("the object counts no calls")?.try_into().context("the count is no array")?;
        Ok([calls.get(&0, 0)?.iter().sum(), calls.get(&1, 0)?.iter().sum()])
    }

    /// How often programs run for one call of this kind, whether or not its process is watched.
    pub(crate) fn runs_per_call(&self, kind: Kind) -> u32 {
        match self.variant {
            Variant::EmptyFentry | Variant::EmptyTls | Variant::NaiveTls => 0,
            Variant::Tracepoints if kind == Kind::Other => 0,
            Variant::Empty | Variant::Probe if kind == Kind::Other && Way::of_this_kernel() == Way::Sockets => 0,
            Variant::Tracepoints | Variant::EmptyRawPair | Variant::RawPair | Variant::RawExitCloseRaw => 2,
            _ => 1,
        }
    }
}

fn probe(watched: &[u32]) -> Result<Programs> {
    let (mut kernel, maps) = Kernel::load(SIZES)?;
    let Maps { records, targets: mut table, .. } = maps;
    for &pid in watched {
        table.insert(Tgid(pid))?;
    }
    kernel.attach()?;
    Ok(Programs::Probe { kernel: Box::new(kernel), _targets: table, _drain: Drain::start(records) })
}

/// Takes records off the ring and throws them away, so that it does not fill up.
struct Drain {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    fn start(mut records: aya::maps::RingBuf<aya::maps::MapData>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                while records.next().is_some() {}
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn floor(variant: Variant, object: &[u8], watched: &[u32]) -> Result<Programs> {
    let mut ebpf = Ebpf::load(object).context("the kernel refuses the object")?;
    let mut filter: Array<_, u64> =
        ebpf.map_mut("FILTER").context("the object has no filter")?.try_into().context("the filter is no array")?;
    for &pid in watched {
        filter.set(slot(pid), 1, 0)?;
    }
    let mut attachments = Attachments::default();
    match variant {
        Variant::Empty => attach_empty(&mut ebpf, &mut attachments, true)?,
        Variant::EmptyRawExit => attach_raw(&mut ebpf, "empty_raw", &["sys_exit"])?,
        Variant::EmptyRawPair => attach_raw(&mut ebpf, "empty_raw", &["sys_enter", "sys_exit"])?,
        Variant::EmptyBtfExit => attach_btf(&mut ebpf, "empty_btf")?,
        Variant::EmptyFentry => {
            let btf = Btf::from_sys_fs().context("this kernel has no type information")?;
            let program: &mut FEntry =
                ebpf.program_mut("empty_fentry").context("not in the object")?.try_into().context("of another type")?;
            program.load("do_epoll_wait", &btf)?;
            program.attach()?;
        }
        Variant::Tracepoints => {
            let names: Vec<(String, String)> =
                CALLS.iter().map(|call| (format!("sys_enter_{call}"), format!("sys_exit_{call}"))).collect();
            for (enter, exit) in &names {
                attach_tracepoint(&mut ebpf, "tracepoint_enter", "syscalls", enter)?;
                attach_tracepoint(&mut ebpf, "tracepoint_exit", "syscalls", exit)?;
            }
        }
        Variant::RawPair => {
            attach_raw(&mut ebpf, "raw_pair_enter", &["sys_enter"])?;
            attach_raw(&mut ebpf, "raw_pair_exit", &["sys_exit"])?;
        }
        Variant::RawExit => attach_raw(&mut ebpf, "raw_exit", &["sys_exit"])?,
        Variant::CountCalls => attach_raw(&mut ebpf, "count_calls", &["sys_exit"])?,
        Variant::BtfExit => attach_btf(&mut ebpf, "btf_exit")?,
        Variant::RawExitCloseTracepoint => {
            attach_raw(&mut ebpf, "raw_exit", &["sys_exit"])?;
            attach_tracepoint(&mut ebpf, "empty_tracepoint", "syscalls", "sys_enter_close")?;
        }
        Variant::RawExitCloseRaw => {
            attach_raw(&mut ebpf, "raw_exit", &["sys_exit"])?;
            attach_raw(&mut ebpf, "raw_close", &["sys_enter"])?;
        }
        Variant::Probe | Variant::EmptyTls | Variant::NaiveTls => unreachable!("they are attached otherwise"),
    }
    Ok(Programs::Floor { _attachments: attachments, ebpf })
}

/// Puts empty programs on every hook of the probe, those of event loops among them or not.
pub(crate) fn attach_empty(ebpf: &mut Ebpf, attachments: &mut Attachments, event_loops: bool) -> Result<()> {
    let mut taken: Vec<Hook> = Vec::new();
    for hook in hooks(event_loops) {
        // One program cannot stand twice on a tracepoint; those on which several of the probe's do are rare.
        if taken.contains(&hook) {
            continue;
        }
        taken.push(hook);
        let name = match hook {
            Hook::BtfTracepoint("sched_switch") => "empty_btf_switch",
            Hook::BtfTracepoint(_) => "empty_btf",
            Hook::RawTracepoint(_) => "empty_raw",
            Hook::Tracepoint(..) => "empty_tracepoint",
        };
        let program = ebpf.program_mut(name).context("not in the object")?;
        // Reading the types takes longer than all the rest, and is needed once.
        let types = || Btf::from_sys_fs().context("this kernel has no type information");
        let btf = (matches!(hook, Hook::BtfTracepoint(_)) && program.fd().is_err()).then(types).transpose()?;
        let attached = attachments.attach(program, hook, btf.as_ref());
        attached.with_context(|| format!("cannot attach {name} to {hook:?}"))?;
    }
    Ok(())
}

fn attach_raw(ebpf: &mut Ebpf, name: &'static str, tracepoints: &[&str]) -> Result<()> {
    let program: &mut RawTracePoint =
        ebpf.program_mut(name).context("not in the object")?.try_into().context("of another type")?;
    program.load().with_context(|| format!("cannot load {name}"))?;
    for tracepoint in tracepoints {
        program.attach(tracepoint).with_context(|| format!("cannot attach {name} to {tracepoint}"))?;
    }
    Ok(())
}

fn attach_tracepoint(ebpf: &mut Ebpf, name: &'static str, category: &str, tracepoint: &str) -> Result<()> {
    let program: &mut TracePoint =
        ebpf.program_mut(name).context("not in the object")?.try_into().context("of another type")?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("cannot load {name}"))?;
    }
    program.attach(category, tracepoint).with_context(|| format!("cannot attach {name} to {tracepoint}"))?;
    Ok(())
}

fn attach_btf(ebpf: &mut Ebpf, name: &'static str) -> Result<()> {
    let btf = Btf::from_sys_fs().context("this kernel has no type information")?;
    let program: &mut BtfTracePoint =
        ebpf.program_mut(name).context("not in the object")?.try_into().context("of another type")?;
    program.load("sys_exit", &btf).with_context(|| format!("cannot load {name}"))?;
    program.attach().with_context(|| format!("cannot attach {name}"))?;
    Ok(())
}
