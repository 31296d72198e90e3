//! The first bytes of a message that comes in pieces: bounded, and wiped when they are done with.

use std::fmt;

use zeroize::Zeroizing;

/// The most bytes that are kept of one message.
pub(super) const PREFIX_MAX: usize = 32 << 10;

/// The first bytes of a message, without a hole.
#[derive(Default)]
pub(super) struct Prefix {
    bytes: Zeroizing<Vec<u8>>,
    /// Something of the message is missing after `bytes`.
    cut: bool,
}

impl fmt::Debug for Prefix {
    /// Shows nothing of them: they may hold secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Prefix").field("length", &self.bytes.len()).field("cut", &self.cut).finish()
    }
}

impl Prefix {
    /// What is kept.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing of the message's bytes so far is missing.
    pub(super) fn is_whole(&self) -> bool {
        !self.cut
    }

    /// Takes in that bytes follow which are not known.
    pub(super) fn hide(&mut self) {
        self.cut = true;
    }

    /// Takes in the next bytes: what was kept of them, so that a mask can be taken off.
    pub(super) fn push(&mut self, bytes: &[u8]) -> &mut [u8] {
        let old = self.bytes.len();
        if self.cut {
            return &mut [];
        }
        let kept = bytes.len().min(PREFIX_MAX - old);
        self.cut = kept < bytes.len();
        if self.bytes.capacity() < old + kept {
            // A vector that grew by itself would leave its first bytes behind in freed memory.
            let room = (old + kept).max(2 * old).min(PREFIX_MAX);
            let mut wider = Zeroizing::new(Vec::with_capacity(room));
            wider.extend_from_slice(&self.bytes);
            self.bytes = wider;
        }
        self.bytes.extend_from_slice(&bytes[..kept]);
        &mut self.bytes[old..]
    }

    /// Bytes allocated.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_the_first_hole_and_at_its_bound() {
        let mut prefix = Prefix::default();
        prefix.push(b"ab");
        prefix.push(b"");
        prefix.push(b"cd").reverse();
        assert_eq!((prefix.bytes(), prefix.is_whole()), (&b"abdc"[..], true));
        prefix.hide();
        assert!(prefix.push(b"ef").is_empty());
        assert_eq!((prefix.bytes(), prefix.is_whole()), (&b"abdc"[..], false));

        let mut long = Prefix::default();
        for _ in 0..PREFIX_MAX / 1000 {
            long.push(&[1; 1000]);
        }
        assert!(long.is_whole());
        assert_eq!(long.push(&[2; 1000]).len(), PREFIX_MAX % 1000);
        assert_eq!((long.bytes().len(), long.is_whole(), long.allocated()), (PREFIX_MAX, false, PREFIX_MAX));
    }
}
