//! Every class of bad input, with the code, place and path it is told by.
//!
//! `▸` in an input marks where a problem is expected; the problems are named in the same order.

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

/// The text without its marks, and their lines and columns.
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

/// `expected` are codes and paths: "unknown-key load_balancer.algoritm".
fn check(marked: &str, expected: &[&str]) {
    let (text, places) = unmark(marked);
    let loaded = load_text(&text);
    let errors = loaded.problems.iter().any(|p| p.severity == Severity::Error);
    assert_eq!(loaded.config.is_none(), errors, "a configuration with errors, or none without: {text}");
    let told: Vec<_> = loaded
        .problems
        .iter()
        .map(|p| (p.at.line, p.at.column, format!("{} {}", p.code, p.path).trim_end().to_owned()))
        .collect();
    assert_eq!(places.len(), expected.len(), "as many marks as problems: {marked}\ntold: {told:#?}");
    let expected: Vec<_> = places
        .into_iter()
        .zip(expected)
        .map(|((line, column), what)| (line, column, (*what).to_owned()))
        .collect();
    assert_eq!(told, expected, "\n{text}");
}

/// The short form with lines added.
fn check_short(lines: &str, expected: &[&str]) {
    check(&format!("listen: \":80\"\ndestinations: [\"a:1\", \"b:1\"]\n{lines}"), expected);
}

/// The short form with a `load_balancer`; paths are within it.
fn check_policy(block: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " load_balancer.", 1)).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    check_short(&format!("load_balancer:\n{block}"), &expected);
}

/// A listener with more keys; paths are within it.
fn check_listener(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", pool: api, {keys}}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A listener with one route; paths are within the list of routes.
fn check_route(keys: &str, expected: &[&str]) {
    let text = format!(
        "listeners: [{{name: web, address: \":80\", routes: [{keys}]}}]\npools: {{api: {{destinations: [\"a:1\"]}}}}"
    );
    let expected: Vec<_> = expected.iter().map(|e| e.replacen(' ', " listeners[0].routes", 1)).collect();
    check(&text, &expected.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The short form with these destinations; paths are within the list.
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
fn a_good_file_has_no_problems() {
    check_short("", &[]);
    check_policy("  algorithm: p2c", &[]);
    check_listener("via: true", &[]);
    check_route("{pool: api}", &[]);
    check_destinations("{address: \"a:1\", weight: 0}, \"b:2\"", &[]);
}
