//! Attaches to the libraries of watched processes, and to their loader's notice of new ones, and detaches, on a thread of
//! its own.
//!
//! Looking through files and machine code takes long, and so does the kernel at detaching; the ring must be drained
//! meanwhile. The thread is told what happens to processes and tells what it did.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::plan::{Plan, Returns};
use crate::discovery::libraries::{Kind, Library, LibraryFinder, Seen, loader_notice};
use crate::discovery::process::{ProcFs, Process};
use crate::probes::uprobe::{Links, Place, UprobeError, Uprobes, When};
use crate::probes::{chain, io_causes, reason};
use crate::units::Tgid;

/// The program on the loader's notice.
const LIBRARIES: &str = "libraries";

/// The programs that are attached here and are of no family.
pub(super) const PROGRAMS: &[&str] = &[LIBRARIES];

/// The least time between two looks at one process: a program that starts loads its libraries one after the other. With
/// the time for which a record waits in the ring it stays well below 200 ms, within which a library shall be found.
const PAUSE: Duration = Duration::from_millis(50);

/// What the thread is told.
enum Order {
    /// Attach to this process from now on.
    Watch(Tgid),
    /// Its list of libraries changes.
    Look(Tgid),
    /// It became another program, of which nothing is known.
    Renew(Tgid),
    /// Detach from it.
    Forget(Tgid),
    /// Look at all those whose loader gives no notice.
    LookAtSilent,
    /// Say so when all orders before this one have been carried out.
    Settle(SyncSender<()>),
}

/// What the thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// So many places are attached in a process now.
    Places {
        /// Which process.
        tgid: Tgid,
        /// What is seen there.
        kind: Kind,
        /// How many.
        count: u32,
    },
    /// Something could not be attached in a process.
    Failed {
        /// What would have been seen there.
        kind: Kind,
        /// Why, in a word: the label `reason`.
        reason: &'static str,
    },
}

/// The thread's other end. Dropping it detaches everything and waits until that is done.
pub struct Attacher {
    /// `None` once it is to detach everything.
    orders: Option<Sender<Order>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl Attacher {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread.
    pub fn start(uprobes: Uprobes, returns: Returns) -> io::Result<Self> {
        let (orders, taken) = mpsc::channel();
        let (told, reports) = mpsc::channel();
        let worker = Worker {
            uprobes,
            returns,
            finder: LibraryFinder::new(),
            proc: ProcFs::default(),
            processes: HashMap::new(),
            detaching: Vec::new(),
            reports: told,
        };
        let thread = thread::Builder::new().name("libraries".to_owned()).spawn(move || worker.work(&taken))?;
        Ok(Self { orders: Some(orders), reports, thread: Some(thread) })
    }

    /// Attaches to a process from now on.
    pub fn watch(&self, tgid: Tgid) {
        self.order(Order::Watch(tgid));
    }

    /// The process loads a library.
    pub fn look(&self, tgid: Tgid) {
        self.order(Order::Look(tgid));
    }

    /// Looks at all processes whose loader gives no notice of new libraries.
    pub fn look_at_silent(&self) {
        self.order(Order::LookAtSilent);
    }

    /// The process became another program.
    pub fn renew(&self, tgid: Tgid) {
        self.order(Order::Renew(tgid));
    }

    /// Detaches from a process.
    pub fn forget(&self, tgid: Tgid) {
        self.order(Order::Forget(tgid));
    }

    /// Waits until all that was asked for so far is done, but not longer than `patience`.
    pub fn settle(&self, patience: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        self.order(Order::Settle(done));
        if wait.recv_timeout(patience).is_err() {
            log::info!("still attaching to libraries");
        }
    }

    /// What was done since this was last asked.
    pub fn reports(&self) -> impl Iterator<Item = Report> {
        self.reports.try_iter()
    }

    /// Begins to detach everything; whatever is asked for later is not done.
    pub fn leave(&mut self) {
        drop(self.orders.take());
    }

    fn order(&self, order: Order) {
        // Else it ended by a panic, which was told already.
        if let Some(orders) = &self.orders {
            let _ended: Result<(), _> = orders.send(order);
        }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        self.leave();
        if let Some(thread) = self.thread.take() {
            let _panicked: Result<(), _> = thread.join();
        }
    }
}

/// A process that is attached to.
#[derive(Default)]
struct Watched {
    seen: Seen,
    links: Links,
    places: BTreeMap<Kind, usize>,
    /// Libraries that are of use only beside a TLS library that is attached to.
    errors: Vec<Library>,
    /// Whether the loader gives notice of new libraries.
    noticed: bool,
    /// When it was last looked at.
    looked: Option<Instant>,
    /// When it is to be looked at again.
    due: Option<Instant>,
}

struct Worker {
    uprobes: Uprobes,
    returns: Returns,
    finder: LibraryFinder,
    proc: ProcFs,
    processes: HashMap<Tgid, Watched>,
    detaching: Vec<JoinHandle<()>>,
    reports: Sender<Report>,
}

impl Worker {
    fn work(mut self, orders: &Receiver<Order>) {
        loop {
            let next = self.processes.values().filter_map(|watched| watched.due).min();
            let order = match next {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match order {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            let due = |watched: &Watched| watched.due.is_some_and(|due| due <= now);
            let due: Vec<_> =
                self.processes.iter().filter(|(_, watched)| due(watched)).map(|(tgid, _)| *tgid).collect();
            for tgid in due {
                self.look(tgid);
            }
        }
        let mut links = Links::default();
        for (_, watched) in self.processes {
            links.append(watched.links);
        }
        links.detach();
        for thread in self.detaching {
            let _panicked: Result<(), _> = thread.join();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Watch(tgid) => {
                self.processes.entry(tgid).or_default();
                self.look(tgid);
            }
            Order::Look(tgid) => {
                if let Some(watched) = self.processes.get_mut(&tgid) {
                    watched.due =
                        watched.due.or(Some(watched.looked.map_or_else(Instant::now, |looked| looked + PAUSE)));
                }
            }
            Order::Renew(tgid) => {
                if self.forget(tgid) {
                    self.processes.entry(tgid).or_default();
                    self.look(tgid);
                }
            }
            Order::Forget(tgid) => {
                self.forget(tgid);
            }
            Order::LookAtSilent => {
                let silent = self.processes.iter().filter(|(_, watched)| !watched.noticed);
                let silent: Vec<_> = silent.map(|(tgid, _)| *tgid).collect();
                for tgid in silent {
                    self.look(tgid);
                }
            }
            // That nobody waits any more is no harm.
            Order::Settle(done) => drop(done.send(())),
        }
    }

    /// Detaches from a process; says whether it was attached to.
    fn forget(&mut self, tgid: Tgid) -> bool {
        let Some(Watched { links, .. }) = self.processes.remove(&tgid) else { return false };
        if !links.is_empty() {
            self.detaching.retain(|thread| !thread.is_finished());
            self.detaching.push(thread::spawn(|| links.detach()));
        }
        true
    }

    /// Looks at what a process has mapped since it was last looked at, and attaches to that.
    fn look(&mut self, tgid: Tgid) {
        let Some(mut watched) = self.processes.remove(&tgid) else { return };
        watched.due = None;
        if let Some(process) = self.proc.process(tgid) {
            let before = watched.places.clone();
            let started = Instant::now();
            self.look_into(&process, &mut watched);
            if watched.places != before {
                let (places, took) = (watched.places.values().sum::<usize>(), started.elapsed().as_millis());
                log::debug!("{places} places are attached in {tgid}, since {took} ms ago");
                for (kind, places) in &watched.places {
                    let count = u32::try_from(*places).unwrap_or(u32::MAX);
                    self.report(Report::Places { tgid, kind: *kind, count });
                }
            }
        }
        watched.looked = Some(Instant::now());
        self.processes.insert(tgid, watched);
    }

    fn look_into(&mut self, process: &Process, watched: &mut Watched) {
        let tgid = process.tgid;
        if !watched.noticed
            && let Some(notice) = loader_notice(process)
        {
            let places = [Place::at(notice.file_offset)];
            match self.uprobes.attach(LIBRARIES, When::Before, &notice.attach_path, &places, tgid) {
                Ok(links) => {
                    watched.links.append(links);
                    watched.noticed = true;
                }
                Err(error) => {
                    for kind in Kind::ALL {
                        self.attach_failed(tgid, kind, "its loader", &error);
                    }
                }
            }
        }
        let scan = match self.finder.scan(process, &mut watched.seen) {
            Ok(scan) => scan,
            Err(error) => {
                if self.proc.process(tgid).is_some() {
                    log::warn!("cannot look for libraries in {tgid}: {}", chain(&error));
                    for kind in Kind::ALL {
                        self.report(Report::Failed { kind, reason: error.reason().as_str() });
                    }
                }
                return;
            }
        };
        for fault in scan.faults {
            log::warn!("nothing of {tgid} can be seen in this library: {fault}");
            self.report(Report::Failed { kind: fault.kind, reason: fault.reason.as_str() });
        }
        for library in &scan.libraries {
            self.attach(tgid, library, watched);
        }
        watched.errors.extend(scan.errors);
        if watched.places.contains_key(&Kind::Tls) {
            for library in std::mem::take(&mut watched.errors) {
                self.attach(tgid, &library, watched);
            }
        }
    }

    fn attach(&mut self, tgid: Tgid, library: &Library, watched: &mut Watched) {
        let shown = library.shown_path.display().to_string();
        let kind = library.build.flavour.kind();
        let plan = Plan::new(&library.build, self.returns);
        if !plan.endless.is_empty() {
            let functions: Vec<_> = plan.endless.iter().map(ToString::to_string).collect();
            log::warn!("cannot tell when these end in {shown} of {tgid}: {}", functions.join(", "));
            self.report(Report::Failed { kind, reason: "no_exits" });
        }
        let mut attached = 0;
        let mut failed = None;
        for ((program, when), places) in &plan.places {
            match self.uprobes.attach(program, *when, &library.attach_path, places, tgid) {
                Ok(links) => {
                    watched.links.append(links);
                    attached += places.len();
                }
                // They fail alike: the first is told.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if attached > 0 {
            *watched.places.entry(kind).or_default() += attached;
        }
        log::info!("attached to {shown} of {tgid}: {attached} of {} places", plan.len());
        if let Some(error) = failed {
            self.attach_failed(tgid, kind, &shown, &error);
        }
    }

    fn attach_failed(&self, tgid: Tgid, kind: Kind, shown: &str, error: &UprobeError) {
        // One that is about to end has no memory any more. Its end is told, and nobody's fault.
        let alive = self.proc.process(tgid).is_some_and(|process| process.exe().is_some());
        let no_process = io_causes(error).any(|cause| cause.raw_os_error() == Some(libc::ESRCH));
        if alive && !no_process {
            log::warn!("cannot attach to {shown} of {tgid}: {}", chain(error));
            self.report(Report::Failed { kind, reason: reason(error) });
        }
    }

    fn report(&self, report: Report) {
        // The other end goes away only when all is over.
        let _over: Result<(), _> = self.reports.send(report);
    }
}
