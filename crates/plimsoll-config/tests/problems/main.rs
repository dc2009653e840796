//! Problems of invalid files, with code, location and path.
//!
//! `▸` in an input marks the location of a problem. The expected problems are in the same order.

mod rendering;
mod semantics;
mod structure;
mod values;

use std::path::Path;

use plimsoll_config::{Loaded, Severity, load};

fn load_text(text: &str) -> Loaded {
    let env = |name: &str| match name {
        "SECRET" => Some("hunter2".to_owned()),
        "NUMBER" => Some("70000".to_owned()),
        _ => None,
    };
    load(text, "test.yaml", Path::new("/etc/plimsoll"), &env)
}

/// Returns the text without its marks, and the lines and columns of the marks.
fn unmark(marked: &str) -> (String, Vec<(usize, usize)>) {
    let (mut text, mut places) = (String::new(), Vec::new());
    let (mut line, mut column) = (1, 1);
    for c in marked.chars() {
        match c {
            '▸' => places.push((line, column)),
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        if c != '▸' {
            text.push(c);
        }
    }
    (text, places)
}

/// Compares the problems with `expected`, which are codes and paths such as "unknown-key load_balancer.algoritm".
fn check(marked: &str, expected: &[&str]) {
    let (text, places) = unmark(marked);
    let loaded = load_text(&text);
    let errors = loaded.problems.iter().any(|p| p.severity == Severity::Error);
    assert_eq!(loaded.config.is_none(), errors, "a configuration with errors, or none without: {text}");
    let reported: Vec<_> = loaded
        .problems
        .iter()
        .map(|p| (p.at.line, p.at.column, format!("{} {}", p.code, p.path).trim_end().to_owned()))
        .collect();
    assert_eq!(places.len(), expected.len(), "marks and problems differ: {marked}\nreported: {reported:#?}");
    let expected: Vec<_> = places
        .into_iter()
        .zip(expected)
        .map(|((line, column), what)| (line, column, (*what).to_owned()))
        .collect();
    assert_eq!(reported, expected, "\n{text}");
}

/// Checks the short form with more lines.
fn check_short(lines: &str, expected: &[&str]) {
    check(&format!("listen: \":80\"\ndestinations: [\"a:1\", \"b:1\"]\n{lines}"), expected);
}

/// Checks the short form with a `load_balancer` block. Paths are relative to the block.
fn check_policy(block: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " load_balancer.", 1)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check_short(&format!("load_balancer:\n{block}"), &expected);
}

/// Checks a listener with more keys. Paths are relative to the listener.
fn check_listener(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", pool: api, {keys}}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Checks a listener with routes. Paths are relative to the list of routes.
fn check_route(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", routes: [{keys}]}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].routes", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Checks the short form with these destinations. Paths are relative to the list.
fn check_destinations(destinations: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " destinations", 1)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check(&format!("listen: \":80\"\ndestinations: [{destinations}]"), &expected);
}

fn help(text: &str) -> String {
    load_text(text).problems[0].help.clone().unwrap_or_default()
}

fn help_short(lines: &str) -> String {
    help(&format!("listen: \":80\"\ndestinations: [\"a:1\"]\n{lines}"))
}

#[test]
fn a_valid_file_has_no_problems() {
    check_short("", &[]);
    check_policy("  algorithm: p2c", &[]);
    check_listener("via: true", &[]);
    check_route("{pool: api}", &[]);
    check_destinations("{address: \"a:1\", weight: 0}, \"b:2\"", &[]);
}
