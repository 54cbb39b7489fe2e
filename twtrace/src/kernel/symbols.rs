//! Addresses of the kernel's functions and variables, from `/proc/kallsyms`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use rustc_hash::FxHashMap;

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

/// The symbol behind the last function that a kernel has while it runs. Symbols come by address.
const BEHIND_FUNCTIONS: &[u8] = b"_etext";

/// What was looked for among the symbols of the core kernel. Where they could not be read, every
/// function is taken to be there.
#[derive(Debug, Default)]
pub struct Kallsyms {
    path: PathBuf,
    /// Functions that were looked for, and where those are that were found.
    functions: FxHashMap<&'static str, Option<Range>>,
    /// Variables that were found, and are shown.
    variables: FxHashMap<&'static str, u64>,
}

impl Kallsyms {
    /// Looks functions and variables of the running kernel up. The kernel writes a line for each of
    /// hundreds of thousands, so no more are asked for than it takes.
    ///
    /// # Errors
    /// [`SymbolError::Unreadable`].
    pub fn read(
        functions: impl IntoIterator<Item = &'static str>,
        variables: &[&'static str],
    ) -> Result<Self, SymbolError> {
        Self::of(Path::new("/proc/kallsyms"), functions, variables)
    }

    fn of(
        path: &Path,
        functions: impl IntoIterator<Item = &'static str>,
        variables: &[&'static str],
    ) -> Result<Self, SymbolError> {
        let mut symbols = Self {
            path: path.to_owned(),
            functions: functions.into_iter().map(|name| (name, None)).collect(),
            variables: FxHashMap::default(),
        };
        let found = File::open(path)
            .and_then(|file| symbols.find(&mut BufReader::with_capacity(1 << 16, file), variables));
        match found {
            Ok(()) => Ok(symbols),
            Err(source) => Err(SymbolError::Unreadable { path: symbols.path, source }),
        }
    }

    /// Reads no further than it takes.
    fn find(&mut self, lines: &mut impl BufRead, variables: &[&'static str]) -> io::Result<()> {
        // Functions whose end was not met yet, which have one address.
        let mut open: Vec<&'static str> = Vec::new();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            let Some(symbol) = Symbol::of(&line) else { break };
            if symbol.is_function() {
                let wanted = self.wanted(&symbol);
                if wanted.is_some() || !open.is_empty() {
                    let address = symbol.address();
                    self.close(&mut open, address);
                    if let Some(name) = wanted {
                        self.functions.insert(name, Some(address..address + UNKNOWN_SIZE));
                        open.push(name);
                    }
                }
            } else if let Some(name) = symbol.among(variables).filter(|_| symbol.is_variable())
                && symbol.address() != 0
            {
                self.variables.insert(name, symbol.address());
            }
            if symbol.name == BEHIND_FUNCTIONS && variables.is_empty() {
                break;
            }
            line.clear();
        }
        Ok(())
    }

    /// The name of a function that is looked for and was not found yet.
    fn wanted(&self, symbol: &Symbol<'_>) -> Option<&'static str> {
        let name = std::str::from_utf8(symbol.name).ok()?;
        let (name, found) = self.functions.get_key_value(name)?;
        found.is_none().then_some(*name)
    }

    /// Functions end where the next one begins, which may have several names.
    fn close(&mut self, open: &mut Vec<&'static str>, address: u64) {
        open.retain(|name| match self.functions.get_mut(name) {
            Some(Some(range)) if range.start < address => {
                range.end = address;
                false
            }
            _ => true,
        });
    }

    /// The functions that were found.
    ///
    /// # Errors
    /// [`SymbolError::Hidden`].
    pub fn ranges(&self) -> Result<FxHashMap<&'static str, Range>, SymbolError> {
        let found = self.functions.iter().filter_map(|(name, range)| Some((*name, range.clone()?)));
        let found: FxHashMap<_, _> = found.filter(|(_, range)| range.start != 0).collect();
        if found.is_empty() {
            return Err(SymbolError::Hidden { path: self.path.clone() });
        }
        Ok(found)
    }

    /// Where a variable lies that was looked for, unless that is hidden.
    pub fn variable(&self, name: &str) -> Option<u64> {
        self.variables.get(name).copied()
    }

    /// Whether functions could not be read.
    pub fn are_unknown(&self) -> bool {
        self.functions.is_empty()
    }

    /// Whether the kernel has a function that was looked for, also where its address is hidden.
    pub fn has(&self, function: &str) -> bool {
        debug_assert!(self.are_unknown() || self.functions.contains_key(function), "{function}");
        self.are_unknown() || self.functions.get(function).is_some_and(Option::is_some)
    }

    /// Where a function begins that was looked for, unless that is hidden.
    pub fn address(&self, function: &str) -> Option<u64> {
        let range = self.functions.get(function)?.as_ref()?;
        Some(range.start).filter(|address| *address != 0)
    }
}

/// Bytes of a function behind which there is none.
const UNKNOWN_SIZE: u64 = 4096;

/// A line such as "ffffffff81c0a5d0 t tw_timer_handler".
struct Symbol<'a> {
    address: &'a [u8],
    kind: u8,
    name: &'a [u8],
}

impl<'a> Symbol<'a> {
    /// That of a line, and nothing for those of modules, which have "\t[module]" behind them and come
    /// after the core kernel's.
    fn of(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let space = line.iter().position(|byte| *byte == b' ')?;
        let (address, rest) = line.split_at(space);
        let [_, kind, _, name @ ..] = rest else { return None };
        (!name.contains(&b'\t')).then_some(Self { address, kind: *kind, name })
    }

    fn is_function(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'w' | b'W')
    }

    fn is_variable(&self) -> bool {
        matches!(self.kind, b'b' | b'B' | b'd' | b'D' | b'r' | b'R')
    }

    fn among(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| name.as_bytes() == self.name)
    }

    /// 0 if it is hidden.
    fn address(&self) -> u64 {
        let digits = std::str::from_utf8(self.address).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or(0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What is found in a kernel with these symbols.
    pub fn kallsyms(
        text: &str,
        functions: &[&'static str],
        variables: &[&'static str],
    ) -> Kallsyms {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Kallsyms::of(file.path(), functions.iter().copied(), variables).unwrap()
    }

    const TEXT: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000100 T tcp_time_wait
ffffffff81000100 T tcp_time_wait_alias
ffffffff81000200 t tcp_time_wait.cold
ffffffff81000300 t tw_timer_handler
ffffffff81000380 T last
ffffffff81000400 T _etext
ffffffff81000420 D some_data
ffffffff81000440 t late
ffffffffc0000000 t tcp_v4_rcv\t[module]
";

    #[test]
    fn a_function_ends_where_the_next_one_begins() {
        let names =
            ["tcp_time_wait", "tcp_time_wait_alias", "tw_timer_handler", "last", "tcp_v4_rcv"];
        let found = kallsyms(TEXT, &names, &[]).ranges().unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(found["tcp_time_wait"], 0xffff_ffff_8100_0100..0xffff_ffff_8100_0200);
        assert_eq!(found["tcp_time_wait_alias"], found["tcp_time_wait"]);
        assert_eq!(found["tw_timer_handler"], 0xffff_ffff_8100_0300..0xffff_ffff_8100_0380);
        assert_eq!(found["last"], 0xffff_ffff_8100_0380..0xffff_ffff_8100_0400);
    }

    #[test]
    fn variables_and_functions_are_told_apart_and_without_variables_no_data_is_read() {
        let found = kallsyms(TEXT, &["tw_timer_handler", "some_data", "late"], &["some_data"]);
        assert_eq!(found.variable("some_data"), Some(0xffff_ffff_8100_0420));
        assert_eq!(found.address("tw_timer_handler"), Some(0xffff_ffff_8100_0300));
        assert!(found.has("tw_timer_handler") && !found.has("some_data") && found.has("late"));
        assert!(!kallsyms(TEXT, &["late"], &[]).has("late"));
    }

    #[test]
    fn every_function_is_taken_to_be_there_where_none_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Kallsyms::of(directory.path(), [], &[]).is_err());
        assert!(Kallsyms::default().has("tcp_time_wait"));
        assert_eq!(Kallsyms::default().address("tcp_time_wait"), None);
    }

    #[test]
    fn hidden_addresses_are_said_to_be_hidden() {
        let found = kallsyms("0000000000000000 T tcp_time_wait\n", &["tcp_time_wait"], &[]);
        let error = found.ranges().unwrap_err().to_string();
        assert!(error.contains("CAP_SYSLOG"), "{error}");
        assert!(found.has("tcp_time_wait") && found.address("tcp_time_wait").is_none());
    }

    #[test]
    fn functions_of_the_running_kernel_are_found_before_the_end_of_its_text() {
        let found =
            Kallsyms::read(["tcp_time_wait", "tcp_v4_rcv", "no_such_function"], &[]).unwrap();
        assert!(found.has("tcp_time_wait") && found.has("tcp_v4_rcv"));
        assert!(!found.has("no_such_function"));
    }
}
