//! Parser of YAML into a tree, with limits on size, depth and aliases.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use crate::problem::{Code, Problems};
use crate::tree::{Entry, Key, Kind, Node, Scalar, Span, Value};

/// Maximum bytes of a file.
pub(crate) const MAX_FILE_BYTES: usize = 4 << 20;
/// Maximum nesting depth of blocks and lists.
const MAX_DEPTH: usize = 64;
/// Maximum number of values of a file, with each alias counted as a copy of its value.
const MAX_NODES: usize = 1 << 20;

/// Parses the file with index `source`, or reports a problem. An empty file is an empty tree.
pub(crate) fn parse(text: &str, source: u32, problems: &mut Problems) -> Option<Node> {
    let top = Span { source, start: 0, end: 0 };
    if text.len() > MAX_FILE_BYTES {
        problems
            .add(Code::TooLarge, top, String::new(), "the file is larger than 4 MiB")
            .help("give `-c` a folder, and split the file");
        return None;
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder { frames: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.handle_event(event, range(source, span)),
            Err(error) => Err(syntax(source, &error)),
        };
        if let Err(error) = step {
            problems
                .add(error.code, error.span, String::new(), error.message)
                .maybe_help(error.help.map(str::to_owned));
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node { span: top, value: Value::Scalar(plain("")) }))
}

struct ParseError {
    code: Code,
    span: Span,
    message: String,
    help: Option<&'static str>,
}

fn parse_error(code: Code, span: Span, message: &str, help: &'static str) -> ParseError {
    ParseError { code, span, message: message.to_owned(), help: Some(help) }
}

fn syntax(source: u32, error: &ScanError) -> ParseError {
    let at = offset(error.marker().byte_offset().unwrap_or(0));
    let (code, help) = match error.kind() {
        ErrorKind::RecursionLimitExceeded => (Code::TooLarge, Some("expected at most 64 levels")),
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            (Code::YamlSyntax, Some("indent with spaces, not with tabs"))
        }
        ErrorKind::UnknownAnchor => (Code::YamlSyntax, Some("a text that starts with `*` must be in quotes")),
        _ => (Code::YamlSyntax, None),
    };
    let span = Span { source, start: at, end: at };
    ParseError { code, span, message: format!("invalid YAML: {}", error.info()), help }
}

fn range(source: u32, span: granit_parser::Span) -> Span {
    let bytes = span.byte_range().unwrap_or(0..0);
    Span { source, start: offset(bytes.start), end: offset(bytes.end) }
}

/// Converts a byte offset. Files are far below 4 GiB, see [`MAX_FILE_BYTES`].
fn offset(byte: usize) -> u32 {
    u32::try_from(byte).unwrap_or(u32::MAX)
}

fn plain(text: &str) -> Scalar {
    Scalar { text: text.into(), kind: Kind::of(text), quoted: false, written: None }
}

/// List or block that is not closed yet.
struct Frame {
    span: Span,
    anchor: usize,
    /// Number of values so far, including this one.
    nodes: usize,
    /// Number of levels, including this one.
    depth: usize,
    inner: Inner,
}

enum Inner {
    List(Vec<Node>),
    Block(Vec<Entry>, Option<Key>),
}

/// Finished value with its size, so that limits are checked before an alias is copied.
#[derive(Clone)]
struct Finished {
    node: Node,
    nodes: usize,
    depth: usize,
}

struct Builder {
    frames: Vec<Frame>,
    anchors: HashMap<usize, Finished>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    fn handle_event(&mut self, event: Event<'_>, span: Span) -> Result<(), ParseError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(parse_error(
                Code::UnsupportedYaml,
                span,
                "a second document starts here",
                "a file has one configuration: remove `---`",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(&text, style, tag.as_deref(), span)?;
                let node = Node { span, value: Value::Scalar(scalar) };
                self.check_limits(span, 1, 0)?;
                self.finish(Finished { node, nodes: 1, depth: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", span)?;
                self.open(Inner::List(Vec::new()), anchor, span)
            }
            Event::MappingStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "map", span)?;
                self.open(Inner::Block(Vec::new(), None), anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn open(&mut self, inner: Inner, anchor: usize, span: Span) -> Result<(), ParseError> {
        if matches!(self.frames.last(), Some(Frame { inner: Inner::Block(_, None), .. })) {
            return Err(not_a_key(span));
        }
        self.frames.push(Frame { span, anchor, nodes: 1, depth: 1, inner });
        self.check_limits(span, 1, 0)
    }

    fn close(&mut self, end: Span) -> Result<(), ParseError> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let value = match frame.inner {
            Inner::List(items) => Value::List(items),
            Inner::Block(entries, _) => Value::Block(entries),
        };
        let node = Node { span: Span { end: end.end.max(frame.span.end), ..frame.span }, value };
        self.finish(Finished { node, nodes: frame.nodes, depth: frame.depth }, frame.anchor)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), ParseError> {
        let Some(named) = self.anchors.get(&anchor) else {
            return Err(parse_error(
                Code::UnsupportedYaml,
                span,
                "this alias refers to a value that contains it",
                "a value cannot contain itself",
            ));
        };
        let (nodes, depth) = (named.nodes, named.depth);
        self.check_limits(span, nodes, depth)?;
        let copy = self.anchors[&anchor].clone();
        self.finish(copy, 0)
    }

    /// Checks the limits of size and depth before a value is added.
    fn check_limits(&mut self, span: Span, nodes: usize, depth: usize) -> Result<(), ParseError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let help = "expected at most 1,048,576 values; an alias counts as all values it refers to";
            return Err(parse_error(Code::TooLarge, span, "the file has too many values", help));
        }
        if self.frames.len() + depth > MAX_DEPTH {
            return Err(parse_error(
                Code::TooLarge,
                span,
                "the file is nested too deeply",
                "expected at most 64 levels",
            ));
        }
        Ok(())
    }

    fn finish(&mut self, done: Finished, anchor: usize) -> Result<(), ParseError> {
        if anchor > 0 {
            self.check_limits(done.node.span, done.nodes, 0)?;
            self.anchors.insert(anchor, done.clone());
        }
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(done.node);
            return Ok(());
        };
        frame.nodes += done.nodes;
        frame.depth = frame.depth.max(done.depth + 1);
        match &mut frame.inner {
            Inner::List(items) => items.push(done.node),
            Inner::Block(entries, key) => match key.take() {
                Some(key) => entries.push(Entry { key, value: done.node }),
                None => *key = Some(as_key(done.node)?),
            },
        }
        Ok(())
    }
}

fn as_key(node: Node) -> Result<Key, ParseError> {
    match node.value {
        Value::Scalar(scalar) if scalar.kind != Kind::Null => Ok(Key { text: scalar.text, span: node.span }),
        _ => Err(not_a_key(node.span)),
    }
}

fn not_a_key(span: Span) -> ParseError {
    let help = "expected a text; a key that starts with `{`, `[` or `*` must be in quotes";
    parse_error(Code::UnsupportedYaml, span, "this value is not a valid key", help)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Scalar, ParseError> {
    let quoted = style != ScalarStyle::Plain;
    let core = tag.map(|tag| tag.core_suffix().unwrap_or("other"));
    let quoted = match core {
        None => quoted,
        Some("str") => true,
        Some("int" | "float" | "bool" | "null") => false,
        Some(_) => return Err(unknown_tag(span)),
    };
    Ok(match quoted {
        true => Scalar { text: text.into(), kind: Kind::Text, quoted, written: None },
        false => plain(text),
    })
}

fn collection_tag(tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), ParseError> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(expected) => Err(unknown_tag(span)),
        _ => Ok(()),
    }
}

fn unknown_tag(span: Span) -> ParseError {
    let help = "remove it; a text that starts with `!` must be in quotes";
    parse_error(Code::UnsupportedYaml, span, "tags like `!name` are not supported", help)
}
