//! One active check of one destination.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_config::model::PoolProtocol;
use plimsoll_core::Address;
use plimsoll_core::health::ProbeKind;
use plimsoll_core::pool::{ProbeOrder, ProbeResult};
use tokio::net::UdpSocket;

use crate::clock::Clock;
use crate::http2::wire::Bare;
use crate::stream::Stream;
use crate::tls::trust::Trust;

/// How checks call themselves.
const AGENT: &str = "plimsoll-health";
/// The head of a check's answer may be so long; its body is not read.
const MAX_HEAD: usize = 16 * 1024;

/// How a pool speaks to its destinations; checks do as requests do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Speaks {
    /// TLS, if it does.
    pub(crate) trust: Option<Arc<Trust>>,
    pub(crate) protocol: PoolProtocol,
}

/// Runs the check to its verdict; never longer than the order's time limit.
pub(crate) async fn probe(order: &ProbeOrder, speaks: &Speaks, clock: Clock) -> ProbeResult {
    let started = clock.now();
    match tokio::time::timeout(order.timeout, ask(order, speaks)).await {
        Ok(Ok(())) => ProbeResult::Passed { latency: clock.now().since(started) },
        Ok(Err(detail)) => ProbeResult::Failed { detail },
        // Silence is all that was asked for.
        Err(_) if matches!(order.kind, ProbeKind::Udp { expect: None, .. }) => {
            ProbeResult::Passed { latency: clock.now().since(started) }
        }
        Err(_) => ProbeResult::Failed { detail: format!("no answer within {}", millis(order.timeout)) },
    }
}

fn millis(span: Duration) -> String {
    format!("{} ms", span.as_millis())
}

async fn ask(order: &ProbeOrder, speaks: &Speaks) -> Result<(), String> {
    if let ProbeKind::Udp { send, expect } = &order.kind {
        return ask_by_datagram(&order.address, send, expect.as_deref()).await;
    }
    let mut stream = Stream::connect(&order.address).await.map_err(|e| format!("cannot connect: {e}"))?;
    if let Some(trust) = &speaks.trust {
        stream = trust
            .shake_hands(stream, &order.name, false)
            .await
            .map_err(|e| format!("no handshake of TLS: {e}"))?;
    }
    converse(order, stream, speaks).await
}

async fn converse(order: &ProbeOrder, mut stream: Stream, speaks: &Speaks) -> Result<(), String> {
    let ProbeKind::Http { method, path, host, expect } = &order.kind else { return Ok(()) };
    let own;
    let host: &str = match (host, &order.address) {
        (Some(host), _) => host,
        (None, Address::Socket(address)) => {
            own = address.to_string();
            &own
        }
        (None, Address::Unix(_)) => "localhost",
    };
    let http2 = match speaks.protocol {
        PoolProtocol::Http1 => false,
        PoolProtocol::Http2 => true,
        PoolProtocol::Auto => stream.alpn() == Some(b"h2"),
    };
    let status = match http2 {
        true => status_by_http2(stream, method, path, host, speaks.trust.is_some()).await?,
        false => {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            send(&mut stream, request.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
            read_status(&mut stream).await?
        }
    };
    if expect.iter().any(|&(from, to)| (from..=to).contains(&status)) {
        return Ok(());
    }
    Err(format!("answered {status}"))
}

/// Asks as the pool's requests do: a destination that speaks HTTP/2 alone would not understand anything else.
async fn status_by_http2(
    stream: Stream,
    method: &str,
    path: &str,
    host: &str,
    secure: bool,
) -> Result<u16, String> {
    let scheme = if secure { "https" } else { "http" };
    let request = http::Request::builder().method(method).uri(format!("{scheme}://{host}{path}"));
    let request =
        request.header("user-agent", AGENT).body(()).map_err(|e| format!("cannot ask that way: {e}"))?;
    let failed = |e: h2::Error| format!("no answer by HTTP/2: {e}");
    let (mut requests, connection) = h2::client::handshake(Bare(stream)).await.map_err(failed)?;
    let ask = async {
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await?;
        let (answer, _no_body) = requests.send_request(request, true)?;
        answer.await
    };
    tokio::select! {
        answer = ask => answer.map(|answer| answer.status().as_u16()).map_err(failed),
        ended = connection => Err(ended.err().map_or("closed before answering".to_owned(), failed)),
    }
}

/// Sends one datagram. Without an expected answer its silence is awaited, but for a while: an ICMP error comes
/// within a round trip.
async fn ask_by_datagram(address: &Address, bytes: &[u8], expect: Option<&[u8]>) -> Result<(), String> {
    let Address::Socket(address) = address else { return Err("a Unix socket takes no datagrams".to_owned()) };
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.map_err(|e| format!("cannot open a socket: {e}"))?;
    socket.connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
    socket.send(bytes).await.map_err(|e| format!("cannot send: {e}"))?;
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

async fn send(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::future::poll_fn(|cx| stream.poll_write(cx, bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => bytes = &bytes[n..],
        }
    }
    Ok(())
}

async fn read_status(stream: &mut Stream) -> Result<u16, String> {
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 4096];
    loop {
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut piece)).await;
        let n = read.map_err(|e| format!("cannot receive: {e}"))?;
        head.extend_from_slice(&piece[..n]);
        let mut slots = [httparse::EMPTY_HEADER; 128];
        let mut response = httparse::Response::new(&mut slots);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(_)) => {
                return response.code.ok_or_else(|| "answered without a status".to_owned());
            }
            Ok(httparse::Status::Partial) if n > 0 && head.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) if n == 0 => return Err("closed before answering".to_owned()),
            _ => return Err("answered with something that is not HTTP/1".to_owned()),
        }
    }
}
