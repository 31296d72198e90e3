//! The memory of another process, as the kernel shows it to root.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it is.
    pub range: Range<u64>,
    /// What may be done with it, as `r-xp`.
    pub rights: String,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file, or what the kernel calls it; empty for anonymous memory.
    pub name: String,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let (rights, offset) = (words.next()?.to_owned(), number(words.next()?)?);
        let name = words.skip(2).collect::<Vec<_>>().join(" ");
        Some(Self { range: number(start)?..number(end)?, rights, offset, name })
    }
}

/// All mappings of a process.
///
/// # Errors
/// When it is gone.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).with_context(|| format!("the maps of {pid}"))?;
    Ok(maps.lines().filter_map(Mapping::parse).collect())
}

/// How many bytes of a library's code differ in a process from the file that it is mapped from, even where that file
/// was deleted: the breakpoints in it. `library` begins the file's name.
///
/// # Errors
/// When the process has no such library, or it cannot be read.
pub fn patched(pid: u32, library: &str) -> Result<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(|| format!("the memory of {pid}"))?;
    let mut code = Vec::new();
    for mapping in mappings(pid)? {
        let file = mapping.name.rsplit('/').next().unwrap_or_default();
        if file.starts_with(library) && mapping.rights.contains('x') {
            code.push(mapping);
        }
    }
    anyhow::ensure!(!code.is_empty(), "process {pid} has no {library} mapped");
    let mut different = 0;
    for Mapping { range, offset, name, .. } in code {
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
        // Only root may follow that link; anybody else has the name.
        let file = File::open(&path).or_else(|_| File::open(&name)).with_context(|| path.clone())?;
        let (mut told, mut held) = (Vec::new(), Vec::new());
        for (from, at, bytes) in [(&file, offset, &mut told), (&memory, range.start, &mut held)] {
            bytes.resize(usize::try_from(range.end - range.start)?, 0);
            // The last page of a file is mapped whole, and zero behind the file's end.
            let mut done = 0;
            while done < bytes.len() {
                match from.read_at(&mut bytes[done..], at + done as u64).with_context(|| path.clone())? {
                    0 => break,
                    length => done += length,
                }
            }
        }
        different += told.iter().zip(&held).filter(|(told, held)| told != held).count();
    }
    Ok(different)
}

/// Where in a process's memory any of these strings of bytes stands: the mapping and which string, one line each.
/// Memory that the kernel shows nobody is passed over.
///
/// # Errors
/// When the process is gone.
pub fn find(pid: u32, needles: &[(&str, Vec<u8>)]) -> Result<Vec<String>> {
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(|| format!("the memory of {pid}"))?;
    let longest = needles.iter().map(|(_, needle)| needle.len()).max().unwrap_or(0);
    let mut hits = Vec::new();
    let mut block = vec![0; 1 << 20];
    for mapping in mappings(pid)?.into_iter().filter(|mapping| mapping.rights.starts_with('r')) {
        let mut at = mapping.range.start;
        while at < mapping.range.end {
            let want = usize::try_from(mapping.range.end - at)?.min(block.len());
            let length = match memory.read_at(&mut block[..want], at) {
                Ok(length) => length,
                // Pages of devices and of the kernel's own.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT)) => break,
                Err(error) => return Err(error).with_context(|| format!("reading {at:x} of {pid}")),
            };
            if length == 0 {
                break;
            }
            for (what, needle) in needles {
                if let Some(place) = position(&block[..length], needle) {
                    let name = if mapping.name.is_empty() { "anonymous memory" } else { &mapping.name };
                    hits.push(format!("{what} in {name} at {:x} ({})", at + place as u64, mapping.rights));
                }
            }
            // The next block begins so early that nothing is cut in two.
            let step = if want < block.len() { length } else { length.saturating_sub(longest).max(1) };
            at += step as u64;
        }
    }
    hits.sort();
    hits.dedup();
    Ok(hits)
}

/// Where `needle` stands in `bytes` for the first time.
#[must_use]
pub fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    // The C library's is fast in a build without optimisation too, and there is much to search.
    // SAFETY: both pointers are to live memory of the length given, and the answer is null or a place in `bytes`.
    unsafe {
        let found = libc::memmem(bytes.as_ptr().cast(), bytes.len(), needle.as_ptr().cast(), needle.len());
        (!found.is_null()).then(|| usize::try_from(found.cast::<u8>().offset_from(bytes.as_ptr())).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn maps_as_the_kernel_writes_them() {
        let line = "7f00-7f10 r-xp 00001000 fe:00 123                        /usr/lib/lib ssl.so.3 (deleted)";
        let mapping = Mapping::parse(line).expect("a mapping");
        assert_eq!(mapping.range, 0x7f00..0x7f10);
        assert_eq!((mapping.offset, mapping.rights.as_str()), (0x1000, "r-xp"));
        assert_eq!(mapping.name, "/usr/lib/lib ssl.so.3 (deleted)");
        assert_eq!(Mapping::parse("7f00-7f10 rw-p 00000000 00:00 0").expect("a mapping").name, "");
    }

    #[test]
    fn this_process_holds_what_it_holds() {
        let pid = std::process::id();
        let secret = [b"a needle ".as_slice(), &pid.to_ne_bytes()].concat();
        let hits = find(pid, &[("it", secret)]).expect("this process lives");
        assert!(!hits.is_empty());
        assert_eq!(position(b"aab", b"ab"), Some(1));
        assert_eq!(position(b"aa", b"ab"), None);
    }

    #[test]
    fn a_changed_byte_of_code_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("libchanged.so");
        fs::write(&path, [0x90; 5000]).expect("the folder can be written to");
        let file = File::open(&path).expect("the file is there");
        let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        // SAFETY: the kernel chooses the place; the mapping is private, and as long as the file.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), 5000, rights, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let pid = std::process::id();
        assert_eq!(patched(pid, "libchanged").expect("it is mapped"), 0);
        // SAFETY: the mapping is writable, longer than that, and nobody else knows of it.
        unsafe { memory.cast::<u8>().add(4321).write_volatile(0xcc) };
        assert_eq!(patched(pid, "libchanged").expect("it is mapped"), 1);
        assert!(patched(pid, "libabsent").is_err());
        // SAFETY: nothing points into the mapping any more.
        unsafe { libc::munmap(memory, 5000) };
    }
}
