//! The sockets that are in TIME_WAIT already, from the kernel's own iterator over TCP sockets.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
};

use aya::programs::Iter;

use super::Namespace;

/// Reads one namespace after the other.
pub struct Inventory<'a> {
    program: &'a mut Iter,
}

impl<'a> Inventory<'a> {
    pub(super) fn new(program: &'a mut Iter) -> Self {
        Self { program }
    }

    /// Walks a namespace and answers what the iterator wrote: the addresses of its timewait
    /// sockets, or nothing from the one that makes the kernel side follow them.
    ///
    /// # Errors
    /// The namespace vanished, may not be entered, or could not be read.
    pub fn read(&mut self, namespace: &Namespace) -> io::Result<HashSet<u64>> {
        let program = &mut *self.program;
        namespace.run(move || {
            let link = program.attach().map_err(io::Error::other)?;
            let link = program.take_link(link).map_err(io::Error::other)?;
            // The walk is bound to the namespace of the thread that opens it.
            let mut file: File = link.into_file().map_err(io::Error::other)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(addresses(&bytes))
        })?
    }
}

/// The addresses in what the iterator wrote.
fn addresses(bytes: &[u8]) -> HashSet<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_ne_bytes(*word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_iterator_wrote_is_a_list_of_addresses() {
        let mut bytes = 7_u64.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&9_u64.to_ne_bytes());
        assert_eq!(addresses(&bytes), HashSet::from([7, 9]));
        assert!(addresses(&bytes[..5]).is_empty());
    }
}
