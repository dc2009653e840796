//! TCP connections: bytes both ways untouched, each end by itself, and a destination that can be reached.

use crate::kit::{
    Balancer, BlackHole, Client, Destination, Gate, Kind, Setup, Temporary, Visit, Watch, checksum, ms,
    noise, raise_descriptor_limit, secs, until,
};

const BULK: usize = 16 << 20;

/// Sends everything back, and ends when the client does.
fn echo(visit: &mut Visit) {
    while visit.read() {
        let bytes = std::mem::take(&mut visit.buffer);
        if !visit.send(bytes) {
            return;
        }
    }
}

fn names_itself(name: &'static str) -> Destination {
    Destination::start(move |visit| {
        visit.send(name);
        echo(visit);
    })
}

#[test]
fn bytes_go_both_ways_whoever_speaks_first() {
    let destination = names_itself("220 hello\r\n");
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.expect("220 hello\r\n");
    for n in 0..100_u8 {
        client.send([n; 7]);
        client.expect([n; 7]);
    }
    let mut hasty = balancer.connect();
    hasty.send("GET / HTTP/1.1\r\n\0\0 anything at all");
    hasty.expect("220 hello\r\nGET / HTTP/1.1\r\n\0\0 anything at all");
}

#[test]
fn each_side_may_finish_first_and_still_listen() {
    let destination = Destination::start(|visit| {
        visit.read_to_end();
        let all = std::mem::take(&mut visit.buffer);
        visit.send(all);
        visit.send(" and goodbye");
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("said before the end");
    client.end();
    client.expect("said before the end and goodbye");
    client.expect_end();

    let destination = Destination::start(|visit| {
        visit.send("my last word");
        visit.end();
        visit.read_to_end();
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.expect("my last word");
    assert_eq!(client.read_some(), Ok(0));
    client.send("but mine is ");
    client.send("longer");
    client.end();
    until("it has heard all", || destination.records()[0] == b"but mine is longer");
    until("and all is over", || balancer.active() == 0 && destination.open() == 0);
}

#[test]
fn bulk_both_ways_at_once() {
    let (to_client, to_destination) = (noise(11, BULK), noise(12, BULK));
    let sums = (checksum(&to_client), checksum(&to_destination));
    let destination = Destination::start(move |visit| {
        let mut reader = visit.twin();
        std::thread::scope(|scope| {
            scope.spawn(|| reader.read_to_end());
            visit.send(&to_client);
            visit.end();
        });
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    let mut sender = client.twin();
    let sending = std::thread::spawn(move || {
        sender.send(to_destination);
        sender.end();
    });
    let got = client.rest();
    assert_eq!((got.kind, got.received.len(), checksum(&got.received)), (Kind::Closed, BULK, sums.0));
    sending.join().expect("all was taken");
    until("all is there", || destination.received() == BULK);
    assert_eq!(checksum(&destination.records()[0]), sums.1);
}

/// See the same number in the HTTP tests: what four sockets hold, and little of the proxy's own.
const UNDER_WAY: usize = 24 << 20;

#[test]
fn a_reader_that_does_not_read_holds_its_sender_up() {
    let gate = Gate::default();
    let wait = gate.clone();
    let deaf = Destination::start(move |visit| {
        visit.receive_little();
        wait.pass();
        visit.receive_much();
        visit.read_to_end();
    });
    let balancer = Setup::tcp(&[&deaf]).start();
    let mut client = balancer.connect();
    let sent = client.send_until_full(&[b'x'; 65_536], 64 << 20, ms(300));
    assert!(sent < UNDER_WAY, "{sent} bytes were taken for a destination that reads nothing");
    gate.open();
    client.end();
    until("all that was taken arrives", || deaf.received() == sent);

    let (full, sent) = (Gate::default(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let (told, count) = (full.clone(), sent.clone());
    let flood = Destination::start(move |visit| {
        count.store(
            visit.send_until_full(&[b'x'; 65_536], 64 << 20, ms(300)),
            std::sync::atomic::Ordering::SeqCst,
        );
        told.open();
        visit.end();
        visit.read_to_end();
    });
    let balancer = Setup::tcp(&[&flood]).start();
    let mut client = balancer.connect();
    client.receive_little();
    full.pass();
    let sent = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(sent < UNDER_WAY, "{sent} bytes were taken for a client that reads nothing");
    client.receive_much();
    assert_eq!(client.rest().received.len(), sent, "all that was taken arrives");
}

#[test]
fn silence_both_ways_ends_a_connection_and_a_byte_either_way_does_not() {
    let speaks = Destination::start(|visit| {
        while visit.send(".") {
            std::thread::sleep(ms(50));
        }
    });
    let hears = Destination::start(|visit| visit.read_to_end());
    let short = |s: &mut Setup| (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(300), ms(200));
    let balancer = Setup::tcp(&[&hears]).with(short).start();
    let watch = Watch::start();
    let mut silent = balancer.connect();
    silent.expect_end();
    let took = watch.elapsed();
    assert!(took >= ms(300) && took < secs(5), "the longer of the two counts: {took:?}");
    let mut talks = balancer.connect();
    talks.send_in_steps([b'x'; 15], 1, ms(50));
    assert!(!talks.has_bytes(), "15 bytes took 750 ms, and it is still open");
    until("they have arrived", || hears.records().iter().any(|r| r.len() == 15));
    let balancer = Setup::tcp(&[&speaks]).with(short).start();
    let mut listens = balancer.connect();
    let watch = Watch::start();
    while watch.elapsed() < ms(900) {
        assert!(matches!(listens.read_some(), Ok(1..)));
    }
}

#[test]
fn a_destination_that_cannot_be_reached_is_passed_over() {
    let (dead, live) = (Destination::absent(echo), names_itself("live"));
    let balancer = Setup::tcp(&[&dead, &live]).start();
    for _ in 0..20 {
        let mut client = balancer.connect();
        client.send("early");
        client.expect("liveearly");
    }
    assert!(balancer.retries() >= 10);
    assert_eq!(balancer.destination(0).counts.failed(), balancer.retries());
    assert_eq!(balancer.destination(1).counts.answered(), 20);
}

#[test]
fn a_connect_that_hangs_is_given_up() {
    let (hole, live) = (BlackHole::open(), names_itself("live"));
    let short = |s: &mut Setup| s.pools[0].timeouts.connect = ms(200);
    let balancer = Setup::tcp(&[&hole.destination, &live]).with(short).start();
    for _ in 0..3 {
        let mut client = balancer.connect();
        client.send("early");
        client.expect("liveearly");
    }
    let alone = Setup::tcp(&[&hole.destination]).with(short).start();
    let watch = Watch::start();
    assert_eq!(alone.connect().rest().kind, Kind::Reset);
    assert!(watch.elapsed() >= ms(200) && watch.elapsed() < secs(5), "{:?}", watch.elapsed());
}

#[test]
fn nobody_to_serve_is_a_reset() {
    let dead = [Destination::absent(echo), Destination::absent(echo)];
    let balancer = Setup::tcp(&[&dead[0], &dead[1]]).start();
    let watch = Watch::start();
    let mut client = balancer.connect();
    assert_eq!(client.rest().kind, Kind::Reset, "an end of data would look like an empty answer");
    assert!(watch.elapsed() < secs(1));
    until("it is counted", || balancer.refused("connect_failed") == 1);
    dead[1].restart();
    let mut client = balancer.connect();
    client.send("back");
    client.expect("back");
    let nobody = Setup::tcp(&[&dead[1]])
        .with(|s| s.pools[0].destinations[0].weight = plimsoll_core::Weight::new(0))
        .start();
    assert_eq!(nobody.connect().rest().kind, Kind::Reset);
    until("it is counted", || nobody.refused("no_healthy_destination") == 1);
}

#[test]
fn a_break_is_passed_on_as_one() {
    let breaks = Destination::start(|visit| {
        visit.send("half");
        visit.read();
        visit.reset();
    });
    let balancer = Setup::tcp(&[&breaks]).start();
    let mut client = balancer.connect();
    client.expect("half");
    client.send("x");
    assert_eq!(client.rest().kind, Kind::Reset);
    let listens = Destination::start(|visit| visit.read_to_end());
    let balancer = Setup::tcp(&[&listens]).start();
    let mut client = balancer.connect();
    client.send("x");
    until("it arrived", || listens.records().first().is_some_and(|r| r == b"x"));
    client.abort();
    until("all is over", || balancer.active() == 0 && listens.open() == 0);
    assert_eq!(balancer.destination(0).in_flight, 0);
}

#[test]
fn what_was_said_before_a_clean_end_arrives_while_the_other_side_still_talks() {
    let destination = Destination::start(|visit| {
        visit.read();
        // Ends with bytes unread: its system answers further ones with a reset.
        visit.send(noise(5, 200_000));
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("go");
    let all = client.rest();
    assert_eq!((all.kind, all.received.len()), (Kind::Closed, 200_000));
    assert_eq!(checksum(&all.received), checksum(&noise(5, 200_000)));
}

#[test]
fn many_connections_each_its_own() {
    raise_descriptor_limit();
    let destinations: [_; 3] = std::array::from_fn(|_| Destination::start(echo));
    let [a, b, c] = &destinations;
    let balancer = Setup::tcp(&[a, b, c]).with(|s| s.workers = 2).start();
    let mut clients: Vec<Client> = (0..600).map(|_| balancer.connect()).collect();
    for round in 0..3 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round}-{n:04}"));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.expect(format!("{round}-{n:04}"));
        }
    }
    assert_eq!(balancer.active(), 600);
    let shares: Vec<usize> = destinations.iter().map(Destination::connections).collect();
    assert!(
        shares.iter().all(|share| (198..=202).contains(share)),
        "round robin over two workers: {shares:?}"
    );
    drop(clients);
    until("all are gone", || balancer.active() == 0 && destinations.iter().all(|d| d.open() == 0));
    let in_flight = |b: &Balancer| b.pools()[0].destinations.iter().map(|d| d.in_flight).sum::<u32>();
    assert_eq!(in_flight(&balancer), 0);
}

#[test]
fn one_too_many_is_turned_away() {
    let destination = Destination::start(echo);
    let balancer = Setup::tcp(&[&destination]).with(|s| s.listeners[0].limits.connections = 2).start();
    let mut inside = [balancer.connect(), balancer.connect()];
    for client in &mut inside {
        client.send("x");
        client.expect("x");
    }
    balancer.connect().expect_end();
    assert_eq!((balancer.refused("connection_limit"), destination.connections()), (1, 2));
    let [one, mut other] = inside;
    drop(one);
    until("there is room", || balancer.active() == 1);
    let mut next = balancer.connect();
    for client in [&mut next, &mut other] {
        client.send("y");
        client.expect("y");
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let (inside, outside) = (Temporary::new("destination"), Temporary::new("listener"));
    let destination = Destination::start_unix(&inside, echo);
    let setup = Setup::tcp(&[&destination]).with(|s| {
        s.listeners[0].addresses = vec![outside.place().as_listener()];
        s.workers = 2;
    });
    let balancer = setup.start();
    for _ in 0..10 {
        let mut client = balancer.connect();
        client.send("over unix");
        client.expect("over unix");
        client.end();
        client.expect_end();
    }
    drop(balancer);
    // The file stays, as after a crash; the next start takes it over.
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send("again");
    client.expect("again");
    destination.kill();
    let mut client = balancer.connect();
    assert!(matches!(client.rest().kind, Kind::Reset | Kind::Closed));
}
