//! Resolves every field the kernel programs read, on the running kernel.

use std::path::Path;

use twtrace_common::{Field, Layout};

use super::{
    KernelError,
    btf::{BtfError, BtfIndex},
    object::VMLINUX,
};

/// Bytes of `struct sock_common` that the programs copy at once; all `skc_` members they take
/// from the copy lie before.
const COMMON_LEN: u32 = 128;

/// Resolves all fields.
///
/// # Errors
/// The first required field that is missing, or one that lies where the programs do not look.
pub fn resolve(btf: &BtfIndex<'_>) -> Result<Layout, BtfError> {
    Layout::try_from_fn(|source| match btf.field(source.owner, source.path) {
        Ok(field) if source.owner == "sock_common" && field.offset + 16 > COMMON_LEN => {
            Err(BtfError::Unusable {
                owner: source.owner.to_owned(),
                path: source.path.to_owned(),
                problem: "it lies further back than in any kernel known",
            })
        }
        Ok(field) => Ok(field),
        Err(BtfError::NoMember { .. } | BtfError::NoStruct(_)) if !source.required => {
            Ok(Field::default())
        }
        Err(error) => Err(error),
    })
}

/// Resolves all fields with the types of a file.
///
/// # Errors
/// [`KernelError::BadBtf`], for what [`resolve`] says.
pub fn of_file(path: &Path, types: &BtfIndex<'_>) -> Result<Layout, KernelError> {
    resolve(types).map_err(|source| KernelError::BadBtf { path: path.to_owned(), source })
}

/// Compares what a file says with the running kernel's own types, which are there wherever ring
/// buffers are used, and answers those.
///
/// # Errors
/// [`KernelError::WrongTypes`] if a field lies elsewhere, [`KernelError::NoBtf`].
pub fn check(
    path: &Path,
    layout: &Layout,
    types: BtfIndex<'static>,
) -> Result<BtfIndex<'static>, KernelError> {
    let own = Path::new(VMLINUX);
    if path == own {
        return Ok(types);
    }
    let types = BtfIndex::from_file(own).map_err(|_| KernelError::NoBtf { path: own.into() })?;
    match layout.difference(&of_file(own, &types)?) {
        None => Ok(types),
        Some((name, there, here)) => Err(KernelError::WrongTypes {
            path: path.to_owned(),
            what: format!("{name} is {} in it and {} in {VMLINUX}", place(there), place(here)),
        }),
    }
}

fn place(field: Field) -> String {
    match field {
        Field { size: 0, .. } => "nowhere".to_owned(),
        Field { offset, size, bit: 0, .. } => format!("at {offset}, {size} bytes wide,"),
        Field { offset, bit, .. } => format!("at {offset}, from bit {bit} on,"),
    }
}

/// What is known without type information: the front of `struct sock_common`, which has not moved
/// on 64-bit kernels with IPv6 and network namespaces (include/net/sock.h, read from 4.1 to 7.1; run
/// on 4.9, 5.10, 6.1, 6.12, 6.18 and 7.2). A connection of our own has to prove it.
pub fn front() -> Layout {
    Layout {
        skc_daddr: Field::whole(0, 4),
        skc_rcv_saddr: Field::whole(4, 4),
        skc_dport: Field::whole(12, 2),
        skc_num: Field::whole(14, 2),
        skc_family: Field::whole(16, 2),
        skc_state: Field::whole(18, 1),
        skc_net: Field::whole(48, 8),
        skc_v6_daddr: Field::whole(56, 16),
        skc_v6_rcv_saddr: Field::whole(72, 16),
        ..Layout::default()
    }
}
