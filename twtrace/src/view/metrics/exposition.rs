//! The two text formats that Prometheus reads, from one description of families and samples.
//!
//! OpenMetrics 1.0: <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>.
//! The older text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Written here because the Prometheus project's own crate writes OpenMetrics alone, has no moments at
//! which counters began, and keeps values of its own, which would have to be set anew for every row of
//! every scrape. A page of 10,000 series takes 8 ms (docs/performance/userspace.md).

use std::{
    fmt::{Display, Write},
    time::SystemTime,
};

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0, which has the moments counters began.
    OpenMetrics,
}

impl Dialect {
    /// The one a client likes better, by its `Accept` header.
    pub fn wanted(accept: Option<&str>) -> Self {
        let liking = |kind: &str| {
            accept
                .unwrap_or("")
                .split(',')
                .filter(|range| range.trim().starts_with(kind))
                .map(|range| {
                    let quality = range.split(';').find_map(|part| part.trim().strip_prefix("q="));
                    quality.map_or(1.0, |quality| quality.trim().parse().unwrap_or(0.0))
                })
                .fold(0.0, f64::max)
        };
        let open = liking("application/openmetrics-text");
        if open > 0.0 && open >= liking("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What kind of metric a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// It only grows; samples end in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// Always 1: what it says is in its labels. Samples end in `_info`.
    Info,
}

/// Labels of a sample.
pub type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// A text in the making. Families have no sample twice and are never empty, which is the caller's
/// part.
#[derive(Debug)]
pub struct Exposition {
    dialect: Dialect,
    text: String,
}

impl Exposition {
    /// An empty text.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, text: String::new() }
    }

    /// Begins a family. `name` is without `_total` or `_info` and ends in its unit, if it has one.
    pub fn family(
        &mut self,
        kind: FamilyKind,
        name: &'static str,
        unit: &str,
        help: &str,
    ) -> Family<'_> {
        let sample = match kind {
            FamilyKind::Counter => format!("{name}_total"),
            FamilyKind::Info => format!("{name}_info"),
            FamilyKind::Gauge | FamilyKind::Histogram => name.to_owned(),
        };
        let (described, of_kind) = match (self.dialect, kind) {
            (Dialect::OpenMetrics, FamilyKind::Info) => (name, "info"),
            (Dialect::Prometheus, FamilyKind::Info) => (sample.as_str(), "gauge"),
            (Dialect::OpenMetrics, FamilyKind::Counter) => (name, "counter"),
            (Dialect::Prometheus, FamilyKind::Counter) => (sample.as_str(), "counter"),
            (_, FamilyKind::Gauge) => (name, "gauge"),
            (_, FamilyKind::Histogram) => (name, "histogram"),
        };
        let help = escaped(help, self.dialect == Dialect::OpenMetrics);
        self.text.push_str(&format!("# HELP {described} {help}\n# TYPE {described} {of_kind}\n"));
        if self.dialect == Dialect::OpenMetrics && !unit.is_empty() {
            debug_assert!(name.ends_with(unit), "{name} must end in its unit {unit}");
            self.text.push_str(&format!("# UNIT {described} {unit}\n"));
        }
        Family { name, sample, out: self }
    }

    /// The whole text.
    pub fn finish(mut self) -> Vec<u8> {
        if self.dialect == Dialect::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text.into_bytes()
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: Labels<'_>, value: &dyn Display) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let value = escaped(&value.to_string(), true);
            // Writing to a string cannot fail.
            let _ = write!(self.text, "{open}{label}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The moment a counter began, where the format has it.
    fn created(&mut self, name: &str, labels: Labels<'_>, created: SystemTime) {
        let since = created.duration_since(SystemTime::UNIX_EPOCH);
        if let (Dialect::OpenMetrics, Ok(since)) = (self.dialect, since) {
            let seconds = format!("{}.{:03}", since.as_secs(), since.subsec_millis());
            self.sample(name, "_created", labels, &seconds);
        }
    }
}

/// A family in the making.
#[derive(Debug)]
pub struct Family<'a> {
    name: &'static str,
    sample: String,
    out: &'a mut Exposition,
}

impl Family<'_> {
    /// Adds a gauge.
    pub fn gauge(&mut self, labels: Labels<'_>, value: impl Display) {
        self.out.sample(&self.sample, "", labels, &value);
    }

    /// Adds an info.
    pub fn info(&mut self, labels: Labels<'_>) {
        self.out.sample(&self.sample, "", labels, &1);
    }

    /// Adds a counter that began at `created`.
    pub fn counter(&mut self, labels: Labels<'_>, value: impl Display, created: SystemTime) {
        self.out.sample(&self.sample, "", labels, &value);
        self.out.created(self.name, labels, created);
    }

    /// Adds a histogram without labels: counts up to each bound and one above the last, and the
    /// sum of all values.
    pub fn histogram(&mut self, bounds: &[f64], buckets: &[u64], sum: f64, created: SystemTime) {
        let name = self.name;
        let mut count = 0;
        for (index, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let bound = bounds.get(index).map_or_else(|| "+Inf".into(), |le| format!("{le:?}"));
            self.out.sample(name, "_bucket", &[("le", &bound)], &count);
        }
        self.out.sample(name, "_sum", &[], &sum);
        self.out.sample(name, "_count", &[], &count);
        self.out.created(name, &[], created);
    }
}

/// Backslashes, line feeds and, where they end the text, quotes.
fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn example(dialect: Dialect) -> String {
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500_000_000_250);
        let mut out = Exposition::new(dialect);
        out.family(FamilyKind::Info, "x_build", "", "What it is.").info(&[("version", &"1")]);
        let mut entered = out.family(FamilyKind::Counter, "x_entered", "", "Entries \"seen\".");
        entered.counter(&[("peer", &"a\\b\"c\nd"), ("netns", &7)], 12, created);
        let mut lived =
            out.family(FamilyKind::Histogram, "x_lifetime_seconds", "seconds", "Lives.");
        lived.histogram(&[0.5, 60.0], &[1, 2, 3], 200.25, created);
        String::from_utf8(out.finish()).unwrap()
    }

    #[test]
    fn openmetrics_has_units_created_moments_and_an_end() {
        assert_eq!(
            example(Dialect::OpenMetrics),
            r#"# HELP x_build What it is.
# TYPE x_build info
x_build_info{version="1"} 1
# HELP x_entered Entries \"seen\".
# TYPE x_entered counter
x_entered_total{peer="a\\b\"c\nd",netns="7"} 12
x_entered_created{peer="a\\b\"c\nd",netns="7"} 1500000000.250
# HELP x_lifetime_seconds Lives.
# TYPE x_lifetime_seconds histogram
# UNIT x_lifetime_seconds seconds
x_lifetime_seconds_bucket{le="0.5"} 1
x_lifetime_seconds_bucket{le="60.0"} 3
x_lifetime_seconds_bucket{le="+Inf"} 6
x_lifetime_seconds_sum 200.25
x_lifetime_seconds_count 6
x_lifetime_seconds_created 1500000000.250
# EOF
"#
        );
    }

    #[test]
    fn the_older_format_names_families_by_their_samples() {
        assert_eq!(
            example(Dialect::Prometheus),
            r#"# HELP x_build_info What it is.
# TYPE x_build_info gauge
x_build_info{version="1"} 1
# HELP x_entered_total Entries "seen".
# TYPE x_entered_total counter
x_entered_total{peer="a\\b\"c\nd",netns="7"} 12
# HELP x_lifetime_seconds Lives.
# TYPE x_lifetime_seconds histogram
x_lifetime_seconds_bucket{le="0.5"} 1
x_lifetime_seconds_bucket{le="60.0"} 3
x_lifetime_seconds_bucket{le="+Inf"} 6
x_lifetime_seconds_sum 200.25
x_lifetime_seconds_count 6
"#
        );
    }

    #[test]
    fn a_client_gets_the_format_it_likes_better() {
        let wanted = |accept| Dialect::wanted(Some(accept));
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(wanted(prometheus), Dialect::OpenMetrics);
        assert_eq!(wanted("text/plain, application/openmetrics-text;q=0.1"), Dialect::Prometheus);
        assert_eq!(wanted("application/openmetrics-text; q=0"), Dialect::Prometheus);
        assert_eq!(wanted("*/*"), Dialect::Prometheus, "curl");
        assert_eq!(Dialect::wanted(None), Dialect::Prometheus);
    }
}
