//! The file itself: an archive that begins with a list of what is in it.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use crate::text::visible;

/// The directory that everything is in.
const DIRECTORY: &str = "twtrace-support";
/// The name of the list.
const CONTENTS: &str = "CONTENTS.txt";

/// What goes into the file, in order.
#[derive(Debug, Default)]
pub struct Bundle {
    parts: Vec<Part>,
    lacking: Vec<(&'static str, String)>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    what: &'static str,
    bytes: Vec<u8>,
}

impl Bundle {
    /// Adds a part: the name of its file, and what it is.
    pub fn add(&mut self, name: &'static str, what: &'static str, bytes: impl Into<Vec<u8>>) {
        self.parts.push(Part { name, what, bytes: bytes.into() });
    }

    /// Says why a part is not there.
    pub fn lacks(&mut self, name: &'static str, why: &impl Display) {
        self.lacking.push((name, visible(&why.to_string()).into_owned()));
    }

    /// The list of what is in it.
    fn contents(&self) -> String {
        let mut text = String::from("What is in this bundle:\n");
        for part in &self.parts {
            let line = format!("  {:<20} {:>9}  {}\n", part.name, part.bytes.len(), part.what);
            text.push_str(&line);
        }
        if !self.lacking.is_empty() {
            text.push_str("What is not, and why:\n");
        }
        for (name, why) in &self.lacking {
            text.push_str(&format!("  {name}: {why}\n"));
        }
        text.push_str(
            "It was written to a file and sent nowhere. Addresses of peers are in it, and names of \
             programs, units,\ncontainers, pods, namespaces and control groups; no payload, no \
             environment, and no command line of\nany program is.\n",
        );
        text
    }

    /// Writes it, the list first; answers the list.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: impl Write) -> io::Result<String> {
        let listed = self.contents();
        let mut archive = Builder::new(GzEncoder::new(out, Compression::default()));
        append(&mut archive, CONTENTS, listed.as_bytes())?;
        for part in &self.parts {
            append(&mut archive, part.name, &part.bytes)?;
        }
        archive.into_inner()?.finish()?.flush()?;
        Ok(listed)
    }
}

fn append(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(now.as_secs());
    archive.append_data(&mut header, format!("{DIRECTORY}/{name}"), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, io::Read};

    #[test]
    fn what_is_in_it_and_what_is_not_is_its_first_file() {
        let mut bundle = Bundle::default();
        bundle.add("version.txt", "the program", "twtrace 1");
        bundle.add("recording.twtrace", "every socket", vec![0, 159, 146, 150]);
        bundle.lacks("daemon-status.json", &"nobody \u{1b}[2J answers");
        let mut written = Vec::new();
        let listed = bundle.write(&mut written).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(written.as_slice()));
        let mut names = Vec::new();
        let mut read = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600, "{name}");
            names.push(name.clone());
            read.insert(name, bytes);
        }
        let expected = ["CONTENTS.txt", "version.txt", "recording.twtrace"];
        assert_eq!(names, expected.map(|name| format!("twtrace-support/{name}")));
        assert_eq!(read["twtrace-support/recording.twtrace"], [0, 159, 146, 150]);
        assert_eq!(read["twtrace-support/CONTENTS.txt"], listed.as_bytes());
        for said in ["version.txt", "9  the program", "daemon-status.json: nobody", "sent nowhere"]
        {
            assert!(listed.contains(said), "{said}:\n{listed}");
        }
        assert!(!listed.contains('\u{1b}'), "{listed}");
    }
}
