//! What the programs cost, as the kernel counts it (`kernel.bpf_stats_enabled`).

use std::fs;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use aya::Ebpf;

/// What one program has cost since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStatistics {
    /// The program's name in the object.
    pub program: String,
    /// Time it ran, in nanoseconds; 0 while the kernel does not count.
    pub run_time_ns: u64,
    /// How often it ran; 0 while the kernel does not count.
    pub runs: u64,
    /// How often it was left out, because it was running on that processor already. Counted always, from Linux 5.12.
    pub missed: u64,
}

/// Turns the counting on until the descriptor is closed. It costs every run of every BPF program two readings of a clock.
///
/// # Errors
/// What the kernel said.
pub fn statistics_on() -> Result<OwnedFd, aya::sys::SyscallError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
}

/// The cost of every loaded program of `ebpf`, read from the descriptors' own information.
#[must_use]
pub fn run_statistics(ebpf: &Ebpf) -> Vec<RunStatistics> {
    ebpf.programs().filter_map(|(name, program)| statistics_of(name, program.fd().ok()?)).collect()
}

/// The cost of the program with this descriptor.
pub(super) fn statistics_of(name: &str, descriptor: &impl AsFd) -> Option<RunStatistics> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd())).ok()?;
    Some(parse(name, &text))
}

fn parse(name: &str, text: &str) -> RunStatistics {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok()).unwrap_or_default()
    };
    RunStatistics {
        program: name.to_owned(),
        run_time_ns: value("run_time_ns"),
        runs: value("run_cnt"),
        missed: value("recursion_misses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_counts() {
        let text = "pos:\t0\nprog_type:\t17\nrun_time_ns:\t1200\nrun_cnt:\t10\nrecursion_misses:\t2\n";
        let expected = RunStatistics { program: "sys_exit".to_owned(), run_time_ns: 1200, runs: 10, missed: 2 };
        assert_eq!(parse("sys_exit", text), expected);
    }
}
