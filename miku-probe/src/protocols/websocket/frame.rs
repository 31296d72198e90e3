//! The head of a frame (RFC 6455, section 5.2).

/// The longest head.
pub(super) const HEAD_MAX: usize = 14;

/// The longest frame that is believed. Who declares a longer one lies: none could be kept in memory.
pub(super) const LENGTH_MAX: u64 = 1 << 30;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What a frame's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    /// It is the last frame of its message.
    pub(super) last: bool,
    /// Its message is compressed.
    pub(super) compressed: bool,
    pub(super) mask: Option<[u8; 4]>,
    pub(super) length: u64,
}

/// What comes of reading a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// It is whole, and so many bytes long.
    Whole(Head, usize),
    /// More bytes are needed; those that are there may be a head's.
    Partial,
    /// It is none.
    Invalid,
}

/// Reads the head at the start of `bytes`. `masked` tells whether there has to be a mask, if that is known (section 5.1).
pub(super) fn parse(bytes: &[u8], masked: Option<bool>) -> Parsed {
    let Some(first) = bytes.first() else { return Parsed::Partial };
    let (last, compressed) = (first & 0x80 != 0, first & 0x40 != 0);
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Parsed::Invalid,
    };
    // Compression is said in a message's first frame (RFC 7692, section 6.1); control frames are never fragmented.
    let starts_message = matches!(opcode, Opcode::Text | Opcode::Binary);
    if first & 0x30 != 0 || (compressed && !starts_message) || (opcode.is_control() && !last) {
        return Parsed::Invalid;
    }
    let Some(second) = bytes.get(1) else { return Parsed::Partial };
    let (has_mask, short) = (second & 0x80 != 0, second & 0x7f);
    if masked.is_some_and(|masked| masked != has_mask) || (opcode.is_control() && short > 125) {
        return Parsed::Invalid;
    }
    let (extended, least) = match short {
        126 => (2, 126),
        127 => (8, 1 << 16),
        _ => (0, 0),
    };
    let Some(digits) = bytes.get(2..2 + extended) else { return Parsed::Partial };
    let length = match extended {
        0 => u64::from(short),
        _ => digits.iter().fold(0, |length, digit| length << 8 | u64::from(*digit)),
    };
    // The shortest way to write a length is the only one allowed.
    if length < least || length > LENGTH_MAX {
        return Parsed::Invalid;
    }
    let mut end = 2 + extended;
    let mask = if has_mask {
        let Some(mask) = bytes[end..].first_chunk() else { return Parsed::Partial };
        end += mask.len();
        Some(*mask)
    } else {
        None
    };
    Parsed::Whole(Head { opcode, last, compressed, mask, length }, end)
}
