//! Setup of accepted connections before their protocol: connection limit, PROXY header, TLS.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_config::model::Protocol;
use plimsoll_core::Tick;
use plimsoll_wire::client_hello::is_tls_handshake;
use plimsoll_wire::proxy_protocol::Header;

use crate::base::context::WorkerContext;
use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;
use crate::listener::adapter::Adapter;
use crate::listener::client_hello::read_client_hello;
use crate::listener::source_limits::Counted;
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
    // A client that has sent nothing yet makes room.
    let is_full = table.shared.open.load(Relaxed) > table.config.limits.connections;
    if !count_source(&mut connection, table) || (is_full && !table.shared.silent.evict_oldest()) {
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
    let silent = &routes.table.shared.silent;
    match silent.evictable(read_first_bytes(&mut connection)).await {
        Some(Ok(Some(started))) if !accept_tls(&mut connection, started).await => {}
        Some(Ok(_)) => adapter.serve(connection),
        Some(Err(Reason::ClientClosed)) => {}
        Some(Err(reason)) => {
            connection.count(reason);
            if reason == Reason::ConnectionLimit && routes.table.server_tls.is_none() {
                adapter.reject(&mut connection);
            }
        }
        None => connection.count(Reason::ConnectionLimit),
    }
}

/// Counts a connection for its source. Returns `false` if the source is at its limit.
fn count_source(connection: &mut Connection, table: &ListenerTable) -> bool {
    let Some(source) = table.limited_source(connection.peer.ip()) else { return true };
    let max = table.config.limits.connections_per_source;
    connection.guard.source = table.shared.sources.try_acquire(source, Counted::Connections, max);
    connection.guard.source.is_some()
}

/// Reads the PROXY header and the ClientHello of a connection. Returns the start of the TLS handshake, if TLS is
/// terminated here.
async fn read_first_bytes(connection: &mut Connection) -> Result<Option<Tick>, Reason> {
    let routes = connection.guard.listener.routes();
    let table = &routes.table;
    let mut header = None;
    connection.rejects_proxy_header =
        table.config.accepts_proxy_protocol && !table.trusts(connection.peer.ip());
    if table.config.accepts_proxy_protocol && !connection.rejects_proxy_header {
        let limit = connection.limit(table.config.timeouts.header);
        let read = limit.within(read_header(connection)).await;
        header = Some(read.unwrap_or(Err(Reason::HeaderTimeout))?);
    }
    if let Some(source) = header.as_ref().and_then(Header::source) {
        connection.peer = Peer::Socket(source);
        if !count_source(connection, table) {
            return Err(Reason::ConnectionLimit);
        }
    }
    set_origin(connection, table, header);
    let started = connection.worker().now();
    if !starts_tls(connection).await? {
        return Ok(None);
    }
    match read_client_hello(connection).await {
        // rustls rejects bytes that are no ClientHello, with an alert.
        Ok(_) => Ok(Some(started)),
        Err(Reason::ClientClosed) => Err(Reason::HandshakeFailed),
        Err(reason) => Err(reason),
    }
}

/// Reports whether the connection starts with TLS; with `protocol: auto` by the client's first byte.
///
/// # Errors
/// No byte arrived.
async fn starts_tls(connection: &mut Connection) -> Result<bool, Reason> {
    let routes = connection.guard.listener.routes();
    let table = &routes.table;
    if table.server_tls.is_none() || table.config.protocol != Protocol::Auto {
        return Ok(table.server_tls.is_some());
    }
    if connection.early.is_empty() {
        let limit = connection.limit(table.config.timeouts.header);
        match limit.within(connection.read()).await {
            Some(Ok(1..)) => {}
            Some(_) => return Err(Reason::ClientClosed),
            None => return Err(Reason::HeaderTimeout),
        }
    }
    Ok(is_tls_handshake(&connection.early))
}

/// Sets the client for the PROXY header, if a pool sends one.
fn set_origin(connection: &mut Connection, table: &ListenerTable, header: Option<Header>) {
    if table.needs_origin {
        connection.origin = Some(Origin::new(header, connection.peer, &connection.stream));
    }
}

/// Reads the PROXY header at the start of a connection, and leaves the bytes that follow in the buffer.
async fn read_header(connection: &mut Connection) -> Result<Header, Reason> {
    loop {
        match Header::parse(&connection.early) {
            Ok(Some((header, len))) => {
                connection.early.drain(..len);
                return Ok(header);
            }
            Err(_malformed) => {
                connection.stream.reset_on_close();
                return Err(Reason::BadProxyHeader);
            }
            Ok(None) => {}
        }
        if !matches!(connection.read().await, Ok(1..)) {
            return Err(Reason::ClientClosed);
        }
    }
}
