//! What one contender costs in one block: started afresh, warmed up, measured, ended.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::load::driver::{self, Driver};
use crate::load::exchange::Fault;
use crate::load::pace::Pace;
use crate::machine::{self, Ticks};
use crate::peers::{self, Job, Peer, Running};
use crate::process::{self, Memory};
use crate::scenario::{Measure, Scenario};
use crate::{clock, socket};

/// One column of the comparison.
pub(crate) struct Contender {
    pub(crate) peer: Peer,
    pub(crate) program: PathBuf,
    pub(crate) workers: usize,
}

/// How long and where to measure.
pub(crate) struct Window {
    pub(crate) warmup: Duration,
    pub(crate) measured: Duration,
    pub(crate) pace: Pace,
    pub(crate) balancer_cpu: usize,
    pub(crate) client_cpu: usize,
    pub(crate) open_files: u64,
}

/// What was measured, and what speaks against it.
pub(crate) struct Sample {
    pub(crate) reading: Reading,
    /// Reasons not to use it.
    pub(crate) faults: Vec<String>,
    /// Reasons to look twice.
    pub(crate) notes: Vec<String>,
}

pub(crate) enum Reading {
    Cpu(Cpu),
    Memory(Idle),
}

/// What the messages of a window cost.
pub(crate) struct Cpu {
    /// CPU time of the balancer for each message, in microseconds.
    pub(crate) micros: f64,
    pub(crate) user_share: f64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The balancer's CPU time in the window, as a share of one CPU.
    pub(crate) busy: f64,
}

/// What idle connections occupy.
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// The hypervisor may take this share of the machine before a block is discarded.
const STEAL: f64 = 0.01;
/// Work of others on the balancer's CPU, as a share of the window: beyond the first it is worth a note,
/// beyond the second the caches are no longer the balancer's and the block is discarded.
const FOREIGN: [f64; 2] = [0.03, 0.25];
/// Time for a contender to answer its first request.
const PATIENCE: Duration = Duration::from_secs(15);
/// Connections opened at once when many are wanted.
const RAMP: usize = 100;
/// Time for buffers to be given back before idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);

impl Contender {
    pub(crate) fn name(&self) -> String {
        if self.workers == 1 {
            return self.peer.name().to_owned();
        }
        format!("{} x{}", self.peer.name(), self.workers)
    }
}

impl Reading {
    /// The primary number, in the scenario's unit.
    pub(crate) fn primary(&self) -> f64 {
        match self {
            Self::Cpu(cpu) => cpu.micros,
            Self::Memory(idle) => {
                let grown = idle.after.resident.saturating_sub(idle.before.resident);
                grown as f64 / 1024.0 / idle.connections.max(1) as f64
            }
        }
    }
}

/// Measures one contender. An error means that it could not be measured at all.
pub(crate) fn measure(
    scenario: &Scenario,
    contender: &Contender,
    backends: &[SocketAddr],
    certificate: &Certificate,
    window: &Window,
) -> io::Result<Sample> {
    let folder = peers::folder()?;
    let addresses = socket::free_addresses(2)?;
    let job = Job {
        listen: addresses[0],
        admin: addresses[1],
        backends,
        traffic: scenario.traffic(),
        certificate: scenario.handshakes.map(|_| certificate),
        buffers: scenario.buffers,
        workers: contender.workers,
        single_process: false,
        open_files: window.open_files,
        folder: folder.path(),
    };
    let command = contender.peer.prepare(&contender.program, &job)?;
    window.pin_balancer(scenario)?;
    let started = Running::start(&command, folder.path());
    window.pin_client(scenario)?;
    let mut balancer = started?;
    balancer.ready(PATIENCE, || driver::answers(scenario.driver(job.listen, certificate)))?;
    let mut driver = scenario.driver(job.listen, certificate)?;
    let sample = match scenario.measure {
        Measure::CpuPerMessage | Measure::TwoWorkers => cpu(scenario, &balancer, &mut driver, window),
        Measure::MemoryPerConnection => memory(scenario, &balancer, &mut driver, window),
    };
    drop(driver);
    balancer.stop(Duration::from_secs(2))?;
    sample
}

fn cpu(scenario: &Scenario, balancer: &Running, driver: &mut Driver, window: &Window) -> io::Result<Sample> {
    driver.open(scenario.connections)?;
    let mut faults = failures(&driver.warm_up(window.pace, window.warmup)?.faults, "in the warm-up");
    let family = process::tree(balancer.id())?;
    let (ticks, time, from) = (Ticks::read()?, process::cpu_time(&family)?, clock::now());
    let tally = driver.measure(window.pace, window.measured)?;
    let (until, used) = (clock::now(), process::cpu_time(&family)?.since(&time));
    let quiet = Ticks::read()?.since(&ticks);
    let wall = (until - from).as_secs_f64();
    faults.extend(failures(&tally.faults, "while measured"));
    if tally.done == 0 {
        faults.push("nothing was answered".to_owned());
    }
    if quiet.steal > STEAL {
        faults.push(format!("the hypervisor took {:.1} % of the machine", quiet.steal * 100.0));
    }
    if used.incomplete {
        faults.push("threads ended while measured, and their time is not in the sum".to_owned());
    }
    let mut notes = Vec::new();
    let own = used.total.as_secs_f64();
    let foreign = (quiet.busy.get(window.balancer_cpu).copied().unwrap_or(0.0) - own) / wall;
    if scenario.measure == Measure::CpuPerMessage && foreign > FOREIGN[0] {
        let list = if foreign > FOREIGN[1] { &mut faults } else { &mut notes };
        list.push(format!("others used {:.0} % of the balancer's CPU", foreign * 100.0));
    }
    let reading = Reading::Cpu(Cpu {
        micros: own * 1e6 / tally.done.max(1) as f64,
        user_share: used.user_share,
        per_second: tally.done as f64 / wall,
        p50: tally.latencies.quantile(0.5),
        p99: tally.latencies.quantile(0.99),
        busy: own / wall,
    });
    Ok(Sample { reading, faults, notes })
}

fn memory(
    scenario: &Scenario,
    balancer: &Running,
    driver: &mut Driver,
    window: &Window,
) -> io::Result<Sample> {
    let connections = scenario.connections.min(window.most_connections());
    let before = process::memory(&process::tree(balancer.id())?)?;
    let (mut open, mut faults) = (0, BTreeMap::new());
    while open < connections {
        let more = RAMP.min(connections - open);
        driver.open(more)?;
        for (fault, count) in driver.exchange(more as u64)?.faults {
            *faults.entry(fault).or_default() += count;
        }
        open += more;
    }
    thread::sleep(SETTLE);
    let after = process::memory(&process::tree(balancer.id())?)?;
    let reading = Reading::Memory(Idle { connections, before, after });
    let mut notes = Vec::new();
    if connections < scenario.connections {
        notes.push(format!("{connections} connections: the limit on open files allows no more"));
    }
    Ok(Sample { reading, faults: failures(&faults, "while connecting"), notes })
}

impl Window {
    /// Two sockets for each connection, in one process, and some files beside.
    fn most_connections(&self) -> usize {
        (self.open_files.saturating_sub(400) / 2) as usize
    }

    fn pin_balancer(&self, scenario: &Scenario) -> io::Result<()> {
        match scenario.measure {
            Measure::TwoWorkers => machine::pin(&[self.balancer_cpu, self.client_cpu]),
            Measure::CpuPerMessage | Measure::MemoryPerConnection => machine::pin(&[self.balancer_cpu]),
        }
    }

    /// Pins this process and the backends it starts.
    pub(crate) fn pin_client(&self, scenario: &Scenario) -> io::Result<()> {
        match scenario.measure {
            Measure::TwoWorkers => machine::pin(&[self.balancer_cpu, self.client_cpu]),
            Measure::CpuPerMessage | Measure::MemoryPerConnection => machine::pin(&[self.client_cpu]),
        }
    }
}

/// Every answer must be the right one: one that is not spoils the block.
fn failures(faults: &BTreeMap<Fault, u64>, when: &str) -> Vec<String> {
    faults.iter().map(|(fault, count)| format!("{count} x {fault:?} {when}")).collect()
}
