//! `cargo xtask mutants`: changes miku-probe in small ways and reports the changes that no unit test notices.
//!
//! cargo-mutants does it, by the settings in `.cargo/mutants.toml`: which files are changed, and that the unit tests of the
//! library judge. What it found is in `target/mutants.out`. All of it takes hours, so it runs in parts: `--shard 0/8` to
//! `--shard 7/8`, or with the paths of some files.

use anyhow::Result;
use clap::Args;

use crate::setup::{self, CargoTool, Need};
use crate::sh::Sh;

/// Change miku-probe in small ways and report the changes that no unit test notices
#[derive(Args)]
pub(crate) struct Mutants {
    /// Only list the changes
    #[arg(long)]
    list: bool,
    /// Make only the changes of this part, counted from 0, of so many parts
    #[arg(long, value_name = "PART/PARTS")]
    shard: Option<String>,
    /// Change only these files, as paths from the workspace or patterns such as `miku-probe/src/protocols/dns.rs`
    paths: Vec<String>,
}

impl Mutants {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(&[Need::Mutants])?;
        self.command(CargoTool::Mutants.command()?).run()
    }

    fn command(&self, program: Sh) -> Sh {
        // As cargo itself would call it.
        let mut command = program.args(["mutants", "--package", "miku-probe", "--output", "target"]);
        if self.list {
            command = command.arg("--list");
        }
        if let Some(shard) = &self.shard {
            command = command.args(["--shard", shard]);
        }
        if self.paths.is_empty() {
            return command;
        }
        // Files on the command line would come on top of those in the settings, so the settings are left out.
        let command =
            self.paths.iter().fold(command.arg("--no-config"), |command, path| command.args(["--file", path]));
        command.args(["--cargo-test-arg", "--lib"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_files_are_handed_on() {
        let all = Mutants { list: false, shard: None, paths: Vec::new() };
        let command = all.command(Sh::new("cargo-mutants")).to_string();
        assert_eq!(command, "cargo-mutants mutants --package miku-probe --output target");
        let part =
            Mutants { list: true, shard: Some("1/8".to_owned()), paths: vec!["a.rs".to_owned(), "b.rs".to_owned()] };
        let command = part.command(Sh::new("cargo-mutants")).to_string();
        let expected = "--list --shard 1/8 --no-config --file a.rs --file b.rs --cargo-test-arg --lib";
        assert!(command.ends_with(expected), "{command}");
    }
}
