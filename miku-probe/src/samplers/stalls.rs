//! Turns of event loops that take too long, told while they last: for how long, where in the program, and why.
//!
//! The kernel side notes when a turn of a loop begins. This thread sleeps until the oldest turn could exceed the first
//! threshold, and no longer: so an idle loop costs ten looks a second, and a stall is seen within a few milliseconds of the
//! threshold. From then on it looks at the thread and at its Python stack, again and again and ever less often.
//!
//! The place of a stall is the innermost function in which the thread was seen most often, and why it hangs is decided by
//! what the kernel says of the thread meanwhile.

mod activity;
mod cause;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use self::cause::Sights;
use super::python::{Stacks, Thread, Tid};
use super::{Sample, Samples, Target, Targets};
use crate::observations::{Cause, Place, Stall, StallChange, Threshold};
use crate::units::{Nanos, ServiceId, Tgid};

/// A thread that runs an event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopThread {
    /// Its process.
    pub tgid: Tgid,
    /// Itself.
    pub tid: Tid,
    /// When its turn began; none while it waits for events.
    pub busy_since: Option<Nanos>,
}

/// Where the turns of loops are known.
pub trait Turns: Send {
    /// All loops of watched processes.
    fn loops(&mut self) -> Vec<LoopThread>;
}

/// From the first look at a stall to the second, with which it is told: so long the kernel's figures need to say whether the
/// thread runs.
const SECOND_LOOK: Nanos = Nanos(5_000_000);
/// How often a stall is told of while it lasts.
const TELL: Nanos = Nanos(250_000_000);
/// How long one waits for a stack.
const PATIENCE: Duration = Duration::from_millis(200);
/// Different innermost functions that are told apart in one stall.
const PLACES_MAX: usize = 64;

/// Begins to watch, until nobody takes samples any more.
///
/// # Errors
/// When there can be no thread for it.
pub fn start(turns: impl Turns + 'static, targets: Targets, samples: Samples) -> io::Result<()> {
    let mut watcher = Watcher { turns, targets, samples, stacks: Stacks::default(), stalls: HashMap::new() };
    thread::Builder::new().name("stalls".to_owned()).spawn(move || watcher.run())?;
    Ok(())
}

struct Watcher<T> {
    turns: T,
    targets: Targets,
    samples: Samples,
    stacks: Stacks,
    stalls: HashMap<Tid, Open>,
}

/// A stall that lasts.
struct Open {
    service: ServiceId,
    tgid: Tgid,
    since: Nanos,
    /// When the thread was last seen in that turn.
    seen: Nanos,
    /// When to look again.
    due: Nanos,
    looks: u32,
    /// When it was last told of.
    told: Nanos,
    exceeded: Option<Threshold>,
    sights: Sights,
    places: Places,
    holder: Option<Place>,
    no_stack: Option<String>,
}

impl<T: Turns> Watcher<T> {
    fn run(&mut self) {
        while self.samples.wanted() {
            let wake = self.look();
            thread::sleep(Duration::from_nanos(wake.since(Nanos::now()).0));
        }
    }

    /// Looks at all loops, and says when to look again.
    fn look(&mut self) -> Nanos {
        let targets = self.targets.get();
        let loops = self.turns.loops();
        let now = Nanos::now();
        let service = |tgid| targets.iter().find(|target| target.tgid == tgid).map(|target| target.service);
        self.stacks.retain(|tgid| service(tgid).is_some());
        let busy: HashMap<Tid, (Tgid, Nanos)> =
            loops.iter().filter_map(|thread| Some((thread.tid, (thread.tgid, thread.busy_since?)))).collect();
        let over = |tid: &Tid, open: &Open| {
            service(open.tgid).is_none() || busy.get(tid).is_none_or(|turn| turn.1 != open.since)
        };
        let ended: Vec<Tid> = self.stalls.iter().filter(|(tid, open)| over(tid, open)).map(|(tid, _)| *tid).collect();
        for tid in ended {
            if let Some(open) = self.stalls.remove(&tid) {
                self.end(tid, open);
            }
        }
        let mut wake = now + Threshold::Tenth.time();
        for thread in &loops {
            let Some(service) = service(thread.tgid) else { continue };
            // Said again with each stall, if it cannot be.
            drop(self.stacks.open(thread.tgid));
            let Some(since) = thread.busy_since else { continue };
            if now.since(since) < Threshold::Tenth.time() {
                wake = wake.min(since + Threshold::Tenth.time());
                continue;
            }
            let mut open =
                self.stalls.remove(&thread.tid).unwrap_or_else(|| Open::new(service, thread.tgid, since, now));
            if open.due <= now {
                open.look(thread.tid, now, &mut self.stacks);
                for change in open.changes(now) {
                    tell(&self.samples, thread.tid, &open, change);
                }
            }
            wake = wake.min(open.due);
            self.stalls.insert(thread.tid, open);
        }
        wake
    }

    fn end(&self, tid: Tid, mut open: Open) {
        // It ended before the second look.
        if open.exceeded.is_none() {
            open.exceeded = Some(Threshold::Tenth);
            tell(&self.samples, tid, &open, StallChange::Exceeds(Threshold::Tenth));
        }
        tell(&self.samples, tid, &open, StallChange::Ended);
    }
}

fn tell(samples: &Samples, tid: Tid, open: &Open, change: StallChange) {
    let target = Target { service: open.service, tgid: open.tgid };
    samples.give(Sample::Stall(target, Arc::new(open.stall(tid, change))));
}

impl Open {
    fn new(service: ServiceId, tgid: Tgid, since: Nanos, now: Nanos) -> Self {
        Self {
            service,
            tgid,
            since,
            seen: now,
            due: now,
            looks: 0,
            told: now,
            exceeded: None,
            sights: Sights::default(),
            places: Places::default(),
            holder: None,
            no_stack: None,
        }
    }

    fn look(&mut self, tid: Tid, now: Nanos, stacks: &mut Stacks) {
        self.looks += 1;
        self.seen = now;
        if let Some(sight) = activity::sight(self.tgid, tid) {
            self.sights.add(sight);
        }
        match stacks.threads(self.tgid, PATIENCE) {
            Ok(threads) => self.take(tid, &threads),
            Err(error) if self.places.is_empty() => self.no_stack = Some(error.to_string()),
            // Where it hangs is known from before.
            Err(_) => {}
        }
        let age = now.since(self.since);
        self.due = now
            + if self.looks == 1 {
                SECOND_LOOK
            } else if age < Threshold::One.time() {
                Nanos(25_000_000)
            } else if age < Threshold::Ten.time() {
                Nanos(100_000_000)
            } else {
                Nanos(500_000_000)
            };
        // Thresholds are told of on time.
        if let Some(next) =
            Threshold::ALL.into_iter().map(|threshold| self.since + threshold.time()).find(|at| *at > now)
        {
            self.due = self.due.min(next);
        }
    }

    fn take(&mut self, tid: Tid, threads: &[Thread]) {
        let Some(own) = threads.iter().find(|thread| thread.tid == Some(tid)) else {
            if self.places.is_empty() {
                self.no_stack = Some(super::python::StackError::NoThread.to_string());
            }
            return;
        };
        self.no_stack = None;
        let stack: Vec<Place> = own.frames.iter().map(place).collect();
        if stack.is_empty() {
            self.no_stack = Some("the thread runs nothing of Python's".to_owned());
            return;
        }
        self.places.add(stack);
        let holder = threads.iter().find(|thread| thread.holds_gil && thread.tid != Some(tid));
        self.holder = holder.and_then(|thread| thread.frames.first()).map(place);
    }

    /// What there is to tell now.
    fn changes(&mut self, now: Nanos) -> Vec<StallChange> {
        let age = now.since(self.since);
        // One look does not say why.
        if self.looks == 1 {
            return Vec::new();
        }
        let exceeded = self.exceeded;
        let crossed = |threshold: &Threshold| age >= threshold.time() && exceeded.is_none_or(|last| *threshold > last);
        let mut changes: Vec<StallChange> =
            Threshold::ALL.into_iter().filter(crossed).map(StallChange::Exceeds).collect();
        if let Some(StallChange::Exceeds(threshold)) = changes.last() {
            self.exceeded = Some(*threshold);
        } else if now.since(self.told) >= TELL {
            changes.push(StallChange::Lasts);
        }
        if !changes.is_empty() {
            self.told = now;
        }
        changes
    }

    fn stall(&self, tid: Tid, change: StallChange) -> Stall {
        let cause = self.sights.cause();
        let (place, stack) = self.places.most_seen().unzip();
        let stack = stack.unwrap_or_default();
        let own = stack.iter().find(|place| !place.is_installed()).filter(|own| Some(*own) != stack.first()).cloned();
        let waits_for_interpreter = cause == Cause::Lock && self.sights.may_wait_for_interpreter();
        Stall {
            tgid: self.tgid,
            tid: tid.0,
            since: self.since,
            time: self.seen.since(self.since),
            change,
            cause,
            place,
            own,
            stack,
            holder: self.holder.clone().filter(|_| waits_for_interpreter),
            no_stack: self.no_stack.clone(),
        }
    }
}

fn place(frame: &super::python::Frame) -> Place {
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
    struct Set(Arc<std::sync::Mutex<Vec<LoopThread>>>);

    impl Turns for Set {
        fn loops(&mut self) -> Vec<LoopThread> {
            self.0.lock().expect("nobody panics with it").clone()
        }
    }

    #[test]
    fn each_threshold_is_told_once_and_the_end_too() {
        let (samples, mut told) = super::super::channel();
        let targets = Targets::default();
        let tgid = Tgid(std::process::id());
        targets.insert(Target { service: ServiceId(3), tgid });
        let now = Nanos::now();
        let busy = |age: u64| LoopThread { tgid, tid: Tid(tgid.0), busy_since: Some(Nanos(now.0 - age * 1_000_000)) };
        let turns = Arc::new(std::sync::Mutex::new(vec![busy(50)]));
        let mut watcher = Watcher {
            turns: Set(Arc::clone(&turns)),
            targets,
            samples,
            stacks: Stacks::default(),
            stalls: HashMap::new(),
        };
        let mut look = |threads: Vec<LoopThread>| {
            *turns.lock().expect("nobody panics with it") = threads;
            let wake = watcher.look();
            let mut changes = Vec::new();
            while let Ok(Sample::Stall(target, stall)) = told.try_recv() {
                assert_eq!((target.service, stall.tgid, stall.label().as_str()), (ServiceId(3), tgid, "unknown"));
                assert!(stall.no_stack.is_some(), "a test has no Python in it: {stall:?}");
                changes.push(stall.change);
            }
            // What is due later is due now, so that no test sleeps.
            for open in watcher.stalls.values_mut() {
                open.due = Nanos(0);
            }
            (changes, wake)
        };
        let (changes, wake) = look(vec![busy(50)]);
        assert!(changes.is_empty());
        assert_eq!(wake, now + Nanos(50_000_000), "the moment at which it may become one");
        assert!(look(vec![busy(1_100)]).0.is_empty(), "one look does not say why");
        let exceeds =
            |thresholds: &[Threshold]| thresholds.iter().copied().map(StallChange::Exceeds).collect::<Vec<_>>();
        assert_eq!(look(vec![busy(1_100)]).0, exceeds(&[Threshold::Tenth, Threshold::One]));
        assert!(look(vec![busy(1_100)]).0.is_empty());
        let (changes, _) = look(vec![busy(20)]);
        assert_eq!(changes, [StallChange::Ended], "another turn is another stall");
        look(vec![busy(101)]);
        assert_eq!(
            look(vec![]).0,
            [StallChange::Exceeds(Threshold::Tenth), StallChange::Ended],
            "too short for a second look"
        );
    }
}
