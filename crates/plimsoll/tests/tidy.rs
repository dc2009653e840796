//! Consistency of the workspace: directions of dependencies, layers, language, sizes, and pages that match the code.

#[path = "tidy/language.rs"]
mod language;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/map.rs"]
mod map;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` with a name that ends in `ending`.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            match (path.is_dir(), path.to_string_lossy().ends_with(ending)) {
                (true, _) if path.file_name().is_some_and(|name| name != "target") => open.push(path),
                (false, true) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing below {folder} ends in {ending}");
    found
}

#[test]
fn crates_depend_in_one_direction() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("plimsoll-core", &[] as &[&str]),
        ("plimsoll-wire", &[]),
        ("plimsoll-config", &["plimsoll-core"]),
        ("plimsoll-sim", &["plimsoll-core", "plimsoll-config"]),
        ("plimsoll-proxy", &["plimsoll-core", "plimsoll-config", "plimsoll-wire"]),
        ("plimsoll-functions", &["plimsoll-core", "plimsoll-proxy"]),
        ("plimsoll-admin", &["plimsoll-core", "plimsoll-proxy", "plimsoll-functions"]),
        (
            "plimsoll",
            &[
                "plimsoll-core",
                "plimsoll-config",
                "plimsoll-proxy",
                "plimsoll-functions",
                "plimsoll-admin",
                "plimsoll-sim",
            ],
        ),
    ]);
    for (name, allowed) in allowed {
        let manifest = read(format!("crates/{name}/Cargo.toml"));
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for line in dependencies.lines().filter(|line| line.starts_with("plimsoll")) {
            let other = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn files_begin_with_their_module_docs_and_stay_below_800_lines() {
    for path in files("crates", ".rs").into_iter().chain(files("bench", ".rs")) {
        let text = fs::read_to_string(&path).expect("text");
        let shown = path.display();
        assert!(text.starts_with("//! "), "{shown} does not begin with its module docs");
        assert!(text.lines().count() <= 800, "{shown} is longer than 800 lines");
    }
}

#[test]
fn every_path_the_pages_name_exists() {
    let starts = ["crates/", "bench/", "docs/", "examples/", "deploy/", "fuzz/"];
    for page in ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md"] {
        for word in read(page).split(['`', '(', ')', ' ', '\n', ',', '#', '|']) {
            let is_path = starts.iter().any(|start| word.starts_with(start));
            assert!(!is_path || root().join(word).exists(), "{page} names {word}, which does not exist");
        }
    }
}

/// The pages of the repository: those at the root and those below `docs`.
fn pages() -> Vec<PathBuf> {
    let at_the_root = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ROADMAP.md", "SECURITY.md"];
    files("docs", ".md").into_iter().chain(at_the_root.map(|name| root().join(name))).collect()
}

/// The text of a page without its code blocks.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// The anchors of a page's headings, as GitHub derives them.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let titles = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    titles.map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading() {
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).expect("text"));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            let shown = page.display();
            assert!(target.exists(), "{shown} links to {link}, which does not exist");
            if !anchor.is_empty() {
                let headings = anchors(&prose(&fs::read_to_string(&target).expect("text")));
                assert!(headings.iter().any(|h| h == anchor), "{shown} links to {link}: no such heading");
            }
        }
    }
}

#[test]
fn every_configuration_on_a_page_is_valid() {
    let mut seen = 0;
    for page in files("docs/guide", ".md").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&page).expect("text");
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            // Snippets that show one key in passing are not whole files; these start with a listener.
            if !(block.contains("listen:") || block.contains("listeners:")) {
                continue;
            }
            seen += 1;
            let name = page.display().to_string();
            let env = |_: &str| Some("value".to_owned());
            let loaded = plimsoll_config::load(block, &name, &root(), &env);
            let problems = plimsoll_config::render_text(&loaded.problems, &loaded.sources);
            assert!(loaded.config.is_some(), "{name}:\n{problems}\n{block}");
        }
    }
    assert!(seen >= 5, "only {seen} configurations found");
}
