//! Compiled formula of one destination: a sequence of operations on a stack of numbers.

use super::{OPERATIONS_MAX, Operator, Reading, Term};

/// Source of the values that change.
pub(crate) trait Source {
    /// Returns the current value of a reading.
    fn read(&self, reading: Reading) -> f64;
}

#[derive(Copy, Clone, Debug, PartialEq)]
enum Operation {
    Push(f64),
    Read(Reading),
    Not,
    Negate,
    Join(Operator),
    Choose,
}

/// Maximum size of the stack: never more than the number of operations.
const STACK: usize = OPERATIONS_MAX;

/// Compiled formula. Both branches of a condition are evaluated, which is cheaper than a mispredicted jump and cannot
/// fail.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program(Box<[Operation]>);

impl Program {
    /// Compiles a term that is bound to a destination.
    pub(super) fn of(term: &Term) -> Self {
        let mut operations = Vec::new();
        push(term, &mut operations);
        Self(operations.into())
    }

    /// Evaluates the program; NaN if it has no number.
    pub(crate) fn run(&self, source: &impl Source) -> f64 {
        // Typical formulas are at most this long; clearing a kilobyte would cost more than the evaluation.
        match self.0.len() {
            0..=16 => self.run_on(&mut [0.0; 16], source),
            _ => self.run_on(&mut [0.0; STACK], source),
        }
    }

    fn run_on(&self, stack: &mut [f64], source: &impl Source) -> f64 {
        let mut top = 0;
        for operation in &self.0 {
            let (used, value) = match *operation {
                Operation::Push(number) => (0, number),
                Operation::Read(reading) => (0, source.read(reading)),
                Operation::Not => (1, f64::from(u8::from(stack[top - 1] == 0.0))),
                Operation::Negate => (1, -stack[top - 1]),
                Operation::Join(operator) => (2, operator.apply(stack[top - 2], stack[top - 1])),
                Operation::Choose => (3, stack[top - if stack[top - 3] == 0.0 { 1 } else { 2 }]),
            };
            // A program of a checked term never underflows the stack and never holds more values than operations.
            top -= used;
            stack[top] = value;
            top += 1;
        }
        stack[0]
    }
}

fn push(term: &Term, to: &mut Vec<Operation>) {
    match term {
        Term::Number(number) => to.push(Operation::Push(*number)),
        Term::Read(reading) => to.push(Operation::Read(*reading)),
        Term::Not(term) => {
            push(term, to);
            to.push(Operation::Not);
        }
        Term::Negated(term) => {
            push(term, to);
            to.push(Operation::Negate);
        }
        Term::Both(operator, terms) => {
            terms.iter().for_each(|term| push(term, to));
            to.push(Operation::Join(*operator));
        }
        Term::Choice(terms) => {
            terms.iter().for_each(|term| push(term, to));
            to.push(Operation::Choose);
        }
        // Nothing of a bound term is open but what is read.
        Term::Weight
        | Term::Priority
        | Term::Same(..)
        | Term::StartsWith(..)
        | Term::HasLabel(_)
        | Term::NumberIn(_) => to.push(Operation::Push(f64::NAN)),
    }
}
