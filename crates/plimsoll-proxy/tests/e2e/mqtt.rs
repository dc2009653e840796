//! MQTT: each client at its own destination, refused in its own words, moved home at a walking pace.

use std::collections::HashMap;

use plimsoll_config::model::Protocol;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::failover::http_checks;
use crate::kit::{Authority, Balancer, Client, Destination, Setup, Visit, Watch, ms, secs, serves, until};

const V4: u8 = 4;
const V5: u8 = 5;
const PING: &[u8] = &[0xc0, 0];
const PONG: &[u8] = &[0xd0, 0];

/// A CONNECT of this version: clean session, keep-alive of a minute.
pub(crate) fn connect(version: u8, id: &str) -> Vec<u8> {
    keeping_alive(version, id, 60)
}

fn keeping_alive(version: u8, id: &str, seconds: u16) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([version, 2]);
    body.extend(seconds.to_be_bytes());
    body.extend((version == V5).then_some(0));
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    assert!(body.len() < 128, "a short length");
    [&[0x10, body.len() as u8][..], &body].concat()
}

pub(crate) fn accepted(version: u8) -> &'static [u8] {
    if version == V5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] }
}

/// Reads one packet; the tests' packets are short.
pub(crate) fn packet(visit: &mut Visit) -> Option<Vec<u8>> {
    loop {
        if let [_, len, rest @ ..] = &visit.buffer[..]
            && rest.len() >= usize::from(*len)
        {
            let end = 2 + usize::from(*len);
            return Some(visit.buffer.drain(..end).collect());
        }
        if !visit.read() {
            return None;
        }
    }
}

/// Takes every client and answers its pings.
pub(crate) fn broker(visit: &mut Visit) {
    let Some(first) = packet(visit) else { return };
    if !visit.send(accepted(first[8])) {
        return;
    }
    while let Some(packet) = packet(visit) {
        let answered = match packet[0] {
            0xc0 => visit.send(PONG),
            _ => visit.send(packet),
        };
        if !answered {
            return;
        }
    }
}

fn setup(destinations: &[&Destination]) -> Setup {
    Setup::http(destinations).with(|s| s.listeners[0].protocol = Protocol::Mqtt)
}

#[track_caller]
fn join(balancer: &Balancer, version: u8, id: &str) -> Client {
    let mut client = balancer.connect();
    client.send(connect(version, id));
    client.expect(accepted(version));
    client
}

/// The ids of the clients a destination has seen, in order.
fn ids(destination: &Destination) -> Vec<String> {
    let records = destination.records();
    let tail = |record: &Vec<u8>| {
        let at = if record.get(8) == Some(&V5) { 15 } else { 14 };
        record.get(at..2 + usize::from(record[1])).map(|id| String::from_utf8_lossy(id).into_owned())
    };
    records.iter().filter_map(tail).collect()
}

#[test]
fn a_client_comes_back_to_its_own_destination_and_all_of_them_are_used() {
    let brokers = [Destination::start(broker), Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1], &brokers[2]]).with(|s| s.workers = 2).start();
    for round in 0..3 {
        for n in 0..60 {
            let version = if n % 2 == 0 { V4 } else { V5 };
            let mut client = join(&balancer, version, &format!("device-{n:02}"));
            client.send(PING);
            client.expect(PONG);
        }
        let mut homes: HashMap<String, usize> = HashMap::new();
        for (place, broker) in brokers.iter().enumerate() {
            let ids = ids(broker);
            assert!(ids.len() > 8 * (round + 1), "{place}: {}", ids.len());
            for id in ids {
                assert_eq!(*homes.entry(id.clone()).or_insert(place), place, "{id}");
            }
        }
        assert_eq!(homes.len(), 60);
    }
}

#[test]
fn only_the_clients_of_a_dead_destination_go_elsewhere() {
    let brokers = [Destination::start(broker), Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1], &brokers[2]]).start();
    let all: Vec<String> = (0..40).map(|n| format!("device-{n:02}")).collect();
    all.iter().for_each(|id| drop(join(&balancer, V4, id)));
    let before: Vec<Vec<String>> = brokers.iter().map(ids).collect();
    brokers[1].kill();
    all.iter().for_each(|id| drop(join(&balancer, V4, id)));
    let (first, last) = (ids(&brokers[0]), ids(&brokers[2]));
    for id in &before[0] {
        assert!(first[before[0].len()..].contains(id), "{id} stayed");
    }
    for id in &before[2] {
        assert!(last[before[2].len()..].contains(id), "{id} stayed");
    }
    assert_eq!(first.len() + last.len(), before[0].len() + before[2].len() + 40);
}

#[test]
fn a_slow_connect_is_waited_for_and_what_came_with_it_is_passed_on() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut client = balancer.connect();
    client.send_in_steps(connect(V5, "slow"), 1, ms(3));
    client.expect(accepted(V5));
    let mut hasty = balancer.connect();
    let publish = b"\x30\x05\0\x01tHi";
    hasty.send([&connect(V4, "hasty")[..], publish, PING].concat());
    hasty.expect([accepted(V4), publish, PONG].concat());
}

#[test]
fn a_connect_has_its_limits() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination])
        .with(|s| {
            s.listeners[0].timeouts.header = ms(300);
            s.listeners[0].limits.header_bytes = 1024;
        })
        .start();
    let mut never = balancer.connect();
    never.send(&connect(V4, "never")[..9]);
    never.expect_end();
    assert_eq!(balancer.refused("header_timeout"), 1);
    for (version, answer) in [(V5, &[0x20, 3, 0, 0x95, 0][..]), (V4, &[])] {
        let mut large = balancer.connect();
        large.send([&[0x10, 0x80, 0x20, 0, 4][..], b"MQTT", &[version, 2, 0, 60]].concat());
        large.expect(answer);
        large.expect_end();
    }
    assert_eq!(balancer.refused("headers_too_large"), 2);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn what_is_no_connect_is_refused_in_words_its_client_knows() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut reserved = connect(V5, "x");
    reserved[9] = 3;
    let mut future = connect(V4, "x");
    future[8] = 6;
    for (bytes, answer) in [
        (&reserved[..], &[0x20, 3, 0, 0x81, 0][..]),
        (&future, &[0x20, 2, 0, 1]),
        (b"GET / HTTP/1.1\r\n\r\n", &[]),
        (&[0x30, 3, 0, 1, b't'], &[]),
    ] {
        let mut client = balancer.connect();
        client.send(bytes);
        client.expect(answer);
        client.expect_end();
    }
    assert_eq!(balancer.refused("bad_request"), 4);
    assert_eq!(destination.connections(), 0);
}

#[test]
fn when_nobody_can_serve_the_client_is_told_so() {
    let destination = Destination::start(broker);
    destination.stop_listening();
    let balancer = setup(&[&destination]).start();
    for (version, answer) in [(V5, &[0x20, 3, 0, 0x88, 0][..]), (V4, &[0x20, 2, 0, 3])] {
        let mut client = balancer.connect();
        client.send(connect(version, "a"));
        client.expect(answer);
        client.expect_end();
    }
    assert_eq!(balancer.refused("connect_failed"), 2);
}

#[test]
fn a_destination_that_cannot_serve_is_passed_over() {
    for (version, unavailable) in [(V4, &[0x20, 2, 0, 3][..]), (V5, &[0x20, 3, 0, 0x89, 0]), (V4, &[])] {
        let busy = Destination::start(move |visit| {
            packet(visit);
            visit.send(unavailable);
        });
        let well = Destination::start(broker);
        let balancer = setup(&[&busy, &well]).start();
        for n in 0..10 {
            let mut client = join(&balancer, version, &format!("device-{n}"));
            client.send(PING);
            client.expect(PONG);
        }
        assert_eq!(well.connections(), 10);
        assert!(busy.connections() > 1, "it was asked first by some");
        assert_eq!(balancer.retries(), busy.connections() as u64);
    }
}

#[test]
fn a_refusal_that_is_about_the_client_is_the_clients() {
    let strict = Destination::start(|visit| {
        packet(visit);
        visit.send([0x20, 2, 0, 5]);
    });
    let other = Destination::start(broker);
    let balancer = setup(&[&strict, &other]).start();
    let of_the_strict: Vec<String> =
        (0..10).map(|n| format!("device-{n}")).filter(|id| home_is_first(id)).collect();
    assert!(!of_the_strict.is_empty());
    for id in of_the_strict {
        let mut client = balancer.connect();
        client.send(connect(V4, &id));
        client.expect([0x20, 2, 0, 5]);
        client.expect_end();
    }
    assert_eq!(other.connections(), 0);
}

/// Whether a client of this id belongs to the first of two destinations, as any balancer would say.
fn home_is_first(id: &str) -> bool {
    let probes = [Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&probes[0], &probes[1]]).start();
    drop(join(&balancer, V4, id));
    probes[0].connections() == 1
}

#[test]
fn a_quiet_client_may_be_quiet_for_as_long_as_it_said() {
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
            client.send(keeping_alive(V4, "quiet", seconds));
            client.expect(accepted(V4));
            client
        })
        .collect();
    for client in &mut clients {
        client.expect_silence(ms(700));
        client.send(PING);
        client.expect(PONG);
    }
}

#[test]
fn it_comes_within_tls_too() {
    let authority = Authority::new("one");
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination])
        .with(|s| s.listeners[0].tls = Some(serves(&[&authority.issue(&["a.test"])])))
        .start();
    let mut client = balancer.connect_tls(&authority.client(None), "a.test");
    client.send(connect(V5, "secret"));
    client.expect(accepted(V5));
    client.send(PING);
    client.expect(PONG);
    assert_eq!(ids(&destination), ["secret"]);
}

/// Quick checks: a destination that comes back is seen at once.
fn checked(setup: Setup) -> Setup {
    setup.with(|s| s.pools[0].health = Some(HealthSpec { probe: ProbeKind::Tcp, ..http_checks() }))
}

#[test]
fn clients_go_home_a_few_each_second_and_between_two_packets() {
    let brokers = [Destination::start(broker), Destination::start(broker)];
    let balancer = checked(setup(&[&brokers[0], &brokers[1]]))
        .with(|s| {
            s.listeners[0].mqtt.rebalance = 5;
            s.listeners[0].timeouts.idle = secs(60);
        })
        .start();
    brokers[0].kill();
    until("it is out", || !balancer.destination(0).status.serves());
    let version = |n: usize| if n.is_multiple_of(2) { V5 } else { V4 };
    let mut clients: Vec<Client> =
        (0..40).map(|n| join(&balancer, version(n), &format!("device-{n:02}"))).collect();
    brokers[0].restart();
    until("it is back", || balancer.destination(0).status.serves());
    let watch = Watch::start();
    until("some are moved", || balancer.refused("rebalanced") >= 5);
    assert!(watch.elapsed() > secs(8), "it was given time to settle: {:?}", watch.elapsed());
    let first = watch.elapsed();
    let away = (0..40).filter(|n| home_is_first(&format!("device-{n:02}"))).count();
    until("all are moved", || balancer.refused("rebalanced") == away as u64);
    let took = watch.elapsed() - first;
    assert!(took.as_secs_f64() > away as f64 / 5.0 - 3.0, "{away} within {took:?}");
    let mut ended = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        if client.try_send(PING).is_ok() && client.read_some() == Ok(PONG.len()) {
            continue;
        }
        ended += 1;
        // A DISCONNECT would be the last that some clients of version 5 ever heard.
        assert!(client.unread.is_empty(), "{n}");
    }
    assert_eq!(ended, away);
}

#[test]
fn a_drain_ends_them_without_a_word() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut modern = join(&balancer, V5, "modern");
    let mut plain = join(&balancer, V4, "plain");
    balancer.handle.drain();
    modern.expect_end();
    plain.expect_end();
    until("it has ended", || balancer.has_ended());
}

#[test]
fn a_client_that_is_sending_is_not_cut_off() {
    let destination = Destination::start(broker);
    let balancer = setup(&[&destination]).start();
    let mut client = join(&balancer, V5, "busy");
    client.send([0x30, 10, 0, 1, b't']);
    until("it arrived", || destination.received() == 24);
    balancer.handle.drain();
    client.expect_silence(secs(2));
    client.send(b"1234567");
    // The packet is whole: now it may go. Its echo is not the broker's to finish.
    client.rest();
    until("all of it arrived", || destination.records()[0].ends_with(b"t1234567"));
}

#[test]
fn a_connection_without_an_id_goes_where_the_algorithm_says() {
    let brokers = [Destination::start(broker), Destination::start(broker)];
    let balancer = setup(&[&brokers[0], &brokers[1]]).start();
    for _ in 0..6 {
        drop(join(&balancer, V5, ""));
    }
    assert_eq!((brokers[0].connections(), brokers[1].connections()), (3, 3));
}
