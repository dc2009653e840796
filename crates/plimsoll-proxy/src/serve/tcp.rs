//! The adapter for TCP: connects to a destination and copies bytes both ways.

use plimsoll_wire::client_hello;

use crate::base::reason::Reason;
use crate::forward::connection::UpstreamSession;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;

/// Adapter for TCP, and for TLS passthrough with SNI routing.
#[derive(Debug)]
pub(crate) struct Tcp;

impl Adapter for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn serve(&self, connection: Connection) {
        Connection::spawn(serve(connection));
    }
}

async fn serve(mut connection: Connection) {
    let routes = connection.guard.listener.routes();
    let mut server_name = None;
    if connection.tls_info.is_none() && routes.table.asks_for_sni() {
        let limit = connection.limit(routes.table.config.timeouts.handshake);
        match limit.within(read_client_hello(&mut connection)).await {
            Some(Some(name)) => server_name = name,
            Some(None) => return,
            None => return connection.count(Reason::HandshakeTimeout),
        }
    }
    let server_name = server_name.as_deref().or(connection.server_name());
    let Some(mut session) = UpstreamSession::begin(&connection, "TCP", server_name) else {
        return connection.reset();
    };
    match session.next(None).await {
        Ok(mut destination) => {
            session.served(&mut destination);
            session.relay(connection, destination).await;
        }
        // A reset reports the failure to the client; a regular close would look like an empty response.
        Err(_already_counted) => connection.reset(),
    }
}

/// Reads the TLS ClientHello, leaves it in the buffer, and returns its server name. Other protocols have no
/// name. Returns `None` if the client disconnects.
async fn read_client_hello(connection: &mut Connection) -> Option<Option<String>> {
    loop {
        match client_hello::parse(connection.buffer()) {
            Ok(None) => {}
            Ok(Some(hello)) => return Some(hello.server_name),
            Err(_not_tls) => return Some(None),
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return None;
        }
    }
}
