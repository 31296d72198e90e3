//! The known start and end of a body, for a reader who wants more than a piece at a time.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use super::{Bytes, Piece};

/// The most bytes that are kept of what follows a gap.
const TAIL_MAX: usize = 1024;

/// The first bytes of a body, and the last ones if some between are not known. They may hold secrets, so they are wiped
/// when this is dropped; hold it no longer than the message lasts.
pub struct Collected {
    most: usize,
    head: Zeroizing<Vec<u8>>,
    tail: Zeroizing<Vec<u8>>,
    whole: bool,
}

impl fmt::Debug for Collected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, tail) = (self.head.len(), self.tail.len());
        formatter
            .debug_struct("Collected")
            .field("head", &head)
            .field("tail", &tail)
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

impl Collected {
    /// Nothing yet, and never more than the first `most` bytes and the last thousand.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, head: Zeroizing::default(), tail: Zeroizing::default(), whole: true }
    }

    /// Adds the next piece of the body.
    pub fn push(&mut self, piece: &Piece<'_>) {
        match piece.bytes {
            Bytes::Known(bytes) if self.whole => {
                let taken = bytes.len().min(self.most - self.head.len());
                append(&mut self.head, &bytes[..taken]);
                if taken < bytes.len() {
                    self.whole = false;
                    self.push_tail(&bytes[taken..]);
                }
            }
            Bytes::Known(bytes) => self.push_tail(bytes),
            Bytes::Raw(bytes) => {
                self.whole = false;
                self.push_tail(bytes);
            }
            Bytes::Gzip(_) | Bytes::Unknown(_) => {
                self.whole = false;
                self.tail.as_mut_slice().zeroize();
                self.tail.clear();
            }
        }
    }

    fn push_tail(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_MAX)..];
        let kept = self.tail.len().min(TAIL_MAX - bytes.len());
        let start = self.tail.len() - kept;
        self.tail.copy_within(start.., 0);
        // What is cut off is written over, or wiped.
        self.tail[kept..].zeroize();
        self.tail.truncate(kept);
        append(&mut self.tail, bytes);
    }

    /// The first bytes.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The last bytes so far, if there are bytes between them and the first ones that are not kept or known.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Whether the first bytes are all bytes so far.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }
}

/// Appends to bytes that are secret. It grows by hand, so that what the old allocation held is wiped too.
pub(super) fn append(secret: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    let wanted = secret.len() + bytes.len();
    if wanted > secret.capacity() {
        let mut grown = Zeroizing::new(Vec::with_capacity(wanted.next_power_of_two().max(256)));
        grown.extend_from_slice(secret);
        *secret = grown;
    }
    secret.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::http1::{ExchangeId, Role};
    use crate::units::Nanos;

    fn piece(bytes: Bytes<'_>) -> Piece<'_> {
        Piece { id: ExchangeId::default(), role: Role::Request, time: Nanos(1), first: true, offset: 0, bytes }
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn it_holds_the_start_and_the_end(
            runs in vec(prop_oneof![
                4 => vec(any::<u8>(), 1..900).prop_map(Ok),
                1 => (1..5000u64).prop_map(Err),
            ], 0..12),
            most in 0..2000usize,
        ) {
            let mut collected = Collected::new(most);
            for run in &runs {
                collected.push(&piece(run.as_deref().map_or_else(|size| Bytes::Unknown(*size), Bytes::Known)));
            }
            let first: Vec<u8> = runs.iter().map_while(|run| run.as_deref().ok()).flatten().copied().collect();
            let last = runs.iter().rposition(Result::is_err).map_or(0, |at| at + 1);
            let last: Vec<u8> = runs[last..].iter().flatten().flatten().copied().collect();
            prop_assert_eq!(collected.head(), &first[..first.len().min(most)]);
            let whole = runs.iter().all(Result::is_ok) && first.len() <= most;
            prop_assert_eq!(collected.is_whole(), whole);
            let unkept = if runs.iter().all(Result::is_ok) { first.len().saturating_sub(most) } else { last.len() };
            prop_assert_eq!(collected.tail(), &last[last.len() - unkept.min(TAIL_MAX)..]);
        }
    }
}
