//! Bodies: chunked framing, exactly over known bytes, and a rule for its end where bytes are not known.

/// The framing of a chunked body (RFC 9112, section 7.1), followed byte by byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunks {
    /// Bytes of the current chunk that are still to come; while its size is read, the size so far.
    remaining: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Before the first digit of a size.
    Size,
    /// After it.
    Digits,
    /// In a chunk extension, or in white space after a size.
    Extension,
    /// After a size line's carriage return.
    SizeReturn,
    Data,
    /// After the last byte of a chunk's data.
    DataEnd,
    /// After the carriage return there.
    DataReturn,
    /// At the start of a line after the last chunk.
    Trailer,
    /// Inside such a line.
    TrailerLine,
    /// After a carriage return at the start of such a line.
    TrailerReturn,
}

/// What known bytes did to a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of them belong to it, and more is to come.
    More,
    /// It ended after so many of them.
    Ended(usize),
    /// They are no chunked body.
    Broken,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { remaining: 0, place: Place::Size }
    }

    /// Takes in known bytes, and hands on what of them is data.
    pub(super) fn known(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Progress {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            self.place = match (self.place, byte) {
                (Place::Data, _) => {
                    let left = bytes.len() - (at - 1);
                    let taken = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(left);
                    data(&bytes[at - 1..at - 1 + taken]);
                    at += taken - 1;
                    self.remaining -= taken as u64;
                    if self.remaining == 0 { Place::DataEnd } else { Place::Data }
                }
                (Place::Size | Place::Digits, digit) if digit.is_ascii_hexdigit() => {
                    if self.remaining >> 60 != 0 {
                        return Progress::Broken;
                    }
                    let digit = char::from(*digit).to_digit(16).unwrap_or(0);
                    self.remaining = (self.remaining << 4) | u64::from(digit);
                    Place::Digits
                }
                (Place::Digits, b' ' | b'\t' | b';') => Place::Extension,
                (Place::Digits | Place::Extension, b'\r') => Place::SizeReturn,
                (Place::Digits | Place::Extension | Place::SizeReturn, b'\n') => {
                    if self.remaining == 0 {
                        Place::Trailer
                    } else {
                        Place::Data
                    }
                }
                (Place::Extension, _) => Place::Extension,
                (Place::DataEnd, b'\r') => Place::DataReturn,
                (Place::DataEnd | Place::DataReturn, b'\n') => Place::Size,
                (Place::Trailer | Place::TrailerReturn, b'\n') => return Progress::Ended(at),
                (Place::Trailer, b'\r') => Place::TrailerReturn,
                (Place::TrailerLine, b'\n') => Place::Trailer,
                (Place::Trailer | Place::TrailerLine | Place::TrailerReturn, _) => Place::TrailerLine,
                (Place::Size | Place::Digits | Place::SizeReturn | Place::DataEnd | Place::DataReturn, _) => {
                    return Progress::Broken;
                }
            };
        }
        Progress::More
    }

    /// Takes in `count` bytes that are not known, and tells whether the framing is still known after them: it is when
    /// the current chunk covers them all.
    pub(super) fn hidden(&mut self, count: u64) -> bool {
        if !matches!(self.place, Place::Data) || self.remaining < count {
            return false;
        }
        self.remaining -= count;
        if self.remaining == 0 {
            self.place = Place::DataEnd;
        }
        true
    }
}

/// How a chunked body without trailers ends, from the line end before its last chunk on.
const TERMINATOR: [u8; 7] = *b"\r\n0\r\n\r\n";

/// The last bytes of a chunked body whose framing was lost, because a chunk's header was among the bytes that are not
/// known.
///
/// Such a body is taken to end with the segment after which its last known bytes are `\r\n0\r\n\r\n`. This is an
/// approximation. It misses no end of a body without trailers and without an extension on its last chunk, unless the
/// next message of the same direction begins in the same segment: the last eight bytes of every segment are known, and
/// a shorter segment is known whole, so the terminator is seen however it is split. It sees an end too early only where
/// a segment's border falls within a chunk's data right after those very bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending([u8; 7]);

impl Ending {
    /// Takes in known bytes.
    pub(super) fn known(&mut self, bytes: &[u8]) {
        let size = self.0.len();
        let news = &bytes[bytes.len().saturating_sub(size)..];
        self.0.rotate_left(news.len() % size);
        self.0[size - news.len()..].copy_from_slice(news);
    }

    /// Takes in bytes that are not known.
    pub(super) fn hidden(&mut self) {
        self.0 = Default::default();
    }

    /// Whether a body that ends here would be whole.
    pub(super) fn is_terminator(self) -> bool {
        self.0 == TERMINATOR
    }
}
