//! The seam every protocol enters by: what it is called, how it is detected, who serves what arrives.
//!
//! HTTP, TCP, UDP and MQTT come in through it, and so does a protocol of the embedding program: it gives
//! [`crate::Proxy::start`] a registry ([`Adapters`]) with an [`Adapter`] of its own in it, and a listener whose
//! `protocol` is that adapter's word. The guide's page on protocols has an example.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use plimsoll_wire::Detection;
use tokio::sync::oneshot;

use crate::listener::accepted_connection::Connection;

use crate::base::context::WorkerContext;
use crate::listener::worker_listener::WorkerListener;

/// A protocol that listeners can speak.
///
/// One value serves all listeners of all workers, so it keeps nothing about a connection; what it keeps must
/// be safe to share. A method is called on the thread of the worker whose connection it is about.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// What a listener's `protocol` calls it: lower case.
    fn name(&self) -> &'static str;

    /// The names it has within TLS (ALPN), best first; `http/1.1` for HTTP/1.
    fn alpn(&self) -> Vec<&'static [u8]> {
        Vec::new()
    }

    /// Whether a connection that begins with `first` (at least one byte) speaks this, for listeners of
    /// `protocol: auto`.
    fn detect(&self, first: &[u8]) -> Detection {
        let _speaks_nothing_by_default = first;
        Detection::No
    }

    /// Takes over a client's connection, after the PROXY protocol and TLS if there was any. Returns at once:
    /// what takes time is spawned on the worker's own thread ([`Connection::spawn`]).
    fn serve(&self, connection: Connection);

    /// Serves a listener's socket for datagrams until it is to close. Only the proxy's own adapters can, for
    /// now; for the others a `udp` listener is the way.
    fn serve_datagrams(&self, datagrams: Datagrams) -> Pin<Box<dyn Future<Output = ()>>> {
        drop(datagrams);
        Box::pin(std::future::ready(()))
    }

    /// The listener is full and `connection` will not be served: the place for a word of farewell that fits
    /// into one write and waits for nobody.
    fn reject(&self, connection: &mut Connection) {
        let _says_nothing_by_default = connection;
    }
}

/// A listener's socket for datagrams at one worker.
pub struct Datagrams {
    pub(crate) worker: Rc<WorkerContext>,
    pub(crate) listener: Rc<WorkerListener>,
    pub(crate) socket: socket2::Socket,
    pub(crate) stopped: oneshot::Receiver<()>,
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("socket", &self.socket).finish_non_exhaustive()
    }
}
