//! At which instructions of a library probes shall stand.
//!
//! # What a spot costs
//! The kernel carries some instructions out itself when a uprobe stands on them, at 0.5 to 1 µs a hit: `push` of a
//! register, direct `call` and `jmp`, conditional jumps, and the one-byte `nop` (`push_setup_xol_ops` and
//! `branch_setup_xol_ops` in `arch/x86/kernel/uprobes.c`). All others it has the target step over out of line, at 10 to
//! 13 µs. Prefixed and longer forms differ between kernels, which may even refuse a probe there (a `nop` with a prefix,
//! before 6.2): they count as stepped.
//!
//! # Where a call begins
//! At the first instruction that is emulated, as long as every call passes it exactly once: up to the first jump, and
//! with no jump from elsewhere landing in between. The arguments must still stand in their registers.
//!
//! # Inner functions
//! OpenSSL's `SSL_read` and `SSL_read_ex` are wrappers of one function, and so are those that write. Where both of a
//! build call the same one and pass their arguments on, that is the better place: one spot instead of two, and mostly
//! with a `push` right at its start, at which the return probe can stand too. It is not used when others come by there
//! that must not be seen, such as `SSL_peek`, whose data is read again.
//!
//! # Where a call ends
//! A return probe can stand wherever the stack pointer still points to the return address: on the function's first
//! instruction, or a later one before the stack pointer moves. Where return probes must not be used, there are the ends
//! of the exported functions: each `ret`, or, better, an emulated instruction before it, from which nothing leads
//! elsewhere and where the result is known. Functions that end in another one's end by a `jmp` end where that one does.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, Register};

use super::flow::{End, Flow, Text, resolve};
use super::registers::{CountRegister, Registers, ResultRegister, Value, is_preserved, writes};
use super::symbols::{DebugFiles, Found, Functions, Library, Name, Stranger, SymbolSource, Topic};
use super::{Build, Exit, Exits, Flavour, Form, Function, Reason, Site, Spot};

/// How many instructions of a wrapper are looked at for the call of an inner function.
const WRAPPER_MAX: usize = 512;

/// How many functions may lie between an exported one and the inner one, or give way to one another.
const CHAIN_MAX: usize = 2;

/// Why not all ends of a function could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unfollowed {
    /// The symbol table does not say how long it is.
    #[error("its size is not known")]
    NoSize,
    /// It is longer than is looked at.
    #[error("it is too long")]
    TooLong,
    /// It has bytes that are no instruction.
    #[error("it has bytes that are no instruction")]
    Undecodable,
    /// It jumps to an address that is computed.
    #[error("it jumps to computed addresses")]
    IndirectJump,
    /// Parts of it lie elsewhere.
    #[error("parts of it lie elsewhere")]
    LeavesBody,
    /// It goes on behind its end.
    #[error("it goes on behind its end")]
    RunsOff,
    /// It gives way to a function that is not known.
    #[error("it ends in another function")]
    TailCall,
}

/// Looks into `file`: which functions it defines, and where probes shall stand; a build for each flavour.
///
/// # Errors
/// When it is no file that can be looked into, or what it tells of the functions makes no sense.
pub(super) fn examine(file: &File, debug_files: &DebugFiles) -> Result<Vec<Build>, Reason> {
    let mut library = Library::read(file)?;
    let mut builds = Vec::new();
    for Found { topic, functions, symbols } in library.functions(debug_files)? {
        let sites = place(&library, &functions);
        if sites.is_empty() {
            return Err(Reason::NoCode);
        }
        let flavour = match topic {
            Topic::Zlib => Flavour::Zlib,
            Topic::Zstd => Flavour::Zstd,
            Topic::Resolver | Topic::Dials => Flavour::Libc,
            _ if functions.contains_key(&Name::Probed(Function::SetHostName)) => Flavour::BoringSsl,
            _ => Flavour::OpenSsl,
        };
        builds.push(Build { flavour, symbols, sites });
    }
    Ok(builds)
}

/// Looks into `file` for nothing but the functions by which a TLS library in another file says what went wrong.
///
/// # Errors
/// As [`examine`].
pub(super) fn examine_errors(file: &File) -> Result<Option<Build>, Reason> {
    let mut library = Library::read(file)?;
    let functions = library.exported(Topic::Errors)?;
    let sites = place(&library, &functions);
    // BoringSSL's is told from the other by its functions for streams, which are elsewhere.
    let build = Build { flavour: Flavour::OpenSsl, symbols: SymbolSource::Dynsym, sites };
    Ok((!build.sites.is_empty()).then_some(build))
}

/// Looks into `file` for nothing but the functions by which the CUDA driver is asked for memory.
///
/// # Errors
/// As [`examine`].
pub(super) fn examine_cuda(file: &File) -> Result<Option<Build>, Reason> {
    let mut library = Library::read(file)?;
    let functions = library.exported(Topic::Cuda)?;
    let sites = place(&library, &functions);
    let build = Build { flavour: Flavour::Cuda, symbols: SymbolSource::Dynsym, sites };
    Ok((!build.sites.is_empty()).then_some(build))
}

/// The sites of a library.
pub(super) fn place(text: &dyn Text, functions: &Functions) -> Vec<Site> {
    use Function as F;
    let mut placement = Placement { text, functions, info: InstructionInfoFactory::new() };
    let mut sites = Vec::new();
    sites.extend(placement.transfer(F::Read, F::ReadEx));
    sites.extend(placement.transfer(F::Write, F::WriteEx));
    // `SSL_connect` and `SSL_accept` mostly are `SSL_do_handshake` after a little preparation.
    sites.extend(placement.through(F::DoHandshake, [F::Connect, F::Accept]));
    for function in F::OF_STATES {
        sites.extend(placement.outer(vec![function], function));
    }
    let name = if functions.contains_key(&Name::Probed(F::SetHostName)) { F::SetHostName } else { F::Ctrl };
    for function in [name, F::Shutdown, F::Free] {
        sites.extend(placement.outer(vec![function], function));
    }
    sites.extend(placement.through(F::VSetError, [F::SetError]));
    let others = [&[F::PutError][..], &F::OF_ZLIB, &F::OF_ZSTD, &F::OF_RESOLVER, &F::OF_DIALS, &F::OF_CUDA];
    for function in others.concat() {
        sites.extend(placement.outer(vec![function], function));
    }
    sites
}

/// Whether the kernel carries `instruction` out itself when a uprobe stands on it.
pub(super) fn is_emulated(instruction: &Instruction, bytes: &[u8]) -> bool {
    match *bytes {
        [0x50..=0x57 | 0x90] | [0x41, 0x50..=0x57] => instruction.len() == bytes.len(),
        [0xe8 | 0xe9, ..] => instruction.len() == 5,
        [0xeb | 0x70..=0x7f, _] => true,
        [0x0f, 0x80..=0x8f, ..] => instruction.len() == 6,
        _ => false,
    }
}

/// How the arguments of a function that moves data stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Layout {
    Plain,
    Ex(CountRegister),
}

struct Placement<'t> {
    text: &'t dyn Text,
    functions: &'t Functions,
    info: InstructionInfoFactory,
}

impl Placement<'_> {
    fn function(&self, function: Function) -> Option<Range<u64>> {
        self.functions.get(&Name::Probed(function)).cloned()
    }

    /// The extent of the function at `address`; empty where its symbol is not among those looked for.
    fn extent(&self, address: u64) -> Range<u64> {
        self.functions.values().find(|range| range.start == address).cloned().unwrap_or(address..address)
    }

    /// The sites of one direction: for `plain` and `ex`, as far as there are such.
    fn transfer(&mut self, plain: Function, ex: Function) -> Vec<Site> {
        let (Some(plain_at), Some(ex_at)) = (self.function(plain), self.function(ex)) else {
            return [plain, ex].into_iter().filter_map(|function| self.outer(vec![function], function)).collect();
        };
        let calls = |from: &Range<u64>, to: &Range<u64>, text| Flow::of(text, from.clone()).calls.contains(&to.start);
        if plain_at.start == ex_at.start || calls(&ex_at, &plain_at, self.text) {
            return self.outer(vec![plain, ex], plain).into_iter().collect();
        }
        if calls(&plain_at, &ex_at, self.text) {
            return self.outer(vec![plain, ex], ex).into_iter().collect();
        }
        if let Some((inner, count)) = self.inner(plain_at.start, ex_at.start)
            && let Some((entry, ret)) = self.entry(inner..inner, Form::Ex { count })
        {
            let exits = self.exits(&[plain, ex]);
            return vec![Site {
                calls: vec![plain, ex],
                form: Form::Ex { count },
                inner: true,
                entry,
                ret: Some(ret),
                exits,
            }];
        }
        [plain, ex].into_iter().filter_map(|function| self.outer(vec![function], function)).collect()
    }

    /// The sites of `inner` and of those of `wrappers` that do not call it.
    fn through<const N: usize>(&mut self, inner: Function, wrappers: [Function; N]) -> Vec<Site> {
        let whole = self.function(inner);
        let mut calls = vec![inner];
        let mut alone = Vec::new();
        for function in wrappers {
            let Some(range) = self.function(function) else { continue };
            let through = whole.as_ref().is_some_and(|whole| Flow::of(self.text, range).calls.contains(&whole.start));
            if through { calls.push(function) } else { alone.push(function) }
        }
        let mut sites: Vec<Site> = self.outer(calls, inner).into_iter().collect();
        sites.extend(alone.into_iter().filter_map(|function| self.outer(vec![function], function)));
        sites
    }

    /// The site in the exported `function` itself, which `calls` pass.
    fn outer(&mut self, calls: Vec<Function>, function: Function) -> Option<Site> {
        let form = form(function);
        let (entry, ret) = self.entry(self.function(function)?, form)?;
        let entry_alone = matches!(function, Function::Shutdown | Function::Free);
        // Most of these jump to computed addresses, are too long, or give way to a function without a name, in every build,
        // and those of the CUDA driver go on wherever it has them go: nothing would come of looking for their exits.
        let unfollowed =
            matches!(function, Function::Inflate | Function::ZstdDecompress | Function::GetAddrInfo | Function::Dial)
                || Function::OF_STATES.contains(&function)
                || Function::OF_CUDA.contains(&function);
        let followed = matches!(form, Form::Plain | Form::Ex { .. } | Form::Connection) && !entry_alone && !unfollowed;
        let exits = if followed { self.exits(&[function]) } else { Exits::NotNeeded };
        let returns = followed || unfollowed;
        Some(Site { calls, form, inner: false, entry, ret: returns.then_some(ret), exits })
    }

    /// Where a call of the function at `range` begins, and where a return probe can stand. `None` when there is no
    /// code.
    fn entry(&mut self, range: Range<u64>, form: Form) -> Option<(Spot, Spot)> {
        let start = range.start;
        let flow = Flow::of(self.text, range);
        let stepped = Spot { file_offset: self.text.file_offset(start)?, emulated: false };
        let (mut entry, mut ret) = (None, None);
        let mut registers = Registers::at_start();
        let mut on_return_address = true;
        let mut address = start;
        flow.instructions.get(&start)?;
        while let Some(instruction) = flow.instructions.get(&address) {
            if address != start && flow.targets.contains(&address) {
                break;
            }
            if self.is_emulated(instruction) {
                let spot = Spot { file_offset: self.text.file_offset(address)?, emulated: true };
                if has_arguments(&registers, form) {
                    entry.get_or_insert(spot);
                }
                if on_return_address {
                    ret.get_or_insert(spot);
                }
            }
            if instruction.flow_control() != FlowControl::Next {
                break;
            }
            on_return_address &= !writes(&mut self.info, instruction, Register::RSP);
            registers.step(&mut self.info, instruction);
            address = instruction.next_ip();
        }
        Some((entry.unwrap_or(stepped), ret.unwrap_or(stepped)))
    }

    fn is_emulated(&self, instruction: &Instruction) -> bool {
        is_emulated(instruction, &self.text.bytes(instruction.ip(), instruction.len() as u64))
    }

    /// The function that `SSL_read` and `SSL_read_ex`, or those that write, share: where it is, and which of its
    /// arguments tells where to put the number of bytes.
    fn inner(&mut self, plain: u64, ex: u64) -> Option<(u64, CountRegister)> {
        let ours = self.passed_on(plain, Layout::Plain);
        let mut theirs = self.passed_on(ex, Layout::Ex(CountRegister::Rcx));
        for _ in 1..CHAIN_MAX {
            if ours.is_disjoint(&theirs) {
                theirs = theirs.into_iter().flat_map(|(next, count)| self.passed_on(next, Layout::Ex(count))).collect();
            }
        }
        let mut shared = ours.intersection(&theirs);
        let (inner, count) = shared.next().copied()?;
        let strangers = [Stranger::Peek, Stranger::PeekEx, Stranger::SendFile].map(Name::Stranger);
        let met = strangers
            .iter()
            .filter_map(|name| self.functions.get(name))
            .any(|range| range.start == inner || Flow::of(self.text, range.clone()).calls.contains(&inner));
        (shared.next().is_none() && !met).then_some((inner, count))
    }

    /// The functions to which the one at `start` passes its arguments on, on any way from its start to there, with
    /// the argument that tells where to put the number of bytes. None when it calls any function by a pointer: that is
    /// what the inner function does with the connection's method, and then a compiler has merged it into this one, of
    /// which single branches may still pass the arguments on.
    fn passed_on(&mut self, start: u64, layout: Layout) -> HashSet<(u64, CountRegister)> {
        let flow = Flow::of(self.text, self.extent(start));
        if flow.unfollowed == Some(Unfollowed::IndirectJump) || flow.instructions.values().any(calls_by_pointer) {
            return HashSet::new();
        }
        let mut found = HashSet::new();
        let mut visited = HashSet::new();
        let mut ahead = vec![(start, Registers::at_start())];
        while let Some((address, mut registers)) = ahead.pop() {
            let Some(instruction) = flow.instructions.get(&address) else { continue };
            if visited.len() >= WRAPPER_MAX || !visited.insert(address) {
                continue;
            }
            let control = instruction.flow_control();
            let ends = flow.ends.contains_key(&address);
            let direct = matches!(control, FlowControl::Call | FlowControl::UnconditionalBranch);
            if direct && (control == FlowControl::Call || ends) {
                let target = resolve(self.text, instruction.near_branch_target());
                found.extend(count_passed(&registers, layout).map(|count| (target, count)));
            }
            if ends {
                continue;
            }
            registers.step(&mut self.info, instruction);
            match control {
                FlowControl::ConditionalBranch => {
                    ahead.push((instruction.near_branch_target(), registers.clone()));
                    ahead.push((instruction.next_ip(), registers));
                }
                FlowControl::UnconditionalBranch => ahead.push((instruction.near_branch_target(), registers)),
                FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => {
                    ahead.push((instruction.next_ip(), registers));
                }
                _ => {}
            }
        }
        found
    }

    /// All ends of `functions`.
    fn exits(&mut self, functions: &[Function]) -> Exits {
        let mut exits = Vec::new();
        for &function in functions {
            let Some(range) = self.function(function) else { continue };
            if let Err(reason) = self.ends(function, range, CHAIN_MAX, &mut exits) {
                return Exits::Unknown { function, reason };
            }
        }
        Exits::Known(exits)
    }

    /// Adds the ends of what runs at `range` for `function`.
    fn ends(
        &mut self,
        function: Function,
        range: Range<u64>,
        chain: usize,
        exits: &mut Vec<Exit>,
    ) -> Result<(), Unfollowed> {
        let flow = Flow::of(self.text, range);
        if let Some(reason) = flow.unfollowed {
            return Err(reason);
        }
        for (&address, end) in &flow.ends {
            match *end {
                End::Return => exits.push(self.exit(function, &flow, address).ok_or(Unfollowed::RunsOff)?),
                End::Tail(Some(next)) if chain > 0 => self.ends(function, self.extent(next), chain - 1, exits)?,
                End::Tail(_) => return Err(Unfollowed::TailCall),
            }
        }
        Ok(())
    }

    /// The cheapest spot for the end at the `ret` at `address`: going back from there, as long as nothing joins.
    fn exit(&mut self, function: Function, flow: &Flow, address: u64) -> Option<Exit> {
        let exit = |at, emulated, register| {
            let spot = Spot { file_offset: self.text.file_offset(at)?, emulated };
            Some(Exit { function, spot, result: ResultRegister::of(register)? })
        };
        let last = exit(address, false, Register::RAX);
        let (mut at, mut result) = (address, Register::RAX);
        while !flow.targets.contains(&at)
            && let Some(instruction) = flow.before(at)
        {
            at = instruction.ip();
            let control = instruction.flow_control();
            if control == FlowControl::ConditionalBranch && flow.reaches_end(instruction.near_branch_target()) {
                break;
            }
            let calls = matches!(control, FlowControl::Call | FlowControl::IndirectCall);
            if calls && !is_preserved(result) {
                break;
            }
            if self.is_emulated(instruction) {
                return exit(at, true, result);
            }
            if !calls && writes(&mut self.info, instruction, result) {
                let (to, from) = (instruction.op0_register(), instruction.op1_register());
                let copies = instruction.mnemonic() == Mnemonic::Mov && (from.is_gpr32() || from.is_gpr64());
                if !copies || to.full_register() != result {
                    break;
                }
                result = from.full_register();
            }
        }
        last
    }
}

/// The form of an exported function.
fn form(function: Function) -> Form {
    match function {
        Function::Read | Function::Write => Form::Plain,
        Function::ReadEx | Function::WriteEx => Form::Ex { count: CountRegister::Rcx },
        Function::DoHandshake
        | Function::Connect
        | Function::Accept
        | Function::ConnectState
        | Function::AcceptState
        | Function::Shutdown
        | Function::Free => Form::Connection,
        Function::Ctrl => Form::Control,
        Function::SetHostName => Form::HostName,
        Function::VSetError | Function::SetError => Form::Error,
        Function::PutError => Form::PutError,
        Function::ZstdDecompress => Form::Buffers,
        Function::GetAddrInfo => Form::Lookup,
        Function::Dial => Form::Dial,
        Function::Inflate
        | Function::InflateEnd
        | Function::ZstdReset
        | Function::ZstdFree
        | Function::ZstdFreePart => Form::Stream,
        Function::CudaAlloc | Function::CudaAllocAsync | Function::CudaCreate | Function::CudaAllocManaged => {
            Form::Size
        }
    }
}

/// Whether all arguments stand where `form` says.
fn has_arguments(registers: &Registers, form: Form) -> bool {
    match form {
        Form::Plain => registers.hold(0) && registers.hold(1) && registers.hold_int(2),
        Form::Ex { count } => (0..3).all(|number| registers.hold(number)) && registers.hold(count.argument()),
        Form::Connection | Form::Stream => registers.hold(0),
        Form::Buffers => (0..3).all(|number| registers.hold(number)),
        Form::Control => registers.hold(0) && registers.hold_int(1) && registers.hold(3),
        Form::Lookup => registers.hold(0) && registers.hold(3),
        Form::Dial => registers.hold_int(0) && registers.hold(1),
        Form::HostName => registers.hold(0) && registers.hold(1),
        Form::Error => registers.hold_int(0) && registers.hold_int(1),
        Form::PutError => registers.hold_int(0) && registers.hold_int(2),
        Form::Size => registers.hold(1),
    }
}

/// Whether `instruction` calls or gives way to a function that is not told by an address or a fixed slot, as those of
/// other libraries are.
fn calls_by_pointer(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::IndirectCall | FlowControl::IndirectBranch)
        && !instruction.is_ip_rel_memory_operand()
}

/// Which argument of a function that is about to be called tells where to put the number of bytes, when the others are
/// those of the caller, which has its own as `layout` says.
fn count_passed(registers: &Registers, layout: Layout) -> Option<CountRegister> {
    let same = registers.hold(0) && registers.hold(1);
    let (length, count) = match layout {
        Layout::Plain => (registers.hold_int(2), Value::Stack),
        Layout::Ex(count) => (registers.hold(2), Value::Argument(count.argument())),
    };
    CountRegister::ALL.into_iter().find(|register| same && length && registers.argument(register.argument()) == count)
}
