//! Which kernel modules a scenario needs, and in which order they load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

/// What the scenarios use. Nothing inside loads modules on demand, so all are loaded at
/// start; what a kernel has built in or does not have at all is passed over.
pub const WANTED: [&str; 23] = [
    "veth",
    "dummy",
    "tun",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nft_compat",
    "nft_counter",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_reject_inet",
    "x_tables",
    "ip_tables",
    "ip6_tables",
    "iptable_filter",
    "iptable_mangle",
    "ip6table_mangle",
    "xt_TCPOPTSTRIP",
    "xt_tcpudp",
    "xt_conntrack",
    "sch_netem",
    "sch_fq",
];

/// Parts of other modules in newer kernels, so that their absence is not worth a word.
const MERGED: [&str; 1] = ["nft_counter"];

/// Parameters of modules that do too much by themselves: no device that nobody asked for.
const PARAMETERS: [(&str, &str); 1] = [("dummy", "numdummies=0")];

/// A module ready to be loaded.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The uncompressed object.
    pub object: Vec<u8>,
}

impl Module {
    /// What to load it with.
    pub fn parameters(&self) -> &'static str {
        PARAMETERS.iter().find(|(name, _)| *name == self.name).map_or("", |(_, text)| text)
    }
}

/// A kernel's modules, by name.
pub struct Modules(BTreeMap<String, PathBuf>);

/// The wanted modules in load order, and those the kernel has no file for.
pub struct Selection {
    /// Every module after the ones it needs.
    pub load: Vec<Module>,
    /// Built in, or not there.
    pub absent: Vec<&'static str>,
}

impl Modules {
    /// Finds every module file below a directory.
    pub fn find(dir: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        walk(dir, &mut found)?;
        if found.is_empty() {
            bail!("no kernel modules below {}", dir.display());
        }
        Ok(Self(found))
    }

    /// Reads the wanted modules and what they depend on.
    pub fn select(&self, wanted: &[&'static str]) -> Result<Selection> {
        let mut objects = BTreeMap::new();
        let mut needs = BTreeMap::new();
        let absent = |name: &&str| !self.0.contains_key(*name) && !MERGED.contains(name);
        let absent = wanted.iter().copied().filter(absent).collect();
        let mut todo: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        while let Some(name) = todo.pop() {
            let Some(path) = self.0.get(&name) else { continue };
            if objects.contains_key(&name) {
                continue;
            }
            let object = read(path)?;
            let depends = dependencies(&object)
                .with_context(|| format!("cannot read what {} needs", path.display()))?;
            todo.extend(depends.iter().cloned());
            needs.insert(name.clone(), depends);
            objects.insert(name, object);
        }
        let mut load = Vec::new();
        for name in load_order(wanted, &needs) {
            if let Some(object) = objects.remove(&name) {
                load.push(Module { name, object });
            }
        }
        Ok(Selection { load, absent })
    }
}

fn walk(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
            found.insert(name, entry.path());
        }
    }
    Ok(())
}

/// A module's name from its file's: `nft-x.ko.xz` is `nft_x`.
fn module_name(file: &str) -> Option<String> {
    let stem = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let raw = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_some_and(|it| it == "ko") {
        return Ok(raw);
    }
    let mut object = Vec::new();
    liblzma::read::XzDecoder::new(raw.as_slice())
        .read_to_end(&mut object)
        .with_context(|| format!("cannot decompress {}", path.display()))?;
    Ok(object)
}

/// The names after `depends=` and `softdep=pre:` in a module's `.modinfo`.
fn dependencies(object: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(object)?;
    let section = file.section_by_name(".modinfo").context("it has no section .modinfo")?;
    Ok(parse_modinfo(&String::from_utf8_lossy(section.data()?)))
}

fn parse_modinfo(info: &str) -> Vec<String> {
    let mut names = Vec::new();
    for entry in info.split('\0') {
        if let Some(list) = entry.strip_prefix("depends=") {
            names.extend(list.split(',').map(str::to_owned));
        } else if let Some(list) = entry.strip_prefix("softdep=pre:") {
            let before = list.split("post:").next().unwrap_or_default();
            names.extend(before.split_whitespace().map(str::to_owned));
        }
    }
    names.retain(|name| !name.is_empty());
    names.iter().map(|name| name.replace('-', "_")).collect()
}

/// Puts every name after all that it needs.
fn load_order(wanted: &[&str], needs: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for &name in wanted {
        visit(name, needs, &mut seen, &mut order);
    }
    order
}

fn visit<'a>(
    name: &'a str,
    needs: &'a BTreeMap<String, Vec<String>>,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<String>,
) {
    // Entering it as seen before its needs are ends a circle, should there be one.
    if seen.insert(name) {
        for need in needs.get(name).into_iter().flatten() {
            visit(need, needs, seen, order);
        }
        order.push(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_all_it_needs() {
        let needs = BTreeMap::from([
            ("tcp_diag".to_owned(), vec!["inet_diag".to_owned()]),
            ("nft_compat".to_owned(), vec!["nf_tables".to_owned(), "x_tables".to_owned()]),
            ("nf_tables".to_owned(), vec!["nfnetlink".to_owned()]),
        ]);
        assert_eq!(
            load_order(&["tcp_diag", "nft_compat", "nf_tables"], &needs),
            ["inet_diag", "tcp_diag", "nfnetlink", "nf_tables", "x_tables", "nft_compat"]
        );
    }

    #[test]
    fn a_circle_of_needs_comes_to_an_end() {
        let needs = BTreeMap::from([
            ("a".to_owned(), vec!["b".to_owned()]),
            ("b".to_owned(), vec!["a".to_owned()]),
        ]);
        assert_eq!(load_order(&["a"], &needs), ["b", "a"]);
    }

    #[test]
    fn modinfo_names_what_must_and_what_should_come_before() {
        let info = "license=GPL\0depends=nf-conntrack,x_tables\0\
                    softdep=pre: crc32c post: after\0depends=\0";
        assert_eq!(parse_modinfo(info), ["nf_conntrack", "x_tables", "crc32c"]);
    }

    #[test]
    fn names_come_from_plain_and_compressed_files() {
        assert_eq!(module_name("xt_TCPOPTSTRIP.ko.xz").as_deref(), Some("xt_TCPOPTSTRIP"));
        assert_eq!(module_name("sch-netem.ko").as_deref(), Some("sch_netem"));
        assert_eq!(module_name("modules.dep"), None);
    }
}
