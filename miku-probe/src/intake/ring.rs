//! The ring buffer as an asynchronous source.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's ring of records.
pub struct Ring {
    ring: AsyncFd<Source>,
}

struct Source(RingBuf<MapData>);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Ring {
    /// Watches the ring; needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub fn new(records: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor, which stays open and the same for as long as the ring lives, and the ring
        // lives in the `AsyncFd`.
        let ring = unsafe { AsyncFd::register_with_interest(Source(records), Interest::READABLE) };
        Ok(Self { ring: ring.map_err(|error| error.into_parts().1)? })
    }

    /// Waits until the kernel side asks to be heard: a process began or ended, or much has piled up. Records that do
    /// not wake are taken by calling [`Ring::drain`] from time to time.
    ///
    /// # Errors
    /// When the descriptor cannot be polled.
    pub async fn woken(&mut self) -> io::Result<()> {
        // Readiness is cleared before the ring is drained, so a record that comes meanwhile wakes again.
        self.ring.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// Hands every waiting record to `take`, oldest first, and returns how many there were; at most `limit`.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        let ring = &mut self.ring.get_mut().0;
        let mut taken = 0;
        while taken < limit {
            let Some(record) = ring.next() else { break };
            take(&record);
            taken += 1;
        }
        taken
    }
}
