//! How checks connect: with the TLS and the PROXY header of the pool's requests.

use std::net::SocketAddr;
use std::sync::Arc;

use plimsoll_config::model::{PoolProtocol, ProxyProtocol};
use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
use plimsoll_core::{Address, Name};
use tokio::net::TcpStream;

use crate::health::probe::failure::{ProbeError, ProbeStage};
use crate::net::proxy_protocol;
use crate::net::stream::{SocketStream, Stream};
use crate::net::tls::client_config::{AlpnOffer, ClientTlsConfig};

/// Transport of a pool's checks: the one of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeTransport {
    /// TLS towards destinations, if the pool uses it.
    pub(crate) client_tls: Option<Arc<ClientTlsConfig>>,
    /// HTTP version of the pool.
    pub(crate) protocol: PoolProtocol,
    /// PROXY header that destinations expect at the start of a connection.
    pub(crate) proxy_protocol: ProxyProtocol,
}

impl ProbeTransport {
    /// Returns the PROXY header of a check; empty if the pool sends none.
    pub(super) fn proxy_header(&self) -> Vec<u8> {
        proxy_protocol::header(self.proxy_protocol, None)
    }

    /// Opens a connection as the pool's requests do.
    pub(super) async fn connect(
        &self,
        address: &Address,
        name: &Name,
        offer: AlpnOffer,
        stage: &ProbeStage,
    ) -> Result<Stream, ProbeError> {
        let connected = SocketStream::connect(address).await;
        let mut socket = connected.map_err(|error| ProbeError::connect("cannot connect", &error))?;
        let header = self.proxy_header();
        if !header.is_empty() {
            let sent = socket.write_all(&header).await;
            sent.map_err(|error| ProbeError::connect("cannot send the PROXY header", &error))?;
        }
        let stream = match &self.client_tls {
            None => socket.into(),
            Some(client_tls) => {
                stage.tls_handshake();
                let secured = client_tls.handshake(socket, name, offer).await.map_err(|error| {
                    let detail = format!("TLS handshake failed: {error}");
                    CheckFailure::new(CheckLayer::Tls, CheckFailureKind::TlsHandshake, detail)
                })?;
                Stream::Tls(secured)
            }
        };
        stage.connected();
        Ok(stream)
    }
}

/// Opens a connection that ends with a reset, as HAProxy's checks do.
///
/// After an orderly close the side that closes first keeps the port for a minute: at a thousand checks per second
/// sixty thousand ports. `TCP_NODELAY` is not set, because there is no second write.
pub(super) async fn connect_with_reset(address: SocketAddr) -> Result<Stream, ProbeError> {
    let failed = |error| ProbeError::connect("cannot connect", &error);
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_zero_linger().map_err(failed)?;
    Ok(SocketStream::Tcp(stream).into())
}
