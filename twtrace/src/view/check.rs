//! The line of a monitoring plugin.

use crate::summary::Summary;

/// State of a service, by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Below the thresholds.
    Ok = 0,
    /// From the first threshold on.
    Warning = 1,
    /// From the second on.
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
    format!("TWTRACE {} - {}", Status::Unknown.word(), why.join(" ").replace('|', "/"))
}

/// The status, and the line with text and performance data. Thresholds are per cent.
pub fn line(summary: &Summary, warn: u32, crit: u32) -> (Status, String) {
    let Some(examined) = &summary.examined else {
        return (Status::Unknown, unknown("nothing was examined"));
    };
    let margins = &examined.diagnosis.margins;
    let worst = margins.worst();
    let percent = worst.as_ref().map_or(0.0, |(share, _)| share * 100.0);
    let status = if percent >= f64::from(crit) {
        Status::Critical
    } else if percent >= f64::from(warn) {
        Status::Warning
    } else {
        Status::Ok
    };
    let mut text = match worst {
        Some((_, what)) => format!("{percent:.0}% of {what}"),
        None => "no limit is in use".to_owned(),
    };
    if let Some(finding) = examined.diagnosis.findings.first().filter(|_| status != Status::Ok) {
        text.push_str(&format!("; {}: {}", finding.id, finding.summary));
    }
    let lost = summary.trust.lost + summary.trust.skipped;
    if lost > 0 {
        text.push_str(&format!("; {lost} events lost, figures are lower bounds"));
    }
    let overflow: u64 =
        margins.namespaces.iter().filter_map(|ns| ns.buckets).map(|buckets| buckets.overflow).sum();
    let entered = summary.totals.counts.entered;
    let rate = entered as f64 / summary.elapsed.as_secs_f64().max(1.0);
    let line = format!(
        "TWTRACE {} - {} | worst={percent:.1}%;{warn};{crit};0 time_wait={};;;0 \
         entered_rate={rate:.1};;;0 overflow={overflow};;;0 lost={lost};;;0",
        status.word(),
        text.replace('|', "/"),
        margins.sockets,
    );
    (status, line)
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
