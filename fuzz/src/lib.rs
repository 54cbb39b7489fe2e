//! What is done with bytes that a stranger may have written: the bodies of the fuzz targets.
//!
//! cargo-fuzz looks for bytes that break one of them (`cargo xtask fuzz`). Those it found, and those
//! it begins with, are the files of `fuzz/corpus/`: an ordinary `cargo test` gives each to its body
//! (`twtrace/tests/corpora.rs`), so that what was mended stays so.

mod api;
mod recording;

use std::borrow::Cow;

use twtrace::{
    config::{self, DaemonConfig},
    filter::{Expr, Selection},
    kernel::{BtfIndex, resolve_layout},
};

pub use api::api;
pub use recording::{recording, state};

/// A body: it panics where something is wrong.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("recording", recording),
    ("state", state),
    ("filter", filter),
    ("configuration", configuration),
    ("api", api),
    ("btf", btf),
];

/// What a filter is printed as is read as the same filter, and however it is divided between the
/// kernel and userspace, none of it is lost.
pub fn filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let expr: Expr = match text.parse() {
        Ok(expr) => expr,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let printed = expr.to_string();
    assert_eq!(printed.parse::<Expr>().as_ref(), Ok(&expr), "{text:?} is printed as {printed}");
    let numbers = |_: &str| Ok(7);
    if let Ok(bound) = expr.bind(&numbers, &numbers) {
        let (_, selection) = Selection::split(bound.clone());
        assert_eq!(selection.whole, bound);
    }
}

/// Every fault of a configuration has its place, and what is said of it moves no cursor.
pub fn configuration(bytes: &[u8]) {
    let mut config = DaemonConfig::default();
    if let Err(faults) = config::file::apply_bytes(&mut config, bytes) {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
        assert!(!faults.is_empty());
        for fault in faults {
            assert!((1..=lines).contains(&fault.line) && fault.column >= 1, "{fault:?}");
            assert_harmless(&fault.to_string());
        }
    }
}

/// Types that say anything at all are refused or read.
pub fn btf(bytes: &[u8]) {
    let Ok(index) = BtfIndex::new(Cow::Borrowed(bytes)) else { return };
    // Which fields there are is known to no one.
    let _ = resolve_layout(&index);
    for name in ["tcp_time_wait", "inet_twsk_alloc", "tcp_twsk_unique"] {
        index.function_args(name);
    }
}

/// What people read has nothing in it that a terminal would obey.
fn assert_harmless(text: &str) {
    let obeyed =
        |char: char| char.is_control() && char != '\n' || ('\u{202a}'..='\u{202e}').contains(&char);
    assert!(!text.contains(obeyed), "{:?}", text);
}
