//! What is left out of the kernel programs before they are embedded, and their name.

use std::{error::Error, fs, path::Path};

use object::build::elf::{Builder, SectionData};
use sha2::{Digest, Sha256};

/// Leaves out of an object what is never read: DWARF, half of it, and the relocations of `.BTF.ext`, a
/// quarter of the rest, whose places have their values already. BTF stays, with the lines that the
/// kernel's verifier speaks of.
pub fn slim(path: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(path)?;
    let mut builder = Builder::read(bytes.as_slice())?;
    for section in &mut builder.sections {
        let relocated = section.name.strip_prefix(b".rel");
        let name = relocated.unwrap_or(&section.name);
        section.delete = name.starts_with(b".debug_") || relocated == Some(b".BTF.ext");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections among those of symbols, which the builder does not.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut slim = Vec::new();
    builder.write(&mut slim)?;
    Ok(fs::write(path, slim)?)
}

/// A name that no other object has: the beginning of its SHA-256.
pub fn name(path: &Path) -> Result<String, Box<dyn Error>> {
    let sum = Sha256::digest(fs::read(path)?);
    Ok(sum.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}
