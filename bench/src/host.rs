//! Host of the measurement: CPUs, time taken by others, limits, description.

use std::fs;
use std::io;
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// CPU time of the host up to one moment, in clock ticks.
pub(crate) struct Ticks {
    all: u64,
    steal: u64,
    /// Ticks of work by CPU.
    busy: Vec<u64>,
}

/// Use of the host between two moments.
pub(crate) struct Quiet {
    /// Share of all CPU time taken by the hypervisor, 0 to 1.
    pub(crate) steal: f64,
    /// Seconds of work by CPU.
    pub(crate) busy: Vec<f64>,
}

impl Ticks {
    pub(crate) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/stat")?))
    }

    fn parse(text: &str) -> Self {
        let rows = text.lines().filter(|line| line.starts_with("cpu"));
        let mut rows = rows.map(|line| {
            let values: Vec<u64> = line.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
            let at = |index: usize| values.get(index).copied().unwrap_or(0);
            // user, nice, system, idle, iowait, irq, softirq, steal
            (values.iter().sum(), at(7), at(0) + at(1) + at(2) + at(5) + at(6))
        });
        let (all, steal, _) = rows.next().unwrap_or((0, 0, 0));
        Self { all, steal, busy: rows.map(|(_, _, busy)| busy).collect() }
    }

    pub(crate) fn since(&self, earlier: &Self) -> Quiet {
        let all = (self.all - earlier.all).max(1);
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let busy = self.busy.iter().zip(&earlier.busy).map(|(now, then)| (now - then) as f64 * tick);
        Quiet { steal: (self.steal - earlier.steal) as f64 / all as f64, busy: busy.collect() }
    }
}

/// Pins this process and its future children to these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)
        .map_err(|errno| io::Error::other(format!("cannot run on CPU {cpus:?}: {errno}; see --cpus")))
}

/// Gives this thread the lowest scheduling priority.
pub(crate) fn be_nice() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, 19)?)
}

/// Ends this process when its parent ends, so that a killed harness leaves no processes.
pub(crate) fn end_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Raises the limit on open files of this process and its children as far as permitted, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    const WANTED: u64 = 65_536;
    let most = Rlimit { current: Some(WANTED), maximum: Some(WANTED) };
    if getrlimit(Resource::Nofile).maximum.is_none_or(|limit| limit < WANTED)
        && setrlimit(Resource::Nofile, most).is_ok()
    {
        return WANTED;
    }
    let maximum = getrlimit(Resource::Nofile).maximum.map_or(WANTED, |limit| limit.min(WANTED));
    let allowed = Rlimit { current: Some(maximum), maximum: Some(maximum) };
    if setrlimit(Resource::Nofile, allowed).is_err() {
        return getrlimit(Resource::Nofile).current.unwrap_or(1024);
    }
    maximum
}

/// Returns kernel and CPU in one line.
pub(crate) fn describe() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = info.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<&str> = models.map(|(_, model)| model).collect();
    let model = models.first().copied().unwrap_or("unknown CPU");
    format!("Linux {}, {} x {model}", kernel.trim(), models.len())
}

/// Returns the first line of the version output of `program`, from either stream.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_a_share_of_all_time_and_work_is_counted_by_cpu() {
        let then = Ticks::parse("cpu 0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\n");
        let now = Ticks::parse(
            "cpu 60 0 60 60 0 0 0 20 9 9\ncpu0 50 10 20 10 0 5 5 10\ncpu1 0 0 0 9 9 0 0 0\nintr 1",
        );
        let quiet = now.since(&then);
        assert_eq!(quiet.steal, 0.1);
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(quiet.busy, [90.0 * tick, 0.0]);
    }
}
