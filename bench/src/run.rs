//! Which contenders are measured in which scenarios, how often and in which order.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::block::{self, Contender, Sample, Window};
use crate::certificate::Certificate;
use crate::load::driver;
use crate::load::pace::{self, Pace};
use crate::peers::{self, Http, Peer, Programs, Running, Traffic};
use crate::report::{self, Report, Section};
use crate::scenario::{self, Measure, Scenario};
use crate::stats::{self, Rng};
use crate::{clock, machine, socket};

/// Measure contenders side by side
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenarios by name; all by default
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Contenders; those that are not installed are skipped, loudly
    #[arg(long, value_delimiter = ',', value_enum, default_value = "plimsoll,nginx,haproxy,envoy,floor")]
    contenders: Vec<Peer>,
    /// The one whose cost is divided by the cost of the others
    #[arg(long, value_enum, default_value = "plimsoll")]
    subject: Peer,
    /// Plimsoll's binary
    #[arg(long, default_value = "target/release/plimsoll")]
    plimsoll: PathBuf,
    /// Measured seconds of each contender in each block
    #[arg(long, default_value = "20", value_parser = clock::seconds)]
    seconds: Duration,
    /// Seconds of the same load before that
    #[arg(long, default_value = "5", value_parser = clock::seconds)]
    warmup: Duration,
    #[arg(long, default_value_t = 10)]
    blocks: usize,
    /// Messages a second from an open-loop client, instead of as many as are answered
    #[arg(long, value_parser = pace::rate)]
    rate: Option<f64>,
    /// What answers behind the balancers; nginx has no modes for TCP and UDP, and serves HTTP/2 in any case
    #[arg(long, value_enum, default_value = "own")]
    backend: Backend,
    /// The balancer's CPU, and the one that client and backends share
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cpus: Vec<usize>,
    /// Repeats the order and the intervals of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Write the report here as well
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Own,
    Nginx,
}

pub(crate) fn run(args: &Args) -> io::Result<()> {
    let scenarios = args.scenarios()?;
    let seed = args.seed.unwrap_or_else(clock::seed);
    let window = args.window()?;
    let present = args.present();
    let folder = peers::folder()?;
    let certificate = Certificate::make(folder.path())?;
    let mut report = Report::new(seed, &args.contenders, &present);
    let mut rng = Rng::new(seed);
    for scenario in scenarios {
        if let Some(program) = scenario.missing() {
            eprintln!("*** {}: skipped: {program} is not installed ***", scenario.name);
            continue;
        }
        for (peer, why) in scenario.absent() {
            eprintln!("*** {}: {} left out: {why} ***", scenario.name, peer.name());
        }
        let lineup = lineup(scenario, &present, args.subject);
        if lineup.is_empty() {
            eprintln!("*** {}: skipped: no contender for it is there ***", scenario.name);
            continue;
        }
        let samples = measure(scenario, &lineup, args, &certificate, &window, &mut rng)?;
        let section = Section::new(scenario, &lineup, args.subject, &samples, &mut rng);
        println!("{}", section.render());
        report.sections.push(section);
        // After each one, so that a run cut short leaves what it had.
        if let Some(path) = &args.out {
            std::fs::write(path, report.render())?;
        }
    }
    println!("{}", report.summary());
    Ok(())
}

/// Samples by block, then by place in the line-up; `None` where a contender could not be measured.
pub(crate) type Samples = Vec<BTreeMap<usize, Result<Sample, String>>>;

fn measure(
    scenario: &Scenario,
    lineup: &[Contender],
    args: &Args,
    certificate: &Certificate,
    window: &Window,
    rng: &mut Rng,
) -> io::Result<Samples> {
    window.pin_client(scenario)?;
    let folder = peers::folder()?;
    let backends = socket::free_addresses(2)?;
    let mut serving = args.backends(scenario, &backends, folder.path(), window)?;
    for &address in &backends {
        serving.ready(Duration::from_secs(5), || driver::answers(scenario.direct(address)))?;
    }
    let mut samples = Samples::new();
    for (number, order) in stats::orders(lineup.len(), args.blocks, rng).into_iter().enumerate() {
        let mut block = BTreeMap::new();
        for place in order {
            let contender = &lineup[place];
            let sample = block::measure(scenario, contender, &backends, certificate, window)
                .map_err(|error| error.to_string());
            report::progress(scenario, number, &contender.name(), &sample);
            block.insert(place, sample);
        }
        samples.push(block);
    }
    Ok(samples)
}

/// The contenders of one scenario. To compare worker counts, the subject stands against itself.
fn lineup(scenario: &Scenario, present: &[(Peer, PathBuf)], subject: Peer) -> Vec<Contender> {
    let with = |(peer, program): &(Peer, PathBuf), workers| Contender {
        peer: *peer,
        program: program.clone(),
        workers,
    };
    if scenario.measure == Measure::TwoWorkers {
        let found = present.iter().find(|(peer, _)| *peer == subject && subject != Peer::Floor);
        return found.map_or(Vec::new(), |entry| vec![with(entry, 2), with(entry, 1)]);
    }
    let able = present.iter().filter(|(peer, _)| scenario.without(*peer).is_none());
    able.map(|entry| with(entry, 1)).collect()
}

impl Args {
    fn scenarios(&self) -> io::Result<Vec<&'static Scenario>> {
        if self.scenario.is_empty() {
            return Ok(scenario::ALL.iter().collect());
        }
        self.scenario.iter().map(|name| scenario::find(name).map_err(io::Error::other)).collect()
    }

    fn present(&self) -> Vec<(Peer, PathBuf)> {
        let programs = Programs { plimsoll: self.plimsoll.clone() };
        let mut present = Vec::new();
        for &peer in &self.contenders {
            match peer.program(&programs) {
                Some(program) => present.push((peer, program)),
                None => eprintln!("*** {}: skipped: not installed ***", peer.name()),
            }
        }
        present
    }

    fn backends(
        &self,
        scenario: &Scenario,
        addresses: &[SocketAddr],
        folder: &Path,
        window: &Window,
    ) -> io::Result<Running> {
        let requests = matches!(scenario.traffic(), Traffic::Http { back: Http::One, .. });
        if self.backend == Backend::Nginx && requests {
            return Running::backends_of_nginx(Http::One, addresses, window.open_files, folder);
        }
        scenario.backends(addresses, window.open_files, folder)
    }

    fn window(&self) -> io::Result<Window> {
        let &[balancer_cpu, client_cpu] = self.cpus.as_slice() else {
            return Err(io::Error::other("--cpus takes two numbers, as in 0,1"));
        };
        Ok(Window {
            warmup: self.warmup,
            measured: self.seconds,
            pace: self.rate.map_or(Pace::Closed, Pace::Rate),
            balancer_cpu,
            client_cpu,
            open_files: machine::raise_open_files(),
        })
    }
}
