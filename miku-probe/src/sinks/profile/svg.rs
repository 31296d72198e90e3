//! A flame graph that needs no script: a box for each call, as wide as the share of samples it is in, its callers below it.
//! Pointing at a box shows its whole text. Lines of one function are one box.
//!
//! Drawn here, since the crate that does it well has a licence (CDDL) that does not go with this program's.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{Call, Profile};

/// Width of the picture, in its own units.
const WIDTH: f64 = 1200.0;
/// Height of a box.
const ROW: f64 = 17.0;
/// What a character takes of a line, so that texts do not leave their boxes.
const CHARACTER: f64 = 7.0;
/// Space for the title above and for what is said below.
const MARGIN: f64 = 34.0;
/// Narrower boxes, and what is above them, are not drawn.
const NARROWEST: f64 = 0.3;
/// Boxes above one another; deeper stacks are cut off.
const DEPTH_MAX: usize = 512;

/// A call and what it called.
#[derive(Default)]
struct Node {
    count: u64,
    calls: BTreeMap<String, Node>,
}

impl Node {
    fn depth(&self) -> usize {
        1 + self.calls.values().map(Self::depth).max().unwrap_or(0)
    }
}

/// `function (file)`, without the line.
fn name(call: &Call) -> String {
    match call {
        Call::Root(text) => text.clone(),
        Call::Python(place) => crate::observations::Place { line: None, ..place.clone() }.to_string(),
    }
}

pub(super) fn write(profile: &Profile, output: &mut impl Write) -> io::Result<()> {
    let mut root = Node::default();
    for (stack, count) in &profile.stacks {
        root.count += count;
        let mut node = &mut root;
        for call in stack.iter().take(DEPTH_MAX) {
            node = node.calls.entry(name(call)).or_default();
            node.count += count;
        }
    }
    let rows = root.depth();
    let height = ROW * to_float(rows as u64) + 2.0 * MARGIN;
    writeln!(
        output,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" \
         font-size=\"11\">\n\
         <style>rect:hover{{stroke:#000;stroke-width:1}}text{{pointer-events:none}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{}\" y=\"22\" text-anchor=\"middle\" font-size=\"15\">{} samples in {:.1} s, one each {:.1} ms</text>",
        WIDTH / 2.0,
        root.count,
        profile.duration.as_secs_f64(),
        profile.period.as_secs_f64() * 1e3,
    )?;
    let total = root.count;
    if total == 0 {
        let middle = height / 2.0;
        writeln!(output, "<text x=\"20\" y=\"{middle}\">nothing was seen to run</text>")?;
    }
    let picture = Picture { total, bottom: height - MARGIN };
    picture.draw("all", &root, 0.0, 0, output)?;
    writeln!(output, "</svg>")
}

struct Picture {
    total: u64,
    bottom: f64,
}

impl Picture {
    fn draw(&self, name: &str, node: &Node, left: f64, row: u64, output: &mut impl Write) -> io::Result<()> {
        let share = to_float(node.count) / to_float(self.total.max(1));
        let width = share * WIDTH;
        if width < NARROWEST {
            return Ok(());
        }
        let top = self.bottom - ROW * to_float(row + 1);
        let [red, green, blue] = color(name);
        let text = escaped(name);
        writeln!(
            output,
            "<g><title>{text}: {} samples, {:.2} %</title><rect x=\"{left:.2}\" y=\"{top:.1}\" width=\"{width:.2}\" \
             height=\"{:.1}\" rx=\"1\" fill=\"rgb({red},{green},{blue})\"/>",
            node.count,
            share * 100.0,
            ROW - 1.0,
        )?;
        let room =
            (0..name.chars().count()).take_while(|count| to_float(*count as u64 + 1) * CHARACTER < width - 6.0).count();
        if room >= 3 {
            let shown = if room < name.chars().count() {
                let start: String = name.chars().take(room - 2).collect();
                escaped(&format!("{start}.."))
            } else {
                text
            };
            writeln!(output, "<text x=\"{:.2}\" y=\"{:.1}\">{shown}</text>", left + 3.0, top + 12.0)?;
        }
        writeln!(output, "</g>")?;
        let mut left = left;
        for (name, call) in &node.calls {
            self.draw(name, call, left, row + 1, output)?;
            left += to_float(call.count) / to_float(self.total) * WIDTH;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a picture has a few thousand points, not fifty bits")]
fn to_float(count: u64) -> f64 {
    count as f64
}

/// A warm colour that is always the same for a name.
fn color(name: &str) -> [u8; 3] {
    // FNV-1a: the same in each run, unlike the hashes of maps.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let [first, second, third, ..] = hash.to_le_bytes();
    [205 + first % 50, 80 + second % 150, third % 60]
}

/// As XML allows it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Not allowed in XML at all.
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            other if other.is_control() => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::testing::{profile, stack};
    use super::*;

    fn drawn(profile: &Profile) -> String {
        let mut text = Vec::new();
        write(profile, &mut text).expect("memory takes all");
        String::from_utf8(text).expect("it is a text")
    }

    #[test]
    fn boxes_are_as_wide_as_their_share() {
        let text = drawn(&profile());
        let width = |name: &str| {
            let (_, rest) =
                text.split_once(&format!("<title>{name}:")).unwrap_or_else(|| panic!("no {name} in {text}"));
            let (_, rest) = rest.split_once("width=\"").expect("there is a box");
            rest.split_once('"').expect("it ends").0.parse::<f64>().expect("it is a number")
        };
        assert_eq!(width("all"), WIDTH);
        assert_eq!(width("main \\(bot.py\\)".replace('\\', "").as_str()), WIDTH, "two lines, one function");
        assert_eq!(width("work (bot.py)"), WIDTH * 0.75);
        assert_eq!(width("a;b &lt;c&gt; (bot.py)"), WIDTH * 0.25);
    }

    #[test]
    fn anything_makes_a_picture() {
        assert!(drawn(&Profile::new(Duration::from_millis(1), SystemTime::UNIX_EPOCH)).contains("nothing was seen"));
        let mut deep = Profile::new(Duration::from_millis(1), SystemTime::UNIX_EPOCH);
        let calls: Vec<(&str, u32)> = vec![("again", 1); 5_000];
        deep.add(stack(&calls));
        let text = drawn(&deep);
        assert_eq!(text.matches("<rect x=").count(), DEPTH_MAX + 1);
        assert!(text.ends_with("</svg>\n"));
    }
}
