//! Help, man pages and completions, all from the definition of the command line and one page of
//! text for each command.

mod pages;

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use crate::cli::{Cli, CompletedShell};
use pages::{PAGES, Page};

/// When what the man pages say was last changed; they are the same whenever they are made.
const DATE: &str = "2026-11-25";

/// Widest line of an example's command before its meaning goes below it.
const EXAMPLE: usize = 46;

/// The definition of the command line, with the examples before every help text.
pub fn command() -> Command {
    PAGES.iter().fold(Cli::command(), |command, page| match page.command {
        "" => command.before_help(examples(page)),
        name => command.mut_subcommand(name, |inner| inner.before_help(examples(page))),
    })
}

/// Writes what makes a shell complete our command lines.
///
/// # Errors
/// Those of the writer.
pub fn write_completions(shell: CompletedShell, out: &mut impl Write) -> io::Result<()> {
    let shell = match shell {
        CompletedShell::Bash => clap_complete::Shell::Bash,
        CompletedShell::Zsh => clap_complete::Shell::Zsh,
        CompletedShell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "twtrace", &mut script);
    out.write_all(&script)
}

/// Writes a man page for twtrace and for each of its commands, and tells how many.
///
/// # Errors
/// The directory cannot be made or written to.
pub fn write_man(directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let mut whole = command();
    whole.build();
    let inner = whole.get_subcommands().filter(|inner| inner.get_name() != "help");
    let commands = std::iter::once(("twtrace".to_owned(), "", &whole)).chain(
        inner.map(|inner| (format!("twtrace-{}", inner.get_name()), inner.get_name(), inner)),
    );
    let mut pages = 0;
    for (title, name, command) in commands {
        let page = PAGES.iter().find(|page| page.command == name);
        let mut text = Vec::new();
        write_page(&title, command, page, &mut text)?;
        fs::write(directory.join(format!("{title}.1")), text)?;
        pages += 1;
    }
    Ok(pages)
}

/// One man page.
fn write_page(
    title: &str,
    command: &Command,
    page: Option<&Page>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let bare = command
        .clone()
        .name(title.to_owned())
        .display_name(title.to_owned())
        .before_help(None::<&str>)
        .after_help(None::<&str>);
    let mut roff = Roff::default();
    let version = concat!("twtrace ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [title.to_uppercase().as_str(), "1", DATE, version]);
    roff.to_writer(out)?;
    let man = Man::new(bare);
    let mut rendered = Vec::new();
    man.render_name_section(&mut rendered)?;
    man.render_synopsis_section(&mut rendered)?;
    man.render_description_section(&mut rendered)?;
    man.render_options_section(&mut rendered)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut rendered)?;
    }
    out.extend_from_slice(tidy(&String::from_utf8_lossy(&rendered)).as_bytes());
    let Some(page) = page else { return Ok(()) };
    let mut roff = Roff::default();
    roff.control("SH", ["EXAMPLES"]);
    for (line, meaning) in page.examples {
        roff.control("TP", []);
        roff.text([bold(*line)]);
        roff.text([roman(*meaning)]);
    }
    if !page.overhead.is_empty() {
        roff.control("SH", ["OVERHEAD"]);
        paragraphs(&mut roff, page.overhead);
    }
    if !page.fields.is_empty() {
        roff.control("SH", ["FIELDS"]);
        definitions(&mut roff, page.fields);
    }
    if page.has_filter {
        roff.control("SH", ["FILTER EXPRESSIONS"]);
        roff.control("nf", []);
        roff.text([roman(crate::filter::GRAMMAR)]);
        roff.control("fi", []);
    }
    roff.control("SH", ["EXIT STATUS"]);
    definitions(&mut roff, page.exit);
    roff.control("SH", ["SEE ALSO"]);
    let others = ["twtrace(1)", "ss(8)", "nstat(8)", "tcp(7)"];
    roff.text([italic(others.iter().skip(usize::from(page.command.is_empty())).fold(
        String::new(),
        |all, one| {
            if all.is_empty() { (*one).to_owned() } else { format!("{all}, {one}") }
        },
    ))]);
    roff.to_writer(out)
}

fn definitions(roff: &mut Roff, pairs: &[(&str, &str)]) {
    for (term, meaning) in pairs {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

fn paragraphs(roff: &mut Roff, text: &str) {
    for (index, paragraph) in text.split("\n\n").enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph)] as [Inline; 1]);
    }
}

/// What is rendered for us, without what formatters pass over with a warning: breaks on both sides
/// of an empty line, and blanks at the end of a line.
fn tidy(rendered: &str) -> String {
    let lines: String = rendered.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    lines.replace("\n.br\n\n.br\n", "\n.sp\n")
}

/// The examples as the lines before a help text.
fn examples(page: &Page) -> String {
    let mut text = "Examples:".to_owned();
    for (line, meaning) in page.examples {
        if line.chars().count() <= EXAMPLE {
            text.push_str(&format!("\n  {line:<EXAMPLE$}  {meaning}"));
        } else {
            text.push_str(&format!("\n  {line}\n  {:EXAMPLE$}  {meaning}", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that explain themselves.
    const PLAIN: [&str; 3] = ["completions", "man", "help"];

    #[test]
    fn every_command_has_a_page() {
        for inner in command().get_subcommands() {
            let name = inner.get_name();
            let found = PAGES.iter().any(|page| page.command == name);
            assert!(found || PLAIN.contains(&name), "{name} has no page in manual/pages.rs");
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for (line, _) in PAGES.iter().flat_map(|page| page.examples) {
            let own = line.split(" | ").next().unwrap();
            let own = own.strip_prefix("sudo ").unwrap_or(own);
            // Quotes hold one filter together; it may be given in words as well.
            let words = own.split_whitespace().map(|word| word.trim_matches('\''));
            let parsed = command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn every_man_page_has_the_sections_people_look_for() {
        let directory = tempfile::tempdir().unwrap();
        let count = write_man(directory.path()).unwrap();
        assert_eq!(count, fs::read_dir(directory.path()).unwrap().count());
        let watch = fs::read_to_string(directory.path().join("twtrace-watch.1")).unwrap();
        for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "OVERHEAD", "FIELDS"] {
            assert!(watch.contains(&format!(".SH {section}\n")), "{section} is missing:\n{watch}");
        }
        assert!(watch.contains(".SH \"EXIT STATUS\"\n"), "{watch}");
    }
}
