//! What a connection passes between the listener and its protocol: the limit, the PROXY header, TLS.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_config::model::Protocol;
use plimsoll_wire::client_hello::is_tls_handshake;
use plimsoll_wire::proxy_protocol::Header;

use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;
use crate::listener::tables::ListenerTable;
use crate::listener::tls_accept::accept_tls;
use crate::listener::worker_listener::{ConnectionGuard, WorkerListener};
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};

/// Lets a connection in, or turns it away when the listener is full.
pub(crate) fn accept_connection(
    worker: &Rc<WorkerContext>,
    listener: &Rc<WorkerListener>,
    stream: Stream,
    peer: Peer,
) {
    let routes = listener.routes();
    let table = &routes.table;
    let guard = ConnectionGuard::open(worker, listener);
    let mut connection = Connection {
        guard,
        stream,
        peer,
        tls_info: None,
        origin: None,
        rejects_proxy_header: false,
        early: Vec::new(),
    };
    if table.shared.open.load(Relaxed) > table.config.limits.connections {
        connection.count(Reason::ConnectionLimit);
        if table.server_tls.is_none() {
            table.adapter.reject(&mut connection);
        }
        return;
    }
    if table.server_tls.is_none() && !table.config.accepts_proxy_protocol {
        find_origin(&mut connection, table, None);
        return table.adapter.serve(connection);
    }
    tokio::task::spawn_local(prepare_connection(connection));
}

/// The way of a connection of which something is asked before its protocol begins.
async fn prepare_connection(mut connection: Connection) {
    let routes = connection.guard.listener.routes();
    let table = &routes.table;
    let mut header = None;
    connection.rejects_proxy_header =
        table.config.accepts_proxy_protocol && !table.trusts(connection.peer.ip());
    if table.config.accepts_proxy_protocol && !connection.rejects_proxy_header {
        let limit = connection.limit(table.config.timeouts.header);
        header = match limit.within(read_header(&mut connection)).await {
            Some(Ok(header)) => Some(header),
            Some(Err(())) => return,
            None => return connection.count(Reason::HeaderTimeout),
        };
    }
    if let Some(source) = header.as_ref().and_then(Header::source) {
        connection.peer = Peer::Socket(source);
    }
    find_origin(&mut connection, table, header);
    match wants_tls(&mut connection).await {
        Some(true) if !accept_tls(&mut connection).await => {}
        Some(_) => table.adapter.serve(connection),
        None => {}
    }
}

/// Does TLS end here? Where the protocol is to be detected, the client's first byte says. `None`: none came.
async fn wants_tls(connection: &mut Connection) -> Option<bool> {
    let routes = connection.guard.listener.routes();
    let table = &routes.table;
    if table.server_tls.is_none() || table.config.protocol != Protocol::Auto {
        return Some(table.server_tls.is_some());
    }
    if connection.early.is_empty() {
        let limit = connection.limit(table.config.timeouts.header);
        match limit.within(connection.read()).await {
            Some(Ok(1..)) => {}
            Some(_) => return None,
            None => {
                connection.count(Reason::HeaderTimeout);
                return None;
            }
        }
    }
    Some(is_tls_handshake(&connection.early))
}

/// Remembers whose connection it is, where a destination wants to be header.
fn find_origin(connection: &mut Connection, table: &ListenerTable, header: Option<Header>) {
    if table.needs_origin {
        connection.origin = Some(Origin::new(header, connection.peer, &connection.stream));
    }
}

/// Reads the PROXY header a connection begins with, and leaves what follows in the buffer.
async fn read_header(connection: &mut Connection) -> Result<Header, ()> {
    loop {
        match Header::parse(&connection.early) {
            Ok(Some((header, len))) => {
                connection.early.drain(..len);
                return Ok(header);
            }
            Err(_malformed) => {
                connection.count(Reason::BadProxyHeader);
                connection.stream.reset_on_close();
                return Err(());
            }
            Ok(None) => {}
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return Err(());
        }
    }
}
