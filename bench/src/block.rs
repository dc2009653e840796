//! Cost of one proxy in one block: started, warmed up, measured and stopped.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::certificate::Certificate;
use crate::host::{self, Ticks};
use crate::load::driver::{self, Driver};
use crate::load::exchange::ExchangeError;
use crate::load::load_mode::LoadMode;
use crate::process::{self, Memory};
use crate::proxies::{self, ChildProcess, Proxy, Setup};
use crate::scenario::{Measure, Scenario};
use crate::{clock, socket};

/// Proxy in a comparison.
pub(crate) struct Competitor {
    pub(crate) proxy: Proxy,
    pub(crate) program: PathBuf,
    pub(crate) workers: usize,
}

/// Duration and CPUs of a measurement.
pub(crate) struct Window {
    pub(crate) warmup: Duration,
    pub(crate) measured: Duration,
    pub(crate) mode: LoadMode,
    pub(crate) balancer_cpu: usize,
    pub(crate) client_cpu: usize,
    pub(crate) open_files: u64,
}

/// Measurement of one block, and whether it counts.
pub(crate) struct Sample {
    pub(crate) measurement: Measurement,
    /// Reasons to discard the block.
    pub(crate) rejections: Vec<String>,
    /// Remarks for the report.
    pub(crate) notes: Vec<String>,
}

pub(crate) enum Measurement {
    Cpu(Cpu),
    Memory(Idle),
}

/// Cost of the messages in a window.
pub(crate) struct Cpu {
    /// CPU time of the proxy per message, in microseconds.
    pub(crate) micros: f64,
    pub(crate) user_share: f64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// CPU time of the proxy in the window, as a share of one CPU.
    pub(crate) busy: f64,
}

/// Memory of idle connections.
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) before: Memory,
    pub(crate) after: Memory,
}

/// Maximum share of the machine taken by the hypervisor before a block is discarded.
const STEAL: f64 = 0.01;
/// Work of other processes on the proxy's CPU, as a share of the window: above the first it is reported,
/// above the second it disturbs the caches and the block is discarded.
const FOREIGN: [f64; 2] = [0.03, 0.25];
/// Time limit for a proxy to send its first response.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections opened at once when many are needed.
const RAMP: usize = 100;
/// Time for buffers to be freed before idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);

impl Competitor {
    pub(crate) fn name(&self) -> String {
        if self.workers == 1 {
            return self.proxy.name().to_owned();
        }
        format!("{} x{}", self.proxy.name(), self.workers)
    }
}

impl Measurement {
    /// Returns the primary number in the scenario's unit.
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

/// Measures one proxy. An error means that it could not be measured at all.
pub(crate) fn measure(
    scenario: &Scenario,
    competitor: &Competitor,
    backends: &[SocketAddr],
    certificate: &Certificate,
    window: &Window,
) -> io::Result<Sample> {
    let folder = proxies::folder()?;
    let addresses = socket::free_addresses(2)?;
    let setup = Setup {
        listen: addresses[0],
        admin: addresses[1],
        backends,
        traffic: scenario.traffic(),
        certificate: scenario.handshakes.map(|_| certificate),
        buffers: scenario.buffers,
        workers: competitor.workers,
        single_process: false,
        open_files: window.open_files,
        folder: folder.path(),
    };
    let command = competitor.proxy.prepare(&competitor.program, &setup)?;
    window.pin_balancer(scenario)?;
    let started = ChildProcess::start(&command, folder.path());
    window.pin_client(scenario)?;
    let mut balancer = started?;
    balancer.ready(START_TIMEOUT, || driver::answers(scenario.driver(setup.listen, certificate)))?;
    let mut driver = scenario.driver(setup.listen, certificate)?;
    let sample = match scenario.measure {
        Measure::CpuPerMessage | Measure::TwoWorkers => cpu(scenario, &balancer, &mut driver, window),
        Measure::MemoryPerConnection => memory(scenario, &balancer, &mut driver, window),
    };
    drop(driver);
    balancer.stop(Duration::from_secs(2))?;
    sample
}

fn cpu(
    scenario: &Scenario,
    balancer: &ChildProcess,
    driver: &mut Driver,
    window: &Window,
) -> io::Result<Sample> {
    driver.open(scenario.connections)?;
    let mut rejections = failures(&driver.warm_up(window.mode, window.warmup)?.errors, "in the warm-up");
    let family = process::tree(balancer.id())?;
    let (ticks, time, from) = (Ticks::read()?, process::cpu_time(&family)?, clock::now());
    let stats = driver.measure(window.mode, window.measured)?;
    let (until, used) = (clock::now(), process::cpu_time(&family)?.since(&time));
    let quiet = Ticks::read()?.since(&ticks);
    let wall = (until - from).as_secs_f64();
    rejections.extend(failures(&stats.errors, "while measured"));
    if stats.done == 0 {
        rejections.push("no response was received".to_owned());
    }
    if quiet.steal > STEAL {
        rejections.push(format!("the hypervisor took {:.1} % of the machine", quiet.steal * 100.0));
    }
    if used.incomplete {
        rejections.push("threads ended while measured, and their CPU time is missing".to_owned());
    }
    let mut notes = Vec::new();
    let own = used.total.as_secs_f64();
    let foreign = (quiet.busy.get(window.balancer_cpu).copied().unwrap_or(0.0) - own) / wall;
    if scenario.measure == Measure::CpuPerMessage && foreign > FOREIGN[0] {
        let list = if foreign > FOREIGN[1] { &mut rejections } else { &mut notes };
        list.push(format!("other processes used {:.0} % of the proxy's CPU", foreign * 100.0));
    }
    let measurement = Measurement::Cpu(Cpu {
        micros: own * 1e6 / stats.done.max(1) as f64,
        user_share: used.user_share,
        per_second: stats.done as f64 / wall,
        p50: stats.latencies.quantile(0.5),
        p99: stats.latencies.quantile(0.99),
        busy: own / wall,
    });
    Ok(Sample { measurement, rejections, notes })
}

fn memory(
    scenario: &Scenario,
    balancer: &ChildProcess,
    driver: &mut Driver,
    window: &Window,
) -> io::Result<Sample> {
    let connections = scenario.connections.min(window.most_connections());
    let before = process::memory(&process::tree(balancer.id())?)?;
    let (mut open, mut errors) = (0, BTreeMap::new());
    while open < connections {
        let more = RAMP.min(connections - open);
        driver.open(more)?;
        for (fault, count) in driver.exchange(more as u64)?.errors {
            *errors.entry(fault).or_default() += count;
        }
        open += more;
    }
    thread::sleep(SETTLE);
    let after = process::memory(&process::tree(balancer.id())?)?;
    let measurement = Measurement::Memory(Idle { connections, before, after });
    let mut notes = Vec::new();
    if connections < scenario.connections {
        notes.push(format!("{connections} connections: limited by open files"));
    }
    Ok(Sample { measurement, rejections: failures(&errors, "while connecting"), notes })
}

impl Window {
    /// Two sockets per connection in one process, and some files beside.
    fn most_connections(&self) -> usize {
        (self.open_files.saturating_sub(400) / 2) as usize
    }

    fn pin_balancer(&self, scenario: &Scenario) -> io::Result<()> {
        match scenario.measure {
            Measure::TwoWorkers => host::pin(&[self.balancer_cpu, self.client_cpu]),
            Measure::CpuPerMessage | Measure::MemoryPerConnection => host::pin(&[self.balancer_cpu]),
        }
    }

    /// Pins this process and the backends it starts.
    pub(crate) fn pin_client(&self, scenario: &Scenario) -> io::Result<()> {
        match scenario.measure {
            Measure::TwoWorkers => host::pin(&[self.balancer_cpu, self.client_cpu]),
            Measure::CpuPerMessage | Measure::MemoryPerConnection => host::pin(&[self.client_cpu]),
        }
    }
}

/// Describes errors of responses; one wrong response discards the block.
fn failures(rejections: &BTreeMap<ExchangeError, u64>, when: &str) -> Vec<String> {
    rejections.iter().map(|(error, count)| format!("{count} x {error:?} {when}")).collect()
}
