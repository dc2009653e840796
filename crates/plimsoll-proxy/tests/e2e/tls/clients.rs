//! Client certificates at TLS listeners.

use std::sync::Arc;

use plimsoll_config::model::{CertificateFiles, ClientAuth};
use plimsoll_core::route::Match;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use super::with_tls;
use crate::kit::{
    Balancer, Client, Destination, Setup, TestCa, ms, respond_ok, route, unix_seconds, wait_until,
};

fn start_with_client_auth(destination: &Destination, ca: &TestCa, auth: ClientAuth) -> Balancer {
    with_tls(Setup::http(&[destination]), ca)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").client_auth = auth)
        .start()
}

/// Returns the status of a request with that certificate, or `None` if the connection was refused.
fn fetch(balancer: &Balancer, ca: &TestCa, identity: Option<&CertificateFiles>, lines: &str) -> Option<u16> {
    let mut statuses = Vec::new();
    for version in [&TLS12, &TLS13] {
        let config = ca.client_of(&[version], identity);
        let response =
            Client::try_connect_tls(balancer.endpoint(), config, "a.test").ok().and_then(|mut client| {
                client.try_send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n")).ok()?;
                // In TLS 1.3 the client learns of the refusal only here.
                client.try_read_response("GET").ok()
            });
        statuses.push(response.map(|response| response.status));
    }
    assert_eq!(statuses[0], statuses[1], "both versions give the same result");
    statuses[0]
}

#[test]
fn required_certificate_must_be_trusted() {
    let (ca, clients, other_ca) = (TestCa::new("ca"), TestCa::new("clients"), TestCa::new("others"));
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with_client_auth(&destination, &ca, ClientAuth::Required(clients.file()));
    let (right, wrong) = (clients.issue(&["device-7"]), other_ca.issue(&["device-7"]));
    assert_eq!(fetch(&balancer, &ca, None, ""), None);
    assert_eq!(fetch(&balancer, &ca, Some(&wrong), ""), None);
    assert_eq!(destination.connections(), 0);
    assert_eq!(fetch(&balancer, &ca, Some(&right), ""), Some(200));
    assert_eq!(balancer.refusals("handshake_failed"), 4);
}

#[test]
fn optional_certificate_is_forwarded_and_cannot_be_forged() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with_client_auth(&destination, &ca, ClientAuth::Optional(clients.file()));
    let device = clients.issue(&["device-7"]);
    let forged = "Client-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\n";
    assert_eq!(fetch(&balancer, &ca, None, forged), Some(200));
    assert_eq!(fetch(&balancer, &ca, Some(&device), forged), Some(200));
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
fn route_matches_the_verified_certificate_not_a_claimed_one() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let (known, fallback) =
        (Destination::start(respond_ok("known")), Destination::start(respond_ok("everybody")));
    let device = clients.issue(&["device-7"]);
    let probe = start_with_client_auth(&fallback, &ca, ClientAuth::Optional(clients.file()));
    assert_eq!(fetch(&probe, &ca, Some(&device), ""), Some(200));
    let value = fallback.requests()[0].fields.one("client-cert").expect("forwarded").to_owned();
    let balancer = with_tls(Setup::http(&[&fallback]).and_pool("known", &[&known]), &ca)
        .with(|s| {
            s.listeners[0].tls.as_mut().expect("set").client_auth = ClientAuth::Optional(clients.file());
            let headers = vec![("client-cert".to_owned(), value.clone())];
            s.listeners[0].routes = vec![route("known", 1, Match { headers, ..Match::default() })];
        })
        .start();
    assert_eq!(fetch(&balancer, &ca, None, &format!("Client-Cert: {value}\r\n")), Some(200));
    assert_eq!(known.requests().len(), 0, "a forged header does not match");
    assert_eq!(fetch(&balancer, &ca, Some(&device), ""), Some(200));
    assert_eq!(known.requests().len(), 2);
}

#[test]
fn unreadable_client_ca_fails_start_and_reload() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let file = clients.file();
    let setup = with_tls(Setup::http(&[&destination]), &ca)
        .with(|s| s.listeners[0].tls.as_mut().expect("set").client_auth = ClientAuth::Required(file.clone()));
    let balancer = setup.start();
    std::fs::remove_file(&file).expect("it was there");
    assert!(balancer.reload(&setup).is_err(), "the old CAs stay in use");
    assert_eq!(fetch(&balancer, &ca, None, ""), None);
    assert!(setup.try_start().is_err(), "a start without them fails");
}

#[test]
fn session_ticket_is_not_valid_at_a_listener_with_client_auth() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let balancer = with_tls(Setup::http(&[&destination]), &ca)
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
            assert_eq!(client.read_response().status, 200);
        }
        let inside = Client::try_connect_tls(balancer.endpoint_of("guarded"), config, "a.test");
        let response = inside.ok().and_then(|mut client| {
            client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
            client.try_read_response("GET").ok()
        });
        assert!(response.is_none(), "{response:?}");
    }
}

#[test]
fn chains_longer_than_ten_certificates_are_refused() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with_client_auth(&destination, &ca, ClientAuth::Required(clients.file()));
    let status = |files: &CertificateFiles| fetch(&balancer, &ca, Some(files), "");
    assert_eq!(status(&clients.issue_below(&["device-7"], 3)), Some(200));
    let files = clients.issue_below(&["device-7"], 3);
    let chain = std::fs::read_to_string(&files.cert).expect("just written");
    let other = std::fs::read_to_string(&clients.issue(&["other"]).cert).expect("just written");
    for (more, expected) in [(6, Some(200)), (7, None), (40, None)] {
        std::fs::write(&files.cert, chain.clone() + &other.repeat(more)).expect("a file");
        assert_eq!(status(&files), expected, "{} certificates", 4 + more);
    }
}

#[test]
fn revoked_certificate_is_refused_also_after_a_reload() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let list = clients.revocation_list(&[7]);
    let setup = with_tls(Setup::http(&[&destination]), &ca).with(|s| {
        let tls = s.listeners[0].tls.as_mut().expect("set");
        tls.client_auth = ClientAuth::Required(clients.file());
        tls.client_crl = Some(list.clone());
    });
    let balancer = setup.start();
    let (revoked, valid) =
        (clients.issue_numbered(&["device-7"], 7), clients.issue_numbered(&["device-8"], 8));
    assert_eq!(fetch(&balancer, &ca, Some(&revoked), ""), None);
    assert_eq!(fetch(&balancer, &ca, Some(&valid), ""), Some(200));
    let resumable = [&TLS12, &TLS13].map(|version| ca.client_of(&[version], Some(&valid)));
    let get = |config| {
        let mut client = Client::try_connect_tls(balancer.endpoint(), Arc::clone(config), "a.test").ok()?;
        client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
        client.try_read_response("GET").ok().map(|response| response.status)
    };
    assert_eq!(resumable.each_ref().map(get), [Some(200); 2]);
    std::fs::copy(clients.revocation_list(&[7, 8]), &list).expect("a file");
    balancer.reload(&setup).expect("a good list");
    assert_eq!(resumable.each_ref().map(get), [None; 2], "a session of a revoked certificate is not resumed");
    std::fs::copy(TestCa::new("clients").revocation_list(&[]), &list).expect("a file");
    balancer.reload(&setup).expect("a good list");
    assert_eq!(fetch(&balancer, &ca, Some(&valid), ""), None, "the list of another authority proves nothing");
    std::fs::write(&list, "no list").expect("a file");
    let error = balancer.reload(&setup).expect_err("no list").to_string();
    assert!(error.contains("certificate revocation list"), "{error}");
}

#[test]
fn expired_certificate_is_refused_on_resumption() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let destination = Destination::start(respond_ok("ok"));
    let balancer = start_with_client_auth(&destination, &ca, ClientAuth::Required(clients.file()));
    let not_after = unix_seconds() + 3;
    let files = clients.issue_until(&["device-7"], not_after);
    let configs = [&TLS12, &TLS13].map(|version| ca.client_of(&[version], Some(&files)));
    let get = |config| {
        let mut client = Client::try_connect_tls(balancer.endpoint(), Arc::clone(config), "a.test").ok()?;
        client.try_send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").ok()?;
        let status = client.try_read_response("GET").ok()?.status;
        Some((status, client.tls().handshake_kind() == Some(HandshakeKind::Resumed)))
    };
    assert_eq!(configs.each_ref().map(get), [Some((200, false)); 2]);
    assert_eq!(configs.each_ref().map(get), [Some((200, true)); 2]);
    while unix_seconds() <= not_after {
        std::thread::sleep(ms(50));
    }
    assert_eq!(configs.each_ref().map(get), [None; 2]);
    wait_until("it is counted", || balancer.refusals("handshake_failed") > 0);
}
