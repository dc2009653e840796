//! UDP segmentation offload: batches stay together where the kernel supports it, and datagrams keep their bounds.

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

/// Length of the datagrams that the kernel makes of one send call; the last one is shorter.
const SEGMENT: usize = 1200;

fn segments(count: usize) -> Vec<u8> {
    random_bytes(count as u64, (count - 1) * SEGMENT + 700)
}

/// Enables GSO with segments of this length; 0 disables it. Returns `false` if it is not supported.
fn enable_gso(socket: &UdpSocket, segment: usize) -> bool {
    setsockopt(socket, sockopt::UdpGsoSegment, &(segment as i32)).is_ok()
}

/// Enables GRO. Returns `false` if it is not supported.
fn enable_gro(socket: &UdpSocket) -> bool {
    setsockopt(socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// Returns a destination's socket with GSO and GRO, where they are supported.
fn bind_with_offload(address: &str) -> Option<UdpSocket> {
    let socket = UdpSocket::bind(address).ok()?;
    socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    (enable_gro(&socket) && enable_gso(&socket, SEGMENT)).then_some(socket)
}

fn read_datagram(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 66_000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(length);
    (buffer, from)
}

/// Reads replies until `bytes` bytes have arrived; returns them and the lengths of the reads.
#[track_caller]
fn read_replies(client: &Client, bytes: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut lengths) = (Vec::new(), Vec::new());
    while all.len() < bytes {
        let replies = client.read_reply_within(TIMEOUT).expect("the rest");
        lengths.push(replies.len());
        all.extend(replies);
    }
    (all, lengths)
}

#[test]
fn batch_stays_a_batch_in_both_directions() {
    for (listen, client_to, destination) in [
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1:0"),
        ("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"),
        ("[::]:0", "127.0.0.2", "127.0.0.1:0"),
        ("[::]:0", "::1", "[::1]:0"),
        ("[::1]:0", "::1", "127.0.0.1:0"),
    ] {
        let Some(destination) = bind_with_offload(destination) else { continue };
        let listen: SocketAddr = listen.parse().expect("an address");
        let setup = Setup::udp(&[destination.local_addr().expect("bound")]);
        let setup = setup.with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.start();
        let client =
            Client::to((client_to.parse::<IpAddr>().expect("an address"), address(&balancer).port()).into());
        // The first reply shows the client, the second that more follow; from then on the proxy uses GRO.
        client.send("hello");
        let (_, flow) = read_datagram(&destination);
        for _ in 0..2 {
            destination.send_to(&segments(3), flow).expect("sent");
        }
        read_replies(&client, 2 * segments(3).len());
        assert!(enable_gro(&client.0) && enable_gso(&client.0, SEGMENT));
        let bytes = segments(20);
        client.send(&bytes);
        let (arrived, from) = read_datagram(&destination);
        assert_eq!(
            (arrived.len(), from),
            (bytes.len(), flow),
            "{listen}: the batch was sent with one system call"
        );
        assert_eq!(arrived, bytes);
        destination.send_to(&bytes, flow).expect("sent");
        let (replies, lengths) = read_replies(&client, bytes.len());
        assert_eq!(replies, bytes);
        assert_eq!(lengths, [bytes.len()], "{listen}: the replies stayed a batch");
        wait_until_counted(&balancer, [21, 21, 26, 26]);
    }
}

#[test]
fn batch_is_split_for_a_receiver_without_gro() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).start();
    let client = Client::of(&balancer);
    if !enable_gso(&client.0, SEGMENT) {
        return;
    }
    for count in [2, 10, 50] {
        let bytes = segments(count);
        client.send(&bytes);
        let mut expected = vec![SEGMENT; count - 1];
        expected.push(700);
        assert_eq!(read_replies(&client, bytes.len()), (bytes, expected));
    }
    wait_until_counted(&balancer, [62; 4]);
    assert_eq!(counts(&balancer).active, 1);
    wait_until("each byte is counted once", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        (rule.request_bytes, rule.response_bytes) == (59 * 1200 + 2100, 59 * 1200 + 2100)
    });
}

/// One byte more than one GSO batch over IPv6 may have: sent as single datagrams in both directions.
#[test]
fn batch_above_the_gso_limit_is_sent_as_single_datagrams() {
    let Some(destination) = bind_with_offload("127.0.0.1:0") else { return };
    let balancer = Setup::udp(&[destination.local_addr().expect("bound")]).start();
    let client = Client::of(&balancer);
    enable_gso(&client.0, SEGMENT);
    let bytes = random_bytes(7, 65_507);
    let datagrams = bytes.len().div_ceil(SEGMENT);
    for round in 1..=3 {
        client.send(&bytes);
        let mut arrived = Vec::new();
        let mut flow = None;
        while arrived.len() < bytes.len() {
            let (piece, from) = read_datagram(&destination);
            arrived.extend(piece);
            flow = Some(from);
        }
        assert_eq!(arrived, bytes);
        destination.send_to(&bytes, flow.expect("a flow")).expect("sent");
        let (replies, lengths) = read_replies(&client, bytes.len());
        assert_eq!((replies.as_slice(), lengths.len()), (bytes.as_slice(), datagrams));
        wait_until_counted(&balancer, [round * datagrams as u64; 4]);
    }
}

#[test]
fn batch_is_split_if_datagrams_are_balanced_separately() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = in_front_of(&[&a, &b, &c]).with(balance_each_datagram).start();
    let client = Client::of(&balancer);
    if !enable_gso(&client.0, 100) {
        return;
    }
    client.send(random_bytes(1, 3_000));
    for _ in 0..30 {
        assert_eq!(client.read_reply_within(TIMEOUT).expect("a reply").len(), 101);
    }
    assert_eq!([&a, &b, &c].map(|echo| echo.sources().len()), [10, 10, 10]);
    wait_until_counted(&balancer, [30; 4]);
}

/// Each client's datagrams stay in order and unchanged, whatever the proxy batches.
#[test]
fn bursts_of_mixed_lengths_stay_in_order() {
    let [a, b] = ["", ""].map(Echo::start);
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listen) = address.parse::<SocketAddr>() else { panic!("{address}") };
        if UdpSocket::bind(listen).is_err() {
            continue; // a machine without IPv6
        }
        let setup =
            in_front_of(&[&a, &b]).with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.start();
        let clients: Vec<Client> = (0..8).map(|_| Client::to(super::address(&balancer))).collect();
        let lengths =
            [8, 8, 8, 5, 100, 100, 1200, 1200, 1200, 1, 0, 0, 8, 9, 8, 1472, 1473, 9000, 1200, 1200, 64];
        for round in 0..5_u64 {
            let bytes = |client: usize, n: usize| {
                random_bytes(round * 1000 + client as u64 * 100 + n as u64, lengths[n])
            };
            for n in 0..lengths.len() {
                // Alternately one client and all clients: single datagrams and runs.
                for (number, client) in clients.iter().enumerate() {
                    client.send(bytes(number, n));
                }
            }
            for (number, client) in clients.iter().enumerate() {
                for n in 0..lengths.len() {
                    assert_eq!(
                        client.read_reply_within(TIMEOUT),
                        Some(bytes(number, n)),
                        "client {number}, {n}"
                    );
                }
            }
        }
        wait_until_counted(&balancer, [5 * 8 * lengths.len() as u64; 4]);
    }
}

/// Longest datagrams in a row: they fit the GRO buffers but must not be merged.
#[test]
fn large_datagrams_in_a_row_are_not_merged() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).start();
    let client = Client::of(&balancer);
    for round in 0..20 {
        let all = [65_507, 65_507, 30_000].map(|length| random_bytes(round, length));
        for bytes in &all[1..] {
            client.send(bytes);
        }
        for bytes in &all[1..] {
            assert_eq!(client.read_reply_within(TIMEOUT).as_ref(), Some(bytes));
        }
    }
}

#[test]
fn refusal_moves_a_whole_batch() {
    let [mut a, b] = ["a", "b"].map(Echo::start);
    let balancer = in_front_of(&[&a, &b]).start();
    let client = Client::of(&balancer);
    assert_eq!(client.request(""), "a");
    a.kill();
    client.send("lost");
    wait_until("the refusal is counted", || balancer.destination(0).counts.failed() > 0);
    if !enable_gso(&client.0, 100) {
        return;
    }
    client.send(random_bytes(3, 1_000));
    for _ in 0..10 {
        assert_eq!(client.read_reply_within(TIMEOUT).expect("a reply").len(), 101);
    }
    assert_eq!(b.sources().len(), 10);
}
