//! The sockets that are in TIME_WAIT already, from the kernel's own iterator over TCP sockets.

use std::{
    fs::File,
    io::{self, Read},
};

use aya::programs::Iter;
use twtrace_common::{Decode, Entered};

use super::Namespace;

/// Reads one namespace after the other.
pub struct Inventory<'a> {
    program: &'a mut Iter,
}

impl<'a> Inventory<'a> {
    pub(super) fn new(program: &'a mut Iter) -> Self {
        Self { program }
    }

    /// Walks a namespace and answers what the iterator wrote: its timewait sockets, or nothing
    /// from the one that makes the kernel side follow them.
    ///
    /// # Errors
    /// The namespace vanished, may not be entered, or could not be read.
    pub fn read(&mut self, namespace: &Namespace) -> io::Result<Vec<Entered>> {
        let program = &mut *self.program;
        namespace.run(move || {
            let link = program.attach().map_err(io::Error::other)?;
            let link = program.take_link(link).map_err(io::Error::other)?;
            // The walk is bound to the namespace of the thread that opens it.
            let mut file: File = link.into_file().map_err(io::Error::other)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(sockets(&bytes))
        })?
    }
}

/// The sockets in what the iterator wrote.
fn sockets(bytes: &[u8]) -> Vec<Entered> {
    bytes.chunks_exact(size_of::<Entered>()).filter_map(Entered::from_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_iterator_wrote_is_a_list_of_sockets() {
        let socket = |tw| Entered { tw, ..Entered::default() };
        let bytes = [socket(7).as_bytes(), socket(9).as_bytes()].concat();
        assert_eq!(sockets(&bytes), [socket(7), socket(9)]);
        assert_eq!(sockets(&bytes[..bytes.len() - 1]), [socket(7)], "one cut off is none");
    }
}
