//! Where this machine gets Debian packages from, read from its own apt configuration.
//!
//! The kernels of other releases lie in the same archive under other suites, so that no
//! address has to be known here.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// One place packages come from, as apt is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The archive's address.
    pub uri: String,
    /// Releases taken from it.
    pub suites: Vec<String>,
    /// The keyring that vouches for it, verbatim; apt's own keys if absent.
    pub signed_by: Option<String>,
}

/// The archive's two halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Releases as published.
    pub main: Source,
    /// Security updates between point releases; where kernels are newest.
    pub security: Option<Source>,
}

/// Reads `sources.list` and `sources.list.d` under that directory (`/etc/apt`).
pub fn read(etc_apt: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    if let Ok(text) = fs::read_to_string(etc_apt.join("sources.list")) {
        sources.extend(parse_list(&text));
    }
    let parts = etc_apt.join("sources.list.d");
    let Ok(entries) = fs::read_dir(&parts) else { return Ok(sources) };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let parse: fn(&str) -> Vec<Source> = match path.extension().and_then(|it| it.to_str()) {
            Some("list") => parse_list,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        sources.extend(parse(&text));
    }
    Ok(sources)
}

/// Picks Debian's own archive out of a machine's sources.
///
/// Told by its path (`…/debian`, `…/debian-security`) and, for addresses that hide the
/// path, by the suites' names.
pub fn debian_archive(sources: &[Source]) -> Option<Archive> {
    let tail = |source: &Source| {
        source.uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
    };
    let is_security = |source: &&Source| {
        tail(source).starts_with("debian-security")
            || source.suites.iter().any(|suite| suite.ends_with("-security"))
    };
    let main = sources.iter().find(|it| tail(it).starts_with("debian") && !is_security(it))?;
    let security = sources
        .iter()
        .find(|it| tail(it).starts_with("debian") && is_security(it))
        // Some machines have both in one line, without a path of its own for security.
        .filter(|it| it.uri != main.uri);
    Some(Archive { main: main.clone(), security: security.cloned() })
}

/// Parses the format of one line a source.
fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Source {
        uri: uri.to_owned(),
        suites: vec![suite.to_owned()],
        signed_by: signed_by.map(str::to_owned),
    })
}

/// Parses paragraphs of `Field: value`, the format of `.sources` files.
fn parse_deb822(text: &str) -> Vec<Source> {
    let without_comments: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments
        .split(|line| line.trim().is_empty())
        .flat_map(|paragraph| parse_paragraph(&fields(paragraph)))
        .collect()
}

/// Joins continuation lines, which begin with a blank, to their fields.
fn fields(paragraph: &[&str]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in paragraph {
        if let (true, Some((_, value))) = (line.starts_with([' ', '\t']), fields.last_mut()) {
            value.push('\n');
            value.push_str(line);
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    fields
}

fn parse_paragraph(fields: &[(String, String)]) -> Vec<Source> {
    let get = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, it)| it.as_str());
    let disabled = get("enabled").is_some_and(|it| it.eq_ignore_ascii_case("no"));
    let binary = get("types").is_some_and(|it| it.split_whitespace().any(|word| word == "deb"));
    if disabled || !binary {
        return Vec::new();
    }
    let words = |name| get(name).unwrap_or_default().split_whitespace().map(str::to_owned);
    let suites: Vec<_> = words("suites").collect();
    let signed_by = get("signed-by").filter(|it| !it.is_empty()).map(str::to_owned);
    words("uris")
        .map(|uri| Source { uri, suites: suites.clone(), signed_by: signed_by.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment inside
URIs: http://archive.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb
URIs: http://archive.test/debian-security/
Suites: bookworm-security
Components: main

Types: deb-src
URIs: http://archive.test/debian
Suites: bookworm

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
";

    #[test]
    fn paragraphs_name_the_archive_and_its_key() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2, "neither source code nor what is switched off");
        let archive = debian_archive(&sources).unwrap();
        assert_eq!(archive.main.uri, "http://archive.test/debian");
        assert_eq!(archive.main.signed_by.as_deref(), Some("/usr/share/keyrings/archive.gpg"));
        assert_eq!(archive.security.unwrap().uri, "http://archive.test/debian-security/");
    }

    #[test]
    fn a_key_inside_the_file_is_kept_with_its_lines() {
        let text = "Types: deb\nURIs: http://archive.test/debian\nSuites: sid\n\
                    Signed-By:\n -----BEGIN\n .\n -----END\n";
        let sources = parse_deb822(text);
        assert_eq!(sources[0].signed_by.as_deref(), Some("\n -----BEGIN\n .\n -----END"));
    }

    #[test]
    fn lines_may_have_options_and_comments() {
        let text = "# deb http://old.test/debian bookworm main\n\
                    deb-src http://archive.test/debian bookworm main\n\
                    deb https://other.test/apt stable main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://archive.test/debian trixie main # x\n\
                    deb http://archive.test/debian-security trixie-security main\n";
        let archive = debian_archive(&parse_list(text)).unwrap();
        assert_eq!(
            archive.main,
            Source {
                uri: "http://archive.test/debian".into(),
                suites: vec!["trixie".into()],
                signed_by: Some("/k.gpg".into())
            }
        );
        assert!(archive.security.is_some());
    }

    #[test]
    fn a_machine_without_debian_has_no_archive() {
        let sources = parse_list("deb http://archive.test/ubuntu noble main\n");
        assert_eq!(debian_archive(&sources), None);
    }
}
