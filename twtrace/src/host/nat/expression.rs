//! One expression of a rule, as far as it bears on whether a connection that begins is given another
//! source address. They work on registers, of which some bytes may not be known.

use super::{
    NatKind,
    flow::{Flow, Meta, Part},
};

/// Bytes of all registers: four of 16 bytes (1 to 4), which are sixteen of 4 as well (8 to 23), behind
/// the verdict's.
const REGISTERS: usize = 16 * 5;

/// The registers, by byte.
pub struct Registers([Option<u8>; REGISTERS]);

impl Default for Registers {
    fn default() -> Self {
        Self([None; REGISTERS])
    }
}

/// Where a register begins (`nft_parse_register()`, net/netfilter/nf_tables_api.c).
fn place(register: u32) -> Option<usize> {
    let register = register as usize;
    match register {
        0..=4 => Some(register * 16),
        8..=23 => Some(16 + (register - 8) * 4),
        _ => None,
    }
}

impl Registers {
    fn write(&mut self, register: u32, bytes: impl IntoIterator<Item = Option<u8>>) {
        let Some(at) = place(register) else { return };
        self.0[at..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
    }

    /// The bytes, if all are known.
    pub fn read(&self, register: u32, length: usize) -> Option<Vec<u8>> {
        let at = place(register)?;
        self.0.get(at..at + length)?.iter().copied().collect()
    }

    fn forget(&mut self, register: u32) {
        self.write(register, [None; 16]);
    }
}

/// How bytes are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The same.
    Equal,
    /// Not the same.
    Unequal,
    /// Less; as numbers in network order.
    Less,
    /// Less or the same.
    AtMost,
    /// More.
    More,
    /// More or the same.
    AtLeast,
}

/// Where a chain goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing more is asked.
    Accept,
    /// It goes nowhere.
    Drop,
    /// The chain ends.
    Return,
    /// Another chain, and then this one again.
    Jump(String),
    /// Another chain instead of this one.
    Goto(String),
}

/// Ports a rule gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// Whatever is free.
    Any,
    /// So many.
    Count(u32),
    /// What stands in two registers.
    Between(u32, u32),
}

/// How many addresses a rule gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// One.
    One,
    /// More: which ports a connection takes from depends on its address.
    Several,
    /// What stands in two registers, so many bytes each.
    Between(u32, u32, usize),
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Bytes of the packet go into a register.
    Load(u32, Part, usize, usize),
    /// What is known beside it goes into a register.
    Meta(u32, Meta),
    /// A value does.
    Value(u32, Vec<u8>),
    /// Bits are taken out of a register (source, destination, mask, flipped).
    Bits(u32, u32, Vec<u8>, Vec<u8>),
    /// The rule holds if a register compares so.
    Compare(u32, Compare, Vec<u8>),
    /// The rule holds if a register is within a range, or is not.
    Range(u32, bool, Vec<u8>, Vec<u8>),
    /// Where to go on.
    Turn(Turn),
    /// Another source address.
    Nat(NatKind, Addresses, PortRange),
    /// Something that has no say in it.
    Harmless,
    /// Something that is not understood writes into a register.
    Unknown(u32),
    /// Something that is not understood may keep the rule from holding, or end the chain.
    Obscure,
}

/// Whether a rule goes on behind an expression; `None` if that is not known.
pub fn goes_on(expression: &Expression, registers: &mut Registers, flow: &Flow) -> Option<bool> {
    match expression {
        Expression::Load(register, part, offset, length) => {
            let bytes = flow.bytes(*part);
            let known = |at: usize| bytes.get(at).copied().flatten();
            registers.write(*register, (*offset..*offset + *length).map(known));
        }
        Expression::Meta(register, meta) => registers.write(*register, flow.meta(*meta)),
        Expression::Value(register, bytes) => {
            registers.write(*register, bytes.iter().copied().map(Some));
        }
        Expression::Bits(from, to, mask, flip) => match registers.read(*from, mask.len()) {
            Some(bytes) => {
                let bits = bytes.iter().zip(mask).zip(flip);
                let bytes: Vec<_> =
                    bits.map(|((byte, mask), flip)| Some(byte & mask ^ flip)).collect();
                registers.write(*to, bytes);
            }
            None => registers.forget(*to),
        },
        Expression::Compare(register, compare, with) => {
            let bytes = registers.read(*register, with.len())?;
            let order = bytes.cmp(with);
            return Some(match compare {
                Compare::Equal => order.is_eq(),
                Compare::Unequal => order.is_ne(),
                Compare::Less => order.is_lt(),
                Compare::AtMost => order.is_le(),
                Compare::More => order.is_gt(),
                Compare::AtLeast => order.is_ge(),
            });
        }
        Expression::Range(register, within, from, to) => {
            let bytes = registers.read(*register, from.len())?;
            return Some((bytes >= *from && bytes <= *to) == *within);
        }
        Expression::Unknown(register) => registers.forget(*register),
        Expression::Obscure => return None,
        Expression::Turn(_) | Expression::Nat(..) | Expression::Harmless => {}
    }
    Some(true)
}
