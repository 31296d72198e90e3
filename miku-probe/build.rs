//! Puts the BPF object into the program, when there is one.
//!
//! `cargo xtask build` makes it. Without it everything that needs no kernel side still builds and runs, and the
//! program says what is missing when it is asked to attach.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("miku-probe.bpf.o");
    let object = manifest.join("../target/bpf/bpfel-unknown-none/release/miku-probe-ebpf");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", object.display());
    match fs::read(&object) {
        Ok(bytes) => fs::write(&out, bytes),
        Err(_) => fs::write(&out, []),
    }
    .expect("the output folder of a build script is writable");
}
