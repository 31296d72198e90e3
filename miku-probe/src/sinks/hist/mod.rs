//! `miku-probe hist`: a live histogram of HTTP latencies, of how long people wait for a bot's replies, or of how fast
//! language models answer, on a terminal or as lines for a file.
//!
//! [`Hist`] is the sink: it counts what its [`Filter`] lets pass. At the end of each interval [`Hist::tick`] makes a
//! [`Frame`], which holds all that is shown, and a [`Display`] shows it: redrawn in place on a terminal, one block an
//! interval elsewhere, or one JSON object an interval. Only the display touches the outside; all else is pure.
//!
//! The caller owns the clock and the signals: it ticks once an interval, and on SIGINT and SIGTERM, or once
//! [`Hist::is_done`], hands what [`Hist::finish`] makes to [`Display::finish`], which gives the terminal back.
//!
//! Times come out with an error of less than 0.4 %, those read from the buckets of JSON of less than 3 %.
//! Memory is bounded: 40 KiB a distribution, two distributions a window, and one for each of at most
//! [`Hist::MAX_ROUTES`] routes; what comes after these counts under one row for all other routes. Of calls of language models
//! four a window, and three for each of at most 16 models.

mod calls;
mod chart;
mod filter;
mod gpus;
pub mod json;
mod ladder;
mod layout;
mod line;
mod numbers;
mod options;
mod panels;
mod phases;
mod recorder;
mod table;
mod terminal;

use std::collections::HashMap;
use std::time::SystemTime;

pub use calls::{CallWindow, Calls, Ends, ModelName, ModelRow, Speeds, TokenCounts};
pub use filter::{Filter, Pattern, PatternError};
pub use gpus::{GpuPhase, GpuRow, Mean};
pub use ladder::Ladder;
pub use layout::{Geometry, Hints, block, screen};
pub use line::{Glyphs, Ink, Line, Look};
pub use options::{ColorChoice, Format, Interval, IntervalError, Options, Subject};
pub use phases::PhaseRow;
pub use recorder::{Failures, Latencies, Rates, Times, Window};
pub use terminal::{Display, Key, Printer, Screen, Session, keys};

use self::calls::CallTimes;
use self::phases::PhaseTimes;
use crate::observations::{Discord, Exchange, Method, Names, Observation, Outcome, Sink};
use crate::units::{Nanos, ServiceId, Side, Symbol};

/// What the rest of the probe knows at the end of an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The attached processes in words, such as `bot (pid 4242)`.
    pub targets: Vec<String>,
    /// Records that were lost since the start, wherever.
    pub lost: u64,
    /// Messages since the start that belong to no whole exchange.
    pub unmatched: u64,
}

/// Why a frame was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// An interval ended.
    Interval,
    /// The end: the interval is the unfinished one.
    Final,
}

/// All that is shown at a moment.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Why it was made.
    pub moment: Moment,
    /// What is timed.
    pub subject: Subject,
    /// The time of day.
    pub wall: SystemTime,
    /// From the start, or the last reset, until now.
    pub elapsed: Nanos,
    /// How long an interval is meant to be.
    pub every: Nanos,
    /// How long this one was: from the end of the one before until now.
    pub length: Nanos,
    /// What was seen in that interval.
    pub interval: Window,
    /// What was seen since the start.
    pub total: Window,
    /// The routes by count, the highest first; the row of all others, if any, at the end. None of replies.
    pub routes: Vec<RouteRow>,
    /// The phases that replies had, in their order. None of exchanges.
    pub phases: Vec<PhaseRow>,
    /// What was seen of calls of language models, where these are timed.
    pub calls: Option<Box<Calls>>,
    /// Exchanges, replies or calls since the start that the filter held back.
    pub filtered: u64,
    /// The parts of the filter in words.
    pub filter: Vec<String>,
    /// What the rest of the probe knows.
    pub status: Status,
}

/// The name of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteName {
    /// The service.
    pub service: String,
    /// Which end the service is.
    pub side: Side,
    /// The method.
    pub method: Method,
    /// The server's name or address, for a client's exchanges; else empty.
    pub server: String,
    /// The server's port, for a client's exchanges; 0 when there is none.
    pub port: u16,
    /// The route template.
    pub route: String,
}

/// What a row counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One route.
    Route(RouteName),
    /// All routes that came after the cap was reached.
    Other,
}

/// What was seen of a route.
#[derive(Clone, Debug)]
pub struct RouteRow {
    /// Which.
    pub origin: Origin,
    /// Complete exchanges since the start.
    pub count: u64,
    /// Complete exchanges in the interval.
    pub interval_count: u64,
    /// Their durations since the start.
    pub times: Times,
    /// What did not go well since the start.
    pub failures: Failures,
}

impl RouteRow {
    /// The service, of a route.
    fn service(&self) -> Option<&str> {
        match &self.origin {
            Origin::Route(route) => Some(&route.service),
            Origin::Other => None,
        }
    }
}

/// The count of a route.
#[derive(Debug)]
struct Route {
    origin: Origin,
    interval_count: u64,
    latencies: Latencies,
    failures: Failures,
}

impl Route {
    fn new(origin: Origin) -> Self {
        Self { origin, interval_count: 0, latencies: Latencies::default(), failures: Failures::default() }
    }

    fn record(&mut self, exchange: &Exchange) {
        self.failures.record(exchange);
        if exchange.outcome == Outcome::Complete {
            self.latencies.record(exchange.duration);
            self.interval_count += 1;
        }
    }

    fn row(&self) -> RouteRow {
        let Self { origin, interval_count, latencies, failures } = self;
        RouteRow {
            origin: origin.clone(),
            count: latencies.count(),
            interval_count: *interval_count,
            times: latencies.times(),
            failures: *failures,
        }
    }
}

/// What tells one route from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RouteKey {
    service: ServiceId,
    side: Side,
    method: Method,
    server: Symbol,
    port: u16,
    route: Symbol,
}

/// The routes, at most [`Hist::MAX_ROUTES`] of them each on its own.
#[derive(Debug, Default)]
struct Routes {
    rows: Vec<Route>,
    index: HashMap<RouteKey, usize>,
    other: Option<Box<Route>>,
}

impl Routes {
    fn row(&mut self, exchange: &Exchange, names: &Names) -> &mut Route {
        let Exchange { service, side, method, server, port, route, .. } = *exchange;
        let key = RouteKey { service, side, method, server, port, route };
        if let Some(index) = self.index.get(&key) {
            return &mut self.rows[*index];
        }
        if self.rows.len() == Hist::MAX_ROUTES {
            return self.other.get_or_insert_with(|| Box::new(Route::new(Origin::Other)));
        }
        self.index.insert(key, self.rows.len());
        let name = RouteName {
            service: names.service(service).to_owned(),
            side,
            method,
            server: names.symbols.text(server).to_owned(),
            port,
            route: names.symbols.text(route).to_owned(),
        };
        self.rows.push(Route::new(Origin::Route(name)));
        self.rows.last_mut().expect("one was just pushed")
    }

    fn by_count(&self) -> Vec<RouteRow> {
        let mut rows: Vec<RouteRow> = self.rows.iter().map(Route::row).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows.extend(self.other.as_deref().map(Route::row));
        rows
    }

    fn close_interval(&mut self) {
        for row in self.rows.iter_mut().chain(self.other.as_deref_mut()) {
            row.interval_count = 0;
        }
    }
}

/// The sink behind `miku-probe hist`.
#[derive(Debug)]
pub struct Hist {
    subject: Subject,
    filter: Filter,
    every: Nanos,
    start: Nanos,
    interval_start: Nanos,
    interval: Window,
    total: Window,
    routes: Routes,
    phases: PhaseTimes,
    calls: CallTimes,
    filtered: u64,
    /// Intervals yet to come; `None` for no end.
    left: Option<u64>,
}

impl Hist {
    /// How many routes have a row of their own.
    pub const MAX_ROUTES: usize = 32;

    /// A sink that starts to count at `start`.
    #[must_use]
    pub fn new(options: &Options, start: Nanos) -> Self {
        Self {
            subject: options.subject,
            filter: options.filter.clone(),
            every: options.interval.duration().into(),
            start,
            interval_start: start,
            interval: Window::default(),
            total: Window::default(),
            routes: Routes::default(),
            phases: PhaseTimes::default(),
            calls: CallTimes::default(),
            filtered: 0,
            left: options.count.map(std::num::NonZero::get),
        }
    }

    /// What there is to show before anything was seen; ends no interval.
    pub fn first(&mut self, now: Nanos, wall: SystemTime, status: &Status) -> Frame {
        self.frame(Moment::Interval, now, wall, status)
    }

    /// Ends the interval at `now` and tells what there is to show. `wall` is the time of day at `now`.
    pub fn tick(&mut self, now: Nanos, wall: SystemTime, status: &Status) -> Frame {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.frame(Moment::Interval, now, wall, status)
    }

    /// Whether as many intervals ended as were asked for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// What there is to show at the end. Its interval is the unfinished one, so that the intervals of all frames make up
    /// the total.
    pub fn finish(&mut self, now: Nanos, wall: SystemTime, status: &Status) -> Frame {
        self.frame(Moment::Final, now, wall, status)
    }

    /// Forgets everything but what is under way, and starts again at `now`.
    pub fn reset(&mut self, now: Nanos) {
        self.start = now;
        self.interval_start = now;
        self.interval = Window::default();
        self.total = Window::default();
        self.routes = Routes::default();
        self.phases = PhaseTimes::default();
        self.calls.reset();
        self.filtered = 0;
    }

    fn frame(&mut self, moment: Moment, now: Nanos, wall: SystemTime, status: &Status) -> Frame {
        let frame = Frame {
            moment,
            subject: self.subject,
            wall,
            elapsed: now.since(self.start),
            every: self.every,
            length: now.since(self.interval_start),
            interval: std::mem::take(&mut self.interval),
            total: self.total.clone(),
            routes: self.routes.by_count(),
            phases: self.phases.rows(),
            calls: (self.subject == Subject::Calls).then(|| Box::new(self.calls.close_interval(now))),
            filtered: self.filtered,
            filter: self.filter.parts(),
            status: status.clone(),
        };
        self.interval_start = now;
        self.routes.close_interval();
        frame
    }
}

impl Sink for Hist {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        match (self.subject, observation) {
            (Subject::Exchanges, Observation::Exchange(exchange)) => {
                if !self.filter.passes(exchange, names) {
                    self.filtered += 1;
                    return;
                }
                self.interval.record(exchange);
                self.total.record(exchange);
                self.routes.row(exchange, names).record(exchange);
            }
            (Subject::Replies, Observation::Discord { service, what }) => self.discord(*service, what, names),
            (Subject::Calls, Observation::Llm { service, what }) => {
                self.filtered += u64::from(self.calls.record(*service, what, &self.filter, names));
            }
            (Subject::Calls, Observation::Gpu(what)) => self.calls.gpus(what),
            _ => {}
        }
    }
}

impl Hist {
    fn discord(&mut self, service: ServiceId, what: &Discord, names: &Names) {
        if !matches!(what, Discord::Reply { .. } | Discord::Unanswered { .. }) {
            return;
        }
        if !self.filter.passes_service(service, names) {
            self.filtered += 1;
            return;
        }
        for window in [&mut self.interval, &mut self.total] {
            match what {
                Discord::Reply { duration, .. } => window.duration.record(*duration),
                _ => window.unanswered += 1,
            }
        }
        if let Discord::Reply { duration, phases, .. } = what {
            self.phases.record(*duration, phases);
        }
    }
}

#[cfg(test)]
mod tests;
