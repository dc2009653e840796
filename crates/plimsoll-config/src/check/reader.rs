//! Readers of typed values, which report each invalid value with its location.
//!
//! Every reader returns `None` after it has reported a problem. The caller keeps its default and goes on, so that all
//! problems of a file are found in one pass.

use std::ops::RangeInclusive;
use std::path::Path as FilePath;
use std::time::Duration;

use plimsoll_core::Name;

use crate::check::config_node::ConfigNode;
use crate::check::names::name;
use crate::check::value_error::ValueError;
use crate::extensions::Extensions;
use crate::problem::{Code, ProblemBuilder, Problems};
use crate::suggest::suggest;
use crate::tree::{Kind, Scalar, Value};
use crate::units::{ByteRate, ConfigDuration, Rate, Share, Size};

/// Reads values and collects their problems.
pub(crate) struct Reader<'r> {
    /// Problems found so far.
    pub(crate) problems: &'r mut Problems,
    /// Folder that relative paths start at.
    pub(crate) dir: &'r FilePath,
    /// Protocols, checks and policies of the embedding program.
    pub(crate) extensions: &'r Extensions,
}

impl Reader<'_> {
    /// Adds a problem of a value.
    pub(crate) fn problem(
        &mut self,
        node: &ConfigNode<'_>,
        code: Code,
        message: impl Into<String>,
    ) -> ProblemBuilder<'_> {
        self.problems.add(code, node.span(), node.path.text(), message)
    }

    /// Reports why a text is not a valid value.
    pub(crate) fn reject(&mut self, node: &ConfigNode<'_>, error: ValueError) {
        let help = error.help.filter(|_| !node.is_variable());
        let message = format!("`{}` {}", node.shown(), error.reason);
        self.problem(node, error.code, message).maybe_help(help);
    }

    /// Reports a key or value of a later version.
    pub(crate) fn not_available(&mut self, node: &ConfigNode<'_>, what: &str) {
        self.problem(node, Code::NotAvailableYet, format!("`{what}` is not available in this version yet"));
    }

    /// Reports a key of the specification that is not active yet.
    pub(crate) fn not_active(&mut self, node: &ConfigNode<'_>, what: &str) {
        let message = format!("`{what}` is accepted but has no effect in this version");
        let span = node.key.unwrap_or(node.tree.span);
        self.problems.add(Code::NotActiveYet, span, node.path.text(), message);
    }

    /// Reports a value of another type. A variable without a value has been reported already.
    pub(crate) fn wrong_type(&mut self, node: &ConfigNode<'_>, expected: &str) -> ProblemBuilder<'_> {
        if node.is_unresolved() {
            return ProblemBuilder::suppressed();
        }
        let found = node.tree.kind();
        self.problem(node, Code::WrongType, format!("expected {expected}, found {found}"))
    }

    /// Reads a text.
    pub(crate) fn text<'t>(&mut self, node: &ConfigNode<'t>) -> Option<&'t str> {
        self.text_for(node, "text")
    }

    fn text_for<'t>(&mut self, node: &ConfigNode<'t>, expected: &str) -> Option<&'t str> {
        match node.scalar() {
            Some(Scalar { kind: Kind::Text, text, .. }) => Some(text),
            Some(Scalar { kind: Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_), .. }) => {
                let help = format!("write \"{}\", in quotes", node.shown());
                self.wrong_type(node, expected).help(help);
                None
            }
            _ => {
                self.wrong_type(node, expected);
                None
            }
        }
    }

    /// Reads a text and parses it.
    pub(crate) fn parsed<T>(
        &mut self,
        node: &ConfigNode<'_>,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        // A number or switch is shown in quotes only if that text would be accepted.
        if let Some(Scalar { kind: Kind::Bool(_) | Kind::Integer(_) | Kind::Float(_), text, .. }) =
            node.scalar()
        {
            match parse(text) {
                Ok(_) => drop(self.text_for(node, expected)),
                Err(error) => drop(self.wrong_type(node, expected).maybe_help(error.help)),
            }
            return None;
        }
        let text = self.text_for(node, expected)?;
        parse(text).map_err(|error| self.reject(node, error)).ok()
    }

    /// Reads the name of a listener or route.
    pub(crate) fn name(&mut self, node: &ConfigNode<'_>) -> Option<Name> {
        self.parsed(node, "a name", |text| name(text).map(Name::from))
    }

    /// Reads `true` or `false`.
    pub(crate) fn boolean(&mut self, node: &ConfigNode<'_>) -> Option<bool> {
        if let Some(Scalar { kind: Kind::Bool(on), .. }) = node.scalar() {
            return Some(*on);
        }
        let help = match node.scalar().map(|scalar| scalar.text.to_ascii_lowercase()).as_deref() {
            Some("on" | "yes" | "true" | "enabled" | "1") if !node.is_variable() => {
                "write true, without quotes"
            }
            Some("off" | "no" | "false" | "disabled" | "0") if !node.is_variable() => {
                "write false, without quotes"
            }
            _ => "write true or false",
        };
        self.wrong_type(node, "true or false").help(help);
        None
    }

    /// Reads a whole number within a range.
    pub(crate) fn integer<T: TryFrom<i64>>(
        &mut self,
        node: &ConfigNode<'_>,
        range: RangeInclusive<i64>,
    ) -> Option<T> {
        let (low, high) = (*range.start(), *range.end());
        match node.scalar() {
            Some(Scalar { kind: Kind::Integer(number), .. }) => {
                let fits = range.contains(number).then(|| T::try_from(*number).ok()).flatten();
                if fits.is_none() {
                    let message = format!("`{}` is out of range: expected {low} to {high}", node.shown());
                    self.problem(node, Code::OutOfRange, message);
                }
                fits
            }
            _ if node.is_number_in_quotes() => {
                let help = format!("write {}, without quotes", node.shown());
                self.wrong_type(node, "a whole number").help(help);
                None
            }
            _ => {
                self.wrong_type(node, &format!("a whole number, {low} to {high}"));
                None
            }
        }
    }

    /// Reads a duration within a range.
    pub(crate) fn duration(
        &mut self,
        node: &ConfigNode<'_>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        if let Some(Scalar { kind: Kind::Integer(_) | Kind::Float(_), .. }) = node.scalar() {
            let shown = node.shown();
            let help = format!("write \"{shown}s\" for seconds or \"{shown}ms\" for milliseconds");
            self.reject(node, ValueError::new(Code::BadUnit, "has no unit", help));
            return None;
        }
        let dur =
            self.parsed(node, "a duration like \"30s\"", |text| Ok(text.parse::<ConfigDuration>()?.0))?;
        if !range.contains(&dur) {
            let (low, high) = (ConfigDuration(*range.start()), ConfigDuration(*range.end()));
            self.problem(
                node,
                Code::OutOfRange,
                format!("`{}` is out of range: expected {low} to {high}", node.shown()),
            );
            return None;
        }
        Some(dur)
    }

    /// Reads a rate as events per second.
    pub(crate) fn rate(&mut self, node: &ConfigNode<'_>) -> Option<f64> {
        if let Some(Scalar { kind: Kind::Integer(_) | Kind::Float(_), .. }) = node.scalar() {
            let help = format!("write \"{}/s\" for events per second", node.shown());
            self.reject(node, ValueError::new(Code::BadUnit, "has no unit", help));
            return None;
        }
        self.parsed(node, "a rate like \"1000/s\"", |text| Ok(text.parse::<Rate>()?.0))
    }

    /// Reads a share as a number from 0 to 1.
    pub(crate) fn share(&mut self, node: &ConfigNode<'_>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "only 0 and 1 are valid")]
        let number = match node.scalar()?.kind {
            Kind::Integer(whole) => whole as f64,
            Kind::Float(number) => number,
            Kind::Bool(_) | Kind::Null | Kind::Text | Kind::Unresolved => {
                return self.parsed(node, "a share like \"1%\" or 0.01", |text| Ok(text.parse::<Share>()?.0));
            }
        };
        let share = Share::from_number(number).map(|share| share.0);
        share
            .map_err(|error| {
                let meant = (1.0..=100.0).contains(&number);
                let help = if meant { format!("write \"{number}%\"") } else { error.help.to_owned() };
                self.reject(node, ValueError::new(Code::OutOfRange, error.reason, help));
            })
            .ok()
    }

    /// Reads a number of bytes per second within a range.
    pub(crate) fn byte_rate(&mut self, node: &ConfigNode<'_>, range: &RangeInclusive<u64>) -> Option<u64> {
        let rate = match node.scalar() {
            Some(Scalar { kind: Kind::Integer(0), .. }) => 0,
            _ => self.parsed(node, "a rate like \"240B/s\"", |text| Ok(text.parse::<ByteRate>()?.0))?,
        };
        if !range.contains(&rate) {
            let (low, high) = (ByteRate(*range.start()), ByteRate(*range.end()));
            self.problem(
                node,
                Code::OutOfRange,
                format!("`{}` is out of range: expected {low} to {high}", node.shown()),
            );
            return None;
        }
        Some(rate)
    }

    /// Reads a number of bytes within a range.
    pub(crate) fn size(&mut self, node: &ConfigNode<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let bytes = match node.scalar() {
            Some(Scalar { kind: Kind::Integer(0), .. }) => 0,
            Some(Scalar { kind: Kind::Integer(_) | Kind::Float(_), .. }) => {
                let shown = node.shown();
                let help = format!("write \"{shown}B\" for bytes or \"{shown}KiB\" for units of 1024 bytes");
                self.reject(node, ValueError::new(Code::BadUnit, "has no unit", help));
                return None;
            }
            _ => self.parsed(node, "a size like \"64KiB\"", |text| Ok(text.parse::<Size>()?.0))?,
        };
        if !range.contains(&bytes) {
            let (low, high) = (Size(*range.start()), Size(*range.end()));
            self.problem(
                node,
                Code::OutOfRange,
                format!("`{}` is out of range: expected {low} to {high}", node.shown()),
            );
            return None;
        }
        Some(bytes)
    }

    /// Reads one of several keywords. Those of later versions (`planned`) are reported as not available yet.
    pub(crate) fn keyword<T: Copy>(
        &mut self,
        node: &ConfigNode<'_>,
        keywords: &[(&str, T)],
        planned: &[&str],
    ) -> Option<T> {
        let text = self.text_for(node, "a keyword")?;
        if let Some((_, value)) = keywords.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if planned.contains(&text) {
            self.not_available(node, &node.shown());
            return None;
        }
        let known = keywords.iter().map(|(word, _)| *word).chain(planned.iter().copied());
        let help = match self.suggest(text, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => {
                let all: Vec<&str> = keywords.iter().map(|(word, _)| *word).collect();
                format!("expected one of {}", all.join(", "))
            }
        };
        self.reject(node, ValueError::new(Code::BadValue, "is not a valid value", help));
        None
    }

    /// Returns the most similar known word. No search is made once problems are only counted.
    pub(crate) fn suggest<'k>(
        &self,
        word: &str,
        known: impl IntoIterator<Item = &'k str> + Clone,
    ) -> Option<&'k str> {
        if self.problems.is_full() { None } else { suggest(word, known) }
    }

    /// Reads the items of a list.
    pub(crate) fn list<'t>(&mut self, node: &ConfigNode<'t>) -> Vec<ConfigNode<'t>> {
        match &node.tree.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, tree)| ConfigNode { tree, key: None, path: node.path.index(index) })
                .collect(),
            _ => {
                self.wrong_type(node, "a list");
                Vec::new()
            }
        }
    }

    /// Reads the items of a list, or a single value as a list of one item.
    pub(crate) fn one_or_many<'t>(&mut self, node: &ConfigNode<'t>) -> Vec<ConfigNode<'t>> {
        match &node.tree.value {
            Value::Scalar(scalar) if scalar.kind != Kind::Null => vec![node.clone()],
            _ => self.list(node),
        }
    }
}
