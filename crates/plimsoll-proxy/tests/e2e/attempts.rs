//! Attempts of all protocols: the reason that is counted and logged when no destination serves a message.

use plimsoll_config::model::{AccessLog, Protocol};
use plimsoll_core::Weight;

use crate::access_log::lines;
use crate::kit::{Destination, Setup, TempPath, respond_ok, wait_until};
use crate::mqtt::{connect_packet, read_packet};

/// The CONNACK of MQTT 3.1.1 with return code 3, "server unavailable".
const SERVER_UNAVAILABLE: [u8; 4] = [0x20, 2, 0, 3];

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Sends `request` to a listener of `protocol` and checks the reason in the counters and in the access log.
fn check_reason(setup: Setup, protocol: Protocol, request: &[u8], reason: &str) {
    let file = TempPath::new("attempts.log");
    let balancer = setup
        .with(|s| {
            s.listeners[0].protocol = protocol;
            s.access_log = Some(AccessLog::File(file.path().to_owned()));
        })
        .start();
    let mut client = balancer.connect();
    let _may_be_reset_already = client.try_send(request);
    client.read_to_end();
    wait_until("the refusal is counted", || balancer.refusals(reason) == 1);
    assert_eq!(lines(file.path(), 1)[0]["reason"], reason);
}

#[test]
fn mqtt_connection_refused_by_all_brokers_is_reported_with_the_last_failure() {
    let brokers = [(); 2].map(|()| {
        Destination::start(|conn| {
            read_packet(conn);
            conn.send(SERVER_UNAVAILABLE);
        })
    });
    let setup = Setup::http(&brokers.each_ref());
    check_reason(setup, Protocol::Mqtt, &connect_packet(4, "device"), "empty_response");
    assert_eq!(brokers.each_ref().map(Destination::connections), [1, 1], "both brokers were connected");
}

#[test]
fn unreachable_destinations_are_reported_as_connect_failed_by_all_protocols() {
    let connect = connect_packet(4, "device");
    for (protocol, request) in [(Protocol::Http, GET), (Protocol::Tcp, b""), (Protocol::Mqtt, &connect)] {
        let stopped = [(); 2].map(|()| Destination::absent(respond_ok("never")));
        check_reason(Setup::http(&stopped.each_ref()), protocol, request, "connect_failed");
    }
}

#[test]
fn pool_without_serving_destinations_is_reported_as_no_healthy_destination_by_all_protocols() {
    let connect = connect_packet(4, "device");
    for (protocol, request) in [(Protocol::Http, GET), (Protocol::Tcp, b""), (Protocol::Mqtt, &connect)] {
        let unused = Destination::start(respond_ok("never"));
        let setup = Setup::http(&[&unused]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0));
        check_reason(setup, protocol, request, "no_healthy_destination");
        assert_eq!(unused.connections(), 0);
    }
}
