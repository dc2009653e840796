//! State of an HTTP/2 connection that its streams share.

use std::cell::Cell;
use std::rc::Rc;

use plimsoll_core::Tick;

use crate::base::connection_lifetime::ConnectionLifetime;
use crate::base::timer::Timer;
use crate::forward::request_context::ClientInfo;
use crate::listener::worker_listener::ConnectionGuard;
use crate::net::flood_detector::FloodDetector;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::Peer;
use crate::net::tls::server_config::ClientTlsInfo;

/// State shared by all streams of a connection.
#[derive(Debug)]
pub(crate) struct H2ServerConnection {
    pub(crate) guard: ConnectionGuard,
    pub(crate) peer: Peer,
    pub(crate) tls_info: Option<Box<ClientTlsInfo>>,
    pub(crate) origin: Option<Rc<Origin>>,
    pub(crate) timer: Rc<Timer>,
    pub(crate) lifetime: ConnectionLifetime,
    /// End of the lifetime; [`Tick::NEVER`] after GOAWAY was sent.
    pub(crate) deadline: Cell<Tick>,
    /// Number of streams being served.
    pub(crate) active: Cell<usize>,
    pub(crate) flood: Rc<FloodDetector>,
}

impl H2ServerConnection {
    /// Returns the client of the connection, as a request needs it.
    pub(crate) fn client_info(&self) -> ClientInfo<'_> {
        ClientInfo {
            peer: self.peer,
            tls_info: self.tls_info.as_deref(),
            origin: self.origin.as_ref(),
            is_http2: true,
        }
    }
}

/// Counts a stream of its connection until dropped.
#[derive(Debug)]
pub(crate) struct StreamGuard(pub(crate) Rc<H2ServerConnection>);

impl StreamGuard {
    /// Counts a new stream of the connection.
    pub(crate) fn open(connection: &Rc<H2ServerConnection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let H2ServerConnection { guard, timer, active, deadline, .. } = &*self.0;
        active.set(active.get() - 1);
        if active.get() == 0 {
            let idle = guard.listener.routes().table.config.timeouts.idle;
            let idle_until = guard.worker.timers.about_now() + idle;
            guard.worker.timers.set(timer, idle_until.min(deadline.get()));
        }
    }
}
