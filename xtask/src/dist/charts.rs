//! The chart and the manifests made of it, before Helm itself and the schemas of Kubernetes.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::source::Source;
use crate::{
    process::{self, print, say},
    setup::charts,
};

/// The chart.
const CHART: &str = "packaging/helm/twtrace";
/// The version of Kubernetes whose schemas are taken.
const KUBERNETES: &str = "1.35";

/// Values that are tried, and the manifests that are made of them for who has no Helm.
const VALUES: [(&[&str], Option<&str>); 4] = [
    (&[], Some("packaging/kubernetes/twtrace.yaml")),
    (&["otherNamespaces=false"], Some("packaging/kubernetes/twtrace-least.yaml")),
    (&["tracepoints=true", "historyPath=", "networkPolicy.enabled=false"], None),
    (
        &[
            "podMonitor.enabled=true",
            "settings=max_peers = 5",
            "priorityClassName=system-node-critical",
        ],
        None,
    ),
];

/// Finds no fault with any of it. With `write` the manifests are made anew, else they have to be those
/// that the chart makes.
pub fn check(source: &Source, write: bool) -> Result<()> {
    let helm = charts::helm();
    let helm = helm.to_str().context("a path that is text")?;
    process::run(source.command(helm).args(["lint", "--strict", CHART]))?;
    for (values, manifests) in VALUES {
        let mut template = source.command(helm);
        template.args(["template", "twtrace", CHART, "--namespace", "twtrace"]);
        template.args(values.iter().flat_map(|value| ["--set", value]));
        let made = process::output(&mut template)?;
        let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        fs::write(file.path(), &made)?;
        validate(file.path()).with_context(|| format!("with {values:?}:\n{made}"))?;
        let Some(manifests) = manifests else { continue };
        let path = source.directory.join(manifests);
        if write {
            fs::write(&path, &made)?;
            say!("{manifests} is made anew");
        }
        ensure!(
            fs::read_to_string(&path).ok().as_deref() == Some(&made),
            "{manifests} is not what the chart makes: cargo xtask dist --as-made --try charts --write"
        );
    }
    print("neither Helm nor the schemas of Kubernetes have anything to say of the chart");
    Ok(())
}

/// Has each document looked at strictly. There is no schema of what others add to Kubernetes.
fn validate(manifests: &Path) -> Result<()> {
    let mut command = Command::new(charts::program("kubernetes-validate"));
    command.args(["--strict", "--kubernetes-version", KUBERNETES]).arg(manifests);
    process::run(&mut command)
}
