//! Many datagrams at once: trains stay together where the kernel takes them so, and each datagram stays itself.

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

/// What the kernel makes `count` datagrams of, the last of them shorter, when they are sent with one call.
const STRIDE: usize = 1200;

fn train(count: usize) -> Vec<u8> {
    noise(count as u64, (count - 1) * STRIDE + 700)
}

/// Has the kernel take what is sent apart into datagrams of that length; 0 ends that. `false`: it cannot.
fn sends_trains(socket: &UdpSocket, stride: usize) -> bool {
    setsockopt(socket, sockopt::UdpGsoSegment, &(stride as i32)).is_ok()
}

/// Has the kernel leave trains together.
fn takes_trains(socket: &UdpSocket) -> bool {
    setsockopt(socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// A destination's socket that takes and sends trains, where there is such a thing.
fn station(address: &str) -> Option<UdpSocket> {
    let socket = UdpSocket::bind(address).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    (takes_trains(&socket) && sends_trains(&socket, STRIDE)).then_some(socket)
}

fn take(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 66_000];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(length);
    (buffer, from)
}

/// What a client hears until it has all of that many bytes, and the lengths it came in.
#[track_caller]
fn hears(client: &Device, bytes: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut lengths) = (Vec::new(), Vec::new());
    while all.len() < bytes {
        let heard = client.hears_within(PATIENCE).expect("the rest");
        lengths.push(heard.len());
        all.extend(heard);
    }
    (all, lengths)
}

#[test]
fn a_train_arrives_as_a_train_and_its_replies_do() {
    for (listen, client_to, destination) in [
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1:0"),
        ("0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"),
        ("[::]:0", "127.0.0.2", "127.0.0.1:0"),
        ("[::]:0", "::1", "[::1]:0"),
        ("[::1]:0", "::1", "127.0.0.1:0"),
    ] {
        let Some(station) = station(destination) else { continue };
        let listen: SocketAddr = listen.parse().expect("an address");
        let setup = Setup::udp(&[station.local_addr().expect("bound")]);
        let setup = setup.with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.start();
        let client =
            Device::to((client_to.parse::<IpAddr>().expect("an address"), address(&balancer).port()).into());
        // The first reply shows who is there, the second that more come, and from then on trains are taken.
        client.send("hello");
        let (_, flow) = take(&station);
        for _ in 0..2 {
            station.send_to(&train(3), flow).expect("sent");
        }
        hears(&client, 2 * train(3).len());
        assert!(takes_trains(&client.0) && sends_trains(&client.0, STRIDE));
        let bytes = train(20);
        client.send(&bytes);
        let (arrived, from) = take(&station);
        assert_eq!((arrived.len(), from), (bytes.len(), flow), "{listen}: it left with one system call");
        assert_eq!(arrived, bytes);
        station.send_to(&bytes, flow).expect("sent");
        let (heard, lengths) = hears(&client, bytes.len());
        assert_eq!(heard, bytes);
        assert_eq!(lengths, [bytes.len()], "{listen}: so did the replies");
        until_counted(&balancer, [21, 21, 26, 26]);
    }
}

#[test]
fn a_train_is_datagrams_to_who_takes_no_trains() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).start();
    let client = Device::of(&balancer);
    if !sends_trains(&client.0, STRIDE) {
        return;
    }
    for count in [2, 10, 50] {
        let bytes = train(count);
        client.send(&bytes);
        let mut expected = vec![STRIDE; count - 1];
        expected.push(700);
        assert_eq!(hears(&client, bytes.len()), (bytes, expected));
    }
    until_counted(&balancer, [62; 4]);
    assert_eq!(counts(&balancer).active, 1);
    until("each byte is counted once", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        (rule.request_bytes, rule.response_bytes) == (59 * 1200 + 2100, 59 * 1200 + 2100)
    });
}

/// One more byte than leaves as a train over IPv6, and so over any: it is sent one by one, both ways.
#[test]
fn what_cannot_leave_as_a_train_leaves_one_by_one() {
    let Some(station) = station("127.0.0.1:0") else { return };
    let balancer = Setup::udp(&[station.local_addr().expect("bound")]).start();
    let client = Device::of(&balancer);
    sends_trains(&client.0, STRIDE);
    let bytes = noise(7, 65_507);
    let datagrams = bytes.len().div_ceil(STRIDE);
    for round in 1..=3 {
        client.send(&bytes);
        let mut arrived = Vec::new();
        let mut flow = None;
        while arrived.len() < bytes.len() {
            let (piece, from) = take(&station);
            arrived.extend(piece);
            flow = Some(from);
        }
        assert_eq!(arrived, bytes);
        station.send_to(&bytes, flow.expect("a flow")).expect("sent");
        let (heard, lengths) = hears(&client, bytes.len());
        assert_eq!((heard.as_slice(), lengths.len()), (bytes.as_slice(), datagrams));
        until_counted(&balancer, [round * datagrams as u64; 4]);
    }
}

#[test]
fn by_datagram_a_train_is_taken_apart() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = before(&[&a, &b, &c]).with(by_datagram).start();
    let client = Device::of(&balancer);
    if !sends_trains(&client.0, 100) {
        return;
    }
    client.send(noise(1, 3_000));
    for _ in 0..30 {
        assert_eq!(client.hears_within(PATIENCE).expect("a reply").len(), 101);
    }
    assert_eq!([&a, &b, &c].map(|echo| echo.sources().len()), [10, 10, 10]);
    until_counted(&balancer, [30; 4]);
}

/// Whatever of it comes together: each client's datagrams stay in order, whole and its own.
#[test]
fn bursts_of_many_lengths_from_many_clients_stay_in_order() {
    let [a, b] = ["", ""].map(Echo::start);
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listen) = address.parse::<SocketAddr>() else { panic!("{address}") };
        if UdpSocket::bind(listen).is_err() {
            continue; // a machine without IPv6
        }
        let setup = before(&[&a, &b]).with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.start();
        let clients: Vec<Device> = (0..8).map(|_| Device::to(super::address(&balancer))).collect();
        let lengths =
            [8, 8, 8, 5, 100, 100, 1200, 1200, 1200, 1, 0, 0, 8, 9, 8, 1472, 1473, 9000, 1200, 1200, 64];
        for round in 0..5_u64 {
            let bytes =
                |client: usize, n: usize| noise(round * 1000 + client as u64 * 100 + n as u64, lengths[n]);
            for n in 0..lengths.len() {
                // One, all, one, all: some alone, some in a row.
                for (number, client) in clients.iter().enumerate() {
                    client.send(bytes(number, n));
                }
            }
            for (number, client) in clients.iter().enumerate() {
                for n in 0..lengths.len() {
                    assert_eq!(client.hears_within(PATIENCE), Some(bytes(number, n)), "client {number}, {n}");
                }
            }
        }
        until_counted(&balancer, [5 * 8 * lengths.len() as u64; 4]);
    }
}

/// The longest there is, one after the other: rooms are for trains too, but these are none.
#[test]
fn big_datagrams_in_a_row_stay_apart() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).start();
    let client = Device::of(&balancer);
    for round in 0..20 {
        let all = [65_507, 65_507, 30_000].map(|length| noise(round, length));
        for bytes in &all[1..] {
            client.send(bytes);
        }
        for bytes in &all[1..] {
            assert_eq!(client.hears_within(PATIENCE).as_ref(), Some(bytes));
        }
    }
}

#[test]
fn a_refusal_takes_a_whole_train_elsewhere() {
    let [mut a, b] = ["a", "b"].map(Echo::start);
    let balancer = before(&[&a, &b]).start();
    let client = Device::of(&balancer);
    assert_eq!(client.ask(""), "a");
    a.kill();
    client.send("lost");
    until("the refusal is known", || balancer.destination(0).counts.failed() > 0);
    if !sends_trains(&client.0, 100) {
        return;
    }
    client.send(noise(3, 1_000));
    for _ in 0..10 {
        assert_eq!(client.hears_within(PATIENCE).expect("a reply").len(), 101);
    }
    assert_eq!(b.sources().len(), 10);
}
