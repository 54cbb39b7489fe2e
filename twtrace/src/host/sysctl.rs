//! Sysctls, read below a procfs root.

use std::{ops::RangeInclusive, path::Path};

use super::{HostFactError, text};

/// Reads one number, `name` being a path below `sys`; `None` if this kernel has no such sysctl.
///
/// # Errors
/// [`HostFactError`].
pub fn number(root: &Path, name: &str) -> Result<Option<u64>, HostFactError> {
    let path = root.join("sys").join(name);
    let Some(text) = text(&path)? else { return Ok(None) };
    let number = text.trim().parse();
    number.map(Some).map_err(|_| HostFactError::malformed(&path, &text, "a number"))
}

/// The ports that `connect()` chooses from (`net.ipv4.ip_local_port_range`).
///
/// # Errors
/// [`HostFactError`].
pub fn port_range(root: &Path) -> Result<Option<RangeInclusive<u16>>, HostFactError> {
    let path = root.join("sys/net/ipv4/ip_local_port_range");
    let Some(text) = text(&path)? else { return Ok(None) };
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next(), ports.next()) {
        (Some(Ok(low)), Some(Ok(high)), None) => Ok(Some(low..=high)),
        _ => Err(HostFactError::malformed(&path, &text, "two ports")),
    }
}

/// The ports that `connect()` leaves out (`net.ipv4.ip_local_reserved_ports`), as ranges in order.
///
/// # Errors
/// [`HostFactError`].
pub fn reserved_ports(root: &Path) -> Result<Vec<RangeInclusive<u16>>, HostFactError> {
    let path = root.join("sys/net/ipv4/ip_local_reserved_ports");
    let Some(text) = text(&path)? else { return Ok(Vec::new()) };
    let ranges = text.trim().split(',').filter(|range| !range.is_empty()).map(|range| {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        Some(low.parse().ok()?..=high.parse().ok()?)
    });
    let ranges: Option<Vec<_>> = ranges.collect();
    ranges.ok_or_else(|| HostFactError::malformed(&path, &text, "a list of ports"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join("sys/net/ipv4").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn a_sysctl_that_is_not_there_is_no_error() {
        let root = root(&[("tcp_tw_reuse", "2\n")]);
        assert_eq!(number(root.path(), "net/ipv4/tcp_tw_reuse").unwrap(), Some(2));
        assert_eq!(number(root.path(), "net/ipv4/tcp_tw_recycle").unwrap(), None);
    }

    #[test]
    fn what_is_no_number_is_named_with_its_file() {
        let root = root(&[("tcp_tw_reuse", "yes\n")]);
        let error = number(root.path(), "net/ipv4/tcp_tw_reuse").unwrap_err().to_string();
        assert!(error.contains("tcp_tw_reuse holds \"yes\""), "{error}");
    }

    #[test]
    fn port_ranges_are_read_as_the_kernel_writes_them() {
        let root = root(&[
            ("ip_local_port_range", "32768\t60999\n"),
            ("ip_local_reserved_ports", "8080,9000-9010\n"),
        ]);
        assert_eq!(port_range(root.path()).unwrap(), Some(32_768..=60_999));
        assert_eq!(reserved_ports(root.path()).unwrap(), [8080..=8080, 9000..=9010]);
    }

    #[test]
    fn no_reserved_ports_is_an_empty_line() {
        let root = root(&[("ip_local_reserved_ports", "\n"), ("ip_local_port_range", "1\n")]);
        assert_eq!(reserved_ports(root.path()).unwrap(), []);
        assert!(port_range(root.path()).is_err());
    }
}
