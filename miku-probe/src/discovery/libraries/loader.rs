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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::process::ProcFs;
    use crate::units::Tgid;

    #[test]
    fn the_notice_is_where_the_loader_itself_says() {
        // SAFETY: the name ends with a zero.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_debug_state".as_ptr()) } as u64;
        assert_ne!(address, 0, "this test's own loader is glibc's or musl's");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("a process may read its own mappings");
        let hex = |text| u64::from_str_radix(text, 16).expect("addresses are hexadecimal");
        let expected = maps.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let offset = hex(fields.nth(1)?);
            (hex(start)..hex(end)).contains(&address).then(|| address - hex(start) + offset)
        });
        let process = ProcFs::default().process(Tgid(std::process::id())).expect("this process runs");
        let notice = loader_notice(&process);
        assert_eq!(notice.map(|notice| notice.file_offset), expected);
    }
}
