//! JSON (RFC 8259) of which perhaps only the first bytes are known: a pull scanner over a borrowed slice.
//!
//! It allocates nothing, keeps nothing, never recurses, and takes time in proportion to the bytes. It is no validator:
//! it reads what well-behaved writers write, and on anything else it stops or tells nonsense, but never panics. What it
//! tells borrows from the input and may hold secrets.
//!
//! ```
//! use miku_probe::protocols::json::{Scanner, What};
//!
//! let mut scanner = Scanner::new(br#"{"op":0,"d":{"author":{"id":"1"},"channel_id":"42","content":"hel"#);
//! let mut channel = None;
//! while let Some(item) = scanner.next() {
//!     match (item.depth, item.what) {
//!         (2, What::Object | What::Array) => scanner.leave(),
//!         (2, what) if item.is("channel_id") => channel = what.id(),
//!         _ => {}
//!     }
//! }
//! assert_eq!(channel, Some(42));
//! ```

use std::hash::BuildHasher;

use memchr::{memchr2, memmem};
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// The deepest container that is looked into; a deeper one is told as if it were empty.
pub const DEPTH_MAX: u32 = 63;

/// Reads a JSON text item by item.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// One bit an open container, the innermost lowest: whether it is an object. There is room for one that is deeper than
    /// is looked into.
    objects: u64,
    depth: u32,
    expects: Expects,
}

/// What has to come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Value,
    /// After a container's opening bracket.
    FirstOrEnd,
    /// After a comma within an object.
    Key,
    CommaOrEnd,
    Nothing(Stop),
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The text's value has ended; what may follow it is not looked at.
    Whole,
    /// The known bytes ended first.
    Truncated,
    /// It is no JSON.
    Malformed,
}

/// One thing found: a value or a container's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// How many containers it is in: 0 for the text's own value. A container's end has its opening's depth.
    pub depth: u32,
    /// The member's name, if it is a member of an object.
    pub key: Option<Text<'a>>,
    /// What it is.
    pub what: What<'a>,
}

/// A value, or as much of it as is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// An object begins; its members follow, then its end.
    Object,
    /// An array begins; its elements follow, then its end.
    Array,
    /// The innermost container ended.
    End,
    /// A string.
    Text(Text<'a>),
    /// A number.
    Number(Number<'a>),
    /// A truth value.
    Bool(bool),
    /// `null`.
    Null,
}

/// A string, as it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
    whole: bool,
}

/// A number, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<'a> {
    raw: &'a [u8],
    whole: bool,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of a JSON text of which `bytes` are the first, or all.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, objects: 0, depth: 0, expects: Expects::Value }
    }

    /// A scanner at the value of the first member with this name, which is given in quotes, in bytes from somewhere in a JSON
    /// text. Within a string the quote at the name's end would be escaped, so what reads like a member's name is one; how
    /// deep it is nobody knows.
    #[must_use]
    pub fn behind(bytes: &'a [u8], name: &str) -> Option<Self> {
        memmem::find_iter(bytes, name).find_map(|at| {
            let rest = bytes[at + name.len()..].trim_ascii_start().strip_prefix(b":")?;
            Some(Self::new(rest))
        })
    }

    /// Why the last call to [`Iterator::next`] gave nothing; nothing while it may still give something.
    #[must_use]
    pub const fn stop(&self) -> Option<Stop> {
        match self.expects {
            Expects::Nothing(stop) => Some(stop),
            _ => None,
        }
    }

    /// How many containers are open.
    #[must_use]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// How many bytes have been read.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.at
    }

    /// Passes over what is left of the innermost open container, which is the one that was told last if that was one. Its
    /// end is not told.
    pub fn leave(&mut self) {
        if self.depth > 0 && self.stop().is_none() {
            self.pass();
            self.close();
        }
    }

    /// Reads on until the innermost open container is closed. Whether brackets match is not looked at.
    fn pass(&mut self) {
        let mut open = 1u64;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => _ = self.text(),
                b'{' | b'[' => open += 1,
                b'}' | b']' => {
                    open -= 1;
                    if open == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
        self.expects = Expects::Nothing(Stop::Truncated);
    }

    /// Takes the innermost container as ended.
    fn close(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
        if self.stop().is_none() {
            self.expects = self.after_value();
        }
    }

    const fn after_value(&self) -> Expects {
        if self.depth == 0 { Expects::Nothing(Stop::Whole) } else { Expects::CommaOrEnd }
    }

    const fn in_object(&self) -> bool {
        self.depth > 0 && self.objects & 1 == 1
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// The string whose opening quote was just read.
    fn text(&mut self) -> Text<'a> {
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            match memchr2(b'"', b'\\', rest) {
                Some(found) if rest[found] == b'"' => {
                    let end = self.at + found;
                    self.at = end + 1;
                    return Text { raw: &self.bytes[start..end], escaped, whole: true };
                }
                Some(found) => {
                    escaped = true;
                    self.at += found + 2;
                }
                None => {
                    self.at = self.bytes.len();
                    return Text { raw: &self.bytes[start..], escaped, whole: false };
                }
            }
        }
    }

    fn stopped<T>(&mut self, stop: Stop) -> Option<T> {
        self.expects = Expects::Nothing(stop);
        None
    }

    /// The member's name that starts with the quote at hand, and the colon after it.
    fn key(&mut self) -> Option<Text<'a>> {
        self.at += 1;
        let key = self.text();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return self.stopped(Stop::Malformed),
            None => return self.stopped(Stop::Truncated),
        }
        Some(key)
    }

    fn value(&mut self, key: Option<Text<'a>>) -> Option<Item<'a>> {
        let Some(byte) = self.peek() else { return self.stopped(Stop::Truncated) };
        let depth = self.depth;
        let what = match byte {
            b'{' | b'[' => {
                self.at += 1;
                self.objects = (self.objects << 1) | u64::from(byte == b'{');
                self.depth += 1;
                self.expects = Expects::FirstOrEnd;
                return Some(Item { depth, key, what: if byte == b'{' { What::Object } else { What::Array } });
            }
            b'"' => {
                self.at += 1;
                What::Text(self.text())
            }
            b'-' | b'0'..=b'9' => {
                let rest = &self.bytes[self.at..];
                let part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
                let length = rest.iter().position(|byte| !part(byte)).unwrap_or(rest.len());
                self.at += length;
                What::Number(Number { raw: &rest[..length], whole: length < rest.len() })
            }
            b't' => self.literal("true", What::Bool(true))?,
            b'f' => self.literal("false", What::Bool(false))?,
            b'n' => self.literal("null", What::Null)?,
            _ => return self.stopped(Stop::Malformed),
        };
        self.expects = self.after_value();
        Some(Item { depth, key, what })
    }

    fn literal(&mut self, literal: &str, what: What<'a>) -> Option<What<'a>> {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(literal.as_bytes()) {
            self.at += literal.len();
            return Some(what);
        }
        self.stopped(if literal.as_bytes().starts_with(rest) { Stop::Truncated } else { Stop::Malformed })
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        if self.depth > DEPTH_MAX && self.expects == Expects::FirstOrEnd {
            self.pass();
            if self.stop().is_some() {
                return None;
            }
            self.close();
            return Some(Item { depth: self.depth, key: None, what: What::End });
        }
        loop {
            if self.stop().is_some() {
                return None;
            }
            let Some(byte) = self.peek() else { return self.stopped(Stop::Truncated) };
            match (self.expects, byte) {
                (Expects::FirstOrEnd | Expects::CommaOrEnd, b'}' | b']') => {
                    if (byte == b'}') != self.in_object() {
                        return self.stopped(Stop::Malformed);
                    }
                    self.at += 1;
                    self.close();
                    return Some(Item { depth: self.depth, key: None, what: What::End });
                }
                (Expects::CommaOrEnd, b',') => {
                    self.at += 1;
                    self.expects = if self.in_object() { Expects::Key } else { Expects::Value };
                }
                (Expects::FirstOrEnd | Expects::Key, b'"') if self.in_object() => {
                    let key = self.key()?;
                    return self.value(Some(key));
                }
                (Expects::Value, _) => return self.value(None),
                (Expects::FirstOrEnd, _) if !self.in_object() => return self.value(None),
                _ => return self.stopped(Stop::Malformed),
            }
        }
    }
}

impl Item<'_> {
    /// Whether it is a member of this name.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.key.is_some_and(|key| key.is(name))
    }
}

impl What<'_> {
    /// The id that it is: a number without sign and fraction, perhaps written as a string.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Text(text) => text.id(),
            Self::Number(number) => number.unsigned(),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Text<'_> {
    /// Shows nothing of it: it may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Text")
            .field("length", &self.raw.len())
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

impl<'a> Text<'a> {
    /// Between the quotes, escapes as they stand.
    #[must_use]
    pub const fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Whether its end is known.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.whole
    }

    /// Whether it is known to have no characters.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.raw.is_empty() && self.whole
    }

    /// Whether it reads so; no text of which the end is not known does.
    #[must_use]
    pub fn is(self, text: &str) -> bool {
        self.whole && if self.escaped { self.decoded().eq(text.bytes()) } else { self.raw == text.as_bytes() }
    }

    /// Its characters as UTF-8, escapes undone, as far as they are known. What stands there that is no UTF-8 stays as it is.
    #[must_use]
    pub const fn decoded(self) -> Decoded<'a> {
        Decoded { raw: self.raw, character: [0; 4], left: 0 }
    }

    /// The id that it is: up to 20 digits, and all of them known.
    #[must_use]
    pub fn id(self) -> Option<u64> {
        if self.whole && !self.escaped { unsigned(self.raw) } else { None }
    }

    /// Its hash, if it is whole: the same however it is escaped, and the same as `hasher.hash_one` of its bytes as a slice
    /// (of a `str` it would be another).
    #[must_use]
    pub fn hash(self, hasher: &impl BuildHasher) -> Option<u64> {
        if !self.whole {
            return None;
        }
        if !self.escaped {
            return Some(hasher.hash_one(self.raw));
        }
        // Room for all at once, for a buffer that grew would leave its first bytes behind: no escape is shorter than
        // what it stands for.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.raw.len()));
        bytes.extend(self.decoded());
        Some(hasher.hash_one(bytes.as_slice()))
    }
}

impl<'a> Number<'a> {
    /// As it stands.
    #[must_use]
    pub const fn raw(self) -> &'a [u8] {
        self.raw
    }

    /// Its value, if all of it is known and it has neither sign, fraction nor exponent.
    #[must_use]
    pub fn unsigned(self) -> Option<u64> {
        if self.whole { unsigned(self.raw) } else { None }
    }

    /// Its value, if all of it is known.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        if self.whole { str::from_utf8(self.raw).ok()?.parse().ok() } else { None }
    }
}

fn unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The bytes of a string, escapes undone.
#[derive(Clone)]
pub struct Decoded<'a> {
    raw: &'a [u8],
    /// A character that stood as an escape, its bytes that are still to come last.
    character: [u8; 4],
    left: u8,
}

impl Decoded<'_> {
    /// Takes the four digits of a `\u` escape.
    fn unit(&mut self) -> Option<u32> {
        let (digits, rest) = self.raw.split_at_checked(4)?;
        let unit = digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))?;
        self.raw = rest;
        Some(unit)
    }

    /// The character of the escape after whose backslash it stands; nothing when it is cut off.
    fn escape(&mut self) -> Option<char> {
        let (kind, rest) = self.raw.split_first()?;
        self.raw = rest;
        Some(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let is_pair = (0xd800..0xdc00).contains(&unit);
                let after = self.raw;
                match self.raw.strip_prefix(b"\\u") {
                    Some(rest) if is_pair => {
                        self.raw = rest;
                        match self.unit() {
                            Some(low) if (0xdc00..0xe000).contains(&low) => {
                                char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).unwrap_or_default()
                            }
                            _ => {
                                self.raw = after;
                                char::REPLACEMENT_CHARACTER
                            }
                        }
                    }
                    _ => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            other if other.is_ascii() => char::from(*other),
            _ => char::REPLACEMENT_CHARACTER,
        })
    }
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.left == 0 {
            let (byte, rest) = self.raw.split_first()?;
            self.raw = rest;
            if *byte != b'\\' {
                return Some(*byte);
            }
            let Some(character) = self.escape() else {
                self.raw = b"";
                return None;
            };
            let size = character.len_utf8();
            character.encode_utf8(&mut self.character[4 - size..]);
            self.left = u8::try_from(size).unwrap_or(4);
        }
        let byte = self.character[usize::from(4 - self.left)];
        self.left -= 1;
        Some(byte)
    }
}
