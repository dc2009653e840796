//! Latency of messages while destinations have faults, compared with other proxies.

pub(crate) mod destinations;
mod fault_schedule;
mod open_loop_client;
mod proxy_policy;
mod report;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proxies::{self, ChildProcess, Programs};
use crate::{clock, host, process, socket};
use fault_schedule::Case;
use open_loop_client::LoadSpec;
use proxy_policy::{Placement, ProxyPolicy};
use report::{Round, Row};

/// Measure latency while destinations are slow, stall or fail
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Cases to run [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// Proxies as proxy or proxy:policy; plimsoll:hedge and plimsoll:p2c+hedge are policies too
    #[arg(long, value_delimiter = ',', value_parser = ProxyPolicy::parse, default_value = "plimsoll,plimsoll:hedge,nginx,haproxy,envoy")]
    proxies: Vec<ProxyPolicy>,
    /// Add rows for Plimsoll with these algorithms
    #[arg(long, value_delimiter = ',')]
    algorithm: Vec<String>,
    /// Number of seeds: rounds of each proxy in each case, with different messages and fault times
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Seconds to measure each proxy with each seed
    #[arg(long, default_value = "30", value_parser = clock::seconds)]
    seconds: Duration,
    /// Seconds of warm-up with the same load
    #[arg(long, default_value = "2", value_parser = clock::seconds)]
    warmup: Duration,
    /// Load as a share of the capacity of ten destinations without faults
    #[arg(long, default_value_t = 0.65, value_parser = load)]
    load: f64,
    /// Workers of each proxy; with more than one, every process runs on both CPUs
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Path of the plimsoll binary
    #[arg(long, default_value = "target/dist/plimsoll")]
    plimsoll: PathBuf,
    /// CPU of the proxy, and CPU of client and destinations
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cpus: Vec<usize>,
    /// Write the tables to this file as well
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write all numbers to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

const DESTINATIONS: usize = 10;
/// Messages that a destination works on at once.
const SLOTS: usize = 4;
/// Mean work of a message without faults.
const MEAN_WORK: Duration = Duration::from_millis(10);
/// Time limit for a proxy to send its first response.
const START: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Args) -> io::Result<()> {
    host::raise_open_files();
    let cases = if args.case.is_empty() { Case::ALL.to_vec() } else { args.case.clone() };
    let mut competitors = args.competitors();
    let mut tables = report_head(args);
    println!("{tables}");
    let mut all = Vec::new();
    for case in cases {
        let rows = run_case(args, case, &mut competitors)?;
        let table = report::table(case, &rows);
        println!("{table}");
        tables += &format!("{table}\n");
        all.push(report::json(case, &rows));
        // Written after each case, so that an aborted run keeps its results.
        if let Some(path) = &args.out {
            std::fs::write(path, &tables)?;
        }
        if let Some(path) = &args.json {
            std::fs::write(path, serde_json::json!({ "command": command(), "cases": all }).to_string())?;
        }
    }
    Ok(())
}

/// Runs all proxies in one case. A proxy that does not start is reported and left out from here on.
fn run_case(args: &Args, case: Case, competitors: &mut Vec<ProxyPolicy>) -> io::Result<Vec<Row>> {
    let mut rows: Vec<Row> =
        competitors.iter().map(|it| Row { proxy: it.clone(), rounds: Vec::new() }).collect();
    for turn in 0..args.seeds {
        let seed = args.first_seed + turn;
        for place in 0..rows.len() {
            // The order rotates with the seeds, so that no proxy keeps its position.
            let place = (place + turn as usize) % rows.len();
            let row = &mut rows[place];
            if !competitors.contains(&row.proxy) {
                continue;
            }
            match run_round(args, case, seed, &row.proxy) {
                Ok(round) => row.rounds.push(round),
                Err(error) => {
                    eprintln!("*** {}: left out: {error} ***", row.proxy.name());
                    row.rounds.clear();
                    competitors.retain(|it| *it != row.proxy);
                }
            }
        }
    }
    Ok(rows)
}

/// Runs one proxy, freshly started, with freshly started destinations.
fn run_round(args: &Args, case: Case, seed: u64, proxy: &ProxyPolicy) -> io::Result<Round> {
    let folder = proxies::folder()?;
    let addresses = socket::free_addresses(DESTINATIONS + 2)?;
    let (destinations, own) = addresses.split_at(DESTINATIONS);
    let (balancer_cpus, client_cpus) = args.cpus()?;
    host::pin(&client_cpus)?;
    let mut serving = args.destinations(case, seed, destinations, folder.path())?;
    serving.ready(START, || destinations.iter().try_for_each(|&address| get(address, "counts").map(drop)))?;
    let place = Placement {
        listen: own[0],
        admin: own[1],
        destinations,
        workers: args.workers,
        folder: folder.path(),
    };
    let command = proxy.prepare(&Programs { plimsoll: args.plimsoll.clone() }, &place)?;
    host::pin(&balancer_cpus)?;
    let started = ChildProcess::start(&command, folder.path());
    host::pin(&client_cpus)?;
    let mut balancer = started?;
    balancer.ready(START, || get(own[0], "healthz").map(drop))?;
    let load = LoadSpec {
        target: own[0],
        seed,
        rate: args.load * (DESTINATIONS * SLOTS) as f64 / MEAN_WORK.as_secs_f64(),
        warmup: args.warmup,
        measured: args.seconds,
    };
    let ours = [vec![std::process::id(), serving.id()], process::tree(balancer.id())?].concat();
    let host_use = HostUse::begin(&ours)?;
    get(destinations[0], "start")?;
    let stats = open_loop_client::drive(&load)?;
    let (steal, others) = host_use.end(&ours)?;
    let counts = get(destinations[0], "counts")?;
    let (arrived, given_up) = counts.split_once(' ').unwrap_or_default();
    balancer.stop(Duration::from_secs(2))?;
    serving.stop(Duration::from_secs(2))?;
    let number = |text: &str| text.parse().map_err(io::Error::other);
    Ok(Round { stats, arrived: number(arrived)?, given_up: number(given_up)?, steal, others })
}

/// CPU time of the host and of our processes at the start of a round.
struct HostUse {
    machine: host::Ticks,
    ours: process::CpuTime,
    at: Instant,
}

impl HostUse {
    fn begin(ours: &[u32]) -> io::Result<Self> {
        Ok(Self { machine: host::Ticks::read()?, ours: process::cpu_time(ours)?, at: clock::now() })
    }

    /// Returns the share of time taken by the hypervisor since then, and the CPUs used by other processes.
    fn end(&self, ours: &[u32]) -> io::Result<(f64, f64)> {
        let quiet = host::Ticks::read()?.since(&self.machine);
        let used = process::cpu_time(ours)?.since(&self.ours).total;
        let others = quiet.busy.iter().sum::<f64>() - used.as_secs_f64();
        Ok((quiet.steal, (others / (clock::now() - self.at).as_secs_f64()).max(0.0)))
    }
}

/// Sends one request on its own connection and returns the body of a 200.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(
        format!("GET /{path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !is_complete(&text) {
        match stream.read(&mut buffer)? {
            0 => break,
            count => text += &String::from_utf8_lossy(&buffer[..count]),
        }
    }
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("unexpected response to {path}: {text}"))),
    }
}

/// Returns whether a response is complete.
fn is_complete(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length =
        head.split_once("content-length:").and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

impl Args {
    fn competitors(&self) -> Vec<ProxyPolicy> {
        let algorithms = self.algorithm.iter().map(|algorithm| ProxyPolicy::with_algorithm(algorithm));
        self.proxies.iter().cloned().chain(algorithms).collect()
    }

    /// Starts the destinations of a run in a process of this program.
    fn destinations(
        &self,
        case: Case,
        seed: u64,
        addresses: &[SocketAddr],
        folder: &Path,
    ) -> io::Result<ChildProcess> {
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let warmup = self.warmup.as_secs_f64().to_string();
        let seed = seed.to_string();
        let listen = listen.join(",");
        let own = proxies::own_program().to_string_lossy().into_owned();
        let words = [
            "destinations",
            "--listen",
            &listen,
            "--case",
            case.name(),
            "--seed",
            &seed,
            "--warmup",
            &warmup,
        ];
        let command: Vec<String> = std::iter::once(own).chain(words.map(str::to_owned)).collect();
        ChildProcess::start(&command, folder)
    }

    fn cpus(&self) -> io::Result<(Vec<usize>, Vec<usize>)> {
        let &[balancer, client] = self.cpus.as_slice() else {
            return Err(io::Error::other("--cpus: expected two numbers, such as 0,1"));
        };
        let both = vec![balancer, client];
        Ok(if self.workers > 1 { (both.clone(), both) } else { (vec![balancer], vec![client]) })
    }
}

fn load(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| format!("expected a number, found '{text}'"))?;
    (0.01..1.0)
        .contains(&load)
        .then_some(load)
        .ok_or_else(|| format!("expected a number from 0.01 to below 1, found '{text}'"))
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("plimsoll-bench {}", arguments.join(" "))
}

fn report_head(args: &Args) -> String {
    let programs = Programs { plimsoll: args.plimsoll.clone() };
    let mut seen = Vec::new();
    let mut versions = Vec::new();
    for proxy in args.competitors() {
        let program = proxy.proxy.program(&programs);
        if let Some(program) = program.filter(|_| !seen.contains(&proxy.proxy)) {
            seen.push(proxy.proxy);
            versions.push(proxy.proxy.version(&program));
        }
    }
    format!(
        "# Latency under faults\n\n- command: `{}`\n- date: {}\n- machine: {}\n- {}\n\nLatencies are milliseconds from the planned time.\n",
        command(),
        clock::date(),
        host::describe(),
        versions.join("\n- "),
    )
}
