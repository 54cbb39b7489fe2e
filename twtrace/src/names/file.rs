//! A file of lines `address[:port] name`, of which `/etc/hosts` is one: read again when it is another.

use std::{collections::HashMap, fs, io, io::Read as _, path::PathBuf, time::SystemTime};

use crate::{filter::PeerAddress, owner::MAX_NAME};

/// Most bytes read of a file; of a larger one the first.
const MOST_BYTES: u64 = 8 << 20;

/// The file as it was last read.
pub struct NameFile {
    path: PathBuf,
    /// When it was written, and its length.
    as_of: Option<(SystemTime, u64)>,
    names: HashMap<PeerAddress, String>,
}

impl NameFile {
    /// One that was not read yet.
    pub fn of(path: PathBuf) -> Self {
        Self { path, as_of: None, names: HashMap::new() }
    }

    /// Reads it if it was written since it was read.
    ///
    /// # Errors
    /// Those of the file; what was read before stays.
    pub fn refresh(&mut self) -> io::Result<()> {
        let metadata = fs::metadata(&self.path)?;
        let as_of = Some((metadata.modified()?, metadata.len()));
        if as_of == self.as_of {
            return Ok(());
        }
        let mut bytes = Vec::new();
        fs::File::open(&self.path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        // The first line about an address holds, as in /etc/hosts.
        self.names.clear();
        for (peer, name) in text.lines().filter_map(line) {
            self.names.entry(peer).or_insert_with(|| name.to_owned());
        }
        self.as_of = as_of;
        Ok(())
    }

    /// The name of this port of an address, else of the address.
    pub fn name(&self, peer: &PeerAddress) -> Option<&str> {
        let address = PeerAddress { port: None, ..*peer };
        self.names.get(peer).or_else(|| self.names.get(&address)).map(String::as_str)
    }
}

/// What a line says; nothing of comments, and of what is no address with a name of usual length behind it.
fn line(text: &str) -> Option<(PeerAddress, &str)> {
    let mut words = text.split('#').next()?.split_whitespace();
    let (peer, name) = (words.next()?.parse().ok()?, words.next()?);
    (name.len() <= MAX_NAME).then_some((peer, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_what_is_none_is_passed_over() {
        assert_eq!(line("# 10.0.0.1 no"), None);
        assert_eq!(line("fe80::1%lo0 localhost"), None);
        assert_eq!(line("10.0.0.1 # nobody"), None);
        let long = format!("10.0.0.1 {}", "x".repeat(MAX_NAME + 1));
        assert_eq!(line(&long), None);
        let read = |text| line(text).map(|(peer, name)| (peer.ip.to_string(), peer.port, name));
        assert_eq!(read(" 10.0.0.1\tdb alias"), Some(("10.0.0.1".into(), None, "db")));
        assert_eq!(read("10.0.0.1:80 web#x"), Some(("10.0.0.1".into(), Some(80), "web")));
        assert_eq!(read("[::1]:80 web"), Some(("::1".into(), Some(80), "web")));
    }

    #[test]
    fn a_file_that_was_written_anew_is_read_anew_and_one_that_is_gone_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut names = NameFile::of(file.path().to_owned());
        let peer = "10.0.0.1:80".parse().unwrap();
        for (text, want) in [("10.0.0.1 one", "one"), ("10.0.0.1 three\n10.0.0.1:80 two", "two")] {
            fs::write(file.path(), text).unwrap();
            names.refresh().unwrap();
            assert_eq!(names.name(&peer), Some(want));
        }
        file.close().unwrap();
        assert!(names.refresh().is_err());
        assert_eq!(names.name(&peer), Some("two"));
    }
}
