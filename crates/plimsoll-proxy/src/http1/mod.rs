//! HTTP/1.1 (RFC 9112) on raw bytes: what is forwarded is unambiguous, what is ambiguous is refused.

pub(crate) mod adapter;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod exchange;
pub(crate) mod fields;
pub(crate) mod job;
pub(crate) mod key;
#[cfg(test)]
mod properties;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod serve;
pub(crate) mod target;

/// More header lines than this are never parsed; `limits.headers` is held below it.
pub(crate) const MAX_HEADERS: usize = 256;

/// A list of header lines on the stack, not initialised before it is used.
pub(crate) type HeaderSlots<'b> = [std::mem::MaybeUninit<httparse::Header<'b>>; MAX_HEADERS];
