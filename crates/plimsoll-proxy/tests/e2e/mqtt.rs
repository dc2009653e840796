//! MQTT: affinity by client id, refusals by CONNACK, and rebalancing at a limited rate.

use std::collections::HashMap;

use plimsoll_config::model::Protocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::failover::http_checks;
use crate::kit::{
    Balancer, Client, Connection, Destination, Setup, Stopwatch, TestCa, ms, secs, server_tls, wait_until,
};

const V4: u8 = 4;
const V5: u8 = 5;
const PING: &[u8] = &[0xc0, 0];
/// A PUBLISH of quality of service 1 with identifier 1, and its acknowledgement.
const PUBLISH: &[u8] = &[0x32, 6, 0, 1, b't', 0, 1, b'x'];
const PUBACK: &[u8] = &[0x40, 2, 0, 1];
const PONG: &[u8] = &[0xd0, 0];

/// Encodes a CONNECT of this version: clean session, keep-alive of 60 seconds.
pub(crate) fn connect_packet(version: u8, id: &str) -> Vec<u8> {
    connect_packet_with_keep_alive(version, id, 60)
}

fn connect_packet_with_keep_alive(version: u8, id: &str, seconds: u16) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([version, 2]);
    body.extend(seconds.to_be_bytes());
    body.extend((version == V5).then_some(0));
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    assert!(body.len() < 128, "a short length");
    [&[0x10, body.len() as u8][..], &body].concat()
}

pub(crate) fn connack_accepted(version: u8) -> &'static [u8] {
    if version == V5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] }
}

/// Reads one packet; the tests' packets are short.
pub(crate) fn read_packet(conn: &mut Connection) -> Option<Vec<u8>> {
    loop {
        if let [_, len, rest @ ..] = &conn.buffer[..]
            && rest.len() >= usize::from(*len)
        {
            let end = 2 + usize::from(*len);
            return Some(conn.buffer.drain(..end).collect());
        }
        if !conn.read() {
            return None;
        }
    }
}

/// Accepts every client, responds to pings and echoes all other packets.
pub(crate) fn broker(conn: &mut Connection) {
    let Some(first) = read_packet(conn) else { return };
    if !conn.send(connack_accepted(first[8])) {
        return;
    }
    while let Some(packet) = read_packet(conn) {
        let sent = match packet[0] {
            0xc0 => conn.send(PONG),
            _ => conn.send(packet),
        };
        if !sent {
            return;
        }
    }
}

fn setup(destinations: &[&Destination]) -> Setup {
    Setup::http(destinations).with(|s| s.listeners[0].protocol = Protocol::Mqtt)
}

#[track_caller]
fn connect_client(balancer: &Balancer, version: u8, id: &str) -> Client {
    let mut client = balancer.connect();
    client.send(connect_packet(version, id));
    client.expect(connack_accepted(version));
    client
}

/// Returns the ids of the clients that connected to a destination, in order.
fn client_ids(destination: &Destination) -> Vec<String> {
    let records = destination.records();
    let tail = |record: &Vec<u8>| {
        let at = if record.get(8) == Some(&V5) { 15 } else { 14 };
        record.get(at..2 + usize::from(record[1])).map(|id| String::from_utf8_lossy(id).into_owned())
    };
    records.iter().filter_map(tail).collect()
}

#[test]
fn clients_return_to_their_destination_and_are_spread() {
    let brokers = [Destination::start(broker), Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1], &brokers[2]]).with(|s| s.workers = 2).start();
    for round in 0..3 {
        for n in 0..60 {
            let version = if n % 2 == 0 { V4 } else { V5 };
            let mut client = connect_client(&balancer, version, &format!("device-{n:02}"));
            client.send(PING);
            client.expect(PONG);
        }
        let mut owners: HashMap<String, usize> = HashMap::new();
        for (index, broker) in brokers.iter().enumerate() {
            let ids = client_ids(broker);
            assert!(ids.len() > 8 * (round + 1), "{index}: {}", ids.len());
            for id in ids {
                assert_eq!(*owners.entry(id.clone()).or_insert(index), index, "{id}");
            }
        }
        assert_eq!(owners.len(), 60);
    }
}

#[test]
fn only_clients_of_a_stopped_destination_move() {
    let brokers = [Destination::start(broker), Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1], &brokers[2]]).start();
    let all: Vec<String> = (0..40).map(|n| format!("device-{n:02}")).collect();
    all.iter().for_each(|id| drop(connect_client(&balancer, V4, id)));
    let before: Vec<Vec<String>> = brokers.iter().map(client_ids).collect();
    brokers[1].kill();
    all.iter().for_each(|id| drop(connect_client(&balancer, V4, id)));
    let (first, last) = (client_ids(&brokers[0]), client_ids(&brokers[2]));
    for id in &before[0] {
        assert!(first[before[0].len()..].contains(id), "{id} stayed");
    }
    for id in &before[2] {
        assert!(last[before[2].len()..].contains(id), "{id} stayed");
    }
    assert_eq!(first.len() + last.len(), before[0].len() + before[2].len() + 40);
}

#[test]
fn connect_may_arrive_slowly_or_with_further_packets() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut client = balancer.connect();
    client.send_in_steps(connect_packet(V5, "slow"), 1, ms(3));
    client.expect(connack_accepted(V5));
    let mut pipelined = balancer.connect();
    let publish = b"\x30\x05\0\x01tHi";
    pipelined.send([&connect_packet(V4, "hasty")[..], publish, PING].concat());
    pipelined.expect([connack_accepted(V4), publish, PONG].concat());
}

#[test]
fn connect_packet_has_a_timeout_and_a_size_limit() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination])
        .with(|s| {
            s.listeners[0].timeouts.header = ms(300);
            s.listeners[0].limits.header_bytes = 1024;
        })
        .start();
    let mut never = balancer.connect();
    never.send(&connect_packet(V4, "never")[..9]);
    never.expect_closed();
    assert_eq!(balancer.refusals("header_timeout"), 1);
    for (version, response) in [(V5, &[0x20, 3, 0, 0x95, 0][..]), (V4, &[])] {
        let mut large = balancer.connect();
        large.send([&[0x10, 0x80, 0x20, 0, 4][..], b"MQTT", &[version, 2, 0, 60]].concat());
        large.expect(response);
        large.expect_closed();
    }
    assert_eq!(balancer.refusals("headers_too_large"), 2);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn invalid_connect_is_refused_in_the_client_s_protocol_version() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut reserved = connect_packet(V5, "x");
    reserved[9] = 3;
    let mut future = connect_packet(V4, "x");
    future[8] = 6;
    for (bytes, response) in [
        (&reserved[..], &[0x20, 3, 0, 0x81, 0][..]),
        (&future, &[0x20, 2, 0, 1]),
        (b"GET / HTTP/1.1\r\n\r\n", &[]),
        (&[0x30, 3, 0, 1, b't'], &[]),
    ] {
        let mut client = balancer.connect();
        client.send(bytes);
        client.expect(response);
        client.expect_closed();
    }
    assert_eq!(balancer.refusals("bad_request"), 4);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn unreachable_destinations_are_reported_in_the_connack() {
    let destination = Destination::start(broker);
    destination.stop_listening();
    let balancer = setup(&[&destination]).start();
    for (version, response) in [(V5, &[0x20, 3, 0, 0x88, 0][..]), (V4, &[0x20, 2, 0, 3])] {
        let mut client = balancer.connect();
        client.send(connect_packet(version, "a"));
        client.expect(response);
        client.expect_closed();
    }
    assert_eq!(balancer.refusals("connect_failed"), 2);
}

#[test]
fn destination_that_is_unavailable_is_skipped() {
    for (version, unavailable) in [(V4, &[0x20, 2, 0, 3][..]), (V5, &[0x20, 3, 0, 0x89, 0]), (V4, &[])] {
        let busy = Destination::start(move |conn| {
            read_packet(conn);
            conn.send(unavailable);
        });
        let healthy = Destination::start(broker);
        let balancer = setup(&[&busy, &healthy]).start();
        for n in 0..10 {
            let mut client = connect_client(&balancer, version, &format!("device-{n}"));
            client.send(PING);
            client.expect(PONG);
        }
        assert_eq!(healthy.connections(), 10);
        assert!(busy.connections() > 1, "it is the first choice of some clients");
        assert_eq!(balancer.retries(), busy.connections() as u64);
    }
}

#[test]
fn refusal_of_the_client_itself_is_forwarded() {
    let strict = Destination::start(|conn| {
        read_packet(conn);
        conn.send([0x20, 2, 0, 5]);
    });
    let other = Destination::start(broker);
    let balancer = setup(&[&strict, &other]).start();
    let strict_ids: Vec<String> =
        (0..10).map(|n| format!("device-{n}")).filter(|id| prefers_first(id)).collect();
    assert!(!strict_ids.is_empty());
    for id in strict_ids {
        let mut client = balancer.connect();
        client.send(connect_packet(V4, &id));
        client.expect([0x20, 2, 0, 5]);
        client.expect_closed();
    }
    assert_eq!(other.connections(), 0);
}

/// Reports whether a client of this id prefers the first of two destinations, by asking another balancer.
fn prefers_first(id: &str) -> bool {
    let probes = [Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&probes[0], &probes[1]]).start();
    drop(connect_client(&balancer, V4, id));
    probes[0].connections() == 1
}

#[test]
fn keep_alive_replaces_the_idle_timeout() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination])
        .with(|s| {
            s.listeners[0].timeouts.idle = ms(100);
            s.pools[0].timeouts.idle = ms(100);
        })
        .start();
    let mut clients: Vec<Client> = [0, 60]
        .into_iter()
        .map(|seconds| {
            let mut client = balancer.connect();
            client.send(connect_packet_with_keep_alive(V4, "quiet", seconds));
            client.expect(connack_accepted(V4));
            client
        })
        .collect();
    for client in &mut clients {
        client.expect_no_data(ms(700));
        client.send(PING);
        client.expect(PONG);
    }
}

#[test]
fn mqtt_is_served_over_tls() {
    let ca = TestCa::new("one");
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination])
        .with(|s| s.listeners[0].tls = Some(server_tls(&[&ca.issue(&["a.test"])])))
        .start();
    let mut client = balancer.connect_tls(&ca.client(None), "a.test");
    client.send(connect_packet(V5, "secret"));
    client.expect(connack_accepted(V5));
    client.send(PING);
    client.expect(PONG);
    assert_eq!(client_ids(&destination), ["secret"]);
}

/// Adds frequent checks, so that a restarted destination is noticed soon.
fn with_tcp_checks(setup: Setup) -> Setup {
    setup.with(|s| s.pools[0].health = Some(HealthSpec { probe: ProbeKind::Tcp, ..http_checks() }))
}

#[test]
fn clients_are_rebalanced_at_a_limited_rate_while_nothing_is_outstanding() {
    let brokers = [Destination::start(broker), Destination::start(broker)];
    let balancer = with_tcp_checks(setup(&[&brokers[0], &brokers[1]]))
        .with(|s| {
            s.listeners[0].mqtt.rebalance = 5;
            s.listeners[0].timeouts.idle = secs(60);
        })
        .start();
    brokers[0].kill();
    wait_until("the destination is out", || !balancer.destination(0).status.serves());
    let version = |n: usize| if n.is_multiple_of(2) { V5 } else { V4 };
    let mut clients: Vec<Client> =
        (0..40).map(|n| connect_client(&balancer, version(n), &format!("device-{n:02}"))).collect();
    let waiting = (0..40).find(|n| prefers_first(&format!("device-{n:02}"))).expect("some are misplaced");
    clients[waiting].send(PUBLISH);
    clients[waiting].expect(PUBLISH);
    brokers[0].restart();
    wait_until("the destination serves again", || balancer.destination(0).status.serves());
    let stopwatch = Stopwatch::start();
    wait_until("some clients are moved", || balancer.refusals("rebalanced") >= 5);
    assert!(
        stopwatch.elapsed() > secs(8),
        "rebalancing waits for the minimum uptime: {:?}",
        stopwatch.elapsed()
    );
    let first = stopwatch.elapsed();
    let misplaced = (0..40).filter(|n| prefers_first(&format!("device-{n:02}"))).count();
    wait_until("all others are moved", || balancer.refusals("rebalanced") == misplaced as u64 - 1);
    let took = stopwatch.elapsed() - first;
    for _ in 0..3 {
        clients[waiting].send(PING);
        clients[waiting].expect(PONG);
        clients[waiting].expect_no_data(ms(500));
    }
    clients[waiting].send(PUBACK);
    clients[waiting].expect(PUBACK);
    wait_until("all misplaced clients are moved", || balancer.refusals("rebalanced") == misplaced as u64);
    assert!(took.as_secs_f64() > misplaced as f64 / 5.0 - 3.0, "{misplaced} within {took:?}");
    let mut ended = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        if client.try_send(PING).is_ok() && client.read_some() == Ok(PONG.len()) {
            continue;
        }
        ended += 1;
        // No DISCONNECT: some version 5 clients do not reconnect after one.
        assert!(client.unread.is_empty(), "{n}");
    }
    assert_eq!(ended, misplaced);
}

#[test]
fn drain_closes_idle_connections_without_a_disconnect_packet() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut version_5 = connect_client(&balancer, V5, "modern");
    let mut version_4 = connect_client(&balancer, V4, "plain");
    balancer.handle.drain();
    version_5.expect_closed();
    version_4.expect_closed();
    wait_until("it has ended", || balancer.has_ended());
}

#[test]
fn drain_does_not_wait_for_an_acknowledgement_that_never_comes() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut client = connect_client(&balancer, V5, "waiting");
    client.send(PUBLISH);
    client.expect(PUBLISH);
    balancer.handle.drain();
    client.expect_no_data(secs(3));
    client.expect_closed();
    wait_until("it has ended", || balancer.has_ended());
}

#[test]
fn drain_waits_for_the_end_of_a_packet() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut client = connect_client(&balancer, V5, "busy");
    client.send([0x30, 10, 0, 1, b't']);
    wait_until("it arrived", || destination.received_bytes() == 24);
    balancer.handle.drain();
    client.expect_no_data(secs(2));
    client.send(b"1234567");
    // The packet is complete: now the connection may close. The broker need not finish its echo.
    client.read_to_end();
    wait_until("all of it arrived", || destination.records()[0].ends_with(b"t1234567"));
}

#[test]
fn connection_without_a_client_id_follows_the_algorithm() {
    let brokers = [Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1]]).start();
    for _ in 0..6 {
        drop(connect_client(&balancer, V5, ""));
    }
    assert_eq!((brokers[0].connections(), brokers[1].connections()), (3, 3));
}
