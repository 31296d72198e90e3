//! Lines of text with inks, and how they are written: with colours or without, to a given width.

use std::fmt::Write as _;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Which characters may be drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Glyphs {
    /// Block elements, arrows and the micro sign.
    #[default]
    Unicode,
    /// ASCII alone.
    Ascii,
}

/// How things are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Which characters.
    pub glyphs: Glyphs,
    /// Whether colours and weights are written.
    pub color: bool,
}

/// What a piece of text means, from which its colour follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Ordinary text.
    Plain,
    /// The name of the thing.
    Title,
    /// What one reads first.
    Strong,
    /// What one reads last.
    Dim,
    /// A marker of a percentile.
    Marker,
    /// The interval, where it is no more than the total.
    Interval,
    /// The total, where it is more than the interval.
    Total,
    /// The interval, where it is more than the total.
    Excess,
    /// The interval, on the ground of the total.
    IntervalOnTotal,
    /// The interval, on the ground of its excess.
    IntervalOnExcess,
    /// Something to look into.
    Warning,
    /// Something that failed.
    Error,
}

impl Ink {
    /// The parameters of SGR (ECMA-48, 8.3.117), from the 256 colours that every terminal in use knows; empty for none.
    const fn sgr(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Title => "1;38;5;43",
            Self::Strong => "1",
            Self::Dim => "38;5;244",
            Self::Marker => "38;5;176",
            Self::Interval => "38;5;43",
            Self::Total => "38;5;25",
            Self::Excess => "38;5;105",
            Self::IntervalOnTotal => "38;5;43;48;5;25",
            Self::IntervalOnExcess => "38;5;43;48;5;105",
            Self::Warning => "1;38;5;214",
            Self::Error => "1;38;5;203",
        }
    }
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    spans: Vec<(Ink, String)>,
    width: usize,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many columns it takes.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Appends `text`, which holds no control characters or others without a width.
    pub fn push(&mut self, ink: Ink, text: &str) {
        if text.is_empty() {
            return;
        }
        self.width += text.width();
        match self.spans.last_mut() {
            Some((last, end)) if *last == ink => end.push_str(text),
            _ => self.spans.push((ink, text.to_owned())),
        }
    }

    /// Appends another line.
    pub fn append(&mut self, other: &Self) {
        for (ink, text) in &other.spans {
            self.push(*ink, text);
        }
    }

    /// Appends spaces up to `column`.
    pub fn pad_to(&mut self, column: usize) {
        if column > self.width {
            self.push(Ink::Plain, &" ".repeat(column - self.width));
        }
    }

    /// Appends `text` at the right of a cell of `width` columns.
    pub fn push_right(&mut self, ink: Ink, text: &str, width: usize) {
        self.pad_to(self.width + width.saturating_sub(text.width()));
        self.push(ink, text);
    }

    /// Appends `text` at the left of a cell of `width` columns.
    pub fn push_left(&mut self, ink: Ink, text: &str, width: usize) {
        let end = self.width + width;
        self.push(ink, text);
        self.pad_to(end);
    }

    /// The line as bytes for a terminal or a file, cut at `columns`, without an end of line.
    #[must_use]
    pub fn encode(&self, columns: usize, color: bool) -> String {
        let mut text = String::new();
        let mut left = columns;
        for (ink, span) in &self.spans {
            let span = cut(span, left);
            left -= span.width();
            if color && !ink.sgr().is_empty() && !span.is_empty() {
                write!(text, "\x1b[{}m{span}\x1b[0m", ink.sgr()).expect("a string takes all that is written");
            } else {
                text.push_str(span);
            }
        }
        text
    }
}

/// The longest start of `text` that takes at most `columns`.
fn cut(text: &str, columns: usize) -> &str {
    let mut width = 0;
    for (index, character) in text.char_indices() {
        width += character.width().unwrap_or(0);
        if width > columns {
            return &text[..index];
        }
    }
    text
}

/// What stands where text is left out.
const fn ellipsis(glyphs: Glyphs) -> char {
    match glyphs {
        Glyphs::Unicode => '…',
        Glyphs::Ascii => '~',
    }
}

/// `text` in at most `columns` columns, with a mark where its end is left out.
pub(super) fn fit(text: &str, columns: usize, glyphs: Glyphs) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    match columns {
        0 => String::new(),
        _ => format!("{}{}", cut(text, columns - 1), ellipsis(glyphs)),
    }
}

/// `text` in at most `columns` columns, with a mark where its middle is left out: the end of a route tells more than what
/// stands before.
pub(super) fn fit_middle(text: &str, columns: usize, glyphs: Glyphs) -> String {
    if text.width() <= columns || columns < 3 {
        return fit(text, columns, glyphs);
    }
    let head = cut(text, columns / 3);
    let room = columns - 1 - head.width();
    let tail =
        text.char_indices().find(|(index, _)| text[*index..].width() <= room).map_or("", |(index, _)| &text[index..]);
    format!("{head}{}{tail}", ellipsis(glyphs))
}

/// `text` with a replacement for every character that has no width of its own: control characters could steer the
/// terminal, and marks without width or of another writing direction would shift what stands beside them.
pub(super) fn printable(text: &str, glyphs: Glyphs) -> String {
    text.chars()
        .map(|character| match glyphs {
            Glyphs::Ascii if !matches!(character, ' '..='~') => '?',
            Glyphs::Unicode if character.width().unwrap_or(0) == 0 => '\u{fffd}',
            _ => character,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_the_terminal_is_replaced() {
        assert_eq!(printable("/a\x1b[2J\u{9b}\u{202e}\n", Glyphs::Unicode), "/a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(printable("/ボット\x07", Glyphs::Ascii), "/????");
        assert_eq!(printable("/ボット", Glyphs::Unicode), "/ボット");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(fit("ボット", 6, Glyphs::Unicode), "ボット");
        assert_eq!(fit("ボット", 5, Glyphs::Unicode), "ボッ…");
        assert_eq!(fit("ボット", 4, Glyphs::Ascii), "ボ~");
        assert_eq!(fit("abc", 0, Glyphs::Unicode), "");
        assert_eq!(fit_middle("/channels/{id}/messages", 15, Glyphs::Unicode), "/chan…/messages");
        assert_eq!(fit_middle("/ボット/ボット", 9, Glyphs::Ascii), "/ボ~ット");
        let mut line = Line::new();
        line.push_left(Ink::Plain, "ボ", 4);
        line.push_right(Ink::Plain, "x", 3);
        assert_eq!((line.encode(80, false).as_str(), line.width()), ("ボ    x", 7));
    }

    #[test]
    fn a_line_is_cut_at_the_width_and_leaves_no_colour_behind() {
        let mut line = Line::new();
        line.push(Ink::Strong, "abc");
        line.push(Ink::Plain, "def");
        line.push(Ink::Warning, "ghi");
        assert_eq!(line.encode(5, true), "\x1b[1mabc\x1b[0mde");
        assert_eq!(line.encode(7, false), "abcdefg");
    }
}
