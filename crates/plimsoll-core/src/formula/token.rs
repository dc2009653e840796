//! Lexer of formulas.

use super::{FormulaError, LENGTH_MAX};

/// Kind of a token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number(f64),
    Text(String),
    Name(String),
    Sign(&'static str),
    End,
}

impl Kind {
    /// Returns the token as error messages show it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Number(number) => format!("`{number}`"),
            Self::Text(_) => "a text".to_owned(),
            Self::Name(name) => format!("`{name}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end".to_owned(),
        }
    }
}

/// A token with its offset in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) at: usize,
}

/// Operators and brackets, longer ones first.
const SIGNS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]",
    ",", ".",
];

/// Splits a formula into tokens, the end included.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FormulaError> {
    if text.len() > LENGTH_MAX {
        let what = format!("it has {} bytes, and at most {LENGTH_MAX} are read", text.len());
        return Err(FormulaError { offset: 0, message: what, help: None });
    }
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(first) = text[at..].chars().next() {
        let (kind, len) = match first {
            ' ' | '\t' | '\n' | '\r' => {
                at += 1;
                continue;
            }
            '"' | '\'' => quoted(text, at, first)?,
            '0'..='9' => number(text, at)?,
            '.' if text[at + 1..].starts_with(|c: char| c.is_ascii_digit()) => number(text, at)?,
            'a'..='z' | 'A'..='Z' | '_' => {
                let rest = &text[at..];
                let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                (Kind::Name(rest[..len].to_owned()), len)
            }
            _ => sign(text, at, first)?,
        };
        tokens.push(Token { kind, at });
        at += len;
    }
    tokens.push(Token { kind: Kind::End, at });
    Ok(tokens)
}

fn sign(text: &str, at: usize, first: char) -> Result<(Kind, usize), FormulaError> {
    if let Some(sign) = SIGNS.into_iter().find(|sign| text[at..].starts_with(sign)) {
        return Ok((Kind::Sign(sign), sign.len()));
    }
    let help = match first {
        '&' | '|' => Some(format!("did you mean `{first}{first}`?")),
        '=' => Some("did you mean `==`?".to_owned()),
        '^' => Some("there are no powers; multiply instead".to_owned()),
        _ => None,
    };
    Err(FormulaError { offset: at, message: format!("{first:?} has no meaning here"), help })
}

fn number(text: &str, at: usize) -> Result<(Kind, usize), FormulaError> {
    let rest = &text.as_bytes()[at..];
    let digits = |from: usize| rest[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut len = digits(0);
    if rest.get(len) == Some(&b'.') {
        len += 1 + digits(len + 1);
    }
    if matches!(rest.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(rest.get(len + 1), Some(b'+' | b'-')));
        if digits(len + 1 + sign) > 0 {
            len += 1 + sign + digits(len + 1 + sign);
        }
    }
    let joined = rest.get(len).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    match text[at..at + len].parse() {
        Ok(value) if !joined && f64::is_finite(value) => Ok((Kind::Number(value), len)),
        _ => {
            let help = Some("write numbers like 3, 0.5 or 1e6, without a unit".to_owned());
            Err(FormulaError { offset: at, message: "this is no number".to_owned(), help })
        }
    }
}

fn quoted(text: &str, at: usize, quote: char) -> Result<(Kind, usize), FormulaError> {
    let (mut value, mut escaped) = (String::new(), false);
    for (offset, c) in text[at + 1..].char_indices() {
        match c {
            _ if escaped && matches!(c, '\\' | '"' | '\'') => {
                value.push(c);
                escaped = false;
            }
            _ if escaped => {
                let what = format!("a backslash before {c:?} has no meaning here");
                let help = Some("only \\\\, \\\" and \\' are known".to_owned());
                return Err(FormulaError { offset: at + 1 + offset, message: what, help });
            }
            '\\' => escaped = true,
            _ if c == quote => return Ok((Kind::Text(value), offset + 2)),
            _ => value.push(c),
        }
    }
    Err(FormulaError {
        offset: at,
        message: "this text has no end".to_owned(),
        help: Some(format!("add a {quote}")),
    })
}
