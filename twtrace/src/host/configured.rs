//! What administrators wrote into sysctl configuration files, which is not always what holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where `sysctl --system` looks, below the root; see sysctl.d(5).
const PLACES: [&str; 6] = [
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
    "etc/sysctl.conf",
];

/// One setting in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file, as an administrator names it.
    pub file: PathBuf,
    /// Number of the line, from 1.
    pub line: usize,
    /// What it is set to.
    pub value: String,
}

/// Finds the lines that set `net.ipv4.NAME` below `root` (`/`), in the files' order.
///
/// Files that cannot be read are passed over: they are read at boot by root, and this is a hint.
pub fn settings(root: &Path, name: &str) -> Vec<Setting> {
    let dotted = format!("net.ipv4.{name}");
    let mut found = Vec::new();
    let mut files = Vec::new();
    for place in PLACES {
        let path = root.join(place);
        if path.is_file() {
            files.push(path);
            continue;
        }
        let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
        let mut here: Vec<_> = entries.map(|entry| entry.path()).collect();
        here.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        here.sort();
        files.extend(here);
    }
    let mut read: Vec<PathBuf> = Vec::new();
    for file in files {
        // Distributions link /etc/sysctl.conf into sysctl.d, and /lib to /usr/lib.
        let Ok(real) = fs::canonicalize(&file) else { continue };
        let Ok(text) = fs::read_to_string(&real) else { continue };
        if read.contains(&real) {
            continue;
        }
        read.push(real);
        for (index, line) in text.lines().enumerate() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let key = key.trim().trim_start_matches('-').replace('/', ".");
            if key == dotted {
                let shown = file.strip_prefix(root).unwrap_or(&file);
                found.push(Setting {
                    file: Path::new("/").join(shown),
                    line: index + 1,
                    value: value.trim().to_owned(),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_in_every_spelling_and_comments_are_not() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("etc/sysctl.d");
        fs::create_dir_all(&directory).unwrap();
        let text = "# net.ipv4.tcp_tw_recycle = 1\n-net/ipv4/tcp_tw_recycle = 1\n";
        fs::write(directory.join("90-old.conf"), text).unwrap();
        fs::write(directory.join("90-old.conf.bak"), "net.ipv4.tcp_tw_recycle=1\n").unwrap();
        fs::write(root.path().join("etc/sysctl.conf"), "net.ipv4.tcp_tw_recycle=0\n").unwrap();
        let found = settings(root.path(), "tcp_tw_recycle");
        let shown: Vec<_> = found
            .iter()
            .map(|setting| (setting.file.to_str().unwrap(), setting.line, setting.value.as_str()))
            .collect();
        assert_eq!(shown, [("/etc/sysctl.d/90-old.conf", 2, "1"), ("/etc/sysctl.conf", 1, "0")]);
    }

    #[test]
    fn a_host_without_configuration_has_no_setting() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(settings(root.path(), "tcp_tw_recycle"), []);
    }
}
