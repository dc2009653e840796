//! By which formula `algorithm: custom` scores destinations.

use std::sync::Arc;

use plimsoll_core::balance::Algorithm;
use plimsoll_core::formula::{Formula, Misread};

use crate::check::config_node::Place;
use crate::check::keys;
use crate::check::read::Reader;
use crate::check::settings::Settings;
use crate::check::settings::formula::Score;
use crate::problem::Code;
use crate::tree::Span;

impl Reader<'_> {
    /// Lays a `custom` block over `settings`. `algorithm_here`: the block it stands in decides the algorithm.
    pub(crate) fn custom(&mut self, place: &Place<'_>, algorithm_here: bool, settings: &mut Settings) {
        let Some(table) = self.table(place, &keys::CUSTOM) else {
            settings.score = Score::Wrong;
            return;
        };
        settings.score = match table.get("expression") {
            Some(place) => self.formula(place).map_or(Score::Wrong, |formula| Score::By(Arc::new(formula))),
            None => {
                self.missing(place, "expression", "write it like `expression: \"(in_flight + 1) / weight\"`");
                Score::Wrong
            }
        };
        if algorithm_here && settings.algorithm != Algorithm::Custom {
            let message = format!(
                "`custom` is for `algorithm: custom`, and the algorithm here is `{}`",
                settings.algorithm.name()
            );
            self.problem(place, Code::Conflict, message)
                .help("make the algorithm `custom`, or remove this block");
        }
    }

    /// Tells when a pool is to score and nothing said how. `place` is the pool's.
    pub(crate) fn has_score(&mut self, place: &Place<'_>, settings: &Settings) {
        if settings.algorithm == Algorithm::Custom && matches!(settings.score, Score::Unsaid) {
            let help = "write it like `custom: {expression: \"(in_flight + 1) / weight\"}`; the lowest wins";
            let message = "`algorithm: custom` needs an expression to score destinations by";
            self.problem(place, Code::MissingKey, message).help(help);
        }
    }

    fn formula(&mut self, place: &Place<'_>) -> Option<Formula> {
        let text = self.text(place)?;
        let Misread { at, what, help } = match Formula::parse(text) {
            Ok(formula) => return Some(formula),
            Err(misread) => misread,
        };
        if place.is_variable() {
            self.problem(place, Code::BadValue, "the value of this variable is no expression");
            return None;
        }
        let span = self.within(place, text, at);
        self.problems.add(Code::BadValue, span, place.path.text(), what).maybe_help(help);
        None
    }

    /// Where byte `at` of a text stands in its file, if it stands there as it is meant.
    fn within(&self, place: &Place<'_>, text: &str, at: usize) -> Span {
        let span = place.span();
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
