//! Reads the file: every fault with its place, not only the first.

use std::{fmt, ops::Range};

use toml::de::{DeTable, DeValue};

use super::{DaemonConfig, KEYS, Key, value::Shape};
use crate::text::visible;

/// Least likeness of a word that is suggested for a misspelt one, 0 to 1.
const ALIKE: f64 = 0.75;

/// One fault of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFault {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, counted in characters.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub message: String,
}

impl fmt::Display for FileFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// Takes a file's bytes into the settings, as [`apply`] does.
///
/// # Errors
/// As for [`apply`]; also that they are no text, and from where on.
pub fn apply_bytes(config: &mut DaemonConfig, bytes: &[u8]) -> Result<(), Vec<FileFault>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => apply(config, text),
        Err(error) => {
            let (before, rest) = bytes.split_at(error.valid_up_to());
            let text = String::from_utf8_lossy(before);
            let byte = rest.first().copied().unwrap_or(0);
            let message = format!("byte {byte:#04x} is no UTF-8, in which a configuration is");
            Err(vec![place(&text, text.len(), message)])
        }
    }
}

/// Most faults that are told one by one.
const MOST_FAULTS: usize = 20;

/// Takes a file's text into the settings. With any fault the settings are not to be used.
///
/// # Errors
/// The faults, in the order of the text; of very many the first ones, and how many there are.
pub fn apply(config: &mut DaemonConfig, text: &str) -> Result<(), Vec<FileFault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<(usize, Problem<'_>)> = errors
        .iter()
        .map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, Problem::Said(error.message().to_owned()))
        })
        .collect();
    // A text that is no TOML has no keys worth talking of.
    if faults.is_empty() {
        for (name, value) in table.get_ref() {
            if let Err((span, problem)) = set(config, name.get_ref(), name.span(), value) {
                faults.push((span.start, problem));
            }
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    let all = faults.len();
    faults.truncate(MOST_FAULTS);
    let told = faults.into_iter().map(|(offset, problem)| place(text, offset, problem.in_words()));
    let mut told: Vec<FileFault> = told.collect();
    match told.last_mut() {
        None => return Ok(()),
        Some(last) if all > MOST_FAULTS => {
            last.message.push_str(&format!("; and {} more faults", all - MOST_FAULTS));
        }
        Some(_) => {}
    }
    Err(told)
}

/// What is wrong with a key. What there is to say of it is found when it is said.
enum Problem<'t> {
    /// In words.
    Said(String),
    /// Nobody knows it.
    Unknown(&'t str, &'t DeValue<'t>),
}

impl Problem<'_> {
    fn in_words(self) -> String {
        match self {
            Self::Said(words) => words,
            Self::Unknown(name, value) => unknown(name, value),
        }
    }
}

/// Sets one key.
fn set<'t>(
    config: &mut DaemonConfig,
    name: &'t str,
    name_span: Range<usize>,
    value: &'t toml::Spanned<DeValue<'t>>,
) -> Result<(), (Range<usize>, Problem<'t>)> {
    let Some(key) = Key::of(name) else {
        return Err((name_span, Problem::Unknown(name, value.get_ref())));
    };
    let text = match (value.get_ref(), key.shape) {
        (DeValue::Array(tables), Shape::Tables) => return set_tables(config, key, tables),
        (DeValue::String(text), Shape::Text | Shape::Size) => text.to_string(),
        (DeValue::Integer(number), Shape::Number | Shape::Size) if number.radix() == 10 => {
            number.as_str().to_owned()
        }
        _ => {
            let wanted = match key.shape {
                Shape::Text => "a string in quotes",
                Shape::Number => "a whole number without quotes",
                Shape::Size => "a size in quotes, or a whole number of MiB",
                Shape::Tables => "a list of tables",
            };
            let example = assignment(key);
            let problem = format!("{name} must be {wanted}, such as {example}");
            return Err((value.span(), Problem::Said(problem)));
        }
    };
    (key.set)(config, &text)
        .map_err(|error| (value.span(), Problem::Said(format!("{name} {error}"))))
}

/// Sets a key that has tables, by the text that its flag would have.
fn set_tables<'t>(
    config: &mut DaemonConfig,
    key: &Key,
    tables: &'t [toml::Spanned<DeValue<'t>>],
) -> Result<(), (Range<usize>, Problem<'t>)> {
    let mut texts = Vec::new();
    for table in tables {
        let fault = |error: String| (table.span(), Problem::Said(format!("{} {error}", key.name)));
        let text = description(table.get_ref()).map_err(fault)?;
        // Alone first, so that a fault has its place.
        (key.set)(&mut DaemonConfig::default(), &text).map_err(fault)?;
        texts.push(text);
    }
    let text = if texts.is_empty() { "none".to_owned() } else { texts.join(";") };
    (key.set)(config, &text).map_err(|error| (0..0, Problem::Said(error)))
}

/// A table as a flag has it.
fn description(table: &DeValue<'_>) -> Result<String, String> {
    let DeValue::Table(table) = table else {
        return Err("has tables, of keys and values".to_owned());
    };
    let mut words = Vec::new();
    for (name, value) in table {
        let one = |value: &DeValue<'_>| match value {
            // A value is one word for a flag; a time in two is the same in one.
            DeValue::String(text) => Some(text.split_whitespace().collect::<String>()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            _ => None,
        };
        let value = match value.get_ref() {
            DeValue::Array(list) => {
                let all = list.iter().map(|value| one(value.get_ref())).collect::<Option<Vec<_>>>();
                all.map(|all| all.join(","))
            }
            value => one(value),
        };
        let value = value.filter(|value| !value.contains(';'));
        let value =
            value.ok_or_else(|| format!("has no value of that kind for {}", name.get_ref()))?;
        let name = name.get_ref().replace('_', "-");
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            return Err(format!("does not know {name:?}"));
        }
        words.push(format!("{name}={value}"));
    }
    Ok(words.join(" "))
}

/// A key with its default, as the file writes it.
pub fn assignment(key: &Key) -> String {
    match key.shape {
        Shape::Text | Shape::Size => format!("{} = \"{}\"", key.name, key.default),
        Shape::Number => format!("{} = {}", key.name, key.default),
        Shape::Tables => format!("{} = []", key.name),
    }
}

/// What to say of a key nobody knows.
fn unknown(name: &str, value: &DeValue<'_>) -> String {
    if matches!(value, DeValue::Table(_)) {
        return format!("unknown table [{name}]: all keys stand at the top, without a table");
    }
    let spelt = name.replace('-', "_").to_lowercase();
    let alike = KEYS
        .iter()
        .map(|key| (strsim::jaro_winkler(&spelt, key.name), key.name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|one, two| one.0.total_cmp(&two.0));
    match alike {
        Some((_, key)) => format!("unknown key {name}; did you mean {key}?"),
        None => format!("unknown key {name}; `twtrace config --print-default` lists all"),
    }
}

/// Where a byte of the text is for a person.
fn place(text: &str, offset: usize, message: String) -> FileFault {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    FileFault {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        // A key may be any string.
        message: visible(&message).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn faults(text: &str) -> Vec<String> {
        let faults = apply(&mut DaemonConfig::default(), text).unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_told_with_line_and_column() {
        let text = "# comment\nmax_peer = 5\nlog = \"loud\"\n  max_live = \"many\"\n[api]\n";
        assert_eq!(
            faults(text),
            [
                "2:1: unknown key max_peer; did you mean max_peers?",
                "3:7: log must be one of error, warn, info, debug, trace",
                "4:14: max_live must be a whole number without quotes, such as max_live = 262144",
                "5:2: unknown table [api]: all keys stand at the top, without a table",
            ]
        );
    }

    #[test]
    fn tables_say_what_the_flag_says_and_each_fault_has_its_place() {
        let read = |text: &str| {
            let mut config = DaemonConfig::default();
            apply(&mut config, text).map(|()| config.egress)
        };
        let two = "[[egress]]\nports = 64512\nhold = \"2m\"\nfrom = [\"10.0.0.0/8\", \"192.0.2.1\"]\n\
                   [[egress]]\nports_in_all = 300\nhold = \"1m 30s\"\nnetns = [\"blue\", \"7\"]\n\
                   except = \"10.0.0.0/8\"\n";
        let flag = "ports=64512 hold=2m from=10.0.0.0/8,192.0.2.1; ports-in-all=300 hold=90s netns=blue,7 \
                    except=10.0.0.0/8";
        let mut given = DaemonConfig::default();
        (Key::of("egress").unwrap().set)(&mut given, flag).unwrap();
        assert_eq!(read(two), Ok(given.egress));
        assert_eq!(read("egress = []\n"), Ok(None));
        let told = faults("[[egress]]\nports = 1\nhold = \"1s\"\n[[egress]]\nports = 1\n");
        assert!(told[0].starts_with("4:1: egress needs ports and hold"), "{told:?}");
        let told = faults("log = \"info\"\negress = [{ ports = 1, hold = \"1s;\" }]\n");
        assert_eq!(told, ["2:11: egress has no value of that kind for hold"]);
        assert!(faults("egress = \"ports=1 hold=1s\"\n")[0].contains("must be a list of tables"));
        assert!(faults("[[egress]]\n\"a b\" = 1\n")[0].contains("does not know"));
    }

    #[test]
    fn a_text_that_is_no_toml_is_told_where_it_stops_being_one() {
        let told = faults("max_peers = 5\nlog = \n\"\n");
        assert!(told.iter().all(|fault| fault.starts_with("2:") || fault.starts_with("3:")));
        assert!(!told.is_empty());
        let twice = faults("log = \"info\"\nlog = \"warn\"\n");
        assert_eq!(twice, ["2:1: duplicate key"]);
    }

    #[test]
    fn of_very_many_faults_the_first_are_told_and_how_many_there_are() {
        let text: String = (0..100_000).map(|n| format!("key_{n} = 1\n")).collect();
        let told = faults(&text);
        assert_eq!(told.len(), MOST_FAULTS);
        assert!(told[0].starts_with("1:1: unknown key key_0;"), "{}", told[0]);
        assert!(told[19].ends_with("; and 99980 more faults"), "{}", told[19]);
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        let told = apply_bytes(&mut DaemonConfig::default(), b"log = \"info\"\n# gr\xf6\xdfe\n")
            .unwrap_err();
        assert_eq!(told[0].to_string(), "2:5: byte 0xf6 is no UTF-8, in which a configuration is");
    }

    #[test]
    fn columns_are_counted_in_characters() {
        assert_eq!(
            faults("\"größe\" = 1 # ö\n")[0].split(" ;").next().unwrap(),
            faults("\"größe\" = 1\n")[0]
        );
        assert!(faults("\"ä\" = 1\nlog = 1").iter().any(|fault| fault.starts_with("2:7: ")));
    }

    #[test]
    fn a_key_spelt_as_its_flag_is_recognised() {
        assert_eq!(
            faults("max-peers = 5\n"),
            ["1:1: unknown key max-peers; did you mean max_peers?"]
        );
        assert!(faults("colour = 1\n")[0].contains("--print-default"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_every_fault_has_a_place(text in ".{0,200}") {
            if let Err(faults) = apply(&mut DaemonConfig::default(), &text) {
                let lines = text.matches('\n').count() + 1;
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    prop_assert!((1..=lines).contains(&fault.line) && fault.column >= 1);
                }
            }
        }

        #[test]
        fn no_value_of_a_known_key_makes_it_panic(
            index in 0..KEYS.len(),
            value in prop_oneof![
                "[0-9a-fx_.eE+-]{1,20}",
                "\"[^\"\\\\\u{0}-\u{1f}]{0,30}\"",
                Just("[1, 2]".to_owned()),
                Just("{ a = 1 }".to_owned()),
                Just("1979-05-27".to_owned()),
            ],
        ) {
            let mut config = DaemonConfig::default();
            let applied = apply(&mut config, &format!("{} = {value}\n", KEYS[index].name));
            if applied.is_ok() {
                let changes = DaemonConfig::default().changes(&config);
                let touched = changes.now.iter().chain(&changes.restart);
                prop_assert!(touched.into_iter().all(|name| *name == KEYS[index].name));
            }
        }
    }
}
