//! Reading of the TLS ClientHello at the start of a connection, within its time limits.

use plimsoll_wire::client_hello::{self, ClientHello};

use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;

/// Reads until the buffer holds a whole ClientHello, or bytes that cannot become one (`Ok(None)`). Leaves all of them
/// in the buffer.
///
/// # Errors
/// The client disconnected, or exceeded `timeouts: {header}` or `timeouts: {handshake}`.
pub(crate) async fn read_client_hello(connection: &mut Connection) -> Result<Option<ClientHello>, Reason> {
    let timeouts = connection.guard.listener.routes().table.config.timeouts;
    let (time, reason) = match timeouts.header < timeouts.handshake {
        true => (timeouts.header, Reason::HeaderTimeout),
        false => (timeouts.handshake, Reason::HandshakeTimeout),
    };
    let limit = connection.limit(time);
    limit.within(read_whole(connection)).await.unwrap_or(Err(reason))
}

async fn read_whole(connection: &mut Connection) -> Result<Option<ClientHello>, Reason> {
    loop {
        match client_hello::parse(&connection.early) {
            Ok(None) => {}
            Ok(Some(hello)) => return Ok(Some(hello)),
            Err(_not_tls) => return Ok(None),
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return Err(Reason::ClientClosed);
        }
    }
}
