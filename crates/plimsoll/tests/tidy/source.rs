//! Rust files split into code and comments, for the checks of language and layers.

use std::fs;
use std::path::{Path, PathBuf};

/// A Rust file of the workspace.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// Code with comments, strings and characters blanked out; lines keep their numbers.
    pub(crate) code: String,
    /// Comments as (line number, text), one entry a line. A doc comment keeps its `///` or `//!`.
    pub(crate) comments: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("text");
        let (code, comments) = split(&text);
        Self { path: path.to_owned(), code, comments }
    }

    /// Code without the file's unit tests, which stand at its end.
    pub(crate) fn without_tests(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod tests").or_else(|| self.code.find("#[cfg(test)]\npub"));
        &self.code[..end.unwrap_or(self.code.len())]
    }

    /// Doc comments as (line number of the first line, paragraphs). Code blocks and headings are left out.
    pub(crate) fn docs(&self) -> Vec<(usize, Vec<String>)> {
        let mut blocks: Vec<(usize, usize, Vec<String>)> = Vec::new();
        let mut in_code = false;
        for (line, comment) in &self.comments {
            let Some(text) = comment.strip_prefix("///").or_else(|| comment.strip_prefix("//!")) else {
                continue;
            };
            let text = text.trim();
            let follows = blocks.last().is_some_and(|(_, last, _)| last + 1 == *line);
            if !follows {
                in_code = false;
                blocks.push((*line, *line, vec![String::new()]));
            }
            let (_, last, paragraphs) = blocks.last_mut().expect("just pushed");
            *last = *line;
            in_code ^= text.starts_with("```");
            if in_code || text.starts_with("```") || text.starts_with(['#', '|']) {
                continue;
            }
            if text.is_empty() || text.starts_with(['-', '*']) {
                paragraphs.push(String::new());
            }
            let paragraph = paragraphs.last_mut().expect("never empty");
            paragraph.push_str(text);
            paragraph.push(' ');
        }
        let filled =
            |paragraphs: Vec<String>| paragraphs.into_iter().filter(|p| !p.trim().is_empty()).collect();
        blocks.into_iter().map(|(first, _, paragraphs)| (first, filled(paragraphs))).collect()
    }
}

/// Splits a file into its code, with comments and literals blanked out, and its comments.
fn split(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let (mut code, mut comments) = (String::new(), Vec::new());
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &text[at..];
        let end = match bytes[at] {
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            b'"' => 1 + string_end(&rest[1..]),
            b'r' | b'b' if !follows_identifier(&code) => literal_end(rest),
            b'\'' => char_end(rest),
            _ => 0,
        };
        if end == 0 {
            let next = rest.chars().next().expect("not at the end");
            line += usize::from(next == '\n');
            code.push(next);
            at += next.len_utf8();
            continue;
        }
        let skipped = &rest[..end];
        if skipped.starts_with('/') {
            comments.extend(skipped.lines().enumerate().map(|(n, text)| (line + n, text.trim().to_owned())));
        }
        let lines = skipped.matches('\n').count();
        line += lines;
        code.push(' ');
        code.extend(std::iter::repeat_n('\n', lines));
        at += end;
    }
    (code, comments)
}

fn follows_identifier(code: &str) -> bool {
    code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Length up to the end of a string, without its opening quote.
fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    rest.len()
}

/// Length of a raw string, byte string or byte character; 0 if there is none here.
fn literal_end(rest: &str) -> usize {
    let prefix = rest.len() - rest.trim_start_matches(['r', 'b']).len();
    let after = &rest[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let raw = rest[..prefix].contains('r') && prefix <= 2;
    if raw && after[hashes..].starts_with('"') {
        let closing = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 1;
        return rest[start..].find(&closing).map_or(rest.len(), |end| start + end + closing.len());
    }
    match prefix == 1 && rest.starts_with('b') {
        true if after.starts_with('"') => 2 + string_end(&after[1..]),
        true if after.starts_with('\'') => 1 + char_end(after),
        _ => 0,
    }
}

/// Length of a character literal; 0 for a lifetime.
fn char_end(rest: &str) -> usize {
    let inner = &rest[1..];
    if let Some(escape) = inner.strip_prefix('\\') {
        let from = escape.chars().next().map_or(0, char::len_utf8);
        return escape[from..].find('\'').map_or(0, |end| 2 + from + end + 1);
    }
    let Some(first) = inner.chars().next() else { return 0 };
    if inner[first.len_utf8()..].starts_with('\'') { 2 + first.len_utf8() } else { 0 }
}
