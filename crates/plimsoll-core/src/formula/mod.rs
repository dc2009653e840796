//! What a formula says about a destination: an expression as configured, read once, checked, and made a program.
//!
//! The language is a part of CEL, the Common Expression Language: arithmetic, comparison, logic, the conditional,
//! and nothing that loops, so what it costs is known when it is read. All numbers are doubles, whole ones too: in
//! CEL `in_flight / 2` would be an error or a whole number, and nobody who writes that wants either. The reader is
//! our own, because the crate `cel` brings twelve packages and overflows the stack at a hundred brackets.

mod parse;
mod program;
mod token;

use crate::Name;
use crate::balance::Slot;
use crate::measure::LoadMetric;

pub(crate) use self::program::{Program, Source};

/// Bytes of a formula; a screenful.
pub const LENGTH_MAX: usize = 1024;
/// Brackets, conditions and signs within each other.
pub const DEPTH_MAX: usize = 24;
/// Operations of one evaluation: at a nanosecond or two each, 64 destinations cost some microseconds at worst.
pub const OPERATIONS_MAX: usize = 128;

/// A formula that gives a number for a destination.
#[derive(Clone, Debug)]
pub struct Formula {
    text: Name,
    term: Term,
    named: Box<[Name]>,
}

impl PartialEq for Formula {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Why a text is no formula.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormulaError {
    /// The byte it is about; the length of the text for its end.
    pub offset: usize,
    /// What is wrong: a sentence without a full stop.
    pub message: String,
    /// What may be meant.
    pub help: Option<String>,
}

impl Formula {
    /// The formula that `text` is.
    ///
    /// # Errors
    /// [`FormulaError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, FormulaError> {
        let (term, named) = parse::parse(text)?;
        Ok(Self { text: text.into(), term, named: named.into() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it reads as `load.NAME` beside the metrics that have names everywhere, in the order of
    /// [`LoadMetric::Named`].
    pub fn named(&self) -> &[Name] {
        &self.named
    }

    /// It reads how destinations answer.
    pub(crate) fn reads_answers(&self) -> bool {
        self.term
            .reads(&|reading| matches!(reading, Reading::LatencyMs | Reading::ErrorRate | Reading::Health))
    }

    /// It reads what is in flight, or what destinations say of their load.
    pub(crate) fn reads_load(&self) -> bool {
        self.term.reads(&|_| true)
    }

    /// The program for one destination: what never changes about that is worked out already.
    pub(crate) fn program(&self, slot: &Slot) -> Program {
        Program::of(&self.term.bound_to(slot))
    }
}

/// What is read of a destination when its score is wanted.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum Reading {
    InFlight,
    LatencyMs,
    ErrorRate,
    Health,
    Load(LoadMetric),
    /// 1 if it has reported that lately, else 0.
    Reports(LoadMetric),
}

/// A text about a destination.
#[derive(Clone, Debug, PartialEq)]
enum Words {
    These(Name),
    Id,
    Zone,
    Label(Name),
}

impl Words {
    /// What is not there is empty.
    fn of(&self, slot: &Slot) -> Name {
        match self {
            Self::These(words) => words.clone(),
            Self::Id => slot.name.clone(),
            Self::Zone => slot.zone.clone().unwrap_or_default(),
            Self::Label(key) => label(slot, key).cloned().unwrap_or_default(),
        }
    }
}

fn label<'s>(slot: &'s Slot, key: &str) -> Option<&'s Name> {
    slot.labels.iter().find(|(known, _)| **known == *key).map(|(_, value)| value)
}

/// A part of a formula, checked: what is true is 1, what is false is 0.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    Number(f64),
    Weight,
    Priority,
    Read(Reading),
    Same(Words, Words),
    StartsWith(Words, Words),
    HasLabel(Name),
    /// The number a text is; none for other texts.
    NumberIn(Words),
    Not(Box<Term>),
    Negated(Box<Term>),
    Both(Operator, Box<[Term; 2]>),
    /// The second where the first is true, else the third.
    Choice(Box<[Term; 3]>),
}

/// What two terms are joined by.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Rest,
    Least,
    Greatest,
    Less,
    AtMost,
    Equal,
    Unequal,
    And,
    Or,
}

impl Operator {
    pub(crate) fn apply(self, a: f64, b: f64) -> f64 {
        let truth = |is: bool| f64::from(u8::from(is));
        match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Rest => a % b,
            // Not `f64::min`: what is no number must not vanish.
            Self::Least => {
                if a.is_nan() || a < b {
                    a
                } else {
                    b
                }
            }
            Self::Greatest => {
                if a.is_nan() || a > b {
                    a
                } else {
                    b
                }
            }
            Self::Less => truth(a < b),
            Self::AtMost => truth(a <= b),
            Self::Equal => truth(a == b),
            Self::Unequal => truth(a != b),
            Self::And => truth(a != 0.0 && b != 0.0),
            Self::Or => truth(a != 0.0 || b != 0.0),
        }
    }
}

impl Term {
    fn reads(&self, is: &dyn Fn(Reading) -> bool) -> bool {
        match self {
            Self::Read(reading) => is(*reading),
            Self::Not(term) | Self::Negated(term) => term.reads(is),
            Self::Both(_, terms) => terms.iter().any(|term| term.reads(is)),
            Self::Choice(terms) => terms.iter().any(|term| term.reads(is)),
            _ => false,
        }
    }

    /// The same about one destination, with everything worked out that is fixed about it.
    fn bound_to(&self, slot: &Slot) -> Self {
        let truth = |is: bool| Self::Number(f64::from(u8::from(is)));
        match self {
            Self::Number(_) | Self::Read(_) => self.clone(),
            Self::Weight => Self::Number(f64::from(slot.weight) / 256.0),
            Self::Priority => Self::Number(f64::from(slot.priority)),
            Self::Same(a, b) => truth(a.of(slot) == b.of(slot)),
            Self::StartsWith(a, b) => truth(a.of(slot).starts_with(&*b.of(slot))),
            Self::HasLabel(key) => truth(label(slot, key).is_some()),
            Self::NumberIn(words) => Self::Number(
                words.of(slot).trim().parse().ok().filter(|n: &f64| n.is_finite()).unwrap_or(f64::NAN),
            ),
            Self::Not(term) => match term.bound_to(slot) {
                Self::Number(number) => truth(number == 0.0),
                term => Self::Not(Box::new(term)),
            },
            Self::Negated(term) => match term.bound_to(slot) {
                Self::Number(number) => Self::Number(-number),
                term => Self::Negated(Box::new(term)),
            },
            Self::Both(operator, terms) => match (terms[0].bound_to(slot), terms[1].bound_to(slot)) {
                (Self::Number(a), Self::Number(b)) => Self::Number(operator.apply(a, b)),
                (a, b) => Self::Both(*operator, Box::new([a, b])),
            },
            Self::Choice(terms) => match terms[0].bound_to(slot) {
                Self::Number(0.0) => terms[2].bound_to(slot),
                Self::Number(_) => terms[1].bound_to(slot),
                open => Self::Choice(Box::new([open, terms[1].bound_to(slot), terms[2].bound_to(slot)])),
            },
        }
    }
}

#[cfg(test)]
mod tests;
