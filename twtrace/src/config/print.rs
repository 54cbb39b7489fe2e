//! The default file, and the table of the documentation.

use std::io::{self, Write};

use super::{KEYS, TakesEffect, file::assignment};

/// Columns of the default file's comments.
const COLUMNS: usize = 78;

/// What the default file begins with.
const ABOUT: &str = "Settings of `twtrace daemon`, all at their defaults. Every key is a flag as \
    well (max_peers is --max-peers), and flags precede this file. After a change: `systemctl \
    reload twtrace`, or a restart where the comment says so.";

/// Writes the commented file of all defaults, which changes nothing when it is used as it is.
///
/// # Errors
/// Those of the writer.
pub fn default_file(out: &mut impl Write) -> io::Result<()> {
    for line in wrapped(ABOUT) {
        writeln!(out, "# {line}")?;
    }
    let mut group = "";
    for key in KEYS {
        if key.group != group {
            group = key.group;
            writeln!(out, "\n## {group}")?;
        }
        let restart = match key.change {
            TakesEffect::Reload => "",
            TakesEffect::Restart => " Needs a restart.",
        };
        writeln!(out)?;
        for line in wrapped(&format!("{}{restart}", key.help.trim())) {
            writeln!(out, "# {line}")?;
        }
        writeln!(out, "#{}", assignment(key))?;
    }
    Ok(())
}

/// Writes the table of all keys, for docs/DAEMON.md.
///
/// # Errors
/// Those of the writer.
pub fn markdown(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "| key | default | what it is for | takes effect |")?;
    writeln!(out, "|---|---|---|---|")?;
    for key in KEYS {
        let change = match key.change {
            TakesEffect::Reload => "reload",
            TakesEffect::Restart => "restart",
        };
        writeln!(out, "| `{}` | `{}` | {} | {change} |", key.name, key.default, key.help.trim())?;
    }
    Ok(())
}

/// A text in lines that fit.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= COLUMNS {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DaemonConfig, file};

    fn printed() -> String {
        let mut text = Vec::new();
        default_file(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_default_file_changes_nothing_as_it_is_and_with_every_key_uncommented() {
        let text = printed();
        let mut config = DaemonConfig::default();
        file::apply(&mut config, &text).unwrap();
        assert_eq!(config, DaemonConfig::default());
        let keys =
            |line: &str| KEYS.iter().any(|key| line.starts_with(&format!("#{} = ", key.name)));
        let uncommented: Vec<_> =
            text.lines().map(|line| if keys(line) { &line[1..] } else { line }).collect();
        file::apply(&mut config, &uncommented.join("\n")).unwrap();
        assert_eq!(config, DaemonConfig::default());
        assert_eq!(text.lines().filter(|line| keys(line)).count(), KEYS.len());
    }

    #[test]
    fn the_default_file_fits_a_terminal() {
        let text = printed();
        let long: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn the_documentation_has_the_table_of_all_keys() {
        let mut table = Vec::new();
        markdown(&mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/DAEMON.md");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&table), "docs/DAEMON.md must hold this table:\n{table}");
    }
}
