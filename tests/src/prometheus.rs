//! A real Prometheus with the rules that are released.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::service::{self, Service};
use crate::{http, wait};

/// Starting, scraping and storing take Prometheus a few seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// The rules that are released, and what is to come of them.
pub const RULES: [(&str, &str); 2] = [
    ("twtrace.rules.yaml", include_str!("../../packaging/prometheus/twtrace.rules.yaml")),
    ("twtrace.rules.test.yaml", include_str!("../../packaging/prometheus/twtrace.rules.test.yaml")),
];

/// A Prometheus of our own.
pub struct Prometheus(pub Service);

impl Prometheus {
    /// One that scrapes so often, seconds, and evaluates its rules as often; `config` is the rest of its
    /// configuration, and these are more files beside that.
    pub fn start(scrape: u32, config: &str, files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = format!(
            "global: {{scrape_interval: {scrape}s, scrape_timeout: 5s, \
             evaluation_interval: {scrape}s}}\n\
             rule_files: [{}]\n{config}",
            RULES[0].0
        );
        let own = [("prometheus.yml", config.as_str())];
        for (name, text) in RULES.iter().chain(&own).chain(files) {
            fs::write(directory.path().join(name), text)?;
        }
        let args = ["--config.file=prometheus.yml", "--storage.tsdb.path=data"];
        Service::start("prometheus", service::free_address()?, directory, &args).map(Self)
    }

    /// The value of an expression, when it has one.
    pub fn query(&self, expression: &str) -> Result<Option<f64>> {
        let query: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        // Until it listens there is no answer.
        let Ok(body) = http::network(&self.0.address, &format!("/api/v1/query?query={query}"))
        else {
            return Ok(None);
        };
        let answer: Value = serde_json::from_str(&body)?;
        let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
        value.map(|value| value.parse().context("a number")).transpose()
    }

    /// Waits until an expression has any value.
    pub fn await_data(&self, expression: &str) -> Result<()> {
        wait::until(expression, PATIENCE, || Ok(self.query(expression)?.map(drop)))
    }

    /// Waits until an expression has this value.
    pub fn await_value(&self, expression: &str, want: f64) -> Result<()> {
        let mut last = None;
        wait::until(expression, PATIENCE, || {
            last = self.query(expression)?;
            Ok((last == Some(want)).then_some(()))
        })
        .with_context(|| {
            let targets = http::network(&self.0.address, "/api/v1/targets").unwrap_or_default();
            format!("{expression} was last {last:?}, not {want}: {targets}\n{}", self.0.log())
        })
    }
}
