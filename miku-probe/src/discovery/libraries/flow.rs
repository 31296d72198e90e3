//! A function's machine code, followed from its first instruction along every way that it can take.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::placement::Unfollowed;
use super::registers::writes;

/// How much code of one function is read at most.
pub(super) const FUNCTION_MAX: u64 = 64 * 1024;

/// The bits of a processor that are decoded for.
const BITS: u32 = 64;

/// A library's code and what is needed to find one's way in it. Addresses are those of its symbol table.
pub(super) trait Text {
    /// Up to `length` bytes of code from `address`; fewer where the code ends, none where there is none.
    fn bytes(&self, address: u64, length: u64) -> Vec<u8>;

    /// The function of the same file whose address the loader writes to `slot`, if it is one of those looked for.
    fn slot(&self, slot: u64) -> Option<u64>;

    /// Where in the file `address` is.
    fn file_offset(&self, address: u64) -> Option<u64>;
}

/// Where a function ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It returns.
    Return,
    /// It gives way to another function, at this address if it can be told.
    Tail(Option<u64>),
}

/// How far the stack pointer is below where it was at the function's start, and the same of the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Depth {
    stack: Option<i64>,
    frame: Option<i64>,
}

/// A function, followed.
#[derive(Debug)]
pub(super) struct Flow {
    /// All instructions that can be reached.
    pub(super) instructions: BTreeMap<u64, Instruction>,
    /// Where jumps within it lead.
    pub(super) targets: HashSet<u64>,
    /// The instructions with which it ends.
    pub(super) ends: BTreeMap<u64, End>,
    /// The functions that it calls or gives way to.
    pub(super) calls: HashSet<u64>,
    /// Why there may be more than was found.
    pub(super) unfollowed: Option<Unfollowed>,
}

impl Flow {
    /// Follows the function at `range`. Where its size is not known the range is empty: then ends are not told
    /// reliably, because the next function's belong to it too.
    pub(super) fn of(text: &dyn Text, range: Range<u64>) -> Self {
        let length = match range.end - range.start {
            0 => FUNCTION_MAX / 16,
            length => length.min(FUNCTION_MAX),
        };
        let code = text.bytes(range.start, length);
        let end = range.start + code.len() as u64;
        let mut flow = Self {
            instructions: BTreeMap::new(),
            targets: HashSet::new(),
            ends: BTreeMap::new(),
            calls: HashSet::new(),
            unfollowed: None,
        };
        if range.is_empty() {
            flow.unfollowed = Some(Unfollowed::NoSize);
        } else if range.end - range.start > FUNCTION_MAX {
            flow.unfollowed = Some(Unfollowed::TooLong);
        }
        let mut follower = Follower { text, range: range.start..end, code: &code, info: InstructionInfoFactory::new() };
        follower.follow(&mut flow);
        follower.sweep(&mut flow);
        flow
    }

    /// Where control may go after `instruction`, within the function.
    fn successors(&self, instruction: &Instruction) -> impl Iterator<Item = u64> {
        let next = match instruction.flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall | FlowControl::ConditionalBranch => {
                Some(instruction.next_ip())
            }
            _ => None,
        };
        let branch = match instruction.flow_control() {
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => Some(instruction.near_branch_target()),
            _ => None,
        };
        next.into_iter().chain(branch).filter(|address| self.instructions.contains_key(address))
    }

    /// Whether an end of the function can be reached from `address`. From where a failure is reported that nobody
    /// survives, none can.
    pub(super) fn reaches_end(&self, address: u64) -> bool {
        let mut visited = HashSet::new();
        let mut ahead = vec![address];
        while let Some(address) = ahead.pop() {
            let Some(instruction) = self.instructions.get(&address) else { continue };
            if self.ends.contains_key(&address) {
                return true;
            }
            if visited.insert(address) {
                ahead.extend(self.successors(instruction));
            }
        }
        false
    }

    /// The instruction from which control falls through to `address`, if there is one.
    pub(super) fn before(&self, address: u64) -> Option<&Instruction> {
        let (_, instruction) = self.instructions.range(..address).next_back()?;
        (instruction.next_ip() == address && self.successors(instruction).any(|next| next == address))
            .then_some(instruction)
    }
}

struct Follower<'t> {
    text: &'t dyn Text,
    range: Range<u64>,
    code: &'t [u8],
    info: InstructionInfoFactory,
}

impl Follower<'_> {
    fn decode(&self, address: u64) -> Option<Instruction> {
        let start = usize::try_from(address.checked_sub(self.range.start)?).ok()?;
        let code = self.code.get(start..).filter(|code| !code.is_empty())?;
        let instruction = Decoder::with_ip(BITS, code, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Visits everything that can be reached.
    fn follow(&mut self, flow: &mut Flow) {
        let mut ahead = vec![(self.range.start, Depth { stack: Some(0), frame: None })];
        let mut visited: HashMap<u64, Depth> = HashMap::new();
        while let Some((address, depth)) = ahead.pop() {
            if visited.insert(address, depth).is_some() {
                continue;
            }
            let Some(instruction) = self.decode(address) else {
                flow.unfollowed.get_or_insert(Unfollowed::Undecodable);
                continue;
            };
            flow.instructions.insert(address, instruction);
            let after = self.moved(depth, &instruction);
            let mut falls_through = false;
            match instruction.flow_control() {
                FlowControl::Next => falls_through = true,
                FlowControl::Call => {
                    flow.calls.insert(resolve(self.text, instruction.near_branch_target()));
                    falls_through = true;
                }
                FlowControl::IndirectCall => {
                    flow.calls.extend(slot_of(&instruction).and_then(|slot| self.text.slot(slot)));
                    falls_through = true;
                }
                FlowControl::UnconditionalBranch => self.jump(&instruction, after, flow, &mut ahead),
                FlowControl::ConditionalBranch => {
                    self.jump(&instruction, after, flow, &mut ahead);
                    falls_through = true;
                }
                FlowControl::IndirectBranch if depth.stack == Some(0) => {
                    let target = slot_of(&instruction).and_then(|slot| self.text.slot(slot));
                    flow.calls.extend(target);
                    flow.ends.insert(address, End::Tail(target));
                }
                FlowControl::IndirectBranch => {
                    flow.unfollowed.get_or_insert(Unfollowed::IndirectJump);
                }
                FlowControl::Return => {
                    flow.ends.insert(address, End::Return);
                }
                // An instruction that stops the program.
                FlowControl::Exception | FlowControl::Interrupt => {}
                FlowControl::XbeginXabortXend => falls_through = true,
            }
            if falls_through {
                if self.range.contains(&instruction.next_ip()) {
                    ahead.push((instruction.next_ip(), after));
                } else if !instruction.is_call_near() && instruction.mnemonic() != Mnemonic::Nop {
                    // After a call: of a function that does not return. Else there is more of this function elsewhere.
                    flow.unfollowed.get_or_insert(Unfollowed::RunsOff);
                }
            }
        }
    }

    /// Takes in a direct jump.
    fn jump(&self, jump: &Instruction, depth: Depth, flow: &mut Flow, ahead: &mut Vec<(u64, Depth)>) {
        let target = jump.near_branch_target();
        if self.range.contains(&target) {
            flow.targets.insert(target);
            ahead.push((target, depth));
        } else if jump.flow_control() == FlowControl::UnconditionalBranch && depth.stack == Some(0) {
            let target = resolve(self.text, target);
            flow.calls.insert(target);
            flow.ends.insert(jump.ip(), End::Tail(Some(target)));
        } else {
            flow.unfollowed.get_or_insert(Unfollowed::LeavesBody);
        }
    }

    /// Takes in the targets of jumps that were not reached, as those of a jump table's cases: that those are code is
    /// not known, and only makes the choice of spots more careful.
    fn sweep(&self, flow: &mut Flow) {
        let mut decoder = Decoder::with_ip(BITS, self.code, self.range.start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let branch =
                matches!(instruction.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch);
            if branch && self.range.contains(&instruction.near_branch_target()) {
                flow.targets.insert(instruction.near_branch_target());
            }
        }
    }

    fn moved(&mut self, depth: Depth, instruction: &Instruction) -> Depth {
        let Depth { stack, frame } = depth;
        if instruction.is_call_near() || instruction.is_call_near_indirect() {
            return depth;
        }
        let to_stack = instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RSP;
        let stack_after = match instruction.mnemonic() {
            Mnemonic::Sub if to_stack => immediate(instruction).and_then(|by| Some(stack? + by)),
            Mnemonic::Add if to_stack => immediate(instruction).and_then(|by| Some(stack? - by)),
            Mnemonic::Lea if to_stack => match instruction.memory_base() {
                _ if instruction.memory_index() != Register::None => None,
                Register::RSP => stack.map(|stack| stack.wrapping_sub_unsigned(instruction.memory_displacement64())),
                Register::RBP => frame.map(|frame| frame.wrapping_sub_unsigned(instruction.memory_displacement64())),
                _ => None,
            },
            Mnemonic::Mov if to_stack && instruction.op1_register() == Register::RBP => frame,
            Mnemonic::Leave => frame.map(|frame| frame - 8),
            _ if instruction.is_stack_instruction() => {
                stack.map(|stack| stack - i64::from(instruction.stack_pointer_increment()))
            }
            _ if writes(&mut self.info, instruction, Register::RSP) => None,
            _ => stack,
        };
        let to_frame = instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RBP;
        let frame_after = match instruction.mnemonic() {
            Mnemonic::Mov if to_frame && instruction.op1_register() == Register::RSP => stack,
            _ if writes(&mut self.info, instruction, Register::RBP) => None,
            _ => frame,
        };
        Depth { stack: stack_after, frame: frame_after }
    }
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    let kind = instruction.op_kind(1);
    matches!(kind, OpKind::Immediate8to64 | OpKind::Immediate32to64).then(|| instruction.immediate(1).cast_signed())
}

/// The address from which an indirect jump or call takes its target, when it is fixed.
fn slot_of(instruction: &Instruction) -> Option<u64> {
    instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address())
}

/// The function that a direct call of `address` gets to: behind a stub of the procedure linkage table, if one of
/// those looked for stands there, that one.
pub(super) fn resolve(text: &dyn Text, address: u64) -> u64 {
    /// A mark for indirect branch tracking, and the jump.
    const STUB_INSTRUCTIONS: usize = 2;
    const STUB_LENGTH: u64 = 16;
    let code = text.bytes(address, STUB_LENGTH);
    Decoder::with_ip(BITS, &code, address, DecoderOptions::NONE)
        .iter()
        .take(STUB_INSTRUCTIONS)
        .find(|instruction| instruction.mnemonic() != Mnemonic::Endbr64)
        .filter(|instruction| instruction.flow_control() == FlowControl::IndirectBranch)
        .and_then(|jump| text.slot(slot_of(&jump)?))
        .unwrap_or(address)
}
