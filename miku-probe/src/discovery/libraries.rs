//! Which libraries a process has mapped that TLS, zlib, zstd, the resolver or the CUDA driver is in, and at which of their
//! instructions uprobes shall stand.
//!
//! OpenSSL and its relatives hide anywhere: in `libssl.so.3`, in a `libssl-<hash>.so` that a wheel brings, linked into
//! an extension module, `libpython` or the interpreter; and so do zlib and zstd. So every file with executable mappings is
//! asked whether it *defines* the functions (`symbols`), and where it does, the machine code of its own build decides where
//! probes stand (`placement`): between two instructions of one function lies a factor of ten in what a hit costs the target.
//!
//! Nothing here attaches anything. A [`LibraryFinder`] remembers what it found in a file, so the second process with the
//! same library costs no more than reading its mappings.

mod flow;
mod loader;
mod mappings;
mod placement;
#[cfg(test)]
mod placement_tests;
mod registers;
mod symbols;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::discovery::libraries::mappings::{Mapping, OpenError};
use crate::discovery::libraries::symbols::{DebugFiles, Topic};
use crate::discovery::process::Process;

pub use crate::discovery::libraries::loader::{Notice, loader_notice};
pub use crate::discovery::libraries::placement::Unfollowed;
pub use crate::discovery::libraries::registers::{CountRegister, ResultRegister};
pub use crate::discovery::libraries::symbols::SymbolSource;

/// How many files are remembered, those with nothing of interest among them.
const REMEMBERED_MAX: usize = 1024;

/// How many distinct files of one process are looked into: a process may map what it likes.
const FILES_MAX: usize = 4096;

/// A function that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// `int SSL_read(SSL *ssl, void *buf, int num)`
    Read,
    /// `int SSL_read_ex(SSL *ssl, void *buf, size_t num, size_t *readbytes)`
    ReadEx,
    /// `int SSL_write(SSL *ssl, const void *buf, int num)`
    Write,
    /// `int SSL_write_ex(SSL *ssl, const void *buf, size_t num, size_t *written)`
    WriteEx,
    /// `int SSL_do_handshake(SSL *ssl)`
    DoHandshake,
    /// `int SSL_connect(SSL *ssl)`
    Connect,
    /// `int SSL_accept(SSL *ssl)`
    Accept,
    /// `int ossl_statem_connect(SSL *ssl)`, of OpenSSL's insides: what works on a client's handshake, whichever call
    /// began it
    ConnectState,
    /// `int ossl_statem_accept(SSL *ssl)`, the same of a server's
    AcceptState,
    /// `long SSL_ctrl(SSL *ssl, int cmd, long larg, void *parg)`; with `cmd` 55 it sets the server's name
    Ctrl,
    /// `int SSL_set_tlsext_host_name(SSL *ssl, const char *name)`, a function in BoringSSL and a macro in OpenSSL
    SetHostName,
    /// `int SSL_shutdown(SSL *ssl)`
    Shutdown,
    /// `void SSL_free(SSL *ssl)`
    Free,
    /// `void ERR_vset_error(int lib, int reason, const char *fmt, va_list args)`, since OpenSSL 3
    VSetError,
    /// `void ERR_set_error(int lib, int reason, const char *fmt, ...)`, since OpenSSL 3
    SetError,
    /// `void ERR_put_error(int lib, int func, int reason, const char *file, int line)`, until OpenSSL 1.1 and in
    /// BoringSSL
    PutError,
    /// `int inflate(z_stream *strm, int flush)`
    Inflate,
    /// `int inflateEnd(z_stream *strm)`
    InflateEnd,
    /// `size_t ZSTD_decompressStream(ZSTD_DStream *zds, ZSTD_outBuffer *output, ZSTD_inBuffer *input)`
    ZstdDecompress,
    /// `size_t ZSTD_DCtx_reset(ZSTD_DCtx *dctx, ZSTD_ResetDirective reset)`
    ZstdReset,
    /// `size_t ZSTD_freeDCtx(ZSTD_DCtx *dctx)`, in which `ZSTD_freeDStream` ends
    ZstdFree,
    /// The rest of `ZSTD_freeDCtx`, when the compiler has put its beginning into its callers; with the same argument
    ZstdFreePart,
    /// `int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **res)`
    GetAddrInfo,
    /// `int connect(int sockfd, const struct sockaddr *addr, socklen_t addrlen)`
    Dial,
    /// `CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)`
    CudaAlloc,
    /// `CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)`
    CudaAllocAsync,
    /// `CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned
    /// long long flags)`
    CudaCreate,
    /// `CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)`
    CudaAllocManaged,
}

impl Function {
    /// Those that work on a TLS stream.
    pub const OF_STREAMS: [Self; 11] = [
        Self::Read,
        Self::ReadEx,
        Self::Write,
        Self::WriteEx,
        Self::DoHandshake,
        Self::Connect,
        Self::Accept,
        Self::Ctrl,
        Self::SetHostName,
        Self::Shutdown,
        Self::Free,
    ];

    /// Those through which all handshakes go, of streams that are simply read from and written to too.
    pub const OF_STATES: [Self; 2] = [Self::ConnectState, Self::AcceptState];

    /// Those by which the library says what went wrong. They may be in another file than those above.
    pub const OF_ERRORS: [Self; 3] = [Self::VSetError, Self::SetError, Self::PutError];

    /// Those of zlib.
    pub const OF_ZLIB: [Self; 2] = [Self::Inflate, Self::InflateEnd];

    /// Those of zstd.
    pub const OF_ZSTD: [Self; 4] = [Self::ZstdDecompress, Self::ZstdReset, Self::ZstdFree, Self::ZstdFreePart];

    /// That of libc by which names are resolved.
    pub const OF_RESOLVER: [Self; 1] = [Self::GetAddrInfo];

    /// That of libc by which sockets are connected.
    pub const OF_DIALS: [Self; 1] = [Self::Dial];

    /// Those by which the CUDA driver is asked for memory.
    pub const OF_CUDA: [Self; 4] = [Self::CudaAlloc, Self::CudaAllocAsync, Self::CudaCreate, Self::CudaAllocManaged];

    /// Its name in the library's symbol table.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Read => "SSL_read",
            Self::ReadEx => "SSL_read_ex",
            Self::Write => "SSL_write",
            Self::WriteEx => "SSL_write_ex",
            Self::DoHandshake => "SSL_do_handshake",
            Self::Connect => "SSL_connect",
            Self::Accept => "SSL_accept",
            Self::ConnectState => "ossl_statem_connect",
            Self::AcceptState => "ossl_statem_accept",
            Self::Ctrl => "SSL_ctrl",
            Self::SetHostName => "SSL_set_tlsext_host_name",
            Self::Shutdown => "SSL_shutdown",
            Self::Free => "SSL_free",
            Self::VSetError => "ERR_vset_error",
            Self::SetError => "ERR_set_error",
            Self::PutError => "ERR_put_error",
            Self::Inflate => "inflate",
            Self::InflateEnd => "inflateEnd",
            Self::ZstdDecompress => "ZSTD_decompressStream",
            Self::ZstdReset => "ZSTD_DCtx_reset",
            Self::ZstdFree => "ZSTD_freeDCtx",
            Self::ZstdFreePart => "ZSTD_freeDCtx.part.0",
            Self::GetAddrInfo => "getaddrinfo",
            Self::Dial => "connect",
            Self::CudaAlloc => "cuMemAlloc_v2",
            Self::CudaAllocAsync => "cuMemAllocAsync",
            Self::CudaCreate => "cuMemCreate",
            Self::CudaAllocManaged => "cuMemAllocManaged",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.symbol())
    }
}

/// How arguments and result stand at a site's entry and return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `ssl` in `rdi`, the buffer in `rsi`, its length in `edx`; the result is the number of bytes, or 0 or less.
    Plain,
    /// `ssl` in `rdi`, the buffer in `rsi`, its length in `rdx`, where to put the number of bytes in `count`. The
    /// result is 1, or 0 or less.
    Ex {
        /// The register with the address of the `size_t` that receives the number of bytes, on success only.
        count: CountRegister,
    },
    /// `ssl` in `rdi`. The result of a handshake is 1 when it is done.
    Connection,
    /// `ssl` in `rdi`, the command in `esi`, a pointer in `rcx`.
    Control,
    /// `ssl` in `rdi`, the name in `rsi`.
    HostName,
    /// The part of the library in `edi`, what it says in `esi`.
    Error,
    /// The part of the library in `edi`, what it says in `edx`.
    PutError,
    /// The stream in `rdi`.
    Stream,
    /// The stream in `rdi`, the description of its output in `rsi` and that of its input in `rdx`.
    Buffers,
    /// The name in `rdi`, where the answer's address goes in `rcx`.
    Lookup,
    /// The descriptor in `edi`, the socket address in `rsi`.
    Dial,
    /// A number of bytes in `rsi`. The result is 0 on success.
    Size,
}

/// An instruction that a probe can stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// Where it is in the library's file: what the kernel wants to be told.
    pub file_offset: u64,
    /// Whether the kernel carries it out itself (0.5 to 1 µs a hit) rather than stepping the target over it (10 to
    /// 13 µs).
    pub emulated: bool,
}

/// A place at which a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The function that ends; it decides the result's form, which may not be the site's.
    pub function: Function,
    /// An instruction that is carried out once, after the result is known, on every way out through this exit.
    pub spot: Spot,
    /// Where the result is when that instruction is reached.
    pub result: ResultRegister,
}

/// Where the calls of a site end, for probes that do without a return probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exits {
    /// Nobody needs to know, or none but a return probe would see them.
    NotNeeded,
    /// All of them. An exit can be passed without the site's entry before, where the function refused its arguments.
    Known(Vec<Exit>),
    /// They cannot be told: only a return probe sees them all.
    Unknown {
        /// In which function.
        function: Function,
        /// Why.
        reason: Unfollowed,
    },
}

/// A place in a library that calls of interest pass, each of them once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The exported functions whose calls pass here: one, or two that share an inner function.
    pub calls: Vec<Function>,
    /// What stands in the registers.
    pub form: Form,
    /// Whether the probes stand in a function that the exported ones call, rather than in these.
    pub inner: bool,
    /// Where a call begins; all arguments stand in their registers.
    pub entry: Spot,
    /// Where a return probe can stand: the stack pointer still points to the return address. The same as `entry`
    /// where that can be. `None` where the return is of no interest.
    pub ret: Option<Spot>,
    /// Where calls end otherwise.
    pub exits: Exits,
}

impl Site {
    /// Whether it is passed when the library says what went wrong, rather than by calls that work on a stream.
    #[must_use]
    pub fn is_of_errors(&self) -> bool {
        matches!(self.form, Form::Error | Form::PutError)
    }
}

/// What is seen in a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What goes into and comes out of TLS.
    Tls,
    /// What is decompressed.
    Inflate,
    /// Names that are resolved, and connections that fail at once.
    Libc,
    /// What the CUDA driver is asked for.
    Cuda,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tls, Self::Inflate, Self::Libc, Self::Cuda];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Inflate => "inflate",
            Self::Libc => "libc",
            Self::Cuda => "cuda",
        }
    }
}

/// Whose functions they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// OpenSSL, or what looks like it.
    OpenSsl,
    /// BoringSSL and what descends from it.
    BoringSsl,
    /// zlib, or what stands in for it.
    Zlib,
    /// zstd.
    Zstd,
    /// A C library.
    Libc,
    /// The CUDA driver.
    Cuda,
}

impl Flavour {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::BoringSsl => "boringssl",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
            Self::Libc => "libc",
            Self::Cuda => "cuda",
        }
    }

    /// What is seen in a library of this flavour.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::OpenSsl | Self::BoringSsl => Kind::Tls,
            Self::Zlib | Self::Zstd => Kind::Inflate,
            Self::Libc => Kind::Libc,
            Self::Cuda => Kind::Cuda,
        }
    }
}

/// One state of one file: replaced or rewritten, it has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What was found of one flavour in a file: it is the same for every process that maps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Whose it is.
    pub flavour: Flavour,
    /// What told the functions' addresses.
    pub symbols: SymbolSource,
    /// Where probes shall stand; never empty.
    pub sites: Vec<Site>,
}

/// A library in a process.
#[derive(Clone, Debug)]
pub struct Library {
    /// The file.
    pub identity: FileId,
    /// A path by which the kernel finds the file as long as the process has it mapped, in a container or deleted as
    /// it may be.
    pub attach_path: PathBuf,
    /// Its path as the process sees it.
    pub shown_path: PathBuf,
    /// Whether it is gone from its folder, as after an upgrade.
    pub deleted: bool,
    /// What is in it.
    pub build: Arc<Build>,
}

/// Why a file, or a whole process, yields no sites though it might be expected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// It bears the name of such a library, and no table has the functions' names.
    #[error("has no symbols for the functions that are probed, nor is there a debug file for it")]
    Stripped,
    /// It cannot be read.
    #[error("cannot be read")]
    Unreadable,
    /// It is no ELF file.
    #[error("is no ELF file")]
    NotElf,
    /// Its tables contradict themselves.
    #[error("is a damaged ELF file")]
    Malformed,
    /// It is for a 32-bit program.
    #[error("is a 32-bit program's")]
    WrongClass,
    /// It is for another processor.
    #[error("is for another processor")]
    WrongMachine,
    /// The functions' names lead to no machine code.
    #[error("has the functions' names but not their code")]
    NoCode,
    /// The process ended meanwhile.
    #[error("the process has ended")]
    ProcessGone,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Stripped,
        Self::Unreadable,
        Self::NotElf,
        Self::Malformed,
        Self::WrongClass,
        Self::WrongMachine,
        Self::NoCode,
        Self::ProcessGone,
    ];

    /// The label value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stripped => "stripped",
            Self::Unreadable => "unreadable",
            Self::NotElf => "not_elf",
            Self::Malformed => "malformed",
            Self::WrongClass => "wrong_class",
            Self::WrongMachine => "wrong_machine",
            Self::NoCode => "no_code",
            Self::ProcessGone => "process_gone",
        }
    }
}

/// A file that yields no sites, for a reason worth a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", shown_path.display())]
pub struct Fault {
    /// Its path as the process sees it.
    pub shown_path: PathBuf,
    /// Whether it is gone from its folder.
    pub deleted: bool,
    /// What would be seen in it: TLS, but for a file that is named otherwise.
    pub kind: Kind,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a process's mappings could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It ended.
    #[error("the process has ended")]
    ProcessGone,
    /// This user may not read its mappings, or they cannot be read.
    #[error("its mappings cannot be read")]
    Unreadable(#[source] io::Error),
}

impl ScanError {
    /// The reason, as it is counted.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::ProcessGone => Reason::ProcessGone,
            Self::Unreadable(_) => Reason::Unreadable,
        }
    }
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH)) => Self::ProcessGone,
            _ => Self::Unreadable(error),
        }
    }
}

/// The files of one process that were looked at already. Keep one for each process and drop it when the process
/// becomes another program.
#[derive(Clone, Debug, Default)]
pub struct Seen(HashSet<mappings::Key>);

/// What one look at a process found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The libraries; a file that has several flavours is in it once for each.
    pub libraries: Vec<Library>,
    /// The files that have nothing but the functions by which a TLS library in another file says what went wrong.
    pub errors: Vec<Library>,
    /// What is wrong with files that might be expected to be some.
    pub faults: Vec<Fault>,
    /// How many files were looked at: those with executable mappings that had not been seen before.
    pub files: usize,
}

/// What a file is to us.
type Finding = Result<Vec<Arc<Build>>, Reason>;

/// Finds libraries in processes, and remembers what it found in which file.
#[derive(Debug, Default)]
pub struct LibraryFinder {
    remembered: HashMap<FileId, (u64, Finding)>,
    clock: u64,
}

impl LibraryFinder {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at those files of `process` that are not in `seen` yet, and puts them there. With an empty `seen` that is
    /// all of them; with that of an earlier look only what it has mapped since, as by a late `dlopen`.
    ///
    /// # Errors
    /// When the process has ended, or its mappings cannot be read. What is wrong with single files is in the result.
    pub fn scan(&mut self, process: &Process, seen: &mut Seen) -> Result<Scan, ScanError> {
        let mut scan = Scan::default();
        for mapping in mappings::executable_files(process, &seen.0, FILES_MAX)? {
            scan.files += 1;
            let finding = match mapping.open(process) {
                Ok(opened) => match self.look_into(&opened.file, &mapping, process) {
                    Ok((identity, Ok(builds))) => {
                        for build in builds {
                            let of_errors = build.sites.iter().all(Site::is_of_errors);
                            let libraries = if of_errors { &mut scan.errors } else { &mut scan.libraries };
                            libraries.push(Library {
                                identity,
                                attach_path: opened.path.clone(),
                                shown_path: mapping.path.clone(),
                                deleted: mapping.deleted,
                                build,
                            });
                        }
                        Ok(())
                    }
                    Ok((_, Err(reason))) => Err(reason),
                    Err(_) => Err(Reason::Unreadable),
                },
                // It was unmapped again, or the process ended: its end will be told, and a next look sees the rest.
                Err(OpenError::Gone) => continue,
                Err(OpenError::Unreadable) => Err(Reason::Unreadable),
            };
            if let Err(reason) = finding
                && worth_a_line(reason, &mapping, &scan.faults)
            {
                let (shown_path, deleted) = (mapping.path.clone(), mapping.deleted);
                let kind = if mapping.sounds_like_zstd() { Kind::Inflate } else { Kind::Tls };
                scan.faults.push(Fault { shown_path, deleted, kind, reason });
            }
            seen.0.insert(mapping.key);
        }
        Ok(scan)
    }

    fn look_into(&mut self, file: &File, mapping: &Mapping, process: &Process) -> io::Result<(FileId, Finding)> {
        let identity = FileId::of(&file.metadata()?);
        self.clock += 1;
        if let Some((used, finding)) = self.remembered.get_mut(&identity) {
            *used = self.clock;
            return Ok((identity, finding.clone()));
        }
        let debug_files = DebugFiles::of(process.file("root"), &mapping.path);
        let finding = placement::examine(file, &debug_files).and_then(|mut builds| {
            let has = |kind| builds.iter().any(|build: &Build| build.flavour.kind() == kind);
            let stripped_tls = mapping.sounds_like_tls() && !has(Kind::Tls) && !symbols::imports(file, Topic::Tls);
            let stripped_zstd =
                mapping.sounds_like_zstd() && !has(Kind::Inflate) && !symbols::imports(file, Topic::Zstd);
            if stripped_tls || stripped_zstd {
                return Err(Reason::Stripped);
            }
            // Others are not searched for these names: it would take as long once more, and no file has only them.
            if mapping.sounds_like_crypto() && !has(Kind::Tls) {
                builds.extend(placement::examine_errors(file)?);
            }
            if mapping.sounds_like_cuda() {
                builds.extend(placement::examine_cuda(file)?);
            }
            Ok(builds.into_iter().map(Arc::new).collect())
        });
        if self.remembered.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.remembered.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id)
        {
            self.remembered.remove(&oldest);
        }
        self.remembered.insert(identity, (self.clock, finding.clone()));
        Ok((identity, finding))
    }
}

/// Whether the user is to hear of it: not of what cannot be a library anyhow, and of a 32-bit process once.
fn worth_a_line(reason: Reason, mapping: &Mapping, faults: &[Fault]) -> bool {
    match reason {
        Reason::WrongClass | Reason::WrongMachine => faults.iter().all(|fault| fault.reason != reason),
        Reason::NotElf | Reason::Malformed | Reason::Unreadable => mapping.sounds_like_code(),
        Reason::Stripped | Reason::NoCode | Reason::ProcessGone => true,
    }
}
