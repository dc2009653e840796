//! Tools of the end-to-end tests: a destination that records every byte, a client that parses strictly, and a
//! proxy in this process.

mod balancer;
mod client;
mod destination;
mod endpoint;
pub(crate) mod http;
pub(crate) mod http2;
mod tls;

use std::time::Duration;

use plimsoll_proxy::Clock;

pub(crate) use self::balancer::{Balancer, Names, Setup, edits, route};
pub(crate) use self::client::{Client, EndKind, ReadEnd};
pub(crate) use self::destination::{BlackHole, Connection, Destination, Gate, ok, respond_ok, respond_with};
pub(crate) use self::endpoint::{Endpoint, TempPath, raise_descriptor_limit};
pub(crate) use self::http::{Framing, Request, Response};
pub(crate) use self::tls::{TestCa, client_tls, server_tls, unix_seconds};

/// Time limit of every wait: a test that needs longer hangs.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Measures the time since its start.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Stopwatch(Clock);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Clock::start())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.now().as_nanos())
    }
}

/// Polls the condition until it holds, for at most [`TIMEOUT`].
#[track_caller]
pub(crate) fn wait_until(what: &str, holds: impl FnMut() -> bool) {
    wait_until_within(what, TIMEOUT, holds);
}

/// Polls the condition until it holds, for at most `limit`.
#[track_caller]
pub(crate) fn wait_until_within(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let stopwatch = Stopwatch::start();
    while !holds() {
        assert!(stopwatch.elapsed() < limit, "timed out after {limit:?}: {what}");
        std::thread::sleep(ms(2));
    }
}

/// Returns a GET request for `path`.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Returns a POST request with `body` to `path`.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Returns pseudo-random bytes that depend on the seed only.
pub(crate) fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = plimsoll_core::Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Computes FNV-1a, which detects changed or lost bytes of large bodies.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
