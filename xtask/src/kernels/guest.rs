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
        Self { failures: vec![why], ..Self::read(kernel, "ok end\n", "") }
    }

    /// Reads the guest's report: `ok WHAT`, `not ok WHAT`, anything else explains; the last must be `ok end`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_passes_only_when_all_is_ok_and_the_end_was_reached() {
        let read = |text: &str| Report::read("k", text, "");
        assert!(read("ok check\r\nsome words\r\nok counts\r\nok end\r\n").passed());
        assert!(!read("ok check\nok counts\n").passed(), "it never came to its end");
        assert!(!read("ok check\nnot ok counts\nok end\n").passed());
        assert!(!read("").passed());
        assert_eq!(read("ok check\nnot ok counts: 3 lost\nok end\n").verdict(), "FAILED: counts: 3 lost");
        assert_eq!(read("ok check\nok end\n").verdict(), "ok: check");
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
