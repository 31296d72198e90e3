//! Turns of event loops: the twin of `event_loop.rs` on the kernel side.
//!
//! Hooks: `sched:sched_switch`, raw from Linux 5.18 on and before 7, and `syscalls:sys_enter_*` of the calls in which selectors wait; from the first process on
//! that is watched. Metrics: `miku_event_loop_*`.
//!
//! The kernel side keeps what it counts by thread, in a map that is read here once a second. A thread is an event loop if its
//! runtime is known to run one ([`EventLoops::recognise`]), from the first sample on. Otherwise it must behave like one: it
//! waits repeatedly in one selector, no other thread of the process waits in the same epoll descriptor, and it is the
//! process's first thread or was the first to use the socket of a stream. Threads of a pool block on a lock and never appear in
//! the map. The worker threads of Go and Tokio share one epoll descriptor, so none of them is a loop.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, MapData};
use aya::util::KernelVersion;
use miku_probe_abi::{
    FILTER_SLOTS, LOOP_MOVES, LOOP_OFF, LOOP_RUNS, LOOP_WAITS, LoopThread, OFF_REASONS, OffReason, SwitchOffsets,
};

use super::maps::{errno, insert_new};
use super::unpreempted::Unpreempted;
use super::{Form, Hook, Intent, Probe, ProbeError, TypesError, offsets};
use crate::observations::Turns;
use crate::units::{Nanos, Tgid};

/// The label `kind` of this family.
pub const KIND: &str = "event_loop";

/// Turns after which a thread may be an event loop: whoever waits now and then in something is none.
const TURNS_MIN: u64 = 8;

/// The program that stands at the calls in which selectors wait.
pub(super) const WAIT: &str = "selector_wait";

/// The calls in which selectors wait: which program stands at all of them, and where. Not every kernel has all.
const WAITS: [&str; 7] = [
    "sys_enter_epoll_wait",
    "sys_enter_epoll_pwait",
    "sys_enter_epoll_pwait2",
    "sys_enter_poll",
    "sys_enter_ppoll",
    "sys_enter_select",
    "sys_enter_pselect6",
];

/// Whether the kernel's tracepoints tell turns of event loops.
///
/// # Errors
/// When one is not there, or keeps its fields elsewhere.
pub fn supported() -> Result<(), ProbeError> {
    Ok(offsets::loops_tell()?)
}

/// How switches of threads are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switches {
    /// By the tracepoint's arguments, which tell all that is needed from Linux 5.18 on.
    Raw(SwitchOffsets),
    /// By its event, and a helper that finds the registers of a thread that is taken off.
    Event,
    /// By its event, and the registers at the end of that thread's stack: before Linux 5.15 there is no helper.
    Stack(SwitchOffsets),
}

impl Switches {
    /// The way of this kernel.
    ///
    /// # Errors
    /// When it has no helper, and does not tell where a thread's stack is.
    pub(super) fn of_this_kernel(form: Form, offsets: Result<SwitchOffsets, TypesError>) -> Result<Self, TypesError> {
        KernelVersion::current().map_or(Ok(Self::Event), |kernel| Self::of(kernel, form, offsets))
    }

    fn of(kernel: KernelVersion, form: Form, offsets: Result<SwitchOffsets, TypesError>) -> Result<Self, TypesError> {
        if kernel < KernelVersion::new(5, 15, 0) {
            return offsets.map(Self::Stack);
        }
        let told = form == Form::Raw && kernel >= KernelVersion::new(5, 18, 0);
        Ok(offsets.ok().filter(|_| told).map_or(Self::Event, Self::Raw))
    }

    /// What the programs are told.
    pub(super) fn offsets(self) -> SwitchOffsets {
        match self {
            Self::Event => SwitchOffsets::default(),
            Self::Raw(offsets) | Self::Stack(offsets) => offsets,
        }
    }

    /// The probes of this family that are for this kernel; without the first, the others are of no use.
    pub(super) fn probes(self) -> Vec<Probe> {
        let event = Hook::Tracepoint("sched", "sched_switch");
        let switch = match self {
            Self::Raw(_) => probe("sched_switch_raw", Hook::BtfTracepoint("sched_switch")),
            Self::Event => probe("sched_switch", event),
            Self::Stack(_) => probe("sched_switch_old", event),
        };
        let there = WAITS.into_iter().filter(|name| offsets::exists("syscalls", name));
        std::iter::once(switch).chain(there.map(|name| probe(WAIT, Hook::Tracepoint("syscalls", name)))).collect()
    }
}

/// Where the programs of this family stand on this kernel.
pub(super) fn hooks(form: Form) -> Vec<Hook> {
    let switches = Switches::of_this_kernel(form, Ok(SwitchOffsets::default()));
    let probes = switches.map(Switches::probes).unwrap_or_default();
    probes.iter().map(|probe| probe.hook).collect()
}

const fn probe(program: &'static str, hook: Hook) -> Probe {
    Probe { program, kind: KIND, hook, intent: Intent::Optional }
}

/// What a thread in the midst of a turn does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TurnKind {
    /// It runs: it computes.
    Runs,
    /// It does not, for this reason.
    Off(OffReason),
}

/// A turn of an event loop that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The process.
    pub tgid: Tgid,
    /// The thread.
    pub tid: u32,
    /// When the turn began: with `tid` it names the turn.
    pub since: Nanos,
    /// What the thread does.
    pub kind: TurnKind,
    /// How long it did not run in this turn until now, by [`OffReason`].
    pub off_cpu: [Nanos; OFF_REASONS],
    /// Whether the iteration started before the first sample; then `since` is the time of that sample.
    pub begun_before: bool,
    /// Whether the loop was recognised by its runtime.
    pub recognised: bool,
}

/// The state of a thread at its first sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// Idle: it waits in this epoll descriptor.
    Waiting(u32),
    /// In the middle of an iteration.
    Iterating(TurnKind),
}

/// The threads that wait in selectors; clones share them, and any thread may ask at any time.
#[derive(Clone)]
pub struct EventLoops(Arc<Mutex<Tables>>);

struct Tables {
    threads: aya::maps::HashMap<MapData, u32, LoopThread>,
    filter: Array<MapData, u64>,
    recognised: HashMap<u32, Recognised>,
}

/// A thread that was recognised as an event loop by its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Recognised {
    tgid: Tgid,
    /// When it was inserted, if that was in the middle of an iteration.
    inserted_mid_iteration: Option<Nanos>,
    /// The start of the iteration in which its loop ended; the thread goes on outside of it until it waits again.
    ended_in: Option<Nanos>,
}

/// The selector of a thread whose epoll descriptor is not known yet. The kernel side replaces it by the first epoll descriptor
/// that the thread waits in.
const UNKNOWN_SELECTOR: u64 = u64::MAX;

/// Values of [`LoopThread::selector`] below this are epoll descriptors.
const EPOLL_SELECTORS_END: u64 = 1 << 32;

impl EventLoops {
    pub(super) fn new(threads: aya::maps::HashMap<MapData, u32, LoopThread>, filter: Array<MapData, u64>) -> Self {
        Self(Arc::new(Mutex::new(Tables { threads, filter, recognised: HashMap::new() })))
    }

    /// Treats a thread as an event loop from now on, even before its first wait, because its runtime is known.
    /// `selector` is the epoll descriptor of its process, if the process has exactly one.
    ///
    /// # Errors
    /// When the kernel side's table is full.
    pub fn recognise(
        &self,
        tgid: Tgid,
        tid: u32,
        selector: Option<u32>,
        state: InitialState,
    ) -> Result<(), ProbeError> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _unpreempted = Unpreempted::new();
        if tables.recognised.get(&tid).is_some_and(|known| known.tgid == tgid) {
            return Ok(());
        }
        let now = Nanos::now();
        let thread = initial_thread(tgid, selector, state, now);
        let inserted_mid_iteration = match insert_new(&mut tables.threads, tid, thread) {
            Ok(()) => {
                // Last, as the kernel side does.
                tables.filter.set(tid & (FILTER_SLOTS - 1), 1, 0)?;
                matches!(state, InitialState::Iterating(_)).then_some(now)
            }
            Err(error) if errno(&error) == Some(libc::EEXIST) => None,
            Err(error) => return Err(error.into()),
        };
        tables.recognised.insert(tid, Recognised { tgid, inserted_mid_iteration, ended_in: None });
        Ok(())
    }

    /// Ends the current iteration of a recognised thread, which started at `since`: the thread has left its loop.
    pub fn end(&self, tid: u32, since: Nanos) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recognised) = tables.recognised.get_mut(&tid) {
            recognised.ended_in = Some(since);
        }
    }

    /// The turns of now. A loop that sleeps in its selector is in none; one that is just about to, is in a turn of no
    /// length.
    pub fn current(&self) -> impl Iterator<Item = Turn> {
        self.loops().filter_map(|entry| turn(entry, Nanos::now()))
    }

    /// The processes that run event loops.
    #[must_use]
    pub fn processes(&self) -> HashSet<Tgid> {
        self.loops().map(|entry| Tgid(entry.thread.tgid)).collect()
    }

    fn loops(&self) -> impl Iterator<Item = Entry> {
        self.entries().into_iter().filter(|entry| entry.is_loop)
    }

    /// Reads the table once.
    fn entries(&self) -> Vec<Entry> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _unpreempted = Unpreempted::new();
        classify(tables.threads.iter().filter_map(Result::ok).collect(), &tables.recognised)
    }

    fn remove(&self, tid: u32) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _unpreempted = Unpreempted::new();
        tables.recognised.remove(&tid);
        // One that the map does not hold is gone already.
        let _gone: Result<(), _> = tables.threads.remove(&tid);
    }
}

/// Builds the table entry of a thread that is sampled for the first time.
fn initial_thread(tgid: Tgid, selector: Option<u32>, state: InitialState, now: Nanos) -> LoopThread {
    let (selector, state) = match state {
        InitialState::Waiting(selector) => (Some(selector), LOOP_WAITS),
        InitialState::Iterating(TurnKind::Runs) => (selector, LOOP_RUNS),
        InitialState::Iterating(TurnKind::Off(reason)) => (selector, LOOP_OFF + reason as u32),
    };
    let selector = selector.map_or(UNKNOWN_SELECTOR, u64::from);
    LoopThread { state, off_since: now.0, ..LoopThread::new(tgid.0, selector, now.0) }
}

/// A thread of the table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tid: u32,
    thread: LoopThread,
    recognised: Option<Recognised>,
    is_loop: bool,
}

/// Decides which threads run event loops.
fn classify(threads: Vec<(u32, LoopThread)>, recognised: &HashMap<u32, Recognised>) -> Vec<Entry> {
    let mut waiting: HashMap<(u32, u64), u32> = HashMap::new();
    for (_, thread) in threads.iter().filter(|(_, thread)| thread.selector < EPOLL_SELECTORS_END) {
        *waiting.entry((thread.tgid, thread.selector)).or_default() += 1;
    }
    let entry = |(tid, thread): (u32, LoopThread)| {
        let recognised = recognised.get(&tid).filter(|known| known.tgid.0 == thread.tgid).copied();
        let shared = waiting.get(&(thread.tgid, thread.selector)).is_some_and(|count| *count > 1);
        let is_loop = recognised.is_some() || (behaves_like_loop(tid, &thread) && !shared);
        Entry { tid, thread, recognised, is_loop }
    };
    threads.into_iter().map(entry).collect()
}

fn turn(Entry { tid, thread, recognised, .. }: Entry, now: Nanos) -> Option<Turn> {
    let kind = match thread.state {
        LOOP_WAITS => return None,
        LOOP_RUNS => TurnKind::Runs,
        state => TurnKind::Off(OffReason::ALL.into_iter().find(|reason| LOOP_OFF + *reason as u32 == state)?),
    };
    let mut off_cpu = thread.turn_off.map(Nanos);
    if let TurnKind::Off(reason) = kind {
        let time = &mut off_cpu[reason as usize];
        *time = *time + now.since(Nanos(thread.off_since));
    }
    let since = Nanos(thread.turn_since);
    if recognised.is_some_and(|known| known.ended_in == Some(since)) {
        return None;
    }
    Some(Turn {
        tgid: Tgid(thread.tgid),
        tid,
        since,
        kind,
        off_cpu,
        begun_before: recognised.is_some_and(|known| known.inserted_mid_iteration == Some(since)),
        recognised: recognised.is_some(),
    })
}

/// Whether a thread of an unknown runtime behaves like an event loop.
fn behaves_like_loop(tid: u32, thread: &LoopThread) -> bool {
    let turns: u64 = thread.turns.iter().sum();
    turns >= TURNS_MIN && (tid == thread.tgid || thread.flags & LOOP_MOVES != 0)
}

/// How much of what the kernel side counted has been told.
#[derive(Debug, Default)]
pub struct Told {
    threads: HashMap<(u32, u64), ToldThread>,
}

/// The totals of a thread when they were last told.
#[derive(Debug, Default)]
struct ToldThread {
    totals: Turns,
    /// How long it waited for a processor in all, when it was first looked at.
    delayed: Option<u64>,
}

impl Told {
    /// What has been added since this was last asked, by process. Threads that are gone are told for the last time.
    pub fn growth(&mut self, loops: &EventLoops) -> Vec<(Tgid, Turns)> {
        let entries = loops.entries();
        self.threads.retain(|told, _| entries.iter().any(|entry| (entry.tid, entry.thread.generation) == *told));
        let mut growth = Vec::new();
        for Entry { tid, thread, is_loop, .. } in entries {
            let delay = Delay::of(Tgid(thread.tgid), tid);
            if is_loop {
                let told = self.threads.entry((tid, thread.generation)).or_default();
                growth.push((Tgid(thread.tgid), told.growth(&thread, delay.nanos())));
            }
            if delay == Delay::Gone {
                loops.remove(tid);
            }
        }
        growth
    }

    /// The same for one process, whose threads are forgotten.
    pub fn last_growth(&mut self, loops: &EventLoops, tgid: Tgid) -> Vec<Turns> {
        let mut growth = Vec::new();
        for Entry { tid, thread, is_loop, .. } in
            loops.entries().into_iter().filter(|entry| entry.thread.tgid == tgid.0)
        {
            if is_loop {
                let mut told = self.threads.remove(&(tid, thread.generation)).unwrap_or_default();
                growth.push(told.growth(&thread, None));
            }
            loops.remove(tid);
        }
        growth
    }
}

impl ToldThread {
    fn growth(&mut self, thread: &LoopThread, delay: Option<u64>) -> Turns {
        let off: u64 = thread.off_ns.iter().sum();
        let first = *self.delayed.get_or_insert(delay.unwrap_or_default());
        let totals = Turns {
            turns: thread.turns,
            busy: Nanos(thread.busy_ns),
            on_cpu: Nanos(thread.busy_ns.saturating_sub(off)),
            off_cpu: thread.off_ns.map(Nanos),
            idle: Nanos(thread.idle_ns),
            starved: delay.map(|delay| Nanos(delay.saturating_sub(first))),
        };
        let growth = totals.since(&self.totals);
        self.totals = totals.at_least(&self.totals);
        growth
    }
}

/// How long a thread could have run and had no processor, since it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    Known(u64),
    /// This kernel does not tell.
    Untold,
    /// The thread has ended.
    Gone,
}

impl Delay {
    /// The second number of `schedstat`, as the kernel's `Documentation/scheduler/sched-stats.rst` has it.
    fn of(tgid: Tgid, tid: u32) -> Self {
        let folder = format!("/proc/{tgid}/task/{tid}");
        match fs::read_to_string(format!("{folder}/schedstat")) {
            Ok(text) => text.split(' ').nth(1).and_then(|nanos| nanos.parse().ok()).map_or(Self::Untold, Self::Known),
            Err(error) if error.kind() == ErrorKind::NotFound && fs::metadata(folder).is_ok() => Self::Untold,
            Err(_) => Self::Gone,
        }
    }

    const fn nanos(self) -> Option<u64> {
        match self {
            Self::Known(nanos) => Some(nanos),
            Self::Untold | Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use miku_probe_abi::TURN_BUCKETS;

    use super::*;

    /// A thread of process 7 after so many turns of 2 ms, of which it slept 0.5 ms.
    fn after(turns: u64) -> LoopThread {
        let mut thread = LoopThread::new(7, 5, 1_000);
        thread.turns[2] = turns;
        thread.busy_ns = turns * 2_000_000;
        thread.off_ns[OffReason::Sleep as usize] = turns * 500_000;
        thread.idle_ns = turns * 10;
        thread
    }

    #[test]
    fn switches_are_noticed_as_the_kernel_allows() {
        const PLACES: SwitchOffsets = SwitchOffsets { pid: 8, stack: 16 };
        let of = |major, minor, form| Switches::of(KernelVersion::new(major, minor, 0), form, Ok(PLACES)).ok();
        assert_eq!(of(5, 10, Form::Raw), Some(Switches::Stack(PLACES)));
        assert_eq!(of(5, 15, Form::Raw), Some(Switches::Event), "the state is not among the arguments");
        assert_eq!(of(5, 18, Form::Raw), Some(Switches::Raw(PLACES)));
        assert_eq!(of(7, 0, Form::Ordinary), Some(Switches::Event));
        let untold = || Err(TypesError::Malformed);
        assert!(Switches::of(KernelVersion::new(5, 10, 0), Form::Raw, untold()).is_err());
        let newer = Switches::of(KernelVersion::new(6, 12, 0), Form::Raw, untold());
        assert_eq!(newer.ok(), Some(Switches::Event), "nothing need be known for that");
    }

    #[test]
    fn loops_are_known_by_what_they_do() {
        fn moving(turns: u64) -> LoopThread {
            let mut thread = after(turns);
            thread.flags = LOOP_MOVES;
            thread
        }
        assert!(behaves_like_loop(7, &after(8)), "the first thread");
        assert!(!behaves_like_loop(7, &after(7)), "it may only have looked for something");
        assert!(!behaves_like_loop(8, &after(1_000)), "it waits, and nothing else is known of it");
        assert!(behaves_like_loop(8, &moving(8)), "it moves bytes");
    }

    #[test]
    fn threads_that_share_an_epoll_descriptor_are_no_loops() {
        let (mut first, mut second, mut other) = (after(100), after(3), after(100));
        (first.flags, second.flags, other.flags) = (LOOP_MOVES, LOOP_MOVES, LOOP_MOVES);
        other.selector = 6;
        let loops = |threads: &[(u32, LoopThread)], recognised: &[(u32, Recognised)]| {
            let entries = classify(threads.to_vec(), &recognised.iter().copied().collect()).into_iter();
            entries
                .filter(|entry| entry.is_loop)
                .map(|entry| (entry.tid, entry.recognised.is_some()))
                .collect::<Vec<_>>()
        };
        assert_eq!(loops(&[(7, first), (9, other)], &[]), [(7, false), (9, false)]);
        assert_eq!(loops(&[(7, first), (8, second), (9, other)], &[]), [(9, false)]);
        second.tgid = 6;
        assert_eq!(loops(&[(7, first), (8, second)], &[]), [(7, false)], "another process has its own descriptors");
        second.tgid = 7;
        let known = |tgid| (8, Recognised { tgid: Tgid(tgid), inserted_mid_iteration: None, ended_in: None });
        assert_eq!(loops(&[(7, first), (8, second)], &[known(7)]), [(8, true)], "recognised by its runtime");
        assert_eq!(loops(&[(7, first), (8, second)], &[known(5)]), [], "the thread id belonged to another process");
        (first.selector, second.selector) = (EPOLL_SELECTORS_END, EPOLL_SELECTORS_END);
        assert_eq!(loops(&[(7, first), (8, second)], &[]), [(7, false)], "`poll` has no descriptor to share");
    }

    #[test]
    fn a_thread_inserted_mid_iteration_began_before() {
        let inserted = |state| initial_thread(Tgid(7), None, state, Nanos(5_000));
        let recognised = Some(Recognised { tgid: Tgid(7), inserted_mid_iteration: Some(Nanos(5_000)), ended_in: None });
        let at = |thread| turn(Entry { tid: 7, thread, recognised, is_loop: true }, Nanos(9_000));
        let call = InitialState::Iterating(TurnKind::Off(OffReason::Call));
        let turn = at(inserted(call)).expect("it iterates");
        assert_eq!((turn.since, turn.begun_before, turn.recognised), (Nanos(5_000), true, true));
        assert_eq!(turn.off_cpu[OffReason::Call as usize], Nanos(4_000));
        let runs = at(inserted(InitialState::Iterating(TurnKind::Runs)));
        assert_eq!(runs.map(|turn| turn.kind), Some(TurnKind::Runs));
        assert_eq!(at(inserted(InitialState::Waiting(3))), None);
        let mut later = inserted(call);
        later.turn_since = 6_000;
        assert_eq!(at(later).map(|turn| turn.begun_before), Some(false), "the start of the next one was observed");
        let left = recognised.map(|known| Recognised { ended_in: Some(Nanos(5_000)), ..known });
        let at = |thread| super::turn(Entry { tid: 7, thread, recognised: left, is_loop: true }, Nanos(9_000));
        assert_eq!(at(inserted(call)), None, "the thread has left its loop");
        assert!(at(later).is_some(), "and has come back");
    }

    #[test]
    fn a_turn_is_told_while_it_lasts() {
        fn seen(state: u32) -> Option<Turn> {
            let mut thread = after(9);
            (thread.turn_since, thread.off_since, thread.state) = (5_000, 8_000, state);
            turn(Entry { tid: 7, thread, recognised: None, is_loop: true }, Nanos(9_000))
        }
        let told = |state| seen(state).map(|turn| (turn.since, turn.kind));
        assert_eq!(told(LOOP_RUNS), Some((Nanos(5_000), TurnKind::Runs)));
        assert_eq!(told(LOOP_WAITS), None);
        for reason in OffReason::ALL {
            assert_eq!(told(LOOP_OFF + reason as u32), Some((Nanos(5_000), TurnKind::Off(reason))));
        }
        assert_eq!(told(LOOP_OFF + 9), None, "nobody writes that");
        let off = |state| seen(state).map(|turn| turn.off_cpu[OffReason::Disk as usize]);
        assert_eq!(off(LOOP_RUNS), Some(Nanos(0)));
        assert_eq!(off(LOOP_OFF + OffReason::Disk as u32), Some(Nanos(1_000)), "the wait that is not over counts");
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut told = ToldThread::default();
        let first = told.growth(&after(10), Some(5_000));
        assert_eq!((first.turns[2], first.busy, first.idle), (10, Nanos(20_000_000), Nanos(100)));
        assert_eq!((first.on_cpu, first.off_cpu[3]), (Nanos(15_000_000), Nanos(5_000_000)));
        assert_eq!(first.starved, Some(Nanos(0)), "before it was looked at, it was no business of ours");
        let second = told.growth(&after(13), Some(7_000));
        let mut turns = [0; TURN_BUCKETS];
        turns[2] = 3;
        assert_eq!((second.turns, second.busy, second.on_cpu), (turns, Nanos(6_000_000), Nanos(4_500_000)));
        assert_eq!(second.starved, Some(Nanos(2_000)));
        // Its busy time was read a moment before what it slept of it.
        let mut torn = after(13);
        torn.off_ns = after(14).off_ns;
        assert_eq!(told.growth(&torn, None).on_cpu, Nanos(0));
        let after_all = told.growth(&after(14), None);
        assert_eq!((after_all.on_cpu, after_all.off_cpu[3]), (Nanos(1_500_000), Nanos(0)));
        assert_eq!(after_all.starved, None);
    }
}
