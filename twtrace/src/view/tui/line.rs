//! The line in which a filter is typed.

use crate::{
    filter::Expr,
    host::cgroup,
    owner::Owners,
    summary::{Row, Summary},
};

/// A filter on what is shown, applied as it is typed.
#[derive(Clone, Debug, Default)]
pub struct FilterLine {
    /// The text in force.
    text: String,
    /// What it means, names bound as far as they are known here.
    expr: Expr,
    /// The text being typed, if one is.
    typed: Option<String>,
    /// What is wrong with it, and the column.
    error: Option<(usize, String)>,
}

impl FilterLine {
    /// Begins to type, with the text in force.
    pub fn open(&mut self) {
        self.typed = Some(self.text.clone());
    }

    /// The text being typed.
    pub fn typed(&self) -> Option<&str> {
        self.typed.as_deref()
    }

    /// What is wrong with it, and the column.
    pub fn error(&self) -> Option<(usize, &str)> {
        self.error.as_ref().map(|(column, what)| (*column, what.as_str()))
    }

    /// The text in force; empty when everything is shown.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Changes what is being typed and applies it, unless it makes no sense (yet).
    pub fn edit(&mut self, summary: Option<&Summary>, change: impl FnOnce(&mut String)) {
        let Some(typed) = &mut self.typed else { return };
        change(typed);
        match meaning(typed, summary) {
            Ok(expr) => {
                self.expr = expr;
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Ends the typing and keeps the text; goes on if it makes no sense.
    pub fn accept(&mut self) {
        if self.error.is_none()
            && let Some(typed) = self.typed.take()
        {
            self.text = typed.trim().to_owned();
        }
    }

    /// Ends the typing and goes back to the text before.
    pub fn cancel(&mut self, summary: Option<&Summary>) {
        let before = std::mem::take(&mut self.text);
        self.typed = Some(String::new());
        self.edit(summary, |typed| typed.clone_from(&before));
        self.typed = None;
        self.error = None;
        self.text = before;
    }

    /// The expression in force.
    pub const fn expr(&self) -> &Expr {
        &self.expr
    }

    /// Whether a row may hold sockets that match.
    pub fn shows(&self, row: &Row, owners: &Owners) -> bool {
        self.expr.may_match_row(row.facts(owners))
    }

    /// How many of the rows shown may hold sockets that do not match, and the words of the
    /// conditions that leave it open; `None` where it is clear for all.
    pub fn open_for(&self, rows: &[&Row], owners: &Owners) -> Option<(usize, String)> {
        let open = self.expr.open_for_rows(rows.iter().map(|row| row.facts(owners)));
        let words: Vec<&str> = open.words.into_iter().collect();
        (open.rows > 0).then(|| (open.rows, words.join(", ")))
    }
}

/// What a text means; or the column that makes no sense, and why.
fn meaning(text: &str, summary: Option<&Summary>) -> Result<Expr, (usize, String)> {
    let expr: Expr = text.parse().map_err(|error: crate::filter::FilterError| {
        (error.column, format!("expected {}", error.expected))
    })?;
    let unknown = || "no such name among those seen".to_owned();
    let netns = |name: &str| {
        let mut names = summary.iter().flat_map(|summary| &summary.netns_names);
        names
            .find(|(_, known)| *known == name)
            .map(|(inum, _)| u64::from(*inum))
            .ok_or_else(unknown)
    };
    let cgroup = |path: &str| {
        let name = cgroup::name(path);
        let mut names = summary.iter().flat_map(|summary| &summary.cgroup_names);
        names.find(|(_, known)| **known == name).map(|(id, _)| *id).ok_or_else(unknown)
    };
    expr.bind(&netns, &cgroup).map_err(|error| (0, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &mut FilterLine, text: &str) {
        text.chars().for_each(|char| line.edit(None, |typed| typed.push(char)));
    }

    #[test]
    fn the_last_text_that_made_sense_holds_while_one_types() {
        let mut line = FilterLine::default();
        line.open();
        typed(&mut line, "uid 1 a");
        assert_eq!(line.expr().to_string(), "uid 1");
        assert!(line.error().is_some_and(|(column, what)| column == 6 && what.contains("a term")));
        line.accept();
        assert_eq!(line.typed(), Some("uid 1 a"), "it makes no sense, so typing goes on");
        typed(&mut line, "nd uid 2");
        line.accept();
        assert_eq!((line.typed(), line.text()), (None, "uid 1 and uid 2"));
    }

    #[test]
    fn giving_up_goes_back_to_what_was_in_force() {
        let mut line = FilterLine::default();
        line.open();
        typed(&mut line, "timestamps");
        line.accept();
        line.open();
        typed(&mut line, " and (");
        line.cancel(None);
        assert_eq!((line.text(), line.typed(), line.error()), ("timestamps", None, None));
        assert_eq!(line.expr().to_string(), "timestamps");
    }

    #[test]
    fn a_name_nobody_knows_is_an_error() {
        let mut line = FilterLine::default();
        line.open();
        typed(&mut line, "netns web");
        assert_eq!(line.error(), Some((0, "netns web: no such name among those seen")));
    }
}
