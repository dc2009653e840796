//! Protocol detection by the first bytes of a connection, for `protocol: auto`.

use std::sync::Arc;

use plimsoll_wire::client_hello::is_tls_handshake;

use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::serve::tcp::Tcp;
use plimsoll_wire::Detection;

/// Passes each connection to the adapter that recognizes its protocol.
#[derive(Debug)]
pub(crate) struct Detect(pub(crate) Vec<Arc<dyn Adapter>>);

impl Adapter for Detect {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn alpn(&self) -> Vec<&'static [u8]> {
        self.0.iter().flat_map(|adapter| adapter.alpn()).collect()
    }

    fn serve(&self, connection: Connection) {
        let alpn = connection.stream.alpn();
        match self.0.iter().find(|adapter| alpn.is_some_and(|name| adapter.alpn().contains(&name))) {
            Some(adapter) => adapter.serve(connection),
            None => Connection::spawn(detect(self.0.clone(), connection)),
        }
    }
}

async fn detect(adapters: Vec<Arc<dyn Adapter>>, mut connection: Connection) {
    let limit = connection.limit(connection.timeout());
    match limit.within(recognize(&adapters, &mut connection)).await {
        Some(Some(adapter)) => adapter.serve(connection),
        Some(None) => {}
        None => connection.count(Reason::HeaderTimeout),
    }
}

/// Reads until an adapter recognizes the protocol. Returns `None` if none does or the client disconnects.
async fn recognize(adapters: &[Arc<dyn Adapter>], connection: &mut Connection) -> Option<Arc<dyn Adapter>> {
    loop {
        let first = &connection.early;
        // TLS that is not terminated here is passed through, routed by SNI.
        if is_tls_handshake(first) && connection.tls_info.is_none() {
            return Some(Arc::new(Tcp));
        }
        let mut undecided = first.is_empty();
        for adapter in adapters.iter().filter(|_| !first.is_empty()) {
            match adapter.detect(first) {
                Detection::Yes => return Some(adapter.clone()),
                Detection::Perhaps => undecided = true,
                Detection::No => {}
            }
        }
        if !undecided {
            connection.count(Reason::UnknownProtocol);
            connection.stream.reset_on_close();
            return None;
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return None;
        }
    }
}
