//! Destinations that must prove who they are.

use plimsoll_config::model::ClientTls;

use crate::failover::http_checks;
use crate::kit::{Authority, Balancer, Client, Destination, Setup, believes, get, hello, noise, until};

fn behind(destination: &Destination, tls: ClientTls) -> Balancer {
    Setup::http(&[destination]).with(|s| s.pools[0].tls = Some(tls)).start()
}

#[test]
fn a_destination_that_proves_its_name_is_served_on_pooled_connections() {
    let authority = Authority::new("ca");
    let server = Authority::server(&authority.issue(&["inside.test"]), None);
    let destination = Destination::start_tls(server, hello("ok"));
    let balancer = behind(&destination, believes(&authority, "inside.test"));
    let mut client = balancer.connect();
    for _ in 0..5 {
        client.send(get("/"));
        assert_eq!(client.answer().text(), "ok");
    }
    assert_eq!(destination.connections(), 1, "tickets that arrive meanwhile do not spoil a connection");
}

#[test]
fn nobody_is_believed_without_proof() {
    let (authority, stranger) = (Authority::new("ca"), Authority::new("stranger"));
    let good = authority.issue(&["inside.test"]);
    for (files, believed, name) in [
        (stranger.issue(&["inside.test"]), &authority, "inside.test"),
        (good.clone(), &authority, "other.test"),
    ] {
        let destination = Destination::start_tls(Authority::server(&files, None), hello("never"));
        let balancer = behind(&destination, believes(believed, name));
        let answer = balancer.ask(get("/"));
        assert!(answer.status == 503 && answer.text().contains("connect_failed"), "{answer:?}");
        assert!(destination.requests().is_empty());
        // Unless somebody says that it does not matter.
        let anybody = ClientTls { ca: None, server_name: None, identity: None, verify: false };
        assert_eq!(behind(&destination, anybody).ask(get("/")).text(), "never");
    }
    let own = ClientTls { ca: None, ..believes(&authority, "inside.test") };
    let destination = Destination::start_tls(Authority::server(&good, None), hello("never"));
    assert_eq!(behind(&destination, own).ask(get("/")).status, 503, "the system does not know it");
}

#[test]
fn we_prove_who_we_are_where_a_destination_wants_it() {
    let (authority, balancers) = (Authority::new("ca"), Authority::new("balancers"));
    let server = Authority::server(&authority.issue(&["inside.test"]), Some(&balancers));
    let destination = Destination::start_tls(server, hello("ok"));
    let without = behind(&destination, believes(&authority, "inside.test"));
    assert!((502..=503).contains(&without.ask(get("/")).status));
    let identity = Some(balancers.issue(&["plimsoll"]));
    let with = behind(&destination, ClientTls { identity, ..believes(&authority, "inside.test") });
    assert_eq!(with.ask(get("/")).text(), "ok");
}

#[test]
fn checks_follow_the_same_rules() {
    let authority = Authority::new("ca");
    let server = Authority::server(&authority.issue(&["inside.test"]), None);
    let (well, unproven) =
        (Destination::start_tls(server.clone(), hello("ok")), Destination::start(hello("no")));
    let balancer = Setup::http(&[&well, &unproven])
        .with(|s| {
            s.pools[0].tls = Some(believes(&authority, "inside.test"));
            s.pools[0].health = Some(http_checks());
        })
        .start();
    until("the one without TLS is down", || balancer.destination(1).status.as_str() == "down");
    until("the other one was checked", || balancer.destination(0).checks.passed > 1);
    assert_eq!(balancer.destination(0).status.as_str(), "serving");
}

#[test]
fn tunnels_speak_tls_to_their_destinations_too() {
    let authority = Authority::new("ca");
    let server = Authority::server(&authority.issue(&["inside.test"]), None);
    let destination = Destination::start_tls(server, |visit| {
        while visit.read() {
            let bytes = std::mem::take(&mut visit.buffer);
            visit.send(bytes);
        }
    });
    let balancer = Setup::tcp(&[&destination])
        .with(|s| s.pools[0].tls = Some(believes(&authority, "inside.test")))
        .start();
    let mut client = balancer.connect();
    let bytes = noise(5, 300_000);
    for piece in bytes.chunks(60_000) {
        client.send(piece);
        client.expect(piece);
    }
    client.end();
    client.expect_end();
}

#[test]
fn an_answer_up_to_the_close_is_whole_only_if_tls_says_so() {
    let authority = Authority::new("ca");
    for announced in [true, false] {
        let server = Authority::server(&authority.issue(&["inside.test"]), None);
        let destination = Destination::start_tls(server, move |visit| {
            if visit.request().is_some() {
                visit.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole");
                if !announced {
                    visit.cut();
                }
            }
        });
        let balancer = behind(&destination, believes(&authority, "inside.test"));
        let mut client: Client = balancer.connect();
        client.send(get("/"));
        let answer = client.try_answer("GET");
        assert_eq!(answer.is_ok(), announced, "{answer:?}");
    }
}

#[test]
fn a_new_authority_is_believed_and_old_connections_are_not_used_again() {
    let (authority, next) = (Authority::new("ca"), Authority::new("next"));
    let destination =
        Destination::start_tls(Authority::server(&authority.issue(&["inside.test"]), None), hello("ok"));
    let setup = Setup::http(&[&destination]);
    let old = setup.clone().with(|s| s.pools[0].tls = Some(believes(&authority, "inside.test")));
    let balancer = old.start();
    assert_eq!(balancer.ask(get("/")).status, 200);
    balancer.reload(&old).expect("the same");
    assert_eq!(balancer.ask(get("/")).status, 200);
    assert_eq!(destination.connections(), 1, "nothing changed, so nothing was closed");
    balancer.reload(&setup.with(|s| s.pools[0].tls = Some(believes(&next, "inside.test")))).expect("good");
    assert_eq!(balancer.ask(get("/")).status, 503, "what proved enough before does not any more");
}
