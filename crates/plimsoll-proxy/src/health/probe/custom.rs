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

use crate::health::probe::{Miss, Speaks, connect};
use crate::net::h2_io::Bare;
use crate::net::tls::client_config::Offer;

/// A check of a protocol that nobody else knows: registered with
/// [`Adapters::with_check`](crate::listener::adapter::Adapters::with_check), and named in `health_monitoring.protocol`.
///
/// One value serves all destinations of all pools. When it is asked, how often, and what its answers change is
/// the balancer's affair, as with its own checks.
pub trait Check: fmt::Debug + Send + Sync {
    /// What `protocol` calls it: lower case.
    fn word(&self) -> &'static str;

    /// Asks one destination. `Err` says in a few words what was seen instead of a good answer. What takes longer
    /// than [`Asked::timeout`] is dropped and has failed, and so has what panics.
    fn ask(&self, asked: Asked) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
}

/// Whom a check asks.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The destination's name.
    pub destination: Name,
    /// Where it listens; the `port` of the health checks, if they have one, is in it.
    pub address: Address,
    /// An answer has so much time.
    pub timeout: Duration,
    speaks: Speaks,
}

impl Asked {
    /// A connection as the pool's messages have it: with its PROXY header, and within its TLS.
    ///
    /// # Errors
    /// When the destination takes none.
    pub async fn connect(&self) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        match connect(&self.address, &self.destination, &self.speaks, Offer::Pool).await {
            Ok(stream) => Ok(Bare(stream)),
            Err(Miss::Seen(seen)) => Err(io::Error::other(seen)),
            Err(Miss::Means) => Err(io::Error::other("no descriptor, port or memory for a connection")),
        }
    }
}

pub(crate) async fn ask(word: &str, order: &ProbeRequest, speaks: &Speaks) -> Result<(), String> {
    let Some(check) = speaks.check.clone() else { return Err(format!("nobody here checks by `{word}`")) };
    let asked = Asked {
        destination: order.name.clone(),
        address: order.address.clone(),
        timeout: order.timeout,
        speaks: Speaks { check: None, ..speaks.clone() },
    };
    // On a task of its own, which is dropped with this one: a panic there is a failure and not our end.
    let mut task = JoinSet::new();
    task.spawn(async move { Arc::clone(&check).ask(asked).await });
    match task.join_next().await {
        Some(Ok(answer)) => answer,
        _ => Err("the check panicked".to_owned()),
    }
}
