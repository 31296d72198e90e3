//! Messages of a compressed stream, put together from what the bot's own library inflated.

use crate::protocols::arrivals::Came;
use crate::protocols::prefix::Prefix;
use crate::units::Nanos;

/// What one call inflated of a message, or one record tells of it.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// When the call returned.
    pub time: Nanos,
    /// When the message had come that ends with it, if that is known.
    pub came: Option<Came>,
    /// The message starts with it.
    pub starts: bool,
    /// The message ends with it.
    pub ends: bool,
    /// How many bytes of the message it stands for.
    pub size: u64,
    /// The first of them, `size` or fewer.
    pub bytes: &'a [u8],
}

/// A message, as far as it is known.
pub(super) struct Inflated<'a> {
    /// When its first piece came.
    pub(super) started: Nanos,
    /// When its last piece came.
    pub(super) time: Nanos,
    /// When it had come to the socket.
    pub(super) came: Came,
    pub(super) size: u64,
    pub(super) bytes: &'a [u8],
    pub(super) whole: bool,
}

/// The message of one stream that has not ended.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    under_way: Option<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    started: Nanos,
    time: Nanos,
    size: u64,
    prefix: Prefix,
}

impl Assembler {
    /// Takes in a piece, and tells what it ended: a message whose end was lost, its own, or both.
    pub(super) fn piece(&mut self, piece: &Piece<'_>, mut tell: impl FnMut(&Inflated<'_>)) {
        let known =
            &piece.bytes[..usize::try_from(piece.size).map_or(piece.bytes.len(), |size| size.min(piece.bytes.len()))];
        if piece.starts {
            self.cut(&mut tell);
            if piece.ends {
                let Piece { time, came, size, .. } = *piece;
                let came = came.unwrap_or(Came::Read(time));
                let whole = known.len() as u64 == size;
                return tell(&Inflated { started: time, time, came, size, bytes: known, whole });
            }
            let (started, time) = (piece.time, piece.time);
            self.under_way = Some(Unfinished { started, time, size: 0, prefix: Prefix::default() });
        }
        // What goes on with a message of which the start was not seen is nothing.
        let Some(message) = &mut self.under_way else { return };
        message.time = piece.time;
        message.size = message.size.saturating_add(piece.size);
        message.prefix.push(known);
        if (known.len() as u64) < piece.size {
            message.prefix.hide();
        }
        if piece.ends {
            self.finish(piece.came, &mut tell);
        }
    }

    /// Takes in that pieces were lost: the message under way is told without its end.
    pub(super) fn cut(&mut self, tell: &mut impl FnMut(&Inflated<'_>)) {
        if let Some(message) = &mut self.under_way {
            message.prefix.hide();
        }
        self.finish(None, tell);
    }

    fn finish(&mut self, came: Option<Came>, tell: &mut impl FnMut(&Inflated<'_>)) {
        let Some(Unfinished { started, time, size, prefix }) = self.under_way.take() else { return };
        let came = came.unwrap_or(Came::Read(time));
        tell(&Inflated { started, time, came, size, bytes: prefix.bytes(), whole: prefix.is_whole() });
    }
}
