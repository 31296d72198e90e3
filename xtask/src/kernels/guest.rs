//! The machine that is booted: its initial RAM disk, and what it reports.
//!
//! The disk holds a static busybox, the release binary, the tests' own server and load generator, and openssl, with the libraries
//! they are linked with here. `xtask/kernels/init.sh` is its first process. It reports on the second serial port, so
//! that kernel messages on the first cannot get in between.

use std::fmt::{self, Display};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::images::Image;
use crate::build;
use crate::setup;
use crate::sh::{self, Sh, workspace};

/// A guest that has not powered off by then hangs.
const DEADLINE: Duration = Duration::from_secs(150);
/// How much of the console is shown when a kernel fails.
const CONSOLE_LINES: usize = 40;

/// What `init.sh` has to report as right, in its order: a check that is left out must not pass for one that went well.
const CHECKS: [&str; 13] = [
    "check",
    "server",
    "TLS server",
    "event loops",
    "attach",
    "load",
    "truth",
    "counts",
    "TLS",
    "turns of event loops",
    "ends",
    "exit within 2 s",
    "clean exit",
];

/// Reported too by kernels from this version on, which tell when what is read had come.
const ARRIVALS: (&str, (u32, u32)) = ("arrivals", (6, 3));

/// A packed initial RAM disk.
pub(crate) struct Disk {
    archive: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// Packs the binaries that have been built.
    ///
    /// # Errors
    /// When one is missing, or the disk cannot be written.
    pub(crate) fn pack(folder: &Path) -> Result<Self> {
        let root = folder.join("disk");
        if root.exists() {
            fs::remove_dir_all(&root).context("cannot clear the folder of the initial RAM disk")?;
        }
        for part in ["bin", "dev", "proc", "sys", "tmp", "run"] {
            fs::create_dir_all(root.join(part)).context("cannot make the folders of the initial RAM disk")?;
        }
        let put = |from: &Path, to: &str| -> Result<()> {
            let to = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().context("a file without a folder")?).context("cannot make a folder")?;
            fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).context("cannot make a file executable")
        };
        put(&workspace().join("xtask/kernels/init.sh"), "init")?;
        put(Path::new("/bin/busybox"), "bin/busybox")?;
        let binaries = [
            (build::release_binary(), "bin/miku-probe"),
            (workspace().join("target/release/peer"), "bin/peer"),
            (
                setup::on_path("openssl").context("openssl is not installed: its server is measured over TLS")?,
                "bin/openssl",
            ),
        ];
        for (from, to) in &binaries {
            put(from, to)?;
            for library in libraries(from)? {
                put(&library, &library.display().to_string())?;
            }
        }
        let archive = folder.join("initrd.cpio");
        let script = "find . -print0 | cpio --null --create --format=newc --owner=+0:+0 --quiet > \"$0\"";
        Sh::new("sh").args(["-c", script]).arg(&archive).dir(&root).output()?;
        Ok(Self { archive, folder: folder.to_owned() })
    }

    /// Boots a kernel with this disk and waits until it powers off.
    pub(crate) fn boot(&self, image: &Image) -> Report {
        let began = Instant::now();
        let mut report =
            self.try_boot(image).unwrap_or_else(|error| Report::failed(&image.release, format!("{error:#}")));
        report.wall = began.elapsed();
        report
    }

    fn try_boot(&self, image: &Image) -> Result<Report> {
        let console = self.folder.join("console.log");
        let results = self.folder.join("results.log");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-accel", "tcg,thread=multi", "-M", "pc", "-cpu", "max", "-m", "1G", "-smp", "1"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-serial").arg(format!("file:{}", results.display()));
        qemu.arg("-kernel").arg(&image.path).arg("-initrd").arg(&self.archive);
        qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        sh::die_with_parent(&mut qemu, libc::SIGKILL);
        let mut child = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        let in_time = wait(&mut child)?;
        let output = child.wait_with_output().context("cannot wait for qemu")?;
        let read =
            |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let console = format!("{}{}", read(&console), String::from_utf8_lossy(&output.stderr));
        let mut report = Report::read(&image.release, &read(&results), &console);
        if !in_time {
            report.failures.push(format!("did not power off within {} s", DEADLINE.as_secs()));
        }
        Ok(report)
    }
}

/// Waits for the guest to power off; kills it at the deadline. Returns whether it ended by itself.
fn wait(child: &mut Child) -> Result<bool> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if child.try_wait().context("cannot wait for qemu")?.is_some() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            child.kill().context("cannot end qemu")?;
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The shared libraries that a program loads, its loader included. A static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    if !program.is_file() {
        bail!("{} has not been built", program.display());
    }
    // ldd fails on a static program and says so; then there is nothing to bring.
    let text = Sh::new("ldd").arg(program).output().unwrap_or_default();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

/// What one kernel showed.
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) wall: Duration,
    passed: Vec<String>,
    failures: Vec<String>,
    /// All that the guest reported.
    text: String,
    console: String,
}

impl Report {
    /// A kernel that could not even be booted.
    pub(crate) fn failed(kernel: &str, why: String) -> Self {
        Self { failures: vec![why], ..Self::read(kernel, "", "") }
    }

    /// Reads the guest's report: its kernel's version, then `ok WHAT` and `not ok WHAT`; anything else explains. The last
    /// must be `ok end`, and what is expected of this kernel must all be there.
    fn read(kernel: &str, text: &str, console: &str) -> Self {
        let mut report = Self {
            kernel: kernel.to_owned(),
            wall: Duration::ZERO,
            passed: Vec::new(),
            failures: Vec::new(),
            text: text.to_owned(),
            console: console.to_owned(),
        };
        for line in text.lines().map(str::trim) {
            if let Some(what) = line.strip_prefix("ok ") {
                report.passed.push(what.to_owned());
            } else if let Some(what) = line.strip_prefix("not ok ") {
                report.failures.push(what.to_owned());
            }
        }
        if report.passed.pop().as_deref() != Some("end") {
            report.failures.push("the guest did not come to its end".to_owned());
        }
        // After a failure the guest leaves out what depends on it.
        if report.failures.is_empty() {
            let arrivals = (version(text) >= Some(ARRIVALS.1)).then_some(ARRIVALS.0);
            let expected = CHECKS.into_iter().chain(arrivals);
            let missing: Vec<&str> = expected.filter(|what| !report.passed.iter().any(|had| had == what)).collect();
            if !missing.is_empty() {
                report.failures.push(format!("not reported: {}", missing.join(", ")));
            }
        }
        report
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    pub(crate) fn verdict(&self) -> String {
        if self.passed() {
            format!("ok: {}", self.passed.join(", "))
        } else {
            format!("FAILED: {}", self.failures.join("; "))
        }
    }

    /// All that may explain a failure.
    pub(crate) fn details(&self) -> String {
        let lines: Vec<&str> = self.console.lines().collect();
        let tail = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
        format!(
            "--- {}: report\n{}\n--- {}: end of the console\n{tail}",
            self.kernel,
            self.text.trim_end(),
            self.kernel
        )
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({:.1} s)", self.kernel, self.verdict(), self.wall.as_secs_f64())
    }
}

/// The kernel's version, by which a report begins.
fn version(report: &str) -> Option<(u32, u32)> {
    let mut numbers = report.lines().next()?.trim().split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of a kernel that did everything well.
    fn good(version: &str, more: &[&str]) -> String {
        let lines = CHECKS.iter().chain(more).map(|what| format!("ok {what}\r\n"));
        format!("{version}-cloud-amd64\r\nsome words\r\n{}ok end\r\n", lines.collect::<String>())
    }

    #[test]
    fn a_report_passes_only_when_all_is_ok_and_the_end_was_reached() {
        let read = |text: &str| Report::read("k", text, "");
        assert_eq!(read(&good("5.10.0-43", &[])).failures, Vec::<String>::new());
        assert!(!read(&good("5.10.0-43", &[]).replace("ok end\r\n", "")).passed(), "it never came to its end");
        assert!(!read(&good("5.10.0-43", &[]).replace("ok counts", "not ok counts")).passed());
        assert!(!read("").passed());
        assert_eq!(read("ok check\nnot ok counts: 3 lost\nok end\n").verdict(), "FAILED: counts: 3 lost");
        assert!(read(&good("5.10.0-43", &[])).verdict().starts_with("ok: check, server, "));
    }

    #[test]
    fn a_check_that_is_left_out_fails() {
        let without = good("5.10.0-43", &[]).replace("ok TLS\r\n", "");
        assert_eq!(Report::read("k", &without, "").verdict(), "FAILED: not reported: TLS");
        assert!(
            Report::read("k", "5.10.0\nok end\n", "").verdict().starts_with("FAILED: not reported: check, server, ")
        );
        for version in ["6.3.0", "7.2.1", "10.0.0"] {
            assert_eq!(Report::read("k", &good(version, &[]), "").verdict(), "FAILED: not reported: arrivals");
            assert!(Report::read("k", &good(version, &["arrivals"]), "").passed());
        }
        assert!(Report::read("k", &good("6.2.9", &[]), "").passed());
    }

    #[test]
    fn a_kernel_that_could_not_be_brought_is_a_failure() {
        assert_eq!(Report::failed("6.1", "no mirror".to_owned()).verdict(), "FAILED: no mirror");
    }

    #[test]
    fn a_programs_libraries_are_files() {
        let own = std::env::current_exe().expect("a test has a path");
        let libraries = libraries(&own).expect("the test is a program");
        assert!(libraries.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{libraries:?}");
        assert!(libraries.iter().all(|path| path.is_file()), "{libraries:?}");
    }
}
