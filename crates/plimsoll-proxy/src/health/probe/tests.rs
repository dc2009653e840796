//! Each failure has the layer and the kind of its cause.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use plimsoll_config::model::{ClientTls, Destination, DestinationAddress};
use plimsoll_core::DestinationId;
use plimsoll_core::health::CheckLayer::{Connect, Protocol, Tls};
use plimsoll_core::health::{CheckFailureKind, CheckLayer};

use super::*;
use crate::net::tls::client_config::ClientTlsConfig;

fn http() -> ProbeKind {
    ProbeKind::Http {
        method: "GET".into(),
        path: "/".into(),
        host: None,
        expect: [(200, 299)].into(),
        headers: [].into(),
        body: None,
    }
}

/// Starts a destination that sends `response` to one connection and closes it; without one it stays silent.
fn destination(response: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _request = stream.read(&mut [0; 4096]);
        match response {
            Some(response) => drop(stream.write_all(response)),
            None => thread::sleep(Duration::from_secs(5)),
        }
    });
    address
}

fn with_tls(address: SocketAddr) -> ProbeConfig {
    let mut tls = ClientTls::default();
    tls.verify = false;
    let destination = Destination::new("a", DestinationAddress::Socket(address));
    let config = ClientTlsConfig::renewed(&tls, &[], &[destination], None).expect("a TLS configuration");
    let transport = ProbeTransport { client_tls: Some(config), ..ProbeTransport::default() };
    ProbeConfig { transport, check: None }
}

async fn failure(
    kind: ProbeKind,
    address: SocketAddr,
    config: &ProbeConfig,
) -> (CheckLayer, CheckFailureKind) {
    let request = ProbeRequest {
        id: DestinationId(0),
        name: "a".into(),
        address: Address::Socket(address),
        timeout: Duration::from_millis(200),
        kind,
    };
    match probe(&request, config, Clock::start()).await {
        ProbeResult::Failed(failure) => (failure.layer, failure.kind),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_port_fails_at_layer_4() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    for kind in [ProbeKind::Tcp, http()] {
        let found = failure(kind, address, &ProbeConfig::default()).await;
        assert_eq!(found, (Connect, CheckFailureKind::ConnectionRefused));
    }
}

#[tokio::test]
async fn an_address_that_drops_connections_times_out_at_layer_4() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    socket.listen(0).expect("a backlog of one");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket()).expect("an address");
    // The kernel drops connection requests while the accept queue is full.
    let _queue: Vec<_> = (0..2)
        .filter_map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
        .collect();
    let found = failure(ProbeKind::Tcp, address, &ProbeConfig::default()).await;
    assert_eq!(found, (Connect, CheckFailureKind::Timeout));
}

#[tokio::test]
async fn a_failed_tls_handshake_fails_at_layer_6() {
    let address = destination(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    let found = failure(ProbeKind::Tcp, address, &with_tls(address)).await;
    assert_eq!(found, (Tls, CheckFailureKind::TlsHandshake));
}

#[tokio::test]
async fn a_silent_tls_handshake_times_out_at_layer_6() {
    let address = destination(None);
    let found = failure(ProbeKind::Tcp, address, &with_tls(address)).await;
    assert_eq!(found, (Tls, CheckFailureKind::Timeout));
}

#[tokio::test]
async fn responses_fail_at_layer_7_by_their_kind() {
    let rows: [(Option<&'static [u8]>, CheckFailureKind); 4] = [
        (Some(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), CheckFailureKind::BadStatus),
        (Some(b"SSH-2.0-OpenSSH\r\n"), CheckFailureKind::BadResponse),
        (Some(b""), CheckFailureKind::Closed),
        (None, CheckFailureKind::Timeout),
    ];
    for (response, kind) in rows {
        let found = failure(http(), destination(response), &ProbeConfig::default()).await;
        assert_eq!(found, (Protocol, kind));
    }
}
