//! What the wire tests are made of: a destination that remembers every byte, a client that forgives nothing,
//! a proxy in this process.

mod balancer;
mod client;
mod destination;
mod endpoint;
pub(crate) mod http;
pub(crate) mod http2;
mod tls;

use std::time::Duration;

use plimsoll_proxy::Clock;

pub(crate) use self::balancer::{Balancer, Setup, edits, route};
pub(crate) use self::client::{Client, Fault, Kind};
pub(crate) use self::destination::{BlackHole, Destination, Gate, Visit, answers, hello, ok};
pub(crate) use self::endpoint::{Place, Temporary, raise_descriptor_limit};
pub(crate) use self::http::{Answer, Framing, Request};
pub(crate) use self::tls::{Authority, believes, serves};

/// Nothing in a test takes longer; what does, hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Time since it was started.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Watch(Clock);

impl Watch {
    pub(crate) fn start() -> Self {
        Self(Clock::start())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.now().as_nanos())
    }
}

/// Asks again and again until it holds, and no longer than [`PATIENCE`].
#[track_caller]
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(what, PATIENCE, holds);
}

/// Asks again and again until it holds, and no longer than `limit`.
#[track_caller]
pub(crate) fn until_within(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let watch = Watch::start();
    while !holds() {
        assert!(watch.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(ms(2));
    }
}

/// A GET of `path`, as a plain client sends it.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A POST of `body` to `path`.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Bytes that repeat nowhere near, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = plimsoll_core::Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// FNV-1a: enough to tell whether bulk arrived as it left.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}
