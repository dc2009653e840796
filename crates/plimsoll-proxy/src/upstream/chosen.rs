//! The destination that was chosen for a request.

use plimsoll_core::{Address, Assignment};

/// A destination that was assigned to a request, with its address.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) assignment: Assignment,
    pub(crate) address: Address,
}
