//! Formula of `algorithm: custom`.

use std::sync::Arc;

use plimsoll_core::formula::Formula;

/// Formula of `algorithm: custom`, from all blocks.
#[derive(Clone, Debug, Default)]
pub(crate) enum FormulaSetting {
    /// No block gives a formula.
    #[default]
    Unset,
    /// The formula is invalid, which has been reported.
    Invalid,
    /// Formula of the file.
    Valid(Arc<Formula>),
}

impl FormulaSetting {
    /// Returns the formula, if it is valid.
    pub(crate) fn formula(&self) -> Option<Arc<Formula>> {
        match self {
            Self::Valid(formula) => Some(formula.clone()),
            Self::Unset | Self::Invalid => None,
        }
    }
}
