//! The log: lines on standard error, each with its time and its level.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::time::SystemTime;

use log::{Level, LevelFilter};

use crate::units::rfc_3339;

/// Starts the log, which leaves out what is less severe than `verbosity`.
pub(super) fn start(verbosity: LevelFilter) {
    env_logger::Builder::new()
        .filter_module("miku_probe", verbosity)
        .format(|line, record| write_line(line, SystemTime::now(), record.level(), *record.args()))
        .init();
}

fn write_line(out: &mut impl Write, time: SystemTime, level: Level, message: fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(out, "{} {level:<5} {}", rfc_3339(time), Escaped(message))
}

/// A message that stays on its line: watched processes choose their names, and a name may hold line feeds and escape
/// sequences of terminals. Control characters are written as Rust writes them in a string.
struct Escaped<'a>(fmt::Arguments<'a>);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaper(formatter).write_fmt(self.0)
    }
}

struct Escaper<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaper<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            match part.char_indices().next_back() {
                Some((end, last)) if last.is_control() => {
                    write!(self.0, "{}{}", &part[..end], last.escape_default())?;
                }
                _ => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(level: Level, message: fmt::Arguments<'_>) -> String {
        let mut line = Vec::new();
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_987);
        write_line(&mut line, time, level, message).expect("memory takes all");
        String::from_utf8(line).expect("it is a text")
    }

    #[test]
    fn a_line_has_the_time_the_level_and_the_message() {
        let info = line(Level::Info, format_args!("watching {}", 42));
        assert_eq!(info, "2023-11-14T22:13:20.123Z INFO  watching 42\n");
        assert_eq!(line(Level::Error, format_args!("no")), "2023-11-14T22:13:20.123Z ERROR no\n");
    }

    #[test]
    fn a_name_cannot_begin_another_line_or_control_the_terminal() {
        let name = "bot\n2023-11-14T22:13:20.123Z ERROR fake\r\u{1b}[2J\u{9b}é";
        let shown = line(Level::Warn, format_args!("cannot watch {name}: no"));
        let expected = r"cannot watch bot\n2023-11-14T22:13:20.123Z ERROR fake\r\u{1b}[2J\u{9b}é: no";
        assert_eq!(shown, format!("2023-11-14T22:13:20.123Z WARN  {expected}\n"));
    }
}
