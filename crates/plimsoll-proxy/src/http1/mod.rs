//! HTTP/1.1 (RFC 9112) on raw bytes: what is forwarded is unambiguous, what is ambiguous is refused.

/// More header lines than this are never parsed; `limits.headers` is held below it.
pub(crate) const MAX_HEADERS: usize = 256;

/// A list of header lines on the stack, not initialised before it is used.
pub(crate) type HeaderSlots<'b> = [std::mem::MaybeUninit<httparse::Header<'b>>; MAX_HEADERS];
