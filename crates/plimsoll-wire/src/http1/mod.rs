//! HTTP/1.1 (RFC 9112).

pub mod body;
pub mod fields;
#[cfg(test)]
mod properties;
pub mod request;
pub mod response;
pub mod target;

pub use httparse::Header;

pub use self::body::{BodyReader, Framing, MalformedBody};
pub use self::request::{RequestError, RequestHead, RequestLimits};
pub use self::response::{MalformedResponse, ResponseHead};
pub use self::target::{Method, Target};
pub use crate::header_edits::HeaderEdits;

/// Most header lines that are parsed in one head.
pub const MAX_HEADERS: usize = 256;

/// Space for the header lines of one head, uninitialised: it costs nothing until lines are parsed into it.
pub type HeaderSlots<'b> = [std::mem::MaybeUninit<Header<'b>>; MAX_HEADERS];
