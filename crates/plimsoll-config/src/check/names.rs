//! Valid names of listeners, pools, routes, destinations, zones and labels.

use plimsoll_core::Name;

use crate::check::value_error::ValueError;
use crate::problem::Code;
use crate::tree::is_invisible;

/// Bytes of a destination's name: a host name of DNS with its port fits.
const ID_BYTES: usize = 260;
/// Bytes of a zone or a label's value.
const LABEL_BYTES: usize = 256;

/// Letters, digits, `_`, `-` and `.`, at most 64: fit for a metric label, a log field and `POOL/DEST`.
pub(crate) fn name(text: &str) -> Result<&str, ValueError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match text.len() {
        1..=64 if text.chars().all(good) && text != "." && text != ".." => Ok(text),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a name",
            "a name has 1 to 64 letters, digits, `_`, `-` and `.`",
        )),
    }
}

/// A destination's name stands in logs, metrics and commands: one word that can be seen.
pub(crate) fn id(text: &str) -> Result<Name, ValueError> {
    let unseen = |c: char| c.is_control() || c.is_whitespace() || is_invisible(c);
    match text.len() {
        1..=ID_BYTES if !text.contains(unseen) => Ok(text.into()),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a name",
            "an id is one word without blanks, at most 260 bytes",
        )),
    }
}

pub(crate) fn label(text: &str) -> Result<Name, ValueError> {
    match text.len() {
        0..=LABEL_BYTES if !text.contains(char::is_control) => Ok(text.into()),
        _ => Err(ValueError::new(
            Code::BadValue,
            "is not a label",
            "a label is one line of text, at most 256 bytes",
        )),
    }
}
