//! Where probes stand in code that was assembled by hand.

use std::collections::HashMap;

use proptest::prelude::*;

use super::flow::Text;
use super::placement::place;
use super::symbols::{Functions, Name, Stranger};
use super::*;

/// Where the first byte of the assembled code is, as address and in the file.
const ADDRESS: u64 = 0x1000;
const OFFSET: u64 = 0x400;

/// Assembled code: functions at addresses of the test's choice.
#[derive(Default)]
struct Code {
    bytes: Vec<u8>,
    functions: Functions,
    slots: HashMap<u64, u64>,
}

impl Code {
    /// Puts a function at `address`, which the symbol table has by `name`, if one is given.
    fn function(mut self, name: impl Into<Option<Name>>, address: u64, bytes: &[u8]) -> Self {
        let start = usize::try_from(address - ADDRESS).expect("tests use small addresses");
        self.bytes.resize(self.bytes.len().max(start + bytes.len()), 0xcc);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        if let Some(name) = name.into() {
            self.functions.insert(name, address..address + bytes.len() as u64);
        }
        self
    }

    fn place(&self) -> Vec<Site> {
        place(self, &self.functions)
    }

    /// The only site that calls of `function` pass.
    fn site(&self, function: Function) -> Site {
        let mut sites = self.place().into_iter().filter(|site| site.calls.contains(&function));
        let site = sites.next().expect("there is one");
        assert_eq!(sites.next(), None);
        site
    }
}

impl Text for Code {
    fn bytes(&self, address: u64, length: u64) -> Vec<u8> {
        let start = address.checked_sub(ADDRESS).and_then(|start| usize::try_from(start).ok());
        let code = start.and_then(|start| self.bytes.get(start..)).unwrap_or_default();
        code[..code.len().min(usize::try_from(length).expect("tests ask for little"))].to_vec()
    }

    fn slot(&self, slot: u64) -> Option<u64> {
        self.slots.get(&slot).copied()
    }

    fn file_offset(&self, address: u64) -> Option<u64> {
        Some(address - ADDRESS + OFFSET)
    }
}

/// The five bytes of a `call` (0xe8) or `jmp` (0xe9) at `at`.
fn direct(opcode: u8, at: u64, target: u64) -> [u8; 5] {
    let relative = u32::try_from(target.wrapping_sub(at + 5) & 0xffff_ffff).expect("it is masked").to_le_bytes();
    [opcode, relative[0], relative[1], relative[2], relative[3]]
}

fn emulated(address: u64) -> Spot {
    Spot { file_offset: address - ADDRESS + OFFSET, emulated: true }
}

fn stepped(address: u64) -> Spot {
    Spot { emulated: false, ..emulated(address) }
}

fn probed(function: Function) -> Name {
    Name::Probed(function)
}

const INNER: u64 = 0x1000;
const PLAIN: u64 = 0x1100;
const EX: u64 = 0x1200;
const OTHER: u64 = 0x1300;
const FAIL: u64 = 0x1400;

/// `SSL_read` as OpenSSL 3.0 has it, shortened: the call is at +16, the `ret` at +39.
fn plain(at: u64, inner: u64) -> Vec<u8> {
    let mut bytes = vec![
        0x48, 0x83, 0xec, 0x18, // sub $0x18,%rsp
        0x85, 0xd2, // test %edx,%edx
        0x78, 0x20, // js +40
        0x48, 0x8d, 0x4c, 0x24, 0x08, // lea 8(%rsp),%rcx
        0x48, 0x63, 0xd2, // movslq %edx,%rdx
    ];
    bytes.extend(direct(0xe8, at + 16, inner));
    bytes.extend([
        0x85, 0xc0, // test %eax,%eax
        0x0f, 0x4f, 0x44, 0x24, 0x08, // cmovg 8(%rsp),%eax
        0x48, 0x89, 0xd7, // mov %rdx,%rdi
        0x75, 0x13, // jne +52, to what nobody comes back from
        0x48, 0x83, 0xc4, 0x18, // add $0x18,%rsp
        0x90, 0xc3, // nop; ret
        0x90, // padding
    ]);
    bytes.extend(direct(0xe8, at + 40, FAIL));
    bytes.extend([0xb8, 0xff, 0xff, 0xff, 0xff]); // mov $-1,%eax
    bytes.extend([0xeb, 0xe5]); // jmp +25
    bytes.extend(direct(0xe8, at + 52, FAIL));
    bytes
}

/// `SSL_read_ex`: the call is at +4, the `ret` at +18.
fn ex(at: u64, inner: u64) -> Vec<u8> {
    let mut bytes = vec![0x48, 0x83, 0xec, 0x08]; // sub $8,%rsp
    bytes.extend(direct(0xe8, at + 4, inner));
    bytes.extend([
        0x31, 0xd2, // xor %edx,%edx
        0x0f, 0x48, 0xc2, // cmovs %edx,%eax
        0x48, 0x83, 0xc4, 0x08, // add $8,%rsp
        0xc3, // ret
    ]);
    bytes
}

/// `push %r13; mov %rdi,%rbx; call *0x38(%rax); pop %r13; ret`
const INNER_CODE: [u8; 11] = [0x41, 0x55, 0x48, 0x89, 0xfb, 0xff, 0x50, 0x38, 0x41, 0x5d, 0xc3];

fn wrappers() -> Code {
    Code::default()
        .function(None, INNER, &INNER_CODE)
        .function(probed(Function::Read), PLAIN, &plain(PLAIN, INNER))
        .function(probed(Function::ReadEx), EX, &ex(EX, INNER))
        .function(None, FAIL, &[0xc3])
}

#[test]
fn wrappers_that_share_a_function_are_probed_there() {
    let site = wrappers().site(Function::Read);
    assert_eq!(site.calls, [Function::Read, Function::ReadEx]);
    assert_eq!((site.inner, site.form), (true, Form::Ex { count: CountRegister::Rcx }));
    assert_eq!((site.entry, site.ret), (emulated(INNER), Some(emulated(INNER))));
}

#[test]
fn ends_of_wrappers_are_all_of_their_returns_or_what_is_cheaper_before() {
    let Exits::Known(exits) = wrappers().site(Function::Read).exits else { panic!("they can be told") };
    let ends: Vec<_> = exits.iter().map(|exit| (exit.function, exit.spot, exit.result)).collect();
    let result = ResultRegister::Rax;
    // The `nop` of `SSL_read`; of `SSL_read_ex` nothing before the `ret` is emulated.
    let expected = [(Function::Read, emulated(PLAIN + 37), result), (Function::ReadEx, stepped(EX + 18), result)];
    assert_eq!(ends, expected);
}

#[test]
fn what_a_peek_comes_by_too_is_not_taken() {
    for peek in [ex(OTHER, INNER), direct(0xe9, OTHER, INNER).to_vec()] {
        let code = wrappers().function(Name::Stranger(Stranger::PeekEx), OTHER, &peek);
        let (read, read_ex) = (code.site(Function::Read), code.site(Function::ReadEx));
        // The `js` and the `call`: the arguments still stand, and the stack pointer has moved.
        assert_eq!((read.inner, read.form, read.entry), (false, Form::Plain, emulated(PLAIN + 6)));
        assert_eq!(read.ret, Some(stepped(PLAIN)));
        assert_eq!((read_ex.inner, read_ex.entry, read_ex.ret), (false, emulated(EX + 4), Some(stepped(EX))));
    }
    let elsewhere = wrappers().function(Name::Stranger(Stranger::Peek), OTHER, &ex(OTHER, FAIL));
    assert!(elsewhere.site(Function::Read).inner);
}

#[test]
fn a_branch_of_a_merged_function_is_not_the_function() {
    // As when `ssl_read_internal` was merged into both, and what remains as a call is the way to QUIC.
    let mut merged = plain(PLAIN, INNER);
    merged.extend([0xff, 0x50, 0x38, 0xc3]); // call *0x38(%rax); ret
    merged[39] = 0x75; // in place of the padding, so that it is reached: jne +61
    merged[38] = 0x90;
    merged[40] = 61 - 41;
    let code = wrappers().function(probed(Function::Read), PLAIN, &merged);
    assert!(!code.site(Function::Read).inner && !code.site(Function::ReadEx).inner);
}

#[test]
fn a_wrapper_that_passes_on_something_else_is_probed_itself() {
    // mov %rsp,%rcx is what makes it the function's form; without it `rcx` is whatever the caller left there.
    let mut changed = plain(PLAIN, INNER);
    changed[8..13].copy_from_slice(&[0x0f, 0x1f, 0x44, 0x00, 0x00]);
    let code = wrappers().function(probed(Function::Read), PLAIN, &changed);
    assert!(!code.site(Function::Read).inner && !code.site(Function::ReadEx).inner);
}

#[test]
fn flags_between_the_arguments_move_the_count() {
    // OpenSSL 3.3 and later: SSL_write_ex gives way to SSL_write_ex2, which has the flags in `rcx`.
    let mut write_ex = vec![0x49, 0x89, 0xc8, 0x31, 0xc9]; // mov %rcx,%r8; xor %ecx,%ecx
    write_ex.extend(direct(0xe9, OTHER + 5, EX));
    let mut write = vec![0x48, 0x83, 0xec, 0x18, 0x31, 0xc9, 0x4c, 0x8d, 0x44, 0x24, 0x08, 0x48, 0x63, 0xd2];
    write.extend(direct(0xe8, PLAIN + 14, INNER)); // after sub, xor %ecx,%ecx, lea 8(%rsp),%r8, movslq
    write.extend([0x48, 0x83, 0xc4, 0x18, 0xc3]);
    let code = Code::default()
        .function(None, INNER, &INNER_CODE)
        .function(probed(Function::Write), PLAIN, &write)
        .function(Name::WriteEx2, EX, &ex(EX, INNER))
        .function(probed(Function::WriteEx), OTHER, &write_ex);
    let site = code.site(Function::WriteEx);
    assert_eq!((site.inner, site.form), (true, Form::Ex { count: CountRegister::R8 }));
    assert_eq!(site.entry, emulated(INNER));
    let Exits::Known(exits) = site.exits else { panic!("they can be told") };
    assert_eq!(exits.last().map(|exit| (exit.function, exit.spot)), Some((Function::WriteEx, stepped(EX + 18))));
}

#[test]
fn calls_through_the_linkage_table_are_followed() {
    // SSL_read_ex calls SSL_read by a stub: `endbr64; jmp *0x100(%rip)`.
    let stub = [0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0x00, 0x01, 0x00, 0x00];
    let mut code = wrappers().function(None, OTHER, &stub).function(probed(Function::ReadEx), EX, &ex(EX, OTHER));
    code.slots.insert(OTHER + 10 + 0x100, PLAIN);
    let site = code.site(Function::ReadEx);
    assert_eq!((site.calls.len(), site.form, site.inner), (2, Form::Plain, false), "it would be counted twice");
    assert_eq!(site.entry, emulated(PLAIN + 6));
}

#[test]
fn handshakes_are_counted_once() {
    let connect = direct(0xe9, PLAIN, INNER);
    let accept = [0x53, 0xff, 0xe0]; // push %rbx; jmp *%rax
    let code = Code::default()
        .function(probed(Function::DoHandshake), INNER, &INNER_CODE)
        .function(probed(Function::Connect), PLAIN, &connect)
        .function(probed(Function::Accept), EX, &accept);
    let calls: Vec<_> = code.place().into_iter().map(|site| site.calls).collect();
    assert_eq!(calls, [vec![Function::DoHandshake, Function::Connect], vec![Function::Accept]]);
}

#[test]
fn errors_are_seen_once_where_their_numbers_stand() {
    use Function::{PutError, SetError, VSetError};
    // sub $0xd8,%rsp; test %al,%al; je 0; call; ret: as functions with any number of arguments begin
    let mut wrapper = vec![0x48, 0x81, 0xec, 0xd8, 0, 0, 0, 0x84, 0xc0, 0x74, 0];
    wrapper.extend(direct(0xe8, PLAIN + 11, INNER));
    wrapper.push(0xc3);
    let both = Code::default().function(probed(VSetError), INNER, &INNER_CODE);
    let [site] = &both.function(probed(SetError), PLAIN, &wrapper).place()[..] else { panic!("one calls the other") };
    assert_eq!((&site.calls[..], site.form, site.entry), (&[VSetError, SetError][..], Form::Error, emulated(INNER)));
    assert_eq!((site.ret, &site.exits), (None, &Exits::NotNeeded));
    assert!(site.is_of_errors());

    let alone = Code::default().function(probed(SetError), PLAIN, &wrapper).site(SetError);
    assert_eq!((alone.form, alone.entry), (Form::Error, emulated(PLAIN + 9)));
    // mov %rsi,%rbx; xor %esi,%esi; push %rbx: what is in the second register is not asked for, but the third's is
    let old = |bytes: &[u8]| Code::default().function(probed(PutError), PLAIN, bytes).site(PutError);
    let site = old(&[0x48, 0x89, 0xf3, 0x31, 0xf6, 0x53, 0x5b, 0xc3]);
    assert_eq!((site.form, site.entry), (Form::PutError, emulated(PLAIN + 5)));
    assert_eq!(old(&[0x31, 0xd2, 0x53, 0x5b, 0xc3]).entry, stepped(PLAIN)); // xor %edx,%edx; push %rbx
}

/// What is found for a function of one argument.
fn handshake(bytes: &[u8]) -> Site {
    Code::default().function(probed(Function::DoHandshake), INNER, bytes).site(Function::DoHandshake)
}

#[test]
fn an_argument_that_is_gone_or_a_jump_that_lands_between_leaves_the_start() {
    // xor %edi,%edi; push %rbx
    assert_eq!(handshake(&[0x31, 0xff, 0x53, 0x5b, 0xc3]).entry, stepped(INNER));
    // mov %rdi,%rbx; push %rbp; loop: dec %esi; jne to the push
    let looped = handshake(&[0x48, 0x89, 0xfb, 0x55, 0xff, 0xce, 0x75, 0xfb, 0x5d, 0xc3]);
    assert_eq!((looped.entry, looped.ret), (stepped(INNER), Some(stepped(INNER))));
    // endbr64; push %rbx: the stack pointer has not moved
    let marked = handshake(&[0xf3, 0x0f, 0x1e, 0xfa, 0x53, 0x5b, 0xc3]);
    assert_eq!((marked.entry, marked.ret), (emulated(INNER + 4), Some(emulated(INNER + 4))));
}

#[test]
fn a_result_is_followed_into_the_register_that_it_comes_from() {
    // push %rbx; call; mov %eax,%ebx; call; mov %ebx,%eax; pop %rbx; ret
    let mut bytes = vec![0x53];
    bytes.extend(direct(0xe8, INNER + 1, FAIL));
    bytes.extend([0x89, 0xc3]);
    bytes.extend(direct(0xe8, INNER + 8, FAIL));
    bytes.extend([0x89, 0xd8, 0x5b, 0xc3]);
    let exit = Exit { function: Function::DoHandshake, spot: emulated(INNER + 8), result: ResultRegister::Rbx };
    assert_eq!(handshake(&bytes).exits, Exits::Known(vec![exit]));
}

#[test]
fn a_jump_with_ends_on_both_sides_is_none_of_them() {
    // test %edi,%edi; je +2; ret; nop; ret
    let site = handshake(&[0x85, 0xff, 0x74, 0x01, 0xc3, 0xc3]);
    let Exits::Known(exits) = site.exits else { panic!("they can be told") };
    assert_eq!(exits.iter().map(|exit| exit.spot).collect::<Vec<_>>(), [stepped(INNER + 4), stepped(INNER + 5)]);
}

#[test]
fn what_others_join_or_a_call_precedes_is_no_end() {
    let only = |bytes: &[u8]| match handshake(bytes).exits {
        Exits::Known(exits) => exits.iter().map(|exit| exit.spot).collect::<Vec<_>>(),
        exits => panic!("{exits:?}"),
    };
    // test %edi,%edi; je to the ret; nop; ret
    assert_eq!(only(&[0x85, 0xff, 0x74, 0x01, 0x90, 0xc3]), [stepped(INNER + 5)]);
    // push %rbx; call; pop %rbx; ret: only the call makes the result
    let mut bytes = vec![0x53];
    bytes.extend(direct(0xe8, INNER + 1, FAIL));
    bytes.extend([0x5b, 0xc3]);
    assert_eq!(only(&bytes), [stepped(INNER + 7)]);
}

#[test]
fn what_cannot_be_followed_is_said() {
    let unknown = |bytes: &[u8]| match handshake(bytes).exits {
        Exits::Unknown { reason, .. } => reason,
        exits => panic!("{exits:?}"),
    };
    assert_eq!(unknown(&[0xff, 0xe0]), Unfollowed::TailCall); // jmp *%rax
    assert_eq!(unknown(&direct(0xe9, INNER, FAIL)), Unfollowed::NoSize); // jmp to where no symbol is
    assert_eq!(unknown(&[0x53, 0xff, 0xe0]), Unfollowed::IndirectJump); // push %rbx; jmp *%rax
    assert_eq!(unknown(&[0x0f, 0x84, 0x00, 0x01, 0x00, 0x00, 0xc3]), Unfollowed::LeavesBody); // je elsewhere
    assert_eq!(unknown(&[0x53, 0x06, 0xc3]), Unfollowed::Undecodable); // push %rbx; what was push %es
    assert_eq!(unknown(&[0x31, 0xc0]), Unfollowed::RunsOff); // xor %eax,%eax
}

#[test]
fn no_code_is_no_site() {
    let mut code = Code::default();
    code.functions.insert(probed(Function::Read), 0x9000..0x9010);
    assert_eq!(code.place(), []);
}

/// An instruction, what the kernel does with it, and the argument registers that it changes, all by the manuals
/// (Intel's volume 2; `push_setup_xol_ops` and `branch_setup_xol_ops` of Linux 6.18).
struct Known {
    bytes: &'static [u8],
    emulated: bool,
    changes: &'static [u8],
    moves_stack: bool,
}

const fn known(bytes: &'static [u8], emulated: bool, changes: &'static [u8], moves_stack: bool) -> Known {
    Known { bytes, emulated, changes, moves_stack }
}

/// Straight-line instructions; argument registers are told by their number.
const MENU: [Known; 24] = [
    known(&[0x55], true, &[], true),                           // push %rbp
    known(&[0x41, 0x55], true, &[], true),                     // push %r13
    known(&[0x90], true, &[], false),                          // nop
    known(&[0x66, 0x90], false, &[], false),                   // xchg %ax,%ax
    known(&[0xf3, 0x90], false, &[], false),                   // pause
    known(&[0x48, 0x55], false, &[], true),                    // push %rbp with a needless prefix
    known(&[0xff, 0xf5], false, &[], true),                    // push %rbp, the long way
    known(&[0x68, 0x01, 0x00, 0x00, 0x00], false, &[], true),  // push $1
    known(&[0x0f, 0x1f, 0x44, 0x00, 0x00], false, &[], false), // nopl
    known(&[0xf3, 0x0f, 0x1e, 0xfa], false, &[], false),       // endbr64
    known(&[0x48, 0x83, 0xec, 0x18], false, &[], true),        // sub $0x18,%rsp
    known(&[0x48, 0x89, 0xfb], false, &[], false),             // mov %rdi,%rbx
    known(&[0x48, 0x89, 0xff], false, &[], false),             // mov %rdi,%rdi
    known(&[0x31, 0xff], false, &[0], false),                  // xor %edi,%edi
    known(&[0x40, 0xb7, 0x01], false, &[0], false),            // mov $1,%dil
    known(&[0x48, 0x8b, 0x76, 0x08], false, &[1], false),      // mov 8(%rsi),%rsi
    known(&[0x48, 0x99], false, &[2], false),                  // cqto
    known(&[0x48, 0xf7, 0xe3], false, &[2], false),            // mul %rbx
    known(&[0x0f, 0xa2], false, &[2, 3], false),               // cpuid
    known(&[0xa4], false, &[0, 1], false),                     // movsb
    known(&[0xf3, 0xaa], false, &[0, 3], false),               // rep stosb
    known(&[0x59], false, &[3], true),                         // pop %rcx
    known(&[0x48, 0x0f, 0x44, 0xc8], false, &[3], false),      // cmove %rax,%rcx
    known(&[0x48, 0x85, 0xff], false, &[], false),             // test %rdi,%rdi
];

#[test]
fn a_copy_onto_itself_changes_nothing_and_a_needless_prefix_is_refused() {
    for (place, instruction) in MENU.iter().enumerate() {
        let mut bytes = instruction.bytes.to_vec();
        bytes.push(0xc3);
        let entry = handshake(&bytes).entry;
        assert_eq!(entry.emulated, instruction.emulated, "number {place}: {:02x?}", instruction.bytes);
    }
}

proptest! {
    #![proptest_config(crate::regressions::config())]

    /// The oracle goes through the same instructions by what the manuals say of each.
    #[test]
    fn no_spot_stands_behind_a_change_of_an_argument(
        choice in prop::collection::vec(0..MENU.len(), 0..12),
        back in prop::option::of(0..12_usize),
    ) {
        let mut bytes = Vec::new();
        let mut starts = Vec::new();
        for place in &choice {
            starts.push(bytes.len());
            bytes.extend(MENU[*place].bytes);
        }
        // At the end a conditional jump: into the middle, or ahead.
        let end = bytes.len();
        let target = back.and_then(|place| starts.get(place).copied());
        let relative = target.map_or(0_i8, |to| i8::try_from(to).expect("short") - i8::try_from(end + 2).expect("short"));
        bytes.extend([0x74, relative.cast_unsigned(), 0xc3]);

        let (mut expected, mut expected_ret) = (None, None);
        let (mut held, mut still) = (true, true);
        for (start, instruction) in starts.iter().zip(&choice).map(|(start, place)| (*start, &MENU[*place])) {
            if start != 0 && target == Some(start) {
                (held, still) = (false, false);
            }
            if instruction.emulated && held && expected.is_none() {
                expected = Some(emulated(INNER + start as u64));
            }
            if instruction.emulated && still && expected_ret.is_none() {
                expected_ret = Some(emulated(INNER + start as u64));
            }
            held &= instruction.changes.is_empty();
            still &= !instruction.moves_stack;
        }
        let jumped = target.is_some_and(|to| to != 0);
        let last = emulated(INNER + end as u64);
        let expected = expected.or((held && !jumped).then_some(last)).unwrap_or(stepped(INNER));
        let expected_ret = expected_ret.or((still && !jumped).then_some(last)).unwrap_or(stepped(INNER));
        let code = Code::default().function(probed(Function::WriteEx), INNER, &bytes);
        let site = code.site(Function::WriteEx);
        prop_assert_eq!((site.entry, site.ret), (expected, Some(expected_ret)));
    }
}
