//! Formula of `algorithm: custom`.

use std::sync::Arc;

use plimsoll_core::formula::Formula;

/// What `algorithm: custom` scores by, as far as the file has said it.
#[derive(Clone, Debug, Default)]
pub(crate) enum Score {
    #[default]
    Unsaid,
    /// It was said, and what is wrong with it was told.
    Wrong,
    By(Arc<Formula>),
}

impl Score {
    pub(crate) fn formula(&self) -> Option<Arc<Formula>> {
        match self {
            Self::By(formula) => Some(formula.clone()),
            Self::Unsaid | Self::Wrong => None,
        }
    }
}
