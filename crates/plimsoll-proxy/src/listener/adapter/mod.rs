//! The seam every protocol enters by: what it is called, how it is recognised, who serves what arrives.
//!
//! HTTP, TCP, UDP and MQTT come in through it, and so does a protocol of the embedding program: it gives
//! [`crate::Proxy::start`] a registry ([`Adapters`]) with an [`Adapter`] of its own in it, and a listener whose
//! `protocol` is that adapter's word. The guide's page on protocols has an example.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use plimsoll_config::model::Protocol;
use tokio::sync::oneshot;

pub(crate) use crate::forward::connection::find_failed;
pub use crate::forward::connection::{Destination, Failing, NotServed, Passage};
pub use crate::listener::accepted_connection::{Connection, Fault, TimeLimit};
use crate::serve::detect::Detect;
pub use plimsoll_wire::Detection as Recognised;

pub use crate::health::probe::custom::{Asked, Check};
use crate::run::worker::{Door, Worker};
use crate::serve::{http, mqtt, tcp, udp};

/// A protocol that listeners can speak.
///
/// One value serves all listeners of all workers, so it keeps nothing about a connection; what it keeps must
/// be safe to share. A method is called on the thread of the worker whose connection it is about.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// What a listener's `protocol` calls it: lower case.
    fn word(&self) -> &'static str;

    /// The names it has within TLS (ALPN), best first; `http/1.1` for HTTP/1.
    fn alpn(&self) -> Vec<&'static [u8]> {
        Vec::new()
    }

    /// Whether a connection that begins with `first` (at least one byte) speaks this, for listeners of
    /// `protocol: auto`.
    fn recognise(&self, first: &[u8]) -> Recognised {
        let _speaks_nothing_by_default = first;
        Recognised::No
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
    fn turn_away(&self, connection: &mut Connection) {
        let _says_nothing_by_default = connection;
    }
}

/// A listener's socket for datagrams at one worker.
pub struct Datagrams {
    pub(crate) worker: Rc<Worker>,
    pub(crate) door: Rc<Door>,
    pub(crate) socket: socket2::Socket,
    pub(crate) stopped: oneshot::Receiver<()>,
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// The protocols there are: a list, in the order they are asked when one is to be recognised; and the embedding
/// program's own ways to check destinations.
#[derive(Clone, Debug)]
pub struct Adapters {
    pub(crate) adapters: Vec<Arc<dyn Adapter>>,
    checks: Vec<Arc<dyn Check>>,
}

impl Adapters {
    /// HTTP, MQTT, TCP and UDP.
    pub fn built_in() -> Self {
        Self {
            adapters: vec![
                Arc::new(http::Http),
                Arc::new(mqtt::Mqtt),
                Arc::new(tcp::Tcp),
                Arc::new(udp::Udp),
            ],
            checks: Vec::new(),
        }
    }

    /// One more, asked before all others; of two with one word the later one serves.
    #[must_use]
    pub fn with(mut self, adapter: impl Adapter + 'static) -> Self {
        self.adapters.insert(0, Arc::new(adapter));
        self
    }

    /// One more way to check destinations; of two with one word the later one is asked.
    #[must_use]
    pub fn with_check(mut self, check: impl Check + 'static) -> Self {
        self.checks.insert(0, Arc::new(check));
        self
    }

    /// Those a configuration may name beside the built-in ones: for [`plimsoll_config::Extensions`].
    pub fn words(&self) -> Vec<&'static str> {
        self.adapters.iter().map(|adapter| adapter.word()).collect()
    }

    /// What its checks may speak beside the built-in ones: for [`plimsoll_config::Extensions`].
    pub fn check_words(&self) -> Vec<&'static str> {
        self.checks.iter().map(|check| check.word()).collect()
    }

    /// Who checks by this word, if somebody here does.
    pub(crate) fn check(&self, word: &str) -> Option<Arc<dyn Check>> {
        self.checks.iter().find(|check| check.word() == word).cloned()
    }

    /// Who serves a listener of this protocol, if somebody here does.
    pub(crate) fn of(&self, protocol: Protocol) -> Option<Arc<dyn Adapter>> {
        if protocol == Protocol::Auto {
            return Some(Arc::new(Detect(self.clone())));
        }
        self.adapters.iter().find(|adapter| adapter.word() == protocol.as_str()).cloned()
    }
}
