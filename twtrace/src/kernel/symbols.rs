//! Addresses of the kernel's functions and variables, from `/proc/kallsyms`.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// Why symbols could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// All addresses are 0: the reader may not see them.
    #[error(
        "{path} hides its addresses: CAP_SYSLOG is missing, or the sysctl kernel.kptr_restrict \
         is 2"
    )]
    Hidden {
        /// The file.
        path: PathBuf,
    },
}

/// First address of a function, and the first behind it.
pub type Range = std::ops::Range<u64>;

/// The list of the kernel's symbols, as it was read.
#[derive(Debug, Default)]
pub struct Kallsyms {
    path: PathBuf,
    text: String,
}

impl Kallsyms {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// [`SymbolError::Unreadable`].
    pub fn read() -> Result<Self, SymbolError> {
        Self::of(Path::new("/proc/kallsyms"))
    }

    fn of(path: &Path) -> Result<Self, SymbolError> {
        let path = path.to_owned();
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(source) => Err(SymbolError::Unreadable { path, source }),
        }
    }

    /// Looks functions of the core kernel up. A name that is missing is missing from the answer.
    ///
    /// # Errors
    /// [`SymbolError::Hidden`].
    pub fn ranges(&self, names: &[&str]) -> Result<HashMap<String, Range>, SymbolError> {
        let found = ranges(&self.text, names);
        if found.is_empty() || found.values().all(|range| range.start == 0) {
            return Err(SymbolError::Hidden { path: self.path.clone() });
        }
        Ok(found)
    }

    /// Looks variables of the core kernel up, by address; whatever is missing or hidden is missing
    /// from the answer.
    pub fn variables(&self, names: &[&str]) -> HashMap<String, u64> {
        let is_variable = |kind: &str| matches!(kind, "b" | "B" | "d" | "D" | "r" | "R");
        symbols(&self.text, is_variable)
            .filter(|(address, name)| *address != 0 && names.contains(name))
            .map(|(address, name)| (name.to_owned(), address))
            .collect()
    }

    /// All functions of the core kernel, which are told even where their addresses are hidden.
    pub fn functions(&self) -> Functions<'_> {
        symbols(&self.text, is_function).map(|(address, name)| (name, address)).collect()
    }
}

/// The core kernel's functions; of several with one name, one.
#[derive(Debug, Default)]
pub struct Functions<'a>(HashMap<&'a str, u64>);

impl<'a> FromIterator<(&'a str, u64)> for Functions<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, u64)>>(functions: I) -> Self {
        Self(functions.into_iter().collect())
    }
}

impl Functions<'_> {
    /// Whether they could not be read.
    pub fn are_unknown(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the kernel has a function; all are taken to be there where they could not be read.
    pub fn has(&self, name: &str) -> bool {
        self.are_unknown() || self.0.contains_key(name)
    }

    /// Where a function begins, unless that is hidden.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied().filter(|address| *address != 0)
    }
}

fn is_function(kind: &str) -> bool {
    matches!(kind, "t" | "T" | "w" | "W")
}

/// Address and name of the core kernel's symbols of one kind.
fn symbols(text: &str, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (u64, &str)> {
    text.lines().filter_map(move |line| {
        // "ffffffff81c0a5d0 t tw_timer_handler", and "\t[module]" behind a module's symbols.
        let mut words = line.split_ascii_whitespace();
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        (words.next().is_none() && wanted(kind)).then_some((address, name))
    })
}

fn ranges(text: &str, names: &[&str]) -> HashMap<String, Range> {
    let mut addresses = Vec::new();
    let mut found = HashMap::new();
    for (address, name) in symbols(text, is_function) {
        addresses.push(address);
        if names.contains(&name) {
            found.entry(name.to_owned()).or_insert(address..address);
        }
    }
    addresses.sort_unstable();
    for range in found.values_mut() {
        let behind = addresses.partition_point(|address| *address <= range.start);
        range.end = addresses.get(behind).copied().unwrap_or(range.start + 4096);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ffffffff81000000 T _stext
ffffffff81000300 t tw_timer_handler
ffffffff81000100 T tcp_time_wait
ffffffff81000200 t tcp_time_wait.cold
ffffffff81000320 D some_data
ffffffff81000380 T last
ffffffffc0000000 t tcp_time_wait\t[module]
";

    #[test]
    fn a_function_ends_where_the_next_one_begins() {
        let found = ranges(TEXT, &["tcp_time_wait", "tw_timer_handler", "missing"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found["tcp_time_wait"], 0xffff_ffff_8100_0100..0xffff_ffff_8100_0200);
        assert_eq!(found["tw_timer_handler"], 0xffff_ffff_8100_0300..0xffff_ffff_8100_0380);
    }

    fn kallsyms(text: &str) -> Kallsyms {
        Kallsyms { path: "kallsyms".into(), text: text.to_owned() }
    }

    #[test]
    fn variables_and_functions_are_told_apart() {
        let kallsyms = kallsyms(TEXT);
        let found = kallsyms.variables(&["some_data", "tcp_time_wait"]);
        assert_eq!(found, HashMap::from([("some_data".to_owned(), 0xffff_ffff_8100_0320)]));
        let functions = kallsyms.functions();
        assert_eq!(functions.address("tw_timer_handler"), Some(0xffff_ffff_8100_0300));
        assert!(functions.has("tw_timer_handler") && !functions.has("some_data"));
    }

    #[test]
    fn every_function_is_taken_to_be_there_where_none_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Kallsyms::of(directory.path()).is_err());
        assert!(Functions::default().has("tcp_time_wait"));
        assert_eq!(Functions::default().address("tcp_time_wait"), None);
    }

    #[test]
    fn hidden_addresses_are_said_to_be_hidden() {
        let kallsyms = kallsyms("0000000000000000 T tcp_time_wait\n");
        let error = kallsyms.ranges(&["tcp_time_wait"]).unwrap_err().to_string();
        assert!(error.contains("CAP_SYSLOG"), "{error}");
        let functions = kallsyms.functions();
        assert!(functions.has("tcp_time_wait") && functions.address("tcp_time_wait").is_none());
    }
}
