//! Results of the scenarios on one kernel, printed as tests of their own.

use std::{collections::BTreeSet, fs, path::Path, process::ExitStatus, time::Duration};

use crate::events::{self, Event, Verdict};

/// Lines of a log that the report of a failure repeats: a panic with its trace.
const TAIL: usize = 50;

/// Lines that the report of one scenario repeats.
const SHORT_TAIL: usize = 10;

/// How many of the slowest scenarios are named.
const SLOWEST: usize = 10;

/// How a run of the scenarios ended.
#[derive(Debug)]
pub enum End {
    /// With the runner's exit code.
    Exit(i32),
    /// The kernel gave up, with this line.
    Panic(String),
    /// Nothing was said for too long.
    Silent(Duration),
    /// It took too long in all.
    TooLong(Duration),
    /// The runner, or qemu, ended without a code.
    Died(ExitStatus),
}

/// A test that failed.
#[derive(Debug)]
pub struct Failure {
    /// With the kernel that it ran on.
    pub name: String,
    /// All that is known of it, with the reason.
    pub log: String,
    /// The reason, in a line.
    pub why: String,
}

/// Test results, of one kernel or of many.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Those that failed.
    pub failed: Vec<Failure>,
    /// Tests that did not apply.
    pub ignored: usize,
    /// How long each test took.
    pub took: Vec<(String, Duration)>,
}

impl Tally {
    /// Adds another machine's results.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored += other.ignored;
        self.took.extend(other.took);
    }

    /// The slowest tests as lines of a table.
    pub fn slowest(&self) -> String {
        let mut took: Vec<_> = self.took.iter().collect();
        took.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let line = |(name, took): &(String, Duration)| {
            format!("  {name:<58} {:>7.1} s\n", took.as_secs_f64())
        };
        took.into_iter().take(SLOWEST).map(line).collect()
    }

    /// The failed tests with their reasons, a line each.
    pub fn reasons(&self) -> String {
        self.failed.iter().map(|Failure { name, why, .. }| format!("  {name}: {why}\n")).collect()
    }

    /// The logs of the failed tests and the closing line, as cargo's test runner words it.
    pub fn closing(&self, took: Duration) -> String {
        let mut text = String::new();
        if !self.failed.is_empty() {
            text.push_str("\nfailures:\n\n");
            for Failure { name, log, .. } in &self.failed {
                text.push_str(&format!("---- {name} ----\n{}\n\n", log.trim_end()));
            }
            text.push_str("failures:\n");
            for Failure { name, .. } in &self.failed {
                text.push_str(&format!("    {name}\n"));
            }
        }
        let word = if self.failed.is_empty() { "ok" } else { "FAILED" };
        text.push_str(&format!(
            "\ntest result: {word}. {} passed; {} failed; {} ignored; 0 measured; \
             0 filtered out; finished in {:.2}s\n",
            self.passed,
            self.failed.len(),
            self.ignored,
            took.as_secs_f64()
        ));
        text
    }
}

/// Follows one machine's events.
pub struct Progress<'a> {
    label: &'a str,
    tally: Tally,
    /// Tests that have not ended yet.
    open: Vec<String>,
    running: BTreeSet<String>,
    /// What was printed since the last test ended; with several at once, perhaps by another.
    text: String,
    booted: bool,
    suite_ended: bool,
}

impl<'a> Progress<'a> {
    /// Nothing heard yet.
    pub fn new(label: &'a str) -> Self {
        Self {
            label,
            tally: Tally::default(),
            open: Vec::new(),
            running: BTreeSet::new(),
            text: String::new(),
            booted: false,
            suite_ended: false,
        }
    }

    /// Takes an event in; the answer is a line to print.
    pub fn take(&mut self, event: &Event) -> Option<String> {
        let label = self.label;
        match event {
            Event::Started => self.booted = true,
            Event::SuiteEnded => self.suite_ended = true,
            Event::Planned(name) => self.open.push(name.clone()),
            Event::Begun(name) => {
                self.running.insert(name.clone());
            }
            Event::Took(name, took) => self.tally.took.push((format!("{label}/{name}"), *took)),
            Event::TestEnded(name, verdict) => {
                self.running.remove(name);
                self.open.retain(|open| open != name);
                let full = format!("{label}/{name}");
                let word = match verdict {
                    Verdict::Ok => {
                        self.tally.passed += 1;
                        "ok"
                    }
                    Verdict::Ignored => {
                        self.tally.ignored += 1;
                        "ignored"
                    }
                    Verdict::Failed(message) => {
                        let log = format!("{}{message}", self.text);
                        let why = message.lines().find(|line| !line.trim().is_empty());
                        let why = why.unwrap_or("it did not say why").to_owned();
                        self.tally.failed.push(Failure { name: full.clone(), log, why });
                        "FAILED"
                    }
                };
                self.text.clear();
                return Some(format!("test {full} ... {word}"));
            }
            Event::Text(line) => {
                self.text.push_str(line);
                self.text.push('\n');
            }
            Event::Note(note) => return Some(format!("{label}: {note}")),
            Event::Exit(_) => {}
        }
        None
    }

    /// How far it is, in few words.
    pub fn how_far(&self) -> String {
        let Tally { passed, failed, ignored, .. } = &self.tally;
        let done = passed + failed.len() + ignored;
        match (self.booted, failed.len()) {
            (false, _) => "booting".to_owned(),
            (true, 0) => format!("{done} of {} scenarios", done + self.open.len()),
            (true, bad) => format!("{done} of {} scenarios, {bad} FAILED", done + self.open.len()),
        }
    }

    /// Closes the books: an end before the scenarios' own counts as a failed test. The logs are of
    /// the kernel and of all that was said.
    pub fn finish(mut self, end: &End, logs: &[impl AsRef<Path>]) -> (Tally, Option<String>) {
        let why = match end {
            // 101 is libtest-mimic's word for failed tests, which are on the list already.
            End::Exit(0 | 101) if self.suite_ended => {
                for Failure { log, .. } in &mut self.tally.failed {
                    if let Some(console) = logs.first() {
                        log.push_str(&tail_of(console.as_ref(), SHORT_TAIL));
                    }
                }
                return (self.tally, None);
            }
            End::Exit(code) => format!("the scenarios ended early with exit code {code}"),
            End::Panic(line) => format!("the kernel panicked: {line}"),
            End::Silent(time) => {
                format!("ended after {} s without a word", time.as_secs())
            }
            End::TooLong(time) => format!("ended since it took over {} s", time.as_secs()),
            End::Died(status) => format!("ended before the scenarios reported ({status})"),
        };
        let stage = match (self.running.first(), self.booted) {
            (Some(test), _) => test.clone(),
            (None, true) => "(scenarios)".to_owned(),
            (None, false) => "(boot)".to_owned(),
        };
        let name = format!("{}/{stage}", self.label);
        let mut log = format!(
            "{why}\nscenarios that ran: {}\nscenarios that had not ended: {}",
            listed(&self.running),
            listed(&self.open),
        );
        for path in logs {
            log.push_str(&tail_of(path.as_ref(), TAIL));
        }
        let line = format!("test {name} ... FAILED ({why})");
        self.tally.failed.push(Failure { name, log, why });
        (self.tally, Some(line))
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn tail_of(path: &Path, count: usize) -> String {
    format!("\n--- last lines of {}\n{}", path.display(), last_lines(path, count))
}

fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = events::tail(&String::from_utf8_lossy(&bytes), count);
    if text.is_empty() { "(nothing)".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_gets_a_line_with_its_kernel_and_failures_their_log() {
        let mut progress = Progress::new("6.1");
        let lines: Vec<_> = [
            Event::Started,
            Event::Begun("kprobe::a".into()),
            Event::Took("kprobe::a".into(), Duration::from_secs(2)),
            Event::TestEnded("kprobe::a".into(), Verdict::Ok),
            Event::Begun("kprobe::b".into()),
            Event::Text("was here".into()),
            Event::TestEnded("kprobe::b".into(), Verdict::Failed("2 is not 3".into())),
            Event::SuiteEnded,
        ]
        .iter()
        .filter_map(|event| progress.take(event))
        .collect();
        assert_eq!(progress.tally.slowest().split_whitespace().next(), Some("6.1/kprobe::a"));
        assert_eq!(lines, ["test 6.1/kprobe::a ... ok", "test 6.1/kprobe::b ... FAILED"]);
        assert_eq!(progress.tally.reasons(), "  6.1/kprobe::b: 2 is not 3\n");
        assert_eq!(
            progress.tally.closing(Duration::from_millis(1500)),
            "\nfailures:\n\n---- 6.1/kprobe::b ----\nwas here\n2 is not 3\n\n\
             failures:\n    6.1/kprobe::b\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; \
             0 filtered out; finished in 1.50s\n"
        );
    }

    #[test]
    fn a_machine_that_falls_silent_fails_the_test_it_was_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("console.log"), "one\ntwo\n").unwrap();
        let mut progress = Progress::new("7.2");
        progress.take(&Event::Started);
        progress.take(&Event::Planned("fentry::a".into()));
        progress.take(&Event::Planned("fentry::b".into()));
        progress.take(&Event::Begun("fentry::a".into()));
        let logs = [dir.path().join("console.log")];
        let (tally, line) = progress.finish(&End::Silent(Duration::from_secs(60)), &logs);
        assert_eq!(
            line.unwrap(),
            "test 7.2/fentry::a ... FAILED (ended after 60 s without a word)"
        );
        let Failure { log, .. } = &tally.failed[0];
        assert!(log.contains("not ended: fentry::a, fentry::b\n"));
        assert!(log.contains("console.log\none\ntwo"), "{log}");
        assert_eq!(tally.reasons(), "  7.2/fentry::a: ended after 60 s without a word\n");
    }
}
