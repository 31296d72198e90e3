//! How a person names the processes of a service.

use std::fmt;
use std::net::SocketAddr;

use glob::{MatchOptions, Pattern};
use regex::Regex;

use crate::discovery::containers::ID_MIN;
use crate::discovery::process::Process;
use crate::discovery::tcp::Tables;
use crate::units::Tgid;

/// The kernel keeps this many bytes of a process's name (`TASK_COMM_LEN` less its end mark).
const COMM_MAX: usize = 15;

/// `*` stands for anything within one part of a path, `**` for any number of parts.
pub(crate) const GLOB_OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What a selector looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The process's number.
    Pid,
    /// Its name.
    Comm,
    /// Its command line.
    Cmdline,
    /// Its program.
    Exe,
    /// A TCP port it listens on.
    Port,
    /// The container it runs in.
    Container,
    /// Which programs `cmdline` may match.
    Exec,
}

impl Kind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Pid, Self::Comm, Self::Cmdline, Self::Exe, Self::Port, Self::Container, Self::Exec];

    /// As it is written on the command line and in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Comm => "comm",
            Self::Cmdline => "cmdline",
            Self::Exe => "exe",
            Self::Port => "port",
            Self::Container => "container",
            Self::Exec => "exec",
        }
    }

    /// The kind that is written `text`.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Why a selector makes no sense: what is wrong and what to write instead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectorError {
    /// The value is missing.
    #[error("`{0}:` has no value")]
    Empty(&'static str),
    /// Not a process number.
    #[error("`{0}` is not a process number; write one, as in `pid:1234`")]
    Pid(String),
    /// Not a port.
    #[error("`{0}` is not a TCP port; write 1 to 65535, as in `port:8000`")]
    Port(String),
    /// Not a regular expression.
    #[error(
        "the regular expression `{pattern}` does not compile: {reason}; put a backslash before a character that is meant as it stands"
    )]
    Regex {
        /// As it was written.
        pattern: String,
        /// What the compiler says, in one line.
        reason: String,
    },
    /// Not a glob.
    #[error("the pattern `{pattern}` does not compile: {reason}")]
    Glob {
        /// As it was written.
        pattern: String,
        /// What the compiler says.
        reason: &'static str,
    },
    /// Too little of a container id.
    #[error("`{0}` is too short for a container's id; write at least {ID_MIN} digits of it")]
    ShortId(String),
    /// An unknown value of `exec`.
    #[error("`exec:{0}` means nothing; `exec:any` lets `cmdline` match shells, editors, pagers and wrappers too")]
    Exec(String),
}

/// A condition that a process meets or not.
#[derive(Clone, Debug)]
pub enum Selector {
    /// The process with this number, for as long as it lives; never a later one with the same number.
    Pid(Tgid),
    /// The processes with this name (`/proc/PID/comm`): the first 15 bytes count, as the kernel keeps no more.
    Comm(String),
    /// The processes whose arguments, joined by spaces, match anywhere. Wrappers ([`is_wrapper`]) do not match unless the
    /// service also has [`Self::AnyProgram`].
    Cmdline(Regex),
    /// The processes that run this program. Without a `/`: its file name. With one: its path, as `/proc/PID/exe`
    /// tells it or as the process was started by (its first argument), which is how the python of one virtual
    /// environment is told from all others.
    Exe(Pattern),
    /// The processes that listen on this TCP port in their own network namespace.
    Port(u16),
    /// The processes in this container: at least twelve digits of its id, or its name where its control group carries
    /// it.
    Container(String),
    /// Matches no process; it lets the service's [`Self::Cmdline`] match wrappers.
    AnyProgram,
}

/// Programs whose command lines contain another program's command line or file name: shells, wrappers, editors and pagers. A
/// person who names a bot by its script does not mean them.
const WRAPPERS: [&str; 115] = [
    "ash",
    "awk",
    "bash",
    "bat",
    "batcat",
    "busybox",
    "bwrap",
    "cat",
    "catatonit",
    "cgexec",
    "chpst",
    "chroot",
    "chrt",
    "conmon",
    "containerd-shim",
    "cp",
    "csh",
    "dash",
    "dd",
    "doas",
    "docker",
    "dtach",
    "dumb-init",
    "ed",
    "elvish",
    "emacs",
    "emacs-nox",
    "entr",
    "env",
    "find",
    "firejail",
    "fish",
    "flock",
    "gdb",
    "git",
    "gosu",
    "grep",
    "head",
    "helix",
    "hx",
    "inotifywait",
    "ionice",
    "jed",
    "joe",
    "kak",
    "ksh",
    "kubectl",
    "less",
    "lnav",
    "logger",
    "ltrace",
    "mawk",
    "mcedit",
    "micro",
    "mksh",
    "more",
    "mosh-server",
    "most",
    "nano",
    "nice",
    "nodemon",
    "nohup",
    "nsenter",
    "numactl",
    "nvim",
    "perf",
    "pgrep",
    "pkexec",
    "pkill",
    "podman",
    "proot",
    "pwsh",
    "rg",
    "rlwrap",
    "rsync",
    "runc",
    "runsv",
    "runuser",
    "s6-supervise",
    "scp",
    "screen",
    "script",
    "sed",
    "setarch",
    "setpriv",
    "setsid",
    "sh",
    "sleep",
    "sort",
    "sqlite3",
    "ssh",
    "sshd",
    "stdbuf",
    "strace",
    "su",
    "su-exec",
    "sudo",
    "sudo-rs",
    "systemd-run",
    "tail",
    "taskset",
    "tcsh",
    "tee",
    "time",
    "timeout",
    "tini",
    "tmux",
    "unshare",
    "vi",
    "vim",
    "watch",
    "watchexec",
    "xargs",
    "zellij",
    "zsh",
];

/// Whether an executable of this name is a shell, wrapper, editor or pager; `vim.basic` counts as `vim`, `gawk` as `awk`.
#[must_use]
pub fn is_wrapper(program: &str) -> bool {
    let name = program.split('.').next().unwrap_or(program);
    let known = |name: &str| WRAPPERS.binary_search(&name).is_ok();
    known(name) || known(name.trim_start_matches(['g', 'r'])) || name.starts_with("containerd-shim")
}

impl Selector {
    /// Checks `value`.
    ///
    /// # Errors
    /// When `kind` cannot have such a value.
    pub fn parse(kind: Kind, value: &str) -> Result<Self, SelectorError> {
        if value.is_empty() {
            return Err(SelectorError::Empty(kind.as_str()));
        }
        Ok(match kind {
            Kind::Pid => match value.parse() {
                Ok(pid) if pid > 0 => Self::Pid(Tgid(pid)),
                _ => return Err(SelectorError::Pid(value.to_owned())),
            },
            Kind::Comm => Self::Comm(value.to_owned()),
            Kind::Cmdline => Self::Cmdline(Regex::new(value).map_err(|error| SelectorError::Regex {
                pattern: value.to_owned(),
                reason: one_line(&error.to_string()),
            })?),
            Kind::Exe => Self::Exe(
                Pattern::new(value)
                    .map_err(|error| SelectorError::Glob { pattern: value.to_owned(), reason: error.msg })?,
            ),
            Kind::Port => match value.parse() {
                Ok(port) if port > 0 => Self::Port(port),
                _ => return Err(SelectorError::Port(value.to_owned())),
            },
            Kind::Container => {
                // Nobody names a container `3f4c7c`; it is an id that was cut too short.
                let hexadecimal = value.bytes().all(|byte| byte.is_ascii_hexdigit());
                if hexadecimal
                    && value.len() < ID_MIN
                    && value.bytes().any(|byte| byte.is_ascii_digit())
                    && value.len() > 5
                {
                    return Err(SelectorError::ShortId(value.to_owned()));
                }
                Self::Container(value.to_owned())
            }
            Kind::Exec if value == "any" => Self::AnyProgram,
            Kind::Exec => return Err(SelectorError::Exec(value.to_owned())),
        })
    }

    /// What it looks at.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Pid(_) => Kind::Pid,
            Self::Comm(_) => Kind::Comm,
            Self::Cmdline(_) => Kind::Cmdline,
            Self::Exe(_) => Kind::Exe,
            Self::Port(_) => Kind::Port,
            Self::Container(_) => Kind::Container,
            Self::AnyProgram => Kind::Exec,
        }
    }

    /// Whether `process` meets it, and by what. It reads of the process only what it needs.
    #[must_use]
    pub fn matches(&self, process: &Process, tables: &Tables) -> Option<String> {
        match self {
            Self::Pid(tgid) => (*tgid == process.tgid).then(|| format!("pid {tgid}")),
            Self::Comm(name) => {
                let kept = name.as_bytes().get(..COMM_MAX).unwrap_or(name.as_bytes());
                (kept == process.comm().as_bytes()).then(|| format!("comm is {}", process.comm()))
            }
            Self::Cmdline(regex) => {
                regex.is_match(&process.arguments().join(" ")).then(|| format!("cmdline matches {regex}"))
            }
            Self::Exe(pattern) => {
                let exe = process.exe()?;
                let path = exe.path.to_str()?;
                let started_by = || process.arguments().first().map_or("", String::as_str);
                let matched = if pattern.as_str().contains('/') {
                    [path, started_by()].into_iter().find(|path| pattern.matches_with(path, GLOB_OPTIONS))
                } else {
                    pattern.matches_with(exe.name(), GLOB_OPTIONS).then_some(path)
                };
                matched.map(|path| format!("exe is {path}"))
            }
            Self::Port(port) => tables.listener(process, *port).map(|address| format!("listens on {address}")),
            Self::Container(wanted) => {
                let containers = process.containers();
                containers
                    .iter()
                    .find(|container| container.is(wanted))
                    .map(|found| format!("in container {}", found.short()))
            }
            Self::AnyProgram => None,
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.kind().as_str())?;
        match self {
            Self::Pid(tgid) => tgid.fmt(formatter),
            Self::Comm(text) | Self::Container(text) => text.fmt(formatter),
            Self::Cmdline(regex) => regex.fmt(formatter),
            Self::Exe(pattern) => pattern.fmt(formatter),
            Self::Port(port) => port.fmt(formatter),
            Self::AnyProgram => formatter.write_str("any"),
        }
    }
}

/// A service to watch.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Its name, the value of the label `service`.
    pub name: String,
    /// It is every process that meets one of these.
    pub selectors: Vec<Selector>,
    /// Route patterns, such as `/users/{id}`, the first that matches wins.
    pub routes: Vec<String>,
    /// Whether the probe is ready only while a process of it is watched.
    pub required: bool,
}

impl ServiceSpec {
    /// Whether `cmdline` may match wrappers.
    #[must_use]
    pub fn takes_any_program(&self) -> bool {
        self.selectors.iter().any(|selector| matches!(selector, Selector::AnyProgram))
    }

    /// Whether a selector can match a process.
    #[must_use]
    pub fn selects(&self) -> bool {
        self.selectors.iter().any(|selector| !matches!(selector, Selector::AnyProgram))
    }
}

/// Addresses in one line.
pub(crate) fn listed(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The last line of the regex crate's message is the cause; those before it draw the place.
fn one_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use std::net::TcpListener;

    const ID: &str = "3f4c7c1d5a8e90b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182930";

    fn selector(kind: Kind, value: &str) -> Selector {
        Selector::parse(kind, value).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_kind_matches_what_it_names_and_nothing_else() {
        let fixture = Fixture::new();
        fixture.add(&Sketch {
            comm: "uvicorn-with-lo",
            arguments: &["/opt/bot/venv/bin/python", "bot.py", "--fast"],
            exe: "/usr/bin/python3.11",
            cgroup: &format!("0::/system.slice/docker-{ID}.scope\n"),
            sockets: &[501],
            tcp: "0: 00000000:1F40 00000000:0000 0A 0:0 0:0 0 0 0 501 1\n",
            ..Sketch::new(10)
        });
        fixture.add(&Sketch::new(11));
        for (kind, value, why) in [
            (Kind::Pid, "10", "pid 10"),
            (Kind::Comm, "uvicorn-with-lo", "comm is uvicorn-with-lo"),
            (Kind::Comm, "uvicorn-with-long-name", "comm is uvicorn-with-lo"),
            (Kind::Cmdline, r"bot\.py", r"cmdline matches bot\.py"),
            (Kind::Cmdline, r"^\S+python bot\.py --fast$", r"cmdline matches ^\S+python bot\.py --fast$"),
            (Kind::Exe, "python3.11", "exe is /usr/bin/python3.11"),
            (Kind::Exe, "python3*", "exe is /usr/bin/python3.11"),
            (Kind::Exe, "/usr/bin/python3.11", "exe is /usr/bin/python3.11"),
            (Kind::Exe, "/usr/**/python3.*", "exe is /usr/bin/python3.11"),
            (Kind::Exe, "/opt/bot/venv/bin/python", "exe is /opt/bot/venv/bin/python"),
            (Kind::Port, "8000", "listens on 0.0.0.0:8000"),
            (Kind::Container, "3f4c7c1d5a8e", "in container 3f4c7c1d5a8e"),
        ] {
            let selector = selector(kind, value);
            let matched = |tgid| {
                let process = fixture.proc.process(Tgid(tgid)).expect("it is in the fixture");
                selector.matches(&process, &Tables::default())
            };
            assert_eq!(matched(10).as_deref(), Some(why), "{selector}");
            assert_eq!(matched(11), None, "{selector}");
        }
        for (kind, value) in [
            (Kind::Comm, "uvicorn"),
            (Kind::Cmdline, r"robot\.py"),
            (Kind::Exe, "python"),
            (Kind::Exe, "/usr/*"),
            (Kind::Exe, "bin/python3.11"),
            (Kind::Port, "8001"),
            (Kind::Container, "bot"),
        ] {
            let process = fixture.proc.process(Tgid(10)).expect("it is in the fixture");
            assert_eq!(selector(kind, value).matches(&process, &Tables::default()), None, "{kind:?} {value}");
        }
    }

    #[test]
    fn wrappers_are_known() {
        assert!(WRAPPERS.is_sorted(), "binary search needs it");
        for wrapper in [
            "bash",
            "unshare",
            "runuser",
            "xargs",
            "vim.basic",
            "gawk",
            "mawk",
            "rvim",
            "containerd-shim-runc-v2",
            "nano",
            "tail",
            "env",
            "git",
        ] {
            assert!(is_wrapper(wrapper), "{wrapper}");
        }
        for bot in
            ["python3.11", "node", "uvicorn", "bot", "gunicorn", "ruby", "java", "go", "redbot", "", "shadow", "group"]
        {
            assert!(!is_wrapper(bot), "{bot}");
        }
    }

    #[test]
    fn the_port_of_a_real_listener_finds_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        let port = listener.local_addr().expect("bound").port();
        let proc = crate::discovery::process::ProcFs::default();
        let process = proc.process(Tgid(std::process::id())).expect("this process is alive");
        let found = selector(Kind::Port, &port.to_string()).matches(&process, &Tables::default());
        assert_eq!(found, Some(format!("listens on 127.0.0.1:{port}")));
    }

    #[test]
    fn nonsense_is_told_in_one_line() {
        for (kind, value, line) in [
            (Kind::Pid, "0", "`0` is not a process number; write one, as in `pid:1234`"),
            (Kind::Pid, "bot", "`bot` is not a process number; write one, as in `pid:1234`"),
            (Kind::Port, "65536", "`65536` is not a TCP port; write 1 to 65535, as in `port:8000`"),
            (Kind::Comm, "", "`comm:` has no value"),
            (
                Kind::Exec,
                "all",
                "`exec:all` means nothing; `exec:any` lets `cmdline` match shells, editors, pagers and wrappers too",
            ),
            (Kind::Exe, "a[", "the pattern `a[` does not compile: invalid range pattern"),
            (
                Kind::Container,
                "3f4c7c1d",
                "`3f4c7c1d` is too short for a container's id; write at least 12 digits of it",
            ),
            (
                Kind::Cmdline,
                "bot(",
                "the regular expression `bot(` does not compile: unclosed group; put a backslash before a character that is meant as it stands",
            ),
        ] {
            assert_eq!(Selector::parse(kind, value).err().map(|error| error.to_string()).as_deref(), Some(line));
        }
    }
}
