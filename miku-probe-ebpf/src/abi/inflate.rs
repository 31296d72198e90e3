//! What is kept of streams that are decompressed, and what a payload of a gateway looks like.

use crate::{INFLATED_MAX, INFLATED_OTHER};

/// How many bytes tell what a decompressed message may be.
pub const PAYLOAD_LOOK: usize = 16;

/// The keys with which a payload of Discord's gateway may begin, up to the colon.
const PAYLOAD_KEYS: [&[u8]; 4] = [b"{\"t\":", b"{\"op\":", b"{\"s\":", b"{\"d\":"];

/// How the names of those events begin of which more is to be known, with what is before them in a payload that begins
/// with its name; no more than [`PAYLOAD_LOOK`] bytes of it.
const PAYLOAD_TOLD: [&[u8]; 3] = [b"{\"t\":\"MESSAGE_", b"{\"t\":\"INTERACTI", b"{\"t\":\"READY\""];

/// The start of a decompressed message, as far as it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct PayloadLook(u128);

impl PayloadLook {
    /// The first bytes of a message, in two words of the machine's own byte order; one that it does not fill is 0.
    #[must_use]
    #[inline(always)]
    pub const fn new(first: [u64; PAYLOAD_LOOK / 8]) -> Self {
        Self(first[0].to_le() as u128 | (first[1].to_le() as u128) << 64)
    }

    #[inline(always)]
    const fn begins_with(self, text: &[u8]) -> bool {
        let (mut value, mut mask) = (0, 0);
        let mut place = 0;
        while place < text.len() {
            value |= (text[place] as u128) << (place * 8);
            mask |= 0xff << (place * 8);
            place += 1;
        }
        self.0 & mask == value
    }

    /// Whether it may be a payload of Discord's gateway: it begins with one of the four keys that these have.
    #[must_use]
    #[inline(always)]
    pub const fn is_payload(self) -> bool {
        self.begins_with(PAYLOAD_KEYS[0])
            || self.begins_with(PAYLOAD_KEYS[1])
            || self.begins_with(PAYLOAD_KEYS[2])
            || self.begins_with(PAYLOAD_KEYS[3])
    }

    /// How many bytes of the message are to be copied: more of a payload whose event matters, or does not stand at its
    /// start.
    #[must_use]
    #[inline(always)]
    pub const fn budget(self) -> u32 {
        let matters = if self.begins_with(PAYLOAD_KEYS[0]) {
            self.begins_with(PAYLOAD_TOLD[0]) || self.begins_with(PAYLOAD_TOLD[1]) || self.begins_with(PAYLOAD_TOLD[2])
        } else {
            self.is_payload()
        };
        if matters { INFLATED_MAX } else { INFLATED_OTHER }
    }
}

/// A message has begun and not ended.
pub const INFLATE_WITHIN: u32 = 1;

/// When the last call returned, the decompressor stood where a message can end.
pub const INFLATE_BETWEEN_BLOCKS: u32 = 2;

/// What the kernel side keeps of a compressed stream that is reported.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflateStream {
    /// When it was first seen, in nanoseconds of `CLOCK_MONOTONIC`.
    pub generation: u64,
    /// All bytes that came out of it since.
    pub bytes: u64,
    /// Records of it that did not fit the ring.
    pub lost: u32,
    /// Bytes that may still be copied of the current message.
    pub budget: u32,
    /// [`INFLATE_WITHIN`] and [`INFLATE_BETWEEN_BLOCKS`].
    pub flags: u32,
    /// Bytes that were taken in for the current message.
    pub consumed: u32,
}

impl InflateStream {
    /// A stream of which nothing has been told yet.
    #[must_use]
    pub const fn new(generation: u64) -> Self {
        Self { generation, bytes: 0, lost: 0, budget: 0, flags: 0, consumed: 0 }
    }
}

/// A call that decompresses and has begun, by its thread.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InflateCall {
    /// The address of its `z_stream` or `ZSTD_DStream`; 0 when the call has ended.
    pub stream: u64,
    /// Where its output goes.
    pub base: u64,
    /// The address of the `ZSTD_outBuffer`, or 0.
    pub output: u64,
    /// The address of the `ZSTD_inBuffer`, or 0.
    pub input: u64,
    /// Where its input stands, in memory or in that buffer.
    pub from: u64,
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::*;
    use crate::CAPTURE_MAX;

    fn payload(text: &str) -> PayloadLook {
        let (words, _) = text.as_bytes().as_chunks();
        PayloadLook::new([0, 1].map(|number| words.get(number).map_or(0, |word| u64::from_ne_bytes(*word))))
    }

    #[test]
    fn payloads_begin_with_one_of_four_keys() {
        for text in [r#"{"t":null,"s":null,"op":10}"#, r#"{"op":11}"#, r#"{"s":1,"op":0}"#, r#"{"d":251,"op":1}"#] {
            assert!(payload(text).is_payload(), "{text}");
        }
        for text in ["", "{", r#"{"t""#, r#"{ "t":1}"#, r#"{"id":"1"}"#, r#"[{"t":1}]"#, "\u{83}l\0", "<html>"] {
            assert!(!payload(text).is_payload(), "{text}");
            assert_eq!(payload(text).budget(), INFLATED_OTHER, "{text}");
        }
    }

    #[test]
    fn more_is_copied_of_events_that_matter() {
        for name in ["MESSAGE_CREATE", "MESSAGE_REACTION_ADD", "INTERACTION_CREATE", "READY"] {
            assert_eq!(payload(&format!(r#"{{"t":"{name}","s":1}}"#)).budget(), INFLATED_MAX, "{name}");
        }
        for name in ["GUILD_CREATE", "INTEGRATION_CREATE", "READYING", "MESSAGES", "PRESENCE_UPDATE", "X"] {
            assert_eq!(payload(&format!(r#"{{"t":"{name}","s":1}}"#)).budget(), INFLATED_OTHER, "{name}");
        }
        assert_eq!(payload(r#"{"t":null,"s":null,"op":11}"#).budget(), INFLATED_OTHER);
        // Whose name comes later, if it has one.
        assert_eq!(payload(r#"{"op":0,"t":"X"}"#).budget(), INFLATED_MAX);
    }

    #[test]
    fn pieces_fill_what_is_copied_of_a_message() {
        assert_eq!(INFLATED_MAX as usize % CAPTURE_MAX, 0);
    }
}
