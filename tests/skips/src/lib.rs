//! Tests that cannot run on a machine: counted by reason, or failed where every test must run.
//!
//! A test that finds no Python, no root or no kernel feature calls [`skip`] and returns. Rust's test harness counts such
//! a test as passed, so the reason goes where `cargo xtask test` finds it:
//!
//! ```no_run
//! let Ok(python) = std::process::Command::new("python3").arg("--version").output() else {
//!     return test_skips::skip("there is no Python interpreter");
//! };
//! ```
//!
//! Two environment variables, which `cargo xtask test` sets, say what a skip means: [`POLICY`] and [`FILE`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The environment variable that says what a skip means: `allowed`, which is the default, or `forbidden`.
pub const POLICY: &str = "MIKU_PROBE_SKIPS";

/// The environment variable with the path of the file to which skips are appended, one reason a line.
pub const FILE: &str = "MIKU_PROBE_SKIPS_FILE";

/// Skips the calling test, which returns right after.
///
/// The reason names what is missing, without the test's name or anything else that differs between tests: skips are
/// added up by it.
///
/// # Panics
/// Panics with the reason where [`POLICY`] is `forbidden`. Panics as well where the skip would otherwise be lost: on
/// any other value of [`POLICY`] than the two, and when the file named by [`FILE`] cannot be written.
#[track_caller]
pub fn skip(reason: &str) {
    // Not `eprintln!`, whose output the test harness withholds from a test that passes.
    skip_by(|name| std::env::var_os(name), &mut io::stderr(), reason);
}

#[track_caller]
fn skip_by(variable: impl Fn(&str) -> Option<OsString>, terminal: &mut impl Write, reason: &str) {
    let policy = variable(POLICY).unwrap_or_else(|| "allowed".into());
    match policy.to_str() {
        Some("allowed") => {}
        Some("forbidden") => panic!("skipped, but {POLICY}=forbidden: {reason}"),
        _ => panic!("{POLICY} is {}; it must be allowed or forbidden", policy.display()),
    }
    let _ = writeln!(terminal, "SKIPPED: {reason}");
    if let Some(file) = variable(FILE)
        && let Err(error) = append(Path::new(&file), reason)
    {
        panic!("cannot record in {} that a test was skipped ({reason}): {error}", file.display());
    }
}

/// Appends one line by one write, because tests and test programs append side by side.
fn append(file: &Path, reason: &str) -> io::Result<()> {
    let line = format!("{}\n", reason.split_whitespace().collect::<Vec<_>>().join(" "));
    OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

/// Returns how many tests were skipped for each reason, from the file that [`FILE`] named; nothing when no test was
/// skipped, because then there is no file.
///
/// # Errors
/// Fails when the file exists and cannot be read.
pub fn read(file: &Path) -> io::Result<BTreeMap<String, usize>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let mut skips = BTreeMap::new();
    for line in text.lines() {
        *skips.entry(line.to_owned()).or_default() += 1;
    }
    Ok(skips)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::panic;
    use std::path::PathBuf;

    /// Skips under these values of the two variables; returns what it said on the terminal, or panicked with.
    fn skip_with(policy: Option<&str>, file: Option<&Path>, reason: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "MIKU_PROBE_SKIPS" => policy.map(OsString::from),
            "MIKU_PROBE_SKIPS_FILE" => file.map(|file| file.as_os_str().to_owned()),
            _ => None,
        };
        let said = panic::catch_unwind(|| {
            let mut terminal = Vec::new();
            skip_by(variable, &mut terminal, reason);
            String::from_utf8(terminal).expect("text")
        });
        said.map_err(|panic| *panic.downcast().expect("a formatted panic"))
    }

    fn file_in(directory: &tempfile::TempDir) -> PathBuf {
        directory.path().join("skips")
    }

    #[test]
    fn counts_skips_by_reason() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = file_in(&directory);
        assert_eq!(read(&file).expect("no file is no skip"), BTreeMap::new());
        for (policy, reason) in [(None, "no root"), (Some("allowed"), "no\n  Python"), (None, "no root")] {
            skip_with(policy, Some(&file), reason).expect("skips are allowed");
        }
        let expected = BTreeMap::from([("no Python".to_owned(), 1), ("no root".to_owned(), 2)]);
        assert_eq!(read(&file).expect("the file was written"), expected);
    }

    #[test]
    fn panics_with_the_reason_where_skips_are_forbidden() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = file_in(&directory);
        let panic = skip_with(Some("forbidden"), Some(&file), "no root").expect_err("skips are forbidden");
        assert_eq!(panic, "skipped, but MIKU_PROBE_SKIPS=forbidden: no root");
        assert!(!file.exists(), "a failed test is not a skipped one");
    }

    #[test]
    fn refuses_an_unknown_policy() {
        let panic = skip_with(Some("forbiden"), None, "no root").expect_err("a misspelt policy");
        assert_eq!(panic, "MIKU_PROBE_SKIPS is forbiden; it must be allowed or forbidden");
    }

    #[test]
    fn panics_when_a_skip_cannot_be_recorded() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let missing = directory.path().join("missing/skips");
        let panic = skip_with(None, Some(&missing), "no root").expect_err("there is no such directory");
        assert!(panic.contains("cannot record") && panic.contains("no root"), "{panic}");
        assert!(read(directory.path()).is_err(), "a directory is no file");
    }

    #[test]
    fn needs_no_file() {
        assert_eq!(skip_with(None, None, "no root").expect("cargo test sets neither"), "SKIPPED: no root\n");
    }
}
