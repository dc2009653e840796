//! Keys and values of a block.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use crate::check::config_node::ConfigNode;
use crate::check::keys::{self, Keys};
use crate::check::reader::Reader;
use crate::problem::Code;
use crate::tree::{Entry, Kind, Scalar, Span, Value, printable};

/// Known keys of one block, each once, except for the pairs of the specification.
#[derive(Debug)]
pub(crate) struct Mapping<'t> {
    keys: &'static Keys,
    entries: Vec<(&'t str, ConfigNode<'t>)>,
}

impl<'t> Mapping<'t> {
    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&ConfigNode<'t>> {
        self.all(key).next()
    }

    /// Returns all values of a key: two for a pair of a boolean and a block, otherwise at most one.
    pub(crate) fn all<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a ConfigNode<'t>> + use<'a, 't> {
        debug_assert!(self.keys.contains(key), "{key} is not among the keys of {}", self.keys.at);
        let key = key.to_owned();
        self.entries.iter().filter(move |(name, _)| *name == key).map(|(_, node)| node)
    }

    /// Returns all keys with their values, in the order of the file.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'t str, &ConfigNode<'t>)> {
        self.entries.iter().map(|(key, node)| (*key, node))
    }

    /// Returns whether the block has a key of a later version, which has been reported already.
    pub(crate) fn has_planned_key(&self) -> bool {
        self.entries.iter().any(|(name, _)| self.keys.planned.contains(name))
    }
}

impl Reader<'_> {
    /// Reads the keys of a block, and reports unknown keys, keys of later versions and repeated keys.
    pub(crate) fn mapping<'t>(&mut self, node: &ConfigNode<'t>, keys: &'static Keys) -> Option<Mapping<'t>> {
        let mut mapping = Mapping { keys, entries: Vec::new() };
        for (key, span, value) in self.unique(node, keys.pairs)? {
            if keys.planned.contains(&key) {
                let at = ConfigNode { key: Some(span), ..value.clone() };
                self.problems.add(
                    Code::NotAvailableYet,
                    span,
                    at.path.text(),
                    format!("`{key}` is not available in this version yet"),
                );
            } else if !keys.supported.contains(&key) {
                self.unknown_key(key, span, &value, keys);
                continue;
            }
            mapping.entries.push((key, value));
        }
        Some(mapping)
    }

    /// Reads the entries of a block with arbitrary keys, and reports repeated keys.
    pub(crate) fn entries<'t>(&mut self, node: &ConfigNode<'t>) -> Vec<(&'t str, ConfigNode<'t>)> {
        let unique = self.unique(node, &[]).unwrap_or_default();
        unique.into_iter().map(|(key, _, value)| (key, value)).collect()
    }

    fn unique<'t>(
        &mut self,
        node: &ConfigNode<'t>,
        pairs: &[&str],
    ) -> Option<Vec<(&'t str, Span, ConfigNode<'t>)>> {
        let entries: &'t [Entry] = match &node.tree.value {
            Value::Block(entries) => entries,
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {
                self.wrong_type(node, "a block of keys").help("add keys, or remove this key");
                return None;
            }
            _ => {
                self.wrong_type(node, "a block of keys");
                return None;
            }
        };
        let mut first_spans: HashMap<(&str, bool), Span> = HashMap::new();
        let mut unique = Vec::new();
        for entry in entries {
            let key: &'t str = &entry.key.text;
            let value =
                ConfigNode { tree: &entry.value, key: Some(entry.key.span), path: node.path.key(key) };
            let pair = pairs.contains(&key);
            match first_spans.entry((key, pair && value.is_block())) {
                Slot::Vacant(free) => {
                    free.insert(entry.key.span);
                    unique.push((key, entry.key.span, value));
                }
                Slot::Occupied(first) => self.duplicate_key(key, &value, *first.get(), pair),
            }
        }
        Some(unique)
    }

    fn duplicate_key(&mut self, key: &str, again: &ConfigNode<'_>, first: Span, pair: bool) {
        let span = again.key.unwrap_or(again.tree.span);
        let line = self.line_of(first);
        let help = match pair {
            true => "give it once as a boolean and once as a block, or only once",
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

    fn unknown_key(&mut self, key: &str, span: Span, value: &ConfigNode<'_>, keys: &'static Keys) {
        let known = keys.supported.iter().chain(keys.planned).copied();
        let help = match (key, self.suggest(key, known)) {
            ("<<", _) => {
                "merge keys are not part of YAML 1.2; `load_balancer` at the top holds defaults".to_owned()
            }
            ("backup", Some("priority")) => {
                "write `priority: 1`: destinations with a priority above 0 are backups".to_owned()
            }
            (_, Some(meant)) => format!("did you mean `{meant}`?"),
            _ => match keys::blocks_with(key) {
                nodes if nodes.is_empty() => format!("expected one of {}", keys.supported.join(", ")),
                nodes => format!("`{key}` belongs {}", nodes.join(" or ")),
            },
        };
        let message = format!("unknown key `{}`", printable(key));
        self.problems.add(Code::UnknownKey, span, value.path.text(), message).help(help);
    }

    /// Returns `line 7`, with the name of the file if there are several.
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

    /// Reports a missing key of a block.
    pub(crate) fn missing(&mut self, node: &ConfigNode<'_>, key: &str, help: &str) {
        let path = node.path.text();
        let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        self.problems
            .add(Code::MissingKey, node.span(), path, format!("the key `{key}` is missing"))
            .help(help);
    }
}
