//! The tests' side: puts a copy of the library into a folder of its own, and writes what it is to tell.
//!
//! A script is lines of a key and a value: see [`crate`]. It may be written anew at any time; the next call into the library
//! goes by it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The script's name in the library's folder.
pub(crate) const SCRIPT: &str = "script";

/// The name of the file that tells which script it is.
pub(crate) const GENERATION: &str = "generation";

/// A copy of the library, alone in a folder that goes when this does.
#[derive(Debug)]
pub struct StandIn {
    folder: TempDir,
    generation: u64,
}

impl StandIn {
    /// A copy that knows nothing of any GPU yet, and lacks the functions named.
    ///
    /// # Panics
    /// When the library was not built, or has no such function.
    #[must_use]
    pub fn without(functions: &[&str]) -> Self {
        let built = built("libnvidia_ml_standin.so");
        let mut library = fs::read(&built).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
        for function in functions {
            // In its table of names, where the loader then finds another one.
            let name = [b"\0", function.as_bytes(), b"\0"].concat();
            let mut found = false;
            while let Some(at) = library.windows(name.len()).position(|window| window == name) {
                library[at + 1] = b'x';
                found = true;
            }
            assert!(found, "the stand-in has no {function}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut this = Self { folder, generation: 0 };
        fs::write(this.library(), library).expect("it is ours");
        this.tell("");
        this
    }

    /// The library's path.
    #[must_use]
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// Has it go by another script.
    ///
    /// # Panics
    /// When that cannot be written.
    pub fn tell(&mut self, script: &str) {
        let folder = self.folder.path();
        fs::write(folder.join("next"), script).expect("it is ours");
        fs::rename(folder.join("next"), folder.join(SCRIPT)).expect("it is ours");
        self.generation += 1;
        let file = File::options().create(true).truncate(false).write(true).open(folder.join(GENERATION));
        file.expect("it is ours").write_all_at(&self.generation.to_ne_bytes(), 0).expect("it is ours");
    }
}

/// Where cargo puts a library that a test depends on: beside the test.
///
/// # Panics
/// When the program does not know where it is.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a program knows where it is");
    let folder = program.parent().unwrap_or(Path::new("."));
    [folder.join(name), folder.join("deps").join(name)]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {name} beside {}", program.display()))
}
