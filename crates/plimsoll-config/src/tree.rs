//! Tree of a configuration file, in which every node has its location.
//!
//! Repeated keys are all kept, so that an error can name both lines.

use std::fmt::Write as _;
use std::rc::Rc;

/// Byte range in one of the files.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Index of the file.
    pub(crate) source: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

/// Value with its location.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// Value of a node.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Block(Vec<Entry>),
}

/// Key and value of a block.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) value: Node,
}

/// Key of a block with its location.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) text: Box<str>,
    pub(crate) span: Span,
}

/// Scalar value with its type.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// Text with resolved variables.
    pub(crate) text: Box<str>,
    pub(crate) kind: Kind,
    /// Whether the scalar is in quotes, and therefore a text.
    pub(crate) quoted: bool,
    /// Text as written in the file, if `text` contains the value of a variable. Then `text` is never shown.
    pub(crate) written: Option<Box<str>>,
}

/// Type of a scalar by the core schema of YAML 1.2.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text,
    /// Text with a variable that has no value, which has been reported.
    Unresolved,
}

impl Kind {
    /// Returns the type of a plain scalar (YAML 1.2.2, section 10.3.2). `yes` and `on` are texts.
    pub(crate) fn of(plain: &str) -> Self {
        match plain {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(plain);
        match unsigned {
            ".inf" | ".Inf" | ".INF" => return Self::Float(f64::INFINITY),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            _ => {}
        }
        let radix =
            |prefix, radix| plain.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, radix).ok());
        if let Some(number) = radix("0o", 8).or_else(|| radix("0x", 16)) {
            return Self::Integer(number);
        }
        let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !plain.bytes().all(numeric) {
            return Self::Text;
        }
        match (plain.parse(), plain.parse()) {
            (Ok(whole), _) => Self::Integer(whole),
            (_, Ok(number)) => Self::Float(number),
            _ => Self::Text,
        }
    }
}

impl Node {
    /// Returns the type of the value, as messages name it.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Block(_) => "a block",
            Value::Scalar(scalar) => match scalar.kind {
                Kind::Null => "nothing",
                Kind::Bool(_) => "true or false",
                Kind::Integer(_) | Kind::Float(_) => "a number",
                Kind::Text | Kind::Unresolved => "text",
            },
        }
    }
}

/// Path from the root of a file to a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path<'t>(Option<Rc<Link<'t>>>);

#[derive(Debug)]
struct Link<'t> {
    up: Path<'t>,
    step: Step<'t>,
}

#[derive(Debug)]
enum Step<'t> {
    Key(&'t str),
    Index(usize),
}

impl<'t> Path<'t> {
    pub(crate) fn key(&self, key: &'t str) -> Self {
        Self(Some(Rc::new(Link { up: self.clone(), step: Step::Key(key) })))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        Self(Some(Rc::new(Link { up: self.clone(), step: Step::Index(index) })))
    }

    /// Returns the path as a text, such as `pools.api.destinations[1].address`.
    pub(crate) fn text(&self) -> String {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(link) = &at.0 {
            steps.push(&link.step);
            at = &link.up;
        }
        let mut text = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Key(key) => {
                    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '<');
                    let dot = if text.is_empty() { "" } else { "." };
                    let shown = printable(key);
                    let _ = match !shown.is_empty() && shown.chars().all(plain) {
                        true => write!(text, "{dot}{shown}"),
                        false => write!(text, "{dot}\"{shown}\""),
                    };
                }
                Step::Index(index) => {
                    let _ = write!(text, "[{index}]");
                }
            }
        }
        text
    }
}

/// Returns a text for one line of a terminal, with control characters escaped and a limited length.
pub(crate) fn printable(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MAX_CHARS {
            shown.push('…');
            break;
        }
        match c {
            c if c.is_control() || is_invisible(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Returns whether a character is invisible or changes the text direction, and so makes one name look like another.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_follow_yaml_1_2() {
        for (text, kind) in [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("true", Kind::Bool(true)),
            ("yes", Kind::Text),
            ("on", Kind::Text),
            ("12", Kind::Integer(12)),
            ("-12", Kind::Integer(-12)),
            ("0x1F", Kind::Integer(31)),
            ("012", Kind::Integer(12)),
            ("0.8", Kind::Float(0.8)),
            ("1e3", Kind::Float(1000.0)),
            (".inf", Kind::Float(f64::INFINITY)),
            ("1.2.3", Kind::Text),
            ("10.0.0.1:80", Kind::Text),
            ("1_000", Kind::Text),
            ("30s", Kind::Text),
            ("inf", Kind::Text),
        ] {
            assert_eq!(Kind::of(text), kind, "{text}");
        }
    }

    #[test]
    fn paths_use_dots_and_indexes() {
        let path = Path::default().key("pools").key("a.b").key("destinations").index(1).key("address");
        assert_eq!(path.text(), "pools.\"a.b\".destinations[1].address");
        assert_eq!(Path::default().key("a\u{1b}[31m").text(), "\"a\\u{1b}[31m\"");
    }
}
