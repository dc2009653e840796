//! Routes and header edits.

use std::sync::Arc;

use plimsoll_core::Name;
use plimsoll_core::route::Match;
use plimsoll_core::subset::Subset;

/// Header edits. Names are valid and in lower case; values are valid and free of CR, LF and NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderEdits {
    /// Headers to set. All existing fields of that name are replaced.
    pub set: Vec<(String, String)>,
    /// Headers to add. Existing fields of that name stay.
    pub add: Vec<(String, String)>,
    /// Headers to remove.
    pub remove: Vec<String>,
}

impl HeaderEdits {
    /// Creates the edits from the headers to set, to add and to remove, with names in lower case.
    pub const fn new(set: Vec<(String, String)>, add: Vec<(String, String)>, remove: Vec<String>) -> Self {
        Self { set, add, remove }
    }
}

/// Route of a listener: match conditions and the pool for matching messages.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// Name in metrics and logs: the `name` of the file, or `LISTENER/INDEX`.
    pub name: Name,
    /// Match conditions, all of which must hold.
    pub matches: Match,
    /// Pool for matching messages, as an index into [`Config::pools`](crate::Config::pools).
    pub pool: usize,
    /// Subset of the pool for matching messages; `None` = the whole pool.
    pub subset: Option<Arc<Subset>>,
    /// Header edits of requests, applied after those of the listener.
    pub request_headers: HeaderEdits,
    /// Header edits of responses, applied after those of the listener.
    pub response_headers: HeaderEdits,
}

impl Route {
    /// Creates a route without header edits to the pool with this index.
    pub fn new(name: impl Into<Name>, matches: Match, pool: usize) -> Self {
        Self {
            name: name.into(),
            matches,
            pool,
            subset: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}
