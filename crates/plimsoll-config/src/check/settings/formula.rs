//! Formula of `algorithm: custom`.

use std::sync::Arc;

use plimsoll_core::formula::Formula;

/// What `algorithm: custom` scores by, as far as the file has said it.
#[derive(Clone, Debug, Default)]
pub(crate) enum FormulaSetting {
    #[default]
    Unset,
    /// It was said, and what is wrong with it was told.
    Invalid,
    Valid(Arc<Formula>),
}

impl FormulaSetting {
    pub(crate) fn formula(&self) -> Option<Arc<Formula>> {
        match self {
            Self::Valid(formula) => Some(formula.clone()),
            Self::Unset | Self::Invalid => None,
        }
    }
}
