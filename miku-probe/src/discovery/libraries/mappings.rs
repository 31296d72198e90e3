//! The files that a process has mapped to be carried out as code, and ways to open them.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::discovery::process::Process;

/// How much of a process's mappings is read: it chooses how many it has.
const MAPS_MAX: u64 = 16 * 1024 * 1024;

/// What the kernel appends to the path of a file that is gone from its folder.
const DELETED: &[u8] = b" (deleted)";

/// Which file a mapping is of, as the kernel names it there: device, in its notation, and inode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    device: String,
    inode: u64,
}

/// The first executable mapping of a file.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub(super) key: Key,
    /// Its path as the process sees it.
    pub(super) path: PathBuf,
    pub(super) deleted: bool,
    addresses: Range<u64>,
}

/// A file that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// The path by which it was.
    pub(super) path: PathBuf,
}

/// Why a file could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    /// The mapping is there no longer.
    Gone,
    /// It is there and may not be opened.
    Unreadable,
}

/// The distinct files with executable mappings, without those in `seen`; at most `limit`.
///
/// # Errors
/// When the process has ended or its mappings may not be read.
pub(super) fn executable_files(process: &Process, seen: &HashSet<Key>, limit: usize) -> io::Result<Vec<Mapping>> {
    let mut lines = BufReader::new(File::open(process.file("maps"))?.take(MAPS_MAX));
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut known = HashSet::new();
    let mut line = Vec::with_capacity(256);
    while mappings.len() < limit && lines.read_until(b'\n', &mut line)? != 0 {
        if let Some(mapping) = parse(line.strip_suffix(b"\n").unwrap_or(&line))
            && !seen.contains(&mapping.key)
            && known.insert(mapping.key.clone())
        {
            mappings.push(mapping);
        }
        line.clear();
    }
    Ok(mappings)
}

/// One line of `/proc/PID/maps`; `None` when it is no executable mapping of a file with a path.
fn parse(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let mut field = || {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let field = &rest[..end];
        rest = &rest[end + 1..];
        std::str::from_utf8(field).ok()
    };
    let (range, permissions, _offset, device) = (field()?, field()?, field()?, field()?);
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let inode: u64 = field()?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let path = rest.trim_ascii_start();
    if inode == 0 || !path.starts_with(b"/") {
        return None;
    }
    let (path, deleted) = match path.strip_suffix(DELETED) {
        Some(path) => (path, true),
        None => (path, false),
    };
    Some(Mapping {
        key: Key { device: device.to_owned(), inode },
        path: OsStr::from_bytes(path).into(),
        deleted,
        addresses: address(start)?..address(end)?,
    })
}

impl Mapping {
    /// Opens the file: by the link that the kernel keeps for the mapping, which works whatever has become of the path;
    /// where a kernel has none of these or refuses them, by the path in the process's own root, if the same file is
    /// still there.
    pub(super) fn open(&self, process: &Process) -> Result<Opened, OpenError> {
        // Unlike `maps`, it has no leading zeros.
        let link = process.file("map_files").join(format!("{:x}-{:x}", self.addresses.start, self.addresses.end));
        if let Ok(file) = open_regular(&link) {
            return Ok(Opened { file, path: link });
        }
        if self.deleted {
            return Err(if link.symlink_metadata().is_ok() { OpenError::Unreadable } else { OpenError::Gone });
        }
        let path = process.file("root").join(self.path.strip_prefix("/").unwrap_or(&self.path));
        match open_regular(&path) {
            Ok(file) if file.metadata().is_ok_and(|metadata| self.is(&metadata)) => Ok(Opened { file, path }),
            Ok(_) => Err(OpenError::Gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Gone),
            Err(_) => Err(OpenError::Unreadable),
        }
    }

    /// Whether a file with this metadata is the mapped one.
    fn is(&self, metadata: &Metadata) -> bool {
        let device = format!("{:02x}:{:02x}", libc::major(metadata.dev()), libc::minor(metadata.dev()));
        self.key == Key { device, inode: metadata.ino() }
    }

    fn name(&self) -> &[u8] {
        self.path.file_name().unwrap_or_default().as_bytes()
    }

    /// Whether its name is that of a TLS library, or of a module that always has one linked in.
    pub(super) fn sounds_like_tls(&self) -> bool {
        let name = self.name();
        let cryptography = |path: &Path| path.components().any(|part| part.as_os_str() == "cryptography");
        // libssl3.so is NSS, which has other functions.
        (name.starts_with(b"libssl") && !name.starts_with(b"libssl3."))
            || name.starts_with(b"_ssl.")
            || (name == b"_rust.abi3.so" && cryptography(&self.path))
    }

    /// Whether its name is that of the module by which the wheels of `zstandard` have zstd linked in.
    pub(super) fn sounds_like_zstd(&self) -> bool {
        let zstandard = |path: &Path| path.components().any(|part| part.as_os_str() == "zstandard");
        self.name().starts_with(b"backend_c.") && zstandard(&self.path)
    }

    /// Whether its name is that of the library below a TLS library: `libcrypto.so.3`, `libcrypto-3a0647ea.so.3`.
    pub(super) fn sounds_like_crypto(&self) -> bool {
        self.name().starts_with(b"libcrypto")
    }

    /// Whether its name is that of the CUDA driver's library: `libcuda.so.1`, `libcuda.so.580.65.06`.
    pub(super) fn sounds_like_cuda(&self) -> bool {
        self.name().starts_with(b"libcuda.so")
    }

    /// Whether its name is that of a dynamic loader: `ld-linux-x86-64.so.2`, `ld-2.31.so`, `ld-musl-x86_64.so.1`.
    pub(super) fn sounds_like_loader(&self) -> bool {
        self.name().starts_with(b"ld-")
    }

    /// Whether its name is that of a program or library. Others that are mapped as code are scratch files of
    /// just-in-time compilers.
    pub(super) fn sounds_like_code(&self) -> bool {
        let name = self.name();
        self.sounds_like_tls() || name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
    }
}

/// Opens a file that is one: opening a device or a pipe might do something or wait.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let regular = std::fs::metadata(path)?.is_file();
    if regular { File::open(path) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::discovery::fixture::{Fixture, Sketch};
    use crate::units::Tgid;

    #[test]
    fn only_executable_mappings_of_files_count() {
        let none: [&[u8]; 6] = [
            b"7f00-7f01 r--p 00000000 fd:01 42                         /lib/libssl.so.3",
            b"7f00-7f01 r-xp 00000000 00:00 0 ",
            b"7f00-7f01 r-xp 00000000 00:00 0                          [vdso]",
            b"7f00-7f01 r-xp 00000000 00:0e 7                          anon_inode:[bpf]",
            b"7f00-7f01 r-xp",
            b"",
        ];
        for line in none {
            assert!(parse(line).is_none(), "{}", String::from_utf8_lossy(line));
        }
        let mapping =
            parse(b"7f00-7f01 r-xp 00000000 fd:01 42                         /lib/my libssl.so.3").expect("is");
        assert_eq!((mapping.path.to_str(), mapping.deleted), (Some("/lib/my libssl.so.3"), false));
        assert_eq!(mapping.key, Key { device: "fd:01".to_owned(), inode: 42 });
        assert_eq!(mapping.addresses, 0x7f00..0x7f01);
    }

    #[test]
    fn a_deleted_file_keeps_its_name() {
        let mapping = parse(b"7f00-7f01 r-xp 0 fd:01 42 /lib/libssl.so.3 (deleted)").expect("is");
        assert_eq!((mapping.path.to_str(), mapping.deleted), (Some("/lib/libssl.so.3"), true));
        assert!(mapping.sounds_like_tls());
    }

    #[test]
    fn names_of_libraries_below_tls_are_known() {
        let sounds =
            |path: &str| parse(format!("1-2 r-xp 0 fd:01 42 {path}").as_bytes()).expect("is").sounds_like_crypto();
        assert!(sounds("/l/libcrypto.so.3") && sounds("/l/x.libs/libcrypto-3a0647ea.so.3"));
        assert!(!sounds("/l/libssl.so.3") && !sounds("/libcrypto/libz.so.1"));
    }

    #[test]
    fn the_library_of_the_cuda_driver_is_known() {
        let sounds =
            |path: &str| parse(format!("1-2 r-xp 0 fd:01 42 {path}").as_bytes()).expect("is").sounds_like_cuda();
        assert!(sounds("/l/libcuda.so.1") && sounds("/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"));
        assert!(!sounds("/l/libcudart.so.12") && !sounds("/l/libcudadebugger.so.1"));
    }

    #[test]
    fn the_module_of_zstandard_is_known() {
        let sounds =
            |path: &str| parse(format!("1-2 r-xp 0 fd:01 42 {path}").as_bytes()).expect("is").sounds_like_zstd();
        assert!(sounds("/s/site-packages/zstandard/backend_c.cpython-311-x86_64-linux-gnu.so"));
        assert!(!sounds("/s/site-packages/other/backend_c.cpython-311-x86_64-linux-gnu.so"));
        assert!(!sounds("/s/site-packages/zstandard/_cffi.cpython-311-x86_64-linux-gnu.so"));
    }

    #[test]
    fn names_of_tls_libraries_are_known() {
        let sounds =
            |path: &str| parse(format!("1-2 r-xp 0 fd:01 42 {path}").as_bytes()).expect("is").sounds_like_tls();
        for path in ["/l/libssl.so.1.1", "/l/libssl-81ffa89e.so.3", "/l/_ssl.cpython-311-x86_64-linux-gnu.so"] {
            assert!(sounds(path), "{path}");
        }
        assert!(sounds("/l/cryptography/hazmat/bindings/_rust.abi3.so"));
        for path in ["/l/bcrypt/_rust.abi3.so", "/l/libssl3.so", "/l/libcrypto.so.3", "/usr/bin/openssl"] {
            assert!(!sounds(path), "{path}");
        }
    }

    /// What opening the one mapping of a made-up process yields: the bytes that were read there.
    fn opened(maps: &str, prepare: impl FnOnce(&Fixture, &Process)) -> Result<Vec<u8>, OpenError> {
        let fixture = Fixture::new();
        fixture.add(&Sketch { maps, ..Sketch::new(10) });
        let process = fixture.proc.process(Tgid(10)).expect("it is in the fixture");
        prepare(&fixture, &process);
        let mappings = executable_files(&process, &HashSet::new(), 8).expect("it is in the fixture");
        let mut opened = mappings.first().expect("it has one").open(&process)?;
        let mut bytes = Vec::new();
        opened.file.read_to_end(&mut bytes).expect("it is a file");
        assert_eq!(fs::read(opened.path).expect("it is a file"), bytes);
        Ok(bytes)
    }

    #[test]
    fn the_link_of_a_mapping_at_a_low_address_is_found() {
        // A program that is not position-independent begins at 0x400000, to which `maps` gives two zeros.
        let bytes = opened("00400000-00401000 r-xp 0 fd:01 42 /bin/gone (deleted)\n", |fixture, process| {
            let links = process.file("map_files");
            fs::create_dir(&links).expect("the fixture is ours");
            symlink(fixture.file("kept", b"kept"), links.join("400000-401000")).expect("the fixture is ours");
        });
        assert_eq!(bytes, Ok(b"kept".to_vec()));
    }

    #[test]
    fn without_links_the_path_counts_only_for_the_same_file() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = folder.path().join("lib.so");
        fs::write(&path, b"here").expect("the folder is ours");
        let meta = fs::metadata(&path).expect("it was made");
        let device = format!("{:02x}:{:02x}", libc::major(meta.dev()), libc::minor(meta.dev()));
        let root = |_: &Fixture, process: &Process| symlink("/", process.file("root")).expect("the fixture is ours");
        let line = |inode: u64| format!("7f00-7f01 r-xp 0 {device} {inode} {}\n", path.display());
        assert_eq!(opened(&line(meta.ino()), root), Ok(b"here".to_vec()));
        assert_eq!(opened(&line(meta.ino() + 1), root), Err(OpenError::Gone), "it was replaced");
        assert_eq!(opened("7f00-7f01 r-xp 0 fd:01 42 /lib.so (deleted)\n", root), Err(OpenError::Gone));
    }

    #[test]
    fn each_file_counts_once_and_what_was_seen_does_not() {
        let fixture = Fixture::new();
        let maps = "1000-2000 r-xp 0 fd:01 42 /a.so\n2000-3000 rw-p 0 fd:01 42 /a.so\n\
                    3000-4000 r-xp 0 fd:01 42 /a.so\n4000-5000 r-xp 0 fd:01 43 /b.so\n";
        fixture.add(&Sketch { maps, ..Sketch::new(10) });
        let process = fixture.proc.process(Tgid(10)).expect("it is in the fixture");
        let names = |seen: &HashSet<Key>, limit| -> Vec<_> {
            let mappings = executable_files(&process, seen, limit).expect("it is in the fixture");
            mappings.into_iter().map(|mapping| (mapping.key, mapping.path)).collect()
        };
        let both = names(&HashSet::new(), 8);
        assert_eq!(both.iter().map(|(_, path)| path.to_str()).collect::<Vec<_>>(), [Some("/a.so"), Some("/b.so")]);
        assert_eq!(names(&HashSet::from([both[0].0.clone()]), 8), both[1..]);
        assert_eq!(names(&HashSet::new(), 1), both[..1]);
    }
}
