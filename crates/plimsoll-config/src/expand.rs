//! Expansion of `${…}` to an environment variable, its default, or the text of a secret file.
//!
//! The tree keeps both texts of such a scalar, and only the written one is shown.

use std::io::Read as _;
use std::path::Path as FilePath;

use crate::problem::{Code, Problems};
use crate::tree::{Kind, Node, Path, Scalar, Value};

/// Maximum bytes that the variables of a file expand to, as many as a file may have.
const MAX_EXPANDED: usize = crate::parse::MAX_FILE_BYTES;
/// Maximum bytes of a secret file.
const MAX_SECRET: u64 = 64 << 10;
/// Maximum number of secret files that a file refers to.
const MAX_SECRETS: usize = 1024;

const HELP: &str = "write `${NAME}`, `${NAME:-default}` or `${file:/path}`; `$${` is a literal `${`";

/// Sources of the values of variables.
pub(crate) struct Expander<'e> {
    pub(crate) env: &'e dyn Fn(&str) -> Option<String>,
    /// Folder that relative paths start at.
    pub(crate) dir: &'e FilePath,
    bytes: usize,
    secrets: usize,
}

/// Reason why a variable has no value, which may be shown.
struct ExpandError {
    code: Code,
    message: String,
    help: &'static str,
}

impl<'e> Expander<'e> {
    pub(crate) fn new(env: &'e dyn Fn(&str) -> Option<String>, dir: &'e FilePath) -> Self {
        Self { env, dir, bytes: 0, secrets: 0 }
    }

    /// Resolves the variables of every scalar. One that cannot be resolved is reported and keeps its text.
    pub(crate) fn expand<'t>(&mut self, node: &'t mut Node, path: &Path<'t>, problems: &mut Problems) {
        match &mut node.value {
            Value::Scalar(scalar) => {
                if let Err(unresolved) = self.scalar(scalar) {
                    problems
                        .add(unresolved.code, node.span, path.text(), unresolved.message)
                        .help(unresolved.help);
                    scalar.kind = Kind::Unresolved;
                }
            }
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.expand(item, &path.index(index), problems);
                }
            }
            Value::Block(entries) => {
                for entry in entries {
                    self.expand(&mut entry.value, &path.key(&entry.key.text), problems);
                }
            }
        }
    }

    fn scalar(&mut self, scalar: &mut Scalar) -> Result<(), ExpandError> {
        if !scalar.text.contains("${") {
            return Ok(());
        }
        let (text, variables) = self.text(&scalar.text)?;
        scalar.kind = if scalar.quoted { Kind::Text } else { Kind::of(&text) };
        let written = std::mem::replace(&mut scalar.text, text.into());
        scalar.written = variables.then_some(written);
        Ok(())
    }

    /// Returns the text with all variables resolved, and whether there were any.
    fn text(&mut self, written: &str) -> Result<(String, bool), ExpandError> {
        let mut text = String::new();
        let mut rest = written;
        let mut variables = false;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                text.push_str(before);
                text.push_str("${");
                rest = &from[2..];
                continue;
            }
            text.push_str(before);
            let Some((inside, after)) = from[2..].split_once('}') else {
                return Err(bad_variable("a `${` is not closed".to_owned(), HELP));
            };
            let value = self.value(inside)?;
            self.bytes += value.len();
            if self.bytes > MAX_EXPANDED {
                let message = "the variables of this file expand to more than 4 MiB".to_owned();
                return Err(ExpandError { code: Code::TooLarge, message, help: "use shorter values" });
            }
            text.push_str(&value);
            rest = after;
            variables = true;
        }
        text.push_str(rest);
        Ok((text, variables))
    }

    fn value(&mut self, inside: &str) -> Result<String, ExpandError> {
        if let Some(path) = inside.strip_prefix("file:") {
            return self.secret(path);
        }
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(bad_variable("this is not a valid variable name".to_owned(), HELP));
        }
        let found = (self.env)(name);
        match (found, default) {
            (Some(value), _) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (Some(empty), None) => Ok(empty),
            (None, None) => Err(bad_variable(
                format!("the environment has no variable `{name}`"),
                "set it, or add a default: `${NAME:-default}`",
            )),
        }
    }

    fn secret(&mut self, path: &str) -> Result<String, ExpandError> {
        self.secrets += 1;
        if self.secrets > MAX_SECRETS {
            return Err(bad_variable(
                "too many secret files: expected at most 1,024".to_owned(),
                "use fewer secret files",
            ));
        }
        let shown = crate::tree::printable(path);
        read_secret(&self.dir.join(path)).map_err(|why| {
            bad_variable(
                format!("the file `{shown}` cannot be read: {why}"),
                "check that the file exists and that the user of this process may read it",
            )
        })
    }
}

/// Returns the text of a regular file without trailing line ends. Other files are rejected, because reading a pipe could
/// block.
fn read_secret(path: &FilePath) -> Result<String, String> {
    let file = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !file.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_SECRET {
        return Err("it is larger than 64 KiB".to_owned());
    }
    let mut text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

fn bad_variable(message: String, help: &'static str) -> ExpandError {
    ExpandError { code: Code::BadVariable, message, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, expected: Result<&str, &str>) {
        let env = |name: &str| match name {
            "A" => Some("alpha".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut expander = Expander::new(&env, FilePath::new("/nonexistent"));
        let got = expander.text(written).map(|(text, _)| text).map_err(|u| u.message);
        assert_eq!(got.as_deref().map_err(String::as_str), expected, "{written}");
    }

    #[test]
    fn variables_have_defaults_and_an_escape() {
        check("${A}", Ok("alpha"));
        check("x-${A}-${B:-beta}-y", Ok("x-alpha-beta-y"));
        check("${EMPTY:-full}", Ok("full"));
        check("${EMPTY}", Ok(""));
        check("${B:-}", Ok(""));
        check("$${A}", Ok("${A}"));
        check("$5 and $A", Ok("$5 and $A"));
        check("${B}", Err("the environment has no variable `B`"));
        check("${A", Err("a `${` is not closed"));
        check("${1A}", Err("this is not a valid variable name"));
        check("${A:?no}", Err("this is not a valid variable name"));
        check("${}", Err("this is not a valid variable name"));
    }

    #[test]
    fn the_last_line_end_of_a_secret_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "hush\n").unwrap();
        let mut expander = Expander::new(&|_| None, dir.path());
        assert_eq!(expander.text("${file:s}").map(|(text, _)| text).ok().as_deref(), Some("hush"));
        let gone = expander.text("${file:gone}").map_err(|u| u.message).unwrap_err();
        assert!(gone.starts_with("the file `gone` cannot be read: "), "{gone}");
        assert!(expander.text("${file:/}").is_err());
    }
}
