//! Where a process's dynamic loader says that the list of loaded libraries changes.
//!
//! `_dl_debug_state` is an empty function that glibc's and musl's loaders call before and after they change that list, for
//! debuggers to stand on (`r_brk` of glibc's `link.h`).

use std::io::Read as _;
use std::path::PathBuf;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};

use super::FILES_MAX;
use super::mappings::executable_files;
use crate::discovery::process::Process;

/// How large a loader may be; musl's is the whole C library.
const LOADER_MAX: u64 = 16 * 1024 * 1024;

/// The place where the loader gives notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// A path by which the kernel finds the loader's file.
    pub attach_path: PathBuf,
    /// Where in the file it is.
    pub file_offset: u64,
}

/// Where the loader of `process` gives notice; `None` when it has none, or one that gives none.
#[must_use]
pub fn loader_notice(process: &Process) -> Option<Notice> {
    let mappings = executable_files(process, &std::collections::HashSet::new(), FILES_MAX).ok()?;
    mappings.iter().filter(|mapping| mapping.sounds_like_loader()).find_map(|mapping| {
        let opened = mapping.open(process).ok()?;
        let mut bytes = Vec::new();
        opened.file.take(LOADER_MAX).read_to_end(&mut bytes).ok()?;
        Some(Notice { attach_path: opened.path, file_offset: file_offset(&bytes)? })
    })
}

fn file_offset(bytes: &[u8]) -> Option<u64> {
    let file = ElfFile64::<object::Endianness>::parse(bytes).ok()?;
    let symbol = file
        .dynamic_symbols()
        .find(|symbol| symbol.is_definition() && symbol.name_bytes().is_ok_and(|name| name == b"_dl_debug_state"))?;
    file.segments().find_map(|segment| {
        let inside = symbol.address().checked_sub(segment.address()).filter(|inside| *inside < segment.size())?;
        Some(segment.file_range().0 + inside)
    })
}
