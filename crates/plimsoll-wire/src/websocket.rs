//! The WebSocket opening handshake (RFC 6455 section 4).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::base64;

/// Protocol name in `Upgrade` and in `:protocol`.
pub const WEBSOCKET: &str = "websocket";
/// Name of the request field that carries the client's key.
pub const KEY: &str = "sec-websocket-key";
/// Name of the response field that proves that the key was read.
pub const ACCEPT: &str = "sec-websocket-accept";

/// The GUID that a server appends to the key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Encodes a key of 16 random bytes. A key need not be secret, only different for each handshake.
pub fn encode_key(random: [u8; 16]) -> String {
    base64::encode(&random)
}

/// Computes the value of `Sec-WebSocket-Accept` for `key`.
pub fn accept_value(key: &[u8]) -> String {
    base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_matches_the_example_of_rfc_6455() {
        assert_eq!(accept_value(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        let (one, other) = (encode_key([1; 16]), encode_key([2; 16]));
        assert!(one.len() == 24 && one.ends_with("==") && one != other, "{one} {other}");
    }
}
