//! Effect of HTTP/2 attacks on other clients: their latency, and the memory used.

mod attacks;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::load::driver;
use crate::load::load_mode::{self, LoadMode};
use crate::proxies::{self, Buffers, ChildProcess, Proxy, Setup};
use crate::{clock, host, process, scenario, socket};
use attacks::{ATTACKS, Attack};

/// Measure the latency of other clients during known HTTP/2 attacks
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Path of the plimsoll binary
    #[arg(long, default_value = "target/dist/plimsoll")]
    plimsoll: PathBuf,
    /// Messages per second of the other clients, at planned times
    #[arg(long, default_value_t = 500.0, value_parser = load_mode::rate)]
    rate: f64,
    /// Seconds with and without each attack
    #[arg(long, default_value = "3", value_parser = clock::seconds)]
    seconds: Duration,
    /// Repetitions of each attack; the report has the median of the ratios
    #[arg(long, default_value_t = 3)]
    blocks: usize,
    /// CPU of the proxy; clients and backends use the other one
    #[arg(long, default_value_t = 0)]
    balancer_cpu: usize,
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
}

const CONNECTIONS: usize = 16;
const OPEN_FILES: u64 = 4096;

pub(crate) fn run(args: &Args) -> io::Result<()> {
    host::raise_open_files();
    println!("{}; {} messages/s over {CONNECTIONS} connections of HTTP/1.1\n", host::describe(), args.rate);
    println!("| attack | p99 without | p99 with | ratio | attacker's connections | memory |");
    println!("|---|---:|---:|---:|---:|---:|");
    for attack in ATTACKS {
        let mut blocks =
            (0..args.blocks.max(1)).map(|_| block(args, attack)).collect::<io::Result<Vec<_>>>()?;
        blocks.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let middle = &blocks[blocks.len() / 2];
        let grown = blocks.iter().map(|block| block.grown).max().unwrap_or(0);
        println!(
            "| {} | {:.0} µs | {:.0} µs | {:.2} | {} | +{:.1} MiB |",
            attack.name,
            middle.without.as_secs_f64() * 1e6,
            middle.with.as_secs_f64() * 1e6,
            middle.ratio(),
            middle.connections,
            grown as f64 / f64::from(1 << 20),
        );
    }
    Ok(())
}

struct Block {
    without: Duration,
    with: Duration,
    connections: u64,
    grown: u64,
}

impl Block {
    fn ratio(&self) -> f64 {
        self.with.as_secs_f64() / self.without.as_secs_f64()
    }
}

fn block(args: &Args, attack: &'static Attack) -> io::Result<Block> {
    let scenario = scenario::find("h1-keepalive-64").map_err(io::Error::other)?;
    let folder = proxies::folder()?;
    let addresses = socket::free_addresses(4)?;
    let certificate = Certificate::make(folder.path())?;
    host::pin(&[args.client_cpu])?;
    let mut backends = scenario.backends(&addresses[..2], OPEN_FILES, folder.path())?;
    for &address in &addresses[..2] {
        backends.ready(Duration::from_secs(5), || driver::answers(scenario.direct(address)))?;
    }
    let setup = Setup {
        listen: addresses[2],
        admin: addresses[3],
        backends: &addresses[..2],
        traffic: scenario.traffic(),
        certificate: None,
        buffers: Buffers::Shipped,
        workers: 1,
        single_process: true,
        open_files: OPEN_FILES,
        folder: folder.path(),
    };
    let command = Proxy::Plimsoll.prepare(&args.plimsoll, &setup)?;
    host::pin(&[args.balancer_cpu])?;
    let started = ChildProcess::start(&command, folder.path());
    host::pin(&[args.client_cpu])?;
    let mut balancer = started?;
    balancer
        .ready(Duration::from_secs(15), || driver::answers(scenario.driver(setup.listen, &certificate)))?;
    let mut others = scenario.driver(setup.listen, &certificate)?;
    others.open(CONNECTIONS)?;
    let mode = LoadMode::Rate(args.rate);
    others.warm_up(mode, Duration::from_secs(1))?;
    let family = process::tree(balancer.id())?;
    let before = process::memory(&family)?.resident;
    let without = others.measure(mode, args.seconds)?;
    let abuser = Abuser::start(setup.listen, attack)?;
    others.warm_up(mode, Duration::from_millis(200))?;
    let with = others.measure(mode, args.seconds)?;
    let after = process::memory(&family)?.resident;
    let connections = abuser.stop();
    balancer.stop(Duration::from_secs(2))?;
    for stats in [&without, &with] {
        if !stats.errors.is_empty() {
            return Err(io::Error::other(format!(
                "{}: unexpected responses: {:?}",
                attack.name, stats.errors
            )));
        }
    }
    let p99 = |stats: &crate::load::client::LoadStats| stats.latencies.quantile(0.99);
    let grown = after.saturating_sub(before);
    Ok(Block { without: p99(&without), with: p99(&with), connections, grown })
}

/// Attacker that repeats its attack until it is stopped.
struct Abuser {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Abuser {
    fn start(target: SocketAddr, attack: &'static Attack) -> io::Result<Self> {
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), connections.clone());
        let thread = thread::Builder::new().name("abuser".into()).spawn(move || {
            // The attacker yields to the load client on their CPU, which is not the one measured.
            let _without_it_the_numbers_are_worse = host::be_nice();
            while !stopped.load(Relaxed) {
                count.fetch_add(1, Relaxed);
                let _closed_by_the_proxy = attack.once(target, &stopped);
            }
        })?;
        Ok(Self { stop, connections, thread })
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        let _panicked_and_said_so = self.thread.join();
        self.connections.load(Relaxed)
    }
}
