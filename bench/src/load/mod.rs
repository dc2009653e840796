//! Load client as a command of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub(crate) mod client;
pub(crate) mod driver;
pub(crate) mod exchange;
pub(crate) mod h2load;
mod histogram;
pub(crate) mod load_mode;
pub(crate) mod tls;

use client::Client;
use exchange::{Exchange, Expect};
use load_mode::LoadMode;
use tls::{Handshakes, TlsSettings};

use crate::{certificate, clock};

/// Send load to an address: closed-loop, or open-loop with --rate
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds of warm-up
    #[arg(long, default_value = "1", value_parser = clock::seconds)]
    warmup: Duration,
    #[arg(long, default_value = "5", value_parser = clock::seconds)]
    seconds: Duration,
    /// Path of the requests
    #[arg(long, default_value = "/128")]
    path: String,
    /// Expected length of each response body
    #[arg(long, default_value_t = 128)]
    body: usize,
    /// Send the 30 headers of a browser
    #[arg(long)]
    browser: bool,
    /// Open a connection for every request
    #[arg(long)]
    close: bool,
    /// Messages per second at planned times; latency counts from those
    #[arg(long, value_parser = load_mode::rate)]
    rate: Option<f64>,
    /// Use raw TCP instead of HTTP: bytes of a message, which must be echoed
    #[arg(long)]
    tcp: Option<usize>,
    /// With --tcp: bytes of the reply, instead of an echo
    #[arg(long, requires = "tcp")]
    reply: Option<usize>,
    /// Use TLS 1.3; this authority (PEM) must have signed the server's certificate for localhost
    #[arg(long)]
    ca: Option<PathBuf>,
    /// With --ca and --close: resume sessions with tickets
    #[arg(long, requires = "ca")]
    resume: bool,
    /// Use datagrams instead of HTTP: bytes of each, which must be echoed
    #[arg(long, conflicts_with_all = ["tcp", "ca"])]
    udp: Option<usize>,
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let mut client = Client::new(args.target, args.exchange(), args.tls()?)?;
    let mode = args.rate.map_or(LoadMode::Closed, LoadMode::Rate);
    client.open(args.connections)?;
    client.drive(mode, args.warmup)?;
    client.take_stats();
    client.drive(mode, args.seconds)?;
    let stats = client.take_stats();
    println!(
        "{:.0}/s, p50 {:?}, p99 {:?}, p99.9 {:?}, errors {:?}",
        stats.done as f64 / args.seconds.as_secs_f64(),
        stats.latencies.quantile(0.5),
        stats.latencies.quantile(0.99),
        stats.latencies.quantile(0.999),
        stats.errors,
    );
    Ok(())
}

impl Args {
    fn exchange(&self) -> Exchange {
        match self.tcp.or(self.udp) {
            Some(length) => Exchange {
                datagrams: self.udp.is_some(),
                request: vec![b'm'; length],
                expect: self.reply.map_or(Expect::Echo, Expect::Bytes),
            },
            None => Exchange {
                datagrams: false,
                request: exchange::get(&self.host(), &self.path, self.browser, self.close),
                expect: Expect::Http { body: self.body, close: self.close },
            },
        }
    }

    fn host(&self) -> String {
        match self.ca {
            Some(_) => format!("{}:{}", certificate::NAME, self.target.port()),
            None => self.target.to_string(),
        }
    }

    fn tls(&self) -> io::Result<Option<TlsSettings>> {
        let Some(path) = &self.ca else { return Ok(None) };
        let authority = CertificateDer::from_pem_file(path).map_err(io::Error::other)?;
        let handshakes = if self.resume { Handshakes::Resumed } else { Handshakes::Full };
        TlsSettings::new(authority, handshakes).map(Some)
    }
}
