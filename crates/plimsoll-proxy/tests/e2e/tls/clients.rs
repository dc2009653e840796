//! Clients that must prove who they are.

use plimsoll_config::model::{CertificateFiles, ClientAuth};
use plimsoll_core::route::Match;
use rustls::version::{TLS12, TLS13};

use super::secured;
use crate::kit::{Authority, Balancer, Client, Destination, Setup, hello, route};

fn guarded(destination: &Destination, authority: &Authority, auth: ClientAuth) -> Balancer {
    secured(Setup::http(&[destination]), authority)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").client_auth = auth)
        .start()
}

/// The status of a request by a client with that certificate, or `None` when it was not let in.
fn ask(balancer: &Balancer, ca: &Authority, identity: Option<&CertificateFiles>, lines: &str) -> Option<u16> {
    let mut statuses = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = ca.client_of(&[version], identity);
        let answer =
            Client::try_connect_tls(balancer.place(), config, "a.test").ok().and_then(|mut client| {
                client.try_send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).ok()?;
                // In 1.3 a client learns only here that it was refused.
                client.try_answer("GET").ok()
            });
        statuses.push(answer.map(|answer| answer.status));
    }
    assert_eq!(statuses[0], statuses[1], "both versions are alike");
    statuses[0]
}

#[test]
fn nobody_comes_in_without_the_right_certificate() {
    let (ca, clients, strangers) =
        (Authority::new("ca"), Authority::new("clients"), Authority::new("others"));
    let destination = Destination::start(hello("ok"));
    let balancer = guarded(&destination, &ca, ClientAuth::Required(clients.file()));
    let (right, wrong) = (clients.issue(&["device-7"]), strangers.issue(&["device-7"]));
    assert_eq!(ask(&balancer, &ca, None, ""), None);
    assert_eq!(ask(&balancer, &ca, Some(&wrong), ""), None);
    assert_eq!(destination.connections(), 0);
    assert_eq!(ask(&balancer, &ca, Some(&right), ""), Some(200));
    assert_eq!(balancer.refused("handshake_failed"), 4);
}

#[test]
fn an_optional_certificate_is_forwarded_and_nobody_can_forge_it() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let destination = Destination::start(hello("ok"));
    let balancer = guarded(&destination, &ca, ClientAuth::Optional(clients.file()));
    let device = clients.issue(&["device-7"]);
    let forged = "Client-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n";
    assert_eq!(ask(&balancer, &ca, None, forged), Some(200));
    assert_eq!(ask(&balancer, &ca, Some(&device), forged), Some(200));
    let seen = destination.requests();
    assert!(seen[..2].iter().all(|r| !r.fields.has("client-cert") && !r.fields.has("client-cert-chain")));
    for request in &seen[2..] {
        assert_eq!(request.fields.all("client-cert").len(), 1);
        let value = request.fields.one("client-cert").expect("forwarded");
        assert!(value.starts_with(":MII") && value.ends_with(':') && value.len() > 300, "{value}");
        assert!(!request.fields.has("client-cert-chain"));
    }
}

#[test]
fn a_route_sees_the_certificate_that_was_proven_and_not_the_one_that_was_claimed() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let (known, everybody) = (Destination::start(hello("known")), Destination::start(hello("everybody")));
    let device = clients.issue(&["device-7"]);
    let probe = guarded(&everybody, &ca, ClientAuth::Optional(clients.file()));
    assert_eq!(ask(&probe, &ca, Some(&device), ""), Some(200));
    let value = everybody.requests()[0].fields.one("client-cert").expect("forwarded").to_owned();
    let balancer = secured(Setup::http(&[&everybody]).and_pool("known", &[&known]), &ca)
        .with(|s| {
            s.listeners[0].tls.as_mut().expect("set").client_auth = ClientAuth::Optional(clients.file());
            let headers = vec![("client-cert".to_owned(), value.clone())];
            s.listeners[0].routes = vec![route("known", 1, Match { headers, ..Match::default() })];
        })
        .start();
    assert_eq!(ask(&balancer, &ca, None, &format!("Client-Cert: {value}\r\n")), Some(200));
    assert_eq!(known.requests().len(), 0, "a claim is no proof");
    assert_eq!(ask(&balancer, &ca, Some(&device), ""), Some(200));
    assert_eq!(known.requests().len(), 2);
}

#[test]
fn an_authority_that_cannot_be_read_lets_nobody_in() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let destination = Destination::start(hello("ok"));
    let file = clients.file();
    let setup = secured(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").client_auth = ClientAuth::Required(file.clone()));
    let balancer = setup.start();
    std::fs::remove_file(&file).expect("it was there");
    assert!(balancer.reload(&setup).is_err(), "the old authorities stay in force");
    assert_eq!(ask(&balancer, &ca, None, ""), None);
    assert!(setup.try_start().is_err(), "and nothing starts without them");
}

#[test]
fn a_session_of_one_listener_is_not_good_at_another_that_asks_for_more() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let destination = Destination::start(hello("ok"));
    let balancer = secured(Setup::http(&[&destination]), &ca)
        .with(|s| {
            let mut guarded = s.listeners[0].clone();
            guarded.name = "guarded".into();
            guarded.tls.as_mut().expect("set").client_auth = ClientAuth::Required(clients.file());
            s.listeners.push(guarded);
        })
        .start();
    for version in [&TLS12, &TLS13] {
        let config = ca.client_of(&[version], None);
        for _ in 0..2 {
            let mut client = balancer.connect_tls(&config, "a.test");
            client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
            assert_eq!(client.answer().status, 200);
        }
        let inside = Client::try_connect_tls(balancer.place_of("guarded"), config, "a.test");
        let answer = inside.ok().and_then(|mut client| {
            client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
            client.try_answer("GET").ok()
        });
        assert!(answer.is_none(), "{answer:?}");
    }
}
