//! Which programs stand where in a library.

use std::collections::BTreeMap;

use aya::util::KernelVersion;
use miku_probe_abi::TlsExit;

use super::tls::{
    CONTROL, ERROR, EXIT, FREE, HANDSHAKE, HANDSHAKE_EXIT, HANDSHAKE_RETURN, PUT_ERROR, READ, READ_R8, RETURN,
    RETURN_EX, SERVER_NAME, WRITE, WRITE_R8,
};
use super::uprobe::{Place, When};
use super::{cuda, inflate, net};
use crate::discovery::libraries::{Build, CountRegister, Exit, Exits, Form, Function, ResultRegister, Site};

/// How the ends of calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    /// By return probes.
    Probed,
    /// By probes on the instructions where a call ends.
    Exits,
}

impl Returns {
    /// What is harmless on this kernel, and there the faster.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        KernelVersion::current().map_or(Self::Probed, Self::of)
    }

    /// From 6.11 on a function with a return probe returns through a system call, which a filter of the process's may
    /// refuse with its death, and a process may set one any time. 6.14 lets it pass ("seccomp: passthrough uretprobe
    /// systemcall without filtering"), and so do the later ones of 6.12; 6.13 was given up before it mattered.
    fn of(kernel: KernelVersion) -> Self {
        let harmful = KernelVersion::new(6, 11, 0)..KernelVersion::new(6, 14, 0);
        let repaired = KernelVersion::new(6, 12, 30)..KernelVersion::new(6, 13, 0);
        if harmful.contains(&kernel) && !repaired.contains(&kernel) { Self::Exits } else { Self::Probed }
    }
}

/// Where the probe's programs stand in a library, for programs that are to stand in the same places and do something else.
pub fn places(build: &Build, returns: Returns) -> impl Iterator<Item = (When, Place)> {
    let plan = Plan::new(build, returns).places.into_iter();
    plan.flat_map(|((_, when), places)| places.into_iter().map(move |place| (when, place)))
}

/// The exported functions that do nothing but shake hands.
const HANDSHAKES: [Function; 3] = [Function::DoHandshake, Function::Connect, Function::Accept];

/// Where programs are to stand in a library, and what stays without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The places of each program.
    pub(super) places: BTreeMap<(&'static str, When), Vec<Place>>,
    /// Functions whose calls cannot be seen to end.
    pub(super) endless: Vec<Function>,
}

impl Plan {
    pub(super) fn new(build: &Build, returns: Returns) -> Self {
        let mut plan = Self::default();
        // What all handshakes go through is better than what only some do, but its exits are not known.
        let of = |site: &Site, functions: &[Function]| site.calls.iter().any(|call| functions.contains(call));
        let through = returns == Returns::Probed && build.sites.iter().any(|site| of(site, &Function::OF_STATES));
        let left_out = if through { &HANDSHAKES[..] } else { &Function::OF_STATES };
        for site in build.sites.iter().filter(|site| !of(site, left_out)) {
            plan.add(site, returns);
        }
        plan
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.places.values().map(Vec::len).sum()
    }

    fn add(&mut self, site: &Site, returns: Returns) {
        let Some(function) = site.calls.first() else { return };
        let mut alone = |program| self.put(program, When::Before, Place::at(site.entry.file_offset));
        let by_eighth = matches!(site.form, Form::Ex { count: CountRegister::R8 });
        let ex = matches!(site.form, Form::Ex { .. });
        let (entry, returned, exit) = match function {
            Function::Read | Function::ReadEx => {
                (if by_eighth { READ_R8 } else { READ }, if ex { RETURN_EX } else { RETURN }, EXIT)
            }
            Function::Write | Function::WriteEx => {
                (if by_eighth { WRITE_R8 } else { WRITE }, if ex { RETURN_EX } else { RETURN }, EXIT)
            }
            Function::DoHandshake
            | Function::Connect
            | Function::Accept
            | Function::ConnectState
            | Function::AcceptState => (HANDSHAKE, HANDSHAKE_RETURN, HANDSHAKE_EXIT),
            Function::Ctrl => return alone(CONTROL),
            Function::SetHostName => return alone(SERVER_NAME),
            // What shuts a stream down is done with it, though it may keep it for long.
            Function::Shutdown | Function::Free => return alone(FREE),
            Function::VSetError | Function::SetError => return alone(ERROR),
            Function::PutError => return alone(PUT_ERROR),
            Function::InflateEnd | Function::ZstdReset | Function::ZstdFree | Function::ZstdFreePart => {
                return alone(inflate::END);
            }
            // Their exits are not known, so no program is for these.
            Function::Inflate => (inflate::INFLATE, inflate::INFLATE_RETURN, EXIT),
            Function::ZstdDecompress => (inflate::ZSTD, inflate::ZSTD_RETURN, EXIT),
            Function::GetAddrInfo => (net::RESOLVE, net::RESOLVE_RETURN, EXIT),
            Function::Dial => (net::DIAL, net::DIAL_RETURN, EXIT),
            Function::CudaAlloc | Function::CudaAllocAsync | Function::CudaCreate | Function::CudaAllocManaged => {
                (cuda::ALLOCATE, cuda::ALLOCATE_RETURN, EXIT)
            }
        };
        match (returns, &site.exits, site.ret) {
            (Returns::Exits, Exits::Known(exits), _) => {
                for exit_at in exits {
                    self.put(exit, When::Before, Place { offset: exit_at.spot.file_offset, cookie: cookie(exit_at).0 });
                }
            }
            (Returns::Probed, _, Some(spot)) => self.put(returned, When::Returned, Place::at(spot.file_offset)),
            // An entry alone tells nothing.
            _ => return self.endless.extend(&site.calls),
        }
        self.put(entry, When::Before, Place::at(site.entry.file_offset));
    }

    fn put(&mut self, program: &'static str, when: When, place: Place) {
        let places = self.places.entry((program, when)).or_default();
        // Two functions may share their end.
        if !places.contains(&place) {
            places.push(place);
        }
    }
}

/// What the program at this exit must know.
fn cookie(exit: &Exit) -> TlsExit {
    // The places of `struct pt_regs` of `asm/ptrace.h`.
    let register = match exit.result {
        ResultRegister::R15 => 0,
        ResultRegister::R14 => 1,
        ResultRegister::R13 => 2,
        ResultRegister::R12 => 3,
        ResultRegister::Rbp => 4,
        ResultRegister::Rbx => 5,
        ResultRegister::R11 => 6,
        ResultRegister::R10 => 7,
        ResultRegister::R9 => 8,
        ResultRegister::R8 => 9,
        ResultRegister::Rax => 10,
        ResultRegister::Rcx => 11,
        ResultRegister::Rdx => 12,
        ResultRegister::Rsi => 13,
        ResultRegister::Rdi => 14,
    };
    TlsExit::new(register, matches!(exit.function, Function::ReadEx | Function::WriteEx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::libraries::{Flavour, Spot, SymbolSource};

    const fn spot(file_offset: u64) -> Spot {
        Spot { file_offset, emulated: true }
    }

    /// A library whose `SSL_write` and `SSL_write_ex` share an inner function that ends where the outer ones do.
    fn build(count: CountRegister) -> Build {
        let exit = |function, at, result| Exit { function, spot: spot(at), result };
        let write = Site {
            calls: vec![Function::Write, Function::WriteEx],
            form: Form::Ex { count },
            inner: true,
            entry: spot(10),
            ret: Some(spot(10)),
            exits: Exits::Known(vec![
                exit(Function::Write, 20, ResultRegister::Rax),
                exit(Function::WriteEx, 30, ResultRegister::Rbx),
            ]),
        };
        let free = Site {
            calls: vec![Function::Free],
            form: Form::Connection,
            inner: false,
            entry: spot(40),
            ret: None,
            exits: Exits::NotNeeded,
        };
        Build { flavour: Flavour::OpenSsl, symbols: SymbolSource::Dynsym, sites: vec![write, free] }
    }

    fn places(plan: &Plan) -> Vec<(&'static str, When, u64, u64)> {
        let places = plan.places.iter();
        places.flat_map(|((program, when), at)| at.iter().map(|at| (*program, *when, at.offset, at.cookie))).collect()
    }

    #[test]
    fn a_shared_inner_function_is_probed_once_and_returns_in_its_own_form() {
        let plan = Plan::new(&build(CountRegister::Rcx), Returns::Probed);
        let expected = [(FREE, When::Before, 40, 0), (RETURN_EX, When::Returned, 10, 0), (WRITE, When::Before, 10, 0)];
        assert_eq!(places(&plan), expected);
        assert_eq!((plan.len(), plan.endless), (3, vec![]));
    }

    #[test]
    fn exits_tell_form_and_register_of_the_function_that_ends() {
        let plan = Plan::new(&build(CountRegister::R8), Returns::Exits);
        let expected = [
            (EXIT, When::Before, 20, TlsExit::new(10, false).0),
            (EXIT, When::Before, 30, TlsExit::new(5, true).0),
            (FREE, When::Before, 40, 0),
            (WRITE_R8, When::Before, 10, 0),
        ];
        assert_eq!(places(&plan), expected);
        // `struct pt_regs` begins r15, r14, r13, r12, rbp, rbx.
        assert_eq!(TlsExit(expected[1].3).register_offset(), 40);
    }

    #[test]
    fn handshakes_are_seen_where_all_of_them_pass() {
        let site = |function, at| Site {
            calls: vec![function],
            form: Form::Connection,
            inner: false,
            entry: spot(at),
            ret: Some(spot(at)),
            exits: Exits::Known(vec![Exit { function, spot: spot(at + 5), result: ResultRegister::Rax }]),
        };
        let mut build = build(CountRegister::Rcx);
        build.sites = vec![
            site(Function::DoHandshake, 10),
            Site { exits: Exits::NotNeeded, ..site(Function::ConnectState, 20) },
            Site { exits: Exits::NotNeeded, ..site(Function::AcceptState, 30) },
        ];
        let plan = Plan::new(&build, Returns::Probed);
        let at = |program, when| [20, 30].map(|at| (program, when, at, 0));
        let expected = [at(HANDSHAKE, When::Before), at(HANDSHAKE_RETURN, When::Returned)].concat();
        assert_eq!((places(&plan), plan.endless), (expected, vec![]));
        let plan = Plan::new(&build, Returns::Exits);
        let exit = TlsExit::new(10, false).0;
        let expected = [(HANDSHAKE, When::Before, 10, 0), (HANDSHAKE_EXIT, When::Before, 15, exit)];
        assert_eq!((places(&plan), plan.endless), (expected.to_vec(), vec![]));
    }

    #[test]
    fn errors_are_taken_by_where_their_numbers_stand() {
        let site = |function, form, at| Site {
            calls: vec![function],
            form,
            inner: false,
            entry: spot(at),
            ret: None,
            exits: Exits::NotNeeded,
        };
        let mut build = build(CountRegister::Rcx);
        build.sites = vec![site(Function::VSetError, Form::Error, 1), site(Function::PutError, Form::PutError, 2)];
        let plan = Plan::new(&build, Returns::Probed);
        assert_eq!(places(&plan), [(ERROR, When::Before, 1, 0), (PUT_ERROR, When::Before, 2, 0)]);
        assert!(plan.endless.is_empty());
    }

    #[test]
    fn what_is_decompressed_is_seen_by_return_probes_alone() {
        let site = |function, form, at, ret| Site {
            calls: vec![function],
            form,
            inner: false,
            entry: spot(at),
            ret,
            exits: Exits::NotNeeded,
        };
        let mut build = build(CountRegister::Rcx);
        build.flavour = Flavour::Zstd;
        build.sites = vec![
            site(Function::ZstdDecompress, Form::Buffers, 2, Some(spot(1))),
            site(Function::ZstdFree, Form::Stream, 3, None),
        ];
        let end = (inflate::END, When::Before, 3, 0);
        let decompress = [(inflate::ZSTD, When::Before, 2, 0), (inflate::ZSTD_RETURN, When::Returned, 1, 0)];
        let plan = Plan::new(&build, Returns::Probed);
        assert_eq!(places(&plan), [end, decompress[0], decompress[1]]);
        let plan = Plan::new(&build, Returns::Exits);
        assert_eq!((places(&plan), plan.endless), (vec![end], vec![Function::ZstdDecompress]));
    }

    #[test]
    fn what_cuda_is_asked_for_is_seen_by_return_probes_alone() {
        let mut build = build(CountRegister::Rcx);
        build.flavour = Flavour::Cuda;
        build.sites = vec![Site {
            calls: vec![Function::CudaAlloc],
            form: Form::Size,
            inner: false,
            entry: spot(2),
            ret: Some(spot(1)),
            exits: Exits::NotNeeded,
        }];
        let plan = Plan::new(&build, Returns::Probed);
        let expected = [(cuda::ALLOCATE, When::Before, 2, 0), (cuda::ALLOCATE_RETURN, When::Returned, 1, 0)];
        assert_eq!(places(&plan), expected);
        let plan = Plan::new(&build, Returns::Exits);
        assert_eq!((places(&plan), plan.endless), (vec![], vec![Function::CudaAlloc]));
    }

    #[test]
    fn where_no_end_is_seen_nothing_is_probed() {
        let mut build = build(CountRegister::Rcx);
        build.sites[0].exits = Exits::NotNeeded;
        let plan = Plan::new(&build, Returns::Exits);
        assert_eq!(places(&plan), [(FREE, When::Before, 40, 0)]);
        assert_eq!(plan.endless, [Function::Write, Function::WriteEx]);
    }

    #[test]
    fn return_probes_wait_for_kernels_whose_filters_let_them_pass() {
        for ((major, minor, patch), expected) in [
            ((5, 10, 0), Returns::Probed),
            ((6, 10, 14), Returns::Probed),
            ((6, 11, 0), Returns::Exits),
            ((6, 12, 13), Returns::Exits),
            ((6, 12, 30), Returns::Probed),
            ((6, 13, 0), Returns::Exits),
            ((6, 13, 12), Returns::Exits),
            ((6, 14, 0), Returns::Probed),
            ((7, 2, 0), Returns::Probed),
        ] {
            assert_eq!(Returns::of(KernelVersion::new(major, minor, patch)), expected, "{major}.{minor}.{patch}");
        }
    }
}
