//! UDP: datagrams go to a destination, and replies to the client they belong to only.

mod segments;

use std::collections::HashSet;
use std::io::ErrorKind::{TimedOut, WouldBlock};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_config::model::{AccessLog, DestinationAddress, ListenAddress, UdpFlow};
use plimsoll_core::health::{CheckSchedule, HealthSpec, ProbeKind};
use plimsoll_core::{Failure, Weight};

use crate::kit::{
    Balancer, Endpoint, Setup, Stopwatch, TIMEOUT, TempPath, ms, random_bytes, secs, wait_until,
};

/// A destination that records the source of each datagram and replies with its name and the payload.
struct Echo {
    name: &'static str,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    sources: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Echo {
    fn start(name: &'static str) -> Self {
        Self::at(name, ([127, 0, 0, 1], 0).into())
    }

    fn at(name: &'static str, address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("a port");
        let address = socket.local_addr().expect("bound");
        socket.set_read_timeout(Some(ms(5))).expect("a socket");
        let (stop, sources) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, remembers) = (stop.clone(), sources.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !ends.load(SeqCst) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                // The longest datagram has no space for a name.
                let name = if length > 60_000 { "" } else { name };
                let reply = [name.as_bytes(), &buffer[..length]].concat();
                remembers.lock().expect("whole").push(from);
                let _gone = socket.send_to(&reply, from);
            }
        });
        Self { name, address, stop, thread: Some(thread), sources }
    }

    fn kill(&mut self) {
        self.stop.store(true, SeqCst);
        self.thread.take().map(JoinHandle::join);
    }

    /// Returns the source address of each datagram.
    fn sources(&self) -> Vec<SocketAddr> {
        self.sources.lock().expect("whole").clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns an address without a receiver.
fn unused_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port")
}

/// A client with a connected socket: it receives only what comes from the address it sends to.
struct Client(UdpSocket);

impl Client {
    fn of(balancer: &Balancer) -> Self {
        Self::to(address(balancer))
    }

    fn to(address: SocketAddr) -> Self {
        let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
        let socket = UdpSocket::bind(any).expect("a port");
        socket.connect(address).expect("an address");
        Self(socket)
    }

    fn send(&self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes.as_ref()).expect("a datagram");
    }

    fn read_reply_within(&self, time: Duration) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(time)).expect("a socket");
        let mut buffer = vec![0; 65_536];
        match self.0.recv(&mut buffer) {
            Ok(length) => Some(buffer[..length].to_vec()),
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn read_reply(&self) -> String {
        String::from_utf8(self.read_reply_within(TIMEOUT).expect("a reply")).expect("text")
    }

    #[track_caller]
    fn request(&self, bytes: impl AsRef<[u8]>) -> String {
        self.send(bytes);
        self.read_reply()
    }

    /// Repeats the request until a reply arrives: datagrams to a stopped destination are lost.
    #[track_caller]
    fn request_until_reply(&self, bytes: &str) -> String {
        let mut reply = None;
        wait_until("a reply arrives", || {
            self.send(bytes);
            reply = self.read_reply_within(ms(100));
            reply.is_some()
        });
        String::from_utf8(reply.expect("a reply")).expect("text")
    }
}

fn address(balancer: &Balancer) -> SocketAddr {
    let Endpoint::Tcp(address) = balancer.endpoint() else { panic!("a port") };
    address
}

fn counts(balancer: &Balancer) -> plimsoll_proxy::ListenerCounts {
    balancer.handle.traffic().listeners.remove(0).counts
}

/// Waits until the datagrams are counted, which happens just after they are sent.
#[track_caller]
fn wait_until_counted(balancer: &Balancer, datagrams: [u64; 4]) {
    wait_until("the datagrams are counted", || counts(balancer).datagrams == datagrams);
}

fn in_front_of(destinations: &[&Echo]) -> Setup {
    Setup::udp(&destinations.iter().map(|echo| echo.address).collect::<Vec<_>>())
}

fn balance_each_datagram(setup: &mut Setup) {
    setup.listeners[0].udp.flow = UdpFlow::Datagram;
}

#[test]
fn flows_keep_their_destination_and_replies_reach_their_client() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = in_front_of(&[&a, &b, &c]).with(|s| s.workers = 2).start();
    let clients: Vec<Client> = (0..150).map(|_| Client::of(&balancer)).collect();
    let mut owners = vec![String::new(); clients.len()];
    for round in 0..4 {
        for (n, client) in clients.iter().enumerate() {
            client.send(format!(" {round} {n}"));
        }
        for (n, client) in clients.iter().enumerate() {
            let reply = client.read_reply();
            let owner = reply.strip_suffix(&format!(" {round} {n}")).expect("its own reply").to_owned();
            assert!(
                owners[n].is_empty() || owners[n] == owner,
                "client {n} moved from {} to {owner}",
                owners[n]
            );
            owners[n] = owner;
        }
    }
    for echo in [&a, &b, &c] {
        let share = owners.iter().filter(|owner| *owner == echo.name).count();
        assert!((48..=52).contains(&share), "round robin over two workers: {share} at {}", echo.name);
        assert_eq!(
            echo.sources().into_iter().collect::<HashSet<_>>().len(),
            share,
            "each flow has its own socket"
        );
    }
    wait_until_counted(&balancer, [600; 4]);
    assert_eq!((counts(&balancer).active, counts(&balancer).total), (150, 150));
    let in_flight: u32 = balancer.pools()[0].destinations.iter().map(|d| d.in_flight).sum();
    assert_eq!(in_flight, 150, "a flow counts as in flight");
    let view = balancer.destination(0);
    assert_eq!(view.counts.answered(), view.counts.started, "a flow with replies counts as answered once");
}

#[test]
fn datagrams_are_balanced_separately_if_configured() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = in_front_of(&[&a, &b, &c]).with(balance_each_datagram).start();
    let clients = [Client::of(&balancer), Client::of(&balancer)];
    for round in 0..30 {
        for (n, client) in clients.iter().enumerate() {
            let reply = client.request(format!(" {round} {n}"));
            assert!(reply.ends_with(&format!(" {round} {n}")), "{reply}");
        }
    }
    assert_eq!([&a, &b, &c].map(|echo| echo.sources().len()), [20, 20, 20]);
    assert_eq!(counts(&balancer).active, 6, "a flow for each client and destination");
    let view = balancer.destination(0);
    assert_eq!((view.counts.answered(), view.in_flight), (20, 0), "each datagram counts separately");
}

#[test]
fn datagrams_of_any_length_pass_unchanged() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).start();
    let client = Client::of(&balancer);
    for length in [0, 1, 64, 512, 1472, 1473, 9000, 65_507] {
        let bytes = random_bytes(length as u64, length);
        client.send(&bytes);
        assert_eq!(client.read_reply_within(TIMEOUT).expect("a reply"), bytes, "{length} bytes");
    }
    let all = 1 + 64 + 512 + 1472 + 1473 + 9000 + 65_507;
    wait_until("every byte is counted", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        (rule.request_bytes, rule.response_bytes) == (all, all)
    });
}

#[test]
fn burst_arrives_in_order() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).start();
    let client = Client::of(&balancer);
    for n in 0..100 {
        client.send(format!("{n}"));
    }
    for n in 0..100 {
        assert_eq!(client.read_reply(), format!("{n}"));
    }
}

#[test]
fn idle_flow_is_closed() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).with(|s| s.listeners[0].udp.idle = ms(300)).start();
    let client = Client::of(&balancer);
    let stopwatch = Stopwatch::start();
    client.request("hello");
    let flow = echo.sources()[0];
    wait_until("the flow is closed", || balancer.active() == 0);
    assert!(stopwatch.elapsed() >= ms(300), "{:?}", stopwatch.elapsed());
    // The flow's port is closed: later datagrams of the destination are dropped.
    let late = UdpSocket::bind("127.0.0.1:0").expect("a port");
    late.send_to(b"late", flow).expect("sent");
    assert_eq!(client.read_reply_within(ms(100)), None);
    assert_eq!(client.request("again"), "again");
    assert_eq!(counts(&balancer).total, 2);
}

/// Replies do not extend a flow: else a destination that never stops would send forever to an address that may
/// have been spoofed.
#[test]
fn replies_do_not_extend_a_flow() {
    let destination = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let setup = Setup::udp(&[destination.local_addr().expect("bound")]);
    let balancer = setup.with(|s| s.listeners[0].udp.idle = ms(200)).start();
    let client = Client::of(&balancer);
    client.send("subscribe");
    let (_, flow) = destination.recv_from(&mut [0; 64]).expect("a datagram");
    let stopwatch = Stopwatch::start();
    wait_until("the flow is closed", || {
        let _over = destination.send_to(b"news", flow);
        balancer.active() == 0
    });
    assert!(stopwatch.elapsed() < secs(5));
    let replies = std::iter::from_fn(|| client.read_reply_within(ms(50))).count();
    assert!(replies > 0, "replies arrived before the flow ended");
    wait_until("the counters match the replies", || counts(&balancer).datagrams[3] == replies as u64);
}

#[test]
fn idle_timeout_may_be_long() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo])
        .with(|s| s.listeners[0].udp.idle = secs(24 * 3600))
        .with(|s| (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(50), ms(50)))
        .start();
    let (device, other) = (Client::of(&balancer), Client::of(&balancer));
    device.request("hello");
    let stopwatch = Stopwatch::start();
    // More than one turn of the timer wheel.
    while stopwatch.elapsed() < ms(1_300) {
        other.request("x");
    }
    device.request("still here");
    assert_eq!(counts(&balancer).total, 2);
    let sources: HashSet<_> = echo.sources().into_iter().collect();
    assert_eq!(sources.len(), 2, "the flow is kept");
}

#[test]
fn longest_idle_flow_is_evicted() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).with(|s| s.listeners[0].udp.max_flows = 4).start();
    let clients: Vec<Client> = (0..6).map(|_| Client::of(&balancer)).collect();
    for client in &clients[..4] {
        client.request("x");
    }
    clients[0].request("not idle");
    for client in &clients[4..] {
        client.request("x");
    }
    let counted = counts(&balancer);
    assert_eq!((counted.active, counted.total, counted.evicted), (4, 6, 2));
    for n in [0, 3, 4, 5] {
        clients[n].request("x");
    }
    assert_eq!(counts(&balancer).total, 6, "the four recent flows are kept");
    clients[1].request("back");
    assert_eq!((counts(&balancer).total, counts(&balancer).active, counts(&balancer).evicted), (7, 4, 3));
}

#[test]
fn icmp_refusal_moves_a_flow() {
    for flow in [UdpFlow::Source, UdpFlow::Datagram] {
        let [mut a, b] = ["a", "b"].map(Echo::start);
        let balancer = in_front_of(&[&a, &b]).with(|s| s.listeners[0].udp.flow = flow).start();
        let clients: Vec<Client> = (0..4).map(|_| Client::of(&balancer)).collect();
        for client in &clients {
            client.request("");
        }
        a.kill();
        for client in &clients {
            assert_eq!(client.request_until_reply(""), "b");
        }
        let failures = balancer.destination(0).counts.failures[Failure::Connect as usize];
        assert!(failures >= 1, "refusals count as failures of the destination: {failures}");
        let a = Echo::at("a", a.address);
        let client = Client::of(&balancer);
        wait_until("the restarted destination is used again", || {
            client.request_until_reply("") == "a" || Client::of(&balancer).request("") == "a"
        });
        drop(a);
    }
}

#[test]
fn consecutive_refusals_eject_and_flows_move() {
    let [mut a, b] = ["a", "b"].map(Echo::start);
    let balancer = in_front_of(&[&a, &b]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
    let clients: Vec<Client> = (0..6).map(|_| Client::of(&balancer)).collect();
    for client in &clients {
        client.request("");
    }
    a.kill();
    for client in &clients {
        client.send("");
    }
    wait_until("the destination is ejected", || balancer.destination(0).status.as_str() == "ejected");
    for client in &clients {
        while client.read_reply_within(ms(1)).is_some() {}
        assert_eq!(client.request_until_reply(""), "b");
    }
    let at_dead = balancer.destination(0).in_flight;
    assert_eq!(at_dead, 0, "no flow is left at the stopped destination");
}

#[test]
fn only_destination_is_tried_again_after_a_refusal() {
    let mut a = Echo::start("a");
    let balancer = in_front_of(&[&a]).start();
    let client = Client::of(&balancer);
    client.request("");
    a.kill();
    client.send("");
    wait_until("the refusal is counted", || balancer.destination(0).counts.failed() > 0);
    let _back = Echo::at("a", a.address);
    assert_eq!(client.request_until_reply(""), "a");
}

#[test]
fn datagram_without_a_destination_is_dropped_and_counted() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0)).start();
    let client = Client::of(&balancer);
    client.send("anybody?");
    wait_until("it is counted", || balancer.refusals("no_healthy_destination") == 1);
    assert_eq!(client.read_reply_within(ms(50)), None, "the proxy sends no datagrams of its own");
    wait_until_counted(&balancer, [1, 0, 0, 0]);
    assert_eq!(balancer.active(), 0);
}

#[test]
fn a_listener_that_is_its_own_destination_does_not_receive_its_datagrams() {
    let own = unused_address();
    for listen in [own, SocketAddr::new([0, 0, 0, 0].into(), own.port())] {
        let setup = Setup::udp(&[own]).with(|s| {
            s.listeners[0].addresses = vec![ListenAddress::Udp(listen)];
            s.pools[0].health = None;
        });
        let balancer = setup.start();
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        for _ in 0..3 {
            client.send_to(b"again", own).expect("sent");
        }
        wait_until_counted(&balancer, [3, 0, 0, 0]);
        // A loop would have counted thousands by now.
        std::thread::sleep(ms(50));
        assert_eq!(counts(&balancer).datagrams, [3, 0, 0, 0], "{listen}");
    }
}

#[test]
fn datagrams_of_third_parties_do_not_enter_a_flow() {
    let echo = Echo::start("");
    let balancer = in_front_of(&[&echo]).start();
    let client = Client::of(&balancer);
    client.request("hello");
    let flow = echo.sources()[0];
    let third_party = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for to in [flow, SocketAddr::new([127, 0, 0, 1].into(), flow.port())] {
        third_party.send_to(b"I am your destination", to).expect("sent");
    }
    assert_eq!(client.read_reply_within(ms(100)), None);
    assert_eq!(client.request("still mine"), "still mine");
    wait_until_counted(&balancer, [2; 4]);
}

#[test]
fn replies_have_the_address_the_client_sent_to() {
    let echo = Echo::start("");
    for (any, targets) in [
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2", "127.9.9.9"]),
        ("[::]:0", ["127.0.0.1", "127.0.0.2", "::1"]),
    ] {
        let Ok(listen) = any.parse::<SocketAddr>() else { panic!("{any}") };
        if UdpSocket::bind(listen).is_err() {
            continue; // a machine without IPv6
        }
        let setup =
            in_front_of(&[&echo]).with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.with(|s| s.workers = 2).start();
        let port = address(&balancer).port();
        for target in targets {
            let ip: IpAddr = target.parse().expect("an address");
            let client = Client::to((ip, port).into());
            for _ in 0..3 {
                assert_eq!(client.request("which address"), "which address", "{target}");
            }
        }
        assert_eq!(counts(&balancer).total, 3);
    }
}

#[test]
fn reload_keeps_flows_unless_their_pool_or_destination_is_removed() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let setup = in_front_of(&[&a]);
    let balancer = setup.start();
    let client = Client::of(&balancer);
    assert_eq!(client.request(""), "a");
    let more = setup.clone().with(|s| {
        s.listeners[0].udp.max_flows = 10;
        let another = s.pools[0].destinations[0].clone();
        s.pools[0].destinations.push(another);
        s.pools[0].destinations[1].name = "other".into();
        s.pools[0].destinations[1].address = DestinationAddress::Socket(b.address);
    });
    balancer.reload(&more).expect("a good configuration");
    for _ in 0..3 {
        assert_eq!(client.request(""), "a");
    }
    assert_eq!(a.sources().into_iter().collect::<HashSet<_>>().len(), 1, "the flow keeps its socket");
    let without = more.clone().with(|s| drop(s.pools[0].destinations.remove(0)));
    balancer.reload(&without).expect("a good configuration");
    assert_eq!(client.request(""), "b", "its destination was removed");
    assert_eq!(counts(&balancer).total, 1);
    let elsewhere = in_front_of(&[&c]).with(|s| s.pools[0].name = "elsewhere".into());
    balancer.reload(&elsewhere).expect("a good configuration");
    assert_eq!(client.request(""), "c", "its pool was removed");
    assert_eq!(counts(&balancer).total, 2);
}

#[test]
fn tcp_and_udp_may_share_a_port_and_processes_may_not() {
    let echo = Echo::start("");
    // A loopback address that no other test uses: the port is free for TCP too.
    let mine = ListenAddress::Udp(([127, 0, 0, 77], 0).into());
    let setup = in_front_of(&[&echo]).with(|s| (s.workers, s.listeners[0].addresses) = (2, vec![mine]));
    let balancer = setup.start();
    let taken = address(&balancer);
    let again = setup.clone().with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(taken)]);
    assert!(again.try_start().is_err(), "the port is in use");
    let mut tcp = Setup::tcp(&[]).listeners.remove(0);
    (tcp.name, tcp.addresses) = ("tcp".into(), vec![ListenAddress::Socket(taken)]);
    let both = setup.with(|s| s.listeners.push(tcp));
    balancer.reload(&both).expect("TCP and UDP ports are separate");
    assert_eq!(Client::of(&balancer).request("x"), "x");
    assert_eq!(balancer.endpoint_of("tcp"), Endpoint::Tcp(taken));
}

#[test]
fn udp_checks_need_the_expected_reply() {
    let [good, mut dies, wrong] = ["good ", "good ", "bad "].map(Echo::start);
    let addresses = [good.address, dies.address, wrong.address, unused_address()];
    let check = |expect: Option<&str>| HealthSpec {
        check_interval: ms(50),
        timeout: ms(200),
        failure_threshold: 1,
        recovery_threshold: 1,
        probe: ProbeKind::Udp {
            send: b"ping".as_slice().into(),
            expect: expect.map(|text| text.as_bytes().into()),
        },
        probe_if_unresponsive: None,
        port: None,
        schedule: CheckSchedule::default(),
    };
    let statuses = |balancer: &Balancer| {
        let pool = balancer.pools().remove(0);
        pool.destinations.iter().map(|d| d.status.serves()).collect::<Vec<_>>()
    };
    let expects = Setup::udp(&addresses).with(|s| s.pools[0].health = Some(check(Some("good ping")))).start();
    let accepts = Setup::udp(&addresses).with(|s| s.pools[0].health = Some(check(None))).start();
    wait_until("destinations without the expected reply are down", || {
        statuses(&expects) == [true, true, false, false]
    });
    wait_until("the refusing destination is down", || statuses(&accepts) == [true, true, true, false]);
    dies.kill();
    wait_until("it is down", || statuses(&expects) == [true, false, false, false]);
    wait_until("it is down", || statuses(&accepts) == [true, false, true, false]);
    for _ in 0..4 {
        assert_eq!(Client::of(&expects).request("x"), "good x");
    }
    let _back = Echo::at("good ", dies.address);
    wait_until("the destination serves again", || statuses(&expects) == [true, true, false, false]);
}

#[test]
fn flow_is_one_log_line() {
    let (echo, file) = (Echo::start(""), TempPath::new("udp.log"));
    let setup = in_front_of(&[&echo]).with(|s| s.listeners[0].udp.idle = ms(100));
    let balancer = setup.with(|s| s.access_log = Some(AccessLog::File(file.path().into()))).start();
    let client = Client::of(&balancer);
    client.request("12345");
    client.request("123");
    let me = SocketAddr::from(([127, 0, 0, 1], client.0.local_addr().expect("bound").port()));
    let text = || std::fs::read_to_string(file.path()).unwrap_or_default();
    wait_until("it is written", || text().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(text().trim()).expect("one line of JSON");
    assert_eq!(line["protocol"], "UDP");
    assert_eq!(line["client"], me.to_string());
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&8.into(), &8.into()));
    assert_eq!(line["destination"], "main-0");
}

/// Many destinations never reply; they must be able to end an ejection nevertheless.
#[test]
fn trial_passes_without_a_reply_and_fails_on_a_refusal() {
    for flow in [UdpFlow::Source, UdpFlow::Datagram] {
        let (mut a, b) = (Echo::start("a"), Echo::start("b"));
        let setup = in_front_of(&[&a, &b]).with(|s| {
            s.listeners[0].udp.flow = flow;
            (s.pools[0].outlier.consecutive_failures, s.pools[0].outlier.base_ejection) = (1, ms(100));
        });
        let balancer = setup.start();
        a.kill();
        let mut clients = Vec::new();
        let mut talk = |status: &str| {
            wait_until(status, || {
                let client = Client::of(&balancer);
                client.send("one way");
                clients.push(client);
                balancer.destination(0).status.as_str() == status
            });
        };
        talk("ejected");
        // Trials are made and refused.
        let refused = |balancer: &Balancer| balancer.pools()[0].ejections.get("trial_failed").copied();
        wait_until("a trial is refused", || {
            let client = Client::of(&balancer);
            client.send("one way");
            refused(&balancer) > Some(0)
        });
        let sink = UdpSocket::bind(a.address).expect("the destination's port");
        talk("serving");
        sink.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        assert!(sink.recv(&mut [0; 64]).is_ok(), "datagrams arrive there");
    }
}

/// A datagram with the proxy's own source address would cause an endless loop of replies.
#[test]
fn datagram_with_the_proxy_s_own_source_is_dropped() {
    let echo = Echo::start("");
    for _ in 0..50 {
        let balancer = in_front_of(&[&echo]).start();
        let spoofer =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        spoofer.set_reuse_port(true).expect("the same user may share the port");
        spoofer.bind(&address(&balancer).into()).expect("the same user may share the port");
        let spoofer = UdpSocket::from(spoofer);
        spoofer.send_to(b"from you", address(&balancer)).expect("sent");
        spoofer.set_read_timeout(Some(ms(20))).expect("a socket");
        // The system delivers it to one of the two sockets.
        if spoofer.recv(&mut [0; 64]).is_err() {
            wait_until_counted(&balancer, [1, 0, 0, 0]);
            assert_eq!((balancer.refusals("bad_request"), balancer.active()), (1, 0));
            return;
        }
    }
    panic!("no spoofed datagram reached the proxy");
}
