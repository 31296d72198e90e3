//! What the dependencies may bring along, by cargo-deny: licences and sources, and what is known against them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::summary::Outcome;
use crate::setup::{self, CargoTool, Need};
use crate::sh::{Sh, workspace};

/// How long fetching the index and, meanwhile, the database of advisories may take.
const FETCH_LIMIT: Duration = Duration::from_secs(25);

/// The directory in which cargo-deny keeps the database of advisories by default; the suffix is a hash of its address.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// An advisory against no crate: cargo-deny takes a database without any for a broken one.
const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-1970-0001\"\npackage = \"no-such-package\"\n\
                        date = \"1970-01-01\"\n\n[versions]\npatched = []\n```\n\n# Stands for the database\n";

/// What is to be read over a network is not there.
const UNREACHABLE: &str = "UNREACHABLE";

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
/// versions remain, which the index of crates tells.
fn advisories(deny: &Sh) -> Result<Outcome> {
    let logs = workspace().join("target/deny");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    // Cargo asks for the present index only when it looks for other versions; with `--dry-run` it changes nothing.
    let index = Sh::new("cargo").args(["update", "--dry-run"]);
    let database = deny.clone().args(["fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0");
    let (index, database) = thread::scope(|scope| {
        let index = scope.spawn(|| index.run_within(FETCH_LIMIT, &logs.join("index.log")));
        let database = database.run_within(FETCH_LIMIT, &logs.join("database.log"));
        (index.join().unwrap_or_else(|_| Err(anyhow!("fetching the index panicked"))), database)
    });
    // What has been fetched is used, so that the check itself needs no network.
    let offline = deny.clone().arg("--offline");
    // A crate that the index does not tell of is not known to be all right.
    let check = ["check", "--deny", "index-failure", "advisories"];
    let undecided = |why: String| Ok(Outcome::Undecided(UNREACHABLE, why));
    match (database, index) {
        (Ok(()), Ok(())) => Ok(Outcome::of(offline.args(check).run())),
        (Ok(()), Err(index)) => {
            offline.args(check).run()?;
            undecided(format!("no advisory, but the index to look for yanked versions: {}", index.root_cause()))
        }
        (Err(database), Ok(())) => {
            offline.arg("--config").arg(without_database(&logs)?).args(check).run()?;
            undecided(format!("no version is yanked, but the database of advisories: {}", database.root_cause()))
        }
        (Err(database), Err(index)) => undecided(format!(
            "the database of advisories: {}; the index: {}",
            database.root_cause(),
            index.root_cause()
        )),
    }
}

/// Writes settings like the project's own, with an empty database of advisories; returns where they are.
fn without_database(folder: &Path) -> Result<PathBuf> {
    let database = folder.join(DATABASE);
    let crates = database.join("crates/no-such-package");
    let write =
        |path: &Path, text: &str| fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    for folder in [&crates, &database.join(".git")] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    write(&crates.join("RUSTSEC-1970-0001.md"), ADVISORY)?;
    // By its age cargo-deny tells whether the database is recent.
    write(&database.join(".git/FETCH_HEAD"), "")?;
    let project = workspace().join("deny.toml");
    let project = fs::read_to_string(&project).with_context(|| format!("cannot read {}", project.display()))?;
    let settings = folder.join("deny.toml");
    write(&settings, &with_database(&project, folder)?)?;
    Ok(settings)
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
