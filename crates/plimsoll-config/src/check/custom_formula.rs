//! By which formula `algorithm: custom` scores destinations.

use std::sync::Arc;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::formula::{Formula, FormulaError};

use crate::check::config_node::ConfigNode;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::settings::Settings;
use crate::check::settings::formula::FormulaSetting;
use crate::problem::Code;
use crate::tree::Span;

impl Reader<'_> {
    /// Lays a `custom` block over `settings`. `algorithm_here`: the block it stands in decides the algorithm.
    pub(crate) fn custom(&mut self, node: &ConfigNode<'_>, algorithm_here: bool, settings: &mut Settings) {
        let Some(mapping) = self.mapping(node, &keys::CUSTOM) else {
            settings.formula = FormulaSetting::Invalid;
            return;
        };
        settings.formula = match mapping.get("expression") {
            Some(node) => self
                .formula(node)
                .map_or(FormulaSetting::Invalid, |formula| FormulaSetting::Valid(Arc::new(formula))),
            None => {
                self.missing(node, "expression", "write it like `expression: \"(in_flight + 1) / weight\"`");
                FormulaSetting::Invalid
            }
        };
        if algorithm_here && settings.algorithm != Algorithm::Custom {
            let message = format!(
                "`custom` is for `algorithm: custom`, and the algorithm here is `{}`",
                settings.algorithm.name()
            );
            self.problem(node, Code::Conflict, message)
                .help("make the algorithm `custom`, or remove this block");
        }
    }

    /// Tells when a pool is to score and nothing said how. `node` is the pool's.
    pub(crate) fn require_formula(&mut self, node: &ConfigNode<'_>, settings: &Settings) {
        if settings.algorithm == Algorithm::Custom && matches!(settings.formula, FormulaSetting::Unset) {
            let help = "write it like `custom: {expression: \"(in_flight + 1) / weight\"}`; the lowest wins";
            let message = "`algorithm: custom` needs an expression to score destinations by";
            self.problem(node, Code::MissingKey, message).help(help);
        }
    }

    fn formula(&mut self, node: &ConfigNode<'_>) -> Option<Formula> {
        let text = self.text(node)?;
        let FormulaError { offset: at, message: what, help } = match Formula::parse(text) {
            Ok(formula) => return Some(formula),
            Err(misread) => misread,
        };
        if node.is_variable() {
            self.problem(node, Code::BadValue, "the value of this variable is no expression");
            return None;
        }
        let span = self.within(node, text, at);
        self.problems.add(Code::BadValue, span, node.path.text(), what).maybe_help(help);
        None
    }

    /// Where byte `at` of a text stands in its file, if it stands there as it is meant.
    fn within(&self, node: &ConfigNode<'_>, text: &str, at: usize) -> Span {
        let span = node.span();
        let source = self.problems.sources.get(span.source as usize);
        let written = source.and_then(|source| source.text.get(span.start as usize..span.end as usize));
        match written.and_then(|written| written.find(text)) {
            Some(begin) => {
                let start = span.start + (begin + at) as u32;
                let end = start + text[at..].chars().next().map_or(0, char::len_utf8) as u32;
                Span { start, end: end.max(start + 1).min(span.end), ..span }
            }
            None => span,
        }
    }
}
