//! Setup of accepted connections before their protocol: connection limit, PROXY header, TLS.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_config::model::Protocol;
use plimsoll_wire::client_hello::is_tls_handshake;
use plimsoll_wire::proxy_protocol::Header;

use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::listener::tables::ListenerTable;
use crate::listener::tls_accept::accept_tls;
use crate::listener::worker_listener::{ConnectionGuard, WorkerListener};
use crate::net::proxy_protocol::Origin;
use crate::net::stream::{Peer, Stream};

/// Accepts a connection, or rejects it if the listener is at its limit.
pub(crate) fn accept_connection(
    worker: &Rc<WorkerContext>,
    listener: &Rc<WorkerListener>,
    adapter: &Arc<dyn Adapter>,
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
            adapter.reject(&mut connection);
        }
        return;
    }
    if table.server_tls.is_none() && !table.config.accepts_proxy_protocol {
        set_origin(&mut connection, table, None);
        return adapter.serve(connection);
    }
    tokio::task::spawn_local(prepare_connection(connection, adapter.clone()));
}

/// Reads the PROXY header and runs the TLS handshake of a connection, and passes it to its protocol.
async fn prepare_connection(mut connection: Connection, adapter: Arc<dyn Adapter>) {
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
    set_origin(&mut connection, table, header);
    match starts_tls(&mut connection).await {
        Some(true) if !accept_tls(&mut connection).await => {}
        Some(_) => adapter.serve(connection),
        None => {}
    }
}

/// Reports whether the connection starts with TLS; with `protocol: auto` by the client's first byte. `None` if no byte
/// arrived.
async fn starts_tls(connection: &mut Connection) -> Option<bool> {
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

/// Sets the client for the PROXY header, if a pool sends one.
fn set_origin(connection: &mut Connection, table: &ListenerTable, header: Option<Header>) {
    if table.needs_origin {
        connection.origin = Some(Origin::new(header, connection.peer, &connection.stream));
    }
}

/// Reads the PROXY header at the start of a connection, and leaves the bytes that follow in the buffer.
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
