//! What would have been under other settings: for people, and as `twtrace.what-if/1`.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::style::Palette;
use crate::{
    diagnose::finding::rounded,
    text::{counted, wrapped},
    what_if::{Predicted, Prediction, WhatIf},
};

/// Name and version of the document.
pub const SCHEMA: &str = "twtrace.what-if/1";

/// Writes the predictions as JSON.
///
/// # Errors
/// Those of the writer.
pub fn write_json(out: &mut impl Write, what_if: &WhatIf) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &document(what_if))?;
    writeln!(out)
}

/// The predictions as programs read them.
pub fn document(what_if: &WhatIf) -> Value {
    let space = |space: &Predicted| {
        json!({
            "netns": space.netns,
            "local": space.local,
            "remote": space.remote,
            "usable": space.usable,
            "peak": space.peak,
            "share": rounded(space.share() * 100.0),
            "failed": space.failed,
        })
    };
    let prediction = |it: &Prediction| {
        let settings: Map<String, Value> = it
            .remedy
            .settings()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        json!({
            "settings": settings,
            "failed": it.failed,
            "opened": it.opened,
            "not_tried": it.unplaced,
            "port_spaces": it.spaces.iter().map(space).collect::<Vec<_>>(),
            "caveats": it.remedy.caveats(),
        })
    };
    json!({
        "schema": SCHEMA,
        "connections": what_if.connections(),
        "failed": what_if.failed(),
        "left_out": { "ports_named_by_programs": what_if.named() },
        "predictions": what_if.predictions().iter().map(prediction).collect::<Vec<_>>(),
        "basis": what_if.basis().collect::<Vec<_>>(),
    })
}

/// What was replayed, in a sentence.
pub fn replayed(what_if: &WhatIf) -> String {
    let mut text = format!(
        "Replayed: {}, and {} that failed for want of a port.",
        counted(what_if.connections(), "connections"),
        counted(what_if.failed(), "calls"),
    );
    if what_if.named() > 0 {
        let named = counted(what_if.named(), "connections");
        text.push_str(&format!(" Left out: {named} of programs that name their own ports."));
    }
    text
}

/// Writes the predictions as a table.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, what_if: &WhatIf, palette: Palette) -> io::Result<()> {
    let predictions = what_if.predictions();
    wrapped(out, "", &replayed(what_if))?;
    writeln!(out)?;
    let settings =
        predictions.iter().map(|it| it.remedy.to_string().len()).max().unwrap_or(0).max(8);
    let heading = format!("{:<settings$} {:>8}  {:>13}  OF", "SETTINGS", "FAILED", "MOST HELD");
    writeln!(out, "{}", palette.heading(heading))?;
    for it in &predictions {
        let (held, space) = match it.spaces.first() {
            Some(space) => (format!("{} of {}", space.peak, space.usable), space.name()),
            None => ("-".into(), "no port space".into()),
        };
        let line =
            format!("{:<settings$} {:>8}  {held:>13}  {space}", it.remedy.to_string(), it.failed);
        let line = if it.failed > 0 { palette.alarm(line) } else { line };
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    for it in predictions.iter().filter(|it| it.unplaced > 0) {
        let calls = counted(it.unplaced, "calls");
        wrapped(out, "", &format!("{}: {calls} could not be tried.", it.remedy))?;
    }
    let caveats = caveats(&predictions);
    for sentence in what_if.basis().chain(caveats) {
        wrapped(out, "- ", sentence)?;
    }
    Ok(())
}

/// What the predictions take for granted, each sentence once.
pub fn caveats(predictions: &[Prediction]) -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Vec::new();
    for sentence in predictions.iter().flat_map(|it| it.remedy.caveats()) {
        if !all.contains(&sentence) {
            all.push(sentence);
        }
    }
    all
}
