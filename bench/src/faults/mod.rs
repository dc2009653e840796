//! How soon messages are answered while destinations are in trouble, beside the peers.

mod client;
mod contender;
pub(crate) mod destinations;
mod report;
mod trouble;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::peers::{self, Programs, Running};
use crate::{clock, machine, process, socket};
use client::Offer;
use contender::{Contender, Place};
use report::{Round, Row};
use trouble::Case;

/// Measure latency while destinations are slow, stand still or fail
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Cases; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// Contenders as peer or peer:policy; plimsoll:hedge and plimsoll:p2c+hedge are policies too
    #[arg(long, value_delimiter = ',', value_parser = Contender::parse, default_value = "plimsoll,plimsoll:hedge,nginx,haproxy,envoy")]
    only: Vec<Contender>,
    /// Plimsoll with these algorithms as well
    #[arg(long, value_delimiter = ',')]
    algorithm: Vec<String>,
    /// Each contender meets each case so often, with other messages and other moments of trouble
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Measured seconds of each contender with each seed
    #[arg(long, default_value = "30", value_parser = clock::seconds)]
    seconds: Duration,
    /// Seconds of the same load before that
    #[arg(long, default_value = "2", value_parser = clock::seconds)]
    warmup: Duration,
    /// The load as a share of what ten destinations can do that nothing ails
    #[arg(long, default_value_t = 0.65, value_parser = load)]
    load: f64,
    /// Workers of each contender; with more than one, every process runs on both CPUs
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Plimsoll's binary
    #[arg(long, default_value = "target/release/plimsoll")]
    plimsoll: PathBuf,
    /// The balancer's CPU, and the one that client and destinations share
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cpus: Vec<usize>,
    /// Write the tables here as well
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write all numbers here, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

const DESTINATIONS: usize = 10;
/// Messages that a destination works on at once.
const SLOTS: usize = 4;
/// What one takes on average where nothing ails.
const MEAN_WORK: Duration = Duration::from_millis(10);
/// How long a contender may take until it answers.
const START: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Args) -> io::Result<()> {
    machine::raise_open_files();
    let cases = if args.case.is_empty() { Case::ALL.to_vec() } else { args.case.clone() };
    let mut lineup = args.lineup();
    let mut tables = head(args);
    println!("{tables}");
    let mut all = Vec::new();
    for case in cases {
        let rows = meet(args, case, &mut lineup)?;
        let table = report::table(case, &rows);
        println!("{table}");
        tables += &format!("{table}\n");
        all.push(report::json(case, &rows));
        // After each one, so that a run cut short leaves what it had.
        if let Some(path) = &args.out {
            std::fs::write(path, &tables)?;
        }
        if let Some(path) = &args.json {
            std::fs::write(path, serde_json::json!({ "command": command(), "cases": all }).to_string())?;
        }
    }
    Ok(())
}

/// All contenders in one case. Who does not start is left out from here on, loudly.
fn meet(args: &Args, case: Case, lineup: &mut Vec<Contender>) -> io::Result<Vec<Row>> {
    let mut rows: Vec<Row> =
        lineup.iter().map(|it| Row { contender: it.clone(), rounds: Vec::new() }).collect();
    for turn in 0..args.seeds {
        let seed = args.first_seed + turn;
        for place in 0..rows.len() {
            // The order turns with the seeds, so that no contender keeps its place.
            let place = (place + turn as usize) % rows.len();
            let row = &mut rows[place];
            if !lineup.contains(&row.contender) {
                continue;
            }
            match round(args, case, seed, &row.contender) {
                Ok(round) => row.rounds.push(round),
                Err(error) => {
                    eprintln!("*** {}: left out: {error} ***", row.contender.name());
                    row.rounds.clear();
                    lineup.retain(|it| *it != row.contender);
                }
            }
        }
    }
    Ok(rows)
}

/// One contender, freshly started, before freshly started destinations.
fn round(args: &Args, case: Case, seed: u64, contender: &Contender) -> io::Result<Round> {
    let folder = peers::folder()?;
    let addresses = socket::free_addresses(DESTINATIONS + 2)?;
    let (destinations, own) = addresses.split_at(DESTINATIONS);
    let (balancer_cpus, client_cpus) = args.cpus()?;
    machine::pin(&client_cpus)?;
    let mut serving = args.destinations(case, seed, destinations, folder.path())?;
    serving.ready(START, || destinations.iter().try_for_each(|&address| ask(address, "counts").map(drop)))?;
    let place =
        Place { listen: own[0], admin: own[1], destinations, workers: args.workers, folder: folder.path() };
    let command = contender.prepare(&Programs { plimsoll: args.plimsoll.clone() }, &place)?;
    machine::pin(&balancer_cpus)?;
    let started = Running::start(&command, folder.path());
    machine::pin(&client_cpus)?;
    let mut balancer = started?;
    balancer.ready(START, || ask(own[0], "healthz").map(drop))?;
    let offer = Offer {
        target: own[0],
        seed,
        rate: args.load * (DESTINATIONS * SLOTS) as f64 / MEAN_WORK.as_secs_f64(),
        warmup: args.warmup,
        measured: args.seconds,
    };
    let ours = [vec![std::process::id(), serving.id()], process::tree(balancer.id())?].concat();
    let watch = Watch::begin(&ours)?;
    ask(destinations[0], "start")?;
    let heard = client::drive(&offer)?;
    let (steal, others) = watch.end(&ours)?;
    let counts = ask(destinations[0], "counts")?;
    let (came, given_up) = counts.split_once(' ').unwrap_or_default();
    balancer.stop(Duration::from_secs(2))?;
    serving.stop(Duration::from_secs(2))?;
    let number = |text: &str| text.parse().map_err(io::Error::other);
    Ok(Round { heard, came: number(came)?, given_up: number(given_up)?, steal, others })
}

/// What the machine did at the start of a round.
struct Watch {
    machine: machine::Ticks,
    ours: process::CpuTime,
    at: Instant,
}

impl Watch {
    fn begin(ours: &[u32]) -> io::Result<Self> {
        Ok(Self { machine: machine::Ticks::read()?, ours: process::cpu_time(ours)?, at: clock::now() })
    }

    /// How much the hypervisor gave to others since, as a share, and how many CPUs other processes had.
    fn end(&self, ours: &[u32]) -> io::Result<(f64, f64)> {
        let quiet = machine::Ticks::read()?.since(&self.machine);
        let used = process::cpu_time(ours)?.since(&self.ours).total;
        let others = quiet.busy.iter().sum::<f64>() - used.as_secs_f64();
        Ok((quiet.steal, (others / (clock::now() - self.at).as_secs_f64()).max(0.0)))
    }
}

/// Asks one thing on a connection of its own, and gives the body of a 200.
fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(
        format!("GET /{path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !whole(&text) {
        match stream.read(&mut buffer)? {
            0 => break,
            count => text += &String::from_utf8_lossy(&buffer[..count]),
        }
    }
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("asked for {path}, it answered: {text}"))),
    }
}

/// Whether an answer has all of its body.
fn whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length =
        head.split_once("content-length:").and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

impl Args {
    fn lineup(&self) -> Vec<Contender> {
        let algorithms = self.algorithm.iter().map(|algorithm| Contender::with_algorithm(algorithm));
        self.only.iter().cloned().chain(algorithms).collect()
    }

    /// The destinations of a run, in a process of this program.
    fn destinations(
        &self,
        case: Case,
        seed: u64,
        addresses: &[SocketAddr],
        folder: &Path,
    ) -> io::Result<Running> {
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let warmup = self.warmup.as_secs_f64().to_string();
        let seed = seed.to_string();
        let listen = listen.join(",");
        let own = peers::own_program().to_string_lossy().into_owned();
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
        Running::start(&command, folder)
    }

    fn cpus(&self) -> io::Result<(Vec<usize>, Vec<usize>)> {
        let &[balancer, client] = self.cpus.as_slice() else {
            return Err(io::Error::other("--cpus takes two numbers, as in 0,1"));
        };
        let both = vec![balancer, client];
        Ok(if self.workers > 1 { (both.clone(), both) } else { (vec![balancer], vec![client]) })
    }
}

fn load(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    (0.01..1.0).contains(&load).then_some(load).ok_or_else(|| format!("'{text}' is not between 0.01 and 1"))
}

fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("plimsoll-bench {}", arguments.join(" "))
}

fn head(args: &Args) -> String {
    let programs = Programs { plimsoll: args.plimsoll.clone() };
    let mut seen = Vec::new();
    let mut versions = Vec::new();
    for contender in args.lineup() {
        let program = contender.peer.program(&programs);
        if let Some(program) = program.filter(|_| !seen.contains(&contender.peer)) {
            seen.push(contender.peer);
            versions.push(contender.peer.version(&program));
        }
    }
    format!(
        "# Under trouble\n\n- command: `{}`\n- date: {}\n- machine: {}\n- {}\n\nLatencies are milliseconds from the planned moment.\n",
        command(),
        clock::date(),
        machine::describe(),
        versions.join("\n- "),
    )
}
