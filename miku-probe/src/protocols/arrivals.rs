//! When what a process reads had come to its socket, and so for how long it lay there unread.
//!
//! The kernel side tells of each read that took bytes which had waited, which of these came when: a [`Batch`]. An [`Unread`]
//! puts that down to what is seen of a connection above the socket:
//!
//! - Plain bytes are those of the batch, in their order.
//! - What is read of a TLS stream are its records, each longer on the wire by what its cipher adds. How much that is, and that
//!   nothing else was among them, is known when all that was read of a batch fills it exactly. Until then nothing is known of
//!   their places, and of their times only what is the same for all of them.
//! - Messages of a websocket are frames, one after the other, and whoever reads takes them one by one, later. A message that
//!   takes all that was read begins where the bytes before it end; from then on they are counted. Control frames and others
//!   that nobody takes end that, until a message is again as long as all that lies there.
//!
//! Nothing is guessed: what fits no such rule came [some time before](Came::Before) it was read.

use std::collections::VecDeque;

use crate::units::Nanos;

#[cfg(test)]
mod tests;

/// What a record of TLS is longer by than what is read of it: with TLS 1.3 five bytes of a head, the type and a tag of 16
/// (RFC 8446, section 5.2); with 1.2 the head, a tag, and with AES a nonce of 8 (RFC 5288, section 3; RFC 7905, section 2).
const OVERHEADS: [u64; 3] = [22, 29, 21];

/// Times that are no further apart are one: it is the last of them.
const ALIKE: Nanos = Nanos(1_000_000);

/// How many pieces of a connection are kept in mind that were read and that no message has taken.
const PIECES_MAX: usize = 1024;

/// When something had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// Then.
    At(Nanos),
    /// No more than half a millisecond before it was read, then.
    Read(Nanos),
    /// Before it was read, then. It had waited, and nobody knows for how long.
    Before(Nanos),
}

impl Came {
    /// The best that is known.
    #[must_use]
    pub const fn time(self) -> Nanos {
        let (Self::At(time) | Self::Read(time) | Self::Before(time)) = self;
        time
    }
}

/// What one read took from a socket, of which something had waited. By default nothing is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Where what came at once ends, and when it came, if that is known; in order, and without a gap.
    spans: Vec<(u64, Option<Nanos>)>,
}

impl Batch {
    /// The `size` bytes before the sequence number `end`, some of which came at these times: from the first of these numbers to
    /// before the second. They may be in any order, and of other bytes too.
    #[must_use]
    pub fn new(end: u32, size: u32, arrivals: impl Iterator<Item = (u32, u32, Nanos)>) -> Self {
        let start = end.wrapping_sub(size);
        let size = i64::from(size);
        // Sequence numbers go around; what is told is far less than half of them.
        #[allow(clippy::cast_possible_wrap, reason = "the distance of two sequence numbers has a sign")]
        let place = |number: u32| i64::from(number.wrapping_sub(start) as i32);
        let mut known: Vec<_> = arrivals
            .map(|(from, to, time)| (place(from).max(0), place(to).min(size), time))
            .filter(|(from, to, _)| from < to)
            .collect();
        known.sort_unstable();
        let mut spans = Vec::new();
        let mut done = 0;
        let mut push = |to: i64, time| spans.push((to.unsigned_abs(), time));
        for (from, to, time) in known {
            if from > done {
                push(from, None);
            }
            if to > done {
                push(to, Some(time));
                done = to;
            }
        }
        if done < size {
            push(size, None);
        }
        Self { spans }
    }

    fn size(&self) -> u64 {
        self.spans.last().map_or(0, |(end, _)| *end)
    }

    /// When the last of the first `end` bytes came.
    fn came(&self, end: u64) -> Option<Nanos> {
        self.spans.iter().find(|(to, _)| end <= *to).and_then(|(_, time)| *time)
    }

    /// When all of it came, if that was at once.
    fn at_once(&self) -> Option<Nanos> {
        let first = self.spans.first()?.1?;
        let last = self.spans.iter().try_fold(first, |last, (_, time)| Some(last.max((*time)?)))?;
        (last.since(first) <= ALIKE).then_some(last)
    }
}

/// A batch that is being read.
#[derive(Debug)]
struct Reading {
    batch: Batch,
    /// Bytes that were read of it.
    taken: u64,
    /// In so many reads.
    reads: u64,
}

/// Bytes that were read and that no message has taken.
#[derive(Clone, Copy, Debug)]
struct Piece {
    size: u64,
    came: Came,
}

/// One direction of a connection: what was read of it, and when it had come.
#[derive(Debug, Default)]
pub struct Unread {
    encrypted: bool,
    reading: Option<Reading>,
    /// What a record is longer by, once that is known.
    overhead: Option<u64>,
    messages: Option<Messages>,
}

/// What was read and is taken by messages.
#[derive(Debug, Default)]
struct Messages {
    pieces: VecDeque<Piece>,
    /// Bytes of all of them.
    size: u64,
    /// The next message begins with the first of them.
    aligned: bool,
    /// When something was last read.
    read: Nanos,
}

impl Unread {
    /// A connection that is `encrypted` or not, of which nothing has been read.
    #[must_use]
    pub fn new(encrypted: bool) -> Self {
        Self { encrypted, ..Self::default() }
    }

    /// Has it kept in mind what is read, for whoever takes it by messages.
    pub fn follow(&mut self) {
        self.messages.get_or_insert_default();
    }

    /// Takes in that what is read next is of this batch; of none, if nothing of it had waited.
    pub fn batch(&mut self, batch: Option<Batch>) {
        self.reading = batch.map(|batch| Reading { batch, taken: 0, reads: 0 });
    }

    /// Takes in that so many bytes were read, and tells when the last of them had come.
    pub fn read(&mut self, size: u64, time: Nanos) -> Came {
        if let Some(messages) = &mut self.messages {
            messages.read = time;
        }
        let Some(reading) = &mut self.reading else {
            self.keep(size, Came::Read(time));
            return Came::Read(time);
        };
        reading.taken = reading.taken.saturating_add(size);
        reading.reads += 1;
        if self.encrypted { self.read_record(size, time) } else { self.read_plain(size, time) }
    }

    fn read_plain(&mut self, size: u64, time: Nanos) -> Came {
        let Some(Reading { batch, taken, reads }) = self.reading.take() else { return Came::Read(time) };
        let (mut done, mut last) = (taken - size, Came::Before(time));
        for (to, came) in &batch.spans {
            let to = taken.min(*to);
            if to > done {
                last = came.map_or(Came::Before(time), Came::At);
                self.keep(to - done, last);
                done = to;
            }
        }
        if done < taken {
            // More than there was: something was missed.
            last = Came::Before(time);
            self.keep(taken - done, last);
        } else if taken < batch.size() {
            self.reading = Some(Reading { batch, taken, reads });
        }
        last
    }

    fn read_record(&mut self, size: u64, time: Nanos) -> Came {
        let Some(Reading { batch, taken, reads }) = self.reading.take() else { return Came::Read(time) };
        let length = |overhead: u64| taken.saturating_add(reads * overhead);
        let known = self.overhead;
        let perhaps = || OVERHEADS.into_iter().filter(|overhead| known.is_none_or(|known| known == *overhead));
        if let Some(overhead) = perhaps().find(|overhead| length(*overhead) == batch.size()) {
            self.overhead = Some(overhead);
            self.place_records(&batch, taken - size, reads - 1, overhead);
            let came = batch.came(batch.size()).map_or(Came::Before(time), Came::At);
            self.keep(size, came);
            return came;
        }
        if perhaps().all(|overhead| length(overhead) > batch.size()) {
            // It was not what it seemed to be.
            self.overhead = None;
            self.keep(size, Came::Before(time));
            return Came::Before(time);
        }
        let came = batch.at_once().map_or(Came::Before(time), Came::At);
        self.keep(size, came);
        self.reading = Some(Reading { batch, taken, reads });
        came
    }

    /// Says when the records before the last of a batch had come, `reads` of them with `taken` bytes.
    fn place_records(&mut self, batch: &Batch, taken: u64, reads: u64, overhead: u64) {
        let Some(Messages { pieces, .. }) = &mut self.messages else { return };
        let mut end = taken + reads * overhead;
        let count = usize::try_from(reads).unwrap_or(usize::MAX);
        for piece in pieces.iter_mut().rev().take(count) {
            if let Some(came) = batch.came(end) {
                piece.came = Came::At(came);
            }
            end = end.saturating_sub(piece.size + overhead);
        }
    }

    fn keep(&mut self, size: u64, came: Came) {
        let Some(messages) = &mut self.messages else { return };
        if messages.pieces.len() >= PIECES_MAX {
            messages.lose();
        }
        messages.size = messages.size.saturating_add(size);
        messages.pieces.push_back(Piece { size, came });
    }

    /// Takes in that something was read which no message takes.
    pub fn lose(&mut self) {
        if let Some(messages) = &mut self.messages {
            messages.lose();
        }
    }

    /// Takes in that reads were missed.
    pub fn gap(&mut self) {
        self.reading = None;
        self.lose();
    }

    /// Takes in that a message of so many bytes was taken, and tells when its last byte had come. Where it is not known which
    /// bytes were its own it had come [before](Came::Before) something was last read, and nothing is told if none had waited.
    pub fn take(&mut self, payload: u64) -> Option<Came> {
        self.messages.as_mut()?.take(frame(payload))
    }
}

impl Messages {
    fn lose(&mut self) {
        self.pieces.clear();
        self.size = 0;
        self.aligned = false;
    }

    fn take(&mut self, mut size: u64) -> Option<Came> {
        self.aligned = if self.aligned { size <= self.size } else { size == self.size };
        if !self.aligned {
            // Whatever had waited may be part of another message, which came long before this one.
            let waited = self.pieces.iter().any(|piece| !matches!(piece.came, Came::Read(_)));
            self.lose();
            return waited.then_some(Came::Before(self.read));
        }
        self.size -= size;
        loop {
            let piece = self.pieces.front_mut()?;
            let came = piece.came;
            if piece.size > size {
                piece.size -= size;
                return Some(came);
            }
            size -= piece.size;
            self.pieces.pop_front();
            if size == 0 {
                return Some(came);
            }
        }
    }
}

/// The length of a frame without a mask around so many bytes (RFC 6455, section 5.2).
const fn frame(payload: u64) -> u64 {
    payload.saturating_add(match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    })
}
