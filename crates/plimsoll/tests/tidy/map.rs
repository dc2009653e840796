//! The map of the code in docs/ARCHITECTURE.md: its paths and functions exist, and no module is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::{read, root};

const PAGE: &str = "docs/ARCHITECTURE.md";

/// Crates of the map, each with the depth of its modules: those of the proxy lie within its layers.
const CRATES: [(&str, usize); 8] = [
    ("wire", 1),
    ("core", 1),
    ("config", 1),
    ("proxy", 2),
    ("functions", 1),
    ("admin", 1),
    ("sim", 1),
    ("plimsoll", 1),
];

/// Number of questions that the page answers at least.
const MIN_QUESTIONS: usize = 30;

/// Returns the source folder of a crate by the short name that the page uses.
fn source_folder(short: &str) -> PathBuf {
    let name = if short == "plimsoll" { short.to_owned() } else { format!("plimsoll-{short}") };
    root().join("crates").join(name).join("src")
}

/// Resolves a path of the page, such as `core/snapshot/choice.rs`.
fn resolve(short: &str) -> Option<PathBuf> {
    let (name, rest) = short.split_once('/')?;
    CRATES.iter().any(|(known, _)| *known == name).then(|| source_folder(name).join(rest))
}

/// Returns the lines of the section with this heading, up to the next heading of its level.
fn section<'p>(page: &'p str, heading: &str) -> Vec<&'p str> {
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{PAGE} has no section {heading:?}");
    lines.take_while(|line| !line.starts_with("## ")).collect()
}

/// Returns the rows of all tables of a section, split into cells, without their headers.
fn rows<'p>(lines: &[&'p str]) -> Vec<Vec<&'p str>> {
    let is_row = |line: &str| line.starts_with('|');
    let cells = |line: &'p str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines
        .windows(2)
        .filter(|pair| is_row(pair[1]) && !pair[1].starts_with("|---") && is_row(pair[0]))
        .map(|pair| cells(pair[1]))
        .collect()
}

/// Returns the texts between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the texts between backticks that name an item in a file, as (path, item).
fn items(text: &str) -> Vec<(&str, &str)> {
    quoted(text).filter_map(|text| text.split_once(".rs:")).collect()
}

/// Returns whether a file defines a function, a constant or a type of this name.
fn defines(code: &str, name: &str) -> bool {
    ["fn ", "const ", "static ", "struct ", "enum ", "trait "].iter().any(|keyword| {
        code.split(&format!("{keyword}{name}"))
            .skip(1)
            .any(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

#[test]
fn every_item_the_page_names_exists() {
    let page = read(PAGE);
    let mut missing = Vec::new();
    for (path, item) in items(&page) {
        let file = resolve(&format!("{path}.rs")).unwrap_or_default();
        match fs::read_to_string(&file) {
            Ok(code) if defines(&code, item) => {}
            Ok(_) => missing.push(format!("{path}.rs has no {item}")),
            Err(_) => missing.push(format!("{path}.rs does not exist")),
        }
    }
    assert!(missing.is_empty(), "{PAGE} names items that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn every_question_is_answered_by_a_file_and_a_function() {
    let page = read(PAGE);
    let questions = rows(&section(&page, "## Where is it decided?"));
    assert!(questions.len() >= MIN_QUESTIONS, "only {} questions", questions.len());
    let unanswered: Vec<_> =
        questions.iter().filter(|row| row.last().is_none_or(|cell| items(cell).is_empty())).collect();
    assert!(unanswered.is_empty(), "questions without `file.rs:function`: {unanswered:?}");
}

#[test]
fn every_module_of_the_map_exists() {
    let page = read(PAGE);
    let missing: Vec<_> = modules_of_the_map(&page)
        .into_iter()
        .filter(|module| !resolve(module).is_some_and(|path| path.exists()))
        .collect();
    assert!(missing.is_empty(), "{PAGE} lists modules that do not exist: {missing:?}");
}

#[test]
fn the_map_lists_every_module() {
    let page = read(PAGE);
    let listed = modules_of_the_map(&page);
    let mut missing = Vec::new();
    for (name, depth) in CRATES {
        let modules = modules_of(name, depth);
        assert!(!modules.is_empty(), "no modules in {name}");
        missing.extend(modules.into_iter().filter(|module| !listed.contains(module)));
    }
    assert!(missing.is_empty(), "{PAGE} does not list {missing:?}");
}

/// Returns the modules in the first cells of the map's tables, without the slash that ends a folder.
fn modules_of_the_map(page: &str) -> BTreeSet<String> {
    let rows = rows(&section(page, "## Code map"));
    rows.iter().flat_map(|row| quoted(row[0])).map(|path| path.trim_end_matches('/').to_owned()).collect()
}

/// Returns the folders and single-file modules at a depth below a crate's sources, as the page writes them.
fn modules_of(name: &str, depth: usize) -> BTreeSet<String> {
    let mut modules = BTreeSet::from([(name.to_owned(), source_folder(name))]);
    for _ in 0..depth {
        modules = modules
            .into_iter()
            .filter(|(_, path)| path.is_dir())
            .flat_map(|(short, path)| {
                let entries = fs::read_dir(path).expect("a folder").flatten();
                entries.map(move |entry| {
                    (format!("{short}/{}", entry.file_name().to_string_lossy()), entry.path())
                })
            })
            .filter(|(short, path)| path.is_dir() || short.ends_with(".rs"))
            .filter(|(short, _)| !is_root_of_a_module(short))
            .collect();
    }
    modules.into_iter().map(|(short, _)| short).collect()
}

/// Returns whether a file is the root of the crate or folder that it lies in, or holds its tests.
fn is_root_of_a_module(short: &str) -> bool {
    ["lib.rs", "main.rs", "mod.rs", "tests.rs", "tests"].contains(&short.rsplit('/').next().unwrap_or(short))
}

#[test]
fn definitions_are_found_by_their_whole_name() {
    assert!(defines("pub(crate) async fn serve(connection: Connection)", "serve"));
    assert!(defines("fn run<D: Downstream>(", "run"));
    assert!(defines("pub const TOP: Keys", "TOP"));
    assert!(!defines("fn serve_all()", "serve"));
    assert!(!defines("self.serve()", "serve"));
}
