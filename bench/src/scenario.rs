//! Scenarios: kinds of work that are measured.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;

use crate::backend::Mode;
use crate::certificate::{self, Certificate};
use crate::load::client::Client;
use crate::load::driver::Driver;
use crate::load::exchange::{self, Exchange, Expect};
use crate::load::h2load::H2load;
use crate::load::tls::{Handshakes, TlsSettings};
use crate::proxies::{self, Buffers, ChildProcess, Http, Proxy, Traffic};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) measure: Measure,
    pub(crate) connections: usize,
    pub(crate) work: Work,
    pub(crate) buffers: Buffers,
    /// Kind of TLS handshakes, if clients use TLS.
    pub(crate) handshakes: Option<Handshakes>,
}

/// Quantity that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// CPU time of the proxy per message.
    CpuPerMessage,
    /// Resident memory of the proxy per idle connection.
    MemoryPerConnection,
    /// CPU time per message of the subject with two workers over that with one, on both CPUs.
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
    /// Message of 64 bytes, echoed or answered with a reply of fixed size.
    Tcp {
        reply: Option<usize>,
    },
    /// HTTP/2 with 16 concurrent requests per connection and replies of 128 bytes.
    Http2 {
        back: Http,
    },
    /// Datagram of 64 bytes, echoed.
    Udp,
    /// MQTT packet of 64 bytes, echoed; the first is a CONNECT.
    Mqtt,
}

const SMALL: Work = Work::Get { path: "/128", body: 128, browser: false, close: false };
const LARGE: Work = Work::Get { path: "/1m", body: 1 << 20, browser: false, close: false };
const BROWSER: Work = Work::Get { path: "/headers/128", body: 128, browser: true, close: false };
const CLOSE: Work = Work::Get { path: "/128", body: 128, browser: false, close: true };
const ECHO: Work = Work::Tcp { reply: None };
const TO_HTTP1: Work = Work::Http2 { back: Http::One };
const BULK: Work = Work::Tcp { reply: Some(1 << 20) };

pub(crate) const ALL: [Scenario; 21] = [
    cpu("h1-keepalive-64", "HTTP/1.1 keep-alive, 128 B replies, 64 connections", 64, SMALL),
    cpu("h1-keepalive-1000", "HTTP/1.1 keep-alive, 128 B replies, 1000 connections", 1000, SMALL),
    cpu(
        "h1-30-headers",
        "HTTP/1.1 keep-alive, a browser's 30 headers, 600 B of response headers",
        64,
        BROWSER,
    ),
    cpu("h1-conn-per-request", "HTTP/1.1, a client connection for every request, 64 at a time", 64, CLOSE),
    cpu("h1-1mib", "HTTP/1.1 keep-alive, 1 MiB replies, 16 connections, buffers as shipped", 16, LARGE)
        .with(Buffers::ShippedForBulk),
    cpu("h1-1mib-tuned", "as h1-1mib, competitors tuned for it", 16, LARGE).with(Buffers::TunedForBulk),
    cpu("tcp-small", "TCP, 64 B each way, 64 connections", 64, ECHO),
    cpu("tcp-bulk", "TCP, 64 B requests and 1 MiB replies, 16 connections, buffers as shipped", 16, BULK)
        .with(Buffers::ShippedForBulk),
    cpu("tcp-bulk-tuned", "as tcp-bulk, competitors tuned for it", 16, BULK).with(Buffers::TunedForBulk),
    cpu(
        "mqtt",
        "MQTT, packets of 64 B each way, 64 clients with session affinity (nginx, Envoy: plain TCP)",
        64,
        Work::Mqtt,
    ),
    cpu("udp-echo", "UDP, 64 B each way, 32 clients", 32, Work::Udp),
    Scenario {
        measure: Measure::MemoryPerConnection,
        ..cpu("idle-memory", "HTTP/1.1, idle keep-alive connections after one request each", 10_000, SMALL)
    },
    Scenario {
        measure: Measure::TwoWorkers,
        ..cpu("two-workers", "as h1-keepalive-64, two workers against one, no process pinned", 64, SMALL)
    },
    cpu("tls-keepalive-64", "HTTP/1.1 in TLS 1.3, 128 B replies, 64 connections", 64, SMALL)
        .within_tls(Handshakes::Full),
    cpu(
        "tls-handshake",
        "HTTP/1.1, a TLS 1.3 connection with a full handshake for every request, 64 at a time",
        64,
        CLOSE,
    )
    .within_tls(Handshakes::Full),
    cpu("tls-resume", "as tls-handshake, resumed by ticket", 64, CLOSE).within_tls(Handshakes::Resumed),
    cpu("tls-1mib", "HTTP/1.1 in TLS 1.3, 1 MiB replies, 16 connections, buffers as shipped", 16, LARGE)
        .with(Buffers::ShippedForBulk)
        .within_tls(Handshakes::Full),
    Scenario {
        measure: Measure::MemoryPerConnection,
        ..cpu("tls-idle-memory", "as idle-memory, in TLS 1.3", 10_000, SMALL).within_tls(Handshakes::Full)
    },
    cpu(
        "h2c-64",
        "HTTP/2 without TLS to HTTP/1.1 backends, 128 B replies, 16 connections x 16 streams",
        16,
        TO_HTTP1,
    ),
    cpu("h2-tls", "as h2c-64, in TLS 1.3", 16, TO_HTTP1).within_tls(Handshakes::Full),
    cpu("h2-h2", "as h2c-64, to HTTP/2 backends", 16, Work::Http2 { back: Http::Two }),
];

const fn cpu(name: &'static str, about: &'static str, connections: usize, work: Work) -> Scenario {
    Scenario {
        name,
        about,
        measure: Measure::CpuPerMessage,
        connections,
        work,
        buffers: Buffers::Shipped,
        handshakes: None,
    }
}

pub(crate) fn find(name: &str) -> Result<&'static Scenario, String> {
    let known = || ALL.map(|scenario| scenario.name).join(", ");
    ALL.iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| format!("unknown scenario '{name}'; expected one of {}", known()))
}

impl Scenario {
    const fn with(self, buffers: Buffers) -> Self {
        Self { buffers, ..self }
    }

    const fn within_tls(self, handshakes: Handshakes) -> Self {
        Self { handshakes: Some(handshakes), ..self }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        match self.work {
            Work::Get { .. } => Traffic::Http { front: Http::One, back: Http::One },
            Work::Http2 { back } => Traffic::Http { front: Http::Two, back },
            Work::Tcp { .. } => Traffic::Tcp,
            Work::Udp => Traffic::Udp,
            Work::Mqtt => Traffic::Mqtt,
        }
    }

    /// Returns a program that the scenario needs and that is not installed.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let needed: &[&str] = match self.work {
            Work::Http2 { back: Http::Two } => &["h2load", "nginx"],
            Work::Http2 { back: Http::One } => &["h2load"],
            Work::Get { .. } | Work::Tcp { .. } | Work::Udp | Work::Mqtt => &[],
        };
        needed.iter().find(|program| proxies::find(program).is_none()).copied()
    }

    /// Returns why a proxy is left out of the scenario, if it is.
    pub(crate) fn without(&self, proxy: Proxy) -> Option<&'static str> {
        match (proxy, self.traffic()) {
            (Proxy::Baseline, _) if self.handshakes.is_some() => Some("the baseline relay does not use TLS"),
            (Proxy::Baseline, Traffic::Http { front, back }) if front != back => {
                Some("the baseline relay does not convert HTTP/2 to HTTP/1.1")
            }
            (Proxy::Haproxy, Traffic::Udp) => Some("it forwards no datagrams"),
            _ => None,
        }
    }

    /// Returns the proxies that are left out, with the reason.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (Proxy, &'static str)> {
        Proxy::value_variants().iter().filter_map(|&proxy| Some((proxy, self.without(proxy)?)))
    }

    /// Starts the backends in one process.
    pub(crate) fn backends(
        &self,
        addresses: &[SocketAddr],
        open_files: u64,
        folder: &Path,
    ) -> io::Result<ChildProcess> {
        let (mode, reply) = match self.work {
            Work::Http2 { back: Http::Two } => {
                return ChildProcess::backends_of_nginx(Http::Two, addresses, open_files, folder);
            }
            Work::Get { .. } | Work::Http2 { back: Http::One } => (Mode::Http, 0),
            Work::Tcp { reply: None } | Work::Mqtt => (Mode::Echo, 0),
            Work::Tcp { reply: Some(length) } => (Mode::Bulk, length),
            Work::Udp => (Mode::Datagrams, 0),
        };
        ChildProcess::backends(mode, reply, addresses, folder)
    }

    /// Returns the client that sends this work through a proxy.
    pub(crate) fn driver(&self, target: SocketAddr, certificate: &Certificate) -> io::Result<Driver> {
        if matches!(self.work, Work::Http2 { .. }) {
            return Ok(Driver::H2load(H2load::new(target, self.handshakes.is_some())?));
        }
        let tls = |handshakes| TlsSettings::new(certificate.authority.clone(), handshakes);
        let tls = self.handshakes.map(tls).transpose()?;
        let exchange = self.exchange(target);
        Ok(Driver::Own(Box::new(Client::new(target, exchange, tls)?)))
    }

    /// Returns the client that sends this work straight to a backend.
    pub(crate) fn direct(&self, backend: SocketAddr) -> io::Result<Driver> {
        if matches!(self.work, Work::Http2 { back: Http::Two }) {
            return Ok(Driver::H2load(H2load::new(backend, false)?));
        }
        Ok(Driver::Own(Box::new(Client::new(backend, self.exchange(backend), None)?)))
    }

    fn exchange(&self, target: SocketAddr) -> Exchange {
        let host = match self.handshakes {
            Some(_) => format!("{}:{}", certificate::NAME, target.port()),
            None => target.to_string(),
        };
        let get = |path, body, browser, close| Exchange {
            request: exchange::get(&host, path, browser, close),
            expect: Expect::Http { body, close },
            datagrams: false,
        };
        match self.work {
            Work::Get { path, body, browser, close } => get(path, body, browser, close),
            Work::Http2 { .. } => get("/128", 128, false, false),
            Work::Tcp { reply } => Exchange {
                request: vec![b'm'; 64],
                expect: reply.map_or(Expect::Echo, Expect::Bytes),
                datagrams: false,
            },
            Work::Udp => Exchange { request: vec![b'm'; 64], expect: Expect::Echo, datagrams: true },
            Work::Mqtt => Exchange { request: exchange::connect(), expect: Expect::Echo, datagrams: false },
        }
    }

    /// Returns the unit of the primary number.
    pub(crate) fn unit(&self) -> &'static str {
        match self.measure {
            Measure::CpuPerMessage | Measure::TwoWorkers => "CPU µs/request",
            Measure::MemoryPerConnection => "KiB/connection",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_found_by_its_name() {
        for scenario in &ALL {
            assert_eq!(find(scenario.name).map(|found| found.about), Ok(scenario.about));
        }
    }

    #[test]
    fn the_baseline_is_left_out_where_bytes_must_change() {
        let without = without(Proxy::Baseline);
        let tls = ["tls-keepalive-64", "tls-handshake", "tls-resume", "tls-1mib", "tls-idle-memory"];
        assert_eq!(without, [tls.as_slice(), &["h2c-64", "h2-tls"]].concat());
    }

    #[test]
    fn haproxy_is_left_out_of_datagrams_only() {
        assert_eq!(without(Proxy::Haproxy), ["udp-echo"]);
        for proxy in [Proxy::Plimsoll, Proxy::Nginx, Proxy::Envoy] {
            assert!(without(proxy).is_empty(), "{}", proxy.name());
        }
    }

    /// Returns the scenarios that a proxy is left out of.
    fn without(proxy: Proxy) -> Vec<&'static str> {
        let absent = ALL.iter().filter(|scenario| scenario.without(proxy).is_some());
        absent.map(|scenario| scenario.name).collect()
    }
}
