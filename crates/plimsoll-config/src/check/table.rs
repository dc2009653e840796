//! Which keys a block may have, and which of them it has.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use crate::check::config_node::Place;
use crate::check::keys::{self, Keys};
use crate::check::read::Reader;
use crate::problem::Code;
use crate::tree::{Entry, Kind, Scalar, Span, Value, printable};

/// The known keys of one block, each once, but for the pairs of the specification.
#[derive(Debug)]
pub(crate) struct Table<'t> {
    keys: &'static Keys,
    entries: Vec<(&'t str, Place<'t>)>,
}

impl<'t> Table<'t> {
    pub(crate) fn get(&self, key: &str) -> Option<&Place<'t>> {
        self.all(key).next()
    }

    /// All values of a key: two at most, for a switch and its block.
    pub(crate) fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a Place<'t>> + use<'a, 't> {
        debug_assert!(self.keys.knows(key), "{key} is not among the keys of {}", self.keys.at);
        let key = key.to_owned();
        self.entries.iter().filter(move |(name, _)| *name == key).map(|(_, place)| place)
    }

    /// All of them, as they stand.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'t str, &Place<'t>)> {
        self.entries.iter().map(|(key, place)| (*key, place))
    }

    /// It has a key of a later version, which was told already.
    pub(crate) fn has_later(&self) -> bool {
        self.entries.iter().any(|(name, _)| self.keys.later.contains(name))
    }
}

impl Reader<'_> {
    /// The keys of a block. Unknown keys, keys of later versions and repeated keys are told here.
    pub(crate) fn table<'t>(&mut self, place: &Place<'t>, keys: &'static Keys) -> Option<Table<'t>> {
        let mut table = Table { keys, entries: Vec::new() };
        for (key, span, value) in self.unique(place, keys.pairs)? {
            if keys.later.contains(&key) {
                let at = Place { key: Some(span), ..value.clone() };
                self.problems.add(
                    Code::NotAvailableYet,
                    span,
                    at.path.text(),
                    format!("`{key}` is not available in this version yet"),
                );
            } else if !keys.served.contains(&key) {
                self.unknown_key(key, span, &value, keys);
                continue;
            }
            table.entries.push((key, value));
        }
        Some(table)
    }

    /// The entries of a block whose keys are free; repeated keys are told here.
    pub(crate) fn entries<'t>(&mut self, place: &Place<'t>) -> Vec<(&'t str, Place<'t>)> {
        let unique = self.unique(place, &[]).unwrap_or_default();
        unique.into_iter().map(|(key, _, value)| (key, value)).collect()
    }

    fn unique<'t>(&mut self, place: &Place<'t>, pairs: &[&str]) -> Option<Vec<(&'t str, Span, Place<'t>)>> {
        let entries: &'t [Entry] = match &place.node.value {
            Value::Block(entries) => entries,
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {
                self.wrong_type(place, "a block of keys").help("give it keys, or remove it");
                return None;
            }
            _ => {
                self.wrong_type(place, "a block of keys");
                return None;
            }
        };
        let mut seen: HashMap<(&str, bool), Span> = HashMap::new();
        let mut unique = Vec::new();
        for entry in entries {
            let key: &'t str = &entry.key.text;
            let value = Place { node: &entry.value, key: Some(entry.key.span), path: place.path.key(key) };
            let pair = pairs.contains(&key);
            match seen.entry((key, pair && value.is_block())) {
                Slot::Vacant(free) => {
                    free.insert(entry.key.span);
                    unique.push((key, entry.key.span, value));
                }
                Slot::Occupied(first) => self.duplicate_key(key, &value, *first.get(), pair),
            }
        }
        Some(unique)
    }

    fn duplicate_key(&mut self, key: &str, again: &Place<'_>, first: Span, pair: bool) {
        let span = again.key.unwrap_or(again.node.span);
        let line = self.line_of(first);
        let help = match pair {
            true => "it may be given once as a switch and once as a block, no more",
            false => "keep one of them",
        };
        self.problems
            .add(
                Code::DuplicateKey,
                span,
                again.path.text(),
                format!("the key `{}` is given twice; first on {line}", printable(key)),
            )
            .help(help)
            .related("first given here", first);
    }

    fn unknown_key(&mut self, key: &str, span: Span, value: &Place<'_>, keys: &'static Keys) {
        let known = keys.served.iter().chain(keys.later).copied();
        let help = match (key, self.suggest(key, known)) {
            ("<<", _) => {
                "merge keys are not part of YAML 1.2; `load_balancer` at the top holds defaults".to_owned()
            }
            (_, Some(meant)) => format!("did you mean `{meant}`?"),
            _ => match keys::places_of(key) {
                places if places.is_empty() => format!("keys here are {}", keys.served.join(", ")),
                places => format!("`{key}` belongs {}", places.join(" or ")),
            },
        };
        let message = format!("unknown key `{}`", printable(key));
        self.problems.add(Code::UnknownKey, span, value.path.text(), message).help(help);
    }

    /// `line 7`, with the file's name if there are several.
    pub(crate) fn line_of(&self, span: Span) -> String {
        if self.problems.is_full() {
            return String::new();
        }
        let Some(source) = self.problems.sources.get(span.source as usize) else {
            return "another line".to_owned();
        };
        let (line, _) = source.line_and_column(span.start as usize);
        match self.problems.sources.len() {
            1 => format!("line {line}"),
            _ => format!("line {line} of {}", source.name),
        }
    }

    /// Tells that a block lacks a key.
    pub(crate) fn missing(&mut self, place: &Place<'_>, key: &str, help: &str) {
        let path = place.path.text();
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        self.problems
            .add(Code::MissingKey, place.span(), path, format!("the key `{key}` is missing"))
            .help(help);
    }
}
