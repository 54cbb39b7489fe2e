//! Results of one virtual machine, printed as tests of their own.

use std::{fs, path::Path, time::Duration};

use super::{
    console::{self, Event, Verdict},
    qemu::{End, Machine},
};

/// Lines of the kernel's console that a report repeats: a panic with its trace.
const CONSOLE_TAIL: usize = 50;

/// Lines of the scenarios' output that a report repeats.
const RESULTS_TAIL: usize = 15;

/// Test results, of one machine or of many.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Name and log of those that failed.
    pub failed: Vec<(String, String)>,
    /// Tests that did not apply.
    pub ignored: usize,
    /// Names of those that were to run, less the machine's label, in a machine that ended before
    /// they did.
    pub unfinished: Vec<String>,
}

impl Tally {
    /// Adds another machine's results.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.ignored += other.ignored;
        self.unfinished.extend(other.unfinished);
    }

    /// What to run once more, less the machine's label: scenarios that failed or did not end. What
    /// stands in brackets among the failures is a stage of the machine, and no scenario.
    pub fn to_run_again(&self, label: &str) -> Vec<String> {
        let failed = self.failed.iter().filter_map(|(name, _)| {
            let name = name.strip_prefix(label)?.strip_prefix('/')?;
            (!name.starts_with('(')).then(|| name.to_owned())
        });
        let mut names: Vec<_> = failed.chain(self.unfinished.iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The logs of the failed tests and the closing line, as cargo's test runner words it.
    pub fn closing(&self, took: Duration) -> String {
        let mut text = String::new();
        if !self.failed.is_empty() {
            text.push_str("\nfailures:\n\n");
            for (name, log) in &self.failed {
                text.push_str(&format!("---- {name} ----\n{}\n\n", log.trim_end()));
            }
            text.push_str("failures:\n");
            for (name, _) in &self.failed {
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
    running: Option<String>,
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
            running: None,
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
            Event::TestStarted(name) => self.running = Some(name.clone()),
            Event::TestEnded(name, verdict) => {
                self.running = None;
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
                        self.tally.failed.push((full.clone(), log));
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

    /// Closes the books: an end before the scenarios' own counts as a failed test.
    pub fn finish(mut self, end: &End, machine: &Machine<'_>) -> (Tally, Option<String>) {
        let why = match end {
            // 101 is libtest-mimic's word for failed tests, which are on the list already.
            End::Exit(0 | 101) if self.suite_ended => return (self.tally, None),
            End::Exit(code) => format!("the scenarios ended early with exit code {code}"),
            End::Panic(line) => format!("the kernel panicked: {line}"),
            End::Silent(time) => {
                format!("ended after {} s without a word", time.as_secs())
            }
            End::TooLong(time) => format!("ended since it took over {} s", time.as_secs()),
            End::Died(status) => format!("qemu ended before the guest reported ({status})"),
        };
        let stage = match (&self.running, self.booted) {
            (Some(test), _) => test.clone(),
            (None, true) => "(scenarios)".to_owned(),
            (None, false) => "(boot)".to_owned(),
        };
        let name = format!("{}/{stage}", self.label);
        let open = if self.open.is_empty() { "none".to_owned() } else { self.open.join(", ") };
        let log = format!(
            "{why}\nscenarios that had not ended: {open}\nlast lines of {}:\n{}\nlast lines of {}:\n{}",
            machine.console_log().display(),
            last_lines(&machine.console_log(), CONSOLE_TAIL),
            machine.results_log().display(),
            last_lines(&machine.results_log(), RESULTS_TAIL),
        );
        self.tally.failed.push((name.clone(), log));
        self.tally.unfinished = self.open;
        (self.tally, Some(format!("test {name} ... FAILED ({why})")))
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = console::tail(&String::from_utf8_lossy(&bytes), count);
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
            Event::TestStarted("kprobe::a".into()),
            Event::TestEnded("kprobe::a".into(), Verdict::Ok),
            Event::TestStarted("kprobe::b".into()),
            Event::Text("was here".into()),
            Event::TestEnded("kprobe::b".into(), Verdict::Failed("2 is not 3".into())),
            Event::SuiteEnded,
        ]
        .iter()
        .filter_map(|event| progress.take(event))
        .collect();
        assert_eq!(lines, ["test 6.1/kprobe::a ... ok", "test 6.1/kprobe::b ... FAILED"]);
        assert_eq!(
            progress.tally.closing(Duration::from_millis(1500)),
            "\nfailures:\n\n---- 6.1/kprobe::b ----\nwas here\n2 is not 3\n\n\
             failures:\n    6.1/kprobe::b\n\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; \
             0 filtered out; finished in 1.50s\n"
        );
    }

    #[test]
    fn what_is_no_scenario_is_not_run_again_as_one() {
        let tally = Tally {
            failed: vec![("6.1/(scenarios)".into(), String::new())],
            unfinished: vec!["fentry::c".into()],
            ..Tally::default()
        };
        assert_eq!(tally.to_run_again("6.1"), ["fentry::c"]);
    }

    #[test]
    fn a_machine_that_falls_silent_fails_the_test_it_was_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("console.log"), "one\ntwo\n").unwrap();
        let machine = Machine {
            image: Path::new("vmlinuz"),
            initramfs: Path::new("initramfs"),
            accel: super::super::accel::Accel::Tcg,
            dir: dir.path(),
            processors: 1,
        };
        let mut progress = Progress::new("7.2");
        progress.take(&Event::Started);
        progress.take(&Event::Planned("fentry::a".into()));
        progress.take(&Event::Planned("fentry::b".into()));
        progress.take(&Event::TestStarted("fentry::a".into()));
        let (tally, line) = progress.finish(&End::Silent(Duration::from_secs(60)), &machine);
        assert_eq!(
            line.unwrap(),
            "test 7.2/fentry::a ... FAILED (ended after 60 s without a word)"
        );
        assert!(tally.failed[0].1.contains("not ended: fentry::a, fentry::b\n"));
        assert_eq!(tally.to_run_again("7.2"), ["fentry::a", "fentry::b"], "b was not reached");
        assert!(tally.failed[0].1.contains("console.log:\none\ntwo\n"), "{}", tally.failed[0].1);
    }
}
