//! How much of a measurement is the machine's own noise, and what to make of several.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// Above this share of stolen time a measurement says more about the host than about what was measured.
pub const STEAL_LIMIT: f64 = 0.05;

/// The CPUs' time so far, in ticks, from `/proc/stat`.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorTime {
    total: u64,
    idle: u64,
    stolen: u64,
}

impl ProcessorTime {
    /// Of now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read or has no line of all processors.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line of all processors")
    }

    fn parse(text: &str) -> Option<Self> {
        const IDLE: usize = 3;
        const IOWAIT: usize = 4;
        const STEAL: usize = 7;
        // Guests' time, which follows, is part of user time already.
        const FIELDS: usize = 8;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(FIELDS).map_while(|field| field.parse().ok()).collect();
        let stolen = *ticks.get(STEAL)?;
        Some(Self { total: ticks.iter().sum(), idle: ticks[IDLE] + ticks[IOWAIT], stolen })
    }

    /// The share of time since then that the host gave to others.
    ///
    /// # Errors
    /// As [`ProcessorTime::now`].
    pub fn steal_since(self) -> Result<f64> {
        Ok(self.steal_until(Self::now()?))
    }

    #[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark")]
    fn steal_until(self, end: Self) -> f64 {
        let total = end.total.saturating_sub(self.total).max(1);
        end.stolen.saturating_sub(self.stolen) as f64 / total as f64
    }

    /// The share of time until `end` in which something ran on the CPUs.
    #[allow(clippy::cast_precision_loss, reason = "ticks of a benchmark")]
    fn busy_until(self, end: Self) -> f64 {
        let total = end.total.saturating_sub(self.total).max(1);
        let free = (end.idle + end.stolen).saturating_sub(self.idle + self.stolen);
        total.saturating_sub(free) as f64 / total as f64
    }
}

/// What disturbed a measurement from outside while it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// The share of CPU time that the host gave to others.
    pub steal: f64,
    /// The share of CPU time that processes took that have no part in the measurement.
    pub others: f64,
    /// How late a thread of realtime priority woke up: 99 % of the times no later than this.
    pub wakeup_p99: Duration,
    /// The latest wakeup.
    pub wakeup_max: Duration,
}

impl Noise {
    /// Up to here a machine is quiet. An idle virtual machine of two CPUs shows 2 % of steal and wakeups late by 1.8 ms,
    /// because its host has to bring its CPUs back. The latest wakeup is not limited: on a kernel that does not preempt
    /// system calls, one long call of the very processes that are measured can hold a thread up for milliseconds.
    pub const QUIET: Self =
        Self { steal: STEAL_LIMIT, others: 0.05, wakeup_p99: Duration::from_millis(3), wakeup_max: Duration::MAX };

    /// Whether nothing is above [`Noise::QUIET`].
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let limit = Self::QUIET;
        self.steal <= limit.steal && self.others <= limit.others && self.wakeup_p99 <= limit.wakeup_p99
    }
}

impl Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steal, others, wakeup_p99, wakeup_max } = self;
        let (steal, others) = (steal * 100.0, others * 100.0);
        let [p99, max] = [wakeup_p99, wakeup_max].map(|late| late.as_secs_f64() * 1e3);
        write!(
            f,
            "steal {steal:.1} %, other processes {others:.1} %, wakeups late by {p99:.2} ms (p99), {max:.2} ms (max)"
        )
    }
}

/// One run of a check that a noisy machine can make fail.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Whether the check passed.
    pub passed: bool,
    /// The noise while it ran.
    pub noise: Noise,
}

/// What several runs of one check amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judgement {
    /// It passed.
    Passed,
    /// It failed again and again although the machine was quiet.
    Failed,
    /// It failed each time, mostly with the machine noisy: that says nothing yet.
    Noisy,
}

/// In how many runs a check must fail on a quiet machine. One is not enough: a single wakeup that the host holds up for 5 ms
/// moves the mean of 50 by 100 µs, and is not noise by its share.
const FAILURES: usize = 2;

/// Judges the runs of one check so far. Noise makes times differ more, so one run that passed is enough; runs that failed
/// count only when the machine was quiet meanwhile.
#[must_use]
pub fn judge(attempts: &[Attempt]) -> Judgement {
    if attempts.iter().any(|attempt| attempt.passed) {
        return Judgement::Passed;
    }
    let failed = attempts.iter().filter(|attempt| attempt.noise.is_quiet()).count();
    if failed >= FAILURES { Judgement::Failed } else { Judgement::Noisy }
}

/// Measures noise beside something else, from [`NoiseMeter::start`] to [`NoiseMeter::finish`].
///
/// A thread on each CPU sleeps for an interval again and again and notes how late it wakes up. With realtime priority it
/// does not wait for the ordinary processes that are measured, only for what holds up the CPU itself: the host, or
/// interrupts. What other processes take shows in the CPUs' time, less that of this process and of all its children that
/// have ended.
pub struct NoiseMeter {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Duration>>>>,
    start: Instant,
    cpus: ProcessorTime,
    own: Duration,
}

impl NoiseMeter {
    /// Starts to measure; the threads sleep for `interval` at a time, which must be long enough for their own wakeups to
    /// disturb nothing.
    ///
    /// # Errors
    /// Fails when the CPUs or their time cannot be read.
    pub fn start(interval: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sleep_on = |cpu: usize| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || wakeup_delays(cpu, interval, &stop))
        };
        let threads = allowed_cpus()?.into_iter().map(sleep_on).collect();
        Ok(Self { stop, threads, start: Instant::now(), cpus: ProcessorTime::now()?, own: own_cpu_time()? })
    }

    /// Returns the noise since the start.
    ///
    /// # Errors
    /// Fails when it cannot be measured, as where realtime priority is refused.
    pub fn finish(self) -> Result<Noise> {
        let (end, own, elapsed) = (ProcessorTime::now()?, own_cpu_time()? - self.own, self.start.elapsed());
        self.stop.store(true, Ordering::Relaxed);
        let cpus = self.threads.len();
        let mut delays = Vec::new();
        for thread in self.threads {
            delays.extend(thread.join().map_err(|_| anyhow!("a thread that measures noise panicked"))??);
        }
        delays.sort_unstable();
        let wakeup_max = *delays.last().context("there was no time for a single wakeup")?;
        Ok(Noise {
            steal: self.cpus.steal_until(end),
            others: share_of_others(self.cpus.busy_until(end), own, elapsed, cpus),
            wakeup_p99: delays[(delays.len() - 1) * 99 / 100],
            wakeup_max,
        })
    }

    /// Measures for `time` while this process does nothing else.
    ///
    /// # Errors
    /// As [`NoiseMeter::finish`].
    pub fn watch(time: Duration) -> Result<Noise> {
        let meter = Self::start(Duration::from_millis(1))?;
        thread::sleep(time);
        meter.finish()
    }
}

/// The share of CPU time that others used, when the CPUs were `busy` for a share of `elapsed` and `own` is the CPU time of
/// the measured processes.
#[allow(clippy::cast_precision_loss, reason = "a count of CPUs")]
fn share_of_others(busy: f64, own: Duration, elapsed: Duration, cpus: usize) -> f64 {
    (busy - own.as_secs_f64() / elapsed.as_secs_f64() / cpus as f64).max(0.0)
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Result<Vec<usize>> {
    // SAFETY: `cpu_set_t` is plain numbers, for which zero is a value; the call writes into a live one of the size it is
    // told.
    let (set, status) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let status = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (set, status)
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).context("cannot read which CPUs may be used");
    }
    // SAFETY: the macro reads the set, and `cpu` is below its size.
    let is_set = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_set).collect())
}

/// Sleeps on one CPU with realtime priority until it is told to stop; returns how late each wakeup was.
fn wakeup_delays(cpu: usize, interval: Duration, stop: &AtomicBool) -> Result<Vec<Duration>> {
    // SAFETY: both structures are plain numbers, for which zero is a value; they are live for the calls, which read them
    // and concern this thread alone.
    let status = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let mut priority: libc::sched_param = std::mem::zeroed();
        priority.sched_priority = 1;
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0 {
            libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority)
        } else {
            -1
        }
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot get realtime priority on CPU {cpu}"));
    }
    let mut delays = Vec::new();
    let mut due = monotonic()?;
    while !stop.load(Ordering::Relaxed) {
        due += interval;
        sleep_until(due)?;
        let late = monotonic()?.saturating_sub(due);
        delays.push(late);
        // After a long delay the next wakeups would all be late at once.
        due += late;
    }
    Ok(delays)
}

fn monotonic() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is live for the call, which fills it in.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot read the monotonic clock");
    }
    duration(time.tv_sec, time.tv_nsec)
}

fn duration(seconds: i64, nanoseconds: i64) -> Result<Duration> {
    let seconds = u64::try_from(seconds).context("a time before the start of its clock")?;
    Ok(Duration::new(seconds, u32::try_from(nanoseconds).context("no share of a second")?))
}

/// Sleeps until this time of the monotonic clock.
fn sleep_until(due: Duration) -> Result<()> {
    let seconds = due.as_secs().try_into().context("a time that no clock reaches")?;
    let time = libc::timespec { tv_sec: seconds, tv_nsec: due.subsec_nanos().into() };
    loop {
        // SAFETY: the structure is live for the call, which reads it; nothing is written, since the time is absolute.
        let error = unsafe {
            let flags = libc::TIMER_ABSTIME;
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, flags, &raw const time, std::ptr::null_mut())
        };
        match error {
            0 => return Ok(()),
            libc::EINTR => {}
            error => bail!("cannot sleep: {}", io::Error::from_raw_os_error(error)),
        }
    }
}

/// CPU time of this process, and of its children that have ended and all theirs.
fn own_cpu_time() -> Result<Duration> {
    let of = |whom: libc::c_int| -> Result<Duration> {
        // SAFETY: `rusage` is plain numbers, for which zero is a value; the call fills in a live one.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            (libc::getrusage(whom, &raw mut usage) == 0).then_some(usage)
        };
        let usage = usage.ok_or_else(io::Error::last_os_error).context("cannot read the CPU time used so far")?;
        let time = |time: libc::timeval| duration(time.tv_sec, time.tv_usec * 1_000);
        Ok(time(usage.ru_utime)? + time(usage.ru_stime)?)
    };
    Ok(of(libc::RUSAGE_SELF)? + of(libc::RUSAGE_CHILDREN)?)
}

/// The middle one of `values`, or the mean of the middle two; none when there are none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The quarter points of `values`: between them lies half of all; none when there are fewer than four.
#[must_use]
pub fn quartiles(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted.len() >= 4).then(|| (sorted[sorted.len() / 4], sorted[sorted.len() - 1 - sorted.len() / 4]))
}

/// How one thing compares with another, from pairs of measurements: the mean of their ratios, and how sure it is.
///
/// The mean is the geometric one without the outer tenths, which outliers do not move; the interval is the one of 95 %
/// that belongs to it, by the winsorized deviation and Student's distribution (Tukey and McLaughlin, 1963).
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Logarithm of the mean.
    log: f64,
    /// Half the width of the interval around it.
    error: f64,
}

impl Ratio {
    /// Of the ratios of pairs; none when there are fewer than ten, or one is no positive number.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a count of pairs")]
    pub fn of(ratios: &[f64]) -> Option<Self> {
        const FEWEST: usize = 10;
        if ratios.len() < FEWEST || !ratios.iter().all(|ratio| ratio.is_finite() && *ratio > 0.0) {
            return None;
        }
        let mut logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        logs.sort_by(f64::total_cmp);
        let cut = logs.len() / 10;
        let inner = &logs[cut..logs.len() - cut];
        let (all, kept) = (logs.len() as f64, inner.len() as f64);
        let log = inner.iter().sum::<f64>() / kept;
        let (least, most) = (inner[0], inner[inner.len() - 1]);
        let winsorized: Vec<f64> = logs.iter().map(|log| log.clamp(least, most)).collect();
        let middle = winsorized.iter().sum::<f64>() / all;
        let variance = winsorized.iter().map(|log| (log - middle).powi(2)).sum::<f64>() / (all - 1.0);
        // Student's quantile for 97.5 %, right to a hundredth from eight degrees of freedom on.
        let freedom = kept - 1.0;
        let student = 1.96 + 2.4 / freedom + 2.6 / freedom.powi(2);
        Some(Self { log, error: student * variance.sqrt() / (kept / all * all.sqrt()) })
    }

    /// How `a` compares with `c`, when this is how `a` compares with `b` and `next` how `b` compares with `c`.
    #[must_use]
    pub fn times(self, next: Self) -> Self {
        Self { log: self.log + next.log, error: self.error.hypot(next.error) }
    }

    /// How `a` compares with `c`, when this is how `a` compares with `b` and `other` how `c` compares with `b`.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self { log: self.log - other.log, error: self.error.hypot(other.error) }
    }

    /// The mean.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.log.exp()
    }

    /// The ends of the interval.
    #[must_use]
    pub fn interval(self) -> (f64, f64) {
        ((self.log - self.error).exp(), (self.log + self.error).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_a_share_of_all_time() {
        let before = ProcessorTime::parse("cpu  100 0 50 800 0 0 0 50 7 7\ncpu0 1\n").expect("a good line");
        let after = ProcessorTime::parse("cpu  150 0 50 840 0 0 0 60 9 9\n").expect("a good line");
        assert!((before.steal_until(after) - 0.1).abs() < 1e-12);
        assert!((before.busy_until(after) - 0.5).abs() < 1e-12);
        assert!(ProcessorTime::parse("cpu0 1 2\n").is_none());
        assert!(ProcessorTime::parse("cpu  1 2 3\n").is_none(), "no column of stolen time");
    }

    #[test]
    fn any_one_kind_of_noise_ends_the_quiet() {
        let quiet = Noise::QUIET;
        assert!(quiet.is_quiet() && Noise::default().is_quiet());
        let more = Duration::from_micros(1);
        for noise in [
            Noise { steal: quiet.steal + 0.001, ..Noise::default() },
            Noise { others: quiet.others + 0.001, ..Noise::default() },
            Noise { wakeup_p99: quiet.wakeup_p99 + more, ..Noise::default() },
        ] {
            assert!(!noise.is_quiet(), "{noise}");
        }
        assert!(
            Noise { wakeup_max: Duration::from_secs(1), ..Noise::default() }.is_quiet(),
            "one late wakeup is no noise"
        );
    }

    #[test]
    fn what_the_measured_processes_use_is_not_others() {
        let second = Duration::from_secs(1);
        // Of two CPUs that were busy for three quarters of a second together, 0.5 s of it in the measured processes.
        assert!((share_of_others(0.375, second / 2, second, 2) - 0.125).abs() < 1e-12);
        assert!(share_of_others(0.25, second / 2, second, 2).abs() < 1e-12);
        assert!(share_of_others(0.2, second / 2, second, 2) >= 0.0, "ticks are coarser than CPU time");
    }

    #[test]
    fn a_failure_counts_when_the_machine_was_quiet() {
        let loud = Noise { steal: 0.5, ..Noise::default() };
        let [quiet_pass, quiet_failure, noisy_pass, noisy_failure] =
            [(true, Noise::default()), (false, Noise::default()), (true, loud), (false, loud)]
                .map(|(passed, noise)| Attempt { passed, noise });
        assert_eq!(judge(&[quiet_pass]), Judgement::Passed);
        assert_eq!(judge(&[noisy_pass]), Judgement::Passed);
        assert_eq!(judge(&[quiet_failure]), Judgement::Noisy, "once may be one late wakeup");
        assert_eq!(judge(&[quiet_failure, quiet_failure]), Judgement::Failed);
        assert_eq!(judge(&[noisy_failure]), Judgement::Noisy);
        assert_eq!(judge(&[noisy_failure, noisy_failure, quiet_pass]), Judgement::Passed);
        assert_eq!(judge(&[noisy_failure, quiet_failure]), Judgement::Noisy);
        assert_eq!(judge(&[quiet_failure, noisy_failure, quiet_failure]), Judgement::Failed);
        assert_eq!(judge(&[quiet_failure, quiet_pass]), Judgement::Passed, "what is worse by more fails each time");
        assert_eq!(judge(&[]), Judgement::Noisy, "nothing has been shown yet");
    }

    #[test]
    fn noise_is_told_by_its_numbers() {
        let noise = Noise {
            steal: 0.25,
            others: 0.031,
            wakeup_p99: Duration::from_micros(90),
            wakeup_max: Duration::from_millis(12),
        };
        let expected = "steal 25.0 %, other processes 3.1 %, wakeups late by 0.09 ms (p99), 12.00 ms (max)";
        assert_eq!(noise.to_string(), expected);
    }

    #[test]
    fn medians_and_quartiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(quartiles(&[1.0, 2.0, 3.0]), None);
        assert_eq!(quartiles(&[5.0, 1.0, 2.0, 3.0, 4.0]), Some((2.0, 4.0)));
    }

    /// Ratios around `centre`, spread evenly by a tenth to both sides.
    fn spread(centre: f64) -> Vec<f64> {
        (-50..=50).map(|place| centre * (f64::from(place) * 0.002).exp()).collect()
    }

    #[test]
    fn ratios_have_a_mean_and_an_interval() {
        let ratio = Ratio::of(&spread(0.97)).expect("there are enough");
        assert!((ratio.mean() - 0.97).abs() < 1e-9);
        // Worked out apart: 10 cut from each end of 101, the winsorized deviation 0.05524, Student's quantile 1.990.
        let (low, high) = ratio.interval();
        assert!((low - 0.97 * (-0.013_64_f64).exp()).abs() < 1e-4, "{low}");
        assert!((high - 0.97 * 0.013_64_f64.exp()).abs() < 1e-4, "{high}");
        assert!(Ratio::of(&[1.0; 9]).is_none(), "too few");
        assert!(Ratio::of(&[&[1.0; 20][..], &[0.0]].concat()).is_none(), "nothing was done in a slice");
    }

    #[test]
    fn outliers_do_not_move_a_ratio() {
        let mut ratios = spread(1.0);
        ratios.extend([50.0, 0.001, 80.0]);
        assert!((Ratio::of(&ratios).expect("there are enough").mean() - 1.0).abs() < 2e-3);
    }

    #[test]
    fn ratios_are_chained() {
        let [first, second] = [0.9, 0.8].map(|centre| Ratio::of(&spread(centre)).expect("there are enough"));
        assert!((first.times(second).mean() - 0.72).abs() < 1e-9);
        let (low, high) = first.over(second).interval();
        assert!((first.over(second).mean() - 1.125).abs() < 1e-9);
        let (alone, _) = first.interval();
        assert!((1.125 / low).ln() > (0.9 / alone).ln() * 1.4 && high > 1.125, "uncertainties add up");
    }
}
