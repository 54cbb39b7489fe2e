//! The page of a recording: nobody's text is markup on it, it stays small, and it says what it leaves
//! out. What a browser makes of it a scenario asks one.

#[path = "../../tests/src/recordings.rs"]
mod recordings;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use recordings::{EGRESS, MARKUP, Traffic, origin, record, record_catalogue};
use twtrace::diagnose::RULES;

const fn traffic(seconds: u64, rate: u64, peers: u64, faults: bool) -> Traffic {
    Traffic { seconds, rate, peers, faults }
}

/// The page of a recording.
fn page(directory: &Path, recording: &Path) -> (String, Output) {
    page_with(directory, recording, &[])
}

/// The same, with more words on the command line.
fn page_with(directory: &Path, recording: &Path, more: &[&str]) -> (String, Output) {
    let out = directory.join("a.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_twtrace"));
    command
        .arg("report")
        .arg(&out)
        .arg("--replay")
        .arg(recording)
        .args(more)
        .env_remove("TWTRACE_LOG");
    let output = command.output().expect("it runs");
    (fs::read_to_string(&out).expect("there is a page"), output)
}

#[test]
fn nobodys_text_is_markup_on_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin(MARKUP), &traffic(20, 100, 40, true));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(!page.contains('\u{202e}'), "it turns the reading direction");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "it is there as text");
    assert!(page.contains("&amp;lt;"), "what looks escaped is escaped");
    assert!(page.contains("default-src 'none'"));
    let own = page.replace("img src=x onerror=alert(2)", "");
    for word in ["http:", "https:", "src=", "onerror=", "style=", "url("] {
        assert!(!own.contains(word), "{word}: {own}");
    }
}

#[test]
fn of_what_is_no_recording_there_is_no_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    fs::write(&file, "no recording").unwrap();
    let out = directory.path().join("a.html");
    let mut command = Command::new(env!("CARGO_BIN_EXE_twtrace"));
    let output = command.arg("report").arg(&out).arg("--replay").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!out.exists());
}

#[test]
fn an_hour_is_a_small_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), &traffic(3_600, 2, 20, false));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
}

#[test]
fn of_many_peers_a_small_page_says_what_it_leaves_out() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), &traffic(8, 8_200, 65_536, false));
    let (page, output) = page(directory.path(), &file);
    assert!(output.status.success(), "{output:?}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(page.contains("65536 peers"), "{}", &page[..4000]);
    assert!(page.contains("The 100 with the most entries are shown"));
    assert!(page.contains("65436 more peers"));
}

#[test]
fn a_recording_that_is_cut_off_has_a_page_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record(&file, &origin("host"), &traffic(20, 50, 3, false));
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 40]).unwrap();
    let (page, output) = page(directory.path(), &file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(page.contains("Not whole: ") && page.contains("This page is of what comes before"));
    assert!(page.contains("3 peers"));
}

#[test]
fn every_finding_there_is_fits_on_one_page() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.twt");
    record_catalogue(&file);
    let (page, output) = page_with(directory.path(), &file, &["--egress", EGRESS]);
    assert!(output.status.success(), "{output:?}");
    assert!(page.len() < 300_000, "{} bytes", page.len());
    let headed = |id: &&str| page.contains(&format!("<h3><span class=\"tag\">{id} "));
    let missing: Vec<&str> = RULES.iter().map(|rule| rule.id).filter(|id| !headed(id)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
