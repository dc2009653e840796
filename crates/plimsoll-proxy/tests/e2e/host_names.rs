//! Destinations given by host name: lookups, changes of addresses, and names that are unknown.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_config::model::{Destination, DestinationAddress};
use plimsoll_core::Status;
use plimsoll_core::health::{HealthSpec, ProbeKind};

use crate::kit::{Balancer, Names, Setup, ms, respond_ok, secs, wait_until};

const HOST: &str = "backend.test";

/// HTTP servers on several loopback addresses with the same port, which respond with their address.
struct Servers {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Servers {
    /// Starts a server on each of 127.0.0.1 to 127.0.0.`count`.
    fn start(count: u8) -> Self {
        let heads = Arc::default();
        for _ in 0..100 {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let port = first.local_addr().expect("an address").port();
            let others = (2..=count).map(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)));
            let Ok(others) = others.collect::<Result<Vec<_>, _>>() else { continue };
            for listener in std::iter::once(first).chain(others) {
                let heads = Arc::clone(&heads);
                std::thread::spawn(move || serve(&listener, &heads));
            }
            return Self { port, heads };
        }
        panic!("no port is free on all addresses");
    }

    /// Returns a proxy in front of the name, looked up ten times a second.
    fn setup(&self, names: &Names) -> Setup {
        Setup::http(&[]).with(|s| {
            s.names = Some(names.clone());
            s.pools[0].resolve_every = ms(100);
            let address = DestinationAddress::Name(HOST.into(), self.port);
            s.pools[0].destinations = vec![Destination::new("main", address)];
        })
    }
}

fn serve(listener: &TcpListener, heads: &Mutex<Vec<String>>) {
    let address = listener.local_addr().expect("an address").ip().to_string();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let Some(head) = read_head(&mut stream) else { continue };
        heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        let length = address.len();
        let response =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{address}");
        let _client_has_gone = stream.write_all(response.as_bytes());
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Returns the addresses that responded to 12 requests, each once.
fn responders(balancer: &Balancer) -> Vec<String> {
    let mut seen: Vec<String> =
        (0..12).map(|_| balancer.fetch("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text()).collect();
    seen.sort();
    seen.dedup();
    seen
}

fn destination_names(balancer: &Balancer) -> Vec<String> {
    balancer.pools()[0].destinations.iter().map(|d| d.name.to_string()).collect()
}

#[test]
fn each_address_of_a_name_is_a_destination_of_its_own() {
    let (servers, names) = (Servers::start(2), Names::default());
    names.set(HOST, &[[127, 0, 0, 2], [127, 0, 0, 1], [127, 0, 0, 2]]);
    let balancer = servers.setup(&names).start();
    let port = servers.port;
    assert_eq!(
        destination_names(&balancer),
        [format!("main/127.0.0.1:{port}"), format!("main/127.0.0.2:{port}")]
    );
    assert_eq!(responders(&balancer), ["127.0.0.1", "127.0.0.2"]);
}

#[test]
fn changed_addresses_are_followed_and_state_is_kept_for_those_that_stay() {
    let (servers, names) = (Servers::start(3), Names::default());
    names.set(HOST, &[[127, 0, 0, 1], [127, 0, 0, 2]]);
    let balancer = servers.setup(&names).start();
    responders(&balancer);
    let kept = balancer.destination(1).counts.started;
    assert_eq!(kept, 6);
    names.set(HOST, &[[127, 0, 0, 2], [127, 0, 0, 3]]);
    wait_until("the new address is in use", || destination_names(&balancer)[1].contains("127.0.0.3"));
    assert_eq!(balancer.destination(0).counts.started, kept, "the counts of the address that stays");
    assert_eq!(responders(&balancer), ["127.0.0.2", "127.0.0.3"]);
}

#[test]
fn known_addresses_outlive_a_failed_lookup() {
    let (servers, names) = (Servers::start(1), Names::default());
    names.set(HOST, &[[127, 0, 0, 1]]);
    let balancer = servers.setup(&names).start();
    names.remove(HOST);
    let failed = || balancer.pools()[0].lookups.expect("a pool with names").failed;
    wait_until("lookups fail", || failed() >= 2);
    assert_eq!(responders(&balancer), ["127.0.0.1"]);
    // An empty answer of the name server is a failed lookup as well.
    names.set(HOST, &[]);
    let before = failed();
    wait_until("more lookups fail", || failed() >= before + 2);
    assert_eq!(responders(&balancer), ["127.0.0.1"]);
    assert_eq!(balancer.reload(&servers.setup(&names)).map_err(|error| error.to_string()).err(), None);
    assert_eq!(responders(&balancer), ["127.0.0.1"], "also after a reload");
}

#[test]
fn unknown_name_is_down_while_the_rest_serves() {
    let (servers, names) = (Servers::start(1), Names::default());
    let other = crate::kit::Destination::start(respond_ok("other"));
    let setup = servers.setup(&names).with(|s| {
        s.pools[0].destinations.push(Destination::new("other", other.endpoint.as_destination()));
    });
    let balancer = setup.start();
    assert_eq!(responders(&balancer), ["other"]);
    let unknown = balancer.destination(0);
    assert_eq!((&*unknown.name, unknown.status), ("main", Status::Down));
    assert_eq!(unknown.address, format!("{HOST}:{}", servers.port));
    let reason = unknown.report.and_then(|report| report.reason).expect("a reason");
    assert_eq!(reason.as_str(), "unresolved");
    assert!(reason.to_string().contains("no such name"), "{reason}");
    balancer.reload(&setup).expect("an unknown name prevents no reload");
    names.set(HOST, &[[127, 0, 0, 1]]);
    wait_until("the name is known", || responders(&balancer) == ["127.0.0.1", "other"]);
}

#[test]
fn pool_of_an_unknown_name_refuses_requests_until_the_name_is_known() {
    let (servers, names) = (Servers::start(1), Names::default());
    let balancer = servers.setup(&names).start();
    let response = balancer.fetch("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(response.status, 503);
    assert!(response.text().contains("no_healthy_destination"), "{response:?}");
    names.set(HOST, &[[127, 0, 0, 1]]);
    wait_until("the name is known", || balancer.fetch("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200);
}

#[test]
fn checks_ask_for_the_configured_name() {
    let (servers, names) = (Servers::start(1), Names::default());
    names.set(HOST, &[[127, 0, 0, 1]]);
    let probe = ProbeKind::Http {
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        expect: Arc::new([(200, 399)]),
        headers: Arc::new([]),
        body: None,
    };
    let balancer = servers
        .setup(&names)
        .with(|s| {
            s.pools[0].health = Some(HealthSpec {
                check_interval: secs(10),
                timeout: secs(5),
                failure_threshold: 1,
                recovery_threshold: 1,
                probe,
                probe_if_unresponsive: None,
                port: None,
                schedule: Default::default(),
            });
        })
        .start();
    wait_until("a check passes", || balancer.destination(0).checks.passed > 0);
    let heads = servers.heads.lock().unwrap_or_else(PoisonError::into_inner);
    let host = format!("\r\nhost: {HOST}:{}\r\n", servers.port);
    assert!(heads[0].to_ascii_lowercase().contains(&host), "{}", heads[0]);
}
