//! The words and sentences of the code and the pages (CONTRIBUTING.md, "Names" and "Sentences").

use std::fs;

use crate::source::Source;
use crate::{files, pages, prose, root};

/// Words that name no concept of the field. The field's terms stand in CONTRIBUTING.md.
const PRIVATE: [&str; 26] = [
    "hall",
    "berth",
    "berths",
    "moor",
    "moored",
    "door",
    "doors",
    "guest",
    "guests",
    "turnstile",
    "vouch",
    "voucher",
    "desk",
    "mouth",
    "homing",
    "train",
    "trains",
    "metronome",
    "penance",
    "anger",
    "ear",
    "ears",
    "fate",
    "road",
    "alarm",
    "alarms",
];

/// Words for people, where components act.
const PEOPLE: [&str; 8] = ["who", "whom", "whose", "somebody", "somebody's", "nobody", "nobody's", "whoever"];

/// Beginnings of sentences that cannot be understood without the line above.
const BEGINNINGS: [&str; 8] = ["The same", "So, ", "Who", "Whom", "What.", "There are", "Of these", "It did"];

fn fuzz() -> Vec<std::path::PathBuf> {
    if root().join("fuzz").exists() { files("fuzz", ".rs") } else { Vec::new() }
}

fn sources() -> Vec<Source> {
    let ours = |path: &std::path::PathBuf| !path.ends_with("tidy/language.rs");
    let rust = files("crates", ".rs").into_iter().chain(files("bench", ".rs")).chain(fuzz());
    rust.filter(ours).map(|path| Source::read(&path)).collect()
}

/// The words of an identifier in snake case, camel case or capitals, in lower case.
fn words_of(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().expect("never empty").extend(c.to_lowercase());
        }
        before = c;
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The words of a sentence, without code and links.
fn words_in(text: &str) -> impl Iterator<Item = String> {
    let plain: String = text.split('`').step_by(2).collect();
    let split = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '\''));
    plain.split(split).filter(|w| !w.is_empty()).map(str::to_lowercase).collect::<Vec<_>>().into_iter()
}

fn fail_on(found: Vec<String>, what: &str) {
    assert!(found.is_empty(), "{} {what}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn identifiers_and_file_names_use_the_terms_of_the_field() {
    let mut found = Vec::new();
    for source in sources() {
        let path = source.path.strip_prefix(root()).expect("below the root").display().to_string();
        let names = path.split(['/', '.']).map(|name| (0, name));
        let identifiers = source.code.lines().enumerate().flat_map(|(line, text)| {
            let parts = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            parts.map(move |name| (line + 1, name))
        });
        for (line, name) in names.chain(identifiers) {
            if words_of(name).iter().any(|word| PRIVATE.contains(&word.as_str())) {
                found.push(format!("{path}:{line}: {name}"));
            }
        }
    }
    fail_on(found, "identifiers are not terms of the field");
}

#[test]
fn comments_speak_of_components_in_the_terms_of_the_field() {
    let mut found = Vec::new();
    for source in sources() {
        for (line, text) in &source.comments {
            let odd = words_in(text).find(|w| PEOPLE.contains(&w.as_str()) || PRIVATE.contains(&w.as_str()));
            if let Some(word) = odd {
                found.push(format!("{}:{line}: `{word}` in: {text}", source.path.display()));
            }
        }
    }
    fail_on(found, "comments use words for people or private words");
}

#[test]
fn pages_speak_of_components() {
    let mut found = Vec::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).expect("text"));
        for line in text.lines() {
            if let Some(word) = words_in(line).find(|word| PEOPLE.contains(&word.as_str())) {
                found.push(format!("{}: `{word}` in: {line}", page.display()));
            }
        }
    }
    fail_on(found, "lines of pages use words for people");
}

#[test]
fn doc_lines_stand_alone() {
    let mut found = Vec::new();
    for source in sources() {
        for (line, paragraphs) in source.docs() {
            let place = format!("{}:{line}", source.path.display());
            if paragraphs.first().is_some_and(|first| first.split_whitespace().count() < 3) {
                found.push(format!("{place}: too short: {}", paragraphs[0]));
            }
            for paragraph in &paragraphs {
                if BEGINNINGS.iter().any(|beginning| paragraph.starts_with(beginning)) {
                    found.push(format!("{place}: needs the line above: {paragraph}"));
                }
            }
        }
    }
    fail_on(found, "doc comments do not stand alone");
}

#[test]
fn the_specification_is_never_called_a_seed() {
    let mut found = Vec::new();
    let is_random = |text: &str| {
        let text = text.to_lowercase();
        ["random", "rng", "run", "sequence", "number", "same seed", "fuzz", "corpus"]
            .iter()
            .any(|word| text.contains(word))
    };
    let names_seed = |text: &str| text.contains("the seed") && !text.contains("the seeds");
    for source in sources() {
        let odd = |(_, text): &&(usize, String)| names_seed(text) && !is_random(text);
        found.extend(
            source
                .comments
                .iter()
                .filter(odd)
                .map(|(n, text)| format!("{}:{n}: {text}", source.path.display())),
        );
    }
    for page in pages() {
        let text = fs::read_to_string(&page).expect("text");
        let odd = text.lines().filter(|line| names_seed(line) && !is_random(line));
        found.extend(odd.map(|line| format!("{}: {line}", page.display())));
    }
    fail_on(found, "lines say \"the seed\" for the specification");
}

#[test]
fn words_are_found_in_identifiers() {
    assert_eq!(words_of("DoorView"), ["door", "view"]);
    assert_eq!(words_of("TIME_TO_FIRST"), ["time", "to", "first"]);
    assert_eq!(words_of("open_doors2"), ["open", "doors2"]);
}
