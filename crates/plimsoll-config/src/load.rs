//! Loading of a file, or of a folder of files.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::check::check;
use crate::expand::Expander;
use crate::extensions::Extensions;
use crate::model::Config;
use crate::parse::{MAX_FILE_BYTES, parse};
use crate::problem::{Code, Problem, Problems, Source};
use crate::tree::{self, Entry, Kind, Node, Scalar, Span, Value};

/// Maximum number of files of a folder.
const MAX_FILES: usize = 1024;
/// Maximum bytes of all files of a folder.
const MAX_FOLDER_BYTES: usize = 4 * MAX_FILE_BYTES;

/// Result of loading a configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loaded {
    /// Configuration; `None` if there are errors.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of the files.
    pub problems: Vec<Problem>,
    /// Files that were read, for [`crate::render_text`].
    pub sources: Vec<Source>,
}

/// Loads a configuration from its text.
///
/// `file` is its name in messages, relative paths start at `dir`, and `env` returns the values of variables. Only files
/// that the configuration refers to are read.
pub fn load(text: &str, file: &str, dir: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    load_with(text, file, dir, env, &Extensions::default())
}

/// Loads a configuration as [`load`], for a program with extensions.
pub fn load_with(
    text: &str,
    file: &str,
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    extensions: &Extensions,
) -> Loaded {
    let mut problems = Problems::default();
    let root = parse_text(file, text, dir, env, &mut problems);
    finish(root, dir, extensions, problems)
}

/// Loads a file, or all `*.yaml` files of a folder in the order of their names.
///
/// Top-level lists and blocks of several files are joined; any other key that is given twice is an error. Relative paths
/// start at the folder.
///
/// # Errors
/// If a file cannot be read. The error names the file and the reason.
pub fn load_path(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> io::Result<Loaded> {
    load_path_with(path, env, &Extensions::default())
}

/// Loads a path as [`load_path`], for a program with extensions.
///
/// # Errors
/// If a file cannot be read. The error names the file and the reason.
pub fn load_path_with(
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    extensions: &Extensions,
) -> io::Result<Loaded> {
    let mut problems = Problems::default();
    if !path.is_dir() {
        let dir = path.parent().unwrap_or(Path::new(""));
        let bytes = read(path)?;
        let root = parse_bytes(path, &bytes, dir, env, &mut problems);
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
        let root = parse_bytes(&file, &bytes, path, env, &mut problems);
        complete &= root.is_some();
        merged = match (merged, root) {
            (Some(before), Some(root)) => Some(merge(before, root, &mut problems)),
            (before, root) => before.or(root),
        };
    }
    let mut loaded = finish(merged, path, extensions, problems);
    if !complete {
        // Missing keys and pools may be in the file that could not be parsed.
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

fn parse_bytes(
    path: &Path,
    bytes: &[u8],
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Problems,
) -> Option<Node> {
    let name = path.display().to_string();
    match std::str::from_utf8(bytes) {
        Ok(text) => parse_text(&name, text, dir, env, problems),
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

fn parse_text(
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

/// Error of the file system with the path it is about.
#[derive(Debug)]
struct ReadError {
    message: String,
    source: io::Error,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.source)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Adds a message to an error of the file system, which stays its source.
fn read_error(message: String, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), ReadError { message, source })
}

/// Reads a file, at most one byte more than the limit.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let with_name = |error| read_error(format!("cannot read the configuration {}", path.display()), error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(with_name)?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(with_name)?;
    Ok(bytes)
}

fn yaml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let shown = dir.display();
    let with_name = |error| read_error(format!("cannot read the configuration folder {shown}"), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(with_name)? {
        let path = entry.map_err(with_name)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if hidden || !is_yaml {
            continue;
        }
        // A link to a file that is gone must not drop a part of the configuration without a word.
        let found = std::fs::metadata(&path);
        let found = found.map_err(|error| {
            read_error(format!("cannot read the configuration {}", path.display()), error)
        })?;
        if !found.is_dir() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!(
                "the folder {shown} has more than 1,024 *.yaml and *.yml files"
            )));
        }
    }
    if files.is_empty() {
        let message = format!("the configuration folder {shown} has no *.yaml or *.yml file");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    files.sort();
    Ok(files)
}

/// Joins two files at their top level. Keys that cannot be joined are kept twice, which the check reports.
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
    // First entry of each name. Joined ones are removed, so that a second key of the same file is not joined.
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
