//! Which starts and ends of processes count for a service.
//!
//! A bot forks to run `ffmpeg`, and until that becomes another program it looks like one more of the bot's own. So what is
//! forked counts once it has shown that it is no such helper: when it ended as what it is, or when it has lived for
//! [`PROVEN`]. Every process that is found later counts at once, if it began while the probe watched.

use std::collections::HashMap;
use std::time::Duration;

use crate::discovery::process::StartTime;
use crate::observations::{ProcessEnd, ProcessNews};
use crate::units::{Nanos, ServiceId, Tgid};

/// How long a forked process must go on before it counts.
const PROVEN: Duration = Duration::from_secs(1);

/// How many forked processes are awaited at once; more count for nothing.
const AWAITED_MAX: usize = 8192;

/// News for a service.
pub type Told = (ServiceId, ProcessNews);

/// A process of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Forked then, and perhaps about to become another program.
    Awaited(ServiceId, Nanos),
    /// Told to have begun, or there before the probe.
    Counted(ServiceId),
    /// Found to have ended then, and perhaps the kernel side has not told yet how; whether it had been told to have begun.
    Vanished(ServiceId, Nanos, bool),
}

/// The processes of all services, from what is told of them to what counts. Pure.
#[derive(Debug)]
pub struct Lives {
    /// When the probe began to watch.
    since: StartTime,
    lives: HashMap<Tgid, Life>,
}

impl Lives {
    /// For a probe that began to watch then.
    #[must_use]
    pub fn new(since: StartTime) -> Self {
        Self { since, lives: HashMap::new() }
    }

    /// A process of `service` made another.
    pub fn forked(&mut self, child: Tgid, service: ServiceId, now: Nanos) {
        if self.lives.len() < AWAITED_MAX {
            self.lives.entry(child).or_insert(Life::Awaited(service, now));
        }
    }

    /// A process is watched for `service` from now on.
    pub fn found(&mut self, tgid: Tgid, service: ServiceId, start: StartTime) -> Vec<Told> {
        if matches!(self.lives.get(&tgid), Some(Life::Awaited(..))) {
            return vec![(service, ProcessNews::Counted)];
        }
        self.lives.insert(tgid, Life::Counted(service));
        let mut told = vec![(service, ProcessNews::Counted)];
        told.extend((start >= self.since).then_some((service, ProcessNews::Started)));
        told
    }

    /// A process became a program, which is `still` one of its service's or not.
    pub fn became(&mut self, tgid: Tgid, still: bool, now: Nanos) -> Vec<Told> {
        match (self.lives.get(&tgid).copied(), still) {
            (Some(Life::Awaited(service, _)), true) => {
                self.lives.insert(tgid, Life::Counted(service));
                vec![(service, ProcessNews::Started)]
            }
            (Some(Life::Awaited(..)), false) => {
                self.lives.remove(&tgid);
                Vec::new()
            }
            (Some(Life::Counted(service)), false) => {
                self.lives.remove(&tgid);
                vec![(service, ProcessNews::Ended { time: now, end: ProcessEnd::OtherProgram })]
            }
            (Some(Life::Counted(_) | Life::Vanished(..)) | None, _) => Vec::new(),
        }
    }

    /// A process was found to be there no more.
    pub fn vanished(&mut self, tgid: Tgid, now: Nanos) {
        if let Some(life) = self.lives.get_mut(&tgid) {
            match *life {
                Life::Awaited(service, _) => *life = Life::Vanished(service, now, false),
                Life::Counted(service) => *life = Life::Vanished(service, now, true),
                Life::Vanished(..) => {}
            }
        }
    }

    /// A process ended. The second news of one end is none.
    pub fn ended(&mut self, tgid: Tgid, time: Nanos, end: ProcessEnd) -> Vec<Told> {
        let ended = ProcessNews::Ended { time, end };
        match self.lives.remove(&tgid) {
            Some(Life::Awaited(service, _) | Life::Vanished(service, _, false)) => {
                vec![(service, ProcessNews::Started), (service, ended)]
            }
            Some(Life::Counted(service) | Life::Vanished(service, _, true)) => vec![(service, ended)],
            None => Vec::new(),
        }
    }

    /// Time went on: what was forked and is still `watched` counts.
    pub fn tick(&mut self, now: Nanos, watched: impl Fn(Tgid) -> bool) -> Vec<Told> {
        let over = |since| now.since(since) >= PROVEN.into();
        let vanished = self.lives.iter().filter_map(|(tgid, life)| match *life {
            Life::Vanished(_, since, _) if over(since) => Some(*tgid),
            _ => None,
        });
        let vanished: Vec<Tgid> = vanished.collect();
        let mut told: Vec<Told> =
            vanished.into_iter().flat_map(|tgid| self.ended(tgid, now, ProcessEnd::Unknown)).collect();
        self.lives.retain(|tgid, life| match *life {
            Life::Awaited(service, since) if over(since) => {
                *life = Life::Counted(service);
                let watched = watched(*tgid);
                told.extend(watched.then_some((service, ProcessNews::Started)));
                watched
            }
            Life::Awaited(..) | Life::Counted(_) | Life::Vanished(..) => true,
        });
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOT: ServiceId = ServiceId(3);
    const PARENT: Tgid = Tgid(10);
    const CHILD: Tgid = Tgid(11);

    fn second(number: u64) -> Nanos {
        Duration::from_secs(number).into()
    }

    /// What is told of a bot that was there before the probe, after its child was forked in second 5.
    fn with_child() -> Lives {
        let mut lives = Lives::new(StartTime(100));
        assert_eq!(lives.found(PARENT, BOT, StartTime(99)), [(BOT, ProcessNews::Counted)], "it began before");
        lives.forked(CHILD, BOT, second(5));
        assert_eq!(lives.found(CHILD, BOT, StartTime(500)), [(BOT, ProcessNews::Counted)], "it may be no worker");
        lives
    }

    fn ended(seconds: u64, end: ProcessEnd) -> Told {
        (BOT, ProcessNews::Ended { time: second(seconds), end })
    }

    const STARTED: Told = (BOT, ProcessNews::Started);

    #[test]
    fn what_begins_while_the_probe_watches_counts_once() {
        let mut lives = Lives::new(StartTime(100));
        assert_eq!(lives.found(PARENT, BOT, StartTime(100)), [(BOT, ProcessNews::Counted), STARTED]);
        let end = ProcessEnd::Signal(9);
        assert_eq!(lives.ended(PARENT, second(7), end), [ended(7, end)]);
        assert_eq!(lives.ended(PARENT, second(8), end), [], "it was told twice");
    }

    #[test]
    fn a_helper_counts_for_nothing() {
        let mut lives = with_child();
        assert_eq!(lives.became(CHILD, false, second(5)), []);
        assert_eq!(lives.ended(CHILD, second(5), ProcessEnd::Code(0)), []);
        assert_eq!(lives.tick(second(60), |_| true), []);
        // Not found at all, since it was another program by then.
        lives.forked(CHILD, BOT, second(61));
        assert_eq!(lives.became(CHILD, false, second(61)), []);
    }

    #[test]
    fn a_worker_counts_when_it_has_lived_or_ended_or_become_the_same_anew() {
        let mut lives = with_child();
        assert_eq!(lives.tick(second(5), |_| true), []);
        assert_eq!(lives.tick(second(6), |_| true), [STARTED]);
        assert_eq!(lives.tick(second(7), |_| true), []);
        assert_eq!(lives.became(CHILD, false, second(8)), [ended(8, ProcessEnd::OtherProgram)]);

        assert_eq!(with_child().ended(CHILD, second(5), ProcessEnd::Code(7)), [STARTED, ended(5, ProcessEnd::Code(7))]);
        let mut lives = with_child();
        assert_eq!(lives.became(CHILD, true, second(5)), [STARTED]);
        assert_eq!(lives.became(CHILD, true, second(6)), [], "it becomes itself once more");
    }

    #[test]
    fn a_child_that_is_none_of_the_service_s_counts_for_nothing() {
        let mut lives = with_child();
        assert_eq!(lives.tick(second(9), |tgid| tgid == PARENT), []);
        assert_eq!(lives.ended(CHILD, second(9), ProcessEnd::Code(0)), []);
    }

    #[test]
    fn an_end_that_was_found_waits_for_how_it_came_about() {
        let mut lives = with_child();
        lives.vanished(PARENT, second(6));
        assert_eq!(lives.ended(PARENT, second(6), ProcessEnd::Code(1)), [ended(6, ProcessEnd::Code(1))]);
        let mut lives = with_child();
        lives.vanished(PARENT, second(6));
        lives.vanished(CHILD, second(6));
        lives.vanished(Tgid(99), second(6));
        assert_eq!(lives.tick(second(6), |_| false), []);
        let mut told = lives.tick(second(7), |_| false);
        told.sort_by_key(|(_, news)| *news == ProcessNews::Started);
        assert_eq!(told, [ended(7, ProcessEnd::Unknown), ended(7, ProcessEnd::Unknown), STARTED]);
        assert_eq!(lives.tick(second(9), |_| false), []);
    }

    #[test]
    fn forks_without_end_take_no_more_than_their_room() {
        let mut lives = Lives::new(StartTime(0));
        for number in 0..100_000 {
            lives.forked(Tgid(number), BOT, second(1));
        }
        assert_eq!(lives.lives.len(), AWAITED_MAX);
    }
}
