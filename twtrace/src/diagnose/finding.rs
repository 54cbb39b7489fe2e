//! What a rule has to say: one finding, with the figures that prove it.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::text::one;

/// How bad it is, from the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing fails by it.
    #[default]
    Notice,
    /// It will fail if things go on, or something was lost already that can be borne.
    Warning,
    /// Connections fail now, or will within the time that TIME_WAIT lasts.
    Critical,
}

impl Severity {
    /// Name in machine output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl std::str::FromStr for Severity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Notice, Self::Warning, Self::Critical]
            .into_iter()
            .find(|severity| severity.as_str() == text)
            .ok_or("it is notice, warning or critical")
    }
}

/// Where a figure comes from.
pub mod source {
    /// Counted by the kernel programs in this session.
    pub const COUNTED: &str = "counted in this session";
    /// What the kernel programs saw of the calls that failed; before this session too, where a daemon
    /// tells of it.
    pub const CALLS: &str = "seen at the calls";
    /// What programs of control groups saw begin, and did not see succeed.
    pub const BEGUN: &str = "calls that got no port";
    /// Computed from the figures beside it.
    pub const COMPUTED: &str = "computed";
    /// The kernel's own counters, their growth in this session.
    pub const NETSTAT: &str = "/proc/net/netstat, growth";
    /// `ip_local_port_range` without the ports that `ip_local_reserved_ports` takes out of it.
    pub const RANGE: &str = "port range less reserved";
    /// The sockets that are not in TIME_WAIT, of the namespace in question.
    pub const TCP: &str = "/proc/net/tcp, tcp6";
    /// The kernel's own count of TIME_WAIT sockets.
    pub const SOCKSTAT: &str = "/proc/net/sockstat";
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// Name in machine output.
    pub key: &'static str,
    /// The figure.
    pub value: Value,
    /// Its unit; empty for settings and names.
    pub unit: &'static str,
    /// Where it comes from: one of [`source`], or the name of a sysctl.
    pub source: &'static str,
}

impl Evidence {
    /// Its name for people. Sysctls keep their spelling: one wants to search for it.
    pub fn name(&self) -> Cow<'static, str> {
        if self.source.ends_with(self.key) {
            self.key.into()
        } else {
            self.key.replace('_', " ").into()
        }
    }

    /// Its value with its unit, for people; text of others is in it as it is.
    pub fn text(&self) -> String {
        let value = match &self.value {
            Value::String(text) => text.clone(),
            Value::Null => return "(not known)".to_owned(),
            Value::Array(items) => {
                let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
                items.join(", ")
            }
            // A rate of 470.0 is as much as one of 470.
            other => match other.as_f64().filter(|number| number.fract() == 0.0) {
                Some(whole) => format!("{whole:.0}"),
                None => other.to_string(),
            },
        };
        match self.unit {
            "" => value,
            unit if self.value.as_f64() == Some(1.0) => format!("{value} {}", one(unit)),
            unit => format!("{value} {unit}"),
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// Stable name, such as `TW001`; docs/findings/ has a page for each.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The peer it is about, as rows are named; `None` when it is about a namespace or the host.
    pub peer: Option<String>,
    /// Inode number of the network namespace it is about; `None` for the whole host.
    pub netns: Option<u32>,
    /// The verdict in one sentence.
    pub summary: String,
    /// The figures, in the order they are shown.
    pub evidence: Vec<Evidence>,
    /// What it leads to, and when.
    pub consequence: String,
    /// What to do.
    pub remedy: String,
    /// What not to do, and why; empty if nothing suggests itself.
    pub dont: String,
}

/// The finding that tells the failure itself.
pub const FAILED: &str = "TW019";

/// Findings that, if critical, tell of calls or clients that fail whatever the margins are.
const FAILURES: &[&str] = &[FAILED, "TW012", "TW014", "TW021"];

impl Finding {
    /// A finding about one namespace.
    pub fn new(severity: Severity, netns: u32, summary: String) -> Self {
        Self { severity, netns: Some(netns), summary, ..Self::default() }
    }

    /// How bad it is that programs fail right now, here or at the other end, which no margin
    /// outweighs; `None` if it is about something else.
    pub fn failure(&self) -> Option<Severity> {
        let here = self.id == FAILED;
        let fails = here || self.severity == Severity::Critical;
        (FAILURES.contains(&self.id) && fails).then_some(self.severity)
    }

    /// What not to do, for where a label says the first words already.
    pub fn dont(&self) -> &str {
        self.dont.strip_prefix("Do not ").unwrap_or(&self.dont)
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(
        mut self,
        key: &'static str,
        value: impl Into<Value>,
        unit: &'static str,
        source: &'static str,
    ) -> Self {
        self.evidence.push(Evidence { key, value: value.into(), unit, source });
        self
    }

    /// A figure by its name.
    pub fn figure(&self, key: &str) -> Option<&Value> {
        self.evidence.iter().find(|evidence| evidence.key == key).map(|evidence| &evidence.value)
    }

    /// The finding as programs read it.
    pub fn document(&self) -> Value {
        let evidence: Map<_, _> = self
            .evidence
            .iter()
            .map(|figure| {
                let unit = (!figure.unit.is_empty()).then_some(figure.unit);
                let document =
                    json!({ "value": figure.value, "unit": unit, "source": figure.source });
                (figure.key.to_owned(), document)
            })
            .collect();
        json!({
            "id": self.id,
            "severity": self.severity.as_str(),
            "peer": self.peer,
            "netns": self.netns,
            "summary": self.summary,
            "evidence": evidence,
            "consequence": self.consequence,
            "remedy": self.remedy,
            "dont": (!self.dont.is_empty()).then_some(&self.dont),
        })
    }
}

/// A rate or share as people want to read it: three digits and no more.
pub fn rounded(value: f64) -> Value {
    let scale = if value.abs() >= 100.0 { 1.0 } else { 10.0 };
    json!((value * scale).round() / scale)
}
