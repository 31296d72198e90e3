//! Bodies that gzip coded, made plain again as they come, within bounds.

use std::fmt;
use std::io::{Error, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::GzDecoder;
use zeroize::{Zeroize, Zeroizing};

/// Bodies that are made plain at once: each takes some 45 KiB, and hardly anybody compresses a stream.
const OPEN_MAX: usize = 64;

/// The most bytes that may come of one piece: sixteen times what is copied of a segment.
const PLAIN_MAX: usize = 64 << 10;

/// Who makes bodies plain: a count, so that not too many are at once.
#[derive(Clone, Debug, Default)]
pub struct Inflaters(Arc<AtomicUsize>);

impl Inflaters {
    /// One more, if there is room.
    pub(super) fn open(&self) -> Option<Inflater> {
        let room = |open| (open < OPEN_MAX).then_some(open + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let decoder = GzDecoder::new(Plain(Zeroizing::default()));
        Some(Inflater { decoder, open: self.clone() })
    }
}

/// Makes one body plain.
pub(super) struct Inflater {
    decoder: GzDecoder<Plain>,
    open: Inflaters,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What has come out.
struct Plain(Zeroizing<Vec<u8>>);

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if self.0.len() + bytes.len() > PLAIN_MAX {
            return Err(Error::other("more came of a piece than is believed"));
        }
        if self.0.capacity() == 0 {
            // Room for all at once: what grows leaves bytes behind.
            self.0.reserve_exact(PLAIN_MAX);
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Inflater {
    /// Makes the next bytes plain and hands them on; false when they are no gzip, or more than is believed comes of them.
    pub(super) fn next(&mut self, bytes: &[u8], tell: impl FnOnce(&[u8])) -> bool {
        let fine = self.decoder.write_all(bytes).and_then(|()| self.decoder.flush()).is_ok();
        let plain = &mut self.decoder.get_mut().0;
        if fine {
            tell(plain);
        }
        plain.as_mut_slice().zeroize();
        plain.clear();
        fine
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).expect("memory takes all");
        encoder.finish().expect("memory takes all")
    }

    #[test]
    fn what_was_written_comes_out_however_it_is_split() {
        let text = b"data: {\"choices\":[]}\n\n".repeat(100);
        for size in [1, 7, 1000] {
            let (mut inflater, mut told) = (Inflaters::default().open().expect("there is room"), Vec::new());
            for piece in gzip(&text).chunks(size) {
                assert!(inflater.next(piece, |plain| told.extend_from_slice(plain)));
            }
            assert_eq!(told, text, "{size}");
        }
    }

    #[test]
    fn a_bomb_and_what_is_no_gzip_are_refused() {
        let mut inflater = Inflaters::default().open().expect("there is room");
        assert!(!inflater.next(&gzip(&vec![0; 10 << 20]), |_| panic!("nothing is told of a bomb")));
        let mut inflater = Inflaters::default().open().expect("there is room");
        assert!(!inflater.next(b"{\"choices\":[]} and more", |_| panic!("it is no gzip")));
    }

    #[test]
    fn no_more_than_so_many_are_open() {
        let inflaters = Inflaters::default();
        let mut open: Vec<_> = (0..OPEN_MAX).map(|_| inflaters.open().expect("there is room")).collect();
        assert!(inflaters.open().is_none());
        open.pop();
        assert!(inflaters.open().is_some());
    }
}
