//! One active check of one destination.

pub(crate) mod custom;
mod grpc;
mod http;
mod mqtt;

use std::borrow::Cow;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use plimsoll_config::model::{PoolProtocol, ProxyProtocol};
use plimsoll_core::health::ProbeKind;
use plimsoll_core::pool::{ProbeRequest, ProbeResult};
use plimsoll_core::{Address, Name};
use tokio::net::{TcpStream, UdpSocket};

use crate::base::clock::Clock;
use crate::health::probe::custom::Check;
use crate::net::h2_io::StreamIo;
use crate::net::proxy_protocol;
use crate::net::stream::{Stream, is_resource_exhausted};
use crate::net::tls::client_config::{AlpnOffer, ClientTlsConfig};

/// How checks call themselves.
const AGENT: &str = "plimsoll-health";
/// The head of a check's answer may be so long; its body is not read.
const MAX_HEAD: usize = 16 * 1024;

/// How a pool transport to its destinations; checks do as requests do.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeTransport {
    /// TLS, if it does.
    pub(crate) client_tls: Option<Arc<ClientTlsConfig>>,
    pub(crate) protocol: PoolProtocol,
    /// The PROXY header it begins with: a destination that expects one refuses everybody else.
    pub(crate) proxy_protocol: ProxyProtocol,
    /// The embedding program's own check, if it is that.
    pub(crate) check: Option<Arc<dyn Check>>,
}

/// Runs the check to its verdict; never longer than the order's time limit.
pub(crate) async fn probe(order: &ProbeRequest, transport: &ProbeTransport, clock: Clock) -> ProbeResult {
    let started = clock.now();
    match tokio::time::timeout(order.timeout, ask(order, transport)).await {
        Ok(Ok(())) => ProbeResult::Passed { latency: clock.now().since(started) },
        Ok(Err(ProbeError::Means)) => ProbeResult::NotMade,
        Ok(Err(ProbeError::Seen(detail))) => ProbeResult::Failed { detail },
        // Silence is all that was asked for.
        Err(_) if matches!(order.kind, ProbeKind::Udp { expect: None, .. }) => {
            ProbeResult::Passed { latency: clock.now().since(started) }
        }
        Err(_) => ProbeResult::Failed { detail: format!("no answer within {}", millis(order.timeout)) },
    }
}

/// Why a check did not pass.
enum ProbeError {
    /// What was seen of the destination, for people.
    Seen(String),
    /// We lack what it takes to ask.
    Means,
}

impl ProbeError {
    /// Of an error of opening or sending, and what that kept us from.
    fn of(error: &io::Error, what: &str) -> Self {
        match is_resource_exhausted(error) {
            true => Self::Means,
            false => Self::Seen(format!("{what}: {error}")),
        }
    }
}

impl From<String> for ProbeError {
    fn from(seen: String) -> Self {
        Self::Seen(seen)
    }
}

fn millis(span: Duration) -> String {
    format!("{} ms", span.as_millis())
}

async fn ask(order: &ProbeRequest, transport: &ProbeTransport) -> Result<(), ProbeError> {
    if let ProbeKind::Udp { send, expect } = &order.kind {
        return ask_by_datagram(&order.address, send, expect.as_deref()).await;
    }
    if let ProbeKind::Other(word) = order.kind {
        return Ok(custom::ask(word, order, transport).await?);
    }
    if let (true, Address::Socket(address)) = (is_bare(order, transport), &order.address) {
        return Ok(converse(order, open_bare(*address).await?, transport).await?);
    }
    let offer = if matches!(order.kind, ProbeKind::Grpc { .. }) { AlpnOffer::Http2 } else { AlpnOffer::Pool };
    let stream = connect(&order.address, &order.name, transport, offer).await?;
    Ok(converse(order, stream, transport).await?)
}

/// Nothing is said but one request, if that, and nothing goodbye is said by: no bytes of ours can be lost with the
/// connection.
fn is_bare(order: &ProbeRequest, transport: &ProbeTransport) -> bool {
    let asks_once = match order.kind {
        ProbeKind::Tcp => true,
        ProbeKind::Http { .. } => transport.protocol != PoolProtocol::Http2,
        _ => false,
    };
    asks_once
        && transport.client_tls.is_none()
        && proxy_protocol::header(transport.proxy_protocol, None).is_empty()
}

/// A connection that ends with a reset, as HAProxy's checks do. Closed in order, whoever closes first keeps the port
/// for a minute: at a thousand checks a second that is sixty thousand here. (It takes no less processor time.)
/// There is no second write that could wait for the first, so it is not told to send at once.
async fn open_bare(address: SocketAddr) -> Result<Stream, ProbeError> {
    let stream = TcpStream::connect(address).await.map_err(|e| ProbeError::of(&e, "cannot connect"))?;
    let ends_with_reset = stream.set_zero_linger();
    ends_with_reset.map_err(|e| ProbeError::of(&e, "cannot connect"))?;
    Ok(Stream::Tcp(stream))
}

/// Opens a connection as the pool's messages do: with its PROXY header, and within its TLS.
async fn connect(
    address: &Address,
    name: &Name,
    transport: &ProbeTransport,
    offer: AlpnOffer,
) -> Result<Stream, ProbeError> {
    let mut stream = Stream::connect(address).await.map_err(|e| ProbeError::of(&e, "cannot connect"))?;
    let header = proxy_protocol::header(transport.proxy_protocol, None);
    if !header.is_empty() {
        stream.write_all(&header).await.map_err(|e| ProbeError::of(&e, "cannot send"))?;
    }
    if let Some(client_tls) = &transport.client_tls {
        let shaken = client_tls.handshake(stream, name, offer).await;
        stream = shaken.map_err(|e| format!("no handshake of TLS: {e}"))?;
    }
    Ok(stream)
}

async fn converse(order: &ProbeRequest, stream: Stream, transport: &ProbeTransport) -> Result<(), String> {
    let secure = transport.client_tls.is_some();
    match &order.kind {
        ProbeKind::Tcp | ProbeKind::Udp { .. } => Ok(()),
        ProbeKind::Grpc { service, host } => {
            let authority = authority(host.as_deref(), &order.address);
            by_http2(stream, async |requests| {
                grpc::ask(requests, &authority, secure, service, order.timeout).await
            })
            .await
        }
        ProbeKind::Http { method, path, host, expect, headers, body } => {
            let host = authority(host.as_deref(), &order.address);
            let question = http::Question { method, path, host: &host, headers, body: body.as_deref() };
            let http2 = match transport.protocol {
                PoolProtocol::Http1 => false,
                PoolProtocol::Http2 => true,
                PoolProtocol::Auto => stream.alpn() == Some(b"h2"),
            };
            match http2 {
                true => http::ask_by_http2(stream, &question, expect, secure).await,
                false => http::ask_by_http1(stream, &question, expect).await,
            }
        }
        ProbeKind::Mqtt { login } => mqtt::ask(stream, &mqtt::client_id(order), login.as_ref()).await,
        // Handled before there was a connection.
        ProbeKind::Other(_) => Ok(()),
    }
}

/// Whom a check names as the one it asks.
fn authority<'a>(host: Option<&'a str>, address: &Address) -> Cow<'a, str> {
    match (host, address) {
        (Some(host), _) => host.into(),
        (None, Address::Socket(address)) => address.to_string().into(),
        (None, Address::Unix(_)) => "localhost".into(),
    }
}

fn no_answer(error: h2::Error) -> String {
    format!("no answer by HTTP/2: {error}")
}

/// Runs `ask` on `stream` as a connection of HTTP/2, which ends with it.
async fn by_http2<T>(
    stream: Stream,
    ask: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<T, String>,
) -> Result<T, String> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD as u32);
    let (requests, mut connection) = builder.handshake(StreamIo(stream)).await.map_err(no_answer)?;
    let mut ask = pin!(ask(requests));
    let answer = tokio::select! {
        answer = &mut ask => answer,
        _told_where_the_answer_is_read = &mut connection => {
            // What came before the end is still to be read. Only when it is dropped has everybody heard of it.
            drop(connection);
            return ask.await;
        }
    };
    // Nobody asks any more, so it says goodbye: as far as that goes at once.
    let _gone_already = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await;
    answer
}

/// Sends one datagram. Without an expected answer its silence is awaited, but for a while: an ICMP error comes
/// within a round trip.
async fn ask_by_datagram(address: &Address, bytes: &[u8], expect: Option<&[u8]>) -> Result<(), ProbeError> {
    let Address::Socket(address) = address else {
        return Err("a Unix socket takes no datagrams".to_owned().into());
    };
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|e| ProbeError::of(&e, "cannot open a socket"))?;
    socket.connect(address).await.map_err(|e| ProbeError::of(&e, "cannot connect"))?;
    socket.send(bytes).await.map_err(|e| ProbeError::of(&e, "cannot send"))?;
    let mut answer = vec![0; 65_536];
    loop {
        let received = socket.recv(&mut answer).await.map_err(|e| format!("refused: {e}"))?;
        match expect {
            None => return Ok(()),
            Some(expect) if contains(&answer[..received], expect) => return Ok(()),
            // Perhaps a late answer to another check; the right one may follow.
            Some(_) => {}
        }
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
