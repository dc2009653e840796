//! Which kinds of work are measured.

use std::net::SocketAddr;

use crate::backend::Mode;
use crate::load::exchange::{self, Exchange, Expect};
use crate::peers::{Buffers, Traffic};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) measure: Measure,
    pub(crate) connections: usize,
    pub(crate) work: Work,
    pub(crate) buffers: Buffers,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// CPU time of the balancer for each message.
    CpuPerMessage,
    /// Resident memory of the balancer for each idle connection.
    MemoryPerConnection,
    /// CPU time for each message of the subject with two workers against the subject with one, with both
    /// CPUs free for all.
    TwoWorkers,
}

#[derive(Clone, Copy)]
pub(crate) enum Work {
    Get {
        path: &'static str,
        body: usize,
        browser: bool,
        close: bool,
    },
    /// A message of 64 bytes, and as many back or this many.
    Tcp {
        reply: Option<usize>,
    },
    /// A datagram of 64 bytes, and the same back.
    Udp,
}

const SMALL: Work = Work::Get { path: "/128", body: 128, browser: false, close: false };
const LARGE: Work = Work::Get { path: "/1m", body: 1 << 20, browser: false, close: false };
const BROWSER: Work = Work::Get { path: "/headers/128", body: 128, browser: true, close: false };
const CLOSE: Work = Work::Get { path: "/128", body: 128, browser: false, close: true };
const ECHO: Work = Work::Tcp { reply: None };
const BULK: Work = Work::Tcp { reply: Some(1 << 20) };

pub(crate) const ALL: [Scenario; 12] = [
    cpu("h1-keepalive-64", "HTTP/1.1 keep-alive, 128 B replies, 64 connections", 64, SMALL),
    cpu("h1-keepalive-1000", "HTTP/1.1 keep-alive, 128 B replies, 1000 connections", 1000, SMALL),
    cpu("h1-30-headers", "HTTP/1.1 keep-alive, a browser's 30 headers, 600 B of headers back", 64, BROWSER),
    cpu("h1-conn-per-request", "HTTP/1.1, a client connection for every request, 64 at a time", 64, CLOSE),
    cpu("h1-1mib", "HTTP/1.1 keep-alive, 1 MiB replies, 16 connections, buffers as shipped", 16, LARGE)
        .with(Buffers::ShippedForBulk),
    cpu("h1-1mib-tuned", "as h1-1mib, the peers tuned for it", 16, LARGE).with(Buffers::TunedForBulk),
    cpu("tcp-small", "TCP, 64 B there and back, 64 connections", 64, ECHO),
    cpu("tcp-bulk", "TCP, 64 B there and 1 MiB back, 16 connections, buffers as shipped", 16, BULK)
        .with(Buffers::ShippedForBulk),
    cpu("tcp-bulk-tuned", "as tcp-bulk, the peers tuned for it", 16, BULK).with(Buffers::TunedForBulk),
    cpu("udp-echo", "UDP, 64 B there and back, 32 clients", 32, Work::Udp),
    Scenario {
        measure: Measure::MemoryPerConnection,
        ..cpu("idle-memory", "HTTP/1.1, idle keep-alive connections after one request each", 10_000, SMALL)
    },
    Scenario {
        measure: Measure::TwoWorkers,
        ..cpu("two-workers", "as h1-keepalive-64, two workers against one, no process pinned", 64, SMALL)
    },
];

const fn cpu(name: &'static str, about: &'static str, connections: usize, work: Work) -> Scenario {
    Scenario { name, about, measure: Measure::CpuPerMessage, connections, work, buffers: Buffers::Shipped }
}

pub(crate) fn find(name: &str) -> Result<&'static Scenario, String> {
    let known = || ALL.map(|scenario| scenario.name).join(", ");
    ALL.iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| format!("no scenario '{name}'; there are: {}", known()))
}

impl Scenario {
    const fn with(self, buffers: Buffers) -> Self {
        Self { buffers, ..self }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        match self.work {
            Work::Get { .. } => Traffic::Http,
            Work::Tcp { .. } => Traffic::Tcp,
            Work::Udp => Traffic::Udp,
        }
    }

    /// How the backends serve, and how long their bulk replies are.
    pub(crate) fn backend(&self) -> (Mode, usize) {
        match self.work {
            Work::Get { .. } => (Mode::Http, 0),
            Work::Tcp { reply: None } => (Mode::Echo, 0),
            Work::Udp => (Mode::Datagrams, 0),
            Work::Tcp { reply: Some(length) } => (Mode::Bulk, length),
        }
    }

    pub(crate) fn exchange(&self, target: SocketAddr) -> Exchange {
        match self.work {
            Work::Get { path, body, browser, close } => Exchange {
                request: exchange::get(&target.to_string(), path, browser, close),
                expect: Expect::Http { body, close },
                datagrams: false,
            },
            Work::Tcp { reply } => Exchange {
                request: vec![b'm'; 64],
                expect: reply.map_or(Expect::Echo, Expect::Bytes),
                datagrams: false,
            },
            Work::Udp => Exchange { request: vec![b'm'; 64], expect: Expect::Echo, datagrams: true },
        }
    }

    /// What one unit of the primary number is.
    pub(crate) fn unit(&self) -> &'static str {
        match self.measure {
            Measure::CpuPerMessage | Measure::TwoWorkers => "CPU µs/request",
            Measure::MemoryPerConnection => "KiB/connection",
        }
    }
}
