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
    rhythm: Rhythm,
    refused: bool,
}

/// How much is overwritten when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rhythm {
    /// Entries that are written before the ring is drained.
    at_once: u64,
    /// How many times that goes over the whole ring.
    rounds: u64,
    period: Nanos,
    scrubbed: Nanos,
    /// How many records with captured bytes had been written when it was last scrubbed.
    captured: u64,
}

impl Rhythm {
    fn new(ring_bytes: u64) -> Self {
        let entries = ring_bytes.div_ceil(ENTRY);
        // A quarter, so that the records of the programs find room meanwhile.
        let at_once = (entries / 4).clamp(1, u64::from(SCRUB_PIECES));
        let seconds = (ring_bytes / BYTES_PER_SECOND).max(1);
        Self {
            at_once,
            // One more entry, since the first may begin in the middle of what is to be overwritten.
            rounds: (entries + 1).div_ceil(at_once),
            period: Nanos(seconds * 1_000_000_000),
            scrubbed: Nanos(0),
            captured: 0,
        }
    }

    fn rounds(&mut self, now: Nanos, captured: u64) -> u64 {
        if captured == self.captured || now.since(self.scrubbed) < self.period {
            return 0;
        }
        self.captured = captured;
        self.scrubbed = now;
        self.rounds
    }
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
        Ok(Self { program, rhythm: Rhythm::new(u64::from(ring_bytes)), refused: false })
    }

    /// How many times [`Scrubber::run`] is to be called now, with the ring drained after each, when `captured` records with
    /// captured bytes have been written in all.
    pub fn rounds(&mut self, now: Nanos, captured: u64) -> u64 {
        if self.refused { 0 } else { self.rhythm.rounds(now, captured) }
    }

    /// Overwrites a part of the ring.
    pub fn run(&mut self) {
        let mut options = RawTracePointRunOptions::new();
        options.args[0] = self.rhythm.at_once;
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn every_byte_of_the_ring_is_overwritten_and_never_much_of_it_at_once() {
        for shift in 16..=30 {
            let ring = 1_u64 << shift;
            let rhythm = Rhythm::new(ring);
            assert!(rhythm.rounds * rhythm.at_once * ENTRY >= ring + ENTRY, "{rhythm:?} for {ring}");
            assert!(rhythm.at_once * ENTRY <= ring / 4, "{rhythm:?} for {ring}");
            assert!(rhythm.at_once <= u64::from(SCRUB_PIECES), "the program writes no more: {rhythm:?}");
        }
    }

    #[test]
    fn it_rests_while_nothing_is_captured() {
        let mut rhythm = Rhythm::new(4 << 20);
        assert_eq!(rhythm.rounds(Nanos(10 * SECOND), 0), 0, "nothing was ever captured");
        assert_eq!(rhythm.rounds(Nanos(11 * SECOND), 5), rhythm.rounds);
        assert_eq!(rhythm.rounds(Nanos(11 * SECOND + 1), 6), 0, "it was only just done");
        assert_eq!(rhythm.rounds(Nanos(12 * SECOND), 6), rhythm.rounds, "what came since is still there");
        assert_eq!(rhythm.rounds(Nanos(13 * SECOND), 6), 0, "nothing came since");
    }
}
