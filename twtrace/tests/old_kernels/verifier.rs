//! The rules by which Linux 4.4 accepts a program, followed through every path of it.
//!
//! kernel/bpf/verifier.c (read at 4.4): the control flow has no loop and leaves no instruction out;
//! then all paths are walked, the one that falls through first, and one is cut short where a state
//! at least as strict was walked from before. Later kernels know more about numbers and pointers
//! and take back nothing of what is allowed here.

use std::collections::BTreeSet;

use crate::elf::{Instruction, Map, Program};

/// `BPF_MAXINSNS`.
const MOST_INSTRUCTIONS: usize = 4096;
/// Most instructions walked over all paths.
const MOST_WALKED: usize = 32_768;
/// Most paths waiting.
const MOST_WAITING: usize = 1024;
/// `MAX_BPF_STACK`.
const STACK: i32 = 512;
/// `sizeof(struct pt_regs)` on x86-64: a kprobe's context.
const CONTEXT: i32 = 168;
/// `BPF_MAP_TYPE_PERF_EVENT_ARRAY`.
pub const PERF_EVENT_ARRAY: u32 = 4;

/// What is known of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Unset,
    Number,
    /// A known number; and the map whose look-up it is the null of.
    Known(i32, Option<usize>),
    Context,
    Frame,
    Stack(i32),
    Map(usize),
    Value(usize),
    ValueOrNull(usize),
}

impl Register {
    fn is_pointer(self) -> bool {
        !matches!(self, Self::Unset | Self::Number | Self::Known(..))
    }
}

/// What is known of a byte on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Unset,
    Spilled,
    Data,
}

#[derive(Clone)]
struct State {
    registers: [Register; 11],
    stack: [Byte; STACK as usize],
    spilled: [Register; STACK as usize / 8],
}

/// What a program came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Instructions walked over all paths.
    pub walked: usize,
    /// Helpers called, by number.
    pub helpers: BTreeSet<i32>,
    /// Bytes of stack used.
    pub stack: i32,
}

/// How a helper takes an argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    Anything,
    Context,
    Map,
    Key,
    Value,
    Buffer,
    Size,
}

/// The helpers that a kprobe program may call in Linux 4.4 and that we use, with their arguments:
/// kernel/trace/bpf_trace.c.
fn helper(number: i32) -> Option<&'static [Argument]> {
    use Argument::{Anything, Buffer, Context, Key, Map, Size, Value};
    Some(match number {
        1 | 3 => &[Map, Key],
        2 => &[Map, Key, Value, Anything],
        4 => &[Buffer, Size, Anything],
        5 | 8 | 14 | 15 => &[],
        16 => &[Buffer, Size],
        25 => &[Context, Map, Anything, Buffer, Size],
        _ => return None,
    })
}

const CLASS: u8 = 0x07;
const FROM_REGISTER: u8 = 0x08;
const LOAD_64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;

fn class(code: u8) -> &'static str {
    ["LD", "LDX", "ST", "STX", "ALU", "JMP", "JMP32", "ALU64"][usize::from(code & CLASS)]
}

/// Walks a program; the error says at which instruction what is wrong.
pub fn verify(program: &Program, maps: &[Map]) -> Result<Verdict, String> {
    let code = &program.code;
    if code.len() > MOST_INSTRUCTIONS {
        return Err(format!("{} instructions", code.len()));
    }
    if !program.foreign.is_empty() {
        return Err(format!("needs {}", program.foreign.join(", ")));
    }
    instruction_set(code)?;
    control_flow(code)?;
    Walk { code, maps, seen: vec![Vec::new(); code.len()], verdict: Verdict::default() }.run()
}

/// Refuses what came later: 32-bit jumps, signed and "less than" jumps of the second instruction
/// set, atomics but addition, loads with sign extension, calls of functions.
fn instruction_set(code: &[Instruction]) -> Result<(), String> {
    let mut at = 0;
    while let Some(it) = code.get(at) {
        let fits = match class(it.code) {
            "LD" => it.code == LOAD_64 && (it.map.is_some() || it.src == 0),
            "LDX" | "ST" => it.code & 0xe0 == 0x60,
            // The addition has its operation in the immediate: 0.
            "STX" => it.code & 0xe0 == 0x60 || (it.code & 0xe0 == 0xc0 && it.imm == 0),
            "ALU" | "ALU64" => {
                let byte_swap = it.code & 0xf0 == 0xd0;
                it.code & 0xf0 <= 0xd0
                    && (byte_swap || it.off == 0)
                    && !(byte_swap && class(it.code) == "ALU64")
                    && it.code & 0xf7 != 0xc4
            }
            "JMP" if it.code == CALL => it.src == 0,
            "JMP" => it.code & 0xf0 <= 0x90,
            _ => false,
        };
        if !fits {
            return Err(format!("{at}: {} {:#04x} is not in 4.4", class(it.code), it.code));
        }
        at += if it.code == LOAD_64 { 2 } else { 1 };
    }
    Ok(())
}

/// Where an instruction may go on.
fn successors(code: &[Instruction], at: usize) -> Vec<usize> {
    let it = code[at];
    let target = || at.wrapping_add_signed(isize::from(it.off) + 1);
    match (class(it.code), it.code) {
        (_, EXIT) => vec![],
        (_, JUMP) => vec![target()],
        ("JMP", other) if other != CALL => vec![at + 1, target()],
        (_, LOAD_64) => vec![at + 2],
        _ => vec![at + 1],
    }
}

/// Refuses loops, jumps out of the program, and instructions that nothing leads to.
fn control_flow(code: &[Instruction]) -> Result<(), String> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; code.len()];
    let mut path = vec![(0, 0)];
    marks[0] = Mark::Open;
    while let Some((at, branch)) = path.pop() {
        let Some(&next) = successors(code, at).get(branch) else {
            marks[at] = Mark::Done;
            continue;
        };
        path.push((at, branch + 1));
        match marks.get(next) {
            None => return Err(format!("{at}: leads out of the program")),
            Some(Mark::Open) => return Err(format!("{at}: a loop back to {next}")),
            Some(Mark::Done) => {}
            Some(Mark::New) => {
                marks[next] = Mark::Open;
                path.push((next, 0));
            }
        }
    }
    let mut at = 0;
    while at < code.len() {
        if marks[at] == Mark::New {
            return Err(format!("{at}: nothing leads here"));
        }
        at += if code[at].code == LOAD_64 { 2 } else { 1 };
    }
    Ok(())
}

struct Walk<'a> {
    code: &'a [Instruction],
    maps: &'a [Map],
    /// States walked from, at the places where paths may meet.
    seen: Vec<Vec<State>>,
    verdict: Verdict,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Verdict, String> {
        let mut meet = vec![false; self.code.len() + 1];
        for (at, it) in self.code.iter().enumerate() {
            let jumps = class(it.code) == "JMP" && ![CALL, EXIT].contains(&it.code);
            if jumps && let Some(&target) = successors(self.code, at).last() {
                meet[target] = true;
                meet[at + 1] |= it.code == JUMP;
            }
        }
        let mut state = State {
            registers: [Register::Unset; 11],
            stack: [Byte::Unset; STACK as usize],
            spilled: [Register::Unset; STACK as usize / 8],
        };
        state.registers[1] = Register::Context;
        state.registers[10] = Register::Frame;
        let mut waiting = vec![(0, state)];
        while let Some((mut at, mut state)) = waiting.pop() {
            loop {
                self.verdict.walked += 1;
                if self.verdict.walked > MOST_WALKED {
                    return Err(format!("{at}: too many instructions over all paths"));
                }
                if meet[at] {
                    if self.seen[at].iter().any(|old| covers(old, &state)) {
                        break;
                    }
                    self.seen[at].push(state.clone());
                }
                if self.code[at].code == EXIT {
                    read(&state, 0).map_err(|why| format!("{at}: {why}"))?;
                    break;
                }
                let step = self.step(at, &mut state).map_err(|why| format!("{at}: {why}"))?;
                at = match step {
                    Step::To(next) => next,
                    Step::Fork(next, target, other) => {
                        waiting.push((target, *other));
                        if waiting.len() > MOST_WAITING {
                            return Err(format!("{at}: too many paths"));
                        }
                        next
                    }
                };
            }
        }
        Ok(self.verdict)
    }

    fn step(&mut self, at: usize, state: &mut State) -> Result<Step, String> {
        let it = self.code[at];
        match class(it.code) {
            "ALU" | "ALU64" => arithmetic(state, &it)?,
            "LDX" => {
                read(state, it.src)?;
                let loaded = self.access(state, it.src, it.off, size(it.code), None)?;
                state.registers[it.dst] = loaded;
            }
            "ST" => {
                self.access(state, it.dst, it.off, size(it.code), Some(Register::Number))?;
            }
            "STX" => {
                let stored = read(state, it.src)?;
                read(state, it.dst)?;
                let add = it.code & 0xe0 == 0xc0;
                if add {
                    self.access(state, it.dst, it.off, size(it.code), None)?;
                }
                let stored = if add { Register::Number } else { stored };
                self.access(state, it.dst, it.off, size(it.code), Some(stored))?;
            }
            "LD" => {
                state.registers[it.dst] = it.map.map_or(Register::Number, Register::Map);
                return Ok(Step::To(at + 2));
            }
            _ if it.code == CALL => self.call(state, it.imm)?,
            _ if it.code == JUMP => return Ok(Step::To(successors(self.code, at)[0])),
            _ => return branch(self.code, at, state),
        }
        Ok(Step::To(at + 1))
    }

    /// A load (`stored` is none) or a store; answers what was loaded.
    fn access(
        &mut self,
        state: &mut State,
        base: usize,
        off: i16,
        size: i32,
        stored: Option<Register>,
    ) -> Result<Register, String> {
        let mut off = i32::from(off);
        if let Register::Stack(from) = state.registers[base] {
            off += from;
        }
        if off % size != 0 {
            return Err(format!("{size} bytes at {off} are misaligned"));
        }
        match state.registers[base] {
            Register::Value(map) => {
                let bytes = self.maps[map].value_size as i32;
                if off < 0 || off + size > bytes {
                    return Err(format!("{off} is beyond a value of {}", self.maps[map].name));
                }
                Ok(Register::Number)
            }
            Register::Context if stored.is_none() && (0..CONTEXT).contains(&off) => {
                Ok(Register::Number)
            }
            Register::Frame | Register::Stack(_) if (-STACK..0).contains(&off) => {
                self.verdict.stack = self.verdict.stack.max(-off);
                match stored {
                    Some(stored) => store(state, off, size, stored).map(|()| Register::Number),
                    None => load(state, off, size),
                }
            }
            other => Err(format!("R{base} is {other:?}: no access at {off}")),
        }
    }

    fn call(&mut self, state: &mut State, number: i32) -> Result<(), String> {
        let arguments = helper(number).ok_or_else(|| format!("helper {number} is not in 4.4"))?;
        self.verdict.helpers.insert(number);
        let mut map = None;
        for (index, argument) in arguments.iter().enumerate() {
            let register = index + 1;
            let given = read(state, register)?;
            let buffer = match (argument, given) {
                (Argument::Anything, _) | (Argument::Context, Register::Context) => None,
                (Argument::Map, Register::Map(given)) => {
                    let perf = self.maps[given].kind == PERF_EVENT_ARRAY;
                    if perf != (number == 25) {
                        return Err(format!("helper {number} on {}", self.maps[given].name));
                    }
                    map = Some(given);
                    None
                }
                (Argument::Key, Register::Stack(_)) => {
                    map.map(|map: usize| (register, self.maps[map].key_size as i32))
                }
                (Argument::Value, Register::Stack(_)) => {
                    map.map(|map: usize| (register, self.maps[map].value_size as i32))
                }
                (Argument::Buffer, Register::Stack(_)) => None,
                (Argument::Size, Register::Known(size, _)) => Some((register - 1, size)),
                _ => return Err(format!("helper {number}: R{register} is {given:?}")),
            };
            if let Some((register, size)) = buffer {
                self.buffer(state, register, size)?;
            }
        }
        state.registers[..6].fill(Register::Unset);
        state.registers[0] = match (number, map) {
            (1, Some(map)) => Register::ValueOrNull(map),
            _ => Register::Number,
        };
        Ok(())
    }

    /// What a helper reads or writes has to be initialised data, all of it.
    fn buffer(&mut self, state: &State, register: usize, size: i32) -> Result<(), String> {
        let Register::Stack(off) = state.registers[register] else {
            return Err(format!("R{register} is not on the stack"));
        };
        if !(-STACK..0).contains(&off) || off + size > 0 || size <= 0 {
            return Err(format!("{size} bytes at {off} are not on the stack"));
        }
        self.verdict.stack = self.verdict.stack.max(-off);
        let bytes = &state.stack[(STACK + off) as usize..(STACK + off + size) as usize];
        match bytes.iter().position(|byte| *byte != Byte::Data) {
            Some(at) => Err(format!("R{register}: byte {at} of {size} at {off} was never set")),
            None => Ok(()),
        }
    }
}

enum Step {
    To(usize),
    Fork(usize, usize, Box<State>),
}

fn read(state: &State, register: usize) -> Result<Register, String> {
    match state.registers[register] {
        Register::Unset => Err(format!("R{register} was never set")),
        set => Ok(set),
    }
}

fn size(code: u8) -> i32 {
    [4, 2, 1, 8][usize::from(code >> 3 & 3)]
}

fn store(state: &mut State, off: i32, size: i32, stored: Register) -> Result<(), String> {
    let at = (STACK + off) as usize;
    let spill = stored.is_pointer();
    if spill && size != 8 {
        return Err("part of a pointer is stored".to_owned());
    }
    state.spilled[at / 8] = if spill { stored } else { Register::Unset };
    state.stack[at..at + size as usize].fill(if spill { Byte::Spilled } else { Byte::Data });
    Ok(())
}

fn load(state: &State, off: i32, size: i32) -> Result<Register, String> {
    let at = (STACK + off) as usize;
    let bytes = &state.stack[at..at + size as usize];
    if bytes[0] == Byte::Spilled {
        let whole = size == 8 && bytes.iter().all(|byte| *byte == Byte::Spilled);
        return if whole { Ok(state.spilled[at / 8]) } else { Err(format!("part of {off}")) };
    }
    match bytes.iter().all(|byte| *byte == Byte::Data) {
        true => Ok(Register::Number),
        false => Err(format!("{size} bytes at {off} were never set")),
    }
}

fn arithmetic(state: &mut State, it: &Instruction) -> Result<(), String> {
    let wide = class(it.code) == "ALU64";
    let from_register = it.code & FROM_REGISTER != 0;
    let (operation, before) = (it.code & 0xf0, state.registers[it.dst]);
    const ADD: u8 = 0x00;
    const NEGATE: u8 = 0x80;
    const MOVE: u8 = 0xb0;
    const SWAP: u8 = 0xd0;
    if from_register && operation != SWAP {
        read(state, it.src)?;
    }
    if operation != MOVE {
        read(state, it.dst)?;
    }
    state.registers[it.dst] = match operation {
        MOVE if from_register && wide => state.registers[it.src],
        MOVE if !from_register && (wide || it.imm >= 0) => Register::Known(it.imm, None),
        NEGATE | SWAP => Register::Number,
        ADD if wide && !from_register && before == Register::Frame => Register::Stack(it.imm),
        // Anything else done to a pointer makes a number of it.
        _ => Register::Number,
    };
    Ok(())
}

fn branch(code: &[Instruction], at: usize, state: &mut State) -> Result<Step, String> {
    let it = code[at];
    const EQUAL: u8 = 0x10;
    const NOT_EQUAL: u8 = 0x50;
    let from_register = it.code & FROM_REGISTER != 0;
    let operation = it.code & 0xf0;
    if from_register {
        read(state, it.src)?;
    }
    let compared = read(state, it.dst)?;
    let [next, target] = successors(code, at)[..] else { return Err("no branch".to_owned()) };
    let decides = !from_register && [EQUAL, NOT_EQUAL].contains(&operation);
    if decides && matches!(compared, Register::Known(known, _) if known == it.imm) {
        return Ok(Step::To(if operation == EQUAL { target } else { next }));
    }
    let mut other = state.clone();
    if decides {
        let (equal, unequal) = match operation {
            EQUAL => (&mut other, state),
            _ => (state, &mut other),
        };
        match compared {
            Register::ValueOrNull(map) if it.imm == 0 => {
                equal.registers[it.dst] = Register::Known(0, Some(map));
                unequal.registers[it.dst] = Register::Value(map);
            }
            // Whoever may load programs may compare pointers; they stay what they were.
            pointer if pointer.is_pointer() => {
                equal.registers[it.dst] = Register::Known(it.imm, None);
            }
            _ => equal.registers[it.dst] = Register::Known(it.imm, None),
        }
    }
    Ok(Step::Fork(next, target, Box::new(other)))
}

/// Whether what was found out about `old` holds for `now` as well.
fn covers(old: &State, now: &State) -> bool {
    let registers = old.registers.iter().zip(&now.registers).all(|(old, now)| {
        old == now
            || *old == Register::Unset
            || (*old == Register::Number && *now != Register::Unset)
    });
    registers
        && (0..STACK as usize).all(|at| {
            old.stack[at] == Byte::Unset
                || (old.stack[at] == now.stack[at]
                    && (at % 8 != 0 || old.spilled[at / 8] == now.spilled[at / 8]))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[(u8, usize, usize, i16, i32)]) -> Program {
        let code = words
            .iter()
            .map(|&(code, dst, src, off, imm)| Instruction { code, dst, src, off, imm, map: None })
            .collect();
        Program { name: "p".to_owned(), code, foreign: Vec::new() }
    }

    const ZERO: (u8, usize, usize, i16, i32) = (0xb7, 0, 0, 0, 0);
    const RETURN: (u8, usize, usize, i16, i32) = (EXIT, 0, 0, 0, 0);

    fn refusal(words: &[(u8, usize, usize, i16, i32)]) -> String {
        verify(&program(words), &[]).unwrap_err()
    }

    #[test]
    fn what_came_after_4_4_is_refused_with_its_place() {
        assert!(verify(&program(&[ZERO, RETURN]), &[]).is_ok());
        assert_eq!(refusal(&[ZERO, (0x16, 0, 0, 0, 0), RETURN]), "1: JMP32 0x16 is not in 4.4");
        assert_eq!(refusal(&[ZERO, (0xa5, 0, 0, 0, 0), RETURN]), "1: JMP 0xa5 is not in 4.4");
        assert_eq!(refusal(&[(CALL, 0, 1, 0, 0), RETURN]), "0: JMP 0x85 is not in 4.4");
        assert_eq!(refusal(&[(CALL, 0, 0, 0, 113), RETURN]), "0: helper 113 is not in 4.4");
        assert_eq!(refusal(&[ZERO, (0x05, 0, 0, -2, 0)]), "1: a loop back to 0");
        assert_eq!(refusal(&[ZERO, RETURN, ZERO, RETURN]), "2: nothing leads here");
        let fetch_and_add = (0xdb, 10, 0, -8, 1);
        assert_eq!(refusal(&[ZERO, fetch_and_add, RETURN]), "1: STX 0xdb is not in 4.4");
    }

    #[test]
    fn what_a_helper_writes_to_must_be_set_before() {
        let read_to_stack = [
            (0xbf, 1, 10, 0, 0),
            (0x07, 1, 0, 0, -8),
            (0xb7, 2, 0, 0, 8),
            (0xb7, 3, 0, 0, 0),
            (CALL, 0, 0, 0, 4),
            RETURN,
        ];
        let unset = refusal(&read_to_stack);
        assert_eq!(unset, "4: R1: byte 0 of 8 at -8 was never set");
        let set = [&[(0x7a, 10, 0, -8, 0)][..], &read_to_stack].concat();
        let verdict = verify(&program(&set), &[]).unwrap();
        assert_eq!((verdict.walked, verdict.stack), (7, 8));
        assert!(verdict.helpers.contains(&4));
    }

    #[test]
    fn a_number_made_of_a_pointer_cannot_be_followed() {
        let moved = [(0x07, 1, 0, 0, 8), (0x79, 0, 1, 0, 0), RETURN];
        assert_eq!(refusal(&moved), "1: R1 is Number: no access at 0");
        assert!(verify(&program(&[(0x79, 0, 1, 8, 0), RETURN]), &[]).is_ok());
    }
}
