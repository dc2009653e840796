//! How the text of a file becomes a tree, within bounds that hostile text cannot cross.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use crate::problem::{Code, Problems};
use crate::tree::{Entry, Key, Kind, Node, Scalar, Span, Value};

/// Bytes of one file.
pub(crate) const MAX_FILE_BYTES: usize = 4 << 20;
/// Blocks within blocks, and lists within lists.
const MAX_DEPTH: usize = 64;
/// Values of one file, after every alias stands for a copy of what it names.
const MAX_NODES: usize = 1 << 20;

/// The tree of file number `source`, or nothing and a problem. An empty file is an empty tree.
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
            Ok((event, span)) => builder.take(event, range(source, span)),
            Err(error) => Err(syntax(source, &error)),
        };
        if let Err(refusal) = step {
            problems
                .add(refusal.code, refusal.span, String::new(), refusal.message)
                .maybe_help(refusal.help.map(str::to_owned));
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node { span: top, value: Value::Scalar(plain("")) }))
}

struct Refusal {
    code: Code,
    span: Span,
    message: String,
    help: Option<&'static str>,
}

fn refuse(code: Code, span: Span, message: &str, help: &'static str) -> Refusal {
    Refusal { code, span, message: message.to_owned(), help: Some(help) }
}

fn syntax(source: u32, error: &ScanError) -> Refusal {
    let at = offset(error.marker().byte_offset().unwrap_or(0));
    let (code, help) = match error.kind() {
        ErrorKind::RecursionLimitExceeded => (Code::TooLarge, Some("at most 64 levels are read")),
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            (Code::YamlSyntax, Some("indent with blanks, not with tabs"))
        }
        ErrorKind::UnknownAnchor => {
            (Code::YamlSyntax, Some("a text that starts with `*` must stand in quotes"))
        }
        _ => (Code::YamlSyntax, None),
    };
    let span = Span { source, start: at, end: at };
    Refusal { code, span, message: format!("this is not valid YAML: {}", error.info()), help }
}

fn range(source: u32, span: granit_parser::Span) -> Span {
    let bytes = span.byte_range().unwrap_or(0..0);
    Span { source, start: offset(bytes.start), end: offset(bytes.end) }
}

/// Files are far below 4 GiB, see [`MAX_FILE_BYTES`].
fn offset(byte: usize) -> u32 {
    u32::try_from(byte).unwrap_or(u32::MAX)
}

fn plain(text: &str) -> Scalar {
    Scalar { text: text.into(), kind: Kind::of(text), quoted: false, written: None }
}

/// An open list or block.
struct Frame {
    span: Span,
    anchor: usize,
    /// Values in it so far, itself included.
    nodes: usize,
    /// Levels below it, itself included.
    depth: usize,
    inner: Inner,
}

enum Inner {
    List(Vec<Node>),
    Block(Vec<Entry>, Option<Key>),
}

/// A finished value with its measures, so that an alias can be weighed before it is copied.
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
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(refuse(
                Code::UnsupportedYaml,
                span,
                "a second document starts here",
                "a file holds one configuration: remove the `---`",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(&text, style, tag.as_deref(), span)?;
                let node = Node { span, value: Value::Scalar(scalar) };
                self.weigh(span, 1, 0)?;
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

    fn open(&mut self, inner: Inner, anchor: usize, span: Span) -> Result<(), Refusal> {
        if matches!(self.frames.last(), Some(Frame { inner: Inner::Block(_, None), .. })) {
            return Err(not_a_key(span));
        }
        self.frames.push(Frame { span, anchor, nodes: 1, depth: 1, inner });
        self.weigh(span, 1, 0)
    }

    fn close(&mut self, end: Span) -> Result<(), Refusal> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        let value = match frame.inner {
            Inner::List(items) => Value::List(items),
            Inner::Block(entries, _) => Value::Block(entries),
        };
        let node = Node { span: Span { end: end.end.max(frame.span.end), ..frame.span }, value };
        self.finish(Finished { node, nodes: frame.nodes, depth: frame.depth }, frame.anchor)
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Refusal> {
        let Some(named) = self.anchors.get(&anchor) else {
            return Err(refuse(
                Code::UnsupportedYaml,
                span,
                "this alias stands inside the value it names",
                "a value cannot hold itself",
            ));
        };
        let (nodes, depth) = (named.nodes, named.depth);
        self.weigh(span, nodes, depth)?;
        let copy = self.anchors[&anchor].clone();
        self.finish(copy, 0)
    }

    /// Refuses what would make the tree too large, before it is built.
    fn weigh(&mut self, span: Span, nodes: usize, depth: usize) -> Result<(), Refusal> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let help = "at most 1,048,576 values are read; an alias counts as all it names";
            return Err(refuse(Code::TooLarge, span, "the file holds too many values", help));
        }
        if self.frames.len() + depth > MAX_DEPTH {
            return Err(refuse(
                Code::TooLarge,
                span,
                "the file is nested too deep",
                "at most 64 levels are read",
            ));
        }
        Ok(())
    }

    fn finish(&mut self, done: Finished, anchor: usize) -> Result<(), Refusal> {
        if anchor > 0 {
            self.weigh(done.node.span, done.nodes, 0)?;
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

fn as_key(node: Node) -> Result<Key, Refusal> {
    match node.value {
        Value::Scalar(scalar) if scalar.kind != Kind::Null => Ok(Key { text: scalar.text, span: node.span }),
        _ => Err(not_a_key(node.span)),
    }
}

fn not_a_key(span: Span) -> Refusal {
    let help = "a key is a word; a text that starts with `{`, `[` or `*` must stand in quotes";
    refuse(Code::UnsupportedYaml, span, "this cannot be a key", help)
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Scalar, Refusal> {
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

fn collection_tag(tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), Refusal> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(expected) => Err(unknown_tag(span)),
        _ => Ok(()),
    }
}

fn unknown_tag(span: Span) -> Refusal {
    let help = "remove it; a text that starts with `!` must stand in quotes";
    refuse(Code::UnsupportedYaml, span, "tags like `!name` have no meaning here", help)
}
