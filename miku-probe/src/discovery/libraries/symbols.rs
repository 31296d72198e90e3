//! What an ELF file tells about the functions in it that are probed: their addresses, by whichever table has them.
//!
//! A bot maps a hundred files and more, some of them hundreds of megabytes long, of which one or two matter. So a file
//! is never read whole nor mapped: its tables of names are searched piece by piece, and only where a name is found
//! its symbols are. (Of a mapped file that someone cuts short meanwhile, the probe would die.)
//!
//! Layouts are those of the System V ABI's ELF chapters, by the `object` crate.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memchr::memmem;
use object::elf::{self, FileHeader64, Rela64, Sym64};
use object::pod::{self, Pod};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, LittleEndian, ReadCache};

use super::flow::Text;
use super::mappings::open_regular;
use super::{Function, Reason};

/// How much is read at once.
const PIECE: usize = 64 * 1024;

/// How long a table of names or symbols may be to be searched: a file is whatever someone wrote into it.
const TABLE_MAX: u64 = 512 * 1024 * 1024;

/// How many places of names are kept; a real table has each name once or twice.
const NAMES_MAX: usize = 1024;

/// How many sections or segments a file may have to be looked into.
const SECTIONS_MAX: usize = 64 * 1024;

/// Where the host keeps debug files (`gdb`'s default).
const DEBUG_FOLDER: &str = "usr/lib/debug";

/// What told where a library's functions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolSource {
    /// `.dynsym`: they are exported.
    Dynsym,
    /// `.symtab`: they are linked in, and the file was not stripped.
    Symtab,
    /// The `.symtab` of a separate debug file.
    DebugFile,
}

impl SymbolSource {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dynsym => "dynsym",
            Self::Symtab => "symtab",
            Self::DebugFile => "debug_file",
        }
    }
}

/// A name that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    /// A function that is probed.
    Probed(Function),
    /// `SSL_write_ex2`, through which `SSL_write_ex` goes since OpenSSL 3.3.
    WriteEx2,
    /// A function that must not pass an inner function which probes stand in, because it is none of those that are
    /// probed: what it reads is read again.
    Stranger(Stranger),
}

/// See [`Name::Stranger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stranger {
    Peek,
    PeekEx,
    SendFile,
}

impl Name {
    const OTHERS: [(Self, &'static str); 4] = [
        (Self::WriteEx2, "SSL_write_ex2"),
        (Self::Stranger(Stranger::Peek), "SSL_peek"),
        (Self::Stranger(Stranger::PeekEx), "SSL_peek_ex"),
        (Self::Stranger(Stranger::SendFile), "SSL_sendfile"),
    ];

    /// The name of those of `topic` that `bytes` begin with, closed by a zero.
    fn at(bytes: &[u8], topic: Topic) -> Option<Self> {
        topic.names().find_map(|(name, text)| {
            (bytes.starts_with(text.as_bytes()) && bytes.get(text.len()) == Some(&0)).then_some(name)
        })
    }
}

/// Names that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// What works on a TLS stream.
    Tls,
    /// What works on its handshake, within the library.
    States,
    /// What says what went wrong in one.
    Errors,
    /// zlib's.
    Zlib,
    /// zstd's.
    Zstd,
    /// libc's by which names are resolved.
    Resolver,
    /// libc's by which sockets are connected.
    Dials,
    /// The CUDA driver's, by which it is asked for memory.
    Cuda,
}

impl Topic {
    /// Those that every file is searched for.
    const SOUGHT: [Self; 6] = [Self::Tls, Self::Zlib, Self::Zstd, Self::Resolver, Self::Dials, Self::Cuda];

    /// What all of its names begin with.
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Tls => b"SSL_",
            Self::States => b"ossl_statem_",
            Self::Errors => b"ERR_",
            Self::Zlib => b"inflate",
            Self::Zstd => b"ZSTD_",
            Self::Resolver => b"getaddrinfo",
            Self::Dials => b"connect",
            Self::Cuda => b"cuMem",
        }
    }

    fn names(self) -> impl Iterator<Item = (Name, &'static str)> {
        let (functions, others): (&[Function], &[_]) = match self {
            Self::Tls => (&Function::OF_STREAMS, &Name::OTHERS),
            Self::States => (&Function::OF_STATES, &[]),
            Self::Errors => (&Function::OF_ERRORS, &[]),
            Self::Zlib => (&Function::OF_ZLIB, &[]),
            Self::Zstd => (&Function::OF_ZSTD, &[]),
            Self::Resolver => (&Function::OF_RESOLVER, &[]),
            Self::Dials => (&Function::OF_DIALS, &[]),
            Self::Cuda => (&Function::OF_CUDA, &[]),
        };
        let functions = functions.iter().map(|function| (Name::Probed(*function), function.symbol()));
        functions.chain(others.iter().copied())
    }

    /// The length of the longest, with its zero.
    fn longest(self) -> usize {
        self.names().map(|(_, text)| text.len() + 1).max().unwrap_or(0)
    }

    /// Whether the functions are there without which the others are of no use, or are not what they seem to be.
    fn is_in(self, functions: &Functions) -> bool {
        let has = |function: &Function| functions.contains_key(&Name::Probed(*function));
        match self {
            Self::Tls => [Function::Read, Function::ReadEx, Function::Write, Function::WriteEx].iter().any(has),
            Self::States => Function::OF_STATES.iter().any(has),
            Self::Errors => Function::OF_ERRORS.iter().any(has),
            // Other things can be inflated too.
            Self::Zlib => Function::OF_ZLIB.iter().all(has),
            Self::Zstd => has(&Function::ZstdDecompress),
            Self::Resolver => has(&Function::GetAddrInfo),
            Self::Dials => has(&Function::Dial),
            Self::Cuda => Function::OF_CUDA.iter().any(has),
        }
    }
}

/// The functions of a topic that a file defines.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) topic: Topic,
    pub(super) functions: Functions,
    pub(super) symbols: SymbolSource,
}

/// The functions that were found: from where to where each is; empty when its size is not told.
pub(super) type Functions = HashMap<Name, Range<u64>>;

/// The same with the numbers of their symbols.
type Defined = (Functions, HashMap<u32, Name>);

/// Where debug files for a library are looked for.
#[derive(Clone, Debug)]
pub(super) struct DebugFiles {
    roots: [PathBuf; 2],
    /// The library's folder, relative to a root.
    folder: PathBuf,
}

impl DebugFiles {
    /// For the library at `path` as a process sees it, whose root is `root`; and in this user's own.
    pub(super) fn of(root: PathBuf, path: &Path) -> Self {
        let folder = path.parent().unwrap_or(path);
        Self { roots: [root, PathBuf::from("/")], folder: folder.strip_prefix("/").unwrap_or(folder).to_owned() }
    }

    /// None at all.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::of(PathBuf::from("/nonexistent"), Path::new("/nonexistent/lib"))
    }

    fn candidates(&self, id: Option<&[u8]>, link: Option<&OsStr>) -> Vec<PathBuf> {
        let hex = id.filter(|id| id.len() > 1).map(|id| {
            let hex: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}/{}.debug", hex[0], hex[1..].concat())
        });
        // The name is the file's own claim: it must not lead out of the folders.
        let link = link.filter(|link| Path::new(link).components().count() == 1 && *link != ".." && *link != ".");
        let mut paths = Vec::new();
        for root in &self.roots {
            let debug = root.join(DEBUG_FOLDER);
            paths.extend(hex.as_ref().map(|hex| debug.join(".build-id").join(hex)));
            if let Some(link) = link {
                paths.push(debug.join(&self.folder).join(link));
                paths.push(root.join(&self.folder).join(".debug").join(link));
                paths.push(root.join(&self.folder).join(link));
            }
        }
        paths
    }
}

/// A part of a file.
type Part = Range<u64>;

/// A table of symbols and that of their names.
#[derive(Clone, Debug)]
struct Table {
    symbols: Part,
    names: Part,
}

/// A file, with what its headers tell.
#[derive(Debug)]
pub(super) struct Library<'f> {
    file: &'f File,
    /// Addresses of code, and where they are in the file.
    code: Vec<(Range<u64>, u64)>,
    dynsym: Option<Table>,
    symtab: Option<Table>,
    relocations: Vec<Part>,
    build_id: Option<Vec<u8>>,
    debug_link: Option<Vec<u8>>,
    /// Functions of this file by the addresses that the loader writes theirs to.
    slots: HashMap<u64, u64>,
}

impl<'f> Library<'f> {
    /// Reads the headers of `file`.
    pub(super) fn read(file: &'f File) -> Result<Self, Reason> {
        let mut start = [0; 20];
        match file.read_exact_at(&mut start, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Reason::NotElf),
            Err(_) => return Err(Reason::Unreadable),
        }
        if !start.starts_with(&elf::ELFMAG) {
            return Err(Reason::NotElf);
        }
        if start[4] != elf::ELFCLASS64 {
            return Err(Reason::WrongClass);
        }
        if start[5] != elf::ELFDATA2LSB || u16::from_le_bytes([start[18], start[19]]) != elf::EM_X86_64 {
            return Err(Reason::WrongMachine);
        }
        Self::read_headers(file)
    }

    fn read_headers(file: &'f File) -> Result<Self, Reason> {
        let malformed = |_: object::read::Error| Reason::Malformed;
        let data = &ReadCache::new(file);
        let header = FileHeader64::<Endianness>::parse(data).map_err(malformed)?;
        let endian = Endianness::Little;
        let counts = [header.shnum(endian, data), header.phnum(endian, data)];
        if counts.into_iter().any(|count| count.is_ok_and(|count| count > SECTIONS_MAX)) {
            return Err(Reason::Malformed);
        }
        let mut code = Vec::new();
        for segment in header.program_headers(endian, data).map_err(malformed)? {
            let address = segment.p_vaddr(endian);
            if segment.p_type(endian) == elf::PT_LOAD
                && segment.p_flags(endian) & elf::PF_X != 0
                && let Some(end) = address.checked_add(segment.p_filesz(endian))
            {
                code.push((address..end, segment.p_offset(endian)));
            }
        }
        let sections = header.sections(endian, data).map_err(malformed)?;
        let part = |section: &elf::SectionHeader64<Endianness>| {
            let (offset, size) = section.file_range(endian)?;
            Some(offset..offset.checked_add(size)?)
        };
        let table = |kind| {
            let section = sections.iter().find(|section| section.sh_type(endian) == kind)?;
            let names = sections.section(section.link(endian)).ok()?;
            Some(Table { symbols: part(section)?, names: part(names)? })
        };
        let mut build_id = None;
        let short = |section: &elf::SectionHeader64<Endianness>| section.sh_size(endian) <= PIECE as u64;
        for section in sections.iter().filter(|section| short(section)) {
            if let Ok(Some(mut notes)) = section.notes(endian, data) {
                while let Ok(Some(note)) = notes.next() {
                    if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                        build_id = Some(note.desc().to_vec());
                    }
                }
            }
        }
        let debug_link = sections.section_by_name(endian, b".gnu_debuglink").and_then(|(_, section)| {
            let section = short(section).then_some(section)?;
            let bytes = section.data(endian, data).ok()?;
            bytes.split(|byte| *byte == 0).next().map(<[u8]>::to_vec)
        });
        Ok(Self {
            file,
            code,
            dynsym: table(elf::SHT_DYNSYM),
            symtab: table(elf::SHT_SYMTAB),
            relocations: sections
                .iter()
                .filter(|section| section.sh_type(endian) == elf::SHT_RELA)
                .filter_map(part)
                .collect(),
            build_id,
            debug_link,
            slots: HashMap::new(),
        })
    }

    /// The functions of each topic that the file has, by the first table that has its names.
    pub(super) fn functions(&mut self, debug_files: &DebugFiles) -> Result<Vec<Found>, Reason> {
        let unreadable = |_: io::Error| Reason::Unreadable;
        let mut found = Vec::new();
        let mut numbers = HashMap::new();
        if let Some(table) = &self.dynsym {
            self.search(table, SymbolSource::Dynsym, &mut found, &mut numbers).map_err(unreadable)?;
            let functions = found.iter().flat_map(|found| &found.functions);
            let functions = functions.map(|(name, range)| (*name, range.clone())).collect();
            self.slots = self.slots_of(&functions, &numbers).map_err(unreadable)?;
        }
        if found.len() == Topic::SOUGHT.len() {
            return Ok(found);
        }
        if let Some(table) = &self.symtab {
            self.search(table, SymbolSource::Symtab, &mut found, &mut numbers).map_err(unreadable)?;
            return Ok(found);
        }
        let link = self.debug_link.as_deref().map(OsStr::from_bytes);
        for path in debug_files.candidates(self.build_id.as_deref(), link) {
            let Ok(file) = open_regular(&path) else { continue };
            // What stands in another build's place would send probes into the middle of instructions.
            let Some(debug) = Library::read(&file).ok().filter(|debug| debug.build_id == self.build_id) else {
                continue;
            };
            if let Some(table) = self.build_id.as_ref().and(debug.symtab.as_ref()) {
                debug.search(table, SymbolSource::DebugFile, &mut found, &mut numbers).map_err(unreadable)?;
                return Ok(found);
            }
        }
        Ok(found)
    }

    /// The functions of a topic that are exported.
    pub(super) fn exported(&mut self, topic: Topic) -> Result<Functions, Reason> {
        let unreadable = |_: io::Error| Reason::Unreadable;
        let Some(table) = &self.dynsym else { return Ok(Functions::new()) };
        let mut defined = self.defined(table, &[topic]).map_err(unreadable)?;
        let (functions, numbers) = defined.pop().map(|(_, defined)| defined).unwrap_or_default();
        self.slots = self.slots_of(&functions, &numbers).map_err(unreadable)?;
        Ok(functions)
    }

    /// Adds to `found` the topics that are not in it and that `table` has, and their symbols' numbers to `numbers`.
    fn search(
        &self,
        table: &Table,
        symbols: SymbolSource,
        found: &mut Vec<Found>,
        numbers: &mut HashMap<u32, Name>,
    ) -> io::Result<()> {
        let missing = |topic: &Topic| {
            // What is not exported may bear these plain names and be anything.
            let exported = matches!(topic, Topic::Resolver | Topic::Dials);
            found.iter().all(|found| found.topic != *topic) && (!exported || symbols == SymbolSource::Dynsym)
        };
        let topics: Vec<Topic> = Topic::SOUGHT.into_iter().filter(missing).collect();
        for (topic, (mut functions, of_topic)) in self.defined(table, &topics)? {
            if !topic.is_in(&functions) {
                continue;
            }
            numbers.extend(of_topic);
            if topic == Topic::Tls {
                for (_, others) in self.defined(table, &[Topic::States, Topic::Errors])? {
                    functions.extend(others.0);
                    numbers.extend(others.1);
                }
            }
            found.push(Found { topic, functions, symbols });
        }
        Ok(())
    }

    /// The functions of each of `topics` that `table` defines.
    fn defined(&self, table: &Table, topics: &[Topic]) -> io::Result<Vec<(Topic, Defined)>> {
        let names = self.names(&table.names, topics)?;
        let mut defined: Vec<(Topic, Defined)> = topics.iter().map(|topic| (*topic, Defined::default())).collect();
        if names.is_empty() {
            return Ok(defined);
        }
        self.records::<Sym64<LittleEndian>>(&table.symbols, |number, symbol| {
            let Some((topic, name)) = names.get(&u64::from(symbol.st_name(LittleEndian))) else { return };
            if symbol.st_type() == elf::STT_FUNC
                && !symbol.is_undefined(LittleEndian)
                && let Some((_, (functions, numbers))) = defined.get_mut(*topic)
            {
                let address = symbol.st_value(LittleEndian);
                let end = address.saturating_add(symbol.st_size(LittleEndian));
                functions.entry(*name).or_insert(address..end);
                numbers.insert(number, *name);
            }
        })?;
        Ok(defined)
    }

    /// Where in a table of names those of `topics` stand, each with its topic's place among these. Where one name ends as
    /// another, they may share a place.
    fn names(&self, part: &Part, topics: &[Topic]) -> io::Result<HashMap<u64, (usize, Name)>> {
        let finders: Vec<_> = topics.iter().map(|topic| (*topic, memmem::Finder::new(topic.prefix()))).collect();
        let overlap = topics.iter().map(|topic| topic.longest()).max().unwrap_or(0);
        let mut found = HashMap::new();
        let mut piece = vec![0; PIECE];
        let mut at = part.start;
        let end = part.end.min(part.start.saturating_add(TABLE_MAX));
        while at < end && found.len() < NAMES_MAX {
            let wanted = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let read = self.file.read_at(&mut piece[..wanted], at)?;
            for (number, (topic, finder)) in finders.iter().enumerate() {
                for place in finder.find_iter(&piece[..read]) {
                    if let Some(name) = Name::at(&piece[place..read], *topic) {
                        found.insert(at - part.start + place as u64, (number, name));
                    }
                }
            }
            // What begins at the end of this piece is whole at the start of the next.
            at += match read {
                0 => break,
                read if read > overlap => read - overlap,
                read => read,
            } as u64;
            if read < wanted || read <= overlap {
                break;
            }
        }
        Ok(found)
    }

    /// The places where the loader writes the addresses of `functions`.
    fn slots_of(&self, functions: &Functions, numbers: &HashMap<u32, Name>) -> io::Result<HashMap<u64, u64>> {
        let mut slots = HashMap::new();
        for part in &self.relocations {
            self.records::<Rela64<LittleEndian>>(part, |_, relocation| {
                let kind = relocation.r_type(LittleEndian, false);
                if (kind == elf::R_X86_64_JUMP_SLOT || kind == elf::R_X86_64_GLOB_DAT)
                    && let Some(name) = numbers.get(&relocation.r_sym(LittleEndian, false))
                    && let Some(range) = functions.get(name)
                {
                    slots.insert(relocation.r_offset.get(LittleEndian), range.start);
                }
            })?;
        }
        Ok(slots)
    }

    /// Shows the records of one part of the file to `each`, one after the other, with their numbers.
    fn records<T: Pod>(&self, part: &Part, mut each: impl FnMut(u32, &T)) -> io::Result<()> {
        let size = size_of::<T>();
        let mut piece = vec![0; PIECE / size * size];
        let (mut at, mut number) = (part.start, 0);
        let end = part.end.min(part.start.saturating_add(TABLE_MAX));
        while at < end {
            let wanted = usize::try_from(end - at).map_or(piece.len(), |left| left.min(piece.len()));
            let read = self.file.read_at(&mut piece[..wanted], at)?;
            let whole = read / size;
            if whole == 0 {
                break;
            }
            let (records, _) =
                pod::slice_from_bytes::<T>(&piece, whole).expect("little-endian records need no alignment");
            for record in records {
                each(number, record);
                number += 1;
            }
            at += (whole * size) as u64;
        }
        Ok(())
    }
}

impl Text for Library<'_> {
    fn bytes(&self, address: u64, length: u64) -> Vec<u8> {
        let Some((range, offset)) = self.code.iter().find(|(range, _)| range.contains(&address)) else {
            return Vec::new();
        };
        let length = length.min(range.end - address);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let Some(offset) = offset.checked_add(address - range.start) else { return Vec::new() };
        let read = self.file.read_at(&mut bytes, offset).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    fn slot(&self, slot: u64) -> Option<u64> {
        self.slots.get(&slot).copied()
    }

    fn file_offset(&self, address: u64) -> Option<u64> {
        let (range, offset) = self.code.iter().find(|(range, _)| range.contains(&address))?;
        offset.checked_add(address - range.start)
    }
}

/// Whether `file` has the functions of `topic` from another one.
pub(super) fn imports(file: &File, topic: Topic) -> bool {
    let names = |library: Library<'_>| library.names(&library.dynsym.as_ref()?.names, &[topic]).ok();
    Library::read(file).ok().and_then(names).is_some_and(|names| !names.is_empty())
}
