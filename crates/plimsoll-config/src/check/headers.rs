//! Which header lines a file may set, add, remove and ask for.

use crate::check::config_node::ConfigNode;
use crate::check::first_seen::FirstSeen;
use crate::check::keys;
use crate::check::reader::Reader;
use crate::check::value_error::ValueError;
use crate::model::HeaderEdits;
use crate::problem::Code;
use crate::tree::printable;

/// Lines that frame a message or belong to one connection; the balancer alone writes them (RFC 9110,
/// section 7.6.1; RFC 9112, section 6).
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

/// Longest header name and value: far below the smallest limit of servers in use (8 KiB for a head).
const NAME_BYTES: usize = 256;
const VALUE_BYTES: usize = 4096;

/// Names in one list: as many as a head may have lines unless told otherwise.
const LINES: usize = 100;
const TOO_MANY: &str = "at most 100 headers can be named here";

impl Reader<'_> {
    /// `{set: {}, add: {}, remove: []}`
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
                let message = format!("`{}` is removed here and given a value elsewhere", item.shown());
                self.problem(item, Code::Conflict, message)
                    .help("keep one: `set` replaces every copy that comes in")
                    .related("given a value here", span);
            }
            edits.remove.push(name);
        }
        edits
    }

    /// Header names and values, each name once whatever its case; `parse_name` refuses some.
    pub(crate) fn header_lines(
        &mut self,
        node: &ConfigNode<'_>,
        parse_name: fn(&str) -> Result<String, ValueError>,
        seen: &mut FirstSeen<String>,
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
                Err(wrong) => {
                    let message = format!("`{}` {}", printable(key), wrong.what);
                    self.problems.add(wrong.code, span, value.path.text(), message).maybe_help(wrong.help);
                }
                Ok(name) => {
                    if let Some(first) = seen.insert(name.clone(), span) {
                        let line = self.line_of(first);
                        let message = format!("the header `{name}` is given twice; first on {line}");
                        self.problems
                            .add(Code::DuplicateName, span, value.path.text(), message)
                            .help("header names are the same in upper and lower case: keep one of them")
                            .related("first given here", first);
                    }
                    lines.extend(text.map(|text| (name, text)));
                }
            }
        }
        lines
    }
}

/// A header name in lower case.
pub(crate) fn header_name(text: &str) -> Result<String, ValueError> {
    if !is_token(text) || text.len() > NAME_BYTES {
        let help = "a name has letters, digits and any of !#$%&'*+-.^_`|~, at most 256 in all";
        return Err(ValueError::new(Code::BadHeader, "is not a header name", help));
    }
    Ok(text.to_ascii_lowercase())
}

fn editable_name(text: &str) -> Result<String, ValueError> {
    let name = header_name(text)?;
    if FRAMING.contains(&name.as_str()) {
        let help = "it says how a message is framed or a connection used, and the balancer alone writes it";
        return Err(ValueError::new(Code::BadHeader, "cannot be edited", help));
    }
    Ok(name)
}

fn addable_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        let help = "a request has one; `set` replaces it";
        return Err(ValueError::new(Code::BadHeader, "cannot be added", help));
    }
    Ok(name)
}

fn removable_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        let help = "a request without it is not valid; `set` replaces it";
        return Err(ValueError::new(Code::BadHeader, "cannot be removed", help));
    }
    Ok(name)
}

/// The name of a line that a check adds to its request.
pub(crate) fn check_name(text: &str) -> Result<String, ValueError> {
    let name = editable_name(text)?;
    if name == "host" {
        return Err(ValueError::new(
            Code::BadHeader,
            "has a key of its own",
            "write it as `host`, beside `headers`",
        ));
    }
    Ok(name)
}

/// A value that is one line and survives the way: no control characters but tabs, no blanks at its ends.
pub(crate) fn header_value(text: &str) -> Result<&str, ValueError> {
    let refuse = |what, help| Err(ValueError::new(Code::BadHeader, what, help));
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return refuse("is not a header value: it holds a control character", "a value is one line of text");
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return refuse(
            "is not a header value: it starts or ends with a blank",
            "blanks there are lost on the way",
        );
    }
    if text.len() > VALUE_BYTES {
        return refuse("is too long for a header value", "at most 4,096 bytes");
    }
    Ok(text)
}

/// A token of HTTP (RFC 9110, section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(good)
}
