//! The log of event loops that do not turn: a line when one is told of, when it exceeds the next threshold, and when it
//! turns again; in the end, where the time went. On a terminal the line of the one that has lasted longest is kept up to
//! date.
//!
//! With `--json` each line is an object:
//!
//! | member | holds |
//! |---|---|
//! | `time` | time of day, RFC 3339 in UTC, to the millisecond |
//! | `event` | `exceeds` a threshold, still `lasts` (each quarter of a second), or `ended` |
//! | `service`, `pid`, `tid` | whose loop |
//! | `since` | time of day at which the turn began |
//! | `seconds` | how long it has lasted; of one that ended, how long it was seen to last |
//! | `begun_before` | `true` if the iteration started before the probe attached: then `since` is the first sample, and `seconds` a lower bound |
//! | `on_cpu_seconds` | how long of that its thread was on a processor |
//! | `threshold` | the one that is exceeded now, in seconds |
//! | `cause` | `computation`, `starved`, `sleep`, `disk`, `lock`, `peer` or `unknown` |
//! | `where` | as in the metric's label |
//! | `blocking`, `own`, `holder` | an object of `file`, `function` and `line` each: the innermost function, the innermost that is neither Python's nor installed, and the one that holds the interpreter's lock |
//! | `stack` | an array of such objects, innermost first |
//! | `no_stack` | why there is none |
//!
//! The last line is `{"final": true, "loops": N, "stalls": [...]}`: the number of services with an event loop, and by `service`,
//! `where` and `cause` the `count`, the total `seconds` and those of the longest, including stalls that still last. Unknown
//! values are absent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::observations::{EventLoop, Names, Observation, Place, Sink, Stall, StallChange};
use crate::units::{Nanos, ServiceId, Tgid, rfc_3339};

/// Different places that the summary tells apart.
const TOTALS_MAX: usize = 1_000;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// As JSON.
    pub json: bool,
    /// With the stacks.
    pub stack: bool,
    /// To a terminal, on which a line may be written over.
    pub terminal: bool,
}

/// The log.
pub struct StallLog<W> {
    output: W,
    options: Options,
    /// The thread whose line stands at the terminal's cursor.
    live: Option<(Tgid, u32)>,
    totals: BTreeMap<(String, String, &'static str), Total>,
    /// Stalls that still last, by thread.
    lasting: BTreeMap<(Tgid, u32), (String, Stall)>,
    /// Services with an event loop.
    seen: BTreeSet<ServiceId>,
    /// What went wrong in writing, until somebody asks.
    error: Option<io::Error>,
}

#[derive(Clone, Debug, Default)]
struct Total {
    count: u64,
    time: Nanos,
    longest: Nanos,
    example: String,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    service: &'a str,
    pid: u32,
    tid: u32,
    since: String,
    seconds: f64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    begun_before: bool,
    on_cpu_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<&'static str>,
    cause: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#where: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocking: Option<PlaceObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<PlaceObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<PlaceObject<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stack: Vec<PlaceObject<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_stack: Option<&'a str>,
}

#[derive(Serialize)]
struct PlaceObject<'a> {
    file: &'a str,
    function: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
struct Summary<'a> {
    r#final: bool,
    loops: usize,
    stalls: Vec<TotalObject<'a>>,
}

#[derive(Serialize)]
struct TotalObject<'a> {
    service: &'a str,
    r#where: &'a str,
    cause: &'static str,
    count: u64,
    seconds: f64,
    longest_seconds: f64,
}

impl<W: Write> StallLog<W> {
    /// A log to which nothing has been written.
    pub fn new(output: W, options: Options) -> Self {
        Self {
            output,
            options,
            live: None,
            totals: BTreeMap::new(),
            lasting: BTreeMap::new(),
            seen: BTreeSet::new(),
            error: None,
        }
    }

    /// Tells what went wrong in writing since this was last asked.
    ///
    /// # Errors
    /// That.
    pub fn check(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn tell(&mut self, service: &str, stall: &Stall, now: Nanos, wall: SystemTime) -> io::Result<()> {
        if stall.change == StallChange::Ended {
            self.lasting.remove(&(stall.tgid, stall.tid));
            self.count(service, stall);
        } else {
            self.lasting.insert((stall.tgid, stall.tid), (service.to_owned(), stall.clone()));
        }
        let since = wall.checked_sub(Duration::from_nanos(now.since(stall.since).0)).unwrap_or(wall);
        if self.options.json {
            let line = self.line(service, stall, rfc_3339(wall), rfc_3339(since));
            let text = serde_json::to_string(&line).expect("texts and numbers are JSON");
            writeln!(self.output, "{text}")?;
            return self.output.flush();
        }
        let thread = (stall.tgid, stall.tid);
        let state = if stall.change == StallChange::Ended { "turns again after" } else { "stalled for" };
        let text = format!(
            "{} {service} (pid {}) {state} {}{:.1} s: {}",
            rfc_3339(wall),
            stall.tgid,
            if stall.begun_before { "at least " } else { "" },
            stall.time.seconds(),
            stall.in_words()
        );
        match stall.change {
            StallChange::Lasts if !self.options.terminal || self.live != Some(thread) => return Ok(()),
            StallChange::Lasts => write!(self.output, "\r{text}\x1b[K")?,
            StallChange::Exceeds(_) | StallChange::Ended => {
                self.leave_live(thread)?;
                write!(self.output, "{text}")?;
                // The stack would be in the way of writing the line over.
                let stack = self.options.stack && matches!(stall.change, StallChange::Exceeds(_));
                let over = stall.change != StallChange::Ended && self.options.terminal && !stack;
                if over {
                    write!(self.output, "\x1b[K")?;
                    self.live = Some(thread);
                } else {
                    writeln!(self.output)?;
                }
                if stack {
                    for place in &stall.stack {
                        writeln!(self.output, "    {place}")?;
                    }
                }
            }
        }
        self.output.flush()
    }

    /// Goes on to a new line, unless that of `thread` is to be written over.
    fn leave_live(&mut self, thread: (Tgid, u32)) -> io::Result<()> {
        match self.live.take() {
            Some(live) if live == thread => write!(self.output, "\r\x1b[K"),
            Some(_) => writeln!(self.output),
            None => Ok(()),
        }
    }

    fn line<'a>(&self, service: &'a str, stall: &'a Stall, time: String, since: String) -> Line<'a> {
        Line {
            time,
            event: match stall.change {
                StallChange::Exceeds(_) => "exceeds",
                StallChange::Lasts => "lasts",
                StallChange::Ended => "ended",
            },
            service,
            pid: stall.tgid.0,
            tid: stall.tid,
            since,
            seconds: stall.time.seconds(),
            begun_before: stall.begun_before,
            on_cpu_seconds: stall.on_cpu.seconds(),
            threshold: if let StallChange::Exceeds(threshold) = stall.change { Some(threshold.as_str()) } else { None },
            cause: stall.cause.as_str(),
            r#where: stall.label(),
            blocking: stall.place.as_ref().map(PlaceObject::of),
            own: stall.own.as_ref().map(PlaceObject::of),
            holder: stall.holder.as_ref().map(PlaceObject::of),
            stack: if self.options.stack { stall.stack.iter().map(PlaceObject::of).collect() } else { Vec::new() },
            no_stack: stall.no_stack.as_deref(),
        }
    }

    fn count(&mut self, service: &str, stall: &Stall) {
        let place = stall.label().unwrap_or_else(|| "unknown".to_owned());
        let key = (service.to_owned(), place, stall.cause.as_str());
        if self.totals.len() >= TOTALS_MAX && !self.totals.contains_key(&key) {
            return;
        }
        let total = self.totals.entry(key).or_default();
        total.count += 1;
        total.time = total.time + stall.time;
        if stall.time >= total.longest {
            total.longest = stall.time;
            total.example = stall.in_words();
        }
    }

    /// Writes where the time went, and lets go of the output.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn finish(mut self) -> io::Result<()> {
        self.check()?;
        if self.live.take().is_some() {
            writeln!(self.output)?;
        }
        for (service, stall) in std::mem::take(&mut self.lasting).into_values() {
            self.count(&service, &stall);
        }
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_by_key(|(_, total)| std::cmp::Reverse(total.time));
        if self.options.json {
            let stalls = totals.iter().map(|((service, place, cause), total)| TotalObject {
                service,
                r#where: place,
                cause,
                count: total.count,
                seconds: total.time.seconds(),
                longest_seconds: total.longest.seconds(),
            });
            let summary = Summary { r#final: true, loops: self.seen.len(), stalls: stalls.collect() };
            let text = serde_json::to_string(&summary).expect("texts and numbers are JSON");
            writeln!(self.output, "{text}")?;
            return self.output.flush();
        }
        let mut text = String::new();
        if totals.is_empty() && self.seen.is_empty() {
            text.push_str("no event loop was seen\n");
        } else if totals.is_empty() {
            text.push_str("no loop stalled for 0.1 s or more\n");
        } else {
            text.push_str("  COUNT    TOTAL  LONGEST  SERVICE  THE LONGEST\n");
        }
        for ((service, _, _), total) in totals {
            let (time, longest) = (total.time.seconds(), total.longest.seconds());
            let _ = writeln!(text, "{:>7}  {time:>5.1} s  {longest:>5.1} s  {service}  {}", total.count, total.example);
        }
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }
}

impl<W: Write> Sink for StallLog<W> {
    fn observe(&mut self, observation: &Observation, names: &Names) {
        let Observation::EventLoop { service, what } = observation else { return };
        self.seen.insert(*service);
        let EventLoop::Stall(stall) = what else { return };
        let result = self.tell(names.service(*service), stall, Nanos::now(), SystemTime::now());
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

impl<'a> PlaceObject<'a> {
    fn of(place: &'a Place) -> Self {
        Self { file: &place.file, function: &place.function, line: place.line }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observations::{Cause, StallThreshold};

    const SECOND: u64 = 1_000_000_000;

    fn stall(change: StallChange, tenths: u64) -> Stall {
        let place = |function: &str, line| Place {
            file: "/srv/bot.py".to_owned(),
            function: function.to_owned(),
            line: Some(line),
        };
        Stall {
            time: Nanos(tenths * SECOND / 10),
            cause: Cause::Sleep,
            place: Some(place("nap", 7)),
            stack: vec![place("nap", 7), place("main", 40)],
            ..Stall::new(Tgid(42), 43, Nanos(SECOND), change)
        }
    }

    fn log(options: Options, changes: &[(StallChange, u64)]) -> String {
        let mut text = Vec::new();
        let mut log = StallLog::new(&mut text, options);
        for (change, tenths) in changes {
            let now = Nanos(SECOND + tenths * SECOND / 10);
            let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + tenths * 100);
            log.seen.insert(ServiceId(0));
            log.tell("bot", &stall(*change, *tenths), now, wall).expect("memory takes all");
        }
        log.finish().expect("memory takes all");
        String::from_utf8(text).expect("it is a text")
    }

    const STALL: [(StallChange, u64); 4] = [
        (StallChange::Exceeds(StallThreshold::Tenth), 1),
        (StallChange::Lasts, 4),
        (StallChange::Exceeds(StallThreshold::Second), 10),
        (StallChange::Ended, 12),
    ];
    const PLAIN: Options = Options { json: false, stack: false, terminal: false };

    #[test]
    fn a_reader_of_lines_is_told_of_thresholds_and_ends() {
        assert_eq!(
            log(PLAIN, &STALL),
            "2023-11-14T22:13:20.100Z bot (pid 42) stalled for 0.1 s: sleeps in nap (bot.py:7)\n\
             2023-11-14T22:13:21.000Z bot (pid 42) stalled for 1.0 s: sleeps in nap (bot.py:7)\n\
             2023-11-14T22:13:21.200Z bot (pid 42) turns again after 1.2 s: sleeps in nap (bot.py:7)\n  \
             COUNT    TOTAL  LONGEST  SERVICE  THE LONGEST\n      \
             1    1.2 s    1.2 s  bot  sleeps in nap (bot.py:7)\n"
        );
        assert_eq!(log(PLAIN, &[]), "no event loop was seen\n");
        let mut text = Vec::new();
        let mut quiet = StallLog::new(&mut text, PLAIN);
        quiet.seen.insert(ServiceId(0));
        quiet.finish().expect("memory takes all");
        assert_eq!(text, b"no loop stalled for 0.1 s or more\n");
        let lasts = log(PLAIN, &STALL[..3]);
        assert!(lasts.ends_with("1    1.0 s    1.0 s  bot  sleeps in nap (bot.py:7)\n"), "{lasts}");
        let stacks = log(Options { stack: true, ..PLAIN }, &STALL[..1]);
        assert!(stacks.contains("\n    nap (bot.py:7)\n    main (bot.py:40)\n"), "{stacks}");
    }

    #[test]
    fn a_stall_that_began_before_has_a_lower_bound() {
        let begun = Stall { begun_before: true, ..stall(STALL[2].0, 10) };
        let told = |options| {
            let mut text = Vec::new();
            let mut log = StallLog::new(&mut text, options);
            log.tell("bot", &begun, Nanos(2 * SECOND), SystemTime::UNIX_EPOCH).expect("memory takes all");
            drop(log);
            String::from_utf8(text).expect("it is a text")
        };
        assert!(told(PLAIN).contains("bot (pid 42) stalled for at least 1.0 s: sleeps"), "{}", told(PLAIN));
        let line: Value = serde_json::from_str(&told(Options { json: true, ..PLAIN })).expect("it is JSON");
        assert_eq!(line["begun_before"], true);
    }

    #[test]
    fn a_terminal_s_line_is_written_over() {
        let text = log(Options { terminal: true, ..PLAIN }, &STALL);
        assert_eq!(text.matches('\n').count(), 3, "one line, and two of the summary: {text:?}");
        assert_eq!(text.matches('\r').count(), 3, "{text:?}");
    }

    #[test]
    fn programs_are_told_all() {
        let text = log(Options { json: true, stack: true, terminal: false }, &STALL);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        assert_eq!(
            lines[0],
            json!({
                "time": "2023-11-14T22:13:20.100Z", "event": "exceeds", "service": "bot", "pid": 42, "tid": 43,
                "since": "2023-11-14T22:13:20.000Z", "seconds": 0.1, "on_cpu_seconds": 0.0, "threshold": "0.1", "cause": "sleep",
                "where": "bot.py:nap", "blocking": {"file": "/srv/bot.py", "function": "nap", "line": 7},
                "stack": [
                    {"file": "/srv/bot.py", "function": "nap", "line": 7},
                    {"file": "/srv/bot.py", "function": "main", "line": 40},
                ],
            })
        );
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str()).collect();
        assert_eq!(events, [Some("exceeds"), Some("lasts"), Some("exceeds"), Some("ended"), None]);
        assert_eq!(
            lines[4],
            json!({"final": true, "loops": 1, "stalls": [{
                "service": "bot", "where": "bot.py:nap", "cause": "sleep", "count": 1, "seconds": 1.2, "longest_seconds": 1.2,
            }]})
        );
    }
}
