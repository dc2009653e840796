//! Formulas: an expression of the configuration that gives a destination a score.
//!
//! The language is a subset of CEL, the Common Expression Language: arithmetic, comparison, logic and the conditional.
//! It has no loops, so the cost of a formula is known when it is parsed. All numbers are doubles, because CEL's
//! `in_flight / 2` would be an error or an integer. The parser is our own: the crate `cel` brings twelve packages and
//! overflows the stack at a hundred brackets.

mod parse;
mod program;
mod token;

use crate::Name;
use crate::measure::LoadMetric;

pub(crate) use self::program::{Program, Source};

/// Maximum length of a formula in bytes.
pub const LENGTH_MAX: usize = 1024;
/// Maximum nesting of brackets, conditions and signs.
pub const DEPTH_MAX: usize = 24;
/// Maximum number of operations of one evaluation: at a nanosecond or two each, 64 destinations cost some microseconds
/// at worst.
pub const OPERATIONS_MAX: usize = 128;

/// A formula that computes a number for a destination.
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

/// Constant attributes of a destination that a formula can read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Attributes<'a> {
    /// Unique name of the destination.
    pub(crate) name: &'a Name,
    /// Zone of the destination.
    pub(crate) zone: Option<&'a Name>,
    /// Labels of the destination.
    pub(crate) labels: &'a [(Name, Name)],
    /// Effective weight in 256ths.
    pub(crate) weight: u32,
    /// Priority of the destination.
    pub(crate) priority: u8,
}

/// Error of a text that is not a valid formula.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormulaError {
    /// Offset of the error in bytes; the length of the text for its end.
    pub offset: usize,
    /// Description of the error, without a full stop.
    pub message: String,
    /// Suggested correction of the formula.
    pub help: Option<String>,
}

impl Formula {
    /// Parses a formula.
    ///
    /// # Errors
    /// [`FormulaError`] contains the error and its offset.
    pub fn parse(text: &str) -> Result<Self, FormulaError> {
        let (term, named) = parse::parse(text)?;
        Ok(Self { text: text.into(), term, named: named.into() })
    }

    /// Returns the formula's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the names that the formula reads as `load.NAME` beside the standard metrics, in the order of
    /// [`LoadMetric::Named`].
    pub fn named(&self) -> &[Name] {
        &self.named
    }

    /// Returns whether the formula reads response times or errors.
    pub(crate) fn reads_answers(&self) -> bool {
        self.term
            .reads(&|reading| matches!(reading, Reading::LatencyMs | Reading::ErrorRate | Reading::Health))
    }

    /// Returns whether the formula reads messages in flight or reported load.
    pub(crate) fn reads_load(&self) -> bool {
        self.term.reads(&|_| true)
    }

    /// Returns the program for one destination, with its constant parts evaluated.
    pub(crate) fn program(&self, destination: &Attributes<'_>) -> Program {
        Program::of(&self.term.bound_to(destination))
    }
}

/// Value that is read of a destination when its score is computed.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum Reading {
    InFlight,
    LatencyMs,
    ErrorRate,
    Health,
    Load(LoadMetric),
    /// Reads 1 if the destination has reported the metric recently, else 0.
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
    /// Returns the text; missing values are empty.
    fn of(&self, destination: &Attributes<'_>) -> Name {
        match self {
            Self::These(words) => words.clone(),
            Self::Id => destination.name.clone(),
            Self::Zone => destination.zone.cloned().unwrap_or_default(),
            Self::Label(key) => label(destination, key).cloned().unwrap_or_default(),
        }
    }
}

fn label<'d>(destination: &Attributes<'d>, key: &str) -> Option<&'d Name> {
    destination.labels.iter().find(|(known, _)| **known == *key).map(|(_, value)| value)
}

/// A checked part of a formula: true is 1, false is 0.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    Number(f64),
    Weight,
    Priority,
    Read(Reading),
    Same(Words, Words),
    StartsWith(Words, Words),
    HasLabel(Name),
    /// Number in a text; NaN for other texts.
    NumberIn(Words),
    Not(Box<Term>),
    Negated(Box<Term>),
    Both(Operator, Box<[Term; 2]>),
    /// The second term if the first is true, else the third.
    Choice(Box<[Term; 3]>),
}

/// Operator between two terms.
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
            // `f64::min` would drop NaN.
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

    /// Binds the term to a destination, with its constant parts evaluated.
    fn bound_to(&self, destination: &Attributes<'_>) -> Self {
        let truth = |is: bool| Self::Number(f64::from(u8::from(is)));
        match self {
            Self::Number(_) | Self::Read(_) => self.clone(),
            Self::Weight => Self::Number(f64::from(destination.weight) / 256.0),
            Self::Priority => Self::Number(f64::from(destination.priority)),
            Self::Same(a, b) => truth(a.of(destination) == b.of(destination)),
            Self::StartsWith(a, b) => truth(a.of(destination).starts_with(&*b.of(destination))),
            Self::HasLabel(key) => truth(label(destination, key).is_some()),
            Self::NumberIn(words) => Self::Number(
                words.of(destination).trim().parse().ok().filter(|n: &f64| n.is_finite()).unwrap_or(f64::NAN),
            ),
            Self::Not(term) => match term.bound_to(destination) {
                Self::Number(number) => truth(number == 0.0),
                term => Self::Not(Box::new(term)),
            },
            Self::Negated(term) => match term.bound_to(destination) {
                Self::Number(number) => Self::Number(-number),
                term => Self::Negated(Box::new(term)),
            },
            Self::Both(operator, terms) => {
                match (terms[0].bound_to(destination), terms[1].bound_to(destination)) {
                    (Self::Number(a), Self::Number(b)) => Self::Number(operator.apply(a, b)),
                    (a, b) => Self::Both(*operator, Box::new([a, b])),
                }
            }
            Self::Choice(terms) => match terms[0].bound_to(destination) {
                Self::Number(0.0) => terms[2].bound_to(destination),
                Self::Number(_) => terms[1].bound_to(destination),
                open => Self::Choice(Box::new([
                    open,
                    terms[1].bound_to(destination),
                    terms[2].bound_to(destination),
                ])),
            },
        }
    }
}

#[cfg(test)]
mod tests;
