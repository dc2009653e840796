//! Valid names of listeners, pools, routes, destinations, zones and labels.

use plimsoll_core::Name;

use crate::check::value_error::ValueError;
use crate::problem::Code;
use crate::tree::is_invisible;

/// Maximum bytes of a destination's name. A DNS host name with its port fits.
const ID_BYTES: usize = 260;
/// Maximum bytes of a zone or of the value of a label.
const LABEL_BYTES: usize = 256;

/// Parses a name that is valid as a metric label, a log field and a part of `POOL/DEST`.
pub(crate) fn name(text: &str) -> Result<&str, ValueError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match text.len() {
        1..=64 if text.chars().all(allowed) && text != "." && text != ".." => Ok(text),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a valid name",
            "expected 1 to 64 letters, digits, `_`, `-` and `.`",
        )),
    }
}

/// Parses the id of a destination: one visible word, as it is printed in logs, metrics and commands.
pub(crate) fn id(text: &str) -> Result<Name, ValueError> {
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || is_invisible(c);
    match text.len() {
        1..=ID_BYTES if !text.contains(forbidden) => Ok(text.into()),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a valid id",
            "expected one word without spaces, at most 260 bytes",
        )),
    }
}

/// Parses a zone or the value of a label.
pub(crate) fn label(text: &str) -> Result<Name, ValueError> {
    match text.len() {
        0..=LABEL_BYTES if !text.contains(char::is_control) => Ok(text.into()),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a valid label",
            "expected one line of text, at most 256 bytes",
        )),
    }
}
