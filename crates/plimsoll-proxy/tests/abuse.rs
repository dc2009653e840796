//! Clients of HTTP/2 that mean harm: the connection ends, and others notice nothing.
//!
//! A program of its own, because it measures the memory of the whole process.

#[path = "e2e/kit/mod.rs"]
#[allow(dead_code, unused_imports)] // The tests of `e2e` use all of it.
mod kit;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use kit::http2::{Http2Client, accept};
use kit::{Balancer, Destination, PATIENCE, Place, Setup, Watch, hello, ms, ok, secs, until};

/// Single frames on a raw socket.
struct Frames {
    socket: std::net::TcpStream,
}

impl Frames {
    /// The preface and empty settings, and nothing more.
    fn connect(balancer: &Balancer) -> Self {
        let Place::Tcp(address) = balancer.place() else { panic!("a TCP listener") };
        let mut socket = std::net::TcpStream::connect(address).expect("the proxy takes connections");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("room");
        let mut frames = Self { socket };
        assert!(frames.send(4, 0, 0, b""));
        frames
    }

    /// A frame as it stands on the wire.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// `false` when the proxy takes no more.
    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.send_raw(&Self::frame(kind, flags, stream, payload))
    }

    fn send_raw(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The next frame: kind, flags, stream and payload. `None` at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        self.socket.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// The code of the goodbye that ends this connection.
    fn goodbye(&mut self) -> Option<u32> {
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

/// `GET / HTTP/2` of `test`, as HPACK has it without a table.
const GET: &[u8] = b"\x82\x86\x84\x41\x04test";

/// The same of `/large`.
const GET_LARGE: &[u8] = b"\x82\x86\x44\x06/large\x41\x04test";
const LARGE_HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n";
static LARGE: [u8; 8 << 20] = [b'x'; 8 << 20];

/// Resident bytes of this process.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
}

/// Each abuser comes so often.
const CONNECTIONS: usize = 12;

/// Two at once would be measured together.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Lets `abuse` do its worst for a while, again and again, while somebody else asks for an answer.
fn survives(what: &str, abuse: impl Fn(&mut Frames) + Send + 'static) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let destination = Destination::start(|visit| {
        while let Some(request) = visit.request() {
            if let Some(key) = request.fields.one("sec-websocket-key") {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket";
                visit.send(format!("{head}\r\nSec-WebSocket-Accept: {}\r\n\r\n", accept(key)));
                while visit.send(LARGE.as_slice()) {}
                return;
            }
            match request.target.as_str() {
                "/large" => visit.send(LARGE_HEAD) && visit.send(LARGE.as_slice()),
                _ => visit.send(ok("ok")),
            };
        }
    });
    let balancer = Setup::http(&[&destination]).start();
    let mut client = Http2Client::connect(&balancer);
    assert_eq!(client.get("/").text(), "ok");
    let before = resident();
    let place = Arc::new(balancer);
    let victim = place.clone();
    let abuser = std::thread::spawn(move || {
        (0..CONNECTIONS).for_each(|_| abuse(&mut Frames::connect(&victim)));
    });
    let (mut asked, mut slowest) = (0, ms(0));
    while !abuser.is_finished() || asked < 10 {
        let watch = Watch::start();
        assert_eq!(client.get("/").text(), "ok", "{what}");
        slowest = slowest.max(watch.elapsed());
        asked += 1;
    }
    // Generous: what is refused is starvation, not a busy machine.
    assert!(slowest < secs(15), "{what}: somebody else waited for {slowest:?}");
    abuser.join().expect("the abuser does not panic");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{what}: {grown} bytes more");
    until("abusers are gone", || {
        client.idle(ms(10));
        place.active() <= 1
    });
}

#[test]
fn rapid_resets() {
    survives("rapid resets", |frames| {
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
fn resets_that_we_are_made_to_send() {
    survives("made resets", |frames| {
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
fn heads_without_end() {
    survives("continuations", |frames| {
        frames.send(HEADERS, 0, 1, GET);
        for _ in 0..20_000 {
            if !frames.send(CONTINUATION, 0, 1, b"\x00\x01a\x01b") {
                return;
            }
        }
    });
    survives("empty continuations", |frames| {
        frames.send(HEADERS, 0, 1, GET);
        for _ in 0..20_000 {
            if !frames.send(CONTINUATION, 0, 1, b"") {
                return;
            }
        }
    });
}

#[test]
fn floods_of_small_frames() {
    for (what, kind, flags, payload) in [
        ("settings", SETTINGS, 0, &b"\x00\x03\x00\x00\x00\x64"[..]),
        ("pings", PING, 0, b"12345678"),
        ("window updates", WINDOW_UPDATE, 0, b"\x00\x00\x00\x01"),
    ] {
        survives(what, move |frames| {
            let many: Vec<u8> = (0..200).flat_map(|_| Frames::frame(kind, flags, 0, payload)).collect();
            for _ in 0..100 {
                if !frames.send_raw(&many) {
                    return;
                }
            }
        });
    }
    survives("priorities", |frames| {
        for n in 0..20_000_u32 {
            if !frames.send(PRIORITY, 0, 1 + 2 * n, b"\x00\x00\x00\x00\x10") {
                return;
            }
        }
    });
    survives("empty data", |frames| {
        frames.send(HEADERS, END_HEADERS, 1, b"\x83\x86\x84\x41\x04test");
        for _ in 0..20_000 {
            if !frames.send(DATA, 0, 1, b"") {
                return;
            }
        }
    });
}

#[test]
fn a_bomb_of_headers() {
    survives("HPACK bomb", |frames| {
        // One long field into the table, and then a reference to it, thousands of times.
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

/// Asks for large answers on a hundred streams, with a window of so many bytes.
fn ask_for_much(frames: &mut Frames, window: u32) {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    assert!(frames.send(SETTINGS, 0, 0, &settings));
    for n in 0..100 {
        assert!(frames.send(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, GET_LARGE));
    }
}

#[test]
fn windows_that_stay_shut() {
    for (what, window) in [("no window", 0), ("a window for the first bytes", 20_000)] {
        survives(what, move |frames| {
            ask_for_much(frames, window);
            std::thread::sleep(ms(100));
        });
    }
}

#[test]
fn windows_that_are_opened_byte_by_byte() {
    survives("dribbled windows", |frames| {
        ask_for_much(frames, 0);
        let updates = (0..100).flat_map(|n| Frames::frame(WINDOW_UPDATE, 0, 1 + 2 * n, b"\0\0\0\x01"));
        let updates: Vec<u8> = updates.collect();
        for _ in 0..200 {
            if !frames.send_raw(&updates) {
                return;
            }
        }
        let watch = Watch::start();
        while frames.next().is_some() {}
        assert!(watch.elapsed() < secs(5), "20,000 updates for as many bytes are a flood");
    });
}

#[test]
fn tunnels_that_nobody_reads() {
    survives("stalled tunnels", |frames| {
        let connect = b"\x02\x07CONNECT\x00\x09:protocol\x09websocket\x86\x84\x41\x04test";
        for n in 0..100 {
            assert!(frames.send(HEADERS, END_HEADERS, 1 + 2 * n, connect));
            assert!(frames.send(DATA, 0, 1 + 2 * n, &[b'x'; 10_000]));
        }
        // The head of an answer, and the first of what fits the window.
        loop {
            match frames.next().expect("it goes on") {
                (DATA, ..) => break,
                (HEADERS, _, _, head) => assert_eq!(head[0], 0x88, "HPACK's `:status: 200`"),
                _ => {}
            }
        }
        std::thread::sleep(ms(100));
    });
}

fn ended_with(balancer: &Balancer, send: impl Fn(&mut Frames)) -> Option<u32> {
    let mut frames = Frames::connect(balancer);
    send(&mut frames);
    frames.goodbye()
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_with_its_code() {
    const PROTOCOL_ERROR: u32 = 1;
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).start();
    let data_on_nothing = |frames: &mut Frames| assert!(frames.send(DATA, 0, 1, b"x"));
    assert_eq!(ended_with(&balancer, data_on_nothing), Some(PROTOCOL_ERROR));
    let even_stream = |frames: &mut Frames| assert!(frames.send(HEADERS, END_STREAM | END_HEADERS, 2, GET));
    assert_eq!(ended_with(&balancer, even_stream), Some(PROTOCOL_ERROR));
    let short_ping = |frames: &mut Frames| assert!(frames.send(PING, 0, 0, b"1"));
    assert!(ended_with(&balancer, short_ping).is_some());
    assert_eq!(destination.connections(), 0);
}

#[test]
fn a_preface_that_stops_is_not_waited_for_long() {
    let destination = Destination::start(hello("ok"));
    let balancer = Setup::http(&[&destination]).with(|s| s.listeners[0].timeouts.header = ms(200)).start();
    for begun in ["PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = balancer.connect();
        client.send(begun);
        let watch = Watch::start();
        let _whatever_was_said = client.rest();
        assert!(watch.elapsed() < secs(4), "{begun:?}");
    }
}
