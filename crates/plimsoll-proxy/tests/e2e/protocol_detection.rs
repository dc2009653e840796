//! `protocol: auto`: what a connection speaks is told by its first bytes.

use http::Request;
use plimsoll_config::model::Protocol;

use crate::kit::{
    Authority, Destination, Kind, Setup, Visit, get, hello, http2::Http2Client, ms, ok, serves,
};
use crate::mqtt;

/// Serves both: clients of MQTT and requests.
fn both(visit: &mut Visit) {
    if !visit.read() {
        return;
    }
    match visit.buffer.first() {
        Some(0x10) => mqtt::broker(visit),
        _ => while visit.request().is_some() && visit.send(ok("request")) {},
    }
}

fn setup(destination: &Destination) -> Setup {
    Setup::http(&[destination]).with(|s| {
        s.listeners[0].protocol = Protocol::Auto;
        s.listeners[0].timeouts.header = ms(500);
    })
}

#[test]
fn requests_streams_and_clients_of_mqtt_are_told_apart() {
    let destination = Destination::start(both);
    let balancer = setup(&destination).start();
    assert_eq!(balancer.ask(get("/")).body, b"request");
    let mut drops = balancer.connect();
    drops.send_in_steps(get("/"), 1, ms(1));
    assert_eq!(drops.answer().body, b"request");
    let mut streams = Http2Client::connect(&balancer);
    let request = Request::builder().uri("http://test/").body(()).expect("a request");
    assert_eq!(streams.ask(request, b"").expect("an answer").status(), 200);
    for step in [1, 100] {
        let mut device = balancer.connect();
        device.send_in_steps(mqtt::connect(5, "device"), step, ms(1));
        device.expect(mqtt::accepted(5));
    }
}

#[test]
fn the_same_within_tls_and_beside_it() {
    let authority = Authority::new("one");
    let destination = Destination::start(both);
    let balancer = setup(&destination)
        .with(|s| s.listeners[0].tls = Some(serves(&[&authority.issue(&["a.test"])])))
        .start();
    let mut secret = balancer.connect_tls(&authority.client(None), "a.test");
    secret.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(secret.answer().body, b"request");
    let mut device = balancer.connect_tls(&authority.client(None), "a.test");
    device.send(mqtt::connect(4, "device"));
    device.expect(mqtt::accepted(4));
    assert_eq!(balancer.ask(get("/")).body, b"request");
    let forwarded: Vec<_> = (destination.requests().iter())
        .filter_map(|request| request.fields.one("x-forwarded-proto").map(str::to_owned))
        .collect();
    assert_eq!(forwarded, ["https", "http"]);
}

#[test]
fn tls_that_does_not_end_here_is_passed_on_unopened() {
    let authority = Authority::new("one");
    let certificate = authority.issue(&["d.test"]);
    let destination = Destination::start_tls(Authority::server(&certificate, None), hello("theirs"));
    let balancer = setup(&destination).start();
    let mut client = balancer.connect_tls(&authority.client(None), "d.test");
    client.send("GET / HTTP/1.1\r\nHost: d.test\r\n\r\n");
    assert_eq!(client.answer().body, b"theirs");
}

#[test]
fn what_nobody_recognises_is_refused_and_silence_has_its_time() {
    let destination = Destination::start(both);
    let balancer = setup(&destination).start();
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"\0\0\0\0", b"lower case\r\n", b"\x10\x05\0\x03abc"] {
        let mut stranger = balancer.connect();
        stranger.send(bytes);
        assert_eq!(stranger.rest().kind, Kind::Reset, "{bytes:?}");
    }
    assert_eq!(balancer.refused("unknown_protocol"), 4);
    for bytes in [&b""[..], b"GE", b"\x10"] {
        let mut slow = balancer.connect();
        slow.send(bytes);
        slow.expect_end();
    }
    assert_eq!(balancer.refused("header_timeout"), 3);
    assert_eq!(destination.connections(), 0);
}
