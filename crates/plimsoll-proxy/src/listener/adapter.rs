//! Protocol adapters: their name, their detection, and the connections they serve.
//!
//! HTTP, MQTT and TCP are adapters, and so is a protocol of the embedding program: it passes a registry
//! ([`Adapters`](crate::adapter::Adapters)) with its [`Adapter`] to [`crate::Proxy::start`], and a listener selects it
//! by its name in `protocol`. The guide has an example.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use plimsoll_wire::Detection;
use tokio::sync::oneshot;

use crate::base::context::WorkerContext;
use crate::listener::accepted_connection::Connection;
use crate::listener::worker_listener::WorkerListener;

/// A protocol that listeners can serve.
///
/// One value serves all listeners of all workers, so it keeps no state of a connection; its other state must be safe
/// to share. Methods are called on the thread of the connection's worker.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// Returns the name in a listener's `protocol`, in lower case.
    fn name(&self) -> &'static str;

    /// Returns the protocol's names for ALPN, the preferred one first, such as `http/1.1`.
    fn alpn(&self) -> Vec<&'static [u8]> {
        Vec::new()
    }

    /// Reports whether a connection that starts with `first` (at least one byte) uses this protocol, for listeners with
    /// `protocol: auto`.
    fn detect(&self, first: &[u8]) -> Detection {
        let _no_detection_by_default = first;
        Detection::No
    }

    /// Takes over a client connection, after its PROXY header and its TLS handshake. Must return at once: work is
    /// spawned on the worker's thread ([`Connection::spawn`]).
    fn serve(&self, connection: Connection);

    /// Rejects `connection` because the listener is at its limit. May send a last message, in one write and without
    /// waiting.
    fn reject(&self, connection: &mut Connection) {
        let _closed_silently_by_default = connection;
    }
}

/// Handler of a listener's datagram sockets.
pub(crate) trait DatagramHandler: fmt::Debug + Send + Sync {
    /// Serves a socket until it is to close.
    fn serve_datagrams(&self, datagrams: Datagrams) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// A listener's datagram socket on one worker.
pub(crate) struct Datagrams {
    pub(crate) worker: Rc<WorkerContext>,
    pub(crate) listener: Rc<WorkerListener>,
    pub(crate) socket: socket2::Socket,
    pub(crate) stopped: oneshot::Receiver<()>,
}

/// Handler of a listener's sockets, by their type.
#[derive(Clone, Debug)]
pub(crate) enum SocketHandler {
    Streams(Arc<dyn Adapter>),
    Datagrams(Arc<dyn DatagramHandler>),
}

impl SocketHandler {
    /// Returns the protocol's names for ALPN.
    pub(crate) fn alpn(&self) -> Vec<&'static [u8]> {
        match self {
            Self::Streams(adapter) => adapter.alpn(),
            Self::Datagrams(_) => Vec::new(),
        }
    }
}
