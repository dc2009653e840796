//! What a handshake of WebSocket proves (RFC 6455 section 4), where only one side of us knows it: HTTP/2 has no keys.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use plimsoll_core::Rng;

use crate::base64;

/// What it is called in `Upgrade` and in `:protocol`.
pub(super) const WEBSOCKET: &str = "websocket";
/// A client's question.
pub(super) const KEY: &str = "sec-websocket-key";
/// The right answer to it.
pub(super) const ACCEPT: &str = "sec-websocket-accept";

/// What every server of WebSocket appends to a key.
const APPENDED: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of our own. It need not be secret, only another one each time.
pub(super) fn key(rng: &mut Rng) -> String {
    let bytes = [rng.next_u64().to_le_bytes(), rng.next_u64().to_le_bytes()].concat();
    base64::encode(&bytes)
}

/// The answer that a server of WebSocket gives to `key`.
pub(super) fn accept(key: &[u8]) -> String {
    base64::encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, APPENDED].concat()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_rfc_6455() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_and_another_one_each_time() {
        let mut rng = Rng::new(7);
        let (one, other) = (key(&mut rng), key(&mut rng));
        assert!(one.len() == 24 && one.ends_with("==") && one != other, "{one} {other}");
    }
}
