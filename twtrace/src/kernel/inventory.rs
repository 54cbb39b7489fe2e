//! The sockets that are in TIME_WAIT already: from the kernel's own iterator over TCP sockets, or from
//! its list of them.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
};

use twtrace_common::{Decode, Entered};

use super::{
    Namespace, listing,
    walks::{FOLLOW, Loaded},
};

/// Reads one namespace after the other, on whichever thread.
#[derive(Clone)]
pub enum Inventory {
    /// With an iterator: a program of the object.
    Walk(Loaded, &'static str),
    /// From the list, which knows no addresses.
    Listing,
}

impl Inventory {
    /// Goes through a namespace and answers what `keep` keeps of its timewait sockets; there are
    /// none from the iterator that makes the kernel side follow them.
    ///
    /// # Errors
    /// The namespace vanished, may not be entered, or could not be read.
    pub fn read<T: Send>(
        &self,
        namespace: &Namespace,
        keep: impl Fn(Entered) -> Option<T> + Send,
    ) -> io::Result<Vec<T>> {
        match self {
            Self::Listing => Ok(listing::read(namespace)?.into_iter().filter_map(keep).collect()),
            Self::Walk(object, FOLLOW) => {
                // What it writes it has put aside until it has met all.
                let aside = walked(object, FOLLOW, namespace, |_| Some(()))?;
                if !aside.is_empty() {
                    walked(object, FOLLOW, namespace, |_| Some(()))?;
                }
                Ok(Vec::new())
            }
            Self::Walk(object, name) => walked(object, name, namespace, keep),
        }
    }
}

/// Goes through a namespace once, and answers what `keep` keeps of the sockets that the walk writes.
fn walked<T: Send>(
    object: &Loaded,
    name: &'static str,
    namespace: &Namespace,
    keep: impl Fn(Entered) -> Option<T> + Send,
) -> io::Result<Vec<T>> {
    let link = object.open_walk(name).map_err(io::Error::other)?;
    namespace.run(move || {
        // The walk is bound to the namespace of the thread that opens it.
        let file: File = link.into_file().map_err(io::Error::other)?;
        let mut kept = Vec::new();
        sockets(BufReader::with_capacity(PIECE, file), |socket| kept.extend(keep(socket)))?;
        Ok(kept)
    })?
}

/// Bytes read at once: hundreds of thousands of sockets are some 30 MB.
const PIECE: usize = 1 << 16;

/// Shows the sockets in what the iterator writes, one by one.
fn sockets(mut written: impl Read, mut show: impl FnMut(Entered)) -> io::Result<()> {
    let mut record = [0; size_of::<Entered>()];
    loop {
        match written.read_exact(&mut record) {
            Ok(()) => Entered::from_bytes(&record).into_iter().for_each(&mut show),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_iterator_wrote_is_a_list_of_sockets() {
        let socket = |tw| Entered { tw, ..Entered::default() };
        let sockets = |bytes: &[u8]| {
            let mut all = Vec::new();
            sockets(bytes, |socket| all.push(socket)).unwrap();
            all
        };
        let bytes = [socket(7).as_bytes(), socket(9).as_bytes()].concat();
        assert_eq!(sockets(&bytes), [socket(7), socket(9)]);
        assert_eq!(sockets(&bytes[..bytes.len() - 1]), [socket(7)], "one cut off is none");
    }
}
