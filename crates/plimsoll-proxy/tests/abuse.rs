//! Hostile HTTP/2 clients: the proxy closes the connection, and other clients are not affected.
//!
//! A test binary of its own, because it measures the memory of the whole process.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use kit::http2::{Http2Client, websocket_accept};
use kit::{Balancer, Destination, Endpoint, Setup, Stopwatch, TIMEOUT, ms, ok, respond_ok, secs, wait_until};

/// Sends and reads single frames on a raw socket.
struct Frames {
    socket: std::net::TcpStream,
}

impl Frames {
    /// Connects; sends the preface and empty SETTINGS.
    fn connect(balancer: &Balancer) -> Self {
        let Endpoint::Tcp(address) = balancer.endpoint() else { panic!("a TCP listener") };
        let mut socket = std::net::TcpStream::connect(address).expect("the proxy accepts connections");
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("room");
        let mut frames = Self { socket };
        assert!(frames.send(4, 0, 0, b""));
        frames
    }

    /// Encodes a frame.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// Sends a frame; returns `false` if the proxy has closed the connection.
    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_raw(&Self::frame(kind, flags, stream, payload))
    }

    fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// Reads the next frame: type, flags, stream and payload. `None` at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads to the end; returns the error code of the last GOAWAY.
    fn read_goaway_code(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, _, payload)) = self.next() {
            if kind == 7 {
                code = payload.get(4..8).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
            }
        }
        code
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET /` for the authority `test`, in HPACK without the dynamic table.
const GET: &[u8] = b"\x82\x86\x84\x41\x04test";

/// `GET /large` for the authority `test`, in HPACK without the dynamic table.
const GET_LARGE: &[u8] = b"\x82\x86\x44\x06/large\x41\x04test";
const LARGE_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n";
static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];

/// Returns the resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}

/// Number of connections of each attack.
const CONNECTIONS: usize = 12;

/// Serializes the tests, which measure the memory of one process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs `attack` on several connections while another client keeps sending requests.
fn check_survives(what: &str, attack: impl Fn(&mut Frames) + Send + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let destination = Destination::start(|conn| {
        while let Some(request) = conn.request() {
            if let Some(key) = request.fields.one("sec-websocket-key") {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
                conn.send(format!("{head}\r\nSec-WebSocket-Accept: {}\r\n\r\n", websocket_accept(key)));
                while conn.send(LARGE.as_slice()) {}
                return;
            }
            match request.target.as_str() {
                "/large" => conn.send(LARGE_HEAD) && conn.send(LARGE.as_slice()),
                _ => conn.send(ok("ok")),
            };
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").text(), "ok");
    let before = resident();
    let balancer = Arc::new(balancer);
    let target = balancer.clone();
    let attacker = std::thread::spawn(move || {
        (0..CONNECTIONS).for_each(|_| attack(&mut Frames::connect(&target)));
    });
    let (mut requests, mut slowest) = (0, ms(0));
    while !attacker.is_finished() || requests < 10 {
        let stopwatch = Stopwatch::start();
        assert_eq!(client.get("/").text(), "ok", "{what}");
        slowest = slowest.max(stopwatch.elapsed());
        requests += 1;
    }
    // Generous: the test detects starvation, not a busy machine.
    assert!(slowest < secs(15), "{what}: another client waited for {slowest:?}");
    attacker.join().expect("the attacker does not panic");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{what}: {grown} bytes more");
    wait_until("the attackers' connections are closed", || {
        client.drive_for(ms(10));
        balancer.active() <= 1
    });
}

#[test]
fn rapid_resets_are_survived() {
    check_survives("rapid resets", |frames| {
        for n in 0..2_000 {
            let stream = 1 + 2 * n;
            let mut both = Frames::frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
            both.extend(Frames::frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            if !frames.send_raw(&both) {
                return;
            }
        }
    });
}

#[test]
fn provoked_resets_are_survived() {
    check_survives("made resets", |frames| {
        for n in 0..2_000 {
            let stream = 1 + 2 * n;
            let mut both = Frames::frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
            both.extend(Frames::frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
            if !frames.send_raw(&both) {
                return;
            }
        }
    });
}

#[test]
fn endless_heads_are_survived() {
    check_survives("continuations", |frames| {
        frames.send(HEADERS, 0, 1, GET);
        for _ in 0..20_000 {
            if !frames.send(CONTINUATION, 0, 1, b"\x00\x01a\x01b") {
                return;
            }
        }
    });
    check_survives("empty continuations", |frames| {
        frames.send(HEADERS, 0, 1, GET);
        for _ in 0..20_000 {
            if !frames.send(CONTINUATION, 0, 1, b"") {
                return;
            }
        }
    });
}

#[test]
fn floods_of_small_frames_are_survived() {
    for (what, kind, flags, payload) in [
        ("settings", SETTINGS, 0, &b"\x00\x03\x00\x00\x00\x64"[..]),
        ("pings", PING, 0, b"12345678"),
        ("window updates", WINDOW_UPDATE, 0, b"\x00\x00\x00\x01"),
    ] {
        check_survives(what, move |frames| {
            let many: Vec<u8> = (0..200).flat_map(|_| Frames::frame(kind, flags, 0, payload)).collect();
            for _ in 0..100 {
                if !frames.send_raw(&many) {
                    return;
                }
            }
        });
    }
    check_survives("priorities", |frames| {
        for n in 0..20_000_u32 {
            if !frames.send(PRIORITY, 0, 1 + 2 * n, b"\x00\x00\x00\x00\x10") {
                return;
            }
        }
    });
    check_survives("empty data", |frames| {
        frames.send(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x41\x04test");
        for _ in 0..20_000 {
            if !frames.send(DATA, 0, 1, b"") {
                return;
            }
        }
    });
}

#[test]
fn hpack_bomb_is_survived() {
    check_survives("HPACK bomb", |frames| {
        // One long field enters the dynamic table; thousands of references to it follow.
        let mut block = GET.to_vec();
        block.extend_from_slice(b"\x40\x01x\x7f\xe1\x1e");
        block.extend_from_slice(&[b'y'; 4000]);
        block.extend(std::iter::repeat_n(0xbe, 10_000));
        for n in 0..200 {
            if !frames.send(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, &block) {
                return;
            }
        }
    });
}

/// Requests large responses on a hundred streams, with an initial window of `window` bytes.
fn request_large_responses(frames: &mut Frames, window: u32) {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    assert!(frames.send(SETTINGS, 0, 0, &settings));
    for n in 0..100 {
        assert!(frames.send(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, GET_LARGE));
    }
}

#[test]
fn closed_windows_are_survived() {
    for (what, window) in [("no window", 0), ("a window for the first bytes", 20_000)] {
        check_survives(what, move |frames| {
            request_large_responses(frames, window);
            std::thread::sleep(ms(100));
        });
    }
}

#[test]
fn windows_opened_byte_by_byte_are_survived() {
    check_survives("dribbled windows", |frames| {
        request_large_responses(frames, 0);
        let updates = (0..100).flat_map(|n| Frames::frame(WINDOW_UPDATE, 0, 1 + 2 * n, b"\0\0\0\x01"));
        let updates: Vec<u8> = updates.collect();
        for _ in 0..200 {
            if !frames.send_raw(&updates) {
                return;
            }
        }
        let stopwatch = Stopwatch::start();
        while frames.next().is_some() {}
        assert!(stopwatch.elapsed() < secs(5), "20,000 updates for as many bytes are detected as a flood");
    });
}

#[test]
fn unread_tunnels_are_survived() {
    check_survives("stalled tunnels", |frames| {
        let connect = b"\x02\x07CONNECT\x00\x09:protocol\x09websocket\x86\x84\x41\x04test";
        for n in 0..100 {
            assert!(frames.send(HEADERS, END_HEADERS, 1 + 2 * n, connect));
            assert!(frames.send(DATA, 0, 1 + 2 * n, &[b'x'; 10_000]));
        }
        // Until the response head and the first data within the window.
        loop {
            match frames.next().expect("more data") {
                (DATA, ..) => break,
                (HEADERS, _, _, head) => assert_eq!(head[0], 0x88, "HPACK's `:status: 200`"),
                _ => {}
            }
        }
        std::thread::sleep(ms(100));
    });
}

fn goaway_code_after(balancer: &Balancer, send: impl Fn(&mut Frames)) -> Option<u32> {
    let mut frames = Frames::connect(balancer);
    send(&mut frames);
    frames.read_goaway_code()
}

#[test]
fn protocol_violation_closes_the_connection_with_its_error_code() {
    const PROTOCOL_ERROR: u32 = 1;
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let data_on_nothing = |frames: &mut Frames| assert!(frames.send(DATA, 0, 1, b"x"));
    assert_eq!(goaway_code_after(&balancer, data_on_nothing), Some(PROTOCOL_ERROR));
    let even_stream = |frames: &mut Frames| assert!(frames.send(HEADERS, END_STREAM | END_HEADERS, 2, GET));
    assert_eq!(goaway_code_after(&balancer, even_stream), Some(PROTOCOL_ERROR));
    let short_ping = |frames: &mut Frames| assert!(frames.send(PING, 0, 0, b"1"));
    assert!(goaway_code_after(&balancer, short_ping).is_some());
    assert_eq!(destination.connections(), 0);
}

#[test]
fn incomplete_preface_has_a_timeout() {
    let destination = Destination::start(respond_ok("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].timeouts.header = ms(200)).start();
    for begun in ["PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = balancer.connect();
        client.send(begun);
        let stopwatch = Stopwatch::start();
        let _whatever_was_said = client.read_to_end();
        assert!(stopwatch.elapsed() < secs(4), "{begun:?}");
    }
}
