//! The commit that the sources are of, as git knows it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What becomes the program, by paths in the workspace.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "miku-probe-ebpf/Cargo.toml",
    "miku-probe-ebpf/src",
    "miku-probe/Cargo.toml",
    "miku-probe/build",
    "miku-probe/src",
];

/// Returns the commit's full name, with `-dirty` after it when the sources are not as they are there; `unknown` where
/// git does not tell.
///
/// The workspace has to be the top of its checkout. Sources that lie, as from an archive, within a checkout of something
/// else are not of its commit.
pub(crate) fn of(workspace: &Path) -> String {
    let commit = git(workspace, &["rev-parse", "--show-prefix", "HEAD"]);
    let Some((_, commit)) =
        commit.as_deref().and_then(|told| told.split_once('\n')).filter(|(prefix, _)| prefix.is_empty())
    else {
        return "unknown".to_owned();
    };
    let changes =
        git(workspace, &[&["status", "--porcelain", "--untracked-files=normal", "--"], &SOURCES[..]].concat());
    let dirty = if changes.is_some_and(|changes| changes.is_empty()) { "" } else { "-dirty" };
    format!("{commit}{dirty}")
}

/// Returns the paths whose changes may make sources dirty or clean. When one of them changes, so does the program.
pub(crate) fn sources(workspace: &Path) -> Vec<PathBuf> {
    existing(SOURCES.map(|path| workspace.join(path)))
}

/// Returns the files of git by which another commit becomes the current one. All of them exist: cargo takes a path that
/// does not for one that has changed, in every build.
pub(crate) fn heads(workspace: &Path) -> Vec<PathBuf> {
    let path = |name: &str| Some(workspace.join(git(workspace, &["rev-parse", "--git-path", name])?));
    let mut names = vec!["HEAD".to_owned()];
    if let Some(branch) = git(workspace, &["symbolic-ref", "--quiet", "HEAD"]) {
        let in_file = path(&branch).is_some_and(|file| file.exists());
        names.push(branch);
        if !in_file {
            // It is in the table of all of them until it gets a file, in a folder that changes then.
            names.extend(["packed-refs", "refs/heads"].map(str::to_owned));
        }
    }
    existing(names.iter().filter_map(|name| path(name)))
}

fn existing(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().filter(|path| path.exists()).collect()
}

/// Runs git, which writes nothing; none when there is none or it fails.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("--no-optional-locks").args(arguments).current_dir(folder);
    // Set within git's hooks, where they may mean another checkout.
    for variable in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"] {
        command.env_remove(variable);
    }
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end_matches('\n').to_owned())
}
