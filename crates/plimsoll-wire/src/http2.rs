//! The connection preface of HTTP/2 (RFC 9113 section 3.4).

/// First bytes of a client that knows in advance that the server supports HTTP/2. No HTTP/1 request begins so.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Reports whether `bytes` may begin a connection of HTTP/2. It takes five bytes to decide.
#[inline]
pub fn may_begin(bytes: &[u8]) -> bool {
    let known = bytes.len().min(PREFACE.len());
    known > 4 && bytes[..known] == PREFACE[..known]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_known_from_its_fifth_byte() {
        assert!(!may_begin(b"PRI ") && may_begin(b"PRI *") && may_begin(PREFACE));
        assert!(!may_begin(b"PRINT / HTTP/1.1\r\n") && !may_begin(b""));
    }
}
