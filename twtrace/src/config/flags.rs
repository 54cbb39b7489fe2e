//! Every key as a flag of `twtrace daemon`.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, error::ErrorKind};

use super::{DaemonConfig, KEYS, Key};

/// Settings given on the command line, already known to be good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    given: Vec<(&'static str, String)>,
}

impl Flags {
    /// Takes them into the settings.
    pub fn apply(&self, config: &mut DaemonConfig) {
        for (name, text) in &self.given {
            let Some(key) = Key::of(name) else { continue };
            let read = (key.set)(config, text);
            debug_assert!(read.is_ok(), "{name} was checked when it was given: {read:?}");
        }
    }

    /// Flags for tests, by key.
    #[cfg(test)]
    pub(super) fn of(given: &[(&'static str, &str)]) -> Self {
        Self { given: given.iter().map(|(key, text)| (*key, (*text).to_owned())).collect() }
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| {
            let default = Key::help_of(key.name, key.default);
            command.arg(
                Arg::new(key.name)
                    .long(key.flag())
                    .value_name(key.value_name)
                    .help_heading(key.group)
                    .help(default)
                    .value_parser(move |text: &str| checked(key, text)),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The text, if the key takes it.
fn checked(key: &Key, text: &str) -> Result<String, String> {
    (key.set)(&mut DaemonConfig::default(), text).map(|()| text.to_owned())
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for key in KEYS {
            let given = matches
                .try_get_one::<String>(key.name)
                .map_err(|error| Error::raw(ErrorKind::InvalidValue, error))?;
            if let Some(text) = given {
                self.given.push((key.name, text.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, Error> {
        let command = Flags::augment_args(Command::new("daemon").no_binary_name(true));
        Flags::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    #[test]
    fn every_key_is_a_flag_that_takes_what_the_file_takes() {
        for key in KEYS {
            let flags = parse(&[&format!("--{}", key.flag()), key.default]).unwrap();
            let mut config = DaemonConfig::default();
            flags.apply(&mut config);
            assert_eq!(config, DaemonConfig::default(), "{}", key.name);
        }
    }

    #[test]
    fn a_flag_is_refused_with_the_words_of_the_file() {
        let error = parse(&["--max-peers", "0"]).unwrap_err().to_string();
        assert!(error.contains("must be from 1 to 16777216"), "{error}");
    }
}
