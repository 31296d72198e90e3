//! Which thread of the system's is which of Python's.
//!
//! From CPython 3.11 on each thread's state holds the number that the kernel knows it by, in its own PID namespace. Before
//! that it holds the address of the C library's `struct pthread`, which has that number at a place that differs by library
//! and machine: it is found by looking for one at which every thread of Python's has the number of a different thread.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use py_spy::StackTrace;

use super::Tid;
use crate::units::Tgid;

/// How much of a `struct pthread` is looked at: glibc has the number at 720 on x86-64 and at 208 on ARM, musl below 64.
const PTHREAD_BYTES: usize = 1024;

/// Tells the numbers of one process's threads.
pub(super) struct Numbers {
    tgid: Tgid,
    memory: Option<File>,
    /// Where in a `struct pthread` the number is, once that is known.
    place: Option<usize>,
    /// Numbers in the process's own PID namespace, if that is another, to those that we see.
    outer: Option<HashMap<u32, Tid>>,
}

impl Numbers {
    pub(super) fn of(tgid: Tgid) -> Self {
        let nested = namespace_numbers(&format!("/proc/{tgid}/status")).is_some_and(|numbers| numbers.len() > 1);
        Self {
            tgid,
            memory: File::open(format!("/proc/{tgid}/mem")).ok(),
            place: None,
            outer: nested.then(HashMap::new),
        }
    }

    /// The threads that stacks belong to.
    pub(super) fn look_up(&mut self, traces: &[StackTrace]) -> Vec<Option<Tid>> {
        let inner: Vec<Option<u32>> = if traces.iter().all(|trace| trace.os_thread_id.is_none()) {
            self.of_pthreads(&traces.iter().map(|trace| trace.thread_id).collect::<Vec<_>>())
        } else {
            traces.iter().map(|trace| u32::try_from(trace.os_thread_id?).ok()).collect()
        };
        let Some(outer) = &mut self.outer else { return inner.into_iter().map(|number| number.map(Tid)).collect() };
        if inner.iter().flatten().any(|number| !outer.contains_key(number)) {
            *outer = outer_numbers(self.tgid);
        }
        inner.into_iter().map(|number| outer.get(&number?).copied()).collect()
    }

    fn of_pthreads(&mut self, addresses: &[u64]) -> Vec<Option<u32>> {
        let unknown = vec![None; addresses.len()];
        let Some(memory) = &self.memory else { return unknown };
        let read = |address: u64| {
            let mut bytes = vec![0; PTHREAD_BYTES];
            // The end of a mapping may come before the end of what is looked at.
            let length = memory.read_at(&mut bytes, address).ok()?;
            bytes.truncate(length);
            Some(bytes)
        };
        if self.place.is_none() {
            let structures: Option<Vec<Vec<u8>>> = addresses.iter().map(|address| read(*address)).collect();
            let own: HashSet<u32> = match &mut self.outer {
                None => tids(self.tgid).into_iter().map(|tid| tid.0).collect(),
                Some(outer) => {
                    *outer = outer_numbers(self.tgid);
                    outer.keys().copied().collect()
                }
            };
            self.place = structures.and_then(|structures| place(&structures, &own));
        }
        let Some(place) = self.place else { return unknown };
        let number = |address: u64| {
            let mut bytes = [0; 4];
            memory.read_exact_at(&mut bytes, address + place as u64).ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        addresses.iter().map(|address| number(*address)).collect()
    }
}

/// The first place at which each structure has the number of another thread.
fn place(structures: &[Vec<u8>], numbers: &HashSet<u32>) -> Option<usize> {
    if structures.is_empty() {
        return None;
    }
    let at = |bytes: &[u8], place: usize| {
        let word = bytes.get(place..place + 4)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    (0..PTHREAD_BYTES).step_by(4).find(|place| {
        let found: Option<HashSet<u32>> = structures.iter().map(|bytes| at(bytes, *place)).collect();
        found.is_some_and(|found| found.len() == structures.len() && found.is_subset(numbers))
    })
}

/// The threads of a process; none when it has ended.
fn tids(tgid: Tgid) -> Vec<Tid> {
    let entries = fs::read_dir(format!("/proc/{tgid}/task")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Tid)).collect()
}

fn outer_numbers(tgid: Tgid) -> HashMap<u32, Tid> {
    let of = |tid: Tid| {
        let numbers = namespace_numbers(&format!("/proc/{tgid}/task/{}/status", tid.0))?;
        Some((*numbers.last()?, tid))
    };
    tids(tgid).into_iter().filter_map(of).collect()
}

/// The numbers of a task in each of its PID namespaces, ours first.
fn namespace_numbers(status: &str) -> Option<Vec<u32>> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
}

/// Whether nothing of a process is left to be read.
pub(super) fn has_ended(tgid: Tgid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{tgid}/stat")) else { return true };
    // The name before it may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X' | 'x'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(words: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; PTHREAD_BYTES];
        for (place, word) in words {
            bytes[*place..*place + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn the_number_is_where_every_thread_has_another() {
        let numbers = HashSet::from([100, 101, 102]);
        // Both hold the process's number at 16, as old C libraries do, and a stranger at 32.
        let one = structure(&[(16, 100), (32, 101), (720, 100), (724, 100)]);
        let two = structure(&[(16, 100), (32, 7), (720, 102), (724, 100)]);
        assert_eq!(place(&[one.clone(), two], &numbers), Some(720));
        assert_eq!(place(&[one], &HashSet::from([9])), None);
        assert_eq!(place(&[], &numbers), None);
        assert_eq!(place(&[vec![1, 2]], &numbers), None, "it could not be read whole");
    }

    #[test]
    fn a_task_s_numbers_are_read_from_its_status() {
        let own = std::process::id();
        let numbers = namespace_numbers("/proc/self/status").expect("there is a line of them");
        assert_eq!(numbers.first(), Some(&own));
        assert!(tids(Tgid(own)).iter().any(|tid| tid.0 == own));
        assert!(!has_ended(Tgid(own)));
    }
}
