//! Error of a text that is not a valid value.

use crate::problem::Code;
use crate::units::UnitError;

/// Reason why a text is not a valid value.
///
/// `reason` follows the text in messages and never contains a part of it. `help` may, and is left out when the text is
/// the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValueError {
    pub(crate) code: Code,
    pub(crate) reason: &'static str,
    pub(crate) help: Option<String>,
}

impl ValueError {
    pub(crate) fn new(code: Code, reason: &'static str, help: impl Into<String>) -> Self {
        Self { code, reason, help: Some(help.into()) }
    }
}

impl From<UnitError> for ValueError {
    fn from(error: UnitError) -> Self {
        Self::new(Code::BadUnit, error.reason, error.help)
    }
}
