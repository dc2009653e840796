//! Why a text is not a valid value.

use crate::problem::Code;
use crate::units::UnitError;

/// Why a text is not a value of its kind. `what` follows the text and never holds a piece of it; `help` may,
/// and is left out when the text is the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ValueError {
    pub(crate) code: Code,
    pub(crate) what: &'static str,
    pub(crate) help: Option<String>,
}

impl ValueError {
    pub(crate) fn new(code: Code, what: &'static str, help: impl Into<String>) -> Self {
        Self { code, what, help: Some(help.into()) }
    }
}

impl From<UnitError> for ValueError {
    fn from(error: UnitError) -> Self {
        Self::new(Code::BadUnit, error.what, error.help)
    }
}
