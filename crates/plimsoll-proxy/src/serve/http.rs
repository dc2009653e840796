//! The adapter for HTTP: HTTP/1.1 and HTTP/2 on one port, distinguished by ALPN or the first bytes.

use crate::http::local_reply::{LocalReply, try_write};
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::serve::{h1, h2};
use plimsoll_wire::Detection;

/// Maximum length of a method; longer ones are not HTTP.
const MAX_METHOD: usize = 24;

/// Adapter for HTTP/1.1 and HTTP/2, with WebSocket and gRPC.
#[derive(Debug)]
pub(crate) struct Http;

impl Adapter for Http {
    fn name(&self) -> &'static str {
        "http"
    }

    fn alpn(&self) -> Vec<&'static [u8]> {
        vec![b"h2", b"http/1.1"]
    }

    /// Detects an upper-case word and a space. All methods in use and the HTTP/2 preface match.
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
        try_write(&mut connection.stream, LocalReply::CONNECTION_LIMIT);
    }
}
