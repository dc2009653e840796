//! Cost of health checks: CPU time of a proxy that checks a thousand destinations and has no traffic.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::epoll::Epoll;
use crate::proxies::{self, ChildProcess};
use crate::socket::{self, Moved};
use crate::{clock, host, process};

/// Measure the CPU time of health checks of many destinations, by TCP and by HTTP
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Path of the plimsoll binary
    #[arg(long, default_value = "target/dist/plimsoll")]
    plimsoll: PathBuf,
    /// Number of destinations, each with its own listening socket
    #[arg(long, default_value_t = 1000)]
    destinations: u32,
    /// Health checks per second over all destinations
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds to measure
    #[arg(long, default_value = "10", value_parser = clock::seconds)]
    seconds: Duration,
    /// CPU of the proxy; the destinations use the other one
    #[arg(long, default_value_t = 0)]
    balancer_cpu: usize,
    #[arg(long, default_value_t = 1)]
    destination_cpu: usize,
}

/// Kinds of checks and their configuration; the first row is the cost of the idle process.
const KINDS: [(&str, &str); 3] = [
    ("none", "health_checking: false"),
    ("tcp", "health_monitoring: {protocol: tcp, check_interval: INTERVAL}"),
    ("http", "health_monitoring: {path: /healthz, check_interval: INTERVAL}"),
];
/// Time for first checks, allocations and thread starts.
const WARM_UP: Duration = Duration::from_secs(3);
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

pub(crate) fn run(args: &Args) -> io::Result<()> {
    host::raise_open_files();
    host::pin(&[args.destination_cpu])?;
    let checked = CheckedDestinations::start(args.destinations)?;
    println!("{}; {} destinations, {} checks/s requested\n", host::describe(), args.destinations, args.rate);
    println!("| check | checks/s measured | CPU of the proxy | per check |");
    println!("|---|---:|---:|---:|");
    let mut idle = Duration::ZERO;
    for (kind, block) in KINDS {
        let measured = measure(args, &checked, kind, block)?;
        let seconds = args.seconds.as_secs_f64();
        let own = measured.cpu.saturating_sub(idle);
        println!(
            "| {kind} | {:.0} | {:.2} % | {} |",
            measured.checks as f64 / seconds,
            measured.cpu.as_secs_f64() / seconds * 100.0,
            match measured.checks {
                0 => "–".to_owned(),
                checks => format!("{:.1} µs", own.as_secs_f64() * 1e6 / checks as f64),
            },
        );
        if kind == "none" {
            idle = measured.cpu;
        }
    }
    Ok(())
}

struct Measured {
    cpu: Duration,
    checks: u64,
}

fn measure(args: &Args, checked: &CheckedDestinations, kind: &str, block: &str) -> io::Result<Measured> {
    let folder = proxies::folder()?;
    let listen = socket::free_addresses(1)?[0];
    // An interval starts when a check ends, so the rate is a little lower.
    let interval = Duration::from_secs(1) * args.destinations / args.rate.max(1);
    let block = block.replace("INTERVAL", &format!("{}ms", interval.as_millis().max(10)));
    let file = configuration(folder.path(), listen, &block, &checked.addresses)?;
    let command = [args.plimsoll.to_string_lossy().into_owned(), "run".to_owned(), "-c".to_owned(), file];
    host::pin(&[args.balancer_cpu])?;
    let started = ChildProcess::start(&command, folder.path());
    host::pin(&[args.destination_cpu])?;
    let mut balancer = started?;
    balancer.ready(Duration::from_secs(15), || TcpStream::connect(listen).map(drop))?;
    thread::sleep(WARM_UP);
    let family = process::tree(balancer.id())?;
    let (before, made) = (process::cpu_time(&family)?, checked.checks.load(Relaxed));
    thread::sleep(args.seconds);
    let (after, made_then) = (process::cpu_time(&family)?, checked.checks.load(Relaxed));
    balancer.stop(Duration::from_secs(2))?;
    let checks = made_then - made;
    if (kind == "none") != (checks == 0) {
        return Err(io::Error::other(format!("{kind}: {checks} checks; output:\n{}", balancer.output())));
    }
    Ok(Measured { cpu: after.since(&before).total, checks })
}

fn configuration(folder: &Path, listen: SocketAddr, block: &str, to: &[SocketAddr]) -> io::Result<String> {
    let mut text = format!(
        "workers: 1\nadmin: false\nlisteners: [{{name: web, address: \"{listen}\", pool: app}}]\n\
         pools:\n  app:\n    load_balancer: {{{block}}}\n    destinations:\n"
    );
    for address in to {
        let _never_fails = writeln!(text, "      - \"{address}\"");
    }
    let path = folder.join("plimsoll.yaml");
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// Destinations that send the same response to every request, on one thread of this process.
struct CheckedDestinations {
    addresses: Vec<SocketAddr>,
    /// Connections accepted, one per check.
    checks: Arc<AtomicU64>,
}

impl CheckedDestinations {
    fn start(count: u32) -> io::Result<Self> {
        let addresses = socket::free_addresses(count as usize)?;
        let listeners = addresses.iter().map(|&at| socket::listen(at)).collect::<io::Result<Vec<_>>>()?;
        let checks = Arc::new(AtomicU64::new(0));
        let counter = checks.clone();
        thread::spawn(move || {
            if let Err(error) = serve(&listeners, &counter) {
                eprintln!("plimsoll-bench: destinations failed: {error}");
            }
        });
        Ok(Self { addresses, checks })
    }
}

fn serve(listeners: &[OwnedFd], checks: &AtomicU64) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    for (index, listener) in listeners.iter().enumerate() {
        epoll.watch_listener(listener, index as u64)?;
    }
    let (mut open, mut free): (Vec<Option<OwnedFd>>, Vec<usize>) = (Vec::new(), Vec::new());
    let (mut buffer, mut closed) = (vec![0; 4096], Vec::new());
    loop {
        for index in 0..epoll.wait(None)? {
            let token = epoll.ready(index).token as usize;
            if let Some(listener) = listeners.get(token) {
                while let Some(socket) = socket::accept(listener)? {
                    checks.fetch_add(1, Relaxed);
                    let slot = free.pop().unwrap_or_else(|| {
                        open.push(None);
                        open.len() - 1
                    });
                    epoll.watch(&socket, (listeners.len() + slot) as u64)?;
                    open[slot] = Some(socket);
                }
                continue;
            }
            let slot = token - listeners.len();
            if open[slot].as_ref().is_some_and(|socket| is_done(socket, &mut buffer)) {
                open[slot] = None;
                closed.push(slot);
            }
        }
        // Freed here and not earlier: the batch may have held more events of the closed socket.
        free.append(&mut closed);
    }
}

/// Responds to a request and returns whether the connection is finished.
fn is_done(socket: impl AsFd, buffer: &mut [u8]) -> bool {
    match socket::receive(&socket, buffer) {
        Ok(Moved::Bytes(_)) => {
            let _closed_already = socket::send(&socket, RESPONSE);
            true
        }
        Ok(Moved::Blocked) => false,
        Ok(Moved::Ended) | Err(_) => true,
    }
}
