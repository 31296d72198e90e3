//! Starts probes and services, waits for them by what they do, and takes them down again whatever happens.

pub mod client;
pub mod closing;
pub mod discord;
pub mod hermetic;
pub mod kernel;
pub mod llm;
pub mod memory;
pub mod probe;
pub mod process;
pub mod python;
pub mod secure;
pub mod stalls;
pub mod tls;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How long a thing may take that takes no time on a machine with nothing else to do.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `look` again and again until it tells something; none when the deadline passes first.
pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        if let Some(found) = look() {
            return Some(found);
        }
        if late {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The workspace's build folder.
#[must_use]
pub fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from)
}
