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
    ProbeConfig { transport, ..ProbeConfig::default() }
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
        host: None,
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

/// Starts a destination that sends `start` once and then `endless` until the connection is closed.
fn endless_destination(start: &'static [u8], endless: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut sent = stream.write_all(start);
        while sent.is_ok() {
            sent = stream.write_all(endless);
        }
    });
    address
}

/// Runs a check with a time limit that none of these tests reaches.
async fn result(kind: ProbeKind, address: SocketAddr, config: &ProbeConfig) -> ProbeResult {
    let (id, timeout) = (DestinationId(0), Duration::from_secs(60));
    let (name, address) = ("a".into(), Address::Socket(address));
    let request = ProbeRequest { id, name, address, host: None, timeout, kind };
    probe(&request, config, Clock::start()).await
}

fn http_with_body() -> ProbeKind {
    let ProbeKind::Http { method, path, host, expect, headers, .. } = http() else { unreachable!() };
    ProbeKind::Http { method, path, host, expect, headers, body: Some((*b"never").into()) }
}

fn over_http2() -> ProbeConfig {
    let transport = ProbeTransport { protocol: PoolProtocol::Http2, ..ProbeTransport::default() };
    ProbeConfig { transport, ..ProbeConfig::default() }
}

#[tokio::test]
async fn informational_responses_come_before_the_final_one_in_any_segments() {
    for response in [
        &b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ] {
        let passed = result(http(), destination(Some(response)), &ProbeConfig::default()).await;
        assert!(matches!(passed, ProbeResult::Passed { .. }), "{passed:?}");
    }
}

#[tokio::test]
async fn endless_responses_end_the_check() {
    let http1 = ProbeConfig::default();
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    for (kind, start, endless, config) in [
        (http(), &b""[..], &b"HTTP/1.1 102 Processing\r\n\r\n"[..], &http1),
        (http(), b"HTTP/1.1 200 OK\r\n", b"name: value\r\n", &http1),
        (http(), b"HTTP/1.1 200 OK\r\nname: ", b"value", &http1),
        (http_with_body(), b"HTTP/1.1 200 OK\r\n\r\n", b"content", &http1),
        (http_with_body(), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n", &http1),
        (http_with_body(), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"extension", &http1),
        // Responses with the status 102 on stream 1, PINGs, and frames of an unknown type.
        (http(), settings, b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03102", &over_http2()),
        (http(), settings, b"\0\0\x08\x06\x01\0\0\0\0question", &over_http2()),
        (http(), settings, b"\0\0\x04\xee\0\0\0\0\0data", &over_http2()),
    ] {
        let found = result(kind, endless_destination(start, endless), config).await;
        assert!(matches!(found, ProbeResult::Failed(_)), "{:?}: {found:?}", String::from_utf8_lossy(endless));
    }
}

#[test]
fn a_default_port_is_omitted_from_the_host_of_a_check() {
    let config = ProbeConfig::default();
    let authority = |port: u16, host: Option<&str>, config: &ProbeConfig| {
        let address = Address::Socket(SocketAddr::from(([127, 0, 0, 1], port)));
        let (id, timeout) = (DestinationId(0), Duration::from_secs(1));
        let (name, configured) = ("a".into(), Some("api.example.com".into()));
        let request = ProbeRequest { id, name, address, host: configured, timeout, kind: http() };
        config.authority(host, &request).into_owned()
    };
    assert_eq!(authority(80, None, &config), "api.example.com");
    assert_eq!(authority(443, None, &config), "api.example.com:443");
    assert_eq!(authority(80, Some("other:8080"), &config), "other:8080");
    let secured = with_tls(SocketAddr::from(([127, 0, 0, 1], 443)));
    assert_eq!(authority(443, None, &secured), "api.example.com");
}
