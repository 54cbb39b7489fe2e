//! The licences of others' work that is part of the static program.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand, Package, PackageId};

use super::source::Source;

/// What files with a licence, or with names to be named, begin with.
const NAMES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

/// All of them: which package has which, and each text once.
pub fn of_others(source: &Source) -> Result<String> {
    let mut packages = linked(source)?;
    packages.sort_by(|one, two| (&one.name, &one.version).cmp(&(&two.name, &two.version)));
    let mut text = "What twtrace is linked with, and on which terms.\n\n".to_owned();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in &packages {
        let name = format!("{} {}", package.name, package.version);
        let terms = package.license.as_deref().unwrap_or("see its licence below");
        text.push_str(&format!("{name}: {terms}\n"));
        for licence in licences(package.manifest_path.as_std_path())? {
            texts.entry(licence).or_default().insert(name.clone());
        }
    }
    for (licence, names) in texts {
        let names: Vec<_> = names.into_iter().collect();
        text.push_str(&format!("\n\n---- {}\n\n{}\n", names.join(", "), licence.trim_end()));
    }
    Ok(text)
}

/// The packages of others that are linked into the program.
fn linked(source: &Source) -> Result<Vec<Package>> {
    let platform = source.architecture.target();
    let metadata = MetadataCommand::new()
        .current_dir(&source.directory)
        .other_options(["--filter-platform".to_owned(), platform, "--locked".to_owned()])
        .exec()?;
    let resolve = metadata.resolve.context("cargo resolves what is needed")?;
    let nodes: HashMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let own = |package: &&Package| package.name.as_str() == "twtrace";
    let mut waiting = vec![&metadata.packages.iter().find(own).context("twtrace")?.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let linked = nodes.get(id).into_iter().flat_map(|node| &node.deps).filter(|dependency| {
            dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
        });
        waiting.extend(linked.map(|dependency| &dependency.pkg));
    }
    let others = metadata.packages.iter().filter(|package| package.source.is_some());
    Ok(others.filter(|package| seen.contains(&package.id)).cloned().collect())
}

fn licences(manifest: &Path) -> Result<Vec<String>> {
    let directory = manifest.parent().context("a manifest is in a directory")?;
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            texts.push(String::from_utf8_lossy(&fs::read(entry.path())?).into_owned());
        }
    }
    Ok(texts)
}
