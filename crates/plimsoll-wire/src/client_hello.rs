//! The TLS ClientHello: detection of TLS, and the server name (SNI) without ending the handshake.

use std::fmt;
use std::io;

use rustls::server::Acceptor;

/// Longest ClientHello that is read. With post-quantum key shares it has about 2 KiB.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// Content type of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// A complete ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name the client asks for, in lower case (RFC 6066 section 3).
    pub server_name: Option<String>,
}

/// The bytes are not a TLS ClientHello, or it is longer than [`MAX_CLIENT_HELLO`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NotClientHello;

impl fmt::Display for NotClientHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a TLS ClientHello of at most {MAX_CLIENT_HELLO} bytes, found other bytes")
    }
}

impl std::error::Error for NotClientHello {}

/// Reports whether a connection that begins with `first` begins with a TLS handshake.
#[inline]
pub fn is_tls_handshake(first: &[u8]) -> bool {
    first.first() == Some(&HANDSHAKE)
}

/// Parses the ClientHello at the front of `bytes`. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// [`NotClientHello`] if no further bytes can make it one.
pub fn parse(bytes: &[u8]) -> Result<Option<ClientHello>, NotClientHello> {
    // A handshake record begins with its type and the major version (RFC 8446 section 5.1): bytes of another
    // protocol are rejected without buffering.
    if bytes.first().is_some_and(|&kind| kind != HANDSHAKE) || bytes.get(1).is_some_and(|&major| major != 3) {
        return Err(NotClientHello);
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest as &mut dyn io::Read) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => {
            let server_name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            Ok(Some(ClientHello { server_name }))
        }
        Ok(None) if bytes.len() < MAX_CLIENT_HELLO => Ok(None),
        _ => Err(NotClientHello),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_are_rejected_at_their_first_bytes() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x16\x03"), Ok(None));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(NotClientHello));
        assert_eq!(parse(b"\x16\x02"), Err(NotClientHello));
        assert!(is_tls_handshake(b"\x16") && !is_tls_handshake(b"G") && !is_tls_handshake(b""));
    }
}
