//! `cargo xtask build`: the BPF object, then the program that carries it.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{self, BpfCompiler, BpfToolchain, Need};
use crate::sh::{Sh, workspace};

/// The target triple of the BPF programs: little-endian, as the machines they run on.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// The BPF programs of the probe.
const PROGRAMS: &str = "miku-probe-ebpf";

/// The BPF programs that the benchmark holds them against.
const FLOOR: &str = "miku-probe-floor";

/// Build the BPF object and the program that carries it
#[derive(Args)]
pub(crate) struct Build {
    /// Build the program optimised, as it is installed (the BPF object always is)
    #[arg(long)]
    release: bool,
}

impl Build {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(&[Need::Bpf])?;
        object(PROGRAMS)?;
        let mut program = Sh::new("cargo").args(["build", "--package", "miku-probe"]);
        if self.release {
            program = program.arg("--release");
        }
        program.run()
    }
}

/// Where the optimised program lies once it is built.
pub(crate) fn release_binary() -> PathBuf {
    workspace().join("target/release/miku-probe")
}

/// Builds the BPF object and the optimised program; both are needed by whatever attaches.
pub(crate) fn release() -> Result<()> {
    setup::ensure(&[Need::Bpf])?;
    object(PROGRAMS)?;
    Sh::new("cargo").args(["build", "--release", "--package", "miku-probe"]).run()
}

/// Builds the object that the benchmark holds the probe's own against, and tells where it lies.
pub(crate) fn floor() -> Result<PathBuf> {
    setup::ensure(&[Need::Bpf])?;
    object(FLOOR)
}

/// Builds a BPF object. The build script of `miku-probe` puts that of [`PROGRAMS`] into the program.
fn object(name: &str) -> Result<PathBuf> {
    let root = workspace();
    object_command(&setup::bpf()?, &root, name).run()?;
    let object = root.join("target/bpf").join(BPF_TARGET).join("release").join(name);
    let size = object.metadata().with_context(|| format!("the build left no {}", object.display()))?.len();
    if size == 0 {
        bail!("{} is empty", object.display());
    }
    Ok(object)
}

fn object_command(toolchain: &BpfToolchain, root: &Path, name: &str) -> Sh {
    // Cargo parts these at spaces, so the linker, whose path may have some, has a variable of its own.
    let flags = format!("-Clink-arg=--btf -Cdebuginfo=2 --cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    let build = match &toolchain.compiler {
        // RUSTC_BOOTSTRAP lets a stable compiler take what aya-ebpf asks of a nightly one; for this build alone.
        BpfCompiler::Debian(rustc) => Sh::new("cargo").arg("build").env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1"),
        BpfCompiler::Rustup(name) => Sh::new("rustup").args(["run", name, "cargo", "build", "-Zbuild-std=core"]),
    };
    build
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("RUSTFLAGS", flags)
        .args(["--release", "--features", "bpf", "--bin", name, "--target", BPF_TARGET, "--target-dir"])
        .arg(root.join("target/bpf"))
        .dir(root.join("miku-probe-ebpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_routes_build_the_same_crate_for_the_same_target() {
        let linker = PathBuf::from("/my tools/bpf-linker");
        let debian = BpfToolchain { compiler: BpfCompiler::Debian("/usr/bin/rustc".into()), linker: linker.clone() };
        let rustup = BpfToolchain { compiler: BpfCompiler::Rustup("nightly-2026-01-01"), linker };
        let tail =
            "--release --features bpf --bin miku-probe-ebpf --target bpfel-unknown-none --target-dir /w/target/bpf";
        let debian = object_command(&debian, Path::new("/w"), PROGRAMS).to_string();
        let rustup = object_command(&rustup, Path::new("/w"), PROGRAMS).to_string();
        assert!(
            debian.starts_with(
                "RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
                 CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER='/my tools/bpf-linker' RUSTFLAGS='-Clink-arg=--btf "
            ),
            "{debian}"
        );
        assert!(debian.ends_with(&format!("cargo build {tail}")), "{debian}");
        assert!(
            rustup.ends_with(&format!("rustup run nightly-2026-01-01 cargo build -Zbuild-std=core {tail}")),
            "{rustup}"
        );
        assert!(!rustup.contains("RUSTC_BOOTSTRAP"), "a nightly needs no bootstrap: {rustup}");
    }
}
