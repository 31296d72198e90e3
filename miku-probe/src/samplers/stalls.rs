//! Turns of event loops that take too long, told while they last: for how long, where in the program, and why.
//!
//! The kernel side notes when a turn begins and how its time goes. This thread sleeps until the oldest turn could exceed the
//! first threshold, and no longer: so loops that turn cost ten looks a second, and a stall is seen within milliseconds of the
//! threshold. From then on it looks at the thread's Python stack again and again, and ever less often.
//!
//! The place of a stall is the innermost function in which the thread was seen most often, and why it hangs is what took most
//! of the turn's time. A stall that ends before it is looked at is told by nobody here; the kernel side counts it.

mod activity;
mod cause;
mod runtimes;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use miku_probe_abi::OffReason;

use self::cause::{Waits, cause, on_cpu};
use self::runtimes::Runtime;
use super::python::{Frame, StackError, Stacks, Thread, Tid};
use super::{Sample, Samples, Target, Targets};
use crate::discovery::process::ProcFs;
use crate::observations::{Cause, Place, Stall, StallChange, StallThreshold};
use crate::probes::event_loop::{EventLoops, InitialState, Turn, TurnKind};
use crate::units::{Nanos, ServiceId, Tgid};

/// How often one asks which processes have loops at all.
const PROCESSES: Nanos = Nanos(1_000_000_000);
/// The pause between the first two examinations of a process's runtime; it doubles each time, up to the second.
const EXAMINE_PAUSE: Nanos = Nanos(500_000_000);
const EXAMINE_PAUSE_MAX: Nanos = Nanos(60_000_000_000);
/// How often a stall is told of while it lasts.
const TELL: Nanos = Nanos(250_000_000);
/// How long one waits for a stack.
const PATIENCE: Duration = Duration::from_millis(200);
/// Different innermost functions that are told apart in one stall, and different lines of one.
const PLACES_MAX: usize = 64;

/// Where the turns of loops are known.
trait Turns: Send {
    /// Those that have begun and not ended.
    fn current(&mut self) -> Vec<Turn>;
    /// The processes that have loops.
    fn processes(&mut self) -> HashSet<Tgid>;
    /// Treats a thread as an event loop from now on.
    fn recognise(&mut self, tgid: Tgid, tid: Tid, selector: Option<u32>, state: InitialState);
    /// Ends an iteration because its thread has left the loop.
    fn end(&mut self, turn: &Turn);
}

impl Turns for EventLoops {
    fn current(&mut self) -> Vec<Turn> {
        EventLoops::current(self).collect()
    }

    fn processes(&mut self) -> HashSet<Tgid> {
        EventLoops::processes(self)
    }

    fn recognise(&mut self, tgid: Tgid, tid: Tid, selector: Option<u32>, state: InitialState) {
        if let Err(error) = EventLoops::recognise(self, tgid, tid.0, selector, state) {
            log::debug!("cannot watch the event loop in thread {} of pid {tgid}: {error}", tid.0);
        }
    }

    fn end(&mut self, turn: &Turn) {
        EventLoops::end(self, turn.tid, turn.since);
    }
}

/// Begins to watch, until nobody takes samples any more.
///
/// # Errors
/// When there can be no thread for it.
pub fn start(loops: EventLoops, targets: Targets, samples: Samples) -> io::Result<()> {
    let mut watcher = Watcher::new(loops, targets, samples);
    thread::Builder::new().name("stalls".to_owned()).spawn(move || watcher.run())?;
    Ok(())
}

struct Watcher<T> {
    turns: T,
    targets: Targets,
    samples: Samples,
    stacks: Stacks,
    stalls: HashMap<Tid, Open>,
    /// When processes were last asked for.
    asked: Option<Nanos>,
    /// When the runtime of each target is examined next.
    examinations: HashMap<Tgid, Examination>,
}

/// The next examination of a process, and the pause after it.
#[derive(Clone, Copy)]
struct Examination {
    due: Nanos,
    pause: Nanos,
}

/// A stall that lasts.
struct Open {
    service: ServiceId,
    turn: Turn,
    /// When the turn was last seen to last.
    seen: Nanos,
    /// When to look again.
    due: Nanos,
    /// When it was last told of.
    told: Nanos,
    exceeded: Option<StallThreshold>,
    waits: Waits,
    places: Places,
    holder: Option<Place>,
    no_stack: Option<String>,
    /// Consecutive stacks of a recognised thread that were outside of any loop.
    outside: u32,
}

impl<T: Turns> Watcher<T> {
    fn new(turns: T, targets: Targets, samples: Samples) -> Self {
        Self {
            turns,
            targets,
            samples,
            stacks: Stacks::default(),
            stalls: HashMap::new(),
            asked: None,
            examinations: HashMap::new(),
        }
    }

    fn run(&mut self) {
        while self.samples.wanted() {
            let wake = self.look(Nanos::now());
            thread::sleep(Duration::from_nanos(wake.since(Nanos::now()).0));
        }
    }

    /// Looks at all loops, now, and says when to look again.
    fn look(&mut self, now: Nanos) -> Nanos {
        let targets = self.targets.get();
        let service = |tgid| targets.iter().find(|target| target.tgid == tgid).map(|target| target.service);
        if self.asked.is_none_or(|asked| now.since(asked) >= PROCESSES) {
            self.asked = Some(now);
            self.stacks.retain(|tgid| service(tgid).is_some());
            for tgid in self.turns.processes().into_iter().filter(|tgid| service(*tgid).is_some()) {
                // Before it is needed, since that takes its time. Why it cannot be is said with each stall.
                drop(self.stacks.open(tgid));
            }
        }
        self.examine(&targets, now);
        let turns = self.turns.current();
        let lasts = |open: &Open| {
            let same = |turn: &Turn| turn.tid == open.turn.tid && turn.since == open.turn.since;
            turns.iter().any(same) && service(open.turn.tgid).is_some()
        };
        for (_, open) in self.stalls.extract_if(|_, open| !lasts(open)) {
            tell(&self.samples, &open, StallChange::Ended);
        }
        let first = StallThreshold::Tenth.time();
        let mut wake = now + first;
        for turn in turns {
            let Some(service) = service(turn.tgid) else { continue };
            if now.since(turn.since) < first {
                wake = wake.min(turn.since + first);
                continue;
            }
            let open = self.stalls.entry(Tid(turn.tid)).or_insert_with(|| Open::new(service, turn, now));
            if open.due <= now {
                open.look(turn, now, &mut self.stacks);
                if open.outside == 1 {
                    // The stack of a thread that runs may be torn: the next one decides.
                    wake = wake.min(open.due);
                    continue;
                }
                if open.outside > 1 {
                    self.turns.end(&turn);
                    let told = open.exceeded.is_some();
                    if let Some(open) = self.stalls.remove(&Tid(turn.tid)).filter(|_| told) {
                        tell(&self.samples, &open, StallChange::Ended);
                    }
                    continue;
                }
                for change in open.changes() {
                    tell(&self.samples, open, change);
                }
            }
            wake = wake.min(open.due);
        }
        wake
    }

    /// Recognises event loops by their runtime: in a new target at once, since its loop may already be stalled, and later again
    /// at growing intervals, since a program may start a loop at any time.
    fn examine(&mut self, targets: &[Target], now: Nanos) {
        self.examinations.retain(|tgid, _| targets.iter().any(|target| target.tgid == *tgid));
        for Target { tgid, .. } in targets {
            let next = self.examinations.entry(*tgid).or_insert(Examination { due: now, pause: EXAMINE_PAUSE });
            if next.due <= now {
                *next = Examination { due: now + next.pause, pause: EXAMINE_PAUSE_MAX.min(Nanos(next.pause.0 * 2)) };
                self.recognise_loops(*tgid, now);
            }
        }
    }

    fn recognise_loops(&mut self, tgid: Tgid, now: Nanos) {
        let Some(process) = ProcFs::default().process(tgid) else { return };
        let selector = match runtimes::own_epoll_descriptors(&process)[..] {
            // The kernel side cannot tell whether a loop on `poll` or `select` is idle before it has seen it wait several times.
            [] => return,
            [only] => Some(only),
            _ => None,
        };
        let loops: Vec<(Tid, Option<bool>)> = match Runtime::of(&process) {
            Runtime::Python => {
                // Without stacks, only how its threads behave is left to go by.
                let threads = self.stacks.threads(tgid, now, PATIENCE).unwrap_or_default();
                let loops = threads.iter().filter(|thread| runtimes::runs_loop(&thread.frames));
                loops.filter_map(|thread| Some((thread.tid?, runtimes::idle_in_selector(&thread.frames)))).collect()
            }
            Runtime::Libuv => vec![(Tid(tgid.0), None)],
            Runtime::Other => return,
        };
        for (tid, idle) in loops {
            let state = match (activity::initial_state(tgid, tid), idle) {
                (None, _) => continue,
                // Idle without an epoll descriptor: this loop is on `poll` or `select`.
                (Some(InitialState::Iterating(_)), Some(true)) => continue,
                (Some(InitialState::Waiting(_)), Some(false)) => {
                    InitialState::Iterating(TurnKind::Off(OffReason::Call))
                }
                (Some(state), _) => state,
            };
            self.turns.recognise(tgid, tid, selector, state);
        }
    }
}

fn tell(samples: &Samples, open: &Open, change: StallChange) {
    let target = Target { service: open.service, tgid: open.turn.tgid };
    samples.give(Sample::Stall(target, Arc::new(open.stall(change))));
}

impl Open {
    fn new(service: ServiceId, turn: Turn, now: Nanos) -> Self {
        Self {
            service,
            turn,
            seen: now,
            due: now,
            told: now,
            exceeded: None,
            waits: Waits::default(),
            places: Places::default(),
            holder: None,
            no_stack: None,
            outside: 0,
        }
    }

    fn look(&mut self, turn: Turn, now: Nanos, stacks: &mut Stacks) {
        let tid = Tid(turn.tid);
        self.turn = turn;
        self.seen = now;
        self.waits.add(activity::wait(turn.tgid, tid));
        match stacks.threads(turn.tgid, turn.since, PATIENCE).and_then(|threads| self.take(tid, &threads)) {
            Ok(()) => self.no_stack = None,
            Err(error) if self.places.is_empty() => self.no_stack = Some(error.to_string()),
            // Where it hangs is known from before.
            Err(_) => {}
        }
        let age = self.seen.since(turn.since);
        let pause = match StallThreshold::ALL.into_iter().rev().find(|threshold| age >= threshold.time()) {
            None | Some(StallThreshold::Tenth) => Nanos(25_000_000),
            Some(StallThreshold::Second) => Nanos(100_000_000),
            Some(StallThreshold::TenSeconds) => Nanos(500_000_000),
        };
        self.due = now + pause;
        // Thresholds are told of on time.
        let mut thresholds = StallThreshold::ALL.into_iter().map(|threshold| turn.since + threshold.time());
        if let Some(next) = thresholds.find(|at| *at > now) {
            self.due = self.due.min(next);
        }
    }

    fn take(&mut self, tid: Tid, threads: &[Thread]) -> Result<(), StackError> {
        let own = threads.iter().find(|thread| thread.tid == Some(tid)).filter(|own| !own.frames.is_empty());
        let own = own.ok_or(StackError::NoThread)?;
        let outside = self.turn.recognised && !runtimes::runs_loop(&own.frames);
        self.outside = if outside { self.outside + 1 } else { 0 };
        self.places.add(own.frames.iter().map(place).collect());
        let holder = threads.iter().find(|thread| thread.holds_gil && thread.tid != Some(tid));
        self.holder = holder.and_then(|thread| thread.frames.first()).map(place);
        Ok(())
    }

    /// What there is to tell now.
    fn changes(&mut self) -> Vec<StallChange> {
        let age = self.seen.since(self.turn.since);
        let exceeded = self.exceeded;
        let crossed =
            |threshold: &StallThreshold| age >= threshold.time() && exceeded.is_none_or(|last| *threshold > last);
        let mut changes: Vec<StallChange> =
            StallThreshold::ALL.into_iter().filter(crossed).map(StallChange::Exceeds).collect();
        if let Some(StallChange::Exceeds(threshold)) = changes.last() {
            self.exceeded = Some(*threshold);
        } else if self.seen.since(self.told) >= TELL {
            changes.push(StallChange::Lasts);
        }
        if !changes.is_empty() {
            self.told = self.seen;
        }
        changes
    }

    fn stall(&self, change: StallChange) -> Stall {
        let cause = cause(&self.turn, self.waits, self.seen);
        let (place, stack) = self.places.most_seen().unzip();
        let stack = stack.unwrap_or_default();
        let own = stack.iter().find(|place| !place.is_installed()).filter(|own| Some(*own) != stack.first()).cloned();
        let waits_for_interpreter = cause == Cause::Lock && self.waits.may_be_for_interpreter();
        Stall {
            time: self.seen.since(self.turn.since),
            on_cpu: on_cpu(&self.turn, self.seen),
            cause,
            place,
            own,
            stack,
            holder: self.holder.clone().filter(|_| waits_for_interpreter),
            no_stack: self.no_stack.clone(),
            begun_before: self.turn.begun_before,
            recognised: self.turn.recognised,
            ..Stall::new(self.turn.tgid, self.turn.tid, self.turn.since, change)
        }
    }
}

fn place(frame: &Frame) -> Place {
    Place { file: frame.file.clone(), function: frame.function.clone(), line: frame.line }
}

/// The stacks seen during one stall, by the function that was innermost.
#[derive(Default)]
struct Places {
    /// How often, at which lines how often, and the first stack.
    seen: HashMap<(String, String), Seen>,
}

#[derive(Default)]
struct Seen {
    count: u32,
    lines: HashMap<Option<u32>, u32>,
    /// The last stack at each line would be many; one is told.
    stack: Vec<Place>,
}

impl Places {
    fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes a stack in, which is not empty.
    fn add(&mut self, stack: Vec<Place>) {
        let Some(place) = stack.first() else { return };
        let key = (place.file.clone(), place.function.clone());
        if self.seen.len() >= PLACES_MAX && !self.seen.contains_key(&key) {
            return;
        }
        let line = place.line;
        let seen = self.seen.entry(key).or_default();
        seen.count += 1;
        let lines = seen.lines.len();
        if lines < PLACES_MAX || seen.lines.contains_key(&line) {
            *seen.lines.entry(line).or_default() += 1;
        }
        if seen.most_seen_line() == line || seen.stack.is_empty() {
            seen.stack = stack;
        }
    }

    /// The function seen most often, at the line seen most often, with a stack that it was seen in.
    fn most_seen(&self) -> Option<(Place, Vec<Place>)> {
        let ((file, function), seen) =
            self.seen.iter().max_by(|(one, left), (other, right)| left.count.cmp(&right.count).then(other.cmp(one)))?;
        let line = seen.most_seen_line();
        let place = Place { file: file.clone(), function: function.clone(), line };
        let mut stack = seen.stack.clone();
        if let Some(first) = stack.first_mut() {
            first.line = line;
        }
        Some((place, stack))
    }
}

impl Seen {
    fn most_seen_line(&self) -> Option<u32> {
        let most = self.lines.iter().max_by(|one, other| one.1.cmp(other.1).then(other.0.cmp(one.0)));
        most.and_then(|(line, _)| *line)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn stack(lines: &[(&str, u32)]) -> Vec<Place> {
        let place = |(function, line): &(&str, u32)| Place {
            file: format!("/srv/{}.py", function.to_lowercase()),
            function: (*function).to_owned(),
            line: Some(*line),
        };
        lines.iter().map(place).collect()
    }

    #[test]
    fn the_place_is_where_it_was_seen_most() {
        let mut places = Places::default();
        assert_eq!(places.most_seen(), None);
        for (function, line) in [("pause", 3), ("work", 7), ("work", 8), ("work", 8), ("work", 9), ("pause", 3)] {
            places.add(stack(&[(function, line), ("main", 40)]));
        }
        let (place, seen) = places.most_seen().expect("it was seen");
        assert_eq!((place.function.as_str(), place.line), ("work", Some(8)));
        assert_eq!(seen, stack(&[("work", 8), ("main", 40)]));
    }

    #[test]
    fn no_stall_is_of_unbounded_size() {
        let mut places = Places::default();
        for number in 0..1_000 {
            places.add(stack(&[(&format!("f{number}"), 1)]));
            places.add(stack(&[("work", number)]));
        }
        assert!(places.seen.len() <= PLACES_MAX);
        assert!(places.seen.values().all(|seen| seen.lines.len() <= PLACES_MAX));
    }

    /// Turns as a test wants them.
    #[derive(Clone, Default)]
    struct Set(Arc<Mutex<Vec<Turn>>>);

    impl Turns for Set {
        fn current(&mut self) -> Vec<Turn> {
            self.0.lock().expect("nobody panics with it").clone()
        }

        fn processes(&mut self) -> HashSet<Tgid> {
            self.current().iter().map(|turn| turn.tgid).collect()
        }

        fn recognise(&mut self, _: Tgid, _: Tid, _: Option<u32>, _: InitialState) {}

        fn end(&mut self, _: &Turn) {}
    }

    #[test]
    fn each_threshold_is_told_once_and_the_end_too() {
        let (samples, mut told) = super::super::channel();
        let targets = Targets::default();
        // No process has this number, so there is no stack.
        let tgid = Tgid(i32::MAX.cast_unsigned());
        targets.insert(Target { service: ServiceId(3), tgid });
        let now = Nanos(5_000_000_000);
        let busy = |age: u64| Turn {
            tgid,
            tid: tgid.0,
            since: Nanos(now.0 - age * 1_000_000),
            kind: TurnKind::Runs,
            off_cpu: Default::default(),
            begun_before: false,
            recognised: false,
        };
        let turns = Set::default();
        let mut watcher = Watcher::new(turns.clone(), targets, samples);
        let mut look = |current: Vec<Turn>| {
            *turns.0.lock().expect("nobody panics with it") = current;
            // What is due later is due now, so that no test sleeps.
            for open in watcher.stalls.values_mut() {
                open.due = Nanos(0);
            }
            let wake = watcher.look(now);
            let mut changes = Vec::new();
            while let Ok(sample) = told.try_recv() {
                let Sample::Stall(target, stall) = sample else { panic!("{sample:?}") };
                assert_eq!((target.service, stall.tgid, stall.label()), (ServiceId(3), tgid, None));
                assert_eq!(stall.cause, Cause::Computation, "it was never seen off the processor");
                assert_eq!(stall.no_stack.as_deref(), Some("the process has ended"));
                changes.push(stall.change);
            }
            (changes, wake)
        };
        let (changes, wake) = look(vec![busy(50)]);
        assert!(changes.is_empty());
        assert_eq!(wake, now + Nanos(50_000_000), "the moment at which it may become one");
        let exceeds = StallChange::Exceeds;
        assert_eq!(look(vec![busy(1_100)]).0, [StallThreshold::Tenth, StallThreshold::Second].map(exceeds));
        assert!(look(vec![busy(1_100)]).0.is_empty());
        let (changes, _) = look(vec![busy(20)]);
        assert_eq!(changes, [StallChange::Ended], "another turn is another stall");
        assert_eq!(look(vec![busy(101)]).0, [exceeds(StallThreshold::Tenth)]);
        assert_eq!(look(vec![]).0, [StallChange::Ended]);
        let stranger = Turn { tgid: Tgid(1), ..busy(500) };
        assert!(look(vec![stranger]).0.is_empty(), "whoever is not watched is nobody's business");
    }
}
