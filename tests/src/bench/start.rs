//! How long it takes from exec until everything is attached, by its parts.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use super::{Bench, sample};

/// Starts twtrace again and again.
pub fn run(bench: &Bench) -> Result<()> {
    let size = fs::metadata(&bench.lab.twtrace)?.len();
    sample("start/size of the binary", "MiB", size as f64 / f64::from(1 << 20));
    for _ in 0..bench.size(15, 2) {
        once(bench, &["--attach", bench.lab.backend.name()], bench.lab.backend.name())?;
        once(bench, &[], "auto")?;
    }
    Ok(())
}

/// Starts it once; the log says when which part was done.
fn once(bench: &Bench, args: &[&str], way: &str) -> Result<()> {
    let started = Instant::now();
    let output = Command::new(&bench.lab.twtrace)
        .args(["watch", "-o", "json", "--for", "1ms"])
        .args(args)
        .env("TWTRACE_LOG", "twtrace=debug")
        .output()?;
    let whole = started.elapsed();
    let log = String::from_utf8_lossy(&output.stderr);
    let mut before = 0.0;
    for line in log.lines() {
        let Some((text, elapsed)) = line.split_once(" elapsed=") else { continue };
        let Some(millis) = milliseconds(elapsed) else { continue };
        let what = text.rsplit_once(": ").map_or(text, |(_, what)| what);
        sample(&format!("start/{way}/{what}"), "ms", millis - before);
        before = millis;
    }
    (before > 0.0).then_some(()).with_context(|| format!("no times in:\n{log}"))?;
    sample(&format!("start/{way}/whole run"), "ms", whole.as_secs_f64() * 1e3);
    Ok(())
}

/// Milliseconds of a duration as it is logged, such as `12.5ms`.
fn milliseconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let number: f64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "s" => Some(number * 1e3),
        "ms" => Some(number),
        "µs" => Some(number / 1e3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_durations_are_read_in_every_unit() {
        assert_eq!(milliseconds("12.5ms"), Some(12.5));
        assert_eq!(milliseconds("1.25s"), Some(1250.0));
        assert_eq!(milliseconds("500µs"), Some(0.5));
        assert_eq!(milliseconds("soon"), None);
    }
}
