//! Active health checks: one check of one destination.

pub(crate) mod custom;
mod failure;
mod grpc;
mod http;
mod http2;
mod mqtt;
mod transport;
mod udp;

use std::borrow::Cow;
use std::sync::Arc;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::Address;
use plimsoll_core::health::{CheckFailure, CheckFailureKind, ProbeKind};
use plimsoll_core::pool::{ProbeRequest, ProbeResult};

use crate::base::clock::Clock;
use crate::health::probe::failure::{ProbeError, ProbeStage};
use crate::net::stream::Stream;
use crate::net::tls::client_config::AlpnOffer;

pub(crate) use crate::health::probe::transport::ProbeTransport;

/// Value of the `User-Agent` header of checks.
const AGENT: &str = "plimsoll-health";
/// Maximum size of a response head.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum number of informational responses before the final one.
const MAX_INFORMATIONAL: usize = 16;
/// Maximum number of bytes received in one check: content, framing and informational responses.
const MAX_RECEIVED: usize = 256 * 1024;

/// Transport of a pool's checks, and its check if the embedding program has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeConfig {
    pub(crate) transport: ProbeTransport,
    /// Check of the embedding program, if the pool uses one.
    pub(crate) check: Option<Arc<dyn custom::Check>>,
}

impl ProbeConfig {
    /// Returns the authority of a check's request: the configured one, else the name or the address of the destination.
    fn authority<'a>(&self, host: Option<&'a str>, probe: &'a ProbeRequest) -> Cow<'a, str> {
        match (host, &probe.address, &probe.host) {
            (Some(host), ..) => host.into(),
            (None, Address::Unix(_), _) => "localhost".into(),
            (None, Address::Socket(address), Some(name)) => {
                let default_port = if self.transport.client_tls.is_some() { 443 } else { 80 };
                match address.port() == default_port {
                    true => (&**name).into(),
                    false => format!("{name}:{}", address.port()).into(),
                }
            }
            (None, address, _) => address.to_string().into(),
        }
    }
}

/// Runs a check until its result, for at most its timeout.
pub(crate) async fn probe(probe: &ProbeRequest, config: &ProbeConfig, clock: Clock) -> ProbeResult {
    let (started, stage) = (clock.now(), ProbeStage::default());
    match tokio::time::timeout(probe.timeout, run(probe, config, &stage)).await {
        Ok(Ok(())) => ProbeResult::Passed { latency: clock.now().since(started) },
        Ok(Err(ProbeError::NoResources)) => ProbeResult::NotMade,
        Ok(Err(ProbeError::Failed(failure))) => ProbeResult::Failed(failure),
        // Without an expected response, silence passes.
        Err(_) if matches!(probe.kind, ProbeKind::Udp { expect: None, .. }) => {
            ProbeResult::Passed { latency: clock.now().since(started) }
        }
        Err(_) => ProbeResult::Failed(stage.timeout(probe.timeout)),
    }
}

async fn run(probe: &ProbeRequest, config: &ProbeConfig, stage: &ProbeStage) -> Result<(), ProbeError> {
    let transport = &config.transport;
    if let ProbeKind::Udp { send, expect } = &probe.kind {
        return udp::check(&probe.address, send, expect.as_deref(), stage).await;
    }
    if let ProbeKind::Other(name) = probe.kind {
        return Ok(custom::check(name, probe, config.check.clone(), transport, stage).await?);
    }
    if let (true, Address::Socket(address)) = (closes_with_reset(probe, transport), &probe.address) {
        let stream = transport::connect_with_reset(*address).await?;
        stage.connected();
        return Ok(exchange(probe, stream, config).await?);
    }
    let offer = match probe.kind {
        ProbeKind::Grpc { .. } => AlpnOffer::Http2,
        _ => AlpnOffer::Pool,
    };
    let stream = transport.connect(&probe.address, &probe.name, offer, stage).await?;
    Ok(exchange(probe, stream, config).await?)
}

/// Reports whether the check may end with a reset: it sends at most one request, so no bytes can be lost by it.
fn closes_with_reset(probe: &ProbeRequest, transport: &ProbeTransport) -> bool {
    let sends_once = match probe.kind {
        ProbeKind::Tcp => true,
        ProbeKind::Http { .. } => transport.protocol != PoolProtocol::Http2,
        _ => false,
    };
    sends_once && transport.client_tls.is_none() && transport.proxy_header().is_empty()
}

/// Sends the check's request and judges the response.
async fn exchange(probe: &ProbeRequest, stream: Stream, config: &ProbeConfig) -> Result<(), CheckFailure> {
    let transport = &config.transport;
    let secure = transport.client_tls.is_some();
    match &probe.kind {
        ProbeKind::Grpc { service, host } => {
            let authority = config.authority(host.as_deref(), probe);
            http2::with_connection(stream, async |requests| {
                grpc::check(requests, &authority, secure, service, probe.timeout).await
            })
            .await
        }
        ProbeKind::Http { method, path, host, expect, headers, body } => {
            let host = config.authority(host.as_deref(), probe);
            let request = http::CheckRequest { method, path, host: &host, headers, body: body.as_deref() };
            let http2 = match transport.protocol {
                PoolProtocol::Http1 => false,
                PoolProtocol::Http2 => true,
                PoolProtocol::Auto => stream.alpn() == Some(b"h2"),
            };
            match http2 {
                true => http::check_http2(stream, &request, expect, secure).await,
                false => http::check_http1(stream, &request, expect).await,
            }
        }
        ProbeKind::Mqtt { login } => mqtt::check(stream, &mqtt::client_id(probe), login.as_ref()).await,
        // A connection is all that a TCP check needs; the others never come here.
        ProbeKind::Tcp | ProbeKind::Udp { .. } | ProbeKind::Other(_) => Ok(()),
    }
}

/// Reports whether `bytes` contain `expected`.
fn contains(bytes: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || bytes.windows(expected.len()).any(|window| window == expected)
}

/// Creates a failure of reading or writing on an established connection.
fn closed(what: &str, error: &std::io::Error) -> CheckFailure {
    CheckFailure::protocol(CheckFailureKind::Closed, format!("{what}: {error}"))
}

/// Creates a failure of a response that cannot be parsed.
fn bad_response(detail: impl Into<String>) -> CheckFailure {
    CheckFailure::protocol(CheckFailureKind::BadResponse, detail)
}

/// Creates the failure of a response that does not come to its end.
fn too_many_informational() -> CheckFailure {
    bad_response(format!("more than {MAX_INFORMATIONAL} informational responses"))
}

#[cfg(test)]
mod tests;
