//! Formula of `algorithm: custom`.

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
    /// Reads a `custom` block over `settings`. With `algorithm_here`, the enclosing block determines the algorithm.
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
                "`custom` applies to `algorithm: custom`, found `algorithm: {}`",
                settings.algorithm.name()
            );
            self.problem(node, Code::Conflict, message).help("set `algorithm: custom`, or remove this block");
        }
    }

    /// Reports `algorithm: custom` without a formula, at the node of the pool.
    pub(crate) fn require_formula(&mut self, node: &ConfigNode<'_>, settings: &Settings) {
        if settings.algorithm == Algorithm::Custom && matches!(settings.formula, FormulaSetting::Unset) {
            let help =
                "write it like `custom: {expression: \"(in_flight + 1) / weight\"}`; the lowest score wins";
            let message = "`algorithm: custom` requires `custom.expression`";
            self.problem(node, Code::MissingKey, message).help(help);
        }
    }

    fn formula(&mut self, node: &ConfigNode<'_>) -> Option<Formula> {
        let text = self.text(node)?;
        let FormulaError { offset, message, help } = match Formula::parse(text) {
            Ok(formula) => return Some(formula),
            Err(error) => error,
        };
        if node.is_variable() {
            self.problem(node, Code::BadValue, "the value of this variable is not a valid expression");
            return None;
        }
        let span = self.span_of(node, text, offset);
        self.problems.add(Code::BadValue, span, node.path.text(), message).maybe_help(help);
        None
    }

    /// Returns the span of byte `at` of a text, or of the whole value if the text is written differently in the file.
    fn span_of(&self, node: &ConfigNode<'_>, text: &str, at: usize) -> Span {
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
