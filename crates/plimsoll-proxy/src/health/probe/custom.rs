//! Checks of the embedding program.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
use plimsoll_core::pool::ProbeRequest;
use plimsoll_core::{Address, Name};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::health::probe::failure::{ProbeError, ProbeStage};
use crate::health::probe::transport::ProbeTransport;
use crate::net::h2_io::StreamIo;
use crate::net::tls::client_config::AlpnOffer;

/// A health check of the embedding program, registered with
/// [`Adapters::with_check`](crate::adapter::Adapters::with_check) and selected by `health_monitoring.protocol`.
///
/// One value serves all destinations of all pools. The balancer decides when it runs and what its results change, as
/// with the built-in checks.
pub trait Check: fmt::Debug + Send + Sync {
    /// Returns the name in `protocol`, in lower case.
    fn name(&self) -> &'static str;

    /// Checks one destination.
    ///
    /// A check that exceeds [`CheckContext::timeout`] is dropped and has failed; one that panics has failed.
    /// A text converts into a [`CheckFailure`] (layer 7, `check_failed`).
    fn check(&self, context: CheckContext) -> Pin<Box<dyn Future<Output = Result<(), CheckFailure>> + Send>>;
}

/// Destination and limits of one check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckContext {
    /// Name of the destination.
    pub destination: Name,
    /// Address of the check, with the `port` of the health checks if there is one.
    pub address: Address,
    /// Time limit of the check.
    pub timeout: Duration,
    transport: ProbeTransport,
    stage: ProbeStage,
}

impl CheckContext {
    /// Opens a connection as the pool's requests do: with its PROXY header and its TLS.
    ///
    /// # Errors
    /// The connection cannot be opened (layer 4 or 6).
    pub async fn connect(&self) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, CheckFailure> {
        let stream = self.transport.connect(&self.address, &self.destination, AlpnOffer::Pool, &self.stage);
        stream.await.map(StreamIo).map_err(|error| match error {
            ProbeError::Failed(failure) => failure,
            ProbeError::NoResources => CheckFailure::new(
                CheckLayer::Connect,
                CheckFailureKind::ConnectFailed,
                "cannot connect: no file descriptor, port or memory left",
            ),
        })
    }
}

/// Runs the check that is registered as `name`.
pub(super) async fn check(
    name: &str,
    probe: &ProbeRequest,
    check: Option<Arc<dyn Check>>,
    transport: &ProbeTransport,
    stage: &ProbeStage,
) -> Result<(), CheckFailure> {
    let Some(check) = check else {
        return Err(format!("unknown health check `{name}`").into());
    };
    let context = CheckContext {
        destination: probe.name.clone(),
        address: probe.address.clone(),
        timeout: probe.timeout,
        transport: transport.clone(),
        stage: stage.clone(),
    };
    // In a task of its own, which is dropped with this future: a panic fails the check and not the driver.
    let mut task = JoinSet::new();
    task.spawn(async move { Arc::clone(&check).check(context).await });
    match task.join_next().await {
        Some(Ok(result)) => result,
        _ => Err("the check panicked".into()),
    }
}
