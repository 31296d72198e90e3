//! Joins the rooms while the probe runs: kernel side, discovery, pipeline.
//!
//! Everything happens on one thread. The ring is drained every 50 ms, and at once when the kernel side wakes us, which
//! it does for births and deaths of processes and when the ring fills up.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::discovery::libraries::Kind;
use crate::discovery::lives::{Lives, Program, Told as LivesTold};
use crate::discovery::process::{ProcFs, StartTime};
use crate::discovery::selectors::ServiceSpec;
use crate::discovery::sockets::{self, Socket};
use crate::discovery::{Change, Discovery, Event, UnknownPid};
use crate::intake::{Process, Ring};
use crate::observations::{EventLoop, Gpu, LostWhere, Names, Observation, ProcessNews, Sink, TargetState, Turns};
use crate::pipeline::{Caps, Pipeline, World};
use crate::probes::attacher::{Attacher, Report};
use crate::probes::cuda::AllocationTable;
use crate::probes::event_loop::{self, EventLoops};
use crate::probes::net::{self, ListenerTable};
use crate::probes::plan::Returns;
use crate::probes::socket::Way;
use crate::probes::tls::Scrubber;
use crate::probes::{
    ConnectionTable, CounterTable, Failure, Kernel, Maps, ProbeError, RunStatistics, Sizes, StreamTable, TargetTable,
};
use crate::protocols::routes::{RouteError, RoutePattern};
use crate::samplers::{self, Sample, Samples, Target, Targets};
use crate::units::{ConnId, Direction, Handle, Nanos, ServiceId, Tgid, Transport};

/// How often the ring is drained when nothing wakes us: half of it is the mean delay from kernel to metric.
const DRAIN: Duration = Duration::from_millis(50);
/// How often counters are read and silent connections asked after.
const TICK: Duration = Duration::from_secs(1);
/// How often all processes are looked at, for what the kernel side does not tell.
const SCAN: Duration = Duration::from_secs(5);
/// How long the start waits until the libraries of what runs already are attached to.
const PATIENCE: Duration = Duration::from_secs(2);
/// Records taken at once, before other tasks get their turn.
const BATCH: usize = 16_384;
/// Silent connections that are asked after in one tick; the others' bytes are told when they close.
const SILENT: usize = 4_096;

/// Why watching cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel side.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// `/proc` or the ring's descriptor.
    #[error("cannot look at the processes")]
    Io(#[from] io::Error),
    /// A process that is to be watched does not exist.
    #[error(transparent)]
    UnknownPid(#[from] UnknownPid),
    /// A route pattern.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// What to watch, and within which bounds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The services; none to choose by itself.
    pub services: Vec<ServiceSpec>,
    /// Sizes of the kernel side's tables.
    pub sizes: Sizes,
    /// Caps on what comes off the wire.
    pub caps: Caps,
    /// How often it is looked at what the processes use, if at all.
    pub process_interval: Option<Duration>,
    /// How GPUs are asked; `None` to leave them alone.
    pub gpu: Option<samplers::gpu::Settings>,
    /// Whether turns of event loops are told, and stalls.
    pub event_loops: bool,
}

/// The running probe. Dropping it detaches everything.
pub struct Watch<S> {
    ring: Ring,
    drain: Interval,
    tick: Interval,
    scan: Interval,
    samples: mpsc::Receiver<Sample>,
    core: Core<S>,
}

/// Everything but the ring, so that records can be handed over while it is borrowed.
struct Core<S> {
    kernel: Kernel,
    targets: TargetTable,
    connections: ConnectionTable,
    streams: StreamTable,
    allocations: AllocationTable,
    /// Whether turns of event loops are told; the threads that wait in selectors, and what has been told of them.
    event_loops: bool,
    loops: EventLoops,
    loops_told: event_loop::Told,
    /// What attaches to libraries; `None` when the kernel refused the programs.
    attacher: Option<Attacher>,
    scrubber: Option<Scrubber>,
    listeners: ListenerTable,
    /// Places in libraries that are attached.
    places: HashMap<(Tgid, Kind), u32>,
    /// Why places in libraries could not be attached, since somebody asked.
    unattached: Vec<(&'static str, &'static str)>,
    discovery: Discovery,
    lives: Lives,
    pipeline: Pipeline<S, Outside>,
    /// What samplers are told and how they answer.
    watched: Targets,
    answers: Samples,
    /// Processes that began to listen: their port may not have been in `/proc` yet when they were first looked at.
    again: Vec<(Tgid, u16)>,
    told: Told,
    failed: Vec<(ServiceId, Tgid)>,
}

/// How much of the kernel side's losses has been told to the sinks.
#[derive(Debug, Default)]
struct Told {
    ring: u64,
    table: u64,
    capture: u64,
    recursion: u64,
    sent: u64,
    messages_in: u64,
    messages_out: u64,
}

/// The world as the pipeline asks it.
struct Outside {
    counters: CounterTable,
}

impl World for Outside {
    fn socket(&self, tgid: Tgid, fd: i32) -> Option<Socket> {
        sockets::socket(tgid, fd)
    }
}

/// Gives back to the system what loading needed for a while: the kernel's types alone take some ten MiB.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and memory that is in use stays as it is.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl<S: Sink> Watch<S> {
    /// Loads the kernel side, finds the processes, attaches. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When any of that fails; then nothing stays attached.
    pub fn start(settings: Settings, sink: S) -> Result<Self, WatchError> {
        let Settings { services, sizes, caps, process_interval, gpu, event_loops } = settings;
        let patterns = services
            .iter()
            .map(|service| service.routes.iter().map(|text| RoutePattern::parse(text)).collect())
            .collect::<Result<Vec<Vec<_>>, _>>()?;
        let names: Vec<_> = services.iter().map(|service| service.name.clone()).collect();
        let discovery = Discovery::new(ProcFs::default(), services);
        discovery.check_pids()?;
        let (mut kernel, maps) = Kernel::load(sizes)?;
        let Maps { records, targets, connections, streams, allocations, loops, counters, listeners } = maps;
        let uprobes = kernel.take_uprobes();
        let attacher = uprobes.map(|uprobes| Attacher::start(uprobes, Returns::of_this_kernel())).transpose()?;
        let scrubber = kernel.take_scrubber();
        let (answers, samples) = samplers::channel();
        let mut core = Core {
            kernel,
            targets,
            connections,
            streams,
            allocations,
            event_loops,
            loops,
            loops_told: event_loop::Told::default(),
            attacher,
            scrubber,
            listeners,
            places: HashMap::new(),
            unattached: Vec::new(),
            discovery,
            lives: Lives::new(StartTime::now()),
            pipeline: Pipeline::new(sink, Outside { counters }, caps),
            watched: Targets::default(),
            answers,
            again: Vec::new(),
            told: Told::default(),
            failed: Vec::new(),
        };
        for (name, patterns) in names.iter().zip(patterns) {
            core.pipeline.add_service(name, patterns)?;
        }
        let [drain, tick, scan] = [DRAIN, TICK, SCAN].map(|period| {
            let mut interval = interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        let mut watch = Self { ring: Ring::new(records)?, drain, tick, scan, samples, core };
        if let Some(gpu) = gpu {
            samplers::gpu::start(gpu, watch.core.watched.clone(), watch.core.answers.clone())?;
        }
        if event_loops {
            samplers::stalls::start(watch.core.loops.clone(), watch.core.watched.clone(), watch.core.answers.clone())?;
        }
        // The probes come first: what a process does between being found and being attached to would be missed.
        watch.core.kernel.attach()?;
        watch.core.scan()?;
        for mixed in watch.core.discovery.mixed_services() {
            log::warn!("{mixed}; narrow the selector if not all are meant");
        }
        if let Some(attacher) = &watch.core.attacher {
            attacher.settle(PATIENCE);
        }
        watch.core.take_reports();
        if let Some(interval) = process_interval {
            samplers::process::start(watch.core.watched.clone(), watch.core.answers.clone(), interval)?;
        }
        samplers::tcp::start(watch.core.watched.clone(), watch.core.answers.clone());
        give_back_memory();
        Ok(watch)
    }

    /// Waits for the next thing that is due and does it. It may be dropped while it waits.
    ///
    /// # Errors
    /// When the ring cannot be polled.
    pub async fn step(&mut self) -> io::Result<()> {
        // Other tasks get their turn also while the kernel side wakes us again and again.
        tokio::task::yield_now().await;
        tokio::select! {
            woken = self.ring.woken() => {
                woken?;
                self.drain();
            }
            _ = self.drain.tick() => self.drain(),
            Some(sample) = self.samples.recv() => self.core.sampled(sample),
            _ = self.tick.tick() => {
                self.core.tick();
                self.scrub();
            }
            _ = self.scan.tick() => {
                if let Err(error) = self.core.scan() {
                    log::warn!("cannot look at the processes: {error}");
                }
            }
        }
        Ok(())
    }

    /// Takes in what there is and tells it: to be called before the sinks are read.
    pub fn settle(&mut self) {
        self.drain();
        self.core.tick();
    }

    /// Takes in every record that waits.
    fn drain(&mut self) {
        let Self { ring, core, .. } = self;
        for (tgid, port) in std::mem::take(&mut core.again) {
            let changes = core.discovery.examine(tgid, Event::Listen(port));
            core.apply(changes);
        }
        loop {
            let mut oldest = None;
            let taken = ring.drain(BATCH, |bytes| {
                let (time, process) = core.pipeline.record(bytes);
                oldest = oldest.or(time);
                if let Some((tgid, event)) = process {
                    core.process(tgid, time.unwrap_or_default(), event);
                }
            });
            if let Some(oldest) = oldest {
                core.pipeline.end_batch(Nanos::now(), oldest);
            }
            // Turns of event loops have put all system calls on the slower path already. Without them, that is no price for
            // knowing at once that a name server did not answer.
            if core.pipeline.saw_unix() || (core.event_loops && core.pipeline.saw_names()) {
                core.kernel.tell_closings();
            }
            core.look_at_new_bots();
            if taken < BATCH {
                return;
            }
        }
    }

    /// Overwrites what was captured and has been taken in, when that is due.
    fn scrub(&mut self) {
        let Some(rounds) = self.core.scrub_rounds() else { return };
        for _ in 0..rounds {
            if let Some(scrubber) = &mut self.core.scrubber {
                scrubber.run();
            }
            self.drain();
        }
    }

    /// Where the observations go.
    pub fn sink_mut(&mut self) -> &mut S {
        self.core.pipeline.sink_mut()
    }

    /// The names behind the observations.
    #[must_use]
    pub fn names(&self) -> &Names {
        self.core.pipeline.names()
    }

    /// What the programs have cost so far.
    #[must_use]
    pub fn run_statistics(&self) -> Vec<RunStatistics> {
        self.core.kernel.run_statistics()
    }

    /// The kernel side, for what it attached.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.core.kernel
    }

    /// The probes that could not be attached since this was last asked.
    pub fn take_failures(&mut self) -> Vec<Failure> {
        self.core.kernel.take_failures()
    }

    /// The watched processes in words, such as `bot (pid 4242)`.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        self.core.pipeline.targets().map(|(tgid, service)| format!("{service} (pid {tgid})")).collect()
    }

    /// How many processes of each service are watched now, and how many cannot be.
    #[must_use]
    pub fn target_counts(&self) -> Vec<(ServiceId, u32, u32)> {
        self.core.target_counts()
    }
}

impl<S: Sink> Watch<S> {
    /// How many places in libraries are attached, by service; a service with targets and none is there too.
    #[must_use]
    pub fn places(&self) -> BTreeMap<(ServiceId, Kind), u32> {
        let services = self.target_counts().into_iter().map(|(service, ..)| service);
        let mut places: BTreeMap<_, _> =
            services.flat_map(|service| Kind::ALL.map(|kind| ((service, kind), 0))).collect();
        for ((tgid, kind), count) in &self.core.places {
            if let Some(service) = self.core.pipeline.target(*tgid) {
                *places.entry((service, *kind)).or_default() += count;
            }
        }
        places
    }

    /// What could not be attached or asked for, by kind, and why, a word for each, since this was last asked.
    pub fn take_place_failures(&mut self) -> Vec<(&'static str, &'static str)> {
        std::mem::take(&mut self.core.unattached)
    }
}

impl<S> Drop for Core<S> {
    fn drop(&mut self) {
        // Detaching takes the kernel's time, not ours: it goes on while the other probes are detached.
        if let Some(attacher) = &mut self.attacher {
            attacher.leave();
        }
    }
}

impl<S: Sink> Core<S> {
    fn scan(&mut self) -> io::Result<()> {
        if let Some(attacher) = &self.attacher {
            attacher.look_at_silent();
        }
        let changes = self.discovery.scan()?;
        // Nobody tells the end of a process that was never watched.
        self.failed.retain(|(_, tgid)| Path::new(&format!("/proc/{tgid}")).exists());
        self.apply(changes);
        if self.kernel.way() == Way::Sockets {
            self.forget_untold();
        }
        Ok(())
    }

    /// Ends the connections whose closing no tracepoint of sockets tells.
    fn forget_untold(&mut self) {
        for id in self.pipeline.other_than_tcp() {
            self.forget_if_closed(id);
        }
    }

    /// Takes in what the kernel side tells of a process.
    fn process(&mut self, tgid: Tgid, time: Nanos, event: Process) {
        let changes = match event {
            Process::Fork { child } => {
                if let Some(service) = self.pipeline.target(tgid) {
                    self.lives.forked(child, service, Nanos::now());
                }
                let changes = self.discovery.forked(tgid, child);
                // The kernel side watches the child already; if it is none of ours it need not.
                if self.pipeline.target(child).is_none() && changes.is_empty() {
                    self.targets.remove(child);
                }
                changes
            }
            Process::Exec => {
                let changes = self.discovery.examine(tgid, Event::Exec);
                let program = if self.pipeline.target(tgid).is_none() || changes.contains(&Change::Gone { tgid }) {
                    Program::Other
                } else if ProcFs::default().process(tgid).is_some() {
                    Program::Same
                } else {
                    Program::Unseen
                };
                let told = self.lives.became(tgid, program, Nanos::now());
                self.tell(told);
                if self.pipeline.target(tgid).is_some() {
                    self.forget_closed(tgid);
                    self.order(Attacher::renew, tgid);
                }
                changes
            }
            Process::Exit { end } => {
                let told = self.lives.ended(tgid, time, end);
                self.tell(told);
                self.discovery.exited(tgid)
            }
            Process::Listen { port } => {
                let changes = self.discovery.examine(tgid, Event::Listen(port));
                if changes.is_empty() && self.pipeline.target(tgid).is_none() {
                    self.again.push((tgid, port));
                }
                changes
            }
            Process::Dial { port } => self.discovery.examine(tgid, Event::Dial(port)),
            Process::Libraries => {
                self.order(Attacher::look, tgid);
                Vec::new()
            }
        };
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::NewService { name, .. } => {
                    self.pipeline.add_service(&name, Vec::new()).expect("no patterns are never too many");
                }
                Change::Found(target) => {
                    let service =
                        self.discovery.services().get(usize::from(target.service.0)).map_or("", String::as_str);
                    log::info!("watching {} ({}) as {service}: {}", target.tgid, target.comm, target.why);
                    let told = self.lives.found(target.tgid, target.service, target.start);
                    self.tell(told);
                    self.watch(target.tgid, target.service);
                }
                Change::Gone { tgid } => {
                    log::info!("{tgid} is gone");
                    if ProcFs::default().process(tgid).is_some() {
                        let told = self.lives.became(tgid, Program::Other, Nanos::now());
                        self.tell(told);
                    } else {
                        self.lives.vanished(tgid, Nanos::now());
                    }
                    self.forget(tgid);
                }
                Change::Rejected { tgid, service, reason } => {
                    log::info!("not watching {tgid}: {reason}");
                    self.failed.extend(service.map(|service| (service, tgid)));
                }
            }
        }
    }

    fn look_at_new_bots(&mut self) {
        for bot in self.pipeline.take_new_bots() {
            self.kernel.tell_arrivals();
            // One that has ended meanwhile has nothing more to tell.
            if let Err(error) = self.targets.tell_more(bot, self.event_loops) {
                log::debug!("no more is told of the bot {bot}: {error}");
            }
        }
    }

    fn watch(&mut self, tgid: Tgid, service: ServiceId) {
        if let Err(error) = self.targets.insert(tgid) {
            log::warn!("cannot watch {tgid}: {error}");
            self.failed.push((service, tgid));
            return;
        }
        self.pipeline.add_target(tgid, service);
        self.watched.insert(Target { service, tgid });
        self.order(Attacher::watch, tgid);
        if self.event_loops {
            self.kernel.tell_turns();
        }
        if self.kernel.way() == Way::Sockets {
            // A connection becomes known by its first bytes, with all that is to be known of it.
            let listens = |socket: &Socket| socket.listening && socket.transport == Transport::Unix;
            if sockets::sockets(tgid).is_ok_and(|sockets| sockets.iter().any(listens)) {
                self.kernel.tell_closings();
            }
            return;
        }
        // What is open already is entered after the process is watched, so that nothing falls between.
        let sockets = match sockets::sockets(tgid) {
            Ok(sockets) => sockets,
            Err(error) => {
                log::info!("the open connections of {tgid} are not known until they move something: {error}");
                return;
            }
        };
        for socket in sockets.iter().filter(|socket| !socket.listening) {
            let id = ConnId { tgid, handle: Handle::Socket(socket.fd), generation: Nanos::now() };
            match self.connections.seed(id) {
                Ok(true) => self.pipeline.seed(id, socket),
                Ok(false) => {}
                Err(error) => {
                    log::warn!("cannot follow an open connection of {tgid}: {error}");
                    self.pipeline.observe(&Observation::Lost { at: LostWhere::Table, count: 1 });
                }
            }
        }
    }

    /// Tells what attaches to libraries what becomes of a process.
    fn order(&self, order: fn(&Attacher, Tgid), tgid: Tgid) {
        if let Some(attacher) = &self.attacher {
            order(attacher, tgid);
        }
    }

    /// Takes in what became of attaching to libraries.
    fn take_reports(&mut self) {
        let Some(attacher) = &self.attacher else { return };
        for report in attacher.reports() {
            match report {
                Report::Places { tgid, kind, count } => drop(self.places.insert((tgid, kind), count)),
                Report::Failed { kind, reason } => self.unattached.push((kind.as_str(), reason)),
            }
        }
        self.places.retain(|(tgid, _), _| self.pipeline.target(*tgid).is_some());
    }

    /// How many times the ring is to be overwritten in part now.
    fn scrub_rounds(&mut self) -> Option<u64> {
        let captured = self.pipeline.captured();
        Some(self.scrubber.as_mut()?.rounds(Nanos::now(), captured))
    }

    /// Tells what counts of lives of processes.
    fn tell(&mut self, told: Vec<LivesTold>) {
        for (service, what) in told {
            self.pipeline.observe(&Observation::Process { service, what });
        }
    }

    fn forget(&mut self, tgid: Tgid) {
        if let Some(service) = self.pipeline.target(tgid) {
            self.pipeline.observe(&Observation::Process { service, what: ProcessNews::Gone { tgid } });
            if let Some(last) = self.allocations.forget(tgid, service) {
                self.pipeline.observe(&Observation::Gpu(Gpu::Allocations(last)));
            }
        }
        self.targets.remove(tgid);
        for turns in self.loops_told.last_growth(&self.loops, tgid) {
            self.observe_turns(tgid, turns);
        }
        self.watched.remove(tgid);
        self.order(Attacher::forget, tgid);
        self.streams.forget(tgid);
        self.failed.retain(|(_, failed)| *failed != tgid);
        self.pipeline.remove_target(tgid, Nanos::now());
        self.connections.forget(tgid);
    }

    /// Ends the connections that an `exec` closed, which no call told.
    fn forget_closed(&mut self, tgid: Tgid) {
        for id in self.pipeline.open_connections(tgid) {
            self.forget_if_closed(id);
        }
        self.streams.forget(tgid);
    }

    fn forget_if_closed(&mut self, id: ConnId) {
        let Handle::Socket(fd) = id.handle else { return };
        if sockets::socket(id.tgid, fd).is_some() {
            return;
        }
        if let Some((bytes_in, bytes_out)) = self.connections.bytes(id) {
            self.pipeline.moved(id, bytes_in, bytes_out);
        }
        self.pipeline.vanished(id, Nanos::now());
        self.connections.remove(id);
    }

    /// Takes in what a sampler found.
    fn sampled(&mut self, sample: Sample) {
        match sample {
            // One of a process that has ended since is stale.
            Sample::Process(look) if self.pipeline.target(look.vitals.tgid) == Some(look.service) => {
                let what = ProcessNews::Vitals(look.vitals);
                self.pipeline.observe(&Observation::Process { service: look.service, what });
            }
            Sample::Process(_) => {}
            Sample::Tcp(round) => {
                for listener in &round.listeners {
                    let tgid = listener.target.tgid;
                    if let Err(error) = self.listeners.insert(listener.namespace, listener.port, tgid) {
                        log::debug!("connections to port {} of {tgid} are not counted: {error}", listener.port);
                    }
                }
                self.pipeline.tcp_round(&round, Nanos::now());
            }
            Sample::TcpFailed(reason) => self.unattached.push((net::KIND, reason)),
            Sample::Gpu(sample) => self.pipeline.gpus(sample),
            Sample::Stall(Target { service, .. }, what) => {
                self.pipeline.observe(&Observation::EventLoop { service, what: EventLoop::Stall(what) });
            }
        }
    }

    /// Tells what processes asked the CUDA driver for.
    fn tell_allocations(&mut self) {
        let attached = self.places.keys().filter(|(_, kind)| *kind == Kind::Cuda);
        let attached = attached.filter_map(|(tgid, _)| Some((*tgid, self.pipeline.target(*tgid)?)));
        for allocations in self.allocations.growth(attached) {
            self.pipeline.observe(&Observation::Gpu(Gpu::Allocations(allocations)));
        }
    }

    /// Tells what event loops of a process have done.
    fn observe_turns(&mut self, tgid: Tgid, turns: Turns) {
        if let Some(service) = self.pipeline.target(tgid) {
            self.pipeline.observe(&Observation::EventLoop { service, what: EventLoop::Turns(Box::new(turns)) });
        }
    }

    fn tick(&mut self) {
        self.take_reports();
        self.tell_allocations();
        for (tgid, turns) in self.loops_told.growth(&self.loops) {
            self.observe_turns(tgid, turns);
        }
        self.pipeline.tick(Nanos::now());
        let told = self.lives.tick(Nanos::now(), |tgid| self.pipeline.target(tgid).is_some());
        self.tell(told);
        for id in self.pipeline.silent(SILENT) {
            if let Some((bytes_in, bytes_out)) = self.connections.bytes(id) {
                self.pipeline.moved(id, bytes_in, bytes_out);
            }
        }
        let Ok(counters) = self.pipeline.world().counters.sum() else { return };
        let recursion = self.kernel.missed();
        let told = &mut self.told;
        for (at, told, total) in [
            (LostWhere::Ring, &mut told.ring, counters.lost.iter().sum()),
            (LostWhere::Table, &mut told.table, counters.table_full + counters.targets_full),
            (LostWhere::Capture, &mut told.capture, counters.unreadable),
            (LostWhere::Recursion, &mut told.recursion, recursion),
        ] {
            let count = total - std::mem::replace(told, total);
            if count > 0 {
                log::debug!("lost {count} by {}", at.as_str());
                self.pipeline.observe(&Observation::Lost { at, count });
            }
        }
        let sent = counters.sent - std::mem::replace(&mut self.told.sent, counters.sent);
        self.pipeline.observe(&Observation::RecordsSent(sent));
        for (direction, told, total) in [
            (Direction::In, &mut self.told.messages_in, counters.lost_starts_in),
            (Direction::Out, &mut self.told.messages_out, counters.lost_starts_out),
        ] {
            let count = total - std::mem::replace(told, total);
            if count > 0 {
                self.pipeline.observe(&Observation::LostMessages { direction, count });
            }
        }
        for (service, attached, failed) in self.target_counts() {
            for (state, count) in [(TargetState::Attached, attached), (TargetState::Failed, failed)] {
                self.pipeline.observe(&Observation::Targets { service, state, count });
            }
        }
    }

    fn target_counts(&self) -> Vec<(ServiceId, u32, u32)> {
        (0..self.discovery.services().len())
            .filter_map(|index| u16::try_from(index).ok().map(ServiceId))
            .map(|service| {
                let attached = u32::try_from(self.discovery.count(service)).unwrap_or(u32::MAX);
                let failed = self.failed.iter().filter(|(failed, _)| *failed == service).count();
                (service, attached, u32::try_from(failed).unwrap_or(u32::MAX))
            })
            .collect()
    }
}
