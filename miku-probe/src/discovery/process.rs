//! One process as `/proc` tells of it: read piece by piece, only what is asked for, and ready for it to vanish any
//! time.
//!
//! Field layouts are those of `proc(5)`.

use std::cell::{Cell, OnceCell};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::discovery::containers::{self, Container};
use crate::units::Tgid;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`: the task is a kernel thread.
const PF_KTHREAD: u64 = 0x0020_0000;

/// What the kernel appends to the target of an `exe` link whose file is gone from its folder, as after an upgrade.
const DELETED: &str = " (deleted)";

/// How much of one `/proc` file is read at most: a process chooses its own arguments and mappings.
const READ_MAX: u64 = 256 * 1024;

/// Where `/proc` is.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl ProcFs {
    /// A tree laid out like `/proc` at `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All processes, in no particular order.
    ///
    /// # Errors
    /// When the folder cannot be read at all.
    pub fn tgids(&self) -> io::Result<Vec<Tgid>> {
        Ok(fs::read_dir(&self.root)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Tgid))
            .collect())
    }

    /// The process `tgid`; `None` when there is none, or when it has ended and only waits for its parent.
    #[must_use]
    pub fn process(&self, tgid: Tgid) -> Option<Process> {
        let folder = self.root.join(tgid.to_string());
        let stat = Stat::read(&folder.join("stat"))?;
        (!matches!(stat.state, b'Z' | b'X' | b'x')).then(|| Process {
            tgid,
            stat,
            folder,
            arguments: OnceCell::new(),
            exe: OnceCell::new(),
            containers: OnceCell::new(),
            refused: Cell::new(false),
        })
    }

    /// How long ago a process began that began at `start`; `None` when the kernel does not say.
    #[must_use]
    pub fn age(&self, start: StartTime) -> Option<Duration> {
        let text = fs::read_to_string(self.root.join("uptime")).ok()?;
        let uptime = Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()?;
        Some(uptime.saturating_sub(start.since_boot()))
    }

    /// The process that `number` is a thread of, when it is a thread and not a process.
    #[must_use]
    pub fn thread_of(&self, number: u32) -> Option<Tgid> {
        let status = fs::read_to_string(self.root.join(number.to_string()).join("status")).ok()?;
        let tgid = status_field(&status, "Tgid:")?.parse().ok().map(Tgid)?;
        (tgid != Tgid(number)).then_some(tgid)
    }
}

/// When a process began, in clock ticks since the machine started. With the process's number it names one process for
/// good, because numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StartTime(pub u64);

impl StartTime {
    /// From the machine's start to the process's.
    #[must_use]
    pub fn since_boot(self) -> Duration {
        Duration::from_millis(self.0.saturating_mul(1000) / ticks_per_second())
    }

    /// The present.
    #[must_use]
    pub fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live, writable timespec; CLOCK_BOOTTIME is on every kernel since 2.6.39.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        let part = |number: i64| u64::try_from(number).unwrap_or(0);
        let ticks = ticks_per_second();
        Self(part(time.tv_sec) * ticks + part(time.tv_nsec) * ticks / 1_000_000_000)
    }
}

/// How many clock ticks `/proc` counts in a second.
pub(crate) fn ticks_per_second() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100).max(1)
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    comm: String,
    state: u8,
    parent: Tgid,
    flags: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    /// In clock ticks, as is the next.
    pub(crate) user_time: u64,
    pub(crate) system_time: u64,
    pub(crate) threads: u64,
    pub(crate) start: StartTime,
    /// In bytes.
    pub(crate) virtual_size: u64,
    /// In pages.
    pub(crate) resident: u64,
}

impl Stat {
    /// The kernel writes the whole line in answer to one read, which is all that most processes are ever asked for.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let mut buffer = [0; 1024];
        let length = File::open(path).ok()?.read(&mut buffer).ok()?;
        Self::parse(&buffer[..length])
    }

    /// The name stands in parentheses and may itself hold parentheses, blanks and line breaks: so it ends at the last
    /// one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (before, after) = text.rsplit_once(')')?;
        let comm = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // As the manual page numbers them; the first of these is its third.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: fields.first()?.bytes().next()?,
            parent: Tgid(fields.get(1)?.parse().ok()?),
            flags: number(9)?,
            minor_faults: number(10)?,
            major_faults: number(12)?,
            user_time: number(14)?,
            system_time: number(15)?,
            threads: number(20)?,
            start: StartTime(number(22)?),
            virtual_size: number(23)?,
            resident: number(24)?,
        })
    }
}

/// The program file that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exe {
    /// Its path as its own mount namespace names it, without the kernel's mark of a deleted file.
    pub path: PathBuf,
    /// Whether the file is gone from its folder, as after an upgrade.
    pub deleted: bool,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl Exe {
    /// Whether both are the same program: the same file, or, when it was replaced in between, the same path.
    #[must_use]
    pub fn same_program(&self, other: &Self) -> bool {
        (self.file.is_some() && self.file == other.file) || self.path == other.path
    }

    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or("")
    }
}

/// A process that was alive when it was looked up. What is read later may belong to a process that is gone by then;
/// those reads then yield nothing.
#[derive(Debug)]
pub struct Process {
    /// Its number in the PID namespace of `/proc`.
    pub tgid: Tgid,
    stat: Stat,
    folder: PathBuf,
    arguments: OnceCell<Vec<String>>,
    exe: OnceCell<Option<Exe>>,
    containers: OnceCell<Vec<Container>>,
    refused: Cell<bool>,
}

impl Process {
    /// Its name, at most 15 bytes.
    #[must_use]
    pub fn comm(&self) -> &str {
        &self.stat.comm
    }

    /// The process that made it, or the one that took it over.
    #[must_use]
    pub fn parent(&self) -> Tgid {
        self.stat.parent
    }

    /// When it began.
    #[must_use]
    pub fn start(&self) -> StartTime {
        self.stat.start
    }

    /// Whether it is a kernel thread, which has no program.
    #[must_use]
    pub fn is_kernel_thread(&self) -> bool {
        self.stat.flags & PF_KTHREAD != 0
    }

    /// Its arguments, the program's name first; empty when they cannot be read.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        self.arguments.get_or_init(|| {
            let bytes = self.kept(read(&self.folder.join("cmdline"))).unwrap_or_default();
            // A program may overwrite its arguments, and then pads what is left of them with zeros.
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if end == 0 {
                return Vec::new();
            }
            bytes[..end].split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
        })
    }

    /// Its program; `None` when it cannot be read.
    #[must_use]
    pub fn exe(&self) -> Option<&Exe> {
        self.exe
            .get_or_init(|| {
                let link = self.folder.join("exe");
                let target = self.kept(fs::read_link(&link))?;
                let file = fs::metadata(&link).ok().map(|meta| (meta.dev(), meta.ino()));
                Some(match target.to_str().and_then(|path| path.strip_suffix(DELETED)) {
                    Some(path) => Exe { path: path.into(), deleted: true, file },
                    None => Exe { path: target, deleted: false, file },
                })
            })
            .as_ref()
    }

    /// Whether its program is a 32-bit one, whose system calls do not pass the tracepoints that are watched.
    #[must_use]
    pub fn is_32_bit(&self) -> bool {
        const ELFCLASS32: u8 = 1;
        let mut start = [0; 5];
        let ident = File::open(self.folder.join("exe")).and_then(|mut file| file.read_exact(&mut start));
        ident.is_ok() && start.starts_with(b"\x7fELF") && start[4] == ELFCLASS32
    }

    /// The containers it runs in, the outermost first.
    #[must_use]
    pub fn containers(&self) -> &[Container] {
        self.containers.get_or_init(|| {
            let bytes = self.kept(read(&self.folder.join("cgroup"))).unwrap_or_default();
            containers::containers(&String::from_utf8_lossy(&bytes))
        })
    }

    /// Its numbers in its PID namespaces, the outermost first; one when it is in no inner namespace.
    #[must_use]
    pub fn namespace_pids(&self) -> Vec<u32> {
        let status = self.kept(read(&self.folder.join("status"))).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        status_field(&status, "NSpid:")
            .map(|numbers| numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect())
            .unwrap_or_default()
    }

    /// Whether a library whose file name begins with `prefix` is mapped.
    #[must_use]
    pub fn maps_library(&self, prefix: &str) -> bool {
        self.maps_file(|name| name.starts_with(prefix.as_bytes()))
    }

    /// Whether a file whose name, without its directory, satisfies `is_wanted` is mapped.
    pub fn maps_file(&self, is_wanted: impl Fn(&[u8]) -> bool) -> bool {
        let bytes = self.kept(read(&self.folder.join("maps"))).unwrap_or_default();
        bytes.split(|byte| *byte == b'\n').any(|line| {
            let name = line.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            name.len() < line.len() && is_wanted(name)
        })
    }

    /// Its network namespace, as the kernel names it.
    #[must_use]
    pub fn network_namespace(&self) -> Option<PathBuf> {
        self.kept(fs::read_link(self.folder.join("ns/net")))
    }

    /// Its open descriptors and what each leads to; none when they cannot be listed.
    pub fn descriptors(&self) -> impl Iterator<Item = (u32, PathBuf)> {
        let entries = self.kept(fs::read_dir(self.folder.join("fd"))).into_iter().flatten();
        entries.filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?))
        })
    }

    /// The inodes of its open sockets; none when its descriptors cannot be listed.
    #[must_use]
    pub fn socket_inodes(&self) -> Vec<u64> {
        let inode = |target: PathBuf| {
            let inode = target.as_os_str().as_bytes().strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
            std::str::from_utf8(inode).ok()?.parse().ok()
        };
        self.descriptors().filter_map(|(_, target)| inode(target)).collect()
    }

    /// The file `name` under its folder.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether something of it was asked for so far that this user may not read.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused.get()
    }

    fn kept<T>(&self, result: io::Result<T>) -> Option<T> {
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            self.refused.set(true);
        }
        result.ok()
    }
}

/// The value after `name` in the text of `/proc/PID/status`.
pub(crate) fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(READ_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_may_hold_parentheses_blanks_and_line_breaks() {
        let stat = Stat::parse(b"42 (a) (b\nc) S 7 42 42 0 -1 4194560 11 0 12 0 1 2 0 0 20 0 7 0 98765 4096 2 3")
            .expect("it is whole");
        assert_eq!(stat.comm, "a) (b\nc");
        assert_eq!((stat.state, stat.parent, stat.start), (b'S', Tgid(7), StartTime(98765)));
        assert_eq!((stat.minor_faults, stat.major_faults, stat.user_time, stat.system_time), (11, 12, 1, 2));
        assert_eq!((stat.threads, stat.virtual_size, stat.resident), (7, 4096, 2));
    }

    #[test]
    fn torn_text_is_no_process() {
        for text in ["", "42", "42 (x", "42 (x) S", "42 (x) S 1 2 3 4 5 oops 1"] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_child_that_this_test_spawned_reads_as_it_was_started() {
        let mut child = Command::new("cat")
            .arg("-u")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat is on every machine");
        // It ends by itself when its input does, however this test goes. Once it answers, its exec is surely over.
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(b"x").expect("it reads");
        child.stdout.as_mut().expect("it is piped").read_exact(&mut [0]).expect("it answers");
        let proc = ProcFs::default();
        let process = proc.process(Tgid(child.id())).expect("the child is alive");
        assert_eq!(process.arguments(), ["cat", "-u"]);
        assert_eq!(process.comm(), "cat");
        assert_eq!(process.parent(), Tgid(std::process::id()));
        assert!(process.exe().is_some_and(|exe| exe.path.is_absolute() && !exe.deleted));
        assert!(!process.is_kernel_thread() && !process.is_32_bit() && !process.refused());
        assert_eq!(process.namespace_pids().first(), Some(&child.id()));
        assert!(process.maps_library("libc.") || process.maps_library("ld-musl"));
        assert!(!process.maps_library("libpython"));
        let age = proc.age(process.start()).expect("the machine has an uptime");
        assert!(age < Duration::from_secs(60), "{age:?}");

        drop(input);
        // Until its parent has waited for it, it stands there dead.
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the pointer is to writable memory of the right type, and the number is that of our child.
        let rc = unsafe { libc::waitid(libc::P_PID, child.id(), info.as_mut_ptr(), libc::WEXITED | libc::WNOWAIT) };
        assert_eq!(rc, 0);
        assert!(proc.process(Tgid(child.id())).is_none(), "a dead process that waits for its parent is none");
        child.wait().expect("it is ours");
        assert!(proc.process(Tgid(child.id())).is_none());
        assert!(process.socket_inodes().is_empty(), "reads of one that has gone yield nothing");
    }

    #[test]
    fn a_thread_is_told_from_a_process() {
        let proc = ProcFs::default();
        let tid = std::thread::spawn(|| {
            // SAFETY: gettid takes no arguments.
            let tid = u32::try_from(unsafe { libc::gettid() }).expect("thread numbers are positive");
            ProcFs::default().thread_of(tid)
        });
        assert_eq!(tid.join().expect("it does not panic"), Some(Tgid(std::process::id())));
        assert_eq!(proc.thread_of(std::process::id()), None);
    }

    #[test]
    fn a_replaced_program_is_still_the_same_by_its_path() {
        let fixture = Fixture::new();
        fixture.add(&Sketch { exe: "/opt/python3.11 (deleted)", ..Sketch::new(10) });
        fixture.add(&Sketch { exe: "/opt/python3.11", ..Sketch::new(11) });
        fixture.add(&Sketch { exe: "/usr/bin/ffmpeg", ..Sketch::new(12) });
        let of =
            |tgid| fixture.proc.process(Tgid(tgid)).expect("it is in the fixture").exe().cloned().expect("has exe");
        assert!(of(10).deleted && of(10).name() == "python3.11");
        assert!(of(10).same_program(&of(11)) && !of(10).same_program(&of(12)));
    }

    #[test]
    fn a_32_bit_program_is_told_by_its_header() {
        let fixture = Fixture::new();
        let program = fixture.file("old", b"\x7fELF\x01\x01\x01");
        let program = program.to_str().expect("temporary paths are text");
        fixture.add(&Sketch { exe: program, ..Sketch::new(10) });
        fixture.add(&Sketch { exe: "/bin/sh", ..Sketch::new(11) });
        assert!(fixture.proc.process(Tgid(10)).is_some_and(|process| process.is_32_bit()));
        assert!(fixture.proc.process(Tgid(11)).is_some_and(|process| !process.is_32_bit()));
    }
}
