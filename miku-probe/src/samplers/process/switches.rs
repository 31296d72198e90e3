//! Context switches of a whole process: the kernel tells them by thread, and forgets those of threads that have ended.

use std::collections::HashMap;

use crate::observations::Switches;

/// The sum over threads that come and go, which never falls. What a thread does after it was last looked at is missed.
#[derive(Debug, Default)]
pub(super) struct Sum {
    threads: HashMap<u32, Switches>,
    /// Of threads that have ended.
    ended: Switches,
}

impl Sum {
    /// Takes in the counts of all threads that there are, and gives the sum of all that there were.
    pub(super) fn take(&mut self, threads: HashMap<u32, Switches>) -> Switches {
        for (tid, last) in std::mem::replace(&mut self.threads, threads) {
            // A count that fell is another thread's with the same number.
            if self
                .threads
                .get(&tid)
                .is_none_or(|now| now.voluntary < last.voluntary || now.involuntary < last.involuntary)
            {
                self.ended = add(self.ended, last);
            }
        }
        self.threads.values().copied().fold(self.ended, add)
    }
}

fn add(one: Switches, other: Switches) -> Switches {
    Switches { voluntary: one.voluntary + other.voluntary, involuntary: one.involuntary + other.involuntary }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads(counts: &[(u32, u64, u64)]) -> HashMap<u32, Switches> {
        counts.iter().map(|&(tid, voluntary, involuntary)| (tid, Switches { voluntary, involuntary })).collect()
    }

    #[test]
    fn the_sum_never_falls_while_threads_come_and_go() {
        let mut sum = Sum::default();
        for (counts, expected) in [
            (&[(1, 10, 1), (2, 5, 5)][..], (15, 6)),
            (&[(1, 12, 1)], (17, 6)),
            (&[(1, 12, 2), (3, 100, 0)], (117, 7)),
            // Thread 3 has ended, and another one has its number.
            (&[(1, 12, 2), (3, 7, 0)], (124, 7)),
            (&[], (124, 7)),
        ] {
            let Switches { voluntary, involuntary } = sum.take(threads(counts));
            assert_eq!((voluntary, involuntary), expected, "{counts:?}");
        }
    }
}
