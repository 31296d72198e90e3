//! The lines of a body, however it is split.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// The most bytes of a line that are kept while its rest is still to come.
const KEPT_MAX: usize = 4 << 10;

/// The most bytes that are kept of the end of a longer one.
const END_MAX: usize = 1 << 10;

/// A line without the bytes that end it.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// All of it, or its start if it is not known whole; none if that is not known.
    pub(super) bytes: &'a [u8],
    /// The last bytes of one that is not known whole, if they are known.
    pub(super) end: &'a [u8],
    pub(super) whole: bool,
}

/// Puts lines together.
#[derive(Default)]
pub(super) struct Lines {
    /// The start of the line at hand, which may hold secrets.
    kept: Zeroizing<Vec<u8>>,
    /// The last bytes so far of a line of which not all is kept.
    end: Zeroizing<Vec<u8>>,
    place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Known,
    /// In a line that is longer than what is kept.
    Overlong,
    /// Somewhere in a line whose start is not known, or was told.
    Lost,
}

impl fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lines")
            .field("kept", &self.kept.len())
            .field("end", &self.end.len())
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Lines {
    /// Takes in known bytes. After unknown ones, the first of a segment are taken for a line's start, as servers write.
    pub(super) fn known(&mut self, mut bytes: &[u8], starts_segment: bool, mut tell: impl FnMut(Line<'_>)) {
        if starts_segment && self.place == Place::Lost {
            self.forget(Place::Known);
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.place == Place::Known && self.kept.is_empty() {
                tell(Line { bytes: without_return(line), end: b"", whole: true });
            } else {
                self.keep(line);
                self.tell_kept(&mut tell);
                self.forget(Place::Known);
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    /// Takes in that bytes came which are not known.
    pub(super) fn unknown(&mut self, mut tell: impl FnMut(Line<'_>)) {
        if self.place != Place::Lost && !self.kept.is_empty() {
            tell(Line { bytes: &self.kept, end: b"", whole: false });
        }
        self.forget(Place::Lost);
    }

    /// Takes in that no more comes. What has no end is taken for a line all the same.
    pub(super) fn ended(&mut self, mut tell: impl FnMut(Line<'_>)) {
        if !self.kept.is_empty() || !self.end.is_empty() {
            self.tell_kept(&mut tell);
        }
        self.forget(Place::Known);
    }

    fn tell_kept(&self, tell: &mut impl FnMut(Line<'_>)) {
        let whole = self.place == Place::Known;
        let bytes = if whole { without_return(&self.kept) } else { &self.kept };
        if !(bytes.is_empty() && self.end.is_empty()) || whole {
            tell(Line { bytes, end: &self.end, whole });
        }
    }

    fn forget(&mut self, place: Place) {
        for kept in [&mut self.kept, &mut self.end] {
            kept.as_mut_slice().zeroize();
            kept.clear();
        }
        self.place = place;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut taken = 0;
        if self.place == Place::Known {
            taken = bytes.len().min(KEPT_MAX - self.kept.len());
            if self.kept.capacity() == 0 {
                // Room for all at once: what grows leaves bytes behind.
                self.kept.reserve_exact(KEPT_MAX);
            }
            self.kept.extend_from_slice(&bytes[..taken]);
        }
        if taken < bytes.len() {
            if self.place == Place::Known {
                self.place = Place::Overlong;
            }
            self.keep_end(&bytes[taken..]);
        }
    }

    fn keep_end(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(END_MAX)..];
        if self.end.capacity() == 0 {
            self.end.reserve_exact(END_MAX);
        }
        let surplus = (self.end.len() + bytes.len()).saturating_sub(END_MAX);
        self.end.copy_within(surplus.., 0);
        let kept = self.end.len() - surplus;
        self.end[kept..].zeroize();
        self.end.truncate(kept);
        self.end.extend_from_slice(bytes);
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    fn told(lines: &mut Lines, told: &mut Vec<(Vec<u8>, bool)>, bytes: &[u8], starts: bool) {
        lines.known(bytes, starts, |line| told.push((line.bytes.to_vec(), line.whole)));
    }

    proptest! {
        #![proptest_config(crate::regressions::config())]

        #[test]
        fn any_split_tells_the_same_lines(
            expected in vec(vec(select(b"ab :\r\0".as_slice()), 0..9), 0..9),
            returns in any::<bool>(),
            cuts in vec(any::<Index>(), 0..9),
        ) {
            let mut bytes = Vec::new();
            for line in &expected {
                bytes.extend_from_slice(line);
                bytes.extend_from_slice(if returns { b"\r\n" } else { b"\n" });
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for cut in cuts.windows(2) {
                told(&mut lines, &mut found, &bytes[cut[0]..cut[1]], true);
            }
            let plain = |line: &Vec<u8>| if returns { line.clone() } else { without_return(line).to_vec() };
            let expected: Vec<_> = expected.iter().map(|line| (plain(line), true)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn an_endless_line_is_bounded() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for _ in 0..1000 {
            told(&mut lines, &mut found, &[b'x'; 1000], true);
        }
        assert!(lines.kept.capacity() <= KEPT_MAX && found.is_empty());
        told(&mut lines, &mut found, b"\nnext\n", true);
        assert_eq!(found, [(vec![b'x'; KEPT_MAX], false), (b"next".to_vec(), true)]);
    }

    #[test]
    fn after_a_gap_it_goes_on_with_the_next_line_or_segment() {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        told(&mut lines, &mut found, b"data: {", true);
        lines.unknown(|line| found.push((line.bytes.to_vec(), line.whole)));
        lines.unknown(|_| panic!("there is nothing more to tell"));
        told(&mut lines, &mut found, b"tail\nwhole\nsta", false);
        lines.unknown(|line| found.push((line.bytes.to_vec(), line.whole)));
        told(&mut lines, &mut found, b"tail", false);
        told(&mut lines, &mut found, b"new\n", true);
        // The end of the first line is told for itself; the last one's end was lost with what came after it.
        let expected = [(&b"data: {"[..], false), (b"", false), (b"whole", true), (b"sta", false), (b"new", true)];
        assert_eq!(found, expected.map(|(line, whole)| (line.to_vec(), whole)));
    }
}
