//! Parser of formulas: grammar, names, and the types of operands.

use super::token::{Kind, Token, tokens};
use super::{DEPTH_MAX, FormulaError, OPERATIONS_MAX, Operator, Reading, Term, Words};
use crate::Name;
use crate::measure::{LoadMetric, NAMED_MAX};

/// What a part of a formula is.
enum Operand {
    Number(Term),
    Truth(Term),
    Text(Words),
    /// The attribute `labels` itself.
    Labels,
    /// The attribute `load` itself.
    Load,
}

impl Operand {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number",
            Self::Truth(_) => "a condition",
            Self::Text(_) => "a text",
            Self::Labels => "all labels",
            Self::Load => "all of a load",
        }
    }
}

const VARIABLES: [&str; 10] =
    ["in_flight", "weight", "latency_ms", "error_rate", "health", "load", "labels", "zone", "priority", "id"];
const FUNCTIONS: [&str; 5] = ["min", "max", "double", "has", "startsWith"];

/// Operators of two sides by how tightly they bind, as in CEL; all group from the left.
const LEVELS: [&[&str]; 5] =
    [&["||"], &["&&"], &["==", "!=", "<", "<=", ">", ">=", "in"], &["+", "-"], &["*", "/", "%"]];

/// The term, and the names it reads of loads.
pub(super) fn parse(text: &str) -> Result<(Term, Vec<Name>), FormulaError> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0, operations: 0, named: Vec::new() };
    let part = parser.expression()?;
    let token = parser.here();
    if token.kind != Kind::End {
        return Err(misread(token.at, format!("{} was not expected here", token.kind.shown()), None));
    }
    match part {
        Operand::Number(term) => Ok((term, parser.named)),
        other => {
            let help = match other {
                Operand::Truth(_) => "write it like `condition ? 0 : 1`: the lowest number wins",
                _ => "the lowest number wins, so it must give one",
            };
            Err(misread(0, format!("it gives {}, not a number", other.kind()), Some(help.to_owned())))
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    operations: usize,
    named: Vec<Name>,
}

impl Parser {
    fn here(&self) -> &Token {
        // The last token is the end, and the parser never reads beyond it.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> Token {
        let token = self.here().clone();
        self.next += 1;
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is = matches!(&self.here().kind, Kind::Sign(found) if *found == sign);
        self.next += usize::from(is);
        is
    }

    fn expect(&mut self, sign: &str) -> Result<(), FormulaError> {
        if self.takes(sign) {
            return Ok(());
        }
        let token = self.here();
        Err(misread(
            token.at,
            format!("`{sign}` was expected here, and there is {}", token.kind.shown()),
            None,
        ))
    }

    /// A part within another: bounded, because each level is one of our own calls.
    fn deeper<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FormulaError>,
    ) -> Result<T, FormulaError> {
        if self.depth == DEPTH_MAX {
            let what = format!("it is more than {DEPTH_MAX} levels deep here");
            return Err(misread(self.here().at, what, Some("make it simpler".to_owned())));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn expression(&mut self) -> Result<Operand, FormulaError> {
        self.deeper(|parser| {
            let at = parser.here().at;
            let first = parser.joined(0)?;
            if !parser.takes("?") {
                return Ok(first);
            }
            let Operand::Truth(test) = first else {
                let what = format!("a condition stands before `?`, and this is {}", first.kind());
                return Err(misread(at, what, Some("compare it: `in_flight > 0 ? … : …`".to_owned())));
            };
            let yes = parser.expression()?;
            let colon = parser.here().at;
            parser.expect(":")?;
            let no = parser.expression()?;
            parser.count(colon)?;
            match (yes, no) {
                (Operand::Number(a), Operand::Number(b)) => {
                    Ok(Operand::Number(Term::Choice(Box::new([test, a, b]))))
                }
                (Operand::Truth(a), Operand::Truth(b)) => {
                    Ok(Operand::Truth(Term::Choice(Box::new([test, a, b]))))
                }
                (a, b) => {
                    let what = format!(
                        "both sides of `:` are numbers or conditions; here {} and {}",
                        a.kind(),
                        b.kind()
                    );
                    Err(misread(colon, what, None))
                }
            }
        })
    }

    /// Operators of `level` and of those that bind more tightly.
    fn joined(&mut self, level: usize) -> Result<Operand, FormulaError> {
        let Some(signs) = LEVELS.get(level) else { return self.signed() };
        let mut left = self.joined(level + 1)?;
        loop {
            let token = self.here().clone();
            let (Kind::Sign(sign), at) = (
                match &token.kind {
                    Kind::Name(name) if name == "in" => Kind::Sign("in"),
                    kind => kind.clone(),
                },
                token.at,
            ) else {
                return Ok(left);
            };
            if !signs.contains(&sign) {
                return Ok(left);
            }
            self.next += 1;
            let right = self.joined(level + 1)?;
            self.count(at)?;
            left = join(sign, left, right, at)?;
        }
    }

    fn signed(&mut self) -> Result<Operand, FormulaError> {
        let at = self.here().at;
        let (not, minus) = (self.takes("!"), self.takes("-"));
        if !not && !minus {
            return self.member();
        }
        if not && minus {
            return Err(misread(at, "`!` is for conditions and `-` for numbers".to_owned(), None));
        }
        self.count(at)?;
        let part = self.deeper(Self::signed)?;
        match (part, not) {
            (Operand::Truth(term), true) => Ok(Operand::Truth(Term::Not(Box::new(term)))),
            (Operand::Number(term), false) => Ok(Operand::Number(Term::Negated(Box::new(term)))),
            (part, _) => {
                let (sign, wants) = if not { ("!", "a condition") } else { ("-", "a number") };
                Err(misread(at, format!("`{sign}` wants {wants}, and this is {}", part.kind()), None))
            }
        }
    }

    /// A value, with what is picked from it.
    fn member(&mut self) -> Result<Operand, FormulaError> {
        let mut part = self.value()?;
        loop {
            let at = self.here().at;
            if self.takes("[") {
                let key = self.take();
                let Kind::Text(name) = key.kind else {
                    let what =
                        format!("a text in quotes was expected here, and there is {}", key.kind.shown());
                    return Err(misread(key.at, what, Some("write it like `labels[\"tier\"]`".to_owned())));
                };
                self.expect("]")?;
                part = self.pick(part, &name, key.at)?;
            } else if self.takes(".") {
                let (name, name_at) = self.name()?;
                part = match (part, &*name) {
                    (Operand::Text(words), "startsWith") => {
                        self.expect("(")?;
                        let prefix = self.expression()?;
                        self.expect(")")?;
                        let Operand::Text(prefix) = prefix else {
                            return Err(misread(name_at, "`startsWith` wants a text".to_owned(), None));
                        };
                        Operand::Truth(Term::StartsWith(words, prefix))
                    }
                    (part, _) => self.pick(part, &name, name_at)?,
                };
            } else {
                return Ok(part);
            }
            self.count(at)?;
        }
    }

    fn pick(&mut self, from: Operand, name: &str, at: usize) -> Result<Operand, FormulaError> {
        match from {
            Operand::Labels => Ok(Operand::Text(Words::Label(name.into()))),
            Operand::Load => Ok(Operand::Number(Term::Read(Reading::Load(self.metric(name, at)?)))),
            other => {
                let what = format!("there is no `{name}` in {}", other.kind());
                Err(misread(at, what, Some("only `labels` and `load` have parts".to_owned())))
            }
        }
    }

    /// What destinations report under that name.
    fn metric(&mut self, name: &str, at: usize) -> Result<LoadMetric, FormulaError> {
        if let Some(metric) = LoadMetric::from_name(name, &self.named) {
            return Ok(metric);
        }
        if self.named.len() == NAMED_MAX || name.is_empty() {
            let what = format!("a formula reads at most {NAMED_MAX} loads with names of their own");
            return Err(misread(at, what, None));
        }
        self.named.push(name.into());
        Ok(LoadMetric::Named(self.named.len() as u8 - 1))
    }

    fn name(&mut self) -> Result<(String, usize), FormulaError> {
        match self.take() {
            Token { kind: Kind::Name(name), at } => Ok((name, at)),
            token => Err(misread(
                token.at,
                format!("a name was expected here, and there is {}", token.kind.shown()),
                None,
            )),
        }
    }

    fn value(&mut self) -> Result<Operand, FormulaError> {
        let Token { kind, at } = self.take();
        self.count(at)?;
        match kind {
            Kind::Number(number) => Ok(Operand::Number(Term::Number(number))),
            Kind::Text(text) => Ok(Operand::Text(Words::These(text.into()))),
            Kind::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Name(name) if matches!(self.here().kind, Kind::Sign("(")) => self.call(&name, at),
            Kind::Name(name) => variable(&name, at),
            other => {
                Err(misread(at, format!("a value was expected here, and there is {}", other.shown()), None))
            }
        }
    }

    fn call(&mut self, name: &str, at: usize) -> Result<Operand, FormulaError> {
        self.expect("(")?;
        if name == "has" {
            return self.has(at);
        }
        let mut arguments = Vec::new();
        while !self.takes(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
                self.count(at)?;
            }
            arguments.push(self.expression()?);
        }
        let operator = match name {
            "min" => Operator::Least,
            "max" => Operator::Greatest,
            "double" => return number_in(arguments, at),
            _ => return Err(unknown("function", name, &FUNCTIONS, at)),
        };
        let mut numbers = arguments.into_iter().map(|part| match part {
            Operand::Number(term) => Ok(term),
            other => Err(misread(at, format!("`{name}` wants numbers, and one is {}", other.kind()), None)),
        });
        let first =
            numbers.next().unwrap_or_else(|| Err(misread(at, format!("`{name}` wants numbers"), None)))?;
        let all = numbers.try_fold(first, |a, b| Ok(Term::Both(operator, Box::new([a, b?]))))?;
        Ok(Operand::Number(all))
    }

    /// Is there a label, or has a load been reported?
    fn has(&mut self, at: usize) -> Result<Operand, FormulaError> {
        let part = self.member()?;
        self.expect(")")?;
        match part {
            Operand::Text(Words::Label(key)) => Ok(Operand::Truth(Term::HasLabel(key))),
            Operand::Number(Term::Read(Reading::Load(metric))) => {
                let reports = Term::Read(Reading::Reports(metric));
                Ok(Operand::Truth(Term::Both(Operator::Unequal, Box::new([reports, Term::Number(0.0)]))))
            }
            _ => {
                let help = Some("write it like `has(labels.tier)` or `has(load.cpu)`".to_owned());
                Err(misread(at, "`has` wants a label or a load".to_owned(), help))
            }
        }
    }

    /// One operation more.
    fn count(&mut self, at: usize) -> Result<(), FormulaError> {
        self.operations += 1;
        if self.operations > OPERATIONS_MAX / 2 {
            let what = format!("it has more than {} operations", OPERATIONS_MAX / 2);
            return Err(misread(at, what, Some("make it simpler: it runs for every message".to_owned())));
        }
        Ok(())
    }
}

fn variable(name: &str, at: usize) -> Result<Operand, FormulaError> {
    let read = |reading| Ok(Operand::Number(Term::Read(reading)));
    match name {
        "in_flight" => read(Reading::InFlight),
        "latency_ms" => read(Reading::LatencyMs),
        "error_rate" => read(Reading::ErrorRate),
        "health" => read(Reading::Health),
        "weight" => Ok(Operand::Number(Term::Weight)),
        "priority" => Ok(Operand::Number(Term::Priority)),
        "id" => Ok(Operand::Text(Words::Id)),
        "zone" => Ok(Operand::Text(Words::Zone)),
        "labels" => Ok(Operand::Labels),
        "load" => Ok(Operand::Load),
        "true" => Ok(Operand::Truth(Term::Number(1.0))),
        "false" => Ok(Operand::Truth(Term::Number(0.0))),
        _ => Err(unknown("variable", name, &VARIABLES, at)),
    }
}

fn number_in(arguments: Vec<Operand>, at: usize) -> Result<Operand, FormulaError> {
    match <[Operand; 1]>::try_from(arguments) {
        Ok([Operand::Text(words)]) => Ok(Operand::Number(Term::NumberIn(words))),
        Ok([Operand::Number(term)]) => Ok(Operand::Number(term)),
        _ => Err(misread(at, "`double` wants one text, the number in which it gives".to_owned(), None)),
    }
}

fn join(sign: &'static str, left: Operand, right: Operand, at: usize) -> Result<Operand, FormulaError> {
    use Operator::{Add, And, AtMost, Divide, Equal, Less, Multiply, Or, Rest, Subtract, Unequal};
    let both = |operator, a, b| Term::Both(operator, Box::new([a, b]));
    let (left_kind, right_kind) = (left.kind(), right.kind());
    Ok(match (sign, left, right) {
        ("+", Operand::Number(a), Operand::Number(b)) => Operand::Number(both(Add, a, b)),
        ("-", Operand::Number(a), Operand::Number(b)) => Operand::Number(both(Subtract, a, b)),
        ("*", Operand::Number(a), Operand::Number(b)) => Operand::Number(both(Multiply, a, b)),
        ("/", Operand::Number(a), Operand::Number(b)) => Operand::Number(both(Divide, a, b)),
        ("%", Operand::Number(a), Operand::Number(b)) => Operand::Number(both(Rest, a, b)),
        ("<", Operand::Number(a), Operand::Number(b)) => Operand::Truth(both(Less, a, b)),
        ("<=", Operand::Number(a), Operand::Number(b)) => Operand::Truth(both(AtMost, a, b)),
        (">", Operand::Number(a), Operand::Number(b)) => Operand::Truth(both(Less, b, a)),
        (">=", Operand::Number(a), Operand::Number(b)) => Operand::Truth(both(AtMost, b, a)),
        ("==", Operand::Number(a), Operand::Number(b)) | ("==", Operand::Truth(a), Operand::Truth(b)) => {
            Operand::Truth(both(Equal, a, b))
        }
        ("!=", Operand::Number(a), Operand::Number(b)) | ("!=", Operand::Truth(a), Operand::Truth(b)) => {
            Operand::Truth(both(Unequal, a, b))
        }
        ("==", Operand::Text(a), Operand::Text(b)) => Operand::Truth(Term::Same(a, b)),
        ("!=", Operand::Text(a), Operand::Text(b)) => Operand::Truth(Term::Not(Box::new(Term::Same(a, b)))),
        ("&&", Operand::Truth(a), Operand::Truth(b)) => Operand::Truth(both(And, a, b)),
        ("||", Operand::Truth(a), Operand::Truth(b)) => Operand::Truth(both(Or, a, b)),
        ("in", Operand::Text(Words::These(key)), Operand::Labels) => Operand::Truth(Term::HasLabel(key)),
        ("in", ..) => {
            let help = Some("write it like `\"tier\" in labels`".to_owned());
            return Err(misread(at, "`in` asks whether there is a label".to_owned(), help));
        }
        _ => {
            let what = format!("`{sign}` does not go between {left_kind} and {right_kind}");
            let help = matches!((left_kind, right_kind), ("a text", "a number") | ("a number", "a text"))
                .then(|| "make a number of the text: `double(labels.cost)`".to_owned());
            return Err(misread(at, what, help));
        }
    })
}

fn unknown(what: &str, name: &str, known: &[&str], at: usize) -> FormulaError {
    let help = match nearest(name, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are {}", known.join(", ")),
    };
    misread(at, format!("there is no {what} `{name}`"), Some(help))
}

/// The one that has all but a few of its letters in the same order.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = name.to_ascii_lowercase().replace('_', "");
    let distance = |other: &str| {
        let other = other.replace('_', "");
        let mut row: Vec<usize> = (0..=other.len()).collect();
        for (i, a) in plain.bytes().enumerate() {
            let mut corner = std::mem::replace(&mut row[0], i + 1);
            for (j, b) in other.bytes().enumerate() {
                let least = (corner + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
                corner = std::mem::replace(&mut row[j + 1], least);
            }
        }
        row[other.len()]
    };
    let limit = (plain.len() / 3).max(1);
    let near = known.iter().map(|known| (distance(known), *known)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= limit).map(|(_, known)| known)
}

fn misread(at: usize, what: String, help: Option<String>) -> FormulaError {
    FormulaError { offset: at, message: what, help }
}
