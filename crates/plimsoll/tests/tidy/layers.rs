//! The order of the modules: imports inside a crate follow its layers, and siblings never form a cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::source::Source;
use crate::{files, root};

/// Layers of plimsoll-proxy, the lowest first. A module imports only from its own layer and those below.
const PROXY_LAYERS: [&str; 11] =
    ["base", "net", "http", "log", "upstream", "listener", "health", "forward", "serve", "run", "control"];

/// A module with the modules and items that it names.
struct Module {
    /// Path below the crate, without the crate itself.
    path: Vec<String>,
    /// Paths below the crate that its code names, without unit tests.
    names: BTreeSet<Vec<String>>,
}

/// Returns the modules of a crate.
fn modules_of(name: &str) -> Vec<Module> {
    let src = root().join("crates").join(name).join("src");
    files(&format!("crates/{name}/src"), ".rs")
        .into_iter()
        .filter(|path| !is_test_module(path.strip_prefix(&src).expect("below src")))
        .map(|path| {
            let module = module_path(path.strip_prefix(&src).expect("below src"));
            let source = Source::read(&path);
            let names = names_in(source.without_tests(), &module);
            Module { path: module, names }
        })
        .collect()
}

fn is_test_module(path: &Path) -> bool {
    path.iter().any(|part| matches!(part.to_str(), Some("tests" | "tests.rs")))
}

fn module_path(file: &Path) -> Vec<String> {
    let mut path: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// Returns all paths that start with `crate`, `super` or `self`, resolved from the crate's root.
fn names_in(code: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut names = BTreeSet::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || matches!(before, '_' | '$' | ':') {
                continue;
            }
            for path in expand(&code[at..]) {
                names.insert(resolve(&path, module));
            }
        }
    }
    names
}

/// Expands the path at the front of `code`, with its groups in braces, to plain paths.
fn expand(code: &str) -> Vec<Vec<String>> {
    let mut path = Vec::new();
    let mut rest = code;
    loop {
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix("::") else { return vec![path] };
        rest = after;
        if let Some(group) = rest.strip_prefix('{') {
            let inner = split_group(group).into_iter().flat_map(|part| expand(part.trim()));
            return inner.map(|tail| [path.clone(), tail].concat()).collect();
        }
    }
}

/// Splits the inside of a group at its own commas, up to its closing brace.
fn split_group(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

fn resolve(path: &[String], module: &[String]) -> Vec<String> {
    let mut base: Vec<String> = module.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("crate") => (base, rest) = (Vec::new(), &path[1..]),
        Some("self") => rest = &path[1..],
        _ => {
            while let Some(("super", tail)) = rest.split_first().map(|(first, tail)| (first.as_str(), tail)) {
                base.pop();
                rest = tail;
            }
        }
    }
    base.extend(rest.iter().cloned());
    base
}

#[test]
fn the_proxy_imports_only_from_its_own_layer_and_those_below() {
    let rank = |name: &str| PROXY_LAYERS.iter().position(|layer| *layer == name);
    let mut upward = Vec::new();
    for module in modules_of("plimsoll-proxy") {
        let Some(own) = module.path.first() else { continue };
        let own_rank = rank(own).unwrap_or_else(|| panic!("{own} is not a layer of plimsoll-proxy"));
        for name in &module.names {
            let Some(other) = name.first().and_then(|first| rank(first)) else { continue };
            if other > own_rank {
                upward.push(format!("{} imports {}", module.path.join("::"), name.join("::")));
            }
        }
    }
    assert!(upward.is_empty(), "{} imports against the layers:\n{}", upward.len(), upward.join("\n"));
}

#[test]
fn sibling_modules_never_form_an_import_cycle() {
    let mut cycles = Vec::new();
    for name in [
        "plimsoll-wire",
        "plimsoll-core",
        "plimsoll-config",
        "plimsoll-proxy",
        "plimsoll-functions",
        "plimsoll-admin",
        "plimsoll-sim",
    ] {
        let modules = modules_of(name);
        let known: BTreeSet<&[String]> = modules.iter().map(|module| module.path.as_slice()).collect();
        let parents: BTreeSet<&[String]> =
            known.iter().filter(|path| !path.is_empty()).map(|path| &path[..path.len() - 1]).collect();
        for parent in parents {
            let edges = sibling_edges(&modules, &known, parent);
            for cycle in find_cycles(&edges) {
                cycles.push(format!("{name} {}: {}", parent.join("::"), cycle.join(" -> ")));
            }
        }
    }
    assert!(cycles.is_empty(), "{} import cycles:\n{}", cycles.len(), cycles.join("\n"));
}

/// Returns which child modules of `parent` name which of its other children.
fn sibling_edges<'m>(
    modules: &'m [Module],
    known: &BTreeSet<&[String]>,
    parent: &[String],
) -> BTreeMap<&'m str, BTreeSet<&'m str>> {
    let depth = parent.len();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for module in modules.iter().filter(|m| m.path.len() > depth && m.path[..depth] == *parent) {
        let own = module.path[depth].as_str();
        let siblings = module
            .names
            .iter()
            .filter(|name| name.len() > depth && name[..depth] == *parent && known.contains(&name[..=depth]));
        let others = siblings.map(|name| name[depth].as_str()).filter(|other| *other != own);
        edges.entry(own).or_default().extend(others);
    }
    edges
}

/// Returns the groups of modules that reach each other.
fn find_cycles<'m>(edges: &BTreeMap<&'m str, BTreeSet<&'m str>>) -> Vec<Vec<&'m str>> {
    let reach = |from: &'m str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            for other in edges.get(next).into_iter().flatten() {
                if seen.insert(*other) {
                    open.push(other);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|name| (*name, reach(name))).collect();
    let mut cycles: Vec<Vec<&str>> = Vec::new();
    for (name, seen) in &reached {
        if !seen.contains(name) || cycles.iter().any(|cycle| cycle.contains(name)) {
            continue;
        }
        let back = |other: &&str| reached.get(other).is_some_and(|seen| seen.contains(name));
        cycles.push(seen.iter().copied().filter(back).collect());
    }
    cycles
}

#[test]
fn groups_of_imports_are_expanded() {
    let paths = expand("crate::{a::{B, c::D}, e};");
    let shown: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(shown, ["crate::a::B", "crate::a::c::D", "crate::e"]);
    let module = ["x".to_owned(), "y".to_owned()];
    assert_eq!(resolve(&["super".into(), "z".into()], &module), ["x", "z"]);
}

#[test]
fn cycles_are_found() {
    let edges = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c"])),
        ("c", BTreeSet::from(["a", "d"])),
        ("d", BTreeSet::new()),
    ]);
    assert_eq!(find_cycles(&edges), [vec!["a", "b", "c"]]);
}
