//! TLS handshakes of accepted connections, within their limits.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use plimsoll_core::Tick;
use plimsoll_wire::base64;

use crate::base::context::WorkerContext;
use crate::base::counters::Handshake;
use crate::base::reason::Reason;
use crate::listener::accepted_connection::Connection;
use crate::listener::source_limits::Counted;
use crate::listener::tables::ListenerTable;
use crate::net::stream::{SocketStream, Stream};
use crate::net::tls::server_config::{self, ClientTlsInfo};
use crate::net::tls::tls_stream::TlsStream;

/// Runs the handshake of a connection that has sent a whole ClientHello. Returns `false` if it failed, which is counted.
pub(crate) async fn accept_tls(connection: &mut Connection, started: Tick) -> bool {
    let worker = connection.worker().clone();
    let routes = connection.guard.listener.routes();
    let table = &routes.table;
    let Some(server_tls) = &table.server_tls else { return false };
    let counters = table.shared.counters.of(worker.number);
    let limits = &table.config.limits;
    let source = table.limited_source(connection.peer.ip());
    let permit = source.map(|source| {
        table.shared.sources.try_acquire(source, Counted::Handshakes, limits.handshakes_per_source)
    });
    if let Some(None) = permit {
        counters.refuse(Reason::HandshakeLimit);
        return false;
    }
    let _guard = HandshakeGuard::open(table);
    // The oldest handshake that waits for its client makes room, else the oldest that waits for its worker.
    let is_full = table.shared.handshakes.load(Relaxed) > limits.handshakes;
    if is_full && !table.shared.handshaking.evict_oldest() && !table.shared.queued.evict_oldest() {
        counters.refuse(Reason::HandshakeLimit);
        return false;
    }
    let timer = worker.timer(started + table.config.timeouts.handshake);
    let closed = Stream::Socket(SocketStream::Closed);
    let Stream::Socket(inner) = std::mem::replace(&mut connection.stream, closed) else { return false };
    let early = std::mem::take(&mut connection.early);
    let Ok(mut stream) = TlsStream::server(inner, early, server_tls.config.clone()) else { return false };
    // Boxed, so that the state of the handshake is freed with its end.
    let mut result = timer.within(Box::pin(handshake(&worker, table, &mut stream))).await;
    if let Some(Ok(Some(_))) = result
        && stream.is_resumed()
        && let Err(error) = server_tls.verify_resumed(stream.peer_certificates())
    {
        result = Some(Err(io::Error::new(io::ErrorKind::PermissionDenied, error)));
    }
    match result {
        Some(Ok(Some(sni))) => {
            let kind = if stream.is_resumed() { Handshake::Resumed } else { Handshake::Full };
            counters.handshake(stream.version(), kind, worker.now().since(started));
            let certificate = stream.peer_certificates().first().map(|der| in_base64(der).into());
            let tls_info = ClientTlsInfo { sni: sni.map(String::into_boxed_str), certificate };
            connection.stream = Stream::Tls(Box::new(stream));
            connection.tls_info = Some(Box::new(tls_info));
            true
        }
        Some(Ok(None)) => {
            counters.refuse(Reason::HandshakeLimit);
            false
        }
        Some(Err(error)) => {
            counters.handshake(stream.version(), Handshake::Failed, worker.now().since(started));
            counters.refuse(Reason::HandshakeFailed);
            tracing::debug!(listener = %table.config.name, client = %connection.peer, %error, "TLS handshake failed");
            false
        }
        None => {
            counters.refuse(Reason::HandshakeTimeout);
            false
        }
    }
}

/// Runs the handshake and returns the client's SNI; `None` if the handshake was evicted while it waited.
async fn handshake(
    worker: &WorkerContext,
    table: &ListenerTable,
    stream: &mut TlsStream,
) -> io::Result<Option<Option<String>>> {
    let mut sni = None;
    loop {
        // Each flight of the client may take an expensive step, not just the ClientHello: a second one (RFC 8446 section
        // 4.1.4), a key exchange of TLS 1.2, or a certificate.
        if table.shared.queued.evictable(worker.handshakes.wait()).await.is_none() {
            return Ok(None);
        }
        let polled = poll_fn(|cx| Poll::Ready(stream.poll_handshake(cx))).await;
        sni = sni.or_else(server_config::take_sni);
        if let Poll::Ready(done) = polled {
            return done.map(|()| Some(sni));
        }
        let client = poll_fn(|cx| stream.poll_handshake_ready(cx));
        match table.shared.handshaking.evictable(client).await {
            Some(ready) => ready?,
            None => return Ok(None),
        }
    }
}

/// Counts a running handshake for the limit.
struct HandshakeGuard<'t>(&'t ListenerTable);

impl<'t> HandshakeGuard<'t> {
    fn open(table: &'t ListenerTable) -> Self {
        table.shared.handshakes.fetch_add(1, Relaxed);
        Self(table)
    }
}

impl Drop for HandshakeGuard<'_> {
    fn drop(&mut self) {
        self.0.shared.handshakes.fetch_sub(1, Relaxed);
    }
}

/// Encodes a byte sequence of a structured field (RFC 8941 section 3.3.5).
fn in_base64(bytes: &[u8]) -> String {
    format!(":{}:", base64::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sequences_are_base64_between_colons() {
        for (plain, coded) in [
            ("", "::"),
            ("f", ":Zg==:"),
            ("fo", ":Zm8=:"),
            ("foo", ":Zm9v:"),
            ("foob", ":Zm9vYg==:"),
            ("fooba", ":Zm9vYmE=:"),
            ("foobar", ":Zm9vYmFy:"),
        ] {
            assert_eq!(in_base64(plain.as_bytes()), coded);
        }
    }
}
