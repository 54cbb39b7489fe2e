//! The line of a monitoring plugin.

use crate::text::visible;
use crate::{
    diagnose::{Finding, Margins, Severity},
    summary::Summary,
};

/// A threshold from which on, per cent, a limit is no cause for alarm that is known to suffice.
const FULL: u32 = 90;

/// State of a service, by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Not above a threshold.
    Ok = 0,
    /// Above the first threshold.
    Warning = 1,
    /// Above the second.
    Critical = 2,
    /// It could not be found out.
    Unknown = 3,
}

impl Status {
    /// The word that monitoring systems know.
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// The line when nothing could be found out.
pub fn unknown(why: &str) -> String {
    // A second line is "long output" to some systems, and a pipe begins the performance data.
    let why: Vec<&str> = why.split_whitespace().collect();
    format!("TWTRACE {} - {}", Status::Unknown.word(), visible(&why.join(" ")).replace('|', "/"))
}

/// The status, and the line with text and performance data. Thresholds are per cent, and as the
/// conventions have it the alert begins above them.
pub fn line(summary: &Summary, warn: u32, crit: u32) -> (Status, String) {
    let Some(examined) = &summary.examined else {
        return (Status::Unknown, unknown("nothing was examined"));
    };
    let margins = &examined.diagnosis.margins;
    let Some(worst) = margins.worst() else {
        let mut why = "no limit could be read".to_owned();
        examined.facts.unread.iter().for_each(|fault| why.push_str(&format!("; {fault}")));
        return (Status::Unknown, unknown(&why));
    };
    let percent = percent(worst.share);
    let findings = &examined.diagnosis.findings;
    let failure = findings.iter().filter_map(Finding::failure).max();
    let suffices = worst.will_do && crit >= FULL;
    let status = if failure == Some(Severity::Critical)
        || (percent > f64::from(crit) && !suffices && !worst.is_far())
    {
        Status::Critical
    } else if failure == Some(Severity::Warning) || percent > f64::from(warn) {
        Status::Warning
    } else {
        Status::Ok
    };
    let share = worst.sentence();
    let finding = findings.first().filter(|_| status != Status::Ok);
    let mut text = match finding.map(|finding| (finding, finding.failure())) {
        // What somebody suffers from comes first.
        Some((finding, Some(_))) => format!("{}: {}; {share}", finding.id, sentence(finding)),
        Some((finding, None)) => format!("{share}; {}: {}", finding.id, sentence(finding)),
        None => share,
    };
    let seen: Vec<_> = summary.trust.lower_bounds().collect();
    for (count, doubt) in &seen {
        text.push_str(&format!("; {count} {}", doubt.words));
    }
    if !seen.is_empty() {
        text.push_str(", figures are lower bounds");
    }
    let line = format!(
        "TWTRACE {} - {} | {}",
        status.word(),
        visible(&text).replace('|', "/"),
        performance(summary, margins, percent, (warn, crit))
    );
    (status, line)
}

/// What is found, to be gone on after.
fn sentence(finding: &Finding) -> &str {
    finding.summary.trim_end_matches('.')
}

/// A share in per cent, with the digit that is shown: what is compared is what is seen.
fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

/// What monitoring systems draw: label, value and unit; thresholds and minimum.
fn performance(
    summary: &Summary,
    margins: &Margins,
    worst: f64,
    (warn, crit): (u32, u32),
) -> String {
    let mut words = vec![format!("worst={worst:.1}%;{warn};{crit};0")];
    let largest = |shares: &mut dyn Iterator<Item = f64>| shares.max_by(f64::total_cmp);
    let namespaces = || margins.namespaces.iter();
    let ports = largest(&mut namespaces().filter_map(|ns| Some(ns.ports.as_ref()?.share())));
    let buckets = largest(&mut namespaces().filter_map(|ns| Some(ns.buckets?.share())));
    // A limit that is not known has no value, and 0 would be one.
    for (label, share) in [("ports", ports), ("buckets", buckets)] {
        let word = |share| format!("{label}={:.1}%;{warn};{crit};0", percent(share));
        words.extend(share.map(word));
    }
    let overflow: u64 =
        namespaces().filter_map(|ns| ns.buckets).map(|buckets| buckets.overflow).sum();
    let entered = summary.totals.counts.entered;
    let rate = entered as f64 / summary.elapsed.as_secs_f64().max(1.0);
    words.push(format!("time_wait={};;;0", margins.sockets));
    words.push(format!("entered_rate={rate:.1};;;0"));
    words.push(format!("overflow={overflow};;;0"));
    words.push(format!("lost={};;;0", summary.trust.lost()));
    // Nor has what could not be compared.
    words.extend(
        summary
            .audit
            .as_ref()
            .map(|audit| format!("missing={};;;0", audit.total().entries.missing)),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_several_lines_becomes_one() {
        let line = unknown("no way:\n  fentry: a | b");
        assert_eq!(line, "TWTRACE UNKNOWN - no way: fentry: a / b");
    }
}
