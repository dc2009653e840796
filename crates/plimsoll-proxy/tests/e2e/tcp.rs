//! TCP proxying: bytes pass unchanged, each direction ends separately, and unreachable destinations are skipped.

use crate::kit::{
    Balancer, BlackHole, Client, Connection, Destination, EndKind, Gate, Setup, Stopwatch, TempPath,
    checksum, ms, raise_descriptor_limit, random_bytes, secs, wait_until,
};

const BULK: usize = 16 << 20;

/// Echoes all data and closes when the client does.
fn echo(conn: &mut Connection) {
    while conn.read() {
        let bytes = std::mem::take(&mut conn.buffer);
        if !conn.send(bytes) {
            return;
        }
    }
}

fn start_named_echo(name: &'static str) -> Destination {
    Destination::start(move |conn| {
        conn.send(name);
        echo(conn);
    })
}

#[test]
fn bytes_pass_in_both_directions_whichever_side_starts() {
    let destination = start_named_echo("220 hello\r\n");
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.expect("220 hello\r\n");
    for n in 0..100_u8 {
        client.send([n; 7]);
        client.expect([n; 7]);
    }
    let mut early = balancer.connect();
    early.send("GET / HTTP/1.1\r\n\0\0 anything at all");
    early.expect("220 hello\r\nGET / HTTP/1.1\r\n\0\0 anything at all");
}

#[test]
fn each_side_may_half_close() {
    let destination = Destination::start(|conn| {
        conn.read_to_end();
        let all = std::mem::take(&mut conn.buffer);
        conn.send(all);
        conn.send(" and goodbye");
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("sent before the end");
    client.shutdown_write();
    client.expect("sent before the end and goodbye");
    client.expect_closed();

    let destination = Destination::start(|conn| {
        conn.send("my last word");
        conn.shutdown_write();
        conn.read_to_end();
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.expect("my last word");
    assert_eq!(client.read_some(), Ok(0));
    client.send("but mine is ");
    client.send("longer");
    client.shutdown_write();
    wait_until("all data has arrived", || destination.records()[0] == b"but mine is longer");
    wait_until("and all is over", || balancer.active() == 0 && destination.open() == 0);
}

#[test]
fn bulk_data_flows_in_both_directions_at_once() {
    let (to_client, to_destination) = (random_bytes(11, BULK), random_bytes(12, BULK));
    let sums = (checksum(&to_client), checksum(&to_destination));
    let destination = Destination::start(move |conn| {
        let mut reader = conn.duplicate();
        std::thread::scope(|scope| {
            scope.spawn(|| reader.read_to_end());
            conn.send(&to_client);
            conn.shutdown_write();
        });
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    let mut sender = client.duplicate();
    let sending = std::thread::spawn(move || {
        sender.send(to_destination);
        sender.shutdown_write();
    });
    let got = client.read_to_end();
    assert_eq!((got.kind, got.received.len(), checksum(&got.received)), (EndKind::Closed, BULK, sums.0));
    sending.join().expect("all bytes were accepted");
    wait_until("all is there", || destination.received_bytes() == BULK);
    assert_eq!(checksum(&destination.records()[0]), sums.1);
}

/// Maximum of bytes in flight to a reader that reads nothing, as in the tests of large HTTP bodies.
const MAX_BUFFERED: usize = 24 << 20;

#[test]
fn reader_that_does_not_read_blocks_its_sender() {
    let gate = Gate::default();
    let wait = gate.clone();
    let blocked_reader = Destination::start(move |conn| {
        conn.shrink_receive_buffer();
        wait.wait();
        conn.grow_receive_buffer();
        conn.read_to_end();
    });
    let balancer = Setup::tcp(&[&blocked_reader]).start();
    let mut client = balancer.connect();
    let sent = client.send_until_blocked(&[b'x'; 65_536], 64 << 20, ms(300));
    assert!(sent < MAX_BUFFERED, "{sent} bytes were read for a destination that reads nothing");
    gate.open();
    client.shutdown_write();
    wait_until("all accepted bytes arrive", || blocked_reader.received_bytes() == sent);

    let (full, sent) = (Gate::default(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let (blocked, count) = (full.clone(), sent.clone());
    let flood = Destination::start(move |conn| {
        count.store(
            conn.send_until_blocked(&[b'x'; 65_536], 64 << 20, ms(300)),
            std::sync::atomic::Ordering::SeqCst,
        );
        blocked.open();
        conn.shutdown_write();
        conn.read_to_end();
    });
    let balancer = Setup::tcp(&[&flood]).start();
    let mut client = balancer.connect();
    client.shrink_receive_buffer();
    full.wait();
    let sent = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(sent < MAX_BUFFERED, "{sent} bytes were read for a client that reads nothing");
    client.grow_receive_buffer();
    assert_eq!(client.read_to_end().received.len(), sent, "all accepted bytes arrive");
}

#[test]
fn idle_timeout_needs_silence_in_both_directions() {
    let sender = Destination::start(|conn| {
        while conn.send(".") {
            std::thread::sleep(ms(50));
        }
    });
    let reader = Destination::start(|conn| conn.read_to_end());
    let short = |s: &mut Setup| (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(300), ms(200));
    let balancer = Setup::tcp(&[&reader]).with(short).start();
    let stopwatch = Stopwatch::start();
    let mut idle = balancer.connect();
    idle.expect_closed();
    let took = stopwatch.elapsed();
    assert!(took >= ms(300) && took < secs(5), "the longer of the two counts: {took:?}");
    let mut sending = balancer.connect();
    sending.send_in_steps([b'x'; 15], 1, ms(50));
    assert!(!sending.has_bytes(), "15 bytes took 750 ms, and it is still open");
    wait_until("they have arrived", || reader.records().iter().any(|r| r.len() == 15));
    let balancer = Setup::tcp(&[&sender]).with(short).start();
    let mut reading = balancer.connect();
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < ms(900) {
        assert!(matches!(reading.read_some(), Ok(1..)));
    }
}

#[test]
fn unreachable_destination_is_skipped() {
    let (stopped, running) = (Destination::absent(echo), start_named_echo("live"));
    let balancer = Setup::tcp(&[&stopped, &running]).start();
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
fn connect_timeout_is_retried_and_finally_resets_the_client() {
    let (hole, running) = (BlackHole::open(), start_named_echo("live"));
    let short = |s: &mut Setup| s.pools[0].timeouts.connect = ms(200);
    let balancer = Setup::tcp(&[&hole.destination, &running]).with(short).start();
    for _ in 0..3 {
        let mut client = balancer.connect();
        client.send("early");
        client.expect("liveearly");
    }
    let alone = Setup::tcp(&[&hole.destination]).with(short).start();
    let stopwatch = Stopwatch::start();
    assert_eq!(alone.connect().read_to_end().kind, EndKind::Reset);
    assert!(stopwatch.elapsed() >= ms(200) && stopwatch.elapsed() < secs(5), "{:?}", stopwatch.elapsed());
}

#[test]
fn connection_without_a_destination_is_reset_with_its_reason() {
    let stopped = [Destination::absent(echo), Destination::absent(echo)];
    let balancer = Setup::tcp(&[&stopped[0], &stopped[1]]).start();
    let stopwatch = Stopwatch::start();
    let mut client = balancer.connect();
    assert_eq!(
        client.read_to_end().kind,
        EndKind::Reset,
        "an orderly close would look like an empty response"
    );
    assert!(stopwatch.elapsed() < secs(1));
    wait_until("it is counted", || balancer.refusals("connect_failed") == 1);
    stopped[1].restart();
    let mut client = balancer.connect();
    client.send("back");
    client.expect("back");
    let none_serving = Setup::tcp(&[&stopped[1]])
        .with(|s| s.pools[0].destinations[0].weight = plimsoll_core::Weight::new(0))
        .start();
    assert_eq!(none_serving.connect().read_to_end().kind, EndKind::Reset);
    wait_until("it is counted", || none_serving.refusals("no_healthy_destination") == 1);
}

#[test]
fn reset_is_forwarded() {
    let resetting = Destination::start(|conn| {
        conn.send("half");
        conn.read();
        conn.reset();
    });
    let balancer = Setup::tcp(&[&resetting]).start();
    let mut client = balancer.connect();
    client.expect("half");
    client.send("x");
    assert_eq!(client.read_to_end().kind, EndKind::Reset);
    let reading = Destination::start(|conn| conn.read_to_end());
    let balancer = Setup::tcp(&[&reading]).start();
    let mut client = balancer.connect();
    client.send("x");
    wait_until("it arrived", || reading.records().first().is_some_and(|r| r == b"x"));
    client.abort();
    wait_until("all is over", || balancer.active() == 0 && reading.open() == 0);
    assert_eq!(balancer.destination(0).in_flight, 0);
}

#[test]
fn data_before_an_orderly_close_arrives_while_the_client_still_sends() {
    let destination = Destination::start(|conn| {
        conn.read();
        // Closes with unread bytes: the destination's system responds to further ones with a reset.
        conn.send(random_bytes(5, 200_000));
    });
    let balancer = Setup::tcp(&[&destination]).start();
    let mut client = balancer.connect();
    client.send("go");
    let all = client.read_to_end();
    assert_eq!((all.kind, all.received.len()), (EndKind::Closed, 200_000));
    assert_eq!(checksum(&all.received), checksum(&random_bytes(5, 200_000)));
}

#[test]
fn many_connections_stay_separate() {
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
    wait_until("all connections are closed", || {
        balancer.active() == 0 && destinations.iter().all(|d| d.open() == 0)
    });
    let in_flight = |b: &Balancer| b.pools()[0].destinations.iter().map(|d| d.in_flight).sum::<u32>();
    assert_eq!(in_flight(&balancer), 0);
}

#[test]
fn connection_above_the_limit_is_closed() {
    let destination = Destination::start(echo);
    let balancer = Setup::tcp(&[&destination]).with(|s| s.listeners[0].limits.connections = 2).start();
    let mut established = [balancer.connect(), balancer.connect()];
    for client in &mut established {
        client.send("x");
        client.expect("x");
    }
    balancer.connect().expect_closed();
    assert_eq!((balancer.refusals("connection_limit"), destination.connections()), (1, 2));
    let [one, mut other] = established;
    drop(one);
    wait_until("a connection is free", || balancer.active() == 1);
    let mut next = balancer.connect();
    for client in [&mut next, &mut other] {
        client.send("y");
        client.expect("y");
    }
}

#[test]
fn unix_sockets_on_both_sides() {
    let (established, outside) = (TempPath::new("destination"), TempPath::new("listener"));
    let destination = Destination::start_unix(&established, echo);
    let setup = Setup::tcp(&[&destination]).with(|s| {
        s.listeners[0].addresses = vec![outside.endpoint().as_listener()];
        s.workers = 2;
    });
    let balancer = setup.start();
    for _ in 0..10 {
        let mut client = balancer.connect();
        client.send("over unix");
        client.expect("over unix");
        client.shutdown_write();
        client.expect_closed();
    }
    drop(balancer);
    // The socket file stays, as after a crash; the next start replaces it.
    let balancer = setup.start();
    let mut client = balancer.connect();
    client.send("again");
    client.expect("again");
    destination.kill();
    let mut client = balancer.connect();
    assert!(matches!(client.read_to_end().kind, EndKind::Reset | EndKind::Closed));
}
