//! Folded stacks: `outer;inner count` a line, sorted.

use std::io::{self, Write};

use super::Profile;

pub(super) fn write(profile: &Profile, output: &mut impl Write) -> io::Result<()> {
    for (stack, count) in &profile.stacks {
        for (place, call) in stack.iter().enumerate() {
            let separator = if place == 0 { "" } else { ";" };
            // A name may hold what separates names.
            write!(output, "{separator}{}", call.to_string().replace(';', ":"))?;
        }
        writeln!(output, " {count}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::profile;
    use super::*;

    #[test]
    fn a_line_a_stack() {
        let mut text = Vec::new();
        write(&profile(), &mut text).expect("memory takes all");
        assert_eq!(
            String::from_utf8_lossy(&text),
            "bot;main (bot.py:40);work (bot.py:7) 3\nbot;main (bot.py:41);a:b <c> (bot.py) 1\n"
        );
    }
}
