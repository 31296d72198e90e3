//! `cargo xtask kernels`: boots Debian's kernels under qemu and has the release binary measure real exchanges on each.
//!
//! [`images`] brings the kernels, [`guest`] packs the initial RAM disk and reads what the guest reports. Emulation is
//! qemu's own (TCG), because it works everywhere; a kernel takes some ten seconds.

mod guest;
mod images;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::build;
use crate::setup::{self, Need};
use crate::sh::{Sh, say, workspace};
use guest::{Disk, Report};
use images::{Image, Line};

/// Boot Debian's kernels under qemu and measure real exchanges on each
#[derive(Args)]
pub(crate) struct Kernels {
    /// `all` (5.10, 6.1, 6.12 and the newest), `ci` (the oldest and the newest), versions such as `6.1` or `newest`, or
    /// the paths of kernel images
    #[arg(default_value = "all")]
    which: Vec<String>,
}

/// Which kernels a whole run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// None at all.
    None,
    /// The oldest that is supported and the newest there is.
    Ci,
    /// One of every supported line.
    All,
}

impl Kernels {
    pub(crate) fn run(self) -> Result<()> {
        let lines = self.which.iter().flat_map(|word| parse(word)).collect();
        build::release()?;
        boot(lines).map(drop)
    }
}

fn parse(word: &str) -> Vec<Line> {
    match word {
        "all" => vec![Line::version("5.10"), Line::version("6.1"), Line::version("6.12"), Line::Newest],
        "ci" => vec![Line::version("5.10"), Line::Newest],
        "newest" => vec![Line::Newest],
        path if path.contains('/') => vec![Line::File(PathBuf::from(path))],
        version => vec![Line::version(version)],
    }
}

/// Whether this machine can bring and boot Debian's kernels; else why not.
pub(crate) fn unsupported() -> Option<&'static str> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the kernels are x86-64 ones");
    }
    if setup::on_path("apt-get").is_none() || setup::on_path("dpkg").is_none() {
        return Some("Debian's kernels come through apt-get and dpkg, which this system lacks");
    }
    None
}

/// Boots the chosen kernels with the binaries that have been built; returns their versions in one line.
pub(crate) fn run(choice: Choice) -> Result<String> {
    let word = match choice {
        Choice::None => bail!("no kernel was chosen"),
        Choice::Ci => "ci",
        Choice::All => "all",
    };
    boot(parse(word))
}

fn boot(lines: Vec<Line>) -> Result<String> {
    ensure!(!lines.is_empty(), "no kernel was chosen");
    let needs_apt = lines.iter().any(|line| !matches!(line, Line::File(_)));
    if let Some(reason) = unsupported().filter(|_| needs_apt) {
        bail!("{reason}; give the path of a kernel image instead, as in `cargo xtask kernels ./vmlinuz`");
    }
    setup::ensure(&[Need::Kernels])?;
    Sh::new("cargo").args(["build", "--release", "--package", "miku-probe-tests", "--bin", "peer"]).run()?;
    let folder = workspace().join("target/kernels");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let disk = Disk::pack(&folder)?;

    // One kernel that cannot be brought does not keep the others from their turn.
    let mut reports = Vec::new();
    for line in lines {
        let name = line.to_string();
        let report = match Image::bring(line, &folder) {
            Ok(image) => {
                say(format_args!("kernels: booting {}", image.release));
                disk.boot(&image)
            }
            Err(error) => Report::failed(&name, format!("{error:#}")),
        };
        say(format_args!("kernels: {report}"));
        reports.push(report);
    }
    for report in reports.iter().filter(|report| !report.passed()) {
        say(format_args!("\n{}", report.details()));
    }
    println!("{:<32} {:>7}  result", "kernel", "seconds");
    for report in &reports {
        println!("{:<32} {:>7.1}  {}", report.kernel, report.wall.as_secs_f64(), report.verdict());
    }
    let bad = reports.iter().filter(|report| !report.passed()).count();
    if bad > 0 {
        bail!("{bad} of {} kernels failed", reports.len());
    }
    Ok(reports.iter().map(|report| report.kernel.as_str()).collect::<Vec<_>>().join(", "))
}
