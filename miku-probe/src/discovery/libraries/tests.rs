//! Libraries that the compiler makes here and now, and the machine's own `libssl`.

use std::cell::Cell;
use std::ffi::CString;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::discovery::process::ProcFs;
use crate::units::Tgid;

/// What a compiler makes of a library of TLS; the name's end tells a test's libraries apart.
const SOURCE: &str = r#"
#define API __attribute__((visibility(VISIBILITY)))
typedef struct ssl { int (*read)(struct ssl *, void *, unsigned long, unsigned long *); int (*shake)(struct ssl *); } SSL;
static __attribute__((noinline)) int inner(SSL *ssl, void *buf, unsigned long num, unsigned long *count) {
    char save[64];
    __asm__ volatile("" : : "r"(save) : "memory", "rbx", "r12");
    return ssl->read(ssl, buf, num, count) + 0 * save[3];
}
API int SSL_read(SSL *ssl, void *buf, int num) {
    unsigned long count;
    if (num < 0) return -1;
    int ret = inner(ssl, buf, num, &count);
    return ret > 0 ? (int)count : ret;
}
API int SSL_read_ex(SSL *ssl, void *buf, unsigned long num, unsigned long *count) {
    int ret = inner(ssl, buf, num, count);
    return ret < 0 ? 0 : ret;
}
API int SSL_do_handshake(SSL *ssl) { return ssl->shake(ssl) + 1; }
void *used(void) { static void *all[] = { SSL_read, SSL_read_ex, SSL_do_handshake }; return all; }
"#;

/// Runs a tool of those that building this program takes anyway.
fn tool(name: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(name).args(arguments).current_dir(folder).output().expect("it is installed");
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Compiles a library, with its functions exported or hidden.
fn compile(folder: &Path, name: &str, visibility: &str) {
    fs::write(folder.join("ssl.c"), SOURCE).expect("the folder is ours");
    let define = format!("-DVISIBILITY=\"{visibility}\"");
    let linker = ["-O2", "-fno-stack-protector", "-shared", "-fPIC", "-Wl,--build-id", &define, "-o", name, "ssl.c"];
    tool("cc", &linker, folder);
}

/// What a file of no more than one flavour has.
fn examine(path: &Path, debug_files: &DebugFiles) -> Result<Option<Build>, Reason> {
    let mut builds = placement::examine(&File::open(path).expect("it was made"), debug_files)?;
    assert!(builds.len() < 2, "{builds:?}");
    Ok(builds.pop())
}

#[test]
fn each_table_of_symbols_tells_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path();
    compile(root, "exported.so", "default");
    compile(root, "hidden.so", "hidden");
    let none = DebugFiles::none();
    let exported = examine(&root.join("exported.so"), &none).expect("it is whole").expect("it has them");
    assert_eq!((exported.flavour, exported.symbols), (Flavour::OpenSsl, SymbolSource::Dynsym));
    assert_eq!(exported.sites.len(), 2);
    assert!(exported.sites[0].inner && exported.sites[0].calls.len() == 2, "{exported:?}");

    let hidden = examine(&root.join("hidden.so"), &none).expect("it is whole").expect("it has them");
    assert_eq!(hidden.symbols, SymbolSource::Symtab);

    // A debug file by link, in the library's folder as the target sees it; then by build id.
    tool("objcopy", &["--only-keep-debug", "hidden.so", "hidden.debug"], root);
    tool("objcopy", &["--strip-all", "--add-gnu-debuglink=hidden.debug", "hidden.so", "libssl.so.9"], root);
    let stripped = root.join("libssl.so.9");
    assert_eq!(examine(&stripped, &none), Ok(None));
    let by_link = DebugFiles::of(root.to_owned(), Path::new("/libssl.so.9"));
    let found = examine(&stripped, &by_link).expect("it is whole").expect("the debug file has them");
    assert_eq!((found.symbols, &found.sites), (SymbolSource::DebugFile, &hidden.sites));
    assert!(!found.sites.is_empty());

    // One of another build is not believed.
    tool("objcopy", &["--only-keep-debug", "exported.so", "hidden.debug"], root);
    assert_eq!(examine(&stripped, &by_link), Ok(None));
}

#[test]
fn a_library_that_only_calls_the_functions_is_none() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    compile(folder.path(), "exported.so", "default");
    let source = "int SSL_read(void *, void *, int); int user(void *ssl) { char c; return SSL_read(ssl, &c, 1); }";
    fs::write(folder.path().join("user.c"), source).expect("the folder is ours");
    tool("cc", &["-O2", "-shared", "-fPIC", "-o", "_ssl.so", "user.c", "./exported.so"], folder.path());
    let path = folder.path().join("_ssl.so");
    assert_eq!(examine(&path, &DebugFiles::none()), Ok(None));
    assert!(symbols::imports(&File::open(&path).expect("it was made"), Topic::Tls), "so it is not called stripped");
}

#[test]
fn functions_for_errors_are_found_beside_the_others_or_alone_below_them() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path();
    let source = "int kept[2]; void ERR_put_error(int lib, int func, int reason, const char *file, int line) \
                  { kept[0] = lib + func; kept[1] = reason + line; }";
    fs::write(root.join("error.c"), source).expect("the folder is ours");
    for name in ["libcrypto-0123.so.9", "libother.so.9"] {
        tool("cc", &["-O2", "-shared", "-fPIC", "-o", name, "error.c"], root);
    }
    let paths = ["libcrypto-0123.so.9", "libother.so.9"].map(|name| root.join(name).canonicalize().expect("is made"));
    let loaded = paths.each_ref().map(|path| Loaded::new(path).expect("it can be loaded"));
    let scan = LibraryFinder::new().scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    let ours = |library: &&Library| paths.contains(&library.shown_path);
    assert_eq!(scan.libraries.iter().filter(ours).count(), 0, "nothing goes through it");
    let [library] = scan.errors.iter().filter(ours).collect::<Vec<_>>()[..] else { panic!("{scan:?}") };
    assert_eq!(library.shown_path, paths[0], "only that name is asked");
    let [site] = &library.build.sites[..] else { panic!("{library:?}") };
    assert_eq!((&site.calls[..], site.form), (&[Function::PutError][..], Form::PutError));
    let offset = loaded[0].offset_of("ERR_put_error");
    assert!((offset..offset + 32).contains(&site.entry.file_offset), "{site:?} from {offset:#x}");

    fs::write(root.join("ssl.c"), format!("{SOURCE}{source}")).expect("the folder is ours");
    let hidden = ["-O2", "-fvisibility=hidden", "-DVISIBILITY=\"hidden\"", "-shared", "-fPIC", "-o", "one.so", "ssl.c"];
    tool("cc", &hidden, root);
    let found = examine(&root.join("one.so"), &DebugFiles::none()).expect("it is whole").expect("it has them");
    let calls: Vec<_> = found.sites.iter().flat_map(|site| site.calls.clone()).collect();
    assert!(calls.contains(&Function::PutError) && calls.contains(&Function::Read), "{calls:?}");
}

#[test]
fn each_flavour_in_a_file_is_found_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path();
    // Loops keep the compiler from emptying them, and their ends from being all that they are.
    let zlib = "int inflate(int *stream, int flush) { while (*stream) *stream -= flush; return 0; } \
                int inflateEnd(int *stream) { *stream = 0; return 0; }";
    let zstd = "__attribute__((visibility(\"hidden\"))) unsigned long ZSTD_decompressStream(int *zds, int *output, int *input) \
                { while (*zds) *zds -= *output + *input; return 0; } \
                void *kept(void) { return ZSTD_decompressStream; }";
    fs::write(root.join("all.c"), format!("{SOURCE}{zlib}{zstd}")).expect("the folder is ours");
    let arguments = ["-O2", "-DVISIBILITY=\"default\"", "-shared", "-fPIC", "-o", "all.so", "all.c"];
    tool("cc", &arguments, root);
    let examine = |name: &str| placement::examine(&File::open(root.join(name)).expect("made"), &DebugFiles::none());
    let mut builds = examine("all.so").expect("it is whole");
    builds.sort_by_key(|build| build.flavour.as_str());
    let found: Vec<_> = builds.iter().map(|build| (build.flavour, build.flavour.kind(), build.symbols)).collect();
    let expected = [
        (Flavour::OpenSsl, Kind::Tls, SymbolSource::Dynsym),
        (Flavour::Zlib, Kind::Inflate, SymbolSource::Dynsym),
        (Flavour::Zstd, Kind::Inflate, SymbolSource::Symtab),
    ];
    assert_eq!(found, expected);
    let [_, zlib, zstd] = &builds[..] else { panic!("{builds:?}") };
    let places: Vec<_> = zlib.sites.iter().map(|site| (&site.calls[..], site.form, site.ret.is_some())).collect();
    let expected = [(&[Function::Inflate][..], Form::Stream, true), (&[Function::InflateEnd][..], Form::Stream, false)];
    assert_eq!(places, expected);
    assert_eq!((zstd.sites.len(), zstd.sites[0].form), (1, Form::Buffers));

    // Without its symbols only what is exported is left; and what merely has the name is not zlib.
    tool("strip", &["-o", "stripped.so", "all.so"], root);
    assert_eq!(examine("stripped.so").expect("it is whole").len(), 2);
    fs::write(root.join("tyre.c"), "int inflate(int *tyre, int bar) { return *tyre += bar; }").expect("it is ours");
    tool("cc", &["-O2", "-shared", "-fPIC", "-o", "tyre.so", "tyre.c"], root);
    assert_eq!(examine("tyre.so"), Ok(vec![]));
}

#[test]
fn what_is_no_library_for_us_is_told_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("file");
    let verdict = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("the folder is ours");
        examine(&path, &DebugFiles::none())
    };
    assert_eq!(verdict(b""), Err(Reason::NotElf));
    assert_eq!(verdict(b"#!/bin/sh\necho no library\n"), Err(Reason::NotElf));
    let mut header = [0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[18] = 62;
    let with = |place: usize, value| {
        let mut bytes = header;
        bytes[place] = value;
        bytes
    };
    assert_eq!(verdict(&with(4, 1)), Err(Reason::WrongClass));
    assert_eq!(verdict(&with(18, 183)), Err(Reason::WrongMachine));
    assert_eq!(verdict(&header[..32]), Err(Reason::Malformed));
    // Section headers behind the end of the file.
    assert_eq!(verdict(&with(41, 0xff)), Err(Reason::Malformed));
}

#[test]
fn a_damaged_library_is_no_danger() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    compile(folder.path(), "whole.so", "default");
    let whole = fs::read(folder.path().join("whole.so")).expect("it was made");
    let path = folder.path().join("damaged.so");
    let damage = prop::collection::vec((0..whole.len(), any::<u8>()), 1..60);
    // A damaged header or an end that is missing is refused before anything else is looked at.
    let header = prop::option::weighted(0.2, (0..64_usize, any::<u8>()));
    let end = prop_oneof![4 => Just(whole.len()), 1 => whole.len() / 2..whole.len()];
    let (cases, placed) = (400, Cell::new(0));
    crate::regressions::check(cases, file!(), &(damage, header, end), |(damage, header, end)| {
        let mut bytes = whole.clone();
        for (place, byte) in damage.into_iter().chain(header) {
            bytes[place] = byte;
        }
        bytes.truncate(end);
        fs::write(&path, &bytes).expect("the folder is ours");
        let found = examine(&path, &DebugFiles::none());
        for site in found.iter().flatten().flat_map(|build| &build.sites) {
            prop_assert!(site.entry.file_offset < bytes.len() as u64, "{site:?}");
        }
        placed.set(placed.get() + u32::from(matches!(found, Ok(Some(_)))));
        Ok(())
    });
    assert!(placed.get() > cases / 10, "sites were looked for in {} of {cases}", placed.get());
}

/// A library that is loaded until this is dropped.
struct Loaded(*mut libc::c_void);

impl Loaded {
    fn new(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).expect("it has no zeros");
        // SAFETY: the path ends in a zero. What is loaded is `libssl` or what was compiled here, which do nothing by
        // being loaded that others would notice.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        (!handle.is_null()).then(|| Self(handle))
    }

    /// Where the function is in the file, as the dynamic linker and the kernel say.
    fn offset_of(&self, function: &str) -> u64 {
        let name = CString::new(function).expect("it has no zeros");
        // SAFETY: the handle is open, and the name ends in a zero.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) } as u64;
        assert_ne!(address, 0, "{function}");
        let maps = fs::read_to_string("/proc/self/maps").expect("it is ours");
        let hex = |text| u64::from_str_radix(text, 16).expect("the kernel writes numbers");
        maps.lines()
            .find_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (start, end) = range.split_once('-')?;
                let offset = rest.split_whitespace().nth(1)?;
                Range { start: hex(start), end: hex(end) }
                    .contains(&address)
                    .then(|| address - hex(start) + hex(offset))
            })
            .expect("it is mapped")
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: the handle is open and not used any more.
        unsafe { libc::dlclose(self.0) };
    }
}

fn myself() -> Process {
    ProcFs::default().process(Tgid(std::process::id())).expect("this test is alive")
}

fn is_root() -> bool {
    // SAFETY: it takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn a_library_that_is_loaded_late_is_found_even_when_it_is_deleted() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    compile(folder.path(), "late.so", "default");
    let path = folder.path().join("late.so").canonicalize().expect("it was made");
    let of_ours = |scan: Scan| -> Vec<Library> {
        scan.libraries.into_iter().filter(|library| library.shown_path == path).collect()
    };
    let (mut finder, mut seen) = (LibraryFinder::new(), Seen::default());
    let first = finder.scan(&myself(), &mut seen).expect("this test may read itself");
    assert!(first.files > 2, "the program and the C library at least");
    assert!(of_ours(first).is_empty());
    let again = finder.scan(&myself(), &mut seen).expect("this test may read itself");
    assert!(again.files < 3, "but for what tests beside this one load, nothing is new: {}", again.files);

    let loaded = Loaded::new(&path).expect("it can be loaded");
    let late = of_ours(finder.scan(&myself(), &mut seen).expect("this test may read itself"));
    let [library] = &late[..] else { panic!("{late:?}") };
    let meta = fs::metadata(&library.attach_path).expect("the kernel finds it by this path");
    let truth = fs::metadata(&path).expect("it was made");
    assert_eq!((meta.dev(), meta.ino(), library.deleted), (truth.dev(), truth.ino(), false));
    let handshake = library.build.sites.last().expect("it has two");
    let offset = loaded.offset_of("SSL_do_handshake");
    assert!((offset..offset + 16).contains(&handshake.entry.file_offset), "{handshake:?} from {offset:#x}");

    fs::remove_file(&path).expect("it is ours");
    let scan = finder.scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    if is_root() {
        let deleted = of_ours(scan);
        let [library] = &deleted[..] else { panic!("{deleted:?}") };
        assert!(library.deleted && File::open(&library.attach_path).is_ok());
    } else {
        // The kernel shows the files behind mappings to root only.
        let fault = scan.faults.iter().find(|fault| fault.shown_path == path).expect("it is told");
        assert_eq!((fault.reason, fault.deleted), (Reason::Unreadable, true));
    }
}

#[test]
fn a_stripped_library_is_told_by_its_name_once() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    compile(folder.path(), "hidden.so", "hidden");
    tool("objcopy", &["--strip-all", "hidden.so", "libssl-0123.so.3"], folder.path());
    let path = folder.path().join("libssl-0123.so.3").canonicalize().expect("it was made");
    let _loaded = Loaded::new(&path).expect("it can be loaded");
    let (mut finder, mut seen) = (LibraryFinder::new(), Seen::default());
    let scan = finder.scan(&myself(), &mut seen).expect("this test may read itself");
    let faults: Vec<_> = scan.faults.iter().filter(|fault| fault.shown_path == path).collect();
    assert_eq!(faults.iter().map(|fault| fault.reason).collect::<Vec<_>>(), [Reason::Stripped]);
    assert!(
        faults[0]
            .to_string()
            .ends_with("has no symbols for the functions that are probed, nor is there a debug file for it")
    );
    let again = finder.scan(&myself(), &mut seen).expect("this test may read itself");
    assert!(again.faults.iter().all(|fault| fault.shown_path != path));
}

#[test]
fn a_process_that_has_ended_is_said() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("it is on every machine");
    let process = ProcFs::default().process(Tgid(child.id())).expect("it waits for its input");
    drop(child.stdin.take());
    child.wait().expect("it is ours");
    let error = LibraryFinder::new().scan(&process, &mut Seen::default()).expect_err("it has ended");
    assert_eq!(error.reason(), Reason::ProcessGone);
}

#[test]
fn only_so_many_files_are_remembered() {
    let mut finder = LibraryFinder::new();
    finder.scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    let real: Vec<FileId> = finder.remembered.keys().copied().collect();
    for inode in 0..REMEMBERED_MAX as u64 + 10 {
        let identity = FileId { device: 0, inode, size: 0, modified: (0, 0) };
        finder.remembered.insert(identity, (0, Ok(Vec::new())));
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    compile(folder.path(), "more.so", "default");
    let before = finder.remembered.len();
    let _loaded = Loaded::new(&folder.path().join("more.so")).expect("it can be loaded");
    finder.scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    assert!(finder.remembered.len() <= before);
    assert!(real.iter().all(|identity| finder.remembered.contains_key(identity)), "the oldest go first");
}

#[test]
fn a_module_of_zstandard_without_symbols_is_told() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let root = folder.path().join("zstandard");
    fs::create_dir(&root).expect("the folder is ours");
    fs::write(root.join("empty.c"), "int nothing;").expect("the folder is ours");
    let name = "backend_c.cpython-311-x86_64-linux-gnu.so";
    tool("cc", &["-shared", "-fPIC", "-s", "-o", name, "empty.c"], &root);
    let path = root.join(name).canonicalize().expect("it was made");
    let _loaded = Loaded::new(&path).expect("it can be loaded");
    let scan = LibraryFinder::new().scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    let faults = scan.faults.iter().filter(|fault| fault.shown_path == path);
    let faults: Vec<_> = faults.map(|fault| (fault.kind, fault.reason)).collect();
    assert_eq!(faults, [(Kind::Inflate, Reason::Stripped)]);
}

/// Loads the machine's own build of a library by the first of these names that it has.
fn system_library(names: &[&str]) -> Option<Loaded> {
    names.iter().find_map(|name| Loaded::new(Path::new(name)))
}

/// Finds the function of a decompressor in the machine's own build, which `loaded` holds.
fn assert_placed(loaded: &Loaded, name: &str, flavour: Flavour, function: Function) {
    let scan = LibraryFinder::new().scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    let named = |library: &&Library| library.shown_path.to_string_lossy().contains(name);
    let libraries: Vec<_> = scan.libraries.iter().filter(named).collect();
    let [library] = libraries[..] else { panic!("{name}: {libraries:?}") };
    assert_eq!((library.build.flavour, library.build.symbols), (flavour, SymbolSource::Dynsym));
    let site = library.build.sites.iter().find(|site| site.calls == [function]).expect("it has it");
    let offset = loaded.offset_of(function.symbol());
    for spot in [Some(site.entry), site.ret].map(|spot| spot.expect("both are needed")) {
        assert!((offset..offset + 64).contains(&spot.file_offset), "{site:?} from {offset:#x}");
        assert!(spot.emulated, "it costs little on every build that was looked at: {site:?}");
    }
}

#[test]
fn the_machines_own_zlib_is_placed_in() {
    match system_library(&["libz.so.1"]) {
        Some(loaded) => assert_placed(&loaded, "/libz.so", Flavour::Zlib, Function::Inflate),
        None => test_skips::skip("this machine has no libz.so.1"),
    }
}

#[test]
fn the_machines_own_zstd_is_placed_in() {
    match system_library(&["libzstd.so.1"]) {
        Some(loaded) => assert_placed(&loaded, "/libzstd.so", Flavour::Zstd, Function::ZstdDecompress),
        None => test_skips::skip("this machine has no libzstd.so.1"),
    }
}

#[test]
fn the_machines_own_libssl_is_placed_in() {
    let Some(loaded) = system_library(&["libssl.so.3", "libssl.so.1.1"]) else {
        return test_skips::skip("this machine has no libssl.so.3 or libssl.so.1.1");
    };
    let scan = LibraryFinder::new().scan(&myself(), &mut Seen::default()).expect("this test may read itself");
    let is_system = |library: &&Library| library.shown_path.to_string_lossy().contains("/libssl.so.");
    let library = scan.libraries.iter().find(is_system).expect("it is loaded");
    let build = &library.build;
    assert_eq!((build.flavour, build.symbols), (Flavour::OpenSsl, SymbolSource::Dynsym));
    let file = fs::read(&library.attach_path).expect("it is mapped");
    let mut calls: Vec<Function> = build.sites.iter().flat_map(|site| site.calls.iter().copied()).collect();
    calls.sort_unstable();
    calls.dedup();
    assert_eq!(calls.len(), build.sites.iter().map(|site| site.calls.len()).sum::<usize>(), "one site each");
    for function in Function::OF_STREAMS.into_iter().filter(|function| *function != Function::SetHostName) {
        assert!(calls.contains(&function), "{function}");
    }
    for site in &build.sites {
        // First bytes as Intel's manual has them: push, call, jmp, jcc, nop.
        for spot in [Some(site.entry), site.ret].into_iter().flatten().filter(|spot| spot.emulated) {
            let bytes = &file[usize::try_from(spot.file_offset).expect("short")..][..2];
            let known = matches!(bytes, [0x50..=0x57 | 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb, _] | [0x41, 0x50..=0x57] | [0x0f, 0x80..=0x8f]);
            assert!(known, "{spot:?} {bytes:02x?}");
        }
        if !site.inner {
            let offset = loaded.offset_of(site.calls[0].symbol());
            assert!((offset..offset + 64).contains(&site.entry.file_offset), "{site:?} from {offset:#x}");
        }
    }
    // As on every build that was looked at: the four that data goes through cost little.
    for function in [Function::Read, Function::ReadEx, Function::Write, Function::WriteEx] {
        let site = build.sites.iter().find(|site| site.calls.contains(&function)).expect("all are there");
        assert!(site.entry.emulated && matches!(site.exits, Exits::Known(_)), "{site:?}");
    }
    // It says what went wrong by functions of the library below it, which it brings along.
    let below = scan.errors.iter().find(|library| library.shown_path.to_string_lossy().contains("/libcrypto.so."));
    let below = below.expect("it is loaded");
    let [site] = &below.build.sites[..] else { panic!("{below:?}") };
    assert!(site.entry.emulated && site.is_of_errors(), "{site:?}");
}
