//! Where this machine gets Debian packages from, as its own apt says.
//!
//! The kernels of other releases lie in the same archive under other suites, so that no
//! address has to be known here.

use std::process::Command;

use anyhow::Result;

use crate::process;

/// The addresses of the archive's two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Releases as published.
    pub main: String,
    /// Security updates between point releases; where kernels are newest.
    pub security: Option<String>,
}

/// Debian's own archive, if this machine's apt has it among its sources.
pub fn debian_archive() -> Result<Option<Archive>> {
    let uris = process::output(Command::new("apt-get").args(["update", "--print-uris"]))?;
    Ok(archive(&uris))
}

/// Picks it out of all that apt would fetch: a line each, the address in quotes.
///
/// Told by its path (`…/debian`, `…/debian-security`) and, for addresses that hide the
/// path, by the suites' names.
fn archive(uris: &str) -> Option<Archive> {
    let release = |line: &str| {
        let uri = line.strip_prefix('\'')?.split('\'').next()?;
        let (archive, suite) = uri.strip_suffix("/InRelease")?.split_once("/dists/")?;
        let tail = archive.rsplit('/').next().filter(|tail| tail.starts_with("debian"))?;
        let security = tail.starts_with("debian-security") || suite.ends_with("-security");
        Some((security, archive.to_owned()))
    };
    let (security, main): (Vec<_>, Vec<_>) =
        uris.lines().filter_map(release).partition(|(security, _)| *security);
    let (_, main) = main.into_iter().next()?;
    // Some machines have both in one line, without a path of its own for security.
    let security = security.into_iter().next().map(|(_, it)| it).filter(|it| *it != main);
    Some(Archive { main, security })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_found_among_all_that_apt_would_fetch() {
        let uris = "'https://other.test/apt/dists/stable/InRelease' other.test_InRelease 0 \n\
                    'http://archive.test/debian/dists/trixie/InRelease' a_InRelease 0 \n\
                    'http://archive.test/debian/dists/trixie-updates/InRelease' b_InRelease 0 \n\
                    'http://archive.test/debian-security/dists/trixie-security/InRelease' c 0 \n\
                    'http://archive.test/debian/dists/trixie/main/binary-amd64/Packages.xz' d 0 \n";
        let security = Some("http://archive.test/debian-security".to_owned());
        let main = "http://archive.test/debian".to_owned();
        assert_eq!(archive(uris), Some(Archive { main, security }));
    }

    #[test]
    fn security_updates_may_be_under_the_same_address() {
        let uris = "'http://archive.test/debian/dists/trixie-security/InRelease' a 0\n\
                    'http://archive.test/debian/dists/trixie/InRelease' b 0\n";
        let main = "http://archive.test/debian".to_owned();
        assert_eq!(archive(uris), Some(Archive { main, security: None }));
    }

    #[test]
    fn a_machine_without_debian_has_no_archive() {
        assert_eq!(archive("'http://archive.test/ubuntu/dists/noble/InRelease' a 0\n"), None);
    }
}
