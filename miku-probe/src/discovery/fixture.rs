//! A made-up `/proc`, for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::discovery::process::ProcFs;

/// A folder laid out like `/proc`.
pub(crate) struct Fixture {
    folder: TempDir,
    pub(crate) proc: ProcFs,
}

/// What one made-up process looks like.
pub(crate) struct Sketch<'a> {
    pub(crate) tgid: u32,
    pub(crate) parent: u32,
    pub(crate) start: u64,
    pub(crate) comm: &'a str,
    pub(crate) arguments: &'a [&'a str],
    pub(crate) exe: &'a str,
    pub(crate) cgroup: &'a str,
    pub(crate) maps: &'a str,
    pub(crate) sockets: &'a [u64],
    /// Lines of `/proc/PID/net/tcp`, without the heading.
    pub(crate) tcp: &'a str,
    pub(crate) namespace: u64,
    pub(crate) flags: u64,
}

impl Sketch<'_> {
    pub(crate) fn new(tgid: u32) -> Self {
        Self {
            tgid,
            parent: 1,
            start: u64::from(tgid) * 100,
            comm: "program",
            arguments: &["program"],
            exe: "/usr/bin/program",
            cgroup: "0::/user.slice\n",
            maps: "",
            sockets: &[],
            tcp: "",
            namespace: 4_026_531_840,
            flags: 0x40_0000,
        }
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::create_dir(folder.path().join("proc")).expect("it is ours");
        fs::write(folder.path().join("proc/uptime"), "1000000.00 1000000.00\n").expect("it is ours");
        let proc = ProcFs::at(folder.path().join("proc"));
        Self { folder, proc }
    }

    /// Makes or replaces a process.
    pub(crate) fn add(&self, sketch: &Sketch<'_>) {
        self.remove(sketch.tgid);
        let folder = self.folder.path().join("proc").join(sketch.tgid.to_string());
        for name in ["fd", "ns", "net"] {
            fs::create_dir_all(folder.join(name)).expect("it is ours");
        }
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("it is ours");
        write(
            "stat",
            &format!(
                "{} ({}) S {} 0 0 0 -1 {} 0 0 0 0 0 0 0 0 20 0 1 0 {} 0 0",
                sketch.tgid, sketch.comm, sketch.parent, sketch.flags, sketch.start
            ),
        );
        write("cmdline", &sketch.arguments.iter().map(|argument| format!("{argument}\0")).collect::<String>());
        write("cgroup", sketch.cgroup);
        write("maps", sketch.maps);
        write("net/tcp", &format!("  sl  local_address rem_address   st\n{}", sketch.tcp));
        write("net/tcp6", "  sl  local_address rem_address   st\n");
        symlink(sketch.exe, folder.join("exe")).expect("it is ours");
        symlink(format!("net:[{}]", sketch.namespace), folder.join("ns/net")).expect("it is ours");
        for (number, inode) in sketch.sockets.iter().enumerate() {
            symlink(format!("socket:[{inode}]"), folder.join("fd").join((number + 3).to_string())).expect("it is ours");
        }
    }

    /// Takes a process away.
    pub(crate) fn remove(&self, tgid: u32) {
        let folder = self.folder.path().join("proc").join(tgid.to_string());
        if folder.exists() {
            fs::remove_dir_all(folder).expect("it is ours");
        }
    }

    /// Writes a file outside the tree of processes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("it is ours");
        path
    }
}
