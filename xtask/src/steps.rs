//! A list of steps with their times, and the table at its end.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process::say;

/// Steps that were run, in order.
#[derive(Default)]
pub struct Steps(Vec<(String, Outcome, Duration)>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Failed,
    Skipped,
}

impl Steps {
    /// Announces a step, runs it, and notes how it went; its error is printed at once.
    pub fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Option<T> {
        say!("=== {name}");
        let started = Instant::now();
        let (outcome, value) = match step() {
            Ok(value) => (Outcome::Ok, Some(value)),
            Err(error) => {
                say!("{name}: {error:#}");
                (Outcome::Failed, None)
            }
        };
        self.0.push((name.to_owned(), outcome, started.elapsed()));
        value
    }

    /// Notes a step that could not be run because an earlier one failed.
    pub fn skip(&mut self, name: &str) {
        self.0.push((name.to_owned(), Outcome::Skipped, Duration::ZERO));
    }

    /// Whether every step was run and went well.
    pub fn all_ok(&self) -> bool {
        self.0.iter().all(|(_, outcome, _)| *outcome == Outcome::Ok)
    }

    /// The steps as lines of a table.
    pub fn table(&self) -> String {
        let line = |(name, outcome, took): &(String, Outcome, Duration)| {
            let word = match outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "not run: an earlier step failed",
            };
            format!("  {name:<42} {:>7.1} s  {word}\n", took.as_secs_f64())
        };
        self.0.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_list_but_not_the_steps_after_it() {
        let mut steps = Steps::default();
        assert_eq!(steps.run("one", || -> Result<u8> { anyhow::bail!("no") }), None);
        assert_eq!(steps.run("two", || Ok(2)), Some(2));
        assert!(!steps.all_ok());
        let table = steps.table();
        let words: Vec<_> =
            table.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
        assert_eq!(words, ["FAILED", "ok"]);
    }
}
