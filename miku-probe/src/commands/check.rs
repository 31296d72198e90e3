//! `miku-probe check`: whether this machine can be probed, and the remedy for each thing that stands against it.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use serde::Serialize;

use super::sites;
use crate::config::CheckConfig;
use crate::discovery::process::{ProcFs, status_field};
use crate::mounts::{BPFFS, TRACEFS};
use crate::observations::Unavailable;
use crate::probes::event_loop;
use crate::probes::socket::Way;
use crate::samplers;

/// The oldest kernel.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// The first kernel that charges BPF memory to the control group and not to the memlock limit.
const KERNEL_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);

/// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`: the initial PID namespace.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Capabilities that are needed, by name and bit (`include/uapi/linux/capability.h`).
const CAPABILITIES: [(&str, u32); 4] =
    [("CAP_SYS_PTRACE", 19), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN), ("CAP_PERFMON", CAP_PERFMON), ("CAP_BPF", CAP_BPF)];

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// `CAP_SYS_RESOURCE`, which lifts the memlock limit.
const CAP_SYS_RESOURCE: u32 = 24;

/// Tracepoints that are needed.
const EVENTS: [&str; 6] = [
    "syscalls/sys_enter_close",
    "tcp/tcp_destroy_sock",
    "task/task_newtask",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "sock/inet_sock_set_state",
];

/// What to do where the kernel lacks something.
const OTHER_KERNEL: &str =
    "install the distribution's own kernel (Debian: `apt-get install linux-image-amd64`) and reboot";

/// How much a check matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Nothing works without it.
    Required,
    /// Something is less good without it.
    Optional,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it has to be.
    Good(String),
    /// It is not.
    Bad {
        /// What is wrong.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// It could not be told.
    Unknown(String),
}

/// What a check means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Pass,
    /// Worth to know; the probe works.
    Warn,
    /// The probe does not work.
    Fail,
    /// Whether it works cannot be told.
    Unknown,
}

impl Status {
    /// What it means that a check of this intent came out so.
    #[must_use]
    pub const fn of(intent: Intent, outcome: &Outcome) -> Self {
        match (intent, outcome) {
            (_, Outcome::Good(_)) => Self::Pass,
            (Intent::Required, Outcome::Bad { .. }) => Self::Fail,
            (Intent::Optional, Outcome::Bad { .. } | Outcome::Unknown(_)) => Self::Warn,
            (Intent::Required, Outcome::Unknown(_)) => Self::Unknown,
        }
    }

    /// Whether the probe can work.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Pass | Self::Warn)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Unknown => "????",
        }
    }

    /// The terminal's code for it.
    const fn color(self) -> &'static str {
        match self {
            Self::Pass => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Fail | Self::Unknown => "\x1b[31m",
        }
    }
}

/// One thing looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// What, in a word or two.
    pub name: &'static str,
    /// How much it matters.
    pub intent: Intent,
    /// What was found.
    pub outcome: Outcome,
}

impl Check {
    /// What it means.
    #[must_use]
    pub const fn status(&self) -> Status {
        Status::of(self.intent, &self.outcome)
    }
}

/// Looks at everything before something is attached, and mounts what is missing.
///
/// # Errors
/// The first thing that stands against it, with its remedy.
pub fn preflight(object: &[u8]) -> anyhow::Result<()> {
    for check in checks(object) {
        if let (Status::Fail, Outcome::Bad { what, remedy }) = (check.status(), &check.outcome) {
            anyhow::bail!("{}: {what}; {remedy}", check.name);
        }
    }
    Ok(())
}

/// Looks at everything, and prints it to `output`. `object` is the BPF object that the program carries. Tells whether the
/// probe can work.
///
/// # Errors
/// When `output` cannot be written.
pub fn run(config: CheckConfig, object: &[u8], output: &mut (impl Write + IsTerminal)) -> io::Result<bool> {
    let mut checks = checks(object);
    let [tls, inflate] = sites::outcomes(&ProcFs::default());
    checks.push(Check { name: "TLS libraries", intent: Intent::Optional, outcome: tls });
    checks.push(Check { name: "zlib and zstd", intent: Intent::Optional, outcome: inflate });
    checks.push(Check { name: "GPU", intent: Intent::Optional, outcome: gpu(config.gpu_library) });
    let text = if config.json { json(&checks) } else { table(&checks, config.color && output.is_terminal()) };
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(checks.iter().all(|check| check.status().is_well()))
}

/// Looks at everything, cheapest and most telling first. Mounts tracefs and bpffs as `run` would.
#[must_use]
pub fn checks(object: &[u8]) -> Vec<Check> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = version(&release);
    let capabilities = capabilities(&status);
    let required = |name, outcome| Check { name, intent: Intent::Required, outcome };
    let optional = |name, outcome| Check { name, intent: Intent::Optional, outcome };
    vec![
        required("kernel", kernel(release.trim(), version)),
        required("architecture", architecture(std::env::consts::ARCH)),
        required("privileges", privileges(capabilities)),
        required(
            "PID namespace",
            pid_namespace(
                fs::read_link("/proc/self/ns/pid").ok().and_then(|link| link.to_str().map(str::to_owned)).as_deref(),
            ),
        ),
        required("BPF object", bpf_object(object)),
        required("BPF maps", bpf_feature("hash maps", is_map_supported(MapType::Hash))),
        required("BPF ring buffer", bpf_feature("ring buffers", is_map_supported(MapType::RingBuf))),
        required("BPF programs", bpf_feature("tracepoint programs", is_program_supported(ProgramType::TracePoint))),
        required("kernel BTF", btf()),
        required("tracefs", mounted(TRACEFS)),
        required("tracepoints", tracepoints()),
        required("perf events", perf_events()),
        required("lockdown", lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref())),
        required("memlock limit", memlock(version, capabilities, memlock_limit())),
        optional("bpffs", mounted(BPFFS)),
        optional("uprobes", uprobes()),
        optional("event loops", event_loops()),
        optional(
            "ptrace scope",
            ptrace_scope(fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok().as_deref()),
        ),
        optional("seccomp", seccomp(status_field(&status, "Seccomp:"))),
    ]
}

fn good(detail: impl Into<String>) -> Outcome {
    Outcome::Good(detail.into())
}

fn bad(what: impl Into<String>, remedy: impl Into<String>) -> Outcome {
    Outcome::Bad { what: what.into(), remedy: remedy.into() }
}

/// Major and minor number of a kernel's release, such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.trim().split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str, version: Option<(u32, u32)>) -> Outcome {
    match version {
        Some(version) if version >= KERNEL_MIN => good(release),
        Some(_) => bad(format!("{release} is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1), OTHER_KERNEL),
        None => Outcome::Unknown(format!("`{release}` is no release that can be read")),
    }
}

fn architecture(name: &str) -> Outcome {
    if name == "x86_64" { good(name) } else { bad(format!("{name} is not supported"), "use an x86-64 machine") }
}

/// The effective capabilities in the text of `/proc/self/status`, a bit each.
fn capabilities(status: &str) -> u64 {
    status_field(status, "CapEff:").and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

fn privileges(capabilities: u64) -> Outcome {
    // `CAP_SYS_ADMIN` includes the two newer ones (`capabilities(7)`), which container runtimes from before Linux 5.8 do not know.
    let held = |bit: u32| {
        capabilities & (1 << bit) != 0
            || ([CAP_PERFMON, CAP_BPF].contains(&bit) && capabilities & (1 << CAP_SYS_ADMIN) != 0)
    };
    let missing = CAPABILITIES.iter().filter(|(_, bit)| !held(*bit));
    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return good(CAPABILITIES.map(|(name, _)| name).join(", "));
    }
    bad(
        format!("without {}", missing.join(", ")),
        "run it as root, as in `sudo miku-probe …`; in a container with `--privileged --pid=host`",
    )
}

fn pid_namespace(link: Option<&str>) -> Outcome {
    match link {
        Some(INITIAL_PID_NAMESPACE) => good("the initial one"),
        Some(_) => {
            bad("an inner one: the kernel counts processes in the initial one", "start the container with `--pid=host`")
        }
        None => Outcome::Unknown("/proc/self/ns/pid cannot be read".to_owned()),
    }
}

fn bpf_object(object: &[u8]) -> Outcome {
    if object.is_empty() {
        return bad("this program was built without the kernel side", "build it with `cargo xtask build`");
    }
    good(format!("{} KiB", object.len().div_ceil(1024)))
}

fn bpf_feature<E: std::error::Error>(what: &str, supported: Result<bool, E>) -> Outcome {
    match supported {
        Ok(true) => good(format!("{what} can be made")),
        Ok(false) => bad(format!("the kernel has no {what}"), OTHER_KERNEL),
        Err(error) => {
            let mut reason = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                // Each cause tells what its own sources are; a chain of them repeats itself.
                let cause_text = cause.to_string();
                if !reason.contains(&cause_text) {
                    let _ = write!(reason, ": {cause_text}");
                }
                source = cause.source();
            }
            bad(
                format!("the kernel refuses {what}: {reason}"),
                "run it as root; in a container with `--privileged`; where that does not help, the kernel or its security module forbids BPF",
            )
        }
    }
}

/// What the probes in TLS libraries need.
fn uprobes() -> Outcome {
    const PATH: &str = "/sys/bus/event_source/devices/uprobe/type";
    match fs::metadata(PATH) {
        Ok(_) => good("TLS can be seen where `miku-probe ps` shows a library"),
        Err(_) => bad(format!("{PATH} is missing (CONFIG_UPROBE_EVENTS): nothing of TLS can be seen"), OTHER_KERNEL),
    }
}

/// Asks the GPUs as the probe would.
fn gpu(library: Option<PathBuf>) -> Outcome {
    let told = samplers::gpu::look(samplers::gpu::Settings { library, ..Default::default() });
    let devices = match told {
        Ok(devices) => devices,
        // Most machines have none, and nothing is wrong with that.
        Err(reason @ (Unavailable::LibraryAbsent | Unavailable::DriverAbsent | Unavailable::NoGpu)) => {
            return good(format!("{reason}: there is nothing to watch"));
        }
        Err(reason) => return bad(reason.to_string(), gpu_remedy(reason)),
    };
    if let Some((gpu, reason)) = devices.iter().find_map(|device| Some((&device.gpu, *device.told.as_ref().err()?))) {
        return bad(format!("{gpu}: {reason}"), gpu_remedy(reason));
    }
    let names = devices.iter().filter_map(|device| device.told.as_ref().ok()?.name.as_deref());
    good(format!("{} found: {}", devices.len(), names.collect::<Vec<_>>().join(", ")))
}

const fn gpu_remedy(reason: Unavailable) -> &'static str {
    match reason {
        Unavailable::VersionMismatch => "reboot, or unload the driver and load it again: it was upgraded meanwhile",
        Unavailable::NoPermission => {
            "run it as root; in a container with the GPUs, as by `--gpus all`, and NVIDIA_DRIVER_CAPABILITIES=utility"
        }
        Unavailable::GpuLost => "reset the GPU, as by `nvidia-smi --gpu-reset`, or reboot; `dmesg` tells the Xid",
        Unavailable::Hung => "look at `dmesg` for an Xid; a driver that hangs takes a reboot",
        Unavailable::LibraryAbsent
        | Unavailable::LibraryUnusable
        | Unavailable::DriverAbsent
        | Unavailable::NoGpu
        | Unavailable::Failed => "see whether `nvidia-smi` works, and install the driver anew where it does not",
    }
}

fn btf() -> Outcome {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(PATH) {
        Ok(_) => good(PATH),
        Err(_) => bad(format!("{PATH} is missing (CONFIG_DEBUG_INFO_BTF)"), OTHER_KERNEL),
    }
}

fn mounted(file_system: crate::mounts::KernelFs) -> Outcome {
    match file_system.ensure_mounted() {
        Ok(true) => good(format!("mounted just now at {}", file_system.path)),
        Ok(false) => good(file_system.path),
        Err(error) => bad(
            format!("not mounted at {}: {error}", file_system.path),
            format!("run `{}` as root", file_system.command()),
        ),
    }
}

fn tracepoints() -> Outcome {
    let folder = format!("{}/events", TRACEFS.path);
    if let Err(error) = fs::read_dir(&folder) {
        return Outcome::Unknown(format!("{folder} cannot be read: {error}"));
    }
    let is_there = |event: &str| fs::metadata(format!("{folder}/{event}/id")).is_ok();
    let missing: Vec<&str> = EVENTS.into_iter().filter(|event| !is_there(event)).collect();
    if missing.is_empty() {
        let way = match Way::of_this_kernel() {
            Way::Sockets => "sockets tell what moves",
            Way::Calls => "system calls tell what moves",
        };
        return good(format!("{} looked for, all there; {way}", EVENTS.len()));
    }
    bad(format!("the kernel has no {} (CONFIG_FTRACE_SYSCALLS, CONFIG_TRACEPOINTS)", missing.join(", ")), OTHER_KERNEL)
}

/// Whether turns of event loops can be seen.
fn event_loops() -> Outcome {
    match event_loop::supported() {
        Ok(()) => good("their waits can be seen"),
        Err(error) => bad(format!("nothing of them can be seen: {error}"), OTHER_KERNEL),
    }
}

/// Opens a tracepoint as the probe would, and closes it.
fn perf_events() -> Outcome {
    const PERF_TYPE_TRACEPOINT: u64 = 2;
    const PERF_ATTR_SIZE_VER0: u64 = 64;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 1 << 3;
    let id = fs::read_to_string(format!("{}/events/{}/id", TRACEFS.path, EVENTS[0]));
    let Some(id) = id.ok().and_then(|id| id.trim().parse::<u64>().ok()) else {
        return Outcome::Unknown("there is no tracepoint to try".to_owned());
    };
    // The first version of struct perf_event_attr: type and size, config, and nothing else set.
    let attributes: [u64; 8] = [PERF_TYPE_TRACEPOINT | PERF_ATTR_SIZE_VER0 << 32, id, 0, 0, 0, 0, 0, 0];
    let (any_process, processor, no_group) = (-1, 0, -1);
    // SAFETY: the attributes are live, 64 bytes long and say so; the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            any_process,
            processor,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: perf_event_open has just made this descriptor for us, and nobody else knows of it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            good(format!("a tracepoint opens; kernel.perf_event_paranoid is {}", paranoid.trim()))
        }
        _ => bad(
            format!(
                "a tracepoint does not open: {}; kernel.perf_event_paranoid is {}",
                io::Error::last_os_error(),
                paranoid.trim()
            ),
            "run it as root; in a container with `--privileged`",
        ),
    }
}

/// Reads `/sys/kernel/security/lockdown`, such as `none [integrity] confidentiality`; `None` when there is none.
fn lockdown(text: Option<&str>) -> Outcome {
    let mode = text.and_then(|text| text.split_once('[')?.1.split_once(']')).map_or("none", |(mode, _)| mode);
    if mode == "confidentiality" {
        return bad("confidentiality: the kernel forbids tracing", "boot without `lockdown=confidentiality`");
    }
    good(mode)
}

fn memlock_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is live, writable and of the type that getrlimit fills.
    (unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0).then_some(limit.rlim_cur)
}

/// From 5.11 BPF memory does not count against the limit. Before, the probe lifts it if it may.
fn memlock(version: Option<(u32, u32)>, capabilities: u64, limit: Option<u64>) -> Outcome {
    /// Ring buffer, tables and room to spare.
    const ENOUGH: u64 = 64 << 20;
    if version.is_some_and(|version| version >= KERNEL_WITHOUT_MEMLOCK) {
        return good("does not count on this kernel");
    }
    match limit {
        _ if capabilities & (1 << CAP_SYS_RESOURCE) != 0 => good("can be lifted (CAP_SYS_RESOURCE)"),
        Some(limit) if limit >= ENOUGH => good(format!("{} MiB", limit >> 20)),
        Some(limit) => {
            bad(format!("{} KiB is too little", limit >> 10), "run `ulimit -l unlimited` first, or run it as root")
        }
        None => Outcome::Unknown("the limit cannot be read".to_owned()),
    }
}

/// Reads `kernel.yama.ptrace_scope`; `None` when the kernel has no Yama.
fn ptrace_scope(text: Option<&str>) -> Outcome {
    match text.map(str::trim) {
        Some("3") => bad(
            "3: descriptors of other processes cannot be looked at, so the peers of connections that were open before stay unknown",
            "remove `kernel.yama.ptrace_scope = 3` from /etc/sysctl.d and reboot",
        ),
        Some(scope) => good(scope),
        None => good("not restricted"),
    }
}

/// Reads the field `Seccomp` of `/proc/self/status`.
fn seccomp(mode: Option<&str>) -> Outcome {
    match mode {
        Some("0") | None => good("no filter on the probe"),
        Some(_) => bad(
            "a filter is on the probe and may refuse what it needs",
            "start the container with `--security-opt seccomp=unconfined`",
        ),
    }
}

fn table(checks: &[Check], color: bool) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let status = check.status();
        let (begin, end) = if color { (status.color(), "\x1b[0m") } else { ("", "") };
        let detail = match &check.outcome {
            Outcome::Good(detail) | Outcome::Unknown(detail) | Outcome::Bad { what: detail, .. } => detail,
        };
        let _ = writeln!(text, "{begin}{}{end}  {:width$}  {detail}", status.word(), check.name);
        if let Outcome::Bad { remedy, .. } = &check.outcome {
            let _ = writeln!(text, "      {:width$}  remedy: {remedy}", "");
        }
    }
    let failed = checks.iter().filter(|check| !check.status().is_well()).count();
    let _ = match failed {
        0 => writeln!(text, "\nThis machine can be probed."),
        1 => writeln!(text, "\nThis machine cannot be probed: 1 check does not pass."),
        failed => writeln!(text, "\nThis machine cannot be probed: {failed} checks do not pass."),
    };
    text
}

fn json(checks: &[Check]) -> String {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        intent: Intent,
        status: Status,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        remedy: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        ok: bool,
        checks: Vec<Row<'a>>,
    }
    let rows = checks.iter().map(|check| {
        let (detail, remedy) = match &check.outcome {
            Outcome::Good(detail) | Outcome::Unknown(detail) => (detail, None),
            Outcome::Bad { what, remedy } => (what, Some(remedy.as_str())),
        };
        Row { name: check.name, intent: check.intent, status: check.status(), detail, remedy }
    });
    let report = Report { ok: checks.iter().all(|check| check.status().is_well()), checks: rows.collect() };
    serde_json::to_string_pretty(&report).expect("texts and truth values are JSON") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no() -> Outcome {
        bad("what", "remedy")
    }

    #[test]
    fn a_status_follows_from_intent_and_outcome() {
        let unknown = || Outcome::Unknown("why".to_owned());
        for (intent, outcome, status, well) in [
            (Intent::Required, good(""), Status::Pass, true),
            (Intent::Optional, good(""), Status::Pass, true),
            (Intent::Required, no(), Status::Fail, false),
            (Intent::Optional, no(), Status::Warn, true),
            (Intent::Required, unknown(), Status::Unknown, false),
            (Intent::Optional, unknown(), Status::Warn, true),
        ] {
            assert_eq!(Status::of(intent, &outcome), status, "{intent:?} {outcome:?}");
            assert_eq!(status.is_well(), well);
        }
    }

    fn is_good(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Good(_))
    }

    #[test]
    fn kernels_are_told_apart_by_number_and_not_by_text() {
        for (release, expected) in [
            ("5.9.16", false),
            ("5.10.0-46-amd64", true),
            ("6.1.0-18-amd64", true),
            ("4.19.0", false),
            ("10.0-rc1", true),
        ] {
            assert_eq!(is_good(&kernel(release, version(release))), expected, "{release}");
        }
        assert!(matches!(kernel("?", version("?")), Outcome::Unknown(_)));
    }

    #[test]
    fn every_missing_capability_is_named() {
        let all = CAPABILITIES.iter().fold(0, |bits, (_, bit)| bits | 1_u64 << bit);
        assert!(is_good(&privileges(all)) && is_good(&privileges(u64::MAX)));
        let without = |bits: u64| match privileges(all & !bits) {
            Outcome::Bad { what, .. } => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(without(1 << 19), "without CAP_SYS_PTRACE");
        assert_eq!(without(1 << CAP_SYS_ADMIN), "without CAP_SYS_ADMIN");
        let newer = 1 << CAP_PERFMON | 1 << CAP_BPF;
        assert!(is_good(&privileges(all & !newer)), "the older one is enough");
        assert_eq!(without(newer | 1 << CAP_SYS_ADMIN), "without CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF");
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001fffeffffff\n"), 0x01ff_feff_ffff);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert!(is_good(&lockdown(None)) && is_good(&lockdown(Some("[none] integrity confidentiality\n"))));
        assert!(is_good(&lockdown(Some("none [integrity] confidentiality\n"))));
        assert!(!is_good(&lockdown(Some("none integrity [confidentiality]\n"))));
        assert!(
            is_good(&ptrace_scope(None)) && is_good(&ptrace_scope(Some("1\n"))) && !is_good(&ptrace_scope(Some("3\n")))
        );
        assert!(is_good(&seccomp(Some("0"))) && !is_good(&seccomp(Some("2"))));
        assert!(
            is_good(&pid_namespace(Some("pid:[4026531836]"))) && !is_good(&pid_namespace(Some("pid:[4026532000]")))
        );
        assert!(!is_good(&bpf_object(&[])) && !is_good(&architecture("aarch64")));
    }

    #[test]
    fn the_memlock_limit_counts_on_old_kernels_only() {
        let small = Some(64 << 10);
        assert!(is_good(&memlock(Some((5, 11)), 0, small)));
        assert!(!is_good(&memlock(Some((5, 10)), 0, small)));
        assert!(is_good(&memlock(Some((5, 10)), 1 << CAP_SYS_RESOURCE, small)));
        assert!(is_good(&memlock(Some((5, 10)), 0, Some(u64::MAX))));
    }

    #[test]
    fn the_report_tells_remedies_and_the_verdict() {
        let checks = [
            Check { name: "kernel", intent: Intent::Required, outcome: good("6.1") },
            Check { name: "tracefs", intent: Intent::Required, outcome: no() },
        ];
        assert_eq!(
            table(&checks, false),
            "pass  kernel   6.1\nFAIL  tracefs  what\n               remedy: remedy\n\n\
             This machine cannot be probed: 1 check does not pass.\n"
        );
        assert!(table(&checks, true).contains("\x1b[31mFAIL\x1b[0m"));
        assert_eq!(table(&checks[..1], false), "pass  kernel  6.1\n\nThis machine can be probed.\n");
        let report: serde_json::Value = serde_json::from_str(&json(&checks)).expect("it is JSON");
        assert_eq!(report["ok"], false);
        assert_eq!(report["checks"][1]["status"], "fail");
        assert_eq!(report["checks"][1]["remedy"], "remedy");
        assert_eq!(report["checks"][0].get("remedy"), None);
    }
}
