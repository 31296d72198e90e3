//! What the dependencies may bring along, by cargo-deny: licences and sources, and what is known against them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::summary::Outcome;
use crate::setup::{self, CargoTool, Need};
use crate::sh::{Sh, workspace};

/// How long fetching the index and, meanwhile, the database of advisories may take.
const FETCH_LIMIT: Duration = Duration::from_secs(25);

/// The directory in which cargo-deny keeps the database of advisories; the suffix is a hash of its address.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// An advisory against no crate: cargo-deny takes a database without any for a broken one.
const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-1970-0001\"\npackage = \"no-such-package\"\n\
                        date = \"1970-01-01\"\n\n[versions]\npatched = []\n```\n\n# Stands for the database\n";

pub(super) fn check() -> Vec<(&'static str, Outcome)> {
    let deny = match setup::ensure(&[Need::Deny]).and_then(|()| CargoTool::Deny.command()) {
        Ok(deny) => deny.arg("--workspace"),
        Err(error) => return vec![("lint: dependencies", Outcome::Failed(format!("{error:#}")))],
    };
    let dependencies = deny.clone().args(["check", "licenses", "bans", "sources"]).run();
    let advisories = advisories(&deny).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    vec![("lint: dependencies", Outcome::of(dependencies)), ("lint: advisories", advisories)]
}

/// Checks for security advisories and yanked versions. Where the database of advisories cannot be fetched, yanked
/// versions remain, which the index of crates tells; where that cannot be fetched, what cargo last saw of it.
fn advisories(deny: &Sh) -> Result<Outcome> {
    let logs = workspace().join("target/deny");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    // Cargo asks for the present index only when it looks for other versions; with `--dry-run` it changes nothing.
    let index = Sh::new("cargo").args(["update", "--dry-run"]);
    let fetched = deny.clone().arg("--config").arg(settings(&logs.join("fetched"))?);
    let database = fetched.clone().args(["fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0");
    let (index, database) = thread::scope(|scope| {
        let index = scope.spawn(|| index.run_within(FETCH_LIMIT, &logs.join("index.log")));
        let database = database.run_within(FETCH_LIMIT, &logs.join("database.log"));
        (index.join().unwrap_or_else(|_| Err(anyhow!("fetching the index panicked"))), database)
    });
    let check = if database.is_ok() {
        fetched
    } else {
        // A clone that was cut off would keep the next one from beginning.
        remove(&logs.join("fetched").join(DATABASE))?;
        deny.clone().arg("--config").arg(without_advisories(&logs.join("empty"))?)
    };
    // What has been fetched is used, so that the check itself needs no network. A crate that the index does not tell of is
    // not known to be all right.
    check.args(["--offline", "check", "--deny", "index-failure", "advisories"]).run()?;
    let missing: Vec<String> = [("the database of advisories", database), ("the index of crates", index)]
        .into_iter()
        .filter_map(|(what, result)| Some(format!("{what}: {}", result.err()?.root_cause())))
        .collect();
    if missing.is_empty() {
        return Ok(Outcome::Passed(String::new()));
    }
    Ok(Outcome::Undecided("UNREACHABLE", format!("nothing is known against a version, without {}", missing.join("; "))))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes settings like the project's own, with the databases of advisories in `folder`; returns where they are.
fn settings(folder: &Path) -> Result<PathBuf> {
    let project = workspace().join("deny.toml");
    let project = fs::read_to_string(&project).with_context(|| format!("cannot read {}", project.display()))?;
    let settings = folder.join("deny.toml");
    write(&settings, &with_database(&project, folder)?)?;
    Ok(settings)
}

/// [`settings`] for a `folder` with a database that knows nothing against anyone.
fn without_advisories(folder: &Path) -> Result<PathBuf> {
    let database = folder.join(DATABASE);
    write(&database.join("crates/no-such-package/RUSTSEC-1970-0001.md"), ADVISORY)?;
    // By its age cargo-deny tells whether the database is recent.
    write(&database.join(".git/FETCH_HEAD"), "")?;
    settings(folder)
}

/// The settings, with the databases of advisories in `folder`.
fn with_database(settings: &str, folder: &Path) -> Result<String> {
    const TABLE: &str = "\n[advisories]\n";
    ensure!(settings.contains(TABLE), "deny.toml has no table [advisories]");
    let path = serde_json::to_string(&folder.display().to_string()).context("a path is text")?;
    Ok(settings.replacen(TABLE, &format!("{TABLE}db-path = {path}\n"), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_s_own_settings_take_another_database() {
        let settings = fs::read_to_string(workspace().join("deny.toml")).expect("the project has settings");
        let other = with_database(&settings, Path::new("/a \"path\"")).expect("they have the table");
        assert!(other.contains("\n[advisories]\ndb-path = \"/a \\\"path\\\"\"\nyanked = \"deny\"\n"), "{other}");
        assert!(with_database("[bans]\n", Path::new("/")).is_err());
    }
}
