//! What health checks cost: the balancer's CPU time while it checks a thousand destinations and does nothing else.

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
use crate::peers::{self, Running};
use crate::socket::{self, Moved};
use crate::{clock, machine, process};

/// Measure the balancer's CPU time for checks of many destinations, by TCP and by HTTP
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Plimsoll's binary
    #[arg(long, default_value = "target/release/plimsoll")]
    plimsoll: PathBuf,
    /// Destinations, each with a listening socket of its own
    #[arg(long, default_value_t = 1000)]
    destinations: u32,
    /// Checks a second, all destinations together
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Seconds that are measured
    #[arg(long, default_value = "10", value_parser = clock::seconds)]
    seconds: Duration,
    /// The CPU of the balancer; the destinations have the other one
    #[arg(long, default_value_t = 0)]
    balancer_cpu: usize,
    #[arg(long, default_value_t = 1)]
    destination_cpu: usize,
}

/// How checks are made, as the pool's block says it; the first row is what the process costs without any.
const KINDS: [(&str, &str); 3] = [
    ("none", "health_checking: false"),
    ("tcp", "health_monitoring: {protocol: tcp, check_interval: INTERVAL}"),
    ("http", "health_monitoring: {path: /healthz, check_interval: INTERVAL}"),
];
/// First checks, allocations and threads are over by then.
const WARM_UP: Duration = Duration::from_secs(3);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

pub(crate) fn run(args: &Args) -> io::Result<()> {
    machine::raise_open_files();
    machine::pin(&[args.destination_cpu])?;
    let crowd = Crowd::start(args.destinations)?;
    println!(
        "{}; {} destinations, {} checks/s asked for\n",
        machine::describe(),
        args.destinations,
        args.rate
    );
    println!("| check | checks/s made | CPU of the balancer | for each check |");
    println!("|---|---:|---:|---:|");
    let mut idle = Duration::ZERO;
    for (kind, block) in KINDS {
        let measured = measure(args, &crowd, kind, block)?;
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

fn measure(args: &Args, crowd: &Crowd, kind: &str, block: &str) -> io::Result<Measured> {
    let folder = peers::folder()?;
    let listen = socket::free_addresses(1)?[0];
    // A span begins when a check ends: the rate comes out a little below.
    let interval = Duration::from_secs(1) * args.destinations / args.rate.max(1);
    let block = block.replace("INTERVAL", &format!("{}ms", interval.as_millis().max(10)));
    let file = configuration(folder.path(), listen, &block, &crowd.addresses)?;
    let command = [args.plimsoll.to_string_lossy().into_owned(), "run".to_owned(), "-c".to_owned(), file];
    machine::pin(&[args.balancer_cpu])?;
    let started = Running::start(&command, folder.path());
    machine::pin(&[args.destination_cpu])?;
    let mut balancer = started?;
    balancer.ready(Duration::from_secs(15), || TcpStream::connect(listen).map(drop))?;
    thread::sleep(WARM_UP);
    let family = process::tree(balancer.id())?;
    let (before, made) = (process::cpu_time(&family)?, crowd.asked.load(Relaxed));
    thread::sleep(args.seconds);
    let (after, made_then) = (process::cpu_time(&family)?, crowd.asked.load(Relaxed));
    balancer.stop(Duration::from_secs(2))?;
    let checks = made_then - made;
    if (kind == "none") != (checks == 0) {
        return Err(io::Error::other(format!("{kind}: {checks} checks; it printed:\n{}", balancer.output())));
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

/// Destinations that answer every request alike, all on one thread of this process.
struct Crowd {
    addresses: Vec<SocketAddr>,
    /// Connections they were asked by.
    asked: Arc<AtomicU64>,
}

impl Crowd {
    fn start(count: u32) -> io::Result<Self> {
        let addresses = socket::free_addresses(count as usize)?;
        let listeners = addresses.iter().map(|&at| socket::listen(at)).collect::<io::Result<Vec<_>>>()?;
        let asked = Arc::new(AtomicU64::new(0));
        let counter = asked.clone();
        thread::spawn(move || {
            if let Err(error) = serve(&listeners, &counter) {
                eprintln!("plimsoll-bench: the destinations ended: {error}");
            }
        });
        Ok(Self { addresses, asked })
    }
}

fn serve(listeners: &[OwnedFd], asked: &AtomicU64) -> io::Result<()> {
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
                    asked.fetch_add(1, Relaxed);
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
        // Only now may a slot be used again: the batch may have held more events of the closed socket.
        free.append(&mut closed);
    }
}

/// Answers what came; says whether that was all.
fn is_done(socket: impl AsFd, buffer: &mut [u8]) -> bool {
    match socket::receive(&socket, buffer) {
        Ok(Moved::Bytes(_)) => {
            let _gone_already = socket::send(&socket, ANSWER);
            true
        }
        Ok(Moved::Blocked) => false,
        Ok(Moved::Ended) | Err(_) => true,
    }
}
