//! HTTP/1.1 (RFC 9112).

mod edits;

pub use self::edits::HeaderEdits;
