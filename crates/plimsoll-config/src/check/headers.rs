//! Names and values of headers that a file may set, add, remove and match.

use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::model::HeaderEdits;
use crate::problem::Code;
use crate::tree::printable;

/// Headers of message framing and of one connection, which only the balancer writes (RFC 9110, section 7.6.1;
/// RFC 9112, section 6).
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Maximum bytes of a header name. Name and value stay far below the smallest common head limit of servers (8 KiB).
const NAME_BYTES: usize = 256;
/// Maximum bytes of a header value.
const VALUE_BYTES: usize = 4096;

/// Maximum number of names in one list, as many as a head may have fields by default.
const LINES: usize = 100;
const TOO_MANY: &str = "too many headers: expected at most 100";

impl Reader<'_> {
    /// Reads header edits: `{set: {}, add: {}, remove: []}`.
    pub(crate) fn header_edits(&mut self, node: Option<&ConfigNode<'_>>) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        let Some(mapping) = node.and_then(|node| self.mapping(node, &keys::HEADERS)) else { return edits };
        let mut set = FirstSeen::default();
        let mut added = FirstSeen::default();
        if let Some(node) = mapping.get("set") {
            edits.set = self.header_lines(node, editable_name, &mut set);
        }
        if let Some(node) = mapping.get("add") {
            edits.add = self.header_lines(node, addable_name, &mut added);
        }
        let removed = mapping.get("remove").map(|node| self.list(node)).unwrap_or_default();
        if let (Some(node), true) = (mapping.get("remove"), removed.len() > LINES) {
            self.problem(node, Code::TooLarge, TOO_MANY);
        }
        for item in removed.iter().take(LINES) {
            let Some(name) = self.parsed(item, "a header name", removable_name) else { continue };
            if let Some(span) = set.get(&name).or(added.get(&name)) {
                let message = format!("`{}` is both removed and given a value", item.shown());
                self.problem(item, Code::Conflict, message)
                    .help("keep one of them: `set` replaces all existing fields")
                    .related("given a value here", span);
            }
            edits.remove.push(name);
        }
        edits
    }

    /// Reads header names and values, each name once regardless of case. `parse_name` rejects some names.
    pub(crate) fn header_lines(
        &mut self,
        node: &ConfigNode<'_>,
        parse_name: fn(&str) -> Result<String, ValueError>,
        names: &mut FirstSeen<String>,
    ) -> Vec<(String, String)> {
        let mut lines = Vec::new();
        let entries = self.entries(node);
        if entries.len() > LINES {
            self.problem(node, Code::TooLarge, TOO_MANY);
        }
        for (key, value) in entries.into_iter().take(LINES) {
            let span = value.key.unwrap_or(value.tree.span);
            let name = parse_name(key);
            let text = self.parsed(&value, "text", |text| header_value(text).map(str::to_owned));
            match name {
                Err(error) => {
                    let message = format!("`{}` {}", printable(key), error.reason);
                    self.problems.add(error.code, span, value.path.text(), message).maybe_help(error.help);
                }
                Ok(name) => {
                    if let Some(first) = names.insert(name.clone(), span) {
                        let line = self.line_of(first);
                        let message = format!("the header `{name}` is given twice; first on {line}");
                        self.problems
                            .add(Code::DuplicateName, span, value.path.text(), message)
                            .help("header names are not case-sensitive: keep one of them")
                            .related("first given here", first);
                    }
                    lines.extend(text.map(|text| (name, text)));
                }
            }
        }
        lines
    }
}

/// Parses a header name and returns it in lower case.
pub(crate) fn header_name(text: &str) -> Result<String, ValueError> {
    if !is_token(text) || text.len() > NAME_BYTES {
        let help = "expected letters, digits and !#$%&'*+-.^_`|~, at most 256 characters";
        return Err(ValueError::new(Code::BadHeader, "is not a valid header name", help));
    }
    Ok(text.to_ascii_lowercase())
}

/// Parses a header name that may be set.
fn editable_name(text: &str) -> Result<String, ValueError> {
    let name = header_name(text)?;
    if FRAMING.contains(&name.as_str()) {
        let help = "the balancer itself writes this header, because it controls framing or the connection";
        return Err(ValueError::new(Code::BadHeader, "cannot be edited", help));
    }
    Ok(name)
}

/// Parses a header name that may be added.
fn addable_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        let help = "a request has exactly one `host`; use `set` to replace it";
        return Err(ValueError::new(Code::BadHeader, "cannot be added", help));
    }
    Ok(name)
}

/// Parses a header name that may be removed.
fn removable_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        let help = "a request must have a `host`; use `set` to replace it";
        return Err(ValueError::new(Code::BadHeader, "cannot be removed", help));
    }
    Ok(name)
}

/// Parses the name of an additional header of an HTTP check.
pub(crate) fn check_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        return Err(ValueError::new(
            Code::BadHeader,
            "has a key of its own",
            "use the key `host` beside `headers`",
        ));
    }
    Ok(name)
}

/// Parses a header value: one line without control characters except tabs, and without spaces at its ends.
pub(crate) fn header_value(text: &str) -> Result<&str, ValueError> {
    let error = |reason, help| Err(ValueError::new(Code::BadHeader, reason, help));
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return error(
            "is not a valid header value: it contains a control character",
            "expected one line of text",
        );
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return error(
            "is not a valid header value: it starts or ends with a space",
            "remove the spaces, which are not part of a header value",
        );
    }
    if text.len() > VALUE_BYTES {
        return error("is too long for a header value", "at most 4,096 bytes");
    }
    Ok(text)
}

/// Returns whether a text is an HTTP token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}
