//! The adapter for TCP: connects to a destination and copies bytes both ways.

use crate::base::reason::Reason;
use crate::forward::connection::UpstreamSession;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::listener::client_hello::read_client_hello;

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
        match read_client_hello(&mut connection).await {
            // Other protocols, and clients that ask for no name, take the routes without one.
            Ok(hello) => server_name = hello.and_then(|hello| hello.server_name),
            Err(Reason::ClientClosed) => return,
            Err(reason) => return connection.count(reason),
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
