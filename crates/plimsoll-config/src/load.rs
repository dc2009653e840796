//! How a file, or a folder of files, becomes a configuration or a list of problems.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::check::check;
use crate::expand::Expander;
use crate::extensions::Extensions;
use crate::model::Config;
use crate::parse::{MAX_FILE_BYTES, parse};
use crate::problem::{Code, Problem, Problems, Source};
use crate::tree::{self, Entry, Kind, Node, Scalar, Span, Value};

/// Files of one folder.
const MAX_FILES: usize = 1024;
/// Bytes of all files of a folder.
const MAX_FOLDER_BYTES: usize = 4 * MAX_FILE_BYTES;

/// What came of a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration, if there are no errors.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of the files.
    pub problems: Vec<Problem>,
    /// The files that were read, for [`crate::render_text`].
    pub sources: Vec<Source>,
}

/// Loads a configuration from its text. `file` is its name in messages, relative paths start at `dir`, and
/// `env` gives the values of variables.
///
/// Reads no file but those that `${file:…}` names.
pub fn load(text: &str, file: &str, dir: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    load_with(text, file, dir, env, &Extensions::default())
}

/// As [`load`], for a program with `extensions` of its own.
pub fn load_with(
    text: &str,
    file: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    extensions: &Extensions,
) -> Loaded {
    let mut problems = Problems::default();
    let root = tree_of(file, text, dir, env, &mut problems);
    finish(root, dir, extensions, problems)
}

/// Loads a file, or all `*.yaml` of a folder in the order of their names: lists and blocks at the top are
/// joined, anything else that is given twice is an error. Relative paths start at the folder.
///
/// # Errors
/// When a file cannot be read at all; the error says which and why.
pub fn load_path(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> io::Result<Loaded> {
    load_path_with(path, env, &Extensions::default())
}

/// As [`load_path`], for a program with `extensions` of its own.
///
/// # Errors
/// When a file cannot be read at all; the error says which and why.
pub fn load_path_with(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    extensions: &Extensions,
) -> io::Result<Loaded> {
    let mut problems = Problems::default();
    if !path.is_dir() {
        let dir = path.parent().unwrap_or(Path::new(""));
        let bytes = read(path)?;
        let root = tree_of_bytes(path, &bytes, dir, env, &mut problems);
        return Ok(finish(root, dir, extensions, problems));
    }
    let mut merged: Option<Node> = None;
    let mut complete = true;
    let mut total = 0;
    for file in yaml_files(path)? {
        let bytes = read(&file)?;
        total += bytes.len();
        if total > MAX_FOLDER_BYTES {
            return Err(io::Error::other(format!("the files of {} are larger than 16 MiB", path.display())));
        }
        let root = tree_of_bytes(&file, &bytes, path, env, &mut problems);
        complete &= root.is_some();
        merged = match (merged, root) {
            (Some(before), Some(root)) => Some(merge(before, root, &mut problems)),
            (before, root) => before.or(root),
        };
    }
    let mut loaded = finish(merged, path, extensions, problems);
    if !complete {
        // What seems to be missing may stand in the file that could not be read.
        loaded.problems.retain(|p| !matches!(p.code, Code::MissingKey | Code::UnknownPool));
    }
    Ok(loaded)
}

fn finish(root: Option<Node>, dir: &Path, extensions: &Extensions, mut problems: Problems) -> Loaded {
    let config = root.and_then(|root| check(&root, dir, extensions, &mut problems));
    let config = config.filter(|_| !problems.has_errors());
    let (problems, sources) = problems.finish();
    Loaded { config, problems, sources }
}

fn tree_of_bytes(
    path: &Path,
    bytes: &[u8],
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<Node> {
    let name = path.display().to_string();
    match std::str::from_utf8(bytes) {
        Ok(text) => tree_of(&name, text, dir, env, problems),
        Err(error) => {
            let source = add_source(problems, &name, &String::from_utf8_lossy(bytes));
            let at = u32::try_from(error.valid_up_to()).unwrap_or(u32::MAX);
            let span = Span { source, start: at, end: at };
            problems
                .add(Code::YamlSyntax, span, String::new(), "the file is not UTF-8 text")
                .help("save it as UTF-8");
            None
        }
    }
}

fn tree_of(
    name: &str,
    text: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<Node> {
    let source = add_source(problems, name, text);
    let mut root = parse(text, source, problems)?;
    Expander::new(env, dir).expand(&mut root, &tree::Path::default(), problems);
    Some(root)
}

fn add_source(problems: &mut Problems, name: &str, text: &str) -> u32 {
    problems.sources.push(Source::new(name, text));
    u32::try_from(problems.sources.len() - 1).unwrap_or(u32::MAX)
}

/// The whole file, or one byte more than may be read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let with_name = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot read the configuration {}: {error}", path.display()))
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(with_name)?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(with_name)?;
    Ok(bytes)
}

fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let shown = dir.display();
    let with_name = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot read the configuration folder {shown}: {error}"))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(with_name)? {
        let path = entry.map_err(with_name)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "yaml") && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!("the folder {shown} holds more than 1,024 *.yaml files")));
        }
    }
    if files.is_empty() {
        let message = format!("the configuration folder {shown} holds no *.yaml file");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    files.sort();
    Ok(files)
}

/// Joins two files at their top level. What cannot be joined stands there twice, which the check refuses.
fn merge(before: Node, after: Node, problems: &mut Problems) -> Node {
    let empty = |node: &Node| matches!(node.value, Value::Scalar(Scalar { kind: Kind::Null, .. }));
    if empty(&before) || empty(&after) {
        return if empty(&before) { after } else { before };
    }
    let span = before.span;
    match (before.value, after.value) {
        (Value::Block(before), Value::Block(after)) => {
            Node { span, value: Value::Block(merge_entries(before, after)) }
        }
        (before, other) => {
            let block = matches!(before, Value::Block(_));
            let wrong = if block { after.span } else { span };
            problems.add(Code::WrongType, wrong, String::new(), "expected a block of keys in each file");
            Node { span, value: if block { before } else { other } }
        }
    }
}

fn merge_entries(mut before: Vec<Entry>, after: Vec<Entry>) -> Vec<Entry> {
    // The first of each name; those already joined are taken out, so that a second one of the same file is not.
    let mut known: HashMap<Box<str>, usize> = HashMap::new();
    for (index, entry) in before.iter().enumerate() {
        known.entry(entry.key.text.clone()).or_insert(index);
    }
    for entry in after {
        match known.remove(&entry.key.text) {
            Some(index) => match (&mut before[index].value.value, entry.value.value) {
                (Value::List(items), Value::List(more)) => items.extend(more),
                (Value::Block(entries), Value::Block(more)) => entries.extend(more),
                (_, value) => {
                    before.push(Entry { key: entry.key, value: Node { span: entry.value.span, value } })
                }
            },
            None => before.push(entry),
        }
    }
    before
}
