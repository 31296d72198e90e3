//! Overwrites what was captured in the ring's memory, which the probe has mapped and which otherwise keeps it until the
//! ring has come around.

use aya::Ebpf;
use aya::programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _};
use miku_probe_abi::{SCRUB_PIECE, SCRUB_PIECES};

use crate::units::Nanos;

/// The program that does it, which is attached nowhere and run from here.
const PROGRAM: &str = "scrub";

/// How much of the ring is overwritten a second at most. It costs some 0.3 ms for this much.
const BYTES_PER_SECOND: u64 = 4 << 20;

/// What one entry takes in the ring: the kernel adds a header.
const ENTRY: u64 = SCRUB_PIECE as u64 + 8;

/// Scrubs the ring from time to time, when something was captured.
pub struct Scrubber {
    program: RawTracePoint,
    /// Entries that fill the ring once.
    entries: u64,
    /// Entries that are written before the ring is drained.
    at_once: u64,
    period: Nanos,
    scrubbed: Nanos,
    /// How many records with captured bytes had been written when it was last scrubbed.
    captured: u64,
    refused: bool,
}

impl Scrubber {
    /// Loads the program of `ebpf`, whose ring has `ring_bytes`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(in crate::probes) fn load(ebpf: &mut Ebpf, ring_bytes: u32) -> Result<Self, ProgramError> {
        let program = ebpf.program_mut(PROGRAM).ok_or(ProgramError::UnexpectedProgramType)?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.load()?;
        let program = RawTracePoint::from_program_info(program.info()?, PROGRAM.into())?;
        let ring_bytes = u64::from(ring_bytes);
        let entries = ring_bytes.div_ceil(ENTRY);
        let seconds = (ring_bytes / BYTES_PER_SECOND).max(1);
        Ok(Self {
            program,
            // What is in the ring when it begins may lie across an entry's end.
            entries: entries + 1,
            // A quarter, so that the records of the programs find room meanwhile.
            at_once: (entries / 4).clamp(1, u64::from(SCRUB_PIECES)),
            period: Nanos(seconds * 1_000_000_000),
            scrubbed: Nanos(0),
            captured: 0,
            refused: false,
        })
    }

    /// How many times [`Scrubber::run`] is to be called now, with the ring drained after each, when `captured` records with
    /// captured bytes have been written in all.
    pub fn rounds(&mut self, now: Nanos, captured: u64) -> u64 {
        if self.refused || captured == self.captured || now.since(self.scrubbed) < self.period {
            return 0;
        }
        self.captured = captured;
        self.scrubbed = now;
        self.entries.div_ceil(self.at_once)
    }

    /// Overwrites a part of the ring.
    pub fn run(&mut self) {
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = self.at_once;
        if let Err(error) = self.program.test_run(options)
            && !self.refused
        {
            self.refused = true;
            log::warn!(
                "this kernel does not let the ring be overwritten, so what was captured stays in this process's memory \
                 until the ring has come around: {}",
                crate::probes::chain(&error)
            );
        }
    }
}
