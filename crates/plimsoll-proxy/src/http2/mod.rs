//! HTTP/2 (RFC 9113) by the `h2` crate: frames are its business, what they mean is ours.

/// How a client begins that knows beforehand that HTTP/2 is spoken here (RFC 9113 section 3.4). No HTTP/1
/// request is this.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Do these bytes begin that way, as far as they go? One letter is not enough to say so.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREFACE.len());
    known > 4 && bytes[..known] == PREFACE[..known]
}
