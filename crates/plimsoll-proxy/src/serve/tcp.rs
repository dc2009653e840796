//! How a TCP connection finds its destination.

use plimsoll_wire::client_hello;

use crate::base::reason::Reason;
use crate::forward::connection::UpstreamSession;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;

/// TCP: a destination that can be connected to, then a tunnel.
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
    let view = connection.guard.listener.routes();
    let mut asked = None;
    if connection.tls_info.is_none() && view.table.asks_for_sni() {
        let limit = connection.limit(view.table.config.timeouts.handshake);
        match limit.within(read_hello(&mut connection)).await {
            Some(Some(name)) => asked = name,
            Some(None) => return,
            None => return connection.count(Reason::HandshakeTimeout),
        }
    }
    let asked = asked.as_deref().or(connection.server_name());
    let Some(mut session) = UpstreamSession::begin(&connection, "TCP", asked) else {
        return connection.reset();
    };
    match session.next(None).await {
        Ok(mut destination) => {
            session.served(&mut destination);
            session.relay(connection, destination).await;
        }
        // A reset tells the client that nobody served it; an end of data would look like an empty answer.
        Err(_counted) => connection.reset(),
    }
}

/// Reads the hello of TLS and leaves it, with all that came along, in the buffer. Answers the name it asks
/// for; who speaks something else asks for none. `None`: the client left.
async fn read_hello(connection: &mut Connection) -> Option<Option<String>> {
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
