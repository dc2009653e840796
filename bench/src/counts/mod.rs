//! System calls and instructions per request, and limits on them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::load::driver::{self, Driver};
use crate::proxies::{self, Buffers, ChildProcess, Programs, Proxy, Setup};
use crate::scenario::{self, Scenario};
use crate::{host, socket};

mod instructions;
mod syscalls;

use syscalls::Allowed;

/// Count system calls and user instructions per request, without noise and so usable as a CI gate
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum, default_value = "plimsoll")]
    proxy: Proxy,
    /// Scenario that defines the requests
    #[arg(long, default_value = "h1-keepalive-64")]
    scenario: String,
    /// Path of the plimsoll binary
    #[arg(long, default_value = "target/dist/plimsoll")]
    plimsoll: PathBuf,
    /// Keep-alive connections; with one every request meets the same state and the counts are exact
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests to count
    #[arg(long, default_value_t = 5000)]
    requests: u64,
    /// Fail if a request takes more of a system call: NAME=COUNT, repeatable with commas. NAME may also be
    /// receive, send (all calls of that kind), failed or total
    #[arg(long, value_delimiter = ',')]
    expect_syscalls: Vec<Allowed>,
    /// Excess that still passes: timers and health checks make calls of their own
    #[arg(long, default_value_t = 0.05)]
    tolerance: f64,
    /// Fail if a request takes more user instructions than this
    #[arg(long)]
    max_instructions: Option<f64>,
    /// Run one of the two counts only
    #[arg(long, value_enum)]
    only: Option<Count>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Count {
    Syscalls,
    Instructions,
}

/// Requests that warm up connections and caches.
const WARM: u64 = 500;
/// Limit on open files, enough for the counted connections.
const OPEN_FILES: u64 = 4096;
/// Time limit for starting under valgrind, which is about fifty times slower and first reads debug
/// information.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Time for the proxy to sleep before it is stopped: valgrind may deliver a signal just before a wait, where
/// it is noticed only at the next event.
const SETTLE: Duration = Duration::from_millis(500);

/// Fails when a limit is exceeded. A count without its tool is skipped with a message, and fails its
/// limit.
pub(crate) fn run(args: &Args) -> io::Result<ExitCode> {
    let scenario = scenario::find(&args.scenario).map_err(io::Error::other)?;
    let programs = Programs { plimsoll: args.plimsoll.clone() };
    let program = args.proxy.program(&programs);
    let program = program.ok_or_else(|| io::Error::other(format!("{}: not installed", args.proxy.name())))?;
    host::raise_open_files();
    let (name, version) = (args.proxy.name(), args.proxy.version(&program));
    println!("{name} ({version}), {}, {} connection(s)\n", scenario.name, args.connections);
    let bench = Bench { args, scenario, program };
    let mut passed = true;
    if args.only != Some(Count::Instructions) {
        passed &= bench.syscalls()?;
    }
    if args.only != Some(Count::Syscalls) {
        passed &= bench.instructions()?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'a> {
    args: &'a Args,
    scenario: &'static Scenario,
    program: PathBuf,
}

/// Proxy with backends and a warm client.
struct Warm {
    driver: Driver,
    balancer: ChildProcess,
    _backends: ChildProcess,
    folder: tempfile::TempDir,
}

impl Bench<'_> {
    fn syscalls(&self) -> io::Result<bool> {
        let Some(strace) = find("strace") else { return Ok(self.args.expect_syscalls.is_empty()) };
        let mut warm = self.warm(&[])?;
        let table = syscalls::count(&strace, &warm.balancer, warm.folder.path(), || {
            exchange(&mut warm.driver, self.args.requests)
        })?;
        warm.balancer.stop(Duration::from_secs(2))?;
        println!("{}", table.render(self.args.requests));
        let exceeded = table.exceeded(&self.args.expect_syscalls, self.args.requests, self.args.tolerance);
        exceeded.iter().for_each(|line| println!("FAILED: {line}"));
        Ok(exceeded.is_empty())
    }

    fn instructions(&self) -> io::Result<bool> {
        let Some(valgrind) = find("valgrind") else { return Ok(self.args.max_instructions.is_none()) };
        let few = self.instructions_of(&valgrind, WARM)?;
        let many = self.instructions_of(&valgrind, WARM + self.args.requests)?;
        let each = many.saturating_sub(few) as f64 / self.args.requests as f64;
        let requests = self.args.requests;
        println!("user instructions per request: **{each:.0}** (({many} - {few}) / {requests})");
        let passed = self.args.max_instructions.is_none_or(|most| each <= most);
        if let Some(most) = self.args.max_instructions.filter(|_| !passed) {
            println!("FAILED: {each:.0} instructions per request, at most {most:.0} are allowed");
        }
        Ok(passed)
    }

    /// Returns all user instructions of a proxy that served a number of requests, start and end included.
    fn instructions_of(&self, valgrind: &Path, requests: u64) -> io::Result<u64> {
        let folder = proxies::folder()?;
        let out = folder.path().join("callgrind.out");
        let mut warm = self.warm(&instructions::prefix(valgrind, &out))?;
        exchange(&mut warm.driver, requests - WARM)?;
        drop(warm.driver);
        thread::sleep(SETTLE);
        warm.balancer.stop(START_TIMEOUT)?;
        instructions::read(&out)
    }

    /// Starts everything and sends the first requests. `prefix` is a program to run the proxy under.
    fn warm(&self, prefix: &[String]) -> io::Result<Warm> {
        let folder = proxies::folder()?;
        let addresses = socket::free_addresses(4)?;
        let certificate = Certificate::make(folder.path())?;
        let mut backends = self.scenario.backends(&addresses[..2], OPEN_FILES, folder.path())?;
        let (listen, admin) = (addresses[2], addresses[3]);
        let setup = Setup {
            listen,
            admin,
            backends: &addresses[..2],
            traffic: self.scenario.traffic(),
            certificate: self.scenario.handshakes.map(|_| &certificate),
            buffers: Buffers::Shipped,
            workers: 1,
            single_process: true,
            open_files: OPEN_FILES,
            folder: folder.path(),
        };
        for &address in &addresses[..2] {
            backends.ready(Duration::from_secs(5), || driver::answers(self.scenario.direct(address)))?;
        }
        let command = [prefix.to_vec(), self.args.proxy.prepare(&self.program, &setup)?].concat();
        let mut balancer = ChildProcess::start(&command, folder.path())?;
        let front = || self.scenario.driver(listen, &certificate);
        balancer.ready(START_TIMEOUT, || driver::answers(front()))?;
        let mut driver = front()?;
        driver.open(self.args.connections)?;
        exchange(&mut driver, WARM)?;
        Ok(Warm { driver, balancer, _backends: backends, folder })
    }
}

/// Sends exactly this many requests; an error in one of them would make the count meaningless.
fn exchange(driver: &mut Driver, requests: u64) -> io::Result<()> {
    let stats = driver.exchange(requests)?;
    if stats.errors.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("unexpected responses while counting: {:?}", stats.errors)))
}

fn find(tool: &str) -> Option<PathBuf> {
    let found = proxies::find(tool);
    if found.is_none() {
        eprintln!("*** {tool}: skipped: not installed ***");
    }
    found
}
