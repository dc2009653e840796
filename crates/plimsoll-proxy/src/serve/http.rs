//! How HTTP enters: HTTP/1.1 and HTTP/2 on one port, told apart by TLS or by their first bytes.

use crate::http::local_reply::{Refusal, write_at_once};
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::serve::{h1, h2};
use plimsoll_wire::Detection;

/// Methods are short words; what has none within so many bytes is no request.
const MAX_METHOD: usize = 24;

/// HTTP/1.1 and HTTP/2, with WebSocket and gRPC on them.
#[derive(Debug)]
pub(crate) struct Http;

impl Adapter for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn alpn(&self) -> Vec<&'static [u8]> {
        vec![b"h2", b"http/1.1"]
    }

    /// A word in capitals and a blank: no method in use is written otherwise. The preface of HTTP/2 begins so
    /// too.
    fn detect(&self, first: &[u8]) -> Detection {
        let method = first.iter().take_while(|c| c.is_ascii_uppercase() || **c == b'-').count();
        match first.get(method) {
            Some(b' ') if method > 0 => Detection::Yes,
            None if method <= MAX_METHOD => Detection::Perhaps,
            _ => Detection::No,
        }
    }

    fn serve(&self, connection: Connection) {
        match connection.stream.alpn() == Some(b"h2") {
            true => Connection::spawn(h2::serve(connection)),
            false => Connection::spawn(h1::serve(connection)),
        }
    }

    fn reject(&self, connection: &mut Connection) {
        write_at_once(&mut connection.stream, Refusal::CONNECTION_LIMIT);
    }
}
