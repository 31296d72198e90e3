//! The revision that the build puts into the program is the one that git tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use miku_probe::sinks::metrics::BuildInfo;

#[path = "../build/revision.rs"]
mod revision;

/// Git as whoever builds has it set up, not as one of its hooks would have it.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder);
    command.env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").env_remove("GIT_WORK_TREE");
    command
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).expect("git writes UTF-8").trim().to_owned()
}

/// Runs git without anybody's settings, and returns what it says.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = command(folder, arguments)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .envs([("GIT_AUTHOR_NAME", "Miku"), ("GIT_AUTHOR_EMAIL", "miku@example.com")])
        .envs([("GIT_COMMITTER_NAME", "Miku"), ("GIT_COMMITTER_EMAIL", "miku@example.com")])
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    text(output)
}

fn has_git() -> bool {
    let found = Command::new("git").arg("--version").output().is_ok();
    if !found {
        test_skips::skip("git is not installed");
    }
    found
}

/// A checkout of two commits, made for a test.
struct Checkout {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Checkout {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("a checkout");
        fs::create_dir_all(path.join("miku-probe/src")).expect("the folder is ours");
        let checkout = Self { _folder: folder, path };
        git(&checkout.path, &["init", "--quiet"]);
        for text in ["one", "two"] {
            checkout.write("miku-probe/src/lib.rs", text);
            checkout.write("README.md", text);
            checkout.commit();
        }
        checkout
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path.join(file), text).expect("the folder is ours");
    }

    fn commit(&self) {
        git(&self.path, &["add", "."]);
        git(&self.path, &["commit", "--quiet", "--message", "A commit"]);
    }

    fn head(&self) -> String {
        git(&self.path, &["rev-parse", "HEAD"])
    }
}

/// All that cargo sees of paths that it watches: each file and its bytes, in folders too.
fn watched(paths: Vec<PathBuf>) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut left = paths;
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the folder can be read");
            left.extend(entries.map(|entry| entry.expect("the folder can be read").path()));
        } else {
            seen.insert(
                path.clone(),
                fs::read_to_string(&path).expect("cargo builds anew what watches a missing file"),
            );
        }
    }
    seen
}

#[test]
fn the_program_names_the_commit_that_it_was_built_from() {
    let built = BuildInfo::current().revision;
    if let Some(given) = std::env::var("MIKU_PROBE_REVISION").ok().filter(|given| !given.is_empty()) {
        return assert_eq!(built, given);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    if !workspace.join(".git").exists() {
        return assert_eq!(built, "unknown");
    }
    if !has_git() {
        return;
    }
    let head = command(workspace, &["rev-parse", "HEAD"]).output().expect("git runs");
    if !head.status.success() {
        // Git tells nothing of a checkout that is another user's.
        return assert_eq!(built, "unknown", "{head:?}");
    }
    let sources =
        ["Cargo.lock", "Cargo.toml", "miku-probe-ebpf", "miku-probe/build", "miku-probe/Cargo.toml", "miku-probe/src"];
    let arguments = [&["status", "--porcelain", "--untracked-files=normal", "--"], &sources[..]].concat();
    let changes = text(command(workspace, &arguments).output().expect("git runs"));
    let head = text(head);
    let expected = if changes.is_empty() { head } else { format!("{head}-dirty") };
    assert_eq!(built, expected, "changes: {changes:?}");
}

#[test]
fn sources_that_differ_from_the_commit_are_dirty() {
    if !has_git() {
        return;
    }
    let checkout = Checkout::new();
    let head = checkout.head();
    assert_eq!(revision::of(&checkout.path), head);
    assert_eq!(
        revision::sources(&checkout.path),
        [checkout.path.join("miku-probe/src")],
        "cargo watches what is there"
    );
    checkout.write("README.md", "three");
    assert_eq!(revision::of(&checkout.path), head, "what is no source does not matter");
    checkout.write("miku-probe/src/new.rs", "");
    assert_eq!(revision::of(&checkout.path), format!("{head}-dirty"), "a file that git does not know");
    fs::remove_file(checkout.path.join("miku-probe/src/new.rs")).expect("it is ours");
    checkout.write("miku-probe/src/lib.rs", "three");
    assert_eq!(revision::of(&checkout.path), format!("{head}-dirty"), "a file that changed");
    checkout.commit();
    assert_ne!(checkout.head(), head);
    assert_eq!(revision::of(&checkout.path), checkout.head());
}

#[test]
fn a_worktree_and_a_shallow_clone_name_their_own_commit() {
    if !has_git() {
        return;
    }
    let checkout = Checkout::new();
    let beside = checkout.path.with_file_name("beside");
    let worktree = beside.to_str().expect("the path is UTF-8");
    git(&checkout.path, &["worktree", "add", "--quiet", "--detach", worktree, "HEAD~1"]);
    assert_eq!(revision::of(&beside), git(&checkout.path, &["rev-parse", "HEAD~1"]));

    let url = format!("file://{}", checkout.path.display());
    git(&checkout.path, &["clone", "--quiet", "--depth", "1", &url, "../shallow"]);
    let shallow = checkout.path.with_file_name("shallow");
    assert_eq!(git(&shallow, &["rev-list", "--count", "HEAD"]), "1");
    assert_eq!(revision::of(&shallow), checkout.head());
}

#[test]
fn without_a_checkout_of_its_own_it_is_unknown() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    assert_eq!(revision::of(folder.path()), "unknown");
    assert_eq!(revision::heads(folder.path()), [""; 0].map(PathBuf::from));
    if has_git() {
        // An archive of the sources that lies in a checkout of something else.
        let checkout = Checkout::new();
        assert_eq!(revision::of(&checkout.path.join("miku-probe")), "unknown");
    }
}

#[test]
fn each_new_commit_changes_what_cargo_watches() {
    if !has_git() {
        return;
    }
    let checkout = Checkout::new();
    let beside = checkout.path.with_file_name("beside");
    git(&checkout.path, &["worktree", "add", "--quiet", "-b", "a/branch", beside.to_str().expect("the path is UTF-8")]);
    for path in [&checkout.path, &beside] {
        let commit = || git(path, &["commit", "--quiet", "--allow-empty", "--message", "One more"]);
        let is_noticed = |way: &str| {
            let paths = revision::heads(path);
            let before = watched(paths.clone());
            assert_eq!(before, watched(revision::heads(path)), "without a commit nothing changes: {way}");
            commit();
            assert_ne!(before, watched(paths), "{way} in {}", path.display());
        };
        commit();
        is_noticed("a branch that has a file");
        git(path, &["pack-refs", "--all"]);
        is_noticed("a branch that is in the table");
        git(path, &["checkout", "--quiet", "--detach"]);
        is_noticed("no branch");
    }
}
