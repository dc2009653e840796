//! TLS to destinations: verification, client certificates, and health checks.

use plimsoll_config::model::ClientTls;

use crate::failover::http_checks;
use crate::kit::{
    Balancer, Client, Destination, Setup, TestCa, client_tls, get, random_bytes, respond_ok, wait_until,
};

fn start_with_client_tls(destination: &Destination, tls: ClientTls) -> Balancer {
    Setup::http(&[destination]).with(|s| s.pools[0].tls = Some(tls)).start()
}

#[test]
fn verified_destination_is_served_on_pooled_connections() {
    let ca = TestCa::new("ca");
    let server = TestCa::server(&ca.issue(&["inside.test"]), None);
    let destination = Destination::start_tls(server, respond_ok("ok"));
    let balancer = start_with_client_tls(&destination, client_tls(&ca, "inside.test"));
    let mut client = balancer.connect();
    for _ in 0..5 {
        client.send(get("/"));
        assert_eq!(client.read_response().text(), "ok");
    }
    assert_eq!(
        destination.connections(),
        1,
        "session tickets that arrive meanwhile do not close the connection"
    );
}

#[test]
fn unverified_destination_is_refused_unless_verification_is_off() {
    let (ca, other_ca) = (TestCa::new("ca"), TestCa::new("stranger"));
    let good = ca.issue(&["inside.test"]);
    for (files, believed, name) in
        [(other_ca.issue(&["inside.test"]), &ca, "inside.test"), (good.clone(), &ca, "other.test")]
    {
        let destination = Destination::start_tls(TestCa::server(&files, None), respond_ok("never"));
        let balancer = start_with_client_tls(&destination, client_tls(believed, name));
        let response = balancer.fetch(get("/"));
        assert!(response.status == 503 && response.text().contains("connect_failed"), "{response:?}");
        assert!(destination.requests().is_empty());
        // Unless verification is switched off.
        let mut anybody = ClientTls::default();
        anybody.verify = false;
        assert_eq!(start_with_client_tls(&destination, anybody).fetch(get("/")).text(), "never");
    }
    let mut own = client_tls(&ca, "inside.test");
    own.ca = None;
    let destination = Destination::start_tls(TestCa::server(&good, None), respond_ok("never"));
    assert_eq!(
        start_with_client_tls(&destination, own).fetch(get("/")).status,
        503,
        "the system's CAs do not include it"
    );
}

#[test]
fn client_certificate_is_presented_to_a_destination() {
    let (ca, balancers) = (TestCa::new("ca"), TestCa::new("balancers"));
    let server = TestCa::server(&ca.issue(&["inside.test"]), Some(&balancers));
    let destination = Destination::start_tls(server, respond_ok("ok"));
    let without = start_with_client_tls(&destination, client_tls(&ca, "inside.test"));
    assert!((502..=503).contains(&without.fetch(get("/")).status));
    let mut identified = client_tls(&ca, "inside.test");
    identified.identity = Some(balancers.issue(&["plimsoll"]));
    let with = start_with_client_tls(&destination, identified);
    assert_eq!(with.fetch(get("/")).text(), "ok");
}

#[test]
fn checks_verify_destinations() {
    let ca = TestCa::new("ca");
    let server = TestCa::server(&ca.issue(&["inside.test"]), None);
    let (healthy, without_tls) =
        (Destination::start_tls(server.clone(), respond_ok("ok")), Destination::start(respond_ok("no")));
    let balancer = Setup::http(&[&healthy, &without_tls])
        .with(|s| {
            s.pools[0].tls = Some(client_tls(&ca, "inside.test"));
            s.pools[0].health = Some(http_checks());
        })
        .start();
    wait_until("the destination without TLS is down", || balancer.destination(1).status.as_str() == "down");
    wait_until("the other destination was checked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
}

#[test]
fn tcp_listener_may_use_tls_to_destinations() {
    let ca = TestCa::new("ca");
    let server = TestCa::server(&ca.issue(&["inside.test"]), None);
    let destination = Destination::start_tls(server, |conn| {
        while conn.read() {
            let bytes = std::mem::take(&mut conn.buffer);
            conn.send(bytes);
        }
    });
    let balancer =
        Setup::tcp(&[&destination]).with(|s| s.pools[0].tls = Some(client_tls(&ca, "inside.test"))).start();
    let mut client = balancer.connect();
    let bytes = random_bytes(5, 300_000);
    for piece in bytes.chunks(60_000) {
        client.send(piece);
        client.expect(piece);
    }
    client.shutdown_write();
    client.expect_closed();
}

#[test]
fn response_until_close_needs_a_close_notify() {
    let ca = TestCa::new("ca");
    for announced in [true, false] {
        let server = TestCa::server(&ca.issue(&["inside.test"]), None);
        let destination = Destination::start_tls(server, move |conn| {
            if conn.request().is_some() {
                conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole");
                if !announced {
                    conn.truncate();
                }
            }
        });
        let balancer = start_with_client_tls(&destination, client_tls(&ca, "inside.test"));
        let mut client: Client = balancer.connect();
        client.send(get("/"));
        let response = client.try_read_response("GET");
        assert_eq!(response.is_ok(), announced, "{response:?}");
    }
}

#[test]
fn new_ca_closes_connections_verified_by_the_old_one() {
    let (ca, next) = (TestCa::new("ca"), TestCa::new("next"));
    let destination =
        Destination::start_tls(TestCa::server(&ca.issue(&["inside.test"]), None), respond_ok("ok"));
    let setup = Setup::http(&[&destination]);
    let old = setup.clone().with(|s| s.pools[0].tls = Some(client_tls(&ca, "inside.test")));
    let balancer = old.start();
    assert_eq!(balancer.fetch(get("/")).status, 200);
    balancer.reload(&old).expect("the same");
    assert_eq!(balancer.fetch(get("/")).status, 200);
    assert_eq!(destination.connections(), 1, "an unchanged reload closes nothing");
    balancer.reload(&setup.with(|s| s.pools[0].tls = Some(client_tls(&next, "inside.test")))).expect("good");
    assert_eq!(balancer.fetch(get("/")).status, 503, "the old certificate is not trusted any more");
}
