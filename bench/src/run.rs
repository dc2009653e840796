//! Comparison of proxies over scenarios and blocks.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::block::{self, Competitor, Sample, Window};
use crate::certificate::Certificate;
use crate::load::driver;
use crate::load::load_mode::{self, LoadMode};
use crate::proxies::{self, ChildProcess, Http, Programs, Proxy, Traffic};
use crate::report::{self, Report, Section};
use crate::scenario::{self, Measure, Scenario};
use crate::stats::{self, Rng};
use crate::{clock, host, socket};

/// Compare the CPU time and memory of proxies
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenarios to run [default: all]
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Proxies to compare; missing ones are reported and skipped
    #[arg(long, value_delimiter = ',', value_enum, default_value = "plimsoll,nginx,haproxy,envoy,baseline")]
    proxies: Vec<Proxy>,
    /// Proxy that the others are compared with: its cost is divided by theirs
    #[arg(long, value_enum, default_value = "plimsoll")]
    subject: Proxy,
    /// Path of the plimsoll binary
    #[arg(long, default_value = "target/dist/plimsoll")]
    plimsoll: PathBuf,
    /// Seconds to measure each proxy in each block
    #[arg(long, default_value = "20", value_parser = clock::seconds)]
    seconds: Duration,
    /// Seconds of warm-up with the same load
    #[arg(long, default_value = "5", value_parser = clock::seconds)]
    warmup: Duration,
    #[arg(long, default_value_t = 10)]
    blocks: usize,
    /// Send this many messages per second open-loop, instead of closed-loop
    #[arg(long, value_parser = load_mode::rate)]
    rate: Option<f64>,
    /// Backends; nginx has no modes for TCP and UDP, and always serves HTTP/2
    #[arg(long, value_enum, default_value = "own")]
    backend: Backend,
    /// CPU of the proxy, and CPU of client and backends
    #[arg(long, value_delimiter = ',', num_args = 1, default_value = "0,1")]
    cpus: Vec<usize>,
    /// Random seed of an earlier run, to repeat its order and intervals
    #[arg(long)]
    seed: Option<u64>,
    /// Write the report to this file as well
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
    let folder = proxies::folder()?;
    let certificate = Certificate::make(folder.path())?;
    let mut report = Report::new(seed, &args.proxies, &present);
    let mut rng = Rng::new(seed);
    for scenario in scenarios {
        if let Some(program) = scenario.missing() {
            eprintln!("*** {}: skipped: {program} is not installed ***", scenario.name);
            continue;
        }
        for (proxy, why) in scenario.absent() {
            eprintln!("*** {}: {} left out: {why} ***", scenario.name, proxy.name());
        }
        let competitors = competitors(scenario, &present, args.subject);
        if competitors.is_empty() {
            eprintln!("*** {}: skipped: no proxy for it is installed ***", scenario.name);
            continue;
        }
        let samples = measure(scenario, &competitors, args, &certificate, &window, &mut rng)?;
        let section = Section::new(scenario, &competitors, args.subject, &samples, &mut rng);
        println!("{}", section.render());
        report.sections.push(section);
        // Written after each scenario, so that an aborted run keeps its results.
        if let Some(path) = &args.out {
            std::fs::write(path, report.render())?;
        }
    }
    println!("{}", report.summary());
    Ok(())
}

/// Samples by block, then by index of the proxy; an error where it could not be measured.
pub(crate) type Samples = Vec<BTreeMap<usize, Result<Sample, String>>>;

fn measure(
    scenario: &Scenario,
    competitors: &[Competitor],
    args: &Args,
    certificate: &Certificate,
    window: &Window,
    rng: &mut Rng,
) -> io::Result<Samples> {
    window.pin_client(scenario)?;
    let folder = proxies::folder()?;
    let backends = socket::free_addresses(2)?;
    let mut serving = args.backends(scenario, &backends, folder.path(), window)?;
    for &address in &backends {
        serving.ready(Duration::from_secs(5), || driver::answers(scenario.direct(address)))?;
    }
    let mut samples = Samples::new();
    for (number, order) in stats::orders(competitors.len(), args.blocks, rng).into_iter().enumerate() {
        let mut block = BTreeMap::new();
        for place in order {
            let proxy = &competitors[place];
            let sample = block::measure(scenario, proxy, &backends, certificate, window)
                .map_err(|error| error.to_string());
            report::progress(scenario, number, &proxy.name(), &sample);
            block.insert(place, sample);
        }
        samples.push(block);
    }
    Ok(samples)
}

/// Proxies of one scenario. To compare worker counts, the subject is compared with itself.
fn competitors(scenario: &Scenario, present: &[(Proxy, PathBuf)], subject: Proxy) -> Vec<Competitor> {
    let with = |(proxy, program): &(Proxy, PathBuf), workers| Competitor {
        proxy: *proxy,
        program: program.clone(),
        workers,
    };
    if scenario.measure == Measure::TwoWorkers {
        let found = present.iter().find(|(proxy, _)| *proxy == subject && subject != Proxy::Baseline);
        return found.map_or(Vec::new(), |entry| vec![with(entry, 2), with(entry, 1)]);
    }
    let able = present.iter().filter(|(proxy, _)| scenario.without(*proxy).is_none());
    able.map(|entry| with(entry, 1)).collect()
}

impl Args {
    fn scenarios(&self) -> io::Result<Vec<&'static Scenario>> {
        if self.scenario.is_empty() {
            return Ok(scenario::ALL.iter().collect());
        }
        self.scenario.iter().map(|name| scenario::find(name).map_err(io::Error::other)).collect()
    }

    fn present(&self) -> Vec<(Proxy, PathBuf)> {
        let programs = Programs { plimsoll: self.plimsoll.clone() };
        let mut present = Vec::new();
        for &proxy in &self.proxies {
            match proxy.program(&programs) {
                Some(program) => present.push((proxy, program)),
                None => eprintln!("*** {}: skipped: not installed ***", proxy.name()),
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
    ) -> io::Result<ChildProcess> {
        let requests = matches!(scenario.traffic(), Traffic::Http { back: Http::One, .. });
        if self.backend == Backend::Nginx && requests {
            return ChildProcess::backends_of_nginx(Http::One, addresses, window.open_files, folder);
        }
        scenario.backends(addresses, window.open_files, folder)
    }

    fn window(&self) -> io::Result<Window> {
        let &[balancer_cpu, client_cpu] = self.cpus.as_slice() else {
            return Err(io::Error::other("--cpus: expected two numbers, such as 0,1"));
        };
        Ok(Window {
            warmup: self.warmup,
            measured: self.seconds,
            mode: self.rate.map_or(LoadMode::Closed, LoadMode::Rate),
            balancer_cpu,
            client_cpu,
            open_files: host::raise_open_files(),
        })
    }
}
