//! What is kept of the threads that wait in selectors.

/// Upper bounds of the buckets in which turns of event loops are counted, in nanoseconds; above the last there is one more.
pub const TURN_BOUNDS: [u64; 15] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    60_000_000_000,
];

/// How many buckets there are.
pub const TURN_BUCKETS: usize = TURN_BOUNDS.len() + 1;

/// Why a thread did not run in the midst of a turn: its numbers are places in [`LoopThread::off_ns`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffReason {
    /// It could have run, and another did.
    Cpu = 0,
    /// It slept and could not be interrupted: it waited for a disk, mostly.
    Disk = 1,
    /// It waited for a lock, of memory or of a file.
    Lock = 2,
    /// It had asked to sleep.
    Sleep = 3,
    /// It waited in another call, such as one on a socket that blocks.
    Call = 4,
}

/// How many reasons there are.
pub const OFF_REASONS: usize = OffReason::ALL.len();

impl OffReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Disk, Self::Lock, Self::Sleep, Self::Call];
}

/// [`LoopThread::state`]: the thread runs.
pub const LOOP_RUNS: u32 = 0;

/// [`LoopThread::state`]: it sleeps in its selector.
pub const LOOP_WAITS: u32 = 1;

/// [`LoopThread::state`]: it does not run, for the [`OffReason`] whose number is added to this.
pub const LOOP_OFF: u32 = 2;

/// [`LoopThread::flags`]: it was the first to use a socket that carries a stream.
pub const LOOP_MOVES: u32 = 1;

/// What the kernel side keeps of a thread that waits in a selector. Nobody writes it but the programs that run while the
/// thread does, is taken off its processor or is put on one, so no two at once; user space reads it at any time.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LoopThread {
    /// Its process.
    pub tgid: u32,
    /// [`LOOP_RUNS`], [`LOOP_WAITS`] or [`LOOP_OFF`] and more.
    pub state: u32,
    /// Which selector it waits in: an epoll descriptor, or which call without one.
    pub selector: u64,
    /// [`LOOP_MOVES`].
    pub flags: u32,
    /// Waits in another selector since it last waited in this one.
    pub strange: u32,
    /// When it was first seen, in nanoseconds of `CLOCK_MONOTONIC`, as all times are.
    pub generation: u64,
    /// When its last wait began.
    pub wait_since: u64,
    /// When the turn began: when that wait was last seen to end.
    pub turn_since: u64,
    /// When it was taken off its processor.
    pub off_since: u64,
    /// How long it did not run in this turn so far, by [`OffReason`].
    pub turn_off: [u64; OFF_REASONS],
    /// Turns that are over, by how long they were: see [`TURN_BOUNDS`].
    pub turns: [u64; TURN_BUCKETS],
    /// How long they were together.
    pub busy_ns: u64,
    /// How long it did not run in them, by [`OffReason`].
    pub off_ns: [u64; OFF_REASONS],
    /// How long it waited.
    pub idle_ns: u64,
}

impl LoopThread {
    /// A thread that begins to wait for the first time.
    #[must_use]
    pub const fn new(tgid: u32, selector: u64, now: u64) -> Self {
        Self {
            tgid,
            state: LOOP_RUNS,
            selector,
            flags: 0,
            strange: 0,
            generation: now,
            wait_since: now,
            turn_since: now,
            off_since: 0,
            turn_off: [0; OFF_REASONS],
            turns: [0; TURN_BUCKETS],
            busy_ns: 0,
            off_ns: [0; OFF_REASONS],
            idle_ns: 0,
        }
    }
}
