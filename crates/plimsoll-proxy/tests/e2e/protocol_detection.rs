//! `protocol: auto`: the first bytes of a connection select its protocol.

use http::Request;
use plimsoll_config::model::Protocol;

use crate::kit::{
    Connection, Destination, EndKind, Setup, TestCa, get, http2::Http2Client, ms, ok, respond_ok, server_tls,
};
use crate::mqtt;

/// Serves MQTT clients and HTTP requests.
fn mqtt_or_http(conn: &mut Connection) {
    if !conn.read() {
        return;
    }
    match conn.buffer.first() {
        Some(0x10) => mqtt::broker(conn),
        _ => while conn.request().is_some() && conn.send(ok("request")) {},
    }
}

fn setup(destination: &Destination) -> Setup {
    Setup::http(&[destination]).with(|s| {
        s.listeners[0].protocol = Protocol::Auto;
        s.listeners[0].timeouts.header = ms(500);
    })
}

#[test]
fn http_1_http_2_and_mqtt_are_detected() {
    let destination = Destination::start(mqtt_or_http);
    let balancer = setup(&destination).start();
    assert_eq!(balancer.fetch(get("/")).body, b"request");
    let mut slow_client = balancer.connect();
    slow_client.send_in_steps(get("/"), 1, ms(1));
    assert_eq!(slow_client.read_response().body, b"request");
    let mut streams = Http2Client::connect(&balancer);
    let request = Request::builder().uri("http://test/").body(()).expect("a request");
    assert_eq!(streams.fetch(request, b"").expect("a response").status(), 200);
    for step in [1, 100] {
        let mut mqtt_client = balancer.connect();
        mqtt_client.send_in_steps(mqtt::connect_packet(5, "device"), step, ms(1));
        mqtt_client.expect(mqtt::connack_accepted(5));
    }
}

#[test]
fn protocols_are_detected_within_tls_and_without() {
    let ca = TestCa::new("one");
    let destination = Destination::start(mqtt_or_http);
    let balancer = setup(&destination)
        .with(|s| s.listeners[0].tls = Some(server_tls(&[&ca.issue(&["a.test"])])))
        .start();
    let mut tls_client = balancer.connect_tls(&ca.client(None), "a.test");
    tls_client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(tls_client.read_response().body, b"request");
    let mut mqtt_client = balancer.connect_tls(&ca.client(None), "a.test");
    mqtt_client.send(mqtt::connect_packet(4, "device"));
    mqtt_client.expect(mqtt::connack_accepted(4));
    assert_eq!(balancer.fetch(get("/")).body, b"request");
    let forwarded: Vec<_> = (destination.requests().iter())
        .filter_map(|request| request.fields.one("x-forwarded-proto").map(str::to_owned))
        .collect();
    assert_eq!(forwarded, ["https", "http"]);
}

#[test]
fn tls_passthrough_without_certificates() {
    let ca = TestCa::new("one");
    let certificate = ca.issue(&["d.test"]);
    let destination = Destination::start_tls(TestCa::server(&certificate, None), respond_ok("theirs"));
    let balancer = setup(&destination).start();
    let mut client = balancer.connect_tls(&ca.client(None), "d.test");
    client.send("GET / HTTP/1.1\r\nHost: d.test\r\n\r\n");
    assert_eq!(client.read_response().body, b"theirs");
}

#[test]
fn unknown_protocols_are_refused_and_detection_has_a_timeout() {
    let destination = Destination::start(mqtt_or_http);
    let balancer = setup(&destination).start();
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"\0\0\0\0", b"lower case\r\n", b"\x10\x05\0\x03abc"] {
        let mut client = balancer.connect();
        client.send(bytes);
        assert_eq!(client.read_to_end().kind, EndKind::Reset, "{bytes:?}");
    }
    assert_eq!(balancer.refusals("unknown_protocol"), 4);
    for bytes in [&b""[..], b"GE", b"\x10"] {
        let mut slow = balancer.connect();
        slow.send(bytes);
        slow.expect_closed();
    }
    assert_eq!(balancer.refusals("header_timeout"), 3);
    assert_eq!(destination.connections(), 0);
}
