//! Puts into the program the BPF object, when there is one, and the revision of the sources.
//!
//! `cargo xtask build` makes the object. Without it everything that needs no kernel side still builds and runs, and the
//! program says what is missing when it is asked to attach.

use std::path::{Path, PathBuf};
use std::{env, fs};

mod revision;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the package is in a folder of the workspace");
    println!("cargo::rerun-if-changed=build");
    object(workspace);
    revision(workspace);
}

/// Copies the BPF object, or an empty one, to where the library includes it.
fn object(workspace: &Path) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("miku-probe.bpf.o");
    let object = workspace.join("target/bpf/bpfel-unknown-none/release/miku-probe-ebpf");
    println!("cargo::rerun-if-changed={}", object.display());
    match fs::read(&object) {
        Ok(bytes) => fs::write(&out, bytes),
        Err(_) => fs::write(&out, []),
    }
    .expect("the output folder of a build script is writable");
}

/// Gives the library the revision: what the environment variable `MIKU_PROBE_REVISION` says, else what git says.
fn revision(workspace: &Path) {
    const GIVEN: &str = "MIKU_PROBE_REVISION";
    println!("cargo::rerun-if-env-changed={GIVEN}");
    let revision = env::var(GIVEN).ok().filter(|given| !given.is_empty()).unwrap_or_else(|| {
        for path in revision::sources(workspace).into_iter().chain(revision::heads(workspace)) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
        revision::of(workspace)
    });
    println!("cargo::rustc-env=MIKU_PROBE_BUILD_REVISION={revision}");
}
