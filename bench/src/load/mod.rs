//! What a load client run by hand does, and prints.

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
pub(crate) mod pace;
pub(crate) mod secure;

use client::Client;
use exchange::{Exchange, Expect};
use pace::Pace;
use secure::{Handshakes, Terms};

use crate::{certificate, clock};

/// A closed-loop client, or an open-loop one with --rate.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Seconds before the measured ones
    #[arg(long, default_value = "1", value_parser = clock::seconds)]
    warmup: Duration,
    #[arg(long, default_value = "5", value_parser = clock::seconds)]
    seconds: Duration,
    /// Path to ask for
    #[arg(long, default_value = "/128")]
    path: String,
    /// Body length that each answer must have
    #[arg(long, default_value_t = 128)]
    body: usize,
    /// Send the 30 headers of a browser
    #[arg(long)]
    browser: bool,
    /// A connection for every request
    #[arg(long)]
    close: bool,
    /// Messages a second, planned ahead; latency counts from the planned moment
    #[arg(long, value_parser = pace::rate)]
    rate: Option<f64>,
    /// Raw TCP instead of HTTP: bytes of a message, which must be echoed
    #[arg(long)]
    tcp: Option<usize>,
    /// With --tcp: bytes of the reply, instead of an echo
    #[arg(long, requires = "tcp")]
    reply: Option<usize>,
    /// Speak TLS 1.3 with a server that has a certificate for localhost of this authority (PEM)
    #[arg(long)]
    ca: Option<PathBuf>,
    /// With --ca and --close: take up earlier sessions by their tickets
    #[arg(long, requires = "ca")]
    resume: bool,
    /// Datagrams instead of HTTP: bytes of each, which must be echoed
    #[arg(long, conflicts_with_all = ["tcp", "ca"])]
    udp: Option<usize>,
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let mut client = Client::new(args.target, args.exchange(), args.terms()?)?;
    let pace = args.rate.map_or(Pace::Closed, Pace::Rate);
    client.open(args.connections)?;
    client.drive(pace, args.warmup)?;
    client.take_tally();
    client.drive(pace, args.seconds)?;
    let tally = client.take_tally();
    println!(
        "{:.0}/s, p50 {:?}, p99 {:?}, p99.9 {:?}, faults {:?}",
        tally.done as f64 / args.seconds.as_secs_f64(),
        tally.latencies.quantile(0.5),
        tally.latencies.quantile(0.99),
        tally.latencies.quantile(0.999),
        tally.faults,
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

    fn terms(&self) -> io::Result<Option<Terms>> {
        let Some(path) = &self.ca else { return Ok(None) };
        let authority = CertificateDer::from_pem_file(path).map_err(io::Error::other)?;
        let handshakes = if self.resume { Handshakes::Resumed } else { Handshakes::Full };
        Terms::new(authority, handshakes).map(Some)
    }
}
