//! A module uses only what stands above it in the table of docs/ARCHITECTURE.md.
//!
//! Paths are read as text: what a `mod.rs` hands on from its files counts as that `mod.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The lines of the table of modules, wherever a line begins.
fn table(text: &str, before: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(before));
    let lines = lines.skip_while(|line| !line.starts_with("| module |"));
    lines.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

/// The modules in the order of the table.
fn order() -> Vec<String> {
    let lines = table(include_str!("../../docs/ARCHITECTURE.md"), "");
    let names = lines.iter().skip(2).flat_map(|line| {
        let cell = line.split('|').nth(1).expect("a cell");
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    names.collect()
}

/// Every source file, by its path of modules; what only tests are compiled of is left out.
fn sources() -> BTreeMap<String, String> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below it").with_extension("");
        let name = name.to_str().expect("a name").trim_end_matches("/mod").to_owned();
        let text = fs::read_to_string(&path).expect("a text");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
        (name, lines.collect::<Vec<_>>().join(" "))
    };
    let tests = ["lib", "main", "diagnose/testing", "diagnose/pressure/tests"];
    files.into_iter().map(source).filter(|(name, _)| !tests.contains(&name.as_str())).collect()
}

/// The paths that follow a word such as `crate::`, those of a list in braces one by one.
fn paths(code: &str, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(word) {
        let before = code[..at].chars().next_back();
        if before.is_none_or(|char| !char.is_alphanumeric() && !"_:".contains(char)) {
            expand("", &code[at + word.len()..], &mut found);
        }
    }
    found
}

/// Adds the paths that a tree of them begins with; answers what is behind it.
fn expand<'a>(prefix: &str, tree: &'a str, found: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut rest) = tree.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if rest.is_empty() || rest.starts_with('}') {
                return rest.get(1..).unwrap_or_default();
            }
            rest = expand(prefix, rest, found);
            // A name that something is taken in under.
            rest = rest.trim_start_matches(|char| !",}".contains(char));
        }
    }
    let end = tree.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(tree.len());
    let path = format!("{prefix}{}", &tree[..end]);
    match tree[end..].strip_prefix("::") {
        Some(rest) if end > 0 => expand(&format!("{path}/"), rest, found),
        _ => {
            found.push(path);
            &tree[end.max(1).min(tree.len())..]
        }
    }
}

/// The file that a path leads to.
fn file<'a>(path: &str, files: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut path = path;
    loop {
        match files.get_key_value(path) {
            Some((name, _)) => return Some(name),
            None => path = path.rsplit_once('/')?.0,
        }
    }
}

/// A path that begins in a module, or in one above it.
fn above(parent: &str, path: &str) -> String {
    match path.strip_prefix("super/") {
        Some(rest) => above(parent.rsplit_once('/').map_or("", |(above, _)| above), rest),
        None => format!("{parent}/{path}"),
    }
}

/// Where two paths part: what is below the same module and has the one, and the other, in it.
fn apart<'a>(one: &'a str, other: &'a str) -> Option<(&'a str, &'a str)> {
    let same = one.split('/').zip(other.split('/')).take_while(|(one, other)| one == other);
    let shared: usize = same.map(|(name, _)| name.len() + 1).sum();
    let next = |path: &'a str| {
        let rest = path.get(shared..)?;
        path.get(..shared + rest.find('/').unwrap_or(rest.len()))
    };
    next(one).zip(next(other))
}

/// Which files a file uses.
fn uses<'a>(name: &str, code: &str, files: &'a BTreeMap<String, String>) -> BTreeSet<&'a str> {
    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
    let relative = paths(code, "super::").into_iter().map(|path| above(parent, &path));
    let own = paths(code, "self::").into_iter().map(|path| format!("{name}/{path}"));
    let all = paths(code, "crate::").into_iter().chain(relative).chain(own);
    all.filter_map(|path| file(path.trim_start_matches('/'), files)).collect()
}

#[test]
fn the_table_is_the_same_in_the_code_and_in_the_document() {
    let document = table(include_str!("../../docs/ARCHITECTURE.md"), "");
    assert_eq!(table(include_str!("../src/lib.rs"), "//! "), document);
}

#[test]
fn a_module_uses_only_what_stands_above_it() {
    let (order, files) = (order(), sources());
    let place = |module: &str| order.iter().position(|known| known == module);
    let top = |file: &str| file.split('/').next().expect("a name").to_owned();
    let mut wrong = Vec::new();
    for (name, code) in &files {
        let own = place(&top(name)).unwrap_or_else(|| panic!("{name} is not in the table"));
        for used in uses(name, code, &files) {
            let at = place(&top(used)).unwrap_or_else(|| panic!("{used} is not in the table"));
            if at > own {
                wrong.push(format!("{name} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_part_of_a_module_uses_one_that_uses_it() {
    let files = sources();
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, code) in &files {
        // What a mod.rs hands on is in its files, and what it has itself is theirs: they do not part.
        for (own, used) in uses(name, code, &files).into_iter().filter_map(|it| apart(name, it)) {
            left.entry(own).or_default().insert(used);
        }
    }
    // Take away what uses nothing that is left, until there are circles and what uses them.
    loop {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, used| used.iter().any(|used| names.contains(used)));
        if left.len() == names.len() {
            break;
        }
    }
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn paths_are_read_out_of_any_tree() {
    let code = "use crate::{a, b::{self, c as d}, e::f}; fn g() { crate::h::i(); }";
    assert_eq!(paths(code, "crate::"), ["a", "b/self", "b/c", "e/f", "h/i"]);
}

#[test]
fn paths_part_below_what_they_have_in_common() {
    assert_eq!(
        apart("view/tui/draw/peers", "view/tui/state"),
        Some(("view/tui/draw", "view/tui/state"))
    );
    assert_eq!(apart("feed/core", "feeds"), Some(("feed", "feeds")));
    assert_eq!(apart("view/tui", "view/tui/state"), None);
    assert_eq!(apart("view", "view"), None);
    assert_eq!(above("view/tui/draw", "super/super/series"), "view/series");
}
