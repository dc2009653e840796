//! UDP checks: a datagram, and the response or silence that follows.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use plimsoll_core::Address;
use plimsoll_core::health::{CheckFailure, CheckFailureKind, CheckLayer};
use tokio::net::UdpSocket;

use crate::health::probe::failure::{ProbeError, ProbeStage};
use crate::health::probe::{bad_response, contains};

/// Maximum number of datagrams that are compared with the expected response.
const MAX_DATAGRAMS: usize = 64;

/// Sends one datagram and waits for the `expected` response.
///
/// Without an expected response the check waits for an ICMP error until its timeout, and any response passes.
pub(super) async fn check(
    address: &Address,
    bytes: &[u8],
    expected: Option<&[u8]>,
    stage: &ProbeStage,
) -> Result<(), ProbeError> {
    let Address::Socket(address) = address else {
        let detail = "a Unix socket address cannot receive datagrams";
        return Err(CheckFailure::new(CheckLayer::Connect, CheckFailureKind::ConnectFailed, detail).into());
    };
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let failed = |what: &'static str| move |error| ProbeError::connect(what, &error);
    let socket = UdpSocket::bind(any).await.map_err(failed("cannot open a socket"))?;
    socket.connect(address).await.map_err(failed("cannot connect"))?;
    socket.send(bytes).await.map_err(failed("cannot send"))?;
    stage.connected();
    let mut response = vec![0; 65_536];
    for _ in 0..MAX_DATAGRAMS {
        let received = socket.recv(&mut response).await.map_err(failed("refused"))?;
        match expected {
            None => return Ok(()),
            Some(expected) if contains(&response[..received], expected) => return Ok(()),
            // It may be a late response to an earlier check; the expected one may follow.
            Some(_) => {}
        }
    }
    Err(bad_response(format!("{MAX_DATAGRAMS} datagrams lack the expected content")).into())
}
