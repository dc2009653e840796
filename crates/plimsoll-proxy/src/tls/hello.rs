//! Which name a client asks for, read from its hello without answering it.

use std::io;

use rustls::server::Acceptor;

/// What the bytes so far tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// The hello has not ended yet.
    Incomplete,
    /// It asks for this name, or for none.
    Asks(Option<String>),
    /// It is not one.
    NotTls,
}

/// A hello may be so long; with post-quantum keys they have about 2 KiB.
pub(crate) const MAX_HELLO: usize = 16 * 1024;

/// Reads the hello at the front of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Hello {
    // A record of a handshake begins so (RFC 8446 section 5.1); anything else need not be buffered.
    if bytes.first().is_some_and(|&kind| kind != 22) || bytes.get(1).is_some_and(|&major| major != 3) {
        return Hello::NotTls;
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
        Ok(Some(accepted)) => Hello::Asks(accepted.client_hello().server_name().map(str::to_ascii_lowercase)),
        Ok(None) if bytes.len() < MAX_HELLO => Hello::Incomplete,
        _ => Hello::NotTls,
    }
}
