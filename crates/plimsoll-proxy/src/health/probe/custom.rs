//! How the embedding program checks destinations in its own way.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::pool::ProbeRequest;
use plimsoll_core::{Address, Name};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::health::probe::{ProbeError, ProbeTransport, connect};
use crate::net::h2_io::StreamIo;
use crate::net::tls::client_config::AlpnOffer;

/// A check of a protocol that nobody else knows: registered with
/// [`Adapters::with_check`](crate::listener::adapter::Adapters::with_check), and named in `health_monitoring.protocol`.
///
/// One value serves all destinations of all pools. When it is asked, how often, and what its answers change is
/// the balancer's affair, as with its own checks.
pub trait Check: fmt::Debug + Send + Sync {
    /// What `protocol` calls it: lower case.
    fn name(&self) -> &'static str;

    /// Asks one destination. `Err` says in a few words what was seen instead of a good answer. What takes longer
    /// than [`CheckContext::timeout`] is dropped and has failed, and so has what panics.
    fn check(&self, context: CheckContext) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
}

/// Whom a check asks.
#[derive(Clone, Debug)]
pub struct CheckContext {
    /// The destination's name.
    pub destination: Name,
    /// Where it listens; the `port` of the health checks, if they have one, is in it.
    pub address: Address,
    /// An answer has so much time.
    pub timeout: Duration,
    transport: ProbeTransport,
}

impl CheckContext {
    /// A connection as the pool's messages have it: with its PROXY header, and within its TLS.
    ///
    /// # Errors
    /// When the destination takes none.
    pub async fn connect(&self) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        match connect(&self.address, &self.destination, &self.transport, AlpnOffer::Pool).await {
            Ok(stream) => Ok(StreamIo(stream)),
            Err(ProbeError::Seen(seen)) => Err(io::Error::other(seen)),
            Err(ProbeError::Means) => Err(io::Error::other("no descriptor, port or memory for a connection")),
        }
    }
}

pub(crate) async fn ask(word: &str, order: &ProbeRequest, transport: &ProbeTransport) -> Result<(), String> {
    let Some(check) = transport.check.clone() else { return Err(format!("nobody here checks by `{word}`")) };
    let context = CheckContext {
        destination: order.name.clone(),
        address: order.address.clone(),
        timeout: order.timeout,
        transport: ProbeTransport { check: None, ..transport.clone() },
    };
    // On a task of its own, which is dropped with this one: a panic there is a failure and not our end.
    let mut task = JoinSet::new();
    task.spawn(async move { Arc::clone(&check).check(context).await });
    match task.join_next().await {
        Some(Ok(answer)) => answer,
        _ => Err("the check panicked".to_owned()),
    }
}
