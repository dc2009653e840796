//! Datagrams: each to a destination, each reply to its client and nobody else, whatever ends in between.

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

use crate::kit::{Balancer, PATIENCE, Place, Setup, Temporary, Watch, ms, noise, secs, until};

/// A destination that remembers where its datagrams came from, and replies with its name before what it got.
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
                // The longest there is leaves no room for a name.
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

    /// From where the datagrams came, one for each.
    fn sources(&self) -> Vec<SocketAddr> {
        self.sources.lock().expect("whole").clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address nobody receives at.
fn nobody() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port")
}

/// A client: connected, so what comes from any other address than it sends to is not for it.
struct Device(UdpSocket);

impl Device {
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

    fn hears_within(&self, time: Duration) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(time)).expect("a socket");
        let mut buffer = vec![0; 65_536];
        match self.0.recv(&mut buffer) {
            Ok(length) => Some(buffer[..length].to_vec()),
            Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn hears(&self) -> String {
        String::from_utf8(self.hears_within(PATIENCE).expect("a reply")).expect("text")
    }

    #[track_caller]
    fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        self.send(bytes);
        self.hears()
    }

    /// Asks until somebody replies: what reached a dead destination is lost, as datagrams are.
    #[track_caller]
    fn ask_until_heard(&self, bytes: &str) -> String {
        let mut reply = None;
        until("somebody replies", || {
            self.send(bytes);
            reply = self.hears_within(ms(100));
            reply.is_some()
        });
        String::from_utf8(reply.expect("a reply")).expect("text")
    }
}

fn address(balancer: &Balancer) -> SocketAddr {
    let Place::Tcp(address) = balancer.place() else { panic!("a port") };
    address
}

fn counts(balancer: &Balancer) -> plimsoll_proxy::ListenerCounts {
    balancer.handle.traffic().listeners.remove(0).counts
}

/// A datagram is counted just after it has left.
#[track_caller]
fn until_counted(balancer: &Balancer, datagrams: [u64; 4]) {
    until("they are counted", || counts(balancer).datagrams == datagrams);
}

fn before(destinations: &[&Echo]) -> Setup {
    Setup::udp(&destinations.iter().map(|echo| echo.address).collect::<Vec<_>>())
}

fn by_datagram(setup: &mut Setup) {
    setup.listeners[0].udp.flow = UdpFlow::Datagram;
}

#[test]
fn every_client_keeps_its_destination_and_gets_its_own_replies() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = before(&[&a, &b, &c]).with(|s| s.workers = 2).start();
    let clients: Vec<Device> = (0..150).map(|_| Device::of(&balancer)).collect();
    let mut homes = vec![String::new(); clients.len()];
    for round in 0..4 {
        for (n, client) in clients.iter().enumerate() {
            client.send(format!(" {round} {n}"));
        }
        for (n, client) in clients.iter().enumerate() {
            let reply = client.hears();
            let home = reply.strip_suffix(&format!(" {round} {n}")).expect("its own reply").to_owned();
            assert!(homes[n].is_empty() || homes[n] == home, "client {n} moved from {} to {home}", homes[n]);
            homes[n] = home;
        }
    }
    for echo in [&a, &b, &c] {
        let share = homes.iter().filter(|home| *home == echo.name).count();
        assert!((48..=52).contains(&share), "round robin over two workers: {share} at {}", echo.name);
        assert_eq!(echo.sources().into_iter().collect::<HashSet<_>>().len(), share, "a socket for each flow");
    }
    until_counted(&balancer, [600; 4]);
    assert_eq!((counts(&balancer).active, counts(&balancer).total), (150, 150));
    let in_flight: u32 = balancer.pools()[0].destinations.iter().map(|d| d.in_flight).sum();
    assert_eq!(in_flight, 150, "a flow holds its destination");
    let view = balancer.destination(0);
    assert_eq!(view.counts.answered(), view.counts.started, "a flow that was replied to is answered, once");
}

#[test]
fn by_datagram_each_goes_its_own_way_and_every_reply_comes_back() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let balancer = before(&[&a, &b, &c]).with(by_datagram).start();
    let clients = [Device::of(&balancer), Device::of(&balancer)];
    for round in 0..30 {
        for (n, client) in clients.iter().enumerate() {
            let reply = client.ask(format!(" {round} {n}"));
            assert!(reply.ends_with(&format!(" {round} {n}")), "{reply}");
        }
    }
    assert_eq!([&a, &b, &c].map(|echo| echo.sources().len()), [20, 20, 20]);
    assert_eq!(counts(&balancer).active, 6, "a flow for each client and destination");
    let view = balancer.destination(0);
    assert_eq!((view.counts.answered(), view.in_flight), (20, 0), "each datagram counts for itself");
}

#[test]
fn any_length_passes_whole() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).start();
    let client = Device::of(&balancer);
    for length in [0, 1, 64, 512, 1472, 1473, 9000, 65_507] {
        let bytes = noise(length as u64, length);
        client.send(&bytes);
        assert_eq!(client.hears_within(PATIENCE).expect("a reply"), bytes, "{length} bytes");
    }
    let all = 1 + 64 + 512 + 1472 + 1473 + 9000 + 65_507;
    until("every byte is counted", || {
        let rule = &balancer.handle.traffic().routes[0].counts;
        (rule.request_bytes, rule.response_bytes) == (all, all)
    });
}

#[test]
fn a_burst_arrives_in_order() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).start();
    let client = Device::of(&balancer);
    for n in 0..100 {
        client.send(format!("{n}"));
    }
    for n in 0..100 {
        assert_eq!(client.hears(), format!("{n}"));
    }
}

#[test]
fn a_silent_client_is_forgotten_and_gets_nothing_more() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).with(|s| s.listeners[0].udp.idle = ms(300)).start();
    let client = Device::of(&balancer);
    let watch = Watch::start();
    client.ask("hello");
    let flow = echo.sources()[0];
    until("it is forgotten", || balancer.active() == 0);
    assert!(watch.elapsed() >= ms(300), "{:?}", watch.elapsed());
    // The flow's port is closed: whatever a destination sends there now goes nowhere.
    let late = UdpSocket::bind("127.0.0.1:0").expect("a port");
    late.send_to(b"late", flow).expect("sent");
    assert_eq!(client.hears_within(ms(100)), None);
    assert_eq!(client.ask("again"), "again");
    assert_eq!(counts(&balancer).total, 2);
}

/// Replies do not keep a flow: else a destination that never stops would send for ever to an address that
/// somebody else may have put on a datagram.
#[test]
fn replies_end_with_the_clients_silence() {
    let destination = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let setup = Setup::udp(&[destination.local_addr().expect("bound")]);
    let balancer = setup.with(|s| s.listeners[0].udp.idle = ms(200)).start();
    let client = Device::of(&balancer);
    client.send("subscribe");
    let (_, flow) = destination.recv_from(&mut [0; 64]).expect("a datagram");
    let watch = Watch::start();
    until("the flow is over", || {
        let _over = destination.send_to(b"news", flow);
        balancer.active() == 0
    });
    assert!(watch.elapsed() < secs(5));
    let heard = std::iter::from_fn(|| client.hears_within(ms(50))).count();
    assert!(heard > 0, "news came while it was awaited");
    until("what was counted is what came", || counts(&balancer).datagrams[3] == heard as u64);
}

#[test]
fn a_long_silence_is_fine_where_it_is_allowed() {
    let echo = Echo::start("");
    let balancer = before(&[&echo])
        .with(|s| s.listeners[0].udp.idle = secs(24 * 3600))
        .with(|s| (s.listeners[0].timeouts.idle, s.pools[0].timeouts.idle) = (ms(50), ms(50)))
        .start();
    let (device, other) = (Device::of(&balancer), Device::of(&balancer));
    device.ask("hello");
    let watch = Watch::start();
    // More than the wheel of alarms goes round in.
    while watch.elapsed() < ms(1_300) {
        other.ask("x");
    }
    device.ask("still here");
    assert_eq!(counts(&balancer).total, 2);
    let sources: HashSet<_> = echo.sources().into_iter().collect();
    assert_eq!(sources.len(), 2, "the same flow as before");
}

#[test]
fn the_flow_idle_longest_makes_room() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).with(|s| s.listeners[0].udp.max_flows = 4).start();
    let clients: Vec<Device> = (0..6).map(|_| Device::of(&balancer)).collect();
    for client in &clients[..4] {
        client.ask("x");
    }
    clients[0].ask("not idle");
    for client in &clients[4..] {
        client.ask("x");
    }
    let counted = counts(&balancer);
    assert_eq!((counted.active, counted.total, counted.evicted), (4, 6, 2));
    for n in [0, 3, 4, 5] {
        clients[n].ask("x");
    }
    assert_eq!(counts(&balancer).total, 6, "those four were kept");
    clients[1].ask("back");
    assert_eq!((counts(&balancer).total, counts(&balancer).active, counts(&balancer).evicted), (7, 4, 3));
}

#[test]
fn a_refusal_moves_a_flow_to_another_destination() {
    for flow in [UdpFlow::Source, UdpFlow::Datagram] {
        let [mut a, b] = ["a", "b"].map(Echo::start);
        let balancer = before(&[&a, &b]).with(|s| s.listeners[0].udp.flow = flow).start();
        let clients: Vec<Device> = (0..4).map(|_| Device::of(&balancer)).collect();
        for client in &clients {
            client.ask("");
        }
        a.kill();
        for client in &clients {
            assert_eq!(client.ask_until_heard(""), "b");
        }
        let failures = balancer.destination(0).counts.failures[Failure::Connect as usize];
        assert!(failures >= 1, "refusals are the destination's failures: {failures}");
        let a = Echo::at("a", a.address);
        let client = Device::of(&balancer);
        until("it is used again", || {
            client.ask_until_heard("") == "a" || Device::of(&balancer).ask("") == "a"
        });
        drop(a);
    }
}

#[test]
fn refusals_in_a_row_eject_and_flows_follow() {
    let [mut a, b] = ["a", "b"].map(Echo::start);
    let balancer = before(&[&a, &b]).with(|s| s.pools[0].outlier.consecutive_failures = 2).start();
    let clients: Vec<Device> = (0..6).map(|_| Device::of(&balancer)).collect();
    for client in &clients {
        client.ask("");
    }
    a.kill();
    for client in &clients {
        client.send("");
    }
    until("it is ejected", || balancer.destination(0).status.as_str() == "ejected");
    for client in &clients {
        while client.hears_within(ms(1)).is_some() {}
        assert_eq!(client.ask_until_heard(""), "b");
    }
    let at_dead = balancer.destination(0).in_flight;
    assert_eq!(at_dead, 0, "nobody is left there");
}

#[test]
fn the_only_destination_is_asked_again_after_it_refused() {
    let mut a = Echo::start("a");
    let balancer = before(&[&a]).start();
    let client = Device::of(&balancer);
    client.ask("");
    a.kill();
    client.send("");
    until("the refusal is known", || balancer.destination(0).counts.failed() > 0);
    let _back = Echo::at("a", a.address);
    assert_eq!(client.ask_until_heard(""), "a");
}

#[test]
fn nobody_to_serve_is_silence_and_a_count() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).with(|s| s.pools[0].destinations[0].weight = Weight::new(0)).start();
    let client = Device::of(&balancer);
    client.send("anybody?");
    until("it is counted", || balancer.refused("no_healthy_destination") == 1);
    assert_eq!(client.hears_within(ms(50)), None, "we never send what no destination has sent");
    until_counted(&balancer, [1, 0, 0, 0]);
    assert_eq!(balancer.active(), 0);
}

#[test]
fn strangers_cannot_speak_through_a_flow() {
    let echo = Echo::start("");
    let balancer = before(&[&echo]).start();
    let client = Device::of(&balancer);
    client.ask("hello");
    let flow = echo.sources()[0];
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for to in [flow, SocketAddr::new([127, 0, 0, 1].into(), flow.port())] {
        stranger.send_to(b"I am your destination", to).expect("sent");
    }
    assert_eq!(client.hears_within(ms(100)), None);
    assert_eq!(client.ask("still mine"), "still mine");
    until_counted(&balancer, [2; 4]);
}

#[test]
fn replies_come_from_the_address_the_client_sent_to() {
    let echo = Echo::start("");
    for (any, asked) in [
        ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2", "127.9.9.9"]),
        ("[::]:0", ["127.0.0.1", "127.0.0.2", "::1"]),
    ] {
        let Ok(listen) = any.parse::<SocketAddr>() else { panic!("{any}") };
        if UdpSocket::bind(listen).is_err() {
            continue; // a machine without IPv6
        }
        let setup = before(&[&echo]).with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(listen)]);
        let balancer = setup.with(|s| s.workers = 2).start();
        let port = address(&balancer).port();
        for asked in asked {
            let ip: IpAddr = asked.parse().expect("an address");
            let client = Device::to((ip, port).into());
            for _ in 0..3 {
                assert_eq!(client.ask("who are you?"), "who are you?", "{asked}");
            }
        }
        assert_eq!(counts(&balancer).total, 3);
    }
}

#[test]
fn a_reload_keeps_flows_unless_their_pool_or_destination_goes() {
    let [a, b, c] = ["a", "b", "c"].map(Echo::start);
    let setup = before(&[&a]);
    let balancer = setup.start();
    let client = Device::of(&balancer);
    assert_eq!(client.ask(""), "a");
    let more = setup.clone().with(|s| {
        s.listeners[0].udp.max_flows = 10;
        let another = s.pools[0].destinations[0].clone();
        s.pools[0].destinations.push(another);
        s.pools[0].destinations[1].name = "other".into();
        s.pools[0].destinations[1].address = DestinationAddress::Socket(b.address);
    });
    balancer.reload(&more).expect("a good configuration");
    for _ in 0..3 {
        assert_eq!(client.ask(""), "a");
    }
    assert_eq!(a.sources().into_iter().collect::<HashSet<_>>().len(), 1, "over the same socket");
    let without = more.clone().with(|s| drop(s.pools[0].destinations.remove(0)));
    balancer.reload(&without).expect("a good configuration");
    assert_eq!(client.ask(""), "b", "its destination has left");
    assert_eq!(counts(&balancer).total, 1);
    let elsewhere = before(&[&c]).with(|s| s.pools[0].name = "elsewhere".into());
    balancer.reload(&elsewhere).expect("a good configuration");
    assert_eq!(client.ask(""), "c", "its pool has left");
    assert_eq!(counts(&balancer).total, 2);
}

#[test]
fn one_port_for_tcp_and_udp_and_no_second_process() {
    let echo = Echo::start("");
    // An address nobody else connects from: the port is free for TCP too.
    let mine = ListenAddress::Udp(([127, 0, 0, 77], 0).into());
    let setup = before(&[&echo]).with(|s| (s.workers, s.listeners[0].addresses) = (2, vec![mine]));
    let balancer = setup.start();
    let taken = address(&balancer);
    let again = setup.clone().with(|s| s.listeners[0].addresses = vec![ListenAddress::Udp(taken)]);
    assert!(again.try_start().is_err(), "the port is held");
    let mut tcp = Setup::tcp(&[]).listeners.remove(0);
    (tcp.name, tcp.addresses) = ("tcp".into(), vec![ListenAddress::Socket(taken)]);
    let both = setup.with(|s| s.listeners.push(tcp));
    balancer.reload(&both).expect("TCP has ports of its own");
    assert_eq!(Device::of(&balancer).ask("x"), "x");
    assert_eq!(balancer.place_of("tcp"), Place::Tcp(taken));
}

#[test]
fn checks_by_datagram() {
    let [good, mut dies, wrong] = ["good ", "good ", "bad "].map(Echo::start);
    let addresses = [good.address, dies.address, wrong.address, nobody()];
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
    until("who does not reply as expected is down", || statuses(&expects) == [true, true, false, false]);
    until("who refuses is down", || statuses(&accepts) == [true, true, true, false]);
    dies.kill();
    until("it is down", || statuses(&expects) == [true, false, false, false]);
    until("it is down", || statuses(&accepts) == [true, false, true, false]);
    for _ in 0..4 {
        assert_eq!(Device::of(&expects).ask("x"), "good x");
    }
    let _back = Echo::at("good ", dies.address);
    until("it is back", || statuses(&expects) == [true, true, false, false]);
}

#[test]
fn a_flow_is_one_line_of_the_log() {
    let (echo, file) = (Echo::start(""), Temporary::new("udp.log"));
    let setup = before(&[&echo]).with(|s| s.listeners[0].udp.idle = ms(100));
    let balancer = setup.with(|s| s.access_log = Some(AccessLog::File(file.path().into()))).start();
    let client = Device::of(&balancer);
    client.ask("12345");
    client.ask("123");
    let me = SocketAddr::from(([127, 0, 0, 1], client.0.local_addr().expect("bound").port()));
    let text = || std::fs::read_to_string(file.path()).unwrap_or_default();
    until("it is written", || text().ends_with('\n'));
    let line: serde_json::Value = serde_json::from_str(text().trim()).expect("one line of JSON");
    assert_eq!(line["protocol"], "UDP");
    assert_eq!(line["client"], me.to_string());
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&8.into(), &8.into()));
    assert_eq!(line["destination"], "main-0");
}

/// Many destinations never reply, and must get out of ejection all the same.
#[test]
fn silence_passes_a_trial_and_a_refusal_does_not() {
    for flow in [UdpFlow::Source, UdpFlow::Datagram] {
        let (mut a, b) = (Echo::start("a"), Echo::start("b"));
        let setup = before(&[&a, &b]).with(|s| {
            s.listeners[0].udp.flow = flow;
            (s.pools[0].outlier.consecutive_failures, s.pools[0].outlier.base_ejection) = (1, ms(100));
        });
        let balancer = setup.start();
        a.kill();
        let mut clients = Vec::new();
        let mut talk = |status: &str| {
            until(status, || {
                let client = Device::of(&balancer);
                client.send("one way");
                clients.push(client);
                balancer.destination(0).status.as_str() == status
            });
        };
        talk("ejected");
        // Trials come and are refused.
        let refused = |balancer: &Balancer| balancer.pools()[0].ejections.get("trial_failed").copied();
        until("a trial is refused", || {
            let client = Device::of(&balancer);
            client.send("one way");
            refused(&balancer) > Some(0)
        });
        let sink = UdpSocket::bind(a.address).expect("its port");
        talk("serving");
        sink.set_read_timeout(Some(PATIENCE)).expect("a socket");
        assert!(sink.recv(&mut [0; 64]).is_ok(), "it is sent to");
    }
}

/// Whose datagram claims to come from our own address would have its reply come back to us, without end.
#[test]
fn a_datagram_that_claims_to_be_ours_goes_nowhere() {
    let echo = Echo::start("");
    for _ in 0..50 {
        let balancer = before(&[&echo]).start();
        let forger =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
        forger.set_reuse_port(true).expect("the same user may");
        forger.bind(&address(&balancer).into()).expect("the same user may");
        let forger = UdpSocket::from(forger);
        forger.send_to(b"from you", address(&balancer)).expect("sent");
        forger.set_read_timeout(Some(ms(20))).expect("a socket");
        // The system gives it to one of the two.
        if forger.recv(&mut [0; 64]).is_err() {
            until_counted(&balancer, [1, 0, 0, 0]);
            assert_eq!((balancer.refused("bad_request"), balancer.active()), (1, 0));
            return;
        }
    }
    panic!("it never came to the balancer");
}
