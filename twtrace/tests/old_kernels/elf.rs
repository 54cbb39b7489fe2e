//! Programs and maps as they lie in an object file.

use std::collections::HashMap;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags, RelocationTarget,
    SectionIndex, SymbolKind,
};

/// One instruction; the second half of a 64-bit load is one of its own.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u8,
    pub dst: usize,
    pub src: usize,
    pub off: i16,
    pub imm: i32,
    /// Map that a 64-bit load refers to.
    pub map: Option<usize>,
}

/// A map's definition.
#[derive(Clone, Debug)]
pub struct Map {
    pub name: String,
    pub kind: u32,
    pub key_size: usize,
    pub value_size: usize,
}

/// A program, and what else than maps it refers to.
#[derive(Debug)]
pub struct Program {
    pub name: String,
    pub code: Vec<Instruction>,
    /// Symbols of global data or of other functions that it needs.
    pub foreign: Vec<String>,
}

/// What one object file has.
#[derive(Debug)]
pub struct ObjectFile {
    pub maps: Vec<Map>,
    pub programs: Vec<Program>,
}

/// Bytes of a map definition in the section `maps`.
const MAP_BYTES: usize = 28;

impl ObjectFile {
    pub fn parse(bytes: &[u8]) -> Self {
        let file = object::File::parse(bytes).unwrap();
        let (maps, by_symbol) = maps(&file);
        let mut programs = Vec::new();
        for section in file.sections() {
            let name = section.name().unwrap().to_owned();
            if !["kprobe", "kretprobe"].contains(&name.as_str()) {
                continue;
            }
            let mut code = decode(section.data().unwrap());
            let mut foreign: Vec<(u64, String)> = Vec::new();
            for (at, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else { panic!("{at}") };
                let RelocationFlags::Elf { .. } = relocation.flags() else { panic!("{at}") };
                match by_symbol.get(&symbol) {
                    Some(map) => code[at as usize / 8].map = Some(*map),
                    None => {
                        let symbol = file.symbol_by_index(symbol).unwrap();
                        foreign.push((at, symbol.name().unwrap_or("?").to_owned()));
                    }
                }
            }
            programs.extend(functions(&file, section.index()).map(|(program, start, size)| {
                let range = start as usize / 8..(start + size) as usize / 8;
                let inside = start..start + size;
                Program {
                    name: program,
                    code: code[range].to_vec(),
                    foreign: foreign
                        .iter()
                        .filter(|(at, _)| inside.contains(at))
                        .map(|(_, symbol)| symbol.clone())
                        .collect(),
                }
            }));
        }
        programs.sort_by(|one, two| one.name.cmp(&two.name));
        Self { maps, programs }
    }
}

/// The maps, and their places in the list by symbol.
fn maps(file: &object::File<'_>) -> (Vec<Map>, HashMap<object::SymbolIndex, usize>) {
    let section = file.section_by_name("maps").unwrap();
    let data = section.data().unwrap();
    let mut maps = Vec::new();
    let mut by_symbol = HashMap::new();
    for symbol in file.symbols().filter(|it| it.section_index() == Some(section.index())) {
        if symbol.kind() == SymbolKind::Section {
            continue;
        }
        let definition = &data[symbol.address() as usize..][..MAP_BYTES];
        let word = |at: usize| u32::from_le_bytes(definition[at * 4..][..4].try_into().unwrap());
        by_symbol.insert(symbol.index(), maps.len());
        maps.push(Map {
            name: symbol.name().unwrap().to_owned(),
            kind: word(0),
            key_size: word(1) as usize,
            value_size: word(2) as usize,
        });
    }
    (maps, by_symbol)
}

/// Name, start and size of the functions in a section.
fn functions<'a>(
    file: &'a object::File<'_>,
    section: SectionIndex,
) -> impl Iterator<Item = (String, u64, u64)> + 'a {
    file.symbols()
        .filter(move |it| it.section_index() == Some(section) && it.kind() == SymbolKind::Text)
        .map(|it| (it.name().unwrap().to_owned(), it.address(), it.size()))
}

fn decode(bytes: &[u8]) -> Vec<Instruction> {
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty(), "instructions are eight bytes");
    let decode = |word: &[u8; 8]| Instruction {
        code: word[0],
        dst: usize::from(word[1] & 15),
        src: usize::from(word[1] >> 4),
        off: i16::from_le_bytes([word[2], word[3]]),
        imm: i32::from_le_bytes([word[4], word[5], word[6], word[7]]),
        map: None,
    };
    words.iter().map(decode).collect()
}
