//! Resolves every field the kernel programs read, on the running kernel.

use twtrace_common::{Field, Layout};

use super::btf::{BtfError, BtfIndex};

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
