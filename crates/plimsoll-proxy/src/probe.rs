//! One active check of one destination.

use std::time::Duration;

use plimsoll_core::Address;
use plimsoll_core::health::ProbeKind;
use plimsoll_core::pool::{ProbeOrder, ProbeResult};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::clock::Clock;

/// The head of a check's answer may be so long; its body is not read.
const MAX_HEAD: usize = 16 * 1024;

/// Runs the check to its verdict; never longer than the order's time limit.
pub(crate) async fn probe(order: &ProbeOrder, clock: Clock) -> ProbeResult {
    let started = clock.now();
    match tokio::time::timeout(order.timeout, ask(order)).await {
        Ok(Ok(())) => ProbeResult::Passed { latency: clock.now().since(started) },
        Ok(Err(detail)) => ProbeResult::Failed { detail },
        Err(_) => ProbeResult::Failed { detail: format!("no answer within {}", millis(order.timeout)) },
    }
}

fn millis(span: Duration) -> String {
    format!("{} ms", span.as_millis())
}

async fn ask(order: &ProbeOrder) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot connect: {error}");
    match &order.address {
        Address::Socket(address) => converse(order, TcpStream::connect(address).await.map_err(failed)?).await,
        Address::Unix(path) => converse(order, UnixStream::connect(path).await.map_err(failed)?).await,
    }
}

async fn converse(order: &ProbeOrder, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), String> {
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
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: plimsoll-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
    let status = read_status(&mut stream).await?;
    if expect.iter().any(|&(from, to)| (from..=to).contains(&status)) {
        return Ok(());
    }
    Err(format!("answered {status}"))
}

async fn read_status(stream: &mut (impl AsyncRead + Unpin)) -> Result<u16, String> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let n = stream.read_buf(&mut head).await.map_err(|e| format!("cannot receive: {e}"))?;
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
