//! Start, reload and drain: all or nothing, and no request is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use plimsoll_config::model::ListenAddress;
use plimsoll_core::Weight;
use plimsoll_proxy::{ReloadError, StartError};

use crate::kit::{
    Balancer, Client, Destination, Endpoint, Gate, Setup, Stopwatch, TempPath, get, ms, ok, respond_ok, secs,
    wait_until,
};

fn start_gated(gate: &Gate) -> Destination {
    let wait = gate.clone();
    Destination::start(move |conn| {
        while let Some(request) = conn.request() {
            if request.target == "/long" {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
                wait.wait();
                conn.send("half");
            } else {
                conn.send(ok("quick"));
            }
        }
    })
}

#[test]
fn drain_finishes_requests_closes_idle_connections_and_stops_accepting() {
    let gate = Gate::default();
    let destination = start_gated(&gate);
    let balancer = Setup::http(&[&destination]).with(|s| s.workers = 2).start();
    let mut running = balancer.connect();
    running.send(get("/long"));
    running.expect("HTTP/1.1 200 OK\r\n");
    let (mut idle, mut fresh, mut begun) = (balancer.connect(), balancer.connect(), balancer.connect());
    idle.send(get("/"));
    assert!(!idle.read_response().closes());
    begun.send("GET / HTTP/1.1\r\nHo");
    wait_until("all are in", || balancer.active() == 4);
    let stopwatch = Stopwatch::start();
    balancer.handle.drain();
    wait_until("new connections are refused", || Client::try_connect(balancer.endpoint()).is_err());
    idle.expect_closed();
    fresh.expect_closed();
    assert!(stopwatch.elapsed() < secs(3), "resting connections ended after {:?}", stopwatch.elapsed());
    begun.send("st: t\r\n\r\n");
    let response = begun.read_response();
    assert_eq!(
        (response.status, response.closes()),
        (200, true),
        "a request under way is served, and the last"
    );
    begun.expect_closed();
    assert!(!balancer.has_ended());
    gate.open();
    running.expect("Content-Length: 8\r\n\r\nhalfhalf");
    running.expect_closed();
    wait_until("the drain has ended", || balancer.has_ended());
    assert_eq!(balancer.refusals("header_timeout"), 0, "no client was too slow");
}

#[test]
fn busy_connection_gets_connection_close_in_a_drain() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let mut client = balancer.connect();
    client.send(get("/"));
    assert!(!client.read_response().closes());
    balancer.handle.drain();
    wait_until("new connections are refused", || Client::try_connect(balancer.endpoint()).is_err());
    client.send(get("/"));
    let response = client.read_response();
    assert_eq!((response.status, response.closes()), (200, true));
    client.expect_closed();
    assert!(matches!(balancer.reload(&Setup::http(&[&destination])), Err(ReloadError::Draining)));
}

#[test]
fn reload_keeps_connections_counters_and_the_rotation() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(respond_ok(name)));
    let [a, b, c] = &destinations;
    let setup = Setup::http(&[a, b, c]);
    let balancer = setup.start();
    let mut client = balancer.connect();
    let mut fetch = || {
        client.send(get("/"));
        client.read_response().text()
    };
    assert_eq!([fetch(), fetch(), fetch(), fetch()].concat(), "abca");
    let changed = setup.clone().with(|s| {
        s.listeners[0].via = true;
        s.pools[0].timeouts.response = secs(7);
    });
    let summary = balancer.reload(&changed).expect("a good configuration");
    assert!(summary.contains("1 changed"), "{summary}");
    assert_eq!([fetch(), fetch(), fetch()].concat(), "bca", "the rotation continues");
    let connections: Vec<usize> = destinations.iter().map(Destination::connections).collect();
    assert_eq!(connections, [1, 1, 1], "pooled connections are kept");
    assert_eq!(balancer.destination(0).counts.answered(), 3);
    wait_until("requests went on being counted", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        rule.requests.iter().flatten().sum::<u64>() == 7
    });
    assert_eq!(balancer.handle.traffic().listeners[0].counts.total, 1, "and the client stayed");
    assert!(a.requests().last().is_some_and(|r| r.fields.has("via")) || b.requests()[1].fields.has("via"));
}

#[test]
fn reload_adds_removes_and_moves_destinations() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(respond_ok(name)));
    let [a, b, c] = &destinations;
    let balancer = Setup::http(&[a, b]).start();
    let distinct_names = |n: usize| {
        let mut names: Vec<String> = (0..n).map(|_| balancer.fetch(get("/")).text()).collect();
        names.sort();
        names.dedup();
        names.concat()
    };
    assert_eq!(distinct_names(4), "ab");
    balancer.reload(&Setup::http(&[a, b, c])).expect("good");
    wait_until("the new one serves", || distinct_names(6) == "abc");
    balancer.reload(&Setup::http(&[a])).expect("good");
    wait_until("the others are removed", || distinct_names(6) == "a");
    wait_until("and so are their connections", || b.open() == 0 && c.open() == 0);
    // The same name at another address: connections to the old one are not reused.
    let moved = Setup::http(&[a]).with(|s| s.pools[0].destinations[0].address = c.endpoint.as_destination());
    balancer.reload(&moved).expect("good");
    wait_until("it has moved", || distinct_names(3) == "c");
    let heavier = Setup::http(&[a, b]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0));
    balancer.reload(&heavier).expect("good");
    wait_until("weights are heeded", || distinct_names(6) == "b");
}

#[test]
fn reload_opens_and_closes_listeners() {
    let destination = Destination::start(respond_ok("ok"));
    let setup = Setup::http(&[&destination]).with(|s| s.workers = 2);
    let balancer = setup.start();
    let first = balancer.endpoint();
    let two = setup.clone().with(|s| {
        let mut second = s.listeners[0].clone();
        second.name = "second".into();
        s.listeners.push(second);
    });
    balancer.reload(&two).expect("good");
    assert_eq!(balancer.endpoint(), first, "a listener keeps its socket");
    let second = balancer.endpoint_of("second");
    let mut old = Client::connect(first.clone());
    old.expect_open();
    Client::connect(second.clone()).expect_open();
    let one = two.clone().with(|s| drop(s.listeners.remove(0)));
    balancer.reload(&one).expect("good");
    wait_until("the first listener is closed", || Client::try_connect(first.clone()).is_err());
    Client::connect(second).expect_open();
    old.send(get("/"));
    let response = old.read_response();
    assert_eq!(
        (response.status, response.closes()),
        (200, true),
        "an open connection serves one more request"
    );
    old.expect_closed();
}

#[test]
fn reload_may_rename_a_listener_on_its_address() {
    let path = TempPath::new("renamed.sock");
    let destination = Destination::start(respond_ok("ok"));
    for workers in [1, 2] {
        for by_path in [false, true] {
            let setup = Setup::http(&[&destination]).with(|s| s.workers = workers);
            let endpoint = if by_path { path.endpoint() } else { setup.start().endpoint() };
            let named = |name: &str| {
                setup.clone().with(|s| {
                    s.listeners[0].name = name.into();
                    s.listeners[0].addresses = vec![endpoint.as_listener()];
                })
            };
            let mut balancer = None;
            wait_until("the address is free", || {
                balancer = named("old").try_start().ok();
                balancer.is_some()
            });
            let balancer = balancer.expect("started");
            let mut established = Client::connect(endpoint.clone());
            established.expect_open();
            balancer.reload(&named("new")).expect("the proxy holds the address already");
            assert_eq!(balancer.handle.addresses().len(), 1);
            for _ in 0..20 {
                let mut client = Client::connect(endpoint.clone());
                client.send(get("/"));
                assert_eq!(client.read_response().text(), "ok");
            }
            established.send(get("/"));
            assert_eq!(established.read_response().status, 200, "an open connection is served");
        }
    }
}

#[test]
fn failed_reload_changes_nothing() {
    let destinations = ["old", "new"].map(|name| Destination::start(respond_ok(name)));
    let setup = Setup::http(&[&destinations[0]]);
    let balancer = setup.start();
    let (first, mut client) = (balancer.endpoint(), balancer.connect());
    let in_use = destinations[1].endpoint.as_listener();
    let foreign = Endpoint::from(std::net::SocketAddr::from(([192, 0, 2, 1], 8080))).as_listener();
    for address in [in_use, foreign] {
        let bad = Setup::http(&[&destinations[1]]).with(|s| {
            let mut second = s.listeners[0].clone();
            (second.name, second.addresses) = ("second".into(), vec![address.clone()]);
            s.listeners.push(second);
        });
        let error = balancer.reload(&bad).expect_err("that address is not to be had");
        assert!(matches!(&error, ReloadError::Start(StartError::Bind { .. })), "{error}");
        assert!(error.to_string().contains("second"), "{error}");
    }
    let error = balancer.reload_to(Err("line 3: nonsense".into())).expect_err("it is invalid");
    assert_eq!(error.to_string(), "line 3: nonsense");
    client.send(get("/"));
    assert_eq!(client.read_response().text(), "old");
    let (reloads, names) = (balancer.handle.traffic().reloads, balancer.handle.addresses());
    assert_eq!((reloads.succeeded, reloads.failed, reloads.last_succeeded), (0, 3, false));
    assert_eq!((names.len(), balancer.endpoint()), (1, first));
    balancer.reload(&setup).expect("good");
    assert!(balancer.handle.traffic().reloads.last_succeeded);
}

#[test]
fn failed_start_leaves_nothing_open() {
    let destination = Destination::start(respond_ok("ok"));
    let spare = Destination::absent(respond_ok("unused"));
    for workers in [1, 2] {
        let bad = Setup::http(&[&destination]).with(|s| {
            s.workers = workers;
            s.listeners[0].addresses = vec![spare.endpoint.as_listener()];
            let mut second = s.listeners[0].clone();
            (second.name, second.addresses) = ("second".into(), vec![destination.endpoint.as_listener()]);
            s.listeners.push(second);
        });
        let error = bad.try_start().expect_err("the address is busy");
        assert!(matches!(&error, StartError::Bind { listener, .. } if &**listener == "second"), "{error}");
        assert!(Client::try_connect(spare.endpoint.clone()).is_err(), "the first listener is closed again");
    }
    let path = TempPath::new("busy");
    let other = Destination::start_unix(&path, respond_ok("other"));
    let bad =
        Setup::http(&[&destination]).with(|s| s.listeners[0].addresses = vec![other.endpoint.as_listener()]);
    assert!(bad.try_start().is_err(), "a socket file in use is not replaced");
    assert!(Client::try_connect(other.endpoint.clone()).is_ok());
}

#[test]
fn reloads_under_load_cause_no_client_errors() {
    let destinations = ["a", "b", "c"].map(|name| Destination::start(respond_ok(name)));
    let [a, b, c] = &destinations;
    let setups = [Setup::http(&[a, b, c]), Setup::http(&[b, a]), Setup::http(&[c])];
    let setups = setups.map(|s| s.with(|s| s.workers = 2));
    let balancer = setups[0].start();
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (endpoint, stop) = (balancer.endpoint(), stop.clone());
                scope.spawn(move || {
                    let (mut client, mut responses) = (Client::connect(endpoint), 0);
                    while !stop.load(SeqCst) {
                        client.send(get("/"));
                        let response = client.read_response();
                        assert_eq!((response.status, response.closes()), (200, false));
                        responses += 1;
                    }
                    responses
                })
            })
            .collect();
        for n in 0..60 {
            balancer.reload(&setups[n % 3]).expect("good");
            std::thread::sleep(ms(15));
        }
        stop.store(true, SeqCst);
        let responses: u32 = clients.into_iter().map(|client| client.join().expect("no errors")).sum();
        assert!(responses > 500, "{responses}");
    });
    assert_eq!(balancer.handle.traffic().reloads.succeeded, 60);
}

#[test]
fn every_assignment_is_released() {
    let destination = Destination::start(|conn| {
        while let Some(request) = conn.request() {
            match request.target.as_str() {
                "/reset" => return conn.reset(),
                "/close" => return,
                "/garbage" => conn.send("garbage\r\n\r\n"),
                "/half" => {
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                    return;
                }
                "/silent" => return conn.read_to_end(),
                _ => conn.send(ok("fine")),
            };
        }
    });
    let balancer: Balancer =
        Setup::http(&[&destination]).with(|s| s.pools[0].timeouts.response = ms(100)).start();
    for round in 0..5 {
        for path in ["/", "/reset", "/close", "/garbage", "/half", "/silent"] {
            for aborts in [false, true] {
                let mut client = balancer.connect();
                client.send(get(path));
                if aborts {
                    client.abort();
                } else {
                    let _whatever = client.try_read_response("GET");
                }
            }
        }
        wait_until("all is given back", || {
            let rules = &balancer.handle.traffic().routes[0].counts;
            balancer.destination(0).in_flight == 0 && balancer.active() == 0 && rules.in_flight == 0
        });
        assert_eq!(balancer.fetch(get("/")).text(), "fine", "round {round}");
    }
}

#[test]
fn listener_may_have_several_addresses() {
    let destination = Destination::start(respond_ok("ok"));
    let path = TempPath::new("second");
    let setup = Setup::http(&[&destination]);
    let both = setup.clone().with(|s| s.listeners[0].addresses.push(path.endpoint().as_listener()));
    let balancer = both.start();
    for endpoint in [balancer.endpoint(), path.endpoint()] {
        Client::connect(endpoint).expect_open();
    }
    wait_until("both are counted", || balancer.handle.traffic().listeners[0].counts.total == 2);
    balancer.reload(&setup).expect("good");
    wait_until("the second address is shut", || Client::try_connect(path.endpoint()).is_err());
    Client::connect(balancer.endpoint()).expect_open();
    balancer.reload(&both).expect("the leftover socket file is replaced");
    Client::connect(path.endpoint()).expect_open();
}

/// Returns the port of the first listener, on the loopback address of IPv4.
fn port_of(balancer: &Balancer) -> u16 {
    match balancer.endpoint() {
        Endpoint::Tcp(address) => address.port(),
        Endpoint::Unix(path) => panic!("a Unix socket: {path:?}"),
    }
}

fn listen_on(hosts: &[&str], port: u16) -> Vec<ListenAddress> {
    hosts.iter().map(|host| ListenAddress::Socket(format!("{host}:{port}").parse().expect("valid"))).collect()
}

#[test]
fn port_moves_between_overlapping_addresses() {
    let destination = Destination::start(respond_ok("ok"));
    for workers in [1, 2] {
        let setup = Setup::http(&[&destination]).with(|s| s.workers = workers);
        let balancer = setup.start();
        let port = port_of(&balancer);
        for hosts in [
            &["0.0.0.0"][..],
            &["127.0.0.1"],
            &["[::]"],
            &["0.0.0.0", "[::]"],
            &["127.0.0.1", "0.0.0.0"],
            &["[::1]", "[::]", "127.0.0.1"],
            &["[::]"],
            &["127.0.0.1"],
        ] {
            let next = setup.clone().with(|s| s.listeners[0].addresses = listen_on(hosts, port));
            balancer.reload(&next).unwrap_or_else(|error| panic!("{hosts:?}: {error}"));
            let mut reachable = vec![format!("127.0.0.1:{port}")];
            reachable.extend(hosts.iter().any(|host| host.contains(':')).then(|| format!("[::1]:{port}")));
            for address in reachable {
                let address: std::net::SocketAddr = address.parse().expect("valid");
                for _ in 0..8 {
                    Client::connect(address).expect_open();
                }
            }
        }
    }
}

#[test]
fn the_most_specific_address_gets_the_connection() {
    let (wide, own) = (Destination::start(respond_ok("wide")), Destination::start(respond_ok("own")));
    let port = port_of(&Setup::http(&[&wide]).start());
    let balancer = Setup::http(&[&wide])
        .and_pool("own", &[&own])
        .with(|s| {
            s.workers = 2;
            s.listeners[0].addresses = listen_on(&["[::]", "0.0.0.0"], port);
            let mut second = s.listeners[0].clone();
            (second.name, second.pool) = ("own".into(), Some(1));
            second.addresses = listen_on(&["127.0.0.1"], port);
            s.listeners.push(second);
        })
        .start();
    for _ in 0..8 {
        for (host, expected) in [("127.0.0.1", "own"), ("127.0.0.2", "wide"), ("[::1]", "wide")] {
            let address: std::net::SocketAddr = format!("{host}:{port}").parse().expect("valid");
            let mut client = Client::connect(address);
            client.send(get("/"));
            assert_eq!(client.read_response().text(), expected, "{host}");
        }
    }
    let foreign = Destination::start(respond_ok("foreign"));
    let Endpoint::Tcp(held) = foreign.endpoint.clone() else { panic!("TCP") };
    for host in ["0.0.0.0", "[::]"] {
        let taken =
            Setup::http(&[&wide]).with(|s| s.listeners[0].addresses = listen_on(&[host], held.port()));
        assert!(taken.try_start().is_err(), "{host}: the port belongs to another socket");
    }
    drop(balancer);
}

#[test]
fn unix_socket_has_its_mode_and_is_removed_at_the_stop() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let destination = Destination::start(respond_ok("ok"));
    let (path, other) = (TempPath::new("listen"), TempPath::new("other"));
    let setup = Setup::http(&[&destination]).with(|s| {
        s.listeners[0].addresses = vec![path.endpoint().as_listener()];
        s.listeners[0].unix.mode = Some(0o600);
        s.listeners[0].unix.group = std::fs::metadata("/proc/self").ok().map(|own| own.gid());
    });
    let mode = |path: &TempPath| {
        std::fs::metadata(path.path()).ok().map(|metadata| metadata.permissions().mode() & 0o777)
    };
    let balancer = setup.start();
    assert_eq!(mode(&path), Some(0o600));
    let mut open = balancer.connect();
    let looser = setup.clone().with(|s| s.listeners[0].unix.mode = Some(0o666));
    balancer.reload(&looser).expect("another mode");
    assert_eq!(mode(&path), Some(0o666));
    open.expect_open();
    balancer.connect().expect_open();
    let moved = looser.clone().with(|s| s.listeners[0].addresses = vec![other.endpoint().as_listener()]);
    balancer.reload(&moved).expect("another path");
    assert_eq!((mode(&path), mode(&other)), (None, Some(0o666)));
    std::fs::remove_file(other.path()).expect("it is there");
    let successor = Destination::start_unix(&other, respond_ok("successor"));
    drop(open);
    drop(balancer);
    assert!(Client::try_connect(successor.endpoint.clone()).is_ok(), "the file of another socket is kept");
    drop(setup.start());
    assert_eq!(mode(&path), None);
}

#[test]
fn rejected_reload_keeps_the_file_of_a_unix_socket() {
    let destination = Destination::start(respond_ok("ok"));
    let path = TempPath::new("listen");
    let setup =
        Setup::http(&[&destination]).with(|s| s.listeners[0].addresses = vec![path.endpoint().as_listener()]);
    let balancer = setup.start();
    let bad = setup.clone().with(|s| {
        s.listeners[0].unix.mode = Some(0o666);
        let mut second = s.listeners[0].clone();
        (second.name, second.addresses) = ("second".into(), vec![destination.endpoint.as_listener()]);
        s.listeners.push(second);
    });
    assert!(balancer.reload(&bad).is_err(), "the second address is busy");
    balancer.connect().expect_open();
}
