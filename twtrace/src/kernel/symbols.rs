//! Kernel functions' addresses, from `/proc/kallsyms`: what the tracepoint backend knows timers
//! and callers by.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// Why symbols could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
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
        path: std::path::PathBuf,
    },
}

/// First address of a function, and the first behind it.
pub type Range = std::ops::Range<u64>;

/// Looks functions of the core kernel up. A name that is missing is missing from the answer.
///
/// # Errors
/// [`SymbolError`].
pub fn functions(kallsyms: &Path, names: &[&str]) -> Result<HashMap<String, Range>, SymbolError> {
    let text = std::fs::read_to_string(kallsyms)
        .map_err(|source| SymbolError::Unreadable { path: kallsyms.to_owned(), source })?;
    let found = parse(&text, names);
    if found.is_empty() || found.values().all(|range| range.start == 0) {
        return Err(SymbolError::Hidden { path: kallsyms.to_owned() });
    }
    Ok(found)
}

/// Looks variables of the core kernel up, by address; whatever is missing or hidden is missing from
/// the answer.
pub fn variables(kallsyms: &Path, names: &[&str]) -> HashMap<String, u64> {
    let text = std::fs::read_to_string(kallsyms).unwrap_or_default();
    let found = symbols(&text, |kind| matches!(kind, "b" | "B" | "d" | "D" | "r" | "R"));
    found
        .filter(|(address, name)| *address != 0 && names.contains(name))
        .map(|(address, name)| (name.to_owned(), address))
        .collect()
}

/// Names of the core kernel's functions, which are there even where the addresses are hidden;
/// empty where they cannot be read at all.
pub fn function_names(kallsyms: &Path) -> HashSet<String> {
    let text = std::fs::read_to_string(kallsyms).unwrap_or_default();
    symbols(&text, is_function).map(|(_, name)| name.to_owned()).collect()
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

fn parse(text: &str, names: &[&str]) -> HashMap<String, Range> {
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

/// Whether the kernel has a function; all are taken to be there where the list cannot be read.
pub fn has(functions: &HashSet<String>, name: &str) -> bool {
    functions.is_empty() || functions.contains(name)
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
        let found = parse(TEXT, &["tcp_time_wait", "tw_timer_handler", "missing"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found["tcp_time_wait"], 0xffff_ffff_8100_0100..0xffff_ffff_8100_0200);
        assert_eq!(found["tw_timer_handler"], 0xffff_ffff_8100_0300..0xffff_ffff_8100_0380);
    }

    #[test]
    fn variables_and_names_are_found_beside_functions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kallsyms");
        std::fs::write(&path, TEXT).unwrap();
        let found = variables(&path, &["some_data", "tcp_time_wait"]);
        assert_eq!(found, HashMap::from([("some_data".to_owned(), 0xffff_ffff_8100_0320)]));
        assert!(function_names(&path).contains("tw_timer_handler"));
        assert!(!function_names(&path).contains("some_data"));
        assert!(function_names(directory.path()).is_empty(), "unreadable");
    }

    #[test]
    fn hidden_addresses_are_said_to_be_hidden() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kallsyms");
        std::fs::write(&path, "0000000000000000 T tcp_time_wait\n").unwrap();
        let error = functions(&path, &["tcp_time_wait"]).unwrap_err().to_string();
        assert!(error.contains("CAP_SYSLOG"), "{error}");
    }
}
