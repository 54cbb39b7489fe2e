//! The dashboard that is released, as Prometheus is asked by it.

use anyhow::{Context, Result};
use serde_json::Value;

/// The dashboard.
const DASHBOARD: &str = include_str!("../../packaging/grafana/twtrace.json");

/// Metrics that are absent with tracepoints, which do not see what they count.
pub const UNSEEN_BY_TRACEPOINTS: [&str; 2] = ["twtrace_refused_total", "twtrace_overflow_total"];
/// One that is absent where refused `bind()` calls are not seen.
pub const OF_BINDS: &str = "twtrace_binds_refused_total";

/// What a panel asks.
#[derive(Debug)]
pub struct Question {
    /// The panel's title.
    pub panel: String,
    /// The expression, as written.
    pub expression: String,
}

impl Question {
    /// The expression as Grafana hands it on where everything is chosen, with a span of four scrapes.
    pub fn asked(&self, scrape_seconds: u32) -> String {
        self.expression
            .replace("$__rate_interval", &format!("{}s", 4 * scrape_seconds))
            .replace("$job", ".+")
            .replace("$instance", ".+")
    }
}

/// All that its panels and its variables ask.
pub fn questions() -> Result<Vec<Question>> {
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let mut all = Vec::new();
    for panel in panels(&dashboard)? {
        let title = panel["title"].as_str().context("a title")?;
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().context("an expression")?;
            all.push(Question { panel: title.to_owned(), expression: expression.to_owned() });
        }
    }
    for variable in dashboard["templating"]["list"].as_array().context("variables")? {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (metric, label) = inner.and_then(|it| it.rsplit_once(", ")).context("label_values")?;
        let expression = format!("count by ({label}) ({metric})");
        all.push(Question { panel: format!("variable {}", variable["name"]), expression });
    }
    Ok(all)
}

fn panels(dashboard: &Value) -> Result<&Vec<Value>> {
    dashboard["panels"].as_array().context("panels")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_panel_has_a_unit_a_description_and_the_data_source_that_is_chosen() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let mut identities = BTreeSet::new();
        for panel in panels(&dashboard).unwrap() {
            assert!(identities.insert(panel["id"].as_u64()), "{panel:#}");
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel:#}");
            assert!(
                panel["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{panel:#}"
            );
            let targets = panel["targets"].as_array().unwrap();
            for asked in targets.iter().chain([panel]) {
                assert_eq!(asked["datasource"]["uid"], "${datasource}", "{panel:#}");
            }
        }
    }

    #[test]
    fn rates_are_over_what_grafana_takes_for_enough_and_all_is_of_the_hosts_that_are_chosen() {
        let questions = questions().unwrap();
        assert!(questions.len() > 15, "{}", questions.len());
        for question in questions.iter().filter(|it| !it.panel.starts_with("variable")) {
            let text = &question.expression;
            let ranges = text.matches('[').count();
            assert_eq!(ranges, text.matches("[$__rate_interval]").count(), "{question:?}");
            let metrics = text.matches("twtrace_").count() + text.matches("process_").count();
            let chosen = text.matches("{job=~\"$job\", instance=~\"$instance\"").count();
            assert_eq!(metrics, chosen, "{question:?}");
            assert!(!question.asked(5).contains('$'), "{question:?}");
        }
    }
}
