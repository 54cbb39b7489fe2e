//! Reading what scenarios and a virtual machine say: test events, and how it came to its end.

use std::time::Duration;

use serde_json::Value;

/// What the guest's init writes before anything else of its own.
const GUEST: &str = "twtrace-guest: ";

/// What the scenarios' runner writes before what libtest's format has no word for.
const RUNNER: &str = "twtrace-tests: ";

/// How one test went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Ok,
    /// It failed; the text is what it said.
    Failed(String),
    /// It does not apply here.
    Ignored,
}

/// Something that happened inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The guest's init runs.
    Started,
    /// A test is going to be run.
    Planned(String),
    /// A test has begun.
    Begun(String),
    /// A test took so long, without the time it waited for its turn.
    Took(String, Duration),
    /// A test has ended.
    TestEnded(String, Verdict),
    /// The scenarios' closing line: all that were to run did.
    SuiteEnded,
    /// The scenarios' exit code, last of all.
    Exit(i32),
    /// A remark of the guest's init.
    Note(String),
    /// Anything else, such as what a test prints.
    Text(String),
}

/// Reads one line of the guest's result channel.
pub fn parse(line: &str) -> Event {
    let line = line.trim_end_matches(['\r', '\n']);
    if let Some(word) = line.strip_prefix(GUEST) {
        return match word.split_once(' ') {
            Some(("exit", code)) => {
                code.parse().map_or_else(|_| Event::Note(word.to_owned()), Event::Exit)
            }
            _ if word == "start" => Event::Started,
            _ => Event::Note(word.to_owned()),
        };
    }
    if let Some(event) = line.strip_prefix(RUNNER).and_then(parse_note) {
        return event;
    }
    // A test's unfinished line of output may stand before the event.
    let json = line.find("{ \"type\": ").map(|at| &line[at..]);
    json.and_then(|text| serde_json::from_str(text).ok())
        .and_then(|event: Value| parse_event(&event))
        .unwrap_or_else(|| Event::Text(line.to_owned()))
}

fn parse_note(note: &str) -> Option<Event> {
    match note.split(' ').collect::<Vec<_>>().as_slice() {
        ["plan", name] => Some(Event::Planned((*name).to_owned())),
        ["begun", name] => Some(Event::Begun((*name).to_owned())),
        ["took", seconds, name] => {
            let took = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
            Some(Event::Took((*name).to_owned(), took))
        }
        _ => None,
    }
}

/// One object of libtest-mimic's JSON format.
fn parse_event(event: &Value) -> Option<Event> {
    let text = |key: &str| event.get(key)?.as_str();
    let kind = text("event")?;
    if text("type")? == "suite" {
        return (kind != "started").then_some(Event::SuiteEnded);
    }
    let name = text("name")?.to_owned();
    Some(match kind {
        "ok" => Event::TestEnded(name, Verdict::Ok),
        "ignored" => Event::TestEnded(name, Verdict::Ignored),
        "failed" => {
            let said = text("stdout").unwrap_or("(it said nothing)");
            Event::TestEnded(name, Verdict::Failed(unquote(said).to_owned()))
        }
        _ => return None,
    })
}

/// libtest-mimic wraps a failure's message in `Error: "…"`.
fn unquote(message: &str) -> &str {
    let inner = message.trim_end().strip_prefix("Error: \"").and_then(|it| it.strip_suffix('"'));
    inner.unwrap_or(message)
}

/// The line in a kernel's log that says it gave up.
pub fn find_panic(log: &str) -> Option<&str> {
    let line = log.lines().find(|line| line.contains("Kernel panic - not syncing"))?;
    Some(line.trim())
}

/// The last lines of a log.
pub fn tail(log: &str, count: usize) -> String {
    let lines: Vec<_> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_events_are_read_in_libtest_mimics_format() {
        let ok = "{ \"type\": \"test\", \"name\": \"kprobe::counts\", \"event\": \"ok\" }\r";
        assert_eq!(parse(ok), Event::TestEnded("kprobe::counts".into(), Verdict::Ok));
    }

    #[test]
    fn a_failure_keeps_its_message_with_line_breaks() {
        let line = r#"{ "type": "test", "name": "a", "event": "failed", "stdout": "Error: \"left\nright \"x\"\"\n" }"#;
        // libtest-mimic escapes the inner quotes as well.
        let line = line.replace("\"x\"", "\\\"x\\\"");
        assert_eq!(
            parse(&line),
            Event::TestEnded("a".into(), Verdict::Failed("left\nright \"x\"".into()))
        );
    }

    #[test]
    fn an_event_after_unfinished_output_is_still_an_event() {
        let line = r#"progress 50%{ "type": "test", "name": "a", "event": "ignored" }"#;
        assert_eq!(parse(line), Event::TestEnded("a".into(), Verdict::Ignored));
    }

    #[test]
    fn the_guests_own_words_are_told_from_a_tests() {
        assert_eq!(parse("twtrace-guest: start\r\n"), Event::Started);
        assert_eq!(parse("twtrace-tests: plan kprobe::a"), Event::Planned("kprobe::a".into()));
        assert_eq!(parse("twtrace-tests: begun kprobe::a"), Event::Begun("kprobe::a".into()));
        assert_eq!(
            parse("twtrace-tests: took 1.5 a::b\r"),
            Event::Took("a::b".into(), Duration::from_millis(1500))
        );
        assert_eq!(parse("twtrace-guest: exit 101\r\n"), Event::Exit(101));
        assert_eq!(parse("twtrace-guest: no tracefs"), Event::Note("no tracefs".into()));
        assert_eq!(parse("hello"), Event::Text("hello".into()));
    }

    #[test]
    fn a_panic_is_found_in_the_kernels_log() {
        let log = "[ 1.0] x\r\n[ 1.1] Kernel panic - not syncing: Attempted to kill init!\r\n";
        assert_eq!(
            find_panic(log),
            Some("[ 1.1] Kernel panic - not syncing: Attempted to kill init!")
        );
        assert_eq!(tail(log, 1), "[ 1.1] Kernel panic - not syncing: Attempted to kill init!");
    }
}
