//! What `--help` says, whole: a change of the command line is a change of these texts.
//!
//! `INSTA_UPDATE=always cargo test --test help` writes them anew; read the difference.

use twtrace::manual;

/// The help of twtrace, or of one of its commands, on 80 columns.
fn help(name: Option<&str>) -> String {
    let mut command = manual::command().term_width(80).max_term_width(80);
    command.build();
    let command = match name {
        Some(name) => command.find_subcommand_mut(name).expect("a command of that name"),
        None => &mut command,
    };
    command.render_long_help().to_string()
}

#[test]
fn help_shows_examples_first() {
    let names: Vec<String> =
        manual::command().get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    for name in names.iter().map(|name| Some(name.as_str())).chain([None]) {
        let text = help(name);
        let plain = matches!(name, Some("completions" | "man"));
        assert!(plain || text.starts_with("Examples:\n"), "{name:?}:\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{name:?}:\n{text}");
        insta::assert_snapshot!(name.unwrap_or("twtrace").to_owned(), text);
    }
}
