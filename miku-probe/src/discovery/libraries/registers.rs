//! What the argument registers hold while a function's first instructions go by, by the calling convention of x86-64
//! (System V ABI, section 3.2.3).

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// The argument registers, in order.
const ARGUMENTS: [Register; 6] =
    [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register::R9];

/// The registers that a function preserves for its caller; `rsp` apart.
const PRESERVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// The register that tells an `_ex` function where to put the number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CountRegister {
    /// The fourth argument.
    Rcx,
    /// The fifth: OpenSSL 3.3 and later put flags in the fourth.
    R8,
}

impl CountRegister {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Rcx, Self::R8];

    pub(super) const fn argument(self) -> u8 {
        match self {
            Self::Rcx => 3,
            Self::R8 => 4,
        }
    }
}

/// The register that holds a function's result where an exit probe stands: `rax`, or one that is yet to be copied there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum ResultRegister {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rsi,
    Rdi,
    Rbp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl ResultRegister {
    pub(super) fn of(register: Register) -> Option<Self> {
        Some(match register.full_register() {
            Register::RAX => Self::Rax,
            Register::RBX => Self::Rbx,
            Register::RCX => Self::Rcx,
            Register::RDX => Self::Rdx,
            Register::RSI => Self::Rsi,
            Register::RDI => Self::Rdi,
            Register::RBP => Self::Rbp,
            Register::R8 => Self::R8,
            Register::R9 => Self::R9,
            Register::R10 => Self::R10,
            Register::R11 => Self::R11,
            Register::R12 => Self::R12,
            Register::R13 => Self::R13,
            Register::R14 => Self::R14,
            Register::R15 => Self::R15,
            _ => return None,
        })
    }
}

/// Whether a called function gives the register back as it was.
pub(super) fn is_preserved(register: Register) -> bool {
    PRESERVED.contains(&register.full_register())
}

/// Whether `instruction` may change `register` or a part of it.
pub(super) fn writes(info: &mut InstructionInfoFactory, instruction: &Instruction, register: Register) -> bool {
    info.info(instruction)
        .used_registers()
        .iter()
        .any(|used| is_write(used.access()) && used.register().full_register() == register.full_register())
}

fn is_write(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// What a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The function's argument of this number, from 0.
    Argument(u8),
    /// The lower half of that, extended somehow: enough for an `int`.
    Low(u8),
    /// An address in the stack.
    Stack,
    /// Something else.
    Other,
}

/// What all registers hold.
#[derive(Clone, Debug)]
pub(super) struct Registers([Value; 16]);

impl Registers {
    /// As a function finds them when it is called.
    pub(super) fn at_start() -> Self {
        let mut registers = Self([Value::Other; 16]);
        for (number, register) in (0..).zip(ARGUMENTS) {
            registers.set(register, Value::Argument(number));
        }
        registers.set(Register::RSP, Value::Stack);
        registers
    }

    pub(super) fn get(&self, register: Register) -> Value {
        place(register).map_or(Value::Other, |place| self.0[place])
    }

    fn set(&mut self, register: Register, value: Value) {
        if let Some(place) = place(register) {
            self.0[place] = value;
        }
    }

    /// Whether the argument register `number` still holds that argument, whole.
    pub(super) fn hold(&self, number: u8) -> bool {
        self.get(ARGUMENTS[usize::from(number)]) == Value::Argument(number)
    }

    /// The same for an `int`, of which the upper half of the register does not count.
    pub(super) fn hold_int(&self, number: u8) -> bool {
        matches!(self.get(ARGUMENTS[usize::from(number)]), Value::Argument(held) | Value::Low(held) if held == number)
    }

    /// What stands in the argument register `number`.
    pub(super) fn argument(&self, number: u8) -> Value {
        self.get(ARGUMENTS[usize::from(number)])
    }

    /// Takes in what `instruction` does; a call comes back.
    pub(super) fn step(&mut self, info: &mut InstructionInfoFactory, instruction: &Instruction) {
        if instruction.is_call_near() || instruction.is_call_near_indirect() {
            for number in 0..Register::R15.number() + 1 {
                let register = Register::RAX + u32::try_from(number).expect("there are sixteen");
                if register != Register::RSP && !is_preserved(register) {
                    self.set(register, Value::Other);
                }
            }
            return;
        }
        let moved = self.moved(instruction);
        for used in info.info(instruction).used_registers() {
            let register = used.register().full_register();
            // The stack pointer moves, and still points to the stack.
            if is_write(used.access()) && register != Register::RSP {
                self.set(register, Value::Other);
            }
        }
        if let Some((register, value)) = moved
            && register != Register::RSP
        {
            self.set(register, value);
        }
    }

    /// The register that `instruction` merely copies something into, and what.
    fn moved(&self, instruction: &Instruction) -> Option<(Register, Value)> {
        if instruction.op_count() != 2 || instruction.op0_kind() != OpKind::Register {
            return None;
        }
        let target = instruction.op0_register();
        let source = (instruction.op1_kind() == OpKind::Register).then(|| instruction.op1_register());
        let low = |source: Register| match self.get(source.full_register()) {
            Value::Argument(number) | Value::Low(number) => Value::Low(number),
            _ => Value::Other,
        };
        let value = match (instruction.mnemonic(), source) {
            (Mnemonic::Mov, Some(source)) if target.is_gpr64() && source.is_gpr64() => self.get(source),
            (Mnemonic::Mov, Some(source)) if target.is_gpr32() && source.is_gpr32() => low(source),
            (Mnemonic::Movsxd, Some(source)) if target.is_gpr64() && source.is_gpr32() => low(source),
            (Mnemonic::Lea, None) if target.is_gpr64() && instruction.memory_index() == Register::None => {
                match self.get(instruction.memory_base()) {
                    Value::Stack => Value::Stack,
                    _ => Value::Other,
                }
            }
            _ => return None,
        };
        Some((target.full_register(), value))
    }
}

fn place(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}
